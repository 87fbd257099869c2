"""Every event is counted, in the step that the text says, and a wrong time stamp asks for no memory."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpap_neuro.data import binning as binning_module
from dpap_neuro.data.binning import Binning, counted, frames
from dpap_neuro.data.events import EVENT_DTYPE
from dpap_neuro.errors import InputError

SENSOR = (6, 4, 2)


def recording(times: list[int], x: int = 1, y: int = 2, p: int = 1) -> np.ndarray:
    events = np.zeros(len(times), EVENT_DTYPE)
    events["t"], events["x"], events["y"], events["p"] = sorted(times), x, y, p
    return events


def obvious_step(t: int, times: list[int], binning: Binning) -> int:
    """From the text, in exact fractions, one event at a time."""
    begin = min(times) if binning.clock == "first-event" else min(0, min(times))
    if binning.bins is None:
        return math.floor(Fraction(t - begin) / Fraction(binning.bin_us))
    if max(times) == begin:
        return 0
    return min(binning.bins - 1, math.floor(Fraction(t - begin) * binning.bins / (max(times) - begin)))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 5_000), min_size=1, max_size=40),
    st.one_of(
        st.builds(lambda n: {"bins": n}, st.integers(1, 30)),
        st.builds(lambda n: {"bin_us": n}, st.sampled_from([1, 7, 250, 1000, 0.5, 12.5])),
    ),
    st.sampled_from(["first-event", "recording"]),
)
def test_every_event_is_counted_in_its_step(times, options, clock):
    binning = Binning(**options, clock=clock)
    counts = counted(recording(times), binning, SENSOR)
    expected = np.zeros(len(counts), int)
    for t in times:
        expected[obvious_step(t, times, binning)] += 1
    assert np.array_equal(counts[:, 1, 2, 1], expected)
    assert counts.sum() == len(times)
    assert len(counts) == (binning.bins or obvious_step(max(times), times, binning) + 1)


@pytest.mark.parametrize("options", [{"bins": 1}, {"bins": 10}, {"bin_us": 1000}])
@pytest.mark.parametrize("times", [[100], [50] * 7, [0, 9], list(range(11)), list(range(0, 300_001, 7))])
def test_no_event_is_lost(times, options):
    assert counted(recording(times), Binning(**options), SENSOR).sum() == len(times)


def test_a_late_first_event_leaves_silence_where_the_clock_is_the_recordings():
    late = recording([100_000, 300_000])
    first = counted(late, Binning(bin_us=50_000), SENSOR)
    whole = counted(late, Binning(bin_us=50_000, clock="recording"), SENSOR)
    assert first.sum((1, 2, 3)).tolist() == [1, 0, 0, 0, 1]
    assert whole.sum((1, 2, 3)).tolist() == [0, 0, 1, 0, 0, 0, 1]


def test_a_large_raster_has_the_same_counts(monkeypatch):
    events = recording([3, 3, 3, 9, 400, 401])
    for options in ({"bins": 7}, {"bin_us": 10}):
        plain = counted(events, Binning(**options), SENSOR)
        monkeypatch.setattr(binning_module, "WIDE_VALUES", 1)
        wide = counted(events, Binning(**options), SENSOR)
        monkeypatch.undo()
        assert wide.dtype == np.uint16 and np.array_equal(plain, wide) and plain.max() > 1


def test_downsampled_events_add_up():
    events = recording([0, 1, 2, 3])
    events["x"], events["y"] = [0, 1, 4, 5], [0, 1, 2, 3]
    counts = counted(events, Binning(bins=1, downsample=2), SENSOR)
    assert counts.shape == (1, 2, 2, 3)
    assert counts[0, 1].tolist() == [[2, 0, 0], [0, 0, 2]]


def test_times_beyond_64_bits_of_product_are_exact():
    huge = 1 << 61
    counts = counted(recording([0, huge // 2, huge]), Binning(bins=4), SENSOR)
    assert counts[:, 1, 2, 1].tolist() == [1, 0, 1, 1]


def test_a_wrong_time_stamp_is_one_line_with_the_recordings_name():
    with pytest.raises(
        InputError, match=r"recording 0: its events span 1e\+06 s, 1,000,000,001 steps"
    ) as error:
        list(frames([(recording([0, 10**12]), 0)], Binning(bin_us=1000), SENSOR))
    assert "\n" not in str(error.value)


def test_counts_above_a_byte_are_cut_and_said():
    many = [(recording([5] * 300), 0)] * 2
    with pytest.warns(UserWarning, match="300 events of one pixel in one step") as said:
        (frame, _) = frames(many, Binning(bins=1), SENSOR)
    assert frame.max() == 255 and len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (frame, _) = frames(many, Binning(bins=1, clip=255), SENSOR)


def test_an_empty_recording_is_silent():
    assert counted(recording([]), Binning(bins=3), SENSOR).shape == (3, 2, 4, 6)
    assert counted(recording([]), Binning(bin_us=10), SENSOR).shape == (1, 2, 4, 6)


def test_an_unknown_clock_is_refused():
    with pytest.raises(InputError, match="clock: found 'wall'"):
        Binning(bins=3, clock="wall")
