"""A checked `.nir` graph as a trainable Norse network with the same spikes, whoever wrote it.

What each node means is defined by `hardware.simulate.reference`. To add a node: a line in `_layer`, or in `_POPULATIONS`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import WRITER
from dpap_neuro.networks.kinds import nearest
from dpap_neuro.networks.models import ModelSettings, Network
from dpap_neuro.networks.neurons import (
    IF,
    LI,
    LIF,
    CubaLI,
    CubaLIF,
    Delay,
    Integrator,
    Neuron,
    NeuronSettings,
    Recurrent,
    Scale,
    Threshold,
)
from hardware.graph.cycles import components
from hardware.graph.graph import (
    SPIKING,
    Graph,
    delay_steps,
    never_spiking,
    reset_of,
    time_constants,
    time_step,
)
from hardware.graph.parsing import read_graph
from hardware.network.integer import Reset

_POPULATIONS: dict[type, type[Neuron]] = {
    nir.LIF: LIF,
    nir.CubaLIF: CubaLIF,
    nir.IF: IF,
    nir.LI: LI,
    nir.CubaLI: CubaLI,
    nir.I: Integrator,
    nir.Threshold: Threshold,
}
# The name in `ModelSettings` of a network that came out of a file.
IMPORTED = "imported"
# Parameters as NIR and as `Neuron` call them.
_NAMES = {
    "tau": "tau_mem",
    "tau_mem": "tau_mem",
    "tau_syn": "tau_syn",
    "v_leak": "v_leak",
    "v_reset": "v_reset",
    "v_threshold": "v_th",
    "threshold": "v_th",
}


class ImportedNetwork(Network):
    """A graph's nodes as modules, run in the graph's order; (T, B, *input shape) to (T, B, *output shape).

    dt: seconds per step. dt_reason: one line that says where it comes from. metadata: the graph's. settings: what
    training needs to know, the kind of reset too. node_names: the graph's names of the modules, which export gives back.
    """

    def __init__(self, graph: Graph, dt: float | None, reset: str | None = None) -> None:
        super().__init__()
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise InputError(
                f"the graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, "
                "expected one of each to train on"
            )
        self.dt, self.dt_reason = time_step(graph, dt)
        kind, _ = reset_of(graph, reset)
        self.metadata = dict(graph.metadata)
        self.input_shape = graph.input_shape[graph.inputs[0]]
        self.source, self.sink = graph.inputs[0], graph.outputs[0]
        feedback = _feedback(graph)
        before = graph.predecessors()
        self.settings = _settings(graph, self.dt, kind, before[self.sink])
        self.node_names: dict[str, str] = {}
        self.calls: list[tuple[str, str, list[str]]] = []
        for name in graph.order:
            if name == self.source or (name in feedback.values() and name not in feedback):
                continue
            sources = [s for s in before[name] if s not in (name, feedback.get(name))]
            layer: nn.Module = nn.Identity()
            if name != self.sink:
                layer = _layer(name, graph, self.dt, kind)
            if name in feedback:
                layer = _recurrent(name, feedback[name], layer, graph)
            attribute = name.replace(".", "_")
            while hasattr(self, attribute):
                attribute += "_"
            self.add_module(attribute, layer)
            self.node_names[attribute] = name
            if feedback.get(name, name) != name:
                self.node_names[f"{attribute}_feedback"] = feedback[name]
            self.calls.append((name, attribute, sources))

    def forward(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for name, attribute, sources in self.calls:
            layer = getattr(self, attribute)
            total = values[sources[0]]
            for source in sources[1:]:
                total = total + values[source]
            if not isinstance(layer, Neuron | Scale | Delay | nn.Identity):
                total = layer(total.flatten(0, 1)).unflatten(0, total.shape[:2])
            else:
                total = layer(total)
            values[name] = total
        return values[self.sink]


def from_graph(graph: Graph, dt: float | None = None, reset: str | None = None) -> ImportedNetwork:
    """A graph, as `hardware.graph.parsing.read_graph` returns it, as a network that can be trained and pruned.

    dt: seconds per step; None: from the graph's metadata, else assumed as `hardware.graph.graph.time_step` says. reset:
    "zero" or "subtract"; None: likewise, as `hardware.graph.graph.reset_of` says.
    Raises InputError, naming the node, for what Norse cannot train, HardwareError for a dt that does not fit.
    """
    return ImportedNetwork(graph, dt, reset)


def from_file(path: str | Path, dt: float | None = None) -> ImportedNetwork:
    """As `from_graph`, of a `.nir` file; also raises HardwareError as `hardware.graph.parsing.read_graph` does."""
    return from_graph(read_graph(path), dt)


def for_data(
    graph: Graph,
    shape: tuple[int, ...],
    classes: int,
    step: float,
    dt: float | None = None,
    reset: str | None = None,
) -> ImportedNetwork:
    """As `from_graph`, for data of one shape and so many classes; a graph without time constants gets its step, in
    seconds, where no dt is given. Raises InputError also where input or output does not fit the data.
    """
    inputs = [graph.input_shape[name] for name in graph.inputs]
    outputs = [graph.output_shape[name] for name in graph.outputs]
    if inputs != [shape]:
        raise InputError(f"model: takes input of shape {_shapes(inputs)}, the data has {shape}")
    if outputs != [(classes,)]:
        raise InputError(
            f"model: returns shape {_shapes(outputs)}, expected ({classes},), one value per class"
        )
    if dt is None and not time_constants(graph):
        dt = step
    return from_graph(graph, dt, reset)


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))


def _settings(graph: Graph, dt: float, reset: Reset, last: list[str]) -> ModelSettings:
    """Each population of the graph has its own constants: of `neuron`, only dt and reset say something."""
    spikes = all(isinstance(graph.nodes[name], SPIKING) for name in last)
    readout = str(graph.metadata.get("readout", "spikes" if spikes else "membrane"))
    outputs = graph.output_shape[graph.outputs[0]]
    shape: Any = graph.input_shape[graph.inputs[0]]
    return ModelSettings(IMPORTED, shape, outputs[-1], NeuronSettings(dt, dt, reset=reset), readout)


def _feedback(graph: Graph) -> dict[str, str]:
    """For each recurrent population the node of its recurrent weights (itself for a bare edge to itself)."""
    found = {}
    for part in components(graph.order, graph.edges):
        loops = [name for name in part if (name, name) in graph.edges]
        if len(part) == 1 and not loops:
            continue
        neurons = [n for n in part if isinstance(graph.nodes[n], tuple(_POPULATIONS))]
        weights = [n for n in part if isinstance(graph.nodes[n], nir.Linear | nir.Affine | nir.Scale)]
        simple = len(part) == 1 or (not loops and len(part) == 2 and len(neurons) == len(weights) == 1)
        if not simple or len(neurons) != 1 or len(graph.input_shape[neurons[0]]) != 1:
            raise InputError(
                f"nodes {', '.join(sorted(part))} form a loop, expected a one-dimensional population "
                "that feeds itself through one matrix"
            )
        back = weights[0] if weights else neurons[0]
        edges = {e for e in graph.edges if back in e and back != neurons[0]}
        if len(edges) > 2 or (edges and (neurons[0], back) not in graph.recurrent):
            raise InputError(
                f"node {back}: recurrent weights that are used elsewhere, expected in one loop only"
            )
        found[neurons[0]] = back
    return found


def _recurrent(name: str, back: str, neuron: nn.Module, graph: Graph) -> Recurrent:
    size = graph.input_shape[name][0]
    node: Any = graph.nodes[back]
    if not isinstance(neuron, Neuron) or isinstance(neuron, Integrator | Threshold):
        raise InputError(
            f"node {name}: found a recurrent {type(graph.nodes[name]).__name__}, expected a LIF or IF"
        )
    out = Recurrent(neuron, size, bias=isinstance(node, nir.Affine))
    weight = (
        np.eye(size) if back == name else np.diag(node.scale) if isinstance(node, nir.Scale) else node.weight
    )
    out.recurrent_weights.data = _tensor(weight)
    if out.recurrent_bias is not None:
        out.recurrent_bias.data = _tensor(node.bias)
    return out


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.array(values, np.float32))


def _synapse(module: Any, node: Any) -> nn.Module:
    """Gives a module made on the meta device, so that nothing is drawn, the node's weights."""
    module.weight = nn.Parameter(_tensor(node.weight))
    if module.bias is not None:
        module.bias = nn.Parameter(_tensor(node.bias))
    return module


