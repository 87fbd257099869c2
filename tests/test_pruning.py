"""Pruners on small networks: statistics against the slow reference, goals, regrowth, time bins, bad input."""

import itertools
import warnings

import numpy as np
import oracle_dpap as oracle
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from pruning_samples import Branching, Folded, Lif, RecurrentLif, conv_net, events, train  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.pruning import DPAP, PRUNERS, Pruner, SurvivalSettings, make_pruner  # noqa: E402

LABELS = torch.arange(12) % 3

# `dpap-weighted` is another name for `weighted`.
WITH_A_GOAL = [name for name in PRUNERS if name not in ("none", "dpap-published", "dpap-weighted")]


def data(**kwargs):
    return events(batch=12, **kwargs)


def recorded(model, names, x, batch):
    """Input and output of modules for each batch, in training mode."""
    seen, handles = [], []
    modules = dict(model.named_modules())
    for name in names:
        handles.append(
            modules[name].register_forward_hook(
                lambda m, i, o, n=name: seen[-1].update({n: (i[0].detach().double(), o.detach().double())})
            )
        )
    for first in range(0, x.shape[1], batch):
        seen.append({})
        model(x[:, first : first + batch])
    for handle in handles:
        handle.remove()
    return [{n: (a.numpy(), b.numpy()) for n, (a, b) in batch_seen.items()} for batch_seen in seen]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 3, 4]))
def test_statistics_agree_with_the_loops(seed, batch):
    torch.manual_seed(seed)
    model, x = conv_net(), data(steps=4, seed=seed)
    model.train()
    pruner = make_pruner("dpap").attach(model, x)
    steps = x.shape[0]
    batches = recorded(
        model, ["stages.0", "stages.2", "stages.4", "stages.6", "stages.8", "stages.9"], x, batch
    )
    pruner.step()
    pruner.statistics.end_epoch()
    for synapse, neurons in (("stages.0", "stages.2"), ("stages.4", "stages.6"), ("stages.8", "stages.9")):
        m = pruner.statistics.m[synapse]
        layer = oracle.Layer(*m.shape)
        for seen in batches:
            pre, post = seen[synapse][0], seen[neurons][1]
            layer.batch(
                oracle.activity(post, 0.5), oracle.activity(pre.reshape(steps, -1, *pre.shape[1:]), 0.5)
            )
        np.testing.assert_allclose(m, layer.m, rtol=1e-3, atol=1e-3 * np.abs(layer.m).max())
        p = pruner.structure.projections[synapse]
        np.testing.assert_allclose(pruner.statistics.accumulated_activity(p), layer.a, rtol=1e-4)
        np.testing.assert_allclose(pruner.statistics.spines(p), layer.spines(), atol=1e-3)
    pruner.detach()


@pytest.mark.parametrize("groups", [2, 4])
def test_statistics_of_a_grouped_convolution_agree_with_the_loops(groups):
    """Over several batches, so that the threshold theta is not zero."""
    torch.manual_seed(0)
    model, x = (
        Folded(nn.Conv2d(4, 8, 3, groups=groups), Lif(), nn.Flatten(), nn.Linear(288, 3)),
        data(channels=4),
    )
    pruner = make_pruner("dpap").attach(model, x)
    layer = oracle.Layer(8, 4, groups)
    for seen in recorded(model.train(), ["stages.0", "stages.1"], x, 4):
        pre, post = seen["stages.0"][0], seen["stages.1"][1]
        layer.batch(oracle.activity(post, 0.5), oracle.activity(pre.reshape(-1, 4, *pre.shape[1:]), 0.5))
    pruner.step()
    pruner.statistics.end_epoch()
    np.testing.assert_allclose(
        pruner.statistics.m["stages.0"], layer.m, rtol=1e-3, atol=1e-3 * np.abs(layer.m).max()
    )
    p = pruner.structure.projections["stages.0"]
    np.testing.assert_allclose(pruner.statistics.spines(p), layer.spines(), atol=1e-3)


