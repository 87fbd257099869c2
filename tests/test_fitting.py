"""Budget-driven pruning: what is exported fits, what cannot fit is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.deploy import fitting
from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train.loop import TrainSettings, train
from hardware.chip.chips import load_chip
from hardware.placement.budget import Budget

CPU = torch.device("cpu")
EPOCHS = 6
METADATA = {"bins": 6, "dataset": "digits"}
# A core takes 64 of the small network's 192 + 96 + 128 + 3 neurons.
CHIP = replace(load_chip("loihi1"), name="small", neurons_per_core=64)
NARROW = replace(load_chip("loihi1"), name="narrow", memory_bits_per_core=100_000)


def recordings(n=48, steps=6, seed=0):
    """Each class is bright in rows of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    rate = np.full((n, steps, 2, 8, 8), 0.05)
    for i, label in enumerate(labels):
        rate[i, :, :, 2 * label : 2 * label + 2] = 0.7
    return (rng.random(rate.shape) < rate).astype(np.uint8), labels


def run(budget, pruner="dpap", model="cnn", seed=0):
    network = build_model(ModelSettings(model, (2, 8, 8), 3, NeuronSettings(0.01, 0.02)), seed)
    method = make_pruner(pruner, epochs=EPOCHS, meter=fitting.BudgetMeter(budget, effort=0.005))
    settings = TrainSettings(epochs=EPOCHS, batch=16, seed=seed)
    return network, train(network, method, recordings(), None, settings, CPU), method


@pytest.mark.parametrize(
    ("budget", "pruner", "model"),
    [
        (Budget(CHIP, max_cores=4), "dpap", "cnn"),
        (Budget(CHIP, max_cores=3, max_synapses=9_000), "dpap", "cnn"),
        (Budget(NARROW, max_cores=1), "dpap", "mlp"),
        (Budget(load_chip("loihi2"), max_synapses=8_000), "dpap", "mlp"),
        (Budget(CHIP, max_synapses_per_core=4_000), "dpap", "cnn"),
        (Budget(NARROW, max_cores=1), "magnitude", "mlp"),
        (Budget(NARROW, max_cores=2), "dpap-weighted", "mlp"),
    ],
)
def test_what_is_exported_fits(budget, pruner, model, tmp_path):
    network, history, _ = run(budget, pruner, model)
    fills = [epoch.fill for epoch in history.epochs]
    assert not fills[0]["fits"] and fills[-1]["fits"]
    assert max(fills[0]["shares"].values()) > 1.0 >= max(fills[-1]["shares"].values())
    found = fitting.save_fitted(tmp_path, network, history, METADATA, fitting.BudgetMeter(budget, 0.005))
    assert found.fits
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["budget"]["fits"] and record["budget"]["synapses"] == found.placement.synapses
    # What was measured last is what was written.
    for key in ("cores", "synapses_per_core", "neurons", "shares"):
        assert record["budget"][key] == fills[-1][key]
    assert [e["fill"]["cores"] for e in record["history"]] == [fill["cores"] for fill in fills]
    # More is left than half of what is allowed of the scarcest resource: pruning stopped where the network fitted.
    assert found.fullest()[1] > 0.5
    limits = {k: v for k, v in vars(budget).items() if k != "chip" and v is not None}
    options = [f"--{k.replace('_', '-')}={v}" for k, v in limits.items()]
    chip = tmp_path / "chip.toml"
    chip.write_text(chip_text(budget.chip))
    result = CliRunner().invoke(app, ["cores", str(tmp_path / "model.nir"), f"--chip={chip}", *options])
    assert result.exit_code == 0, result.output


def chip_text(chip):
    """The TOML file of a chip."""
    lines = [f'name = "{chip.name}"']
    for label, unit in chip.units.items():
        group, key = label.split(".")
        part = {"neuron": chip.neuron, "costs": chip.costs}.get(group, chip)
        value = getattr(part, key)
        text = json.dumps(list(value) if isinstance(value, tuple) else value).replace("Infinity", "inf")
        lines.append(f'[{label}]\nvalue = {text}\nunit = "{unit}"\nsource = "a test"')
    return "\n".join(lines)


def test_channels_go_first_where_neurons_are_scarce():
    """A channel of the first layer frees 16 neurons, one of the second 4, a neuron of the third one."""
    _, _, method = run(Budget(CHIP, max_cores=4))
    alive = {layer.name: layer.units_alive / layer.units for layer in method.masks.layers()}
    assert alive["0"] < 1.0 and alive["7"] > 0.9
    # No single synapse was asked to go.
    assert not method.masks.synapses


