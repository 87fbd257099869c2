"""Linear maps between populations: what lies between two of them in a NIR graph, folded into one.

A map is a convolution, a diagonal or a matrix over neurons numbered in C order; pooling is a convolution,
flattening is nothing. Folding is exact: in floats, the folded map is the product of its parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

from hardware.errors import HardwareError
from hardware.graph.graph import padding_of
from hardware.network.geometry import conv, positions
from hardware.network.integer import MAX_SYNAPSES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """weight: (out, in / groups, kH, kW) float; padding: zeros before each axis; shapes (channels, H, W).

    The zeros after each axis follow from the target's shape.
    """

    weight: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    source: Shape
    target: Shape


@dataclass(frozen=True)
class Diagonal:
    """factor: one per neuron, flat."""

    factor: np.ndarray


@dataclass(frozen=True)
class Matrix:
    """matrix: (post, pre), an array or a CSR array."""

    matrix: Any


Map = Convolution | Diagonal | Matrix


def of_node(node: nir.NIRNode, source: Shape, target: Shape) -> Map | None:
    """The map of a stateless node without its bias; None for a node that changes nothing (Flatten)."""
    if isinstance(node, nir.Affine | nir.Linear):
        return Matrix(np.asarray(node.weight, np.float64))
    if isinstance(node, nir.Scale):
        return Diagonal(np.asarray(node.scale, np.float64).reshape(-1))
    if isinstance(node, nir.Flatten):
        return None
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        kernel, stride, padding = (
            (int(a[0]), int(a[1])) for a in (node.kernel_size, node.stride, node.padding)
        )
        share = 1.0 if isinstance(node, nir.SumPool2d) else 1.0 / math.prod(kernel)
        weight = np.full((source[0], 1, *kernel), share)
        return Convolution(weight, stride, padding, (1, 1), source[0], source, target)
    weight = np.asarray(node.weight, np.float64)
    before = [low for low, _ in padding_of(node)]
    if isinstance(node, nir.Conv1d):
        found = Convolution(
            weight[:, :, None],
            (1, node.stride),
            (0, before[0]),
            (1, node.dilation),
            node.groups,
            (source[0], 1, source[1]),
            (target[0], 1, target[1]),
        )
        return Matrix(to_matrix(found))
    return Convolution(
        weight,
        (int(node.stride[0]), int(node.stride[1])),
        (int(before[0]), int(before[1])),
        (int(node.dilation[0]), int(node.dilation[1])),
        node.groups,
        source,
        target,
    )


def compose(after: Map | None, before: Map | None) -> Map | None:
    """The map that applies `before`, then `after`; None is the identity."""
    if after is None or before is None:
        return before if after is None else after
    if isinstance(after, Diagonal) and isinstance(before, Diagonal):
        return Diagonal(after.factor * before.factor)
    if isinstance(after, Diagonal):
        return scaled_rows(before, after.factor)
    if isinstance(before, Diagonal):
        return _scaled_columns(after, before.factor)
    if isinstance(after, Convolution) and isinstance(before, Convolution):
        folded = _fold(after, before)
        if folded is not None:
            return folded
    product = to_matrix(after) @ to_matrix(before)
    return Matrix(product.tocsr() if is_sparse(product) else np.asarray(product))


def apply(map_: Map | None, vector: np.ndarray) -> np.ndarray:
    """The map of one flat vector."""
    if map_ is None:
        return vector
    if isinstance(map_, Diagonal):
        return map_.factor * vector
    if isinstance(map_, Matrix):
        return np.asarray(map_.matrix @ vector).reshape(-1)
    after = _padding_after(map_)
    padding = tuple(zip(map_.padding, after, strict=True))
    x = vector.reshape(1, *map_.source)
    # Where the padding after is negative, the last inputs are not read.
    x = x[:, :, : x.shape[2] + min(after[0], 0), : x.shape[3] + min(after[1], 0)]
    padding = tuple((low, max(high, 0)) for low, high in padding)
    none = np.zeros(len(map_.weight))
    return conv(x, map_.weight, none, map_.stride, padding, map_.dilation, map_.groups).reshape(-1)


def scaled_rows(map_: Map, factor: np.ndarray) -> Map:
    """The map followed by a factor for each post neuron; a convolution only where channels share theirs."""
    if isinstance(map_, Diagonal):
        return Diagonal(map_.factor * factor)
    if isinstance(map_, Convolution):
        per_channel = _per_channel(factor, map_.target)
        if per_channel is not None:
            return replace(map_, weight=map_.weight * per_channel[:, None, None, None])
    matrix = to_matrix(map_)
    if is_sparse(matrix):
        return Matrix(_diagonal(factor) @ matrix)
    return Matrix(matrix * factor[:, None])


def _scaled_columns(map_: Convolution | Matrix, factor: np.ndarray) -> Map:
    if isinstance(map_, Convolution):
        per_channel = _per_channel(factor, map_.source)
        if per_channel is not None:
            within = map_.weight.shape[1]
            group = np.arange(map_.weight.shape[0]) // (map_.weight.shape[0] // map_.groups)
            channel = group[:, None] * within + np.arange(within)
            return replace(map_, weight=map_.weight * per_channel[channel][:, :, None, None])
    matrix = to_matrix(map_)
    if is_sparse(matrix):
        return Matrix(matrix @ _diagonal(factor))
    return Matrix(matrix * factor)


def _per_channel(factor: np.ndarray, shape: Shape) -> np.ndarray | None:
    rows = factor.reshape(shape[0], -1)
    return rows[:, 0] if (rows == rows[:, :1]).all() else None


def to_matrix(map_: Map) -> Any:
    """The map as (post, pre): a CSR array without explicit zeros, or the array that it already is.

    Raises HardwareError where that has more than 2**28 entries.
    """
    if isinstance(map_, Matrix):
        return map_.matrix
    if isinstance(map_, Diagonal):
        matrix = _diagonal(map_.factor)
        matrix.eliminate_zeros()
        return matrix
    out, within, rows, columns = map_.weight.shape
    _, height, width = map_.source
    _, height_out, width_out = map_.target
    if np.count_nonzero(map_.weight) * height_out * width_out > MAX_SYNAPSES:
        raise HardwareError(
            f"a convolution from {map_.source} to {map_.target} would have to be unrolled to more than "
            f"{MAX_SYNAPSES:,} synapses"
        )
    pre_parts, post_parts, weight_parts = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
    for ky in range(rows):
        oy = np.arange(height_out)
        iy = oy * map_.stride[0] + ky * map_.dilation[0] - map_.padding[0]
        oy, iy = oy[(iy >= 0) & (iy < height)], iy[(iy >= 0) & (iy < height)]
        for kx in range(columns):
            ox = np.arange(width_out)
            ix = ox * map_.stride[1] + kx * map_.dilation[1] - map_.padding[1]
            ox, ix = ox[(ix >= 0) & (ix < width)], ix[(ix >= 0) & (ix < width)]
            o, c = np.nonzero(map_.weight[:, :, ky, kx])
            channel = c + (o // (out // map_.groups)) * within
            to = (oy[:, None] * width_out + ox).ravel()
            at = (iy[:, None] * width + ix).ravel()
            post_parts.append((o[:, None] * (height_out * width_out) + to).ravel())
            pre_parts.append((channel[:, None] * (height * width) + at).ravel())
            weight_parts.append(np.repeat(map_.weight[o, c, ky, kx], len(to)))
    parts = (np.concatenate(weight_parts), (np.concatenate(post_parts), np.concatenate(pre_parts)))
    from scipy import sparse

    return sparse.csr_array(sparse.coo_array(parts, (math.prod(map_.target), math.prod(map_.source))))


def is_sparse(matrix: Any) -> bool:
    """Of a `Matrix`: whether it is a CSR array. SciPy's own question would import what most networks never need."""
    return not isinstance(matrix, np.ndarray)


