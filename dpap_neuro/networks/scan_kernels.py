"""The kernels of `scan_cpu`, compiled for each kind of population by itself.

What a step does is fixed as a kernel is compiled, so that all of it is one loop without a branch, which becomes vector instructions:
two to three times as fast as a kernel for all kinds. Backward does not read membranes that forward kept but steps again: blocks of neurons
that the nearest cache holds go through all steps and back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from dpap_neuro.compiled import compiled
from dpap_neuro.networks.surrogates import ATAN, SIGMOID, TRIANGLE


@njit(inline="always")
def flatness(x, surrogate, inner, outer, one):
    """`Surrogate.flatness`, with the same operations."""
    reach = abs(x) * inner
    if surrogate == ATAN:
        return (reach * reach + one) * outer
    if surrogate == SIGMOID:
        e = np.exp(-reach)
        return (e + one) * (e + one) / e * outer
    if surrogate == TRIANGLE:
        return one / max(one - reach, one - one) * outer
    return (reach + one) * (reach + one)


@njit(inline="always")
def _repeated(values, column, row, n):
    """Values from a column on, over and over, into the first n of a row."""
    at = column % len(values)
    for k in range(n):
        row[k] = values[at]
        at = at + 1 if at + 1 < len(values) else 0


@njit(inline="always")
def _step(
    x,
    z,
    membrane,
    driven,
    v,
    i,
    one,
    rows,
    scale,
    shift,
    n,
    current,
    leak,
    spikes,
    subtracts,
    resets,
    alike,
    normed,
):
    """One step of n neurons. one, rows: their constants, the same for all or a row each."""
    unit = x.dtype.type(1)
    r_mem, r_syn, r_leak, r_th, r_reset = rows[2], rows[3], rows[4], rows[5], rows[6]
    for k in range(n):
        mem, syn = (one[2], one[3]) if alike else (r_mem[k], r_syn[k])
        v_leak, v_th = (one[4], one[5]) if alike else (r_leak[k], r_th[k])
        v_reset = one[6] if alike else r_reset[k]
        drive = x[k]
        if normed:
            drive = drive * scale[k] + shift[k]
        if current:
            drive = i[k] + drive
            i[k] = drive - drive * syn
            driven[k] = drive
        if not leak:
            u = v[k] + drive
        # Norse adds in another order where input meets the membrane of a spiking neuron directly.
        elif spikes and not current:
            u = v[k] + ((drive + v_leak) - v[k]) * mem
        else:
            u = v[k] + ((v_leak - v[k]) + drive) * mem
        membrane[k] = u
        if not spikes:
            z[k] = u
            v[k] = u
            continue
        spike = unit if u > v_th else unit - unit
        z[k] = spike
        after = u - v_th * spike if subtracts else u - u * spike
        if resets:
            after += spike * v_reset
        v[k] = after


@cache
def forward_kernel(
    current: bool, leak: bool, spikes: bool, subtracts: bool, resets: bool, alike: bool, normed: bool
) -> Callable[..., None]:
    """(x, constants, scale, shift, out, membranes, drives, first, last, size): steps of the neurons from first to last, `size` at once.

    x, out: (T, neurons). constants: (7, width), see `scan`, of width 1 where neurons are alike. scale, shift: (channels,), what x is still to be
    normed by, the channel of a neuron its number modulo theirs. membranes (before reset) and drives have no rows where they are not wanted.
    """

    @compiled()
    def kernel(x, constants, scale, shift, out, membranes, drives, first, last, size):
        rows, own = np.empty((7, size), x.dtype), np.empty((6, size), x.dtype)
        v, i, membrane, driven, scales, shifts = own[0], own[1], own[2], own[3], own[4], own[5]
        c = constants
        one = c[0, 0], c[1, 0], c[2, 0], c[3, 0], c[4, 0], c[5, 0], c[6, 0]
        for start in range(first, last, size):
            n = min(size, last - start)
            if not alike:
                for row in range(len(rows)):
                    _repeated(constants[row], start, rows[row], n)
            if normed and (start == first or size % len(scale)):
                _repeated(scale, start, scales, n)
                _repeated(shift, start, shifts, n)
            for k in range(n):
                v[k], i[k] = (one[0], one[1]) if alike else (rows[0, k], rows[1, k])
            for t in range(len(x)):
                z = out[t, start : start + n]
                if len(membranes) > 0:
                    membrane = membranes[t, start : start + n]
                if len(drives) > 0:
                    driven = drives[t, start : start + n]
                given = x[t, start : start + n]
                _step(
                    given, z, membrane, driven, v, i, one, rows, scales, shifts, n,
                    current, leak, spikes, subtracts, resets, alike, normed,
                )  # fmt: skip

    return kernel


@cache
def backward_kernel(
    current: bool,
    leak: bool,
    spikes: bool,
    subtracts: bool,
    resets: bool,
    alike: bool,
    normed: bool,
    surrogate: int,
) -> Callable[..., None]:
    """(grad, x, constants, scale, shift, mean, inner, outer, grad_x, sums, first, last, size): gradients of what drives the neurons.

    As `forward_kernel` has it; mean: of each channel of x, and into sums (2, channels) float64 go, over all neurons and steps, the gradients of
    what was normed, and these times x - mean. inner, outer: `Surrogate.factors`.
    """

    @compiled()
    def kernel(grad, x, constants, scale, shift, mean, inner, outer, grad_x, sums, first, last, size):
        unit = grad.dtype.type(1)
        rows, own = np.empty((7, size), grad.dtype), np.empty((10, size), grad.dtype)
        v, i, z, driven, scales, shifts = own[0], own[1], own[2], own[3], own[4], own[5]
        # With regard to membrane and current behind the step.
        g_v, g_i, totals, products = own[6], own[7], own[8], own[9]
        means = np.empty(size, grad.dtype)
        # A row to spare on either side: next to arrays that are written to, LLVM's test whether any overlap fails, and plain code runs.
        kept = np.empty((len(grad) + 2, size), grad.dtype)[1:-1]
        wide = np.zeros((2, size))
        c = constants
        one = c[0, 0], c[1, 0], c[2, 0], c[3, 0], c[4, 0], c[5, 0], c[6, 0]
        r_mem, r_syn, r_th, r_reset = rows[2], rows[3], rows[5], rows[6]
        for start in range(first, last, size):
            n = min(size, last - start)
            if not alike:
                for row in range(len(rows)):
                    _repeated(constants[row], start, rows[row], n)
            if normed and (start == first or size % len(scale)):
                _repeated(scale, start, scales, n)
                _repeated(shift, start, shifts, n)
                _repeated(mean, start, means, n)
            if spikes:
                for k in range(n):
                    v[k], i[k] = (one[0], one[1]) if alike else (rows[0, k], rows[1, k])
                for t in range(len(x)):
                    _step(
                        x[t, start : start + n], z, kept[t], driven, v, i, one, rows, scales, shifts, n,
                        current, leak, spikes, subtracts, resets, alike, normed,
                    )  # fmt: skip
            for k in range(n):
                g_v[k], g_i[k], totals[k], products[k] = 0, 0, 0, 0
            for t in range(len(grad) - 1, -1, -1):
                given, found = grad[t, start : start + n], grad_x[t, start : start + n]
                membrane = kept[t]
                for k in range(n):
                    mem, syn = (one[2], one[3]) if alike else (r_mem[k], r_syn[k])
                    v_th, v_reset = (one[5], one[6]) if alike else (r_th[k], r_reset[k])
                    g = g_v[k]
                    if spikes:
                        if leak:
                            g = g - g * mem
                        u = membrane[k]
                        flat = flatness(u - v_th, surrogate, inner, outer, unit)
                        if subtracts:
                            # What is subtracted does not depend on the membrane, so that all of its gradient passes.
                            a = (u - v_th) * g + given[k]
                            g = g + (a - g * u) / flat
                        else:
                            a = g * v_reset + given[k] if resets else given[k]
                            spike = unit if u > v_th else unit - unit
                            g = (g - spike * g) + (a - g * u) / flat
                    else:
                        # The leak's part is added last.
                        g = g + given[k] - g * mem if leak else g + given[k]
                    g_v[k] = g
                    if leak:
                        g = g * mem
                    if current:
                        g = (g_i[k] - g_i[k] * syn) + g
                        g_i[k] = g
                    found[k] = g
                if normed:
                    shown = x[t, start : start + n]
                    for k in range(n):
                        totals[k] += found[k]
                        products[k] += found[k] * (shown[k] - means[k])
            if normed:
                for k in range(n):
                    wide[0, k] += totals[k]
                    wide[1, k] += products[k]
                if size % len(scale) or start + size >= last:
                    at = start % len(scale)
                    for k in range(size):
                        sums[0, at] += wide[0, k]
                        sums[1, at] += wide[1, k]
                        wide[0, k], wide[1, k] = 0, 0
                        at = at + 1 if at + 1 < len(scale) else 0

    return kernel


@compiled()
def moments(x, first, last, sums):
    """Of rows from first to last of x (rows, channels): sums of x - x[0], and of its squares, into sums (2, channels) float64."""
    channels = x.shape[1]
    centre, total, squares = x[0].astype(np.float64), np.zeros(channels), np.zeros(channels)
    for row in range(first, last):
        given = x[row]
        for k in range(channels):
            away = given[k] - centre[k]
            total[k] += away
            squares[k] += away * away
    sums[0], sums[1] = total, squares


@compiled()
def through_norm(grad, x, mean, factor, shared, slope, first, last, size):
    """Of what was normed to what was given, in place: factor (grad - shared - slope (x - mean)) of (n,) values, all others (channels,)."""
    rows = np.empty((4, size), grad.dtype)
    factors, shares, slopes, means = rows[0], rows[1], rows[2], rows[3]
    for start in range(first, last, size):
        n = min(size, last - start)
        if start == first or size % len(mean):
            for values, row in ((factor, factors), (shared, shares), (slope, slopes), (mean, means)):
                _repeated(values, start, row, n)
        found, given = grad[start : start + n], x[start : start + n]
        for k in range(n):
            found[k] = factors[k] * ((found[k] - shares[k]) - slopes[k] * (given[k] - means[k]))
