"""Random integer networks that Lava and, where they are chains, NETX can say: many kinds, few neurons."""

from __future__ import annotations

import math
from dataclasses import replace

import nir
import numpy as np
from graph_samples import cuba_lif, graph, inp, lif, out
from hypothesis import strategies as st
from network_samples import draw_dead, with_dead

from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import from_nir
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

SIGNS = ("mixed", "excitatory", "inhibitory")
BITS = st.sampled_from([8, 8, 8, 5, 2, 1])


def mantissas(rng, shape, signs, bits=8, extreme=False, multiple=1):
    """Mantissas that sign mode and bits allow: any, or mostly the largest and smallest."""
    low, high, step = weight_grid(signs, bits)
    step = max(step, multiple)
    low, high = -(-low // step), high // step
    values = rng.integers(low, high, shape, endpoint=True)
    if extreme:
        values = np.where(rng.random(shape) < 0.8, rng.choice([low, high], shape), values)
    return (values * step).astype(np.int32)


def sparse(rng, source, target, pre, post, signs, density, **fields):
    """Compressed by pre-synaptic neuron, no synapse twice; neurons without synapses occur."""
    present = rng.random((pre, post)) < density
    bits = fields.get("weight_bits", 8)
    weight = mantissas(rng, (pre, post), signs, bits, fields.pop("extreme", False))[present]
    indptr = np.concatenate([[0], np.cumsum(present.sum(1))]).astype(np.int64)
    targets = np.nonzero(present)[1].astype(np.int32)
    return SparseProjection(source, target, indptr, targets, weight, sign_mode=signs, **fields)


def population(draw, rng, name, shape, chain=False):
    """Decays at and between their limits, one or one per neuron; thresholds that are passed now and then."""
    n = math.prod(shape)

    def one_or_each(*choices, each=not chain):
        values = [c if np.isscalar(c) else int(rng.integers(*c, endpoint=True)) for c in choices]
        if not each or draw(st.booleans()):
            return values[draw(st.integers(0, len(values) - 1))]
        return rng.choice(values, n).reshape(shape).astype(np.int64)

    return Population(
        name,
        shape,
        du=one_or_each(0, 4095, (0, 4095), (3000, 4095)),
        dv=one_or_each(0, 4096, (0, 4095), (0, 400)),
        vth=one_or_each(0, (1, 300), (300, 8000), 131071),
        bias_mant=one_or_each(0, (-4096, 4095), (-40, 40), each=True),
        bias_exp=6 if chain else draw(st.integers(0, 7)),
        spiking=draw(st.sampled_from([True, True, True, False])),
        reset="zero" if chain else draw(st.sampled_from(RESETS)),
    )


@st.composite
def networks(draw, chain=False):
    """A network of 1 to 3 populations and a raster (1, steps, *shape). chain: mostly what NETX can say."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = draw(st.booleans())
    shape = tuple(draw(st.integers(1, k)) for k in ((4, 6, 5) if image else (8,)))
    entry = InputPopulation("in", shape)
    shapes, projections, populations = {"in": shape}, [], []
    previous = "in"
    for i in range(draw(st.integers(1, 3))):
        name = f"p{i}"
        projection, shape = feed(draw, rng, previous, name, shapes[previous], chain)
        populations.append(population(draw, rng, name, shape, chain))
        projections.append(projection)
        shapes[name] = shape
        extra = draw(st.sampled_from(["none", "recurrent", *([] if chain else ["skip", "feedback"])]))
        if extra != "none" and not (chain and isinstance(projection, ConvProjection)):
            source = "in" if extra == "skip" else name
            target = populations[0].name if extra == "feedback" else name
            projections.append(matrix(draw, rng, source, target, shapes[source], shapes[target], chain))
        if not chain and draw(st.booleans()):
            projections.append(finer(draw, rng, draw(st.sampled_from(projections))))
        previous = name
    steps = draw(st.integers(4, 14))
    most = draw(st.sampled_from([1, 1, 3, 60]))
    raster = rng.integers(0, most, (1, steps, *entry.shape), endpoint=True)
    raster[rng.random(raster.shape) < draw(st.sampled_from([0.0, 0.5, 0.9]))] = 0
    network = Network((entry,), tuple(populations), tuple(projections), (previous,))
    if not chain and draw(st.booleans()):
        network = with_dead(network, draw_dead(draw, rng, network))
    return network, raster


def finer(draw, rng, projection):
    """The second synapses of a pair: the same ones, of a smaller exponent, with mantissas of their own."""
    exponent = max(projection.weight_exp - draw(st.integers(1, 8)), -8)
    multiple = 1 << max(-exponent, 0) if isinstance(projection, ConvProjection) else 1
    weight = mantissas(
        rng, projection.weight.shape, projection.sign_mode, projection.weight_bits, multiple=multiple
    )
    return replace(projection, weight=weight, weight_exp=exponent)


@st.composite
def compiled(draw):
    """A float network of 1 to 3 layers as the compiler writes it for Loihi 2, and a raster (1, steps, *shape).

    Convolutions and matrices, loops, neurons of every kind, both resets, biases (through an always-on input where the current
    decays), 1 to 8 bits; every projection in pairs, none, or one of them.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(7,), (2, 5, 4)]))
    nodes, edges, previous, paths = {"input": inp(*shape)}, [], "input", []
    before = shape
    for i in range(draw(st.integers(1, 3))):
        n = draw(st.integers(2, 6))
        biased = draw(st.sampled_from([True, True, False]))
        if len(before) == 3 and i == 0:
            weight = rng.normal(size=(n, before[0], 3, 3)) * 0.5
            bias = rng.normal(size=n) * 0.2 * biased
            nodes[f"w{i}"] = nir.Conv2d(before[1:], weight, (1, 1), (1, 1), (1, 1), 1, bias)
            after = (n, *before[1:])
        else:
            if len(before) == 3:
                flat = f"flat{i}"
                nodes[flat] = nir.Flatten({"input": np.array(before)}, 0, -1)
                edges.append((previous, flat))
                previous = flat
            weight = rng.normal(size=(n, math.prod(before))) * 0.6
            nodes[f"w{i}"] = nir.Affine(weight, rng.normal(size=n) * 0.2) if biased else nir.Linear(weight)
            after = (n,)
        kind = draw(st.sampled_from(["if", "lif", "cuba", "cuba"]))
        if kind == "if":
            ones = np.ones(after)
            nodes[f"n{i}"] = nir.IF(ones, ones, np.zeros(after))
        else:
            fields = {"r": 3.0, "v_threshold": float(rng.uniform(0.3, 1.5))}
            tau = float(rng.uniform(2, 20))
            nodes[f"n{i}"] = (
                lif(*after, tau=tau, **fields)
                if kind == "lif"
                else cuba_lif(*after, tau_mem=tau, tau_syn=2.0, w_in=2.0, **fields)
            )
        edges += [(previous, f"w{i}"), (f"w{i}", f"n{i}")]
        paths.append(("input" if i == 0 else f"n{i - 1}", f"n{i}"))
        if len(after) == 1 and draw(st.booleans()):
            nodes[f"back{i}"] = nir.Linear(rng.normal(size=(n, n)) * 0.3)
            edges += [(f"n{i}", f"back{i}"), (f"back{i}", f"n{i}")]
            paths.append((f"n{i}", f"n{i}"))
        previous, before = f"n{i}", after
    nodes["output"] = out(*before)
    edges.append((previous, "output"))
    pairs = draw(st.sampled_from([True, True, False, [draw(st.sampled_from(paths))]]))
    network, _ = compile_graph(
        from_nir(graph(nodes, edges, dt=1.0)),
        "loihi2",
        weight_bits=draw(st.sampled_from([8, 8, 6, 4, 2])),
        reset=draw(st.sampled_from(RESETS)),
        pairs=pairs,
    )
    steps = draw(st.integers(6, 20))
    return network, (rng.random((1, steps, *shape)) < draw(st.sampled_from([0.1, 0.4]))).astype(np.uint8)


