"""A convolution row by row of its target: what a row hears is added up in a room that the nearest cache holds, and then to its sums.

Each spike adds as many vectors of weights, all aligned, for each kernel row that it is seen through: weights are filled up with zeros to whole
vectors, and to as many taps for columns that fewer outputs see. In the room are sums of 16 bits, of as many kernel rows at once as cannot pass
them whatever spikes. It pays where many spike; a few cost more to clear the room for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import float64, int32, njit, types

from hardware.simulate.vectors import add_run, adding, cast_to, quotient

if TYPE_CHECKING:
    from hardware.network.integer import ConvProjection

# Of the geometry, all of one column's or row's. TAPS: outputs in a row that a column adds to. LANES: weights of one of them.
(
    R_HEIGHT,
    R_WIDTH,
    R_CHANNELS,
    R_OUT_HEIGHT,
    R_OUT_WIDTH,
    R_OUT,
    R_ROWS,
    R_STRIDE_Y,
    R_STRIDE_X,
    R_PAD_Y,
    R_PAD_X,
    R_DILATION,
    R_TAPS,
    R_LANES,
    R_PLACES,
    R_TOGETHER,  # kernel rows whose sums are within 16 bits
) = range(16)
# Weights of a vector, which is a cache line.
VECTOR = 32
LINE = 2 * VECTOR
# A spike saves as much time as clearing and adding so many sums takes.
SUMS_PER_SPIKE = 160

_int16_at, _int32_at, _int64_at = (cast_to(kind) for kind in (types.int16, types.int32, types.int64))
_add_128, _add_64, _add_32 = (adding(lanes, bits=16) for lanes in (128, 64, 32))


class Rowwise(NamedTuple):
    """What `add_rows` takes of a convolution. weights: int16 (kernel row, column within a stride, source channel, tap, lane). least:
    spikes in a step from which on it pays. room: 16-bit sums of a row."""

    geometry: np.ndarray
    weights: np.ndarray
    least: int
    room: int


# For what is not run so.
NOT_ROWWISE = Rowwise(np.zeros(1, np.int64), np.zeros(1, np.int16), int(np.iinfo(np.int64).max), 0)


def rowwise(projection: ConvProjection, source: tuple[int, ...], target: tuple[int, ...]) -> Rowwise:
    """Of one group of channels, and a kernel whose columns lie side by side and whose rows have sums within 16 bits; else `NOT_ROWWISE`."""
    out, channels, rows, columns = projection.weight.shape
    (stride_y, stride_x), (pad_y, pad_x) = projection.stride, projection.padding
    together = _together(projection.weight)
    if projection.groups != 1 or projection.dilation[1] != 1 or not together:
        return NOT_ROWWISE
    taps, lanes = -(-columns // stride_x), -(-out // VECTOR) * VECTOR
    weights = np.zeros((rows, stride_x, channels, taps, lanes), np.int16)
    for column in range(columns):
        # An input column further left in the kernel's stride is heard by an output further right.
        tap, phase = taps - 1 - column // stride_x, column % stride_x
        weights[:, phase, :, tap, :out] = projection.weight[..., column].transpose(2, 1, 0)
    # Outputs from `taps` - 1 before the first to the last one that any column would add to.
    places = taps - 1 + max(target[2], (source[2] - 1 + pad_x) // stride_x + 1)
    geometry = [
        source[1],
        source[2],
        channels,
        target[1],
        target[2],
        out,
        rows,
        stride_y,
        stride_x,
        pad_y,
        pad_x,
        projection.dilation[0],
        taps,
        lanes,
        places,
        together,
    ]
    least = int(math.prod(target[1:]) * lanes / SUMS_PER_SPIKE)
    return Rowwise(np.array(geometry, np.int64), weights, least, places * lanes + VECTOR)


def _together(weight: np.ndarray) -> int:
    """How many kernel rows, one after the other, have no sum beyond 16 bits, whatever spikes; 0 where not even one has."""
    each = np.max([np.maximum(w, 0).sum((1, 3), dtype=np.int64).max(0) for w in (weight, -weight)], axis=0)
    rows = len(each)
    fit = [n for n in range(1, rows + 1) if max(each[i : i + n].sum() for i in range(0, rows, n)) < 1 << 15]
    return max(fit, default=0)


@njit
def add_rows(geometry_at, weights_at, index_at, n, sum_at, weight_at, row_at, ends_at, room_at, sums_at):  # type: ignore[no-untyped-def]
    """Add what the n neurons of the list at `index_at` send, which spiked once each, to the target's sums.

    index: numbers inside, rising. Rooms: sum, weight and row of a 32-bit number per spike, ends of one per row of the source and one
    more, room of as many 16-bit ones as `Rowwise.room`.
    """
    g = _int64_at(geometry_at)
    index, row_of = _int32_at(index_at), _int32_at(row_at)
    to, weight, ends = _int32_at(sum_at), _int32_at(weight_at), _int32_at(ends_at)
    channels, width, stride, pad = g[R_CHANNELS], g[R_WIDTH], g[R_STRIDE_X], g[R_PAD_X]
    lanes, run, whole = g[R_LANES], g[R_TAPS] * g[R_LANES], g[R_PLACES] * g[R_LANES]
    by_channels, by_width, by_stride = 1.0 / float64(channels), 1.0 / float64(width), 1.0 / float64(stride)
    # All at once, in vectors: where the sums of each spike begin, and its weights of a kernel row, in bytes.
    for k in range(n):
        place = quotient(index[k], by_channels)
        row = quotient(place, by_width)
        x = place - row * int32(width) + int32(pad)
        first = quotient(x, by_stride)
        channel = index[k] - place * int32(channels)
        to[k] = first * int32(2 * lanes)
        weight[k] = ((x - first * int32(stride)) * int32(channels) + channel) * int32(2 * run)
        row_of[k] = row
    for y in range(g[R_HEIGHT] + 1):
        ends[y] = 0
    for k in range(n):
        ends[row_of[k] + 1] = int32(k + 1)
    for y in range(g[R_HEIGHT]):
        ends[y + 1] = max(ends[y], ends[y + 1])
    aligned = (room_at + LINE - 1) // LINE * LINE
    room = _int16_at(aligned)
    out, out_width, together = g[R_OUT], g[R_OUT_WIDTH], g[R_TOGETHER]
    for turn in range(g[R_OUT_HEIGHT] * (-(-g[R_ROWS] // together))):
        to_y, first_row = turn % g[R_OUT_HEIGHT], turn // g[R_OUT_HEIGHT] * together
        empty = True
        for kernel_row in range(first_row, min(first_row + together, g[R_ROWS])):
            y = to_y * g[R_STRIDE_Y] - g[R_PAD_Y] + kernel_row * g[R_DILATION]
            if y < 0 or y >= g[R_HEIGHT] or ends[y] == ends[y + 1]:
                continue
            if empty:
                for i in range(whole):
                    room[i] = 0
                empty = False
            own = weights_at + kernel_row * stride * channels * 2 * run
            for k in range(ends[y], ends[y + 1]):
                here, there = aligned + to[k], own + weight[k]
                for _ in range(run // 128):
                    _add_128(here, there)
                    here, there = here + 256, there + 256
                if run & 64:
                    _add_64(here, there)
                    here, there = here + 128, there + 128
                if run & 32:
                    _add_32(here, there)
        if not empty:
            for to_x in range(out_width):
                here = sums_at + 4 * (to_y * out_width + to_x) * out
                add_run(here, aligned + 2 * (g[R_TAPS] - 1 + to_x) * lanes, out)
