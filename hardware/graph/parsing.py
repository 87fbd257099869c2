"""`.nir` files and NIR graphs in memory, read and checked.

Sub-graphs are inlined, every shape is computed along the edges (`hardware.graph.shapes`), and whatever is not a network that
`hardware` can run is refused with one line that names the node.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import nir
import numpy as np

from hardware.errors import HardwareError
from hardware.files.guarded import Reader
from hardware.files.metadata import decode_metadata
from hardware.files.nir_tree import MAX_DEPTH, MAX_EDGES, MAX_NODES
from hardware.graph.assumed import counted_in_steps, counts_in_seconds, inferred_time_step
from hardware.graph.cycles import (
    Edge,
    cyclic,
    reachable,
    recurrent_edges,
    successors,
    topological,
)
from hardware.graph.graph import (
    MAX_AXES,
    MAX_WEIGHTS,
    PER_NEURON,
    STATEFUL,
    SUPPORTED,
    Graph,
    Shape,
)
from hardware.graph.shapes import check_shape, infer_shapes, spread
from hardware.network.integer import MAX_NEURONS

_FIELDS: dict[type, tuple[str, ...]] = {
    nir.Input: ("shape",),
    nir.Output: ("shape",),
    nir.Affine: ("weight", "bias"),
    nir.Linear: ("weight",),
    nir.Conv1d: ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
    nir.Conv2d: ("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"),
    nir.SumPool2d: ("kernel_size", "stride", "padding"),
    nir.AvgPool2d: ("kernel_size", "stride", "padding"),
    nir.Flatten: ("input_type", "start_dim", "end_dim"),
    **{kind: tuple(parameters) for kind, parameters in PER_NEURON.items()},
}


def read_graph(path: str | os.PathLike[str], reader: Reader | None = None) -> Graph:
    """Read and check a `.nir` file. Nothing in the file is executed, and sizes are checked before allocation.

    The file is read in a child process, see `hardware.files.guarded`; for many files, give one `reader` to all.
    Raises HardwareError, one line, for a file that is damaged or that is not a network `hardware` can run.
    """
    if reader is None:
        with Reader() as reader:
            return read_graph(path, reader)
    tree = reader.read(path)
    try:
        return _from_tree(tree)
    except HardwareError as error:
        raise HardwareError(f"{path}: {error}") from None


def from_nir(graph: nir.NIRGraph) -> Graph:
    """Check a graph in memory; it is not changed, arrays may be shared with it. Raises HardwareError."""
    if not isinstance(graph, nir.NIRGraph):
        raise HardwareError(f"{type(graph).__name__} is not a NIRGraph; wrap it with nir.NIRGraph.from_list")
    return _from_tree(_tree(graph, 0))


# --- nested dictionaries, as `nir_file.read_tree` returns them ---------------------------------------------


def _tree(node: nir.NIRNode, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise HardwareError(f"sub-graphs nested more than {MAX_DEPTH} deep")
    kind = type(node)
    tree: dict[str, Any] = {"type": kind.__name__, "metadata": node.metadata}
    if isinstance(node, nir.NIRGraph):
        tree["edges"] = [tuple(edge) for edge in node.edges]
        tree["nodes"] = {str(name): _tree(inner, depth + 1) for name, inner in node.nodes.items()}
    elif kind is nir.Input:
        tree["shape"] = node.input_type
    elif kind is nir.Output:
        tree["shape"] = node.output_type
    elif kind in _FIELDS:
        tree.update((f.name, getattr(node, f.name)) for f in fields(node) if f.name in _FIELDS[kind])
    return tree


def _from_tree(tree: dict[str, Any]) -> Graph:
    if _kind(tree) != "NIRGraph":
        raise HardwareError(f"the file holds {_kind(tree)[:40]!r}, expected a NIRGraph")
    metadata = decode_metadata(tree.get("metadata", {}))
    raw, edges = _inline(tree)
    nodes = {name: _parse(name, fields_) for name, fields_ in raw.items()}
    _check_edges(nodes, edges)
    nodes, dt, dt_reason, notes = _in_steps(nodes, metadata)

    names = list(nodes)
    stateful = {name for name, node in nodes.items() if isinstance(node, STATEFUL)}
    stateless_edges = [edge for edge in edges if not stateful.intersection(edge)]
    for loop in cyclic([name for name in names if name not in stateful], stateless_edges):
        raise HardwareError(
            f"nodes {_list(loop)} form a cycle without a neuron or a delay: its values would need themselves"
        )
    recurrent = recurrent_edges(names, edges, stateful)
    names.sort(key=lambda name: not isinstance(nodes[name], nir.Input))
    order = topological(names, [edge for edge in edges if edge not in recurrent])
    shapes = infer_shapes(nodes, edges)
    return Graph(
        nodes=shapes.nodes,
        edges=tuple(edges),
        order=order,
        recurrent=recurrent,
        input_shape=shapes.input_shape,
        output_shape=shapes.output_shape,
        dt=dt,
        metadata=metadata,
        dt_reason=dt_reason,
        notes=(*notes, *shapes.notes),
    )


def _in_steps(
    nodes: dict[str, nir.NIRNode], metadata: dict[str, Any]
) -> tuple[dict[str, nir.NIRNode], float | None, str, tuple[str, ...]]:
    """Nodes that count in steps where their writer counts in seconds; the time step, where it comes from, and notes."""
    dt = metadata.get("dt")
    found = inferred_time_step(nodes) if dt is None else dt
    # Of this project's files only those made for SpikingJelly count so.
    writer = str(metadata.get("writer", ""))
    if found is None or (writer and "spikingjelly" not in writer):
        seconds = []
    else:
        seconds = [name for name, node in nodes.items() if counts_in_seconds(node, found)]
    reason = ""
    notes: tuple[str, ...] = ()
    if seconds:
        nodes = {name: counted_in_steps(node) if name in seconds else node for name, node in nodes.items()}
        notes = (
            f"nodes {_list(seconds)} (IF): r is 1 / dt, as SpikingJelly writes it, read as r = 1 per step",
        )
    if dt is None and found is not None:
        told = "r = 1 / dt of an IF" if seconds else "tau / r of every population"
        reason = f"dt = {found:g} s inferred from {told}: the file names none"
    return nodes, found, reason, notes


def _kind(raw: dict[str, Any]) -> str:
    """What a node says it is; "" where that is not a string."""
    kind = raw.get("type")
    return kind if isinstance(kind, str) else ""


def _list(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(repr(name) for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _edges(tree: dict[str, Any], where: str) -> list[Edge]:
    edges = tree.get("edges")
    if isinstance(edges, np.ndarray) and edges.size == 0:
        edges = []
    if not isinstance(edges, list):
        raise HardwareError(f"{where}: no edges, expected pairs of node names")
    if len(edges) > MAX_EDGES:
        raise HardwareError(f"{where}: {len(edges):,} edges, at most {MAX_EDGES:,} are read")
    for edge in edges:
        if not isinstance(edge, list | tuple) or len(edge) != 2 or not all(isinstance(n, str) for n in edge):
            raise HardwareError(f"{where}: an edge is {str(edge)[:80]!r}, expected a pair of node names")
    return [(source, target) for source, target in edges]


def _inline(tree: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], list[Edge]]:
    """All nodes of nested graphs in one, named with dots; a nested graph's Input and Output become wires."""
    raw: dict[str, dict[str, Any]] = {}
    edges: list[Edge] = []
    wires: list[str] = []

    def add(graph: dict[str, Any], prefix: str) -> dict[str, tuple[str, str]]:
        """Adds the graph's nodes; returns for each where edges to it end and where edges from it start."""
        where = f"sub-graph {prefix[:-1]!r}" if prefix else "the graph"
        inner = graph.get("nodes")
        if not isinstance(inner, dict) or not inner:
            raise HardwareError(f"{where} has no nodes")
        ends: dict[str, tuple[str, str]] = {}
        for name, node in inner.items():
            full = prefix + name
            kind = _kind(node)
            if kind == "NIRGraph":
                within = add(node, full + ".")
                doors = []
                for door in ("Input", "Output"):
                    found = [n for n, child in node["nodes"].items() if _kind(child) == door]
                    if len(found) != 1:
                        raise HardwareError(f"sub-graph {full!r} has {len(found)} {door} nodes, expected one")
                    doors.append(within[found[0]][0])
                ends[name] = (doors[0], doors[1])
                continue
            if full in raw:
                raise HardwareError(f"two nodes are named {full!r} once sub-graphs are inlined")
            if len(raw) >= MAX_NODES:
                raise HardwareError(f"more than {MAX_NODES} nodes")
            raw[full] = node
            if prefix and kind in ("Input", "Output"):
                wires.append(full)
            ends[name] = (full, full)
        for source, target in _edges(graph, where):
            for name in (source, target):
                if name not in ends:
                    raise HardwareError(
                        f"{where}: edge ({source!r}, {target!r}) names {name!r}, which is no node; "
                        f"there are {_list(ends)}"
                    )
            edges.append((ends[source][1], ends[target][0]))
        return ends

    add(tree, "")
    for wire in wires:
        before = [source for source, target in edges if target == wire]
        after = [target for source, target in edges if source == wire]
        if wire in before:
            raise HardwareError(f"node {wire!r} has an edge to itself")
        if not before or not after:
            raise HardwareError(f"node {wire!r} is connected on one side only")
        if len(before) * len(after) + len(edges) > 2 * MAX_EDGES:
            raise HardwareError(f"more than {MAX_EDGES:,} edges once sub-graphs are inlined")
        edges = [edge for edge in edges if wire not in edge] + [(a, b) for a in before for b in after]
        del raw[wire]
    return raw, edges


