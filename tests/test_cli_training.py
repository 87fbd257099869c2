"""`dpap-neuro train` on a small folder of recordings: neurons, time bins, interruption, several processes, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import nir
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from dpap_neuro.cli import app, main
from dpap_neuro.cli.sweeping import _compared
from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.deploy.evaluation import evaluate
from dpap_neuro.deploy.opening import open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from dpap_neuro.files import locked, write_sealed
from dpap_neuro.train import loop, runs, sweeps

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 recordings of three classes in N-MNIST's format: each class is busy in rows of its own, and falls silent late."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label in range(3):
        for number in range(10):
            count = 300
            t = np.sort(rng.integers(0, 310_000, count))
            x, y, p = (
                rng.integers(0, 34, count),
                rng.integers(0, 10, count) + 11 * label,
                rng.integers(0, 2, count),
            )
            late = t > 155_000
            x[late], y[late] = 0, 0
            raw = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], 1).astype(np.uint8)
            path = root / "NMNIST" / "Train" / str(label) / f"{number:05d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw.tobytes())
    return root


def options(folder, out, *more: str) -> list[str]:
    common = ["--dataset", "nmnist", "--data-dir", str(folder), "--out", str(out), "--model", "mlp"]
    return ["train", *common, "--epochs", "4", "--bins", "6", "--batch", "8", *more]


def train(folder, out, *more: str) -> dict[str, np.ndarray]:
    result = CliRunner().invoke(app, options(folder, out, *more), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return load_file(out / "weights.safetensors")


def evaluated(folder, model, backend: str = "float") -> dict:
    arguments = ["evaluate", str(model), "--dataset", "nmnist", "--data-dir", str(folder), "--split", "all"]
    result = CliRunner().invoke(app, [*arguments, "--backend", backend, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def fails(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["dpap-neuro", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("cell", "node", "more"),
    [
        ("lif", nir.LIF, ("--readout", "membrane")),
        ("cubalif", nir.CubaLIF, ("--current-decay", "0.7")),
        ("cubalif", nir.CubaLIF, ("--readout", "membrane")),
        ("if", nir.IF, ()),
        ("plif", nir.LIF, ()),
        ("lif", nir.LIF, ("--reset", "subtract")),
        ("cubalif", nir.CubaLIF, ("--reset", "subtract", "--current-decay", "0.7")),
    ],
)
def test_every_neuron_learns_and_does_in_the_file_what_it_did_in_training(folder, tmp_path, cell, node, more):
    train(folder, tmp_path, "--neuron", cell, "--pruner", "dpap", "--sparsity", "0.5", *more)
    graph = nir.read(tmp_path / "model.nir")
    nodes, reset = graph.nodes.values(), graph.metadata["reset"]
    assert reset == ("subtract" if "subtract" in more else "zero")
    assert sum(isinstance(n, node) for n in nodes) == (1 if "membrane" in more else 2)
    history = json.loads((tmp_path / "run.json").read_text())["history"]
    assert history[-1]["loss"] < history[0]["loss"] and history[-1]["remaining"] < history[0]["parameters"]
    network, _ = runs.load_run(tmp_path)
    rasters = open_dataset("nmnist", folder, "all").rasters(Binning(bins=6, clip=4))
    expected = loop.predict(network, rasters, torch.device("cpu"))
    exact = evaluate(open_model(tmp_path / "model.nir"), Recordings("nmnist", folder, "all"))
    assert (exact.predictions == expected).sum() >= 29
    chip = evaluated(folder, tmp_path / "model.nir", "fixed")
    assert exact.spikes > 0 and chip["spikes"] == pytest.approx(exact.spikes, rel=0.15)


def test_a_learned_time_constant_is_in_the_file(folder, tmp_path):
    weights = train(folder, tmp_path, "--neuron", "plif", "--learning-rate", "0.05", "--pruner", "none")
    share = {k: 1 / (1 + np.exp(-v)) for k, v in weights.items() if k.endswith(".w")}
    dt = 0.31 / 6
    taus = [n.tau.flat[0] for n in nir.read(tmp_path / "model.nir").nodes.values() if isinstance(n, nir.LIF)]
    np.testing.assert_allclose(sorted(taus), sorted(dt / s for s in share.values()), rtol=1e-5)
    assert all(abs(s - 0.5) > 1e-3 for s in share.values()), "learned"


def test_the_artificial_twin_is_pruned_alike_and_not_exported(folder, tmp_path):
    spiking = train(folder, tmp_path / "lif", "--pruner", "dpap", "--sparsity", "0.7")
    artificial = train(folder, tmp_path / "relu", "--neuron", "relu", "--pruner", "dpap", "--sparsity", "0.7")
    assert spiking.keys() == artificial.keys()
    for weights in (spiking, artificial):
        dense = [v for k, v in weights.items() if v.ndim == 2]
        assert 1 - sum((v != 0).sum() for v in dense) / sum(v.size for v in dense) == pytest.approx(
            0.7, abs=0.05
        )
    assert sorted(p.name for p in (tmp_path / "relu").iterdir()) == [
        "config.toml",
        "history.csv",
        "run.json",
        "training.png",
        "weights.safetensors",
    ]
    values = json.loads((tmp_path / "relu" / "run.json").read_text())
    assert values["history"][-1]["loss"] < values["history"][0]["loss"] and values["model"]["cell"] == "relu"


@pytest.mark.parametrize("pruner", [("--pruner", "dpap"), ()])
def test_dropped_time_bins_shorten_the_run_on_the_chip(folder, tmp_path, pruner):
    train(folder, tmp_path / "run", *pruner, "--keep-bins", "3")
    model = tmp_path / "run" / "model.nir"
    kept = nir.read(model).metadata["kept_bins"]
    assert len(kept) == 3
    for out in (tmp_path / "chip.net", tmp_path / "chip.h5"):
        result = CliRunner().invoke(app, ["compile", str(model), "--chip", "loihi2", "--out", str(out)])
        assert result.exit_code == 0, result.output
    CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "again.nir")])
    found = {
        "float": evaluated(folder, model),
        "exported": evaluated(folder, tmp_path / "again.nir"),
        "fixed": evaluated(folder, model, "fixed"),
        ".net": evaluated(folder, tmp_path / "chip.net", "fixed"),
        ".h5": evaluated(folder, tmp_path / "chip.h5", "fixed"),
    }
    assert {name: values["steps"] for name, values in found.items()} == dict.fromkeys(found, 3)
    # What compile makes for the chip; NETX has one threshold per population, so that its weights are rounded otherwise.
    assert found["fixed"]["spikes"] == found[".h5"]["spikes"] > 0
    assert found[".net"]["spikes"] == pytest.approx(found["fixed"]["spikes"], rel=0.01)
    assert found["exported"] == {**found["float"], "seconds": found["exported"]["seconds"]}

    from dpap_neuro.exchange.nir_export import to_nir
    from dpap_neuro.exchange.nir_import import from_graph
    from hardware.graph.parsing import read_graph

    network = from_graph(read_graph(model))
    again = to_nir(network, network.input_shape, network.dt, kept_bins=network.metadata["kept_bins"])
    assert list(again.metadata["kept_bins"]) == list(kept)


def test_killed_in_the_middle_of_an_epoch_and_resumed(folder, tmp_path):
    more = (
        "--pruner",
        "dpap",
        "--sparsity",
        "0.7",
        "--structured",
        "--compact",
        "--keep-bins",
        "4",
        "--resume",
    )
    expected = train(folder, tmp_path / "whole", *more)
    # The command itself, which kills itself in the second batch of epoch 2.
    code = f"""
