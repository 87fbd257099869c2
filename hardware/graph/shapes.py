"""The shape of every node of a graph, computed along its edges, without batch and time axes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from hardware.errors import HardwareError
from hardware.graph.cycles import (
    Edge,
    successors,
)
from hardware.graph.graph import MAX_AXES, MAX_VALUES, PER_NEURON, Shape, axes_of, padding_of
from hardware.network.geometry import positions, reaches
from hardware.network.integer import MAX_NEURONS


@dataclass(frozen=True)
class Shapes:
    """What `infer_shapes` found. nodes: with parameters at their population's shape. notes: see `Graph`."""

    nodes: dict[str, nir.NIRNode]
    input_shape: dict[str, Shape]
    output_shape: dict[str, Shape]
    notes: tuple[str, ...]


def check_shape(shape: Shape, where: str, what: str, most: int = MAX_NEURONS) -> None:
    if len(shape) > MAX_AXES or any(n < 1 for n in shape) or math.prod(shape) > most:
        raise HardwareError(
            f"{where}: {what} of shape {shape}, expected 1 or more along each axis, {most:,} in all"
        )


def spread(value: np.ndarray, shape: Shape) -> np.ndarray:
    # A view, so that a file of scalars cannot ask for more memory than it holds.
    return value if value.shape == shape else np.broadcast_to(value, shape)


# --- shapes along the edges --------------------------------------------------------------------------------


def infer_shapes(nodes: dict[str, nir.NIRNode], edges: list[Edge]) -> Shapes:
    """Input and output shape of every node; sets the nodes' types, and spreads parameters of one element.

    NIR's shapes have no batch axis. Leading axes of one in an Input are such where the network fits without them only.
    """
    declared = {
        name: tuple(int(n) for n in node.input_type["input"])
        for name, node in nodes.items()
        if isinstance(node, nir.Input)
    }
    first: HardwareError | None = None
    for dropped in range(
        max((len(s) - len(without_leading_ones(s)) for s in declared.values()), default=0) + 1
    ):
        read = {n: s[min(dropped, len(s) - len(without_leading_ones(s))) :] for n, s in declared.items()}
        try:
            found = _Inference(nodes, edges, read).shapes()
        except HardwareError as error:
            first = first or error
            continue
        notes = [
            f"node {n!r} (Input): declares shape {declared[n]}, read as {shape}: leading axes of one are of the batch"
            for n, shape in read.items()
            if shape != declared[n]
        ]
        return Shapes(found.nodes, found.input_shape, found.output_shape, (*notes, *found.notes))
    assert first is not None
    raise first


def without_leading_ones(shape: Shape) -> Shape:
    """The shape from its first axis above one on; at least its last axis."""
    first = next((i for i, n in enumerate(shape) if n > 1), len(shape) - 1)
    return shape[first:]


