"""The compiled inner loops of `hardware.simulate.float_simulator`: one sample through a graph, from first step to last.

One row of a table per node; rows name weights and records by their address, as in `hardware.simulate.kernels`, whose
layout of convolutions is used. All values lie in one array, node after node, each either in the C order of its shape
(outside) or, where a convolution leads to it, by (row, column, channel) (inside). A step's values that are not zero are
also listed, by their number outside: matrices, convolutions and pooling take those.

Every node computes what `hardware.simulate.reference` does, operation by operation; only sums run in another order.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import float64, int32, int64, njit, types, void
from numba.extending import intrinsic

from hardware.simulate import kernels
from hardware.simulate.kernels import (
    CONV,
    DENSE,
    G_CHANNELS,
    G_GROUP_IN,
    G_GROUP_OUT,
    G_HEAD,
    G_HEIGHT,
    G_ROWS,
    G_SLOTS,
    G_WIDTH,
    G_XRUNS,
    G_YRUNS,
    SPARSE16,
)
from hardware.simulate.vectors import adding, cast_to, lowest_bit, quotient

# Columns of the table of nodes. Addresses end in _AT; 0: there is none.
(
    N_KIND,
    N_FIRST,  # place of its first value
    N_SIZE,
    N_SOURCE,  # the node whose values it takes as they lie; -1: what its edges bring is gathered first
    N_EDGES,  # its edges are rows N_EDGES to N_EDGES_END
    N_EDGES_END,
    N_GATHERED,  # place of what is gathered; of an Input: its row of in_ptr
    N_IN_SIZE,
    N_FIRES,
    N_LISTED,  # whether a list of its values is wanted, and all of them, zeros too
    N_DENSE,
    N_UNIFORM,  # whether all its neurons have the same constants
    N_FORM,
    N_WEIGHT_AT,
    N_POST_AT,
    N_PTR_AT,
    N_GEOMETRY_AT,
    N_BIAS_AT,
    N_DIVISOR,  # of an average
    N_STEPS_AT,  # of a delay: each neuron's, the longest plus one, place of the history
    N_DEPTH,
    N_HISTORY,
    N_SPIKES_AT,
    N_VALUES_AT,
    N_MEMBRANES_AT,
    N_COUNTS_AT,
    N_INSIDE,  # whether membranes are recorded in the order inside
    N_COLUMNS,
) = range(28)
INPUT, SUM, MATRIX, CONVOLUTION, POOL, SCALE, THRESHOLD, DELAY, INTEGRATE, LEAK, CURRENT = range(11)
SILENT, TO_RESET, SUBTRACT = range(3)
# Of an edge: the source, and which of its values each value here takes (0: the same place).
E_SOURCE, E_MAP_AT, E_COLUMNS = range(3)
# Of pooling.
(
    W_HEIGHT,
    W_WIDTH,
    W_OUT_HEIGHT,
    W_OUT_WIDTH,
    W_ROWS,
    W_COLUMNS,
    W_STRIDE_Y,
    W_STRIDE_X,
    W_PAD_Y,
    W_PAD_X,
) = range(10)
# Rows of the table of constants, per neuron.
C_SHARE, C_R, C_LEAK, C_THRESHOLD, C_RESET, C_SYN_SHARE, C_W_IN, C_ROWS = range(8)

# Neurons whose spikes are looked for at once.
_LANES = 8
_float64_at = cast_to(types.float64)
_uint8_at = cast_to(types.uint8)
_int32_at = cast_to(types.int32)
_int64_at = cast_to(types.int64)


_add_8, _add_4 = (adding(lanes, floats=True) for lanes in (8, 4))


def _firing(typingctx, membranes, thresholds, resets, subtracting):  # type: ignore[no-untyped-def]
    """Of 8 membranes, thresholds and values of a reset at three addresses: bit i is set where membrane i is above its threshold; it
    becomes that value then, or (subtracting) is lowered by it."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lanes = ir.VectorType(ir.DoubleType(), _LANES)
        at = builder.inttoptr(args[0], lanes.as_pointer())
        v = builder.load(at, align=8)
        threshold, reset = (
            builder.load(builder.inttoptr(address, lanes.as_pointer()), align=8) for address in args[1:3]
        )
        fired = builder.fcmp_ordered(">", v, threshold)
        left = builder.select(args[3], builder.fsub(v, reset), reset)
        builder.store(builder.select(fired, left, v), at, align=8)
        return builder.zext(builder.bitcast(fired, ir.IntType(_LANES)), ir.IntType(64))

    return types.int64(types.int64, types.int64, types.int64, types.boolean), codegen


_fire_8: Any = intrinsic(_firing)


