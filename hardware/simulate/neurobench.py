"""NeuroBench's metrics (Yik et al. 2025, doi 10.1038/s41467-025-56739-4), by the definitions of its harness, 2.3.

- footprint: bytes of all parameters. A graph: 4 for each weight, bias and neuron constant; a constant that a whole population
  shares counts once, a bias of zeros and a resistance of ones not at all, as in a torch module made from the graph. An integer network:
  `weight_bits` / 8 a weight, rounded up per projection, 2 for each bias and 4 for each neuron constant, in the same way.
- connection sparsity: share of the weights (biases are none) that is zero.
- activation sparsity: share of (neuron, step, recording) without a spike, over all spiking populations.
- synaptic operations per recording: every non-zero input of a kernel or matrix, times its non-zero weights that it meets; biases are
  none, taps on the padding neither. Accumulations (ACs) where all inputs of that layer are 0, 1 or -1, multiply-accumulations
  (MACs) else. The harness decides that for every batch, here it is decided for the whole run. Dense: if nothing were zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import nir
import numpy as np

from hardware.graph.graph import INTEGRATORS, SPIKING, Graph, never_spiking, padding_of
from hardware.graph.silent import unheard_outputs
from hardware.network.connectivity import by_post, out_degrees, shapes
from hardware.network.geometry import conv
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    Network,
    Projection,
    conv_output_shape,
    weight_grid,
)

_WEIGHTED = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)
_NONE: Mapping[str, np.ndarray] = MappingProxyType({})
_CONSTANTS = ("tau", "tau_mem", "tau_syn", "r", "v_leak", "v_threshold", "v_reset", "w_in")


@dataclass
class _Layer:
    """One kernel or matrix.

    leaving: non-zero weights that each input meets, of the input's shape; dense: connections of all weights.
    sources: whose values it reads, and which of them a step late. counted: whether these are the spikes of one
    population, of which counts say enough. active: non-zero inputs seen so far.
    """

    leaving: np.ndarray
    dense: int
    sources: tuple[tuple[str, bool], ...]
    counted: bool
    active: np.ndarray
    binary: bool = True


@dataclass
class Tally:
    """Counts over the recordings of a run; made by `of_graph` or `of_network`."""

    footprint: int
    weights: int
    zeros: int
    layers: list[_Layer]
    neurons: dict[str, int]
    inputs: tuple[str, ...]
    spikes: int = 0
    chances: int = 0
    steps: int = 0
    samples: int = 0

    @property
    def recorded(self) -> tuple[str, ...]:
        """Nodes whose values `add` needs, the inputs aside."""
        names = (name for layer in self.layers if not layer.counted for name, _ in layer.sources)
        return tuple(dict.fromkeys(name for name in names if name not in self.inputs))

    def add(
        self, raster: np.ndarray, counts: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray] = _NONE
    ) -> None:
        """Take in some recordings.

        raster: (batch, steps, *shape) of the only input that is not always on. counts: spikes of every spiking population, (batch, *shape). values:
        of every node in `recorded`, (batch, steps, *shape).
        """
        values = {**values, self.inputs[0]: raster}
        for layer in self.layers:
            for name, _ in layer.sources:
                if name in self.inputs[1:]:  # always on
                    values[name] = np.broadcast_to(1, (*raster.shape[:2], *layer.active.shape))
        for layer in self.layers:
            if layer.counted:
                spikes = counts.get(layer.sources[0][0])  # none of a population that never spikes
                if spikes is None:
                    continue
                active = spikes.sum(axis=0, dtype=np.int64)
            else:
                x = sum(_late(values[name]) if late else values[name] for name, late in layer.sources)
                assert isinstance(x, np.ndarray)
                active = np.count_nonzero(x, axis=(0, 1))
                layer.binary = layer.binary and bool(np.isin(x, (0, 1, -1)).all())
            layer.active += active.reshape(layer.active.shape)
        batch, steps = raster.shape[:2]
        self.steps += batch * steps
        self.samples += batch
        for name, size in self.neurons.items():
            self.spikes += int(counts[name].sum(dtype=np.int64))
            self.chances += batch * steps * size

    def to_dict(self) -> dict[str, Any]:
        """The metrics under the harness's names, with operations per recording."""
        operations = {True: 0.0, False: 0.0}
        dense = 0
        for layer in self.layers:
            operations[layer.binary] += float((layer.active * layer.leaving).sum())
            dense += layer.dense * self.steps
        samples = max(1, self.samples)
        return {
            "Footprint": self.footprint,
            "ConnectionSparsity": self.zeros / self.weights if self.weights else 0.0,
            "ActivationSparsity": 1.0 - self.spikes / self.chances if self.chances else 0.0,
            "SynapticOperations": {
                "Effective_MACs": operations[False] / samples,
                "Effective_ACs": operations[True] / samples,
                "Dense": dense / samples,
            },
        }


