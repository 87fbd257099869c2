"""The compiled inner loops of `hardware.simulate.simulator`: one sample of one network, from first step to last.

A network arrives as two tables of integers, one row per population and one per link (a projection, or the
part of one that has the same delay). Rows name arrays by their address, so that any number of arrays of any
size reach one compiled function without being copied together; `hardware.simulate.simulator` keeps them alive.

Neurons have two numberings: outside C order of the population's shape; inside, where a convolution leads to
the population, (row, column, channel), so that what one spike adds to lies side by side in memory. Here all but records of spikes, u and v
is inside, also the order of what a link keeps of each source neuron.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import float64, int16, int32, int64, njit, types, uint32, void
from numba.extending import intrinsic

from hardware.compiled import jit
from hardware.network.integer import INPUT_SHIFT, STATE_LIMIT
from hardware.simulate.rowwise import add_rows
from hardware.simulate.vectors import add_run, cast_to, lowest_bit, prefetch, quotient

# Columns of the table of populations. Addresses end in _AT; 0: not wanted.
(
    P_FIRST,  # place of its first neuron in the arrays over all neurons
    P_SIZE,
    P_KIND,
    P_RING,  # place of its slots of synaptic input to come in `ring`
    P_SLOTS,
    P_DU,  # kind of decay of u, of v
    P_DV,
    P_RESET,  # u and v are zeroed where the step (from 0) modulo the interval is this; -1: never
    P_LINKS,  # its links are rows P_LINKS to P_LINKS_END
    P_LINKS_END,
    P_SPIKES_AT,
    P_U_AT,
    P_V_AT,
    P_UNIFORM,  # whether its neurons have the same constants
    P_INSIDE,  # whether u and v are recorded in the order inside
    P_COLUMNS,
) = range(16)
INPUT, SPIKING, SUBTRACTING, INTEGRATOR = range(4)  # SPIKING: reset to zero
DECAY, KEEP, FORGET = range(3)

# Columns of the table of links.
(
    L_KIND,
    L_TARGET,
    L_LATENCY,
    L_EXP,
    L_STAGED,  # whether its sum needs an exponent or a wrap before it is added to others
    L_WRAP,
    L_WEIGHT_AT,
    L_POST_AT,
    L_PTR_AT,
    L_DEGREE_AT,
    L_GEOMETRY_AT,
    L_CHANNELS,  # of a convolution's source
    L_ROWS_FROM,  # spikes, of one each, from which on a convolution is run row by row; see `rowwise`
    L_ROWS_AT,
    L_ROWS_WEIGHT_AT,
    L_COLUMNS,
) = range(16)
# PACKED: a synapse is 32 bit, the upper half its post neuron, the lower its weight.
DENSE, SPARSE8, SPARSE16, PACKED, CONV, CONV_SPARSE = range(6)
MAX_PACKED_POST = 2**16

# Of a convolution's geometry: these, then where the runs of each input row and column start, then the runs.
(
    G_HEIGHT,
    G_WIDTH,
    G_CHANNELS,
    G_GROUP_IN,
    G_GROUP_OUT,
    G_ROWS,
    G_SLOTS,
    G_YRUNS,
    G_XRUNS,
    G_HEAD,
) = range(10)

# Neurons that are taken from current to spike together, and those whose spikes are looked for at once.
BLOCK = 256
_LANES = 16
# Packed synapses in a cache line.
_LINE = 16


_uint8_at = cast_to(types.uint8)
_int8_at = cast_to(types.int8)
_int16_at = cast_to(types.int16)
_int32_at = cast_to(types.int32)
_int64_at = cast_to(types.int64)


def _firing(typingctx, membranes, thresholds, subtracting):  # type: ignore[no-untyped-def]
    """Of 16 membranes and thresholds at two addresses: bit i is set where membrane i is above its threshold; it is reset then."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lanes = ir.VectorType(ir.IntType(32), 16)
        at = builder.inttoptr(args[0], lanes.as_pointer())
        v = builder.load(at, align=4)
        threshold = builder.load(builder.inttoptr(args[1], lanes.as_pointer()), align=4)
        fired = builder.icmp_signed(">", v, threshold)
        left = builder.select(args[2], builder.sub(v, threshold), ir.Constant(lanes, None))
        builder.store(builder.select(fired, left, v), at, align=4)
        return builder.zext(builder.bitcast(fired, ir.IntType(16)), ir.IntType(64))

    return types.int64(types.int64, types.int64, types.boolean), codegen


_fire_16: Any = intrinsic(_firing)


