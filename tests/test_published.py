"""DPAP as published against loops written from what the authors' code computes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import oracle_dpap as oracle
import torch
from torch import nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import SpikingNetwork
from dpap_neuro.networks.neurons import LIF, NeuronSettings
from dpap_neuro.pruning import DPAP, SurvivalSettings, make_pruner
from dpap_neuro.pruning.published import PublishedDPAP

NEURON = NeuronSettings(dt=1e-3, tau_mem=2e-3, v_th=0.15)
# Convolutions and matrices that are pruned, by their places in the network, and the populations behind them.
LAYERS = {"0": ("conv", "2"), "4": ("conv", "6"), "8": ("linear", "10")}
START, FIRST = 2.0, 1


def network():
    torch.manual_seed(0)
    return SpikingNetwork(
        nn.Conv2d(2, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        LIF(NEURON),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        LIF(NEURON),
        nn.Flatten(),
        nn.Linear(6 * 9, 7),
        nn.BatchNorm1d(7),
        LIF(NEURON),
        nn.Linear(7, 3),
        LIF(NEURON),
    )


def batches(epochs, steps=4, batch=3, number=2):
    generator = torch.Generator().manual_seed(1)
    return [
        [
            (
                torch.poisson(torch.full((steps, batch, 2, 6, 6), 0.4), generator=generator),
                torch.arange(batch) % 3,
            )
            for _ in range(number)
        ]
        for _ in range(epochs)
    ]


def published(model, x, **options):
    pruner = DPAP.as_published(SurvivalSettings(initial=START, first_epoch=FIRST), **options)
    assert isinstance(pruner, PublishedDPAP)
    return pruner.attach(model, x)


def watch(model):
    """What every module is given and gives, recording by recording."""
    seen = {}

    def hook(module, args, out, name):
        x = args[0].detach()
        seen[name] = (x, out.detach())

    for name, module in model.named_children():
        module.register_forward_hook(lambda m, a, o, name=name: hook(m, a, o, name))
    return seen


def learn(model, optimizer, x, y):
    loss = nn.functional.cross_entropy(model(x).sum(0), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_masks_thresholds_and_survival_are_those_of_the_loops():
    model, data = network(), batches(epochs=5)
    seen, pruner = watch(model), published(model, data[0][0][0])
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    layers = {}
    for name, (kind, _) in LAYERS.items():
        post, pre = model[int(name)].weight.shape[:2]
        layers[name] = oracle.PublishedLayer(post, pre, kind, START, FIRST)
    died, woke, books = 0, 0, {}
    for epoch, part in enumerate(data):
        model.train()
        for x, y in part:
            learn(model, optimizer, x, y)
            pruner.step(optimizer)
            for name, (_, population) in LAYERS.items():
                post = seen[population][1].numpy()
                pre = seen[name][0].unflatten(0, x.shape[:2]).numpy()
                layers[name].batch(oracle.activity(post, 0.5), oracle.activity(pre, 0.5))
        before = {name: model[int(name)].weight.detach().clone() for name in LAYERS}
        others = {
            k: v.clone() for k, v in model.state_dict().items() if k.removesuffix(".weight") not in LAYERS
        }
        report = pruner.end_epoch(epoch, optimizer)
        for name, (kind, population) in LAYERS.items():
            layer, weight = layers[name], before[name]
            layer.end_epoch(epoch)
            book = torch.tensor(layer.book, dtype=torch.bool).reshape(
                *weight.shape[:2], *(1,) * (weight.dim() - 2)
            )
            # What was dead before has learned again, and goes again.
            woke += int((weight[~books.get(name, torch.ones_like(weight, dtype=torch.bool))] != 0).sum())
            books[name] = book.expand(weight.shape)
            assert torch.equal(model[int(name)].weight.detach(), weight * book), (name, epoch)
            np.testing.assert_allclose(pruner.unit_survival[name], layer.units, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(pruner.statistics.m[name], layer.m, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(pruner.statistics.slots[population], layer.theta, rtol=1e-4, atol=1e-5)
            if kind == "linear":
                np.testing.assert_allclose(
                    pruner.synapse_survival[name], layer.synapses, rtol=1e-4, atol=1e-4
                )
            died += int((~book).sum())
        for key, value in others.items():
            assert torch.equal(model.state_dict()[key], value), f"{key} is left alone"
        assert report.remaining == sum(int((model[int(n)].weight != 0).sum()) for n in (*LAYERS, "11"))
    assert died > 20 and woke > 20


def test_with_one_slot_moved_the_thresholds_of_the_two_differ():
    """Two batches of other samples in each slot: per slot or over all of them is not the same."""
    model, ((first, second),) = network(), batches(epochs=1)
    strict = published(model, first[0])
    model.train()
    for x, _ in (first, second):
        model(x)
        strict.step()
    slots = strict.statistics.slots["2"]
    ours = strict.statistics.totals["2"] / strict.statistics.samples
    torch.testing.assert_close(slots.mean(0).double(), ours, rtol=1e-5, atol=1e-6)
    assert (slots - ours).abs().max() > 0.1


def test_a_shorter_batch_moves_the_slots_that_it_has():
    model, ((first, second),) = network(), batches(epochs=1)
    pruner = published(model, first[0])
    model.train()
    for x in (first[0], second[0][:, :2]):
        model(x)
        pruner.step()
    assert pruner.statistics.seen.tolist() == [2, 2, 1]


def test_the_state_goes_on_where_it_stopped():
    data = batches(epochs=3)
    models = [network(), network()]
    pruners = [published(model, data[0][0][0]) for model in models]
    optimizers = [torch.optim.SGD(model.parameters(), 0.05) for model in models]

    def epoch(which, number):
        models[which].train()
        for x, y in data[number]:
            learn(models[which], optimizers[which], x, y)
            pruners[which].step()
        pruners[which].end_epoch(number)

    for number in range(2):
        epoch(0, number)
    models[1].load_state_dict(models[0].state_dict())
    pruners[1].load_state_dict(pruners[0].state_dict())
    for which in (0, 1):
        epoch(which, 2)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(pruners[0].statistics.slots["6"], pruners[1].statistics.slots["6"])


def test_by_name_with_the_authors_schedule_or_one_that_is_scaled():
    whole = make_pruner("dpap-published", epochs=20)
    assert whole.settings == SurvivalSettings() and "the authors' constants" in whole.describe()
    assert make_pruner("dpap-published", epochs=20, scaled=True).settings == SurvivalSettings().scaled_to(20)
    with pytest.raises(InputError, match="dpap-published: has no option 'sparsity'"):
        make_pruner("dpap-published", epochs=20, sparsity=0.5)
    model, ((first, _),) = network(), batches(epochs=1)
    with pytest.raises(InputError, match="expected no compaction while it learns"):
        published(model, first[0]).compact()
