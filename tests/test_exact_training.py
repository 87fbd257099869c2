"""Training on a chip's integers: commands, files, what is stored and counted, resuming, and what is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from graph_samples import graph, inp, lif, out
from test_exact_network import check_integers
from test_training import MODEL, recordings
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.deploy.proof import integers, prove
from dpap_neuro.errors import BadInput, InputError
from dpap_neuro.exchange.nir_export import to_nir, write_nir
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.precision import export, scratch
from dpap_neuro.precision.network import ExactNetwork, Precision
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import runs
from dpap_neuro.train.loop import TrainSettings, as_input, predict, train
from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph
from hardware.compile.pins import KEY
from hardware.errors import HardwareError
from hardware.files.network_file import load, save
from hardware.files.netx import restrict
from hardware.files.netx_reading import read_net
from hardware.files.netx_writing import write_net
from hardware.graph.parsing import from_nir, read_graph
from hardware.simulate.fidelity import predictions
from hardware.simulate.simulator import simulate

CPU = torch.device("cpu")


def exact(bits=4, cell="lif", readout="membrane", new=False, **precision):
    settings = replace(MODEL, cell=cell, readout=readout)
    network = build_model(settings, 1)
    scratch.calibrate(network, as_input(recordings()[0], CPU))
    source = from_nir(to_nir(network.eval(), (2, 8, 8), 0.01, readout=readout, clip=1))
    wanted = Precision(weight_bits=bits, **precision)
    return (
        scratch.from_scratch(network, source, settings, wanted)
        if new
        else ExactNetwork(source, settings, wanted)
    )


def learned(network, pruner=None, epochs=4, **more):
    pruner = make_pruner("none", epochs=epochs) if pruner is None else pruner
    settings = TrainSettings(epochs=epochs, batch=16, learning_rate=5e-3, shift=0)
    return train(network, pruner, recordings(), recordings(seed=1), settings, CPU, **more)


@pytest.mark.parametrize(
    ("new", "scales"), [(False, "fixed"), (False, "learned"), (True, "fixed"), (True, "learned")]
)
@pytest.mark.parametrize("cell", ["lif", "cubalif", "if", "plif"])
def test_a_network_learns_and_its_predictions_are_the_chips(new, scales, cell):
    network = exact(3, cell, new=new, scales=scales)
    history = learned(network)
    assert history.epochs[-1].loss < history.epochs[0].loss and history.epochs[-1].accuracy > 0.6
    x, _ = recordings(seed=2)
    proof = prove(network, [x[:30], x[30:]])
    assert proof.differing == 0 and proof.recordings == 60
    assert all(tally.active for tally in proof.populations.values())
    compiled = integers(network)
    check_integers(network, compiled)
    np.testing.assert_array_equal(predict(network, x, CPU), predictions(simulate(compiled, x).output))


def test_a_goal_counts_what_a_chip_stores():
    network = exact(3)
    wanted = 0.7
    history = learned(network, make_pruner("magnitude", epochs=6, sparsity=wanted), epochs=6)
    compiled = integers(network)
    stored = sum(int(np.count_nonzero(p.weight)) for p in compiled.projections)
    assert stored == history.epochs[-1].remaining <= round((1 - wanted) * history.epochs[-1].parameters)
    # Pruned early on, when more of the rest still rounded to something.
    assert stored > 0.5 * (1 - wanted) * history.epochs[-1].parameters
    assert history.epochs[-1].synapses_remaining == stored


def test_what_was_pruned_stays_pruned_in_finetuning():
    settings = replace(MODEL, readout="membrane")
    network = build_model(settings, 1)
    with torch.no_grad():
        network[1].weight[:, ::2] = 0
    source = from_nir(to_nir(network.eval(), (2, 8, 8), 0.01))
    finetuned = ExactNetwork(source, settings, Precision())
    learned(finetuned)
    weight = finetuned.synapses["input_to_3_lif"].weight
    assert not weight[:, ::2].any() and (weight[:, 1::2] != 0).all()


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    class Interrupted(Exception):
        pass

    def stop(epoch, _):
        if epoch.epoch == 2:
            raise Interrupted

    whole = exact(3, new=True)
    expected = learned(whole, epochs=5)
    with pytest.raises(Interrupted):
        learned(exact(3, new=True), epochs=5, checkpoint=tmp_path, on_epoch=stop)
    resumed = exact(3, new=True)
    history = learned(resumed, epochs=5, checkpoint=tmp_path)
    assert [(e.loss, e.accuracy) for e in history.epochs] == [(e.loss, e.accuracy) for e in expected.epochs]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_scales_are_chosen_anew_between_epochs_where_that_is_worth_it():
    network = exact(4)
    assert network.recheck() == ()
    before = {key: network.population(key).scale for key in network.populations}
    with torch.no_grad():
        network.synapses["input_to_3_lif"].weight *= 8
    assert network.recheck() == ("3_lif",)
    assert network.population("3_lif").scale < before["3_lif"]
    assert prove(network, [recordings()[0]]).differing == 0


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_every_file_holds_the_integers(tmp_path, chip):
    x, _ = recordings()
    network = ExactNetwork(exact_source(), replace(MODEL, readout="spikes"), Precision(chip, 5, 1))
    write_nir(export.to_nir(network), tmp_path / "m.nir")
    compiled = compile_graph(read_graph(tmp_path / "m.nir"), chip)[0]
    check_integers(network, compiled)
    save(compiled, tmp_path / "m.h5")
    run = simulate(compiled, x).output
    np.testing.assert_array_equal(simulate(load(tmp_path / "m.h5"), x).output, run)
    # NETX has no exponents: a network for it is trained without.
    narrow = restrict(load_chip(chip))
    with pytest.raises(HardwareError, match="were trained with the weight exponent"):
        compile_graph(read_graph(tmp_path / "m.nir"), narrow)
    network = exact_netx(chip)
    compiled = compile_graph(from_nir(export.to_nir(network)), narrow)[0]
    check_integers(network, compiled)
    write_net(compiled, tmp_path / "m.net")
    flat = x.reshape(*x.shape[:2], -1)
    run = simulate(compiled, flat).output
    assert run.any()
    np.testing.assert_array_equal(simulate(read_net(tmp_path / "m.net"), flat).output, run)


def exact_source():
    network = build_model(replace(MODEL, readout="spikes"), 1)
    scratch.calibrate(network, as_input(recordings()[0], CPU))
    return from_nir(to_nir(network.eval(), (2, 8, 8), 0.01, readout="spikes"))


def exact_netx(chip):
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(128),
        "fc": nir.Affine(
            rng.normal(size=(20, 128)).astype(np.float32), rng.normal(size=20).astype(np.float32)
        ),
        "n": lif(20),
        "fc2": nir.Linear(rng.normal(size=(3, 20)).astype(np.float32)),
        "n2": lif(3),
        "output": out(3),
    }
    settings = ModelSettings("imported", (128,), 3, NeuronSettings(1.0, 1.0), "spikes")
    source = from_nir(graph(nodes, dt=0.01, readout="spikes"))
    return ExactNetwork(source, settings, Precision(chip, 6, 1, netx=True))


def test_a_graph_that_was_changed_or_is_wanted_with_fewer_bits():
    network = exact(4, readout="spikes")
    source = from_nir(export.to_nir(network))
    assert compile_graph(source, "loihi2")[0].projections[0].weight_bits == 4
    assert compile_graph(source, "loihi2", weight_bits=2)[0].projections[0].weight_bits == 2
    for broken in ("{", "[]", json.dumps({"bits": 9, "populations": []})):
        with pytest.raises(HardwareError, match="chip_scales"):
            compile_graph(replace(source, metadata={**source.metadata, KEY: broken}), "loihi2")
    names = json.loads(source.metadata[KEY])
    for change in (lambda p: p.update(name="x"), lambda p: p["projections"].clear()):
        said = json.loads(json.dumps(names))
        change(said["populations"][0])
        with pytest.raises(HardwareError, match=r"3_lif.*the graph was changed"):
            compile_graph(replace(source, metadata={**source.metadata, KEY: json.dumps(said)}), "loihi2")


def chain(weight, threshold=1.0, count=1, **neuron):
    nodes = {
        "input": inp(weight.shape[1]),
        "fc": nir.Linear(weight),
        "n": lif(weight.shape[0], v_threshold=threshold, **neuron),
    }
    source = from_nir(graph({**nodes, "output": out(weight.shape[0])}, dt=0.01))
    settings = ModelSettings("imported", (weight.shape[1],), 2, NeuronSettings(0.01, 0.01), "spikes")
    return ExactNetwork(source, settings, Precision(max_count=count))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain(np.ones((2, 3)) * 1e-3, threshold=1e3), "node n: all weights from input round to 0"),
        (lambda: chain(np.linspace(0.3, 1, 1800).reshape(2, 900), count=255), r"layer n: its synapses can sum to [\d,]+, expected below 2\*\*24"),
        (lambda: exact(1), "node '3_lif': weights of both signs from 'input' need 2 bits at least"),
        (lambda: exact(9), "weights of 9 bits"),
        (lambda: Precision(timing="late"), "timing: found 'late'"),
        (lambda: Precision(scales="wild"), "scales: found 'wild'"),
        (lambda: Precision(max_count=0), "max_count: found 0"),
        (lambda: exact()(torch.full((3, 1, 2, 8, 8), 7.0)), "input: found counts from 7 to 7, expected 0 to 1"),
        (lambda: exact()(torch.zeros(3, 1, 2, 8, 8, dtype=torch.float64)), "input: found torch.float64"),
    ],
)  # fmt: skip
def test_what_no_chip_holds_is_refused(make, message):
    with pytest.raises(BadInput, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_sums_in_less_than_single_precision_are_refused(monkeypatch):
    network, x = exact(), torch.zeros(3, 1, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="autocast is on for cpu"):
        network(x)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    with pytest.raises(InputError, match="float32_matmul_precision: found 'medium'"):
        network(x)


def test_commands(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    common = ("--dataset", "digits", "--epochs", "1", "--batch", "128", "--model", "mlp", "--bins", "4")
    done = run(
        "train",
        *common,
        "--precision",
        "loihi",
        "--weight-bits",
        "4",
        "--pruner",
        "none",
        "--out",
        tmp_path / "new",
    )
    assert done.exit_code == 0, done.output
    assert "0 of " in done.output and "values differ" in done.output
    network, metadata = runs.load_run(tmp_path / "new")
    assert isinstance(network, ExactNetwork) and network.bits == 4 and metadata["dataset"] == "digits"
    again = compile_graph(read_graph(tmp_path / "new" / "model.nir"), "loihi2")[0]
    check_integers(network, again)
    proved = run("fidelity", tmp_path / "new", "--dataset", "digits", "--limit", "30", "--json")
    assert proved.exit_code == 0, proved.output
    values = json.loads(proved.stdout)
    assert values["differing"] == 0 and values["recordings"] == 30 and values["values"] > 1000
    assert all(p["active"] for p in values["populations"][:1])
    more = ("--dataset", "digits", "--epochs", "1", "--batch", "128", "--pruner", "none")
    for source in (tmp_path / "new", tmp_path / "new" / "model.nir"):
        done = run("finetune", source, *more, "--weight-bits", "3", "--force", "--out", tmp_path / "fine")
        assert done.exit_code == 0, done.output
        assert "0 of " in done.output
        assert json.loads((tmp_path / "fine" / "run.json").read_text())["precision"]["weight_bits"] == 3
    for arguments, message in (
        (("finetune", tmp_path / "none", *more), "not found, expected a run folder"),
        (("finetune", tmp_path / "new", *more, "--model", "mlp"), "--model"),
        (("train", *common, "--weight-bits", "4"), "--weight-bits: is for --precision"),
        (("train", *common, "--precision", "loihi", "--compact"), "--compact"),
        (("train", *common, "--precision", "loihi", "--chip", "loihi1"), "a budget"),
        (("train", *common, "--precision", "tpu"), "tpu"),
        (("train", *common, "--precision", "loihi", "--neuron", "relu"), "an artificial network"),
    ):
        failed = run(*arguments, "--out", tmp_path / "x")
        assert isinstance(failed.exception, BadInput) and message in str(failed.exception), failed.output


def test_events_that_jitter_moves_together_are_clipped_and_recordings_beyond_the_clip_refused():
    x, y = recordings()
    settings = TrainSettings(epochs=1, batch=16, shift=0, jitter=0.9)

    def trained(rasters):
        train(exact(), make_pruner("none", epochs=1), (rasters, y), None, settings, CPU)

    trained(np.minimum(x, 1))
    with pytest.raises(InputError, match="input: found counts from 0 to 3, expected 0 to 1"):
        trained(np.minimum(x, 1) * np.uint8(3))


def test_a_finetuned_network_learns_with_the_surrogate_of_its_run(tmp_path):
    runner = CliRunner()
    short = ["--epochs", "1", "--shift", "0", "--pruner", "none"]
    first = ["--model", "mlp", "--surrogate", "atan", "--surrogate-slope", "3"]
    result = runner.invoke(app, ["train", *short, *first, "--out", str(tmp_path / "float")])
    assert result.exit_code == 0, result.output
    for given, name, slope in (
        ([], "atan", 3.0),
        (["--surrogate-slope", "5"], "atan", 5.0),
        (["--surrogate", "sigmoid"], "sigmoid", 4.0),
    ):
        out = tmp_path / f"{name}{slope}"
        result = runner.invoke(
            app, ["finetune", str(tmp_path / "float"), *short[:4], *given, "--out", str(out)]
        )
        assert result.exit_code == 0, result.output
        neuron = json.loads((out / "run.json").read_text())["model"]["neuron"]
        assert (neuron["surrogate"], neuron["surrogate_slope"]) == (name, slope)
        assert runs.load_run(out)[0].settings.neuron.surrogate == name
