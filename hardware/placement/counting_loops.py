"""The compiled loops of `hardware.placement.rates` and `hardware.placement.loads`."""

from __future__ import annotations

import numpy as np

from hardware.compiled import jit


@jit()
def heard_rows(indptr, pre, rate):
    heard = np.zeros(len(indptr) - 1)
    for i in range(len(heard)):
        for k in range(indptr[i], indptr[i + 1]):
            heard[i] += rate[pre[k]]
    return heard


@jit()
def heard_taps(indptr, taps, geometry, rate, n_post):
    h_in, w_in, h_out, w_out = geometry[0], geometry[1], geometry[2], geometry[3]
    s_y, s_x, p_y, p_x, d_y, d_x = (
        geometry[4],
        geometry[5],
        geometry[6],
        geometry[7],
        geometry[8],
        geometry[9],
    )
    heard = np.zeros(n_post)
    for o in range(len(indptr) - 1):
        for k in range(indptr[o], indptr[o + 1]):
            for y in range(h_out):
                in_y = y * s_y - p_y + taps[k, 1] * d_y
                if in_y < 0 or in_y >= h_in:
                    continue
                for x in range(w_out):
                    in_x = x * s_x - p_x + taps[k, 2] * d_x
                    if 0 <= in_x < w_in:
                        heard[(o * h_out + y) * w_out + x] += rate[(taps[k, 0] * h_in + in_y) * w_in + in_x]
    return heard


@jit()
def spread(
    starts, neurons, weights, graded, core_of, home, where, out_ptr, out_post, taps, geometry,
    events, heard, arrived, sent, hops_x, hops_y, multiplied,
):  # fmt: skip
    """Hand every spike to its targets. taps: (output channel, kernel row, column) by input channel, none for a matrix.

    events, arrived, sent, hops_x, hops_y: (steps, cores); heard: (steps, post neurons); home: empty for inputs.
    """
    # A kernel may have lost all of its taps.
    cores, conv = events.shape[1], geometry[0] > 0
    stamp = np.full(cores, -1, dtype=np.int64)
    reached = np.empty(cores, dtype=np.int64)
    h_in, w_in, h_out, w_out = geometry[0], geometry[1], geometry[2], geometry[3]
    s_y, s_x, p_y, p_x, d_y, d_x = (
        geometry[4],
        geometry[5],
        geometry[6],
        geometry[7],
        geometry[8],
        geometry[9],
    )
    for t in range(len(starts) - 1):
        for k in range(starts[t], starts[t + 1]):
            j, weight, n = neurons[k], weights[k], 0
            if len(home) and home[j] < 0:
                continue
            c, y, x = j, 0, 0
            if conv:
                c = j // (h_in * w_in)
                y = (j - c * h_in * w_in) // w_in
                x = j - (c * h_in + y) * w_in
            for m in range(out_ptr[c], out_ptr[c + 1]):
                if conv:
                    o_y = y + p_y - taps[m, 1] * d_y
                    o_x = x + p_x - taps[m, 2] * d_x
                    if o_y < 0 or o_x < 0 or o_y % s_y or o_x % s_x:
                        continue
                    o_y //= s_y
                    o_x //= s_x
                    if o_y >= h_out or o_x >= w_out:
                        continue
                    post = (taps[m, 0] * h_out + o_y) * w_out + o_x
                else:
                    post = out_post[m]
                core = core_of[post]
                if core < 0:
                    continue
                events[t, core] += weight
                heard[t, post] += weight
                if graded[k]:
                    multiplied[t] += 1
                if stamp[core] != k:
                    stamp[core] = k
                    reached[n] = core
                    n += 1
            for m in range(n):
                core = reached[m]
                arrived[t, core] += weight
                if len(home):
                    own = home[j]
                    sent[t, own] += weight
                    hops_x[t, own] += weight * abs(where[core, 0] - where[own, 0])
                    hops_y[t, own] += weight * abs(where[core, 1] - where[own, 1])