def _check_edges(nodes: dict[str, nir.NIRNode], edges: list[Edge]) -> None:
    seen: set[Edge] = set()
    for source, target in edges:
        if (source, target) in seen:
            raise HardwareError(
                f"the edge ({source!r}, {target!r}) is there twice; scale by 2 with a Scale node"
            )
        seen.add((source, target))
        if isinstance(nodes[target], nir.Input):
            raise HardwareError(f"node {target!r} is an Input, yet an edge from {source!r} leads to it")
        if isinstance(nodes[source], nir.Output):
            raise HardwareError(f"node {source!r} is an Output, yet an edge leads from it to {target!r}")
    inputs = [name for name, node in nodes.items() if isinstance(node, nir.Input)]
    if not inputs:
        raise HardwareError("the graph has no Input node")
    if not any(isinstance(node, nir.Output) for node in nodes.values()):
        raise HardwareError("the graph has no Output node")
    # A loop that no Input leads to runs by itself: its biases and leaks drive it.
    following = successors(nodes, edges)
    alone = [name for part in cyclic(list(nodes), edges) for name in part]
    lost = set(nodes) - reachable([*inputs, *alone], following)
    if lost:
        raise HardwareError(f"no path leads from an Input to {_list(lost)}")


# --- single nodes ------------------------------------------------------------------------------------------


