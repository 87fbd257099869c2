"""What is found in a network, and what a dead channel takes with it."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from pruning_samples import Branching, Folded, Lif, RecurrentLif, conv_net, events  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.networks.neurons import LIF, NeuronSettings, Scale  # noqa: E402
from dpap_neuro.pruning.finding import find_structure  # noqa: E402
from dpap_neuro.pruning.masks import Masks  # noqa: E402


def kill(structure, name, *units):
    masks = Masks(structure)
    masks.units[name][list(units)] = False
    masks.refresh()
    return masks


def test_sequence():
    s = find_structure(conv_net(), events())
    assert list(s.projections) == ["stages.0", "stages.4", "stages.8", "stages.10"]
    assert [p.kind for p in s.projections.values()] == ["conv", "conv", "linear", "linear"]
    assert [p.population for p in s.prunable] == ["stages.2", "stages.6", "stages.9"]
    assert [p.readout for p in s.projections.values()] == [False, False, False, True]
    assert s.layouts["stages.0"] == "merged" and s.populations["stages.2"].layout == "sequence"


def test_dead_channel_in_a_sequence_takes_its_readers_columns():
    s = find_structure(conv_net(), events())
    m = kill(s, "stages.4", 2)
    assert not m.weights["stages.4"][2].any() and m.weights["stages.4"][[0, 1, 3, 4, 5]].all()
    columns = m.weights["stages.8"].reshape(12, 6, 4)
    assert not columns[:, 2].any() and columns[:, [0, 1, 3, 4, 5]].all()
    assert m.weights["stages.0"].all() and m.weights["stages.10"].all()


def test_time_axis_is_not_mistaken_for_the_batch():
    for batch in (1, 2, 5):
        s = find_structure(conv_net(), events(steps=2, batch=batch))
        assert s.populations["stages.2"].layout == "sequence"
        assert s.populations["stages.2"].labels.numel() == 4


def test_sum_dies_with_its_last_term_only():
    s = find_structure(Branching(), events(size=6))
    m = kill(s, "block.conv2", 1)
    assert not m.weights["block.conv2"][1].any()
    assert m.weights["mix"].all(), "the stem still feeds channel 1 of the sum"
    both = kill(s, "stem", 1)
    # The stem's channel 1 feeds conv1, the sum and the depth-wise branch.
    assert not both.weights["block.conv1"][:, 1].any() and both.weights["block.conv1"][:, [0, 2, 3]].all()
    assert not both.weights["depthwise"][1].any() and both.weights["depthwise"][[0, 2, 3]].all()
    # In the concatenation (4 of the block, 4 of the branch) only the branch's channel dies: conv2 still feeds
    # the sum.
    assert not both.weights["mix"][:, 5].any() and both.weights["mix"][:, [0, 1, 2, 3, 4, 6, 7]].all()
    both.units["block.conv2"][1] = False
    both.refresh()
    assert not both.weights["mix"][:, [1, 5]].any() and both.weights["mix"][:, [0, 2, 3, 4, 6, 7]].all()


def test_batch_norm_channel_follows():
    model = Branching()
    s = find_structure(model, events(size=6))
    assert set(s.norms) == {"norm", "block.norm1", "block.norm2"}
    with torch.no_grad():
        model.block.norm1.bias.fill_(1.0)
    m = kill(s, "block.conv1", 3)
    m.apply()
    assert model.block.norm1.bias.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert model.block.norm1.weight.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert model.norm.weight.tolist() == [1.0] * 4


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolution(groups):
    model = Folded(
        nn.Conv2d(2, 4, 3),
        Lif(),
        nn.Conv2d(4, 8, 3, groups=groups),
        Lif(),
        nn.Flatten(),
        nn.Linear(8 * 16, 3),
    )
    m = kill(find_structure(model, events()), "stages.0", 1)
    found = m.weights["stages.2"].flatten(2).any(2)
    expected = torch.ones(8, 4 // groups, dtype=torch.bool)
    if groups == 1:
        expected[:, 1] = False
    elif groups == 2:
        expected[:4, 1] = False
    else:
        expected[2:4] = False
    assert torch.equal(found, expected)
    # The two units of the depth-wise convolution that channel 1 fed die with it.
    assert m.units["stages.2"].tolist() == (
        [True, True, False, False] + [True] * 4 if groups == 4 else [True] * 8
    )


def test_recurrent_weights_go_with_their_neuron():
    model = Folded(nn.Flatten(), nn.Linear(8, 5), RecurrentLif(5), nn.Linear(5, 2))
    s = find_structure(model, events(size=2))
    assert s.projections["stages.2.recurrent"].kind == "recurrent"
    m = kill(s, "stages.1", 3)
    r = m.weights["stages.2.recurrent"]
    assert not r[3].any() and not r[:, 3].any() and int(r.sum()) == 16
    assert not m.weights["stages.3"][:, 3].any()


def test_norse_cells_step_by_step():
    norse = pytest.importorskip("norse.torch")
    model = norse.SequentialState(
        nn.Conv2d(2, 4, 3), norse.LIFBoxCell(), nn.Conv2d(4, 3, 3), norse.LIFCell(), nn.Flatten(),
        nn.Linear(48, 6), norse.IAFCell(), nn.Linear(6, 2),
    )  # fmt: skip
    s = find_structure(model, events(), loop=True)
    assert [p.population for p in s.prunable] == ["1", "3", "6"]
    assert {p.layout for p in s.populations.values()} == {"step"}
    assert not kill(s, "0", 2).weights["2"][:, 2].any()


def test_norse_recurrent_cell():
    norse = pytest.importorskip("norse.torch")
    model = norse.SequentialState(nn.Flatten(), norse.LIFRecurrentCell(8, 5), nn.Linear(5, 2))
    s = find_structure(model, events(size=2), loop=True)
    assert set(s.projections) == {"1.input_weights", "1.recurrent_weights", "2"}
    m = kill(s, "1.input_weights", 0)
    assert not m.weights["1.recurrent_weights"][0].any() and not m.weights["1.recurrent_weights"][:, 0].any()
    assert not m.weights["2"][:, 0].any() and int(m.weights["1.recurrent_weights"].sum()) == 16


def test_still_images():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    s = find_structure(model, torch.rand(3, 1, 8, 8), time=False)
    assert not s.spiking and [p.population for p in s.prunable] == ["1", "4"]


def test_connections_of_an_unrolled_convolution():
    s = find_structure(conv_net(), events())
    # 8x8 input, 3x3 kernel, padding 1: the corner of the kernel meets 7x7 positions, its middle 8x8.
    expected = torch.tensor([[49, 56, 49], [56, 64, 56], [49, 56, 49]])
    assert torch.equal(s.projections["stages.0"].connections()[0, 0], expected)
    counts = {layer.name: layer.synapses for layer in Masks(s).layers()}
    assert counts["stages.0"] == 4 * 2 * 484 and counts["stages.8"] == 24 * 12


def test_an_operation_that_is_not_understood_keeps_what_it_reads():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2)

        def forward(self, x):
            return self.b(torch.sort(self.n(self.a(x.flatten(2))), dim=-1).values)

    m = kill(find_structure(Sorted(), events(size=2)), "a", 0)
    assert m.weights["b"].all()


def test_unknown_layer_is_named():
    model = Folded(nn.Flatten(), nn.Linear(8, 5), Lif(), nn.Bilinear(5, 5, 2))
    with pytest.raises(InputError, match=r"stages\.3: found Bilinear"):
        find_structure(model, events(size=2))
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(InputError, match=r"0\.self_attn: found MultiheadAttention"):
        find_structure(nn.Sequential(attention, nn.Linear(8, 2)), torch.rand(3, 5, 8), time=False)


def test_weights_that_are_no_parameters_of_one_layer_are_refused():
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    tied[2].weight = tied[0].weight
    with pytest.raises(InputError, match="layers 0 and 2: share one weight"):
        find_structure(tied, torch.rand(3, 8), time=False)
    pruned = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    prune.l1_unstructured(pruned[0], "weight", 0.3)
    with pytest.raises(InputError, match=r"layer 0: its weight is computed .*prune\.remove"):
        find_structure(pruned, torch.rand(3, 8), time=False)
    prune.remove(pruned[0], "weight")
    assert list(find_structure(pruned, torch.rand(3, 8), time=False).projections) == ["0", "2"]


def test_nothing_to_prune():
    with pytest.raises(InputError, match="read-out"):
        find_structure(Folded(nn.Flatten(), nn.Linear(8, 2)), events(size=2))
    with pytest.raises(InputError, match="no Conv"):
        find_structure(Folded(Lif()), events(size=2))


def test_sample_with_nan():
    x = events()
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        find_structure(conv_net(), x)


def test_sample_without_samples():
    with pytest.raises(InputError, match=r"sample_input: found shape \(5, 0, 2, 8, 8\)"):
        find_structure(conv_net(), events()[:, :0])


def test_finding_the_structure_changes_nothing():
    model = conv_net()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    find_structure(model, events())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


class Stage(nn.Module):
    """One or two convolutions of 4 channels each, batch norm behind the first, in one of several arrangements."""

    def __init__(self, kind, dimensions, channels):
        super().__init__()
        groups = {"grouped": 2, "depthwise": channels}.get(kind, 1)
        out = channels if kind in ("depthwise", "residual") else 4
        conv = CONVOLUTIONS[dimensions]
        self.kind, self.out = kind, 2 * out if kind == "concatenation" else out
        self.first = conv(channels, out, 3, padding=1, groups=groups)
        self.norm, self.neurons = NORMS[dimensions](out), nn.LeakyReLU()
        if kind in ("concatenation", "sum"):
            self.second = conv(channels, out, 1)
        if kind == "pool":
            self.pool = POOLS[dimensions](2, 1)

    def forward(self, x):
        y = self.norm(self.first(x))
        if self.kind == "residual":
            y = y + x
        elif self.kind == "sum":
            y = y + self.second(x)
        elif self.kind == "concatenation":
            y = torch.cat([self.second(x), y], 1)
        y = self.neurons(y)
        return self.pool(y) if self.kind == "pool" else y


def random_network(kinds, dimensions):
    stages, channels, size = [Stage("plain", dimensions, 2)], 4, 5
    for kind in kinds:
        stages.append(Stage(kind, dimensions, channels))
        channels = stages[-1].out
    size -= sum(kind == "pool" for kind in kinds)
    network = nn.Sequential(
        *stages, nn.Flatten(), nn.Linear(channels * size**dimensions, 6), nn.LeakyReLU(), nn.Linear(6, 3)
    )
    for m in network.modules():
        if isinstance(m, tuple(NORMS.values())):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, 0.1, 0.5)
    return network.eval(), torch.rand(3, 2, *[5] * dimensions) + 0.1


def silent_weights(network, x, killed):
    """What is dead by running the network: weights of dead units, and weights that read what is always zero.

    A unit that reads nothing but zeros is dead too. Names of layers to masks of dead weights; `network` is changed.
    """
    layers = {n: m for n, m in network.named_modules() if hasattr(m, "weight") and m.weight.dim() > 1}
    norm_of = {f"{n}.first": m.norm for n, m in network.named_children() if isinstance(m, Stage)}
    seen = {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda m, args, n=name: seen.update({n: args[0]}))
    dead = {name: set(killed.get(name, ())) for name in layers}
    readout = list(layers)[-1]
    while True:
        with torch.no_grad():
            for name, layer in layers.items():
                for unit in dead[name]:
                    layer.weight[unit], layer.bias[unit] = 0, 0
                    if name in norm_of:
                        norm_of[name].weight[unit], norm_of[name].bias[unit] = 0, 0
            network(x)
        before = {name: set(units) for name, units in dead.items()}
        masks = {}
        for name, layer in layers.items():
            silent = (seen[name].movedim(1, 0).flatten(1) == 0).all(1)
            groups, units = getattr(layer, "groups", 1), layer.weight.shape[0]
            masks[name] = torch.zeros(layer.weight.shape[:2], dtype=torch.bool)
            for unit in range(units):
                group = unit // (units // groups)
                masks[name][unit] = silent.reshape(groups, -1)[group]
                if masks[name][unit].all() and name != readout:
                    dead[name].add(unit)
                if unit in dead[name]:
                    masks[name][unit] = True
        if dead == before:
            return masks


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(["plain", "grouped", "depthwise", "residual", "sum", "concatenation", "pool"]),
        min_size=1, max_size=3,
    ),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 2**16),
)  # fmt: skip
def test_what_dies_is_what_falls_silent_and_nothing_else(kinds, dimensions, seed):
    torch.manual_seed(seed)
    network, x = random_network(kinds, dimensions)
    masks = Masks(find_structure(network, x, time=False))
    killed = {}
    for name, units in masks.units.items():
        killed[name] = (torch.rand(units.numel()) < 0.3).nonzero().flatten().tolist()[: units.numel() - 1]
        units[killed[name]] = False
    masks.refresh()
    for name, dead in silent_weights(network, x, killed).items():
        found = (
            ~masks.weights[name].flatten(2)
            if masks.weights[name].dim() > 2
            else ~masks.weights[name][..., None]
        )
        assert torch.equal(found.all(2), dead) and torch.equal(found.any(2), dead), name


class OwnNeuron(LIF):
    """A population in a user's own file."""