def of_graph(graph: Graph) -> Tally:
    """For runs of `hardware.simulate.reference`, with `recorded` recorded."""
    before, unheard = graph.predecessors(), unheard_outputs(graph)
    layers, footprint, weights, zeros = [], 0, 0, 0
    for name, node in graph.nodes.items():
        if isinstance(node, SPIKING + INTEGRATORS):
            footprint += sum(4 * _stored(key, getattr(node, key, None)) for key in _CONSTANTS)
        if not isinstance(node, _WEIGHTED):
            continue
        weights += node.weight.size
        zeros += int(np.count_nonzero(node.weight == 0))
        footprint += 4 * node.weight.size
        if np.any(getattr(node, "bias", 0)):
            footprint += 4 * node.bias.size
        shape = graph.input_shape[name]
        leaving = _leaving(node, shape)
        sources = tuple(
            (_origin(graph, source), (source, name) in graph.recurrent) for source in before[name]
        )
        counted = len(sources) == 1 and not sources[0][1] and isinstance(graph.nodes[sources[0][0]], SPIKING)
        dense = int(leaving(np.ones(node.weight.shape)).sum())
        met = _leaving(node, shape, unheard.get(name))(node.weight != 0)
        layers.append(_Layer(met, dense, sources, counted, np.zeros(shape, np.int64)))
    dead = {name: never_spiking(node) for name, node in graph.nodes.items()}
    neurons = {
        name: math.prod(graph.output_shape[name]) - (0 if (own := dead[name]) is None else int(own.sum()))
        for name, node in graph.nodes.items()
        if isinstance(node, SPIKING)
    }
    return Tally(footprint, weights, zeros, layers, neurons, tuple(graph.inputs))


def _origin(graph: Graph, name: str) -> str:
    """The node whose values `name` shows, in another shape at most."""
    before = graph.predecessors()
    while isinstance(graph.nodes[name], nir.Flatten) and len(before[name]) == 1:
        if (before[name][0], name) in graph.recurrent:
            break
        name = before[name][0]
    return name


def _late(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(values[:, :1]), values[:, :-1]], axis=1)


def _stored(key: str, value: np.ndarray | None) -> int:
    if value is None or (key == "r" and np.all(value == 1)):
        return 0
    return 1 if np.all(value == value.flat[0]) else value.size


def _leaving(
    node: Any, shape: tuple[int, ...], unheard: np.ndarray | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """For weights of ones and zeros: how many ones each input meets, of the input's shape; unheard: outputs that do not count."""
    if isinstance(node, nir.Affine | nir.Linear):
        heard = slice(None) if unheard is None else ~unheard
        return lambda ones: ones[heard].sum(axis=0).reshape(shape).astype(np.int64)
    axes = node.weight.ndim - 2
    stride = node.stride if axes == 2 else (node.stride,)
    dilation = node.dilation if axes == 2 else (node.dilation,)

    def of_conv(ones: np.ndarray) -> np.ndarray:
        # The transposed convolution of ones: scatter every tap of every output position onto its input.
        out, within, *kernel = ones.shape
        pads = padding_of(node)
        padded = np.zeros((shape[0], *(n + sum(p) for n, p in zip(shape[1:], pads, strict=True))), np.int64)
        space = conv(np.zeros((1, *shape)), node.weight, np.zeros(out), stride, pads, dilation, node.groups)
        group = np.arange(out) // (out // node.groups)
        heard = None if unheard is None else (~unheard).reshape(space.shape[1:]).astype(np.int64)
        for tap in np.ndindex(*kernel):
            # By input channel, or where some outputs do not count by input channel and place.
            met = np.zeros((shape[0], *(space.shape[2:] if heard is not None else (1,) * axes)), np.int64)
            for channel in range(within):
                own = ones[(slice(None), channel, *tap)].astype(np.int64).reshape(-1, *(1,) * axes)
                np.add.at(met, group * within + channel, own if heard is None else own * heard)
            window = tuple(
                slice(k * d, k * d + s * (n - 1) + 1, s)
                for k, d, s, n in zip(tap, dilation, stride, space.shape[2:], strict=True)
            )
            padded[(slice(None), *window)] += met
        inside = tuple(slice(p[0], p[0] + n) for n, p in zip(shape[1:], pads, strict=True))
        return padded[(slice(None), *inside)]

    return of_conv


def of_network(network: Network) -> Tally:
    """For runs of `hardware.simulate.simulator`; nothing has to be recorded."""
    shape = shapes(network)
    inputs = tuple(p.name for p in sorted(network.inputs, key=lambda entry: entry.constant))
    layers, footprint, weights, zeros = [], 0, 0, 0
    for projection in network.projections:
        source, target = shape[projection.source], shape[projection.target]
        entries, dense = _entries(projection, source, target)
        weights += entries
        zeros += entries - int(np.count_nonzero(projection.weight))
        footprint += -(-entries * projection.weight_bits // 8)
        degrees = out_degrees(by_post(projection, source, target)).reshape(source)
        counted = projection.source not in inputs
        layers.append(
            _Layer(degrees, dense, ((projection.source, False),), counted, np.zeros(source, np.int64))
        )
    for population in network.populations:
        bias = np.asarray(population.bias_mant)
        footprint += 2 * _stored("bias", bias) if bias.any() else 0
        constants = ("du", "dv", *(("vth",) if population.spiking else ()))
        footprint += sum(4 * _stored(key, np.asarray(getattr(population, key))) for key in constants)
    neurons = {p.name: p.neurons for p in network.populations if p.spiking}
    return Tally(footprint, weights, zeros, layers, neurons, inputs)


def _entries(projection: Projection, source: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, int]:
    """Weights of a projection, zeros too, and the connections they would make if none were zero."""
    if isinstance(projection, ConvProjection):
        # Some weight that a kernel of any sign and so many bits may have.
        low, high, _ = weight_grid(projection.sign_mode, projection.weight_bits)
        some = np.full(projection.weight.shape, low if low else high)
        full = replace(projection, weight=some, dead_pre=None, dead_post=None)
        assert conv_output_shape(full, source) == target
        return projection.weight.size, by_post(full, source, target).synapses
    if isinstance(projection, DenseProjection):
        return projection.weight.size, projection.weight.size
    size = math.prod(source) * math.prod(target)
    return size, size
