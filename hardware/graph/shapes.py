"""The shape of every node of a graph, computed along its edges, without batch and time axes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from hardware.errors import HardwareError
from hardware.graph.cycles import (
    Edge,
    successors,
)
from hardware.graph.graph import MAX_AXES, PER_NEURON, Shape, axes_of, padding_of
from hardware.network.geometry import positions, reaches
from hardware.network.integer import MAX_NEURONS


def check_shape(shape: Shape, where: str, what: str) -> None:
    if len(shape) > MAX_AXES or any(n < 1 for n in shape) or math.prod(shape) > MAX_NEURONS:
        raise HardwareError(
            f"{where}: {what} of shape {shape}, expected 1 or more along each axis, {MAX_NEURONS:,} in all"
        )


def spread(value: np.ndarray, shape: Shape) -> np.ndarray:
    # A view, so that a file of scalars cannot ask for more memory than it holds.
    return value if value.shape == shape else np.broadcast_to(value, shape)


# --- shapes along the edges --------------------------------------------------------------------------------


def infer_shapes(
    nodes: dict[str, nir.NIRNode], edges: list[Edge]
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Input and output shape of every node; sets the nodes' types, and spreads scalar parameters."""
    after = successors(nodes, edges)
    input_shape: dict[str, Shape] = {}
    output_shape: dict[str, Shape] = {}
    for name, node in nodes.items():
        if isinstance(node, nir.Input):
            input_shape[name] = output_shape[name] = tuple(int(n) for n in node.input_type["input"])
    # Along the edges rather than in `order`: a recurrent matrix is known by its post-synaptic neurons only.
    queue = deque((source, target) for source in output_shape for target in after[source])
    while queue:
        source, name = queue.popleft()
        if name in output_shape:
            continue
        node = nodes[name]
        where = f"node {name!r} ({type(node).__name__})"
        arriving = output_shape[source]
        try:
            result = _OUTPUT_SHAPE[type(node)](node, arriving, where)
        except HardwareError as error:
            raise HardwareError(f"{error} (from {source!r})") from None
        if type(node) in PER_NEURON:
            parameters = {k: spread(getattr(node, k), arriving) for k in PER_NEURON[type(node)]}
            nodes[name] = type(node)(**parameters, metadata=node.metadata)
        input_shape[name], output_shape[name] = arriving, result
        queue.extend((name, target) for target in after[name])
    for source, target in edges:
        if output_shape[source] != input_shape[target]:
            raise HardwareError(
                f"node {target!r} ({type(nodes[target]).__name__}): {source!r} sends shape "
                f"{output_shape[source]}, expected {input_shape[target]}"
            )
    for name, node in nodes.items():
        node.input_type = {"input": np.array(input_shape[name])}
        node.output_type = {"output": np.array(output_shape[name])}
        if isinstance(node, nir.Conv1d):
            node.input_shape = input_shape[name][1]
        elif isinstance(node, nir.Conv2d):
            node.input_shape = input_shape[name][1:]
    return input_shape, output_shape


def _mismatch(where: str, found: Shape, expected: str) -> HardwareError:
    return HardwareError(f"{where}: receives shape {found}, expected {expected}")


def _shape_output(node: nir.Output, arriving: Shape, where: str) -> Shape:
    declared = node.output_type["output"]
    if declared is not None and tuple(int(n) for n in declared) != arriving:
        raise _mismatch(where, arriving, f"its own {tuple(int(n) for n in declared)}")
    return arriving


def _shape_per_neuron(node: nir.NIRNode, arriving: Shape, where: str) -> Shape:
    for key in PER_NEURON[type(node)]:
        shape = getattr(node, key).shape
        if shape not in ((), arriving):
            raise _mismatch(where, arriving, f"that of its parameters, {shape}")
    return arriving


def _shape_matrix(node: nir.Affine | nir.Linear, arriving: Shape, where: str) -> Shape:
    post, pre = node.weight.shape
    if arriving != (pre,):
        hint = ": put a Flatten with start_dim 0 before it" if math.prod(arriving) == pre else ""
        raise _mismatch(where, arriving, f"({pre},){hint}")
    return (post,)


def _shape_conv(node: nir.Conv1d | nir.Conv2d, arriving: Shape, where: str) -> Shape:
    axes = node.weight.ndim - 2
    channels = node.weight.shape[1] * node.groups
    if len(arriving) != axes + 1 or arriving[0] != channels:
        raise _mismatch(where, arriving, f"({channels}, {', '.join(('height', 'width')[:axes])})")
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


def _shape_flatten(node: nir.Flatten, arriving: Shape, where: str) -> Shape:
    declared = node.input_type["input"]
    if declared is not None and tuple(int(n) for n in declared) != arriving:
        raise _mismatch(where, arriving, f"its own input_type {tuple(int(n) for n in declared)}")
    axes = len(arriving)
    start = node.start_dim + axes if node.start_dim < 0 else node.start_dim
    end = node.end_dim + axes if node.end_dim < 0 else node.end_dim
    # NIR's default start_dim is 1; on a vector there is nothing left to flatten then.
    if axes == 1 and start == 1 and end == 0:
        return arriving
    if not 0 <= start <= end < axes:
        raise HardwareError(f"{where}: flattens axes {node.start_dim} to {node.end_dim} of shape {arriving}")
    return (*arriving[:start], math.prod(arriving[start : end + 1]), *arriving[end + 1 :])


_OUTPUT_SHAPE: dict[type, Callable[[Any, Shape, str], Shape]] = {
    nir.Output: _shape_output,
    nir.Affine: _shape_matrix,
    nir.Linear: _shape_matrix,
    nir.Conv1d: _shape_conv,
    nir.Conv2d: _shape_conv,
    nir.SumPool2d: _shape_pool,
    nir.AvgPool2d: _shape_pool,
    nir.Flatten: _shape_flatten,
    **dict.fromkeys(PER_NEURON, _shape_per_neuron),
}
