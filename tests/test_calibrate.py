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
from hardware.compile import calibrate as c
from hardware.compile.compiler import compile_layers
from hardware.compile.pairs import agreement_with
from hardware.errors import HardwareError
from hardware.files.network_file import load
from hardware.graph.parsing import from_nir
from hardware.network.integer import weight_grid
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


def test_descent_lowers_the_error_and_never_leaves_the_grid():
    rng = np.random.default_rng(0)
    arrived = rng.random((200, 12)) @ rng.random((12, 12))
    h = arrived.T @ arrived
    exact = rng.normal(size=(5, 12)) * 100
    exact[:, 3] = 0
    for exponents, classes in (((0,), True), ((1, 0, -1), True)):
        values = c._Values(-256, 224, 32, exponents, classes)
        points = np.unique([m * 2.0**e for m in range(-256, 225, 32) for e in exponents])
        start = values.nearest(exact)
        # The nearest of all points.
        np.testing.assert_allclose(np.abs(start - exact), np.abs(points[:, None, None] - exact).min(axis=0))
        found = c._descend(start, exact, h, values)
        assert set(found.ravel()) <= set(points) and not found[:, 3].any()
        first, last = (np.einsum("ri,ij,rj->r", q - exact, h, q - exact) for q in (start, found))
        assert (last <= first + 1e-6).all() and last.sum() < 0.5 * first.sum()
        back = sum(m * 2.0**e for m, e in zip(values.mantissas(found), exponents, strict=True))
        np.testing.assert_array_equal(back, found)


def test_moments_are_those_of_every_window():
    """Against loops over windows, for a convolution with a stride and groups."""
    checked = convolutional()
    compiled = compile_layers(checked, "loihi2", weight_bits=3)
    layer = compiled.layers[1]
    x = (np.random.default_rng(0).random((3, 1, 6, 9, 9)) < 0.5).astype(float)
    rng = np.random.default_rng(1)
    patches = c._patches(x[:, 0], layer.demand.weights[0].map, rng)
    rng = np.random.default_rng(1)
    ys, xs = rng.integers(0, 4, c.POSITIONS), rng.integers(0, 4, c.POSITIONS)
    for b in range(3):
        for k, (y, column) in enumerate(zip(ys, xs, strict=True)):
            for g in range(2):
                window = x[b, 0, 3 * g : 3 * g + 3, 2 * y : 2 * y + 3, 2 * column : 2 * column + 3]
                np.testing.assert_array_equal(patches[g, b * c.POSITIONS + k], window.ravel())


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
