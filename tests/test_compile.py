"""Compiled networks against the float simulator: to the spike where nothing needs rounding, else closely."""

from __future__ import annotations

import dataclasses

import nir
import numpy as np
import pytest
from graph_samples import SHARED, cuba_lif, graph, inp, lif, mixed, out
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nmnist_samples import FOLDER, recordings

from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.files.netx import restrict
from hardware.graph.graph import reset_of
from hardware.graph.parsing import from_nir, read_graph
from hardware.network.connectivity import unroll
from hardware.network.integer import ConvProjection, DenseProjection, SparseProjection, weight_grid
from hardware.simulate import reference
from hardware.simulate.fidelity import agreement, compare
from hardware.simulate.simulator import simulate

EXAMPLES = settings(max_examples=60, deadline=None)


def integrate(*shape, threshold=1.0, v_reset=0.0, r=1.0):
    return nir.IF(np.full(shape, r), np.full(shape, threshold), np.full(shape, v_reset))


def exact_weights(rng, shape, zeros=0.3):
    """Even multiples of 1 / 128 that reach the end of the grid, so that the scale comes out as 128."""
    weight = rng.integers(-100, 101, shape) * 2
    weight[rng.random(shape) < zeros] = 0
    rows = weight.reshape(shape[0], -1)
    rows[:, 0], rows[:, -1] = 254, -256 if rows.shape[1] > 1 else 254
    return weight / 128.0


def bias(rng, n):
    return rng.integers(-30, 31, n) / 128.0


def affine(rng, post, pre):
    return nir.Affine(exact_weights(rng, (post, pre)), bias(rng, post))


