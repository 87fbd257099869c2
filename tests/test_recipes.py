"""Experiments of the literature by name; the DPAP paper's network takes a whole step of its strict method."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from typer.testing import CliRunner

from dpap_neuro.cli import app, learning
from dpap_neuro.data import Binning, Opened
from dpap_neuro.deploy.recipes import RECIPES, differing, with_recipe
from dpap_neuro.deploy.request import TrainRequest
from dpap_neuro.deploy.training import resolve
from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import build_model
from dpap_neuro.networks.neurons import ParametricLIF
from dpap_neuro.pruning import DPAP
from dpap_neuro.pruning.published import PublishedDPAP
from dpap_neuro.train import runs, steps

CPU = torch.device("cpu")


def images(n, size, steps=8, seed=0):
    """Random colour images, shown the same in every step, and their classes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 1, 3, size, size), dtype=np.uint8)
    return np.repeat(x, steps, 1), np.arange(n) % 10


def split(n=20, size=8):
    data = images(n, size)
    opened = Opened("made", "train", None, (size, size, 3), tuple(map(str, range(10))), 8e3)
    return runs.Split(opened, data, data, Binning(8, clip=255))


def test_the_papers_settings():
    asked = with_recipe("dpap-cifar10", {})
    assert asked.learning_rate == pytest.approx(2.44140625e-4) and asked.batch == 50 and asked.epochs == 300
    training = resolve(with_recipe("dpap-cifar10", {"dataset": "digits"}))
    assert (
        isinstance(training.pruner, PublishedDPAP) and "the authors' constants" in training.pruner.describe()
    )
    s = training.settings
    assert (s.loss, s.weight_decay, s.warmup, s.label_smoothing, s.seed) == (
        "one-sided-mse",
        0.01,
        5.0,
        0.0,
        42,
    )
    model = training.model(split())
    assert model.neuron.tau_mem == pytest.approx(2 * model.neuron.dt) and model.neuron.v_th == 0.5
    assert (model.cell, model.readout, model.neuron.surrogate) == ("plif", "spikes", "atan")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_asked_for(name):
    recipe = RECIPES[name]
    assert recipe.what and recipe.published and recipe.departures
    assert not differing(with_recipe(name, {}))
    training = resolve(with_recipe(name, {"dataset": "digits"}))
    network = build_model(training.model(split()), 0)
    assert network(torch.rand(2, 2, 3, 8, 8)).shape == (2, 2, 10)


def test_what_is_said_goes_before_the_recipe_and_is_named():
    asked = with_recipe("dpap-cifar10", {"epochs": 2, "data_dir": "here"})
    assert asked.epochs == 2 and asked.batch == 50 and asked.recipe == "dpap-cifar10"
    assert differing(asked) == ["epochs 2 (recipe: 300)"]
    assert not differing(TrainRequest(epochs=3))
    with pytest.raises(InputError, match="recipe: found 'dpap', expected one of dpap-cifar10, "):
        with_recipe("dpap", {})


def test_the_learning_rate_is_the_data_sets_where_nothing_is_said():
    def rate(**said):
        return resolve(TrainRequest(**said)).settings.learning_rate

    assert rate(dataset="motion") == 1e-3 and rate(dataset="digits") == 3e-3
    assert rate(dataset="motion", learning_rate=0.02) == 0.02
    recipe = resolve(with_recipe("dpap-cifar10", {"dataset": "motion"}))
    assert recipe.settings.learning_rate == pytest.approx(2.44140625e-4)


def test_the_command_line_goes_before_the_recipe_even_with_its_own_default(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(learning, "_learn", lambda out, asked, *_: seen.append(asked))
    common = ["train", "--out", str(tmp_path / "run")]
    for options in (
        ["--recipe", "dpap-cifar10"],
        ["--recipe", "dpap-cifar10", "--epochs", "24", "--no-flip"],
        ["--epochs", "3"],
    ):
        assert CliRunner().invoke(app, [*common, *options]).exit_code == 0
    first, second, third = seen
    assert first == with_recipe("dpap-cifar10", {})
    assert second == with_recipe("dpap-cifar10", {"epochs": 24, "flip": False})
    assert third == TrainRequest(epochs=3)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["train", "--recipe", "dpap-cifar10", "--data-dir", "nowhere", "--out", "run"], "cifar"),
        (["train", "--recipe", "vgg", "--out", "run"], "recipe: found 'vgg'"),
        (["finetune", "run.nir", "--recipe", "dpap-cifar10", "--out", "run"], "--recipe: is for train"),
        (["train", "--precision", "loihi", "--amp", "bfloat16", "--out", "run"], "--amp: cannot be together"),
    ],
)
def test_bad_requests_are_one_line(command, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, InputError), result.exception
    assert says in str(result.exception) and "\n" not in str(result.exception)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_full_step_of_the_papers_network_with_the_strict_method():
    """128C3-128C3-MP2-256C3-256C3-MP2-512C3-512C3-512FC on 32 x 32 images and 8 steps, backward, optimizer, and the end of an epoch."""
    training = resolve(with_recipe("dpap-cifar10", {"dataset": "digits", "batch": 2}))
    model = build_model(training.model(split(2, 32)), 42)
    x = torch.as_tensor(images(2, 32)[0]).float().transpose(0, 1)
    pruner = DPAP.as_published().attach(model, x[:, :2])
    optimizer = torch.optim.AdamW(model.parameters(), training.settings.learning_rate, weight_decay=0.01)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    model.train()
    loss, _ = steps.Step(model, pruner, optimizer, training.settings, CPU)(x, torch.tensor([3, 7]), 2)
    pruner.step(optimizer)
    assert torch.isfinite(loss) and loss > 0
    moved = [k for k, v in model.named_parameters() if not torch.equal(v, before[k])]
    assert len(moved) == len(before)
    # Unlike ours, a layer that nothing reaches is no error: survival starts at 10, and an epoch takes little of it.
    report = pruner.end_epoch(5, optimizer)
    assert report.parameters == report.remaining == 21_356_928
    assert set(pruner.synapse_survival) == {"21"} and len(pruner.unit_survival) == 7
    conv = pruner.statistics.m["3"]
    assert conv.shape == (128, 128) and torch.isfinite(conv).all() and conv.any()
    assert pruner.statistics.slots["2"].shape == (2, 128)


def test_an_epoch_of_the_papers_recipe_on_a_small_made_set():
    training = resolve(with_recipe("dpap-cifar10", {"dataset": "digits", "epochs": 1, "batch": 5}))
    model = training.model(split())
    assert "dpap-cifar10-avg" in training.unwritten(model)
    notes = []
    network, history = training.run(split(), model, CPU, on_note=notes.append)
    assert len(history.epochs) == 1 and np.isfinite(history.epochs[0].loss)
    assert history.epochs[0].remaining == history.epochs[0].parameters
    assert sum(isinstance(m, ParametricLIF) for m in network.modules()) == 8
    assert all("no spike in the first" in note for note in notes)
