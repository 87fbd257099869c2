"""Placements for time, against the definition of a step and against trying everything."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import oracle_placement as oracle
import placement_networks as nets
import pytest
from oracle_network import synapses as synapses_of

from hardware.chip.chips import load_chip
from hardware.errors import HardwareError
from hardware.placement import costing, loads, place, trade_off
from hardware.placement.rates import ASSUMED_RATE, step_rates

LOIHI1 = load_chip("loihi1")


def convolutional(keep=1.0):
    return nets.layers(
        (2, 9, 9), ("conv", 6, 3, 1, 1), ("conv", 8, 3, 2, 1), ("dense", 20), ("dense", 10), keep=keep
    )


def rates_of(network, seed=0):
    rng = np.random.default_rng(seed)
    return {p.name: 0.2 * rng.random(p.shape) ** 2 for p in (*network.inputs, *network.populations)}


def step_of(network, chip, core_of, cores, rates):
    """Nanoseconds of a mean step, by the definition."""
    shape = {p.name: p.shape for p in (*network.inputs, *network.populations)}
    heard = {(name, n): 0.0 for name, placed in core_of.items() for n in range(len(placed))}
    reached, messages = set(), np.zeros(cores)
    for number, projection in enumerate(network.projections):
        rate = np.broadcast_to(rates[projection.source], shape[projection.source]).ravel()
        for pre, post, weight, _ in synapses_of(
            projection, shape[projection.source], shape[projection.target]
        ):
            if not weight:
                continue
            heard[projection.target, post] += rate[pre]
            core = core_of[projection.target][post]
            if (number, pre, core) not in reached:
                reached.add((number, pre, core))
                messages[core] += rate[pre]
                if projection.source in core_of:
                    messages[core_of[projection.source][pre]] += rate[pre]
    busy = np.zeros(cores)
    for (name, n), events in heard.items():
        active = 1 - math.exp(-events)
        busy[core_of[name][n]] += 3.5 * events + 8.4 * active + 5.3 * (1 - active)
    tiles = math.ceil(cores / 4)
    every = math.ceil(chip.cores / 4)
    barrier = 113 + (465 - 113) * (tiles - 1) / max(1, every - 1)
    return max(busy.max(), 2.1 * messages.max()) + barrier


@pytest.mark.parametrize("keep", [1.0, 0.1])
@pytest.mark.parametrize("kind", ["conv", "sparse"])
def test_faster_on_as_many_cores_and_faster_still_on_more(kind, keep):
    network = convolutional(keep) if kind == "conv" else nets.local(400, int(40 * keep), 2.0)
    chip = replace(LOIHI1, neurons_per_core=250, memory_bits_per_core=60_000)
    rates = rates_of(network)
    first = place(network, chip, firing_rates=rates)
    before = step_of(network, chip, first.core_of, first.cores, rates)
    for cores in (first.cores, 2 * first.cores):
        found = place(network, chip, firing_rates=rates, objective="time", max_cores=cores)
        oracle.check(network, found, rates)
        assert found.fits and found.cores <= cores and found.objective == "time"
        wanted = step_of(network, chip, found.core_of, found.cores, rates)
        assert found.step_ns == pytest.approx(wanted) and wanted <= before
        assert found.step_bound_ns <= found.step_ns
        spent = costing.spent(loads.expected(network, found, rates), chip)
        assert spent.step[0] == pytest.approx(found.step_ns)
    assert found.step_ns < 0.75 * before


@pytest.mark.parametrize("seed", range(4))
def test_no_placement_at_all_is_below_the_bound(seed):
    network = nets.layers((3,), ("dense", 4), ("dense", 3), seed=seed, keep=0.7)
    rates = rates_of(network, seed)
    chip = replace(LOIHI1, cores=3)
    found = place(network, chip, firing_rates=rates, objective="time")
    best = math.inf
    for code in range(3**7):
        cores = np.array([code // 3**n % 3 for n in range(7)])
        used = np.unique(cores, return_inverse=True)[1]
        core_of = {"dense1": used[:4], "dense2": used[4:]}
        best = min(best, step_of(network, chip, core_of, used.max() + 1, rates))
    assert found.step_bound_ns - 1e-9 <= best <= found.step_ns + 1e-9


def test_more_cores_are_not_taken_where_the_barrier_outweighs_them():
    network = nets.layers((4,), ("dense", 40))
    chip = replace(LOIHI1, costs=replace(LOIHI1.costs, barrier_all_tiles_ns=1e6))
    found = place(network, chip, objective="time")
    assert found.cores <= 4


def test_cores_against_time():
    network = convolutional()
    chip = replace(LOIHI1, neurons_per_core=250, cores=40)
    rates = rates_of(network)
    points = trade_off(network, chip, rates)
    assert len(points) > 4 and points[0].objective == "cores"
    fewest = place(network, chip, firing_rates=rates)
    assert points[0].cores == points[1].cores == fewest.cores
    assert points[0].crossing_spikes == fewest.crossing_spikes
    assert all(a.cores <= b.cores and a.step_ns > b.step_ns for a, b in itertools.pairwise(points))
    for point in points[1:]:
        assert point.step_ns <= 1.1 * point.step_bound_ns
    assert [p.cores for p in trade_off(network, chip, rates, max_cores=12)][-1] <= 12


def test_deterministic():
    network = convolutional(0.3)
    first, second = (
        place(network, replace(LOIHI1, neurons_per_core=250), objective="time", max_cores=9) for _ in range(2)
    )
    assert first.to_dict() == second.to_dict()


def test_fewest_crossing_spikes():
    network = convolutional(0.3)
    chip = replace(LOIHI1, neurons_per_core=250)
    fewest = place(network, chip)
    found = place(network, chip, objective="crossings", max_cores=2 * fewest.cores)
    oracle.check(network, found)
    assert found.cores <= 2 * fewest.cores and found.crossing_spikes <= fewest.crossing_spikes


def test_rates_of_which_nothing_is_known_are_assumed():
    network = nets.layers((2,), ("dense", 3), ("dense", 2))
    rates = step_rates(network, {"in": [4.0, 2.0]}, steps=8)
    assert rates["in"].tolist() == [0.5, 0.25] and rates["dense1"].tolist() == [ASSUMED_RATE] * 3
    silent = replace(network.populations[1], spiking=False)
    membrane = replace(network, populations=(network.populations[0], silent))
    assert step_rates(membrane, None)["dense2"].tolist() == [0.0, 0.0]


def test_time_without_costs_and_an_unknown_objective():
    network = nets.layers((2,), ("dense", 2))
    with pytest.raises(HardwareError, match="no costs"):
        place(network, replace(LOIHI1, costs=None), objective="time")
    with pytest.raises(HardwareError, match="'fastest'; expected one of cores, time, crossings"):
        place(network, LOIHI1, objective="fastest")
