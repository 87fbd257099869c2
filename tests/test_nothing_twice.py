"""A command reads, compiles and simulates a network once, and takes the rasters that training or an earlier command left."""

from __future__ import annotations

import json
from collections import Counter

import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("tonic")

from event_files import random_events, write_atis
from graph_samples import graph, inp, lif, out
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.data import Binning, binning, binning_of, open_dataset
from dpap_neuro.errors import InputError
from dpap_neuro.train import runs
from hardware.compile import compiler
from hardware.graph import parsing
from hardware.simulate.float_simulator import FloatSimulator
from hardware.simulate.simulator import Simulator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("model") / "m.nir"
    nodes = {
        "input": inp(2, 34, 34),
        "pool": nir.SumPool2d(np.array([8, 8]), np.array([8, 8]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([2, 4, 4])}, 0, -1),
        "fc": nir.Linear(rng.normal(size=(10, 32))),
        "n": lif(10, tau=0.1, r=2.0, v_threshold=0.5),
        "output": out(10),
    }
    nir.write(path, graph(nodes, dt=0.06, bins=5, clip=4))
    return path


@pytest.fixture
def calls(monkeypatch):
    """How often a file was read, a graph compiled, recordings simulated, events turned into rasters."""
    counted: Counter[str] = Counter()

    def count(where, name, what):
        original = getattr(where, name)

        def counting(*arguments, **named):
            counted[what] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(where, name, counting)

    count(parsing, "read_graph", "read")
    count(compiler, "compile_layers", "compiled")
    count(Simulator, "run", "simulated")
    count(binning, "frames", "binned")
    count(FloatSimulator, "run", "in float")
    return counted


@pytest.mark.parametrize("command", ["cores", "compare", "evaluate", "simulate"])
def test_a_command_does_nothing_twice(model, calls, command):
    more = ["--backend", "fixed"] if command == "evaluate" else []
    arguments = [command, str(model), "--dataset", "digits", "--limit", "8", "--json", *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert calls["read"] == calls["compiled"] == calls["simulated"] == 1 and calls["in float"] == 0


def test_energy_runs_each_recording_once(model, calls):
    """By the spikes of that run the network is placed, and what they cost is counted."""
    arguments = ["energy", str(model), "--dataset", "digits", "--limit", "4", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout)["samples"] == 4
    assert calls["read"] == calls["compiled"] == 1 and calls["simulated"] == 4


def folder_of(tmp_path, splits, start=0):
    for split, count in splits.items():
        for number in range(count):
            events = random_events(start + number, 30, 34, 34, 50_000 + 7_000 * number)
            write_atis(tmp_path / f"NMNIST/{split}/{number % 2}/{number:05}.bin", events)
    return tmp_path


@pytest.mark.parametrize("steps", [{"bins": 5}, {"bin_us": 20_000}])
@pytest.mark.parametrize("splits", [{"Train": 12, "Test": 6}, {"Train": 12}])
def test_evaluation_takes_the_rasters_that_training_kept(tmp_path, monkeypatch, steps, splits):
    data, cache = folder_of(tmp_path / "data", splits), tmp_path / "cache"
    chosen = Binning(**steps, clip=3)
    parts = {s.lower(): open_dataset("nmnist", data, s.lower()) for s in splits}
    expected = {name: list(o.parts(chosen, o.chosen(5))) for name, o in parts.items()}
    runs.load_split("nmnist", data, chosen, None, cache)
    kept = sorted(p.name for p in cache.iterdir())
    monkeypatch.setattr(binning, "frames", None)  # nothing is read again
    for name, opened in parts.items():
        for keep in (None, (0, 2)):
            shown = Binning(**steps, clip=3, kept_bins=keep)
            found = list(opened.parts(shown, opened.chosen(5), cache))
            assert len(found) == len(expected[name]) == 1
            wanted = expected[name][0] if keep is None else expected[name][0][:, list(keep)]
            np.testing.assert_array_equal(found[0], wanted)
    assert sorted(p.name for p in cache.iterdir()) == kept


def test_a_whole_split_is_kept_and_a_part_is_not(tmp_path, monkeypatch):
    data, cache = folder_of(tmp_path / "data", {"Train": 4, "Test": 6}), tmp_path / "cache"
    opened, chosen = open_dataset("nmnist", data, "test"), Binning(bins=3)
    few = np.concatenate(list(opened.parts(chosen, opened.chosen(2), cache)))
    assert not cache.exists()
    whole = np.concatenate(list(opened.parts(chosen, opened.chosen(), cache)))
    np.testing.assert_array_equal(whole[[0, 5]], few)
    monkeypatch.setattr(binning, "frames", None)
    np.testing.assert_array_equal(np.concatenate(list(opened.parts(chosen, opened.chosen(2), cache))), few)


def test_kept_bins_travel_with_the_binning():
    said = {"bins": 6, "clip": 2, "kept_bins": np.array([1, 3, 4])}
    found = binning_of(said)
    x = np.arange(24).reshape(2, 6, 2)
    np.testing.assert_array_equal(found.shown(x), x[:, [1, 3, 4]])
    fewer = found.keeping((0, 2))
    assert fewer.kept_bins == (1, 4) and found.keeping(None) is found
    assert binning_of(fewer.to_dict()) == fewer and "kept_bins" not in Binning(bins=6).to_dict()
    with pytest.raises(InputError, match="found 4, expected below the 4 time bins"):
        found.shown(x[:, :4])
