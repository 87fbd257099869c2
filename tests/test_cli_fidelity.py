"""fidelity on the command line, one set of options for all commands, recordings that are not the network's."""

from __future__ import annotations

import json
from pathlib import Path

import nir
import numpy as np
import pytest

pytest.importorskip("sklearn")

from command_line import fails, run
from graph_samples import graph, inp, lif, out
from typer.testing import CliRunner

from dpap_neuro.cli import app
from hardware.compile.compiler import compile_graph
from hardware.files.network_file import load
from hardware.graph.parsing import read_graph
from hardware.simulate import reference
from hardware.simulate.fidelity import agreements, overall, predictions
from hardware.simulate.simulator import simulate

TINYNET = Path(__file__).parents[1].parent / "shared" / "data" / "lava" / "tinynet"


def write(path, classes=10, side=34, **metadata):
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(2, side, side),
        "pool": nir.SumPool2d(np.array([4, 4]), np.array([4, 4]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([2, side // 4, side // 4])}, 0, -1),
        "fc": nir.Affine(rng.normal(size=(20, 2 * (side // 4) ** 2)) * 0.4, rng.normal(size=20) * 0.1),
        "a": lif(20, tau=0.1, r=2.0, v_threshold=0.5),
        "fd": nir.Affine(rng.normal(size=(classes, 20)), np.full(classes, 0.1)),
        "b": lif(classes, tau=0.1, r=2.0, v_threshold=0.5),
        "output": out(classes),
    }
    nir.write(path, graph(nodes, dt=0.06, bins=5, clip=4, reset="zero", **metadata))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "m.nir", dataset="digits")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Rasters and labels of a file, and what is in it."""
    rng = np.random.default_rng(4)
    x = (rng.random((12, 7, 2, 34, 34)) < 0.1).astype(np.uint8)
    labels = rng.integers(0, 10, 12)
    path = tmp_path_factory.mktemp("recorded") / "x.npz"
    np.savez(path, input=x, labels=labels)
    return path, x, labels


# --- fidelity ---


def test_fidelity_reports_both_runs(model, recorded, tmp_path):
    path, x, labels = recorded
    found = run(
        "fidelity",
        model,
        "--input",
        path,
        "--weight-bits",
        4,
        "--out",
        tmp_path / "r.json",
        "--plot",
        tmp_path / "p.png",
    )
    exact = reference.simulate(read_graph(model), x, record=["a", "b"])
    network = compile_graph(read_graph(model), "loihi2", weight_bits=4)[0]
    fixed = simulate(network, x, record={"a": ("spikes",), "b": ("spikes",)})
    parts = agreements(exact.spikes, fixed.spikes)
    assert found["agreement"] == overall(parts).share < 1
    assert found["differing_spikes"] == overall(parts).either - overall(parts).both
    assert found["accuracy_float"] == (predictions(exact.output) == labels).mean()
    assert found["accuracy_fixed"] == (predictions(fixed.output) == labels).mean()
    assert found["predictions_alike"] == (predictions(exact.output) == predictions(fixed.output)).mean()
    assert [p["name"] for p in found["populations"]] == ["a", "b"] and found["weight_bits"] == 4
    for p in found["populations"]:
        assert p["agreement"] == parts[p["name"]].share <= p["agreement_alone"]
        assert p["chance"] < p["agreement"] <= p["agreement_within"] and p["rate_float"] > 0 < p["rate_fixed"]
        assert set(p["first_difference"]) == {"recording", "step", "neuron"} and p["membrane_error"] > 0
    assert json.loads((tmp_path / "r.json").read_text()) == found
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_fits_80_columns_and_says_what_to_mend(model):
    arguments = [
        "fidelity",
        str(model),
        "--dataset",
        "digits",
        "--limit",
        "4",
        "--weight-bits",
        "3",
        "--attribution",
    ]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines()) and "\u2026" not in result.stdout
    assert "alone" in result.stdout and "weights input -> a" in result.stdout and "chance" in result.stdout
    shares = run(*arguments)["attribution"]
    assert list(shares.values()) == sorted(shares.values()) and min(shares.values()) < 1


def test_agreement_below_what_is_asked_for_is_exit_3(model, recorded):
    coarse = ("fidelity", model, "--input", recorded[0], "--weight-bits", 2, "--min-agreement")
    found = run(*coarse, 0.999, code=3)
    assert 0 < found["agreement"] < 0.999
    assert run(*coarse, found["agreement"])["agreement"] == found["agreement"]


def test_a_file_that_was_compiled_before_is_what_is_compared(model, recorded, tmp_path):
    run("compile", model, "--weight-bits", 4, "--out", tmp_path / "m.h5")
    direct = run("fidelity", model, "--input", recorded[0], "--weight-bits", 4)
    found = run("fidelity", model, "--input", recorded[0], "--integers", tmp_path / "m.h5")
    for key in ("agreement", "accuracy_fixed", "differing_spikes"):
        assert found[key] == direct[key]
    assert all(p["membrane_error"] is None for p in found["populations"])


# --- one set of options ---


def test_pairs_are_chosen_as_compile_chooses_them(model, recorded, tmp_path, capsys):
    """Of a data set on its training part, as `compile` does, whatever part is reported; of a file on its own recordings."""
    options = ("--pairs", "auto", "--weight-bits", 3)
    run("compile", model, "--out", tmp_path / "m.h5", "--dataset", "digits", *options)
    capsys.readouterr()
    x = ("--dataset", "digits", "--limit", 4)
    for command, keys in (
        (("evaluate", "--backend", "fixed"), ("spikes", "correct")),
        (("simulate",), ("spikes", "events")),
        (("cores",), ("synapses", "cores")),
    ):
        name, *more = command
        chosen = CliRunner().invoke(app, [str(a) for a in (name, model, *x, *options, *more, "--json")])
        assert chosen.exit_code == 0 and "pairs auto: " in chosen.stderr, chosen.output
        assert "10 recordings of digits, train" in " ".join(chosen.stderr.split())
        assert "->" in chosen.stderr
        fixed = run(name, tmp_path / "m.h5", *x, *more)
        for key in keys:
            assert json.loads(chosen.stdout)[key] == fixed[key]
    found = run("fidelity", model, *x, *options)
    plain = run("fidelity", model, *x, "--weight-bits", 3)
    assert found["agreement"] > plain["agreement"]
    (note,) = (note for note in found["notes"] if note.startswith("pairs auto"))
    assert "digits, train" in note
    networks = run("compare", model, model, "--input", recorded[0], *options)["networks"]
    assert networks[0]["notes"] and "6 recordings of" in networks[0]["notes"][0]
    assert networks[0]["synapses"] > run("cores", model, "--weight-bits", 3)["synapses"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--chip", "loihi1"),
        ("--weight-bits", 3),
        ("--pairs", "all"),
        ("--pairs", "input->a"),
        ("--reset", "zero"),
    ],
)
def test_what_is_evaluated_is_what_was_compiled(model, recorded, tmp_path, options):
    run("compile", model, "--out", tmp_path / "m.h5", *options)
    network = load(tmp_path / "m.h5")
    counts = simulate(network, recorded[1]).counts
    x = ("--input", recorded[0])
    chip = options if "--chip" in options else ()
    for file, more in ((model, options), (tmp_path / "m.h5", chip)):
        evaluated = run("evaluate", file, *x, "--backend", "fixed", *more)
        assert evaluated["spikes"] == sum(int(c.sum()) for c in counts.values())
        simulated = run("simulate", file, *x, *more, "--limit", 12)
        assert simulated["spikes"] == {name: int(c.sum()) for name, c in counts.items()}
        assert run("compare", file, *x, *more)["networks"][0]["accuracy"] == evaluated["accuracy"]
    first, second = (
        run("cores", file, *more) for file, more in ((model, options), (tmp_path / "m.h5", chip))
    )
    assert first["synapses_per_core"] == second["synapses_per_core"]


def test_evaluate_without_labels_has_no_accuracy(model, recorded, tmp_path):
    np.savez(tmp_path / "x.npz", input=recorded[1])
    found = run("evaluate", model, "--input", tmp_path / "x.npz")
    assert found["accuracy"] is None and found["n"] == 12 and found["spikes"] > 0
    np.save(tmp_path / "x.npy", recorded[1])
    assert run("evaluate", model, "--input", tmp_path / "x.npy")["spikes"] == found["spikes"]


def test_the_reset_that_is_asked_for_is_run_in_float_and_on_the_chip(recorded, tmp_path):
    path = write(tmp_path / "m.nir")
    for reset, backend in ((r, b) for r in ("zero", "subtract") for b in ("float", "fixed")):
        found = run("evaluate", path, "--input", recorded[0], "--backend", backend, "--reset", reset)
        exact = reference.simulate(read_graph(path), recorded[1], reset=reset).counts
        assert found["spikes"] == pytest.approx(
            sum(c.sum() for c in exact.values()), rel=0 if backend == "float" else 0.1
        )


# --- simulate ---


def test_simulate_keeps_what_is_named(model, recorded, tmp_path):
    network = compile_graph(read_graph(model), "loihi2")[0]
    exact = simulate(network, recorded[1], "chip", reset_interval=4, reset_offset=1, record=["a", "b"])
    arguments = ("simulate", model, "--input", recorded[0], "--limit", 12, "--out", tmp_path / "s.npz")
    clock = ("--timing", "chip", "--reset-interval", 4, "--reset-offset", 1)
    run(*arguments, *clock, "--record", "u,v", "--record", "b:spikes")
    with np.load(tmp_path / "s.npz") as written:
        assert sorted(written.files) == ["output", "spikes/b", "u/a", "u/b", "v/a", "v/b"]
        for name in written.files[1:]:
            variable, population = name.split("/")
            np.testing.assert_array_equal(written[name], getattr(exact, variable)[population])
    np.save(tmp_path / "o.npy", exact.output)
    assert run(*arguments, *clock, "--expect", tmp_path / "o.npy")["differing"] == 0
    assert run(*arguments, "--expect", tmp_path / "o.npy", code=1)["differing"] > 0


@pytest.mark.skipif(not TINYNET.is_dir(), reason=f"{TINYNET} is absent")
def test_a_recorded_run_of_loihi_2_is_replayed_by_one_command():
    bias = ("--input-bias", TINYNET / "input_bias.npy", "--steps", 15)
    found = run("simulate", TINYNET / "network.net", *bias, "--expect", TINYNET / "output.npy")
    assert found["differing"] == 0 and found["spikes"]["layer2"] == 92
    found = run(
        "simulate", TINYNET / "network.net", "--steps", 15, "--expect", TINYNET / "output.npy", code=1
    )
    assert found["differing"] > 0


# --- what is not the network's ---


def test_a_network_of_another_data_set_is_said(model, tmp_path):
    other = write(
        tmp_path / "other.nir", dataset="nmnist", class_names=json.dumps([str(n) for n in range(10)])
    )
    result = CliRunner().invoke(app, ["evaluate", str(other), "--dataset", "digits", "--limit", "2"])
    assert result.exit_code == 0
    assert "was trained on nmnist, not on digits" in " ".join(result.stderr.split())
    assert "not on digits" in run("evaluate", other, "--dataset", "digits", "--limit", 2)["notes"][0]
    assert "notes" not in run("evaluate", model, "--dataset", "digits", "--limit", 2)


@pytest.mark.parametrize("command", ["evaluate", "fidelity", "compare"])
@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"classes": 7}, "digits: has 10 classes, .* tells 7 apart"),
        ({"side": 32}, "digits: its recordings have shape 2x34x34, .* takes 2x32x32"),
        (
            {"class_names": json.dumps([*"0123456789"[:9], "cat"])},
            "digits: class 9 is '9', of .* it is 'cat'",
        ),
    ],
)
def test_recordings_that_are_not_the_networks(command, metadata, says, tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "m.nir", **metadata)
    error = fails(monkeypatch, capsys, command, path, "--dataset", "digits", "--limit", 2)
    import re

    assert re.search(says, error), error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fidelity", "{m}"), "either --dataset NAME or --input FILE"),
        (("fidelity", "{m}", "--dataset", "digits", "--min-agreement", "2"), "min-agreement: found 2"),
        (("fidelity", "{m}", "--dataset", "digits", "--min-agreement", "nan"), "min-agreement: found nan"),
        (("fidelity", "{m}", "--dataset", "digits", "--backend", "float"), "float"),
        (("fidelity", "{m}", "--dataset", "digits", "--limit", "0"), "limit: found 0"),
        (("fidelity", "{m}", "--dataset", "digits", "--limit", "1", "--tau", "0"), "time constant is 0"),
        (("fidelity", "{m}", "--dataset", "digits", "--limit", "1", "--within", "99"), "within 99 steps"),
        (("fidelity", "{m}", "--dataset", "digits", "--plot", "{t}/a.txt"), ".png, .svg or .pdf"),
        (("fidelity", "{m}", "--dataset", "digits", "--out", "{t}/a.txt"), ".json"),
        (("fidelity", "{m}", "--input", "{t}/none.npz"), "none.npz: cannot be read"),
        (("fidelity", "{m}", "--input", "{x}/empty.npz"), "at least one recording"),
        (("fidelity", "{x}/m.h5", "--dataset", "digits"), "fidelity needs the .nir file"),
        (
            ("fidelity", "{m}", "--dataset", "digits", "--integers", "{x}/m.h5", "--pairs", "all"),
            "leave out --pairs",
        ),
        (("evaluate", "{m}", "--input", "{x}/labels.npz"), "labels are 0 to 10, expected 0 to 9"),
        (("evaluate", "{m}", "--input", "{x}/few.npz"), "labels are int64 of shape (2,)"),
        (("evaluate", "{m}", "--input", "{x}/other.npz"), "expected an array named input"),
        (("evaluate", "{m}", "--input", "{x}/empty.npz", "--bins", "3"), "--bins: is for a data set"),
        (("evaluate", "{x}/m.h5", "--dataset", "digits", "--weight-bits", "4"), "leave out --weight-bits"),
        (("evaluate", "{m}", "--dataset", "digits", "--backend", "fixed", "--pairs", "a->c"), "found a->c"),
        (
            ("evaluate", "{m}", "--dataset", "digits", "--backend", "fixed", "--pairs", "some"),
            "pairs: found 'some'",
        ),
        (("cores", "{m}", "--pairs", "auto"), "give --dataset NAME or --input FILE"),
        (("compare", "{m}", "{m}", "--pairs", "auto"), "give --dataset NAME or --input FILE"),
        (("simulate", "{m}", "--steps", "3", "--pairs", "auto"), "give --dataset NAME or --input FILE"),
        (
            ("cores", "{m}", "--dataset", "digits", "--pairs", "auto", "--chip", "speck"),
            "speck has no exponents",
        ),
        (("evaluate", "{m}", "--dataset", "digits", "--reset", "half"), "reset is 'half'"),
        (("simulate", "{m}", "--dataset", "digits", "--steps", "3"), "either"),
        (("simulate", "{m}", "--steps", "0"), "steps: found 0"),
        (("simulate", "{m}", "--steps", "3", "--timing", "slow"), "timing: found 'slow'"),
        (("simulate", "{m}", "--steps", "3", "--reset-interval", "3"), "give --timing chip"),
        (("simulate", "{m}", "--steps", "3", "--input-layer", "spikes"), "only a .net file"),
        (("simulate", "{m}", "--steps", "3", "--input-layer", "sounds"), "input-layer: found 'sounds'"),
        (("simulate", "{m}", "--steps", "3", "--expect", "{x}/few.npy"), "has shape (2,)"),
        (("simulate", "{m}", "--steps", "3", "--out", "{t}/s.npz", "--record", "a:w"), "record: found 'a:w'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    model, wrong, arguments, says, tmp_path, monkeypatch, capsys
):
    error = fails(monkeypatch, capsys, *(a.format(m=model, t=tmp_path, x=wrong) for a in arguments))
    assert error.startswith("error: ") and says in error
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def wrong(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    x = np.zeros((11, 4, 2, 34, 34), np.uint8)
    np.savez(folder / "empty.npz", input=x[:0])
    np.savez(folder / "labels.npz", input=x, labels=np.arange(11))
    np.savez(folder / "few.npz", input=x, labels=np.arange(2))
    np.savez(folder / "other.npz", raster=x)
    np.save(folder / "few.npy", np.zeros(2))
    result = CliRunner().invoke(app, ["compile", str(model), "--out", str(folder / "m.h5")])
    assert result.exit_code == 0
    return folder
