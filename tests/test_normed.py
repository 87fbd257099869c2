"""A batch norm and its population as one operation, against the norm in plain sums and the loop over Norse's steps."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from norse_loop import loop
from torch import nn

from dpap_neuro.networks import SURROGATES, normed
from dpap_neuro.networks.models import ModelSettings, build_model, over_time
from dpap_neuro.networks.neurons import IF, LI, LIF, CubaLIF, NeuronSettings, ParametricLIF

SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.04, v_th=0.4, tau_syn=0.02)


def drawn(channels: int, space: tuple[int, ...], dtype=torch.float32, steps: int = 6, batch: int = 3):
    """(T, B, channels, ...) as convolutions leave it, channels last in memory, each of a mean and spread of its own."""
    x = torch.randn(steps, batch, *space, channels, dtype=dtype) * torch.linspace(
        0.5, 3, channels, dtype=dtype
    )
    x = x + torch.linspace(-4, 90, channels, dtype=dtype)
    return (x.movedim(-1, 2) if space else x).requires_grad_()


def made(channels: int, space: tuple[int, ...], **options) -> nn.Module:
    norm = (nn.BatchNorm2d if space else nn.BatchNorm1d)(channels, **options)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.8)
    return norm


def plainly_normed(norm, x):
    """scale and shift from sums in double precision, applied in x's own."""
    axes = [axis for axis in range(x.dim()) if axis != 2]
    wide = x.detach().double()
    mean = wide.mean(axes)
    variance = (wide - wide.mean(axes, keepdim=True)).square().mean(axes)
    scale = norm.weight.detach().double() / (variance + norm.eps).sqrt()
    shift = norm.bias.detach().double() - mean * scale
    shape = (1, 1, -1, *[1] * (x.dim() - 3))
    return x.detach() * scale.to(x.dtype).reshape(shape) + shift.to(x.dtype).reshape(shape)


@pytest.mark.parametrize("kind", [LIF, CubaLIF, IF, LI])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("channels, space", [(5, (7, 4)), (3, (40, 23)), (9, ()), (1500, ())])
def test_spikes_are_those_of_norse_on_what_is_normed(kind, reset, channels, space):
    torch.manual_seed(channels)
    neuron, norm, x = kind(replace(SETTINGS, reset=reset)), made(channels, space), drawn(channels, space)
    assert normed.can_join(norm, x)
    out, expected = neuron(x, norm), loop(neuron, plainly_normed(norm, x))
    # Sums of other orders: a scale may differ in its last bit, which shows in membranes and hardly ever in a spike.
    if kind is LI:
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    else:
        assert (out != expected).float().mean() < 2e-4 and 0.01 < out.mean() < 0.99


@pytest.mark.parametrize("surrogate", list(SURROGATES))
@pytest.mark.parametrize("kind", [LIF, CubaLIF, IF, LI])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
def test_gradients_and_statistics_are_those_of_pytorch(kind, surrogate, options):
    torch.manual_seed(1)
    neuron = kind(replace(SETTINGS, surrogate=surrogate, reset="zero"))
    for channels, space in ((4, (6, 5)), (4, ()), (1100, ())):
        norm = made(channels, space, dtype=torch.float64, **options)
        other, x = copy.deepcopy(norm), drawn(channels, space, torch.float64)
        weight = torch.randn(x.shape, dtype=x.dtype)
        for _ in range(2):  # of two batches, for statistics that move
            out, expected = neuron(x, norm), loop(neuron, over_time(other, x))
            torch.testing.assert_close(out, expected)
            found = torch.autograd.grad((out * weight).sum(), [x, *norm.parameters()])
            right = torch.autograd.grad((expected * weight).sum(), [x, *other.parameters()])
            for one, another in zip(found, right, strict=True):
                torch.testing.assert_close(one, another, rtol=1e-8, atol=1e-9)
        for (name, one), (_, another) in zip(norm.named_buffers(), other.named_buffers(), strict=True):
            torch.testing.assert_close(one, another, rtol=1e-9, atol=1e-9, msg=name)


def test_threads_share_out_the_same_sums():
    torch.manual_seed(2)
    x, before = drawn(6, (30, 31), steps=4, batch=8), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            norm, neuron = made(6, (30, 31)), LIF(SETTINGS)
            nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
            out = neuron(x, norm)
            found.append((out, *torch.autograd.grad(out.sum(), [x, *norm.parameters()]), norm.running_var))
    finally:
        torch.set_num_threads(before)
    one, two, again = found
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))
    assert (one[0] != two[0]).float().mean() < 1e-4
    torch.testing.assert_close(one[4], two[4], rtol=1e-6, atol=0)


def test_what_somebody_watches_or_altered_is_called_as_it_is():
    x, neuron = drawn(3, (5, 5)), LIF(SETTINGS)
    joined = made(3, (5, 5))
    assert normed.can_join(joined, x)
    watched = made(3, (5, 5))
    seen = []
    watched.register_forward_hook(lambda module, given, out: seen.append(out))
    assert torch.equal(neuron(x, watched), neuron(over_time(watched, x))) and len(seen) == 2
    altered = made(3, (5, 5))
    altered.forward = lambda x: 0 * x
    assert not neuron(x, altered).any() and normed.can_join(joined, x)
    for refused in (watched, altered, made(3, (5, 5)).eval(), nn.Identity(), made(3, ())):
        assert not normed.can_join(refused, x)
    for given in (x.detach().contiguous(), x.half(), x[:1, :1, :, :1, :1], x[:, :, :2]):
        assert not normed.can_join(joined, given)
    with torch.no_grad():
        assert not normed.can_join(joined, x)


def test_a_neuron_that_learns_or_scales_gets_its_norm_all_the_same():
    for neuron in (ParametricLIF(SETTINGS), LIF(SETTINGS, gain=0.5), LIF(SETTINGS, v_th=torch.rand(3, 5, 5))):
        x, norm = drawn(3, (5, 5)), made(3, (5, 5))
        other = copy.deepcopy(norm)
        out = neuron(x, norm)
        assert torch.equal(out, neuron(over_time(other, x))) and out.any()
        assert torch.equal(norm.running_mean, other.running_mean)


def test_a_network_in_training_joins_them_and_hooks_on_neurons_see_spikes(monkeypatch):
    settings = ModelSettings("cnn-wide", (2, 34, 34), 10, SETTINGS)
    model = build_model(settings)
    x = (torch.rand(4, 3, 34, 34, 2) < 0.1).float().permute(0, 1, 4, 2, 3)
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    calls, seen = [], []
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda *_: calls.append("norm"))
    handle = model[2].register_forward_hook(lambda module, given, out: seen.append(out))
    model(x).sum().backward()
    handle.remove()
    assert not calls and all(int(norm.num_batches_tracked) == 1 for norm in norms)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    monkeypatch.undo()
    # What is watched before the neurons is what they were given, normed.
    given = []
    model[2].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    model(x)
    assert given[0].mean().abs() < 1e-3
