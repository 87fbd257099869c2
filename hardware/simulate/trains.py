"""Two runs of one population compared neuron by neuron: spikes in both, spikes near each other, distance of trains, membranes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import float64, int32, int64, njit, uint8, uint64, void

from hardware.errors import HardwareError
from hardware.machine import cores
from hardware.network.integer import STATE_LIMIT
from hardware.simulate import kernels

Array = np.ndarray
# A spike looks for its partner at most so many steps away.
MOST_STEPS = 62
(
    _BOTH,
    _FIRST,
    _SECOND,
    _NEAR,
    _STEP,
    _NEURON,
    _SATURATED,
    _COMPARED,
    _CHANCE,
    _THIRD,
    _THIRD_BOTH,
    _COLUMNS,
) = range(12)
# Values of a step looked at together: most have no spike.
_TOGETHER = 16


@dataclass(frozen=True)
class Pairing:
    """Two sets of spike trains (batch, steps, neurons), per recording; arrays (batch,).

    both: spikes of one neuron in one step in both. first, second: spikes of each. near: pairs of spikes of one neuron at most k
    steps apart, each spike in one pair at most, as many as there can be. step, neuron: where they first differ, -1: nowhere.
    distance: van Rossum's, squared, summed over neurons. error: squared, of the membranes in steps in which neither spiked,
    summed over `compared` of them. saturated: integer membranes at their limit. chance: spikes in both where the second's trains
    are shifted in time, in a circle, summed over the shifts. third, third_both: spikes of a third run, and those that the first has,
    too.
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
    chance: Array
    third: Array
    third_both: Array


