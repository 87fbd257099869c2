"""Model, `.nir`, reference simulator, and back into Norse: the same spikes for every layer and composed networks."""

from __future__ import annotations

import dataclasses
import io
from collections import OrderedDict
from dataclasses import replace

import h5py
import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import norse.torch as norse
import torch
from nir_networks import NETWORKS, SETTINGS, Net, same_spikes, seeded
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import nn
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import fused, to_nir, write_nir
from dpap_neuro.exchange.nir_import import from_graph
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import IF, LIF, CubaLIF, ParametricLIF, Recurrent, Scale
from dpap_neuro.pruning.finding import find_structure
from dpap_neuro.train.loop import History
from dpap_neuro.train.runs import save_run
from hardware.graph.parsing import from_nir, read_graph
from hardware.graph.summary import synapses
from hardware.simulate.reference import simulate


def identical(found: nir.NIRGraph, expected: nir.NIRGraph) -> None:
    """Every parameter of every node, bit for bit (shapes that `nir.read` infers are not compared)."""
    assert set(found.nodes) == set(expected.nodes) and list(found.edges) == list(expected.edges)
    assert found.metadata == expected.metadata
    for name, node in expected.nodes.items():
        assert type(found.nodes[name]) is type(node)
        for field in dataclasses.fields(node):
            if field.name not in ("input_type", "output_type"):
                np.testing.assert_array_equal(
                    getattr(found.nodes[name], field.name), getattr(node, field.name)
                )