class Joined(nn.Module):
    """Two convolutions whose channels one population has behind each other."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.neurons = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 5, 3), Lif(0.2)
        self.readout = nn.Linear(8 * 36, 3)

    def forward(self, x):
        steps = x.shape[:2]
        both = torch.cat([self.first(x.flatten(0, 1)), self.second(x.flatten(0, 1))], 1)
        return self.readout(self.neurons(both.unflatten(0, steps)).flatten(2))


def test_a_projection_finds_its_units_in_a_population_that_has_others_too():
    torch.manual_seed(0)
    model, x = Joined(), data()
    pruner = make_pruner("dpap").attach(model, x)
    (seen,) = recorded(model.train(), ["first", "second", "neurons"], x, 12)
    pruner.step()
    pruner.statistics.end_epoch()
    for name, channels in (("first", slice(0, 3)), ("second", slice(3, 8))):
        layer = oracle.Layer(channels.stop - channels.start, 2)
        pre = seen[name][0].reshape(-1, 12, 2, 8, 8)
        layer.batch(oracle.activity(seen["neurons"][1][:, :, channels], 0.5), oracle.activity(pre, 0.5))
        m, p = pruner.statistics.m[name], pruner.structure.projections[name]
        np.testing.assert_allclose(m, layer.m, rtol=1e-3, atol=1e-3 * np.abs(layer.m).max())
        np.testing.assert_allclose(pruner.statistics.accumulated_activity(p), layer.a, rtol=1e-4)


def test_recurrent_synapses_see_the_spikes_of_one_step_before():
    torch.manual_seed(0)
    model = Folded(nn.Flatten(), nn.Linear(8, 5), RecurrentLif(5), nn.Linear(5, 3))
    x = data(size=2)
    pruner = make_pruner("dpap").attach(model, x)
    (seen,) = recorded(model.train(), ["stages.2"], x, 12)
    pruner.step()
    pruner.statistics.end_epoch()
    spikes = seen["stages.2"][1]
    delayed = np.concatenate([np.zeros_like(spikes[:1]), spikes[:-1]])
    layer = oracle.Layer(5, 5)
    layer.batch(oracle.activity(spikes, 0.5), oracle.activity(delayed, 0.5))
    assert spikes.sum() > 0
    np.testing.assert_allclose(pruner.statistics.m["stages.2.recurrent"], layer.m, rtol=1e-4, atol=1e-6)


def test_stepwise_norse_network_has_the_statistics_of_its_spikes():
    norse = pytest.importorskip("norse.torch")
    torch.manual_seed(0)
    parameters = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.1))
    model = norse.SequentialState(
        nn.Conv2d(2, 4, 3), norse.LIFBoxCell(parameters), nn.Flatten(), nn.Linear(144, 5),
        norse.LIFBoxCell(parameters), nn.Linear(5, 3),
    )  # fmt: skip
    x = data()
    pruner = make_pruner("dpap").attach(model, x, loop=True)
    spikes = {"1": [], "4": []}
    for name in spikes:
        model.get_submodule(name).register_forward_hook(
            lambda m, i, o, n=name: spikes[n].append(o[0].detach().numpy())
        )
    state = None
    for step in x:
        _, state = model(step, state)
    pruner.step()
    pruner.statistics.end_epoch()
    conv, fc = oracle.Layer(4, 2), oracle.Layer(5, 144)
    s1, s4 = np.stack(spikes["1"]), np.stack(spikes["4"])
    assert s1.sum() > 0 and s4.sum() > 0
    conv.batch(oracle.activity(s1, 0.5), oracle.activity(x.numpy(), 0.5))
    flat = s1.reshape(*s1.shape[:2], -1)
    fc.batch(oracle.activity(s4, 0.5), oracle.activity(flat, 0.5))
    np.testing.assert_allclose(pruner.statistics.m["0"], conv.m, rtol=1e-4)
    np.testing.assert_allclose(pruner.statistics.m["3"], fc.m, rtol=1e-4, atol=1e-7)


def test_rectifiers_have_their_activation_as_trace():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    x = torch.rand(6, 1, 8, 8)
    pruner = make_pruner("dpap").attach(model, x, time=False)
    model(x)
    pruner.step()
    pruner.statistics.end_epoch()
    with torch.no_grad():
        a = model[1](model[0](x)).sum((2, 3))
    layer = oracle.Layer(4, 1)
    layer.batch(a.numpy(), x.sum((2, 3)).numpy())
    np.testing.assert_allclose(pruner.statistics.m["0"], layer.m, rtol=1e-4)


class OneRectifier(nn.Module):
    """The same ReLU module behind two convolutions and a matrix, of different sizes."""

    def __init__(self, channels=(4, 4), own=False):
        super().__init__()
        a, b = channels
        self.conv1, self.conv2 = nn.Conv2d(2, a, 3, padding=1), nn.Conv2d(a, b, 3)
        self.hidden, self.readout = nn.Linear(b * 36, 5), nn.Linear(5, 3)
        rectifiers = [nn.ReLU() for _ in range(3)] if own else [nn.ReLU()] * 3
        self.r1, self.r2, self.r3 = rectifiers

    def forward(self, x):
        x = self.r2(self.conv2(self.r1(self.conv1(x))))
        return self.readout(self.r3(self.hidden(input=x.flatten(1))))


@pytest.mark.parametrize("channels", [(4, 4), (4, 6)])
def test_a_shared_rectifier_is_several_populations(channels):
    x, found = torch.rand(12, 2, 8, 8), []
    for own in (True, False):
        torch.manual_seed(0)
        model = OneRectifier(channels, own)
        pruner = make_pruner("dpap", epochs=4).attach(model, x, time=False)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for epoch in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x=x), LABELS).backward()
            optimizer.step()
            pruner.step(optimizer)
            report = pruner.end_epoch(epoch, optimizer)
            pruner.compact(optimizer)
        pruner.expand(optimizer)
        neurons = pruner.structure.neurons(torch.ones(len(pruner.structure.labels), dtype=torch.bool))
        assert neurons == 64 * channels[0] + 36 * channels[1] + 5
        found.append((pruner.statistics.m, pruner.masks.weights, model.state_dict()))
    assert 0 < report.remaining < report.parameters
    for a, b in zip(*found, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_shared_neurons_with_parameters_for_each_channel_are_refused():
    neurons = Lif()
    neurons.register_buffer("thresholds", torch.ones(4))
    model = Folded(nn.Conv2d(2, 4, 3), neurons, nn.Conv2d(4, 4, 3), neurons, nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(InputError, match=r"neurons stages\.1: are used in several places"):
        make_pruner("dpap").attach(model, data())


def test_a_matrix_over_tokens_has_its_features_last():
    """(samples, tokens, features): activity is summed over tokens, as over the pixels of a convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)
    )
    x = torch.rand(12, 8, 16)
    pruner = make_pruner("dpap").attach(model, x, time=False)
    model(x)
    pruner.step()
    pruner.statistics.end_epoch()
    with torch.no_grad():
        hidden = model[:2](x)
        outputs = model[2](hidden).relu()
    layer = oracle.Layer(5, 6)
    layer.batch(outputs.sum(1).numpy(), hidden.sum(1).numpy())
    np.testing.assert_allclose(pruner.statistics.m["2"], layer.m, rtol=1e-4)