def _parse(name: str, raw: dict[str, Any]) -> nir.NIRNode:
    """A node with checked parameters; its shapes are set later, along the edges."""
    kind_name = _kind(raw)
    kind = SUPPORTED.get(kind_name)
    if kind is None:
        if "maxpool" in kind_name.lower().replace("_", ""):
            raise HardwareError(
                f"node {name!r} is a {kind_name[:40]}: max pooling is neither in NIR nor on the chip; "
                "use SumPool2d or AvgPool2d, or a convolution with stride"
            )
        raise HardwareError(
            f"node {name!r} is of type {kind_name[:40]!r}, expected one of {', '.join(sorted(SUPPORTED))}"
        )
    where = f"node {name!r} ({kind_name})"
    unknown = set(raw) - set(_FIELDS[kind]) - {"type", "metadata"}
    if unknown:
        raise HardwareError(f"{where}: unknown field {_list(unknown)}, expected {', '.join(_FIELDS[kind])}")
    try:
        node = _build(kind, where, raw)
    except HardwareError:
        raise
    except (AssertionError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise HardwareError(f"{where}: {' '.join(str(error).split())[:160]}") from None
    metadata = raw.get("metadata")
    node.metadata = metadata if isinstance(metadata, dict) else {}
    return node


def _build(kind: type, where: str, raw: dict[str, Any]) -> nir.NIRNode:
    if kind in PER_NEURON:
        return _build_per_neuron(kind, where, raw)
    if kind is nir.Input:
        return nir.Input(input_type={"input": np.array(_read_shape(raw.get("shape"), where))})
    if kind is nir.Output:
        shape = _read_shape(raw.get("shape"), where, optional=True)
        return nir.Output(output_type={"output": None if shape is None else np.array(shape)})
    if kind in (nir.Affine, nir.Linear):
        weight = _numbers(raw, "weight", where)
        if weight.ndim != 2:
            raise HardwareError(f"{where}: weight of shape {weight.shape}, expected (post, pre)")
        check_shape(weight.shape, where, "weight", MAX_WEIGHTS)
        if kind is nir.Linear:
            return nir.Linear(weight=weight)
        return nir.Affine(weight=weight, bias=_bias(raw, weight, where))
    if kind is nir.Flatten:
        start = _integer(raw.get("start_dim", 1), where, "start_dim")
        end = _integer(raw.get("end_dim", -1), where, "end_dim")
        node = nir.Flatten(input_type={"input": None}, start_dim=start, end_dim=end)
        shape = _read_shape(raw.get("input_type"), where, optional=True)
        node.input_type = {"input": None if shape is None else np.array(shape)}
        return node
    if kind in (nir.SumPool2d, nir.AvgPool2d):
        return kind(
            kernel_size=np.array(_pair(raw, "kernel_size", where, 1)),
            stride=np.array(_pair(raw, "stride", where, 1)),
            padding=np.array(_pair(raw, "padding", where, 0)),
        )
    return _build_conv(kind, where, raw)


def _build_per_neuron(kind: type, where: str, raw: dict[str, Any]) -> nir.NIRNode:
    """All parameters in the shape of the population; those of one element are scalars until it is known."""
    parameters: dict[str, np.ndarray] = {}
    for key, default in PER_NEURON[kind].items():
        if raw.get(key) is None and default is not None:
            parameters[key] = np.zeros((), np.float32) + np.float32(default)
        else:
            value = _numbers(raw, key, where, endless=key == "v_threshold")
            parameters[key] = value.reshape(()) if value.size == 1 else value
    shapes = {value.shape for value in parameters.values() if value.ndim}
    if len(shapes) > 1:
        found = ", ".join(f"{key} {value.shape}" for key, value in parameters.items())
        raise HardwareError(f"{where}: parameters of different shapes ({found}), expected the population's")
    for shape in shapes:
        check_shape(shape, where, "parameters")
        parameters = {key: spread(value, shape) for key, value in parameters.items()}
    for key, value in parameters.items():
        if key.startswith("tau") and not (value > 0).all():
            raise HardwareError(f"{where}: {key} is {float(value.min())} at its lowest, expected above 0")
        if key == "delay" and not (value >= 0).all():
            raise HardwareError(f"{where}: delay is {float(value.min())} at its lowest, expected 0 or more")
    return kind(**parameters)


def _build_conv(kind: type, where: str, raw: dict[str, Any]) -> nir.NIRNode:
    axes = 1 if kind is nir.Conv1d else 2
    weight = _numbers(raw, "weight", where)
    if weight.ndim != axes + 2:
        raise HardwareError(
            f"{where}: weight of shape {weight.shape}, expected {axes + 2} axes (out, in / groups, kernel)"
        )
    check_shape(weight.shape, where, "weight", MAX_WEIGHTS)
    groups = _integer(raw.get("groups", 1), where, "groups")
    if groups < 1 or weight.shape[0] % groups:
        raise HardwareError(
            f"{where}: groups is {groups}, expected a divisor of the {weight.shape[0]} outputs"
        )
    stride = _per_axis(raw.get("stride"), axes, where, "stride", 1)
    dilation = _per_axis(raw.get("dilation"), axes, where, "dilation", 1)
    padding = raw.get("padding")
    padding = padding.decode() if isinstance(padding, bytes) else padding
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise HardwareError(f"{where}: padding is {padding[:40]!r}, expected 'same', 'valid' or integers")
        if padding == "same" and any(s != 1 for s in stride):
            raise HardwareError(f"{where}: padding 'same' with stride {stride}, expected stride 1")
        total = [
            0 if padding == "valid" else d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)
        ]
        if all(t % 2 == 0 for t in total):
            padding = tuple(t // 2 for t in total)
    else:
        padding = _per_axis(padding, axes, where, "padding", 0)
    single = axes == 1
    node = kind(
        input_shape=None,
        weight=weight,
        stride=stride[0] if single else stride,
        padding=padding[0] if single and not isinstance(padding, str) else padding,
        dilation=dilation[0] if single else dilation,
        groups=groups,
        bias=_bias(raw, weight, where),
    )
    declared = raw.get("input_shape")
    if declared is not None:
        node.input_shape = _per_axis(declared, axes, where, "input_shape", 1)
    return node


def _numbers(raw: dict[str, Any], key: str, where: str, endless: bool = False) -> np.ndarray:
    """A finite float array; float32 and float64 stay what they are. endless: infinity is a value, too."""
    value = raw.get(key)
    if value is None:
        raise HardwareError(f"{where}: {key} is missing")
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    value = np.asarray(value)
    if value.dtype.kind not in "biuf":
        raise HardwareError(f"{where}: {key} holds {value.dtype}, expected numbers")
    if value.ndim > MAX_AXES:
        raise HardwareError(f"{where}: {key} has {value.ndim} axes, at most {MAX_AXES} are read")
    if value.dtype.newbyteorder("=") not in (np.float32, np.float64):
        value = value.astype(np.float32 if value.dtype == np.float16 else np.float64)
    value = np.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(value.shape)
    # The sum is not finite where an entry is not; the reverse (overflow) is looked at entry by entry.
    with np.errstate(over="ignore", invalid="ignore"):
        total = value.sum(dtype=np.float64)
    known = np.isfinite(value) if not np.isfinite(total) else np.ones((), bool)
    if endless:
        known = known | np.isposinf(value)
    if not known.all():
        bad, others = int(value.size - known.sum()), " or inf (never spikes)" if endless else ""
        raise HardwareError(
            f"{where}: {key} has {bad:,} entries that are NaN or infinite, expected finite numbers{others}"
        )
    return value


def _bias(raw: dict[str, Any], weight: np.ndarray, where: str) -> np.ndarray:
    if raw.get("bias") is None:
        return np.zeros(weight.shape[0], weight.dtype)
    bias = _numbers(raw, "bias", where)
    if bias.shape != weight.shape[:1]:
        raise HardwareError(f"{where}: bias of shape {bias.shape}, expected {weight.shape[:1]}")
    return bias


def _integer(value: Any, where: str, key: str) -> int:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf" or not float(array.item()).is_integer():
        raise HardwareError(f"{where}: {key} is {str(value)[:40]!r}, expected an integer")
    return int(array.item())


def _per_axis(value: Any, axes: int, where: str, key: str, lowest: int) -> tuple[int, ...]:
    if value is None:
        raise HardwareError(f"{where}: {key} is missing")
    array = np.asarray(value)
    if array.ndim > 1 or array.size not in (1, axes):
        raise HardwareError(f"{where}: {key} is {str(value)[:40]!r}, expected {axes} integers")
    numbers = tuple(_integer(v, where, key) for v in array.ravel().tolist())
    if any(not lowest <= v <= MAX_NEURONS for v in numbers):
        raise HardwareError(f"{where}: {key} is {numbers}, expected {lowest} or more")
    return numbers * axes if len(numbers) == 1 else numbers


def _pair(raw: dict[str, Any], key: str, where: str, lowest: int) -> tuple[int, ...]:
    return _per_axis(raw.get(key), 2, where, key, lowest)


def _read_shape(value: Any, where: str, optional: bool = False) -> Shape | None:
    for _ in range(3):  # NIR keeps {"input": shape}; some writers nest it
        if isinstance(value, dict) and len(value) == 1:
            value = next(iter(value.values()))
    if value is None and optional:
        return None
    array = np.asarray(value) if value is not None else np.zeros(0)
    if array.dtype.kind not in "iuf" or array.ndim > 1 or not 1 <= array.size <= MAX_AXES:
        raise HardwareError(f"{where}: its shape is {str(value)[:60]!r}, expected one integer per axis")
    shape = tuple(_integer(v, where, "shape") for v in array.ravel().tolist())
    check_shape(shape, where, "a population")
    return shape