def test_a_network_that_fits_is_left_whole():
    _, history, _ = run(Budget(load_chip("loihi2")))
    assert all(epoch.fill["fits"] and epoch.remaining == epoch.parameters for epoch in history.epochs)


def test_resumed_equals_uninterrupted(tmp_path):
    class Interrupted(Exception):
        pass

    def weights(folder, stop_after=None):
        network = build_model(ModelSettings("cnn", (2, 8, 8), 3, NeuronSettings(0.01, 0.02)), 0)

        def stop(epoch, _):
            if epoch.epoch == stop_after:
                raise Interrupted

        method = make_pruner("dpap", epochs=EPOCHS, meter=fitting.BudgetMeter(Budget(CHIP, 3), effort=0.005))
        settings = TrainSettings(epochs=EPOCHS, batch=16)
        history = train(network, method, recordings(), None, settings, CPU, on_epoch=stop, checkpoint=folder)
        return network.state_dict(), [epoch.fill for epoch in history.epochs]

    whole, fills = weights(tmp_path / "a")
    with pytest.raises(Interrupted):
        weights(tmp_path / "b", stop_after=2)
    resumed, fills_resumed = weights(tmp_path / "b")
    assert fills == fills_resumed
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("budget", "model"),
    [
        (Budget(load_chip("loihi2"), max_synapses=3), "mlp"),
        (Budget(replace(CHIP, neurons_per_core=2), max_cores=1), "cnn"),
    ],
)
def test_a_budget_that_nothing_could_meet_is_refused_before_training(budget, model):
    with pytest.raises(InputError, match="read-out is never pruned"):
        run(budget, model=model)


def test_a_pruner_that_cannot_free_the_scarce_resource_says_so(tmp_path):
    budget = Budget(CHIP, max_cores=4)
    network, history, _ = run(budget, "magnitude")
    assert not history.epochs[-1].fill["fits"]
    found = fitting.save_fitted(tmp_path, network, history, METADATA, fitting.BudgetMeter(budget))
    assert not found.fits and "256 neurons" in found.explain()
    assert json.loads((tmp_path / "run.json").read_text())["budget"]["broken"] == [str(found.broken[0])]


@pytest.mark.parametrize("pruner", ["none", "set", "rigl"])
def test_pruners_without_a_goal_to_move_refuse_a_budget(pruner):
    with pytest.raises(InputError, match="budget"):
        make_pruner(pruner, epochs=4, meter=fitting.BudgetMeter(Budget(CHIP)))


def test_a_budget_and_a_sparsity_exclude_each_other():
    with pytest.raises(InputError, match="sparsity"):
        make_pruner("dpap", epochs=4, sparsity=0.5, meter=fitting.BudgetMeter(Budget(CHIP)))


def test_the_pruner_names_its_budget():
    meter = fitting.BudgetMeter(Budget(CHIP, max_cores=1, max_synapses_per_core=9_000))
    said = make_pruner("magnitude", epochs=10, meter=meter).describe()
    assert "fits 1 core of small, at most 9,000 synapses per core, reached after 70% of 10 epochs" in said


def test_train_command_fits_and_says_when_not(tmp_path, monkeypatch):
    from dpap_neuro.train import runs

    data = recordings()
    about = {"duration_us": 60_000.0, "name": "bars", "folder": None, "sensor_size": data[0].shape[:1:-1]}
    opened = type("Opened", (), {"classes": tuple("abc"), **about})()
    split = runs.Split(opened, data, data, runs.Binning(bins=6))
    monkeypatch.setattr(runs, "load_split", lambda *_: split)
    (tmp_path / "chip.toml").write_text(chip_text(CHIP))
    common = ["train", f"--chip={tmp_path / 'chip.toml'}", "--max-cores=4", "--epochs=4", "--batch=16"]
    good = CliRunner().invoke(app, [*common, f"--out={tmp_path / 'good'}"])
    assert good.exit_code == 0, good.output
    cores = [str(tmp_path / "good" / "model.nir"), f"--chip={tmp_path / 'chip.toml'}", "--max-cores=4"]
    assert CliRunner().invoke(app, ["cores", *cores]).exit_code == 0
    bad = CliRunner().invoke(app, [*common, "--pruner=magnitude", f"--out={tmp_path / 'bad'}"])
    assert bad.exit_code == 3 and "magnitude could not remove enough" in bad.output
