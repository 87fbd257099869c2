"""Scores, allocations and regrowth against slow and obvious versions, written from the papers' text."""

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Folded, Lif, RecurrentLif, conv_net, events, train  # noqa: E402
from torch import nn  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from dpap_neuro.cli import app  # noqa: E402
from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.exchange.nir_export import write_nir  # noqa: E402
from dpap_neuro.networks.models import ModelSettings, build_model  # noqa: E402
from dpap_neuro.networks.neurons import NeuronSettings  # noqa: E402
from dpap_neuro.pruning import PRUNERS, make_pruner, parse_pruner  # noqa: E402
from dpap_neuro.pruning import scores as s  # noqa: E402
from dpap_neuro.pruning.allocation import ALLOCATIONS, erdos_renyi_kernel, lamp  # noqa: E402
from dpap_neuro.pruning.inputs import synaptic_events  # noqa: E402
from dpap_neuro.pruning.positions import Positions  # noqa: E402
from dpap_neuro.pruning.regrowth import exchange  # noqa: E402
from dpap_neuro.pruning.scores import SCORES  # noqa: E402
from dpap_neuro.train import runs  # noqa: E402

LABELS = torch.arange(12) % 3


def random_layers(seed, shapes=((4, 3, 2, 2), (5, 8), (3, 5))):
    generator = torch.Generator().manual_seed(seed)
    return {f"l{i}": torch.randn(shape, generator=generator).abs() for i, shape in enumerate(shapes)}


# scores, by hand


def test_scores_by_hand():
    w = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-3.0, 4.0]])
    f = torch.tensor([[4.0, 0.25], [16.0, 1.0], [0.0, 9.0]])
    assert s.magnitude(w).tolist() == [[1, 2], [0.5, 0], [3, 4]]
    assert s.fisher(w, f).tolist() == [[2, 0.5], [2, 0], [0, 72]]
    assert s.weighted(w, f, 0.5).tolist() == [[2, 1], [2, 0], [0, 12]]
    assert s.wanda(w, torch.tensor([9.0, 4.0])).tolist() == [[3, 4], [1.5, 0], [9, 8]]
    # Squares of the columns: 10.25 and 20.
    found = s.spikefit(w, torch.tensor([41.0, 40.0]))
    np.testing.assert_allclose(found, [[4, 8], [1, 0], [36, 32]], rtol=1e-6)


