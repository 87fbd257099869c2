"""Integers fitted to recordings: never worse by the error that they are fitted to, and better on other recordings."""

from __future__ import annotations

import json

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, out
from test_pairs import small, spikes
from typer.testing import CliRunner

from dpap_neuro.cli import app
from hardware.compile import arrivals
from hardware.compile import calibrate as c
from hardware.compile.compiler import compile_layers
from hardware.compile.descent import descend, nearest
from hardware.compile.pairs import agreement_with
from hardware.errors import HardwareError
from hardware.files.network_file import load
from hardware.graph.parsing import from_nir
from hardware.network.integer import weight_grid
from hardware.simulate import reference
from hardware.simulate.simulator import simulate


def convolutional(seed=0):
    rng = np.random.default_rng(seed)
    nodes = {
        "input": inp(2, 9, 9),
        "c1": nir.Conv2d(None, rng.standard_t(3, (6, 2, 3, 3)) * 0.2, 1, 1, 1, 1, np.zeros(6)),
        "n1": nir.IF(np.ones((6, 9, 9)), np.ones((6, 9, 9)), np.zeros((6, 9, 9))),
        "c2": nir.Conv2d(None, rng.standard_t(3, (4, 3, 3, 3)) * 0.2, 2, 0, 1, 2, np.zeros(4)),
        "n2": nir.IF(np.ones((4, 4, 4)), np.ones((4, 4, 4)), np.zeros((4, 4, 4))),
        "flat": nir.Flatten({"input": np.array([4, 4, 4])}, 0, -1),
        "w": nir.Linear(rng.standard_t(3, (5, 64)) * 0.2),
        "n3": nir.IF(np.ones(5), np.ones(5), np.zeros(5)),
        "output": out(5),
    }
    return from_nir(graph(nodes))


def frames(seed, batch=8, steps=60):
    return (np.random.default_rng(seed).random((batch, steps, 2, 9, 9)) < 0.1).astype(np.uint8)


@pytest.mark.parametrize(
    ("build", "recordings"), [(convolutional, frames), (lambda: small(loop=True), spikes)]
)
@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_other_recordings_agree_more(build, recordings, chip):
    checked = build()
    plain = compile_layers(checked, chip, weight_bits=3)
    fitted, done = c.calibrate(checked, chip, recordings(1), weight_bits=3)
    assert all(done.after[key] < done.before[key] for key in done.before)
    before, after = (agreement_with(checked, net.network, recordings(2)).share for net in (plain, fitted))
    assert after > before + 0.02
    # Still a network of 3 bits, each weight one synapse, and zeros are zeros.
    for p in fitted.network.projections:
        if p.source != "always on":
            step = weight_grid(p.sign_mode, 3)[2]
            assert p.weight_bits == 3 and not (p.weight % step).any()
    for layer in fitted.layers:
        for w, map_, parts in zip(layer.demand.weights, layer.maps, layer.projections, strict=True):
            exact, found = (m.weight if hasattr(m, "weight") else m.matrix for m in (w.map, map_))
            assert ((exact == 0) <= (found == 0)).all()
            if w.path.source != "always on":
                assert sum(np.count_nonzero(p.weight) for p in parts) == np.count_nonzero(found)


def test_the_same_seed_gives_the_same_network():
    checked = convolutional()
    runs = [c.calibrate(checked, "loihi2", frames(1), seed=3, weight_bits=4)[0].network for _ in range(2)]
    for a, b in zip(*(net.projections for net in runs), strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)


def test_on_a_grid_nothing_is_fitted():
    checked = convolutional()
    for name in ("c1", "c2", "w"):
        checked.nodes[name].weight[:] = np.rint(checked.nodes[name].weight * 4).clip(-3, 3) / 4
    plain = compile_layers(checked, "loihi2")
    fitted, done = c.calibrate(checked, "loihi2", frames(1))
    assert done.before == {}
    x = frames(2)
    np.testing.assert_array_equal(simulate(plain.network, x).output, simulate(fitted.network, x).output)


# --- the fit, step by step ---


def slow_descent(start, exact, h, points, sweeps=8):
    """Each value in its turn, every point tried, the whole error each time."""
    found = start.copy()
    for q, target in zip(found, exact, strict=True):

        def error(i, value, q=q, target=target):
            tried = q.copy()
            tried[i] = value
            return (tried - target) @ h @ (tried - target)

        for _ in range(sweeps):
            for i in np.flatnonzero(target):
                q[i] = min(points, key=lambda value: error(i, value))
    return found


