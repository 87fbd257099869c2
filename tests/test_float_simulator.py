"""The compiled float simulator against its definition: every spike, and every membrane where sums are exact."""

from __future__ import annotations

from itertools import pairwise

import nir
import numpy as np
import pytest
from graph_samples import SHARED, graph, inp, mixed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nmnist_samples import FOLDER, recordings

from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir, read_graph
from hardware.simulate import float_simulator, reference
from hardware.simulate.float_simulator import FloatSimulator, covers, simulate
from hardware.simulate.tables import Memory

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
RESETS = ("zero", "subtract")


def same(found, expected, exact=True):
    assert found.output.dtype == expected.output.dtype and found.dt == expected.dt
    pairs = [(found.output, expected.output)]
    for key in ("spikes", "membranes", "counts"):
        a, b = getattr(found, key), getattr(expected, key)
        assert set(a) == set(b)
        pairs += [(a[name], b[name]) for name in a]
    for a, b in pairs:
        assert a.shape == b.shape and a.dtype == b.dtype
        if exact or a.dtype.kind in "iu":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


# --- random graphs, on a grid on which sums are exact ---


def on_grid(rng, *shape):
    weight = rng.integers(-128, 129, shape) / 128
    weight[rng.random(shape) < rng.choice([0.0, 0.5, 0.95])] = 0
    return weight


def neuron(draw, rng, shape, integrates):
    def each(low, high):
        return rng.uniform(low, high, shape) if uneven else np.full(shape, rng.uniform(low, high))

    uneven = draw(st.booleans())
    kind = draw(st.sampled_from(["IF", "LIF", "CubaLIF", *(["I", "LI", "CubaLI"] if integrates else [])]))
    values = {"r": each(0.5, 2)}
    if kind.endswith("F"):
        values |= {"v_threshold": each(0, 1.5), "v_reset": each(-0.3, 0)}
    if kind.startswith("L"):
        values |= {"tau": each(1, 6), "v_leak": each(-0.2, 0.2)}
    if kind.startswith("C"):
        values |= {
            "tau_syn": each(1, 6),
            "tau_mem": each(1, 6),
            "w_in": each(0.5, 3),
            "v_leak": each(-0.2, 0.2),
        }
    return getattr(nir, kind)(**values)


