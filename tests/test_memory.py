from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_placement import list_bits as slow_list_bits

from hardware.chip import memory
from hardware.chip.chips import load_chip
from hardware.errors import HardwareError
from hardware.placement import packing

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")
WEIGHT_BITS = (0, 1, 2, 3, 4, 5, 6, 8)
INDEX_BITS = (0, 6, 7, 8, 9, 10, 11, 12)


def nengo_bits(weights_per_axon, weight_bits, largest_index):
    """Bits of a layer on Loihi 1 as `../shared/facts/loihi.md` has it of nengo-loihi; largest_index None: contiguous targets."""
    index = 0 if largest_index is None else next(b for b in INDEX_BITS[1:] if 2**b > largest_index)
    each = next(b for b in WEIGHT_BITS if b >= weight_bits) + index
    total = 0
    for number in weights_per_axon:
        for first in range(0, number, 64):
            block = min(64, number - first)
            total += 64 * -(-(block * each + 10) // 64)
    return total


def test_known_blocks():
    # 6 synapses of 8 bits and the header's 10 fill 58 of 64 bits; a seventh opens a second word.
    assert [memory.list_bits(LOIHI1, n, 8) for n in (0, 1, 6, 7, 64, 65)] == [0, 64, 64, 128, 576, 640]
    assert [memory.list_bits(LOIHI2, n, 8) for n in (1, 2, 3)] == [32, 32, 64]


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(1, 26), st.sampled_from([LOIHI1, LOIHI2]))
def test_lists(number, each, chip):
    expected = slow_list_bits(chip, number, each)
    assert memory.list_bits(chip, number, each) == expected
    assert packing.list_bits(number, each, packing.form_of(chip)) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 200), st.integers(1, 1024))
def test_layers_on_loihi1_take_what_nengo_loihi_says(seed, weight_bits, n_pre, n_post):
    rng = np.random.default_rng(seed)
    stored = memory.stored_weight_bits(LOIHI1, weight_bits)
    full = [np.arange(n_post)] * n_pre
    assert memory.projection_bits(LOIHI1, full, stored) == nengo_bits([n_post] * n_pre, weight_bits, None)
    scattered = [np.flatnonzero(rng.random(n_post) < 0.05) for _ in range(n_pre)]
    # Every axon takes the smaller of both forms: never more than nengo-loihi's with indices.
    largest = max((int(row[-1]) for row in scattered if len(row)), default=None)
    indexed = nengo_bits([len(row) for row in scattered], weight_bits, largest or 0)
    taken = memory.projection_bits(LOIHI1, scattered, stored)
    assert taken <= indexed
    spans = [int(row[-1] - min(row[0], 255)) + 1 if len(row) else 0 for row in scattered]
    assert taken == sum(
        min(nengo_bits([len(row)], weight_bits, largest or 0), nengo_bits([span], weight_bits, None))
        for row, span in zip(scattered, spans, strict=True)
    )


@pytest.mark.parametrize(("bits", "stored"), [(1, 1), (5, 5), (6, 6), (7, 8), (8, 8)])
def test_weight_widths(bits, stored):
    assert memory.stored_weight_bits(LOIHI1, bits) == stored


@pytest.mark.parametrize(("largest", "stored"), [(0, 6), (63, 6), (64, 7), (1023, 10), (4095, 12)])
def test_index_widths(largest, stored):
    assert memory.stored_index_bits(LOIHI1, largest) == stored
    assert packing.index_width(largest, np.array(LOIHI1.index_bits)) == stored


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        (memory.stored_weight_bits, 9, ("9 bits", "at most 8 bits")),
        (memory.stored_index_bits, 4096, ("4096", "at most 12 bits", "4095")),
        (memory.stored_delay_bits, 64, ("64 steps", "6 delay bits", "63")),
    ],
)
def test_what_the_chip_cannot_store(function, argument, words):
    with pytest.raises(HardwareError) as error:
        function(LOIHI1, argument)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


def test_delays_take_bits_of_every_synapse():
    assert [memory.stored_delay_bits(LOIHI1, d) for d in (0, 1, 3, 63)] == [0, 1, 2, 6]
    assert memory.axon_bits(LOIHI1, 64, 64, 8, 6, 6) == 64 * math.ceil((64 * 14 + 10) / 64)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 8), st.integers(0, 6))
def test_an_axon_takes_the_smaller_form(synapses, gaps, weight, delay):
    span = synapses + gaps
    width = 9
    assert memory.axon_bits(LOIHI1, synapses, span, weight, width, delay) == min(
        slow_list_bits(LOIHI1, span, weight + delay), slow_list_bits(LOIHI1, synapses, weight + delay + width)
    )
    assert memory.axon_bits(LOIHI1, 0, 0, weight, width) == 0


def test_kernels():
    assert memory.kernel_bits(LOIHI2, 25, 0, 8) == 0
    assert memory.kernel_bits(LOIHI2, 25, 25, 8) == slow_list_bits(LOIHI2, 25, 8)
    assert memory.kernel_bits(LOIHI2, 25, 3, 8) == slow_list_bits(LOIHI2, 3, 14)
    # Too many taps for an index: only the whole kernel can be stored.
    assert memory.kernel_bits(LOIHI2, 10_000, 3, 8) == slow_list_bits(LOIHI2, 10_000, 8)


@settings(deadline=None)
@given(st.integers(1, 20), st.lists(st.integers(1, 80), min_size=1, max_size=12))
def test_no_cut_of_a_list_beats_the_least_words(each, parts):
    table = memory.least_list_words(LOIHI1, sum(parts), each)
    words = sum(slow_list_bits(LOIHI1, part, each) for part in parts) // 64
    assert table[sum(parts)] <= words
    assert memory.least_bits_per_synapse(LOIHI1, each) * sum(parts) <= table[sum(parts)] * 64 + 1e-6


def test_what_a_core_holds():
    assert memory.core_bits(LOIHI1, 1000, 5, 7, 9) == 1000
    assert memory.core_bits(LOIHI2, 1000, 5, 7, 9) == 1000 + 5 * 64 + 7 * 32 + 9 * 32