def test_descent_is_the_slow_one_and_never_leaves_the_grid():
    rng = np.random.default_rng(0)
    arrived = rng.random((200, 12)) @ rng.random((12, 12))
    h = arrived.T @ arrived
    exact = rng.normal(size=(5, 12)) * 100
    exact[:, 3] = 0
    grid, unsigned = np.arange(-256, 225, 32), np.arange(0, 241, 16)
    signed = ("excitatory", "inhibitory")
    for modes, exponents, union in (
        (("mixed",), (0,), [grid]),
        (("mixed",), (1, 0, -1), [grid * 2, grid, grid / 2]),
        (signed, (0, -1), [unsigned, -unsigned, unsigned / 2, -unsigned / 2]),
    ):
        values = c._Values(modes, 4, exponents, True)
        points = np.unique(np.concatenate(union))
        np.testing.assert_array_equal(values.points, points)
        start = nearest(exact, points)
        np.testing.assert_allclose(np.abs(start - exact), np.abs(points[:, None, None] - exact).min(axis=0))
        found = descend(start, exact, h, points)
        np.testing.assert_array_equal(found, slow_descent(start, exact, h, points))
        first, last = (np.einsum("ri,ij,rj->r", q - exact, h, q - exact) for q in (start, found))
        assert last.sum() < 0.5 * first.sum() and not found[:, 3].any()
        parts = values.mantissas(found)
        back = sum(m * 2.0**e for m, (_, e) in zip(parts, values.forms, strict=True))
        np.testing.assert_array_equal(back, found)
        assert sum(np.count_nonzero(m) for m in parts) == np.count_nonzero(found)
        for m, (mode, _) in zip(parts, values.forms, strict=True):
            low, high, step = weight_grid(mode, 4)
            assert m.min() >= low and m.max() <= high and not (m % step).any()


def arrived_slowly(layer, w, source, spikes, rows):
    """By row, what has arrived of each synapse in every step of every neuron, from the neuron's equation: (batch, steps, neurons
    of the row, d); reset to zero after a spike."""
    batch, steps = source.shape[:2]
    keep, stay = 1 - layer.demand.neurons.leak.mean(), 1 - layer.demand.neurons.forget.mean()
    if hasattr(w.map, "weight"):
        m = w.map
        out, within, tall, wide = m.weight.shape
        padded = np.pad(source, [(0, 0), (0, 0), (0, 0), *[(p, p + 9) for p in m.padding]])

        def coming(t, row, y, x):
            first = row // (out // m.groups) * within
            top, left = y * m.stride[0], x * m.stride[1]
            ys, xs = (
                slice(top, top + tall * m.dilation[0], m.dilation[0]),
                slice(left, left + wide * m.dilation[1], m.dilation[1]),
            )
            return padded[:, t, first : first + within, ys, xs].reshape(batch, -1)

        places = list(np.ndindex(m.target[1:]))
    else:

        def coming(t, row, y, x):
            return source[:, t].reshape(batch, -1)

        places = [(0, 0)]
    fired = spikes.reshape(batch, steps, rows, len(places))
    found = []
    for row in range(rows):
        each = []
        for k, (y, x) in enumerate(places):
            current = trace = np.zeros_like(coming(0, row, y, x))
            moments = []
            for t in range(steps):
                late = t - w.path.latency
                current = current * stay + (coming(late, row, y, x) if late >= 0 else 0.0)
                trace = trace * keep + current
                moments.append(trace)
                trace = np.where(fired[:, t, row, k][:, None] != 0, 0.0, trace)
            each.append(np.stack(moments, axis=1))
        found.append(np.stack(each, axis=2))
    return found


