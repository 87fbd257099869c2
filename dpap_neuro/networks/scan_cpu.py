"""The scan of `scan` on the CPU, compiled: blocks of neurons that the nearest cache holds go through all steps.

Operations, and the order in which gradients add up, are those of Norse's step and of autograd behind it: outputs and the
gradients of inputs are equal to the loop's to the bit. So is that of a tau_mem in float32, where all neurons share all
constants; those of other parameters are equal up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit
from torch import Tensor

from dpap_neuro.compiled import BLOCK, compiled, in_parts
from dpap_neuro.networks.surrogates import ATAN, SIGMOID, SUPERSPIKE, TRIANGLE

if TYPE_CHECKING:
    from dpap_neuro.networks.dynamics import Dynamics


@njit(inline="always")
def _columns(constants, column, rows, n):
    """The constants of n neurons from a column on into rows (7, at least n); the column behind the last."""
    width = constants.shape[1]
    for row in range(len(rows)):
        if width == 1:
            rows[row, :n] = constants[row, 0]
            continue
        at = column
        for k in range(n):
            rows[row, k] = constants[row, at]
            at = at + 1 if at + 1 < width else 0
    return (column + n) % width


@compiled()
def _forward(x, constants, out, membranes, drives, first, last, current, leak, spikes, subtracts, resets):
    """Where membranes or drives are not wanted, they have no rows."""
    kept, driven = len(membranes) > 0, len(drives) > 0
    rows = np.empty((7, BLOCK), x.dtype)
    v, i, mem, syn = rows[0], rows[1], rows[2], rows[3]
    v_leak, v_th, v_reset = rows[4], rows[5], rows[6]
    drive, own = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    one = x.dtype.type(1)
    column = first % constants.shape[1]
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        column = _columns(constants, column, rows, n)
        for t in range(len(x)):
            z = out[t, start : start + n]
            if not current:
                drive = x[t, start : start + n]
            else:
                given = x[t, start : start + n]
                for k in range(n):
                    drive[k] = i[k] + given[k]
                    i[k] = drive[k] - drive[k] * syn[k]
                if driven:
                    drives[t, start : start + n] = drive[:n]
            membrane = membranes[t, start : start + n] if kept else own
            if not leak:
                for k in range(n):
                    membrane[k] = v[k] + drive[k]
            # Norse adds in another order where input meets the membrane of a spiking neuron directly.
            elif spikes and not current:
                for k in range(n):
                    membrane[k] = v[k] + ((drive[k] + v_leak[k]) - v[k]) * mem[k]
            else:
                for k in range(n):
                    membrane[k] = v[k] + ((v_leak[k] - v[k]) + drive[k]) * mem[k]
            if not spikes:
                for k in range(n):
                    z[k] = membrane[k]
                    v[k] = membrane[k]
                continue
            if subtracts:
                for k in range(n):
                    spike = one if membrane[k] > v_th[k] else one - one
                    z[k] = spike
                    v[k] = membrane[k] - v_th[k] * spike
            else:
                for k in range(n):
                    spike = one if membrane[k] > v_th[k] else one - one
                    z[k] = spike
                    v[k] = membrane[k] - membrane[k] * spike
            if resets:
                for k in range(n):
                    v[k] += z[k] * v_reset[k]


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
def flatten(x, n, surrogate, inner, outer, one):
    """`flatness` of the first n, in place."""
    # A loop each, without a branch: only such are compiled to vectors.
    if surrogate == ATAN:
        for k in range(n):
            x[k] = flatness(x[k], ATAN, inner, outer, one)
    elif surrogate == SIGMOID:
        for k in range(n):
            x[k] = flatness(x[k], SIGMOID, inner, outer, one)
    elif surrogate == TRIANGLE:
        for k in range(n):
            x[k] = flatness(x[k], TRIANGLE, inner, outer, one)
    else:
        for k in range(n):
            x[k] = flatness(x[k], SUPERSPIKE, inner, outer, one)


@compiled()
def _backward(
    grad,
    constants,
    membranes,
    grad_x,
    first,
    last,
    current,
    leak,
    spikes,
    subtracts,
    resets,
    surrogate,
    inner,
    outer,
):
    one = grad.dtype.type(1)
    rows = np.empty((7, BLOCK), grad.dtype)
    mem, syn, v_th, v_reset = rows[2], rows[3], rows[5], rows[6]
    # With regard to membrane and current behind the step; the leak's part of the former is added last.
    g_v, g_leaked, g_i = np.empty(BLOCK, grad.dtype), np.empty(BLOCK, grad.dtype), np.empty(BLOCK, grad.dtype)
    wide = np.empty(BLOCK, grad.dtype)
    column = first % constants.shape[1]
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        column = _columns(constants, column, rows, n)
        for k in range(n):
            g_v[k], g_leaked[k], g_i[k] = 0, 0, 0
        for t in range(len(grad) - 1, -1, -1):
            given, found = grad[t, start : start + n], grad_x[t, start : start + n]
            if leak and spikes:
                for k in range(n):
                    g_v[k] -= g_leaked[k]
            if spikes:
                membrane = membranes[t, start : start + n]
                for k in range(n):
                    wide[k] = membrane[k] - v_th[k]
                flatten(wide, n, surrogate, inner, outer, one)
                if subtracts:
                    # What is subtracted does not depend on the membrane, so that all of its gradient passes.
                    for k in range(n):
                        a = (membrane[k] - v_th[k]) * g_v[k] + given[k]
                        g_v[k] = g_v[k] + (a - g_v[k] * membrane[k]) / wide[k]
                elif resets:
                    for k in range(n):
                        a = g_v[k] * v_reset[k] + given[k]
                        z = one if membrane[k] > v_th[k] else one - one
                        g_v[k] = (g_v[k] - z * g_v[k]) + (a - g_v[k] * membrane[k]) / wide[k]
                else:
                    for k in range(n):
                        z = one if membrane[k] > v_th[k] else one - one
                        g_v[k] = (g_v[k] - z * g_v[k]) + (given[k] - g_v[k] * membrane[k]) / wide[k]
            else:
                for k in range(n):
                    g_v[k] += given[k]
                if leak:
                    for k in range(n):
                        g_v[k] -= g_leaked[k]
            if leak:
                for k in range(n):
                    g_leaked[k] = g_v[k] * mem[k]
            if current:
                for k in range(n):
                    g_i[k] = (g_i[k] - g_i[k] * syn[k]) + (g_leaked[k] if leak else g_v[k])
                    found[k] = g_i[k]
            else:
                for k in range(n):
                    found[k] = g_leaked[k] if leak else g_v[k]


def _flat(x: Tensor, constants: Tensor) -> Tensor:
    """(T, B, ...) as (T, neurons), or as (T, neurons / width, width) where neurons differ in their constants."""
    return x.reshape(len(x), -1) if constants.shape[1] == 1 else x.reshape(len(x), -1, constants.shape[1])


def _rows(constants: Tensor) -> tuple[Tensor, ...]:
    return (constants[:, 0] if constants.shape[1] == 1 else constants).unbind()


def _array(x: Tensor) -> np.ndarray:
    """(T, ...) as (T, neurons)."""
    return x.detach().flatten(1).numpy()


def _flags(constants: Tensor, kind: Dynamics) -> tuple[bool, ...]:
    resets = kind.spikes and not kind.subtracts and bool(constants.numpy()[6].any())
    return kind.current, kind.leak, kind.spikes, kind.subtracts, resets


def forward(
    x: Tensor, constants: Tensor, kind: Dynamics, needed: bool, learned: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Outputs like x; where `backward` needs them, membranes before reset, and the currents that drove them.

    x: (T, B, ...), contiguous. constants: see `scan`. needed, learned: whether any gradients, and those of the constants,
    are wanted.
    """
    out = torch.empty_like(x)
    membranes = torch.empty_like(x) if learned or (needed and kind.spikes) else None
    drives = torch.empty_like(x) if learned and kind.current else None
    none = x.new_empty(0, 1)
    arrays = [_array(a) for a in (x, constants, out)]
    kept = [_array(none if a is None else a) for a in (membranes, drives)]
    flags = _flags(constants, kind)
    in_parts(arrays[0].shape[1], lambda first, last: _forward(*arrays, *kept, first, last, *flags))
    return out, membranes, drives


