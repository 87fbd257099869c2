"""The chip's arithmetic written out from the text, one synapse and one step at a time, in whole numbers.

Every projection becomes a list of (pre, post, weight, delay). On the chip what a projection sums arrives one
step (and its delay) later; with zero-delay layers that step is left out, but for recurrent projections. Where the text says "24 bit" lava-nc wraps a current once, by 2**24, into (-2**23, 2**23]; a sum
of currents far beyond that stays beyond.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from hardware.network import ConvProjection, DenseProjection, Network, SparseProjection

LIMIT = 1 << 23


def synapses(projection, source_shape, target_shape):
    """(pre, post, mantissa, delay) of every synapse."""
    if isinstance(projection, DenseProjection):
        delay = np.broadcast_to(projection.delay, projection.weight.shape)
        for post, pre in itertools.product(*map(range, projection.weight.shape)):
            yield pre, post, int(projection.weight[post, pre]), int(delay[post, pre])
    elif isinstance(projection, SparseProjection):
        for pre in range(len(projection.indptr) - 1):
            for k in range(projection.indptr[pre], projection.indptr[pre + 1]):
                yield pre, int(projection.post[k]), int(projection.weight[k]), int(projection.delay)
    elif isinstance(projection, ConvProjection):
        channels, height, width = source_shape
        out, rows, columns = target_shape
        per_in, per_out = channels // projection.groups, out // projection.groups
        kh, kw = projection.weight.shape[2:]
        for o, y, x, c, i, j in itertools.product(
            range(out), range(rows), range(columns), range(per_in), range(kh), range(kw)
        ):
            row = y * projection.stride[0] - projection.padding[0] + i * projection.dilation[0]
            column = x * projection.stride[1] - projection.padding[1] + j * projection.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                channel = (o // per_out) * per_in + c
                pre = (channel * height + row) * width + column
                weight = int(projection.weight[o, c, i, j])
                yield pre, (o * rows + y) * columns + x, weight, int(projection.delay)


def signed32(x):
    return (int(x) + 2**31) % 2**32 - 2**31


def decay(x, keep):
    """sgn(x) * ((|x| * keep) >> 12)"""
    return (abs(x) * keep >> 12) * (1 if x >= 0 else -1)


def wrap_once(x):
    if x > LIMIT:
        return x - 2 * LIMIT
    if x <= -LIMIT:
        return x + 2 * LIMIT
    return x


def arrive(projection, wires, t, sent, arriving):
    """Add to `arriving` what the projection brings of the spikes sent in step t and, delayed, before."""
    sums = {}
    for pre, post, weight, delay in wires:
        if t - delay >= 0 and sent[t - delay, pre]:
            # What leaves in one step with one delay is summed before the exponent shifts it.
            sums[post, delay] = sums.get((post, delay), 0) + weight * int(sent[t - delay, pre])
    for (post, _), total in sums.items():
        exponent = projection.weight_exp
        total = total << exponent if exponent >= 0 else total >> -exponent
        if isinstance(projection, ConvProjection):
            total = (total + LIMIT) % (2 * LIMIT) - LIMIT
        arriving[post] += total


def simulate(network: Network, raster, timing="chip", reset_interval=None, reset_offset=0, depth=None):
    """One sample, raster (steps, *shape) or one such per input -> {population: {"spikes", "u", "v"}}."""
    rasters = raster if isinstance(raster, dict) else {network.inputs[0].name: raster}
    steps = len(next(iter(rasters.values())))
    shapes = {p.name: tuple(p.shape) for p in network.inputs} | {p.name: p.shape for p in network.populations}
    sent = {name: np.asarray(r).reshape(steps, -1) for name, r in rasters.items()}
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    out = {}
    for p in network.populations:
        sent[p.name] = np.zeros((steps, size[p.name]), int)
        out[p.name] = {k: np.zeros((steps, size[p.name]), np.int64) for k in ("spikes", "u", "v")}
    wiring = [(p, list(synapses(p, shapes[p.source], shapes[p.target]))) for p in network.projections]
    rank = {name: k for k, name in enumerate(shapes)}
    state = {p.name: [[0, 0] for _ in range(size[p.name])] for p in network.populations}
    for t in range(steps):
        for p in network.populations:
            arriving = [0] * size[p.name]
            for projection, wires in wiring:
                if projection.target == p.name:
                    back = rank[projection.source] >= rank[p.name]
                    arrive(
                        projection, wires, t - (timing == "chip" or back), sent[projection.source], arriving
                    )

            def of(value, i, n=size[p.name]):
                array = np.asarray(value)
                return int(array.reshape(-1)[i]) if array.size == n and n > 1 else int(array.reshape(-1)[0])

            if (
                reset_interval
                and (t + 1) % reset_interval == (depth[p.name] + reset_offset + 1) % reset_interval
            ):
                state[p.name] = [[0, 0] for _ in range(size[p.name])]
            for i, (u, v) in enumerate(state[p.name]):
                a = signed32(signed32(arriving[i]) << 6)
                u = signed32(wrap_once(signed32(decay(u, 4096 - (of(p.du, i) + 1)) + a)))
                bias = of(p.bias_mant, i) << p.bias_exp
                v = signed32(decay(v, 4096 - of(p.dv, i)) + u + bias)
                v = max(-LIMIT + 1, min(LIMIT - 1, v))
                spike = bool(p.spiking) and v > of(p.vth, i) * 64
                if spike:
                    v = 0
                state[p.name][i] = [u, v]
                sent[p.name][t, i] = spike
                for key, value in (("spikes", spike), ("u", u), ("v", v)):
                    out[p.name][key][t, i] = value
    return {
        name: {k: values.reshape(steps, *shapes[name]) for k, values in variables.items()}
        for name, variables in out.items()
    }
