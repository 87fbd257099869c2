"""The compiled loops of `hardware.network.connectivity`."""

from __future__ import annotations

import numpy as np

from hardware.compiled import jit


@jit()
def masked_degrees(indptr, taps, geometry, dead_pre, dead_post):
    h_in, w_in, h_out, w_out = geometry[0], geometry[1], geometry[2], geometry[3]
    s_y, s_x, p_y, p_x, d_y, d_x = (
        geometry[4],
        geometry[5],
        geometry[6],
        geometry[7],
        geometry[8],
        geometry[9],
    )
    heard = np.zeros(len(dead_post), dtype=np.int64)
    told = np.zeros(len(dead_pre), dtype=np.int64)
    for o in range(len(indptr) - 1):
        for y in range(h_out):
            for x in range(w_out):
                post = (o * h_out + y) * w_out + x
                if dead_post[post]:
                    continue
                for k in range(indptr[o], indptr[o + 1]):
                    in_y = y * s_y - p_y + taps[k, 1] * d_y
                    in_x = x * s_x - p_x + taps[k, 2] * d_x
                    if 0 <= in_y < h_in and 0 <= in_x < w_in:
                        pre = (taps[k, 0] * h_in + in_y) * w_in + in_x
                        if not dead_pre[pre]:
                            heard[post] += 1
                            told[pre] += 1
    return heard, told


@jit()
def unroll_conv(indptr, taps, geometry, dead_pre, dead_post, starts):
    h_in, w_in, h_out, w_out = geometry[0], geometry[1], geometry[2], geometry[3]
    s_y, s_x, p_y, p_x, d_y, d_x = (
        geometry[4],
        geometry[5],
        geometry[6],
        geometry[7],
        geometry[8],
        geometry[9],
    )
    pre = np.empty(starts[-1], dtype=np.int32)
    weight = np.empty(starts[-1], dtype=np.int32)
    n = 0
    for o in range(len(indptr) - 1):
        for y in range(h_out):
            for x in range(w_out):
                if dead_post[(o * h_out + y) * w_out + x]:
                    continue
                for k in range(indptr[o], indptr[o + 1]):
                    in_y = y * s_y - p_y + taps[k, 1] * d_y
                    in_x = x * s_x - p_x + taps[k, 2] * d_x
                    if 0 <= in_y < h_in and 0 <= in_x < w_in:
                        j = (taps[k, 0] * h_in + in_y) * w_in + in_x
                        if not dead_pre[j]:
                            pre[n] = j
                            weight[n] = taps[k, 3]
                            n += 1
    return pre, weight
