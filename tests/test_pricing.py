"""What weights are charged for: events counted by hand, and pruning until events, energy or time fit."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from test_fitting import CPU, EPOCHS, METADATA, recordings
from test_steps import data as small_recordings
from torch import nn

from dpap_neuro.deploy import fitting
from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings, SpikingNetwork, build_model
from dpap_neuro.networks.neurons import LI, LIF, NeuronSettings
from dpap_neuro.pruning import Reading, make_pruner
from dpap_neuro.pruning.budget import approach
from dpap_neuro.pruning.finding import find_structure
from dpap_neuro.train import runs
from dpap_neuro.train.loop import TrainSettings, train
from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir, read_graph
from hardware.placement.budget import Budget, fill
from hardware.simulate.simulator import simulate

LOIHI1 = load_chip("loihi1")


@pytest.mark.parametrize("groups", [1, 2])
def test_events_of_a_kernel_are_those_of_every_position(groups):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 3 * 4, 2))
    structure = find_structure(model, torch.rand(1, 4, 5, 7), time=False)
    counts = torch.rand(4, 5, 7, dtype=torch.float64)
    found = structure.projections["0"].sums(counts).expand(6, 4 // groups, 3, 3)
    expected = torch.zeros(6, 4 // groups, 3, 3, dtype=torch.float64)
    for o, i, ky, kx in np.ndindex(*expected.shape):
        channel = o // (6 // groups) * (4 // groups) + i
        for y in range(3):
            for x in range(4):
                row, column = 2 * y - 1 + ky, 2 * x - 1 + kx
                if 0 <= row < 5 and 0 <= column < 7:
                    expected[o, i, ky, kx] += counts[channel, row, column]
    torch.testing.assert_close(found, expected)


def run(budget, pruner, count=None, **options):
    network = build_model(ModelSettings("cnn", (2, 8, 8), 3, NeuronSettings(0.01, 0.02)), 0)
    meter = fitting.BudgetMeter(budget, effort=0.005)
    meter.show(*recordings())
    method = make_pruner(
        pruner, epochs=EPOCHS, meter=meter, **({} if count is None else {"count": count}), **options
    )
    # Many batches: running means of batch norms keep up with what is pruned.
    settings = TrainSettings(epochs=EPOCHS, batch=4)
    return network, train(network, method, recordings(), None, settings, CPU), method, meter


@pytest.mark.parametrize(
    ("budget", "pruner", "count"),
    [
        (Budget(LOIHI1, max_events=6_000), "weighted", None),
        (Budget(LOIHI1, max_events=6_000), "magnitude", None),
        (Budget(LOIHI1, max_events=6_000), "magnitude", "parameters"),
        (Budget(LOIHI1, max_energy_uj=0.35), "weighted", None),
        (Budget(LOIHI1, max_cores=2, max_step_us=1.5), "weighted", None),
    ],
)
def test_what_is_charged_fits(budget, pruner, count, tmp_path):
    network, history, method, meter = run(budget, pruner, count)
    assert method.goal.count == (count or "events")
    found = fitting.save_fitted(tmp_path, network, history, METADATA, meter)
    assert found.fits and history.epochs[-1].fill["fits"]
    assert not history.epochs[0].fill["fits"]
    # What the last measurement of training said is what the written file takes.
    assert history.epochs[-1].fill["charged"]["events"] == pytest.approx(found.charged["events"])
    record = json.loads((tmp_path / "run.json").read_text())["budget"]
    assert record["silent"] == found.silent == history.epochs[-1].fill["silent"]


@pytest.mark.parametrize("pruner", ["weighted", "dpap"])
def test_a_budget_is_charged_for_the_time_bins_that_are_left(pruner, tmp_path):
    network, history, _, meter = run(Budget(LOIHI1, max_events=1e6), pruner, bins=3)
    found = fitting.save_fitted(tmp_path, network, history, METADATA, meter)
    kept = list(history.kept_bins)
    assert len(kept) == 3
    integers = compile_graph(read_graph(tmp_path / "model.nir"), LOIHI1)[0]
    own, all_of_them = (
        fill(integers, meter.budget, effort=0.005, raster=x) for x in (meter.raster[:, kept], meter.raster)
    )
    assert found.charged == own.charged == history.epochs[-1].fill["charged"]
    assert own.charged["events"] < 0.8 * all_of_them.charged["events"]


def plain_network():
    """Without batch norms, whose running means lag behind what is pruned."""
    torch.manual_seed(0)
    neuron = NeuronSettings(dt=1e-3, tau_mem=2e-3, v_th=0.2)
    first, second, readout = nn.Linear(12, 16), nn.Linear(16, 12), nn.Linear(12, 3)
    model = SpikingNetwork(nn.Flatten(), first, LIF(neuron), second, LIF(neuron), readout, LI(neuron))
    model.settings = ModelSettings("made", (1, 3, 4), 3, neuron, "membrane")
    return model


@pytest.mark.parametrize("guarded", [True, False])
def test_pruning_by_events_silences_no_layer(guarded):
    meter = fitting.BudgetMeter(Budget(LOIHI1, max_events=30), effort=0.005)
    meter.show(*small_recordings())
    seen = []

    def measure(model):
        reading = meter(model)
        seen.append(reading)
        return reading if guarded else replace(reading, silent=None)

    measure.count = "events"
    method = make_pruner("magnitude", epochs=8, meter=measure)
    settings, said = TrainSettings(epochs=8, batch=8, shift=0, learning_rate=0.02), []
    network = plain_network()
    on_epoch = lambda _, report: said.append(report.reading)  # noqa: E731
    train(network, method, small_recordings(), None, settings, CPU, on_epoch=on_epoch)
    last, found = said[-1], meter(network)
    assert found.values == last.values
    if not guarded:
        assert last.fits and found.silent and found.silent == tuple(found.values["silent"])
        (name, number), *_ = found.values["silent"].items()
        assert f"layer {name} never spikes in {number} of 32 recordings" in last.text
        return
    # Reductions that silence a layer were tried and undone: what is left is what was measured last.
    assert any(reading.silent for reading in seen[1:]) and not found.silent
    assert not last.fits and "pruned no further: that would silence layer" in last.text


@pytest.mark.parametrize("silent", [(), ("1",)])
def test_nothing_is_pruned_while_a_layer_is_silent(silent):
    size, reduced = [100], []

    def measure():
        factor = size[0] / 50
        return Reading({"synapses": factor} if factor > 1 else {}, f"{size[0]}", silent=silent)

    def reduce(targets):
        reduced.append(targets["synapses"])
        size[0] = targets["synapses"]

    def keep():
        return lambda: size.__setitem__(0, 100)

    masks = SimpleNamespace(neuron_count=lambda: 9)
    reading = approach(measure, masks, reduce, 5, (1, 4), lambda: size[0], keep)
    if not silent:
        assert reading.fits and reduced == [50]
        return
    assert not reading.fits and reduced == []
    assert reading.text == "100; nothing is pruned while a layer is silent"


@pytest.mark.parametrize("pruner", ["weighted", "magnitude"])
@pytest.mark.parametrize("silent", [False, True])
def test_a_share_of_events_waits_for_a_layer_that_no_spike_leaves(silent, pruner):
    network = plain_network()
    if silent:
        nn.init.constant_(network[3].bias, -50.0)
    method = make_pruner(pruner, epochs=4, sparsity=0.6, count="events")
    settings = TrainSettings(epochs=4, batch=16, shift=0, learning_rate=1e-4)
    history = train(network, method, small_recordings(), None, settings, CPU)
    last = history.epochs[-1]
    assert (last.rates["4"] == 0.0) == silent
    assert (last.remaining == last.parameters) == silent


def test_silence_is_counted_recording_by_recording():
    network = plain_network().eval()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    integers = compile_graph(from_nir(runs.graph_of(network, {})), LOIHI1)[0]
    raster = small_recordings()[0][:9].copy()
    raster[[0, 2, 3, 5, 8]] = 0
    found = fill(integers, Budget(LOIHI1, max_events=1e9), effort=0.005, raster=raster)
    counts = simulate(integers, raster).counts
    quiet = {name: int((c.reshape(9, -1).sum(1) == 0).sum()) for name, c in counts.items()}
    expected = {n: quiet[n] for n in quiet if n not in integers.outputs and quiet[n] > 4}
    assert expected and found.silent == expected and found.fits
    assert "in 5 of 9 recordings" in found.silence()
    loud = fill(integers, Budget(LOIHI1, max_events=1e9), effort=0.005, raster=raster[[1, 4, 6, 7, 0]])
    assert loud.silent == {} and loud.silence() == "" and loud.to_dict()["silent"] == {}


def test_a_share_of_events_is_of_those_before_the_first_weight_goes():
    network = build_model(ModelSettings("cnn", (2, 8, 8), 3, NeuronSettings(0.01, 0.02)), 0)
    method = make_pruner("weighted", epochs=EPOCHS, sparsity=0.8, count="events")
    train(network, method, recordings(), None, TrainSettings(epochs=EPOCHS, batch=16), CPU)
    assert method.tally.total() > 0
    assert method.tally.left() <= 0.2 * method.tally.total() + 1


def test_a_budget_below_what_is_always_left_is_refused_before_training():
    with pytest.raises(InputError, match=r"events .* > 2 .*the read-out is never pruned"):
        run(Budget(LOIHI1, max_events=2), "weighted")


def test_what_cannot_be_charged_is_said(tmp_path):
    with pytest.raises(InputError, match="pruner set: found count 'events'"):
        make_pruner("set", epochs=4, sparsity=0.5, count="events")
    with pytest.raises(HardwareError, match="max_events is 0; expected a finite number above 0"):
        Budget(LOIHI1, max_events=0)
    _, _, _, meter = run(Budget(LOIHI1), "magnitude")
    assert meter.raster is None
    with pytest.raises(HardwareError, match="found no recordings"):
        fill(None, Budget(LOIHI1, max_events=5))