import os, signal, sys
from dpap_neuro.train import loop
from dpap_neuro.cli import main
train = loop._train
def killed(*args):
    told = args[6]
    def on_batch(epoch, done):
        told(epoch, done)
        if (epoch, done) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)
    return train(*args[:6], on_batch, *args[7:])
loop._train = killed
sys.argv = ["dpap-neuro", *{options(folder, tmp_path / "cut", *more)!r}]
main()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["checkpoint"]
    assert json.loads((tmp_path / "cut" / "checkpoint" / "checkpoint.json").read_text())["epoch"] == 1
    found = train(folder, tmp_path / "cut", *more)
    assert found.keys() == expected.keys()
    assert [k for k in expected if not np.array_equal(found[k], expected[k])] == []
    a, b = (json.loads((tmp_path / n / "run.json").read_text()) for n in ("whole", "cut"))
    assert a["metadata"] == b["metadata"] and len(a["metadata"]["kept_bins"]) == 4
    for one, other in zip(a["history"], b["history"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_two_processes_under_torchrun_write_one_run(folder, tmp_path):
    more = ("--pruner", "dpap", "--sparsity", "0.7")
    alone = train(folder, tmp_path / "alone", *more)
    done = under_torchrun(*options(folder, tmp_path / "two", *more))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to") == 1 and done.stderr.count("epoch 1:") == 1
    two = load_file(tmp_path / "two" / "weights.safetensors")
    a, b = (json.loads((tmp_path / n / "run.json").read_text())["history"] for n in ("alone", "two"))
    # In float32 the order of sums may move a spike; in float64 nothing differs (test_distributed.py).
    assert [e["loss"] for e in b] == pytest.approx([e["loss"] for e in a], rel=0.02)
    assert [e["remaining"] for e in b] == pytest.approx([e["remaining"] for e in a], rel=0.01)
    weight = next(k for k, v in alone.items() if v.ndim == 2)
    assert ((alone[weight] != 0) == (two[weight] != 0)).mean() > 0.97


def under_torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "dpap_neuro.cli", *arguments], env=environment, capture_output=True, text=True
    )