@pytest.mark.parametrize(
    ("build", "recordings"), [(convolutional, frames), (lambda: small(loop=True), spikes)]
)
def test_what_has_arrived_at_the_threshold(build, recordings):
    """For convolutions with a stride and groups, and currents that decay, loops among them."""
    checked = build()
    compiled = compile_layers(checked, "loihi2", weight_bits=3)
    x, steps = recordings(5, 3, 40), 40
    names = [p.name for p in compiled.network.populations]
    run = reference.simulate(checked, x, record=names)
    courses = c._courses(checked, compiled, x, None)
    sources = {"input": x, **run.spikes}
    checks = 0
    for layer in compiled.layers:
        name = layer.population.name
        course = courses[name]
        flat = run.membranes[name].reshape(3, steps, -1)
        np.testing.assert_allclose(
            course.membrane, flat / layer.demand.neurons.threshold, rtol=1e-5, atol=1e-6
        )
        near = np.abs(course.membrane - 1) < arrivals.NEAR
        near[:, 1:] &= course.membrane[:, 1:] != course.membrane[:, :-1]
        if near.sum() < arrivals.LEAST:  # of the five read-out neurons; any moments are taken
            continue
        for w in layer.demand.weights:
            if w.path.source not in sources:
                continue
            rows = len(w.row_scale)
            found = arrivals.arrivals(layer, w, sources[w.path.source], course, np.random.default_rng(0))
            slow = arrived_slowly(layer, w, sources[w.path.source].astype(float), run.spikes[name], rows)
            everything = []
            for row in range(rows):
                here = near.reshape(3, steps, rows, -1)[:, :, row]
                expected = slow[row][here]
                everything.append(expected)
                a, b = (
                    v[np.lexsort(v.T)] for v in (found.arrived[row].astype(float).round(4), expected.round(4))
                )
                np.testing.assert_allclose(a, b, atol=2e-4)
                counts = np.bincount(found.neurons[row] - row * here.shape[2], minlength=here.shape[2])
                np.testing.assert_array_equal(counts, here.sum(axis=(0, 1)))
                checks += len(expected)
            groups = len(found.shared)
            group = np.concatenate(everything[: rows // groups])
            total = group.T @ group
            own = everything[0]
            h, mean = found.own(0)
            d = len(mean)
            number = d + len(own)
            np.testing.assert_allclose(
                h, (d * total / len(group) + own.T @ own) / number, rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(
                mean, (d * group.mean(axis=0) + own.sum(axis=0)) / number, rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(found.common(0)[0], total / len(group), rtol=1e-4, atol=1e-5)
    assert checks > 500


def test_a_threshold_makes_up_for_what_its_membrane_moved_by():
    """Weights too large by a tenth, which nothing but the threshold can mend: it becomes larger by a tenth."""
    rng = np.random.default_rng(0)
    arrived = [rng.random((400, 6)), np.zeros((0, 6))]
    weight = rng.random((2, 6))
    neurons = [rng.integers(0, 3, 400), np.zeros(0, int)]
    one = np.concatenate([arrived[0], np.ones((400, 1))], axis=1)
    found = arrivals.Arrivals(arrived, neurons, [one.T @ one / 400])
    part = c._Part(None, weight, found, (0,), None, True)
    off = arrived[0] @ (0.1 * weight[0])
    moved = c._moves(part, 0, 0.1 * weight[0], 3)
    for k in range(3):
        own = off[neurons[0] == k]
        assert moved[k] == pytest.approx((own.sum() + 10 * off.mean()) / (len(own) + 10))
    # Of a row that was never seen: what arrives at all rows on average.
    np.testing.assert_allclose(
        c._moves(part, 1, weight[1], 3), np.full(3, arrived[0].mean(axis=0) @ weight[1])
    )


def test_no_recordings():
    with pytest.raises(HardwareError, match="no recordings"):
        c.calibrate(small(), "loihi2", np.zeros((0, 5, 10), int))


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(2, 34, 34),
        "flat": nir.Flatten({"input": np.array([2, 34, 34])}, 0, -1),
        "w1": nir.Linear(rng.normal(size=(20, 2312)).astype(np.float32) * 0.3),
        "n1": nir.IF(np.ones(20), np.ones(20), np.zeros(20)),
        "w2": nir.Linear(rng.normal(size=(10, 20)).astype(np.float32)),
        "n2": nir.IF(np.ones(10), np.ones(10), np.zeros(10)),
        "output": out(10),
    }
    path = tmp_path_factory.mktemp("model") / "m.nir"
    nir.write(path, graph(nodes, bins=6, clip=1))
    return path


def command(*arguments):
    return CliRunner().invoke(app, ["compile", *map(str, arguments)])


def test_compile_calibrates_and_spends_synapses(digits, tmp_path):
    done = command(
        digits, "--out", tmp_path / "m.h5", "--calibrate", "digits", "--pairs", "auto", "--weight-bits", 4, "--json",
        "--limit", 10, "--min-agreement", 0.999,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    fitting = values["fitting"]
    assert fitting["fitted_on"] == fitting["held_out"] == 5
    assert fitting["agreement"]["fitted"] > fitting["agreement"]["plain"]
    assert fitting["price"]["fitted"]["synapses"] > fitting["price"]["plain"]["synapses"]
    assert fitting["price"]["fitted"]["cores"] >= 1 and fitting["pairs"]["pairs"]
    synapses = sum(layer["synapses"] for layer in values["layers"])
    assert synapses == fitting["price"]["fitted"]["synapses"]
    network = load(tmp_path / "m.h5")
    assert len(network.projections) == len(values["layers"]) > 2
    shown = command(digits, "--out", tmp_path / "m.h5", "--pairs", "all")
    assert shown.exit_code == 0 and "synapses" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pairs", "some"], "pairs: found 'some', expected all, none"),
        (["--pairs", "auto"], "needs recordings"),
        (["--pairs", "auto", "--dataset", "digits", "--min-agreement", 2], "min-agreement: found 2"),
        (
            ["--pairs", "auto", "--dataset", "digits", "--max-synapses", 10, "--limit", 4],
            "without pairs, at most 10",
        ),
        (["--pairs", "all", "--max-synapses", 47000], "these pairs take"),
        (["--calibrate", "digits", "--limit", 1], "found one recording"),
        (["--calibrate", "digits", "--exponents", 0], "exponents: found 0"),
    ],
)
def test_bad_wishes_are_refused_and_nothing_is_written(digits, tmp_path, arguments, said):
    done = command(digits, "--out", tmp_path / "m.h5", *arguments)
    assert done.exit_code != 0 and said in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_pairs_have_no_place_in_a_netx_file(digits, tmp_path):
    done = command(digits, "--out", tmp_path / "m.net", "--pairs", "all")
    assert "one synapse per weight" in str(done.exception) and list(tmp_path.iterdir()) == []
    done = command(
        digits, "--out", tmp_path / "m.net", "--calibrate", "digits", "--weight-bits", 4, "--limit", 6
    )
    assert done.exit_code == 0 and (tmp_path / "m.net").exists()
