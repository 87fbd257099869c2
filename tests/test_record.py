"""What made a run: run.json, config.toml out and in, history.csv, the picture; and nothing is replaced without --force."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from dataclasses import replace

import event_files as files
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from command_line import fails
from safetensors.numpy import load_file
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.data import DATASETS, Binning, Defaults, open_both
from dpap_neuro.deploy.record import write_config
from dpap_neuro.deploy.request import TrainRequest, read_config
from dpap_neuro.errors import InputError
from dpap_neuro.train import runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split in ("Train", "Test"):
        for label in range(2):
            for number in range(8 if split == "Train" else 3 + label):
                events = files.random_events(label + 2 * number, 60 + 60 * label, 34, 34, 100_000)
                files.write_atis(root / f"NMNIST/{split}/{label}/{number:05}.bin", events)
    return root


def arguments(data, out, *more) -> list[str]:
    return [*map(str, ("train", "--dataset", "nmnist", "--data-dir", data, "--out", out, "--model", "mlp", "--epochs", 2, "--batch", 8,
            "--bins", 5, "--downsample", 4, "--threshold", 0.2, "--cache-dir", data / "cache", "--device", "cpu", *more))]  # fmt: skip


def trained(*given: str) -> str:
    result = CliRunner().invoke(app, list(given))
    assert result.exit_code == 0, (result.output, result.exception)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    said = trained(*arguments(data, folder, "--pruner", "magnitude", "--sparsity", "0.5", "--seed", "3"))
    n = torch.get_num_threads()
    assert f"seed 3 on the CPU with {n} thread{'s' * (n > 1)}; another device or number of threads" in said
    return folder


def test_run_json_says_all_that_made_it(data, run):
    record = runs.read_record(run)
    assert record["request"]["sparsity"] == 0.5 and record["settings"]["batch"] == 8 and record["seed"] == 3
    assert record["pruner"]["name"] == "magnitude" and record["pruner"]["goal"]["sparsity"] == 0.5
    assert record["model"]["neuron"]["v_th"] == 0.2 and record["model"]["neuron"]["surrogate_slope"] > 0
    assert record["machine"]["device"] == "cpu" and record["machine"]["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__ and record["started"] <= record["written"]
    found = record["data"]
    assert found["folder"] == str(data) and found["held_out"] == 0
    assert found["train"]["of_class"] == {str(n): 8 * (n < 2) for n in range(10)}
    assert found["test"]["recordings"] == 7
    rasters = open_both("nmnist", data).opened.rasters(Binning(5, clip=4, downsample=4))
    labels = np.repeat([0, 1], 8)
    digest = hashlib.sha256(f"|u1 {rasters[:16].shape}".encode())
    digest.update(rasters[:16].tobytes() + labels.astype(np.int64).tobytes())
    assert found["train"]["sha256"] == digest.hexdigest()


def test_history_as_table_and_picture(run):
    rows = list(csv.DictReader((run / "history.csv").open()))
    history = runs.read_record(run)["history"]
    for row, epoch in zip(rows, history, strict=True):
        layers = {f"left_{name}": left for name, (left, _) in epoch["layers"].items()}
        assert {key: float(value) for key, value in row.items()} == {
            **{key: value for key, value in epoch.items() if key not in ("fill", "rates", "layers")},
            **{f"rate_{layer}": rate for layer, rate in epoch["rates"].items()},
            **layers,
        }
        assert sum(layers.values()) == epoch["remaining"] and len(layers) > 1
        assert sum(of for _, of in epoch["layers"].values()) == epoch["parameters"]
    assert (run / "training.png").read_bytes().startswith(b"\x89PNG")


def test_a_config_makes_the_run_again_and_the_command_line_goes_over_it(data, run, tmp_path):
    config = ["--config", str(run / "config.toml"), "--cache-dir", str(data / "cache"), "--device", "cpu"]
    trained("train", *config, "--out", str(tmp_path / "b"))
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (run, tmp_path / "b")]
    assert weights[0] == weights[1]
    assert read_config(tmp_path / "b/config.toml") == read_config(run / "config.toml")
    trained("train", "--seed", "4", *config, "--epochs", "1", "--out", str(tmp_path / "c"))
    record = runs.read_record(tmp_path / "c")
    assert (record["seed"], record["settings"]["epochs"], record["request"]["sparsity"]) == (4, 1, 0.5)


def test_every_option_survives_a_config(tmp_path):
    asked = TrainRequest(
        dataset='a "b"\\c\n\x7f\u2028é😀', data_dir=tmp_path, flip=False, drop=1e-7, sparsity=0.5, seed=2**63 - 1, learning_rate=1.0
    )  # fmt: skip
    write_config(asked, tmp_path / "c.toml", "dpap-neuro\ntrain")
    assert TrainRequest(**read_config(tmp_path / "c.toml")) == TrainRequest(
        **{**vars(asked), "data_dir": str(tmp_path)}
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch = 3", "unknown key 'epoch'"),
        ("epochs = 3.5", "epochs is '3.5', expected a whole number"),
        ('epochs = "3"', "epochs is '3', expected a whole number"),
        ("epochs = true", "expected a whole number"),
        ("flip = 1", "expected true or false"),
        ("dataset = 5", "expected text"),
        ("decay = [1]", r"decay is '\[1\]', expected a number"),
        ("[train]\nepochs = 3", "unknown key 'train'"),
        ("epochs = ", "cannot be read as TOML"),
        ("\udcff", "cannot be read as TOML"),
    ],
)
def test_a_wrong_config_is_one_line(text, says, tmp_path):
    (tmp_path / "c.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=rf"c\.toml: .*{says}") as error:
        read_config(tmp_path / "c.toml")
    assert "\n" not in str(error.value)


def test_dashes_are_underscores(tmp_path):
    (tmp_path / "c.toml").write_text('learning-rate = 1\ndata_dir = "x"\n')
    assert read_config(tmp_path / "c.toml") == {"learning_rate": 1, "data_dir": "x"}


def test_an_existing_run_stays_without_force(data, run, tmp_path, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for more in ((), ("--resume",)):
        line = fails(monkeypatch, capsys, *arguments(data, run, *more))
        assert "holds results already (run.json), expected a new folder, or --force to replace them" in line
    assert "expected it without --resume" in fails(
        monkeypatch, capsys, *arguments(data, run, "--force", "--resume")
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    out = tmp_path / "again"
    trained(*arguments(data, out, "--pruner", "none", "--resume", "--seed", "1"))
    trained(
        *arguments(data, out, "--pruner", "none", "--resume", "--seed", "1")
    )  # goes on: nothing is left to do
    first = load_file(out / "weights.safetensors")
    trained(*arguments(data, out, "--pruner", "none", "--force"))
    second = load_file(out / "weights.safetensors")
    assert any((first[key] != second[key]).any() for key in first)
    # The checkpoint of the run that was replaced is gone.
    assert not (out / "checkpoint").exists()


def test_a_demo_and_a_sweep_stay_without_force(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "summary.json").write_text("{}")
    assert "holds results already (summary.json)" in fails(
        monkeypatch, capsys, "demo", "--out", str(tmp_path)
    )
    given = ["sweep", "--dataset", "nmnist", "--data-dir", str(data), "--model", "mlp", "--epochs", "1", "--batch", "8", "--bins", "5",
             "--downsample", "4", "--pruner", "none", "--seeds", "1", "--readout", "membrane", "--cache-dir", str(data / "cache"),
             "--out", str(tmp_path / "s")]  # fmt: skip
    trained(*given)
    table = (tmp_path / "s/runs.csv").read_text()
    trained(*given)
    assert (tmp_path / "s/runs.csv").read_text() == table
    slower = replace(DATASETS["nmnist"], defaults=Defaults(learning_rate=0.002))
    with monkeypatch.context() as patch:
        patch.setitem(DATASETS, "nmnist", slower)
        assert "found runs with learning_rate 0.003, expected 0.002" in fails(patch, capsys, *given)
    other = [*given, "--learning-rate", "0.1"]
    assert "found runs with learning_rate" in fails(monkeypatch, capsys, *other)
    trained(*other, "--force")
    assert json.loads((tmp_path / "s/runs.json").read_text())["learning_rate"] == 0.1
    assert "no --shard" in fails(monkeypatch, capsys, *given, "--force", "--shard", "1/2")


def test_tensorboard_is_asked_for_by_name(data, tmp_path, monkeypatch, capsys):
    assert "expected tensorboard" in fails(
        monkeypatch, capsys, *arguments(data, tmp_path / "a", "--log", "wandb")
    )
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    line = fails(monkeypatch, capsys, *arguments(data, tmp_path / "a", "--log", "tensorboard"))
    assert "pip install 'dpap-neuro[tensorboard]'" in line and not (tmp_path / "a").exists()


def test_tensorboard_reads_what_was_logged(data, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(*arguments(data, tmp_path / "a", "--pruner", "none", "--log", "tensorboard"))
    events = EventAccumulator(str(tmp_path / "a/tensorboard"))
    events.Reload()
    history = runs.read_record(tmp_path / "a")["history"]
    for name, key in (("loss", "loss"), ("test accuracy", "accuracy")):
        assert [(e.step, e.value) for e in events.Scalars(name)] == [
            (epoch["epoch"] + 1, pytest.approx(epoch[key], rel=1e-6)) for epoch in history
        ]
