"""A network in integers as a `.nir` graph: weights, thresholds and biases lie on the chip's grid, so that compiling it returns
the integers of the forward pass.

The graph's units are powers of two of the integers, which float32 holds exactly. Its metadata carries the scales
(`hardware.compile.pins`), since the compiler could choose a larger one, at which truncating decays would truncate elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np
import torch

from dpap_neuro.errors import InputError
from dpap_neuro.precision.network import ExactNetwork, dyadic
from dpap_neuro.precision.neurons import ExactNeuron
from dpap_neuro.precision.plan import Plan
from dpap_neuro.precision.synapses import ExactConv2d
from hardware.compile import pins, quantise

Array = np.ndarray
# What a network carries on from its source about how to feed it; the rest of the metadata is written anew.
_CARRIED = (
    "bins",
    "bin_us",
    "clip",
    "clock",
    "code",
    "downsample",
    "kept_bins",
    "class_names",
    "dataset",
    "readout",
)


@torch.no_grad()
def to_nir(network: ExactNetwork, **metadata: Any) -> nir.NIRGraph:
    """The graph of what the forward pass computes now. metadata: as `dpap_neuro.exchange.nir_export.to_nir` takes it, already
    in the form of NIR; added to what the network's source said.

    Raises InputError for a bias that differs within a channel, which a convolution in NIR cannot say.
    """
    return _Writer(network).graph(metadata)


class _Writer:
    def __init__(self, network: ExactNetwork) -> None:
        self.network = network
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.pinned: list[pins.PinnedPopulation] = []

    def graph(self, metadata: dict[str, Any]) -> nir.NIRGraph:
        network = self.network
        name = network.input_name
        self.nodes[name] = nir.Input({"input": np.array(network.shapes[name])})
        for layer in network.plan:
            self._population(layer)
        if network.output != network.graph_output:
            self.edges.append((network.output, network.graph_output))
        self.nodes[network.graph_output] = nir.Output({"output": np.array(network.shapes[network.output])})
        said = {key: network.metadata[key] for key in _CARRIED if network.metadata.get(key) is not None}
        scales = pins.write(pins.Pins(network.bits, tuple(self.pinned)))
        own = {"dt": network.dt, "reset": network.reset, pins.KEY: scales}
        values = {key: value for key, value in {**said, **metadata, **own}.items() if value is not None}
        return nir.NIRGraph(self.nodes, self.edges, metadata=values, type_check=False)

    def _add(self, name: str, node: nir.NIRNode, *sources: str) -> str:
        base, count = name, 2
        while name in self.nodes or (name == self.network.graph_output and not isinstance(node, nir.Output)):
            name, count = f"{base}_{count}", count + 1
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def _population(self, layer: Plan) -> None:
        network = self.network
        population: Any = network.populations[layer.key]
        assert isinstance(population, ExactNeuron)
        shape, power = network.shapes[layer.name], dyadic(population.scale_now)
        unit = 2.0**power
        synapses: list[Any] = [network.synapses[link.synapse] for link in layer.links]
        given = synapses[0].constant() if synapses else None
        through, pinned = self._through(layer, given, unit)
        drive = self._drive(layer, population, given) / (unit * quantise.ACTIVATION_UNIT)
        late = {name for name in layer.constants if network.constants[name].latency}  # type: ignore[attr-defined]
        if late:
            raise InputError(f"node {layer.name}: a bias behind a delay, which cannot be written")
        leak = population.decays() / 4096.0 if population.w is not None else population.leak
        remembers = population.forget < 1
        bias = through + np.where(remembers, 0.0, drive)
        rest = np.where(remembers, drive, 0.0)
        sources = []
        for k, (link, synapse) in enumerate(zip(layer.links, synapses, strict=True)):
            sources.append(self._synapse(link, synapse, bias if k == 0 else None, unit, shape, layer.name))
            mode = synapse.grid.mode
            pinned.append(pins.PinnedProjection(link.source, link.latency, synapse.grid.exponent, mode))
        back = population.back()
        if back is not None and population.back_grid is not None:
            grid = population.back_grid
            pinned.append(pins.PinnedProjection(layer.name, 1, grid.exponent, grid.mode))
        self.pinned.append(pins.PinnedPopulation(layer.name, unit, tuple(pinned)))
        if layer.name == network.graph_output:  # currents that are read out
            self.edges += [(source, layer.name) for source in sources]
            return
        node = _neurons(population, np.broadcast_to(leak, math.prod(shape)), rest, unit, shape)
        self.nodes[layer.name] = node
        self.edges += [(source, layer.name) for source in sources]
        if back is not None:
            weights = nir.Linear(back.cpu().numpy() / np.float32(unit))
            self.edges.append((self._add(f"{layer.name}_feedback", weights, layer.name), layer.name))

    def _through(self, layer: Plan, given: Any, unit: float) -> tuple[Array, list[pins.PinnedProjection]]:
        """Biases that come from an input that is always on, (neurons,), and its pins."""
        shape = self.network.shapes[layer.name]
        total, pinned = np.zeros(math.prod(shape)), []
        for name in layer.constants:
            constant: Any = self.network.constants[name]
            vector = constant.vector(given).cpu().numpy().astype(np.float64)
            if vector.any():
                total += vector / unit
                grid = constant.grid
                pinned.append(pins.PinnedProjection(None, constant.latency, grid.exponent, grid.mode))
        return total, pinned

    def _drive(self, layer: Plan, population: ExactNeuron, given: Any) -> Array:
        """Constant drive of the membranes, (neurons,), integers."""
        bias = given if layer.biased else None
        if bias is not None:
            bias = bias.repeat_interleave(math.prod(self.network.shapes[layer.name]) // len(bias))
        if population.drive is not None:
            bias = population.drive if bias is None else bias + population.drive
        mantissas, exponent = population.biases(bias)
        values = mantissas.astype(np.float64) * 2.0**exponent
        return np.broadcast_to(values, math.prod(self.network.shapes[layer.name]))

    def _synapse(
        self, link: Any, synapse: Any, bias: Array | None, unit: float, shape: tuple[int, ...], target: str
    ) -> str:
        """Nodes from a source to the currents of a population; the name of the last."""
        network, source = self.network, link.source
        weight = synapse.weights().cpu().numpy() / np.float32(unit)
        before, name = network.shapes[source], f"{source}_to_{target}"
        if link.latency:
            delay = nir.Delay(np.full(before, link.latency * network.dt, np.float32))
            source = self._add(f"{name}_delay", delay, source)
        if isinstance(synapse, ExactConv2d):
            per_channel = (
                np.zeros(len(weight)) if bias is None else self._per_channel(bias, len(weight), target)
            )
            geometry = (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
            conv = nir.Conv2d(before[1:], weight, *geometry, per_channel.astype(np.float32))
            return self._add(name, conv, source)
        if len(before) > 1:
            source = self._add(f"{name}_flat", nir.Flatten({"input": np.array(before)}, 0, -1), source)
        if bias is None or not bias.any():
            node: nir.NIRNode = nir.Linear(weight)
        else:
            node = nir.Affine(weight, bias.astype(np.float32))
        if len(shape) > 1:
            raise InputError(
                f"node {target}: a matrix leads to a population of shape {shape}, which NIR cannot say"
            )
        return self._add(name, node, source)

    def _per_channel(self, bias: Array, channels: int, target: str) -> Array:
        rows = bias.reshape(channels, -1)
        if not (rows == rows[:, :1]).all():
            raise InputError(
                f"node {target}: a bias that differs within a channel, expected one for each channel of a convolution"
            )
        return rows[:, 0]


def _neurons(
    population: ExactNeuron, leak: Array, rest: Array, unit: float, shape: tuple[int, ...]
) -> nir.NIRNode:
    """The node of a population; rest: drive of membranes per step that its synapses do not bring."""

    def full(values: Any) -> Array:
        return np.array(np.broadcast_to(values, math.prod(shape)).reshape(shape), np.float32)

    forget, dt = population.forget, population.settings.dt
    spiking = (
        {"v_threshold": full(population.thresholds() / unit), "v_reset": full(0.0)}
        if population.spikes
        else {}
    )
    if population.dead is not None:
        spiking["v_threshold"] = np.where(
            population.dead.cpu().numpy(), np.float32(np.inf), spiking["v_threshold"]
        )
    if (forget < 1).any():
        values = {
            "tau_syn": full(dt / forget),
            "tau_mem": full(dt / leak),
            "r": full(1.0),
            "v_leak": full(rest / leak),
        }
        values["w_in"] = full(1 / (leak * forget))
        return nir.CubaLIF(**values, **spiking) if population.spikes else nir.CubaLI(**values)
    if not leak.any():
        return nir.IF(r=full(1.0), **spiking) if population.spikes else nir.I(r=full(1.0))
    values = {"tau": full(dt / leak), "r": full(1 / leak), "v_leak": full(0.0)}
    return nir.LIF(**values, **spiking) if population.spikes else nir.LI(**values)
