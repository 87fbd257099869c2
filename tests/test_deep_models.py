"""Deep networks by name: sizes as in the papers; trained, pruned, compacted and exported with equal outputs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from torch import nn

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.exchange.nir_import import from_graph
from dpap_neuro.networks import MODELS
from dpap_neuro.networks.deep import Residual
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import LIF, NeuronSettings
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, runs
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import from_nir
from hardware.simulate import fidelity, reference, simulator

NEURON = NeuronSettings(dt=1e-3, tau_mem=2e-3)
DEEP = ["dpap-cifar10", "dpap-cifar10-avg", "vgg9", "sew-resnet18"]


def settings(name, shape=(3, 32, 32), cell="lif", readout="spikes"):
    return ModelSettings(name, shape, 10, NEURON, readout, cell)


def weights(*layers):
    return sum(int(np.prod(layer)) for layer in layers)


def stack(*widths):
    return weights(*((out, into, 3, 3) for into, out in pairwise(widths)))


def test_sizes_are_those_of_the_papers():
    """Weights of kernels and matrices, counted from the papers' own notation."""
    expected = {
        "dpap-cifar10": stack(3, 128, 128, 256, 256, 512, 512) + weights((512, 512 * 64), (10, 512)),
        "vgg9": stack(3, 64, 64, 128, 128, 256, 256, 256) + weights((1024, 256 * 16), (10, 1024)),
        "sew-resnet18": stack(3, 64, *(64,) * 4)
        + sum(stack(a, b, b, b, b) + weights((b, a)) for a, b in ((64, 128), (128, 256), (256, 512)))
        + weights((10, 512)),
    }
    expected["dpap-cifar10-avg"] = expected["dpap-cifar10"]
    for name, count in expected.items():
        network = build_model(settings(name))
        own = [p for key, p in network.named_parameters() if key.endswith("weight") and p.dim() > 1]
        assert sum(p.numel() for p in own) == count, name


@pytest.mark.parametrize("name", DEEP)
def test_any_input_and_the_artificial_twin(name):
    x = torch.rand(2, 2, 2, 17, 20)
    for cell, readout in (("plif", "membrane"), ("relu", "mean")):
        network = build_model(settings(name, (2, 17, 20), cell, readout))
        out = network(x)
        out.square().sum().backward()
        assert out.shape == (2, 2, 10)
        # Everything learns but what only a spike at a later step could tell.
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_an_input_that_is_too_small():
    with pytest.raises(InputError, match="model vgg9: found input of 4x8 pixels, expected at least 8x8"):
        build_model(settings("vgg9", (2, 4, 8)))


def test_max_pooling_trains_and_the_file_names_its_twin():
    reason = runs.why_not_written(settings("dpap-cifar10", (2, 8, 8)))
    assert reason.startswith(
        "layer 6: MaxPool2d cannot be exported: NIR and the chips have no maximum; use AvgPool2d"
    )
    assert reason.endswith("; --model dpap-cifar10-avg has average pooling")
    assert runs.why_not_written(settings("dpap-cifar10-avg", (2, 8, 8))) is None
    assert "artificial" in runs.why_not_written(settings("vgg9", (2, 8, 8), "relu", "mean"))


def recordings(n, seed=0):
    """Blobs in one of four corners."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    x = rng.poisson(0.1, (n, 5, 2, 9, 9))
    for k, label in enumerate(y):
        x[k, :, :, 5 * (label // 2) :, 5 * (label % 2) :][:, :, :4, :4] += rng.poisson(0.8, (5, 2, 4, 4))
    return np.minimum(x, 4).astype(np.uint8), y


@pytest.fixture
def small(monkeypatch):
    """A residual network of two stages, by a name of its own."""
    monkeypatch.setitem(MODELS, "small", lambda own: Residual(own, (8, 12), 2))
    return ModelSettings("small", (2, 9, 9), 4, NeuronSettings(1e-3, 2e-3, v_th=0.3), "spikes", "lif")


@pytest.mark.parametrize("pruner", ["dpap", "weighted"])
def test_a_residual_network_is_pruned_compacted_and_exported_with_equal_outputs(small, pruner):
    train, test = recordings(96, 1), recordings(32, 2)
    network = build_model(small, 0)
    method = make_pruner(pruner, epochs=9, sparsity=0.5, structured=True)
    options = loop.TrainSettings(epochs=9, batch=16, shift=0, learning_rate=1e-2)
    history = loop.train(network, method, train, None, options, torch.device("cpu"))
    assert history.epochs[-1].remaining < 0.55 * history.epochs[-1].parameters
    accuracy = (loop.predict(network, test[0], torch.device("cpu")) == test[1]).mean()
    assert accuracy > 0.6
    with torch.no_grad():
        expected = network(loop.as_input(test[0], torch.device("cpu")))
    assert expected.any()
    whole, compact = (from_nir(to_nir(network, (2, 9, 9), 1e-3, compact=c)) for c in (False, True))
    sizes = [
        sum(node.weight.size for node in g.nodes.values() if hasattr(node, "weight"))
        for g in (whole, compact)
    ]
    assert sizes[1] < 0.9 * sizes[0]
    for graph in (whole, compact):
        with torch.no_grad():
            assert torch.equal(from_graph(graph)(loop.as_input(test[0], torch.device("cpu"))), expected)
        found = reference.simulate(graph, test[0]).output
        np.testing.assert_array_equal(found, expected.transpose(0, 1).numpy())
    chip, _ = compile_graph(compact, "loihi2")
    on_chip = fidelity.predictions(simulator.simulate(chip, test[0]).output)
    assert (on_chip == test[1]).mean() > accuracy - 0.15


def test_blocks_add_spikes(small):
    """By hand: what goes on from a block is its own spikes and those that came in."""
    network = build_model(small, 1).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data *= 3
    seen = {}
    for name, module in network.named_modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out))
    taken = {}
    network.network.stages[1].register_forward_pre_hook(lambda m, args: taken.setdefault("in", args[0]))
    network.network.stages[1].register_forward_hook(lambda m, a, out: taken.setdefault("out", out))
    with torch.no_grad():
        network(loop.as_input(recordings(4)[0], torch.device("cpu")))
    first = seen["network.stem_neurons"] + seen["network.stages.0.second_neurons"]
    assert torch.equal(taken["in"], first) and first.max() == 2
    assert torch.equal(taken["out"], first + seen["network.stages.1.second_neurons"])