@pytest.mark.parametrize("name", NETWORKS)
def test_model_export_reference_and_import_agree(name, tmp_path):
    network, shape = NETWORKS[name]()
    x = torch.poisson(torch.full((25, 3, *shape), 0.6), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = network(x).numpy()
    assert expected.any()
    exported = to_nir(network, shape, SETTINGS.dt)
    write_nir(exported, tmp_path / "a.nir")
    # nir 1.0.8 infers too few input channels of a grouped convolution.
    grouped = any(getattr(node, "groups", 1) > 1 for node in exported.nodes.values())
    identical(nir.read(tmp_path / "a.nir", type_check=not grouped), exported)
    graph = read_graph(tmp_path / "a.nir")
    same_spikes(graph, x, expected)
    imported = from_graph(graph)
    assert imported.dt == SETTINGS.dt and "metadata" in imported.dt_reason
    with torch.no_grad():
        again = imported(x).numpy()
    same_spikes(graph, x, again)
    # The imported network writes the same network again, by the same names.
    second = to_nir(imported.eval(), shape, SETTINGS.dt)
    assert set(second.nodes) == set(exported.nodes) and set(second.edges) == set(exported.edges)
    same_spikes(from_nir(second), x, again)


def test_every_parameter_has_its_populations_shape():
    network, shape = NETWORKS["current-based"]()
    for node in to_nir(network, shape, SETTINGS.dt).nodes.values():
        if isinstance(node, nir.CubaLIF):
            assert {v.shape for v in vars(node).values() if isinstance(v, np.ndarray)} == {node.v_leak.shape}
            np.testing.assert_allclose(node.w_in, node.tau_syn / SETTINGS.dt)


def test_metadata_survives_nir():
    network, shape = NETWORKS["IF"]()
    told = {"bins": 7, "clip": 3, "class_names": ["a", "b"], "kept_bins": [0, 2, 5], "readout": "spikes"}
    graph = to_nir(network, shape, 0.02, bin_us=None, **told)
    file = io.BytesIO()
    nir.write(file, graph)
    read = from_nir(nir.read(file))
    assert read.dt == 0.02 and "bin_us" not in read.metadata
    assert {key: read.metadata[key] for key in told if key != "kept_bins"} == {
        key: value for key, value in told.items() if key != "kept_bins"
    }
    assert read.metadata["kept_bins"].tolist() == told["kept_bins"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_names_with_a_slash_and_other_precisions_are_read_back(tmp_path, dtype):
    layers = OrderedDict([("in/out", nn.Linear(4, 3)), ("lif", LIF(SETTINGS))])
    weight = layers["in/out"].weight.detach().to(dtype).numpy()
    write_nir(to_nir(nn.Sequential(layers).to(dtype), (4,), 0.01), tmp_path / "a.nir")
    found = read_graph(tmp_path / "a.nir")
    assert found.order == ("input", "in_out", "lif", "output")
    np.testing.assert_allclose(found.nodes["in_out"].weight, weight, rtol=1e-6)


@pytest.mark.parametrize("dt", [0.0, -1e-3, float("nan"), float("inf")])
def test_a_time_step_that_is_none_is_refused(dt):
    with pytest.raises(InputError, match="dt: found"):
        to_nir(nn.Sequential(nn.Linear(4, 3), IF(SETTINGS)), (4,), dt)


@pytest.mark.parametrize(("name", "kept"), [("IF", False), ("arrays", True)])
def test_reset_to_zero_is_left_out_for_older_readers(name, kept, tmp_path):
    network, shape = NETWORKS[name]()
    write_nir(to_nir(network, shape, SETTINGS.dt), tmp_path / "a.nir")
    with h5py.File(tmp_path / "a.nir") as file:
        assert ("v_reset" in file["node/nodes/l1"]) is kept


def test_norse_modules_over_time():
    """As Norse's users write them: Lift, and neurons that take whole recordings."""
    network = seeded(
        norse.SequentialState(
            norse.Lift(nn.Conv2d(2, 4, 3, padding=1, bias=False)),
            norse.Lift(nn.BatchNorm2d(4)),
            norse.LIF(),
            norse.Lift(nn.AvgPool2d(2)),
            nn.Flatten(2),
            nn.Linear(48, 9),
            norse.IAF(),
            nn.Linear(9, 3),
            norse.LI(),
        )
    )
    x = torch.poisson(torch.full((25, 3, 2, 8, 6), 0.6), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, _ = network(x)
    graph = from_nir(to_nir(network, (2, 8, 6), 1e-3))
    assert [type(graph.nodes[n]).__name__ for n in graph.order[2:4]] == ["CubaLIF", "AvgPool2d"]
    same_spikes(graph, x, expected.numpy())


def test_compacted_network_is_smaller_and_the_same():
    network, shape = NETWORKS["batch norm, conv"]()
    with torch.no_grad():
        network.conv.weight[1] = 0.0
        network.norm.bias[1] = network.norm.running_mean[1] = 0.0
    dense, small = (to_nir(network, shape, SETTINGS.dt, compact=c) for c in (False, True))
    assert small.nodes["conv"].weight.shape[0] < dense.nodes["conv"].weight.shape[0]
    x = torch.poisson(torch.full((25, 3, *shape), 0.6), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        same_spikes(from_nir(small), x, network(x).numpy())


def test_recurrent_network_is_pruned_and_compacted():
    network, shape = NETWORKS["recurrent"]()
    structure = find_structure(network, torch.ones(4, 2, *shape))
    assert [p.kind for p in structure.projections.values()].count("recurrent") == 1
    with torch.no_grad():
        network.l0.weight[2] = network.l0.bias[2] = network.l1.recurrent_weights[2] = 0.0
    small = to_nir(network, shape, SETTINGS.dt, compact=True)
    assert small.nodes["l1"].v_leak.shape == (8,) and small.nodes["l1_feedback"].weight.shape == (8, 8)
    x = torch.poisson(torch.full((25, 3, *shape), 0.6), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        same_spikes(from_nir(small), x, network(x).numpy())


def test_command_writes_the_compacted_network(tmp_path):
    settings = ModelSettings("mlp", (2, 6, 6), 3, SETTINGS)
    network = build_model(settings).eval()
    with torch.no_grad():
        network[1].weight[:100] = 0.0
    save_run(tmp_path / "run", network, History(), {"bins": 5, "class_names": ["a", "b", "c"]})
    sizes = {}
    for flags in ([], ["--compact"]):
        path = tmp_path / "a.nir"
        result = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(path), *flags])
        assert result.exit_code == 0, result.output
        graph = read_graph(path)
        sizes[bool(flags)] = synapses(graph)
        assert graph.metadata["class_names"] == ["a", "b", "c"] and graph.dt == SETTINGS.dt
    assert sizes[False] - sizes[True] == 100 * 3


def test_a_cell_of_another_time_step_gets_the_time_constants_that_decay_alike():
    """2 ms of 5 ms are lost in a step of the cell, 10 ms of 25 ms in one of the graph."""
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1 / 0.005))
    nodes = to_nir(nn.Sequential(nn.Linear(4, 3), norse.LIFBoxCell(p, dt=0.002)), (4,), 0.01).nodes
    np.testing.assert_allclose(nodes["1_lif"].tau, 0.025, rtol=1e-6)


class OwnLIF(LIF):
    """A population of a user's own: another threshold, and a record of its spikes."""

    def __init__(self, settings):
        super().__init__(settings, v_th=0.7)
        self.record = None

    def forward(self, x):
        self.record = super().forward(x)
        return self.record


class OwnScale(Scale):
    pass


class OwnConv(nn.Conv2d):
    pass


class OwnNorm(nn.BatchNorm2d):
    pass


class OwnNorse(norse.LIFBoxCell):
    pass


class OwnSequence(norse.SequentialState):
    pass


def _graphs_of(make_own, make_parent, shape):
    return [to_nir(seeded(make()).eval(), shape, SETTINGS.dt) for make in (make_own, make_parent)]


def test_classes_of_ones_own_are_exported_as_what_they_derive_from():
    def forward(s, x):
        return s.lif(s.scale(s.norm(s.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])))

    def net(conv, norm, scale, lif):
        return Net(
            forward, conv=conv(2, 3, 3), norm=norm(3), scale=scale(torch.full((3, 6, 4), 0.5)), lif=lif
        )

    own, parent = _graphs_of(
        lambda: net(OwnConv, OwnNorm, OwnScale, OwnLIF(SETTINGS)),
        lambda: net(nn.Conv2d, nn.BatchNorm2d, Scale, LIF(SETTINGS, v_th=0.7)),
        (2, 8, 6),
    )
    identical(own, parent)
    assert (own.nodes["lif"].v_threshold == np.float32(0.7)).all()


