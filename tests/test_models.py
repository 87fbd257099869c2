"""Networks, their training, and the door to the deployment side: same spikes in Norse, in NIR, nearly so in integers."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import nir
import norse.torch as norse
import torch
from torch import nn

from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import to_nir, write_nir
from dpap_neuro.files import write_sealed
from dpap_neuro.networks import NEURONS
from dpap_neuro.networks.models import ModelSettings, SpikingNetwork, build_model, logits
from dpap_neuro.networks.neurons import LI, LIF, NeuronSettings
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, runs
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import read_graph
from hardware.simulate import fidelity, reference, simulator

SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.03, v_th=0.4)


def randomised(*layers: nn.Module) -> SpikingNetwork:
    """A network whose batch norms have statistics of their own, ready to export."""
    torch.manual_seed(1)
    network = SpikingNetwork(*layers)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data *= 3.0
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 2.0)
            nn.init.uniform_(module.bias, -0.1, 0.2)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.2, 1.0)
    return network.eval()


NETWORKS = {
    "linear": lambda: randomised(nn.Flatten(), nn.Linear(2 * 8 * 6, 7), LIF(SETTINGS)),
    "batch norm": lambda: randomised(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        LIF(SETTINGS),
        nn.Flatten(),
        nn.Linear(192, 5),
        LIF(SETTINGS),
    ),
    "stride, bias": lambda: randomised(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0)), LIF(SETTINGS)),
    "grouped, dilated": lambda: randomised(
        nn.Conv2d(2, 6, 3, dilation=2, padding=2, groups=2), LIF(SETTINGS)
    ),
    "average pooling": lambda: randomised(
        nn.Conv2d(2, 4, 3, padding=1),
        LIF(SETTINGS),
        nn.AvgPool2d(2),
        nn.Dropout(),
        nn.Conv2d(4, 3, 3),
        LIF(SETTINGS),
    ),
    "sum pooling": lambda: randomised(
        nn.LPPool2d(1, 2), nn.Flatten(), nn.Linear(24, 5, bias=False), nn.BatchNorm1d(5), LIF(SETTINGS)
    ),
    "membrane": lambda: randomised(
        nn.Flatten(), nn.Linear(96, 7), LIF(SETTINGS), nn.Linear(7, 3), LI(SETTINGS)
    ),
    "IAF": lambda: randomised_cells(norse.IAFCell(), norse.IAFCell()),
    "cells": lambda: randomised_cells(norse.LIFBoxCell(dt=0.002), norse.LIBoxCell(dt=0.002)),
}


class Steps(nn.Module):
    """A bare Norse cell, run over time as `Neuron` does."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, out = None, []
        for current in x:
            z, state = self.cell(current, state)
            out.append(z)
        return torch.stack(out)


def randomised_cells(first: nn.Module, second: nn.Module) -> nn.Sequential:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(96, 12), first, nn.Linear(12, 4), second)
    for number in (1, 3):
        network[number].weight.data *= 5.0
    return network


def run_torch(network: nn.Sequential, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        if isinstance(network, SpikingNetwork):
            return network(x).transpose(0, 1).numpy()
        for layer in network:
            if type(layer).__module__.startswith("norse"):
                x = Steps(layer)(x)
            else:
                x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return x.transpose(0, 1).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_model_export_reference_simulator_agree(name, tmp_path):
    """Identical spikes, but where a membrane lies within 1e-5 of its threshold; those are counted, and none is here."""
    network = NETWORKS[name]()
    dt = 0.002 if name == "cells" else 0.001 if name == "IAF" else SETTINGS.dt
    write_nir(to_nir(network, (2, 8, 6), dt), tmp_path / "a.nir")
    graph = read_graph(tmp_path / "a.nir")
    rng = np.random.default_rng(0)
    raster = rng.poisson(0.5, (3, 20, 2, 8, 6)).astype(np.uint8)
    expected = run_torch(network, loop.as_input(raster, torch.device("cpu")))
    found = reference.simulate(graph, raster).output
    assert expected.any() and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("membrane", "cells", "IAF")])
def test_integers_spike_nearly_alike(name, tmp_path):
    write_nir(to_nir(NETWORKS[name](), (2, 8, 6), SETTINGS.dt), tmp_path / "a.nir")
    graph = read_graph(tmp_path / "a.nir")
    raster = np.random.default_rng(1).poisson(0.5, (4, 20, 2, 8, 6)).astype(np.uint8)
    network, _ = compile_graph(graph, "loihi1")
    alike = fidelity.agreement(
        reference.simulate(graph, raster).output, simulator.simulate(network, raster).output
    )
    assert alike.either > 20 and alike.share > 0.8