def conv(rng, post, pre, kernel=3, padding=1, stride=1, groups=1):
    weight = exact_weights(rng, (post, pre // groups, kernel, kernel))
    return nir.Conv2d(None, weight, stride, padding, 1, groups, bias(rng, post))


def pool(kind, size, stride=None):
    return kind(np.array([size] * 2), np.array([stride or size] * 2), np.array([0, 0]))


def flatten(*shape):
    return nir.Flatten({"input": np.array(shape)}, 0, -1)


def convolutional(rng, pooling, height):
    """At a height of 9, pooling leaves out a last row, so that the second convolution is unrolled."""
    return graph(
        {
            "input": inp(2, height, 8),
            "c1": conv(rng, 4, 2),
            "n1": integrate(4, height, 8, threshold=1.5),
            "pool1": pool(pooling, 2),
            "c2": conv(rng, 3, 4, padding=1),
            "n2": integrate(3, 4, 4, threshold=2.25, v_reset=-0.5),
            "pool2": pool(pooling, 2),
            "flat": flatten(3, 2, 2),
            "fc": affine(rng, 5, 12),
            "n3": integrate(5),
            "output": out(5),
        }
    )


def skipping(rng):
    """Ways of one, two and three layers meet, one of them with a delay."""
    return graph(
        {
            "input": inp(6),
            "w1": affine(rng, 7, 6),
            "n1": integrate(7),
            "w2": affine(rng, 5, 7),
            "n2": integrate(5),
            "w3": affine(rng, 4, 5),
            "skip1": nir.Linear(exact_weights(rng, (4, 7))),
            "skip0": nir.Linear(exact_weights(rng, (4, 6))),
            "late": nir.Delay(np.full(6, 3.0)),
            "n3": integrate(4),
            "output": out(4),
        },
        [
            ("input", "w1"),
            ("w1", "n1"),
            ("n1", "w2"),
            ("w2", "n2"),
            ("n2", "w3"),
            ("w3", "n3"),
            ("n1", "skip1"),
            ("skip1", "n3"),
            ("input", "late"),
            ("late", "skip0"),
            ("skip0", "n3"),
            ("n3", "output"),
        ],
    )


def recurrent(rng):
    return graph(
        {
            "input": inp(6),
            "w1": affine(rng, 8, 6),
            "n1": integrate(8),
            "back": nir.Linear(exact_weights(rng, (8, 8))),
            "w2": affine(rng, 4, 8),
            "n2": integrate(4),
            "output": out(4),
        },
        [
            ("input", "w1"),
            ("w1", "n1"),
            ("n1", "back"),
            ("back", "n1"),
            ("n1", "w2"),
            ("w2", "n2"),
            ("n2", "output"),
        ],
    )


BUILDERS = {
    "sum": lambda rng: convolutional(rng, nir.SumPool2d, 8),
    "average": lambda rng: convolutional(rng, nir.AvgPool2d, 8),
    "unrolled": lambda rng: convolutional(rng, nir.AvgPool2d, 9),
    "skip": skipping,
    "recurrent": recurrent,
}


@EXAMPLES
@given(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2**32), st.booleans())
def test_weights_on_the_grid_give_the_very_spikes(kind, seed, per_channel):
    # Unrolled, a neuron at the border lacks the weights at the end of the grid, and has a scale of its own.
    assume(not (kind == "unrolled" and per_channel))
    rng = np.random.default_rng(seed)
    checked = from_nir(BUILDERS[kind](rng))
    network, reports = compile_graph(checked, "loihi2", per_channel=per_channel)
    x = (
        rng.integers(0, 2, (2, 30, *network.inputs[0].shape))
        * (rng.random((2, 30, 1, 1, 1)) < 0.7)[(..., *(0,) * (3 - len(network.inputs[0].shape)))]
    )
    names = [p.name for p in network.populations]
    exact = reference.simulate(checked, x, record=names)
    run = simulate(network, x, record=names)
    for name in names:
        np.testing.assert_array_equal(run.spikes[name], exact.spikes[name], name)
    for report in reports:
        assert report.weight_error_max < 1e-9 and report.zeroed == 0
        assert report.threshold_error < 0.01


@EXAMPLES
@given(st.integers(0, 2**32))
def test_ways_of_different_length_meet_on_the_chip_as_they_were_trained(seed):
    rng = np.random.default_rng(seed)
    nodes = skipping(rng)
    for name in ("w1", "w2", "w3"):  # a bias acts on the chip before the input arrives
        nodes.nodes[name].bias[:] = 0
    network, _ = compile_graph(from_nir(nodes), "loihi1")
    assert {(p.source, p.target): p.delay for p in network.projections} == {
        ("input", "n1"): 0,
        ("n1", "n2"): 0,
        ("n2", "n3"): 0,
        ("n1", "n3"): 1,
        ("input", "n3"): 3 + 2,
    }
    x = rng.integers(0, 2, (1, 40, 6))
    exact = simulate(network, x).output
    assume(exact.any())
    chip = simulate(network, np.pad(x, ((0, 0), (0, 3), (0, 0))), "chip")
    assert chip.depth["n3"] == 3
    np.testing.assert_array_equal(chip.output[:, 3:], exact)


def test_delays_that_differ_from_neuron_to_neuron():
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(3),
        "late": nir.Delay(np.array([0.0, 2.0, 2.0])),
        "w": nir.Linear(exact_weights(rng, (4, 3), zeros=0)),
        "n": integrate(4),
        "output": out(4),
    }
    checked = from_nir(graph(nodes))
    network, _ = compile_graph(checked, "loihi1")
    assert sorted(p.delay for p in network.projections) == [0, 2]
    x = rng.integers(0, 2, (1, 25, 3))
    np.testing.assert_array_equal(simulate(network, x).output, reference.simulate(checked, x).output)


def chain(node, rng, post=6, pre=20, weight=0.3):
    nodes = {
        "input": inp(pre),
        "w": nir.Affine(rng.normal(size=(post, pre)) * weight, np.full(post, 0.05)),
        "n": node,
        "output": out(post),
    }
    return from_nir(graph(nodes))