@njit(inline="always")
def _add_run(sums, weights, n):
    """n weights at an address, added to n sums at another, all float64."""
    s = 0
    while s + 8 <= n:
        _add_8(sums + 8 * s, weights + 8 * s)
        s += 8
    if s + 4 <= n:
        _add_4(sums + 8 * s, weights + 8 * s)
        s += 4
    to, ww = _float64_at(sums), _float64_at(weights)
    for i in range(s, n):
        to[i] = to[i] + ww[i]


@njit(inline="always")
def _neurons(kind, uniform, first, size, at, y, v, current, constants):  # type: ignore[no-untyped-def]
    """The membranes of a step, before reset; its input lies at `at`. In the order of `reference`'s step functions."""
    shift = at - first
    if kind == INTEGRATE:
        if uniform:
            r = constants[C_R, first]
            for i in range(first, first + size):
                v[i] = v[i] + r * y[i + shift]
        else:
            for i in range(first, first + size):
                v[i] = v[i] + constants[C_R, i] * y[i + shift]
        return
    if kind == CURRENT:
        for i in range(first, first + size):
            drive = constants[C_W_IN, i] * y[i + shift] - current[i]
            current[i] = current[i] + constants[C_SYN_SHARE, i] * drive
        if uniform:
            share, r, leak = constants[C_SHARE, first], constants[C_R, first], constants[C_LEAK, first]
            for i in range(first, first + size):
                v[i] = v[i] + share * (r * current[i] + leak - v[i])
        else:
            for i in range(first, first + size):
                drive = constants[C_R, i] * current[i] + constants[C_LEAK, i] - v[i]
                v[i] = v[i] + constants[C_SHARE, i] * drive
        return
    if uniform:
        share, r, leak = constants[C_SHARE, first], constants[C_R, first], constants[C_LEAK, first]
        for i in range(first, first + size):
            v[i] = v[i] + share * (r * y[i + shift] + leak - v[i])
    else:
        for i in range(first, first + size):
            drive = constants[C_R, i] * y[i + shift] + constants[C_LEAK, i] - v[i]
            v[i] = v[i] + constants[C_SHARE, i] * drive


def _compiled(function):  # type: ignore[no-untyped-def]
    signature = void(
        int64,
        int64[:, ::1],
        int64[:, ::1],
        int64[:, ::1],
        int32[::1],
        float64[::1],
        int32[::1],
        float64[:, ::1],
        float64[::1],
        float64[::1],
        float64[::1],
        float64[::1],
        int32[::1],
        float64[::1],
        int64[::1],
        int32[:, ::1],
    )
    return kernels.cached(signature, function)


@functools.cache
def sample_kernel():  # type: ignore[no-untyped-def]
    """`run_sample`, compiled or read from the cache once."""
    return _compiled(run_sample)


