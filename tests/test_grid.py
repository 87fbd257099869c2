"""Networks that are on a grid already keep it: nothing is rounded, every spike is the float simulator's."""

from __future__ import annotations

import math
from fractions import Fraction

import nir
import numpy as np
import pytest
from graph_samples import cuba_lif, graph, inp, lif, out
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hardware.compile import grid
from hardware.compile.compiler import compile_graph, compile_layers
from hardware.graph.parsing import from_nir
from hardware.network.integer import weight_grid
from hardware.simulate import reference
from hardware.simulate.simulator import simulate

EXAMPLES = settings(max_examples=40, deadline=None)
# Steps that floats hold exactly; at others a sum equal to the threshold is decided by the floats' noise.
STEPS = st.sampled_from([1.0, 0.25, 2.0**-9, 3.0, 0.375, 40.0])


# --- steps and units ----------------------------------------------------------------------------------------


@EXAMPLES
@given(st.lists(st.integers(-127, 127), min_size=1, max_size=30), st.floats(1e-4, 1e4))
def test_the_step_of_multiples_is_found(multiples, step):
    values = np.float32(np.array(multiples) * step).astype(float)
    found = grid.step_of(values, 127)
    shared = math.gcd(*multiples)
    if not shared:
        assert found == 0.0
    else:
        assert found == pytest.approx(shared * step, rel=1e-6)


def test_what_is_on_no_grid_has_no_step():
    rng = np.random.default_rng(0)
    assert grid.step_of(rng.normal(size=200), 127) is None
    # One more level than there are.
    assert grid.step_of(np.array([128.0, 127.0]), 127) is None
    assert grid.step_of(np.array([128.0, 127.0]), 128) == 1.0


@EXAMPLES
@given(
    st.lists(st.fractions(Fraction(1, 60), 50, max_denominator=60), min_size=1, max_size=4),
    st.floats(0.01, 100),
)
def test_the_common_unit_is_the_largest(fractions, factor):
    found = grid.common_unit([float(f) * factor for f in fractions])
    assume(found is not None)
    unit, whole = found
    assert math.gcd(*whole) == 1
    for n, f in zip(whole, fractions, strict=True):
        assert n * unit == pytest.approx(float(f) * factor, rel=1e-5)


@EXAMPLES
@given(st.floats(0.01, 2.0), st.floats(0.0, 5.0))
def test_steps_to_fire_are_the_simulators(drive, threshold):
    v, step = 0.0, 0
    while not v > threshold:
        v, step = v + drive, step + 1
    assert grid.steps_to_fire(drive, threshold) == step


# --- whole networks -----------------------------------------------------------------------------------------


def levels(rng, shape, bits, mode="mixed"):
    """Multiples that a weight of so many bits may be, the largest among them."""
    low, high, step = weight_grid(mode, bits)
    most, least = high // step, low // step
    drawn = rng.integers(max(least, -most), most + 1, shape)
    drawn[rng.random(shape) < 0.2] = 0
    return drawn


def on_a_grid(rng, bits, step, bias, mode):
    """Two ways into the second population, one of them over a step of its own, and a loop."""
    w1, w2 = levels(rng, (9, 6), bits, mode) * step, levels(rng, (5, 9), bits, mode) * step
    skip, back = levels(rng, (5, 6), bits, mode) * (step * 2), levels(rng, (5, 5), bits, mode) * step
    biases = [rng.integers(-3, 4, n) * step / 4 if bias else np.zeros(n) for n in (9, 5)]
    thresholds = rng.integers(1, 12, 2) * step
    nodes = {
        "input": inp(6),
        "w1": nir.Affine(w1, biases[0]),
        "n1": nir.IF(np.ones(9), np.full(9, thresholds[0]), np.zeros(9)),
        "w2": nir.Affine(w2, biases[1]),
        "skip": nir.Linear(skip),
        "back": nir.Linear(back),
        "n2": nir.IF(np.ones(5), np.full(5, thresholds[1]), np.zeros(5)),
        "output": out(5),
    }
    edges = [("input", "w1"), ("w1", "n1"), ("n1", "w2"), ("w2", "n2"), ("input", "skip"), ("skip", "n2")]
    return from_nir(graph(nodes, [*edges, ("n2", "back"), ("back", "n2"), ("n2", "output")]))


