"""A network that is cut down while it trains goes on as it would have."""

import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Branching, Folded, Lif, RecurrentLif, conv_net, events, train  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.pruning import DPAP, SurvivalSettings, make_pruner  # noqa: E402
from dpap_neuro.pruning.compaction import compact  # noqa: E402
from dpap_neuro.pruning.units import network_size  # noqa: E402
from dpap_neuro.pruning.weighted import UNITS  # noqa: E402
from dpap_neuro.train.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402

LABELS = torch.arange(12) % 3


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Folded(
            nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), Lif(0.15), nn.Conv2d(8, 8, 3, groups=8), Lif(0.15),
            nn.Conv2d(8, 12, 3, groups=2), Lif(0.15), nn.Flatten(), nn.Linear(12 * 4, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


def recurrent():
    return Folded(nn.Flatten(), nn.Linear(128, 20), RecurrentLif(20), nn.Linear(20, 3))


NETWORKS = {
    "sequence": (lambda: conv_net(lambda: Lif(0.15), channels=(8, 12), hidden=30), 8),
    "residual block and concatenation": (lambda: Branching(channels=8), 6),
    "groups": (Grouped, 8),
    "recurrent": (recurrent, 8),
}


def hard(**options):
    """Units die by the dozen within a few epochs."""
    settings = SurvivalSettings(initial=1.0, first_epoch=1)
    return DPAP(settings, **options)


def trained(name, make, compact, epochs=6, steps=5, until=None, resume=None):
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    model, x = build().double(), events(batch=12, size=size, steps=steps).double()
    pruner = make().attach(model, x)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.1)
    sizes, start = [], 0
    if resume is not None:
        start = load_checkpoint(resume, model, optimizer, pruner=pruner).epoch + 1
        if compact:
            pruner.compact(optimizer)
    model.train()
    for epoch in range(start, epochs):
        shown = x if pruner.kept_bins is None else x[pruner.kept_bins]
        for first in range(0, 12, 4):
            optimizer.zero_grad()
            out = model(shown[:, first : first + 4])
            nn.functional.cross_entropy(out.mean(0), LABELS[first : first + 4]).backward()
            optimizer.step()
            pruner.step(optimizer)
        report = pruner.end_epoch(epoch, optimizer)
        if compact:
            pruner.compact(optimizer)
        sizes.append(sum(p.numel() for p in model.parameters()))
        if until is not None and epoch == until[1]:
            with pruner.whole(optimizer):
                save_checkpoint(until[0], model, optimizer, pruner=pruner, epoch=epoch)
            assert sum(p.numel() for p in model.parameters()) == sizes[-1]
    pruner.expand(optimizer)
    return model, optimizer, pruner, report, sizes


def same_run(one, other, tolerance):
    (model, optimizer, pruner, report, _), (found, moments, again, reported, _) = one, other
    assert report == reported
    for key, value in pruner.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=tolerance, atol=tolerance, msg=key)
    for key, value in model.state_dict().items():
        # The running variance of a dead channel is that of nothing, and nothing reads it.
        if not key.endswith("running_var"):
            torch.testing.assert_close(found.state_dict()[key], value, rtol=tolerance, atol=tolerance)
    for p, q in zip(model.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(moments.state[q], optimizer.state[p], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{"structured": True}, {"time_bins": True}])
def test_cut_down_while_training_equals_left_whole(name, options):
    def make():
        return hard(**options)

    whole, cut = trained(name, make, False), trained(name, make, True)
    assert len(set(whole[-1])) == 1 and cut[-1][-1] < 0.8 * cut[-1][0] == 0.8 * whole[-1][0]
    same_run(whole, cut, 1e-9)


