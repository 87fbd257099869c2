"""evaluate --anytime: the read-out so far after every step of the chip, what it has cost, and stopping at a margin."""

from __future__ import annotations

import json
import subprocess
import sys

import nir
import numpy as np
import pytest
from command_line import fails, run
from graph_samples import graph, inp, lif, out
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.deploy import anytime
from dpap_neuro.deploy.charging import charge
from dpap_neuro.deploy.evaluation import evaluate
from dpap_neuro.deploy.opening import CompileOptions, open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from hardware.chip.chips import load_chip
from hardware.placement.loads import spike_trains
from hardware.simulate.simulator import simulate


def written(folder, spiking=True, bias=0.1):
    """A small network in a file, and recordings of 8 steps in which each class is busy on pixels of its own."""
    rng = np.random.default_rng(3)
    last = {"tau": 0.1, "r": 2.0}
    nodes = {
        "input": inp(12),
        "fc1": nir.Affine(rng.normal(size=(20, 12)) * 0.6, np.full(20, bias)),
        "n1": lif(20, tau=0.1, r=2.0, v_threshold=0.7),
        "fc2": nir.Affine(rng.normal(size=(3, 20)) * 0.4, np.full(3, bias)),
        "n2": lif(3, tau=0.1, r=2.0, v_threshold=0.6)
        if spiking
        else nir.LI(np.full(3, last["tau"]), np.full(3, last["r"]), np.zeros(3)),
        "output": out(3),
    }
    nir.write(folder / "m.nir", graph(nodes, dt=0.06))
    labels = np.arange(24) % 3
    rate = np.full((24, 8, 12), 0.1)
    for i, label in enumerate(labels):
        rate[i, :, 4 * label : 4 * label + 4] = 0.6
    counts = (rng.random(rate.shape) < rate).astype(np.uint8)
    np.savez(folder / "r.npz", input=counts, labels=labels)
    return folder / "m.nir", folder / "r.npz", counts, labels


@pytest.mark.parametrize("spiking", [True, False])
def test_readout_and_costs_so_far_are_those_of_a_slow_count(spiking, tmp_path):
    path, file, counts, labels = written(tmp_path, spiking)
    model = open_model(path, CompileOptions("loihi1"))
    found = anytime.measure(model, Recordings(file=file))
    network = model.integers()
    # On the zero-delay clock, whose output the chip's is `depth` steps later.
    output = simulate(network, counts).output
    assert found.depth > 0 and found.steps == 8 + found.depth and found.n == 24
    for n in range(24):
        so_far = [0.0] * 3
        for step in range(found.steps):
            if step >= found.depth:
                so_far = [so_far[c] + float(output[n, step - found.depth, c]) for c in range(3)]
            assert found.predicted[n, step] == so_far.index(max(so_far))
            first, second, _ = sorted(so_far, reverse=True)
            assert found.margins[n, step] == pytest.approx(first - second)
    whole = evaluate(model, Recordings(file=file), "fixed")
    assert found.accuracy[-1] == whole.accuracy and found.accuracy[0] == np.mean(labels == 0)
    assert (found.predicted[:, -1] == whole.predictions).all()


def test_costs_add_up_to_those_of_all_steps(tmp_path):
    # Without biases no state is there before a recording, so that `energy` and fresh states are the same.
    path, file, counts, _ = written(tmp_path, bias=0.0)
    model = open_model(path, CompileOptions("loihi1"))
    found = anytime.measure(model, Recordings(file=file))
    charged = charge(model, Recordings(file=file), load_chip("loihi1"))
    assert found.energy[:, -1].mean() == pytest.approx(charged.spent.total * 1e-12)
    trains = spike_trains(model.integers(), counts)
    degree = {p.source: (p.weight != 0).sum(0) for p in model.integers().projections}
    by_hand = np.zeros((24, found.steps))
    for source, each in degree.items():
        each = np.asarray(each).reshape(-1)
        for n, step, neuron in np.argwhere(trains[source] != 0):
            by_hand[n, step] += each[neuron]
    np.testing.assert_array_equal(found.events, by_hand.cumsum(1))
    assert (np.diff(found.energy, axis=1) > 0).all()


