"""Matrices by oneDNN against sums in double precision."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from dpap_neuro.networks import matrices
from dpap_neuro.networks.matrices import Linear, linear

pytestmark = pytest.mark.skipif(
    not matrices._has_onednn(), reason="this PyTorch has no oneDNN, so that its own matrices are taken"
)


@pytest.mark.parametrize("n, size, out", [(320, 400, 60), (1, 3000, 1500), (5000, 1, 900), (33, 1027, 211)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_gradients_are_those_of_double_precision(monkeypatch, n, size, out, bias):
    torch.manual_seed(n)
    layer, x = Linear(size, out, bias), (torch.rand(n, size) < 0.3).float().requires_grad_()
    plain = nn.Linear(size, out, bias).double()
    plain.load_state_dict(layer.state_dict())
    weight = torch.randn(n, out)
    called = []
    monkeypatch.setattr(nn.functional, "linear", lambda *_: called.append("plain"))
    y = layer(x)
    found = torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()])
    monkeypatch.undo()
    assert not called
    exact = x.detach().double().requires_grad_()
    expected = plain(exact)
    right = torch.autograd.grad((expected * weight).sum(), [exact, *plain.parameters()])
    for one, other in zip((y, *found), (expected, *right), strict=True):
        assert one.dtype == torch.float32 and one.is_contiguous()
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_whole_numbers_are_exact():
    torch.manual_seed(0)
    x, weight = torch.randint(0, 2, (500, 300)).float(), torch.randint(-120, 121, (90, 300)).float()
    assert torch.equal(linear(x, weight).long(), x.long() @ weight.long().t())


def test_only_what_is_large_plain_and_on_a_cpu_goes_that_way(monkeypatch):
    ways = []
    monkeypatch.setattr(matrices, "_product", lambda x, weight, bias=None: ways.append(1) or x @ weight.t())
    x, layer = torch.randn(700, 100), Linear(100, 80)
    layer(x)
    assert ways == [1]
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()(x[:3])
    layer(x.reshape(7, 100, 100))
    asked = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            asked.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        layer(x)
    assert nn.functional.linear in asked
    assert ways == [1]


def test_frozen_weights_get_no_gradient():
    x, layer = torch.randn(700, 100), Linear(100, 80)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and torch.allclose(layer.bias.grad, torch.full((80,), 700.0))