@pytest.mark.parametrize("steps", [3, 5])
def test_a_matrix_may_see_the_batch_before_the_steps(steps):
    class BatchFirst(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first, self.a, self.n, self.b = first, nn.Linear(8, 5), Lif(0.1), nn.Linear(5, 3)

        def forward(self, x):
            x = x.flatten(2)
            y = self.a(x.transpose(0, 1)).transpose(0, 1) if self.first else self.a(x)
            return self.b(self.n(y))

    m = []
    for first in (False, True):
        torch.manual_seed(0)
        model, x = BatchFirst(first), data(size=2, steps=steps)
        pruner = make_pruner("dpap").attach(model, x)
        model(x)
        pruner.step()
        pruner.statistics.end_epoch()
        m.append(pruner.statistics.m["a"])
    torch.testing.assert_close(m[0], m[1])
    assert m[0].abs().sum() > 0


def test_what_is_added_in_place_counts_as_input():
    """A spiking residual block after SEW-ResNet: spikes of a population, and the shortcut added to them."""

    class Added(nn.Module):
        def __init__(self, in_place):
            super().__init__()
            self.in_place = in_place
            self.a, self.n = nn.Linear(8, 8), Lif(0.1)
            self.b, self.m, self.readout = nn.Linear(8, 5), Lif(0.1), nn.Linear(5, 3)

        def forward(self, x):
            x = x.flatten(2)
            y = self.n(self.a(x)).clone() if not self.in_place else self.n(self.a(x))
            y += x
            return self.readout(self.m(self.b(y.flatten(0, 1)).unflatten(0, x.shape[:2])))

    m = []
    for in_place in (False, True):
        torch.manual_seed(0)
        model, x = Added(in_place), data(size=2)
        pruner = make_pruner("dpap").attach(model, x)
        model(x)
        pruner.step()
        pruner.statistics.end_epoch()
        m.append(pruner.statistics.m["b"])
    assert torch.equal(m[0], m[1]) and m[0].abs().sum() > 0


@pytest.mark.parametrize("parts", [(6, 6), (8, 4)])
def test_gradients_accumulated_over_sequences_step_by_step(parts):
    """Two sequences before one `step` count as two samples each, not as one of twice the length."""
    norse = pytest.importorskip("norse.torch")
    totals = []
    for split in ((12,), parts):
        torch.manual_seed(0)
        p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.1))
        model = norse.SequentialState(nn.Flatten(), nn.Linear(128, 5), norse.LIFBoxCell(p), nn.Linear(5, 3))
        x = data()
        pruner = make_pruner("dpap").attach(model, x, loop=True)
        for sequences in x.split(split, 1):
            state = None
            for step in sequences:
                _, state = model(step, state)
        pruner.step()
        assert pruner.statistics.samples == 12
        totals.append(pruner.statistics.totals["2"])
    torch.testing.assert_close(totals[0], totals[1])
    assert totals[0].sum() > 0


def test_nothing_is_observed_in_evaluation_mode():
    model, x = conv_net(), data()
    pruner = make_pruner("dpap").attach(model, x)
    model.eval()
    model(x)
    pruner.step()
    assert pruner.statistics.samples == 0


def test_a_unit_dies_in_the_epoch_its_survival_says():
    """The whole road: survival recomputed by the slow reference from the pruner's own statistics."""
    torch.manual_seed(1)
    model, x = conv_net(neuron=lambda: Lif(0.15)), data()
    pruner = DPAP(SurvivalSettings(initial=2.0, first_epoch=1)).attach(model, x)
    name = "stages.8"
    p = pruner.structure.projections[name]
    neurons, synapses = [2.0] * 12, [2.0] * (12 * 24)
    dead_neurons, dead_synapses = set(), set()
    died = 0
    optimizer = None
    for epoch in range(5):
        optimizer, report = train(model, pruner, x, LABELS, epoch + 1, start=epoch, optimizer=optimizer)
        if epoch >= 1:
            spines = pruner.statistics.spines(p).tolist()
            m = pruner.statistics.m[name].flatten().tolist()
            neurons = oracle.survive(neurons, oracle.gain(spines, 1.5, 2.0), 0.999, epoch, 1, 13.0)
            synapses = oracle.survive(synapses, oracle.gain(m, 1.5, 2.0), 0.999, epoch, 1, 13.0)
            dead_neurons |= {i for i, s in enumerate(neurons) if s < 0}
            dead_synapses |= {i for i, s in enumerate(synapses) if s < 0}
        mask = pruner.masks.weights[name]
        # Neurons also go with everything that fed them; nothing else dies here before its survival says so.
        for i in range(12):
            row_dead = i in dead_neurons
            for j in range(24):
                if row_dead or i * 24 + j in dead_synapses:
                    assert not mask[i, j]
        died += len(dead_synapses)
        assert report.layers[2].remaining == int(mask.sum())
    assert died > 0 and pruner.masks.weights["stages.10"].any()
    assert (model.stages[8].weight[~pruner.masks.weights[name]] == 0).all()