def test_norse_classes_of_ones_own_are_exported_as_what_they_derive_from():
    own, parent = _graphs_of(
        lambda: OwnSequence(nn.Linear(6, 4), OwnNorse(), nn.Linear(4, 3), OwnNorse()),
        lambda: norse.SequentialState(
            nn.Linear(6, 4), norse.LIFBoxCell(), nn.Linear(4, 3), norse.LIFBoxCell()
        ),
        (6,),
    )
    identical(own, parent)


class Doubled(LIF):
    def forward(self, x):
        return super().forward(2 * x)


class Stepping(LIF):
    norse_step = IF.norse_step


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Squared(Scale):
    def forward(self, x):
        return super().forward(x) ** 2


def _refused(forward, **layers):
    return Net(forward, **layers).eval()


REFUSED = {
    "max pooling": (
        _refused(lambda s, x: s.pool(x.flatten(0, 1)), pool=nn.MaxPool2d(2)),
        ["pool", "AvgPool2d"],
    ),
    "concatenation": (
        _refused(lambda s, x: torch.cat([s.a(x), s.b(x)], 2), a=nn.Linear(6, 3), b=nn.Linear(6, 3)),
        ["cat", "synapse of its own"],
    ),
    "product of signals": (
        _refused(lambda s, x: s.a(x) * s.b(x), a=nn.Linear(6, 3), b=nn.Linear(6, 3)),
        ["constant", "mul"],
    ),
    "max pooling without a module": (
        _refused(lambda s, x: nn.functional.max_pool2d(s.c(x.flatten(0, 1)), 2), c=nn.Conv2d(2, 2, 3)),
        ["max_pool2d behind c", "AvgPool2d"],
    ),
    "values that change": (
        _refused(lambda s, x: s.a(x) * torch.rand(3), a=nn.Linear(6, 3)),
        ["mul", "change", "expected a constant"],
    ),
    "computed parameters": (
        _refused(lambda s, x: s.a(x), a=nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))),
        ["layer a", "computed", "remove_parametrizations"],
    ),
    "Norse's recurrent": (
        _refused(lambda s, x: s.r(x)[0], r=norse.LIFRecurrentCell(6, 3)),
        ["layer r", "LIFRecurrentCell", "neurons.Recurrent"],
    ),
    "unknown module": (_refused(lambda s, x: s.soft(x), soft=nn.Softmax(2)), ["soft", "expected one of"]),
    "loop over values": (
        _refused(lambda s, x: s.a(x) if x.sum() > 0 else x, a=nn.Linear(6, 3)),
        ["followed"],
    ),
    "never run": (_refused(lambda s, x: s.lazy(x), lazy=nn.LazyLinear(3)), ["lazy", "never run", "sample"]),
    "parameter that does not fit": (
        _refused(lambda s, x: s.lif(x), lif=LIF(SETTINGS, v_th=torch.ones(5))),
        ["lif", "v_th", "fits"],
    ),
    "merged time": (_refused(lambda s, x: s.lif(x.flatten(0, 1)), lif=LIF(SETTINGS)), ["lif", "merged"]),
    "norm on an input": (
        _refused(lambda s, x: s.bn(x.flatten(0, 1)), bn=nn.BatchNorm2d(2)),
        ["bn", "synapse"],
    ),
    "a neuron with a forward of its own": (
        _refused(lambda s, x: s.lif(x), lif=Doubled(SETTINGS)),
        ["layer lif", "Doubled", "LIF that it derives from"],
    ),
    "a neuron with a step of its own": (
        _refused(lambda s, x: s.lif(x), lif=Stepping(SETTINGS)),
        ["layer lif", "Stepping", "LIF that it derives from"],
    ),
    "a recurrent population of such": (
        _refused(lambda s, x: s.r(x.flatten(2)), r=Recurrent(Stepping(SETTINGS), 96)),
        ["layer r", "Recurrent of Stepping"],
    ),
    "a convolution that computes its weights": (
        _refused(lambda s, x: s.c(x.flatten(0, 1)), c=Standardised(2, 2, 3)),
        ["layer c", "Standardised", "Conv2d that it derives from"],
    ),
    "a scale that does more": (
        _refused(lambda s, x: s.scale(x), scale=Squared(2.0)),
        ["layer scale", "Squared", "Scale that it derives from"],
    ),
    "padding": (
        _refused(lambda s, x: s.c(x.flatten(0, 1)), c=nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")),
        ["c", "circular", "zeros"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_layer_and_what_to_use(name):
    network, words = REFUSED[name]
    with pytest.raises(InputError) as error:
        to_nir(network, (2, 8, 6), SETTINGS.dt)
    text = str(error.value)
    assert all(word in text for word in words) and "\n" not in text, text


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "synapse, norm, shape",
    [
        (lambda bias: nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d, (3, 2, 8, 6)),
        (lambda bias: nn.Conv1d(2, 4, 3, bias=bias), nn.BatchNorm1d, (3, 2, 8)),
        (lambda bias: nn.Linear(5, 4, bias=bias), nn.BatchNorm1d, (3, 5)),
    ],
    ids=["conv2d", "conv1d", "linear"],
)
def test_a_fused_batch_norm_is_the_two_after_one_another(synapse, norm, shape, bias, affine):
    """Also where a channel hardly varies, so that all of its gain is epsilon's."""
    torch.manual_seed(0)
    first, second = synapse(bias), norm(4, affine=affine, eps=1e-2).eval()
    second.running_mean.uniform_(-1, 1)
    second.running_var.copy_(torch.tensor([1e-6, 1e-3, 0.1, 2.0]))
    if affine:
        nn.init.uniform_(second.weight, 0.5, 2)
        nn.init.uniform_(second.bias, -1, 1)
    x = torch.randn(shape)
    torch.testing.assert_close(fused(first, second, "norm")(x), second(first(x)), rtol=1e-4, atol=1e-5)


def test_batch_norm_of_one_branch_only_is_refused():
    def forward(s, x):
        y = s.a(x.flatten(0, 1))
        return (y + s.norm(y)).unflatten(0, x.shape[:2])

    network = Net(forward, a=nn.Linear(6, 3), norm=nn.BatchNorm1d(3)).eval()
    with pytest.raises(InputError, match=r"a.*batch norm|added to itself"):
        to_nir(network, (6,), SETTINGS.dt)


def boxes(*methods):
    cells = [norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=m)) for m in methods]
    return nn.Sequential(*(m for k, cell in enumerate(cells) for m in (nn.Linear(6 - 3 * (k > 0), 3), cell)))


