"""Bounds of a projection against every choice, and against many numberings and cuts of its neurons."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_placement import list_bits

from hardware.chip import memory
from hardware.chip.chips import load_chip
from hardware.network.connectivity import by_post
from hardware.network.integer import SparseProjection
from hardware.placement import bounds

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")


def incoming(matrix):
    """Of a (pre, post) matrix of zeros and ones; a two joins its neurons twice."""
    pre, post = np.nonzero(matrix)
    times = matrix[pre, post]
    pre, post = np.repeat(pre, times), np.repeat(post, times)
    indptr = np.searchsorted(pre, np.arange(len(matrix) + 1))
    weight = np.full(len(pre), 2, dtype=np.int16)
    projection = SparseProjection("a", "b", indptr, post.astype(np.int32), weight)
    return by_post(projection, (len(matrix),), (matrix.shape[1],))


@st.composite
def matrices(draw, most_post=7):
    """Drawn at random, or with pre neurons that tell post neurons in a row."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 12)), draw(st.integers(1, most_post))
    if draw(st.booleans()):
        first = rng.integers(0, shape[1], shape[0])[:, None]
        at = np.arange(shape[1])
        matrix = (at >= first) & (at < first + rng.integers(1, shape[1] + 1, shape[0])[:, None])
    else:
        matrix = rng.random(shape) < draw(st.sampled_from([0.2, 0.5, 0.9]))
    return matrix.astype(np.int64)


@settings(max_examples=80, deadline=None)
@given(matrices(), st.booleans())
def test_shared_pre_neurons(matrix, twice):
    shared = bounds.shared_pre_neurons(incoming(matrix * (1 + twice)), 5)
    assert shared.sizes.tolist()[:2] == [2, 3] and shared.sizes[-1] > 5
    columns = matrix.T > 0
    for i, own in enumerate(columns):
        common = sorted((int((own & other).sum()) for n, other in enumerate(columns) if n != i), reverse=True)
        assert shared.heard[i] == own.sum()
        for size, top in zip(shared.sizes, shared.top[:, i], strict=True):
            exact = sum(common[: size - 1])
            assert top == exact if not twice else exact <= top <= 2 * exact


@settings(max_examples=150, deadline=None)
@given(matrices(), st.integers(1, 12))
def test_no_core_can_hold_more_neurons(matrix, axons):
    shared = bounds.shared_pre_neurons(incoming(matrix), matrix.shape[1])
    most = max(
        len(chosen)
        for n in range(matrix.shape[1] + 1)
        for chosen in itertools.combinations(range(matrix.shape[1]), n)
        if matrix[:, list(chosen)].any(axis=1).sum() <= axons
    )
    assert bounds.most_neurons(shared, axons, matrix.shape[1]) >= most


def test_neurons_that_share_little_fill_the_incoming_axons():
    rng = np.random.default_rng(0)
    shared = bounds.shared_pre_neurons(incoming((rng.random((400, 60)) < 0.3).astype(int)), 60)
    # Three of 120 hear at least 360 - 3 * 60, two at least 240 - 60.
    assert bounds.most_neurons(shared, 150, 60) == 1
    assert bounds.most_neurons(shared, 400, 60) == 60


def bits_of(matrix, chip, cores):
    """Bits of the cores' lists. cores: post neurons, in the order of their numbers."""
    rows = ([np.flatnonzero(row[list(core)]) for row in matrix] for core in cores)
    return sum(memory.projection_bits(chip, row, 8) for row in rows)


@settings(max_examples=100, deadline=None)
@given(matrices(most_post=5), st.sampled_from([LOIHI1, LOIHI2, replace(LOIHI1, word_bits=1)]))
def test_no_cut_and_no_numbering_takes_fewer_bits(matrix, chip):
    shared = bounds.shared_pre_neurons(incoming(matrix), matrix.shape[1])
    bits, _ = bounds.indexed_bits(chip, shared, 8, matrix.shape[1])
    for order in itertools.permutations(range(matrix.shape[1])):
        for cut in range(1, len(order) + 1):
            assert bits <= bits_of(matrix, chip, [order[:cut], order[cut:]]) + 1e-6


@pytest.mark.parametrize("chip", [LOIHI1, LOIHI2])
@pytest.mark.parametrize("near", [True, False])
def test_bits_and_cores_of_larger_networks(chip, near):
    rng = np.random.default_rng(0)
    away = np.abs(np.arange(300) - np.arange(300)[:, None])
    matrix = (away < 20).astype(int) if near else (rng.random((300, 300)) < 0.1).astype(int)
    shared = bounds.shared_pre_neurons(incoming(matrix), 300)
    for size in (10, 60, 70, 150, 300):
        order = np.arange(300) if near else rng.permutation(300)
        cores = np.split(order, range(size, 300, size))
        each = [bits_of(matrix, chip, [core]) + len(core) * chip.neuron_state_bits for core in cores]
        small = replace(chip, memory_bits_per_core=max(each))
        bits, least = bounds.indexed_bits(small, shared, 8, 300)
        assert bits <= sum(each) and least <= len(cores)
        if not near:
            # Random lists need most of their indices, of at least 6 bits.
            assert bits > 12 * matrix.sum()


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(1, 5))
def test_grouped_lists(matrix, atoms):
    chip = LOIHI2
    group = np.arange(len(matrix), dtype=np.int32) // atoms
    used = np.bincount(group[matrix.any(axis=1)], minlength=group[-1] + 1)
    bare, indexed = (memory.least_bits_per_synapse(chip, each) for each in (8, 14))
    bits = bounds.grouped_bits(incoming(matrix), group, used, bare, indexed)
    for order in itertools.islice(itertools.permutations(range(matrix.shape[1])), 0, None, 37):
        taken = 0
        for g in range(group[-1] + 1):
            block = matrix[group == g][:, list(order)]
            if block.any():
                last = int(np.flatnonzero(block.any(axis=0))[-1])
                first = int(np.flatnonzero(block.any(axis=0))[0])
                bare_list = list_bits(chip, int(used[g]) * (last - first + 1), 8)
                taken += min(bare_list, list_bits(chip, int(block.sum()), 14))
        assert bits <= taken + 1e-6
