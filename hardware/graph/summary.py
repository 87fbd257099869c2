"""What a graph holds: shapes, parameters, synapses, sparsity and time constants, node by node.

Parameters are the entries of kernels and matrices (biases and neuron parameters are not counted). Synapses
are the connections of the unrolled network, one per non-zero weight and position: a kernel tap that falls on
the padding connects nothing, and nothing is unrolled to count them. Neurons that never spike, their thresholds
infinite, count as none, and so do connections from and to them.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np

from hardware.errors import HardwareError
from hardware.files.whole import check_output, write_bytes
from hardware.graph.assumed import assumptions
from hardware.graph.graph import (
    INTEGRATORS,
    SPIKING,
    Array,
    Graph,
    axes_of,
    never_spiking,
    padding_of,
    time_step,
)
from hardware.graph.silent import silent_inputs, unheard_outputs
from hardware.network.geometry import conv, positions

_TIME_CONSTANTS = ("tau", "tau_mem", "tau_syn", "delay")


@dataclass(frozen=True)
class NodeSummary:
    """One node.

    parameters_stored, parameters: entries of its kernel or matrix, and those that are not zero.
    synapses_stored, synapses: connections of the unrolled network with all, and with non-zero weights.
    sparsity: share of its stored parameters that is zero; None for a node without weights.
    neurons: neurons of a population that spikes or integrates, else 0. never_spiking: its neurons that are not among them.
    time_constants: lowest and highest of each, in seconds (steps, where the file counts in steps).
    """

    name: str
    type: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    neurons: int = 0
    parameters_stored: int = 0
    parameters: int = 0
    synapses_stored: int = 0
    synapses: int = 0
    sparsity: float | None = None
    time_constants: dict[str, tuple[float, float]] | None = None
    never_spiking: int = 0


@dataclass(frozen=True)
class GraphSummary:
    """A graph: its nodes in topological order, the sums over them, and its time step (None: not known).

    assumed: one line for each other thing that the file does not say, see `hardware.graph.assumed`.
    """

    nodes: tuple[NodeSummary, ...]
    edges: tuple[tuple[str, str], ...]
    recurrent: tuple[tuple[str, str], ...]
    neurons: int
    parameters_stored: int
    parameters: int
    synapses_stored: int
    synapses: int
    sparsity: float | None
    dt: float | None
    dt_reason: str
    assumed: tuple[str, ...]
    metadata: dict[str, Any]


def parameters(graph: Graph) -> int:
    """Non-zero weights of all kernels and matrices."""
    return sum(_parameters(node)[1] for node in graph.nodes.values())


def synapses(graph: Graph) -> int:
    """Non-zero connections between two neurons, over all kernels and matrices of the unrolled network.

    Each kernel or matrix counts from its own input to its own output: pooling before or after it is not
    multiplied in.
    """
    counts = _Synapses(graph)
    return sum(counts.of(name)[1] for name in graph.nodes)


def describe(graph: Graph, dt: float | None = None) -> GraphSummary:
    """All that `inspect` shows of a graph. dt: seconds per step, None: see `hardware.graph.graph.time_step`.

    Raises HardwareError for a dt that is not positive.
    """
    counts = _Synapses(graph)
    nodes = tuple(_describe(graph, name, counts) for name in graph.order)
    stored = sum(node.parameters_stored for node in nodes)
    nonzero = sum(node.parameters for node in nodes)
    step: float | None = None
    assumed = graph.notes
    try:
        step, reason = time_step(graph, dt)
        assumed = tuple(line for line in assumptions(graph, dt) if line != reason)
    except HardwareError as error:
        if dt is not None:
            raise
        reason = str(error)
    return GraphSummary(
        nodes=nodes,
        edges=graph.edges,
        recurrent=tuple(edge for edge in graph.edges if edge in graph.recurrent),
        neurons=sum(node.neurons for node in nodes),
        parameters_stored=stored,
        parameters=nonzero,
        synapses_stored=sum(node.synapses_stored for node in nodes),
        synapses=sum(node.synapses for node in nodes),
        sparsity=1 - nonzero / stored if stored else None,
        dt=step,
        dt_reason=reason,
        assumed=assumed,
        metadata=graph.metadata,
    )


def as_json(summary: GraphSummary) -> dict[str, Any]:
    """The summary in the types `json.dumps` takes; null for what is not finite in a file's metadata, JSON has no NaN."""
    return _jsonable(asdict(summary))


