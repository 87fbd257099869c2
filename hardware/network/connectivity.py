"""Every connection between two neurons of a network, unrolled: what a chip calls its synapses.

`unroll` writes a projection out as a sparse matrix by pre neuron; `Incoming` is the same by post neuron, in the
form that placement runs over, where a convolution stays the list of its non-zero taps (unrolled, a large one
does not fit in memory). Neurons are numbered in C order of their population's shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hardware.ahead import Loops
from hardware.errors import HardwareError
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    Network,
    Projection,
    SparseProjection,
    conv_output_shape,
)

if TYPE_CHECKING:
    from scipy import sparse

Shape = tuple[int, ...]

LOOPS = Loops("hardware.network.turning_loops")
_TURN = LOOPS("turned", "", "*q", "*i", "*?", "*q", "*q", "*q", "*i")


@dataclass(frozen=True)
class Incoming:
    """A projection by post neuron.

    Dense and sparse (`taps` is None): post neuron i's synapses are indptr[i]:indptr[i + 1] of `pre` (int32).
    Convolution: output channel o's non-zero taps are indptr[o]:indptr[o + 1] of `taps`, rows of
    (input channel, kernel row, kernel column, weight), and `geometry` is (input height, width, output height, width,
    stride y, x, padding y, x, dilation y, x).
    n_pre, n_post: neurons of both sides. synapses: non-zero connections.
    dead_pre, dead_post: of a convolution the neurons that have no synapse although taps lead there, None: none; of others the lists
    say it.
    """

    projection: Projection
    n_pre: int
    n_post: int
    indptr: np.ndarray
    pre: np.ndarray
    taps: np.ndarray | None
    geometry: np.ndarray
    synapses: int
    dead_pre: np.ndarray | None = None
    dead_post: np.ndarray | None = None

    @property
    def masked(self) -> bool:
        """Whether taps alone do not say which synapses there are."""
        return self.dead_pre is not None or self.dead_post is not None

    def dead(self) -> tuple[np.ndarray, np.ndarray]:
        """`dead_pre` and `dead_post`, all false where there are none."""
        pre = np.zeros(self.n_pre, np.bool_) if self.dead_pre is None else self.dead_pre
        post = np.zeros(self.n_post, np.bool_) if self.dead_post is None else self.dead_post
        return pre, post


def shapes(network: Network) -> dict[str, Shape]:
    """Shape of every population, inputs included."""
    found = {p.name: tuple(p.shape) for p in network.inputs}
    return found | {p.name: tuple(p.shape) for p in network.populations}


def unroll(projection: Projection, source_shape: Shape, target_shape: Shape) -> sparse.csr_array:
    """All non-zero connections: a (pre, post) CSR array of int32 weights, exact.

    Raises HardwareError where weights and shapes do not fit together.
    """
    # Not before it is needed: it takes as long to import as a small network to compile.
    from scipy import sparse

    from hardware.network.unrolling import unroll_conv

    incoming = by_post(projection, source_shape, target_shape)
    if isinstance(projection, SparseProjection):
        matrix = sparse.csr_array(
            (projection.weight.astype(np.int32), projection.post, projection.indptr),
            shape=(incoming.n_pre, incoming.n_post),
        )
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix
    if isinstance(projection, DenseProjection):
        return sparse.csr_array(projection.weight.T.astype(np.int32))
    assert incoming.taps is not None
    n_in = in_degrees(incoming)
    starts = np.zeros(incoming.n_post + 1, dtype=np.int64)
    np.cumsum(n_in, out=starts[1:])
    pre, weight = unroll_conv(incoming.indptr, incoming.taps, incoming.geometry, *incoming.dead(), starts)
    return sparse.csc_array((weight, pre, starts), shape=(incoming.n_pre, incoming.n_post)).tocsr()


def unrolled(projection: ConvProjection, source_shape: Shape, target_shape: Shape) -> SparseProjection:
    """A convolution synapse by synapse, those of dead neurons left out."""
    matrix = unroll(projection, source_shape, target_shape)
    matrix.sort_indices()
    return SparseProjection(
        projection.source,
        projection.target,
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.int16),
        projection.weight_exp,
        projection.sign_mode,
        projection.weight_bits,
        projection.delay,
    )


def by_post(projection: Projection, source_shape: Shape, target_shape: Shape) -> Incoming:
    """The projection by post neuron; see `Incoming`. Raises HardwareError where shapes do not fit together."""
    n_pre, n_post = math.prod(source_shape), math.prod(target_shape)
    label = f"projection {projection.source!r} -> {projection.target!r}"
    none = np.zeros(0, dtype=np.int64)
    if isinstance(projection, DenseProjection):
        if projection.weight.shape != (n_post, n_pre):
            raise HardwareError(f"{label}: weight is {projection.weight.shape}; expected {(n_post, n_pre)}")
        indptr = np.zeros(n_post + 1, dtype=np.int64)
        np.cumsum(np.count_nonzero(projection.weight, axis=1), out=indptr[1:])
        pre = np.empty(int(indptr[-1]), dtype=np.int32)
        for row, weights in enumerate(projection.weight):
            pre[indptr[row] : indptr[row + 1]] = np.flatnonzero(weights)
        return Incoming(projection, n_pre, n_post, indptr, pre, None, none, len(pre))
    if isinstance(projection, SparseProjection):
        indptr, post = np.asarray(projection.indptr), np.asarray(projection.post)
        if len(indptr) != n_pre + 1 or (len(post) and not 0 <= int(post.min()) <= int(post.max()) < n_post):
            raise HardwareError(
                f"{label}: {len(indptr) - 1} pre neurons and targets up to {post.max(initial=-1)}; "
                f"expected {n_pre} pre and {n_post} post neurons"
            )
        starts, pre = _turned(
            np.ascontiguousarray(indptr, np.int64),
            np.ascontiguousarray(post, np.int32),
            np.not_equal(projection.weight, 0),
            n_post,
        )
        return Incoming(projection, n_pre, n_post, starts, pre, None, none, len(pre))
    taps, indptr, geometry = _taps(projection, source_shape, target_shape, label)
    dead = projection.dead_pre, projection.dead_post
    conv = Incoming(projection, n_pre, n_post, indptr, np.zeros(0, dtype=np.int32), taps, geometry, 0, *dead)
    return replace(conv, synapses=int(_conv_degrees(conv)[0].sum()))


def _turned(
    indptr: np.ndarray, post: np.ndarray, there: np.ndarray, n_post: int
) -> tuple[np.ndarray, np.ndarray]:
    """CSR by post neuron: indptr and pre neurons, of synapses that are `there`, no pair twice."""
    starts, pre = np.zeros(n_post + 1, dtype=np.int64), np.empty(len(post), dtype=np.int32)
    last, cursor = np.empty(n_post, dtype=np.int64), np.empty(n_post, dtype=np.int64)
    _TURN(indptr, post, there, last, starts, cursor, pre)
    number = int(starts[-1])
    return starts, pre if number == len(pre) else pre[:number].copy()


def rises(projection: SparseProjection) -> bool:
    """Whether each pre neuron's targets rise, so that there is no pair twice."""
    post, indptr = np.asarray(projection.post), np.asarray(projection.indptr)
    above = post[1:] > post[:-1]
    above[indptr[(indptr > 0) & (indptr < len(post))] - 1] = True  # where the next pre neuron's begin
    return bool(above.all())