@EXAMPLES
@given(
    st.integers(0, 2**32),
    st.integers(1, 8),
    STEPS,
    st.booleans(),
    st.sampled_from(["loihi1", "loihi2"]),
    st.sampled_from(["zero", "subtract"]),
)
def test_nothing_is_rounded_without_leaks(seed, bits, step, bias, chip, reset):
    rng = np.random.default_rng(seed)
    mode = "excitatory" if bits == 1 else "mixed"
    checked = on_a_grid(rng, bits, step, bias, mode)
    assume(chip == "loihi2" or reset == "zero")
    network, reports = compile_graph(checked, chip, weight_bits=bits, reset=reset)
    assert all(r.on_grid and r.weight_error_max < 1e-9 and r.bias_error < 1e-9 for r in reports)
    x = rng.integers(0, 2, (3, 40, 6))
    exact = reference.simulate(checked, x, reset=reset, record=["n1", "n2"])
    run = simulate(network, x, record=["n1", "n2"])
    for name in ("n1", "n2"):
        np.testing.assert_array_equal(run.spikes[name], exact.spikes[name], name)


@EXAMPLES
@given(
    st.integers(0, 2**32),
    st.integers(2, 8),
    st.sampled_from([1.0, 0.5, 0.0625]),
    st.integers(64, 2048),
    st.integers(256, 4095),
    st.booleans(),
)
def test_with_leaks_spikes_part_only_within_what_decays_cut_off(seed, bits, step, dv, du, current):
    """Decays of whole 4096ths. Each product |v| (4096 - dv) / 4096 is cut to a whole number, in u as in v: after t steps v is
    off by at most min(t, 4096 / dv) units, and as many times the error of u. Up to the first time that a float
    membrane is as near as that to its threshold, every spike is the float simulator's.
    """
    rng = np.random.default_rng(seed)
    weight = levels(rng, (4, 6), bits) * step
    tau, syn = 4096 / dv, 4096 / du
    node = lif(4, tau=1.0)
    node.tau[:], node.r[:] = tau, tau
    if current:
        node = cuba_lif(4)
        node.tau_syn[:], node.w_in[:], node.tau_mem[:], node.r[:] = syn, syn, tau, tau
    node.v_threshold[:] = threshold = float(rng.integers(2, 30)) * step
    for key in vars(node):
        if isinstance(getattr(node, key), np.ndarray):
            setattr(node, key, getattr(node, key).astype(np.float64))
    checked = from_nir(graph({"input": inp(6), "w": nir.Linear(weight), "n": node, "output": out(4)}, dt=1.0))
    # float32 of 4096 / dv is not exact: the checked graph's own value is what counts.
    compiled = compile_layers(checked, "loihi2", weight_bits=bits)
    assume(np.allclose(compiled.layers[0].leak, compiled.layers[0].demand.neurons.leak, rtol=1e-6))
    assume(weight.any())
    assert compiled.reports[0].on_grid and compiled.reports[0].weight_error_max < 1e-6
    assert compiled.reports[0].threshold_error < 1e-6
    scale = compiled.layers[0].scaling.scale[compiled.layers[0].demand.group] * 64
    x = rng.integers(0, 2, (4, 50, 6))
    exact = reference.simulate(checked, x, record=["n"])
    found = simulate(compiled.network, x, record={"n": ("spikes",)}).spikes["n"]
    t = np.arange(1, 51)[None, :, None]
    cut_u = np.minimum(t, 4096 / du) if current else 0.0
    off = np.minimum(t, 4096 / dv) * (1 + cut_u)
    margin = np.abs(exact.membranes["n"] - threshold) * scale
    near = margin <= off * 1.01 + 1e-3 * scale * threshold  # the reset's own time constants are float32
    safe = np.cumsum(near.any(axis=2), axis=1) == 0
    np.testing.assert_array_equal(found[safe], exact.spikes["n"][safe])
    assume(safe.sum() > 20)


