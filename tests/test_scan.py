"""Scans of whole recordings against the loop over Norse's step functions and its autograd.

The kernels for GPUs run in Triton's interpreter, and are built for GPUs that this machine need not have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norse_loop import loop

from dpap_neuro.networks import SURROGATES, scan
from dpap_neuro.networks.neurons import IF, LI, LIF, CubaLI, CubaLIF, Neuron, NeuronSettings, ParametricLIF

SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.04, v_th=0.4, tau_syn=0.02)
KINDS = [LIF, ParametricLIF, CubaLIF, IF, LI, CubaLI]
EXAMPLES = settings(max_examples=200, deadline=None)


def scanned(neuron: Neuron, x):
    p = neuron.constants()
    return scan.scan(neuron.step, x, neuron.rest(x[0], p), p, neuron.settings.dt)


@pytest.fixture(scope="module")
def interpreter(triton_interpreter):
    """The GPU's kernels as the backend of every device, in Triton's interpreter."""
    from dpap_neuro.networks import scan_triton

    return scan_triton


@st.composite
def populations(draw):
    """(neuron, input): any kind and reset, constants for all or each, some or all of them learned, odd sizes and layouts."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    kind, shape = draw(st.sampled_from(KINDS)), draw(st.sampled_from([(), (1,), (5,), (16,), (3, 4, 5)]))
    own, learned = draw(st.booleans()), draw(st.booleans())
    values = {"v_leak": 0.1, "v_reset": -0.1, "v_th": 0.5, "tau_mem": 0.02, "tau_syn": 0.03}
    chosen = draw(st.sets(st.sampled_from([name for name in values if name in kind.defaults])))
    settings = replace(
        SETTINGS,
        reset=draw(st.sampled_from(["zero", "subtract"])),
        surrogate=draw(st.sampled_from(list(SURROGATES))),
        surrogate_slope=draw(st.sampled_from([1.0, 0.3, 7.0])),
    )
    neuron = kind(
        settings, **{name: values[name] * (torch.rand(shape if own else ()) + 0.5) for name in chosen}
    )
    if learned:
        for constant in neuron.buffers():
            constant.requires_grad_()
    x = torch.randn(draw(st.integers(1, 9)), draw(st.integers(1, 3)), *shape) + 0.3
    if draw(st.booleans()):
        x = x.double()
    return neuron, x.mT.contiguous().mT if draw(st.booleans()) else x


def check(neuron: Neuron, x, tau_to_the_bit: bool) -> None:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    learned = [t for t in (*neuron.buffers(), *neuron.parameters()) if t.requires_grad]
    weight, found = torch.randn(x.shape, dtype=x.dtype), []
    for function in (loop, scanned):
        out = function(neuron, x)
        gradients = torch.autograd.grad((out * weight).sum(), [x, *learned], allow_unused=True)
        found.append((out, [torch.zeros(()) if g is None else g for g in gradients]))
    (out, (to_x, *others)), (out_too, (to_x_too, *others_too)) = found
    assert out_too.dtype == x.dtype and torch.equal(out, out_too)
    # Of an exponential each has its own last bit.
    to_the_bit = neuron.settings.surrogate != "sigmoid"
    assert torch.equal(to_x, to_x_too) or not to_the_bit
    torch.testing.assert_close(to_x, to_x_too, rtol=1e-5, atol=1e-6)
    tau_to_the_bit = tau_to_the_bit and to_the_bit
    for one, other in zip(others, others_too, strict=True):
        if tau_to_the_bit:
            assert torch.equal(one, other)
        torch.testing.assert_close(one.expand(other.shape), other, rtol=1e-4, atol=1e-5)


@EXAMPLES
@given(populations())
def test_spikes_and_gradients_are_those_of_the_loop(population):
    neuron, x = population
    one_for_all = all(b.dim() == 0 and not b.requires_grad for b in neuron.buffers())
    # In another layout in memory the loop's sum over neurons has another order.
    single = one_for_all and x.dtype == torch.float32 and x.is_contiguous()
    check(neuron, x, tau_to_the_bit=single and isinstance(neuron, ParametricLIF))


@EXAMPLES
@given(populations())
def test_kernels_give_spikes_and_gradients_of_the_loop(interpreter, population):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_backend", lambda x: interpreter)
        check(*population, tau_to_the_bit=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_step_halves_in_full_precision(interpreter, monkeypatch, dtype):
    monkeypatch.setattr(scan, "_backend", lambda x: interpreter)
    x = (torch.randn(20, 3, 9) + 0.3).to(dtype).requires_grad_()
    exact = x.detach().float().requires_grad_()
    for kind in (CubaLIF, LI):
        out, expected = scanned(kind(SETTINGS), x), loop(kind(SETTINGS), exact)
        assert out.dtype == dtype and out.any()
        torch.testing.assert_close(out, expected.to(dtype), rtol=0.01, atol=0.0 if kind is CubaLIF else 0.001)
        (found,) = torch.autograd.grad(out.sum(), x)
        (gradient,) = torch.autograd.grad(expected.sum(), exact)
        torch.testing.assert_close(found, gradient.to(dtype))


@pytest.mark.parametrize("target", [("cuda", "80"), ("cuda", "90"), ("hip", "gfx942")], ids=" ".join)
def test_kernels_build_for_gpus(target):
    pytest.importorskip(
        "triton", reason="Triton comes with PyTorch's GPU builds, or alone by `pip install triton`"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("kernel_builds.py")
    run = subprocess.run(
        [sys.executable, script, *target], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["launches"] == 132 and found["bytes"] > 1000
    # Bytes spilled by all kernels together, where Triton tells.
    assert found["fused"] == 0 and found["spilled"] < 64 and all(n <= 128 for n in found["registers"])


def test_one_tensor_is_kept_for_backward():
    x, kept = torch.randn(10, 4, 6, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        CubaLIF(SETTINGS)(x)
    assert sum(t.numel() for t in kept) == x.numel() + 7


def test_a_neuron_of_its_own_keeps_its_loop():
    class Halved(LIF):
        def constants(self):
            return super().constants()._replace(reset_method=lambda z, v, reset, th: v - z * v / 2)

    class Twice(LI):
        norse_step = staticmethod(lambda x, state, p, dt: (2 * x, state))

    x = torch.randn(12, 3, 5) + 0.5
    assert torch.equal(Halved(SETTINGS)(x), loop(Halved(SETTINGS), x))
    assert not torch.equal(Halved(SETTINGS)(x), LIF(SETTINGS)(x))
    assert torch.equal(Twice(SETTINGS)(x), 2 * x)
    half = x.half()
    assert torch.equal(LIF(SETTINGS)(half), loop(LIF(SETTINGS), half))


def test_a_gpu_where_triton_fails_gets_the_loop_and_one_warning():
    scan.kernels_work.cache_clear()
    with pytest.warns(
        UserWarning, match="meta: neurons step one by one, slower, since Triton failed"
    ) as said:
        assert not scan.kernels_work(torch.device("meta"))
        assert not scan.kernels_work(torch.device("meta"))
    assert len(said) == 1