def synapses_of(projection: Projection, source_shape: Shape, target_shape: Shape) -> int:
    """Non-zero connections, as `Incoming.synapses`."""
    if isinstance(projection, SparseProjection) and rises(projection):
        return int(np.count_nonzero(projection.weight))
    return by_post(projection, source_shape, target_shape).synapses


def in_degrees(incoming: Incoming) -> np.ndarray:
    """Synapses arriving at each post neuron, int64 (n_post,)."""
    if incoming.taps is None:
        return np.diff(incoming.indptr)
    return _conv_degrees(incoming)[0]


def out_degrees(incoming: Incoming) -> np.ndarray:
    """Synapses leaving each pre neuron, int64 (n_pre,)."""
    if incoming.taps is None:
        return np.bincount(incoming.pre, minlength=incoming.n_pre).astype(np.int64)
    return _conv_degrees(incoming)[1]


def _taps(
    projection: ConvProjection, source_shape: Shape, target_shape: Shape, label: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weight = projection.weight
    if weight.ndim != 4 or len(source_shape) != 3 or len(target_shape) != 3:
        raise HardwareError(
            f"{label}: kernel {weight.shape} from {source_shape} to {target_shape}; "
            "expected a 4-dimensional kernel between (channel, height, width) shapes"
        )
    channels_out, per_group = weight.shape[:2]
    (c_in, h_in, w_in), (_, h_out, w_out) = source_shape, target_shape
    (s_y, s_x), (p_y, p_x), (d_y, d_x) = projection.stride, projection.padding, projection.dilation
    expected = conv_output_shape(projection, source_shape)
    if (
        per_group * projection.groups != c_in
        or channels_out % projection.groups
        or expected != tuple(target_shape)
    ):
        raise HardwareError(
            f"{label}: kernel {weight.shape} in {projection.groups} groups maps {source_shape} to {expected}; "
            f"expected {target_shape}"
        )
    out, inner, row, column = np.nonzero(weight)
    group_out = channels_out // projection.groups
    channel = inner + (out // group_out) * per_group
    taps = np.stack([channel, row, column, weight[out, inner, row, column]], axis=1).astype(np.int64)
    indptr = np.zeros(channels_out + 1, dtype=np.int64)
    np.cumsum(np.bincount(out, minlength=channels_out), out=indptr[1:])
    geometry = np.array([h_in, w_in, h_out, w_out, s_y, s_x, p_y, p_x, d_y, d_x], dtype=np.int64)
    return taps, indptr, geometry


def _reached(geometry: np.ndarray, kernel: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Per axis an int64 (output, kernel, input) array: 1 where that output position hears that input through that tap."""
    h_in, w_in, h_out, w_out, s_y, s_x, p_y, p_x, d_y, d_x = (int(n) for n in geometry)
    found = []
    for n_in, n_out, stride, padding, dilation, taps in (
        (h_in, h_out, s_y, p_y, d_y, kernel[0]),
        (w_in, w_out, s_x, p_x, d_x, kernel[1]),
    ):
        heard = np.arange(n_out)[:, None] * stride - padding + np.arange(taps) * dilation
        found.append((heard[:, :, None] == np.arange(n_in)).astype(np.int64))
    return found[0], found[1]


def _conv_degrees(incoming: Incoming) -> tuple[np.ndarray, np.ndarray]:
    """(synapses per post neuron, synapses per pre neuron) of a convolution."""
    taps = incoming.taps
    assert taps is not None
    if incoming.masked:
        from hardware.network.unrolling import masked_degrees

        return masked_degrees(incoming.indptr, taps, incoming.geometry, *incoming.dead())
    out = np.repeat(np.arange(len(incoming.indptr) - 1), np.diff(incoming.indptr))
    kernel = (int(taps[:, 1].max(initial=0)) + 1, int(taps[:, 2].max(initial=0)) + 1)
    rows, columns = _reached(incoming.geometry, kernel)
    area = int(incoming.geometry[0] * incoming.geometry[1])
    channels = incoming.n_pre // area

    def counts(first: np.ndarray, size: int) -> np.ndarray:
        code = (first * kernel[0] + taps[:, 1]) * kernel[1] + taps[:, 2]
        return np.bincount(code, minlength=size * kernel[0] * kernel[1]).reshape(size, *kernel)

    per_out, per_in = counts(out, len(incoming.indptr) - 1), counts(taps[:, 0], channels)
    heard = np.einsum("oij,yi,xj->oyx", per_out, rows.sum(2), columns.sum(2), optimize=True)
    told = np.einsum("cij,ih,jw->chw", per_in, rows.sum(0), columns.sum(0), optimize=True)
    return heard.ravel(), told.ravel()
