from __future__ import annotations

import itertools
import math
from dataclasses import replace

import network_samples
import numpy as np
import oracle_placement as oracle
import placement_networks as nets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.chip.chips import load_chip
from hardware.errors import HardwareError
from hardware.network.integer import DenseProjection, InputPopulation, Network, Population, SparseProjection
from hardware.placement import STRATEGIES, hypergraph, lower_bound, place

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def chips(draw):
    """A Loihi, or one so small that networks of a few neurons fill many cores."""
    chip = draw(st.sampled_from([LOIHI1, LOIHI2]))
    if draw(st.booleans()):
        return chip
    pick = st.sampled_from
    return replace(
        chip,
        cores=draw(pick([3, math.inf])),
        neurons_per_core=draw(pick([1, 5, 40, math.inf])),
        memory_bits_per_core=draw(pick([3000, 9000, 60000, math.inf])),
        axons_in_per_core=draw(pick([20, 60, math.inf])),
        axons_out_per_core=draw(pick([60, 200, math.inf])),
        block_synapses=draw(pick([3, 64])),
        shared_kernels=draw(pick(["no", "shifted", "once"])),
        population_axon_atoms=draw(pick([1, 2, 512])),
        population_axon_slots=draw(pick([1, 2])),
        dense_axon_atoms=draw(pick([1, 3, 512])),
        axon_offsets=draw(pick([1, 3, 256, math.inf])),
        neuron_state_bits=draw(pick([0, 64])),
        axon_out_bits=draw(pick([0, 32])),
    )


def alone(unrolled, chip, name, neuron):
    """Whether one neuron breaks a limit on a core of its own, whatever the others do."""
    bits, axons_in, _ = unrolled.core({name: [neuron]})
    out = {
        (number, unrolled.axon(projection, pre)[0])
        for number, (projection, found) in enumerate(unrolled.projections)
        for pre, post, _, _ in found
        if projection.source == name and pre == neuron
    }
    bits += chip.neuron_state_bits + axons_in * chip.axon_in_bits + len(out) * chip.axon_out_bits
    return (
        bits > chip.memory_bits_per_core
        or axons_in > chip.axons_in_per_core
        or len(out) > chip.axons_out_per_core
    )


@QUICK
@given(network_samples.networks(), chips(), st.sampled_from(["best", "sequential", "greedy"]), st.booleans())
def test_placements_pass_an_independent_checker(network, chip, strategy, measured):
    rng = np.random.default_rng(0)
    rates = {p.name: rng.random(p.shape) for p in network.populations} if measured else {}
    try:
        placement = place(network, chip, strategy, firing_rates=rates)
    except HardwareError as error:
        refused(network, chip, error)
        return
    oracle.check(network, placement, rates)
    assert placement.chips == (1 if math.isinf(chip.cores) else math.ceil(placement.cores / chip.cores))


def refused(network, chip, error):
    """The error is about one neuron that indeed exceeds a core, by its fan-in or by the cores that its axon must reach."""
    message = str(error)
    assert "\n" not in message
    if "weights of" in message or "delay of" in message:
        return
    words = message.split()
    name, neuron = words[1].strip("',"), int(words[3].rstrip(":"))
    unrolled = oracle.Unrolled(network, chip)
    if "outgoing axons" not in message and chip.axon_out_bits == 0:
        assert alone(unrolled, chip, name, neuron), message


def sparse_networks():
    return st.builds(nets.uniform, st.integers(1, 150), st.integers(1, 12), st.integers(0, 9)) | st.builds(
        nets.local,
        st.integers(4, 150),
        st.integers(1, 12),
        st.floats(0.5, 4),
        st.booleans(),
        st.integers(0, 9),
    )


