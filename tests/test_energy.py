"""Energy estimates: every event is charged once, at the price that SANA-FE's Loihi file names."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hardware.chip.chips import load_chip
from hardware.errors import HardwareError
from hardware.network.integer import DenseProjection, InputPopulation, Network, Population, SparseProjection
from hardware.placement import costing, energy, loads, place


def network(weight, hidden=4):
    """Inputs, a population that fires wherever it hears something, and one that never does."""
    out = np.zeros((3, hidden), dtype=np.int64)
    out[0] = 2
    return Network(
        (InputPopulation("in", (5,)),),
        (
            Population("a", (hidden,), du=4095, dv=4096, vth=1),
            Population("b", (3,), du=4095, dv=4096, vth=100_000),
        ),
        (DenseProjection("in", "a", weight), DenseProjection("a", "b", out)),
        ("b",),
    )


def test_without_sanafe_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(energy, "available", lambda: False)
    net = network(np.full((4, 5), 200))
    with pytest.raises(HardwareError, match=r"dpap-neuro\[energy\]"):
        energy.estimate(net, place(net, "loihi1"), {})


pytestmark = pytest.mark.filterwarnings("ignore")
needs_sanafe = pytest.mark.skipif(not energy.available(), reason="SANA-FE is not installed (extra `energy`)")


@needs_sanafe
def test_every_event_is_charged():
    weight = np.full((4, 5), 200)
    weight[3] = 0
    net = network(weight)
    placement = place(net, "loihi1")
    raster = np.zeros((2, 3, 5), dtype=np.int64)
    raster[0, 0, :2] = 1
    raster[1, 1, 0] = 3
    found = energy.estimate(net, placement, energy.chip_spikes(net, raster))
    # Three neurons hear each of three input spikes; two of these fall in one step. Their spikes reach one neuron.
    heard, fired = 3 * 3, 3 * 2
    assert (found.samples, found.steps, found.spikes, found.events) == (2, 5, fired / 2, (heard + fired) / 2)
    pico = 1e-12
    assert found.soma == pytest.approx(pico * (7 * 5 * (51.2 + 21.6) + fired / 2 * 69.3))
    assert found.synapse == pytest.approx(pico * 33.6 * found.events)
    # Inputs send over the mesh to the one core of the network, whose neurons speak to themselves.
    assert found.network >= pico * 111.0 * (3 + fired) / 2
    assert found.energy == pytest.approx(found.soma + found.synapse + found.network)
    assert found.latency > 0 and found.power == pytest.approx(found.energy / found.latency)


@needs_sanafe
def test_energy_grows_with_spikes_and_with_cores():
    rng = np.random.default_rng(0)
    size = 120
    indptr = np.arange(0, 10 * size + 1, 10)
    post = rng.integers(0, size, 10 * size).astype(np.int32)
    weight = np.full(10 * size, 100)
    net = Network(
        (InputPopulation("in", (size,)),),
        (Population("a", (size,), dv=4096, vth=1), Population("b", (size,), dv=4096, vth=100_000)),
        (
            SparseProjection("in", "a", indptr, post, weight),
            SparseProjection("a", "b", indptr, post[::-1].copy(), weight),
        ),
        ("b",),
    )
    few, many = (rng.random((1, 4, size)) < p for p in (0.01, 0.2))
    together = place(net, "loihi1")
    apart = place(net, replace(load_chip("loihi1"), neurons_per_core=30))
    assert apart.cores > 2 * together.cores
    quiet = energy.estimate(net, together, energy.chip_spikes(net, few.astype(int)))
    busy = energy.estimate(net, together, energy.chip_spikes(net, many.astype(int)))
    spread = energy.estimate(net, apart, energy.chip_spikes(net, many.astype(int)))
    assert busy.spikes > 2 * quiet.spikes and busy.energy > quiet.energy and busy.latency > quiet.latency
    assert spread.network > 1.5 * busy.network
    assert spread.synapse == pytest.approx(busy.synapse) and spread.soma == pytest.approx(busy.soma)
    assert energy.estimate(net, together, energy.chip_spikes(net, few.astype(int))) == quiet


@needs_sanafe
def test_more_than_sanafes_loihi_holds_is_refused():
    net = network(np.full((2000, 5), 200), hidden=2000)
    with pytest.raises(HardwareError, match="place on loihi1"):
        energy.estimate(net, place(net, "loihi2"), energy.chip_spikes(net, np.zeros((1, 3, 5), int)))


@needs_sanafe
def test_energy_command(tmp_path, capfd):
    pytest.importorskip("torch")
    import nir
    from graph_samples import graph, inp, lif, out
    from typer.testing import CliRunner

    from dpap_neuro.cli import app

    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(2, 34, 34),
        "conv": nir.Conv2d((34, 34), rng.normal(size=(3, 2, 5, 5)), 4, 0, 1, 1, np.full(3, 0.02)),
        "n1": lif(3, 8, 8, tau=0.1, r=2.0, v_threshold=0.5),
        "flat": nir.Flatten({"input": np.array([3, 8, 8])}, 0, -1),
        "fc": nir.Affine(rng.normal(size=(10, 192)), rng.normal(size=10) * 0.1),
        "n2": lif(10, tau=0.1, r=2.0, v_threshold=0.5),
        "output": out(10),
    }
    nir.write(tmp_path / "m.nir", graph(nodes, dt=0.06, bins=5, clip=4))
    arguments = ["energy", str(tmp_path / "m.nir"), "--dataset", "digits", "--limit", "3", "--sanafe"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["samples"] == 3 and found["steps"] == 7
    other = found["sanafe"]
    assert 0 < other["soma"] < other["energy"] and other["events"] == found["events"]
    assert capfd.readouterr().out == ""
    shown = CliRunner().invoke(app, arguments).stdout
    assert "synaptic events" in shown and "SANA-FE" in shown and "left out: static power" in shown


@needs_sanafe
def test_where_the_chips_costs_differ_from_sanafes():
    """With SANA-FE's energies in place of the table's, both are one."""
    rng = np.random.default_rng(0)
    net = network(2 * rng.integers(50, 100, (40, 5)), hidden=40)
    placement = place(net, replace(load_chip("loihi1"), neurons_per_core=9))
    raster = (rng.random((2, 6, 5)) < 0.4).astype(int)
    theirs = energy.estimate(net, placement, energy.chip_spikes(net, raster))
    counted = loads.measure(net, placement, raster)
    assert theirs.events == counted.events.sum() / 2
    costs = replace(
        placement.chip.costs, synaptic_event_pj=35.5, active_neuron_pj=72.8, inactive_neuron_pj=72.8
    )
    ours = costing.spent(counted, replace(placement.chip, costs=costs))
    assert ours.energy["neurons"] * 1e-12 + 69.3e-12 * theirs.spikes == pytest.approx(theirs.soma)
    dense = counted.layer_events[0].sum() * counted.steps * 35.5
    sparse = counted.layer_events[1].sum() * counted.steps * 33.6
    assert (dense + sparse) * 1e-12 == pytest.approx(theirs.synapse)


def test_sanafe_knows_loihi_1_alone(monkeypatch):
    monkeypatch.setattr(energy, "available", lambda: True)
    energy.check(load_chip("loihi1"))
    with pytest.raises(HardwareError, match="expected chip loihi1"):
        energy.check(load_chip("loihi2"))