@njit(inline="always")
def _scaled(x, factor):
    """sgn(x) * ((|x| * factor) >> 12) without leaving 32 bit: |x| in a high part and the low 12 bits."""
    m = int32(x if x >= 0 else -x)
    low = int32(int32(int32(m & int32(4095)) * factor) >> int32(12))
    m = int32(int32(int32(m >> int32(12)) * factor) + low)
    return int32(m if x >= 0 else -m)


@njit(inline="always")
def _wrapped(x):
    """A current within its 24 bits, as lava-nc wraps it: once, and 2**23 stays."""
    down = int32(x - 2 * STATE_LIMIT) if x > STATE_LIMIT else x
    return int32(x + 2 * STATE_LIMIT) if x <= -STATE_LIMIT else down


@njit(inline="always")
def _limited(x):
    """A membrane within its limits."""
    high = int32(STATE_LIMIT - 1) if x > STATE_LIMIT - 1 else x
    return int32(1 - STATE_LIMIT) if high < 1 - STATE_LIMIT else high


def cached(signature, function):  # type: ignore[no-untyped-def]
    """Compiled at once, and kept on disk."""
    return jit(signature, nogil=True, boundscheck=False)(function)


def _compiled(function):  # type: ignore[no-untyped-def]
    signature = void(
        int64,
        int64,
        int64,
        int64,
        int64,
        int64[:, ::1],
        int64[:, ::1],
        int64[::1],
        int64[:, ::1],
        int64[:, ::1],
        int64[:, ::1],
    )
    return cached(signature, function)


@functools.cache
def sample_kernel():  # type: ignore[no-untyped-def]
    """`run_sample`, compiled or read from the cache once; not as this is imported, which some do to count and never to simulate."""
    return _compiled(run_sample)