def spiking(rng, pre, share=0.3):
    return (rng.random((12, 120, pre)) < share).astype(np.uint8)


@pytest.mark.parametrize(
    "node",
    [
        lif(6, tau=0.004, r=4.0, v_threshold=0.5),
        lif(6, tau=0.02, r=20.0, v_threshold=1.0, v_reset=-0.3, v_leak=-0.3),
        lif(6, tau=0.02, r=20.0, v_threshold=-1.0, v_reset=-2.0, v_leak=-1.5),
        lif(6, tau=0.001, v_threshold=0.4),
        lif(6, tau=0.0043, r=-4.0, v_threshold=0.7),
        cuba_lif(6, tau_syn=0.004, tau_mem=0.01, r=10.0, w_in=4.0, v_threshold=1.0),
        cuba_lif(6, tau_syn=0.001, tau_mem=0.003, r=3.0, v_threshold=0.6, v_reset=0.2, v_leak=0.2),
    ],
)
def test_neurons_that_leak_agree_with_the_float_simulator(node):
    rng = np.random.default_rng(5)
    checked = chain(node, rng)
    network, reports = compile_graph(checked, "loihi1", dt=0.001)
    assert reports[0].weight_error_rms < 0.01
    # The float simulator gets the rounded weights: what is left is the arithmetic of decays and thresholds.
    gain = 0.001 / getattr(node, "tau_mem", getattr(node, "tau", None)) * node.r
    if isinstance(node, nir.CubaLIF):
        gain = gain * node.w_in * 0.001 / node.tau_syn
    projection = network.projections[0]
    folded = projection.weight * 2.0**projection.weight_exp / reports[0].scale[0]
    checked.nodes["w"].weight[:] = folded / gain[:, None]
    x = spiking(rng, 20)
    exact = reference.simulate(checked, x, dt=0.001, record=["n"])
    run = simulate(network, x, record=["n"])
    # Two time constants in, whatever the membrane began with is gone.
    part = agreement(exact.spikes["n"][:, 40:], run.spikes["n"][:, 40:])
    # A decay is a whole number of 4096ths: over 20 steps that moves a few spikes.
    assert part.either > 100 and part.share > 0.94
    assert reports[0].threshold_error < 1e-3
    assert max(reports[0].du_error, reports[0].dv_error) < 0.003
    # Biases drive membranes at once, but those of current-based neurons their current.
    always_on = [p for p in network.projections if p.source == "always on"]
    assert (network.populations[0].bias_mant != 0) == (not always_on) == (not isinstance(node, nir.CubaLIF))


@pytest.mark.parametrize("v_reset", [0.0, 0.3])
def test_reset_by_subtraction_takes_the_threshold(v_reset):
    """On a lattice every spike is the float simulator's; where v_reset is not 0 an IF starts elsewhere, which is said."""
    rng = np.random.default_rng(3)
    checked = chain(integrate(6, threshold=2.0, v_reset=v_reset), rng)
    checked.nodes["w"].weight[:] = exact_weights(rng, (6, 20))
    checked.nodes["w"].bias[:] = 0
    network, reports = compile_graph(checked, "loihi2", reset="subtract", per_channel=False)
    assert network.populations[0].reset == "subtract"
    assert (reports[0].notes != ()) == (v_reset != 0)
    x = spiking(rng, 20)
    exact = reference.simulate(checked, x, reset="subtract").output
    zero = reference.simulate(checked, x, reset="zero").output
    found = simulate(network, x).output
    assert exact.sum() > 100 and not np.array_equal(exact, zero)
    if v_reset == 0:
        np.testing.assert_array_equal(found, exact)
    else:
        # 0.3 of a membrane that takes 2 a spike: a spike more or less over a whole recording.
        counts = exact.sum(axis=1, dtype=int), found.sum(axis=1, dtype=int)
        assert 0 < np.abs(counts[0] - counts[1]).max() <= 1