def draw(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Draw the graph to a `.svg` or `.png` file (needs nirviz and Graphviz's `dot`) or to `.dot` (nirviz).

    Raises HardwareError where they are not installed, or the name ends otherwise.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png", ".dot"):
        raise HardwareError(f"cannot draw to {path}: expected a name that ends in .svg, .png or .dot")
    check_output(path)
    try:
        import graphviz
        import nirviz
    except ImportError:
        raise HardwareError("drawing a graph needs nirviz: pip install nirviz") from None
    # The nodes' types are set already; nir's own inference is wrong for kernels that are not square.
    # A name from a stranger's file moves no cursor where the picture's source is printed.
    shown = {name: name if name.isprintable() else repr(name) for name in graph.nodes}
    nodes = {shown[name]: node for name, node in graph.nodes.items()}
    edges = [(shown[source], shown[target]) for source, target in graph.edges]
    untyped = nir.NIRGraph(nodes, edges, type_check=False)
    picture = nirviz.visualize(untyped, orientation="horizontal").viz_graph
    for name in graph.order:  # nirviz writes the type alone
        shape = "x".join(map(str, graph.output_shape[name]))
        label = f"{shown[name]}\n{type(graph.nodes[name]).__name__}\n{shape}"
        picture.node(shown[name], label=graphviz.escape(label))
    try:
        data = picture.source.encode() if path.suffix == ".dot" else picture.pipe(format=path.suffix[1:])
    except graphviz.ExecutableNotFound:
        raise HardwareError(
            f"drawing to {path.suffix} needs Graphviz's program dot (apt install graphviz); .dot does not"
        ) from None
    except graphviz.CalledProcessError as error:
        raise HardwareError(f"cannot draw to {path}: dot ended with status {error.returncode}") from None
    write_bytes(path, data)


def _describe(graph: Graph, name: str, counts: _Synapses) -> NodeSummary:
    node = graph.nodes[name]
    stored, nonzero = _parameters(node)
    synapses_stored, synapses_nonzero = counts.of(name)
    dead = never_spiking(node)
    constants = {
        key: (float(np.min(getattr(node, key))), float(np.max(getattr(node, key))))
        for key in _TIME_CONSTANTS
        if getattr(node, key, None) is not None
    }
    return NodeSummary(
        name=name,
        type=type(node).__name__,
        input_shape=graph.input_shape[name],
        output_shape=graph.output_shape[name],
        neurons=math.prod(graph.output_shape[name]) - (0 if dead is None else int(dead.sum()))
        if isinstance(node, SPIKING + INTEGRATORS)
        else 0,
        parameters_stored=stored,
        parameters=nonzero,
        synapses_stored=synapses_stored,
        synapses=synapses_nonzero,
        sparsity=1 - nonzero / stored if stored else None,
        time_constants=constants or None,
        never_spiking=0 if dead is None else int(dead.sum()),
    )


def _parameters(node: nir.NIRNode) -> tuple[int, int]:
    weight = getattr(node, "weight", None)
    return (0, 0) if weight is None else (weight.size, int(np.count_nonzero(weight)))


class _Synapses:
    """Connections of the unrolled network, node by node: with all weights, and with the non-zero ones between neurons that spike."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.silent, self.unheard = silent_inputs(graph), unheard_outputs(graph)

    def of(self, name: str) -> tuple[int, int]:
        node, shape = self.graph.nodes[name], self.graph.input_shape[name]
        stored, nonzero = _synapses(node, shape)
        if stored and (name in self.silent or name in self.unheard):
            nonzero = _between(node, shape, self.silent.get(name), self.unheard.get(name))
        return stored, nonzero


def _between(node: Any, shape: tuple[int, ...], silent: Array | None, unheard: Array | None) -> int:
    """Connections by non-zero weights from elements of the input that are not silent to those of the output that are not unheard."""
    speaks = np.ones(shape) if silent is None else (~silent).reshape(shape).astype(float)
    joined = (node.weight != 0).astype(float)
    if isinstance(node, nir.Affine | nir.Linear):
        heard = joined @ speaks.reshape(-1)
    else:
        axes = node.weight.ndim - 2
        steps = (axes_of(node.stride, axes), padding_of(node), axes_of(node.dilation, axes))
        heard = conv(speaks[None], joined, np.zeros(len(joined)), *steps, node.groups).reshape(-1)
    return round(float(heard.sum() if unheard is None else heard[~unheard].sum()))


def _synapses(node: nir.NIRNode, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Connections of the unrolled network: with all weights, and with the non-zero ones."""
    if isinstance(node, nir.Affine | nir.Linear):
        return _parameters(node)
    if not isinstance(node, nir.Conv1d | nir.Conv2d):
        return 0, 0
    axes = node.weight.ndim - 2
    stride = node.stride if axes == 2 else (node.stride,)
    dilation = node.dilation if axes == 2 else (node.dilation,)
    places = np.ones((1,) * axes, np.int64)
    for axis, (before, after) in enumerate(padding_of(node)):
        counts = _inside(
            input_shape[1 + axis],
            node.weight.shape[2 + axis],
            stride[axis],
            dilation[axis],
            before,
            after,
        )
        places = places * counts.reshape(-1, *(1,) * (axes - 1 - axis))
    taps = np.count_nonzero(node.weight, axis=(0, 1))
    per_tap = node.weight.shape[0] * node.weight.shape[1]
    return per_tap * int(places.sum()), int((taps * places).sum())


def _inside(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> np.ndarray:
    """(kernel,) For each tap along one axis, the output positions at which it falls inside the input.

    Position p puts tap k on p * stride + k * dilation - before; inside is 0 .. size - 1.
    """
    (outputs,) = positions((size,), (kernel,), (stride,), ((before, after),), (dilation,))
    offset = np.arange(kernel, dtype=np.int64) * dilation - before
    first = np.maximum(0, -(offset // stride))  # ceil(-offset / stride)
    last = np.minimum(outputs - 1, (size - 1 - offset) // stride)
    return np.maximum(0, last - first + 1)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, np.generic):
        return _jsonable(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
