"""Synapses counted without unrolling a network, against those of its pairs of neurons."""

from __future__ import annotations

import numpy as np
import pytest

from hardware.network.connectivity import by_post, synapses_of
from hardware.network.integer import ConvProjection, DenseProjection, SparseProjection


def sparse(pairs, weights, pre=4):
    """(pre, post) in the order given, which is by pre neuron."""
    rows = [i for i, _ in pairs]
    indptr = np.searchsorted(rows, np.arange(pre + 1)).astype(np.int64)
    return SparseProjection(
        "a", "b", indptr, np.array([j for _, j in pairs], np.int32), np.array(weights, np.int16)
    )


CASES = [
    (sparse([], []), 0),
    (sparse([(0, 1), (0, 2), (1, 0), (3, 2)], [2, 4, 6, 8]), 4),
    (sparse([(0, 1), (0, 2), (1, 0), (3, 2)], [2, 0, 6, 0]), 2),
    (sparse([(0, 2), (0, 1), (2, 0), (2, 0), (2, 1)], [2, 2, 2, 4, 2]), 4),  # out of order, one pair twice
    (sparse([(1, 1), (1, 1), (1, 2)], [0, 4, 2]), 2),
    (DenseProjection("a", "b", np.array([[0, 2, 0, 4], [2, 0, 0, 0], [0, 0, 0, 0]])), 3),
]


@pytest.mark.parametrize(("projection", "count"), CASES)
def test_every_pair_with_a_weight_counts_once(projection, count):
    assert synapses_of(projection, (4,), (3,)) == count
    assert by_post(projection, (4,), (3,)).synapses == count


def test_a_convolution_counts_what_its_windows_see():
    weight = np.zeros((1, 1, 3, 3), np.int32)
    weight[0, 0, 0, 0] = weight[0, 0, 1, 1] = 2
    projection = ConvProjection("a", "b", weight, padding=(1, 1))
    # The middle at every place, the corner where row and column before are there.
    assert synapses_of(projection, (1, 4, 5), (1, 4, 5)) == 4 * 5 + 3 * 4