def test_the_file_says_which_reset():
    checked = chain(lif(6, v_threshold=0.7), np.random.default_rng(0))
    assert reset_of(checked)[0] == "zero" and "assumed" in reset_of(checked)[1]
    soft = dataclasses.replace(checked, metadata={"reset": "subtract"})
    assert reset_of(soft)[0] == "subtract" and "metadata" in reset_of(soft)[1]
    assert reset_of(soft, "zero") == ("zero", "reset = zero as given")
    network, _ = compile_graph(soft, "loihi2", dt=0.001)
    assert network.populations[0].reset == network.metadata["reset"] == "subtract"
    network, _ = compile_graph(soft, "loihi2", dt=0.001, reset="zero")
    assert network.populations[0].reset == network.metadata["reset"] == "zero"
    x = spiking(np.random.default_rng(1), 20)
    np.testing.assert_array_equal(
        reference.simulate(soft, x, 0.001).output, reference.simulate(checked, x, 0.001, "subtract").output
    )
    with pytest.raises(HardwareError, match="reset is 'soft', expected 'zero' or 'subtract'"):
        compile_graph(soft, "loihi2", dt=0.001, reset="soft")
    with pytest.raises(HardwareError, match=r"v_threshold is -0\.7, expected 0 or more"):
        compile_graph(
            chain(lif(6, v_threshold=-0.7, v_reset=-1), np.random.default_rng(0)),
            "loihi2",
            0.001,
            reset="subtract",
        )
    refusal = (
        "takes the threshold off its membranes, those of loihi1 can only zero; train with that reset, or take"
    )
    with pytest.raises(HardwareError, match=refusal):
        compile_graph(soft, "loihi1", dt=0.001)
    with pytest.raises(HardwareError, match="those of loihi2 in a NETX file can only zero"):
        compile_graph(soft, restrict(load_chip("loihi2")), dt=0.001)


def test_a_membrane_that_starts_elsewhere_is_said():
    _, reports = compile_graph(
        chain(lif(6, v_leak=-1.0, v_reset=-2.0), np.random.default_rng(0)), "loihi1", dt=0.001
    )
    assert any("start at v_reset" in note for note in reports[0].notes)
    _, reports = compile_graph(
        chain(lif(6, v_leak=-1.0, v_reset=-1.0), np.random.default_rng(0)), "loihi1", dt=0.001
    )
    assert reports[0].notes == ()