@pytest.mark.parametrize("groups, taps", [(1, ()), (1, (2, 3)), (2, (3,))])
def test_what_a_batch_adds_agrees_with_loops(groups, taps):
    out, width = 4, 3
    rng = np.random.default_rng(groups)
    w, g = rng.normal(size=(2, out, width, *taps))
    squares, products, sources = np.zeros_like(w), np.zeros_like(w), np.zeros(groups * width)
    for i in range(out):
        for j in range(width):
            source = (i // (out // groups)) * width + j
            for tap in np.ndindex(*taps):
                squares[(i, j, *tap)] = g[(i, j, *tap)] ** 2
                products[(i, j, *tap)] = (g[(i, j, *tap)] * w[(i, j, *tap)]) ** 2
                sources[source] += g[(i, j, *tap)] * w[(i, j, *tap)]
    for add, expected in (
        (s.add_squares, squares),
        (s.add_products, products),
        (s.add_contributions, sources**2),
    ):
        total = torch.ones(expected.shape, dtype=torch.float64)
        add(total, torch.tensor(w), torch.tensor(g), groups)
        np.testing.assert_allclose(total, 1.0 + expected, rtol=1e-12)
    energy = rng.random(groups * width)
    found = s.wanda(torch.tensor(w), torch.tensor(energy), groups)
    shares = s.spikefit(torch.tensor(w), torch.tensor(energy), groups)
    whole = np.zeros(groups * width)
    for i in range(out):
        for j in range(width):
            source = (i // (out // groups)) * width + j
            np.testing.assert_allclose(found[i, j], np.abs(w[i, j]) * math.sqrt(energy[source]), rtol=1e-12)
            whole[source] += float(shares[i, j].sum())
    np.testing.assert_allclose(whole, energy, rtol=1e-12)


def test_the_contribution_of_a_source_is_the_gradient_of_a_gate_on_its_spikes():
    torch.manual_seed(0)
    x = torch.poisson(torch.full((6, 3, 5, 5), 0.8))
    layer, gate = nn.Conv2d(3, 4, 3, padding=1), torch.ones(3, 1, 1, requires_grad=True)
    (layer(x * gate).sigmoid() ** 2).sum().backward()
    found = torch.zeros(3)
    s.add_contributions(found, layer.weight.detach(), layer.weight.grad, 1)
    np.testing.assert_allclose(found, gate.grad.flatten() ** 2, rtol=1e-4)
    assert found.min() > 0


@pytest.mark.parametrize("score", ["taylor", "fisher", "spikefit", "wanda"])
def test_traces_are_those_of_the_batches(score):
    """F <- F / 2 + mean over the epoch's batches, from gradients and inputs taken here."""
    torch.manual_seed(0)
    model, x = conv_net(neuron=lambda: Lif(0.15)), events(batch=12, steps=4)
    pruner = make_pruner("magnitude", score=score, epochs=20, sparsity=0.5, first_epoch=10).attach(model, x)
    layer, seen = model.stages[4], []
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().double()))
    expected = 0.0
    for epoch in range(2):
        parts = []
        for batch in range(3):
            model.train().zero_grad()
            seen.clear()
            nn.functional.cross_entropy(model(x[:, 4 * batch : 4 * batch + 4]).mean(0), LABELS[:4]).backward()
            w, g = layer.weight.detach().double(), layer.weight.grad.double()
            parts.append(
                {
                    "taylor": (g * w) ** 2,
                    "fisher": 0.5 * w**2 * g**2,
                    "spikefit": (g * w).sum((0, 2, 3)) ** 2,
                    "wanda": (seen[0] ** 2).sum((0, 2, 3)),
                }[score]
            )
            pruner.step()
        pruner.end_epoch(epoch)
        expected = 0.5 * expected + sum(parts) / 3
    if score == "spikefit":
        expected = w**2 * (expected / (w**2).sum((0, 2, 3)))[None, :, None, None]
    if score == "wanda":
        expected = w.abs() * expected.sqrt()[None, :, None, None]
    np.testing.assert_allclose(pruner.scores()["stages.4"], expected, rtol=1e-4)
    assert expected.max() > 0


# allocation, by hand and by trying


