"""cores and compare: every number is the one that the functions give, and what does not fit says why."""

from __future__ import annotations

import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("tonic")

from command_line import fails, run
from graph_samples import graph, inp, lif, out
from typer.testing import CliRunner

from dpap_neuro.cli import app, placing, shared
from dpap_neuro.data import Binning, open_dataset, rasters
from dpap_neuro.deploy import comparison, evaluation
from dpap_neuro.deploy.opening import CompileOptions, open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from hardware.files.network_file import save
from hardware.network.integer import Network, Population
from hardware.placement import place
from hardware.simulate import simulator

KEYS = (
    "cores",
    "lower_bound",
    "fits",
    "synapses",
    "synapses_per_core",
    "neurons_per_core",
    "memory_bits_per_core",
    "axons_in_per_core",
    "axons_out_per_core",
    "crossing_spikes",
)


def write(path, channels, density, seed):
    rng = np.random.default_rng(seed)

    def some(*shape):
        return rng.normal(size=shape) * (rng.random(shape) < density)

    nodes = {
        "input": inp(2, 34, 34),
        "conv": nir.Conv2d((34, 34), some(channels, 2, 5, 5), 2, 0, 1, 1, np.full(channels, 0.02)),
        "n1": lif(channels, 15, 15, tau=0.1, r=2.0, v_threshold=0.5),
        "flat": nir.Flatten({"input": np.array([channels, 15, 15])}, 0, -1),
        "fc": nir.Affine(some(10, channels * 225), rng.normal(size=10) * 0.1),
        "n2": lif(10, tau=0.1, r=2.0, v_threshold=0.5),
        "output": out(10),
    }
    nir.write(path, graph(nodes, dt=0.06, bins=5, clip=4))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A network of 1,810 neurons, and a thinner one of 910."""
    folder = tmp_path_factory.mktemp("models")
    return write(folder / "dense.nir", 8, 1.0, 0), write(folder / "pruned.nir", 4, 0.3, 1)


def test_cores_says_what_the_placement_says(models):
    found = run("cores", models[0], "--chip", "loihi1")
    placement = place(open_model(models[0], CompileOptions("loihi1")).integers(), "loihi1")
    expected = placement.to_dict()
    assert {key: found[key] for key in KEYS} == {key: expected[key] for key in KEYS}
    assert found["cores"] == 2 and found["fits"] and sum(found["synapses_per_core"]) == found["synapses"]


def test_cores_takes_every_file_of_a_network(models, tmp_path):
    from_nir = run("cores", models[1], "--chip", "loihi1")
    for name in ("m.net", "m.h5"):
        run("compile", models[1], "--chip", "loihi1", "--out", tmp_path / name)
        found = run("cores", tmp_path / name, "--chip", "loihi1")
        assert {key: found[key] for key in KEYS if "memory" not in key} == {
            key: from_nir[key] for key in KEYS if "memory" not in key
        }


def test_what_does_not_fit_says_which_limit_where_and_by_how_much(models):
    result = CliRunner().invoke(app, ["cores", str(models[0]), "--chip", "loihi1", "--max-cores", "1"])
    assert result.exit_code == 3
    said = " ".join(result.stderr.split())
    assert "network: cores 2 > 1 (1 over)" in said
    assert "1 core holds 1,024 neurons, the network has 1,810 (786 over, 176.8%)" in said
    found = run("cores", models[0], "--chip", "loihi1", "--max-synapses-per-core", 1000, code=3)
    most = max(found["synapses_per_core"])
    core = found["synapses_per_core"].index(most)
    assert found["broken"] == [f"core {core}: synapses_per_core {most} > 1000 ({most - 1000} over)"]


def test_measured_spikes_weigh_what_crosses(models):
    plain = run("cores", models[0], "--chip", "loihi1")
    found = run("cores", models[0], "--chip", "loihi1", "--dataset", "digits", "--limit", 5)
    assert plain["crossing_spikes_unit"] == "each neuron once"
    assert found["crossing_spikes_unit"] == "per recording"
    opened = open_model(models[0], CompileOptions("loihi1"))
    rates = evaluation.measured_rates(opened, Recordings("digits", limit=5))
    network = opened.integers()
    digits = open_dataset("digits", None, "test").recordings
    few = [digits[i] for i in np.linspace(0, len(digits) - 1, 5).astype(int)]
    raster = rasters(few, Binning(5, None, 4), (34, 34, 2))
    counts = simulator.simulate(network, raster).counts["n1"]
    np.testing.assert_allclose(rates["n1"], counts.mean(axis=0))
    np.testing.assert_allclose(rates["input"], (raster > 0).sum(axis=1).mean(axis=0))
    assert found["crossing_spikes"] == place(network, "loihi1", firing_rates=rates).crossing_spikes > 0


def test_compare_puts_networks_side_by_side(models, tmp_path):
    found = run("compare", *models, "--chip", "loihi1", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    dense, pruned = found["networks"]
    for path, values in zip(models, found["networks"], strict=True):
        placement = place(open_model(path, CompileOptions("loihi1")).integers(), "loihi1")
        counts = placement.synapses_per_core
        assert values["synapses_per_core"] == counts.tolist() and values["synapses"] == counts.sum()
        assert values["synapses_per_core_median"] == np.median(counts)
        assert (values["synapses_per_core_min"], values["synapses_per_core_max"]) == (
            counts.min(),
            counts.max(),
        )
        assert values["memory_bits"] == placement.memory_bits_per_core.sum() and values["accuracy"] is None
    assert dense["parameters"] == 8 * 50 + 10 * 1800 and pruned["parameters"] < 0.4 * 9200
    assert dense["cores"] == 2 and pruned["cores"] == 1
    result = CliRunner().invoke(app, ["compare", *map(str, models), "--chip", "loihi1"])
    assert result.exit_code == 0 and "dense.nir" in result.stdout and "synapses per core" in result.stdout


def test_compare_measures_or_finds_accuracies(models, tmp_path):
    values = run("compare", models[1], "--dataset", "digits", "--limit", 20)["networks"][0]
    evaluated = run("evaluate", models[1], "--dataset", "digits", "--limit", 20, "--backend", "fixed")
    assert values["accuracy"] == evaluated["accuracy"] and "20 recordings" in values["accuracy_from"]
    models[1].with_name("summary.json").write_text('{"accuracy_pruned": 0.75}')
    dense, pruned = run("compare", *models)["networks"]
    assert dense["accuracy"] is None
    assert (pruned["accuracy"], pruned["accuracy_from"]) == (0.75, "summary.json")
    (tmp_path / "run.json").write_text('{"history": [{"accuracy": 0.5}, {"accuracy": 0.875}]}')
    assert comparison.recorded_accuracy(tmp_path / "model.nir") == (0.875, "run.json")
    assert comparison.recorded_accuracy(tmp_path / "other.nir") == (None, None)
    for wrong in ("1.5", "-0.1", "NaN", '"x"', "true"):
        (tmp_path / "run.json").write_text(f'{{"history": [{{"accuracy": {wrong}}}]}}')
        with pytest.raises(InputError, match=r"run\.json: found an accuracy of .*, expected 0 to 1"):
            comparison.recorded_accuracy(tmp_path / "model.nir")


def test_names_are_no_markup_and_no_number_is_cut_off(models, tmp_path, monkeypatch):
    folder = tmp_path / "run[best]"
    folder.mkdir()
    files = [folder / f"{i}.nir" for i in range(7)]
    for file in files:
        file.write_bytes(models[0].read_bytes())
    monkeypatch.setattr(placing.stdout, "width", 80)

    def shown(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--chip", "loihi1"])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout.replace("\n", "")

    assert "run[best]" in shown("cores", files[0])
    text = shown("compare", *files, "--out", folder / "a.png")
    assert "run[best]/a.png" in text and "\u2026" not in text


def test_a_network_without_an_input_is_one_line(tmp_path, monkeypatch, capsys):
    save(Network((), (Population("n", (10,)),), (), ("n",), metadata={"bins": 2}), tmp_path / "a.h5")
    assert "has 0 inputs" in fails(
        monkeypatch, capsys, "cores", tmp_path / "a.h5", "--dataset", "digits", "--limit", 1
    )
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    assert "has 0 inputs" in fails(
        monkeypatch, capsys, "simulate", tmp_path / "a.h5", "--input", tmp_path / "x.npy"
    )


def test_labels_are_as_long_as_they_must_be(models):
    network = comparison.compare([models[1]], CompileOptions())[0]
    from dataclasses import replace

    def of(*names):
        return comparison.labels([replace(network, model=name) for name in names])

    assert of("a/x.nir", "b/y.nir") == ["x.nir", "y.nir"]
    assert of("a/x.nir", "b/x.nir") == ["a/x.nir", "b/x.nir"]
    assert of("x.nir", "x.nir") == ["x.nir", "x.nir"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cores", "{m}", "--max-cores", "0"), "max_cores is 0"),
        (("cores", "{m}", "--max-synapses", "-1"), "max_synapses is -1"),
        (("cores", "{m}", "--chip", "loihi9"), "loihi9"),
        (("cores", "{m}", "--dataset", "cats"), "cats"),
        (("cores", "{t}/no.net"), "no.net"),
        (("compare", "{m}", "{t}/no.nir"), "no.nir"),
        (("compare", "{m}", "--out", "{t}/a.txt"), "a.txt"),
        (("compare", "{m}", "--chip", "{t}/no.toml"), "no.toml"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(models, arguments, says, tmp_path, monkeypatch, capsys):
    error = fails(monkeypatch, capsys, *(a.format(m=models[0], t=tmp_path) for a in arguments))
    assert error.startswith("error: ") and says in error
    assert list(tmp_path.iterdir()) == []


def test_cores_for_time_says_whose_rates_and_costs(models, tmp_path):
    plain = run("cores", models[0], "--chip", "loihi1")
    assert plain["objective"] == "cores" and plain["step_ns"] is None and "rates" not in plain
    network = open_model(models[0], CompileOptions("loihi1")).integers()
    options = ("--objective", "time", "--max-cores", 4)
    found = run("cores", models[0], "--chip", "loihi1", *options)
    assert found["rates"] == "assumed: 0.1 spikes a step"
    wanted = place(network, "loihi1", objective="time", max_cores=4)
    assert found["step_ns"] == wanted.step_ns and found["cores"] == wanted.cores <= 4
    measured = run("cores", models[0], "--chip", "loihi1", *options, "--dataset", "digits", "--limit", 3)
    assert measured["rates"] == "measured" and measured["step_ns"] != found["step_ns"]
    shown = CliRunner().invoke(app, ["cores", str(models[0]), "--chip", "loihi2", *map(str, options)]).stdout
    text = " ".join(shown.split())
    assert "firing rates are assumed: every neuron and input 0.1 times a step" in text
    assert "costs of loihi2 are assumed" in text


def test_cores_against_time_as_table_and_picture(models, tmp_path):
    picture = tmp_path / "cores.png"
    arguments = [
        "cores",
        str(models[0]),
        "--chip",
        "loihi1",
        "--trade-off",
        "--max-cores",
        "6",
        "--out",
        str(picture),
    ]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0 and "us per step" in shown.stdout and picture.read_bytes()[:4] == b"\x89PNG"
    points = run(*arguments)["trade_off"]
    assert [point["cores"] for point in points] == sorted(point["cores"] for point in points)
    assert points[-1]["cores"] <= 6 and points[-1]["step_ns"] < points[0]["step_ns"]


def test_cores_shows_limits_and_both_counts(models, monkeypatch):
    monkeypatch.setattr(placing.stdout, "width", 80)
    found = run("cores", models[0], "--chip", "loihi1")
    inspected = run("inspect", models[0])
    shown = CliRunner().invoke(app, ["cores", str(models[0]), "--chip", "loihi1"]).stdout
    assert found["synapses_before_rounding"] == inspected["synapses"] >= found["synapses"]
    text = " ".join(shown.split())
    assert (
        f"{found['synapses']:,} synapses after rounding for the chip ({inspected['synapses']:,} before)"
        in text
    )
    assert "a core holds 1,024" in text and "tight: neurons, 88.4% of what these cores hold" in text
    assert max(map(len, shown.splitlines()[:12])) <= 80


def test_energy_by_the_chips_own_costs(models, tmp_path, monkeypatch):
    picture = tmp_path / "floor.png"
    arguments = ["energy", str(models[0]), "--dataset", "digits", "--limit", "2", "--out", str(picture)]
    found = run(*arguments)
    assert picture.read_bytes()[:4] == b"\x89PNG" and found["sanafe"] is None
    assert found["energy_j"] == pytest.approx(sum(found["energy_parts_j"].values()))
    assert found["power_own_pace_w"] == pytest.approx(found["energy_j"] / (5 * 0.06))
    faster = run(*arguments, "--objective", "time", "--max-cores", "4")
    assert faster["latency_s"] < found["latency_s"] and faster["events"] == found["events"]
    monkeypatch.setattr(placing.stdout, "width", 80)
    monkeypatch.setattr(shared.Lines, "SHORT", 0.0)
    shown = CliRunner().invoke(app, [*arguments, "--chip", "loihi2"])
    text = " ".join(shown.stdout.split())
    for words in ("left out: static power", "45 nm convention", "bottleneck", "costs of loihi2 are assumed"):
        assert words in text
    assert "counting" in shown.stderr


def test_a_chip_without_costs_has_no_times(models, tmp_path, monkeypatch, capsys):
    text = chip_text("loihi1")
    path = tmp_path / "mine.toml"
    path.write_text(text[: text.index("[costs.")])
    assert run("cores", models[0], "--chip", path)["fits"]
    for command in (
        ("cores", models[0], "--objective", "time"),
        ("energy", models[0], "--dataset", "digits"),
    ):
        assert "has no costs" in fails(monkeypatch, capsys, *command, "--chip", path)


def chip_text(name):
    from hardware.chip import chips

    return chips.Path(chips.__file__).with_name(f"{name}.toml").read_text()