@pytest.mark.parametrize(
    "node",
    [
        nir.LI(np.full(6, 0.02), np.full(6, 1.0), np.full(6, 0.3)),
        nir.CubaLI(np.full(6, 0.004), np.full(6, 0.02), np.full(6, 2.0), np.full(6, 0.0), np.full(6, 3.0)),
        nir.I(np.linspace(0.5, 1.5, 6)),
        nir.LI(np.linspace(0.004, 0.02, 6), np.full(6, 1.0), np.full(6, 0.0)),
    ],
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_read_outs_are_the_membranes_on_one_scale(node, per_channel):
    rng = np.random.default_rng(7)
    checked = chain(node, rng)
    checked.nodes["w"].bias[:] = 0
    network, reports = compile_graph(checked, "loihi2", dt=0.001, per_channel=per_channel)
    x = spiking(rng, 20)
    exact = reference.simulate(checked, x, dt=0.001).output
    found = simulate(network, x).output
    assert not network.populations[0].spiking and found.dtype == np.int32
    back = found / reports[0].membrane_scale + reports[0].membrane_offset
    spread = exact.max() - exact.min()
    assert np.abs(back - exact).max() < 0.02 * spread
    assert np.abs(found).max() < 2**23 - 1
    assert len({report.scale for report in reports}) == 1 and len(set(reports[0].scale)) == 1


def test_currents_at_the_output_become_a_read_out():
    rng = np.random.default_rng(2)
    nodes = {
        "input": inp(5),
        "w": affine(rng, 6, 5),
        "n": integrate(6),
        "last": affine(rng, 3, 6),
        "output": out(3),
    }
    checked = from_nir(graph(nodes))
    network, reports = compile_graph(checked, "loihi1")
    assert network.outputs == ("output",) and not network.populations[-1].spiking
    x = rng.integers(0, 2, (2, 15, 5))
    exact = reference.simulate(checked, x).output
    np.testing.assert_allclose(simulate(network, x).output / reports[-1].membrane_scale, exact, atol=1e-9)


def test_a_flattened_population_is_read_out_itself():
    rng = np.random.default_rng(2)
    nodes = {
        "input": inp(1, 4, 4),
        "c": conv(rng, 2, 1),
        "n": integrate(2, 4, 4),
        "flat": flatten(2, 4, 4),
        "output": out(32),
    }
    network, _ = compile_graph(from_nir(graph(nodes)), "loihi1")
    assert network.outputs == ("n",)


def test_zeros_stay_zeros_and_forms_follow_density():
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((40, 50)) < 0.1, rng.normal(size=(40, 50)), 0.0)
    dense = rng.normal(size=(10, 40))
    dense[0, 0] = 0.0
    kernel = np.where(rng.random((4, 2, 5, 5)) < 0.4, rng.normal(size=(4, 2, 5, 5)), 0.0)
    nodes = {
        "input": inp(2, 5, 5),
        "pool": pool(nir.SumPool2d, 1),
        "c": nir.Conv2d(None, kernel, 1, 2, 1, 1, np.zeros(4)),
        "n0": integrate(4, 5, 5),
        "flat": flatten(4, 5, 5),
        "shrink": nir.Linear(np.eye(50, 100)),
        "w1": nir.Linear(weight),
        "n1": integrate(40),
        "w2": nir.Linear(dense),
        "n2": integrate(10),
        "output": out(10),
    }
    network, reports = compile_graph(from_nir(graph(nodes)), "loihi1")
    first, second, third = network.projections
    assert isinstance(first, ConvProjection) and ((kernel == 0) <= (first.weight == 0)).all()
    assert isinstance(second, SparseProjection) and isinstance(third, DenseProjection)
    found = unroll(second, (100,), (40,)).toarray().T
    assert ((weight @ np.eye(50, 100) == 0) <= (found == 0)).all()
    assert (second.weight != 0).all()
    assert third.weight[0, 0] == 0
    assert [r.kind for r in reports] == ["conv", "sparse", "dense"]
    for report, projection in zip(reports, network.projections, strict=True):
        assert report.parameters == np.count_nonzero(projection.weight)
    assert reports[1].parameters + reports[1].zeroed == np.count_nonzero(weight)


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits(bits):
    rng = np.random.default_rng(bits)
    checked = chain(integrate(6), rng)
    network, reports = compile_graph(checked, "loihi1", weight_bits=bits)
    projection = network.projections[0]
    low, high, step = weight_grid("mixed", bits)
    assert projection.weight_bits == bits and (projection.weight % step == 0).all()
    assert projection.weight.max() == high or projection.weight.min() == low
    weight = checked.nodes["w"].weight
    error = projection.weight * 2.0**projection.weight_exp / reports[0].scale[0] - weight
    assert reports[0].weight_error_max == pytest.approx(np.abs(error).max() / np.abs(weight).max())
    assert reports[0].weight_error_rms == pytest.approx(
        np.sqrt((error**2).mean()) / np.sqrt((weight**2).mean())
    )
    # Half a step, in the units of the largest weight; the positive end is a step short.
    assert reports[0].weight_error_max <= 0.5 * step / high * 1.001


