"""The data set whose label is in the motion: time-blind classifiers cannot solve it, by construction."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

pytest.importorskip("tonic")

from dpap_neuro.data import Binning, motion, open_dataset
from dpap_neuro.data.binning import rasters

STEPS = motion.DURATION_US // motion.STEP_US


def by_step(events: np.ndarray) -> np.ndarray:
    """Counts (steps of the film, polarity, y, x)."""
    counts = np.zeros((STEPS, 2, 34, 34), dtype=int)
    np.add.at(counts, (events["t"] // motion.STEP_US, events["p"].astype(int), events["y"], events["x"]), 1)
    return counts


@pytest.fixture(scope="module")
def groups() -> list[list[np.ndarray]]:
    """Events of the first groups: bright clockwise, bright counter-clockwise, dark clockwise, dark counter-clockwise."""
    recordings = motion.Motion("all")
    return [[recordings[4 * g + k][0] for k in range(4)] for g in range(30)]


def test_events_are_the_same_everywhere():
    digest = hashlib.sha256()
    for index in (0, 5, 1022, 1999):
        digest.update(motion.Motion("all")[index][0].tobytes())
    assert digest.hexdigest()[:16] == "2c7539e7346eaba8"


def test_groups_are_never_parted():
    train, test = motion.Motion("train"), motion.Motion("test")
    assert (len(train), len(test), len(motion.Motion("all"))) == (1600, 400, 2000)
    assert not set(train.groups) & set(test.groups)
    assert train.labels.mean() == test.labels.mean() == 0.5


def test_played_backwards_with_polarities_swapped_one_direction_is_the_other(groups):
    for bright, bright_back, dark, dark_back in groups:
        assert np.array_equal(by_step(bright)[::-1, ::-1], by_step(bright_back))
        assert np.array_equal(by_step(dark)[::-1, ::-1], by_step(dark_back))


def test_sums_over_time_are_equal_in_both_directions(groups):
    for bright, bright_back, dark, dark_back in groups:
        for one, other in ((bright, bright_back), (dark, dark_back)):
            assert np.array_equal(by_step(one).sum(0), by_step(other).sum(0))
            for bins in (1, 7, 10, 20):
                both = rasters([(one, 0), (other, 1)], Binning(bins=bins), motion.SENSOR_SIZE).sum(
                    1, dtype=int
                )
                assert np.array_equal(both[0], both[1])


def test_steps_without_their_order_are_equal_for_a_figure_and_its_dark_twin(groups):
    for bright, bright_back, dark, dark_back in groups:
        for one, other in ((bright, dark_back), (bright_back, dark)):
            a, b = by_step(one), by_step(other)
            assert np.array_equal(a[2:-2][::-1], b[2:-2])  # before and after: the light
            assert np.array_equal(a[:2], b[:2]) and np.array_equal(a[-2:], b[-2:])


def test_classifiers_blind_to_time_are_right_on_exactly_half():
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier

    recordings = motion.Motion("all")
    counts = rasters([recordings[i] for i in range(240)], Binning(bins=20), motion.SENSOR_SIZE)
    sums, labels = counts.sum(1, dtype=int).reshape(240, -1), recordings.labels[:240]
    for classifier in (RidgeClassifier(), KNeighborsClassifier(3)):
        classifier.fit(sums[:160], labels[:160])
        assert (classifier.predict(sums[160:]) == labels[160:]).mean() == 0.5


def test_the_label_is_how_the_figure_turns_to_the_eye(groups):
    """The angle of brightening edges, times the number of arms, goes round as the label says."""
    for number, recordings in enumerate(groups):
        what = motion.figure(number)
        for index, events in enumerate(recordings):
            events = events[(events["p"] == 1) & (events["t"] >= 3 * motion.STEP_US)]
            events = events[events["t"] < motion.DURATION_US - 3 * motion.STEP_US]
            x, y = events["x"] + 0.5 - what.centre[0] / 16, events["y"] + 0.5 - what.centre[1] / 16
            phase = np.zeros(STEPS, dtype=complex)
            # x to the right, y down: a growing angle is clockwise on the screen.
            np.add.at(
                phase,
                events["t"] // motion.STEP_US,
                (np.hypot(x, y) * np.exp(1j * what.arms * np.arctan2(y, x))),
            )
            seen = phase[phase != 0]
            turned = np.angle(seen[1:] * seen[:-1].conj()).sum()
            assert (turned > 0) == (index % 2 == 0), (number, index)
            expected = 2 * np.pi * what.turn / 1440 * what.arms
            assert abs(abs(turned) - expected) < 0.2 * expected + 0.7


def test_figures_stay_on_the_sensor_and_send_events(groups):
    for recordings in groups:
        for events in recordings:
            assert (np.diff(events["t"]) >= 0).all() and events["t"].max() < motion.DURATION_US
            assert len(events) > 100
            balance = np.zeros((34, 34), dtype=int)
            np.add.at(balance, (events["y"], events["x"]), np.where(events["p"] == 1, 1, -1))
            assert not balance.any()  # the ground at the end is that of the beginning


def test_it_opens_by_name():
    opened = open_dataset("motion", split="test")
    assert opened.classes == ("clockwise", "counter-clockwise") and len(opened.recordings) == 400