class _Inference:
    """One pass along the edges from inputs of given shapes."""

    def __init__(self, nodes: dict[str, nir.NIRNode], edges: list[Edge], inputs: dict[str, Shape]) -> None:
        self.nodes, self.edges = dict(nodes), edges
        self.after = successors(nodes, edges)
        self.input_shape: dict[str, Shape] = dict(inputs)
        self.output_shape: dict[str, Shape] = dict(inputs)
        self.notes: list[str] = []

    def shapes(self) -> Shapes:
        # Along the edges rather than in `order`: a recurrent matrix is known by its post-synaptic neurons only.
        self._along(list(self.input_shape))
        while lost := [name for name in self.nodes if name not in self.output_shape]:
            self._along([self._start(lost)])
        for source, target in self.edges:
            if self.output_shape[source] != self.input_shape[target]:
                raise HardwareError(
                    f"node {target!r} ({type(self.nodes[target]).__name__}): {source!r} sends shape "
                    f"{self.output_shape[source]}, expected {self.input_shape[target]}"
                )
        total = sum(map(math.prod, self.output_shape.values()))
        if total > MAX_VALUES:
            raise HardwareError(f"the graph's nodes have {total:,} values, at most {MAX_VALUES:,} are read")
        for name, node in self.nodes.items():
            node.input_type = {"input": np.array(self.input_shape[name])}
            node.output_type = {"output": np.array(self.output_shape[name])}
            if isinstance(node, nir.Conv1d):
                node.input_shape = self.input_shape[name][1]
            elif isinstance(node, nir.Conv2d):
                node.input_shape = self.input_shape[name][1:]
        return Shapes(self.nodes, self.input_shape, self.output_shape, tuple(self.notes))

    def _along(self, start: list[str]) -> None:
        queue = deque((source, target) for source in start for target in self.after[source])
        while queue:
            source, name = queue.popleft()
            if name in self.output_shape:
                continue
            self._add(name, source)
            queue.extend((name, target) for target in self.after[name])

    def _add(self, name: str, source: str) -> None:
        node, arriving = self.nodes[name], self.output_shape[source]
        where = f"node {name!r} ({type(node).__name__})"
        try:
            if isinstance(node, nir.Flatten):
                result = self._flatten(name, node, arriving, where)
            else:
                result = _OUTPUT_SHAPE[type(node)](node, arriving, where)
            check_shape(result, where, "values")
        except HardwareError as error:
            raise HardwareError(f"{error} (from {source!r})") from None
        if type(node) in PER_NEURON:
            self._spread(name, arriving)
        if isinstance(node, nir.Output) and node.output_type["output"] is not None:
            own = tuple(int(n) for n in node.output_type["output"])
            if own != arriving:
                self.notes.append(
                    f"{where}: declares shape {own}, read as {arriving}: leading axes of one are of the batch"
                )
        self.input_shape[name], self.output_shape[name] = arriving, result

    def _spread(self, name: str, shape: Shape) -> None:
        node: Any = self.nodes[name]
        values = {k: getattr(node, k) for k in PER_NEURON[type(node)]}
        parameters = {
            k: spread(v if without_leading_ones(v.shape or (1,)) == (1,) else v.reshape(shape), shape)
            if v.ndim
            else spread(v, shape)
            for k, v in values.items()
        }
        self.nodes[name] = type(node)(**parameters, metadata=node.metadata)

    def _start(self, lost: list[str]) -> str:
        """A node of a loop that no Input leads to, whose shape its own parameters tell."""
        for name in lost:
            node = self.nodes[name]
            if isinstance(node, nir.Affine | nir.Linear):
                self.output_shape[name], self.input_shape[name] = node.weight.shape[:1], node.weight.shape[1:]
                return name
        for name in lost:
            node = self.nodes[name]
            shape = next((getattr(node, k).shape for k in PER_NEURON.get(type(node), ())), ())
            if shape:
                self.input_shape[name] = self.output_shape[name] = shape
                self._spread(name, shape)
                return name
        raise HardwareError(f"node {lost[0]!r}: no Input leads to it, and nothing tells its shape")

    def _flatten(self, name: str, node: nir.Flatten, arriving: Shape, where: str) -> Shape:
        """Of axes without the batch; of axes that count one where only that fits what follows."""
        declared = node.input_type["input"]
        own = None if declared is None else tuple(int(n) for n in declared)
        batched = own is not None and own != arriving and own[-len(arriving) :] == arriving and own[0] == 1
        if own is not None and own != arriving and not batched:
            raise _mismatch(where, arriving, f"its own input_type {own}")
        plain, shifted = _flattened(node, arriving, 0), _flattened(node, arriving, 1)
        wanted = self._wanted(name)
        if shifted is not None and (batched or plain is None or (plain != wanted and shifted == wanted)):
            if plain == shifted:
                return shifted
            self.notes.append(
                f"{where}: start_dim {node.start_dim} counts a batch axis, which NIR's shapes do not have: "
                f"read as {arriving} to {shifted}"
            )
            axes = len(arriving)
            start, end = _dimensions(node, axes, 1)
            self.nodes[name] = nir.Flatten({"input": None}, start, end)
            self.nodes[name].metadata = node.metadata
            return shifted
        if plain is None:
            raise HardwareError(
                f"{where}: flattens axes {node.start_dim} to {node.end_dim} of shape {arriving}; "
                "NIR counts axes without the batch"
            )
        return plain

    def _wanted(self, name: str) -> Shape | None:
        """The shape that the nodes behind take, where one of them says."""
        seen = {name}
        queue = deque(self.after[name])
        while queue:
            following = queue.popleft()
            node: Any = self.nodes[following]
            if following in seen:
                continue
            seen.add(following)
            if isinstance(node, nir.Affine | nir.Linear):
                return node.weight.shape[1:]
            if isinstance(node, nir.Output) and node.output_type["output"] is not None:
                return without_leading_ones(tuple(int(n) for n in node.output_type["output"]))
            if type(node) in PER_NEURON:
                shape = next((getattr(node, k).shape for k in PER_NEURON[type(node)]), ())
                if shape:
                    return shape
                queue.extend(self.after[following])
        return None


_BATCH = ": is its first axis a batch axis? NIR's shapes have none"


def _mismatch(where: str, found: Shape, expected: str) -> HardwareError:
    return HardwareError(f"{where}: receives shape {found}, expected {expected}")


