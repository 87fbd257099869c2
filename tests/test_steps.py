"""Steps of training: losses by hand, batches in parts, half precision, and layers that are silent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from torch import nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings, SpikingNetwork
from dpap_neuro.networks.neurons import LI, LIF, CubaLIF, NeuronSettings, Recurrent
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, steps
from dpap_neuro.train.loop import TrainSettings

NEURON = NeuronSettings(dt=1e-3, tau_mem=2e-3, v_th=0.2)
CPU = torch.device("cpu")


def data(n=48, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.poisson(0.2, (n, 6, 1, 3, 4))
    x[np.arange(n), :, 0, y] += rng.poisson(1.0, (n, 6, 4))
    return np.minimum(x, 4).astype(np.uint8), y


def network(norm=False, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(12, 16), LIF(NEURON), nn.Linear(16, 12), Recurrent(CubaLIF(NEURON), 12)]
    if norm:
        layers.insert(2, nn.BatchNorm1d(16))
    model = SpikingNetwork(*layers, nn.Linear(12, 3), LI(NEURON))
    model.settings = ModelSettings("made", (1, 3, 4), 3, NEURON, "membrane")
    return model


def learn(pruner="none", model=None, epochs=4, **options):
    model = network() if model is None else model
    own = {} if pruner in ("none", "dpap", "dpap-published") else {"sparsity": 0.6}
    method = make_pruner(pruner, epochs=epochs, **own)
    settings = TrainSettings(epochs=epochs, batch=16, shift=0, learning_rate=0.02, **options)
    history = loop.train(model, method, data(), data(seed=1), settings, CPU)
    return model, method, history


def test_losses_by_hand():
    output, targets = torch.rand(5, 2, 3) * 2, torch.tensor([2, 0])
    total = {"mse": 0.0, "one-sided-mse": 0.0}
    for b in range(2):
        for c in range(3):
            rate = sum(float(output[t, b, c]) for t in range(5)) / 5
            wanted = 1.0 if c == int(targets[b]) else 0.0
            total["mse"] += (rate - wanted) ** 2 / 6
            total["one-sided-mse"] += (min(rate, 1.0) - wanted) ** 2 / 6
    for name, expected in total.items():
        loss = steps.loss_function(TrainSettings(loss=name), "spikes")(output, targets)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert total["one-sided-mse"] < total["mse"]
    spikes = (output > 1).float()
    one, other = (steps.loss_function(TrainSettings(loss=name), "spikes")(spikes, targets) for name in total)
    assert torch.equal(one, other), "a rate is never above one"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss": "hinge"}, "loss: found 'hinge', expected one of cross-entropy, mse, one-sided-mse"),
        ({"amp": "int8"}, "amp: found 'int8', expected bfloat16 or float16"),
        ({"accumulate": 0}, "accumulate: found 0, expected 1 to 32"),
        ({"accumulate": 33}, "accumulate: found 33, expected 1 to 32"),
    ],
)
def test_settings_outside_their_range(options, says):
    with pytest.raises(InputError, match=says):
        TrainSettings(**options)


@pytest.mark.parametrize("loss", ["mse", "one-sided-mse"])
def test_squares_teach(loss):
    assert learn(loss=loss, epochs=8)[2].epochs[-1].accuracy > 0.8


@pytest.mark.parametrize("pruner", ["none", "dpap", "granet", "fisher"])
def test_parts_of_a_batch_add_up_to_the_whole(pruner):
    """Without batch norms: weights and statistics to the order of sums, masks to the bit."""
    whole, one, _ = learn(pruner, epochs=2)
    parted, other, _ = learn(pruner, epochs=2, accumulate=4)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)
    for name, mask in one.masks.weights.items():
        assert torch.equal(mask, other.masks.weights[name]), name
    if one.statistics is not None:
        assert one.statistics.samples == other.statistics.samples
        for name, total in one.statistics.totals.items():
            torch.testing.assert_close(total, other.statistics.totals[name], rtol=1e-3, atol=1e-3)


def test_gradients_that_a_pruner_sees_are_those_of_the_whole_batch():
    seen = []
    for options in ({}, {"accumulate": 4}, {"amp": "float16"}):
        model = network()
        method = make_pruner("granet", epochs=4, sparsity=0.5).attach(model, torch.rand(6, 2, 1, 3, 4))
        optimizer = torch.optim.SGD(model.parameters(), 1e-9)
        step = steps.Step(model, method, optimizer, TrainSettings(batch=16, **options), CPU)
        x, y = data(16)
        step(loop.as_input(x, CPU), torch.as_tensor(y), 16)
        seen.append({k: v.clone() for k, v in method.gradients.items()})
    for name, gradient in seen[0].items():
        assert gradient.any()
        torch.testing.assert_close(seen[1][name], gradient, rtol=1e-4, atol=1e-6)
        # In half precision a spike may flip: nearly the same, and not 65,536 times it.
        assert float((seen[2][name] - gradient).norm() / gradient.norm()) < 0.2, name


def test_a_method_that_tells_places_of_a_batch_apart_takes_it_whole():
    with pytest.raises(InputError, match="accumulate: found 2 parts, expected 1 with dpap-published"):
        learn("dpap-published", accumulate=2)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
@pytest.mark.parametrize("pruner", ["dpap", "fisher"])
def test_half_precision_learns_with_whole_masks_and_statistics(amp, pruner):
    _, method, history = learn(pruner, network(norm=True), epochs=10, amp=amp)
    assert history.epochs[-1].accuracy > 0.6
    for p in method.structure.projections.values():
        assert p.weight.dtype == torch.float32
        assert not p.weight[~method.masks.weights[p.name]].any()
    assert history.epochs[-1].remaining == method.masks.remaining()
    if method.statistics is not None:
        # Counts of spikes are whole in float64, whatever synapses compute in.
        for total in method.statistics.totals.values():
            assert total.dtype == torch.float64 and torch.isfinite(total).all()
        assert method.statistics.samples == 10 * 48
    if pruner == "fisher":
        exact = learn(pruner, network(norm=True), epochs=10)[1]
        for name, trace in exact.traces.items():
            ratio = float(method.traces[name].sum() / trace.sum())
            assert 0.05 < ratio < 20, "not by the square of a scale"


@pytest.mark.parametrize("kind", [LIF, CubaLIF, lambda s: Recurrent(LIF(s), 9)])
def test_membranes_keep_their_precision_in_half(kind):
    """The spikes of float32 membranes on the same rounded input."""
    torch.manual_seed(0)
    x = (torch.randn(50, 4, 9) * 0.4 + 0.1).bfloat16()
    neuron = kind(replace(NEURON, tau_mem=20e-3))
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        expected = neuron(x.float())
    found = neuron(x)
    assert expected.any() and torch.equal(found.float(), expected)


def test_a_silent_layer_is_named_after_the_first_batches():
    model, notes = network(), []
    with torch.no_grad():
        model[3].weight.zero_()
        model[3].bias.fill_(-1.0)
        model[4].recurrent_weights.zero_()
    settings = TrainSettings(epochs=1, batch=16, shift=0)
    loop.train(model, make_pruner("none"), data(480), None, settings, CPU, on_note=notes.append)
    assert notes == [
        "layer 4: no spike in the first 8 batches; expected activity (lower --threshold, or more --decay, may bring it)"
    ]
    notes.clear()
    loop.train(network(), make_pruner("none"), data(480), None, settings, CPU, on_note=notes.append)
    assert not notes


def test_a_run_in_half_precision_goes_on_with_its_scale(tmp_path):
    settings = TrainSettings(epochs=3, batch=16, shift=0, amp="float16")
    runs = []
    for first in (3, 1):
        model = network(norm=True)
        if first == 1:

            def stop(epoch, _):
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                loop.train(
                    model, make_pruner("none"), data(), None, settings, CPU, None, stop, tmp_path / "c"
                )
            model = network(norm=True)
        loop.train(
            model,
            make_pruner("none"),
            data(),
            None,
            settings,
            CPU,
            checkpoint=tmp_path / "c" if first == 1 else None,
        )
        runs.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
