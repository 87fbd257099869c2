"""What `hardware.simulate.simulator` and `hardware.simulate.float_simulator` share: the layouts that their kernels read."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numba import int32, int64, njit, uint8, void

from hardware.simulate import kernels
from hardware.simulate.vectors import lowest_bit, not_zero

Array = np.ndarray
# Below this share of non-zero weights a kernel is run as lists of its synapses: vector instructions add many more weights
# a second, zeros among them.
SPARSE_KERNEL_BELOW = 0.2


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
    outputs follow each other, so that what one spike adds to a row is one run in memory.
    """
    weight = projection.weight
    out, per_group, height_k, width_k = weight.shape
    group_out = out // projection.groups
    rows, _ = _reach(source[1], target[1], height_k, 0, projection)
    columns, slot_order = _reach(source[2], target[2], width_k, 1, projection)
    one_run = projection.groups == 1
    # Of a row of the source: where what it adds to begins, and its taps; of a column: how far from there, which tap, how many.
    y_runs = [[(o * target[2] * out, k * width_k) for o, k, _ in runs] for runs in rows]
    x_runs = []
    for runs in columns:
        merged: list[list[int]] = []
        for o, _, slot in runs:
            last = merged[-1] if merged else None
            if one_run and last and o == last[0] + last[2] and slot == last[1] + last[2]:
                last[2] += 1
            else:
                merged.append([o, slot, 1])
        x_runs.append([(o * out, slot, taps) for o, slot, taps in merged])
    by_slot = weight[:, :, :, slot_order]

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
    head = [source[1], source[2], out, per_group, group_out, height_k, width_k]
    y_at = kernels.G_HEAD + len(y_ptr) + len(x_ptr)
    geometry = np.concatenate(
        [head, [y_at, y_at + y_flat.size], y_ptr, x_ptr, y_flat.ravel(), x_flat.ravel()]
    ).astype(np.int64)
    found: dict[str, Any] = {
        "degree": degree.astype(np.int32).ravel(),
        "geometry": geometry,
    }
    # (in, kernel row, slot, out within the group)
    grouped = by_slot.reshape(projection.groups, group_out, per_group, height_k, width_k)
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
) -> tuple[list[list[tuple[int, int, int]]], Array]:
    """For every input place along an axis its (output place, kernel place, slot), and the kernel by slot."""
    stride, padding = projection.stride[axis], projection.padding[axis]
    dilation = projection.dilation[axis]
    phase = stride // math.gcd(stride, dilation)
    slot_order = np.array(sorted(range(kernel), key=lambda k: (k % phase, -k)), np.int64)
    slot_of = np.argsort(slot_order)
    places = []
    for i in range(n_in):
        found = []
        for k in range(kernel):
            o, rest = divmod(i + padding - k * dilation, stride)
            if rest == 0 and 0 <= o < n_out:
                found.append((o, k, int(slot_of[k])))
        places.append(sorted(found))
    return places, slot_order


def events(rasters: Mapping[str, Array], b: int, steps: int, dtype: Any) -> tuple[Array, Array, Array]:
    """The entries of sample b that are not zero, step by step: where each step's start, neurons, counts."""
    pointers, indices, values = [], [], []
    start = 0
    for raster in rasters.values():
        flat = raster[b].reshape(-1)
        size = flat.size // max(steps, 1)
        if flat.dtype == bool:
            flat = flat.view(np.uint8)
        if flat.dtype in _LISTED and flat.flags.c_contiguous and flat.size:
            pointer, index, counts = _listed(flat.reshape(steps, size))
            pointers.append(start + pointer)
            indices.append(index)
            values.append(counts.astype(dtype, copy=False))
        else:
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


def _listed(raster: Array) -> tuple[Array, Array, Array]:
    """Of (steps, neurons), C order, the entries that are not zero: where each step's start, neurons, counts."""
    pointer = np.empty(len(raster) + 1, np.int64)
    count, fill = _list_kernels(raster.dtype)
    count(raster, pointer)
    index, value = np.empty(pointer[-1], np.int32), np.empty(pointer[-1], raster.dtype)
    fill(raster, raster.ctypes.data, index, value)
    return pointer, index, value


# Entries of other types NumPy finds.
_LISTED: dict[Any, Any] = {np.dtype(np.uint8): uint8, np.dtype(np.int32): int32, np.dtype(np.int64): int64}


@functools.cache
def _list_kernels(dtype: Any) -> tuple[Callable[..., None], Callable[..., None]]:
    kind = _LISTED[dtype]
    fill = {1: _fill_bytes, 4: _fill_words, 8: _fill_longs}[dtype.itemsize]
    return (
        kernels.cached(void(kind[:, ::1], int64[::1]), _count_entries),
        kernels.cached(void(kind[:, ::1], int64, int32[::1], kind[::1]), fill),
    )


def _count_entries(raster, pointer):  # type: ignore[no-untyped-def]
    total = 0
    for t in range(raster.shape[0]):
        pointer[t] = total
        here = 0
        for i in range(raster.shape[1]):
            here += raster[t, i] != 0
        total += here
    pointer[raster.shape[0]] = total


def _filling(bits):  # type: ignore[no-untyped-def]
    """A function that lists the entries that are not zero of a raster of so many bits each, at an address."""
    some_of, lanes = not_zero(bits), 512 // bits

    @njit(inline="always")
    def fill(raster, address, index, value):  # type: ignore[no-untyped-def]
        k = 0
        steps, size = raster.shape
        whole = size - size % lanes
        for t in range(steps):
            for block in range(0, whole, lanes):
                some = some_of(address + (t * size + block) * (bits // 8))
                while some != 0:
                    i = block + lowest_bit(some)
                    index[k], value[k] = i, raster[t, i]
                    k += 1
                    some &= some - 1
            for i in range(whole, size):
                if raster[t, i] != 0:
                    index[k], value[k] = i, raster[t, i]
                    k += 1

    return fill


_bytes, _words, _longs = (_filling(bits) for bits in (8, 32, 64))


# One function each, so that each is kept on disk under its own name.
def _fill_bytes(raster, address, index, value):  # type: ignore[no-untyped-def]
    _bytes(raster, address, index, value)


def _fill_words(raster, address, index, value):  # type: ignore[no-untyped-def]
    _words(raster, address, index, value)


def _fill_longs(raster, address, index, value):  # type: ignore[no-untyped-def]
    _longs(raster, address, index, value)