@QUICK
@given(sparse_networks(), chips())
def test_recurrent_sparse_networks_pass_too(network, chip):
    try:
        placement = place(network, chip)
    except HardwareError as error:
        refused(network, chip, error)
        return
    oracle.check(network, placement)


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
@pytest.mark.parametrize("keep", [1.0, 0.1])
def test_layered_networks_of_several_cores(chip, keep):
    network = nets.layers(
        (2, 9, 9), ("conv", 6, 3, 1, 1), ("conv", 8, 3, 2, 1), ("dense", 20), ("dense", 10), keep=keep
    )
    small = replace(load_chip(chip), neurons_per_core=150, memory_bits_per_core=30_000)
    for strategy in ("sequential", "best"):
        placement = place(network, small, strategy)
        oracle.check(network, placement)
        assert placement.fits and placement.cores > 3


def partitions(items):
    """All ways to share items out over unnumbered cores."""
    if not items:
        yield []
        return
    first, *rest = items
    for parts in partitions(rest):
        for n in range(len(parts)):
            yield [*parts[:n], [first, *parts[n]], *parts[n + 1 :]]
        yield [[first], *parts]


def fewest_cores(network, chip):
    """By trying everything: every partition, and within a core every numbering of its neurons."""
    unrolled = oracle.Unrolled(network, chip)
    neurons = [(name, n) for name in unrolled.populations for n in range(unrolled.size[name])]
    best = math.inf
    for parts in partitions(neurons):
        if len(parts) >= best:
            continue
        chosen = []
        for part in parts:
            contents = []
            for order in itertools.permutations(part):
                content = {}
                for name, n in order:
                    content.setdefault(name, []).append(n)
                contents.append(content)
            chosen.append(min(contents, key=lambda content: unrolled.core(content)[0]))
        if all(
            core[key] <= getattr(chip, key)
            for core in unrolled.usage(chosen)
            for key in core
            if hasattr(chip, key)
        ):
            best = len(parts)
    return best


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5]),
    st.booleans(),
    st.sampled_from(
        [
            (2, math.inf, 99, 99),
            (4, 400, 99, 99),
            (4, 260, 99, 99),
            (5, math.inf, 4, 99),
            (5, math.inf, 99, 4),
        ]
    ),
    st.sampled_from(["loihi1", "loihi2"]),
    st.sampled_from([1, math.inf]),
)
def test_lower_bound_holds_for_all_placements(seed, first, zeros, sparse, limits, base, offsets):
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random((first, 3)) < zeros, 0, 2 * rng.integers(1, 9, (first, 3)))
    second = np.where(rng.random((2, first)) < zeros, 0, 2 * rng.integers(1, 9, (2, first)))

    def joined(source, target, matrix):
        if not sparse:
            return DenseProjection(source, target, matrix)
        pre, post = np.nonzero(matrix.T)
        indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(matrix.T, axis=1))])
        return SparseProjection(source, target, indptr, post.astype(np.int32), matrix.T[pre, post])

    network = Network(
        (InputPopulation("in", (3,)),),
        (Population("a", (first,)), Population("b", (2,))),
        (joined("in", "a", weight), joined("a", "b", second)),
        ("b",),
    )
    keys = ("neurons_per_core", "memory_bits_per_core", "axons_in_per_core", "axons_out_per_core")
    chip = replace(load_chip(base), axon_offsets=offsets, **dict(zip(keys, limits, strict=True)))
    bound, best = lower_bound(network, chip), fewest_cores(network, chip)
    assert 1 <= bound <= best
    if math.isfinite(best):
        found = place(network, chip)
        assert bound <= best <= found.cores


def test_lower_bound_of_a_convolution():
    network = nets.layers((1, 2, 2), ("conv", 2, 2, 1, 1), ("dense", 1))
    chip = replace(LOIHI1, neurons_per_core=9)
    assert lower_bound(network, chip) == 3  # 19 neurons


def test_known_cores():
    # 4,096 inputs reach every neuron of a full layer: 8 bits each, so 31 neurons in four 64-bit words an axon (10 + 248 > 256).
    network = nets.layers((4096,), ("dense", 60))
    placement = place(network, "loihi1")
    assert placement.cores == placement.lower_bound == 2
    assert placement.neurons_per_core.tolist() == [30, 30]
    assert placement.memory_bits_per_core.tolist() == [4096 * 256] * 2
    assert placement.crossing_spikes == 2 * 4096


