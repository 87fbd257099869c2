"""Loads and what they cost, against a loop over spikes and synapses."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import network_samples
import numpy as np
import placement_networks as nets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_network import synapses as synapses_of

from hardware.chip.chips import load_chip
from hardware.errors import HardwareError
from hardware.placement import costing, loads, place
from hardware.placement.rates import ASSUMED_RATE

LOIHI1 = load_chip("loihi1")
SMALL = replace(LOIHI1, neurons_per_core=3)


def counted(network, placement, spikes):
    """Per (step, core) {what: how many}, by the definition."""
    shape = {p.name: p.shape for p in (*network.inputs, *network.populations)}
    batch, steps = next(iter(spikes.values())).shape[:2]
    trains = {name: values.reshape(batch * steps, -1) for name, values in spikes.items()}
    found, layers, heard = Counter(), Counter(), set()

    def tile(core):
        return core // 4 % 8, core // 4 // 8

    for projection in network.projections:
        if projection.source not in trains:
            continue
        targets = {}
        for pre, post, weight, _ in synapses_of(
            projection, shape[projection.source], shape[projection.target]
        ):
            if weight:
                targets.setdefault(pre, set()).add(post)
        core_of = placement.core_of[projection.target]
        for t, row in enumerate(trains[projection.source]):
            for pre in np.flatnonzero(row):
                reached = set()
                for post in targets.get(pre, ()):
                    core = int(core_of[post])
                    found["events", t, core] += 1
                    layers["events", projection.target] += 1
                    found["multiplied", t] += row[pre] > 1
                    heard.add((t, projection.target, post))
                    reached.add(core)
                for core in reached:
                    found["messages_in", t, core] += 1
                    if projection.source in placement.core_of:
                        own = int(placement.core_of[projection.source][pre])
                        found["messages_out", t, own] += 1
                        layers["messages", projection.source] += 1
                        found["hops_x", t, own] += abs(tile(core)[0] - tile(own)[0])
                        found["hops_y", t, own] += abs(tile(core)[1] - tile(own)[1])
    for t in range(batch * steps):
        for name, core_of in placement.core_of.items():
            for neuron, core in enumerate(core_of):
                if core < 0:  # dead
                    continue
                kind = "active" if (t, name, neuron) in heard else "inactive"
                found[kind, t, int(core)] += 1
                layers[kind, name] += 1
    return found, layers


KEYS = ("events", "active", "inactive", "messages_in", "messages_out", "hops_x", "hops_y")


def check(network, placement, spikes):
    found = loads.count(network, placement, spikes)
    wanted, layers = counted(network, placement, spikes)
    steps, cores = found.events.shape
    assert cores == placement.cores
    for key in KEYS:
        expected = [[wanted[key, t, c] for c in range(cores)] for t in range(steps)]
        assert getattr(found, key).tolist() == expected, key
    assert found.multiplied.tolist() == [wanted["multiplied", t] for t in range(steps)]
    for key in ("events", "active", "inactive", "messages"):
        sums = getattr(found, f"layer_{key}").sum(axis=1) * steps
        assert sums == pytest.approx([layers[key, name] for name in found.layers])
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(network_samples.networks(), st.integers(0, 99), st.sampled_from([1, 4, 1000]))
def test_every_spike_is_counted_where_it_happens(network, seed, size):
    rng = np.random.default_rng(seed)
    try:
        placement = place(network, replace(LOIHI1, neurons_per_core=size), "sequential")
    except HardwareError:
        return
    shapes = {p.name: p.shape for p in (*network.inputs, *network.populations)}
    spikes = {name: rng.poisson(0.4, (2, 3, *shape)) for name, shape in shapes.items()}
    check(network, placement, spikes)


def small():
    return nets.layers((2, 6, 6), ("conv", 3, 3, 2, 1), ("dense", 9), ("dense", 4), seed=3)


def test_recordings_are_counted_in_the_steps_of_the_chip(monkeypatch):
    network = small()
    placement = place(network, SMALL)
    raster = np.random.default_rng(0).poisson(0.4, (3, 4, 2, 6, 6))
    spikes = loads.spike_trains(network, raster)
    assert next(iter(spikes.values())).shape[:2] == (3, 4 + 3)
    whole = loads.measure(network, placement, raster)
    wanted = check(network, placement, spikes)
    monkeypatch.setattr(loads, "_CELLS", 1)
    parts = loads.measure(network, placement, raster)
    for key in (*KEYS, "layer_events", "layer_messages", "multiplied"):
        assert np.array_equal(getattr(whole, key), getattr(wanted, key)), key
        assert getattr(parts, key) == pytest.approx(getattr(wanted, key)), key
    assert (parts.samples, parts.steps, parts.cores, parts.measured) == (3, 7, placement.cores, True)


def test_a_mean_step_of_rates():
    network = small()
    placement = place(network, SMALL)
    rng = np.random.default_rng(1)
    names = [p.name for p in (*network.inputs, *network.populations)]
    shapes = {p.name: p.shape for p in (*network.inputs, *network.populations)}
    spikes = {name: rng.integers(0, 2, (1, 5, *shapes[name])) for name in names}
    exact = loads.count(network, placement, spikes)
    rates = {name: values.sum(axis=(0, 1)) for name, values in spikes.items()}
    mean = loads.expected(network, placement, rates, steps=5)
    for key in ("events", "messages_in", "messages_out", "hops_x", "hops_y"):
        assert getattr(mean, key)[0] == pytest.approx(getattr(exact, key).mean(axis=0)), key
    assert (mean.active + mean.inactive)[0] == pytest.approx(placement.neurons_per_core)
    # Of independent events, as a Poisson process makes them.
    heard = np.einsum("pi,i->p", network.projections[1].weight != 0, rates["conv1"].ravel() / 5)
    assert mean.layer_active[1].sum() == pytest.approx((1 - np.exp(-heard)).sum())
    assumed = loads.expected(network, placement)
    assert not assumed.measured and mean.measured
    synapses = sum(int(np.count_nonzero(p.weight)) for p in network.projections[1:])
    assert assumed.layer_events[1:].sum() == pytest.approx(ASSUMED_RATE * synapses)


def test_time_and_energy_follow_from_counts():
    network = small()
    placement = place(network, SMALL)
    found = loads.measure(network, placement, np.ones((2, 3, 2, 6, 6), int))
    spent = costing.spent(found, LOIHI1)
    latency = energy = 0.0
    for t in range(len(found.events)):
        busiest = 0.0
        for c in range(found.cores):
            work = found.events[t, c] * 3.5 + found.active[t, c] * 8.4 + found.inactive[t, c] * 5.3
            busiest = max(busiest, work, (found.messages_in[t, c] + found.messages_out[t, c]) * 2.1)
            energy += found.events[t, c] * 23.6 + found.active[t, c] * 81 + found.inactive[t, c] * 52
            energy += found.messages_in[t, c] * 1.7 + found.hops_x[t, c] * 3.0 + found.hops_y[t, c] * 4.0
        latency += busiest + 113 + (465 - 113) * (math.ceil(found.cores / 4) - 1) / 31
    assert spent.latency == pytest.approx(latency / 2) and spent.total == pytest.approx(energy / 2)
    assert spent.power == pytest.approx(energy / latency * 1e-3)
    assert spent.power_at(0.5) == pytest.approx(energy / 2 * 1e-12 / 0.5)
    assert spent.convention == pytest.approx(found.events.sum() * 0.9 / 2)
    graded = loads.measure(network, placement, np.full((1, 1, 2, 6, 6), 2))
    first, others = graded.multiplied.sum(), (graded.events.sum() - graded.multiplied.sum())
    assert first > 0 and costing.spent(graded, LOIHI1).convention == pytest.approx(4.6 * first + 0.9 * others)


def test_the_bottleneck_is_what_the_slowest_core_does_most():
    network = small()
    placement = place(network, SMALL)
    busy = loads.measure(network, placement, np.ones((1, 5, 2, 6, 6), int))
    idle = loads.measure(network, placement, np.zeros((1, 5, 2, 6, 6), int))
    assert costing.spent(busy, LOIHI1).bottleneck == "synapses"
    assert costing.spent(idle, LOIHI1).bottleneck == "neurons"
    slow = replace(LOIHI1, costs=replace(LOIHI1.costs, message_ns=1000.0))
    assert costing.spent(busy, slow).bottleneck == "messages"


def test_a_chip_without_costs_has_loads_but_no_times():
    network = small()
    placement = place(network, replace(SMALL, costs=None))
    found = loads.expected(network, placement)
    assert found.events.sum() > 0
    with pytest.raises(HardwareError) as error:
        costing.spent(found, placement.chip)
    assert "no costs" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [0, -1, math.nan, math.inf])
def test_rates_need_steps(steps):
    network = small()
    with pytest.raises(HardwareError, match="steps is"):
        loads.expected(network, place(network, SMALL), {}, steps)