class OwnScale(Scale):
    """The same of a factor per neuron, whose weight has as many axes as a synapse's."""


def test_classes_of_ones_own_are_pruned_as_what_they_derive_from():
    settings = NeuronSettings(1e-3, 2e-3)
    norse = pytest.importorskip("norse.torch")

    class OwnNorse(norse.LIF):
        pass

    class OwnSequence(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = layer(x)[0] if isinstance(layer, norse.LIF) else layer(x)
            return x

    def found(neuron, scale, cell):
        torch.manual_seed(0)
        factor = scale(torch.full((1, 9), 0.5))
        network = OwnSequence(
            nn.Linear(6, 9), factor, neuron(settings), nn.Linear(9, 4), cell(), nn.Linear(4, 2)
        )
        return find_structure(network, torch.rand(3, 2, 6))

    own, parent = found(OwnNeuron, OwnScale, OwnNorse), found(LIF, Scale, norse.LIF)
    assert list(own.populations) == list(parent.populations) == ["2", "4"] and own.spiking
    assert {n: p.population for n, p in own.projections.items()} == {"0": "2", "3": "4", "5": None}
    assert torch.equal(kill(own, "0", 2).weights["3"], kill(parent, "0", 2).weights["3"])
    assert not kill(own, "0", 2).weights["3"][:, 2].any()


def test_an_attention_of_ones_own_is_a_layer_too():
    class Attention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    with pytest.raises(InputError, match=r"layer 0: found Attention"):
        find_structure(nn.Sequential(Attention(8, 2), nn.Linear(8, 2)), torch.rand(3, 5, 8), time=False)


@pytest.mark.parametrize("package", ["sinabs", "rockpool"])
def test_neurons_with_time_behind_samples_go_by_way_of_a_file(package):
    """Told by the class that they derive from, without the framework."""
    base = type({"sinabs": "StatefulLayer", "rockpool": "TorchModule"}[package], (nn.Module,), {})
    base.__module__ = f"{package}.layers.somewhere"
    neuron = type("IAF", (base,), {"forward": lambda self, x: (x > 0).float()})
    model = nn.Sequential(nn.Linear(4, 5), neuron(), nn.Linear(5, 2))
    with pytest.raises(
        InputError, match=rf"layer 1: found IAF of {package}.*from_{package}.*train --model net\.nir"
    ):
        find_structure(model, torch.zeros(3, 2, 4))


def test_neurons_of_another_framework_that_keep_their_state():
    """A stand-in for snnTorch's: found as a population, silent at rest whatever it has seen, and left as it was."""
    base = type("SpikingNeuron", (nn.Module,), {})
    base.__module__ = "snntorch._neurons.neurons"

    class Leaky(base):
        def __init__(self):
            super().__init__()
            self.register_buffer("mem", torch.zeros(0), persistent=False)

        def reset_mem(self):
            self.mem = torch.zeros(0)

        def forward(self, x):
            self.mem = (0 if self.mem.shape != x.shape else 0.9 * self.mem) + x
            return (self.mem > 1).float(), self.mem

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.neurons, self.last = nn.Linear(4, 5), Leaky(), nn.Linear(5, 2)

        def forward(self, x):
            return self.last(self.neurons(self.first(x))[0])

    net = Net()
    net.neurons.mem = kept = torch.full((2, 5), 7.0)
    found = find_structure(net, torch.ones(3, 2, 4), loop=True)
    assert found.projections["first"].population == "neurons" and found.populations["neurons"].spiking
    assert found.populations["neurons"].labels.tolist() == found.projections["first"].labels.tolist()
    assert net.neurons.mem is kept and bool((kept == 7).all()) and net.training and net.neurons.training
