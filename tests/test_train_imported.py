"""A network that was trained elsewhere, read from its `.nir` file, is trained and pruned here and exported again."""

from __future__ import annotations

import sys

import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")
pytest.importorskip("tonic")

import torch
from graph_samples import SHARED, graph, inp, lif, out
from nir_networks import SETTINGS, same_spikes
from typer.testing import CliRunner

from dpap_neuro.cli import app, main
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.train import runs
from dpap_neuro.train.loop import History
from hardware.graph.parsing import from_nir, read_graph
from hardware.graph.summary import parameters


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Fifty recordings in N-MNIST's format: a class is a row of pixels that sends events."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for digit in range(10):
        (folder / "NMNIST" / "Train" / str(digit)).mkdir(parents=True)
        for number in range(5):
            t = np.sort(rng.integers(0, 300_000, 200))
            x, y, p = rng.integers(0, 34, 200), 3 * digit + rng.integers(0, 3, 200), rng.integers(0, 2, 200)
            rows = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], axis=1)
            path = folder / "NMNIST" / "Train" / str(digit) / f"{number:05}.bin"
            path.write_bytes(rows.astype(np.uint8).tobytes())
    return folder


def foreign(classes: int = 10, size: int = 34, **metadata: object) -> nir.NIRGraph:
    rng = np.random.default_rng(1)

    def weights(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * 0.3).astype(np.float32)

    side = size // 4
    nodes = {
        "input": inp(2, size, size),
        "pool": nir.SumPool2d(np.array([4, 4]), np.array([4, 4]), np.array([0, 0])),
        "0": nir.Conv2d((side, side), weights(4, 2, 3, 3), 1, 1, 1, 1, np.zeros(4, np.float32)),
        "layer.1": lif(4, side, side, tau=4e-4, v_threshold=0.2),
        "flat": nir.Flatten({"input": np.array([4, side, side])}, 0, -1),
        "fc": nir.Linear(weights(20, 4 * side * side)),
        "hidden": lif(20, tau=4e-4, v_threshold=0.2),
        "readout": nir.Affine(weights(classes, 20), np.zeros(classes, np.float32)),
        "last": lif(classes, tau=4e-4, v_threshold=0.2),
        "output": out(classes),
    }
    return graph(nodes, **metadata)


def train(model, data, folder, *arguments):
    common = ["--dataset", "nmnist", "--data-dir", data, "--epochs", 1, "--batch", 8, "--device", "cpu"]
    words = ["train", "--model", model, *common, "--out", folder, *arguments]
    return CliRunner().invoke(app, [*map(str, words)])


