"""The command line: one clear line and exit status 2 for wrong input, JSON for programs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from typer.testing import CliRunner

from dpap_neuro.cli import app, main
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.train import loop, runs


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_model(ModelSettings("mlp", (2, 34, 34), 10, NeuronSettings(0.06, 0.12)), seed=0).eval()
    metadata = {"bins": 5, "clip": 4, "class_names": [str(i) for i in range(10)], "dataset": "digits"}
    runs.save_run(folder, model, loop.History(), metadata)
    return folder


def fails(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["dpap-neuro", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("evaluate", "nothing.nir", "--dataset", "digits"), "nothing.nir"),
        (("cores", "nothing.nir"), "nothing.nir"),
        (("train", "--out", "{tmp}/x", "--dataset", "nmnist", "--data-dir", "{tmp}"), "NMNIST/Train"),
        (("train", "--out", "{tmp}/x", "--dataset", "cats"), "cats"),
        (("train", "--out", "{tmp}/x", "--pruner", "axe"), "axe"),
        (("train", "--out", "{tmp}/x", "--sparsity", "1.5"), "1.5"),
        (("train", "--out", "{tmp}/x", "--epochs", "0"), "epochs"),
        (("export", "{tmp}", "--out", "{tmp}/a.nir"), "run.json"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    error = fails(monkeypatch, capsys, *(a.format(tmp=tmp_path) for a in arguments))
    last = error.splitlines()[-1]
    assert last.startswith("error: ") and says in last
    assert list(tmp_path.iterdir()) == []


def test_evaluate_and_cores_print_one_json_object(run_folder):
    model = str(run_folder / "model.nir")
    common = ["--dataset", "digits", "--limit", "20", "--json"]
    runner = CliRunner()
    for backend in ("float", "fixed"):
        result = runner.invoke(app, ["evaluate", model, *common, "--backend", backend])
        assert result.exit_code == 0, result.output
        values = json.loads(result.stdout)
        assert values["n"] == 20 and values["steps"] == 5
        assert values["accuracy"] == values["correct"] / 20
    result = runner.invoke(app, ["cores", model, "--chip", "loihi1", "--json"])
    values = json.loads(result.stdout)
    assert sum(values["synapses_per_core"]) == values["synapses"] > 0
    assert sum(values["neurons_per_core"]) == 256 + 10
    assert len(values["neurons_per_core"]) == values["cores"]


def test_cores_that_do_not_suffice_exit_with_3(run_folder):
    result = CliRunner().invoke(
        app, ["cores", str(run_folder / "model.nir"), "--chip", "loihi1", "--max-cores", "1"]
    )
    assert result.exit_code == 3


def test_export_writes_what_training_wrote(run_folder, tmp_path):
    result = CliRunner().invoke(app, ["export", str(run_folder), "--out", str(tmp_path / "b.nir")])
    assert result.exit_code == 0
    assert "read as it is by norse" in " ".join(result.stderr.split())
    import nir

    a, b = nir.read(run_folder / "model.nir"), nir.read(tmp_path / "b.nir")
    for name, node in a.nodes.items():
        if hasattr(node, "weight"):
            np.testing.assert_array_equal(node.weight, b.nodes[name].weight)


def test_every_command_has_help_with_an_example():
    for command in (
        "demo",
        "train",
        "export",
        "evaluate",
        "cores",
        "inspect",
        "compile",
        "simulate",
        "fidelity",
    ):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0 and "Example" in result.output


def test_import_of_the_command_line_is_light():
    """Help must not wait for torch."""
    code = "import sys, dpap_neuro.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registries_are_named_in_the_help():
    """Whatever is registered: nothing is listed twice."""
    from dpap_neuro.networks import CELLS, MODELS
    from dpap_neuro.pruning import PRUNERS
    from hardware.chip.chips import BUILT_IN

    for command, names in (
        ("train", [*PRUNERS, *CELLS, *MODELS, *BUILT_IN]),
        ("sweep", [*PRUNERS, *MODELS]),
        ("compile", BUILT_IN),
    ):
        text = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output.split())
        for name in names:
            assert name in text, (command, name)


def test_data_sets_are_named_in_the_help():
    from dpap_neuro.data import DATASETS

    for command in ("train", "sweep", "evaluate"):
        text = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output.split())
        for name in DATASETS:
            assert name in text, (command, name)


@pytest.mark.parametrize("name", ["dvsgesture", "cifar10dvs", "ncaltech101", "shd"])
def test_what_a_data_set_needs_is_its_default_and_travels_with_the_file(name, tmp_path):
    """Trained on a folder with no word about binning, model or size, evaluated with none either: the same answers."""
    import event_files as files

    from dpap_neuro.data import DATASETS

    files.needs(name)
    files.make(name, tmp_path)
    out, runner = tmp_path / "run", CliRunner(env={"DPAP_NEURO_CACHE": str(tmp_path / "cache")})
    arguments = ["train", "--dataset", name, "--data-dir", str(tmp_path), "--out", str(out)]
    result = runner.invoke(app, [*arguments, "--pruner", "none", "--epochs", "1", "--batch", "4"])
    assert result.exit_code == 0, result.output
    run, defaults = json.loads((out / "run.json").read_text()), DATASETS[name].defaults
    assert run["request"]["dataset"] == name and run["request"]["seed"] == 0 and "torch" in run["versions"]
    assert run["model"]["name"] == defaults.model
    for key in ("bins", "clip", "downsample"):
        assert run["metadata"][key] == getattr(defaults, key)
    columns, rows, polarities = DATASETS[name].sensor_size
    small = [polarities, -(-rows // defaults.downsample), -(-columns // defaults.downsample)]
    assert run["model"]["input_shape"] == small
    assert len(list((tmp_path / "cache").iterdir())) == 1
    arguments = ["evaluate", str(out / "model.nir"), "--dataset", name, "--data-dir", str(tmp_path), "--json"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["steps"] == defaults.bins and values["accuracy"] == run["history"][-1]["accuracy"]
    result = runner.invoke(app, [*arguments, "--downsample", "3"])
    assert result.exit_code != 0
