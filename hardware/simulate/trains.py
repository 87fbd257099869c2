"""Two runs of one population compared neuron by neuron: spikes in both, spikes near each other, distance of trains, membranes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import float64, int32, int64, uint8, uint64, void

from hardware.errors import HardwareError
from hardware.network.integer import STATE_LIMIT
from hardware.simulate import kernels
from hardware.simulate.tables import cores

Array = np.ndarray
# A spike looks for its partner at most so many steps away.
MOST_STEPS = 62
_BOTH, _FIRST, _SECOND, _NEAR, _STEP, _NEURON, _SATURATED, _COMPARED = range(8)


@dataclass(frozen=True)
class Pairing:
    """Two sets of spike trains (batch, steps, neurons), per recording; arrays (batch,).

    both: spikes of one neuron in one step in both. first, second: spikes of each. near: pairs of spikes of one neuron at most k
    steps apart, each spike in one pair at most, as many as there can be. step, neuron: where they first differ, -1: nowhere.
    distance: van Rossum's, squared, summed over neurons. error: squared, of the membranes in steps in which neither spiked,
    summed over `compared` of them. saturated: integer membranes at their limit.
    """

    both: Array
    first: Array
    second: Array
    near: Array
    step: Array
    neuron: Array
    distance: Array
    error: Array
    compared: Array
    saturated: Array


def pair(
    first: Array,
    second: Array,
    near: int,
    tau: float,
    membranes: Array | None = None,
    integers: Array | None = None,
    scale: Array | float = 1.0,
    offset: Array | float = 0.0,
) -> Pairing:
    """Compare spikes (batch, steps, *shape), uint8.

    near: at most so many steps between two spikes of a pair, 0 to 62. tau: van Rossum's time constant in steps. membranes,
    integers: of the first and of the second run, of the same shape; the second's v stands for v / scale + offset, both numbers or
    of the population's shape.

    Van Rossum 2001 (doi 10.1162/089976601300014321): each train becomes f(t) = sum over spikes of exp(-(t - t_i) / tau), and
    D^2 = 1 / tau * integral of (f - g)^2 over all times from 0 on, here exact for spikes at whole steps: with d_t the
    difference of the traces at step t, D^2 = (sum of d_t^2 (1 - q) + d_T^2 q) / 2, q = exp(-2 / tau), T the last step. A
    spike more or less in a silent train counts 1/2.

    Raises HardwareError for shapes that differ, more than 62 steps, or a time constant that is not above 0.
    """
    if first.shape != second.shape:
        raise HardwareError(
            f"spikes to compare: found shapes {first.shape} and {second.shape}, expected the same"
        )
    if not 0 <= near <= MOST_STEPS:
        raise HardwareError(f"within {near} steps, expected 0 to {MOST_STEPS}")
    if not 0 < tau < math.inf:
        raise HardwareError(f"van Rossum's time constant is {tau:g} steps, expected above 0")
    batch, steps = first.shape[:2]
    n = math.prod(first.shape[2:])

    def flat(x: Array | None, kind: type) -> Array:
        whole = np.zeros((batch, 0, n), kind) if x is None else x.reshape(batch, steps, n)
        return np.ascontiguousarray(whole, kind)

    a, b = flat(first, np.uint8), flat(second, np.uint8)
    floats, whole = flat(membranes, np.float64), flat(integers, np.int32)
    units = [
        np.array(np.broadcast_to(np.ravel(x), (n,)), np.float64) for x in (1.0 / np.asarray(scale), offset)
    ]
    counts, sums = np.zeros((batch, 8), np.int64), np.zeros((batch, 2))
    kernel = _kernel()

    def one(i: int) -> None:
        kernel(a[i], b[i], floats[i], whole[i], *units, near, math.exp(-1 / tau), counts[i], sums[i])

    with ThreadPoolExecutor(max(1, min(cores(), batch))) as pool:
        list(pool.map(one, range(batch)))
    return Pairing(
        counts[:, _BOTH],
        counts[:, _FIRST],
        counts[:, _SECOND],
        counts[:, _NEAR],
        counts[:, _STEP],
        counts[:, _NEURON],
        sums[:, 0],
        sums[:, 1],
        counts[:, _COMPARED],
        counts[:, _SATURATED],
    )


@functools.cache
def _kernel() -> Callable[..., None]:
    signature = void(
        uint8[:, ::1],
        uint8[:, ::1],
        float64[:, ::1],
        int32[:, ::1],
        float64[::1],
        float64[::1],
        int64,
        float64,
        int64[::1],
        float64[::1],
    )
    return kernels.cached(signature, _compare)


def _compare(a, b, membranes, integers, scale, offset, near, keep, counts, sums):  # type: ignore[no-untyped-def]
    """One recording; scale: units of the membrane per integer. open_a, open_b: bit i of a neuron's stands for a spike i steps ago that has no partner yet."""
    steps, n = a.shape
    open_a, open_b = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    d = np.zeros(n)
    one = uint64(1)
    window = (one << uint64(near + 1)) - one
    both, first, second, paired, saturated, compared = 0, 0, 0, 0, 0, 0
    total, error = 0.0, 0.0
    counts[_STEP], counts[_NEURON] = -1, -1
    has_v, has_m = integers.shape[0] > 0, membranes.shape[0] > 0
    for t in range(steps):
        for i in range(n):
            x, y = a[t, i] != 0, b[t, i] != 0
            if open_a[i] != 0 or open_b[i] != 0:
                open_a[i] = (open_a[i] << one) & window
                open_b[i] = (open_b[i] << one) & window
            if x or y:
                first += x
                second += y
                both += x and y
                if x != y and counts[_STEP] < 0:
                    counts[_STEP], counts[_NEURON] = t, i
                # The oldest spike that waits goes first: of two that could take it, the later one may find another.
                if x:
                    if open_b[i] != 0:
                        oldest = one << uint64(near)
                        while not open_b[i] & oldest:
                            oldest = oldest >> one
                        open_b[i] ^= oldest
                        paired += 1
                    else:
                        open_a[i] |= one
                if y:
                    if open_a[i] != 0:
                        oldest = one << uint64(near)
                        while not open_a[i] & oldest:
                            oldest = oldest >> one
                        open_a[i] ^= oldest
                        paired += 1
                    else:
                        open_b[i] |= one
            if x != y or d[i] != 0.0:
                trace = d[i] * keep + (x - y)
                d[i] = trace
                total += trace * trace
            if has_v:
                v = integers[t, i]
                if v >= STATE_LIMIT - 1 or v <= 1 - STATE_LIMIT:
                    saturated += 1
                if has_m and not x and not y:
                    off = v * scale[i] + offset[i] - membranes[t, i]
                    error += off * off
                    compared += 1
    q = keep * keep
    rest = 0.0
    for i in range(n):
        rest += d[i] * d[i]
    counts[_BOTH], counts[_FIRST], counts[_SECOND], counts[_NEAR] = both, first, second, paired
    counts[_SATURATED], counts[_COMPARED] = saturated, compared
    sums[0] = 0.5 * (total * (1.0 - q) + rest * q)
    sums[1] = error


def chance(first: Array, second: Array, shifts: tuple[int, ...]) -> tuple[int, int]:
    """Spikes in both and in either (see `fidelity.Agreement`) of trains shifted against each other in time, in a circle, by so many
    steps, above 0; summed over the shifts. (batch, steps, *shape), uint8 of 0 and 1."""
    both = 0
    for shift in shifts:
        both += in_both(first[:, shift:], second[:, :-shift]) + in_both(first[:, :shift], second[:, -shift:])
    spikes = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return both, len(shifts) * spikes - both


def in_both(first: Array, second: Array) -> int:
    """Spikes of two arrays of 0 and 1, uint8, in both."""
    return int(np.count_nonzero((first & second).view(bool)))