def _diagonal(factor: np.ndarray) -> Any:
    from scipy import sparse

    return sparse.csr_array(sparse.diags_array(factor))


def _padding_after(map_: Convolution) -> tuple[int, int]:
    """Zeros behind each axis (negative: inputs that no window reaches) at which the shapes come out."""
    found = []
    for axis in (0, 1):
        reach = (map_.weight.shape[2 + axis] - 1) * map_.dilation[axis] + 1
        last = (map_.target[1 + axis] - 1) * map_.stride[axis] + reach
        found.append(last - map_.source[1 + axis] - map_.padding[axis])
    return found[0], found[1]


def _fold(after: Convolution, before: Convolution) -> Convolution | None:
    """Two convolutions as one, or None where no convolution is exactly that.

    Output o reads the middle at i = o s2 - p2 + k2 d2, and that the input at i s1 - p1 + k1 d1, so the one
    kernel is k2 d2 s1 + k1 d1 long and strides by s1 s2. Zeros that pad the middle must come out as zeros: a
    window there may not reach into the input.
    """
    stride, padding, dilation, sizes = [], [], [], []
    for axis in (0, 1):
        s1, p1, d1, k1 = (
            before.stride[axis],
            before.padding[axis],
            before.dilation[axis],
            before.weight.shape[2 + axis],
        )
        s2, p2, d2, k2 = (
            after.stride[axis],
            after.padding[axis],
            after.dilation[axis],
            after.weight.shape[2 + axis],
        )
        middle, outer = before.target[1 + axis], after.target[1 + axis]
        if p2 > 0 and (k1 - 1) * d1 - p1 - s1 >= 0:
            return None
        furthest = (outer - 1) * s2 - p2 + (k2 - 1) * d2
        if furthest >= middle and middle * s1 - p1 < before.source[1 + axis]:
            return None
        step = math.gcd(d2 * s1 if k2 > 1 else 0, d1 if k1 > 1 else 0) or 1
        dilation.append(step)
        stride.append(s1 * s2)
        padding.append(p2 * s1 + p1)
        sizes.append(((k2 - 1) * d2 * s1 + (k1 - 1) * d1) // step + 1)
    depthwise = before.groups == before.source[0] == before.target[0]
    first, second, groups = before.weight, after.weight, after.groups
    if not depthwise:
        first, second, groups = _ungrouped(before), _ungrouped(after), 1
    out, within = second.shape[0], (second if depthwise else first).shape[1]
    weight = np.zeros((out, within, *sizes))
    channel = np.arange(out)[:, None] // (out // groups) * within + np.arange(within)
    for ky2 in range(second.shape[2]):
        for kx2 in range(second.shape[3]):
            for ky1 in range(first.shape[2]):
                for kx1 in range(first.shape[3]):
                    y = (ky2 * after.dilation[0] * before.stride[0] + ky1 * before.dilation[0]) // dilation[0]
                    x = (kx2 * after.dilation[1] * before.stride[1] + kx1 * before.dilation[1]) // dilation[1]
                    left, right = second[:, :, ky2, kx2], first[:, :, ky1, kx1]
                    weight[:, :, y, x] += left * right[channel, 0] if depthwise else left @ right
    return Convolution(
        weight,
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
        groups,
        before.source,
        after.target,
    )


def _ungrouped(map_: Convolution) -> np.ndarray:
    """The kernel with all input channels, zeros between groups."""
    out, within, *kernel = map_.weight.shape
    full = np.zeros((out, map_.source[0], *kernel))
    for o in range(out):
        first = o // (out // map_.groups) * within
        full[o, first : first + within] = map_.weight[o]
    return full


def symmetric(map_: Convolution) -> Convolution | None:
    """The same map where an equal padding on both sides gives the target's shape: zeros are put before or
    behind the kernel until it does. None where few do not do it."""
    weight, padding = map_.weight, list(map_.padding)
    for axis in (0, 1):
        n_in, n_out = map_.source[1 + axis], map_.target[1 + axis]
        stride, step, size = map_.stride[axis], map_.dilation[axis], weight.shape[2 + axis]
        fits = [
            (before, behind)
            for before in range(8)
            for behind in range(8)
            if positions(
                (n_in,),
                (size + before + behind,),
                (stride,),
                ((padding[axis] + before * step,) * 2,),
                (step,),
            )
            == (n_out,)
        ]
        if not fits:
            return None
        before, behind = min(fits, key=sum)
        width = [(0, 0)] * 4
        width[2 + axis] = (before, behind)
        weight = np.pad(weight, width)
        padding[axis] += before * step
    return replace(map_, weight=weight, padding=(padding[0], padding[1]))