def _layer(name: str, graph: Graph, dt: float, reset: Reset) -> nn.Module:
    node: Any = graph.nodes[name]
    kind = nearest(_POPULATIONS, node)
    if kind is not None:
        own = graph.metadata.get("writer") == WRITER
        return _population(name, node, _POPULATIONS[kind], dt, reset, own)
    if isinstance(node, nir.Linear | nir.Affine):
        post, pre = node.weight.shape
        return _synapse(nn.Linear(pre, post, isinstance(node, nir.Affine), device="meta"), node)
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        kind = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
        out, within, *taps = node.weight.shape
        how = (node.stride, node.padding, node.dilation, node.groups)
        bias = bool(np.any(node.bias))
        return _synapse(kind(within * node.groups, out, tuple(taps), *how, bias, device="meta"), node)
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        kernel, stride, padding = (
            (int(v[0]), int(v[1])) for v in (node.kernel_size, node.stride, node.padding)
        )
        divisor = 1 if isinstance(node, nir.SumPool2d) else None
        return nn.AvgPool2d(kernel, stride, padding, divisor_override=divisor)
    if isinstance(node, nir.Flatten):
        axes = len(graph.input_shape[name])  # negative dimensions count from the end
        return nn.Flatten(int(node.start_dim) % axes + 1, int(node.end_dim) % axes + 1)
    if isinstance(node, nir.Scale):
        return Scale(_tensor(node.scale))
    if isinstance(node, nir.Delay):
        return Delay(delay_steps(node.delay, dt, name), dt)
    raise InputError(f"node {name}: {type(node).__name__} cannot be trained in Norse")