def test_each_channel_uses_its_whole_range():
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(4, 2, 3, 3)) * np.array([1, 0.1, 0.5, 0.02])[:, None, None, None]
    weight[1] = np.abs(weight[1])
    nodes = {
        "input": inp(2, 6, 6),
        "c": nir.Conv2d(None, weight, 1, 1, 1, 1, np.zeros(4)),
        "n": integrate(4, 6, 6),
        "output": out(4, 6, 6),
    }
    checked = from_nir(graph(nodes))
    one, coarse = compile_graph(checked, "loihi1")
    each, fine = compile_graph(checked, "loihi2", per_channel=True)
    assert np.ndim(one.populations[0].vth) == 0 and np.shape(each.populations[0].vth) == (4, 6, 6)
    assert fine[0].weight_error_rms < coarse[0].weight_error_rms
    for channel in each.projections[0].weight:
        assert channel.max() > 250 or channel.min() < -250
    x = (rng.random((2, 60, 2, 6, 6)) < 0.3).astype(np.uint8)
    exact = reference.simulate(checked, x).output
    assert agreement(exact, simulate(each, x).output).share > 0.99
    assert agreement(exact, simulate(each, x).output).share > agreement(exact, simulate(one, x).output).share


def test_gains_that_differ_within_a_channel():
    rng = np.random.default_rng(1)
    shape = (2, 5, 5)
    neurons = lif(*shape, tau=0.01, r=10.0)
    neurons.tau = rng.uniform(0.005, 0.02, shape)
    nodes = {
        "input": inp(1, 5, 5),
        "c": nir.Conv2d(None, rng.normal(size=(2, 1, 3, 3)), 1, 1, 1, 1, np.zeros(2)),
        "n": neurons,
        "output": out(*shape),
    }
    x = (rng.random((2, 80, 1, 5, 5)) < 0.4).astype(np.uint8)
    checked = from_nir(graph(nodes))
    network, _ = compile_graph(checked, "loihi2", dt=0.001, per_channel=False)
    assert isinstance(network.projections[0], ConvProjection)
    assert np.shape(network.populations[0].vth) == shape
    exact = reference.simulate(checked, x, dt=0.001).output
    part = agreement(exact, simulate(network, x).output)
    assert part.either > 100 and part.share > 0.97
    # Signs that differ cannot be the neuron's own scale: then it is no convolution any more.
    neurons.r = np.where(rng.random(shape) < 0.5, 10.0, -10.0)
    checked = from_nir(graph(nodes))
    network, _ = compile_graph(checked, "loihi1", dt=0.001)
    assert not isinstance(network.projections[0], ConvProjection)
    exact = reference.simulate(checked, x, dt=0.001).output
    part = agreement(exact, simulate(network, x).output)
    assert part.either > 100 and part.share > 0.97


def test_ways_into_one_population_share_a_scale_not_an_exponent():
    rng = np.random.default_rng(3)
    nodes = {
        "input": inp(5),
        "w1": nir.Linear(rng.normal(size=(6, 5))),
        "n1": integrate(6),
        "w2": nir.Linear(rng.normal(size=(4, 6)) * 2.0),
        "small": nir.Linear(rng.normal(size=(4, 5)) * 0.05),
        "n2": integrate(4),
        "output": out(4),
    }
    edges = [("input", "w1"), ("w1", "n1"), ("n1", "w2"), ("w2", "n2"), ("input", "small"), ("small", "n2")]
    checked = from_nir(graph(nodes, [*edges, ("n2", "output")]))
    network, reports = compile_graph(checked, "loihi1")
    large, small = (next(r for r in reports if r.target == "n2" and r.source == s) for s in ("n1", "input"))
    assert large.scale == small.scale and large.weight_exp > small.weight_exp
    by_source = {p.source: p for p in network.projections if p.target == "n2"}
    for source, name in (("n1", "w2"), ("input", "small")):
        p = by_source[source]
        back = p.weight * 2.0**p.weight_exp / large.scale[0]
        np.testing.assert_allclose(back, checked.nodes[name].weight, atol=2.0**p.weight_exp / large.scale[0])
        assert np.abs(p.weight).max() > 100


