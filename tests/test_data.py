"""Digits before the event camera, binning, N-MNIST's real recordings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tonic")

from dpap_neuro.data import Binning, camera, digits, open_dataset
from dpap_neuro.data.binning import rasters
from dpap_neuro.data.digits import DURATION_US, SENSOR_SIZE, Digits, record
from dpap_neuro.errors import InputError

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "nmnist"


def test_digits_split_is_stratified_and_complete():
    train, test = Digits("train"), Digits("test")
    assert len(train) + len(test) == len(Digits("all")) == 1797
    for digit in range(10):
        assert abs((test.labels == digit).sum() / (train.labels == digit).sum() - 0.25) < 0.02


def test_digit_events_are_the_same_everywhere():
    digest = hashlib.sha256()
    for index in (0, 7, 100):
        digest.update(Digits("all")[index][0].tobytes())
    assert digest.hexdigest()[:16] == "2a754eb79518925a"


def test_digit_events_are_well_formed():
    events, label = Digits("test")[3]
    assert 0 <= label < 10
    assert (np.diff(events["t"]) >= 0).all() and events["t"].min() >= 0 and events["t"].max() < DURATION_US
    assert events["x"].max() < SENSOR_SIZE[0] and events["y"].max() < SENSOR_SIZE[1]
    assert set(np.unique(events["p"])) == {0, 1}


def test_blank_image_sends_no_event():
    assert len(record(np.zeros((8, 8)))) == 0


def test_events_add_up_to_the_change_in_log_intensity():
    """A pixel's brighter minus darker events, times the threshold, follow its log intensity to within one threshold."""
    image = Digits("all").images[5]
    events = record(image)
    balance = np.zeros((34, 34), dtype=int)
    np.add.at(balance, (events["y"], events["x"]), np.where(events["p"] == 1, 1, -1))
    first, last = digits._log_table()[digits._frames(image)[[0, -1]]]
    assert np.abs(last - first - camera.THRESHOLD * balance).max() < camera.THRESHOLD
    assert np.abs(balance).max() >= 1


def test_pictures_and_events_are_those_of_every_pixel_by_itself():
    """Bilinear interpolation in whole numbers, pixel by pixel, and a camera that looks at one pixel after the other."""
    image = Digits("all").images[3]
    padded = np.pad(image, 4).tolist()
    film = digits._frames(image)
    positions = list(digits._positions())
    assert len(film) == len(positions) == 121
    for number in range(0, 121, 15):
        dx, dy = positions[number]
        for row, column in np.ndindex(34, 34):
            x, fx = divmod((2 * column + 1 - 34) * 16 - 2 * dx + 15 * 48, 96)
            y, fy = divmod((2 * row + 1 - 34) * 16 - 2 * dy + 15 * 48, 96)
            upper = padded[y][x] * (96 - fx) + padded[y][x + 1] * fx
            lower = padded[y + 1][x] * (96 - fx) + padded[y + 1][x + 1] * fx
            assert film[number, row, column] == (upper * (96 - fy) + lower * fy) * 16 // (96 * 96)
    log = digits._log_table()[film].tolist()
    level, expected = log[0], []
    for step, picture in enumerate(log[1:]):
        found = []
        for row, column in np.ndindex(34, 34):
            change = picture[row][column] - level[row][column]
            sign = 1 if change > 0 else -1
            for k in range(1, abs(change) // 70 + 1):
                level[row][column] += 70 * sign
                found.append((2500 * step + min(2500 * 70 * k // abs(change), 2499), column, row, change > 0))
        expected += sorted(found, key=lambda event: event[0])
    events = record(image)
    assert len(expected) > 1000
    assert [(int(e["t"]), int(e["x"]), int(e["y"]), bool(e["p"])) for e in events] == expected
    assert len(camera.record([np.full((2, 3), 5)] * 4, 10)) == 0


def test_bins_count_every_event_once():
    events, label = Digits("all")[11]
    frames = rasters([(events, label)], Binning(bins=7), SENSOR_SIZE)
    assert frames.shape == (1, 7, 2, 34, 34)
    # tonic's windows end before the last event.
    assert len(events) - 5 <= frames.sum() <= len(events)
    expected = np.zeros((2, 34, 34), dtype=int)
    np.add.at(expected, (events["p"].astype(int), events["y"], events["x"]), 1)
    assert np.abs(frames[0].sum(0, dtype=int) - expected).sum() <= 5


def test_clip_and_padding():
    late = Digits("all")[0]
    early = (late[0][late[0]["t"] < 100_000], 0)
    frames = rasters([early, late], Binning(bin_us=10_000, clip=1), SENSOR_SIZE)
    assert frames.max() == 1
    assert not frames[0, 12:].any() and frames[1, 12:].any()


@pytest.mark.parametrize("options", [{}, {"bins": 3, "bin_us": 5.0}, {"bins": 0}, {"bin_us": -1.0}])
def test_bad_binning(options):
    with pytest.raises(InputError):
        Binning(**options)


def test_partial_nmnist():
    if not SHARED.is_dir():
        pytest.skip(f"no N-MNIST recordings at {SHARED}")
    opened = open_dataset("nmnist", SHARED, "train")
    assert len(opened.recordings) == 1000
    events, _ = opened.recordings[0]
    assert 250_000 < events["t"].max() < 350_000 and events["x"].max() < 34
