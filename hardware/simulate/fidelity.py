"""Does the chip do what the trained network did? Predictions, accuracy and spike agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hardware.errors import HardwareError
from hardware.graph.graph import SPIKING, Graph
from hardware.network.integer import Network
from hardware.simulate.float_simulator import FloatSimulator
from hardware.simulate.simulator import Simulator

Array = np.ndarray
# Values of spike trains kept of a graph and of its network at once.
CHUNK_VALUES = 1 << 28


@dataclass(frozen=True)
class Agreement:
    """both: spikes of the same neuron in the same step in both runs; either: in at least one of them."""

    both: int
    either: int

    @property
    def share(self) -> float:
        """both / either; 1 where nobody spiked. Silent steps count for nothing: they would flatter it."""
        return self.both / self.either if self.either else 1.0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.both + other.both, self.either + other.either)


def agreement(a: Array, b: Array) -> Agreement:
    """Of two spike arrays of one shape. Raises HardwareError where shapes differ."""
    if a.shape != b.shape:
        raise HardwareError(f"spikes to compare: found shapes {a.shape} and {b.shape}, expected the same")
    a, b = a != 0, b != 0
    return Agreement(int(np.count_nonzero(a & b)), int(np.count_nonzero(a | b)))


def agreements(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, Agreement]:
    """Per population that both runs recorded, in the order of `a`."""
    return {name: agreement(a[name], b[name]) for name in a if name in b}


def overall(parts: Mapping[str, Agreement]) -> Agreement:
    """All populations' spikes thrown together."""
    return sum(parts.values(), Agreement(0, 0))


def predictions(output: Array) -> Array:
    """(batch,) classes of (batch, steps, classes) spikes or membranes.

    The largest sum over time, the first where several are.
    """
    return output.reshape(*output.shape[:2], -1).sum(axis=1, dtype=np.float64).argmax(axis=1)


def accuracy(predicted: Array, labels: Array) -> float:
    """Share of predictions that are right; both (batch,).

    Raises HardwareError where there are none, or not one per label.
    """
    if predicted.shape != np.shape(labels) or predicted.size == 0:
        raise HardwareError(f"{predicted.shape} predictions for {np.shape(labels)} labels, expected as many")
    return float((predicted == labels).mean())


@dataclass(frozen=True)
class Comparison:
    """A graph against its integer network on the same samples.

    predictions_float, predictions_fixed: (batch,). agreement: of every spiking population, by name.
    """

    predictions_float: Array
    predictions_fixed: Array
    agreement: dict[str, Agreement]

    @property
    def overall(self) -> Agreement:
        """Of all populations together."""
        return overall(self.agreement)


def compare(graph: Graph, network: Network, raster: Array, threads: int | None = None) -> Comparison:
    """Run a graph in floats and its compiled network in integers, both without delays, and compare.

    raster: (batch, steps, *input shape), whole numbers. Samples go through in chunks of bounded memory, which
    do not change the result. Raises HardwareError where the raster does not fit.
    """
    names = [
        p.name for p in network.populations if p.spiking and isinstance(graph.nodes.get(p.name), SPIKING)
    ]
    sizes = sum(int(np.prod(p.shape)) for p in network.populations)
    # What the chip was compiled for, whatever the file says.
    reset = next((p.reset for p in network.populations if p.name in names), None)
    simulator, exactly = Simulator(network), FloatSimulator(graph, network.dt, reset)
    exact, fixed = [], []
    parts = dict.fromkeys(names, Agreement(0, 0))
    for chunk in chunks(raster, sizes):
        a = exactly.run(chunk, names, threads, membranes=False)
        b = simulator.run(chunk, record={name: ("spikes",) for name in names}, threads=threads)
        for name, part in agreements(a.spikes, b.spikes).items():
            parts[name] += part
        exact.append(predictions(a.output))
        fixed.append(predictions(b.output))
    if not exact:
        raise HardwareError("there are no samples to compare")
    return Comparison(np.concatenate(exact), np.concatenate(fixed), parts)


def chunks(raster: Array, values_per_step: int) -> Iterator[Array]:
    """Views of a few samples each, so that recording `values_per_step` of them keeps to a bounded memory."""
    each = raster.shape[1] if raster.ndim > 1 else 1
    most = max(1, CHUNK_VALUES // max(1, each * values_per_step))
    for at in range(0, len(raster), most):
        yield raster[at : at + most]