def test_a_recording_stops_at_its_first_step_with_the_margin(tmp_path):
    path, file, _, labels = written(tmp_path)
    found = anytime.measure(open_model(path, CompileOptions("loihi1")), Recordings(file=file))
    stopped = found.stop(2)
    right, steps, events, energy = 0, 0, 0.0, 0.0
    for n in range(24):
        end = next((k for k in range(found.steps) if found.margins[n, k] >= 2), found.steps - 1)
        assert stopped.ended[n] == end + 1
        right += found.predicted[n, end] == labels[n]
        steps, events, energy = (
            steps + end + 1,
            events + found.events[n, end],
            energy + found.energy[n, end],
        )
    assert stopped.accuracy == right / 24 and stopped.steps == pytest.approx(steps / 24)
    assert stopped.events == pytest.approx(events / 24) and stopped.energy == pytest.approx(energy / 24)
    assert len(set(stopped.ended)) > 1 and stopped.steps < found.steps
    never = found.stop(1e9)
    assert never.steps == found.steps and never.alike == 1.0 and never.accuracy == found.accuracy[-1]
    levels = found.levels()
    assert [one.margin for one in levels] == sorted({one.margin for one in levels}) and len(levels) > 1
    assert [one.steps for one in levels] == sorted(one.steps for one in levels)
    for margin in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"margin: found .*, expected a finite number above 0"):
            found.stop(margin)


def test_table_json_and_picture(tmp_path):
    path, file, _, _ = written(tmp_path)
    picture = tmp_path / "a.png"
    values = run("evaluate", path, "--input", file, "--anytime", "--margin", "2", "--chip", "loihi1", "--plot", picture)  # fmt: skip
    found = anytime.measure(open_model(path, CompileOptions("loihi1")), Recordings(file=file))
    assert values["accuracy"] == found.accuracy.tolist() and values["depth"] == found.depth
    assert values["stopped"]["mean_steps"] == found.stop(2).steps
    assert values["stopped"]["steps_of_recordings"] == found.stop(2).ended.tolist()
    assert values["energy_j"][-1] == pytest.approx(found.energy[:, -1].mean())
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = CliRunner().invoke(app, ["evaluate", str(path), "--input", str(file), "--anytime"]).output
    assert f"{found.steps} " in said and "mean steps" in said and "stopped at a margin, in spikes" in said
    # No labels, and a chip without costs: what is left is said.
    np.save(tmp_path / "r.npy", np.load(file)["input"])
    bare = run("evaluate", path, "--input", tmp_path / "r.npy", "--anytime", "--chip", "spinnaker2")
    assert bare["accuracy"] is None and bare["same_as_at_the_end"][-1] == 1.0
    json.dumps(bare)


def test_evaluate_says_rates_and_silence(tmp_path):
    path, file, counts, labels = written(tmp_path)
    found = run("evaluate", path, "--input", file, "--backend", "fixed")
    network = open_model(path).integers()
    spikes = simulate(network, counts).counts
    rates = {name: spikes[name].sum() / (24 * 8 * spikes[name][0].size) for name in ("n1", "n2")}
    rates = {"n1": rates["n1"], "n2": rates["n2"], "input": np.count_nonzero(counts) / counts.size}
    assert found["spikes_per_neuron_and_step"] == pytest.approx(rates)
    said = CliRunner().invoke(app, ["evaluate", str(path), "--input", str(file), "--backend", "fixed"]).output
    assert f"n1 {rates['n1']:.4f}" in said and "synaptic operations" in said and "never spikes" not in said
    np.savez(tmp_path / "dark.npz", input=np.zeros_like(counts), labels=labels)
    quiet, _, _, _ = written(tmp_path, bias=0.0)
    for backend in ("float", "fixed"):
        dark = run("evaluate", quiet, "--input", tmp_path / "dark.npz", "--backend", backend)
        assert any(
            "layer n1, n2 never spikes on these recordings: all of them get" in n for n in dark["notes"]
        )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--anytime", "--backend", "float"), "--anytime: runs the chip's integers, found --backend float"),
        (("--anytime", "--margin", "0"), "margin: found 0, expected a finite number above 0"),
        (("--margin", "2"), "--margin: is for --anytime"),
        (("--plot", "a.png"), "--plot: is for --anytime"),
        (("--anytime", "--plot", "a.doc"), "a.doc"),
    ],
)
def test_bad_options(more, says, tmp_path, monkeypatch, capsys):
    path, file, _, _ = written(tmp_path)
    assert says in fails(monkeypatch, capsys, "evaluate", path, "--input", file, *more)


def test_it_imports_nothing_that_learns(tmp_path):
    path, file, _, _ = written(tmp_path)
    arguments = ["dpap-neuro", "evaluate", str(path), "--input", str(file), "--anytime", "--json"]
    code = (
        f"import sys; sys.argv = {arguments!r}; from dpap_neuro.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'norse', 'tonic', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
