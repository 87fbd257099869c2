"""compile, simulate and evaluate: one network through every file and backend gives one answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("tonic")

from command_line import fails, run
from graph_samples import graph, inp, lif, out
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.deploy.simulation import run_lava
from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph
from hardware.files.network_file import load, save
from hardware.files.netx import restrict
from hardware.files.netx_reading import read_net
from hardware.graph.parsing import read_graph
from hardware.network.integer import DenseProjection, InputPopulation, Network, Population
from hardware.simulate import lava, simulator

# A Python 3.10 with lava-nc, where the machine names one.
LAVA = os.environ.get("LAVA_PYTHON")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two layers of LIF after a pooled event camera of 34 x 34."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("model") / "m.nir"
    nodes = {
        "input": inp(2, 34, 34),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "conv": nir.Conv2d((17, 17), rng.normal(size=(3, 2, 3, 3)), 2, 0, 1, 1, np.full(3, 0.02)),
        "n1": lif(3, 8, 8, tau=0.1, r=2.0, v_threshold=0.5),
        "flat": nir.Flatten({"input": np.array([3, 8, 8])}, 0, -1),
        "fc": nir.Affine(rng.normal(size=(10, 192)), rng.normal(size=10) * 0.1),
        "n2": lif(10, tau=0.1, r=2.0, v_threshold=0.5),
        "output": out(10),
    }
    nir.write(path, graph(nodes, dt=0.06, bins=5, clip=4))
    return path


@pytest.mark.parametrize(
    ("chip", "suffix", "thresholds"),
    [("loihi1", "net", 0), ("loihi2", "net", 0), ("loihi1", "h5", 0), ("loihi2", "h5", 3)],
)
def test_compile_writes_the_network_and_reports_every_layer(model, tmp_path, chip, suffix, thresholds):
    path = tmp_path / f"m.{suffix}"
    values = run("compile", model, "--chip", chip, "--out", path)
    network = read_net(path) if suffix == "net" else load(path)
    assert [p.name for p in network.populations] == ["n1", "n2"]
    assert np.ndim(network.populations[0].vth) == thresholds
    assert network.dt == 0.06 and network.metadata["bins"] == 5
    assert [(r["source"], r["target"]) for r in values["layers"]] == [("input", "n1"), ("n1", "n2")]
    chosen = load_chip(chip)
    _, reports = compile_graph(read_graph(model), restrict(chosen) if suffix == "net" else chosen)
    assert [r["weight_error_rms"] for r in values["layers"]] == [r.weight_error_rms for r in reports]
    assert all(0 < r["weight_error_rms"] < 0.03 for r in values["layers"])


def test_compile_prints_a_table(model, tmp_path):
    result = CliRunner().invoke(app, ["compile", str(model), "--out", str(tmp_path / "m.net")])
    assert result.exit_code == 0 and "Written" in result.stdout and "conv" in result.stdout


def test_names_of_a_file_move_no_cursor(tmp_path):
    nodes = {
        "input": inp(3),
        "fc": nir.Linear(np.ones((2, 3))),
        "[red]x\x1b[2J": lif(2),
        "output": out(2),
    }
    nir.write(tmp_path / "a.nir", graph(nodes, dt=0.001))
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    for arguments in (
        ["compile", tmp_path / "a.nir", "--out", tmp_path / "a.h5"],
        ["simulate", tmp_path / "a.h5", "--input", tmp_path / "x.npy"],
    ):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0 and "[red]x\\x1b" in result.stdout and "\x1b" not in result.output


def test_more_steps_than_memory_holds_are_one_line(model, monkeypatch, capsys):
    error = fails(
        monkeypatch, capsys, "evaluate", model, "--dataset", "digits", "--bin-us", 1e-9, "--limit", 1
    )
    assert (
        error.startswith("error: recording 0: its events span 0.29")
        and "at most 1,073,741,824 counts" in error
    )
    error = fails(monkeypatch, capsys, "evaluate", model, "--dataset", "digits", "--bin-us", "inf")
    assert error == "error: bin_us: found inf, expected a finite number above 0"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_one_line(model):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "dpap_neuro.cli", "inspect", str(model), "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_fewer_bits_are_coarser(model, tmp_path):
    fine = run("compile", model, "--out", tmp_path / "a.net")
    coarse = run("compile", model, "--out", tmp_path / "b.net", "--weight-bits", 3)
    assert coarse["layers"][0]["weight_error_rms"] > 10 * fine["layers"][0]["weight_error_rms"]
    assert coarse["layers"][0]["weight_bits"] == 3


def test_evaluate_gives_the_same_for_every_file_of_one_network(model, tmp_path):
    run("compile", model, "--out", tmp_path / "m.net")
    run("compile", model, "--chip", "loihi1", "--out", tmp_path / "m.h5")
    common = ("--dataset", "digits", "--limit", 20, "--backend", "fixed")
    from_nir = run("evaluate", model, *common, "--chip", "loihi1")
    assert from_nir.pop("weight_bits") == 8 and from_nir["chip"] == "loihi1"
    assert from_nir["n"] == 20 and from_nir["spikes"] > 0 and from_nir["dt"] == 0.06
    same = run("evaluate", tmp_path / "m.h5", *common, "--chip", "loihi1")
    assert same.pop("weight_bits") is None  # a file of integers does not say
    assert {**same, "seconds": 0} == {**from_nir, "seconds": 0}
    # NETX rounds biases and thresholds more coarsely.
    near = run("evaluate", tmp_path / "m.net", *common)
    assert near["n"] == 20 and near["steps"] == from_nir["steps"] and near["dt"] == 0.06
    assert abs(near["spikes"] - from_nir["spikes"]) < 0.05 * from_nir["spikes"]


def test_simulate_counts_and_writes_spikes(model, tmp_path):
    rng = np.random.default_rng(1)
    raster = rng.integers(0, 2, (3, 6, 2, 34, 34)).astype(np.uint8)
    np.save(tmp_path / "x.npy", raster)
    run("compile", model, "--out", tmp_path / "m.net")
    networks = {
        model: compile_graph(read_graph(model), "loihi2")[0],
        tmp_path / "m.net": read_net(tmp_path / "m.net"),
    }
    for file, network in networks.items():
        exact = simulator.simulate(network, raster, record={"n1": ("spikes",)})
        values = run(
            "simulate", file, "--input", tmp_path / "x.npy", "--record", "n1", "--out", tmp_path / "s.npz"
        )
        assert values["samples"] == 3 and values["steps"] == 6
        assert values["spikes"] == {name: c.sum() for name, c in exact.counts.items()}
        assert values["events"] == {name: exact.event_counts[name].sum() for name in ("n1", "n2")}
        with np.load(tmp_path / "s.npz") as written:
            assert sorted(written.files) == ["output", "spikes/n1"]
            np.testing.assert_array_equal(written["spikes/n1"], exact.spikes["n1"])
            np.testing.assert_array_equal(written["output"], exact.output)
        assert exact.output.any()


def test_simulate_takes_recordings(model):
    values = run("simulate", model, "--dataset", "digits", "--limit", 4)
    assert values["samples"] == 4 and values["steps"] == 5
    result = CliRunner().invoke(app, ["simulate", str(model), "--dataset", "digits", "--limit", "2"])
    assert result.exit_code == 0 and "synaptic events" in result.stdout


@pytest.fixture
def instead_of_lava(monkeypatch):
    """Our simulator in Lava's place: how runs are padded, aligned and compared, without lava-nc."""

    def stand_in(network, raster, record=(), reset_interval=None, reset_offset=0):
        return simulator.simulate(network, raster, "chip", record, None, reset_interval, reset_offset)

    monkeypatch.setattr(lava, "available", lambda: True)
    monkeypatch.setattr(lava, "simulate", stand_in)
    return stand_in


