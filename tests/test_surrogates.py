"""Surrogate gradients against their formulas, and that a slope changes what is learned."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from norse.torch.functional.threshold import threshold

from dpap_neuro.data import Binning, Opened
from dpap_neuro.deploy.request import TrainRequest
from dpap_neuro.deploy.training import resolve
from dpap_neuro.errors import InputError
from dpap_neuro.networks import SURROGATES
from dpap_neuro.networks.models import ModelSettings
from dpap_neuro.networks.neurons import IF, LIF, CubaLIF, NeuronSettings, Recurrent, Threshold
from dpap_neuro.networks.surrogates import Surrogate, spike
from dpap_neuro.train import runs

SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.04, v_th=0.4)


def sigmoid(x):
    return 0.5 + 0.5 * math.tanh(x / 2)


FORMULAS = {
    "superspike": lambda x, a: 1 / (a * abs(x) + 1) ** 2,
    "atan": lambda x, a: a / 2 / (1 + (math.pi / 2 * a * x) ** 2),
    "sigmoid": lambda x, a: a * sigmoid(a * x) * (1 - sigmoid(a * x)),
    "triangle": lambda x, a: a * max(0.0, 1 - a * abs(x)),
}


@pytest.mark.parametrize("slope", [0.5, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("name", SURROGATES)
def test_derivatives_are_those_of_the_formulas(name, slope):
    x = torch.tensor([-3.0, -0.7, -0.01, 0.0, 0.2, 0.99, 2.5, 40.0], dtype=torch.float64, requires_grad=True)
    z = spike(x, Surrogate(name, slope))
    (found,) = torch.autograd.grad(z.sum(), x)
    assert z.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(found, [FORMULAS[name](v, slope) for v in x.tolist()], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in SURROGATES if n != "superspike"])
def test_all_but_superspike_have_the_area_of_a_step(name):
    grid = np.linspace(-2000, 2000, 200_001)
    values = [FORMULAS[name](x, SURROGATES[name]) for x in grid]
    assert sum(values) * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)


def test_superspike_of_slope_one_is_norses():
    x = torch.randn(100, requires_grad=True)
    (ours,) = torch.autograd.grad(spike(x, Surrogate()).sum(), x)
    for alpha in (1.0, 100.0):
        (norses,) = torch.autograd.grad(threshold(x, "super", torch.tensor(alpha)).sum(), x)
        assert torch.equal(ours, norses)


@pytest.mark.parametrize("kind", [LIF, CubaLIF, IF, Threshold, lambda s: Recurrent(LIF(s), 6)])
def test_the_slope_reaches_every_neuron(kind):
    gradients = {}
    for name in SURROGATES:
        for slope in (1.0, 3.0):
            neuron = kind(replace(SETTINGS, surrogate=name, surrogate_slope=slope))
            if isinstance(neuron, Recurrent):
                neuron.recurrent_weights.data.fill_(0.1)
            x = torch.linspace(0.2, 0.7, 60).reshape(10, 1, 6).requires_grad_()
            out = neuron(x)
            gradients[name, slope] = torch.autograd.grad((out * torch.arange(6)).sum(), x)[0]
            assert out.any()
    for one in gradients:
        assert sum(torch.equal(gradients[one], other) for other in gradients.values()) == 1, one


def test_a_step_of_ones_own_knows_norses_alone():
    class Own(LIF):
        norse_step = staticmethod(lambda x, state, p, dt: (2 * x, state))

    x = torch.ones(2, 1, 3)
    assert torch.equal(Own(SETTINGS)(x), 2 * x)
    with pytest.raises(InputError, match=r"found atan of slope 2, expected superspike of slope 1.*Own"):
        Own(replace(SETTINGS, surrogate="atan", surrogate_slope=2.0))(x)


def test_an_unknown_surrogate():
    with pytest.raises(InputError, match="surrogate: found 'spline', expected one of superspike, atan"):
        replace(SETTINGS, surrogate="spline")


def test_a_run_without_the_name_learned_with_norses():
    values = ModelSettings("mlp", (1, 1, 2), 2, SETTINGS).to_dict()
    old = {k: v for k, v in values["neuron"].items() if k != "surrogate"} | {"surrogate_slope": 10.0}
    assert ModelSettings.from_dict({**values, "neuron": old}).neuron == SETTINGS


def split():
    """Recordings of two classes, one busy and one not."""
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.poisson(0.2 + 0.3 * y[:, None, None, None, None], (40, 4, 1, 4, 4)).astype(np.uint8)
    opened = Opened("made", "train", None, (4, 4, 1), ("few", "many"), 4e4)
    return runs.Split(opened, (x, y), (x, y), Binning(4))


def test_a_slope_changes_what_is_learned():
    """As the command line has it, down to the weights."""
    weights = set()
    options = {"epochs": 1, "batch": 10, "shift": 0, "pruner": "none", "model": "mlp"}
    for own in (
        {},
        {"surrogate_slope": 100.0},
        {"surrogate": "atan"},
        {"surrogate": "atan", "surrogate_slope": 3.0},
    ):
        training = resolve(TrainRequest(**options, **own))
        settings = training.model(split())
        name = own.get("surrogate", "superspike")
        assert settings.neuron.surrogate == name
        assert settings.neuron.surrogate_slope == own.get("surrogate_slope", SURROGATES[name])
        network, _ = training.run(split(), settings, torch.device("cpu"))
        weights.add(network[1].weight.detach().numpy().tobytes())
    assert len(weights) == 4
    exact = resolve(TrainRequest(**options, precision="loihi", surrogate="atan")).model(split())
    population = exact.population(exact.plan[0].key)
    assert population.integers(None, torch.device("cpu")).surrogate == Surrogate("atan", 2.0)
