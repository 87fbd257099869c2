"""What weights are charged for: events counted by hand, and pruning until events, energy or time fit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from test_fitting import CPU, EPOCHS, METADATA, recordings
from torch import nn

from dpap_neuro.deploy import fitting
from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.pruning import make_pruner
from dpap_neuro.pruning.finding import find_structure
from dpap_neuro.pruning.pricing import weight_events
from dpap_neuro.train.loop import TrainSettings, train
from hardware.chip.chips import load_chip
from hardware.errors import HardwareError
from hardware.placement.budget import Budget, fill

LOIHI1 = load_chip("loihi1")


@pytest.mark.parametrize("groups", [1, 2])
def test_events_of_a_kernel_are_those_of_every_position(groups):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 3 * 4, 2))
    structure = find_structure(model, torch.rand(1, 4, 5, 7), time=False)
    counts = torch.rand(4, 5, 7, dtype=torch.float64)
    found = weight_events(structure.projections["0"], counts).expand(6, 4 // groups, 3, 3)
    expected = torch.zeros(6, 4 // groups, 3, 3, dtype=torch.float64)
    for o, i, ky, kx in np.ndindex(*expected.shape):
        channel = o // (6 // groups) * (4 // groups) + i
        for y in range(3):
            for x in range(4):
                row, column = 2 * y - 1 + ky, 2 * x - 1 + kx
                if 0 <= row < 5 and 0 <= column < 7:
                    expected[o, i, ky, kx] += counts[channel, row, column]
    torch.testing.assert_close(found, expected)


def run(budget, pruner, count=None):
    network = build_model(ModelSettings("cnn", (2, 8, 8), 3, NeuronSettings(0.01, 0.02)), 0)
    meter = fitting.BudgetMeter(budget, effort=0.005)
    meter.show(*recordings())
    method = make_pruner(pruner, epochs=EPOCHS, meter=meter, **({} if count is None else {"count": count}))
    settings = TrainSettings(epochs=EPOCHS, batch=16)
    return network, train(network, method, recordings(), None, settings, CPU), method, meter


@pytest.mark.parametrize(
    ("budget", "pruner", "count"),
    [
        (Budget(LOIHI1, max_events=6_000), "dpap-weighted", None),
        (Budget(LOIHI1, max_events=6_000), "magnitude", None),
        (Budget(LOIHI1, max_events=6_000), "magnitude", "parameters"),
        (Budget(LOIHI1, max_energy_uj=0.35), "dpap-weighted", None),
        (Budget(LOIHI1, max_cores=2, max_step_us=1.5), "dpap-weighted", None),
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


def test_a_share_of_events_is_of_those_before_the_first_weight_goes():
    network = build_model(ModelSettings("cnn", (2, 8, 8), 3, NeuronSettings(0.01, 0.02)), 0)
    method = make_pruner("dpap-weighted", epochs=EPOCHS, sparsity=0.8, count="events")
    train(network, method, recordings(), None, TrainSettings(epochs=EPOCHS, batch=16), CPU)
    assert method.total() > 0
    assert method.left() <= 0.2 * method.total() + 1


def test_a_budget_below_what_is_always_left_is_refused_before_training():
    with pytest.raises(InputError, match=r"events .* > 2 .*the read-out is never pruned"):
        run(Budget(LOIHI1, max_events=2), "dpap-weighted")


def test_what_cannot_be_charged_is_said(tmp_path):
    with pytest.raises(InputError, match="pruner set: found count 'events'"):
        make_pruner("set", epochs=4, sparsity=0.5, count="events")
    with pytest.raises(HardwareError, match="max_events is 0; expected a finite number above 0"):
        Budget(LOIHI1, max_events=0)
    _, _, _, meter = run(Budget(LOIHI1), "magnitude")
    assert meter.raster is None
    with pytest.raises(HardwareError, match="found no recordings"):
        fill(None, Budget(LOIHI1, max_events=5))
