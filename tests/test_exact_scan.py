"""Populations in a chip's integers: to the bit what the equations say, with the gradients of the float model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import oracle_integers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpap_neuro.precision import scan
from dpap_neuro.precision.scan import Integers
from hardware.network.integer import Population

EXAMPLES = settings(max_examples=100, deadline=None)


@pytest.fixture(scope="module")
def interpreter(triton_interpreter):
    """The GPU's kernels as the backend of every device, in Triton's interpreter."""
    from dpap_neuro.precision import scan_triton

    return scan_triton


@st.composite
def populations(draw):
    """(population, unit, recurrent weights or None, inputs): decays of all kinds, sums that wrap and clip."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.sampled_from([1, 3, 40]))

    def parameter(low, high, edges):
        kind = draw(st.sampled_from(["edge", "one", "each"]))
        if kind == "each":
            return rng.integers(low, high + 1, n)
        return draw(st.sampled_from(edges)) if kind == "edge" else int(rng.integers(low, high + 1))

    population = Population(
        "p",
        (n,),
        du=parameter(0, 4095, [4095, 0, 2047]),
        dv=parameter(0, 4096, [0, 4096, 2048]),
        vth=parameter(0, draw(st.sampled_from([50, 2000, 2**17 - 1])), [1, 60]),
        bias_mant=parameter(-4096, 4095, [0]),
        bias_exp=draw(st.integers(0, 7)),
        spiking=draw(st.booleans()),
        reset=draw(st.sampled_from(["zero", "subtract"])),
    )
    top = draw(st.sampled_from([40, 2000, 2**20]))
    x = rng.integers(-top, top + 1, (draw(st.integers(1, 9)), draw(st.integers(1, 3)), n))
    back = rng.integers(-100, 101, (n, n)) * 2.0 if population.spiking and draw(st.booleans()) else None
    return population, draw(st.sampled_from([64.0, 8000.0, 300_000.0])), back, x


def integers_of(population, unit):
    columns = [np.asarray(getattr(population, k)) for k in ("du", "dv", "vth", "bias_mant")]
    width = max(1, *(c.size for c in columns))
    du, dv, vth, bias = (torch.tensor(np.broadcast_to(c, width).astype(np.int32)) for c in columns)
    return Integers(
        4095 - du,
        4096 - dv,
        vth << 6,
        bias << population.bias_exp,
        torch.full((width,), unit),
        population.spiking,
        population.reset == "subtract",
    )


def check(case):
    population, unit, back, x = case
    found = []
    weight = torch.tensor(np.random.default_rng(0).normal(size=x.shape))
    for exact in (True, False):
        kind = torch.float64 if exact else torch.float32
        inputs = torch.tensor(x, dtype=kind, requires_grad=True)
        bias = torch.tensor(
            np.broadcast_to(np.asarray(population.bias_mant), population.shape) / unit, dtype=kind
        )
        leak = torch.tensor(np.asarray(population.dv) / 4096, dtype=kind).requires_grad_()
        bias.requires_grad_()
        matrix = None if back is None else torch.tensor(back, dtype=kind, requires_grad=True)
        if exact:
            out, membranes = oracle_integers.loop(inputs, population, unit, bias, leak, matrix)
        else:
            out, membranes = scan.scan(inputs, integers_of(population, unit), bias, leak, matrix)
            membranes = membranes.numpy()
        wanted = [inputs, bias, leak, *([] if matrix is None else [matrix])]
        gradients = torch.autograd.grad((out * weight.to(kind)).sum(), wanted, allow_unused=True)
        found.append((out, membranes, gradients))
    (out, membranes, gradients), (out_too, membranes_too, gradients_too) = found
    np.testing.assert_array_equal(membranes_too, membranes)
    np.testing.assert_array_equal(out_too.detach().numpy(), np.rint(out.detach().numpy()))
    for one, other in zip(gradients, gradients_too, strict=True):
        one = torch.zeros_like(other, dtype=torch.float64) if one is None else one
        scale = float(one.abs().max()) + 1e-9
        torch.testing.assert_close(other.double() / scale, one / scale, rtol=1e-3, atol=2e-4)


@EXAMPLES
@given(populations())
def test_integers_are_the_equations_and_gradients_the_float_models(case):
    check(case)


@EXAMPLES
@given(populations())
def test_kernels_give_the_same_integers_and_gradients(interpreter, case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "backend", lambda x: interpreter)
        check(case)


@pytest.mark.parametrize("target", [("cuda", "80"), ("cuda", "90"), ("hip", "gfx942")], ids=" ".join)
def test_kernels_build_for_gpus(target):
    pytest.importorskip(
        "triton", reason="Triton comes with PyTorch's GPU builds, or alone by `pip install triton`"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("kernel_builds.py")
    run = subprocess.run(
        [sys.executable, script, *target, "exact"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["launches"] == 30 and found["bytes"] > 1000
    assert found["fused"] == 0 and found["spilled"] < 64 and all(n <= 128 for n in found["registers"])
