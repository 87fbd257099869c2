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

from dpap_neuro.networks.surrogates import Surrogate
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


# As `networks.surrogates` names them, of slope a.
DERIVATIVES = {
    "superspike": lambda x, a: 1 / (a * x.abs() + 1) ** 2,
    "atan": lambda x, a: a / 2 / (1 + (torch.pi / 2 * a * x) ** 2),
    "sigmoid": lambda x, a: a * torch.sigmoid(a * x) * (1 - torch.sigmoid(a * x)),
    "triangle": lambda x, a: a * torch.clamp(1 - a * x.abs(), min=0),
}
SURROGATES = st.builds(Surrogate, st.sampled_from(sorted(DERIVATIVES)), st.sampled_from([0.5, 1.0, 3.0]))


def integers_of(population, unit, surrogate=Surrogate()):
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
        surrogate,
    )


def check(case, surrogate):
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
            out, membranes = oracle_integers.loop(
                inputs,
                population,
                unit,
                bias,
                leak,
                matrix,
                lambda v: DERIVATIVES[surrogate.name](v, surrogate.slope),
            )
        else:
            out, membranes = scan.scan(inputs, integers_of(population, unit, surrogate), bias, leak, matrix)
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
@given(populations(), SURROGATES)
def test_integers_are_the_equations_and_gradients_the_float_models(case, surrogate):
    check(case, surrogate)


@EXAMPLES
@given(populations(), SURROGATES)
def test_kernels_give_the_same_integers_and_gradients(interpreter, case, surrogate):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "backend", lambda x: interpreter)
        check(case, surrogate)


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
    assert found["launches"] == 60 and found["bytes"] > 1000
    assert found["fused"] == 0 and found["spilled"] < 64 and all(n <= 128 for n in found["registers"])


def smoothed(x, base, population, unit, bias, leak, back):
    """The outputs (T, B, n), in float64, of the smoothed model around a run of the integers: a spike is its integer one plus the
    surrogate's antiderivative, a membrane its integer one plus what has changed. At x it is the run itself.

    base: x, and the spikes and membranes of the run, in units of the float membrane; bias, leak: changes from the population's.
    """
    x0, z0, v0 = base
    keep_u = np.asarray((4095 - np.asarray(population.du)) / 4096)
    leak0 = np.asarray(population.dv) / 4096
    keep_v, vth = 1 - leak0 - leak, np.asarray(population.vth) * 64 / unit
    subtract = population.reset == "subtract"

    def surrogate(v):
        away = v - vth
        return away / (1 + np.abs(away))

    n = x0.shape[1:]
    du, dv, after, after0, z = (np.zeros(n) for _ in range(5))
    out = []
    for t in range(len(x0)):
        fed = x[t] - x0[t]
        if t and back is not None:
            matrix, matrix0 = back
            fed = fed + z @ matrix.T - z0[t - 1] @ matrix0.T
        du = keep_u * du + fed * 64 / unit
        dv = keep_v * after - (1 - leak0) * after0 + du + bias
        v = v0[t] + dv
        if not population.spiking:
            out.append(v * unit)
            after, after0 = v, v0[t]
            continue
        z = z0[t] + surrogate(v) - surrogate(v0[t])
        out.append(z)
        after = v - vth * z if subtract else v * (1 - z)
        after0 = v0[t] - vth * z0[t] if subtract else v0[t] * (1 - z0[t])
    return np.stack(out)


@EXAMPLES
@given(populations(), st.integers(0, 2**32 - 1))
def test_gradients_are_finite_differences_of_the_smoothed_model(case, seed):
    population, unit, back, x = case
    rng = np.random.default_rng(seed)
    inputs = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    zero = [torch.zeros((), requires_grad=True) for _ in range(2)]
    matrix = None if back is None else torch.tensor(back, dtype=torch.float32, requires_grad=True)
    out, membranes = scan.scan(inputs, integers_of(population, unit), *zero, matrix)
    weight = rng.normal(size=x.shape)
    wanted = [inputs, *zero, *([] if matrix is None else [matrix])]
    gradients = torch.autograd.grad((out * torch.tensor(weight).float()).sum(), wanted, allow_unused=True)
    base = x.astype(float), out.detach().double().numpy(), membranes.double().numpy() / unit

    def loss(step, directions):
        moved, bias, leak, turned = (step * d for d in directions)
        fed = None if back is None else (back + turned, back)
        return (weight * smoothed(x + moved, base, population, unit, bias, leak, fed)).sum()

    # Steps in units of the float membrane, so that none of them crosses more than the surrogate's curvature.
    for number, found in enumerate(gradients):
        directions: list = [0.0, 0.0, 0.0, 0.0]
        shape = wanted[number].shape
        directions[number] = rng.normal(size=shape) * (unit / 64 if number in (0, 3) else 1.0)
        if number == 2:  # a leak acts on membranes of any size
            directions[number] = directions[number] / max(1.0, np.abs(base[2]).max())
        slopes = [(loss(h, directions) - loss(-h, directions)) / (2 * h) for h in (1e-5, 5e-6)]
        exact = 0.0 if found is None else float((found.double().numpy() * directions[number]).sum())
        scale = max(abs(exact), 1e-3 * float(np.abs(weight).sum()), 1e-9)
        if abs(slopes[0] - slopes[1]) < 1e-3 * scale:  # at a kink of the surrogate there is no slope
            assert abs(slopes[1] - exact) < 1e-2 * scale, (number, slopes, exact)
