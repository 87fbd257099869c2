"""Foreign networks are evaluated as they were trained: cut counts, the order of polarities, scaled counts."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, out

pytest.importorskip("torch")

from dpap_neuro.deploy.evaluation import evaluate
from dpap_neuro.deploy.opening import open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError

SHAPE = (2, 34, 34)


def network(path, weight, **metadata):
    nodes = {
        "i": inp(*SHAPE),
        "f": nir.Flatten({"input": np.array(SHAPE)}, 0, -1),
        "w": nir.Linear(weight.reshape(10, -1).astype(np.float32)),
        "n": nir.IF(np.ones(10), np.full(10, 0.7), np.zeros(10)),
        "o": out(10),
    }
    nir.write(path, graph(nodes, reset="zero", **metadata))
    return open_model(path)


@pytest.fixture(scope="module")
def weight():
    return np.random.default_rng(0).normal(size=(10, *SHAPE)) * 0.2


def shown(model, **how):
    how = {"bins": 4, "limit": 6, "clip": 2, **how}
    found = evaluate(model, Recordings("digits", **how))
    assert found.spikes > 50
    return found.spikes, found.predictions.tolist()


def test_order_of_polarities(tmp_path, weight):
    ours, theirs = network(tmp_path / "a.nir", weight), network(tmp_path / "b.nir", weight[:, ::-1])
    assert shown(ours) == shown(theirs, polarity="on-off") == shown(ours, polarity="off-on")
    assert shown(ours) != shown(theirs)


def test_scaled_counts(tmp_path, weight):
    once, half = network(tmp_path / "a.nir", weight), network(tmp_path / "b.nir", weight * 0.5)
    assert shown(once, scale=0.5) == shown(half) != shown(once)
    with pytest.raises(InputError, match="whole counts"):
        evaluate(once, Recordings("digits", bins=4, limit=2, scale=0.5), "fixed")


def test_cut_counts(tmp_path, weight):
    plain, told = network(tmp_path / "a.nir", weight), network(tmp_path / "b.nir", weight, clip=1)
    assert shown(plain, clip=1) == shown(told, clip=None) != shown(plain, clip=9)
    assert shown(told, clip=9) == shown(plain, clip=9)  # what is asked for goes first


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"polarity": "both"}, "off-on or on-off"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"clip": 0}, "clip"),
    ],
)
def test_bad_requests(tmp_path, weight, how, words):
    with pytest.raises(InputError, match=words):
        shown(network(tmp_path / "a.nir", weight), **how)
