"""The kernels of `scan` on a CPU, compiled: blocks of neurons that the nearest cache holds go through all steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import boolean, float32, int32, int64, njit, void
from torch import Tensor

from dpap_neuro.compiled import BLOCK, compiled, in_parts
from dpap_neuro.networks.scan_kernels import flatness
from dpap_neuro.networks.surrogates import ATAN, SIGMOID, SUPERSPIKE, TRIANGLE

if TYPE_CHECKING:
    from dpap_neuro.precision.scan import Integers

_LIMIT = 2**23
_int_row, _float_row = int32[::1], float32[::1]
_int_grid, _float_grid = int32[:, ::1], float32[:, ::1]


@njit(inline="always")
def _scaled(x, factor):
    """sgn(x) * ((|x| * factor) >> 12), a product of up to 36 bits, in 32: |x| in a high part and the low 12 bits."""
    m = int32(x if x >= 0 else -x)
    low = int32(int32(int32(m & int32(4095)) * factor) >> int32(12))
    m = int32(int32(int32(m >> int32(12)) * factor) + low)
    return int32(m if x >= 0 else -m)


@compiled(
    void(
        _float_grid,
        _int_row,
        _int_row,
        _int_row,
        _int_row,
        _int_row,
        _int_row,
        _float_grid,
        _int_grid,
        *(int64,) * 4,
        *(boolean,) * 3,
    )
)
def _forward(
    x,
    keep_u,
    keep_v,
    threshold,
    bias,
    u,
    v,
    out,
    membranes,
    begin,
    end,
    first,
    last,
    current,
    spikes,
    subtract,
):
    width = len(keep_u)
    ku, kv = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    th, bi = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    uu, vv = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        for i in range(n):
            column = (start + i) % width
            ku[i], kv[i], th[i], bi[i] = keep_u[column], keep_v[column], threshold[column], bias[column]
            uu[i], vv[i] = u[start + i], v[start + i]
        for t in range(begin, end):
            row, z, kept = x[t, start : start + n], out[t, start : start + n], membranes[t, start : start + n]
            if current:
                for i in range(n):
                    a = int32(int32(_scaled(uu[i], ku[i])) + int32(int32(row[i]) << 6))
                    wrapped = int32(a - 2 * _LIMIT) if a > _LIMIT else a
                    uu[i] = int32(a + 2 * _LIMIT) if a <= -_LIMIT else wrapped
            else:
                for i in range(n):
                    a = int32(int32(row[i]) << 6)
                    wrapped = int32(a - 2 * _LIMIT) if a > _LIMIT else a
                    uu[i] = int32(a + 2 * _LIMIT) if a <= -_LIMIT else wrapped
            for i in range(n):
                a = int32(int32(_scaled(vv[i], kv[i]) + uu[i]) + bi[i])
                a = int32(_LIMIT - 1) if a > _LIMIT - 1 else a
                vv[i] = int32(1 - _LIMIT) if a < 1 - _LIMIT else a
                kept[i] = vv[i]
            if spikes:
                for i in range(n):
                    fired = vv[i] > th[i]
                    z[i] = float32(1.0) if fired else float32(0.0)
                    after = int32(vv[i] - th[i]) if subtract else int32(0)
                    vv[i] = after if fired else vv[i]
            else:
                for i in range(n):
                    z[i] = float32(vv[i])
        for i in range(n):
            u[start + i], v[start + i] = uu[i], vv[i]


@njit(inline="always")
def _flatten(x, n, surrogate, inner, outer, one):
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


@compiled(
    void(
        _float_grid,
        _int_row,
        _int_row,
        _int_row,
        _float_row,
        _int_grid,
        *(_float_row,) * 4,
        _float_grid,
        *(int64,) * 4,
        *(boolean,) * 2,
        int64,
        *(float32,) * 2,
    )
)
def _backward(
    grad,
    keep_u,
    keep_v,
    threshold,
    unit,
    membranes,
    g_u,
    g_v,
    g_bias,
    g_leak,
    grad_x,
    begin,
    end,
    first,
    last,
    spikes,
    subtract,
    surrogate,
    inner,
    outer,
):
    width = len(keep_u)
    th = np.empty(BLOCK, np.int32)
    ku, kv = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    per, to = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    wide = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        for i in range(n):
            column = (start + i) % width
            th[i] = threshold[column]
            ku[i], kv[i] = float32(keep_u[column] / 4096.0), float32(keep_v[column] / 4096.0)
            per[i] = float32(1.0) / unit[column]
            to[i] = float32(64.0) * per[i]  # a unit of input is 64 of the membrane
        gu, gv = g_u[start : start + n], g_v[start : start + n]
        gb, gl = g_bias[start : start + n], g_leak[start : start + n]
        for t in range(end - 1, begin - 1, -1):
            row, kept, found = (
                grad[t, start : start + n],
                membranes[t, start : start + n],
                grad_x[t, start : start + n],
            )
            if spikes:
                for i in range(n):
                    wide[i] = float32(int32(kept[i] - th[i])) * per[i]
                _flatten(wide, n, surrogate, inner, outer, float32(1.0))
                if subtract:
                    for i in range(n):
                        lost = float32(th[i]) * per[i]
                        gv[i] = gv[i] + (row[i] - gv[i] * lost) / wide[i]
                else:
                    for i in range(n):
                        level = float32(kept[i]) * per[i]
                        stays = float32(0.0) if kept[i] > th[i] else float32(1.0)
                        gv[i] = gv[i] * stays + (row[i] - gv[i] * level) / wide[i]
            else:
                for i in range(n):  # what a read-out gives is its membrane in integer units
                    gv[i] += row[i] / per[i]
            if t > 0:
                before = membranes[t - 1, start : start + n]
                for i in range(n):
                    fired = spikes and before[i] > th[i]
                    after = int32(before[i] - th[i]) if subtract else int32(0)
                    gl[i] -= gv[i] * (float32(after if fired else before[i]) * per[i])
            for i in range(n):
                gb[i] += gv[i]
                gu[i] += gv[i]
                found[i] = gu[i] * to[i]
                gu[i] *= ku[i]
                gv[i] *= kv[i]


def forward(
    x: Tensor, integers: Integers, u: Tensor, v: Tensor, out: Tensor, membranes: Tensor, begin: int, end: int
) -> None:
    """Steps begin to end of x (T, neurons) into out and membranes; u, v (neurons,) are the state before, then behind."""
    constants = (integers.keep_u, integers.keep_v, integers.threshold, integers.bias)
    arrays = [tensor.numpy() for tensor in (x, *constants, u, v, out, membranes)]
    flags = (bool(integers.keep_u.any()), integers.spikes, integers.subtract)
    in_parts(len(u), lambda first, last: _forward(*arrays, begin, end, first, last, *flags))


def backward(
    grad: Tensor,
    integers: Integers,
    membranes: Tensor,
    g_u: Tensor,
    g_v: Tensor,
    g_bias: Tensor,
    g_leak: Tensor,
    grad_x: Tensor,
    begin: int,
    end: int,
) -> None:
    """Steps end - 1 down to begin: the gradients of x into grad_x. g_u, g_v (neurons,): of current and membrane behind
    the last of these steps, then before the first; g_bias, g_leak are added to."""
    constants = (integers.keep_u, integers.keep_v, integers.threshold, integers.unit)
    tensors = (grad, *constants, membranes, g_u, g_v, g_bias, g_leak, grad_x)
    arrays = [tensor.numpy() for tensor in tensors]
    inner, outer = (np.float32(factor) for factor in integers.surrogate.factors)
    flags = (integers.spikes, integers.subtract, integers.surrogate.number, inner, outer)
    in_parts(len(g_u), lambda first, last: _backward(*arrays, begin, end, first, last, *flags))
