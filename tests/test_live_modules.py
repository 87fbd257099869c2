"""Readers of live networks, with a framework of the test's own: what a forward pass does is followed, or refused by name."""

from __future__ import annotations

import nir
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.exchange.frameworks import Framework, Part, below, installed  # noqa: E402
from dpap_neuro.exchange.modules import read  # noqa: E402
from hardware.simulate.reference import simulate  # noqa: E402

STEPS, BATCH = 12, 3


class Spiker(nn.Module):
    """v <- v / 2 + x; a spike at v >= level, then v <- 0. Keeps its membrane, as frameworks do."""

    def __init__(self, level: float = 0.5) -> None:
        super().__init__()
        self.level = level
        self.register_buffer("v", torch.zeros(0), persistent=False)

    def forward(self, x):
        if self.v.shape != x.shape:
            self.v = torch.zeros_like(x)
        v = self.v / 2 + x
        z = (v >= self.level).float()
        self.v = v * (1 - z)
        return z, v


class Odd(nn.Module):
    def forward(self, x):
        return x


def node(name, m, shape, dt):
    tau = np.full(shape, 2 * dt)
    level = np.broadcast_to(below(m.level), shape)
    return Part(nir.LIF(tau, np.full(shape, 2.0), np.zeros(shape), level, np.zeros(shape)), "zero")


FRAMEWORK = Framework(
    "torch", torch.__version__, {Spiker: node}, axes=lambda m: 1, instead={Odd: "use something even"}
)


class Loop(nn.Module):
    """Layers, and what a forward pass does with them in each step; over time where the sample has it."""

    def __init__(self, step, over_time=True, **layers):
        super().__init__()
        self.step, self.over_time = step, over_time
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        if not self.over_time:
            return self.step(self, x)
        return torch.stack([self.step(self, x[t]) for t in range(x.shape[0])])


def rested(model):
    for module in model.modules():
        if isinstance(module, Spiker):
            module.v = torch.zeros(0)
    return model


def same_spikes(model, shape, over_time=True):
    """Our graph of it and the network itself, on the same recordings."""
    torch.manual_seed(2)
    x = torch.rand(STEPS, BATCH, *shape) * 2
    graph = read(FRAMEWORK, model, x if over_time else x[0], 1e-3)
    with torch.no_grad():
        rested(model)
        there = model(x) if over_time else torch.stack([model(now) for now in x])
    here = simulate(graph, x.transpose(0, 1).numpy().astype(np.float64)).output
    assert there.sum() > 10
    assert np.array_equal(here.swapaxes(0, 1).reshape(there.shape), there.numpy())
    return graph


def linear(pre=12, post=7):
    layer = nn.Linear(pre, post)
    nn.init.uniform_(layer.weight, -0.4, 0.8)
    return layer


@pytest.mark.parametrize("over_time", [True, False])
def test_layers_in_the_order_they_run(over_time):
    model = Loop(
        lambda m, x: m.second(m.b(m.first(m.a(x))[0]))[0],
        over_time,
        second=Spiker(),
        first=Spiker(0.7),
        a=linear(),
        b=linear(7, 5),
    )
    graph = same_spikes(model, (12,), over_time)
    assert graph.order == ("input", "a", "first", "b", "second", "output")
    assert graph.dt == 1e-3 and graph.metadata["reset"] == "zero" and "torch" in graph.metadata["writer"]


@pytest.mark.parametrize(
    "flatten", [lambda x: x.view(x.shape[0], -1), lambda x: x.flatten(1), lambda x: nn.Flatten()(x)]
)
def test_flattening_is_followed_with_the_shape_before_it(flatten):
    graph = same_spikes(Loop(lambda m, x: m.s(m.a(flatten(x)))[0], a=linear(), s=Spiker()), (1, 4, 3))
    assert graph.output_shape["input"] == (1, 4, 3) and graph.output_shape["input_flat"] == (12,)


def test_images_norms_and_pooling_are_followed():
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-0.2, 0.2)
    norm.running_var.uniform_(0.5, 1.5)
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    nn.init.uniform_(conv.weight, -0.1, 0.3)
    model = Loop(
        lambda m, x: m.t(m.a(nn.functional.avg_pool2d(m.s(m.n(m.c(x)))[0], 2).flatten(1)))[0],
        c=conv,
        n=norm,
        s=Spiker(),
        a=linear(4 * 3 * 2, 5),
        t=Spiker(),
    ).eval()
    graph = same_spikes(model, (2, 6, 4))
    assert [type(graph.nodes[n]).__name__ for n in graph.order].count("AvgPool2d") == 1
    assert "n" not in graph.nodes


def test_branches_factors_and_dropout_are_followed():
    model = Loop(
        lambda m, x: m.t(m.drop(m.a(x)) + 0.5 * m.b(m.s(m.c(x))[0]))[0],
        a=linear(12, 5),
        b=linear(7, 5),
        c=linear(),
        s=Spiker(),
        t=Spiker(),
        drop=nn.Dropout(0.5),
    )
    model.eval()
    graph = same_spikes(model, (12,))
    assert ("a", "t") in graph.edges and ("b", "b_scale") in graph.edges and ("b_scale", "t") in graph.edges


