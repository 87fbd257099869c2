"""Recurrent networks by name: trained, pruned, written, read, compiled and simulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import event_files
import torch
from torch import nn
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.deploy.request import TrainRequest
from dpap_neuro.deploy.training import resolve
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.exchange.nir_import import from_graph
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings, Recurrent
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import from_nir
from hardware.simulate import fidelity, reference, simulator

NEURON = NeuronSettings(dt=0.02, tau_mem=0.1, v_th=0.5, tau_syn=0.06)
SETTINGS = ModelSettings("recurrent", (1, 1, 12), 4, NEURON, "membrane", "cubalif")


def recordings(n, steps=20, seed=0, noise=0.02):
    """Four classes that differ only in the order in which taxels are touched."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    x = (rng.random((n, steps, 1, 1, 12)) < noise).astype(np.uint8)
    for k, label in enumerate(labels):
        order = np.random.default_rng(label).permutation(12)
        for t in range(12):
            x[k, t + rng.integers(0, 2), 0, 0, order[t]] = 1
    return x, labels


def loose(network):
    """Recurrent weights strong enough to matter, norms with statistics of their own."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, Recurrent):
            nn.init.normal_(module.recurrent_weights, std=0.3)
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.05, 0.3)
    return network.eval()


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("cell", ["lif", "cubalif", "if", "plif"])
def test_the_file_does_what_the_network_did(cell, reset):
    settings = replace(SETTINGS, cell=cell, neuron=replace(NEURON, reset=reset))
    network = loose(build_model(settings, 3))
    x = torch.as_tensor(recordings(6, noise=0.1)[0]).float().transpose(0, 1)
    with torch.no_grad():
        expected = network(x)
        # By hand: what the population spiked is heard a step later.
        population = network[3]
        given = network[2](network[1](x.flatten(0, 1).flatten(1))).unflatten(0, x.shape[:2])
        state, z, spikes = population.neuron.rest(given[0], population.neuron.constants()), 0 * given[0], []
        for current in given:
            current = current + z @ population.recurrent_weights.T
            z, state = population.neuron.step(current, state, population.neuron.constants(), NEURON.dt)
            spikes.append(z)
    assert torch.stack(spikes).sum() > 100
    torch.testing.assert_close(population(given), torch.stack(spikes))
    graph = from_nir(to_nir(network, settings.input_shape, NEURON.dt, readout="membrane"))
    with torch.no_grad():
        again = from_graph(graph)(x)
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
    found = reference.simulate(graph, x.transpose(0, 1).numpy().astype(np.uint8)).output
    np.testing.assert_allclose(found, expected.transpose(0, 1).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pruner", ["dpap", "weighted", "magnitude"])
def test_learns_what_lies_in_the_order_pruned_on_the_chip(pruner):
    train, test = recordings(120, seed=1), recordings(60, seed=2)
    network = build_model(SETTINGS, 0)
    method = make_pruner(pruner, epochs=12, sparsity=0.8)
    settings = loop.TrainSettings(epochs=12, batch=20, learning_rate=5e-3, shift=0)
    history = loop.train(network, method, train, None, settings, torch.device("cpu"))
    assert history.epochs[-1].remaining <= 0.2 * history.epochs[-1].parameters + 1
    share = float((network[3].recurrent_weights != 0).float().mean())
    assert 0 < share < 0.5
    accuracy = (loop.predict(network, test[0], torch.device("cpu")) == test[1]).mean()
    assert accuracy > 0.6
    graph = from_nir(to_nir(network, SETTINGS.input_shape, NEURON.dt, readout="membrane"))
    chip, _ = compile_graph(graph, "loihi2")
    on_chip = fidelity.predictions(simulator.simulate(chip, test[0]).output)
    assert (on_chip == test[1]).mean() > accuracy - 0.1


def test_an_artificial_recurrent_network_is_refused():
    with pytest.raises(InputError, match="recurrent: found neuron relu, expected one of lif"):
        build_model(replace(SETTINGS, cell="relu", readout="mean"))


RECURRENT = {
    "neuron": "cubalif",
    "readout": "membrane",
    "decay": 0.07,
    "current_decay": 0.2,
    "surrogate_slope": 10.0,
    "reset": "subtract",
}


@pytest.mark.parametrize("dataset", ["braille", "shd", "ssc"])
@pytest.mark.parametrize(
    "said, changed",
    [
        ({}, {}),
        ({"decay": 0.5, "reset": "zero"}, {"decay": 0.5, "reset": "zero"}),
        ({"surrogate": "atan"}, {"surrogate_slope": None}),
        ({"chip": "loihi1", "pruner": "magnitude"}, {"reset": None}),
        ({"chip": "loihi2", "pruner": "magnitude"}, {}),
        ({"neuron": "lif"}, {**dict.fromkeys(RECURRENT), "neuron": "lif"}),
        ({"model": "mlp"}, dict.fromkeys(RECURRENT)),
    ],
)
def test_the_default_network_of_what_has_an_order(dataset, said, changed):
    training = resolve(TrainRequest(dataset=dataset, **said))
    assert {name: getattr(training.request, name) for name in RECURRENT} == {**RECURRENT, **changed}
    assert training.defaults.model == "recurrent"
    # What a run wrote down asks for the same again.
    assert resolve(training.request).request == training.request


def test_what_no_chip_was_asked_for_keeps_its_request():
    asked = TrainRequest(dataset="digits")
    assert resolve(asked).request == asked


def test_a_sweep_takes_the_same_network(tmp_path):
    event_files.make("shd", tmp_path)
    command = ["sweep", "--dataset", "shd", "--data-dir", tmp_path, "--cache-dir", tmp_path / "cache", "--pruner", "none", "--seeds", 1,
               "--epochs", 1, "--batch", 4, "--out"]  # fmt: skip
    for out, more in (("own", []), ("mlp", ["--model", "mlp"])):
        result = CliRunner().invoke(app, [str(word) for word in [*command, tmp_path / out, *more]])
        assert result.exit_code == 0, (result.output, result.exception)
    own, mlp = ((tmp_path / out / "runs.json").read_text() for out in ("own", "mlp"))
    assert "recurrent" in own and "cubalif" in own and "membrane" in own
    assert "cubalif" not in mlp
