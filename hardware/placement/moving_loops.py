"""The compiled loops of `hardware.placement.moving`."""

from __future__ import annotations

import numpy as np

from hardware.compiled import jit
from hardware.placement.loops import list_bits


@jit(inline="always")
def _add(used, core, resource, amount, limits, scale):
    """Add to what a core uses; how much more is over its limit for it."""
    before = used[core, resource]
    used[core, resource] = before + amount
    return (max(0.0, before + amount - limits[resource]) - max(0.0, before - limits[resource])) / scale[
        resource
    ]


@jit()
def _move(i, to, core_of, used, count, reach, out, tables, form, state, limits, scale):
    """Take neuron i from its core (-1: from none) to core `to`; how much more is over the limits then.

    used: (core, resource) of neurons, bits, axons in and out. count: synapses per axon and core, reach: per pre neuron and core,
    out: cores that each pre neuron reaches.
    """
    in_ptr, in_axon, in_pre, own_ptr, own_pre, home, slots, each = tables
    over = 0.0
    for step in range(2):
        core = core_of[i] if step == 0 else to
        sign = -1 if step == 0 else 1
        if step == 1:
            core_of[i] = to
        if core < 0:
            continue
        if step == 0:
            core_of[i] = -1
        bits, axons = sign * state[0], 0
        for k in range(own_ptr[i], own_ptr[i + 1]):
            # What it sends at present, synapses of its own included; those change below with its core known or not.
            sent = sign * slots[own_pre[k]] * out[own_pre[k]]
            bits += sent * state[2]
            over += _add(used, core, 3, sent, limits, scale)
        for k in range(in_ptr[i], in_ptr[i + 1]):
            a, j = in_axon[k], in_pre[k]
            n = count[a, core]
            if each[a] > 0:
                bits += list_bits(n + sign, each[a], form) - list_bits(n, each[a], form)
            count[a, core] = n + sign
            if n + min(sign, 0) == 0:
                axons += sign
            n = reach[j, core]
            reach[j, core] = n + sign
            if n + min(sign, 0) == 0 and home[j] >= 0:
                out[j] += sign
                h = core_of[home[j]]
                if h >= 0:
                    over += _add(used, h, 3, sign * slots[j], limits, scale)
                    over += _add(used, h, 1, sign * slots[j] * state[2], limits, scale)
        over += _add(used, core, 0, sign, limits, scale)
        over += _add(used, core, 1, bits + axons * state[1], limits, scale)
        over += _add(used, core, 2, axons, limits, scale)
    return over


@jit()
def anneal(tables, axon_ptr, axon_post, form, state, limits, scale, cores, moves, hot, cold, draw):
    """(core of each neuron, what is over the limits, moves made); ends at the first placement that breaks none."""
    in_ptr, in_axon = tables[0], tables[1]
    n = len(in_ptr) - 1
    core_of = np.full(n, -1, dtype=np.int64)
    used = np.zeros((cores, 4), dtype=np.int64)
    count = np.zeros((len(tables[7]), cores), dtype=np.int32)
    reach = np.zeros((len(tables[5]), cores), dtype=np.int32)
    out = np.zeros(len(tables[5]), dtype=np.int64)
    over = 0.0
    for i in range(n):
        to = draw.integers(0, cores)
        over += _move(i, to, core_of, used, count, reach, out, tables, form, state, limits, scale)
    cooling = (cold / hot) ** (1.0 / moves)
    heat = hot
    for made in range(moves):
        if over <= 1e-9:
            return core_of, over, made
        heat *= cooling
        i, other, kind = draw.integers(0, n), -1, draw.random()
        at, to = core_of[i], draw.integers(0, cores)
        if kind < 0.4:
            # Two neurons change places, since a full core takes none without giving one.
            other = draw.integers(0, n)
            to = core_of[other]
        elif kind < 0.7 and in_ptr[i + 1] > in_ptr[i]:
            # To where one that hears the same sits.
            a = in_axon[draw.integers(in_ptr[i], in_ptr[i + 1])]
            to = core_of[axon_post[draw.integers(axon_ptr[a], axon_ptr[a + 1])]]
        if to == at:
            continue
        more = _move(i, to, core_of, used, count, reach, out, tables, form, state, limits, scale)
        if other >= 0:
            more += _move(other, at, core_of, used, count, reach, out, tables, form, state, limits, scale)
        if more <= 0 or draw.random() < np.exp(-more / heat):
            over += more
            continue
        _move(i, at, core_of, used, count, reach, out, tables, form, state, limits, scale)
        if other >= 0:
            _move(other, to, core_of, used, count, reach, out, tables, form, state, limits, scale)
    return core_of, over, moves