def test_the_model_is_left_as_it_was():
    model = Loop(lambda m, x: m.s(m.a(x))[0], a=linear(), s=Spiker()).train()
    model.s.v = torch.full((BATCH, 7), 0.3)
    before = model.s.v.clone()
    read(FRAMEWORK, model, torch.rand(STEPS, BATCH, 12), 1e-3)
    assert model.training and model.s.training and torch.equal(model.s.v, before)
    assert not model.a._forward_hooks and not model.a._forward_pre_hooks


@pytest.mark.parametrize(
    ("step", "layers", "words"),
    [
        (lambda m, x: m.s(m.o(m.a(x)))[0], {"a": linear(), "o": Odd(), "s": Spiker()}, "layer o: Odd.*even"),
        (
            lambda m, x: m.s(m.o(m.a(x)))[0],
            {"a": linear(), "o": nn.Tanh(), "s": Spiker()},
            "layer o: Tanh.*expected",
        ),
        (
            lambda m, x: m.s(torch.relu(m.a(x)))[0],
            {"a": linear(), "s": Spiker()},
            "layer s: operation relu behind a",
        ),
        (
            lambda m, x: m.s(torch.cat([m.a(x), m.b(x)], 1))[0],
            {"a": linear(), "b": linear(), "s": Spiker()},
            "layer s: operation cat.*no concatenation",
        ),
        (lambda m, x: m.s(m.a(x).flip(1))[0], {"a": linear(), "s": Spiker()}, "layer s: operation flip"),
        (
            lambda m, x: m.s(m.a(x.view(x.shape[0], 4, 3).transpose(1, 2).reshape(x.shape[0], 12)))[0],
            {"a": linear(), "s": Spiker()},
            "layer a.*reshaped",
        ),
        (
            lambda m, x: m.s(m.a(torch.ones(BATCH, 12)))[0],
            {"a": linear(), "s": Spiker()},
            "layer a.*not come from",
        ),
        (
            lambda m, x: m.s(m.s(m.a(x))[0])[0],
            {"a": linear(), "s": Spiker()},
            "layer s: used behind a and behind s",
        ),
        (
            lambda m, x: m.n(m.s(m.a(x))[0]),
            {"a": linear(), "n": nn.BatchNorm1d(7), "s": Spiker()},
            "layer n.*behind s",
        ),
        (lambda m, x: m.s(m.a(x))[1], {"a": linear(), "s": Spiker()}, "returns could not be followed"),
        (
            lambda m, x: m.a(x) @ torch.ones(3),
            {"a": linear(), "s": Spiker()},
            r"sample of shape \(12, 3, 12\)",
        ),
    ],
)
def test_what_cannot_be_followed_is_named(step, layers, words):
    with pytest.raises(InputError, match=words):
        read(FRAMEWORK, Loop(step, **layers).eval(), torch.rand(STEPS, BATCH, 12), 1e-3)


def test_different_resets_in_one_network_are_refused():
    def other(name, m, shape, dt):
        part = node(name, m, shape, dt)
        return Part(part.node, "subtract" if m.level > 0.6 else "zero")

    framework = Framework("torch", torch.__version__, {Spiker: other}, axes=lambda m: 1)
    model = Loop(lambda m, x: m.t(m.s(m.a(x))[0])[0], a=linear(), s=Spiker(), t=Spiker(0.7))
    with pytest.raises(InputError, match="reset differently"):
        read(framework, model, torch.rand(STEPS, BATCH, 12), 1e-3)


def test_a_read_out_behind_the_spikes_is_left_out_aloud():
    model = Loop(lambda m, x: m.s(m.a(x))[0], a=linear(), s=Spiker())

    class Rate(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x).mean(0)

    graph = read(FRAMEWORK, Rate(), torch.rand(STEPS, BATCH, 12), 1e-3)
    assert graph.output_shape["output"] == (7,) and any("read-out" in note for note in graph.notes)


def test_versions_and_packages_are_named():
    old = Framework("torch", "0.1.0", FRAMEWORK.populations, FRAMEWORK.axes)
    model = Loop(lambda m, x: m.s(m.a(x))[0], a=linear(), s=Spiker())
    graph = read(old, model, torch.rand(STEPS, BATCH, 12), 1e-3)
    assert any("0.1.0" in note and torch.__version__ in note for note in graph.notes)
    with pytest.raises(
        InputError, match=r"no_such_package is not installed: pip install 'dpap-neuro\[interop\]'"
    ):
        installed("no_such_package")
    with pytest.raises(InputError, match="dt"):
        read(FRAMEWORK, model, torch.rand(STEPS, BATCH, 12), 0.0)


def test_thresholds_of_v_at_least_and_v_above():
    level = below(0.7)
    assert np.float32(0.7) > level and not np.nextafter(level, np.float32(0)) > level
    assert np.nextafter(level, np.float32(1)) == np.float32(0.7)
