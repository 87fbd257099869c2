"""What a person sees of a `.nir` file: the table of `inspect`, and which time step each command assumes."""

from __future__ import annotations

import json

import nir
import numpy as np
import pytest
from graph_samples import cuba_lif, graph, inp, lif, mixed, out
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.cli import graphs as commands


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setattr(commands.stdout, "width", 80)


def test_table_fits_a_terminal_and_says_it_all(tmp_path):
    nir.write(tmp_path / "a.nir", mixed())
    text = run("inspect", tmp_path / "a.nir").stdout
    assert max(map(len, text.splitlines())) <= 80
    row = next(line.split() for line in text.splitlines() if " conv " in line)
    # parameters, synapses (of 4 channels, 3x3 positions, one channel of 3x2 taps), stored, sparsity
    assert row == ["conv", "Conv2d", "4x3x3", "24", "216", "216", "0.0%"]
    for words in ("sub.lif -> sub.w", "fc -> sub.lif", "tau_mem 0.004 s", "class_names: ['a', 'b', 'c']"):
        assert words in text
    assert "dt = 0.001 s from the file's metadata" in text


def test_edges_of_a_chain_go_without_saying(tmp_path):
    nir.write(tmp_path / "a.nir", graph({"input": inp(2), "lif": lif(2), "output": out(2)}))
    assert "->" not in run("inspect", tmp_path / "a.nir").stdout


def test_names_are_no_markup_and_move_no_cursor(tmp_path):
    nodes = {"input": inp(2), "[red]x[bold]\x1b[2J": cuba_lif(2), "output": out(2)}
    nir.write(tmp_path / "a.nir", graph(nodes, **{"[nothing]": "\x07[blink]"}))
    text = run("inspect", tmp_path / "a.nir").stdout
    assert "[red]x[bold]" in text and "[nothing]: '\\x07[blink]'" in text
    assert "\x1b" not in text and "\x07" not in text


def test_each_command_says_what_time_step_it_assumes(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("tonic")
    nodes = {
        "input": inp(2, 34, 34),
        "flat": nir.Flatten({"input": np.array([2, 34, 34])}, 0, -1),
        "fc": nir.Affine(np.full((10, 2312), 0.01, np.float32), np.zeros(10, np.float32)),
        "lif": lif(10),
        "output": out(10),
    }
    path = tmp_path / "a.nir"
    nir.write(path, graph(nodes))
    data = ["--dataset", "digits", "--bins", 2, "--limit", 2]
    commands = {
        "evaluate": [*data],
        "simulate": [*data],
        "compile": ["--out", tmp_path / "a.net"],
        "cores": [],
        "inspect": [],
    }
    said = "dt = 0.0001 s assumed, as in the NIR paper and in snnTorch: the file names none"
    for command, arguments in commands.items():
        result = run(command, path, *arguments)
        shown = result.stdout if command == "inspect" else result.stderr
        assert said in " ".join(shown.split()), command
        assert "dt = 0.0001" not in run(command, path, *arguments, "--dt", 0.01).output, command
        reset = "reset = zero assumed: the file names none; snnTorch's default is subtraction"
        assert reset in " ".join(shown.split()), command
    assert json.loads(run("inspect", path, "--dt", 0.01, "--json").stdout)["dt"] == 0.01


@pytest.mark.parametrize("suffix", [".net", ".h5"])
def test_integer_networks_are_shown_too(tmp_path, suffix):
    nodes = {
        "input": inp(3),
        "fc": nir.Linear(np.eye(4, 3, dtype=np.float32)),
        "lif": lif(4),
        "output": out(4),
    }
    nir.write(tmp_path / "a.nir", graph(nodes, dt=1e-3))
    run("compile", tmp_path / "a.nir", "--out", tmp_path / f"a{suffix}")
    text = run("inspect", tmp_path / f"a{suffix}").stdout
    row = next(line.split() for line in text.splitlines() if "input -> lif" in line)
    assert row[3] in ("dense", "sparse") and row[4:7] == ["3", "3", "8"] and row[-1] == "0"
    assert "dt = 0.001 s" in text
    shown = json.loads(run("inspect", tmp_path / f"a{suffix}", "--json").stdout)
    assert shown["projections"][0]["synapses"] == 3 and shown["populations"][-1]["neurons"] == 4
    refused = CliRunner().invoke(app, ["inspect", str(tmp_path / f"a{suffix}"), "--dt", "0.01"])
    assert refused.exit_code != 0


def test_export_for_another_framework(tmp_path):
    nodes = {"input": inp(2), "n": cuba_lif(2), "output": out(2)}
    nir.write(tmp_path / "a.nir", graph(nodes, dt=1e-3))
    done = run("export", tmp_path / "a.nir", "--out", tmp_path / "b.nir", "--for", "spikingjelly")
    assert "dt=0.001" in done.stderr and "reset = zero assumed" in done.stderr
    made = nir.read(tmp_path / "b.nir").nodes["n"]
    assert np.allclose(made.r, made.tau_mem / 1e-3) and np.allclose(made.w_in, made.tau_syn / 1e-3)
    for peer, words in (("rockpool", "subtract"), ("lava-dl", "NETX"), ("brian", "expected one of")):
        refused = CliRunner().invoke(
            app, ["export", str(tmp_path / "a.nir"), "--out", str(tmp_path / "c.nir"), "--for", peer]
        )
        assert (
            refused.exit_code != 0 and words in str(refused.exception) and not (tmp_path / "c.nir").exists()
        )
    refused = CliRunner().invoke(app, ["export", str(tmp_path / "a.nir"), "--out", str(tmp_path / "c.nir")])
    assert refused.exit_code != 0 and "--for" in str(refused.exception)


@pytest.mark.parametrize(("said", "lines"), [({"reset_delay": 1}, 1), ({}, 0)])
def test_a_reset_that_no_chip_has_is_said_by_commands_that_run_integers(tmp_path, said, lines):
    nodes = {"input": inp(3), "n": lif(3), "output": out(3)}
    nir.write(tmp_path / "a.nir", graph(nodes, dt=1e-3, reset="subtract", **said))
    np.save(tmp_path / "x.npy", np.ones((2, 6, 3), np.uint8))
    text = " ".join(run("cores", tmp_path / "a.nir", "--chip", "loihi2").stderr.split())
    assert text.count("one step late (reset_delay)") == lines
    shown = run("simulate", tmp_path / "a.nir", "--input", tmp_path / "x.npy", "--chip", "loihi2")
    assert " ".join(shown.stderr.split()).count("one step late (reset_delay)") == lines
