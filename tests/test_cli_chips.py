"""Every command that takes a chip takes a name or a file, and shows its name as plain text."""

from __future__ import annotations

import json
import sys

import nir
import numpy as np
import pytest

pytest.importorskip("torch")

from graph_samples import graph, inp, lif, out
from test_chips import text_of, with_value
from typer.testing import CliRunner

from dpap_neuro.cli import app, main

NAME = "[bold]x[/nope] $\\\\frac"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of two convolutions of integrate-and-fire neurons with pooling, one that leaks, a raster, chips."""
    folder = tmp_path_factory.mktemp("chips")
    rng = np.random.default_rng(0)

    def nodes(neurons):
        return {
            "input": inp(2, 8, 8),
            "c1": nir.Conv2d((8, 8), rng.normal(size=(4, 2, 3, 3)), 1, 1, 1, 1, np.zeros(4)),
            "a": neurons(4, 8, 8),
            "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            "flat": nir.Flatten({"input": np.array([4, 4, 4])}, 0, -1),
            "fc": nir.Linear(rng.normal(size=(3, 64))),
            "b": neurons(3),
            "output": out(3),
        }

    def integrate(*shape):
        return nir.IF(np.ones(shape), np.full(shape, 2.0), np.zeros(shape))

    nir.write(folder / "if.nir", graph(nodes(integrate), dt=1e-3))
    nir.write(folder / "lif.nir", graph(nodes(lif), dt=1e-3))
    np.save(folder / "counts.npy", rng.integers(0, 3, (6, 2, 8, 8)).astype(np.uint8))
    np.save(folder / "single.npy", rng.integers(0, 2, (6, 2, 8, 8)).astype(np.uint8))
    narrow = with_value("format", "weight_bits", "[0, 2]")
    (folder / "narrow.toml").write_text(narrow.replace('name = "loihi1"', f'name = "{NAME}"'))
    (folder / "tight.toml").write_text(
        text_of("speck")
        .replace("65536, 65536, 65536", "64, 64, 64")
        .replace("32768, 32768, 16384", "64, 64, 64")
    )
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def fails(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["dpap-neuro", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and printed.out == ""
    return " ".join(printed.err.split())


def test_a_layer_to_a_core(folder, monkeypatch, capsys):
    values = json.loads(run("cores", folder / "if.nir", "--chip", "speck", "--json").stdout)
    assert values["fits"] and values["chip"] == "speck" and values["cores"] == values["lower_bound"] == 2
    first, second = values["layers"]
    assert (
        first["population"] == "a" and first["kernel_words"] == 2 * 16 * 4 and first["neuron_words"] == 4 * 64
    )
    assert second["pooling"] == {"a": 2} and second["kernel_words"] == 4 * 16 * 4
    assert first["core"] != second["core"] and first["neuron_words_of_core"] >= 256
    shown = run("cores", folder / "if.nir", "--chip", "speck").stdout
    assert "kernel" in shown and "128/16,384" in shown
    assert "'a': its membranes leak, those of speck cannot" in fails(
        monkeypatch, capsys, "cores", folder / "lif.nir", "--chip", "speck"
    )


def test_layers_that_fit_nowhere_are_exit_status_three(folder):
    values = json.loads(run("cores", folder / "if.nir", "--chip", folder / "tight.toml", "--json").stdout)
    assert values["fits"]
    tighter = folder / "tighter.toml"
    tighter.write_text((folder / "tight.toml").read_text().replace("16384, 16384, 16384", "64, 64, 64"))
    result = run("cores", folder / "if.nir", "--chip", tighter, code=3)
    assert "none" in result.stdout


@pytest.mark.parametrize("command", ["cores", "compare", "compile", "compile-json", "picture"])
def test_the_name_of_a_chip_is_plain_text(folder, tmp_path, command):
    chip = folder / "narrow.toml"
    if command == "cores":
        printed = run("cores", folder / "if.nir", "--chip", chip).stdout
    elif command == "compare":
        printed = run("compare", folder / "if.nir", folder / "lif.nir", "--chip", chip).stdout
    elif command == "compile":
        printed = run("compile", folder / "if.nir", "--chip", chip, "--out", tmp_path / "m.h5").stdout
        assert "2-bit weights" in " ".join(printed.split())
    elif command == "compile-json":
        printed = run(
            "compile", folder / "if.nir", "--chip", chip, "--out", tmp_path / "m.h5", "--json"
        ).stdout
        assert {layer["weight_bits"] for layer in json.loads(printed)["layers"]} == {2}
        return
    else:
        run("compare", folder / "if.nir", folder / "lif.nir", "--chip", chip, "--out", tmp_path / "m.png")
        assert (tmp_path / "m.png").stat().st_size > 1000
        return
    assert "[bold]x[/nope]" in printed.replace("\n", "")


def test_simulate_says_what_the_chip_would_not_see(folder):
    arguments = ("simulate", folder / "if.nir", "--chip", "loihi1", "--input")
    assert "loihi1 takes single spikes" in " ".join(run(*arguments, folder / "counts.npy").output.split())
    assert "single spikes" not in " ".join(run(*arguments, folder / "single.npy").output.split())
    graded = ("simulate", folder / "if.nir", "--chip", "loihi2", "--input", folder / "counts.npy")
    assert "single spikes" not in run(*graded).output


def test_simulate_compiles_for_the_chip(folder):
    spikes = [
        json.loads(
            run("simulate", folder / "if.nir", *more, "--input", folder / "counts.npy", "--json").stdout
        )["spikes"]
        for more in ([], ["--chip", "loihi2"], ["--chip", folder / "narrow.toml"])
    ]
    assert spikes[0] == spikes[1] != spikes[2]


@pytest.mark.parametrize("command", ["cores", "simulate", "evaluate", "compile", "train", "demo"])
def test_an_unknown_chip_is_one_line_before_anything_is_done(folder, tmp_path, monkeypatch, capsys, command):
    more = {
        "simulate": ["--input", folder / "counts.npy"],
        "evaluate": ["--dataset", "digits"],
        "compile": ["--out", tmp_path / "m.h5"],
        "train": ["--out", tmp_path / "run"],
        "demo": ["--out", tmp_path / "run"],
    }.get(command, [])
    model = [] if command in ("train", "demo") else [folder / "if.nir"]
    says = fails(monkeypatch, capsys, command, *model, *more, "--chip", "loihi9")
    assert (
        "error: chip 'loihi9': neither a built-in chip (loihi1, loihi2, speck, spinnaker2) nor a file" in says
    )
    assert not list(tmp_path.iterdir())
