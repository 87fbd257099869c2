"""What `hardware.simulate.simulator` and `hardware.simulate.float_simulator` share: the layouts that their kernels read."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numba import int32, int64, njit, uint8

from hardware.simulate import kernels
from hardware.simulate.vectors import cast_to, lowest_bit, not_zero

Array = np.ndarray
# Below this share of non-zero weights a kernel is run as lists of its synapses: vector instructions add many more weights
# a second, zeros among them.
SPARSE_KERNEL_BELOW = 0.2

_int32_at = cast_to(int32)


class Convolution(Protocol):
    """weight: (out, in / groups, kH, kW). padding: zeros before each axis."""

    @property
    def weight(self) -> Array: ...
    @property
    def stride(self) -> tuple[int, int]: ...
    @property
    def padding(self) -> tuple[int, int]: ...
    @property
    def dilation(self) -> tuple[int, int]: ...
    @property
    def groups(self) -> int: ...


class Memory:
    """Arrays of a run that the next one takes again, of one thread: what a run gave holds until then.

    The system clears new memory page by page, which for records of every step takes longer than to simulate them.
    """

    def __init__(self) -> None:
        self._arrays: dict[Any, Array] = {}

    def zeros(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of zeros, by `key`."""
        found = self.empty(key, shape, dtype)
        found.fill(0)
        return found

    def empty(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of any content, by `key`."""
        found = self._arrays.get(key)
        if found is None or found.shape != shape or found.dtype != dtype:
            self._arrays[key] = found = np.empty(shape, dtype)
        return found


class Fresh:
    """As `Memory`, an array of its own for every call."""

    def zeros(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def empty(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.empty(shape, dtype)


def inside(shape: tuple[int, ...], convolved: bool) -> Array:
    """The number outside of each neuron, in the order inside."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return (numbers.transpose(1, 2, 0) if convolved else numbers).reshape(-1)


def conv_tables(
    projection: Convolution, source: tuple[int, ...], target: tuple[int, ...], dtype: Any
) -> dict[str, Any]:
    """Of a convolution: form, geometry, weight (of dtype) and, where it is sparse, post and ptr; degree: synapses of each
    input neuron, int32.

    An input pixel reaches output column o through kernel column k where o stride = i + padding - k dilation.
    Kernel columns are put in an order ("slots") in which the columns that one pixel uses for neighbouring
    outputs follow each other, so that what one spike adds to a row is one run in memory. With a stride, some pixels have fewer columns
    than others: slots of zeros make their runs as long, since how often a loop turns is hard to foresee where it changes from
    spike to spike.
    """
    weight = projection.weight
    out, per_group, height_k, width_k = weight.shape
    group_out = out // projection.groups
    rows, _, _ = _reach(source[1], target[1], height_k, 0, projection)
    columns, slot_order, follow = _reach(source[2], target[2], width_k, 1, projection)
    one_run = projection.groups == 1 and follow > 0
    # Of a row of the source: where what it adds to begins, and its taps; of a column: how far from there, which tap, how many.
    y_runs = [[(o * target[2] * out, k * len(slot_order)) for o, k, _ in runs] for runs in rows]
    x_runs = []
    for runs in columns:
        runs = runs[:1] if one_run else runs
        x_runs.append(
            [
                (o * out, slot, min(follow - slot % follow, target[2] - o) if one_run else 1)
                for o, _, slot in runs
            ]
        )
    by_slot = np.where(slot_order >= 0, weight[:, :, :, slot_order], 0)

    # Synapses of each input neuron.
    alive = np.count_nonzero(
        weight.reshape(projection.groups, group_out, per_group, height_k, width_k), axis=1
    ).reshape(source[0], height_k, width_k)
    y_used = np.zeros((source[1], height_k), np.int32)
    x_used = np.zeros((source[2], width_k), np.int32)
    for used, axis in ((y_used, rows), (x_used, columns)):
        for i, runs in enumerate(axis):
            for _, k, _ in runs:
                used[i, k] += 1
    degree = np.einsum("yk,ckl,xl->cyx", y_used, alive, x_used, optimize=True)

    def table(lists: list, width: int) -> tuple[Array, Array]:
        ptr = np.concatenate([[0], np.cumsum([len(entry) for entry in lists])])
        return ptr, np.array([run for entry in lists for run in entry], np.int64).reshape(-1, width)

    y_ptr, y_flat = table(y_runs, 2)
    x_ptr, x_flat = table(x_runs, 3)
    head = [source[1], source[2], out, per_group, group_out, height_k, len(slot_order)]
    y_at = kernels.G_HEAD + len(y_ptr) + len(x_ptr)
    geometry = np.concatenate(
        [head, [y_at, y_at + y_flat.size], y_ptr, x_ptr, y_flat.ravel(), x_flat.ravel()]
    ).astype(np.int64)
    found: dict[str, Any] = {
        "degree": degree.astype(np.int32).ravel(),
        "geometry": geometry,
    }
    # (in, kernel row, slot, out within the group)
    grouped = by_slot.reshape(projection.groups, group_out, per_group, height_k, len(slot_order))
    laid = np.ascontiguousarray(grouped.transpose(0, 2, 3, 4, 1), dtype)
    if np.count_nonzero(weight) >= SPARSE_KERNEL_BELOW * weight.size:
        return {"form": kernels.CONV, "weight": laid, **found}
    alive_at = np.nonzero(laid)
    group_of, slot_of, to = alive_at[0], alive_at[3], alive_at[4]
    ptr = np.concatenate([[0], np.cumsum(np.count_nonzero(laid.reshape(-1, group_out), axis=1))])
    post = slot_of * out + group_of * group_out + to
    return {
        "form": kernels.CONV_SPARSE,
        "weight": laid[laid != 0] if post.size else np.zeros(1, dtype),
        "post": post.astype(np.int32),
        "ptr": ptr.astype(np.int64),
        **found,
    }


def _reach(
    n_in: int, n_out: int, kernel: int, axis: int, projection: Convolution
) -> tuple[list[list[tuple[int, int, int]]], Array, int]:
    """For every input place along an axis its (output place, kernel place, slot); the kernel by slot, -1 where a slot is empty; and how
    many slots in a row are those of outputs in a row, 0 where a step in the kernel skips outputs."""
    stride, padding = projection.stride[axis], projection.padding[axis]
    dilation = projection.dilation[axis]
    phase = stride // math.gcd(stride, dilation)
    most = -(-kernel // phase)
    parts = [range(kernel)[first::phase][::-1] for first in range(min(phase, kernel))]
    slot_order = np.array([k for part in parts for k in (*part, *[-1] * (most - len(part)))], np.int64)
    slot_of = {int(k): slot for slot, k in enumerate(slot_order)}
    places = []
    for i in range(n_in):
        found = []
        for k in range(kernel):
            o, rest = divmod(i + padding - k * dilation, stride)
            if rest == 0 and 0 <= o < n_out:
                found.append((o, k, slot_of[k]))
        places.append(sorted(found))
    return places, slot_order, most if dilation * phase == stride else 0


def events(
    rasters: Mapping[str, Array], b: int, steps: int, dtype: Any, inside: Collection[str] = ()
) -> tuple[Array, Array, Array]:
    """The entries of sample b that are not zero, step by step: where each step's start, neurons, counts. inside: inputs (channels, rows,
    columns) whose neurons have the numbers, and the order, of (rows, columns, channels)."""
    pointers, indices, values = [], [], []
    start = 0
    for name, raster in rasters.items():
        channels = raster.shape[2] if name in inside else 1
        flat = raster[b].reshape(-1)
        size = flat.size // max(steps, 1)
        if flat.dtype == bool:
            flat = flat.view(np.uint8)
        if flat.dtype in _LISTED and flat.flags.c_contiguous and flat.size:
            pointer, index, counts = _listed(flat.reshape(steps, size), channels)
            pointers.append(start + pointer)
            indices.append(index)
            values.append(counts.astype(dtype, copy=False))
        else:
            if channels > 1:
                flat = flat.reshape(steps, channels, size // channels).transpose(0, 2, 1).reshape(-1)
            at = np.flatnonzero(flat != 0)  # of booleans, which NumPy counts much faster
            pointers.append(start + np.searchsorted(at, np.arange(steps + 1) * size))
            indices.append((at % max(size, 1)).astype(np.int32))
            values.append(flat[at].astype(dtype))
        start += len(indices[-1])
    if not pointers:
        return np.zeros((0, steps + 1), np.int64), np.zeros(1, np.int32), np.zeros(1, dtype)
    if len(pointers) == 1:
        return pointers[0][None].astype(np.int64, copy=False), indices[0], values[0]
    return np.array(pointers, np.int64), np.concatenate(indices), np.concatenate(values)


def _listed(raster: Array, channels: int) -> tuple[Array, Array, Array]:
    """Of (steps, neurons), C order, the entries that are not zero: where each step's start, neurons, counts. The neurons are `channels`
    times as many places, and are listed and numbered place by place."""
    steps, size = raster.shape
    pointer = np.zeros(steps + 1, np.int64)
    fill, done, room = _list_kernel(raster.dtype), 0, raster.size // 8 + size + 1
    index, value = np.empty(room, np.int32), np.empty(room, raster.dtype)
    # One pass in most cases: a raster is as large as what is listed of it is small.
    while (done := fill(raster, channels, done, pointer, index, value)) < steps:
        more = len(index) + size
        index, value = (np.concatenate([x, np.empty(more, x.dtype)]) for x in (index, value))
    return pointer, index[: pointer[-1]], value[: pointer[-1]]


# Entries of other types NumPy finds.
_LISTED: dict[Any, Any] = {np.dtype(np.uint8): uint8, np.dtype(np.int32): int32, np.dtype(np.int64): int64}


@functools.cache
def _list_kernel(dtype: Any) -> Callable[..., int]:
    kind = _LISTED[dtype]
    fill = {1: _fill_bytes, 4: _fill_words, 8: _fill_longs}[dtype.itemsize]
    return kernels.cached(int64(kind[:, ::1], int64, int64, int64[::1], int32[::1], kind[::1]), fill)


def _filling(kind):  # type: ignore[no-untyped-def]
    """A function that lists the entries of a raster of a kind of integers from step `first` on, and returns the step for which there was no
    room any more, or how many there are."""
    bits = kind.bitwidth
    some_of, lanes, at = not_zero(bits), 512 // bits, cast_to(kind)

    @njit(inline="always")
    def fill(raster, channels, first, pointer, index, value):  # type: ignore[no-untyped-def]
        steps, size = raster.shape
        area = size // channels
        whole = area - area % lanes
        numbers, counts = _int32_at(index.ctypes.data), at(value.ctypes.data)
        k = pointer[first]
        for t in range(first, steps):
            # One more: the next entry is written before it is known to be there.
            if k + size >= len(index):
                return t
            begin = raster.ctypes.data + t * size * (bits // 8)
            entries = at(begin)
            for block in range(0, area, lanes):
                if block < whole:
                    some = int64(0)
                    for channel in range(channels):
                        some |= some_of(begin + (channel * area + block) * (bits // 8))
                else:
                    some = (int64(1) << (area - whole)) - 1
                while some != 0:
                    place = block + lowest_bit(some)
                    for channel in range(channels):
                        count = entries[channel * area + place]
                        # Written always, kept where there is one: no branch that is hard to foresee.
                        numbers[k], counts[k] = place * channels + channel, count
                        k += count != 0
                    some &= some - 1
            pointer[t + 1] = k
        return steps

    return fill


_bytes, _words, _longs = (_filling(kind) for kind in (uint8, int32, int64))


# One function each, so that each is kept on disk under its own name.
def _fill_bytes(raster, channels, first, pointer, index, value):  # type: ignore[no-untyped-def]
    return _bytes(raster, channels, first, pointer, index, value)


def _fill_words(raster, channels, first, pointer, index, value):  # type: ignore[no-untyped-def]
    return _words(raster, channels, first, pointer, index, value)


def _fill_longs(raster, channels, first, pointer, index, value):  # type: ignore[no-untyped-def]
    return _longs(raster, channels, first, pointer, index, value)