def test_lamp_by_hand():
    score = torch.tensor([[3.0, 1.0], [-1.0, 2.0]])
    # Squares 1, 4, 9: 1 / 14, 4 / 13, 9 / 9.
    np.testing.assert_allclose(lamp(score), [[1, 1 / 14], [-1, 4 / 13]], rtol=1e-12)
    assert lamp(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_lamp_removes_one_after_the_other(seed):
    """Again and again the weight of the least share of what is left of its layer, until `keep` are left."""
    layers = random_layers(seed)
    left = {k: sorted(v.double().flatten().square().tolist()) for k, v in layers.items()}
    total = sum(map(len, left.values()))
    for keep in (total - 5, 20, 6):
        while sum(map(len, left.values())) > keep:
            name = min((k for k in left if len(left[k]) > 1), key=lambda k: left[k][0] / sum(left[k]))
            left[name].pop(0)
        masks = ALLOCATIONS["lamp"](layers, keep, None)
        assert {k: int(m.sum()) for k, m in masks.items()} == {k: len(v) for k, v in left.items()}
        for k, mask in masks.items():
            np.testing.assert_allclose(np.sort(layers[k][mask].double().square().numpy()), left[k], rtol=1e-6)


def test_erk_has_its_densities():
    """Density in proportion to (sum of dimensions) / (product of them), as long as none is above one."""
    shapes = {"a": (16, 8, 3, 3), "b": (32, 16, 3, 3), "c": (64, 128)}
    for keep in (300, 1200):
        found = erdos_renyi_kernel(shapes, keep)
        assert sum(found.values()) == keep
        scale = keep / sum(sum(shape) for shape in shapes.values())
        for name, shape in shapes.items():
            assert found[name] == pytest.approx(scale * sum(shape), abs=3)
    # The small one is full, the rest goes to the others in proportion.
    found = erdos_renyi_kernel({"a": (2, 2), "b": (100, 50), "c": (50, 100)}, 3000)
    assert found == {"a": 4, "b": 1498, "c": 1498}


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("seed", range(2))
def test_an_allocation_keeps_the_best_of_each_layer(name, seed):
    layers = random_layers(seed)
    sizes = {"l0": torch.tensor([[[[4, 6], [6, 9]]]]), "l1": torch.ones(1, 1, dtype=torch.long)}
    sizes["l2"] = sizes["l1"]
    total = sum(v.numel() for v in layers.values())
    for keep in (total, 40, 9):
        masks = ALLOCATIONS[name](layers, keep, None)
        assert sum(int(m.sum()) for m in masks.values()) == keep
        for k, mask in masks.items():
            assert mask.any() and (mask.all() or layers[k][mask].min() >= layers[k][~mask].max())
        if name == "layer":
            assert all(
                int(m.sum()) == pytest.approx(keep / total * m.numel(), abs=1.5) for m in masks.values()
            )
        masks = ALLOCATIONS[name](layers, 2 * keep, sizes)
        spent = sum(int((m * sizes[k]).sum()) for k, m in masks.items())
        # One more weight, or the last one of each layer, is too much.
        assert spent <= 2 * keep or all(int(m.sum()) == 1 for m in masks.values())
        assert (
            spent
            >= min(2 * keep, sum(int((sizes[k] * torch.ones_like(m)).sum()) for k, m in masks.items())) - 15
        )


def test_erk_leaves_dead_what_is_dead():
    layers = random_layers(0)
    layers["l1"][1:] = -1.0
    masks = ALLOCATIONS["erk"](layers, 45, None)
    assert not masks["l1"][1:].any() and masks["l1"].any()


def test_an_exchange_by_hand():
    mask = torch.tensor([True, True, True, True, False, False, False])
    score = torch.tensor([4.0, 1.0, 2.0, 3.0, -1.0, -1.0, -1.0])
    appeal = torch.tensor([9.0, 9.0, 9.0, 9.0, 5.0, 7.0, 6.0])
    pruned = torch.tensor([False] * 4 + [True, False, True])
    assert exchange(mask, score, appeal, pruned, 0.25).tolist() == [
        True,
        False,
        True,
        True,
        False,
        False,
        True,
    ]
    assert exchange(mask, score, appeal, pruned, 0.9).tolist() == [
        True,
        False,
        False,
        True,
        True,
        False,
        True,
    ]
    assert exchange(mask, score, appeal, pruned, 0.2).equal(mask)


# the pruners


@pytest.mark.parametrize("count", ["parameters", "synapses"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_every_score_goes_with_every_allocation(score, allocation, count):
    torch.manual_seed(0)
    model = Folded(
        nn.Conv2d(2, 4, 3, padding=1),
        Lif(0.15),
        nn.Flatten(),
        nn.Linear(64, 8),
        RecurrentLif(8),
        nn.Linear(8, 3),
    )
    x = events(steps=4, batch=12, size=4)
    pruner = make_pruner(
        "magnitude", score=score, allocation=allocation, epochs=3, sparsity=0.7, count=count, first_epoch=0
    ).attach(model, x)
    _, report = train(model, pruner, x, LABELS, 3, batch=12)
    left, total = report.remaining, report.parameters
    if count == "synapses":
        left, total = report.synapses_remaining, report.synapses
    # No layer is emptied: one weight more in each, if need be.
    assert left <= 0.3 * total + 4 and left >= 0.3 * total - 16
    assert all(layer.remaining for layer in report.layers)


@pytest.mark.parametrize("regrow, name", [("gradient", "granet"), ("random", "magnitude")])
def test_regrowth_gives_the_smallest_for_others_of_the_same_layer(regrow, name):
    torch.manual_seed(0)
    model, x = conv_net(hidden=40), events(batch=12)
    pruner = make_pruner(name, epochs=10, sparsity=0.7, regrow=regrow, fraction=0.4).attach(model, x)
    optimizer, _ = train(model, pruner, x, LABELS, 3)
    before = {k: v.clone() for k, v in pruner.masks.weights.items()}
    train(model, pruner, x, LABELS, 4, start=3, optimizer=optimizer)
    grown = {k: pruner.masks.weights[k] & ~before[k] for k in before}
    assert sum(int(m.sum()) for m in grown.values()) > 5
    if regrow == "gradient":
        for k, mask in grown.items():
            never = ~before[k] & ~mask
            if mask.any() and never.any():
                assert pruner.gradients[k].abs()[mask].min() >= pruner.gradients[k].abs()[never].max()


@pytest.mark.parametrize("name, share", [("granet", "fraction"), ("weighted", "regrow")])
def test_what_the_schedule_removed_may_return_at_once_with_a_weight_of_zero(name, share):
    """In the first epoch that prunes nothing else could."""
    torch.manual_seed(0)
    model, x = conv_net(lambda: Lif(0.15), hidden=40), events(batch=12)
    pruner = make_pruner(name, epochs=4, sparsity=0.6, first_epoch=0, **{share: 0.5}).attach(model, x)
    model(x).sum().backward()
    pruner.step()
    weights = {p.name: p.weight.detach().clone() for p in pruner.structure.prunable}
    if name == "granet":
        kept = pruner._keep(pruner.scores(), pruner.wanted(0))
    else:
        pruner.observe(0)  # scores need traces; a second look adds nothing to them, and decays all alike
        _, kept = pruner._within(pruner.scores(), pruner.wanted(0))
    pruner.end_epoch(0)
    returned = 0
    for name, mask in kept.items():
        after = pruner.masks.weights[name]
        grown, weight = after & ~mask, pruner.structure.projections[name].weight
        assert (weight[grown] == 0).all() and torch.equal(weight[after & mask], weights[name][after & mask])
        assert int(after.sum()) == int(mask.sum())
        returned += int(grown.sum())
    assert returned > 20


def test_the_extension_without_its_parts_is_magnitude():
    masks = []
    for text in (
        "magnitude",
        "weighted:exponent=0,regrow=0,neuron_price=false,connection_price=false",
        "weighted",
    ):
        torch.manual_seed(0)
        name, options = parse_pruner(text)
        model, x = conv_net(lambda: Lif(0.15)), events(batch=12)
        pruner = make_pruner(name, epochs=4, sparsity=0.6, **options).attach(model, x)
        train(model, pruner, x, LABELS, 4)
        masks.append(pruner.masks.weights)
    same = [sum(int((m[k] != masks[0][k]).sum()) for k in masks[0]) for m in masks]
    # Float sums aside, a tie at the threshold may fall either way.
    assert same[1] <= 2 and same[2] > 50


def test_a_connection_price_can_be_turned_off():
    scores = []
    for price in (True, False):
        torch.manual_seed(0)
        model, x = conv_net(neuron=lambda: Lif(0.15)), events(batch=12, steps=4)
        options = {"count": "synapses", "first_epoch": 10, "connection_price": price}
        pruner = make_pruner("weighted", epochs=20, sparsity=0.5, **options).attach(model, x)
        nn.functional.cross_entropy(model(x).mean(0), LABELS).backward()
        pruner.step()
        pruner.end_epoch(0)
        scores.append(pruner.scores()["stages.4"])
    # Kernels of 3 x 3 at 2 x 2 positions.
    np.testing.assert_allclose(scores[0] * 2, scores[1], rtol=1e-5)
    assert "connection price False" in pruner.describe()


@pytest.mark.parametrize("name", ["wanda", "taylor", "granet", "lamp"])
def test_a_saved_state_goes_on_the_same(name):
    torch.manual_seed(0)
    model, x = conv_net(lambda: Lif(0.15)), events(batch=12)
    pruner = make_pruner(name, epochs=6, sparsity=0.7).attach(model, x)
    train(model, pruner, x, LABELS, 3)
    other = make_pruner(name, epochs=6, sparsity=0.7).attach(conv_net(lambda: Lif(0.15)), x)
    other.load_state_dict(pruner.state_dict())
    other.model.load_state_dict(model.state_dict())
    for each in (pruner, other):
        train(each.model, each, x, LABELS, 5, start=3)
    ours, theirs = pruner.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


@pytest.mark.parametrize(
    "text, more, message",
    [
        ("magnitude:score=axe", {}, r"score: found 'axe', expected one of magnitude, taylor"),
        (
            "magnitude:allocation=axe",
            {},
            r"allocation: found 'axe', expected one of global, layer, erk, lamp",
        ),
        ("magnitude:regrow=axe", {}, r"regrow: found 'axe', expected one of none, gradient, random"),
        ("magnitude:exponent=0.5", {}, r"exponent: found 0.5 with score magnitude"),
        ("magnitude:score=weighted,exponent=-1", {}, r"exponent: found -1"),
        ("magnitude:fraction=0.5", {}, r"fraction: found 0.5 with regrow none"),
        ("granet:fraction=1", {}, r"fraction: found 1.0, expected 0 to below 1"),
        ("random:regrow=gradient", {}, r"regrow: found a random score"),
        ("magnitude:colour=red", {}, r"pruner magnitude: has no option 'colour', expected allocation, "),
        ("magnitude:score", {}, r"pruner magnitude: found 'score', expected option=value"),
        ("magnitude:score=fisher,score=taylor", {}, r"pruner magnitude: found score twice"),
        ("weighted:exponent=big", {}, r"found exponent 'big', expected a number"),
        ("weighted:neuron_price=maybe", {}, r"found neuron_price 'maybe', expected true or false"),
        ("weighted:regrow=gradient", {}, r"found regrow 'gradient', expected a number"),
        ("none:score=fisher", {}, r"pruner none: has no option 'score', expected none"),
        ("axe:score=fisher", {}, r"pruner: found 'axe', expected one of none"),
    ],
)
def test_what_makes_no_sense_is_one_line(text, more, message):
    with pytest.raises(InputError, match=message) as error:
        name, options = parse_pruner(text)
        make_pruner(name, epochs=4, **{"sparsity": 0.5, **options, **more})
    assert "\n" not in str(error.value)


def test_a_budget_is_refused_with_the_reason():
    def meter(model):
        raise AssertionError("never measured")

    with pytest.raises(
        InputError, match=r"pruner erk: cannot prune towards a budget \(a layer's share comes"
    ):
        make_pruner("erk", epochs=4, meter=meter)
    with pytest.raises(InputError, match=r"allocation: found erk with a budget, which it cannot follow"):
        make_pruner("magnitude", allocation="erk", epochs=4, meter=meter)
    with pytest.raises(
        InputError, match=r"pruner set: cannot prune towards a budget \(its layers are sparse"
    ):
        make_pruner("set", epochs=4, meter=meter)


def test_regrowth_needs_gradients():
    model, x = conv_net(), events(batch=12)
    pruner = make_pruner("granet", epochs=8, sparsity=0.5, first_epoch=0).attach(model, x)
    with pytest.raises(InputError, match=r"layer stages\.0: has no gradient to regrow by"):
        pruner.end_epoch(0)
    frozen = conv_net()
    frozen.stages[4].weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"layer stages\.4: its weight is frozen"):
        make_pruner("granet", epochs=8, sparsity=0.5).attach(frozen, x)
    pruner = make_pruner("wanda", epochs=8, sparsity=0.5, first_epoch=0).attach(model.eval(), x)
    model(x)
    with pytest.raises(InputError, match=r"layer stages\.0: nothing ever reached it in training mode"):
        pruner.end_epoch(0)
    pruner.detach()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_pruner_says_what_is_unusual_of_it():
    def said(name, **options):
        return make_pruner(name, epochs=4, sparsity=0.5, **options).describe().split(" to 50")[0]

    assert said("magnitude") == "magnitude" and said("lamp") == "lamp"
    assert said("lamp", score="fisher", regrow="random") == "lamp (score fisher, regrow random)"
    assert said("weighted", exponent=0.5, neuron_price=False) == "weighted (exponent 0.5, neuron price False)"
    assert {"lamp", "erk", "granet", "taylor", "fisher", "wanda"} < set(PRUNERS)


# synaptic events


@pytest.mark.parametrize("stride, padding, groups", [(1, 0, 1), (2, 1, 1), (2, 2, 2)])
def test_synaptic_events_are_those_of_counting(stride, padding, groups):
    """Every spike, and every weight that reads it: loops over recordings, steps, positions and taps."""
    torch.manual_seed(0)
    model = Folded(
        nn.Conv2d(2, 4, 3, stride=stride, padding=padding, groups=groups),
        Lif(0.1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    x = events(steps=3, batch=4, size=5, rate=0.6)
    model(x)
    with torch.no_grad():
        model.stages[0].weight[torch.rand(model.stages[0].weight.shape) < 0.5] = 0.0
        model.stages[3].weight[:, ::2] = 0.0
    pruner = make_pruner("none").attach(model, x)
    found = synaptic_events(model, pruner.structure, [(x[:, :3], 3), (x[:, 3:], 1)])
    kernel, matrix = model.stages[0].weight, model.stages[3].weight
    spikes = model.stages[1](model.stages[0](x.flatten(0, 1)).unflatten(0, (3, 4)))
    size, expected = spikes.shape[-1], 0
    for frame in x.flatten(0, 1):
        for o, row, column in np.ndindex(4, size, size):
            for c, i, j in np.ndindex(kernel.shape[1:]):
                source = c + (o // (4 // groups)) * kernel.shape[1]
                y, z = row * stride + i - padding, column * stride + j - padding
                if 0 <= y < 5 and 0 <= z < 5 and frame[source, y, z] != 0 and kernel[o, c, i, j] != 0:
                    expected += 1
    for vector in spikes.flatten(0, 1).flatten(1):
        for f in vector.nonzero().flatten():
            expected += int((matrix[:, f] != 0).sum())
    assert found == expected / 4 and expected > 100


def test_synaptic_events_of_recurrent_spikes_come_a_step_later():
    torch.manual_seed(1)
    model = Folded(RecurrentLif(6), nn.Linear(6, 3))
    x = events(steps=5, batch=3, size=1, channels=6, rate=2.0).flatten(2)
    pruner = make_pruner("none").attach(model, x)
    spikes = model.stages[0](x)
    assert spikes[-1].any()
    expected = spikes[:-1].sum() * 6 + spikes.sum() * 3
    assert synaptic_events(model, pruner.structure, [(x, 3)]) == pytest.approx(float(expected.detach()) / 3)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_inputs_of_a_network_that_is_cut_down_are_those_of_the_whole():
    traces = []
    for cut in (False, True):
        torch.manual_seed(0)
        model, x = conv_net(lambda: Lif(0.15)), events(batch=12)
        pruner = make_pruner("wanda", epochs=8, sparsity=0.5, first_epoch=7).attach(model, x)
        pruner.masks.units["stages.0"][1] = False
        pruner.masks.units["stages.4"][2:4] = False
        pruner.masks.refresh()
        pruner.masks.apply()
        if cut:
            assert pruner.compact()
        model.train()(x).sum().backward()
        pruner.step()
        pruner.end_epoch(0)
        traces.append(pruner.traces)
    for name, trace in traces[0].items():
        np.testing.assert_allclose(traces[1][name], trace, rtol=1e-5)
    assert not traces[0]["stages.4"][1] and traces[0]["stages.4"].any()


@pytest.mark.parametrize("dead", [0.0, 0.4])
def test_synaptic_events_are_the_operations_that_evaluate_reports(dead, tmp_path):
    """The sweep counts in the network that was trained, `evaluate` in the `.nir` file of it; neurons that are pruned hear nothing."""
    x = (np.random.default_rng(0).random((8, 6, 2, 12, 12)) < 0.3).astype(np.uint8)
    model = build_model(ModelSettings("cnn", (2, 12, 12), 3, NeuronSettings(0.01, 0.02, 0.3)), 0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight[torch.rand(weight.shape, generator=generator) < 0.6] = 0.0
    shown = torch.tensor(x).transpose(0, 1).float()
    pruner = make_pruner("none").attach(model, shown)
    whole = synaptic_events(model, pruner.structure, [(shown, 8)])
    if dead:
        for population in Positions(pruner.structure, dead).maps.values():
            population.dead = torch.rand(population.dead.shape, generator=generator) < dead
    found = synaptic_events(model, pruner.structure, [(shown, 8)])
    assert found < 0.9 * whole if dead else found == whole
    write_nir(runs.graph_of(model, {"bins": 6}), tmp_path / "model.nir")
    np.savez(tmp_path / "x.npz", input=x, labels=np.zeros(8, np.int64))
    arguments = [
        "evaluate",
        str(tmp_path / "model.nir"),
        "--input",
        str(tmp_path / "x.npz"),
        "--backend",
        "float",
    ]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    counted = json.loads(done.stdout.splitlines()[-1])["neurobench"]["SynapticOperations"]
    assert found == pytest.approx(counted["Effective_ACs"]) and found > 5000