def one(weights, threshold, bias=0.0):
    n = len(weights)
    node = nir.IF(np.ones(1), np.full(1, threshold), np.zeros(1))
    synapses = nir.Affine(np.array([weights], np.float32), np.array([bias], np.float32))
    return from_nir(graph({"input": inp(n), "w": synapses, "n": node, "output": out(1)}))


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
@pytest.mark.parametrize(
    ("weights", "threshold"),
    [([1, 0.5, 0.5], 1.0), ([1, 0.25, 0.5], 1.0), ([1, -0.5, 0.5], 1.0), ([0.75, 0.5, 0.25], 0.75)],
)
def test_a_sum_that_equals_the_threshold_does_not_fire(weights, threshold, chip):
    checked = one(weights, threshold)
    network, _ = compile_graph(checked, chip)
    x = (np.random.default_rng(3).random((1, 300, len(weights))) < 0.3).astype(int)
    exact = reference.simulate(checked, x)
    np.testing.assert_array_equal(simulate(network, x).output, exact.output)
    ties = reference.simulate(checked, x, record=["n"]).membranes["n"] == threshold
    assert ties.any()


@EXAMPLES
@given(st.sampled_from([0.3, 0.7, -0.4, 1.0, 0.11]), st.integers(1, 40), st.sampled_from([0.0, 1e-3, -1e-3]))
def test_a_bias_fires_as_often_as_in_floats(weight, steps, off):
    """Whether it divides the threshold exactly, nearly (0.1 in float32), or is on no grid at all."""
    checked = one([weight], 1.0, (1 + off) / steps)
    network, _ = compile_graph(checked, "loihi1")
    x = np.zeros((1, 400, 1), int)
    np.testing.assert_array_equal(simulate(network, x).output, reference.simulate(checked, x).output)


def test_off_the_grid_thresholds_are_whole():
    rng = np.random.default_rng(0)
    checked = one(rng.normal(size=40).tolist(), 1.0)
    network, reports = compile_graph(checked, "loihi1")
    assert not reports[0].on_grid and reports[0].threshold_error == 0
    assert network.populations[0].vth == pytest.approx(reports[0].scale[0], rel=1e-12)


def test_high_thresholds_use_their_bits_where_membranes_stay_above_zero():
    network, reports = compile_graph(one([0.5, 1.0], 1e5), "loihi1")
    assert network.populations[0].vth > 2**16 and reports[0].zeroed == 0
    # One that can be driven far down keeps room below.
    network, _ = compile_graph(one([-30.1, 7.3, 11.0], 1e5), "loihi1")
    assert network.populations[0].vth <= 2**14


def test_what_can_never_fire_is_said():
    _, reports = compile_graph(one([1e-5, -1.0, 0.5], 1e5), "loihi1")
    assert any("became 0" in w for w in reports[0].warnings)
    _, reports = compile_graph(one([-1.0, -0.5], 1.0), "loihi1")
    assert any("never fire" in w for w in reports[0].warnings)
    _, reports = compile_graph(one([1.0, -0.5], 1.0), "loihi1")
    assert reports[0].warnings == ()
    # With a leak of a half, inputs of 4 a step end at 8.
    for threshold, silent in ((20.0, True), (7.0, False)):
        node = lif(1, tau=2.0, r=2.0, v_threshold=threshold)
        nodes = {"input": inp(1), "w": nir.Linear(np.ones((1, 1))), "n": node, "output": out(1)}
        _, reports = compile_graph(from_nir(graph(nodes, dt=1.0, clip=4)), "loihi2")
        assert bool(reports[0].warnings) == silent
