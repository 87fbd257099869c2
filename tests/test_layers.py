"""A chip whose cores take one layer each: what a layer takes, which core it gets, what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, lif, out
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.chip.chips import load_chip
from hardware.chip.layers import Layer, layers_of
from hardware.chip.memory import kernel_words, neuron_words
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)
from hardware.placement import lower_bound, place
from hardware.placement.layers import match
from hardware.simulate.simulator import simulate

SPECK = load_chip("speck")
CORES = SPECK.layers


def integrate(*shape: int, threshold: float = 1.0) -> nir.IF:
    return nir.IF(np.ones(shape), np.full(shape, threshold), np.zeros(shape))


def even(rng, *shape: int) -> np.ndarray:
    return (rng.integers(-100, 101, shape) * 2).astype(np.int16)


def network(*parts, inputs=(2, 8, 8), outputs=None) -> Network:
    """parts: populations and projections."""
    populations = tuple(p for p in parts if isinstance(p, Population))
    return Network(
        inputs=(InputPopulation("input", inputs),),
        populations=populations,
        projections=tuple(p for p in parts if not isinstance(p, Population)),
        outputs=(outputs or populations[-1].name,),
    )


def population(name: str, *shape: int, **changed) -> Population:
    return Population(name, shape, **{"vth": 100, **changed})


# --- what a layer takes ---


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 256))
def test_words_go_by_powers_of_two(channels, filters, taps):
    # As the overview of the chip writes it: c * 2**(ceil(log2(kx ky)) + ceil(log2 f)), f * 2**(ceil(log2 fy) + ceil(log2 fx)).
    log = lambda n: math.ceil(math.log2(n))  # noqa: E731
    assert kernel_words(channels, filters, taps) == channels * 2 ** (log(taps) + log(filters))
    assert neuron_words(channels, filters, taps) == channels * 2 ** (log(filters) + log(taps))


def test_the_example_of_the_overview():
    assert kernel_words(16, 32, 9) == 8 * 1024 and neuron_words(32, 64, 64) == 128 * 1024
    weight = np.full((32, 16, 3, 3), 2, np.int16)
    net = network(
        population("a", 32, 64, 64), ConvProjection("input", "a", weight, padding=(1, 1)), inputs=(16, 64, 64)
    )
    placement = place(net, SPECK)
    assert not placement.fits and placement.layers[0].core is None
    assert str(placement.broken[0]) == "layer 'a' on core 0: neuron_words 131072 > 65536 (65536 over)"


def by_hand(raster, steps):
    """Spikes of each layer: sum over squares, convolve position by position, integrate, fire, to zero. No outside beyond zeros."""
    spikes = raster.astype(np.int64)
    for weight, stride, padding, pooling, threshold in steps:
        t, c, h, w = spikes.shape
        h, w = h // pooling, w // pooling
        pooled = np.zeros((t, c, h, w), np.int64)
        for y, x in itertools.product(range(h * pooling), range(w * pooling)):
            pooled[:, :, y // pooling, x // pooling] += spikes[:, :, y, x]
        f, _, k, _ = weight.shape
        rows, columns = ((n + 2 * padding - k) // stride + 1 for n in (h, w))
        membrane, fired = np.zeros((f, rows, columns), np.int64), np.zeros((t, f, rows, columns), np.int64)
        for now in range(t):
            for o, y, x, i, a, b in itertools.product(*map(range, (f, rows, columns, c, k, k))):
                at = (y * stride + a - padding, x * stride + b - padding)
                if 0 <= at[0] < h and 0 <= at[1] < w:
                    membrane[o, y, x] += weight[o, i, a, b] * pooled[now, i, at[0], at[1]]
            fired[now] = membrane > threshold
            membrane[fired[now] > 0] = 0
        spikes = fired
    return spikes


def test_pooling_is_found_again_and_the_layers_give_the_very_spikes():
    """The compiled network on the simulator, and its layers as the chip runs them."""
    rng = np.random.default_rng(3)
    nodes = {
        "input": inp(2, 8, 8),
        "c1": nir.Conv2d(None, rng.normal(size=(3, 2, 3, 3)), 1, 1, 1, 1, np.zeros(3)),
        "a": integrate(3, 8, 8),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "c2": nir.Conv2d(None, rng.normal(size=(4, 3, 3, 3)), 1, 1, 1, 1, np.zeros(4)),
        "b": integrate(4, 4, 4, threshold=2.0),
        "pool2": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([4, 2, 2])}, 0, -1),
        "fc": nir.Linear(rng.normal(size=(5, 16))),
        "n": integrate(5, threshold=0.5),
        "output": out(5),
    }
    net, _ = compile_graph(from_nir(graph(nodes, dt=1e-3)), SPECK)
    layers = layers_of(net, SPECK)
    assert [layer.pooling for layer in layers] == [(("input", 1),), (("a", 2),), (("b", 2),)]
    assert [layer.kernel_words for layer in layers] == [2 << (4 + 2), 3 << (4 + 2), 4 << (2 + 3)]
    assert [layer.neuron_words for layer in layers] == [3 * 64, 4 * 16, 5]
    folded = [np.asarray(p.weight).astype(int) for p in net.projections]
    folded[2] = folded[2].reshape(5, 4, 4, 4)
    steps = [
        (folded[0], 1, 1, 1, net.populations[0].vth),
        (folded[1][:, :, ::2, ::2], 1, 1, 2, net.populations[1].vth),
        (folded[2][:, :, ::2, ::2], 1, 0, 2, net.populations[2].vth),
    ]
    raster = rng.random((20, 2, 8, 8)) < 0.3
    found = simulate(net, raster[None].astype(np.uint8)).output[0]
    expected = by_hand(raster, steps)[:, :, 0, 0]
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(found, expected)


def test_integers_keep_to_eight_bits_with_a_sign_and_whole_biases():
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(6),
        "w": nir.Affine(np.abs(rng.normal(size=(4, 6))), rng.normal(size=4)),
        "n": integrate(4),
        "output": out(4),
    }
    net, _ = compile_graph(from_nir(graph(nodes, dt=1e-3)), SPECK)
    (projection,), (neurons,) = net.projections, net.populations
    assert projection.sign_mode == "mixed" and projection.weight_exp == 0 and projection.weight.max() == 254
    bias = np.asarray(neurons.bias_mant) * 2**neurons.bias_exp
    # One of the 8-bit weight is a mantissa of 2, each 64 of the membrane.
    assert bias.any() and not (bias % 128).any()
    assert layers_of(net, SPECK)[0].bias_words == 4
    assert 0 < np.max(neurons.vth) < 2**16 and np.ndim(neurons.vth) == 0


def test_two_sources_are_channels_of_one_kernel():
    rng = np.random.default_rng(0)
    parts = (
        population("a", 4, 8, 8),
        population("b", 4, 8, 8),
        population("c", 4, 8, 8),
        ConvProjection("input", "a", even(rng, 4, 2, 3, 3), padding=(1, 1)),
        ConvProjection("a", "b", even(rng, 4, 4, 3, 3), padding=(1, 1)),
        ConvProjection("b", "c", even(rng, 4, 4, 3, 3), padding=(1, 1)),
    )
    # A skipped layer takes a delay on a clocked chip, and none without a clock.
    joined = network(*parts, ConvProjection("a", "c", even(rng, 4, 4, 3, 3), padding=(1, 1), delay=1))
    assert layers_of(joined, SPECK)[2].kernel_words == kernel_words(8, 4, 9)
    other = network(*parts, ConvProjection("a", "c", even(rng, 4, 4, 1, 1), delay=1))
    with pytest.raises(HardwareError, match="'b' and 'a' differ in kernel"):
        layers_of(other, SPECK)
    late = network(*parts, ConvProjection("a", "c", even(rng, 4, 4, 3, 3), padding=(1, 1), delay=2))
    with pytest.raises(HardwareError, match="'a' -> 'c': has a delay of 1 steps, speck has at most 0"):
        layers_of(late, SPECK)


def test_groups_are_written_out():
    rng = np.random.default_rng(0)
    net = network(population("a", 4, 6, 6), ConvProjection("input", "a", even(rng, 4, 1, 3, 3), groups=2))
    assert layers_of(net, SPECK)[0].kernel_words == kernel_words(2, 4, 9)


# --- which core ---


def layer(name: str, kernel: int, neurons: int, bias: int = 0) -> Layer:
    return Layer(name, kernel, neurons, bias, ())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
def test_the_matching_is_the_best_of_all(seed, n_layers, n_cores):
    rng = np.random.default_rng(seed)
    cores = replace(
        CORES,
        kernel_words=tuple(rng.integers(1, 5, n_cores).tolist()),
        neuron_words=tuple(rng.integers(1, 5, n_cores).tolist()),
        bias_words=(2,) * n_cores,
    )
    layers = tuple(layer(f"l{i}", *rng.integers(1, 5, 2).tolist()) for i in range(n_layers))

    def cost(chosen):
        sizes = [
            cores.kernel_words[c] * 8 + cores.neuron_words[c] * 16 + 2 * 16 for c in chosen if c is not None
        ]
        return sum(c is None for c in chosen), sum(sizes)

    options = []
    slots = [*range(n_cores), *[None] * n_layers]
    for chosen in set(itertools.permutations(slots, n_layers)):
        if all(
            c is None or (a.kernel_words <= cores.kernel_words[c] and a.neuron_words <= cores.neuron_words[c])
            for a, c in zip(layers, chosen, strict=True)
        ):
            options.append(cost(chosen))
    found = match(layers, cores)
    taken = [c for c in found if c is not None]
    assert len(set(taken)) == len(taken)
    assert all(a.fits(cores, c) for a, c in zip(layers, found, strict=True) if c is not None)
    assert cost(found) == min(options)


def deep(n: int, filters: int = 4) -> Network:
    rng = np.random.default_rng(0)
    names = ["input", *(f"l{i}" for i in range(n))]
    parts = []
    for source, target in itertools.pairwise(names):
        parts.append(population(target, filters, 8, 8))
        channels = 2 if source == "input" else filters
        parts.append(ConvProjection(source, target, even(rng, filters, channels, 3, 3), padding=(1, 1)))
    return network(*parts)


def test_one_layer_to_a_core():
    placement = place(deep(9), SPECK)
    assert placement.fits and placement.cores == placement.lower_bound == lower_bound(deep(9), SPECK) == 9
    assert sorted(p.core for p in placement.layers) == list(range(9))
    for row, name in enumerate(placement.core_of):
        assert (placement.core_of[name] == row).all() and len(placement.core_of[name]) == 4 * 64
    values = placement.to_dict()
    assert [entry["population"] for entry in values["layers"]] == [f"l{i}" for i in range(9)]
    over = place(deep(10), SPECK)
    assert not over.fits and str(over.broken[0]).startswith("chip: cores 10 > 9")
    assert sum(p.core is None for p in over.layers) == 1
    assert not place(deep(3), SPECK, max_cores=2).fits


def test_layers_that_are_more_than_the_cores_that_hold_them_are_named():
    # 16 filters of 3 by 3 over 128 channels: 32 Ki words; 64 Ki over 256, which two cores hold.
    rng = np.random.default_rng(0)
    parts = []
    for i in range(3):
        source = "input" if i == 0 else f"big{i - 1}"
        parts += [
            population(f"big{i}", 256, 2, 2),
            ConvProjection(source, f"big{i}", even(rng, 256, 256, 1, 1)),
        ]
    placement = place(network(*parts, inputs=(256, 2, 2)), SPECK)
    assert not placement.fits and sum(p.core is None for p in placement.layers) == 1
    assert str(placement.broken[0]) == "layers 'big0', 'big1', 'big2': cores 3 > 2 (1 over)"


def test_a_spike_crosses_to_every_layer_that_hears_it():
    weight = np.array([[2, 0, 4], [0, 0, 2]], np.int16)
    net = network(
        population("a", 2),
        population("b", 1),
        DenseProjection("input", "a", weight),
        DenseProjection("a", "b", np.array([[2, 2]], np.int16)),
        inputs=(3,),
    )
    assert place(net, SPECK).crossing_spikes == 2 + 2
    rates = {"input": np.array([5.0, 7.0, 1.0]), "a": 3.0}
    placement = place(net, SPECK, firing_rates=rates)
    assert placement.crossing_spikes == 6.0 + 6.0 and placement.synapses == 3 + 2


# --- what no core can do ---


def one(projection, target=(4, 8, 8), inputs=(2, 8, 8), **changed) -> Network:
    return network(population("a", *target, **changed), projection, inputs=inputs)


def conv(*shape: int, **geometry) -> ConvProjection:
    return ConvProjection(
        "input", "a", np.arange(2, 2 + 2 * math.prod(shape), 2).reshape(shape) % 200, **geometry
    )


def dense(post: int, pre: int, **changed) -> DenseProjection:
    weight = (np.arange(1, post * pre + 1) * 2 % 200).reshape(post, pre).astype(np.int16)
    return DenseProjection("input", "a", weight, **changed)


REFUSED = [
    (
        one(conv(4, 2, 1, 1), vth=np.arange(4 * 64)),
        "thresholds differ from neuron to neuron, speck has one per",
    ),
    (one(conv(4, 2, 1, 1), vth=2**16), "highest threshold is 65536, on speck it is 65535 at most"),
    (one(conv(4, 2, 1, 1), dv=10), "membranes leak, those of speck cannot"),
    (one(conv(4, 2, 1, 1), du=10), "currents have a memory, those of speck have none"),
    (one(conv(4, 2, 1, 1), spiking=False), "membranes are read out, speck gives out spikes only"),
    (one(conv(4, 2, 1, 1), bias_mant=1, bias_exp=6), "no multiples of 128"),
    (one(conv(4, 2, 1, 1), bias_mant=np.arange(256), bias_exp=7), "biases differ within a channel"),
    (one(conv(4, 2, 17, 17), (4, 4, 4), (2, 20, 20)), "kernel is 17 by 17, speck has 16 by 16 at most"),
    (one(conv(4, 2, 3, 1), (4, 6, 8)), "kernel is 3 by 1, speck has square ones only"),
    (one(conv(4, 2, 3, 3, stride=(3, 3)), (4, 2, 2)), "stride of (3, 3), speck has 1, 2, 4, 8"),
    (one(conv(4, 2, 3, 3, dilation=(2, 2)), (4, 4, 4)), "has a dilation of (2, 2)"),
    (one(conv(4, 2, 1, 1, padding=(8, 8)), (4, 24, 24)), "padding of (8, 8), speck at most 7"),
    (
        one(conv(1, 1, 3, 3, stride=(8, 8)), (1, 17, 17), (1, 131, 131)),
        "input is 131 by 131, speck takes 128",
    ),
    (one(conv(1, 1, 1, 1), (1, 65, 65), (1, 65, 65)), "is 65 by 65, speck has neurons on 64 by 64"),
    (one(dense(2, 1025), (2,), (1025,)), "has 1,025 channels, speck at most 1,024"),
    (one(dense(2, 3, weight_exp=7), (2,), (3,)), "do not fit 8 bits with a sign"),
    (one(dense(8, 4), (2, 2, 2), (4,)), "a matrix onto an image"),
    (
        network(population("a", 2, 2), dense(4, 3), inputs=(3,)),
        "shape (2, 2), expected (channels, height, width)",
    ),
]


@pytest.mark.parametrize(("net", "says"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_no_core_can_do_is_refused_by_name(net, says):
    with pytest.raises(HardwareError) as error:
        place(net, SPECK)
    message = str(error.value)
    assert says in message and "'a'" in message and "\n" not in message


def test_recurrence_and_fan_out():
    again = network(
        population("a", 2), dense(2, 3), DenseProjection("a", "a", np.eye(2, dtype=np.int16) * 2), inputs=(3,)
    )
    with pytest.raises(HardwareError, match="'a' -> 'a': leads back, speck has no recurrent layers"):
        place(again, SPECK)
    one_to_one = [np.arange(4), np.arange(3, dtype=np.int32), np.full(3, 2, np.int16)]
    parts = [
        part for name in "abc" for part in (population(name, 3), SparseProjection("input", name, *one_to_one))
    ]
    with pytest.raises(HardwareError, match="'input': its spikes go to 3 populations, on speck to 2 at most"):
        place(network(*parts, inputs=(3,)), SPECK)


def test_a_graph_that_leaks_or_remembers_or_is_read_out_is_refused_by_the_compiler():
    def compiled(node):
        nodes = {"input": inp(2), "w": nir.Linear(np.eye(2)), "n": node, "output": out(2)}
        return compile_graph(from_nir(graph(nodes, dt=1e-3)), SPECK)

    with pytest.raises(HardwareError, match="node 'n': its membranes leak, those of speck cannot"):
        compiled(lif(2))
    with pytest.raises(
        HardwareError, match="node 'n': its membranes are read out, speck gives out spikes only"
    ):
        compiled(nir.I(np.ones(2)))
    assert compiled(integrate(2))[0].populations[0].spiking
    recurrent = {
        "input": inp(2),
        "w": nir.Linear(np.eye(2)),
        "n": integrate(2),
        "back": nir.Linear(np.eye(2)),
        "output": out(2),
    }
    edges = [("input", "w"), ("w", "n"), ("n", "back"), ("back", "n"), ("n", "output")]
    with pytest.raises(HardwareError, match="leads back, speck has no recurrent layers"):
        compile_graph(from_nir(graph(recurrent, edges, dt=1e-3)), SPECK)


def test_a_chip_without_layers_says_so():
    with pytest.raises(HardwareError, match="loihi1: its cores are not bound to layers"):
        layers_of(deep(2), load_chip("loihi1"))
