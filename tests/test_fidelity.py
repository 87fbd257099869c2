"""Agreement and accuracy, counted by hand; comparing in chunks."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, lif, out

from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir
from hardware.simulate import fidelity, reference
from hardware.simulate.fidelity import (
    Agreement,
    accuracy,
    agreement,
    agreements,
    compare,
    overall,
    predictions,
)
from hardware.simulate.simulator import simulate


def test_agreement_by_hand():
    a = np.array([[[1, 0, 1], [0, 0, 1]]])
    b = np.array([[[1, 1, 0], [0, 0, 1]]])
    assert agreement(a, b) == Agreement(both=2, either=4)
    assert agreement(a, b).share == 0.5
    assert agreement(a, a).share == 1.0
    assert agreement(a, 1 - a).share == 0.0


def test_silence_agrees():
    silent = np.zeros((1, 2, 3))
    assert agreement(silent, silent) == Agreement(0, 0) and agreement(silent, silent).share == 1.0
    assert agreement(silent, silent + 1).share == 0.0


def test_shapes_that_differ():
    with pytest.raises(HardwareError, match=r"\(1, 2\) and \(2, 1\)"):
        agreement(np.zeros((1, 2)), np.zeros((2, 1)))


def test_per_population_and_overall():
    a = {"x": np.array([1, 1, 1, 0]), "y": np.array([1]), "alone": np.array([1])}
    b = {"x": np.array([1, 0, 0, 0]), "y": np.array([1])}
    parts = agreements(a, b)
    assert list(parts) == ["x", "y"]
    assert [p.share for p in parts.values()] == [1 / 3, 1.0]
    # Of all spikes, not the mean of shares.
    assert overall(parts) == Agreement(2, 4)
    assert overall({}).share == 1.0


def test_predictions_and_accuracy():
    output = np.zeros((3, 2, 4), np.uint8)
    output[0, :, 2] = 1
    output[0, 0, 1] = 1
    output[1, 1, 3] = 1
    assert predictions(output).tolist() == [2, 3, 0]
    # More spikes than the array's own type could count.
    assert predictions(np.repeat(np.array([[[1, 0]]], np.uint8), 300, axis=1)).tolist() == [0]
    assert predictions(-np.ones((1, 2, 3)) * [3, 1, 2]).tolist() == [1]
    assert accuracy(np.array([2, 3, 0]), np.array([2, 3, 1])) == pytest.approx(2 / 3)
    for labels in (np.array([1, 2]), np.zeros(0)):
        with pytest.raises(HardwareError, match="labels"):
            accuracy(np.array([2, 3, 0]), labels)


def test_comparing_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(8),
        "w1": nir.Linear(rng.normal(size=(10, 8))),
        "n1": lif(10, tau=0.005, r=5.0),
        "w2": nir.Linear(rng.normal(size=(3, 10))),
        "n2": lif(3, tau=0.005, r=5.0),
        "output": out(3),
    }
    checked = from_nir(graph(nodes, dt=0.001))
    network, _ = compile_graph(checked, "loihi1")
    x = rng.integers(0, 2, (7, 40, 8))
    whole = compare(checked, network, x)
    monkeypatch.setattr(fidelity, "CHUNK_VALUES", 40 * 13 * 2)
    assert [len(c) for c in fidelity.chunks(x, 13)] == [2, 2, 2, 1]
    parts = compare(checked, network, x)
    assert parts.agreement == whole.agreement
    exact = reference.simulate(checked, x, record=["n1", "n2"])
    run = simulate(network, x, record=["n1", "n2"])
    for name in ("n1", "n2"):
        assert whole.agreement[name] == agreement(exact.spikes[name], run.spikes[name])
    np.testing.assert_array_equal(parts.predictions_fixed, predictions(run.output))
    np.testing.assert_array_equal(parts.predictions_float, predictions(exact.output))
    assert 0.9 < whole.overall.share <= 1.0
    with pytest.raises(HardwareError, match="no samples"):
        compare(checked, network, x[:0])