def run_sample(
    begin, end, first_pop, last_pop, interval, pops, links, state, in_ptr, spike_counts, event_counts
):
    """Simulate one sample from step `begin` to `end`, of the populations from first_pop to last_pop; what was before is in the state.

    interval: steps between resets. state: addresses of 4095 - du, 4096 - dv, vth << 6 and bias of every neuron, of the arrays below,
    of room for the currents of a block, for three numbers of each neuron that spiked, and for `add_rows`. in_ptr: (inputs, steps + 1), where
    each step's entries lie in in_index and in_value. spike_counts, event_counts: (populations, steps).
    """
    outside = _int32_at(state[4])  # a neuron's number outside
    u = _int32_at(state[5])
    v = _int32_at(state[6])
    ring = _int32_at(state[7])
    index = _int32_at(state[8])  # neurons that spiked in this step
    value = _int32_at(state[9])
    staging = _int32_at(state[10])
    counts = _int32_at(state[11])  # spikes of each neuron
    in_index = _int32_at(state[12])
    in_value = _int32_at(state[13])
    at_channel = _int32_at(state[15])  # of the neurons that spiked, in an image
    at_row = _int32_at(state[16])
    at_place = _int32_at(state[17])

    for t in range(begin, end):
        for p in range(first_pop, last_pop):
            first = pops[p, P_FIRST]
            size = pops[p, P_SIZE]
            kind = pops[p, P_KIND]
            n = 0
            total = 0
            if kind == INPUT:
                start = in_ptr[p, t]
                n = in_ptr[p, t + 1] - start
                for k in range(n):
                    index[k] = in_index[start + k]
                    value[k] = in_value[start + k]
                    total += in_value[start + k]
            else:
                slots = pops[p, P_SLOTS]
                slot = pops[p, P_RING] + (t % slots) * size
                if interval > 0 and t % interval == pops[p, P_RESET]:
                    for i in range(first, first + size):
                        u[i] = 0
                        v[i] = 0
                # --- blocks of neurons, which stay in the nearest cache from current to spike
                decay, leak = pops[p, P_DU], pops[p, P_DV]
                # A current without memory is kept only where it is recorded.
                forgotten = decay == FORGET and pops[p, P_U_AT] == 0
                for block in range(0, size, BLOCK):
                    m = min(BLOCK, size - block)
                    at = 4 * (first + block)
                    # Of neurons with the same constants the first block's are read.
                    own = 4 * first if pops[p, P_UNIFORM] != 0 else at
                    current = _int32_at(state[14] if forgotten else state[5] + at)
                    membrane = _int32_at(state[6] + at)
                    arrived = _int32_at(state[7] + 4 * (slot + block))
                    bias = _int32_at(state[3] + own)
                    if decay == FORGET:
                        for i in range(m):
                            current[i] = _wrapped(int32(arrived[i] << INPUT_SHIFT))
                            arrived[i] = 0
                    else:
                        keep = _int32_at(state[0] + own)
                        for i in range(m):
                            old = int32(_scaled(current[i], keep[i]))
                            current[i] = _wrapped(int32(old + int32(arrived[i] << INPUT_SHIFT)))
                            arrived[i] = 0
                    if leak == KEEP:
                        for i in range(m):
                            membrane[i] = _limited(int32(int32(membrane[i] + current[i]) + bias[i]))
                    elif leak == FORGET:
                        for i in range(m):
                            membrane[i] = _limited(int32(current[i] + bias[i]))
                    else:
                        keep = _int32_at(state[1] + own)
                        for i in range(m):
                            left = int32(_scaled(membrane[i], keep[i]))
                            membrane[i] = _limited(int32(int32(left + current[i]) + bias[i]))
                    if kind == INTEGRATOR:
                        continue
                    subtracting = kind == SUBTRACTING
                    whole = m - m % _LANES
                    # Of 64 neurons at once: how often the loop over spikes turns is hard to foresee.
                    for lane in range(0, whole, 4 * _LANES):
                        v_at, vth_at = state[6] + at + 4 * lane, state[2] + own + 4 * lane
                        fired = _fire_16(v_at, vth_at, subtracting)
                        if lane + 4 * _LANES <= whole:
                            fired |= _fire_16(v_at + 64, vth_at + 64, subtracting) << 16
                            fired |= _fire_16(v_at + 128, vth_at + 128, subtracting) << 32
                            fired |= _fire_16(v_at + 192, vth_at + 192, subtracting) << 48
                        else:
                            for part in range(_LANES, whole - lane, _LANES):
                                fired |= _fire_16(v_at + 4 * part, vth_at + 4 * part, subtracting) << part
                        while fired != 0:
                            index[n] = block + lane + lowest_bit(fired)
                            n += 1
                            fired &= fired - 1
                    threshold = _int32_at(state[2] + own)
                    for i in range(whole, m):
                        if membrane[i] > threshold[i]:
                            membrane[i] = int32(membrane[i] - threshold[i]) if subtracting else int32(0)
                            index[n] = block + i
                            n += 1
                for k in range(n):
                    value[k] = 1
                total = n
                # --- records
                at = t * size
                if pops[p, P_SPIKES_AT] != 0:
                    spikes = _uint8_at(pops[p, P_SPIKES_AT])
                    for k in range(n):
                        spikes[at + outside[first + index[k]]] = 1
                for k in range(n):
                    counts[first + index[k]] += 1
                if pops[p, P_U_AT] != 0:
                    us = _int32_at(pops[p, P_U_AT] + 4 * at)
                    if pops[p, P_INSIDE] != 0:
                        for i in range(size):
                            us[i] = u[first + i]
                    else:
                        for i in range(first, first + size):
                            us[outside[i]] = u[i]
                if pops[p, P_V_AT] != 0:
                    vs = _int32_at(pops[p, P_V_AT] + 4 * at)
                    if pops[p, P_INSIDE] != 0:
                        for i in range(size):
                            vs[i] = v[first + i]
                    else:
                        for i in range(first, first + size):
                            vs[outside[i]] = v[i]
            spike_counts[p, t] = total
            if n == 0:
                continue
            for link in range(pops[p, P_LINKS], pops[p, P_LINKS_END]):
                target = links[link, L_TARGET]
                n_post = pops[target, P_SIZE]
                slots = pops[target, P_SLOTS]
                slot = pops[target, P_RING] + ((t + links[link, L_LATENCY]) % slots) * n_post
                staged = links[link, L_STAGED] != 0
                acc_at = state[10] if staged else state[7] + 4 * slot
                acc = _int32_at(acc_at)
                degree = _int32_at(links[link, L_DEGREE_AT])
                events = 0
                for k in range(n):
                    events += degree[index[k]]
                event_counts[target, t] += events
                form = links[link, L_KIND]
                if form == DENSE:
                    for k in range(n):
                        w = _int16_at(links[link, L_WEIGHT_AT] + 2 * n_post * index[k])
                        c = value[k]
                        if c == 1:
                            add_run(acc_at, links[link, L_WEIGHT_AT] + 2 * n_post * index[k], n_post)
                        else:
                            for j in range(n_post):
                                acc[j] = int32(acc[j] + int32(w[j] * c))
                elif form == PACKED:
                    ptr = _int64_at(links[link, L_PTR_AT])
                    packed = _int32_at(links[link, L_WEIGHT_AT])
                    for k in range(n):
                        c = value[k]
                        s = ptr[index[k]]
                        end = ptr[index[k] + 1]
                        # Rows lie far apart: fetch the next while this one is added.
                        ahead = links[link, L_WEIGHT_AT] + 4 * ptr[index[min(k + 1, n - 1)]]
                        if c == 1:
                            while s + _LINE <= end:
                                prefetch(ahead)  # type: ignore[call-arg]
                                ahead += 4 * _LINE
                                for i in range(s, s + _LINE):
                                    x = packed[i]
                                    j = uint32(x) >> uint32(16)
                                    acc[j] = int32(acc[j] + int32(int16(x)))
                                s += _LINE
                        for i in range(s, end):
                            x = packed[i]
                            j = uint32(x) >> uint32(16)
                            acc[j] = int32(acc[j] + int32(int32(int16(x)) * c))
                elif form in (SPARSE8, SPARSE16):
                    ptr = _int64_at(links[link, L_PTR_AT])
                    post = _int32_at(links[link, L_POST_AT])
                    w8 = _int8_at(links[link, L_WEIGHT_AT])
                    w16 = _int16_at(links[link, L_WEIGHT_AT])
                    for k in range(n):
                        j = index[k]
                        c = value[k]
                        if form == SPARSE8:
                            for s in range(ptr[j], ptr[j + 1]):
                                acc[post[s]] = int32(acc[post[s]] + int32(w8[s] * c))
                        else:
                            for s in range(ptr[j], ptr[j + 1]):
                                acc[post[s]] = int32(acc[post[s]] + int32(w16[s] * c))
                elif n >= links[link, L_ROWS_FROM] and total == n:
                    add_rows(
                        links[link, L_ROWS_AT], links[link, L_ROWS_WEIGHT_AT], state[8], n, state[15], state[16], state[17], state[18], state[19], acc_at
                    )  # fmt: skip
                else:
                    g = _int64_at(links[link, L_GEOMETRY_AT])
                    height, width = g[G_HEIGHT], g[G_WIDTH]
                    channels = g[G_CHANNELS]
                    rows, kernel_slots = g[G_ROWS], g[G_SLOTS]
                    group_out = g[G_GROUP_OUT]
                    y_ptr = _int64_at(links[link, L_GEOMETRY_AT] + 8 * G_HEAD)
                    x_ptr = _int64_at(links[link, L_GEOMETRY_AT] + 8 * (G_HEAD + height + 1))
                    y_runs = _int64_at(links[link, L_GEOMETRY_AT] + 8 * g[G_YRUNS])
                    x_runs = _int64_at(links[link, L_GEOMETRY_AT] + 8 * g[G_XRUNS])
                    w = _int16_at(links[link, L_WEIGHT_AT])
                    ptr = _int64_at(links[link, L_PTR_AT])
                    post = _int32_at(links[link, L_POST_AT])
                    within = links[link, L_CHANNELS]
                    one_group = group_out == channels
                    # All at once, in vectors: a table of places would not stay in the cache, and what follows branches on them.
                    by_channels = 1.0 / float64(within)
                    by_width = 1.0 / float64(width)
                    for k in range(n):
                        at_place[k] = quotient(index[k], by_channels)
                        at_row[k] = quotient(at_place[k], by_width)
                        at_channel[k] = index[k] - at_place[k] * int32(within)
                    for k in range(n):
                        c = value[k]
                        channel, y = int64(at_channel[k]), int64(at_row[k])
                        x = at_place[k] - y * width
                        offset = 0 if one_group else (channel // g[G_GROUP_IN]) * group_out
                        first_tap = channel * rows * kernel_slots
                        for yr in range(y_ptr[y], y_ptr[y + 1]):
                            row = first_tap + y_runs[2 * yr + 1]
                            out_row = y_runs[2 * yr]
                            for xr in range(x_ptr[x], x_ptr[x + 1]):
                                base = out_row + x_runs[3 * xr]
                                tap = row + x_runs[3 * xr + 1]
                                taps = x_runs[3 * xr + 2]
                                if form == CONV:
                                    ww = _int16_at(links[link, L_WEIGHT_AT] + 2 * tap * group_out)
                                    to = base + offset
                                    if c == 1:
                                        weights = links[link, L_WEIGHT_AT] + 2 * tap * group_out
                                        add_run(acc_at + 4 * to, weights, taps * group_out)
                                    else:
                                        for s in range(taps * group_out):
                                            acc[to + s] = int32(acc[to + s] + int32(ww[s] * c))
                                else:
                                    to = base - x_runs[3 * xr + 1] * channels
                                    for s in range(ptr[tap], ptr[tap + taps]):
                                        acc[to + post[s]] = int32(acc[to + post[s]] + int32(w[s] * c))
                if staged:
                    exp = links[link, L_EXP]
                    for j in range(n_post):
                        x = staging[j]
                        staging[j] = 0
                        x = int32(x << exp) if exp >= 0 else int32(x >> -exp)
                        if links[link, L_WRAP] != 0:
                            x = int32(int32(x << 8) >> 8)
                        ring[slot + j] = int32(ring[slot + j] + x)
