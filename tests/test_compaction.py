"""A compacted network is smaller and does the same."""

import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Branching, Folded, Lif, RecurrentLif, conv_net, events, train  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.pruning import make_pruner  # noqa: E402
from dpap_neuro.pruning.compaction import compact  # noqa: E402
from dpap_neuro.pruning.finding import find_structure  # noqa: E402
from dpap_neuro.pruning.masks import Masks  # noqa: E402


def shaken(model, seed=0, scale=0.5):
    """Batch norms with statistics and shifts of their own, so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.copy_(torch.randn(m.num_features, generator=generator) * scale)
                m.running_var.copy_(torch.rand(m.num_features, generator=generator) + 0.5)
                m.weight.copy_(torch.rand(m.num_features, generator=generator) + 0.8)
                m.bias.copy_(torch.randn(m.num_features, generator=generator) * scale + 0.3)
    return model.eval()


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def same(model, small, *inputs, **kwargs):
    for x in inputs:
        with torch.no_grad():
            a, b = model(x, **kwargs), small.eval()(x, **kwargs)
        assert a.abs().sum() > 0 and a.std() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_sequence():
    torch.manual_seed(0)
    model, x = shaken(conv_net(neuron=lambda: Lif(0.3))), events()
    masks = Masks(find_structure(model, x))
    masks.units["stages.0"][1] = False
    masks.units["stages.4"][[0, 5]] = False
    masks.units["stages.8"][3:7] = False
    masks.refresh()
    masks.apply()
    small = compact(model, x)
    same(model, small, x, events(seed=5, batch=3, steps=7))
    s = small.stages
    assert s[0].weight.shape == (3, 2, 3, 3) and s[1].num_features == 3 and s[4].weight.shape == (4, 3, 3, 3)
    assert s[8].weight.shape == (8, 16) and s[10].weight.shape == (3, 8) and s[8].in_features == 16
    assert model.stages[0].weight.shape == (4, 2, 3, 3), "the network itself stays as it was"


def test_nothing_dead_nothing_removed():
    model = shaken(conv_net())
    assert parameters(compact(model, events())) == parameters(model)


def test_branching_network_shrinks_only_where_all_terms_died():
    torch.manual_seed(0)
    model, x = shaken(Branching()), events(size=6)
    masks = Masks(find_structure(model, x))
    masks.units["stem"][1] = False
    masks.units["block.conv2"][[0, 1]] = False
    masks.units["block.conv1"][2] = False
    masks.refresh()
    masks.apply()
    small = compact(model, x)
    same(model, small, x, events(size=6, seed=4))
    assert small.block.conv1.weight.shape == (3, 3, 3, 3)
    # Channel 0 of conv2 is dead but the stem's channel 0 is not: the sum needs both in place.
    assert small.block.conv2.weight.shape == (3, 3, 3, 3) and small.stem.out_channels == 3
    assert small.depthwise.groups == 3 and small.depthwise.weight.shape == (3, 1, 3, 3)
    assert small.mix.in_channels == 6


def test_recurrent_network():
    torch.manual_seed(0)
    model, x = Folded(nn.Flatten(), nn.Linear(8, 6), RecurrentLif(6), nn.Linear(6, 2)).eval(), events(size=2)
    with torch.no_grad():
        model.stages[1].weight.mul_(4)
    masks = Masks(find_structure(model, x))
    masks.units["stages.1"][[0, 4]] = False
    masks.refresh()
    masks.apply()
    small = compact(model, x)
    same(model, small, x)
    assert small.stages[2].recurrent.weight.shape == (4, 4)


def test_constants_behind_rectifiers_are_carried_into_biases():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 2, bias=False),
    )  # fmt: skip
    shaken(model)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[1].bias[2] = 2.0
        model[7].weight[1] = 0
        model[7].bias[1] = 1.5
    x = torch.rand(4, 1, 8, 8)
    small = compact(model, x, time=False)
    same(model, small, x, torch.rand(2, 1, 8, 8))
    assert small[0].out_channels == 3 and small[3].bias is not None
    assert small[7].out_features == 5 and small[9].bias.abs().sum() > 0


@pytest.mark.parametrize("each", [False, True])
def test_rectifiers_with_learned_slopes_are_cut(each):
    """A channel behind a negative bias answers with its own slope."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.PReLU(4 if each else 1), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 6),
        nn.PReLU(6 if each else 1), nn.Linear(6, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in (1, 5):
            model[layer].weight.uniform_(0.1, 0.9)
        model[0].weight[2] = 0
        model[0].bias[2] = -1.5
        model[4].weight[1] = 0
        model[4].bias[1] = 0
    x = torch.rand(4, 1, 8, 8)
    small = compact(model, x, time=False)
    same(model, small, x, torch.rand(2, 1, 8, 8))
    assert small[0].out_channels == 3 and small[4].out_features == 5
    assert [small[n].num_parameters for n in (1, 5)] == ([3, 5] if each else [1, 1])
    assert [small[n].weight.numel() for n in (1, 5)] == ([3, 5] if each else [1, 1])


def test_constants_are_not_carried_into_padding():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(180, 2),
    ).eval()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 1.0
    x = torch.rand(4, 1, 8, 8)
    small = compact(model, x, time=False)
    same(model, small, x)
    assert small[0].out_channels == 4
    with torch.no_grad():
        model[0].bias[2] = -1.0
    assert compact(model, x, time=False)[0].out_channels == 3