def _number(values: np.ndarray) -> Tensor | float:
    """One number where all are the same: such a population can be cut down by pruning whatever its shape."""
    first = float(values.flat[0])
    return first if (values == values.flat[0]).all() else torch.as_tensor(np.array(values, np.float64))


def _population(name: str, node: Any, kind: type[Neuron], dt: float, reset: Reset, own: bool) -> Neuron:
    """own: whether this project wrote the file, see `nir_nodes`."""
    dead = never_spiking(node)
    if dead is not None:
        # Where the spikes of a neuron are held at zero, its threshold says nothing.
        level = node.v_threshold[np.isfinite(node.v_threshold)]
        if not level.size:
            raise InputError(f"node {name}: found infinite thresholds only, expected a neuron that can spike")
        node = copy.copy(node)
        node.v_threshold = np.where(np.isfinite(node.v_threshold), node.v_threshold, level[0])
    changed = {ours: _number(getattr(node, key)) for key, ours in _NAMES.items() if hasattr(node, key)}
    gain = np.asarray(getattr(node, "r", 1.0), np.float64)
    if hasattr(node, "w_in"):
        gain = gain * node.w_in * dt / node.tau_syn
    if isinstance(node, nir.CubaLIF) and own and (gain > 0).all():
        # As this project's CubaLIF is trained: no factor on its input, membranes in Norse's units.
        for key in ("v_leak", "v_reset", "v_threshold"):
            changed[_NAMES[key]] = _number(np.asarray(getattr(node, key), np.float64) / gain)
    elif np.abs(gain - 1).max() > 1e-6:
        changed["gain"] = _number(gain)
    shortest = {k: float(torch.as_tensor(v).min()) for k, v in changed.items() if k.startswith("tau")}
    for key, value in shortest.items():
        if value < dt * (1 - 1e-6):
            raise InputError(
                f"node {name}: found {key} of {value:g} s, expected at least the time step of {dt:g} s"
            )
    taus: dict[str, Any] = {"tau_mem": dt, **{key: max(value, dt) for key, value in shortest.items()}}
    v_th = changed.get("v_th", 0.5)
    if not isinstance(v_th, float) or v_th <= 0:
        v_th = 0.5  # `changed` holds what counts
    neuron = kind(NeuronSettings(dt=dt, v_th=v_th, reset=reset, **taus), **changed)
    if dead is not None:
        neuron.dead = torch.as_tensor(dead.reshape(node.v_threshold.shape).copy())
    return neuron
