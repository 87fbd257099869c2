"""A network's neurons and projections in the arrays that the simulator's kernels read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.network.connectivity import by_post, out_degrees
from hardware.network.integer import (
    ConvProjection,
    InputPopulation,
    Network,
    Population,
    Projection,
    SparseProjection,
)
from hardware.simulate import kernels
from hardware.simulate.rowwise import NOT_ROWWISE, Rowwise, rowwise
from hardware.simulate.tables import conv_tables, inside

Array = np.ndarray
# Below these shares of non-zero weights a matrix (one that caches hold, one they do not) is run as a list of its
# synapses: vector instructions add many more weights a second, zeros among them.
SPARSE_BELOW, SPARSE_BELOW_LARGE = 0.12, 0.4
LARGE = 1 << 24
# A larger list of synapses is not packed, so that it is not in memory twice.
MOST_PACKED = 1 << 25


@dataclass(frozen=True)
class Numbering:
    """How kernels count neurons: inputs first, then populations; within one that a convolution reads or makes, row by row and
    channel by channel, in others as C order has it.

    first: of each population its first neuron, then the number of neurons. inside: names of populations that are counted in another
    order than C's. outside: of every neuron its number in C order within its population. placed: of those in `inside`, where each neuron
    in C order is.
    """

    entries: list[InputPopulation | Population]
    rank: dict[str, int]
    sizes: list[int]
    first: Array
    inside: set[str]
    outside: Array
    placed: dict[str, Array]

    def order(self, rank: int) -> Array:
        """`outside` of one population."""
        return self.outside[self.first[rank] : self.first[rank + 1]]


def number(network: Network) -> Numbering:
    entries: list[InputPopulation | Population] = [*network.inputs, *network.populations]
    sizes = [math.prod(entry.shape) for entry in entries]
    # The neurons at either end of a convolution, which then finds what a window sees in a row, and what it leads to.
    ends = [(p.source, p.target) for p in network.projections if isinstance(p, ConvProjection)]
    reordered = {name for pair in ends for name in pair}
    order = [inside(entry.shape, entry.name in reordered) for entry in entries]
    return Numbering(
        entries,
        {entry.name: i for i, entry in enumerate(entries)},
        sizes,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        reordered,
        np.concatenate(order).astype(np.int32),
        {
            entry.name: np.argsort(o).astype(np.int32)
            for entry, o in zip(entries, order, strict=True)
            if entry.name in reordered
        },
    )


@dataclass(frozen=True)
class Link:
    """A projection, or the synapses of it that share a delay, in the arrays that the kernels read."""

    source: int
    target: int
    form: int
    delay: int
    projection: Projection
    weight: Array
    degree: Array
    post: Array
    ptr: Array
    geometry: Array
    rows: Rowwise  # of a convolution
    reach: int  # the largest |sum| that one spike of every source neuron can make, for a convolution


def links_of(projection: Projection, numbering: Numbering) -> list[Link]:
    """A projection as the kernels read it: a link, or one for each delay of a matrix."""
    source, target = numbering.rank[projection.source], numbering.rank[projection.target]
    placed = numbering.placed
    # What is kept of each source neuron lies in the order inside.
    order = numbering.order(source)
    none32, none64 = np.zeros(1, np.int32), np.zeros(1, np.int64)

    def link(form: int, delay: int, weight: Array, degree: Array, **more: Any) -> Link:
        given = {
            "post": none32,
            "ptr": none64,
            "geometry": none64,
            "rows": NOT_ROWWISE,
            "reach": 0,
            **more,
        }
        return Link(source, target, form, delay, projection, weight, degree[order], **given)  # type: ignore[arg-type]

    def sparse(delay: int, ptr: Array, post: Array, weight: Array) -> Link:
        if projection.target in placed:
            post = placed[projection.target][post]
        if weight.dtype not in (np.int8, np.int16):
            weight = weight.astype(np.int16)
        form = kernels.SPARSE8 if weight.dtype == np.int8 else kernels.SPARSE16
        ptr = np.ascontiguousarray(ptr, np.int64)
        degree = np.diff(ptr).astype(np.int32)
        if projection.source in numbering.inside:
            begin = ptr[:-1][order]
            ptr = np.concatenate([[0], np.cumsum(degree[order], dtype=np.int64)])
            moved = np.repeat(begin - ptr[:-1], degree[order]) + np.arange(len(post))
            post, weight = post[moved], weight[moved]
        if post.size <= MOST_PACKED and numbering.sizes[target] <= kernels.MAX_PACKED_POST:
            packed = (post.astype(np.uint32) << 16) | (weight.astype(np.int16).view(np.uint16))
            return link(kernels.PACKED, delay, packed.view(np.int32), degree, ptr=ptr)
        post, weight = np.ascontiguousarray(post, np.int32), np.ascontiguousarray(weight)
        return link(form, delay, weight, degree, ptr=ptr, post=post)

    if isinstance(projection, SparseProjection):
        return [sparse(projection.delay, projection.indptr, projection.post, projection.weight)]
    if isinstance(projection, ConvProjection):
        shapes = numbering.entries[source].shape, numbering.entries[target].shape
        reach = np.abs(projection.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0)
        tables = conv_tables(projection, *shapes, np.int16)
        if projection.dead_pre is not None or projection.dead_post is not None:
            tables["degree"] = out_degrees(by_post(projection, *shapes)).astype(np.int32)
        rows = rowwise(projection, *shapes) if tables["form"] == kernels.CONV else NOT_ROWWISE
        return [link(delay=projection.delay, reach=int(reach), rows=rows, **tables)]
    links = []
    for delay in np.unique(projection.delay):
        weight = projection.weight.T
        if np.ndim(projection.delay):
            delays = np.asarray(projection.delay).T
            chosen = delays == delay
            weight = np.where(chosen, weight, 0)
        synapses = np.count_nonzero(weight, axis=1)
        if synapses.sum() < (SPARSE_BELOW_LARGE if weight.size > LARGE else SPARSE_BELOW) * weight.size:
            pre, post = np.nonzero(weight)
            ptr = np.concatenate([[0], np.cumsum(synapses)])
            links.append(sparse(int(delay), ptr, post, weight[pre, post].astype(np.int16)))
            continue
        if projection.target in placed:
            weight = weight[:, np.argsort(placed[projection.target])]
        weight = np.ascontiguousarray(weight[order], np.int16)
        links.append(link(kernels.DENSE, int(delay), weight, synapses.astype(np.int32)))
    return links