def backward(
    grad: Tensor,
    constants: Tensor,
    membranes: Tensor | None,
    drives: Tensor | None,
    kind: Dynamics,
    learned: bool,
    dt: float,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and, where they are learned, of the parameters behind the constants.

    membranes, drives: what `forward` gave; for neurons without a synaptic current, x drives.
    """
    if learned:
        return _backward_learned(grad, constants, membranes, drives, kind, dt)
    grad_x = torch.empty_like(grad)
    arrays = [_array(a) for a in (grad, constants, grad if membranes is None else membranes, grad_x)]
    inner, outer = (arrays[0].dtype.type(factor) for factor in kind.surrogate.factors)
    flags = *_flags(constants, kind), kind.surrogate.number, inner, outer
    in_parts(arrays[0].shape[1], lambda first, last: _backward(*arrays, first, last, *flags))
    return grad_x, None


def _backward_learned(
    grad: Tensor,
    constants: Tensor,
    membranes: Tensor | None,
    drives: Tensor | None,
    kind: Dynamics,
    dt: float,
) -> tuple[Tensor, Tensor]:
    """Step by step in PyTorch, so that sums over neurons are in the order of autograd's."""
    grads = _flat(grad, constants)
    grad_x = torch.empty_like(grads)
    membranes, drives = (None if x is None else _flat(x, constants) for x in (membranes, drives))
    v_start, _, mem, syn, v_leak, v_th, v_reset = _rows(constants)
    resets = kind.spikes and not kind.subtracts and bool(v_reset.any())
    # With regard to membrane and current behind the step; the leak's part of the former is added last.
    g_v, g_leaked, g_i = (torch.zeros_like(grads[0]) for _ in range(3))
    a, b, z = (torch.empty_like(grads[0]) for _ in range(3))
    totals = [torch.zeros_like(v_start) for _ in range(7)]  # row by row of the parameters

    def add(row: int, each: Tensor, factor: float = 1.0) -> None:
        totals[row] += (each.sum() if v_start.dim() == 0 else each.sum(0)) * factor

    for t in reversed(range(len(grads))):
        if kind.spikes:
            assert membranes is not None
            membrane = membranes[t]
            if kind.leak:
                g_v.sub_(g_leaked)
            torch.mul(g_v, membrane, out=a)
            if kind.subtracts:
                torch.sub(membrane, v_th, out=b).mul_(g_v).add_(grads[t])
            elif resets:
                torch.mul(g_v, v_reset, out=b).add_(grads[t])
            torch.sub(b if kind.subtracts or resets else grads[t], a, out=a)
            a.div_(kind.surrogate.flatness(torch.sub(membrane, v_th, out=b)))
            torch.gt(membrane, v_th, out=z).mul_(g_v)
            # What is subtracted does not depend on the membrane, so that all of its gradient passes.
            g_v = g_v.add_(a) if kind.subtracts else g_v.sub_(z).add_(a)
            add(5, a, -1.0)
            add(5 if kind.subtracts else 6, z, -1.0 if kind.subtracts else 1.0)
        else:
            g_v.add_(grads[t])
            if kind.leak:
                g_v.sub_(g_leaked)
        g_drive = g_v
        if kind.leak:
            g_drive = torch.mul(g_v, mem, out=g_leaked)
            assert membranes is not None and drives is not None
            before = v_start.expand_as(a)
            if t:
                before = membranes[t - 1]
                if kind.spikes:
                    spiked = (before > v_th).to(before.dtype)
                    after = before - v_th if kind.subtracts else v_reset
                    before = (1 - spiked) * before + spiked * after
            if kind.spikes and not kind.current:
                torch.add(drives[t], v_leak, out=a).sub_(before)
            else:
                torch.sub(v_leak, before, out=a).add_(drives[t])
            add(2, a.mul_(g_v), dt)
            add(4, g_drive)
        if kind.current:
            assert drives is not None
            add(3, drives[t] * g_i, -dt)
            torch.mul(g_i, syn, out=a)
            g_i = torch.sub(g_i, a, out=grad_x[t]).add_(g_drive)
        else:
            grad_x[t].copy_(g_drive)
    add(0, g_v - g_leaked)
    add(1, g_i)
    return grad_x.view(grad.shape), torch.stack(totals).reshape(constants.shape)