def test_lavas_clock_is_taken_out(model, instead_of_lava):
    common = ("--dataset", "digits", "--limit", 10)
    fixed = run("evaluate", model, *common, "--backend", "fixed")
    chip = run("evaluate", model, *common, "--backend", "lava")
    for key in ("correct", "spikes", "steps", "n"):
        assert fixed[key] == chip[key]
    network = compile_graph(read_graph(model), "loihi1")[0]
    x = np.random.default_rng(0).integers(0, 3, (2, 9, 2, 34, 34))
    aligned, differing = run_lava(network, x, ["n1"])
    ours = simulator.simulate(network, x, record=["n1"])
    assert differing == 0
    np.testing.assert_array_equal(aligned.output, ours.output)
    np.testing.assert_array_equal(aligned.v["n1"], ours.v["n1"])


def test_a_difference_is_counted_and_fails(model, instead_of_lava, monkeypatch):
    def wrong(*arguments, **options):
        found = instead_of_lava(*arguments, **options)
        found.spikes["n1"][0, 3, 0, 0, :2] ^= 1
        return found

    monkeypatch.setattr(lava, "simulate", wrong)
    arguments = ["simulate", str(model), "--dataset", "digits", "--limit", "1", "--backend", "lava", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and json.loads(result.stdout)["differing"] == 2


@pytest.mark.skipif(LAVA is None, reason="LAVA_PYTHON names no Python 3.10 with lava-nc")
def test_real_lava_differs_nowhere(model, tmp_path):
    common = ("--dataset", "digits", "--limit", 2, "--backend", "lava", "--lava-python", LAVA)
    values = run("simulate", model, *common)
    assert values["differing"] == 0 and sum(values["spikes"].values()) > 0
    assert run("evaluate", model, *common)["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compile", "{m}", "--out", "{t}/a.txt"), ".net"),
        (("compile", "{m}", "--out", "{t}/a.net", "--chip", "tpu"), "tpu"),
        (("compile", "{m}", "--out", "{t}/a.net", "--weight-bits", "9"), "9 bits"),
        (("compile", "{t}/no.nir", "--out", "{t}/a.net"), "no.nir"),
        (("compile", "{m}", "--out", "{t}/no/a.net"), "cannot be written"),
        (("simulate", "{m}"), "--dataset"),
        (("simulate", "{m}", "--dataset", "digits", "--input", "{t}/x.npy"), "either"),
        (("simulate", "{m}", "--input", "{t}/none.npy"), "none.npy"),
        (("simulate", "{m}", "--input", "{m}"), "not an .npz or .npy"),
        (("simulate", "{m}", "--dataset", "digits", "--backend", "float"), "float"),
        (("simulate", "{m}", "--dataset", "digits", "--record", "n9", "--out", "{t}/s.npz"), "n9"),
        (("simulate", "{m}", "--dataset", "digits", "--record", "n1"), "--out"),
        (("simulate", "{m}", "--dataset", "digits", "--out", "{t}/a.txt"), ".npz"),
        (("simulate", "{m}", "--dataset", "digits", "--limit", "0"), "limit"),
        (
            ("simulate", "{m}", "--dataset", "digits", "--backend", "lava", "--lava-python", "{t}/py"),
            "lava-python",
        ),
        (("evaluate", "{m}", "--dataset", "digits", "--backend", "quick"), "quick"),
        (("evaluate", "{m}", "--dataset", "digits", "--lava-python", "x"), "--backend lava"),
        (("evaluate", "{t}/no.net", "--dataset", "digits", "--backend", "fixed"), "no.net"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(model, arguments, says, tmp_path, monkeypatch, capsys):
    assert says in fails(monkeypatch, capsys, *(a.format(m=model, t=tmp_path) for a in arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((5, 2, 34, 33), int), "shape"),
        (np.full((5, 2, 34, 34), -1), "-1"),
        (np.full((5, 2, 34, 34), 0.5), "whole"),
        (np.full((5, 2, 34, 34), "a"), "whole"),
    ],
)
def test_bad_rasters(model, array, says, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", array)
    assert says in fails(
        monkeypatch, capsys, "simulate", model, "--input", tmp_path / "x.npy", "--out", tmp_path / "s.npz"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_damaged_and_foreign_network_files(model, tmp_path, monkeypatch, capsys):
    run("compile", model, "--out", tmp_path / "m.net")
    whole = Path(tmp_path / "m.net").read_bytes()
    (tmp_path / "cut.net").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5").write_text("hello")
    for name in ("cut.net", "text.h5"):
        arguments = ("evaluate", tmp_path / name, "--dataset", "digits", "--backend", "fixed")
        assert name in fails(monkeypatch, capsys, *arguments)
    arguments = ("evaluate", tmp_path / "m.net", "--dataset", "digits")
    assert "holds integers" in fails(monkeypatch, capsys, *arguments)
    arguments = ("evaluate", tmp_path / "m.net", "--dataset", "digits", "--backend", "fixed", "--dt", "0.1")
    assert "--dt" in fails(monkeypatch, capsys, *arguments)


def test_a_file_that_keeps_bins_no_recording_has(model, tmp_path, monkeypatch, capsys):
    network = compile_graph(read_graph(model), "loihi1")[0]
    save(replace(network, metadata={**network.metadata, "kept_bins": np.array([0, 9])}), tmp_path / "m.h5")
    arguments = ("evaluate", tmp_path / "m.h5", "--dataset", "digits", "--backend", "fixed", "--limit", "1")
    assert "found 9, expected below the 5 time bins" in fails(monkeypatch, capsys, *arguments)


def test_names_are_printed_as_they_are(tmp_path):
    network = Network(
        (InputPopulation("in", (2,)),),
        (Population("[/b]", (1,), vth=1),),
        (DenseProjection("in", "[/b]", np.full((1, 2), 100)),),
        ("[/b]",),
    )
    save(network, tmp_path / "[red].h5")
    np.save(tmp_path / "x.npy", np.ones((3, 2), int))
    arguments = ["simulate", str(tmp_path / "[red].h5"), "--input", str(tmp_path / "x.npy")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "[/b]" in result.stdout and "[red].h5" in result.stdout.replace("\n", "")


def test_what_a_chip_or_file_cannot_say(tmp_path, monkeypatch, capsys):
    neurons = lif(3, tau=0.01)
    neurons.v_threshold = np.array([1.0, 2.0, 3.0])
    nodes = {"input": inp(2), "w": nir.Linear(np.eye(3, 2)), "n": neurons, "output": out(3)}
    nir.write(tmp_path / "m.nir", graph(nodes, dt=0.001))
    says = fails(
        monkeypatch, capsys, "compile", tmp_path / "m.nir", "--chip", "loihi1", "--out", tmp_path / "m.h5"
    )
    assert "'n'" in says and "loihi1 has one per population" in says
    says = fails(monkeypatch, capsys, "compile", tmp_path / "m.nir", "--out", tmp_path / "m.net")
    assert "'n'" in says
    assert [p.name for p in tmp_path.iterdir()] == ["m.nir"]
    run("compile", tmp_path / "m.nir", "--out", tmp_path / "m.h5")
    # No bins in this file: the command line must say.
    arguments = ("evaluate", tmp_path / "m.h5", "--dataset", "digits", "--backend", "fixed")
    assert "--bin-us" in fails(monkeypatch, capsys, *arguments)


@pytest.mark.skipif(lava.available(), reason="this interpreter has lava-nc")
def test_without_lava_one_line_says_where_to_name_it(model, monkeypatch, capsys):
    for command in ("simulate", "evaluate"):
        arguments = (command, model, "--dataset", "digits", "--backend", "lava")
        assert "--lava-python PATH" in fails(monkeypatch, capsys, *arguments)