def test_published_rule_is_blind_to_weights():
    """Scaling weights while spikes stay the same changes no survival value."""
    torch.manual_seed(0)
    x = data()
    survival = []
    for scale in (1.0, 3.0):
        torch.manual_seed(0)
        model = conv_net()
        pruner = make_pruner("dpap", epochs=4).attach(model, x)
        with torch.no_grad():
            # Batch norm undoes the scale, so that the spikes are the same.
            model.stages[0].weight.mul_(scale)
            model.stages[0].bias.mul_(scale)
            model.stages[1].eps = 1e-12
        model.train()
        model(x)
        pruner.step()
        pruner.end_epoch(1)
        survival.append(pruner.unit_survival["stages.0"])
    torch.testing.assert_close(survival[0], survival[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", WITH_A_GOAL)
@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_every_pruner_reaches_its_goal(name, sparsity):
    torch.manual_seed(0)
    model, x = conv_net(channels=(6, 8), hidden=40), data()
    pruner = make_pruner(name, epochs=6, sparsity=sparsity).attach(model, x)
    _, report = train(model, pruner, x, LABELS, 6)
    assert report.sparsity == pytest.approx(pruner.sparsity()) == pytest.approx(sparsity, abs=0.02)
    weights = {n: m.weight for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    for p_name, mask in pruner.masks.weights.items():
        assert (weights[p_name][~mask] == 0).all() and mask.any()
    assert report.remaining == sum(int((w != 0).sum()) for w in weights.values())
    assert pruner.masks.weights["stages.10"][:, pruner.masks.units["stages.8"]].all()
    assert torch.isfinite(model(x)).all()


@pytest.mark.parametrize("name", ["magnitude", "random", "set", "rigl", "weighted"])
@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_nothing_goes_beyond_the_goal(name, sparsity):
    torch.manual_seed(0)
    model, x = conv_net(channels=(4, 6), hidden=20), data()
    pruner = make_pruner(name, epochs=4, sparsity=sparsity).attach(model, x)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    left = []
    for epoch in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).mean(0), LABELS).backward()
        optimizer.step()
        pruner.step(optimizer)
        left.append(pruner.end_epoch(epoch, optimizer).remaining)
    assert left[3:] == left[3:4] * 5
    if sparsity == 0.0:
        assert left[0] == left[3] == pruner.masks.parameters()


@pytest.mark.parametrize("count", ["parameters", "synapses"])
@pytest.mark.parametrize("name", WITH_A_GOAL)
def test_a_goal_below_what_is_always_left(name, count):
    if name in ("set", "rigl") and count == "synapses":
        pytest.skip("counts parameters only")
    model, x = conv_net(channels=(2, 3), hidden=4), data()
    # Read-out, matrix, two convolutions.
    rows, columns = model.stages[-1].weight.shape
    first, second = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    taps = [m.weight[0, 0].numel() for m in (first, second)]
    weights = {"dpap": [rows, 0, *taps], "weighted": [rows, 0, 0, 0]}.get(name, [rows * columns, 1, 1, 1])
    each = [1, 1, 1, 1]
    if count == "synapses":
        pruner = make_pruner("none").attach(model, x)
        projections = pruner.structure.projections.values()
        each[2:] = [int(p.connections().min()) for p in projections if p.kind == "conv"]
        pruner.detach()
    least = sum(a * b for a, b in zip(weights, each, strict=True))
    with pytest.raises(
        InputError, match=f"pruner {name}: found remaining, {least - 1:,} .* at least {least:,}"
    ):
        make_pruner(name, epochs=4, remaining=least - 1, count=count).attach(model, x)
    torch.manual_seed(0)
    pruner = make_pruner(name, epochs=4, remaining=least, count=count).attach(model, x)
    _, report = train(model, pruner, x, LABELS, 4)
    left = report.remaining if count == "parameters" else report.synapses_remaining
    assert left >= least
    total = report.parameters if count == "parameters" else report.synapses
    with pytest.raises(InputError, match=f"found sparsity 0.9999, {round(total * 0.0001)} {count} left"):
        make_pruner(name, epochs=4, sparsity=0.9999, count=count).attach(model, x)


@pytest.mark.parametrize("name", ["dpap", "weighted"])
def test_a_grouped_read_out_of_which_half_goes_with_a_unit(name):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.AdaptiveAvgPool1d(3)
    )
    x, least = torch.rand(12, 2, 5, 5), {"dpap": 2 * 9 + 1, "weighted": 2 * 9}[name]
    for remaining in (least - 1, least):
        pruner = make_pruner(name, epochs=4, remaining=remaining)
        if remaining < least:
            with pytest.raises(InputError, match=f"expected at least {least}:"):
                pruner.attach(model, x, time=False)
        else:
            pruner.attach(model, x, time=False)


@pytest.mark.parametrize("name", ["dpap", "magnitude", "weighted"])
def test_goal_as_a_count_of_synapses(name):
    torch.manual_seed(0)
    model, x = conv_net(lambda: Lif(0.15), channels=(12, 24), hidden=60), data()
    pruner = make_pruner(name, epochs=6, remaining=10000, count="synapses").attach(model, x)
    _, report = train(model, pruner, x, LABELS, 6)
    assert report.synapses > 25000
    # Channels go in lumps of several hundred connections here.
    assert report.synapses_remaining == pytest.approx(10000, rel=0.15 if name == "dpap" else 0.02)


@pytest.mark.parametrize("name", ["none", *WITH_A_GOAL])
def test_same_seed_same_masks(name):
    def run():
        torch.manual_seed(0)
        model, x = conv_net(), data()
        goal = {} if name in ("none", "dpap") else {"sparsity": 0.7}
        pruner = make_pruner(name, epochs=4, **goal).attach(model, x)
        train(model, pruner, x, LABELS, 4)
        return model.state_dict(), pruner.masks.weights

    (a, ma), (b, mb) = run(), run()
    assert all(torch.equal(a[k], b[k]) for k in a) and all(torch.equal(ma[k], mb[k]) for k in ma)


def after_pruning(optimizer_told):
    """Steps of a momentum optimizer before and after half of the weights went; with each step's gradients."""
    torch.manual_seed(0)
    model, x = conv_net(neuron=lambda: Lif(0.15)), data()
    pruner = make_pruner("magnitude", epochs=1, sparsity=0.5, first_epoch=0).attach(model.train(), x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    gradients = {}
    for number in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).mean(0), LABELS).backward()
        gradients = {k: p.weight.grad.clone() for k, p in pruner.structure.projections.items()}
        optimizer.step()
        pruner.step(optimizer)
        if number == 1:
            pruner.end_epoch(0, optimizer if optimizer_told else None)
    dead = {k: ~mask for k, mask in pruner.masks.weights.items()}
    assert sum(int(d.sum()) for d in dead.values()) > 100
    return pruner, dead, gradients


def test_what_is_pruned_stays_zero_whatever_an_optimizer_remembers():
    pruner, dead, _ = after_pruning(optimizer_told=False)
    for name, p in pruner.structure.projections.items():
        assert not p.weight[dead[name]].any() and p.weight[~dead[name]].all()


def test_gradients_of_what_is_pruned_never_reach_the_optimizer():
    pruner, dead, gradients = after_pruning(optimizer_told=True)
    for name in pruner.structure.projections:
        assert not gradients[name][dead[name]].any() and gradients[name][~dead[name]].any()


def test_magnitude_keeps_the_largest():
    model, x = conv_net(), data()
    pruner = make_pruner("magnitude", epochs=1, sparsity=0.6, first_epoch=0).attach(model, x)
    prunable = {
        n: model.get_parameter(f"{n}.weight").detach().abs().clone()
        for n in ("stages.0", "stages.4", "stages.8")
    }
    pruner.end_epoch(0)
    kept = torch.cat([v[pruner.masks.weights[n]] for n, v in prunable.items()])
    lost = torch.cat([v[~pruner.masks.weights[n]] for n, v in prunable.items()])
    assert kept.min() >= lost.max() and len(lost) > 100