def test_crossing_spikes_are_weighted_by_rates_and_counted_once_a_core():
    network = nets.layers((2,), ("dense", 2), ("dense", 4))
    chip = replace(LOIHI1, neurons_per_core=2)
    rates = {"in": np.array([3.0, 0.5]), "dense1": [2.0, 0.0]}
    placement = place(network, chip, "sequential", firing_rates=rates)
    assert placement.cores == 3  # one for dense1, two for dense2
    assert placement.crossing_spikes == 3.5 + 2 * 2.0
    assert place(network, chip, "sequential").crossing_spikes == 2 + 2 * 2


@pytest.mark.parametrize("strategy", ["sequential", "greedy", "best"])
def test_deterministic(strategy):
    network = nets.local(300, 12, 2.0)
    chip = replace(LOIHI1, neurons_per_core=50, axons_in_per_core=220)
    first, second = (place(network, chip, strategy) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert all(np.array_equal(first.number_of[name], second.number_of[name]) for name in first.number_of)


def test_more_effort_is_never_worse():
    network = nets.demo(keep=0.3)
    chip = replace(LOIHI1, axons_in_per_core=1200)
    ranks = [(p.cores, p.crossing_spikes) for p in (place(network, chip, effort=e) for e in (0, 0.005, 0.05))]
    assert ranks == sorted(ranks, reverse=True)


def test_neighbours_share_cores():
    network = nets.local(2500, 30, 2.0)
    chip = replace(LOIHI1, neurons_per_core=128)
    best, sequential = place(network, chip), place(network, chip, "sequential")
    assert best.cores <= sequential.cores
    assert best.crossing_spikes < 0.8 * sequential.crossing_spikes


def test_what_fills_memory_shares_cores_with_what_fills_neurons():
    # The dense layer fills the memory of cores with few neurons, the convolutions the other way round; no search. One
    # after the other they take 26 cores.
    chip = replace(load_chip("loihi2"), neurons_per_core=512, memory_bits_per_core=131072)
    network = nets.layers(
        (2, 16, 16), ("conv", 16, 3, 1, 1), ("conv", 16, 3, 2, 1), ("dense", 256), ("dense", 10), keep=0.5
    )
    placement = place(network, chip, effort=0)
    oracle.check(network, placement)
    assert placement.cores <= 20


def test_a_few_cores_that_send_too_far_cost_a_few_cores():
    network = nets.local(4900, 20, 2.0, seed=1)
    chip = replace(LOIHI1, memory_bits_per_core=2**15)
    free = place(network, chip, "greedy", effort=0)
    tight = replace(chip, axons_out_per_core=340)
    placement = place(network, tight, "greedy", effort=0)
    oracle.check(network, placement)
    assert free.cores < placement.cores <= 1.05 * free.cores


def test_a_network_over_budget_is_placed_all_the_same():
    network = nets.layers((16,), ("dense", 100))
    chip = replace(LOIHI1, neurons_per_core=10)
    placement = place(network, chip, max_cores=4)
    assert placement.cores == 10 and not placement.fits
    assert [str(b) for b in placement.broken] == ["network: cores 10 > 4 (6 over)"]
    assert place(network, chip, max_cores=10).fits
    over = place(network, replace(chip, cores=3))
    assert not over.fits and over.broken[0].where == "chip" and over.chips == 4


def line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_neuron_with_too_much_fan_in_is_named():
    weight = np.zeros((3, 5000), dtype=np.int16)
    weight[2] = 2
    network = Network(
        (InputPopulation("in", (5000,)),),
        (Population("out", (3,)),),
        (DenseProjection("in", "out", weight),),
        ("out",),
    )
    with pytest.raises(HardwareError) as error:
        place(network, "loihi1")
    text = line(error)
    assert "'out', neuron 2" in text and "5000" in text and "4096" in text and "incoming axons" in text
    assert "remove synapses" in text and "narrower layer between" in text


def test_a_neuron_too_large_for_the_memory_is_named():
    network = nets.layers((300,), ("dense", 2))
    with pytest.raises(HardwareError) as error:
        place(network, replace(LOIHI1, memory_bits_per_core=64 * 200))
    assert "'dense1', neuron 0" in line(error) and "300 synapses" in line(error) and "12800" in line(error)


@pytest.mark.parametrize("max_cores", [0, -1])
def test_a_budget_below_one_core(max_cores):
    with pytest.raises(HardwareError) as error:
        place(nets.layers((2,), ("dense", 2)), "loihi1", max_cores=max_cores)
    assert f"max_cores is {max_cores}" in line(error) and "at least 1" in line(error)


def test_an_empty_network():
    network = Network((InputPopulation("in", (3,)),), (), (), ())
    for function in (place, lower_bound):
        with pytest.raises(HardwareError) as error:
            function(network, "loihi1")
        assert "network without neurons" in line(error)


def test_unknown_strategy():
    with pytest.raises(HardwareError) as error:
        place(nets.layers((2,), ("dense", 2)), "loihi1", "fastest")
    assert "'fastest'" in line(error) and all(name in line(error) for name in STRATEGIES)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"nobody": 1.0}, ("'nobody'", "no such population")),
        ({"dense1": np.ones(3)}, ("'dense1'", "3 values", "1 or 2")),
        ({"dense1": -1.0}, ("'dense1'", "none negative")),
        ({"dense1": np.nan}, ("'dense1'",)),
    ],
)
def test_bad_firing_rates(rates, words):
    with pytest.raises(HardwareError) as error:
        place(nets.layers((2,), ("dense", 2)), "loihi1", firing_rates=rates)
    assert all(word in line(error) for word in words)


