"""Pruners against each other, run by run; and splits to choose settings by."""

import numpy as np
import pytest
from scipy import stats

from dpap_neuro.data import digits, every_nth, groups_of, motion
from dpap_neuro.data.splits import Selection
from dpap_neuro.errors import InputError
from dpap_neuro.train import paired, sweeps


def rows(runs, share=0.9):
    """Of pruner -> seed -> correct of 1,000."""
    return [
        sweeps.Row(
            name,
            0.0 if name == "none" else share,
            *("parameters", seed, 2, 10, 1000, correct, correct / 1000, 100, 10, 300, 30, 5, 1.5),
        )
        for name, seeds in runs.items()
        for seed, correct in seeds.items()
    ]


def test_differences_are_paired_by_seed_and_have_the_interval_of_students_t():
    a = {0: 950, 1: 900, 2: 970, 3: 930}
    b = {3: 925, 1: 910, 0: 930, 2: 940, 9: 100}
    (found,) = paired.differences(rows({"magnitude": a, "lamp": b}))
    expected = stats.ttest_rel([b[s] / 10 for s in range(4)], [a[s] / 10 for s in range(4)])
    assert (found.pruner, found.other, found.sparsity, found.units) == ("lamp", "magnitude", 0.9, 4)
    assert found.points == pytest.approx((-2.0 + 1.0 - 3.0 - 0.5) / 4)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert (found.ahead, found.behind) == (1, 3)
    (turned,) = paired.against([found], "lamp")
    assert (turned.pruner, turned.other, turned.ahead, turned.behind) == ("magnitude", "lamp", 3, 1)
    assert (turned.points, turned.low, turned.high) == (-found.points, -found.high, -found.low)
    assert paired.against([found], "magnitude") == [found] and paired.against([found], "erk") == []


def test_an_interval_by_a_printed_table_of_t():
    # 2.776 for four degrees of freedom; the mean of 1 to 5 has the standard error sqrt(2.5 / 5).
    low, high = paired.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 2.776 * 0.5**0.5, 3 + 2.776 * 0.5**0.5), abs=1e-3)
    assert paired.interval([1.0]) == (None, None)


def test_seeds_of_a_fold_count_once():
    a = {seed: 900 for seed in range(6)}
    b = {0: 910, 2: 930, 4: 950, 1: 905, 3: 915, 5: 925}
    (found,) = paired.differences(rows({"magnitude": a, "lamp": b}), folds=2)
    assert found.units == 2 and found.points == pytest.approx((3.0 + 1.5) / 2)
    assert (found.low, found.high) == pytest.approx(paired.interval([3.0, 1.5]))
    (alone,) = paired.differences(rows({"magnitude": a, "lamp": b}))
    assert alone.units == 6


def test_dense_is_compared_at_every_sparsity():
    runs = rows({"none": {0: 960}, "lamp": {0: 950}}) + rows({"lamp": {0: 900}}, 0.98)
    found = paired.differences(runs)
    assert [(d.pruner, d.other, d.sparsity, d.low) for d in found] == [
        ("lamp", "none", 0.9, None),
        ("lamp", "none", 0.98, None),
    ]
    assert [d.points for d in found] == pytest.approx([-1.0, -6.0])
    assert paired.differences(rows({"none": {0: 960}})) == []
    assert paired.differences(rows({"none": {0: 960}, "lamp": {1: 950}})) == []


def test_an_inner_split_never_shows_what_is_reported():
    y = np.arange(100) % 4
    x, none = np.arange(100), (np.arange(0), np.arange(0))
    outer, inner = (sweeps.rounds((x, y), none, 5, inner=chosen) for chosen in (False, True))
    for seed in range(5):
        looked_at = []
        for turn in range(sweeps.INNER):
            (kept, _), (held, labels) = inner(seed + 5 * turn)
            reported = set(outer(seed)[1][0].tolist())
            assert not reported & {*kept.tolist(), *held.tolist()}
            assert sorted([*kept.tolist(), *held.tolist()]) == sorted(set(range(100)) - reported)
            assert np.bincount(labels).tolist() == [4, 4, 4, 4]
            looked_at += held.tolist()
        # Round by round each of the training recordings is held out once.
        assert sorted(looked_at) == sorted(set(range(100)) - reported)
    fixed = sweeps.rounds((x, y), none, None, inner=True)
    assert sorted(n for seed in range(5) for n in fixed(seed)[1][0].tolist()) == list(range(100))
    with pytest.raises(
        InputError, match="inner: found fewer than 5 of each class among 8 training recordings"
    ):
        sweeps.rounds((x[:8], y[:8]), (x, y), None, inner=True)(3)


@pytest.mark.parametrize("folds", [None, 5])
def test_recordings_of_a_group_are_never_parted(folds):
    groups = np.random.default_rng(0).permutation(np.arange(240) // 4)
    y = groups % 3  # a group has one class
    whole, none = (np.arange(240), y), (np.arange(0), np.arange(0))
    seeds = range(25)
    reported = [sweeps.rounds(whole, none, folds, groups)(seed) for seed in seeds]
    chosen = [sweeps.rounds(whole, none, folds, groups, inner=True)(seed) for seed in seeds]
    for (learned, _), ((kept, _), (held, labels)) in zip(reported, chosen, strict=True):
        assert not set(groups[kept]) & set(groups[held])
        assert sorted([*kept, *held]) == sorted(learned[0])
        # A fifth of each class, to less than one group of four.
        assert (abs(np.bincount(labels) - np.bincount(learned[1]) / 5) < 4).all()
    few = (np.arange(32), np.arange(32) % 2)
    with pytest.raises(
        InputError, match="folds: found fewer than 5 persons or figures among 32 training rec"
    ):
        sweeps.rounds(few, none, 5, np.arange(32) // 8)
    with pytest.raises(
        InputError, match="inner: found fewer than 5 persons or figures among 32 training rec"
    ):
        sweeps.rounds(few, none, None, np.arange(32) // 8, inner=True)(4)
    if folds is not None:
        assert all(not set(groups[a[0]]) & set(groups[b[0]]) for a, b in reported)
        assert sorted(n for _, b in reported[:5] for n in b[0]) == list(range(240))


def test_each_recording_is_a_group_of_its_own_where_nothing_is_known():
    y = np.random.default_rng(1).integers(0, 3, 90)
    assert (every_nth(y, 2, 4, np.arange(90)[::-1]) == every_nth(y, 2, 4)).all()


def test_an_inner_split_of_motion_holds_out_whole_figures():
    recordings = motion.Motion("train")
    assert (groups_of(recordings)[:6] == [0, 0, 0, 0, 1, 1]).all()
    numbers = np.arange(len(recordings))
    none = (np.arange(0), np.arange(0))
    part = sweeps.rounds((numbers, recordings.labels), none, None, recordings.groups, inner=True)
    (kept, _), (held, labels) = part(1)
    assert len(held) == 320 and labels.mean() == 0.5
    assert not set(recordings.groups[kept]) & set(recordings.groups[held])
    both = Selection((recordings, numbers[:8]), (motion.Motion("test"), numbers[:4]))
    assert groups_of(both).tolist() == [0] * 4 + [1] * 4 + [4] * 4
    assert groups_of(Selection((recordings, numbers[:8]), (digits.Digits("test"), numbers[:4]))) is None
