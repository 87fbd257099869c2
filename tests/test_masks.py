"""Masks hold: what is pruned stays exactly zero under weight decay and momentum, and so do its companions."""

import pytest

torch = pytest.importorskip("torch")

from pruning_samples import conv_net, events  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.pruning.finding import find_structure  # noqa: E402
from dpap_neuro.pruning.masks import Masks, clear, kept_bits  # noqa: E402


def prepared(seed=0):
    torch.manual_seed(seed)
    model = conv_net()
    masks = Masks(find_structure(model, events()))
    return model, masks


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.5),
        lambda p: torch.optim.SGD(p, 1e-1, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.5),
    ],
)
def test_pruned_weights_stay_exactly_zero_and_others_move(make):
    model, masks = prepared()
    x, optimizer = events(), make(model.parameters())
    y = torch.arange(6) % 3

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).mean(0), y).backward()
        for parameter in model.parameters():
            if (kept := masks.kept(parameter)) is not None:
                clear(parameter.grad, kept)
        optimizer.step()
        masks.apply()

    step()
    masks.units["stages.0"][1] = False
    masks.synapses["stages.8"] = torch.rand(12, 24, generator=torch.Generator().manual_seed(1)) > 0.5
    masks.refresh()
    masks.apply()
    masks.clear_optimizer(optimizer)
    before = model.stages[8].weight.detach().clone()
    for _ in range(3):
        step()
    dead = ~masks.weights["stages.8"]
    weight = model.stages[8].weight
    assert (weight[dead] == 0).all() and not torch.signbit(weight[dead]).any()
    assert (weight[~dead] != before[~dead]).float().mean() > 0.5
    conv, norm = model.stages[0], model.stages[1]
    for tensor in (conv.weight[1], conv.bias[1], norm.weight[1], norm.bias[1], norm.running_mean[1]):
        assert (tensor == 0).all()
    assert (conv.weight[0] != 0).all() and norm.weight[0] != 0
    for state in optimizer.state[weight].values():
        if isinstance(state, torch.Tensor) and state.shape == weight.shape:
            assert (state[dead] == 0).all()


def test_a_dead_channel_is_silent():
    model, masks = prepared()
    with torch.no_grad():
        model.stages[1].bias.fill_(5.0)
        model.stages[0].bias.fill_(5.0)
    spikes = {}
    model.stages[2].register_forward_hook(lambda m, i, o: spikes.update(out=o))
    masks.units["stages.0"][2] = False
    masks.refresh()
    masks.apply()
    for mode in (True, False):
        model.train(mode)
        model(events())
        per_channel = spikes["out"].sum((0, 1, 3, 4))
        assert per_channel[2] == 0 and (per_channel[[0, 1, 3]] > 0).all()


def test_counts():
    model, masks = prepared()
    total = sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    assert masks.parameters() == masks.remaining() == total
    masks.units["stages.8"][:5] = False
    masks.refresh()
    # Five neurons: 24 weights into each, 3 out of each.
    assert masks.remaining() == total - 5 * (24 + 3)
    assert masks.layers()[2].units_alive == 7


def test_dead_ends_go_without_changing_the_output():
    model, masks = prepared()
    masks.synapses["stages.8"] = torch.ones(12, 24, dtype=torch.bool)
    masks.synapses["stages.8"].reshape(12, 6, 4)[:, 3] = False
    masks.refresh()
    masks.apply()
    model.eval()
    before = model(events())
    assert masks.units["stages.4"].all()
    masks.remove_dead_ends()
    masks.apply()
    assert masks.units["stages.4"].tolist() == [True, True, True, False, True, True]
    assert torch.equal(model(events()), before)


def test_masks_of_another_network_are_refused():
    _, masks = prepared()
    with pytest.raises(InputError, match="elsewhere"):
        masks.load_state_dict({"units/elsewhere": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"found shape \(3,\), expected \(4,\)"):
        masks.load_state_dict({"units/stages.0": torch.ones(3, dtype=torch.bool)})


def test_earlier_masks_replace_later_ones():
    _, masks = prepared()
    before = masks.state_dict()
    masks.synapses["stages.8"] = torch.zeros(12, 24, dtype=torch.bool)
    masks.refresh()
    with pytest.raises(InputError, match=r"masks of stages\.8: missing"):
        masks.load_state_dict({k: v for k, v in before.items() if k != "units/stages.8"})
    masks.load_state_dict(before)
    assert masks.remaining() == masks.parameters()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_clearing_sets_what_is_dead_to_zero_whatever_it_was(dtype):
    torch.manual_seed(0)
    values = torch.randn(6, 5).to(dtype)
    values[0] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-7])
    for value in (values, values.T):
        value, dead = value.clone(), torch.rand(value.shape) < 0.5
        dead[0, 0] = True
        expected = value.masked_fill(dead, 0.0)
        clear(value, kept_bits(dead, dtype))
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)
        assert not torch.signbit(value[dead]).any()
