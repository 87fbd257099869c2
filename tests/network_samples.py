"""Small random integer networks, for every test that runs one."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from hardware.network import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)

RANGES = {"mixed": (-128, 127), "excitatory": (0, 255), "inhibitory": (-255, 0)}


def mantissas(rng, shape, signs, extreme=False, multiple=1):
    """Mantissas a sign mode allows: any, or mostly the largest and smallest; multiples of `multiple`."""
    low, high = RANGES[signs]
    values = rng.integers(low, high, shape, endpoint=True)
    if extreme:
        values = np.where(rng.random(shape) < 0.8, rng.choice([low, high], shape), values)
    if signs == "mixed":
        values = values * 2
    return (values // multiple * multiple).astype(np.int32)


def sparse(rng, source, target, pre, post, signs, density, **fields):
    """Compressed by pre-synaptic neuron, no synapse twice; neurons without synapses occur."""
    present = rng.random((pre, post)) < density
    weight = mantissas(rng, (pre, post), signs, fields.pop("extreme", False))[present]
    indptr = np.concatenate([[0], np.cumsum(present.sum(1))]).astype(np.int64)
    targets = np.nonzero(present)[1].astype(np.int32)
    return SparseProjection(source, target, indptr, targets, weight, sign_mode=signs, **fields)


def population(draw, rng, name, shape):
    """Decays at and between their limits, one or one per neuron; thresholds that are passed now and then."""
    n = math.prod(shape)

    def one_or_each(*choices):
        values = [c if np.isscalar(c) else int(rng.integers(*c, endpoint=True)) for c in choices]
        if draw(st.booleans()):
            return values[draw(st.integers(0, len(values) - 1))]
        return rng.choice(values, n).reshape(shape).astype(np.int64)

    return Population(
        name,
        shape,
        du=one_or_each(0, 4095, (0, 4095), (3000, 4095)),
        dv=one_or_each(0, 4096, (0, 4095), (0, 400)),
        vth=one_or_each(0, (1, 300), (300, 8000), 131071),
        bias_mant=one_or_each(0, (-4096, 4095), (-40, 40)),
        bias_exp=draw(st.integers(0, 7)),
        spiking=draw(st.sampled_from([True, True, True, False])),
    )


@st.composite
def networks(draw, chain=False, max_populations=3):
    """A network of 1 to 3 populations and a raster (1, steps, *shape); a chain has no skips."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = draw(st.booleans())
    shape = tuple(draw(st.integers(1, k)) for k in ((4, 6, 5) if image else (8,)))
    entry = InputPopulation("in", shape)
    shapes, projections, populations = {"in": shape}, [], []
    previous = "in"
    for i in range(draw(st.integers(1, max_populations))):
        name = f"p{i}"
        projection, shape = feed(draw, rng, previous, name, shapes[previous], shapes[previous], chain)
        populations.append(population(draw, rng, name, shape))
        projections.append(projection)
        shapes[name] = shape
        extra = "none" if chain else draw(st.sampled_from(["none", "recurrent", "skip", "feedback"]))
        if extra != "none":
            source = {"recurrent": name, "skip": "in", "feedback": name}[extra]
            target = populations[0].name if extra == "feedback" else name
            projections.append(dense_or_sparse(draw, rng, source, target, shapes[source], shapes[target]))
        previous = name
    steps = draw(st.integers(4, 14))
    most = draw(st.sampled_from([1, 1, 3, 60]))
    raster = rng.integers(0, most, (1, steps, *entry.shape), endpoint=True)
    raster[rng.random(raster.shape) < draw(st.sampled_from([0.0, 0.5, 0.9]))] = 0
    return Network((entry,), tuple(populations), tuple(projections), (previous,)), raster


def dense_or_sparse(draw, rng, source, target, before, after, chain=False):
    pre, post = math.prod(before), math.prod(after)
    signs = draw(st.sampled_from(list(RANGES)))
    extreme = draw(st.booleans())
    exponent = draw(st.sampled_from([0, 0, 0, 3, 7, -1, -3]))
    if draw(st.booleans()):
        delay = draw(st.sampled_from([0, 0, 1, 3]))
        density = draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
        return sparse(
            rng, source, target, pre, post, signs, density, extreme=extreme, weight_exp=exponent, delay=delay
        )
    delay = draw(st.sampled_from([0, 0, 2, "each"]))
    if delay == "each":
        delay = rng.integers(0, 4, (post, pre)).astype(np.int64)
    weight = mantissas(rng, (post, pre), signs, extreme)
    return DenseProjection(source, target, weight, exponent, signs, delay=delay)


def feed(draw, rng, source, target, before, shape, chain=False):
    """A projection to a new population, and the population's shape."""
    if len(before) == 3 and draw(st.sampled_from([True, True, False])):
        groups = draw(st.sampled_from([g for g in (1, 2, before[0]) if before[0] % g == 0]))
        out = groups * draw(st.integers(1, 3))
        pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
        stride, dilation = draw(pairs), draw(pairs)
        padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        kernel, size = [], []
        for k in (0, 1):
            room = before[k + 1] + 2 * padding[k]
            kernel.append(draw(st.integers(1, min(3, (room - 1) // dilation[k] + 1))))
            size.append((room - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1)
        exponent = draw(st.sampled_from([0, 0, 0, 2, 7, -2]))
        signs = draw(st.sampled_from(list(RANGES)))
        weight = mantissas(
            rng, (out, before[0] // groups, *kernel), signs, draw(st.booleans()), 4 if exponent < 0 else 1
        )
        delay = 0 if chain else draw(st.sampled_from([0, 0, 0, 1, 2]))
        return ConvProjection(
            source, target, weight, stride, padding, dilation, groups, exponent, signs, delay=delay
        ), (out, *size)
    after = tuple(draw(st.integers(1, k)) for k in draw(st.sampled_from([(6,), (6,), (3, 2, 2), (2, 3)])))
    return dense_or_sparse(draw, rng, source, target, before, after, chain), after
