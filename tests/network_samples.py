"""Integer networks that hypothesis makes up, small and of every kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from hardware.network.integer import (
    RESETS,
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
    weight_grid,
)


def weights(rng, shape, mode, bits, zeros):
    low, high, step = weight_grid(mode, bits)
    drawn = rng.integers(low // step, high // step + 1, shape) * step
    return np.where(rng.random(shape) < zeros, 0, drawn).astype(rng.choice([np.int16, np.int32, np.int64]))


def population(draw, rng, name, shape, spiking=True):
    def parameter(low, high):
        kind = draw(st.sampled_from(["low", "high", "one", "each"]))
        if kind == "each":
            return rng.integers(low, high + 1, shape if rng.random() < 0.5 else int(np.prod(shape)))
        return {"low": low, "high": high, "one": int(rng.integers(low, high + 1))}[kind]

    return Population(
        name,
        shape,
        du=parameter(0, 4095),
        dv=parameter(0, 4096),
        vth=parameter(0, draw(st.sampled_from([50, 2000, 2**17 - 1]))),
        bias_mant=parameter(-4096, 4095) if draw(st.booleans()) else 0,
        bias_exp=draw(st.integers(0, 7)),
        spiking=spiking,
        reset=draw(st.sampled_from(RESETS)),
    )


@st.composite
def conv_geometries(draw):
    def pair(low, high):
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    within, out = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kernel, dilation, stride = pair(1, 4), pair(1, 3), pair(1, 3)
    padding = pair(0, 3)
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    return (groups * within, *size), (groups * out, within, *kernel), stride, padding, dilation, groups


def projection(draw, rng, source, target, source_shape, target_shape, delays):
    mode = draw(st.sampled_from(["mixed", "mixed", "excitatory", "inhibitory"]))
    bits = draw(st.integers(1, 8))
    zeros = draw(st.sampled_from([0.0, 0.5, 0.9]))
    shape = (int(np.prod(target_shape)), int(np.prod(source_shape)))
    matrix = weights(rng, shape, mode, bits, zeros)
    exponent = draw(st.sampled_from([0, 0, 1, 7, -1, -8]))
    common = {"weight_exp": exponent, "sign_mode": mode, "weight_bits": bits}
    delay = draw(st.integers(0, 3)) if delays else 0
    if draw(st.booleans()):
        if delays and draw(st.booleans()):
            delay = rng.integers(0, 4, shape)
        return DenseProjection(source, target, matrix, delay=delay, **common)
    pre, post = np.nonzero(matrix.T)
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(matrix.T, axis=1))])
    return SparseProjection(
        source, target, indptr, post.astype(np.int32), matrix.T[pre, post], delay=delay, **common
    )


@st.composite
def networks(draw, delays=True, recurrent=True, aligned=False):
    """Input, perhaps a convolution, matrices, a skip and recurrent connections, perhaps a read-out; perhaps dead neurons."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    populations, projections = [], []
    if draw(st.booleans()):
        shape, kernel, stride, padding, dilation, groups = draw(conv_geometries())
        mode, bits = draw(st.sampled_from(["mixed", "excitatory", "inhibitory"])), draw(st.integers(1, 8))
        size = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(shape[1:], kernel[2:], stride, padding, dilation, strict=True)
        )
        populations.append(population(draw, rng, "conv", (kernel[0], *size)))
        projections.append(
            ConvProjection(
                "in",
                "conv",
                weights(rng, kernel, mode, bits, draw(st.sampled_from([0.0, 0.9]))),
                stride,
                padding,
                dilation,
                groups,
                draw(st.sampled_from([0, 0, 3, 7, -2])),
                mode,
                bits,
                draw(st.integers(0, 2)) if delays else 0,
            )
        )
    else:
        shape = draw(st.sampled_from([(4,), (2, 3), (2, 2, 2)]))
    last = populations[-1] if populations else InputPopulation("in", shape)
    for k in range(draw(st.integers(0 if populations else 1, 2))):
        spiking = draw(st.booleans())
        target = population(
            draw, rng, f"p{k}", draw(st.sampled_from([(3,), (1, 2, 2), (130,)])), spiking or k == 0
        )
        projections.append(projection(draw, rng, last.name, target.name, last.shape, target.shape, delays))
        if k and draw(st.booleans()):
            skip = projection(draw, rng, "in", target.name, shape, target.shape, delays)
            if aligned:
                layers = len(populations)
                skip = type(skip)(**{**vars(skip), "delay": layers})
            projections.append(skip)
        populations.append(target)
        last = target
    if recurrent and draw(st.booleans()):
        source = populations[draw(st.integers(0, len(populations) - 1))]
        target = populations[draw(st.integers(0, len(populations) - 1))]
        projections.append(
            projection(draw, rng, source.name, target.name, source.shape, target.shape, delays)
        )
    network = Network(
        (InputPopulation("in", shape),), tuple(populations), tuple(projections), (populations[-1].name,)
    )
    return with_dead(network, draw_dead(draw, rng, network)) if draw(st.booleans()) else network


def draw_dead(draw, rng, network):
    """Of some populations that spike which neurons are dead, never all."""
    dead = {}
    for p in network.populations:
        if p.spiking and draw(st.booleans()):
            mask = rng.random(int(np.prod(p.shape))) < draw(st.sampled_from([0.1, 0.5, 0.9]))
            mask[rng.integers(len(mask))] = False
            if mask.any():
                dead[p.name] = mask
    return dead


def with_dead(network, dead):
    """The network with those neurons dead: {population: bool (neurons,)}."""
    populations = []
    for p in network.populations:
        if p.name in dead:
            bias = np.where(dead[p.name], 0, np.broadcast_to(np.ravel(p.bias_mant), dead[p.name].shape))
            p = replace(p, dead=dead[p.name], bias_mant=bias)
        populations.append(p)
    projections = []
    for q in network.projections:
        pre, post = dead.get(q.source), dead.get(q.target)
        if isinstance(q, ConvProjection):
            q = replace(q, dead_pre=pre, dead_post=post)
        elif isinstance(q, DenseProjection):
            weight = q.weight.copy()
            if pre is not None:
                weight[:, pre] = 0
            if post is not None:
                weight[post] = 0
            q = replace(q, weight=weight)
        else:
            source = np.repeat(np.arange(len(q.indptr) - 1), np.diff(q.indptr))
            kept = np.ones(len(q.post), bool)
            if pre is not None:
                kept &= ~pre[source]
            if post is not None:
                kept &= ~post[q.post]
            indptr = np.concatenate([[0], np.cumsum(np.bincount(source[kept], minlength=len(q.indptr) - 1))])
            q = replace(q, indptr=indptr, post=q.post[kept], weight=q.weight[kept])
        projections.append(q)
    return replace(network, populations=tuple(populations), projections=tuple(projections))


def raster(draw, network, batch, steps):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (batch, steps, *network.inputs[0].shape)
    top = draw(st.sampled_from([1, 1, 3, 255, 100_000, 2**23 - 1]))
    density = draw(st.sampled_from([0.0, 0.2, 1.0]))
    counts = rng.integers(0, top, shape, endpoint=True) * (rng.random(shape) < density)
    return counts.astype(np.uint8 if top < 256 else np.int64)
