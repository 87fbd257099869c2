"""Single neurons of feature maps that are pruned while a network learns: which ones, held at zero, saved, exported, finetuned."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import nir
import norse.torch as norse
import torch
from command_line import fails
from torch import nn
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.deploy.proof import integers, prove
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.dialects import for_peer
from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.exchange.nir_import import from_graph
from dpap_neuro.networks.models import ModelSettings, SpikingNetwork, build_model
from dpap_neuro.networks.neurons import IF, LIF, CubaLIF, NeuronSettings, Recurrent
from dpap_neuro.precision.network import ExactNetwork, Precision
from dpap_neuro.pruning import make_pruner
from dpap_neuro.pruning.finding import find_structure
from dpap_neuro.pruning.positions import Positions, mark
from dpap_neuro.train import loop, runs, sweeps
from dpap_neuro.train.loop import train
from dpap_neuro.train.planned import plan
from dpap_neuro.train.settings import TrainSettings, share_of_positions
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import from_nir
from hardware.graph.summary import synapses
from hardware.simulate import reference

CPU = torch.device("cpu")
SHAPE = (2, 10, 9)
NEURON = NeuronSettings(0.01, 0.02, v_th=0.4)
MODEL = ModelSettings("cnn", SHAPE, 3, NEURON)


def recordings(n=48, steps=5, seed=0):
    """Each class is bright in rows of its own; the last two rows and the first column are dark."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    x = rng.random((n, steps, *SHAPE)) < 0.05
    for i, label in enumerate(labels):
        rows = slice(1 + 2 * label, 3 + 2 * label)
        x[i, :, :, rows] |= rng.random(x[i, :, :, rows].shape) < 0.6
    x[..., -2:, :] = x[..., 0] = False
    return x.astype(np.uint8), labels


def layers(cell=LIF, settings=NEURON):
    torch.manual_seed(0)
    network = SpikingNetwork(
        nn.Conv2d(2, 4, 3, padding=1), cell(settings), nn.AvgPool2d(2), nn.Conv2d(4, 3, 3, bias=False), cell(settings),
        nn.Flatten(), nn.Linear(18, 3), cell(settings),
    )  # fmt: skip
    with torch.no_grad():
        for module in network:
            if hasattr(module, "weight"):
                module.weight *= 4
    return network.eval()


def pruned(network, wanted, seed=0):
    x = loop.as_input(recordings(seed=seed)[0], CPU)
    found = find_structure(network, x[:, :2])
    positions = Positions(found, share_of_positions(wanted))
    return positions, positions.prune(network, x.split(20, dim=1)), x


def counted(network, x):
    """Spikes of each feature map's neurons, layer by layer, one time step and recording after the other."""
    counts, handles = {}, []

    def hook(name):
        def add(_module, _args, result):
            for step in result:
                for one in step:
                    counts[name] = counts.get(name, 0) + one.int().numpy()

        return add

    for name in ("1", "4"):
        handles.append(network.get_submodule(name).register_forward_hook(hook(name)))
    network(x)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("wanted", ["silent", "0.1", "0.45", "0.9"])
def test_those_that_spike_least_go_first_and_the_border_before_the_middle(wanted):
    network = layers()
    with torch.no_grad():
        counts = counted(network, loop.as_input(recordings()[0], CPU))
    order = []
    for layer, name in enumerate(("1", "4")):
        _, height, width = counts[name].shape
        for number, (place, spikes) in enumerate(np.ndenumerate(counts[name])):
            _, y, x = place
            order.append((spikes, min(y, x, height - 1 - y, width - 1 - x), layer, number, name, place))
    silent = sum(entry[0] == 0 for entry in order)
    assert 0 < silent < len(order)
    wish = silent if wanted == "silent" else round(float(wanted) * len(order))
    expected = {name: np.zeros(counts[name].shape, bool) for name in counts}
    for *_, name, place in sorted(order)[:wish]:
        expected[name][place] = True
    positions, done, _ = pruned(network, wanted)
    for name in expected:
        if expected[name].all():
            expected[name][np.unravel_index(counts[name].argmax(), expected[name].shape)] = False
        np.testing.assert_array_equal(positions.maps[name].dead.numpy(), expected[name])
        assert done.layers[name] == [expected[name].sum(), expected[name].size]
    assert (done.neurons, done.dead) == (len(order), sum(mask.sum() for mask in expected.values()))
    assert done.silent == min(silent, wish)


