"""Time bins of pruners of single weights: traces of gates against gates that are really there, which go, and what is then shown."""

import itertools
import weakref

import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Branching, RecurrentLif, conv_net, events, train  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.pruning import make_pruner  # noqa: E402
from dpap_neuro.pruning.goal import Reading  # noqa: E402
from dpap_neuro.pruning.time_bins import best_bins  # noqa: E402

LABELS = torch.arange(12) % 3
STEPS = 6


class Dense(nn.Module):
    """Whole sequences (T, B, features) without folding."""

    def __init__(self):
        super().__init__()
        self.first, self.neurons, self.readout = nn.Linear(6, 16), RecurrentLif(16), nn.Linear(16, 3)

    def forward(self, x):
        return self.readout(self.neurons(self.first(x.flatten(2)[:, :, :6])))


class TwoEyes(nn.Module):
    """Two projections that read the input."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.neurons = nn.Linear(6, 8), nn.Linear(6, 8, bias=False), RecurrentLif(16)
        self.readout = nn.Linear(16, 3)

    def forward(self, x):
        x = x.flatten(2)[:, :, :6]
        return self.readout(self.neurons(torch.cat([self.left(x), self.right(x)], -1)))


class Stepwise(Dense):
    """One step at a time, from a loop of its own."""

    def forward(self, x):
        drive = torch.stack([self.first(step.flatten(1)[:, :6]) for step in x])
        return self.readout(self.neurons(drive))


def fisher_of_gates(model, x, labels):
    """(steps,): mean over recordings of the squared gradient of each recording's part of the loss by a gate on the input's bins."""
    gates = torch.ones(*x.shape[:2], requires_grad=True)
    out = model.train()(x * gates.reshape(*x.shape[:2], *[1] * (x.dim() - 2)))
    nn.functional.cross_entropy(out.sum(0), labels).backward()
    return gates.grad.double().square().mean(1)


@pytest.mark.parametrize("make", [conv_net, lambda: Branching(), Dense, TwoEyes, Stepwise])
def test_traces_are_those_of_gates_that_are_there(make):
    torch.manual_seed(0)
    model = make()
    x = events(batch=12, steps=STEPS, size=6 if isinstance(model, Branching) else 8)
    pruner = make_pruner("weighted", sparsity=0.5, epochs=4, bins=STEPS).attach(model, x[:, :2])
    expected = 0
    for epoch in range(2):
        batches = [x[:, :5], x[:, 5:]]
        found = [fisher_of_gates(model, batch, LABELS[: batch.shape[1]]) for batch in batches]
        own = sum(f * batch.shape[1] for f, batch in zip(found, batches, strict=True)) / x.shape[1]
        expected = own + pruner.delta * expected
        # The batches above were seen, too: their mean is the same.
        pruner.step()
        pruner.observe(epoch)
        torch.testing.assert_close(pruner.gates.trace, expected, rtol=1e-4, atol=1e-12)
        assert pruner.gates.trace.min() > 0
        model.zero_grad()


def test_parts_of_a_batch_add_up_and_a_scaled_loss_is_the_same():
    torch.manual_seed(0)
    model, x = Dense(), events(batch=12, steps=STEPS, size=8)
    pruner = make_pruner("magnitude", sparsity=0.5, epochs=4, bins=STEPS).attach(model, x[:, :2])
    model.train()
    for part in (slice(0, 6), slice(6, 12)):
        (
            64.0 * nn.functional.cross_entropy(model(x[:, part]).sum(0), LABELS[part], reduction="sum") / 12
        ).backward()
    pruner.gradient_scale = 64.0
    pruner.step()
    pruner.observe(0)
    whole = pruner.gates.trace.clone()
    twin = make_pruner("magnitude", sparsity=0.5, epochs=4, bins=STEPS)
    pruner.detach()
    model.zero_grad()
    twin.attach(model, x[:, :2])
    nn.functional.cross_entropy(model(x).sum(0), LABELS).backward()
    twin.step()
    twin.observe(0)
    torch.testing.assert_close(whole, twin.gates.trace, rtol=1e-4, atol=1e-12)


def test_a_batch_whose_gradients_overflow_counts_for_nothing():
    torch.manual_seed(0)
    model, x, traces = Dense(), events(batch=12, steps=STEPS, size=8), []
    for overflowing in (False, True):
        pruner = make_pruner("magnitude", sparsity=0.5, epochs=4, bins=STEPS).attach(model, x[:, :2])
        model.train()
        for scale in (1.0, float("inf"))[: 1 + overflowing]:
            (scale * nn.functional.cross_entropy(model(x).sum(0), LABELS)).backward()
            pruner.step()
            model.zero_grad()
        pruner.observe(0)
        traces.append(pruner.gates.trace)
        pruner.detach()
    assert traces[0].min() > 0 and torch.equal(*traces)


def test_what_a_batch_computed_is_not_held_when_it_is_over():
    torch.manual_seed(0)
    model, x, outs = conv_net(), events(batch=4, steps=STEPS, size=8), []
    handle = model.stages[0].register_forward_hook(lambda _module, _args, out: outs.append(weakref.ref(out)))
    pruner = make_pruner("weighted", sparsity=0.5, epochs=4, bins=3).attach(model, x[:, :2])
    outs.clear()
    train(model, pruner, x, LABELS[:4], 1)
    handle.remove()
    assert len(outs) == 1 and outs[0]() is None


def test_the_best_bins_stay_in_their_order_and_of_equal_ones_the_first():
    values = torch.tensor([3.0, 9.0, 1.0, 1.0, 5.0])
    assert best_bins(values, torch.arange(5), 3).tolist() == [0, 1, 4]
    assert best_bins(values, torch.tensor([2, 3, 4]), 2).tolist() == [2, 4]
    assert best_bins(values, torch.tensor([0, 2]), 5).tolist() == [0, 2]
    assert best_bins(values, torch.tensor([0, 2]), 0).tolist() == [0]


@pytest.mark.parametrize("name", ["weighted", "magnitude", "taylor", "wanda", "granet", "set"])
def test_bins_go_gradually_are_no_longer_shown_and_never_return(name):
    torch.manual_seed(0)
    x, model = events(batch=12, steps=8, size=8), conv_net()
    # Nothing happens in the last half.
    x[5:] = 0
    pruner = make_pruner(name, sparsity=0.5, epochs=8, bins=4, reach=0.7).attach(model, x)
    optimizer, kept = None, [tuple(range(8))]
    for epoch in range(8):
        shown = x[pruner.kept_bins]
        optimizer, report = train(model, pruner, shown, LABELS, epoch + 1, start=epoch, optimizer=optimizer)
        kept.append(report.kept_bins)
    assert all(set(after) <= set(before) for before, after in itertools.pairwise(kept))
    assert len(kept[3]) > 4 and len(kept[-1]) == 4 and set(kept[-1]) <= {0, 1, 2, 3, 4}
    assert ", 4 time bins left" in pruner.describe()
    state = pruner.state_dict()
    twin = make_pruner(name, sparsity=0.5, epochs=8, bins=4).attach(conv_net(), x)
    twin.load_state_dict(state)
    assert twin.kept_bins.tolist() == list(kept[-1]) == twin.gates.kept.tolist()
    torch.testing.assert_close(twin.gates.trace, pruner.gates.trace, rtol=0, atol=0)
    with pytest.raises(InputError, match="bin_trace"):
        twin.load_state_dict({k: v for k, v in state.items() if k != "bin_trace"})


def test_a_budget_is_measured_on_the_bins_that_are_left():
    torch.manual_seed(0)
    x, model, seen = events(batch=12, steps=8, size=8), conv_net(), []

    def meter(network, bins=None):
        seen.append(8 if bins is None else len(bins))
        return Reading({} if seen[-1] <= 3 else {"synapses": 1.1}, "a budget")

    pruner = make_pruner("weighted", epochs=6, bins=3, meter=meter)
    with pytest.raises(InputError, match="budget: too small"):
        # Asked with all bins before anything is learned.
        pruner.attach(model, x)
    meter_of_epochs = lambda network, bins=None: Reading({}, "fits") if bins is None else meter(network, bins)  # noqa: E731
    pruner = make_pruner("weighted", epochs=6, bins=3, meter=meter_of_epochs).attach(model, x)
    seen.clear()
    optimizer = None
    for epoch in range(6):
        optimizer, report = train(
            model, pruner, x[pruner.kept_bins], LABELS, epoch + 1, start=epoch, optimizer=optimizer
        )
    assert seen[0] > 3 and seen[-1] == 3 and report.reading.fits


@pytest.mark.parametrize(
    ("bins", "epochs", "said"), [(0, 4, "at least 1"), (9, 4, "at most the 8"), (3, None, "epochs")]
)
def test_bins_out_of_range_are_refused(bins, epochs, said):
    with pytest.raises(InputError, match=said):
        make_pruner("weighted", sparsity=0.5, bins=bins, epochs=epochs).attach(
            conv_net(), events(batch=4, steps=8, size=8)
        )