def test_foreign_network_is_pruned_and_exported(data, tmp_path):
    nir.write(tmp_path / "foreign.nir", foreign())
    before = read_graph(tmp_path / "foreign.nir")
    magnitude = ["--pruner", "magnitude", "--sparsity", 0.6]
    result = train(tmp_path / "foreign.nir", data, tmp_path / "run", "--bins", 5, *magnitude)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "dt = 0.0001 s assumed" in result.stderr
    after = read_graph(tmp_path / "run" / "model.nir")
    assert set(after.edges) == set(before.edges) and after.dt == 1e-4
    assert after.metadata["bins"] == 5 and after.metadata["class_names"] == list("0123456789")
    assert after.metadata["readout"] == "spikes" and "clip" not in after.metadata
    assert parameters(after) == pytest.approx(0.4 * parameters(before), abs=1)
    learned = after.nodes["readout"].weight != before.nodes["readout"].weight
    assert learned.any() and (after.nodes["fc"].weight == 0).any()
    np.testing.assert_array_equal(after.nodes["layer.1"].v_threshold, before.nodes["layer.1"].v_threshold)

    # The run folder gives the same network back, and it goes on with the binning of its file.
    network, metadata = runs.load_run(tmp_path / "run")
    x = torch.poisson(torch.full((5, 3, 2, 34, 34), 0.1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same_spikes(after, x, network(x).numpy())
        same_spikes(from_nir(runs.graph_of(network, metadata)), x, network(x).numpy())
    result = train(tmp_path / "run" / "model.nir", data, tmp_path / "again", "--pruner", "none")
    assert result.exit_code == 0 and "assumed" not in result.stderr, (result.output, result.exception)
    assert read_graph(tmp_path / "again" / "model.nir").metadata["bins"] == 5


def test_run_goes_on_from_its_checkpoint(data, tmp_path):
    nir.write(tmp_path / "a.nir", foreign(bins=4))
    for _ in range(2):
        result = train(tmp_path / "a.nir", data, tmp_path / "run", "--pruner", "none", "--resume")
        assert result.exit_code == 0, (result.output, result.exception)
    assert "epoch 1" not in result.stderr


@pytest.mark.parametrize(
    ("source", "arguments", "says"),
    [
        (foreign(bins=4), ["--decay", "0.5"], "--decay: "),
        (foreign(bins=4), ["--surrogate-slope", "5"], "--surrogate-slope: "),
        (foreign(), [], "--bins N"),
        (foreign(bins=4, size=32), [], "input of shape (2, 32, 32), the data has (2, 34, 34)"),
        (foreign(bins=4, classes=7), [], "returns shape (7,), expected (10,)"),
        (
            foreign(bins=4, kept_bins=np.array([1, 4])),
            [],
            "kept_bins: found 4, expected below the 4 time bins",
        ),
        (None, ["--dt", "0.1"], "--dt: is for a .nir file"),
    ],
)
def test_what_does_not_fit_is_one_line(source, arguments, says, data, tmp_path, monkeypatch, capsys):
    model = "cnn"
    if source is not None:
        model = str(tmp_path / "a.nir")
        nir.write(model, source)
    words = ["train", "--model", model, "--dataset", "nmnist", "--data-dir", str(data), "--pruner", "none"]
    words += ["--epochs", "1", "--out", str(tmp_path / "run"), *arguments]
    monkeypatch.setattr(sys, "argv", ["dpap-neuro", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2 and last.startswith("error: ") and says in last
    assert not (tmp_path / "run").exists()


def test_kept_bins_of_the_file_are_kept_on(data, tmp_path):
    nir.write(tmp_path / "a.nir", foreign(bins=6, kept_bins=np.array([1, 3, 4])))
    result = train(tmp_path / "a.nir", data, tmp_path / "run", "--pruner", "none")
    assert result.exit_code == 0, (result.output, result.exception)
    assert read_graph(tmp_path / "run" / "model.nir").metadata["kept_bins"].tolist() == [1, 3, 4]
    # A pruner counts in the bins that it was shown.
    network = build_model(ModelSettings("mlp", (2, 6, 6), 3, SETTINGS))
    runs.save_run(tmp_path / "b", network, History(kept_bins=(0, 2)), {"bins": 6, "kept_bins": [1, 3, 4]})
    assert read_graph(tmp_path / "b" / "model.nir").metadata["kept_bins"].tolist() == [1, 4]


def test_network_of_the_nir_paper_is_pruned_on_recordings(tmp_path):
    source, folder = SHARED / "nir" / "cnn_sinabs.nir", SHARED / "nmnist" / "NMNIST" / "Train"
    if not source.exists() or not folder.exists():
        pytest.skip("shared/data is not there")
    for digit in range(10):
        (tmp_path / "NMNIST" / "Train" / str(digit)).mkdir(parents=True)
        for path in sorted((folder / str(digit)).glob("*.bin"))[:10]:
            (tmp_path / "NMNIST" / "Train" / str(digit) / path.name).symlink_to(path.resolve())
    result = train(source, tmp_path, tmp_path / "run", "--bins", 15, "--pruner", "dpap", "--sparsity", 0.3)
    assert result.exit_code == 0, (result.output, result.exception)
    graph_ = read_graph(tmp_path / "run" / "model.nir")
    assert parameters(graph_) == pytest.approx(0.7 * 39_584, rel=0.02)
    # It counts in steps, so a step is as long as the data's.
    assert graph_.dt == pytest.approx(0.31 / 15)
    assert "dt = " not in result.stderr and "reset = zero assumed" in result.stderr