def test_a_sweep_under_torchrun_writes_one_table(folder, tmp_path, monkeypatch):
    def sweep(out):
        return [
            *("sweep", "--dataset", "nmnist", "--data-dir", str(folder), "--out", str(out), "--model", "mlp"),
            *("--epochs", "3", "--bins", "6", "--batch", "8", "--seeds", "1", "--pruner", "magnitude"),
            *("--sparsity", "0.7", "--sparsity", "0.9", "--cache-dir", str(tmp_path / "cache")),
        ]

    alone = CliRunner().invoke(app, sweep(tmp_path / "alone"), catch_exceptions=False)
    assert alone.exit_code == 0
    done = under_torchrun(*sweep(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    # Each process takes whole runs, and the last one puts the tables together.
    assert done.stdout.count("Results in") == 1 and done.stderr.count("seed 0:") == 1
    assert {p.name for p in (tmp_path / "two").iterdir()} == {
        *("runs.csv", "runs.json", "summary.csv", "sweep.png", "shard-1-of-2", "shard-2-of-2")
    }
    expected, found = (sweeps.read_table(tmp_path / name / "runs.csv") for name in ("alone", "two"))
    assert [replace(row, seconds=0.0) for row in found] == [replace(row, seconds=0.0) for row in expected]
    # Shard by shard, in any order; a shard that is there is not done again.
    for shard in ("2/2", "2/2", "1/2"):
        done = CliRunner().invoke(
            app, [*sweep(tmp_path / "shards"), "--shard", shard], catch_exceptions=False
        )
        assert done.exit_code == 0
        assert ("Results in" in done.output) == (shard == "1/2")
        assert ("Shard 2 of 2 is done; 1 of 2 runs are not done yet." in " ".join(done.output.split())) == (
            shard == "2/2"
        )
    found = sweeps.read_table(tmp_path / "shards" / "runs.csv")
    assert [replace(row, seconds=0.0) for row in found] == [replace(row, seconds=0.0) for row in expected]
    # Of two that end at the same time one finds the other at the tables, or done with them.
    with locked(tmp_path / "shards"):
        done = CliRunner().invoke(
            app, [*sweep(tmp_path / "shards"), "--shard", "2/2"], catch_exceptions=False
        )
    assert done.exit_code == 0 and "Results in" not in done.output
    left_to_the_other = "Shard 2 of 2 is done; another one puts the tables together."
    assert left_to_the_other in " ".join(done.output.split())
    keep = sweeps.write_left_out
    (tmp_path / "shards" / "runs.csv").unlink()

    def beaten(folder, runs):
        keep(folder, runs)
        sweeps.write_table(expected, tmp_path / "shards" / "runs.csv")

    monkeypatch.setattr(sweeps, "write_left_out", beaten)
    done = CliRunner().invoke(app, [*sweep(tmp_path / "shards"), "--shard", "2/2"], catch_exceptions=False)
    assert done.exit_code == 0 and "Results in" not in done.output
    assert left_to_the_other in " ".join(done.output.split())
    # One that comes later shows what is there.
    done = CliRunner().invoke(app, [*sweep(tmp_path / "shards"), "--shard", "2/2"], catch_exceptions=False)
    assert "Results in" in done.output
    for wrong in ("3/2", "0/2", "1", "a/b", "1/0"):
        with pytest.raises(InputError, match=rf"shard: found '{wrong}', expected NUMBER/OF such as 2/8"):
            CliRunner().invoke(app, [*sweep(tmp_path / "x"), "--shard", wrong], catch_exceptions=False)


def test_a_run_that_cannot_learn_is_left_out_and_said(folder, tmp_path):
    """The others have their table; with all of them failing there is none."""

    given = [
        *("sweep", "--dataset", "nmnist", "--data-dir", str(folder), "--out", str(tmp_path / "out"), "--model", "mlp"),
        *("--epochs", "3", "--bins", "6", "--batch", "8", "--seeds", "1", "--cache-dir", str(tmp_path / "cache")),
        *("--pruner", "magnitude", "--sparsity", "0.9999"),
    ]  # fmt: skip
    gone = r"magnitude 99.99% seed 0 \(pruner magnitude: found sparsity 0.9999, .* expected at least"
    with pytest.raises(InputError, match=f"1 of 1 runs could not be done and are in no table: {gone}"):
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert not (tmp_path / "out" / "runs.csv").exists()
    with pytest.raises(InputError, match=f"1 of 3 runs could not be done and are in no table: {gone}"):
        more = ["--pruner", "none", "--sparsity", "0.8", "--against", "none"]
        CliRunner().invoke(app, [*given, *more], catch_exceptions=False)
    rows = sweeps.read_table(tmp_path / "out" / "runs.csv")
    assert {(row.pruner, row.sparsity) for row in rows} == {("none", 0.0), ("magnitude", 0.8)}
    assert "magnitude,0.8" in (tmp_path / "out" / "summary.csv").read_text()


def test_a_shard_with_a_run_that_cannot_learn_keeps_no_table_from_the_others(folder, tmp_path):
    """Whichever shard comes last puts the tables together and names all that is in none; what can learn later is in them."""
    out = tmp_path / "out"

    def shard(number, *more):
        given = [
            *("sweep", "--dataset", "nmnist", "--data-dir", str(folder), "--out", str(out), "--model", "mlp"),
            *("--epochs", "3", "--bins", "6", "--batch", "8", "--seeds", "1", "--cache-dir", str(tmp_path / "cache")),
            *("--pruner", "magnitude", "--sparsity", "0.9999", "--sparsity", "0.8", "--shard", number, *more),
        ]  # fmt: skip
        return CliRunner().invoke(app, given)

    failed = shard("1/2")
    assert isinstance(failed.exception, InputError) and "1 of 1 runs could not be done" in str(
        failed.exception
    )
    assert "1 of 2 runs are not done yet" in " ".join(failed.output.split())
    last = shard("2/2")
    assert "1 of 2 runs could not be done and are in no table: magnitude 99.99% seed 0" in str(last.exception)
    assert [row.sparsity for row in sweeps.read_table(out / "runs.csv")] == [0.8]
    assert "magnitude,0.8" in (out / "summary.csv").read_text()
    assert sweeps.left_out(out).keys() == {("magnitude", 0.9999, 0)}
    kept = out / "shard-1-of-2" / "left_out.json"
    kept.write_text(kept.read_text().replace("0.9999", "0.8"))
    with pytest.raises(InputError, match=r"left_out.json: damaged"):
        sweeps.left_out(out)
    write_sealed(kept, {"runs": [["magnitude", 0.9999]]})
    with pytest.raises(InputError, match=r"left_out.json: not the runs that a sweep left out"):
        sweeps.left_out(out)
    sweeps.remove(out)
    assert not kept.exists() and not sweeps.left_out(out) and not (out / "runs.csv").exists()
    sweeps.write_left_out(out, {("lamp", 0.5, 3): "why"})
    assert sweeps.left_out(out) == {("lamp", 0.5, 3): "why"}
    sweeps.write_left_out(out, {})
    assert not sweeps.left_out(out)


def test_every_fold_is_run_as_often_as_seeds_say(folder, tmp_path):
    arguments = [
        *("sweep", "--dataset", "nmnist", "--data-dir", str(folder), "--out", str(tmp_path / "out")),
        *("--cache-dir", str(tmp_path / "cache"), "--model", "mlp", "--epochs", "1", "--bins", "4"),
        *("--pruner", "none", "--folds", "2", "--seeds", "2"),
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    rows = sweeps.read_table(tmp_path / "out" / "runs.csv")
    assert [row.seed for row in rows] == [0, 1, 2, 3]
    assert [row.n_test for row in rows] == [15] * 4
    said = " ".join(done.output.split())
    assert "Held out: of the 30 recordings of the train split one in 2 of each class" in said
    assert "events per" in said


def test_a_sweep_for_choosing_settings_says_so_and_compares_run_by_run(folder, tmp_path):
    arguments = [
        *("sweep", "--dataset", "nmnist", "--data-dir", str(folder), "--out", str(tmp_path / "out")),
        *(
            "--cache-dir",
            str(tmp_path / "cache"),
            "--model",
            "mlp",
            "--epochs",
            "2",
            "--bins",
            "4",
            "--folds",
            "2",
        ),
        *("--seeds", "1", "--pruner", "none", "--pruner", "magnitude", "--sparsity", "0.5"),
    ]
    with pytest.raises(
        InputError, match="against: found 'lamp', expected one of the pruners compared: none, magnitude"
    ):
        CliRunner().invoke(app, [*arguments, "--against", "lamp"], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*arguments, "--inner", "--against", "none"], catch_exceptions=False)
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    assert "Settings are chosen: of each run's training recordings one in 5 of each class is held out" in said
    assert "points ahead of none" in said
    found = sweeps.read_table(tmp_path / "out" / "runs.csv")
    assert [(row.n_train, row.n_test) for row in found] == [(12, 3)] * 4
    lines = (tmp_path / "out" / "paired.csv").read_text().splitlines()
    assert lines[0] == "pruner,other,sparsity,units,ahead,behind,points,low,high"
    assert len(lines) == 2 and lines[1].startswith("magnitude,none,0.5,2,")
    with pytest.raises(InputError, match="found runs with tested settings are chosen"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_sweep_compares_with_a_pruner_named_without_its_settings():
    names = ["none:learning_rate=0.001", "lamp:learning_rate=0.002", "lamp:learning_rate=0.008"]
    assert _compared("none", names) == _compared(names[0], names) == names[0]
    with pytest.raises(
        InputError, match=r"against: found 'lamp', which are 2 of them, expected one .*: none:learn"
    ):
        _compared("lamp", names)
    with pytest.raises(InputError, match=r"against: found 'weighted', expected one"):
        _compared("weighted", names)


def test_a_folder_that_does_not_say_its_sensor_goes_the_whole_road(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("left", "right"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(6):
            events = np.zeros(80, [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?")])
            events["t"], events["y"] = np.sort(rng.integers(0, 9000, 80)), rng.integers(0, 6, 80)
            events["x"] = rng.integers(0, 4, 80) + (4 if label == "right" else 0)
            np.save(tmp_path / "data" / label / f"{number}.npy", events)
    data = ["--dataset", str(tmp_path / "data"), "--sensor", "9x7"]

    def run(*arguments: object):
        return CliRunner().invoke(app, [*map(str, arguments)])

    short = ["--model", "mlp", "--epochs", 1, "--bins", 3]
    trained = run("train", *data, *short, "--pruner", "none", "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    swept = run(
        "sweep",
        *data,
        *short,
        "--pruner",
        "magnitude",
        "--seeds",
        1,
        "--sparsity",
        0.5,
        "--out",
        tmp_path / "s",
    )
    assert swept.exit_code == 0, swept.output
    file = tmp_path / "run" / "model.nir"
    assert nir.read(file).nodes["input"].input_type["input"].tolist() == [2, 7, 9]
    made = run("compile", file, "--chip", "loihi2", *data, "--pairs", "auto", "--out", tmp_path / "a.h5")
    assert made.exit_code == 0, made.output
    assert run("fidelity", file, *data).exit_code in (0, 3)
    for command in (["train", "--out", tmp_path / "b"], ["sweep", "--out", tmp_path / "b"]):
        unsaid = run(*command, *data[:2])
        assert unsaid.exit_code != 0 and "--sensor" in str(unsaid.exception)


def test_score_allocation_and_regrowth_reach_the_pruner(folder, tmp_path):
    arguments = options(folder, tmp_path / "out", "--pruner", "magnitude", "--sparsity", "0.5")
    done = CliRunner().invoke(
        app, [*arguments, "--score", "fisher", "--allocation", "lamp", "--regrow", "random"]
    )
    assert done.exit_code == 0
    assert "magnitude (score fisher, allocation lamp, regrow random) to 50.0%" in " ".join(
        done.output.split()
    )
    refused = CliRunner().invoke(app, [*arguments[:-2], "--sparsity", "0.5", "--score", "axe"])
    assert isinstance(refused.exception, InputError) and "score: found 'axe'" in str(refused.exception)


def test_a_demo_under_torchrun_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "argv", ["dpap-neuro", "demo", "--out", str(tmp_path / "demo")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and not (tmp_path / "demo").exists()
    assert "demo: found 2 processes, expected one" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_of_another_run_is_one_line(folder, tmp_path, monkeypatch, capsys):
    train(folder, tmp_path, "--pruner", "none", "--resume")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for more, says in (
        (("--pruner", "none", "--model", "cnn"), "found a run with network name mlp, expected cnn"),
        (("--pruner", "none", "--neuron", "plif"), "found a run with network cell lif, expected plif"),
        (("--pruner", "dpap"), "found a run with pruner name none, expected dpap"),
        (("--pruner", "none", "--seed", "5"), "found a run with seed 0, expected 5"),
        (
            ("--pruner", "none", "--threshold", "0.4"),
            "found a run with network neuron v_th 0.5, expected 0.4",
        ),
        (("--pruner", "none", "--surrogate-slope", "9"), "surrogate_slope 1.0, expected 9.0"),
        (("--pruner", "none", "--reset", "subtract"), "neuron reset zero, expected subtract"),
        (("--pruner", "none", "--readout", "membrane"), "network readout spikes, expected membrane"),
        (("--pruner", "none", "--clip", "3"), "found a run with clip "),
        (("--pruner", "none", "--more-epochs", "-1"), "more_epochs: found -1"),
        (("--pruner", "none", "--bins", "7"), "found a run with bins 6, expected 7"),
    ):
        error = fails(monkeypatch, capsys, *options(folder, tmp_path, "--resume", *more))
        assert error.startswith("error: ") and says in error
        assert "more_epochs" in says or str(tmp_path / "checkpoint") in error
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--threshold", "1e6"), "neurons that spike (lower their threshold)"),
        (("--threshold", "1e6", "--pruner", "none"), "never spiked"),
        (("--neuron", "gif"), "found 'gif', expected one of lif, cubalif, if, plif, relu"),
        (("--neuron", "relu", "--readout", "spikes"), "expected mean"),
        (("--current-decay", "0"), "current_decay: found 0.0"),
        (("--pruner", "magnitude", "--sparsity", "0.5", "--structured"), "structured"),
        (("--pruner", "none", "--sparsity", "0.5"), "pruner none: has no option 'sparsity', expected none"),
        (("--keep-bins", "7"), "expected at most the 6"),
        (("--sparsity", "-0.1"), "sparsity: found -0.1"),
        (("--learning-rate", "nan"), "learning_rate: found nan, expected a finite number above 0"),
        (("--seed", str(2**64)), f"seed: found {2**64}, expected 0 to "),
        (("--shift", "100000"), "shift: found 100000 pixels, expected at most"),
        (
            ("--downsample", str(2**40)),
            "downsample: found 1.09951162778e+12, expected a whole number from 1 to 32,768",
        ),
        (("--bins", "1000000000"), "bins: found 1000000000, expected a whole number from 1 to"),
        (("--epochs", "-1"), "epochs: found -1, expected 1 to"),
        (("--epochs", "9" * 25), "epochs: found 9999"),
        (("--batch", "0"), "batch: found 0, expected at least 2"),
        (("--clip", "9" * 25), "clip: found 1e+25"),
        (("--threshold", "nan"), "v_th: found nan"),
        (("--threshold", "1e39"), "v_th: found 1e+39"),
        (("--surrogate-slope", "nan"), "surrogate_slope: found nan"),
        (("--decay", "nan"), "decay: found nan"),
        (("--drop", "nan"), "drop: found nan"),
        (("--more-epochs", "5"), "--more-epochs: goes with --resume"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch, capsys, more, says):
    error = fails(monkeypatch, capsys, *options(folder, tmp_path / "out", *more))
    assert error.startswith("error: ") and says in error
    assert list(tmp_path.iterdir()) == []


def test_one_class_only_is_one_line(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "NMNIST" / "Train").mkdir(parents=True)
    (tmp_path / "NMNIST" / "Train" / "1").symlink_to(folder / "NMNIST" / "Train" / "1")
    error = fails(monkeypatch, capsys, *options(tmp_path, tmp_path / "out"))
    assert "found recordings of class 1 only, expected at least 2 classes" in error
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_found_before_training(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("here first")
    error = fails(monkeypatch, capsys, *options(folder, tmp_path / "file" / "run"))
    assert "expected" in error and "to be a folder" in error


def test_a_sweep_in_a_chips_integers_says_so_and_counts_what_is_stored(folder, tmp_path):
    asked = [
        *("sweep", "--dataset", "nmnist", "--data-dir", str(folder), "--out", str(tmp_path / "out"), "--model", "mlp"),
        *("--pruner", "none", "--pruner", "magnitude", "--sparsity", "0.5", "--seeds", "1", "--epochs", "2", "--batch", "4"),
    ]  # fmt: skip
    bits = [*asked, "--precision", "loihi", "--weight-bits"]
    done = CliRunner().invoke(app, [*bits, "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[:-1])
    none, pruned = sweeps.read_table(tmp_path / "out" / "runs.csv")
    # Of two bits a fair share is zero without any pruner.
    assert none.remaining < none.parameters and pruned.remaining <= 0.5 * pruned.parameters
    for other in ([*bits, "3"], asked):
        with pytest.raises(
            InputError, match=r"runs.csv: found runs with precision \{'chip': 'loihi2', 'weight_bits': 2"
        ):
            CliRunner().invoke(app, other, catch_exceptions=False)
    with pytest.raises(InputError, match="--compact: cannot be together with --precision"):
        CliRunner().invoke(app, [*bits, "2", "--compact"], catch_exceptions=False)


def test_a_sweep_trains_the_neurons_it_is_asked_for(folder, tmp_path):
    asked = [
        *("sweep", "--dataset", "nmnist", "--data-dir", str(folder), "--out", str(tmp_path / "out"), "--model", "mlp"),
        *("--pruner", "none", "--seeds", "1", "--epochs", "1", "--batch", "4", "--surrogate", "atan", "--surrogate-slope", "3"),
        *("--neuron", "cubalif", "--decay", "0.2", "--current-decay", "0.25", "--threshold", "0.75", "--reset", "subtract"),
    ]  # fmt: skip
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    model = json.loads((tmp_path / "out" / "runs.json").read_text())
    neuron = model["neuron"]
    dt = neuron["dt"]
    assert model["cell"] == "cubalif" and neuron["v_th"] == 0.75 and neuron["reset"] == "subtract"
    assert neuron["surrogate"] == "atan" and neuron["surrogate_slope"] == 3
    assert neuron["tau_mem"] == pytest.approx(dt / 0.2) and neuron["tau_syn"] == pytest.approx(dt / 0.25)
    with pytest.raises(InputError, match=r"decay: found 2\.0"):
        CliRunner().invoke(app, [*asked, "--decay", "2"], catch_exceptions=False)