def linear(draw, rng, shape):
    """A node that takes values of a shape."""
    n = int(np.prod(shape))
    kinds = ["scale", "threshold", "delay"]
    kinds += {1: ["affine", "linear"], 2: ["conv1d", "flatten"], 3: ["conv", "conv", "pool", "flatten"]}[
        len(shape)
    ]
    kind = draw(st.sampled_from(kinds))
    if kind in ("affine", "linear"):
        post = draw(st.integers(1, 5))
        given_ = (on_grid(rng, post, n), on_grid(rng, post))
        return nir.Affine(*given_) if kind == "affine" else nir.Linear(given_[0])
    if kind.startswith("conv"):
        axes = len(shape) - 1
        groups = draw(st.sampled_from([g for g in (1, 2) if shape[0] % g == 0]))
        out = groups * draw(st.integers(1, 2))
        dilation = tuple(draw(st.integers(1, 2)) for _ in range(axes))
        padding = tuple(draw(st.integers(0, 2)) for _ in range(axes))
        room = [(n + 2 * p - 1) // d + 1 for n, p, d in zip(shape[1:], padding, dilation, strict=True)]
        kernel = tuple(draw(st.integers(1, min(3, r))) for r in room)
        stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
        weight, bias = on_grid(rng, out, shape[0] // groups, *kernel), on_grid(rng, out)
        if draw(st.booleans()):
            bias[:] = 0
        if draw(st.sampled_from([True, False, False])):
            padding, stride = "same", (1,) * axes
        if axes == 1:
            padding = padding if isinstance(padding, str) else padding[0]
            return nir.Conv1d(shape[1], weight, stride[0], padding, dilation[0], groups, bias)
        return nir.Conv2d(shape[1:], weight, stride, padding, dilation, groups, bias)
    if kind == "pool":
        kernel = tuple(draw(st.sampled_from([k for k in (1, 2, 4) if k <= n])) for n in shape[1:])
        stride = tuple(draw(st.integers(1, 3)) for _ in kernel)
        padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
        made = draw(st.sampled_from([nir.SumPool2d, nir.AvgPool2d]))
        return made(np.array(kernel), np.array(stride), np.array(padding))
    if kind == "flatten":
        return nir.Flatten({"input": np.array(shape)}, 0, -1)
    if kind == "scale":
        return nir.Scale(2.0 ** rng.integers(-1, 2, shape))
    if kind == "threshold":
        return nir.Threshold(rng.integers(0, 128, shape) / 128)
    return nir.Delay(rng.integers(0, 3, shape).astype(float))


def checked_or_none(nodes, edges, last):
    try:
        whole = {**nodes, "out": nir.Output({"output": None})}
        return from_nir(graph(whole, [*edges, (last, "out")], dt=1.0))
    except HardwareError:  # a loop without a neuron, shapes that do not fit
        return None


@st.composite
def graphs(draw):
    """A chain of nodes with skips onto like shapes and loops, a raster for it, and whether all its sums are exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(3,), (2, 5), (2, 4, 5), (1, 5, 3)]))
    first = nir.IF(np.ones(shape), np.full(shape, 0.5))
    nodes, edges, last, exact = {"in": inp(*shape), "n": first}, [("in", "n")], "n", True
    checked = checked_or_none(nodes, edges, last)
    for k in range(draw(st.integers(1, 7))):
        name, now = f"n{k}", checked.output_shape[last]
        node = neuron(draw, rng, now, draw(st.booleans())) if draw(st.booleans()) else linear(draw, rng, now)
        longer = checked_or_none({**nodes, name: node}, [*edges, (last, name)], name)
        if longer is None:
            continue
        edges.append((last, name))
        nodes[name], last, checked = node, name, longer
        exact &= isinstance(node, nir.IF | nir.LIF | nir.CubaLIF) or not hasattr(node, "r")
        others = st.sampled_from(list(nodes))
        for extra in ((draw(others), name), (name, draw(others))):
            wider = checked_or_none(nodes, [*edges, extra], name) if draw(st.booleans()) else None
            if wider is not None and extra not in edges and extra[1] != "in":
                edges.append(extra)
                checked = wider
    # Digits grow with every matrix on the way from one neuron to the next, and without end in a loop that has none.
    matrices = sum(hasattr(node, "weight") for node in nodes.values())
    loops = any(
        not isinstance(nodes[source], nir.IF | nir.LIF | nir.CubaLIF) for source, _ in checked.recurrent
    )
    exact &= matrices <= 4 and not loops
    return checked, rng.poisson(draw(st.sampled_from([0.1, 1.0])), (2, 9, *shape)), exact


@EXAMPLES
@given(case=graphs(), reset=st.sampled_from(RESETS))
def test_every_value_is_the_definitions(case, reset):
    checked, raster, exact = case
    names = list(checked.order)
    found = simulate(checked, raster, reset=reset, record=names, threads=2)
    same(found, reference.simulate(checked, raster, reset=reset, record=names), exact)


@pytest.mark.parametrize("reset", RESETS)
def test_loops_grouped_kernels_and_currents(reset):
    """Weights that share no grid, and inputs that are no counts: sums are rounded, spikes are the same."""
    checked = from_nir(mixed())
    assert covers(checked)
    raster = np.random.default_rng(1).gamma(1.0, 1.0, (3, 60, 2, 5, 6))
    expected = reference.simulate(checked, raster, reset=reset, record=checked.order)
    assert all(c.any() for c in expected.counts.values())
    same(simulate(checked, raster, reset=reset, record=checked.order), expected, exact=False)


def test_memory_of_the_runs_before_and_the_kernels_order():
    checked, memory = from_nir(mixed()), Memory()
    prepared, rng = FloatSimulator(checked), np.random.default_rng(2)
    for shape in ((2, 30), (2, 30), (1, 50)):
        raster = rng.gamma(1.0, 1.0, (*shape, 2, 5, 6))
        expected = simulate(checked, raster, record=checked.order)
        found = prepared.run(raster, checked.order, inside=True, memory=memory)
        np.testing.assert_array_equal(found.output, expected.output)
        for name, membranes in expected.membranes.items():
            flat = membranes.reshape(*shape, -1)[:, :, prepared.numbers(name)]
            np.testing.assert_array_equal(found.membranes[name], flat)
            np.testing.assert_array_equal(found.counts[name], expected.counts[name])
        for name, values in expected.spikes.items():
            np.testing.assert_array_equal(found.spikes[name], values)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data/nmnist is absent")
@pytest.mark.parametrize("reset", RESETS)
def test_the_nir_papers_network_on_recordings(reset):
    checked = read_graph(next(SHARED.rglob("cnn_sinabs.nir")))
    names = [name for name, node in checked.nodes.items() if isinstance(node, nir.IF)]
    raster, _ = recordings(4, 120)
    found = simulate(checked, raster, reset=reset, record=names, membranes=False)
    expected = reference.simulate(checked, raster, reset=reset, record=names)
    for name in names:
        assert expected.spikes[name].any()
        np.testing.assert_array_equal(found.spikes[name], expected.spikes[name])
    assert found.membranes == {}


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_the_nir_papers_recurrent_network():
    checked = read_graph(next(SHARED.rglob("braille_noDelay_noBias_subtract.nir")))
    raster = np.random.default_rng(0).poisson(0.3, (3, 80, *checked.output_shape[checked.inputs[0]]))
    names = [name for name in checked.order if isinstance(checked.nodes[name], nir.CubaLIF)]
    expected = reference.simulate(checked, raster, 1e-4, "subtract", names)
    assert names and all(expected.spikes[name].any() for name in names)
    same(simulate(checked, raster, 1e-4, "subtract", names), expected, exact=False)


def test_ties_do_not_fire_in_any_order():
    """Thirds of a count that add up to the threshold in one order and to a digit more in another are not on a grid; halves
    are."""
    weight = np.array([[0.5, 0.25, 0.25, -0.5]])
    checked = from_nir(
        graph(
            {
                "in": inp(4),
                "w": nir.Linear(weight),
                "n": nir.IF(*(np.ones(1),) * 2),
                "out": nir.Output({"output": None}),
            }
        )
    )
    raster = np.random.default_rng(0).integers(0, 2, (5, 200, 4))
    expected = reference.simulate(checked, raster, record=["n"])
    assert (expected.membranes["n"] == 1.0).sum() > 20
    same(simulate(checked, raster, record=["n"]), expected)


# --- the rest of the interface ---


def small():
    rng = np.random.default_rng(2)
    nodes = {
        "a": inp(2, 4, 4),
        "b": inp(3),
        "conv": nir.Conv2d((4, 4), on_grid(rng, 3, 2, 3, 3), 1, 1, 1, 1, on_grid(rng, 3)),
        "n": nir.IF(np.ones((3, 4, 4)), np.ones((3, 4, 4))),
        "flat": nir.Flatten({"input": np.array([3, 4, 4])}, 0, -1),
        "w": nir.Affine(on_grid(rng, 4, 48), on_grid(rng, 4)),
        "u": nir.Linear(on_grid(rng, 4, 3)),
        "m": nir.IF(np.ones(4), np.ones(4)),
        "out": nir.Output({"output": None}),
    }
    chain = ["a", "conv", "n", "flat", "w", "m", "out"]
    return from_nir(graph(nodes, [*pairwise(chain), ("b", "u"), ("u", "m")]))


def test_two_inputs_threads_and_no_steps():
    checked, rng = small(), np.random.default_rng(0)
    raster = {"a": rng.poisson(0.5, (5, 20, 2, 4, 4)), "b": rng.poisson(0.5, (5, 20, 3))}
    prepared = FloatSimulator(checked)
    expected = reference.simulate(checked, raster, record=["m", "n", "flat", "b"])
    for threads in (1, 3, None):
        same(prepared.run(raster, ["m", "n", "flat", "b"], threads), expected)
    for cut in (np.s_[:0], np.s_[:, :0]):
        part = {name: values[cut] for name, values in raster.items()}
        same(prepared.run(part, ["n"]), reference.simulate(checked, part, record=["n"]))


@pytest.mark.parametrize(
    ("raster", "record", "words"),
    [
        (np.zeros((2, 3, 4)), (), "give a raster for each"),
        ({"a": np.zeros((2, 3, 4)), "b": np.zeros((2, 3, 3))}, (), r"\(2, 3, 4\), expected"),
        ({"a": np.full((1, 2, 2, 4, 4), np.nan), "b": np.zeros((1, 2, 3))}, (), "'a' holds NaN"),
        ({"a": np.zeros((1, 2, 2, 4, 4)), "b": np.zeros((1, 2, 3))}, ("y",), "record names 'y'"),
    ],
)
def test_bad_arguments_as_the_definition_refuses_them(raster, record, words):
    for run in (simulate, reference.simulate):
        with pytest.raises(HardwareError, match=words):
            run(small(), raster, record=record)


def test_what_is_not_covered_runs_in_the_definition(monkeypatch):
    monkeypatch.setattr(float_simulator, "_flow", lambda graph: None)
    checked, raster = small(), {"a": np.ones((1, 5, 2, 4, 4)), "b": np.ones((1, 5, 3))}
    assert not covers(checked)
    same(simulate(checked, raster, record=["n"]), reference.simulate(checked, raster, record=["n"]))
    assert simulate(checked, raster, record=["n"], membranes=False).membranes == {}
