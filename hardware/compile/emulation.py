"""A compiled network back in floats, with some of its roundings made and the others not.

Each population keeps its neurons (with gains folded into weights, membranes shifted to where a reset is 0), each path becomes one
linear node. With nothing rounded it is the graph itself; the chip's cutting of decayed values and its clock are
in none of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import nir
import numpy as np

from hardware.compile.linear import Convolution, is_sparse
from hardware.compile.rounding import Rounded
from hardware.graph.graph import Edge, Graph
from hardware.network.integer import Network

Array = np.ndarray
Shape = tuple[int, ...]
# What can be rounded beside the weights of a projection, (source, target).
APPROXIMATIONS = ("biases", "thresholds", "decays")
Approximation = str | tuple[str, str]


def float_graph(
    layers: list[Rounded], network: Network, rounded: Collection[Approximation] = ()
) -> tuple[Graph, dict[str, Shape]]:
    """The graph, in which a step is the unit of time, and its inputs of ones (biases) with their shapes.

    rounded: projections whose weights are the chip's, and some of `APPROXIMATIONS`; of everything else the exact floats.
    """
    parts = _Parts()
    ones: dict[str, Shape] = {}
    for entry in network.inputs:
        parts.add(entry.name, nir.Input({"input": np.array(entry.shape)}), entry.shape, entry.shape)
        if entry.constant:
            ones[entry.name] = entry.shape
    rank = {entry.name: -1 for entry in network.inputs}
    rank |= {layer.population.name: k for k, layer in enumerate(layers)}
    for k, layer in enumerate(layers):
        shape, name = layer.population.shape, layer.population.name
        node, bias = _neurons(layer, "thresholds" in rounded, "biases" in rounded, "decays" in rounded)
        arriving = []
        for i, (w, map_) in enumerate(zip(layer.demand.weights, layer.maps, strict=True)):
            source = w.path.source
            biases = layer.demand.constant[i]
            is_rounded = "biases" in rounded if biases else (source, name) in rounded
            back = rank[source] >= k
            last = parts.linear(f"{name} <- {source} {i}", source, shape, map_ if is_rounded else w.map, back)
            late = w.path.latency - back
            if late > 0:
                parts.add(f"{last} late", nir.Delay(np.full(shape, float(late))), shape, shape, last)
                last = f"{last} late"
            arriving.append(last)
        if bias is not None:
            parts.add(f"{name} bias", nir.Input({"input": np.array(shape)}), shape, shape)
            ones[f"{name} bias"] = shape
            parts.add(f"{name} drive", nir.Scale(bias.reshape(shape)), shape, shape, f"{name} bias")
            arriving.append(f"{name} drive")
        parts.add(name, node, shape, shape, *arriving)
    output = network.outputs[0]
    shape = next(p.shape for p in network.populations if p.name == output)
    parts.add("the output", nir.Output({"output": np.array(shape)}), shape, shape, output)
    metadata = {"reset": layers[0].demand.neurons.reset} if layers else {}
    return (
        Graph(
            parts.nodes,
            tuple(parts.edges),
            tuple(parts.nodes),
            frozenset(parts.recurrent),
            parts.input_shape,
            parts.output_shape,
            1.0,
            metadata,
        ),
        ones,
    )


class _Parts:
    """A graph that grows."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self.edges: list[Edge] = []
        self.recurrent: set[Edge] = set()
        self.input_shape: dict[str, Shape] = {}
        self.output_shape: dict[str, Shape] = {}

    def add(self, name: str, node: Any, before: Shape, after: Shape, *sources: str) -> None:
        self.nodes[name] = node
        self.input_shape[name], self.output_shape[name] = tuple(before), tuple(after)
        self.edges += [(source, name) for source in sources]

    def linear(self, name: str, source: str, target: Shape, map_: Any, back: bool) -> str:
        """The nodes of one path; returns the last one's name. back: whether it starts later in the order."""
        first = name
        if isinstance(map_, Convolution):
            node = nir.Conv2d(
                None,
                map_.weight,
                map_.stride,
                map_.padding,
                map_.dilation,
                map_.groups,
                np.zeros(len(map_.weight)),
            )
            self.add(name, node, map_.source, target, source)
        else:
            matrix = map_.matrix.toarray() if is_sparse(map_.matrix) else map_.matrix
            n_post, n_pre = matrix.shape
            first = f"{name} flat"
            self.add(first, _reshaped((n_pre,)), (n_pre,), (n_pre,), source)
            self.add(f"{name} matrix", nir.Linear(matrix), (n_pre,), (n_post,), first)
            self.add(name, _reshaped(target), (n_post,), target, f"{name} matrix")
        if back:
            self.recurrent.add((source, first))
        return name


def _reshaped(shape: Shape) -> nir.Flatten:
    node = nir.Flatten({"input": np.array([int(np.prod(shape))])}, 0, -1)
    node.output_type = {"output": np.array(shape)}
    return node


def _neurons(layer: Rounded, threshold: bool, bias: bool, decays: bool) -> tuple[Any, Array | None]:
    """The population's node, and what its membranes gain in each step beside (None: nothing)."""
    demand, shape = layer.demand, layer.population.shape
    neurons, residual = demand.neurons, demand.residual
    forget = layer.forget if decays else neurons.forget
    leak = layer.leak if decays else neurons.leak
    drive = layer.drive if bias else demand.drives
    rest = neurons.drive / residual  # acts as a level that membranes start from

    def full(values: Array | float) -> Array:
        return np.broadcast_to(np.asarray(values, np.float64), (int(np.prod(shape)),)).reshape(shape)

    parameters: dict[str, Array] = {}
    fires = demand.thresholds is not None
    if fires:
        level = layer.threshold if threshold else demand.thresholds
        assert level is not None
        if neurons.dead is not None:
            level = np.where(neurons.dead, np.inf, level)
        parameters = {"v_threshold": full(level), "v_reset": full(0.0)}
    if (leak == 0).all() and (neurons.forget == 1).all():
        node = nir.IF(full(1.0), **parameters) if fires else nir.I(full(1.0))
        return node, drive if drive.any() else None
    # A leak that rounding took away altogether is kept as one that no run notices.
    leak = np.maximum(leak, 1e-12)
    if (neurons.forget == 1).all():
        parameters = {"tau": full(1 / leak), "r": full(1 / leak), "v_leak": full(rest / leak), **parameters}
        beside = drive - rest
        return (nir.LIF if fires else nir.LI)(**parameters), beside if beside.any() else None
    current = {"tau_syn": full(1 / forget), "tau_mem": full(1 / leak), "w_in": full(1 / forget)}
    parameters = {**current, "r": full(1 / leak), "v_leak": full(drive / leak), **parameters}
    return (nir.CubaLIF if fires else nir.CubaLI)(**parameters), None