def test_weighted_importance_by_hand():
    """|w| F^(1/4) with F <- F / 2 + mean over the epoch's batches of g^2, from gradients taken here."""
    torch.manual_seed(0)
    model, x = conv_net(neuron=lambda: Lif(0.15)), data(steps=4)
    pruner = make_pruner("weighted", epochs=20, sparsity=0.5, first_epoch=10).attach(model, x)
    expected = np.zeros(model.stages[4].weight.shape)
    for epoch in range(2):
        squares = []
        for batch in range(3):
            model.zero_grad()
            nn.functional.cross_entropy(model(x[:, 4 * batch : 4 * batch + 4]).mean(0), LABELS[:4]).backward()
            squares.append(model.stages[4].weight.grad.numpy().astype(float) ** 2)
            pruner.step()
        pruner.end_epoch(epoch)
        expected = 0.5 * expected + sum(squares) / 3
    expected = np.abs(model.stages[4].weight.detach().numpy()) * expected**0.25
    np.testing.assert_allclose(pruner.scores()["stages.4"], expected, rtol=1e-4)
    assert expected.max() > 0


def test_weighted_importance_pays_for_connections():
    """With a goal of synapses a weight used at c positions counts 1 / sqrt(c) of what it counts otherwise."""
    scores = {}
    for count in ("parameters", "synapses"):
        torch.manual_seed(0)
        model, x = conv_net(neuron=lambda: Lif(0.15)), data(steps=4)
        pruner = make_pruner("weighted", epochs=20, sparsity=0.5, count=count, first_epoch=10)
        pruner.attach(model, x)
        nn.functional.cross_entropy(model(x).mean(0), LABELS).backward()
        pruner.step()
        pruner.end_epoch(0)
        scores[count] = pruner.scores()
    # 4 x 4 pixels, kernels of 3 x 3 without padding: 4 positions; a matrix: one.
    np.testing.assert_allclose(
        scores["synapses"]["stages.4"] * 2, scores["parameters"]["stages.4"], rtol=1e-5
    )
    np.testing.assert_array_equal(scores["synapses"]["stages.8"], scores["parameters"]["stages.8"])
    assert scores["parameters"]["stages.4"].max() > 0