def pair(
    first: Array,
    second: Array,
    near: int,
    tau: float,
    membranes: Array | None = None,
    integers: Array | None = None,
    scale: Array | float = 1.0,
    offset: Array | float = 0.0,
    numbers: Array | None = None,
    shifts: tuple[int, ...] = (),
    third: Array | None = None,
) -> Pairing:
    """Compare spikes (batch, steps, *shape), uint8.

    near: at most so many steps between two spikes of a pair, 0 to 62. tau: van Rossum's time constant in steps. membranes,
    integers: of the first and of the second run, of the same shape; the second's v stands for v / scale + offset, both numbers or
    of the population's shape. numbers: where these are (batch, steps, neurons), in an order of their own, the number of each in
    C order. shifts: steps, 0 to all, by which trains are shifted for `Pairing.chance`. third: spikes of a further run.

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

    a, b, c = flat(first, np.uint8), flat(second, np.uint8), flat(third, np.uint8)
    floats, whole = flat(membranes, np.float64), flat(integers, np.int32)
    order = np.arange(n) if numbers is None else numbers
    units = [
        np.array(np.broadcast_to(np.ravel(x), (n,))[order], np.float64)
        for x in (1.0 / np.asarray(scale), offset)
    ]
    place = np.empty(n, np.int32)
    place[order] = np.arange(n)
    # Of a trace that is 1 in some step, its value m steps later, and the sum of its squares over those m.
    later = np.exp(-np.arange(steps + 1) / tau)
    passed = np.concatenate([[0.0], np.cumsum(later[1:] ** 2)])
    counts, sums = np.zeros((batch, _COLUMNS), np.int64), np.zeros((batch, 2))
    kernel = _kernel()

    def one(i: int) -> None:
        kernel(
            *(x[i] for x in (a, b, c, floats, whole)),
            *units,
            place,
            near,
            later,
            passed,
            np.array(shifts, np.int64),
            counts[i],
            sums[i],
        )

    if batch == 1:
        one(0)
    else:
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
        counts[:, _CHANCE],
        counts[:, _THIRD],
        counts[:, _THIRD_BOTH],
    )


@functools.cache
def _kernel() -> Callable[..., None]:
    signature = void(
        uint8[:, ::1],
        uint8[:, ::1],
        uint8[:, ::1],
        float64[:, ::1],
        int32[:, ::1],
        float64[::1],
        float64[::1],
        int32[::1],
        int64,
        float64[::1],
        float64[::1],
        int64[::1],
        int64[::1],
        float64[::1],
    )
    return kernels.cached(signature, _compare)


# The sum may run in any order, and so in vectors.
@njit(fastmath={"reassoc"})
def _squares(integers, membranes, scale, offset, stamp, t):  # type: ignore[no-untyped-def]
    """Squared errors of the membranes of a step, of neurons that did not spike."""
    error = 0.0
    for j in range(len(integers)):
        off = integers[j] * scale[j] + offset[j] - membranes[j]
        off = 0.0 if stamp[j] == t else off
        error += off * off
    return error


@njit
def _partner(waiting, near):  # type: ignore[no-untyped-def]
    """The bit of the oldest spike that waits, 0 where none does: of two that could take it, the later one may find another."""
    oldest = uint64(1) << uint64(near)
    while oldest and not waiting & oldest:
        oldest = oldest >> uint64(1)
    return oldest


def _compare(  # type: ignore[no-untyped-def]
    a, b, c, membranes, integers, scale, offset, place, near, later, passed, shifts, counts, sums
):
    """One recording. scale: units of the membrane per integer; it, offset, membranes and integers in an order of their own, in which
    `place` says where each neuron is. Nothing is done for a neuron but in steps in which it spikes; seen: the last of these,
    changed: that in which its trace d last did. open_a, open_b: bit i of a neuron's stands for a spike i steps before the last
    one that has no partner yet.
    """
    steps, n = a.shape
    open_a, open_b = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    seen, changed = np.zeros(n, np.int32), np.zeros(n, np.int32)
    stamp = np.full(n, -1, np.int32)
    d = np.zeros(n)
    found = np.empty(_TOGETHER + 1, np.int64)
    one = uint64(1)
    window = (one << uint64(near + 1)) - one
    both, first, second, paired, saturated, chance, third, third_both = 0, 0, 0, 0, 0, 0, 0, 0
    total, error = 0.0, 0.0
    counts[_STEP], counts[_NEURON] = -1, -1
    has_v, has_m, has_c = integers.shape[0] > 0, membranes.shape[0] > 0, c.shape[0] > 0
    for t in range(steps):
        for block in range(0, n, _TOGETHER):
            end = min(block + _TOGETHER, n)
            k = 0
            if end - block == _TOGETHER:
                some = uint8(0)
                for i in range(_TOGETHER):
                    some |= a[t, block + i] | b[t, block + i]
                if has_c:
                    for i in range(_TOGETHER):
                        some |= c[t, block + i]
                if not some:
                    continue
                # Written always, kept where there is a spike: no branch that is hard to foresee.
                for i in range(block, end):
                    found[k] = i
                    z = c[t, i] if has_c else uint8(0)
                    k += (a[t, i] | b[t, i] | z) != 0
            else:
                for i in range(block, end):
                    found[k] = i
                    k += 1
            for at in range(k):
                i = found[at]
                x, y = a[t, i] != 0, b[t, i] != 0
                if has_c and c[t, i] != 0:
                    third += 1
                    third_both += x
                if not (x or y):
                    continue
                first += x
                second += y
                both += x and y
                stamp[place[i]] = t
                if x != y and counts[_STEP] < 0:
                    counts[_STEP], counts[_NEURON] = t, i
                if x:
                    for k in range(len(shifts)):
                        before = t - shifts[k]
                        chance += b[before if before >= 0 else before + steps, i] != 0
                gone = t - seen[i]
                seen[i] = t
                if gone > near:
                    open_a[i], open_b[i] = uint64(0), uint64(0)
                else:
                    open_a[i] = (open_a[i] << uint64(gone)) & window
                    open_b[i] = (open_b[i] << uint64(gone)) & window
                if x:
                    oldest = _partner(open_b[i], near)
                    open_b[i] ^= oldest
                    paired += oldest != 0
                    if oldest == 0:
                        open_a[i] |= one
                if y:
                    oldest = _partner(open_a[i], near)
                    open_a[i] ^= oldest
                    paired += oldest != 0
                    if oldest == 0:
                        open_b[i] |= one
                if x != y:
                    trace = d[i]
                    gone = t - changed[i]
                    if trace != 0.0 and gone > 0:
                        total += trace * trace * passed[gone - 1]
                    trace = trace * later[gone] + (x - y)
                    total += trace * trace
                    d[i] = trace
                    changed[i] = t
        if has_v:
            at_limit = int32(0)
            for j in range(n):
                v = integers[t, j]
                at_limit |= int32(v >= STATE_LIMIT - 1) | int32(v <= 1 - STATE_LIMIT)
            if at_limit:
                for j in range(n):
                    v = integers[t, j]
                    saturated += v >= STATE_LIMIT - 1 or v <= 1 - STATE_LIMIT
            if has_m:
                error += _squares(integers[t], membranes[t], scale, offset, stamp, t)
    q = later[1] * later[1] if steps else 0.0
    rest = 0.0
    for i in range(n):
        gone = steps - 1 - changed[i]
        total += d[i] * d[i] * passed[gone]
        trace = d[i] * later[gone]
        rest += trace * trace
    counts[_BOTH], counts[_FIRST], counts[_SECOND], counts[_NEAR] = both, first, second, paired
    counts[_SATURATED], counts[_CHANCE] = saturated, chance
    counts[_THIRD], counts[_THIRD_BOTH] = third, third_both
    counts[_COMPARED] = steps * n - (first + second - both) if has_v and has_m else 0
    sums[0] = 0.5 * (total * (1.0 - q) + rest * q)
    sums[1] = error