def test_written_graph_reads_back_identical(tmp_path):
    network = NETWORKS["batch norm"]()
    graph = to_nir(network, (2, 8, 6), SETTINGS.dt, bins=20, class_names=["a", "b"], kept_bins=[0, 2])
    write_nir(graph, tmp_path / "a.nir")
    back = nir.read(tmp_path / "a.nir")
    assert set(back.edges) == set(graph.edges) and set(back.nodes) == set(graph.nodes)
    for name, node in graph.nodes.items():
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(back.nodes[name], key), value)
                if isinstance(node, nir.LIF):
                    assert value.shape == (4, 8, 6) or value.shape == (5,)
    read = read_graph(tmp_path / "a.nir")
    assert read.dt == SETTINGS.dt and read.metadata["bins"] == 20
    assert read.metadata["class_names"] == ["a", "b"] and list(read.metadata["kept_bins"]) == [0, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.nir"]


def test_pruned_weights_are_exact_zeros_in_the_file(tmp_path):
    network = NETWORKS["batch norm"]()
    with torch.no_grad():
        network[0].weight[1] = 0.0
    graph = to_nir(network, (2, 8, 6), SETTINGS.dt)
    weight = graph.nodes["0_conv2d"].weight
    assert not weight[1].any() and weight[0].all()


@pytest.mark.parametrize(
    ("layer", "says"),
    [(nn.MaxPool2d(2), "AvgPool2d"), (nn.Softmax(1), "expected one of"), (nn.BatchNorm2d(2), "BatchNorm2d")],
)
def test_what_cannot_be_exported_names_the_layer(layer, says):
    with pytest.raises(InputError, match="layer 0") as error:
        to_nir(nn.Sequential(layer), (2, 8, 6), 0.01)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_nan_weights_name_the_layer():
    network = nn.Sequential(nn.Conv2d(2, 3, 3))
    network[0].weight.data[0] = float("nan")
    with pytest.raises(InputError, match=r"layer 0.*weight"):
        to_nir(network, (2, 8, 6), 0.01)


def small_data() -> tuple[tuple[np.ndarray, np.ndarray], ModelSettings]:
    opened = open_dataset("digits", split="test")
    opened.recordings.images, opened.recordings.labels = (
        opened.recordings.images[:96],
        opened.recordings.labels[:96],
    )
    binning = Binning(bins=5, clip=4)
    dt = binning.seconds(opened.duration_us)
    settings = ModelSettings("mlp", (2, 34, 34), 10, NeuronSettings(dt, 2 * dt))
    return (opened.rasters(binning), opened.recordings.labels), settings


def test_a_network_learns_its_own_training_set_and_a_seed_repeats_it():
    data, settings = small_data()
    results = []
    for _ in range(2):
        model = build_model(settings, seed=3)
        pruner = make_pruner("magnitude", epochs=6, sparsity=0.5)
        options = loop.TrainSettings(epochs=6, batch=32, shift=1, seed=3)
        history = loop.train(model, pruner, data, data, options, torch.device("cpu"))
        results.append((model, history))
    (first, a), (second, b) = results
    assert a.epochs[-1].accuracy > 0.6 and a.epochs[-1].accuracy > a.epochs[0].accuracy
    assert a.epochs[-1].remaining == pytest.approx(0.5 * a.epochs[-1].parameters, rel=0.01)
    assert [e.loss for e in a.epochs] == [e.loss for e in b.epochs]
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_a_run_folder_loads_to_the_same_network(tmp_path):
    data, settings = small_data()
    model = build_model(settings, seed=1).eval()
    runs.save_run(tmp_path / "run", model, loop.History(), {"bins": 5, "clip": 4})
    back, metadata = runs.load_run(tmp_path / "run")
    x = loop.as_input(data[0][:8], torch.device("cpu"))
    assert torch.equal(logits(back(x)), logits(model(x))) and metadata == {"bins": 5, "clip": 4}
    values = json.loads((tmp_path / "run" / "run.json").read_text())
    values["model"]["name"] = "cnn"
    write_sealed(tmp_path / "run" / "run.json", values)
    with pytest.raises(InputError, match="another architecture"):
        runs.load_run(tmp_path / "run")
    for key, damage in {"input_shape": [2, 34], "classes": "ten", "name": ["cnn"]}.items():
        damaged = {**values, "model": {**values["model"], key: damage}}
        write_sealed(tmp_path / "run" / "run.json", damaged)
        with pytest.raises(InputError, match="damaged run"):
            runs.load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("labels", "says"), [(np.zeros(4, int), "class 0 only"), (np.array([0, 1, 2, 12]), "0 to 12")]
)
def test_data_that_cannot_be_learned_from(labels, says):
    with pytest.raises(InputError, match=says):
        loop.check_data(np.ones((4, 2, 2, 3, 3)), labels, 10)


def test_device_that_is_not_there():
    with pytest.raises(InputError, match="cpu"):
        loop.choose_device("tpu")


@pytest.mark.parametrize("values", [{"dt": 0.0}, {"tau_mem": 0.001}, {"v_th": float("nan")}])
def test_bad_neuron_settings(values):
    with pytest.raises(InputError, match=next(iter(values))):
        NeuronSettings(**{"dt": 0.01, "tau_mem": 0.03, **values})


def test_a_neuron_registered_from_outside_is_built_and_exported(tmp_path, monkeypatch):
    class High(LIF):
        """A LIF of a fixed threshold."""

        def __init__(self, settings, **changed):
            super().__init__(settings, **{"v_th": 0.75, **changed})

    monkeypatch.setitem(NEURONS, "high", High)
    settings = ModelSettings("mlp", (2, 4, 4), 3, SETTINGS, cell="high")
    network = build_model(settings).eval()
    assert any(isinstance(module, High) for module in network.modules())
    write_nir(to_nir(network, (2, 4, 4), SETTINGS.dt), tmp_path / "a.nir")
    graph = read_graph(tmp_path / "a.nir")
    thresholds = {float(n.v_threshold.flat[0]) for n in graph.nodes.values() if isinstance(n, nir.LIF)}
    assert thresholds == {0.75}
    with pytest.raises(InputError, match=r"'low'.*expected one of lif, .*high, relu"):
        build_model(ModelSettings("mlp", (2, 4, 4), 3, SETTINGS, cell="low"))