@pytest.mark.parametrize("count", ["parameters", "synapses"])
def test_weighted_selection_is_the_best_within_its_budget(count):
    """Every subset of a tiny layer's neurons, each with its synapses above the threshold: none within the budget
    holds more importance, counted less the threshold for every weight, those of the read-out too."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), Lif(), nn.Linear(6, 3, bias=False))
    x = events(steps=4, batch=8, size=1).flatten(2)[..., :1].expand(4, 8, 5).clone()
    pruner = make_pruner("weighted", epochs=1, remaining=26, count=count, first_epoch=0, regrow=0.0)
    pruner.attach(model, x)
    score = torch.rand(6, 5)
    units, masks = pruner._within({"0": score}, 26)
    alive, kept = units["0"], masks["0"] & units["0"][:, None]
    left = int(kept.sum()) + 3 * int(alive.sum())
    assert 20 <= left <= 26
    threshold = score[kept].min() - 1e-6
    worth = (score - threshold).clamp_min(0.0).sum(1) - 3 * threshold
    best = max(
        float(worth[list(chosen)].sum())
        for number in range(7)
        for chosen in itertools.combinations(range(6), number)
        if sum(3 + int((score[i] > threshold).sum()) for i in chosen) <= 26
    )
    assert float(worth[alive].sum()) == pytest.approx(best, abs=0.05)


def lowest_threshold(pruner, scores, wanted):
    """Units and synapses at the lowest threshold that leaves at most `wanted`: every rung tried, and one below all of them,
    everything counted."""
    projections = pruner.structure.projections
    readout = next(p for p in projections.values() if p.readout)
    cost = torch.zeros(len(pruner.structure.labels))
    for label, weights in zip(readout.pre.tolist(), torch.ones(readout.shape).T, strict=True):
        cost[label] += weights.sum()
    for rung in torch.cat([torch.tensor([-0.5]), *(s.flatten() for s in scores.values())]).unique():
        if rung == -1:
            continue
        masks = {name: s > rung for name, s in scores.items()}
        worth = -rung * cost
        for name, s in scores.items():
            if not masks[name].any():
                masks[name].view(-1)[s.argmax()] = True
            for row, label in enumerate(projections[name].labels):
                worth[label] += (s[row] - rung).clamp_min(0.0).sum()
        units = {}
        for name, before in pruner.masks.units.items():
            labels = projections[name].labels
            units[name] = before & ((worth[labels] > 0) | (cost[labels] == 0))
            if not units[name].any():
                best = int(torch.where(before, worth[labels], -torch.inf).argmax())
                units[name][best] = True
                masks[name][best].view(-1)[scores[name][best].argmax()] = True
        left, _ = pruner.masks.weight_masks(units, masks)
        counts = {
            "parameters": lambda p, m: int(m.sum()),
            "synapses": lambda p, m: int((m * p.connections()).sum()),
        }
        if sum(counts[pruner.goal.count](projections[n], m) for n, m in left.items()) <= wanted:
            break
    return units, masks


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 10_000), st.booleans(), st.sampled_from(["parameters", "synapses"]), st.floats(0.2, 1.0)
)
def test_weighted_selection_is_that_of_trying_every_threshold(seed, ties, count, share):
    torch.manual_seed(seed)
    model, x = conv_net(channels=(2, 4), hidden=6), data()
    pruner = make_pruner("weighted", epochs=1, sparsity=0.5, count=count).attach(model, x)
    pruner.masks.units["stages.8"][seed % 6] = False
    pruner.masks.refresh()
    scores = {}
    for p in pruner.structure.prunable:
        score = torch.rand(p.shape)
        score = (8 * score).round() / 8 if ties else score
        scores[p.name] = torch.where(pruner.masks.weights[p.name], score, -torch.ones(()))
    total = sum(c.synapses if count == "synapses" else c.parameters for c in pruner.masks.layers())
    wanted = int(share * total)
    units, masks = pruner._within(scores, wanted)
    expected_units, expected_masks = lowest_threshold(pruner, scores, wanted)
    assert all(torch.equal(units[k], v) for k, v in expected_units.items())
    assert all(torch.equal(masks[k], v) for k, v in expected_masks.items())


@pytest.mark.parametrize("count", ["parameters", "synapses"])
@pytest.mark.parametrize("name", WITH_A_GOAL)
def test_a_goal_where_only_recurrent_weights_can_be_pruned(name, count):
    torch.manual_seed(0)
    model = Folded(RecurrentLif(20), nn.Linear(20, 3))
    x = events(steps=5, batch=12, size=1, channels=20).flatten(2)
    if name in ("set", "rigl") and count == "synapses":
        pytest.skip("counts parameters only")
    pruner = make_pruner(name, epochs=4, sparsity=0.5, count=count).attach(model, x)
    _, report = train(model, pruner, x, LABELS, 4)
    assert report.remaining == pytest.approx(230, abs=1) and report.parameters == 460
    assert int((model.stages[0].recurrent.weight != 0).sum()) == report.remaining - 60


def test_structured_pruning_to_a_goal_without_units_is_one_line():
    model = Folded(RecurrentLif(4), nn.Linear(4, 3))
    pruner = make_pruner("dpap", epochs=4, sparsity=0.5, structured=True)
    with pytest.raises(InputError, match="dpap: found no channels or neurons that could die"):
        pruner.attach(model, events(steps=2, batch=3, size=1, channels=4).flatten(2))


def test_magnitude_per_layer_removes_the_same_share():
    model, x = conv_net(), data()
    pruner = make_pruner("magnitude-layer", epochs=1, sparsity=0.6, first_epoch=0).attach(model, x)
    report = pruner.end_epoch(0)
    shares = [1 - layer.remaining / layer.parameters for layer in report.layers[:3]]
    assert max(shares) - min(shares) < 0.03 and report.layers[3].remaining == report.layers[3].parameters


def test_rigl_gives_the_smallest_weights_for_the_largest_gradients():
    torch.manual_seed(0)
    model, x = conv_net(), data()
    pruner = make_pruner("rigl", epochs=4, sparsity=0.5, reach=1.0, fraction=0.2).attach(model, x)
    gradients = {k: torch.randn(p.shape) for k, p in pruner.structure.projections.items()}
    pruner.gradients = dict(gradients)
    before = {p.name: pruner.masks.synapses[p.name].clone() for p in pruner.structure.prunable}
    sizes = {p.name: p.weight.detach().abs().clone() for p in pruner.structure.prunable}
    pruner.end_epoch(0)
    exchanged = 0
    for name, alive in before.items():
        after, gradient = pruner.masks.synapses[name], gradients[name].abs()
        moved = min(int(0.1 * (1 + np.cos(np.pi / 4)) * int(alive.sum())), int((~alive).sum()))
        gone, grown = alive & ~after, after & ~alive
        assert int(gone.sum()) == int(grown.sum()) == moved
        if gone.any():
            assert sizes[name][gone].max() <= sizes[name][alive & after].min()
        if grown.any() and (~alive & ~after).any():
            assert gradient[grown].min() >= gradient[~alive & ~after].max()
            exchanged += moved
    assert exchanged > 10


@pytest.mark.parametrize("name", ["set", "rigl", "weighted"])
def test_rewiring_regrows(name):
    torch.manual_seed(0)
    model, x = conv_net(hidden=40), data()
    pruner = make_pruner(name, epochs=10, sparsity=0.7, **({"regrow": 0.3} if name == "weighted" else {}))
    pruner.attach(model, x)
    train(model, pruner, x, LABELS, 4)
    before = {k: v.clone() for k, v in pruner.masks.weights.items()}
    train(model, pruner, x, LABELS, 5, start=4)
    regrown = sum(int((pruner.masks.weights[k] & ~before[k]).sum()) for k in before)
    assert regrown > 0


@pytest.mark.parametrize("name", ["dpap", "magnitude", "random"])
def test_others_never_regrow(name):
    torch.manual_seed(0)
    model, x = conv_net(hidden=40), data()
    pruner = make_pruner(name, epochs=6, sparsity=0.8).attach(model, x)
    before, optimizer = None, None
    for epoch in range(6):
        optimizer, _ = train(model, pruner, x, LABELS, epoch + 1, start=epoch, optimizer=optimizer)
        now = {k: v.clone() for k, v in pruner.masks.weights.items()}
        if before is not None:
            assert not any((now[k] & ~before[k]).any() for k in now)
        before = now


def test_branching_network_trains_and_prunes():
    torch.manual_seed(0)
    model, x = Branching(), data(size=6)
    pruner = make_pruner("dpap", epochs=5, sparsity=0.6).attach(model, x)
    _, report = train(model, pruner, x, LABELS, 5)
    assert report.sparsity == pytest.approx(0.6, abs=0.03)
    assert pruner.structure.projections["stem"].population == "neurons"
    assert pruner.structure.projections["block.conv2"].population == "block.neurons2"


def test_importance_of_time_bins_agrees_with_the_loops():
    torch.manual_seed(0)
    x, model = data(steps=6), conv_net(neuron=lambda: Lif(0.15))
    pruner = make_pruner("dpap", time_bins=True).attach(model, x)
    model.train()
    neurons = {"stages.0": "stages.2", "stages.4": "stages.6", "stages.8": "stages.9"}
    (seen,) = recorded(model, list(neurons.values()), x, 12)
    pruner.step()
    pruner.statistics.end_epoch()
    z = np.zeros(6)
    for synapse, name in neurons.items():
        spikes = seen[name][1]
        spines = pruner.statistics.spines(pruner.structure.projections[synapse]).tolist()
        layer = [
            sum(d * spikes[t, b, i].sum() for i, d in enumerate(spines) for b in range(12)) for t in range(6)
        ]
        z += np.array(layer) / sum(layer)
    np.testing.assert_allclose(pruner.statistics.bin_importance(), z, rtol=1e-4)


@pytest.mark.parametrize("options", [{"bins": 4, "reach": 0.6}, {"time_bins": True}])
def test_time_bins_die_and_are_no_longer_shown(options):
    torch.manual_seed(0)
    x = data(steps=8)
    model = conv_net(neuron=lambda: Lif(0.15))
    pruner = make_pruner("dpap", epochs=8, **options).attach(model, x)
    optimizer, kept = None, [set(range(8))]
    for epoch in range(8):
        shown = x[pruner.kept_bins]
        optimizer, report = train(model, pruner, shown, LABELS, epoch + 1, start=epoch, optimizer=optimizer)
        kept.append(set(report.kept_bins))
        if epoch == 3:
            lowest = int(pruner.bin_survival.argmin())
    assert all(after <= before for before, after in itertools.pairwise(kept))
    assert len(kept[-1]) < 8 and pruner.kept_bins.tolist() == sorted(kept[-1])
    if "bins" in options:
        assert len(kept[-1]) == 4 and lowest not in kept[-1]
    else:
        alive = {t for t in range(8) if pruner.bin_survival[t] >= 0}
        assert alive >= kept[-1]
    with pytest.raises(InputError, match=f"shown 8 steps, expected the {len(kept[-1])}"):
        model.train()(x)


def test_describe_says_when_the_schedule_is_scaled():
    assert "scaled to 8" in make_pruner("dpap", epochs=8).describe()
    assert (
        "scaled" not in DPAP.from_paper().describe()
        and "the authors' constants" in DPAP.from_paper().describe()
    )
    assert "90.0% of the parameters" in make_pruner("magnitude", epochs=8, sparsity=0.9).describe()


def test_silent_network():
    model, x = conv_net(neuron=lambda: Lif(threshold=1e6)), data()
    pruner = make_pruner("dpap", epochs=2).attach(model, x)
    with pytest.raises(InputError, match=r"stages\.2: its neurons never spiked"):
        train(model, pruner, x, LABELS, 2)


def test_nan_in_the_data():
    model, x = conv_net(), data()
    pruner = make_pruner("dpap", epochs=2).attach(model, x)
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        train(model, pruner, x, LABELS, 2)


@pytest.mark.parametrize("name", [n for n in WITH_A_GOAL if n != "dpap"])
def test_nan_in_the_data_where_weights_decide(name):
    model, x = conv_net(), data()
    pruner = make_pruner(name, epochs=3, sparsity=0.5).attach(model, x)
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layer stages\.0: its weight holds NaN") as error:
        train(model, pruner, x, LABELS, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["rigl", "weighted"])
def test_a_batch_that_a_loss_scaler_skips_leaves_no_trace(name, first):
    states = []
    for skipped in (False, True):
        torch.manual_seed(0)
        model, x = conv_net(neuron=lambda: Lif(0.15)), data()
        pruner = make_pruner(name, epochs=3, sparsity=0.5, first_epoch=1).attach(model, x)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for batch in range(3):
            for overflows in [True, False] if skipped and batch == (0 if first else 2) else [False]:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model.eval()(x).mean(0), LABELS)
                (loss * torch.inf if overflows else loss).backward()
                if not overflows:
                    optimizer.step()
                pruner.step()
        pruner.end_epoch(0)
        states.append(pruner.state_dict())
        assert torch.isfinite(torch.cat([v.flatten() for v in pruner.gradients.values()])).all()
        pruner.end_epoch(1)
    known = {k: v for k, v in states[0].items() if not (first and k.startswith("gradients/"))}
    assert all(torch.equal(v, states[1][k]) for k, v in known.items())


def test_gradients_that_always_overflow_are_named():
    model, x = conv_net(neuron=lambda: Lif(0.15)), data()
    pruner = make_pruner("weighted", epochs=3, sparsity=0.5, first_epoch=1).attach(model, x)
    for epoch in range(2):
        (model(x).mean() * torch.inf).backward()
        pruner.step()
        if epoch == 0:
            pruner.end_epoch(0)
    with pytest.raises(InputError, match=r"layer stages\.0: its weights never had a gradient that is finite"):
        pruner.end_epoch(1)


@pytest.mark.parametrize(
    "sample, where",
    [((4, 2, 3, 8, 8), r"stages\.0: .*3 channels"), ((4, 2, 2, 7, 7), r"stages\.8: .*8x6 and 24x12")],
)
def test_a_sample_of_another_shape_is_one_line(sample, where):
    model = conv_net()
    shape = ", ".join(map(str, sample))
    with pytest.raises(InputError, match=rf"sample_input: found shape \({shape}\).*layer {where}") as error:
        make_pruner("dpap", epochs=3).attach(model, torch.zeros(sample))
    assert "\n" not in str(error.value) and not any(m._forward_hooks for m in model.modules())


def test_weighted_pruning_without_gradients_is_one_line():
    model, x = conv_net(), data()
    pruner = make_pruner("weighted", epochs=3, sparsity=0.5, first_epoch=0).attach(model, x)
    with pytest.raises(InputError, match=r"layer stages\.0: its weights never had a gradient"):
        pruner.end_epoch(0)
    silent = conv_net(neuron=lambda: Lif(threshold=1e6))
    pruner = make_pruner("weighted", epochs=3, sparsity=0.5).attach(silent, x)
    with pytest.raises(InputError, match=r"layer stages\.0: its weights never had a gradient") as error:
        train(silent, pruner, x, LABELS, 3)
    assert "\n" not in str(error.value)
    frozen = conv_net()
    frozen.stages[4].weight.requires_grad_(False)
    pruner = make_pruner("weighted", epochs=3, sparsity=0.5)
    with pytest.raises(InputError, match=r"layer stages\.4: its weight is frozen"):
        pruner.attach(frozen, x)
    assert pruner.model is None and not any(p._post_accumulate_grad_hooks for p in frozen.parameters())


@pytest.mark.parametrize("name", ["dpap", "weighted", "rigl"])
def test_attached_again_a_pruner_starts_anew(name):
    masks = []
    for before in (None, 30, None):
        pruner = make_pruner(name, epochs=4, sparsity=0.6)
        for hidden in [before] * (before is not None) + [40]:
            torch.manual_seed(0)
            pruner.generator.manual_seed(0)
            model, x = conv_net(hidden=hidden), data()
            pruner.attach(model, x)
            optimizer, _ = train(model, pruner, x, LABELS, 4)
            pruner.compact(optimizer)
            pruner.detach()
        masks.append(pruner.masks.weights)
        pruner.expand(optimizer)
        with pytest.warns(UserWarning, match="is detached"):
            model(x).sum().backward()
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert all(torch.equal(m[k], masks[0][k]) for m in masks for k in m)


def test_one_class_only_still_prunes():
    torch.manual_seed(0)
    model, x = conv_net(lambda: Lif(0.15), hidden=40), data()
    pruner = make_pruner("dpap", epochs=4, sparsity=0.5).attach(model, x)
    _, report = train(model, pruner, x, torch.zeros(12, dtype=torch.long), 4)
    assert report.sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "magnitude", "sparsity": 1.0, "epochs": 3}, "sparsity: found 1.0"),
        ({"name": "magnitude", "sparsity": -0.1, "epochs": 3}, "sparsity"),
        ({"name": "dpap", "sparsity": float("nan"), "epochs": 3}, "sparsity"),
        ({"name": "dpap", "sparsity": 0.5}, "epochs"),
        ({"name": "random", "epochs": 3}, "no goal"),
        ({"name": "magnitude", "sparsity": 0.5, "remaining": 4, "epochs": 3}, "both"),
        ({"name": "set", "sparsity": 0.5, "epochs": 3, "colour": "red"}, "colour"),
        ({"name": "lottery"}, "expected one of none, dpap"),
        ({"name": "dpap", "epochs": 0}, "epochs: found 0"),
        ({"name": "dpap", "bins": 0, "epochs": 3}, "bins"),
        (
            {"name": "magnitude", "remaining": 40.5, "epochs": 3},
            "remaining: found 40.5, expected a whole number",
        ),
        ({"name": "magnitude", "sparsity": 0.5, "first_epoch": 3, "epochs": 3}, "first_epoch: found 3"),
        ({"name": "magnitude", "remaining": 5, "count": "pounds", "epochs": 3}, "count"),
    ],
)
def test_bad_settings_are_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        make_pruner(**options)
    assert "\n" not in str(error.value)


def test_use_before_attaching():
    with pytest.raises(InputError, match="not attached"):
        make_pruner("dpap").step()
    for ask in (
        lambda p: p.sparsity(),
        lambda p: p.remaining(),
        lambda p: p.state_dict(),
        lambda p: p.report(0),
    ):
        with pytest.raises(InputError, match="pruner dpap: not attached"):
            ask(make_pruner("dpap"))
    pruner = make_pruner("none").attach(conv_net(), data())
    with pytest.raises(InputError, match="attached already"):
        pruner.attach(conv_net(), data())


class Halved(Pruner):
    """Of every layer the second half of the units goes in the first epoch."""

    name = "halved"

    def __init__(self, *, factor: int = 2, **goal):
        super().__init__(**goal)
        if factor == 0:
            raise ValueError("a mistake in the constructor")
        self.factor = len(factor) if factor < 0 else factor  # a TypeError of its own for what is below zero

    def _prune(self, epoch):
        for unit in self.masks.units.values():
            unit[len(unit) // self.factor :] = False
        self.masks.refresh()


def test_a_pruner_of_ones_own_has_a_name_and_its_errors_are_its_own(monkeypatch):
    monkeypatch.setitem(PRUNERS, "halved", Halved)
    model, x = conv_net(), data()
    _, report = train(model, make_pruner("halved", epochs=1).attach(model, x), x, LABELS, 1)
    assert [(c.units, c.units_alive) for c in report.layers] == [(4, 2), (6, 3), (12, 6), (3, 3)]
    with pytest.raises(ValueError, match="a mistake in the constructor"):
        make_pruner("halved", factor=0)
    with pytest.raises(TypeError, match="has no len"):
        make_pruner("halved", factor=-1)
    with pytest.raises(
        InputError, match=r"pruner halved: has no option 'colour', expected .*factor.*sparsity"
    ):
        make_pruner("halved", colour="red", epochs=1)
    with pytest.raises(InputError, match=r"pruner none: has no option 'sparsity'"):
        make_pruner("none", sparsity=0.5, epochs=2)


def test_every_pruner_is_listed_under_its_name_and_says_what_it_does():
    for name, cls in PRUNERS.items():
        first = cls.__doc__.splitlines()[0]
        if name == "dpap-weighted":  # its name until 0.2
            assert cls is PRUNERS["weighted"]
            continue
        assert cls.name == name and 10 < len(first) < 110 and first.endswith(".")


@pytest.mark.parametrize("name", ["magnitude", "weighted"])
def test_a_pruner_detached_too_early_says_that_weights_come_back(name):
    model, x = conv_net(channels=(2, 3), hidden=8), data()

    def learn(pruner=None):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(x).square().sum().backward()
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)

    pruner = make_pruner(name, epochs=1, first_epoch=0, sparsity=0.5).attach(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(pruner)
        pruner.end_epoch(0)
        learn(pruner)
        pruner.detach()
        with torch.no_grad():
            model(x)
    pruned = pruner.masks.parameters() - pruner.remaining()
    assert pruned > 10
    with pytest.warns(UserWarning, match=f"pruner {name} is detached: the {pruned:,} weights") as said:
        learn()
        learn()
    assert len([w for w in said if "detached" in str(w.message)]) == 1
    # Another pruner starts anew, and a network of which nothing was pruned has nothing to come back.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_pruner("none").attach(model, x).detach()
        learn()
