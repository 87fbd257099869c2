"""Networks of snnTorch and SpikingJelly, pruned where they are: what is observed, what is left, and that it travels on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpap_neuro.exchange.snntorch import from_snntorch
from dpap_neuro.exchange.spikingjelly import from_spikingjelly
from dpap_neuro.pruning import make_pruner
from hardware.simulate.float_simulator import simulate

STEPS, BATCH, DT = 9, 12, 1e-3


@dataclass(frozen=True)
class Case:
    """net, and how it is attached (loop), run from rest on (steps, batch, ...), and read."""

    net: nn.Module
    loop: bool
    run: Callable[[nn.Module, Tensor], Tensor]
    read: Callable[[nn.Module, Tensor], Any]


def _snntorch() -> Case:
    snn = pytest.importorskip("snntorch")

    def leaky(**more: Any) -> nn.Module:
        return snn.Leaky(0.9, threshold=0.1, init_hidden=True, reset_mechanism="zero", **more)

    def run(net: nn.Module, x: Tensor) -> Tensor:
        for module in net.modules():
            if hasattr(module, "reset_mem"):
                module.reset_mem()
        outs = [net(now) for now in x]
        return torch.stack([out[0] if isinstance(out, tuple) else out for out in outs])

    layers = [
        nn.Conv2d(2, 6, 3, padding=1),
        leaky(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 20),
        leaky(),
    ]
    net = nn.Sequential(*layers, nn.Linear(20, 3), leaky(output=True))
    return Case(net, True, run, lambda net, x: from_snntorch(net, x[0]))


def _spikingjelly() -> Case:
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron

    def run(net: nn.Module, x: Tensor) -> Tensor:
        functional.reset_net(net)
        return net(x)

    net = nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1),
        layer.BatchNorm2d(6),
        neuron.IFNode(0.3),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(72, 20),
        neuron.LIFNode(v_threshold=0.2),
        layer.Linear(20, 3),
        neuron.IFNode(0.3),
    )
    functional.set_step_mode(net, "m")
    return Case(net, False, run, lambda net, x: from_spikingjelly(net, x, DT))


CASES = {"snntorch": _snntorch, "spikingjelly": _spikingjelly}


@pytest.fixture(params=CASES)
def case(request) -> Iterator[Case]:
    torch.manual_seed(0)
    yield CASES[request.param]()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(BATCH) % 3
    rate = 0.2 + 0.2 * y.reshape(1, -1, 1, 1, 1)
    return (torch.rand(STEPS, BATCH, 2, 8, 6, generator=generator) < rate).float(), y


@pytest.mark.parametrize("name", ["dpap", "weighted", "magnitude", "rigl"])
def test_pruned_trained_and_read(name, case, data):
    x, y = data
    net = case.net
    pruner = make_pruner(name, epochs=3, sparsity=0.6).attach(net, x, loop=case.loop)
    assert [p.population is not None for p in pruner.structure.projections.values()] == [True] * 3
    assert all(p.spiking for p in pruner.structure.populations.values())
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    net.train()
    for epoch in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(case.run(net, x).mean(0), y).backward()
        optimizer.step()
        pruner.step(optimizer)
        report = pruner.end_epoch(epoch, optimizer)
    assert report.sparsity == pytest.approx(0.6, abs=0.02)
    for p in pruner.structure.projections.values():
        assert bool((p.weight[~pruner.masks.weights[p.name]] == 0).all())
    # What is left is the same network here, spike for spike.
    net.eval()
    with torch.no_grad():
        theirs = case.run(net, x).transpose(0, 1).numpy()
    graph = case.read(net, x)
    assert theirs.sum() > 0
    assert np.array_equal(simulate(graph, x.transpose(0, 1).numpy()).output, theirs)


def test_the_spikes_that_are_counted_are_those_of_the_network(case, data):
    x, _ = data
    net = case.net
    pruner = make_pruner("dpap", epochs=3, sparsity=0.5).attach(net, x, loop=case.loop)
    seen: dict[str, Tensor] = {}
    for name, population in pruner.structure.populations.items():
        seen[name] = torch.zeros(population.labels.numel(), dtype=torch.float64)

        def count(_m: nn.Module, _a: Any, out: Any, name: str = name) -> None:
            spikes = out[0] if isinstance(out, tuple) else out
            axis = spikes.dim() - 1 - len(pruner.structure.populations[name].space)
            others = [d for d in range(spikes.dim()) if d != axis]
            seen[name] += spikes.detach().double().sum(others)

        population.module.register_forward_hook(count)
    net.train()
    case.run(net, x).sum().backward()
    pruner.step()
    active = {key: total > 0 for key, total in pruner.statistics.totals.items()}
    assert active and all(torch.equal(alive, seen[key] > 0) for key, alive in active.items())
    assert any(bool(alive.any()) for alive in active.values())


def test_attaching_leaves_states_as_they_were(case, data):
    x, _ = data
    net = case.net
    with torch.no_grad():
        case.run(net, x)

    def states(net: nn.Module) -> list:
        return [
            value.clone() if isinstance(value, Tensor) else value
            for module in net.modules()
            for key in ("_buffers", "_memories")
            for value in vars(module).get(key, {}).values()
        ]

    before, weights = states(net), copy.deepcopy(net.state_dict())
    make_pruner("dpap", epochs=3, sparsity=0.5).attach(net, x[:, :2], loop=case.loop)
    for a, b in zip(before, states(net), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    assert all(torch.equal(weights[key], value) for key, value in net.state_dict().items())