def test_a_loop_over_two_populations_is_said_to_take_longer():
    rng = np.random.default_rng(3)
    nodes = {
        "input": inp(3),
        "w1": nir.Linear(exact_weights(rng, (4, 3))),
        "n1": integrate(4),
        "w2": nir.Linear(exact_weights(rng, (5, 4))),
        "n2": integrate(5),
        "back": nir.Linear(exact_weights(rng, (4, 5))),
        "output": out(5),
    }
    edges = [("input", "w1"), ("w1", "n1"), ("n1", "w2"), ("w2", "n2"), ("n2", "back"), ("back", "n1")]
    checked = from_nir(graph(nodes, [*edges, ("n2", "output")]))
    network, reports = compile_graph(checked, "loihi1")
    notes = [r.notes for r in reports if r.source == "n2"]
    assert notes == [("this loop takes 1 more steps on the chip, where each projection takes one",)]
    x = rng.integers(0, 2, (1, 30, 3))
    np.testing.assert_array_equal(simulate(network, x).output, reference.simulate(checked, x).output)


def test_nested_grouped_recurrent_graph():
    checked = from_nir(mixed())
    network, reports = compile_graph(checked, "loihi1")
    assert [p.name for p in network.populations] == ["lif", "sub.lif"]
    assert network.metadata["bins"] == 10 and network.dt == 1e-3
    assert {(r.source, r.target, r.kind) for r in reports} == {
        ("input", "lif", "conv"),
        ("lif", "sub.lif", "dense"),
        ("sub.lif", "sub.lif", "dense"),
        ("always on", "sub.lif", "dense"),
    }
    x = np.random.default_rng(0).integers(0, 2, (2, 60, 2, 5, 6))
    exact = reference.simulate(checked, x, record=["lif", "sub.lif"])
    run = simulate(network, x, record=["lif", "sub.lif"])
    for name in ("lif", "sub.lif"):
        assert agreement(exact.spikes[name], run.spikes[name]).share > 0.9