def matrix(draw, rng, source, target, before, after, chain):
    """A dense or sparse projection."""
    pre, post = math.prod(before), math.prod(after)
    signs, bits, extreme = draw(st.sampled_from(SIGNS)), draw(BITS), draw(st.booleans())
    exponent = draw(st.sampled_from([0, 0, 0] if chain else [0, 0, 0, 3, 7, -1, -3]))
    if draw(st.booleans()):
        delay = draw(st.sampled_from([0, 0] if chain else [0, 0, 1, 3]))
        density = draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
        fields = {"weight_exp": exponent, "weight_bits": bits, "delay": delay, "extreme": extreme}
        return sparse(rng, source, target, pre, post, signs, density, **fields)
    delay = draw(st.sampled_from([0, 0, 2, "each"]))
    if delay == "each":
        delay = rng.integers(0, 4, (post, pre)).astype(np.int64)
    weight = mantissas(rng, (post, pre), signs, bits, extreme)
    return DenseProjection(source, target, weight, exponent, signs, bits, delay)


def feed(draw, rng, source, target, before, chain):
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
        signs, bits, extreme = draw(st.sampled_from(SIGNS)), draw(BITS), draw(st.booleans())
        # Lava's convolution has no exponent: a negative one must leave whole numbers.
        multiple = 1 << max(-exponent, 0)
        weight = mantissas(rng, (out, before[0] // groups, *kernel), signs, bits, extreme, multiple)
        delay = draw(st.sampled_from([0] if chain else [0, 0, 0, 1, 2]))
        synapses = ConvProjection(
            source, target, weight, stride, padding, dilation, groups, exponent, signs, bits, delay
        )
        return synapses, (out, *size)
    after = tuple(draw(st.integers(1, k)) for k in draw(st.sampled_from([(6,), (6,), (3, 2, 2), (2, 3)])))
    return matrix(draw, rng, source, target, before, after, chain), after