def test_the_file_says_the_reset():
    assert to_nir(boxes(reset_value), (6,), SETTINGS.dt).metadata["reset"] == "zero"
    assert to_nir(boxes(reset_subtract), (6,), SETTINGS.dt).metadata["reset"] == "subtract"
    assert "reset" not in to_nir(Net(lambda s, x: s.a(x), a=nn.Linear(6, 3)), (6,), SETTINGS.dt).metadata
    with pytest.raises(InputError, match="layers 1 and 3: reset to a value and by subtraction"):
        to_nir(boxes(reset_value, reset_subtract), (6,), SETTINGS.dt)
    with pytest.raises(InputError, match="layer 1: found a reset of its own"):
        to_nir(boxes(lambda z, v, reset, th: v), (6,), SETTINGS.dt)


@pytest.mark.parametrize("kind", [LIF, CubaLIF, IF, ParametricLIF, Recurrent])
def test_reset_by_subtraction_goes_out_and_comes_back(kind):
    """Training, its file in the float simulator, and the file trained on: the same spikes."""
    torch.manual_seed(3)
    settings = replace(SETTINGS, reset="subtract")
    neuron = Recurrent(LIF(settings), 4) if kind is Recurrent else kind(settings)
    network = Net(lambda s, x: s.b(s.a(x)), a=nn.Linear(6, 4), b=neuron)
    graph = from_nir(to_nir(network, (6,), settings.dt))
    x = 3 * torch.randn(20, 2, 6)
    expected = network(x).detach().numpy().swapaxes(0, 1)
    run = simulate(graph, x.numpy().swapaxes(0, 1))
    assert expected.any() and not np.array_equal(
        run.output, simulate(graph, x.numpy().swapaxes(0, 1), reset="zero").output
    )
    np.testing.assert_array_equal(run.output, expected)
    imported = from_graph(graph)
    assert imported.settings.neuron.reset == "subtract" and torch.equal(imported(x), network(x))
    assert not torch.equal(from_graph(graph, reset="zero")(x), network(x))


@pytest.mark.parametrize("layer", [nn.Linear(6, 3), Recurrent(LIF(SETTINGS), 6), Scale(torch.ones(6))])
def test_nan_is_refused_by_layer(layer):
    next(layer.parameters()).data.view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="layer a: found NaN"):
        to_nir(Net(lambda s, x: s.a(x), a=layer), (6,), SETTINGS.dt)
