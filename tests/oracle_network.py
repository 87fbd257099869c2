"""The integer network again, slow and obvious: what `hardware.simulate.simulator` must agree with in every bit."""

from __future__ import annotations

import numpy as np

from hardware.network.integer import ConvProjection, DenseProjection, Network, SparseProjection


def int32(x):
    return (x + 2**31) % 2**32 - 2**31


def wrap24(x):
    """As Lava wraps u: once, and 2**23 itself stays."""
    return np.where(x > 2**23, x - 2**24, np.where(x <= -(2**23), x + 2**24, x))


def decayed(x, factor):
    return np.sign(x) * ((np.abs(x) * factor) >> 12)


def shifted(x, exponent):
    return int32(x << exponent) if exponent >= 0 else x >> -exponent


def neuron_step(population, a, u, v):
    """One step of the equations of `hardware.network.integer`; all int64, flat."""

    def p(key):
        value = np.asarray(getattr(population, key), np.int64)
        return value.reshape(-1) if value.ndim else value

    u = wrap24(int32(decayed(u, 4096 - (p("du") + 1)) + int32(a << 6)))
    v = decayed(v, 4096 - p("dv")) + u + p("bias_mant") * 2**population.bias_exp
    v = np.clip(v, -(2**23 - 1), 2**23 - 1)
    spikes = v > p("vth") * 64 if population.spiking else np.zeros(v.shape, bool)
    after = v - p("vth") * 64 if population.reset == "subtract" else 0
    return u, np.where(spikes, after, v), spikes


def synapses(projection, source_shape, target_shape, dead=False):
    """Every synapse: (pre, post, weight, delay), one neuron after the other. dead: with those of dead neurons, which a kernel has."""
    found = []
    if isinstance(projection, DenseProjection):
        delays = np.broadcast_to(projection.delay, projection.weight.shape)
        for i in range(projection.weight.shape[0]):
            for j in range(projection.weight.shape[1]):
                found.append((j, i, int(projection.weight[i, j]), int(delays[i, j])))
    elif isinstance(projection, SparseProjection):
        for j in range(len(projection.indptr) - 1):
            for k in range(projection.indptr[j], projection.indptr[j + 1]):
                found.append((j, int(projection.post[k]), int(projection.weight[k]), projection.delay))
    else:
        assert isinstance(projection, ConvProjection)
        channels_out, height_out, width_out = target_shape
        _, height_in, width_in = source_shape
        _, within, rows, columns = projection.weight.shape
        for o in range(channels_out):
            group = o // (channels_out // projection.groups)
            for y in range(height_out):
                for x in range(width_out):
                    for c in range(within):
                        for ky in range(rows):
                            for kx in range(columns):
                                iy = y * projection.stride[0] + ky * projection.dilation[0]
                                ix = x * projection.stride[1] + kx * projection.dilation[1]
                                iy, ix = iy - projection.padding[0], ix - projection.padding[1]
                                if 0 <= iy < height_in and 0 <= ix < width_in:
                                    pre = ((group * within + c) * height_in + iy) * width_in + ix
                                    post = (o * height_out + y) * width_out + x
                                    w = int(projection.weight[o, c, ky, kx])
                                    found.append((pre, post, w, projection.delay))
        if not dead:
            for end, mask in enumerate((projection.dead_pre, projection.dead_post)):
                found = [s for s in found if mask is None or not mask[s[end]]]
    return [s for s in found if s[2] != 0]


def depth_of(network: Network) -> dict[str, int]:
    names = [p.name for p in (*network.inputs, *network.populations)]
    depth = {p.name: 0 for p in network.inputs}
    for population in network.populations:
        before = [
            depth[p.source]
            for p in network.projections
            if p.target == population.name and names.index(p.source) < names.index(population.name)
        ]
        depth[population.name] = 1 + max(before, default=0)
    return depth


def run(network: Network, rasters, timing="zero_delay", interval=None, offset=0):
    """{population: {"spikes" | "u" | "v": (steps, neurons)}}, synaptic events (steps,) per population."""
    entries = [*network.inputs, *network.populations]
    names = [p.name for p in entries]
    size = {p.name: int(np.prod(p.shape)) for p in entries}
    shape = {p.name: p.shape for p in entries}
    steps = next(iter(rasters.values())).shape[0]
    depth = depth_of(network)
    parts = []
    for projection in network.projections:
        s, t = projection.source, projection.target
        by_delay: dict[int, list] = {}
        for synapse in synapses(projection, shape[s], shape[t]):
            by_delay.setdefault(synapse[3], []).append(synapse)
        for delay, group in by_delay.items():
            forward = names.index(s) < names.index(t)
            late = 1 + delay
            if timing == "zero_delay" and forward:
                late = max(0, delay - (depth[t] - depth[s] - 1))
            matrix = np.zeros((size[t], size[s]), np.int64)
            for pre, post, w, _ in group:
                matrix[post, pre] += w
            fan = np.zeros(size[s], np.int64)
            np.add.at(fan, [pre for pre, *_ in group], 1)
            parts.append((projection, matrix, fan, late))
    arriving = {p.name: np.zeros((steps + 200, size[p.name]), np.int64) for p in network.populations}
    state = {p.name: (np.zeros(size[p.name], np.int64),) * 2 for p in network.populations}
    result = {p.name: {k: [] for k in ("spikes", "u", "v")} for p in network.populations}
    events = {p.name: np.zeros(steps, np.int64) for p in network.populations}
    for t in range(steps):
        for entry in entries:
            name = entry.name
            if name in rasters:
                spikes = rasters[name][t].reshape(-1).astype(np.int64)
            else:
                u, v = state[name]
                behind = depth[name] if timing == "chip" else 0
                # lava counts steps from 1
                if interval and (t + 1) % interval == (behind + offset + 1) % interval:
                    u, v = np.zeros_like(u), np.zeros_like(v)
                u, v, spikes = neuron_step(entry, int32(arriving[name][t]), u, v)
                state[name] = u, v
                for key, value in (("spikes", spikes), ("u", u), ("v", v)):
                    result[name][key].append(value.astype(np.int64))
                spikes = spikes.astype(np.int64)
            for projection, matrix, fan, late in parts:
                if projection.source == name:
                    total = shifted(int32(matrix @ spikes), projection.weight_exp)
                    if isinstance(projection, ConvProjection):
                        total = (total + 2**23) % 2**24 - 2**23
                    arriving[projection.target][t + late] += total
                    events[projection.target][t] += fan[spikes > 0].sum()
    stacked = {n: {k: np.array(x).reshape(steps, -1) for k, x in r.items()} for n, r in result.items()}
    return stacked, events