def test_a_channel_that_spikes_by_its_bias_alone_stays():
    torch.manual_seed(0)
    model, x = shaken(conv_net()), events()
    with torch.no_grad():
        model.stages[0].weight[0] = 0
        model.stages[1].bias[0] = 3.0
    small = compact(model, x)
    same(model, small, x)
    assert small.stages[0].out_channels == 4


class Patient(Lif):
    """Fires when it has added up enough, however long that takes."""

    def forward(self, x):
        v, out = torch.zeros_like(x[0]), []
        for current in x:
            v = v + current
            spikes = (v > 1.0).float()
            v = v * (1 - spikes)
            out.append(spikes)
        return torch.stack(out)


@pytest.mark.parametrize("bias, channels", [(1e-3, 4), (0.0, 3), (-1.0, 3)])
def test_a_channel_whose_bias_may_wake_it_late_stays(bias, channels):
    """After a thousand steps, which nobody waits for."""
    torch.manual_seed(0)
    model = Folded(nn.Conv2d(2, 4, 3), Patient(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with torch.no_grad():
        model.stages[0].weight[1] = 0
        model.stages[0].bias[1] = bias
    assert compact(model, events()).stages[0].out_channels == channels


def test_neuron_parameters_per_channel_are_cut():
    torch.manual_seed(0)
    model = Folded(
        nn.Conv2d(2, 4, 3), Lif(0.2, channels=4), nn.Flatten(), nn.Linear(4 * 36, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.stages[1].threshold.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1))
    masks = Masks(find_structure(model, events()))
    masks.units["stages.0"][1] = False
    masks.refresh()
    masks.apply()
    small = compact(model, events())
    same(model, small, events())
    assert small.stages[1].threshold.flatten().tolist() == pytest.approx([0.1, 0.3, 0.4])


def test_norse_loop():
    norse = pytest.importorskip("norse.torch")
    torch.manual_seed(0)
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.1))
    model = norse.SequentialState(
        nn.Conv2d(2, 4, 3),
        norse.LIFBoxCell(p),
        nn.Flatten(),
        nn.Linear(144, 5),
        norse.LIFBoxCell(p),
        nn.Linear(5, 3),
    ).eval()
    x = events()
    masks = Masks(find_structure(model, x, loop=True))
    masks.units["0"][0] = False
    masks.units["3"][2] = False
    masks.refresh()
    masks.apply()
    small = compact(model, x, loop=True)
    assert small[0].out_channels == 3 and small[3].weight.shape == (4, 108)
    state_a = state_b = None
    for step in x:
        a, state_a = model(step, state_a)
        b, state_b = small(step, state_b)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name, goal", [("dpap", {}), ("dpap", {"sparsity": 0.9}), ("magnitude", {"sparsity": 0.94})]
)
def test_after_training(name, goal):
    torch.manual_seed(0)
    model, x = conv_net(neuron=lambda: Lif(0.15), channels=(6, 8), hidden=30), events(batch=12)
    pruner = make_pruner(name, epochs=6, **goal).attach(model, x)
    train(model, pruner, x, torch.arange(12) % 3, 6)
    model.eval()
    small = compact(model, x)
    same(model, small, x)
    assert parameters(small) < parameters(model)
    # No pruner observes the copy.
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())


def test_a_network_that_fixes_its_sizes():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Linear(144, 2)

        def forward(self, x):
            return self.b(self.n(self.a(x)).reshape(-1, 4 * 36))

    model, x = Fixed(), torch.rand(4, 2, 8, 8)
    with torch.no_grad():
        model.a.weight[0], model.a.bias[0] = 0, 0
    with pytest.raises(InputError, match="compact"):
        compact(model, x, time=False)


def test_one_rectifier_that_works_in_place_in_several_places():
    """A residual block with batch norms, written as usual, of which whole channels and single units are dead."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv0, self.norm0 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
            self.conv1, self.norm1 = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
            self.relu, self.readout = nn.ReLU(inplace=True), nn.Linear(6, 3)

        def forward(self, x):
            x = self.relu(self.norm0(self.conv0(x)))
            y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
            y += x
            return self.readout(self.relu(y).mean((2, 3)))

    torch.manual_seed(0)
    model, x = shaken(Residual()), torch.rand(3, 2, 8, 8)
    with torch.no_grad():
        # Behind the padding of conv2 only a constant of zero can go.
        model.conv1.weight[1], model.norm1.bias[1] = 0, -5.0
        model.conv2.weight[2], model.norm2.bias[2] = 0, 1.0
        model.readout.weight[:, 4] = 0
    small = compact(model, x, time=False)
    same(model, small, x)
    assert small.conv1.weight.shape[0] == 3 and parameters(small) < parameters(model)