def run_sample(
    steps,
    nodes,
    edges,
    in_ptr,
    in_index,
    in_value,
    outside,
    constants,
    y,
    v,
    current,
    history,
    index,
    value,
    listed,
    room,
):
    """Simulate one sample.

    in_ptr: (inputs, steps + 1), where each step's entries lie in in_index and in_value. outside: a value's number
    outside. constants: (C_ROWS, values). y: all values, those gathered too. v, current: at rest. history: of delays,
    zeros. index, value: lists of values, at their node's place; listed: their lengths. room: (3, most of a list).
    """
    y_at, v_at = y.ctypes.data, v.ctypes.data
    threshold_at, reset_at = constants[C_THRESHOLD].ctypes.data, constants[C_RESET].ctypes.data
    for t in range(steps):
        for p in range(nodes.shape[0]):
            kind = nodes[p, N_KIND]
            first = nodes[p, N_FIRST]
            size = nodes[p, N_SIZE]
            n = 0
            # --- what arrives: values from `at` on, and for linear nodes the m that are not zero
            source = nodes[p, N_SOURCE]
            at = nodes[source, N_FIRST] if source >= 0 else nodes[p, N_GATHERED]
            if source < 0 and kind != INPUT:
                for e in range(nodes[p, N_EDGES], nodes[p, N_EDGES_END]):
                    begin = nodes[edges[e, E_SOURCE], N_FIRST]
                    places = _int32_at(edges[e, E_MAP_AT])
                    fresh = e == nodes[p, N_EDGES]
                    for i in range(nodes[p, N_IN_SIZE]):
                        j = int64(places[i]) if edges[e, E_MAP_AT] != 0 else i
                        y[at + i] = y[begin + j] if fresh else y[at + i] + y[begin + j]
            if kind == INPUT:
                start = in_ptr[at, t]
                n = in_ptr[at, t + 1] - start
                for k in range(n):
                    index[first + k] = in_index[start + k]
                    value[first + k] = in_value[start + k]
                if nodes[p, N_DENSE] != 0:
                    for i in range(first, first + size):
                        y[i] = 0.0
                    for k in range(n):
                        y[first + index[first + k]] = value[first + k]
            elif kind >= MATRIX and kind <= POOL:
                m = listed[source] if source >= 0 else 0
                if source < 0:
                    for i in range(nodes[p, N_IN_SIZE]):
                        if y[at + i] != 0.0:
                            index[at + m] = int32(i)
                            value[at + m] = y[at + i]
                            m += 1
                for i in range(first, first + size):
                    y[i] = 0.0
                form = nodes[p, N_FORM]
                if kind == POOL:
                    g = _int64_at(nodes[p, N_GEOMETRY_AT])
                    area = g[W_HEIGHT] * g[W_WIDTH]
                    for k in range(m):
                        c = value[at + k]
                        channel = index[at + k] // area
                        place = index[at + k] - channel * area
                        row = place // g[W_WIDTH]
                        column = place - row * g[W_WIDTH] + g[W_PAD_X]
                        row += g[W_PAD_Y]
                        low_y = max(int64(0), (row - g[W_ROWS]) // g[W_STRIDE_Y] + 1)
                        high_y = min(g[W_OUT_HEIGHT] - 1, row // g[W_STRIDE_Y])
                        low_x = max(int64(0), (column - g[W_COLUMNS]) // g[W_STRIDE_X] + 1)
                        high_x = min(g[W_OUT_WIDTH] - 1, column // g[W_STRIDE_X])
                        for oy in range(low_y, high_y + 1):
                            base = first + (channel * g[W_OUT_HEIGHT] + oy) * g[W_OUT_WIDTH]
                            for ox in range(low_x, high_x + 1):
                                y[base + ox] += c
                    if nodes[p, N_DIVISOR] != 0:
                        divisor = float64(nodes[p, N_DIVISOR])
                        for i in range(first, first + size):
                            y[i] = y[i] / divisor
                elif form == DENSE:
                    for k in range(m):
                        w = _float64_at(nodes[p, N_WEIGHT_AT] + 8 * size * index[at + k])
                        c = value[at + k]
                        if c == 1.0:
                            for i in range(size):
                                y[first + i] += w[i]
                        else:
                            for i in range(size):
                                y[first + i] += w[i] * c
                elif form == SPARSE16:
                    ptr = _int64_at(nodes[p, N_PTR_AT])
                    post = _int32_at(nodes[p, N_POST_AT])
                    w = _float64_at(nodes[p, N_WEIGHT_AT])
                    for k in range(m):
                        c = value[at + k]
                        j = index[at + k]
                        for s in range(ptr[j], ptr[j + 1]):
                            y[first + post[s]] += w[s] * c
                else:
                    g = _int64_at(nodes[p, N_GEOMETRY_AT])
                    height, width = g[G_HEIGHT], g[G_WIDTH]
                    channels = g[G_CHANNELS]
                    rows, slots = g[G_ROWS], g[G_SLOTS]
                    group_out = g[G_GROUP_OUT]
                    y_ptr = _int64_at(nodes[p, N_GEOMETRY_AT] + 8 * G_HEAD)
                    x_ptr = _int64_at(nodes[p, N_GEOMETRY_AT] + 8 * (G_HEAD + height + 1))
                    y_runs = _int64_at(nodes[p, N_GEOMETRY_AT] + 8 * g[G_YRUNS])
                    x_runs = _int64_at(nodes[p, N_GEOMETRY_AT] + 8 * g[G_XRUNS])
                    w = _float64_at(nodes[p, N_WEIGHT_AT])
                    ptr = _int64_at(nodes[p, N_PTR_AT])
                    post = _int32_at(nodes[p, N_POST_AT])
                    area = int32(height * width)
                    by_area, by_width = 1.0 / float64(area), 1.0 / float64(width)
                    one_group = group_out == channels
                    for k in range(m):  # all at once, in vectors: what follows branches on them
                        outer = quotient(index[at + k], by_area)
                        room[0, k], room[1, k] = outer, index[at + k] - outer * area
                        room[2, k] = quotient(room[1, k], by_width)
                    for k in range(m):
                        c = value[at + k]
                        channel, row_in = int64(room[0, k]), int64(room[2, k])
                        column_in = room[1, k] - row_in * width
                        offset = 0 if one_group else (channel // g[G_GROUP_IN]) * group_out
                        first_tap = channel * rows * slots
                        for yr in range(y_ptr[row_in], y_ptr[row_in + 1]):
                            row = first_tap + y_runs[2 * yr + 1]
                            out_row = first + y_runs[2 * yr]
                            for xr in range(x_ptr[column_in], x_ptr[column_in + 1]):
                                base = out_row + x_runs[3 * xr]
                                tap = row + x_runs[3 * xr + 1]
                                taps = x_runs[3 * xr + 2]
                                if form == CONV:
                                    ww = _float64_at(nodes[p, N_WEIGHT_AT] + 8 * tap * group_out)
                                    to = base + offset
                                    if c == 1.0:
                                        weights = nodes[p, N_WEIGHT_AT] + 8 * tap * group_out
                                        _add_run(y_at + 8 * to, weights, taps * group_out)
                                    else:
                                        for s in range(taps * group_out):
                                            y[to + s] += ww[s] * c
                                else:
                                    to = base - x_runs[3 * xr + 1] * channels
                                    for s in range(ptr[tap], ptr[tap + taps]):
                                        y[to + post[s]] += w[s] * c
                if nodes[p, N_BIAS_AT] != 0:
                    bias = _float64_at(nodes[p, N_BIAS_AT])
                    for i in range(size):
                        y[first + i] = y[first + i] + bias[i]
            elif kind == SUM:
                for i in range(size):
                    y[first + i] = y[at + i]
            elif kind == SCALE:
                for i in range(size):
                    y[first + i] = y[at + i] * constants[C_R, first + i]
            elif kind == THRESHOLD:
                for i in range(size):
                    y[first + i] = 1.0 if y[at + i] > constants[C_THRESHOLD, first + i] else 0.0
            elif kind == DELAY:
                late = _int64_at(nodes[p, N_STEPS_AT])
                depth = nodes[p, N_DEPTH]
                place = nodes[p, N_HISTORY]
                for i in range(size):
                    history[place + (t % depth) * size + i] = y[at + i]
                for i in range(size):
                    old = (t + depth - late[i]) % depth
                    y[first + i] = history[place + old * size + i]
            else:
                _neurons(kind, nodes[p, N_UNIFORM] != 0, first, size, at, y, v, current, constants)
                if nodes[p, N_MEMBRANES_AT] != 0:
                    membranes = _float64_at(nodes[p, N_MEMBRANES_AT] + 8 * t * size)
                    if nodes[p, N_INSIDE] != 0:
                        for i in range(size):
                            membranes[i] = v[first + i]
                    else:
                        for i in range(first, first + size):
                            membranes[outside[i]] = v[i]
                fires = nodes[p, N_FIRES]
                dense = nodes[p, N_DENSE] != 0
                if fires == SILENT:
                    for i in range(first, first + size):
                        y[i] = v[i]
                else:
                    if dense:
                        for i in range(first, first + size):
                            y[i] = 0.0
                    subtracting = fires == SUBTRACT
                    whole = size - size % _LANES
                    for block in range(first, first + whole, _LANES):
                        # Of neurons with the same constants the first ones are read.
                        own = 8 * (first if nodes[p, N_UNIFORM] != 0 else block)
                        fired = _fire_8(v_at + 8 * block, threshold_at + own, reset_at + own, subtracting)
                        while fired != 0:
                            index[first + n] = block + lowest_bit(fired)
                            n += 1
                            fired &= fired - 1
                    for i in range(first + whole, first + size):
                        if v[i] > constants[C_THRESHOLD, i]:
                            reset = constants[C_RESET, i]
                            v[i] = v[i] - reset if subtracting else reset
                            index[first + n] = i
                            n += 1
                    for k in range(first, first + n):
                        if dense:
                            y[index[k]] = 1.0
                        index[k] = outside[index[k]]
                        value[k] = 1.0
                    if nodes[p, N_SPIKES_AT] != 0:
                        spikes = _uint8_at(nodes[p, N_SPIKES_AT] + t * size)
                        for k in range(n):
                            spikes[index[first + k]] = 1
                    counts = _int64_at(nodes[p, N_COUNTS_AT])
                    for k in range(n):
                        counts[index[first + k]] += 1
                    listed[p] = n
            # --- lists and records
            if nodes[p, N_VALUES_AT] != 0:
                values = _float64_at(nodes[p, N_VALUES_AT] + 8 * t * size)
                for i in range(first, first + size):
                    values[outside[i]] = y[i]
            if kind == INPUT:
                listed[p] = n
            elif nodes[p, N_LISTED] != 0 and nodes[p, N_FIRES] == SILENT:
                for i in range(first, first + size):
                    if y[i] != 0.0:
                        index[first + n] = outside[i]
                        value[first + n] = y[i]
                        n += 1
                listed[p] = n
