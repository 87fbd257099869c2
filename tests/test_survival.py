"""The survival schedule: epochs of death worked out by hand, and schedules of other lengths."""

import pytest

torch = pytest.importorskip("torch")

import oracle_dpap as oracle  # noqa: E402

from dpap_neuro.errors import InputError  # noqa: E402
from dpap_neuro.pruning.survival import SurvivalRule, SurvivalSettings, gradual_share  # noqa: E402


def death(rule, importance, unit, settings=SurvivalSettings(), epochs=300):
    """Epoch after which a unit of constant importance dies; None where it lives."""
    survival = torch.full((len(importance),), settings.initial, dtype=torch.float64)
    for epoch in range(settings.first_epoch, epochs):
        survival = settings.update(survival, torch.tensor(importance, dtype=torch.float64), rule, epoch)
        if survival[unit] < 0:
            return epoch
    return None


def test_paper_constants():
    s = SurvivalSettings()
    assert (s.delta, s.initial, s.gamma, s.first_epoch, s.percentile) == (0.5, 10.0, 0.999, 5, 75.0)
    assert s.channel == SurvivalRule(0.65, 5.0, 12.0)
    assert s.neuron == s.synapse == SurvivalRule(1.5, 2.0, 13.0)


def test_unused_neuron_dies_in_the_hand_calculated_epoch():
    # u = 0, g = -1.5 a full epoch each: S after n epochs = 10 * 0.999^n - 1.5 (1 - 0.999^n) / 0.001.
    # n = 6: 9.940 - 8.978 = 0.963; n = 7: 9.930 - 10.469 = -0.539. Epoch 5 is the first, so it dies after 11.
    assert death(SurvivalSettings().neuron, [0.0, 1.0, 1.0, 1.0], 0) == 11


def test_unused_channel_outlives_the_first_tau():
    # g = -0.65. Epochs 5 to 16 (twelve): 10 * 0.9881 - 0.65 * 11.934 = 2.123. Then -0.65 / e = -0.2391 an
    # epoch and 0.1 %: after eight 2.106 - 1.906 = 0.200, after nine negative. Epoch 17 is the first of these,
    # so it dies after 25.
    assert death(SurvivalSettings().channel, [0.0, 1.0, 1.0, 1.0], 0) == 25


def test_used_units_grow():
    # At or above the 75th percentile: g = 2 - 1.5 + 2.
    s = SurvivalSettings()
    z = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert s.update(torch.full((4,), 10.0), z, s.neuron, 5)[1].item() == pytest.approx(9.99 + 2.5)
    assert death(s.neuron, [0.0, 1.0, 1.0, 1.0], 1) is None


def test_update_agrees_with_the_loops():
    generator = torch.Generator().manual_seed(3)
    s = SurvivalSettings()
    survival = torch.full((17,), 10.0, dtype=torch.float64)
    reference = survival.tolist()
    for epoch in range(5, 60):
        z = torch.rand(17, generator=generator, dtype=torch.float64)
        survival = s.update(survival, z, s.synapse, epoch)
        reference = oracle.survive(reference, oracle.gain(z.tolist(), 1.5, 2.0), 0.999, epoch, 5, 13.0)
    assert survival.tolist() == pytest.approx(reference)


@pytest.mark.parametrize("epochs", [3, 8, 30, 100])
def test_short_runs_decide_within_their_length(epochs):
    short = SurvivalSettings().scaled_to(epochs)
    assert 1 <= short.first_epoch < epochs
    for rule in (short.neuron, short.synapse):
        dies = death(rule, [0.0, 1.0, 1.0, 1.0], 0, short, epochs)
        assert dies is not None and dies < epochs
        assert death(rule, [0.0, 1.0, 1.0, 1.0], 1, short, epochs) is None
    # An unused channel loses in a short run, over its length, what it loses in a long one, to the rounding of
    # epochs.
    assert short.initial < 10.0
    assert (
        "not the authors'" in short.describe() and "the authors' constants" in SurvivalSettings().describe()
    )


def test_the_papers_length_keeps_the_constants():
    assert SurvivalSettings().scaled_to(300) == SurvivalSettings()


def test_gradual_share_is_cubic():
    assert gradual_share(1, 2, 9, 0.9) == 0.0
    assert gradual_share(9, 2, 9, 0.9) == gradual_share(20, 2, 9, 0.9) == 0.9
    assert gradual_share(5, 2, 9, 0.8) == pytest.approx(0.8 * (1 - 0.5**3))


@pytest.mark.parametrize(
    "change",
    [{"delta": 1.0}, {"percentile": 0.0}, {"initial": -1.0}, {"gamma": float("nan")}, {"first_epoch": -1}],
)
def test_impossible_constants(change):
    with pytest.raises(InputError, match="expected"):
        SurvivalSettings(**change)


def test_impossible_length():
    with pytest.raises(InputError, match="epochs"):
        SurvivalSettings().scaled_to(0)
