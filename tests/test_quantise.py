"""Every integer: against grids searched point by point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.compile import quantise
from hardware.network.integer import weight_grid

MODES = st.sampled_from(["mixed", "excitatory", "inhibitory"])
EXAMPLES = settings(max_examples=80, deadline=None)


def draw_weights(seed, mode, spread=1.0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(4, 6)) * 10.0 ** rng.uniform(-3, 3) * spread
    weights[rng.random((4, 6)) < 0.3] = 0
    return weights if mode == "mixed" else np.abs(weights) * (1 if mode == "excitatory" else -1)


@EXAMPLES
@given(st.integers(0, 2**32), MODES, st.integers(1, 8), st.integers(0, 7), st.floats(0.1, 3))
def test_weights_lie_on_the_nearest_point_of_the_grid(seed, mode, bits, exponent, factor):
    weights = draw_weights(seed, mode)
    low, high, step = weight_grid(mode, bits)
    scale = factor * 200 / np.abs(weights).max(initial=1e-9) * 2**exponent
    rounded = quantise.round_weights(weights, scale, exponent, mode, bits)
    points = np.arange(low, high + 1, step)
    for w, found in zip(weights.ravel(), rounded.ravel(), strict=True):
        distance = np.abs(points * 2.0**exponent - w * scale)
        assert found in points
        assert abs(found * 2.0**exponent - w * scale) <= distance.min() + 1e-6 * (1 + abs(w * scale))
        if w == 0:
            assert found == 0


@EXAMPLES
@given(st.integers(0, 2**32), MODES, st.integers(1, 8))
def test_the_largest_scale_that_fits(seed, mode, bits):
    weights = draw_weights(seed, mode)
    low, high, _ = weight_grid(mode, bits)
    top, bottom = weights.max(axis=1, initial=0), weights.min(axis=1, initial=0)
    rows = quantise.scale_that_fits(top, bottom, low, high)
    scale = rows.min()
    if not weights.any() or (bits == 1 and mode == "mixed"):
        return
    assert (weights * scale <= high * (1 + 1e-12)).all() and (weights * scale >= low * (1 + 1e-12)).all()
    more = weights * scale * 1.001
    assert (more > high).any() or (more < low).any()
    assert (rows[~weights.any(axis=1)] == np.inf).all()


def test_sign_mode():
    assert quantise.sign_mode(np.array([0.0, 2.0])) == "excitatory"
    assert quantise.sign_mode(np.array([0.0, -2.0])) == "inhibitory"
    assert quantise.sign_mode(np.array([1.0, -2.0])) == "mixed"
    assert quantise.sign_mode(np.zeros(0)) == "excitatory"


@EXAMPLES
@given(st.floats(0, 1000), st.integers(1, 100))
def test_a_lattice_threshold_changes_no_comparison(threshold, step):
    mantissa = int(quantise.threshold_mantissa(np.array(threshold), True))
    for v in range(0, 2000, step):
        # A sum may lie so close to the threshold that floats cannot tell.
        if abs(v - threshold) > 1e-6:
            assert (v > threshold) == (v > mantissa)


def test_thresholds_are_rounded_and_cut():
    found = quantise.threshold_mantissa(np.array([0.0, 2.6, 1e9]), False)
    assert found.tolist() == [0, 3, 2**17 - 1]
    # The product of scale and threshold may fall a little short of the whole number that it is.
    assert quantise.threshold_mantissa(np.array([0.1 * 3 * 10]), True) == 3
    assert quantise.threshold_mantissa(np.array([3 - 4e-16 * 3]), True) == 3


@EXAMPLES
@given(st.lists(st.floats(-524000, 524000), min_size=1, max_size=5))
def test_biases_take_the_smallest_exponent_that_fits(values):
    bias = np.array(values)
    mantissa, exponent = quantise.bias_mantissa(bias)
    assert mantissa.min() >= -4096 and mantissa.max() <= 4095 and 0 <= exponent <= 7
    assert (np.abs(mantissa * 2.0**exponent - bias) <= 2.0**exponent / 2 + 1e-9).all()
    if exponent:
        smaller = np.rint(bias / 2 ** (exponent - 1))
        assert smaller.min() < -4096 or smaller.max() > 4095


def test_biases_out_of_reach_are_cut():
    mantissa, exponent = quantise.bias_mantissa(np.array([1e9, -1e9]))
    assert mantissa.tolist() == [4095, -4096] and exponent == 7
    assert quantise.largest_bias() == 4095 * 128
    assert quantise.bias_mantissa(np.zeros(3))[1] == 0


def test_decays():
    assert quantise.membrane_decay(np.array([0.0, 0.25, 1.0])).tolist() == [0, 1024, 4096]
    # u loses (du + 1) / 4096 a step, so that it cannot keep all.
    assert quantise.current_decay(np.array([0.0, 0.25, 1.0])).tolist() == [0, 1023, 4095]


@EXAMPLES
@given(
    st.lists(st.floats(1, 1e4), min_size=1, max_size=4),
    st.floats(1, 1e6),
    st.floats(0, 2e4),
    st.floats(1, 1e4),
    st.booleans(),
)
def test_exponents(rooms, largest, lowest, headroom, leaky):
    rooms = np.array([1.0, *rooms])
    shift, exponents = quantise.shared_exponents(rooms, largest, lowest, headroom, leaky)
    assert 0 <= shift <= 7 and exponents[0] == shift
    for room, exponent in zip(rooms, exponents, strict=True):
        # The weights fit: they could grow by `room` at exponent 0 and were shifted up by `shift`.
        assert 0 <= exponent <= shift and 2.0 ** (shift - exponent) <= room
        # And no smaller exponent would do.
        assert exponent == 0 or 2.0 ** (shift - exponent + 1) > room
    if shift:
        assert 2**shift <= headroom
        assert largest * 2**shift <= quantise.MAX_INPUT * (1 + 1e-9)
        wanted_by_room = rooms.max() >= 2**shift
        assert wanted_by_room or (leaky and lowest * 2 ** (shift - 1) < quantise.FINE_THRESHOLD)


@pytest.mark.parametrize("bits", [1, 8])
def test_nothing_to_round(bits):
    assert quantise.round_weights(np.zeros((0, 3)), 1.0, 0, "mixed", bits).shape == (0, 3)
    assert np.isinf(quantise.scale_that_fits(np.zeros(2), np.zeros(2), *weight_grid("mixed", bits)[:2])).all()


def test_a_bias_exponent_that_is_given():
    mantissa, exponent = quantise.bias_mantissa(np.array([1000.0, -31.0, 1e9, -1e9]), (6, 6))
    assert exponent == 6 and mantissa.tolist() == [16, 0, 4095, -4096]
    assert quantise.largest_bias(6) == 4095 * 64 and quantise.largest_bias() == 4095 * 128