def _shape_output(node: nir.Output, arriving: Shape, where: str) -> Shape:
    if node.output_type["output"] is not None:
        declared = tuple(int(n) for n in node.output_type["output"])
        if without_leading_ones(declared) != without_leading_ones(arriving):
            batch = declared[-len(arriving) :] == arriving
            raise _mismatch(where, arriving, f"its own {declared}{_BATCH if batch else ''}")
    return arriving


def _shape_per_neuron(node: nir.NIRNode, arriving: Shape, where: str) -> Shape:
    for key in PER_NEURON[type(node)]:
        shape = getattr(node, key).shape
        # Arrays of one element were made scalars when the node was read.
        if shape and without_leading_ones(shape) != without_leading_ones(arriving):
            raise _mismatch(where, arriving, f"that of its parameters, {shape}")
    return arriving


def _shape_matrix(node: nir.Affine | nir.Linear, arriving: Shape, where: str) -> Shape:
    post, pre = node.weight.shape
    if arriving != (pre,):
        hint = ""
        if len(arriving) > 1 and arriving[-1] == pre:
            hint = _BATCH
        elif math.prod(arriving) == pre:
            hint = ": put a Flatten with start_dim 0 before it"
        raise _mismatch(where, arriving, f"({pre},){hint}")
    return (post,)


def _shape_conv(node: nir.Conv1d | nir.Conv2d, arriving: Shape, where: str) -> Shape:
    axes = node.weight.ndim - 2
    channels = node.weight.shape[1] * node.groups
    if len(arriving) != axes + 1 or arriving[0] != channels:
        batch = _BATCH if len(arriving) == axes + 2 and arriving[1] == channels else ""
        raise _mismatch(where, arriving, f"({channels}, {', '.join(('height', 'width')[:axes])}){batch}")
    if node.input_shape is not None and tuple(node.input_shape) != arriving[1:]:
        raise _mismatch(where, arriving, f"its own input_shape {tuple(node.input_shape)}")
    dilation, stride = axes_of(node.dilation, axes), axes_of(node.stride, axes)
    return (
        node.weight.shape[0],
        *_window(arriving[1:], node.weight.shape[2:], stride, padding_of(node), dilation, where),
    )


def _shape_pool(node: nir.SumPool2d | nir.AvgPool2d, arriving: Shape, where: str) -> Shape:
    if len(arriving) != 3:
        raise _mismatch(where, arriving, "(channels, height, width)")
    padding = tuple((int(p), int(p)) for p in node.padding)
    kernel, stride = tuple(map(int, node.kernel_size)), tuple(map(int, node.stride))
    return (arriving[0], *_window(arriving[1:], kernel, stride, padding, (1, 1), where))


def _window(
    size: Shape,
    kernel: Shape,
    stride: Shape,
    padding: tuple[tuple[int, int], ...],
    dilation: Shape,
    where: str,
) -> tuple[int, ...]:
    """Number of positions of a window along each axis (the last incomplete one does not count)."""
    padded = [n + a + b for n, (a, b) in zip(size, padding, strict=True)]
    check_shape(tuple(padded), where, "a padded input")
    result = positions(size, kernel, stride, padding, dilation)
    if min(result) < 1:
        reach = reaches(kernel, dilation)
        raise HardwareError(f"{where}: its kernel reaches over {reach}, the padded input has {tuple(padded)}")
    return result


def _dimensions(node: nir.Flatten, axes: int, batch: int) -> tuple[int, int]:
    """First and last axis to flatten, of `axes` axes; batch: how many axes before them the node counts."""
    start = node.start_dim + axes if node.start_dim < 0 else node.start_dim - batch
    end = node.end_dim + axes if node.end_dim < 0 else node.end_dim - batch
    return start, end


def _flattened(node: nir.Flatten, arriving: Shape, batch: int) -> Shape | None:
    """The shape behind; None where the node has no such axes."""
    start, end = _dimensions(node, len(arriving), batch)
    # NIR's default start_dim is 1; on a vector there is nothing left to flatten then.
    if len(arriving) == 1 and start == 1 and end == 0:
        return arriving
    if not 0 <= start <= end < len(arriving):
        return None
    return (*arriving[:start], math.prod(arriving[start : end + 1]), *arriving[end + 1 :])


_OUTPUT_SHAPE: dict[type, Callable[[Any, Shape, str], Shape]] = {
    nir.Output: _shape_output,
    nir.Affine: _shape_matrix,
    nir.Linear: _shape_matrix,
    nir.Conv1d: _shape_conv,
    nir.Conv2d: _shape_conv,
    nir.SumPool2d: _shape_pool,
    nir.AvgPool2d: _shape_pool,
    **dict.fromkeys(PER_NEURON, _shape_per_neuron),
}