def test_weights_or_delays_that_the_chip_cannot_store():
    network = nets.layers((2,), ("dense", 2))
    with pytest.raises(HardwareError) as error:
        place(network, replace(LOIHI1, weight_bits=(0, 1, 4)))
    assert "8 bits" in line(error) and "at most 4" in line(error)
    delayed = replace(network, projections=(replace(network.projections[0], delay=63),))
    with pytest.raises(HardwareError) as error:
        place(delayed, replace(LOIHI1, delay_bits=5))
    assert "delay of 63 steps" in line(error)


def test_hypergraph_without_the_package(monkeypatch):
    monkeypatch.setattr(hypergraph, "installed", lambda: False)
    hypergraph._library.cache_clear()
    network = nets.local(400, 10, 2.0)
    chip = replace(LOIHI1, neurons_per_core=60)
    with pytest.raises(HardwareError) as error:
        place(network, chip, "hypergraph")
    assert "mtkahypar is not installed" in line(error) and "[placement]" in line(error)
    assert place(network, chip).strategy != "hypergraph"


def test_hypergraph_needs_sparse_synapses(monkeypatch):
    with pytest.raises(HardwareError) as error:
        place(nets.layers((4,), ("dense", 3)), "loihi1", "hypergraph")
    assert "no population with sparse synapses" in line(error)


def test_hypergraph_cuts_fewer_synapses():
    pytest.importorskip("mtkahypar", reason="the extra `placement` is not installed")
    hypergraph._library.cache_clear()
    network = nets.local(900, 20, 1.5)
    chip = replace(LOIHI1, neurons_per_core=100)
    found, again = (place(network, chip, "hypergraph") for _ in range(2))
    oracle.check(network, found)
    assert found.strategy == "hypergraph" and found.to_dict() == again.to_dict()
    assert found.crossing_spikes < 0.5 * place(network, chip, "sequential").crossing_spikes


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_no_way_to_place_is_far_worse_than_the_best(chip):
    network = nets.nmnist()
    assert place(network, chip, "sequential").cores <= 2 * place(network, chip).cores