def refused(nodes, edges=None, dt=0.001, **options):
    with pytest.raises(HardwareError) as error:
        compile_graph(from_nir(graph(nodes, edges)), "loihi1", dt=dt, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def around(**nodes):
    return {"input": inp(2), "w": nir.Linear(np.array([[1.0, -0.5], [1.0, 0.25]])), **nodes, "output": out(2)}


def test_what_the_chip_cannot_do_is_refused_by_name():
    message = refused(around(step=nir.Threshold(np.ones(2)), w2=nir.Linear(np.eye(2)), n=integrate(2)))
    assert "'step' (Threshold)" in message and "use an IF or LIF" in message
    message = refused(
        around(soft=nir.LI(np.ones(2), np.ones(2), np.zeros(2)), w2=nir.Linear(np.eye(2)), n=integrate(2))
    )
    assert "'soft' (LI)" in message and "only spikes" in message
    assert "node 'n' (LIF): tau is 0.0005 s" in refused(around(n=lif(2, tau=0.0005)))
    assert "node 'n' (CubaLIF): tau_syn is 0.0002 s" in refused(around(n=cuba_lif(2, tau_syn=0.0002)))
    assert "node 'n' (LIF): v_threshold 1 is below v_reset 2" in refused(around(n=lif(2, v_reset=2.0)))
    message = refused(around(late=nir.Delay(np.full(2, 0.1)), n=integrate(2)))
    assert "'input' -> 'n': needs a delay of 100 steps" in message
    assert "weights of 9 bits" in refused(around(n=integrate(2)), weight_bits=9)
    assert "node 'n': weights of both signs from 'input'" in refused(around(n=integrate(2)), weight_bits=1)


def test_a_loop_without_a_neuron_is_refused():
    nodes = around(again=nir.Delay(np.full(2, 0.002)), n=integrate(2))
    edges = [("input", "w"), ("w", "n"), ("w", "again"), ("again", "w"), ("n", "output")]
    assert "values return to it without a neuron" in refused(nodes, edges)


@pytest.mark.parametrize(("weight", "threshold"), [(1e-6, 1.0), (1e6, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_weights_far_from_the_threshold(weight, threshold):
    nodes = around(n=integrate(2, threshold=threshold))
    nodes["w"] = nir.Linear(np.full((2, 2), weight))
    checked = from_nir(graph(nodes))
    network, _ = compile_graph(checked, "loihi1")
    x = np.ones((1, 20, 2), int)
    np.testing.assert_array_equal(simulate(network, x).output, reference.simulate(checked, x).output)


def test_reset_and_leak_in_a_bias_too_strong_for_the_weights_lower_the_scale():
    nodes = around(n=lif(2, tau=0.001, v_leak=500.0, v_threshold=620.0, r=400.0))
    checked = from_nir(graph(nodes))
    network, reports = compile_graph(checked, "loihi1", dt=0.001)
    assert reports[0].bias_error < 0.01
    x = np.random.default_rng(0).integers(0, 2, (1, 50, 2))
    exact = reference.simulate(checked, x, dt=0.001).output
    assert exact.any()
    np.testing.assert_array_equal(simulate(network, x).output, exact)


def test_a_strong_bias_of_one_channel_keeps_the_scale_from_growing():
    weight, bias = np.array([[10.0, -5.0], [0.01, 0.02]], np.float32), np.array([0.0, 4.0], np.float32)
    nodes = around(n=lif(2, tau=0.004, v_threshold=0.5))
    nodes["w"] = nir.Affine(weight, bias)
    checked = from_nir(graph(nodes, dt=1e-3))
    network, reports = compile_graph(checked, "loihi2", per_channel=True)
    assert reports[0].bias_error < 0.01
    x = np.random.default_rng(0).integers(0, 2, (2, 60, 2))
    exact = reference.simulate(checked, x).output
    assert exact.any() and agreement(simulate(network, x).output, exact).share > 0.95


def test_a_slow_read_out_stays_off_the_ends_of_its_membrane():
    rng = np.random.default_rng(0)
    weight = (1 + 0.3 * rng.normal(size=(3, 500))).astype(np.float32)
    li = nir.LI(np.full(3, 0.1, np.float32), np.ones(3, np.float32), np.zeros(3, np.float32))
    nodes = {"input": inp(500), "w": nir.Linear(weight), "li": li, "output": out(3)}
    checked = from_nir(graph(nodes, dt=1e-3))
    network, reports = compile_graph(checked, "loihi1")
    x = (rng.random((1, 200, 500)) < 0.1).astype(np.uint8)
    exact, found = reference.simulate(checked, x).output, simulate(network, x).output
    assert np.abs(found / reports[0].membrane_scale - exact).max() < 0.01 * exact.max()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data/nmnist is absent")
def test_the_nir_papers_network_keeps_its_accuracy():
    checked = read_graph(SHARED / "nir" / "cnn_sinabs.nir")
    raster, labels = recordings(20)
    first = []
    for per_channel, share in ((False, 0.65), (True, 0.85)):
        network, _ = compile_graph(checked, "loihi2", per_channel=per_channel)
        kinds = [type(p) for p in network.projections]
        assert kinds == [ConvProjection] * 3 + [DenseProjection] * 2
        result = compare(checked, network, raster)
        fixed, exact = result.predictions_fixed == labels, result.predictions_float == labels
        assert exact.mean() >= 0.9 and abs(fixed.mean() - exact.mean()) <= 0.05
        # Step by step: neurons without a leak never forget a rounded weight, and fire a step early or late.
        first.append(result.agreement["1"].share)
        assert first[-1] > share
    assert first[1] > first[0]
