"""The price of spikes in the loss: rates counted spike by spike, gradients by hand, and the same in parts, halves and integers."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from test_cli_training import folder, options  # noqa: F401
from test_exact_training import exact, recordings
from test_steps import CPU, data, learn, network
from torch import nn
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.deploy import drawings, page
from dpap_neuro.deploy.proof import integers
from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.pruning import make_pruner
from dpap_neuro.pruning.structure import Population
from dpap_neuro.train import loop, steps
from dpap_neuro.train.activity import Activity, too_much
from dpap_neuro.train.loop import TrainSettings
from hardware.simulate.simulator import simulate

SGD = torch.optim.SGD
ONCE = {"epochs": 1, "batch": 16, "learning_rate": 1e-12, "shift": 0}


def by_hand(outs, target):
    """Sum over layers of max(0, rate - target) of each recording, their mean; and its derivative by every spike."""
    value, slopes = 0.0, {}
    for name, out in outs.items():
        steps_, batch = out.shape[:2]
        each = out[0, 0].numel()
        slopes[name] = torch.zeros_like(out)
        for b in range(batch):
            spikes = sum(float(out[t, b].reshape(-1)[n]) for t in range(steps_) for n in range(each))
            if spikes / (steps_ * each) > target:
                value += (spikes / (steps_ * each) - target) / batch
                slopes[name][:, b] = 1 / (steps_ * each * batch)
    return value, slopes


class Merged(nn.Module):
    """Neurons over (T * B, ...), or in a loop over steps."""

    def __init__(self, looped):
        super().__init__()
        self.looped, self.neurons = looped, nn.ReLU()

    def forward(self, x):
        spikes = (x > 0.4).float() * x
        if self.looped:
            return torch.stack([self.neurons(one) for one in spikes])
        return self.neurons(spikes.flatten(0, 1)).reshape(x.shape)


@pytest.mark.parametrize("layout", ["sequence", "merged", "step"])
def test_term_and_its_gradient_are_those_counted_by_hand(layout):
    torch.manual_seed(1)
    module = Merged(layout == "step") if layout != "sequence" else nn.ReLU()
    watched = module if layout == "sequence" else module.neurons
    population = Population("lif", watched, torch.arange(3), layout, True, (2, 2))
    activity = Activity(SimpleNamespace(projections={}, populations={"lif": population}))
    x = (torch.rand(5, 4, 3, 2, 2) > 0.6).float().mul(torch.tensor([0.2, 1, 1, 0.5]).reshape(4, 1, 1, 1))
    x.requires_grad_()
    activity.expect(5, 4)
    out = module.train()(x)
    rates = activity.take()
    value, slopes = by_hand({"lif": out.detach()}, 0.1)
    term = too_much(rates, 0.1)
    assert value > 0 and float(term.detach()) == pytest.approx(value, rel=1e-5)
    (slope,) = torch.autograd.grad(term, x)
    shown = slopes["lif"] if layout == "sequence" else slopes["lif"] * (x > 0.4)
    torch.testing.assert_close(slope * (x > 0), shown * (x > 0))
    # In evaluation nothing is counted; the mean of the epoch is that of its recordings.
    module.eval()(x)
    assert activity.epoch()["lif"] == pytest.approx(float(out.detach().mean()), rel=1e-6)
    assert activity.epoch()["lif"] == 0.0


def gradients(model, x, y, target, **options):
    """Of one step, whose optimizer changes nothing; and the loss that it reports."""
    method = make_pruner("none").attach(model, loop.as_input(x[:2], CPU))
    settings = TrainSettings(batch=len(y), rate_weight=3.0, rate_target=target, **options)
    step = steps.Step(model.train(), method, SGD(model.parameters(), 1e-12), settings, CPU)
    loss, _ = step(loop.as_input(x, CPU), torch.as_tensor(y), len(y))
    step.rates.detach()
    method.detach()
    return float(loss), {name: p.grad.clone() for name, p in model.named_parameters()}


def test_a_step_pays_for_spikes_and_parts_and_halves_agree():
    x, y = data(16)
    model = network().train()
    outs = {}
    handles = [
        m.register_forward_hook(lambda m, a, r, name=name: outs.__setitem__(name, r))
        for name, m in model.named_modules()
        if name in ("2", "4")
    ]
    output = model(loop.as_input(x, CPU))
    for handle in handles:
        handle.remove()
    outs = {name: r[0] if isinstance(r, tuple) else r for name, r in outs.items()}
    rates = {name: out.detach().flatten(2).mean((0, 2)) for name, out in outs.items()}
    # Between the recordings of every layer: some pay, some do not.
    target = float(torch.cat([*rates.values()]).median())
    value, slopes = by_hand({name: out.detach() for name, out in outs.items()}, target)
    assert all(0 < (s != 0).float().mean() < 1 for s in slopes.values())
    # The term is linear in the spikes where it counts: its gradient is that of these sums.
    entropy = steps.loss_function(TrainSettings(), "membrane")(output, torch.as_tensor(y))
    linear = sum((slopes[name] * out).sum() for name, out in outs.items())
    expected = torch.autograd.grad(entropy + 3.0 * linear, list(model.parameters()))
    loss, found = gradients(network(), x, y, target)
    assert loss == pytest.approx(float(entropy.detach()) + 3.0 * value, rel=1e-5)
    for grad, wanted in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6)
    parted_loss, parted = gradients(network(), x, y, target, accumulate=4)
    assert parted_loss == pytest.approx(loss, rel=1e-5)
    for name, grad in parted.items():
        torch.testing.assert_close(grad, found[name], rtol=1e-4, atol=1e-6)
    for amp in ("bfloat16", "float16"):
        half_loss, _ = gradients(network(), x, y, target, amp=amp)
        assert half_loss == pytest.approx(loss, rel=0.02)


def test_rates_on_a_chips_integers_are_those_of_the_simulator():
    model = exact()
    x, y = (part[:48] for part in recordings())
    settings = TrainSettings(rate_weight=1e-6, **ONCE)
    history = loop.train(model, make_pruner("none"), (x, y), None, settings, CPU)
    counts = simulate(integers(model), x).counts
    (rates,) = [epoch.rates for epoch in history.epochs]
    assert rates
    for name, rate in rates.items():
        found = counts[name.removeprefix("populations.")]
        assert found.any()
        assert rate == pytest.approx(found.sum() / (found.size * x.shape[1]), rel=1e-6)


def test_the_price_lowers_rates_and_what_is_cut_away_counts_as_silent():
    free, dear = (learn(epochs=8, rate_weight=w)[2].epochs[-1].rates for w in (0.0, 5.0))
    # The read-out is not among them.
    assert free.keys() == {"2", "4"}
    assert sum(dear.values()) < 0.7 * sum(free.values())
    whole, cut = (
        loop.train(
            build_model(ModelSettings("mlp", (1, 3, 4), 3, NeuronSettings(0.01, 0.02)), 0),
            make_pruner("weighted", epochs=4, sparsity=0.8, structured=True),
            data(),
            None,
            TrainSettings(epochs=4, batch=16, shift=0, compact=compact, rate_weight=0.5),
            CPU,
        )
        for compact in (False, True)
    )
    assert cut.epochs[-1].remaining < 0.5 * cut.epochs[0].parameters
    for a, b in zip(whole.epochs, cut.epochs, strict=True):
        assert a.rates == pytest.approx(b.rates, rel=0.02)


def test_a_price_that_nothing_pays_is_refused():
    for wrong in ({"rate_weight": -1.0}, {"rate_weight": float("nan")}, {"rate_target": -0.1}):
        with pytest.raises(InputError, match=r"expected a finite number of at least 0"):
            TrainSettings(**wrong)
    with pytest.raises(InputError, match=r"rate_target: found 0.1 without rate_weight"):
        TrainSettings(rate_target=0.1)
    artificial = build_model(ModelSettings("mlp", (1, 3, 4), 3, None, "mean", cell="relu"), 0)
    with pytest.raises(InputError, match=r"rate_weight: found 1.0, expected 0 for a network in which no"):
        loop.train(artificial, make_pruner("none"), data(), None, TrainSettings(rate_weight=1.0, **ONCE), CPU)


def test_rates_are_in_every_line_and_file_of_a_run(folder, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    price = ("--epochs", "1", "--pruner", "none", "--rate-weight", "0.5", "--rate-target", "0.01")
    result = CliRunner().invoke(app, options(folder, out, *price))
    assert result.exit_code == 0, result.output
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["rate_weight"] == 0.5 and record["settings"]["rate_target"] == 0.01
    last = record["history"][-1]["rates"]
    said = ", ".join(f"{name} {rate:.3f}" for name, rate in last.items())
    assert last and f"; spikes per neuron and step {said}" in " ".join(result.stderr.split())
    with (out / "history.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert {name: float(row[f"rate_{name}"]) for name in last} == last
    assert "rates" not in row
    assert (tmp_path / "run" / "config.toml").read_text().count("rate_weight = 0.5") == 1
    curve = page._curve("run", out / "model.nir", record)
    assert {name: rates[-1] for name, rates in curve.rates.items()} == last
    old = {"history": [{k: v for k, v in e.items() if k != "rates"} for e in record["history"]]}
    assert not page._curve("run", out / "model.nir", old).rates
    assert len(drawings.curves([curve]).axes) == 3