@pytest.mark.parametrize("cell", [LIF, CubaLIF, IF])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_what_is_trained_is_what_the_file_says(cell, reset):
    settings = NeuronSettings(0.01, 0.02, v_th=0.4, tau_syn=0.015, reset=reset)
    network = layers(cell, settings)
    _, _, x = pruned(network, "0.5")
    with torch.no_grad():
        out = network(x)
    assert out.any()
    graph = from_nir(to_nir(network, SHAPE, 0.01))
    dead = network[1].dead.numpy()
    first = next(name for name in graph.order if graph.output_shape[name] == dead.shape and "1_" in name)
    np.testing.assert_array_equal(np.isinf(graph.nodes[first].v_threshold), dead)
    raster = x.transpose(0, 1).numpy().astype(np.uint8)
    run = reference.simulate(graph, raster)
    np.testing.assert_array_equal(run.output, out.transpose(0, 1).numpy())
    again = from_graph(graph)
    with torch.no_grad():
        assert torch.equal(again(x), out)
    again.train()(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in again.parameters())
    back = from_nir(to_nir(again.eval(), SHAPE, 0.01))
    for name in graph.order:
        if hasattr(graph.nodes[name], "v_threshold"):
            a, b = graph.nodes[name].v_threshold, back.nodes[name].v_threshold
            np.testing.assert_array_equal(np.isinf(a), np.isinf(b))


def test_norse_reads_an_infinite_threshold(tmp_path):
    network = layers()
    with torch.no_grad():
        for k in (0, 3, 6):
            network[k].weight *= 2
    _, _, x = pruned(network, "0.4")
    made, _ = for_peer(from_nir(to_nir(network, SHAPE, 0.01)), "norse")
    nir.write(tmp_path / "n.nir", made)
    with torch.no_grad():
        for b in range(4):
            theirs, state, spikes = norse.from_nir(nir.read(tmp_path / "n.nir"), dt=0.01), None, []
            for now in x[:, b]:
                z, state = theirs(now, state)
                spikes.append(z)
            expected = network(x[:, b : b + 1])[:, 0]
            assert expected.any() and torch.equal(torch.stack(spikes), expected)


@pytest.mark.parametrize(("wanted", "epochs"), [("silent", [9]), ("0.5", [5, 6, 7, 8, 9])])
def test_a_share_grows_in_steps_until_the_schedule_ends(wanted, epochs):
    network = layers()
    positions = Positions(find_structure(network, torch.zeros(5, 2, *SHAPE)), share_of_positions(wanted))
    shares = [positions.share_after(epoch, 3, 9) for epoch in range(12)]
    assert [epoch for epoch, share in enumerate(shares) if share is not None] == epochs
    given = [share for share in shares if share is not None]
    assert given == sorted(given) and given[-1] == (0.0 if wanted == "silent" else 0.5)
    assert positions.share_after(0, 0, 0) is not None  # a run of one epoch


def test_what_was_pruned_stays_so_as_the_share_grows():
    network = layers()
    x = loop.as_input(recordings()[0], CPU)
    positions = Positions(find_structure(network, x[:, :2]), 0.6)
    total, before, silent = 0, None, 0
    for share in (0.2, 0.4, 0.6):
        with torch.no_grad():
            counts = counted(network, x)
        alive = {name: ~positions.maps[name].dead.numpy() for name in counts}
        done = positions.prune(network, x.split(20, dim=1), share)
        dead = {name: positions.maps[name].dead.numpy().copy() for name in counts}
        silent += sum(int((dead[n] & alive[n] & (counts[n] == 0)).sum()) for n in counts)
        total = sum(mask.size for mask in dead.values())
        assert done.dead == round(share * total) == sum(mask.sum() for mask in dead.values())
        assert done.silent == silent
        assert before is None or all((dead[n] | ~before[n]).all() for n in dead)
        before = dead


def test_a_dead_neuron_learns_nothing_and_is_not_heard():
    network = layers().train()
    _, _, x = pruned(network, "0.5")
    x = x.clone().requires_grad_(True)
    spikes = network[1](network[0](x.flatten(0, 1)).unflatten(0, x.shape[:2]))
    dead = network[1].dead
    assert not spikes[:, :, dead].any()
    (gradient,) = torch.autograd.grad(spikes[:, :, dead].sum(), x)
    assert not gradient.any()