@pytest.mark.parametrize("name", ["sequence", "recurrent"])
def test_the_weighted_variant_is_cut_down_alike(name):
    def make():
        return make_pruner("weighted", epochs=6, sparsity=0.9)

    whole, cut = trained(name, make, False), trained(name, make, True)
    assert len(set(whole[-1])) == 1 and cut[-1][-1] < cut[-1][0]
    same_run(whole, cut, 1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_units_first_then_single_weights(name):
    def make():
        return make_pruner("weighted", epochs=8, sparsity=0.8, structured=True)

    whole, cut = (trained(name, make, compact, epochs=8) for compact in (False, True))
    # A grouped convolution gives up a channel only with one of every group.
    assert len(set(whole[-1])) == 1 and (cut[-1][-1] < 0.85 * cut[-1][0] or name == "groups")
    same_run(whole, cut, 1e-9)
    assert cut[3].sparsity == pytest.approx(0.8, abs=0.02)
    pruner = cut[2]
    assert network_size(pruner.structure, pruner.masks.units) <= 0.2**UNITS
    # Single weights went too.
    assert any(
        (mask.flatten(1).any(1) & ~mask.flatten(1).all(1)).any() for mask in pruner.masks.synapses.values()
    )


def test_the_network_cut_down_does_what_the_whole_one_does():
    torch.manual_seed(0)
    build, size = NETWORKS["sequence"]
    model, x = build().double(), events(batch=12, size=size, steps=5).double()
    pruner = make_pruner("weighted", epochs=6, sparsity=0.8, structured=True).attach(model, x)
    optimizer, report = train(model, pruner, x, LABELS, 6)
    whole = model.eval()(x)
    assert pruner.compact(optimizer)
    for parameter in model.parameters():
        moments = [v for v in optimizer.state[parameter].values() if v.dim()]
        assert moments and all(v.shape == parameter.shape for v in moments)
    for layer in report.layers[:-1]:
        assert len(model.get_submodule(layer.name).weight) == layer.units_alive
    torch.testing.assert_close(model(x), whole, rtol=1e-9, atol=1e-9)
    # Written without its dead units by another road, from the whole network alone.
    pruner.expand(optimizer)
    small = compact(model, x)
    torch.testing.assert_close(small(x), whole, rtol=1e-9, atol=1e-9)
    # Neurons that feed nothing any more are left out too.
    left = [
        sum(int((m.weight != 0).sum()) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        for net in (model, small)
    ]
    assert report.remaining == left[0] >= left[1] > 0


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_a_goal_is_reached_by_units_alone(sparsity):
    def make():
        return make_pruner("dpap", epochs=8, sparsity=sparsity, structured=True)

    whole, cut = (trained("sequence", make, compact, epochs=8) for compact in (False, True))
    same_run(whole, cut, 1e-9)
    report = cut[3]
    assert report.sparsity == pytest.approx(sparsity, abs=0.05) and not cut[2].masks.synapses
    # All kinds of layers share the pressure.
    assert all(layer.units_alive < layer.units for layer in report.layers[:-1])
    for layer in report.layers:
        module = cut[0].get_submodule(layer.name)
        assert int((module.weight != 0).sum()) == layer.remaining


@pytest.mark.parametrize(
    "make",
    [
        lambda: hard(structured=True),
        lambda: make_pruner("weighted", epochs=6, sparsity=0.8, structured=True),
    ],
    ids=["dpap", "weighted"],
)
def test_resumed_cut_down_is_bit_for_bit(make, tmp_path):
    expected = trained("sequence", make, True, until=(tmp_path, 2))
    resumed = trained("sequence", make, True, resume=tmp_path)
    same_run(expected, resumed, 0)
    assert resumed[-1] == expected[-1][3:] and expected[-1][2] < expected[-1][0]


def test_pruners_that_regrow_never_shrink_a_network():
    def make():
        return make_pruner("set", epochs=6, sparsity=0.9)

    assert len(set(trained("sequence", make, True)[-1])) == 1


def test_a_network_that_fixes_its_sizes_stays_whole():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Linear(144, 2)

        def forward(self, x):
            return self.b(self.n(self.a(x)).reshape(-1, 4 * 36))

    model = Fixed()
    pruner = make_pruner("dpap").attach(model, torch.rand(4, 2, 8, 8), time=False)
    pruner.masks.units["a"][1] = False
    pruner.masks.refresh()
    with pytest.raises(InputError, match="compact: the smaller network does not run"):
        pruner.compact()
    assert model.a.weight.shape == (4, 2, 3, 3) and model.a.out_channels == 4
    assert model(torch.rand(3, 2, 8, 8)).shape == (3, 2)


def test_a_plain_norse_network_is_trained_pruned_cut_down_and_exported():
    norse = pytest.importorskip("norse.torch")
    from dpap_neuro.exchange.nir_export import to_nir

    torch.manual_seed(0)
    box = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.1))
    currents = norse.LIFParameters(
        tau_mem_inv=torch.tensor(500.0), tau_syn_inv=torch.tensor(500.0), v_th=torch.tensor(0.05)
    )
    model = norse.SequentialState(
        nn.Conv2d(2, 8, 3), norse.LIFBoxCell(box), nn.Flatten(), nn.Linear(288, 20),
        norse.LIFCell(currents), nn.Linear(20, 3),
    )  # fmt: skip
    x = events(batch=12, steps=6)
    pruner = make_pruner("dpap", epochs=5, sparsity=0.6, structured=True, bins=3).attach(model, x, loop=True)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    model.train()
    sizes = []
    for epoch in range(5):
        state, outs = None, []
        for step in x[pruner.kept_bins]:
            out, state = model(step, state)
            outs.append(out)
        optimizer.zero_grad()
        nn.functional.cross_entropy(torch.stack(outs).mean(0), LABELS).backward()
        optimizer.step()
        pruner.step(optimizer)
        report = pruner.end_epoch(epoch, optimizer)
        pruner.compact(optimizer)
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes[-1] < 0.5 * sizes[0] and report.sparsity == pytest.approx(0.6, abs=0.06)
    assert len(report.kept_bins) == 3
    small = to_nir(model.eval(), (2, 8, 8), 1e-3)
    pruner.expand(optimizer)
    whole = to_nir(model, (2, 8, 8), 1e-3)
    for name, node in whole.nodes.items():
        if hasattr(node, "weight"):
            assert (node.weight != 0).sum() == (small.nodes[name].weight != 0).sum()
            assert small.nodes[name].weight.size < node.weight.size


def test_an_optimizer_that_keeps_other_shapes_is_refused_before_anything_changes():
    torch.manual_seed(0)
    model, x = conv_net(hidden=40), events(batch=12)
    pruner = make_pruner("dpap", epochs=4, sparsity=0.6, structured=True).attach(model, x)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    train(model, pruner, x, LABELS, 4, optimizer=optimizer)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError, match="compact: Adafactor keeps row_var of shape"):
        pruner.compact(optimizer)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_optimizer_that_was_forgotten_is_told():
    torch.manual_seed(0)
    model, x = conv_net(hidden=40), events(batch=12)
    pruner = make_pruner("dpap", epochs=6, sparsity=0.6, structured=True).attach(model, x)
    optimizer, _ = train(model, pruner, x, LABELS, 4)
    assert pruner.compact()
    with pytest.raises(InputError, match=r"the optimizer has parameters that compact\(\) replaced"):
        train(model, pruner, x, LABELS, 5, start=4, optimizer=optimizer)