def test_dead_neurons_of_a_recurrent_population_are_not_heard_by_others():
    torch.manual_seed(0)
    whole = Recurrent(LIF(NEURON), 6)
    with torch.no_grad():
        whole.recurrent_weights.normal_(0, 2)
    some = copy.deepcopy(whole)
    some.neuron.dead = torch.tensor([True, False, False, True, False, False])
    with torch.no_grad():
        whole.recurrent_weights[:, some.neuron.dead] = 0
        x = torch.randn(20, 4, 6) * 2
        expected, found = whole(x), some(x)
    assert torch.equal(found, expected.masked_fill(some.neuron.dead, 0))
    assert (found != expected).any()


def test_connections_of_pruned_neurons_are_not_counted():
    """Position by position, through pooling, flattening, strides and groups."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), LIF(NEURON), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), LIF(NEURON),
        nn.Flatten(), nn.Linear(54, 5), LIF(NEURON),
    )  # fmt: skip
    network = SpikingNetwork(*network)
    x = torch.zeros(3, 2, *SHAPE)
    rng = np.random.default_rng(0)
    first, second = rng.random((4, 10, 9)) < 0.7, rng.random((6, 3, 2)) < 0.4
    network[1].dead, network[4].dead = torch.from_numpy(first), torch.from_numpy(second)
    network[6] = nn.Linear(36, 5)
    structure = find_structure(network, x)
    mark(network, structure, x[:, :1], loop=False)
    found = {name: p.connections_left().expand(p.shape).numpy() for name, p in structure.projections.items()}
    pooled = ~first[:, :10, :8].reshape(4, 5, 2, 4, 2).all((2, 4))
    expected = {"0": np.zeros((4, 2, 3, 3)), "3": np.zeros((6, 2, 3, 3)), "6": np.zeros((5, 36))}
    for name, there, heard, stride in (("0", ~first, np.ones(SHAPE, bool), 1), ("3", ~second, pooled, 2)):
        for o, i, ky, kx in np.ndindex(*expected[name].shape):
            source = i if name == "0" else o // 3 * 2 + i
            for y, x_ in np.argwhere(there[o]):
                row, column = stride * y - 1 + ky, stride * x_ - 1 + kx
                if 0 <= row < heard.shape[1] and 0 <= column < heard.shape[2]:
                    expected[name][o, i, ky, kx] += heard[source, row, column]
    expected["6"][:] = ~second.reshape(-1)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    whole = {name: p.connections().expand(p.shape).numpy() for name, p in structure.projections.items()}
    assert all((whole[n] >= found[n]).all() and whole[n].sum() > found[n].sum() for n in found)
    # Nobody is pruned any more: as before.
    network[1].dead = network[4].dead = None
    mark(network, structure, x[:, :1], loop=False)
    for name, p in structure.projections.items():
        np.testing.assert_array_equal(p.connections_left().expand(p.shape).numpy(), whole[name])


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("name", ["magnitude", "granet", "weighted", "dpap"])
def test_a_goal_of_synapses_counts_what_goes_with_neurons(name, compact):
    model = build_model(MODEL, 1)
    settings = TrainSettings(epochs=8, batch=16, seed=1, prune_positions="0.4", compact=compact)
    pruner = make_pruner(name, epochs=8, sparsity=0.6, count="synapses")
    history = train(model, pruner, recordings(), None, settings, CPU)
    left = history.epochs[-1].synapses_remaining
    assert left == synapses(from_nir(to_nir(model, SHAPE, 0.01)))
    wanted = 0.4 * history.epochs[-1].synapses
    assert 0.9 * wanted < left <= wanted
    # A network that has lost neurons already is charged for the others from the start.
    again = make_pruner(name, epochs=8, sparsity=0.6, count="synapses")
    again.attach(model, loop.as_input(recordings()[0][:2], CPU))
    assert again.tally.left() < 0.9 * again.tally.total()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("compact", [False, True])
def test_interrupted_and_resumed_equals_uninterrupted(compact, tmp_path):
    settings = TrainSettings(epochs=6, batch=16, seed=1, prune_positions="0.3", compact=compact)
    options = {"sparsity": 0.7, "structured": compact}

    def run(folder, stop_after=None):
        model = build_model(MODEL, 1)

        def stop(epoch, _):
            if epoch.epoch == stop_after:
                raise Interrupted

        pruner = make_pruner("weighted", epochs=6, **options)
        said = []
        history = train(
            model, pruner, recordings(), recordings(seed=1), settings, CPU, on_epoch=stop, checkpoint=folder, on_note=said.append,
        )  # fmt: skip
        return model, history, said

    model, expected, said = run(None)
    assert any("neurons of feature maps are pruned" in line for line in said)
    dead = {name: m.dead for name, m in model.named_modules() if getattr(m, "dead", None) is not None}
    shapes = [tuple(mask.shape) for mask in dead.values()]
    assert len(shapes) == 2 and all(len(shape) == 3 for shape in shapes)
    total = sum(mask.numel() for mask in dead.values())
    if not compact:
        assert sum(int(mask.sum()) for mask in dead.values()) == round(0.3 * total)
        assert expected.positions["neurons"] == total
    for stop_after in (2, 4):  # before and behind
        folder = tmp_path / str(stop_after)
        with pytest.raises(Interrupted):
            run(folder, stop_after)
        resumed, history, _ = run(folder)
        for name, value in model.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name
        assert history.positions == expected.positions
        assert [(e.loss, e.accuracy) for e in history.epochs] == [
            (e.loss, e.accuracy) for e in expected.epochs
        ]
    with pytest.raises(InputError, match=r"prune_positions 0.3, expected silent"):
        train(
            build_model(MODEL, 1), make_pruner("weighted", epochs=6, **options), recordings(), None,
            TrainSettings(epochs=6, batch=16, seed=1, prune_positions="silent", compact=compact), CPU, checkpoint=folder,
        )  # fmt: skip


def test_a_sweep_prunes_neurons_of_all_runs_but_the_dense_ones(tmp_path):
    data, shares = recordings(), (None, "0.4")
    tables = {}
    for share in shares:
        settings = TrainSettings(epochs=3, batch=16, prune_positions=share)
        planned = plan(["none", "magnitude"], [0.5], range(1))
        tables[share] = sweeps.sweep(
            tmp_path / f"{share}.csv", MODEL, lambda _: (data, data), planned, settings, CPU
        )
    (dense, whole), (same, fewer) = tables.values()
    assert (dense.events, dense.synapses_remaining) == (same.events, same.synapses_remaining)
    assert fewer.synapses_remaining < 0.8 * whole.synapses_remaining and fewer.events < 0.9 * whole.events
    settings = TrainSettings(epochs=3, batch=16, prune_positions="0.5")
    with pytest.raises(InputError, match=r"prune_positions"):
        sweeps.sweep(tmp_path / "0.4.csv", MODEL, lambda _: (data, data), planned, settings, CPU)


def test_until_the_first_neuron_goes_the_run_is_the_one_without():
    losses = []
    for wanted in (None, "silent"):
        settings = TrainSettings(epochs=3, batch=16, seed=1, prune_positions=wanted)
        history = train(build_model(MODEL, 1), make_pruner("none"), recordings(), None, settings, CPU)
        losses.append([epoch.loss for epoch in history.epochs])
    gone = 2  # behind the second of three epochs, after 70 %
    assert losses[0][:gone] == losses[1][:gone]
    x = loop.as_input(recordings()[0], CPU).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    neuron = LIF(NEURON)
    neuron.dead = torch.zeros(x.shape[2:], dtype=torch.bool)
    assert neuron(x).stride() == LIF(NEURON)(x).stride() == x.stride()


def test_channels_cut_out_take_their_positions_along():
    """Compacted or not, the same neurons are dead at the end, and an export without dead channels does as the network."""
    ends = []
    for compact in (False, True):
        model = build_model(MODEL, 1)
        settings = TrainSettings(epochs=4, batch=16, seed=1, prune_positions="silent", compact=compact)
        train(
            model,
            make_pruner("weighted", epochs=4, sparsity=0.85, structured=True),
            recordings(),
            None,
            settings,
            CPU,
        )
        ends.append(model)
    x = loop.as_input(recordings(seed=2)[0], CPU)
    for model in ends:
        graph = from_nir(to_nir(model, SHAPE, 0.01, compact=True))
        assert any(shape[0] < 12 for shape in graph.output_shape.values() if len(shape) == 3)
        run = reference.simulate(graph, x.transpose(0, 1).numpy().astype(np.uint8))
        with torch.no_grad():
            np.testing.assert_array_equal(run.output, model(x).transpose(0, 1).numpy())


@pytest.mark.parametrize("cell", [LIF, CubaLIF])
def test_integers_trained_on_are_those_that_run(cell):
    settings = NeuronSettings(0.01, 0.02, v_th=0.4, tau_syn=0.015)
    network = layers(cell, settings)
    _, _, x = pruned(network, "0.5")
    graph = from_nir(to_nir(network, SHAPE, 0.01, clip=1))
    kind = ModelSettings("imported", SHAPE, 3, settings)
    exact = ExactNetwork(graph, kind, Precision("loihi2", 4), 0.01)
    out = exact.train()(x)
    out.sum().backward()
    with torch.no_grad():
        for p in exact.parameters():
            p -= 1e-3 * torch.nan_to_num(p.grad)
    exact.recheck()
    exact.eval()
    compiled = integers(exact)
    dead = {p.name: p.dead for p in compiled.populations if p.dead is not None}
    assert sorted(mask.sum() for mask in dead.values()) == sorted(
        int(network[k].dead.sum()) for k in (1, 4) if network[k].dead.any()
    )
    counts = x.transpose(0, 1).numpy().astype(np.uint8)
    proof = prove(exact, [counts], compiled=compiled)
    assert proof.differing == 0 and proof.values > 0, proof.lines()


def test_a_run_folder_keeps_them(tmp_path):
    model = build_model(MODEL, 1)
    settings = TrainSettings(epochs=3, batch=16, prune_positions="silent")
    history = train(
        model, make_pruner("magnitude", epochs=3, sparsity=0.5), recordings(), None, settings, CPU
    )
    assert history.positions["dead"] == history.positions["silent"] > 0
    runs.save_run(tmp_path, model, history, {})
    loaded, _ = runs.load_run(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert json.loads((tmp_path / "run.json").read_text())["positions"] == history.positions
    x = loop.as_input(recordings(seed=2)[0], CPU)
    with torch.no_grad():
        assert torch.equal(model(x), loaded(x))
    graph = from_nir(runs.graph_of(loaded, {}))
    assert history.epochs[-1].synapses_remaining == synapses(graph) < history.epochs[0].synapses_remaining
    network, _ = compile_graph(graph, "loihi2")
    assert (
        sum(int(p.dead.sum()) for p in network.populations if p.dead is not None) == history.positions["dead"]
    )
    # A file's dead neurons stay dead when it is pruned again.
    again = from_graph(from_nir(runs.graph_of(loaded, {})))
    settings = TrainSettings(epochs=2, batch=16, prune_positions="0.01")
    train(again, make_pruner("none"), recordings(), None, settings, CPU)
    before = [m.dead for m in loaded.modules() if getattr(m, "dead", None) is not None]
    after = [m.dead for m in again.modules() if getattr(m, "dead", None) is not None]
    assert all((b | ~a).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("wanted", ["loud", "0", "1", "-0.1", "nan", "", "30%"])
def test_what_is_no_share(wanted):
    with pytest.raises(InputError, match=r"prune-positions: found .*, expected silent, or a share"):
        share_of_positions(wanted)


def test_networks_without_feature_maps(tmp_path, monkeypatch, capsys):
    settings = TrainSettings(epochs=2, batch=16, prune_positions="silent")
    with pytest.raises(InputError, match="prune-positions: found no feature map of spiking neurons"):
        train(
            build_model(ModelSettings("mlp", SHAPE, 3, NEURON)),
            make_pruner("none"),
            recordings(),
            None,
            settings,
            CPU,
        )
    out = tmp_path / "run"
    line = fails(monkeypatch, capsys, "train", "--prune-positions", "half", "--out", out)
    assert "prune-positions: found 'half', expected silent, or a share" in line
    line = fails(
        monkeypatch, capsys, "train", "--prune-positions", "silent", "--precision", "loihi", "--out", out
    )
    assert (
        "--prune-positions: cannot be together with --precision; prune in floats, then finetune the run"
        in line
    )
    assert not out.exists()


def test_the_option_is_shown():
    shown = CliRunner().invoke(app, ["train", "--help"], terminal_width=200).stdout
    assert "--prune-positions" in shown and "silent" in shown
