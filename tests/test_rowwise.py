"""Convolutions run row by row: what a step adds, against every synapse added by itself."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hardware.network.integer import (
    ConvProjection,
    InputPopulation,
    Network,
    Population,
    conv_output_shape,
)
from hardware.simulate import rowwise, simulator

CASES = [
    # channels, height, width, out, kernel, stride, padding, dilation
    (3, 9, 11, 24, (3, 3), (2, 2), (0, 0), (1, 1)),
    (2, 8, 7, 5, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 6, 9, 40, (5, 2), (1, 3), (2, 0), (1, 1)),
    (4, 7, 8, 65, (1, 5), (2, 2), (0, 4), (3, 1)),
    (2, 5, 12, 33, (2, 3), (3, 4), (1, 2), (2, 1)),
    (3, 6, 10, 9, (3, 3), (1, 1), (1, 0), (1, 2)),  # columns apart: spike by spike
]


def network_of(channels, height, width, out, kernel, stride, padding, dilation, largest=127):
    rng = np.random.default_rng(out)
    weight = 2 * rng.integers(-largest, largest + 1, (out, channels, *kernel), dtype=np.int32)
    projection = ConvProjection("in", "p", weight, stride, padding, dilation)
    shape = conv_output_shape(projection, (channels, height, width))
    entry = InputPopulation("in", (channels, height, width))
    return Network((entry,), (Population("p", shape, dv=4096, spiking=False),), (projection,), ("p",))


def synapse_by_synapse(network, raster):
    """Membranes that keep nothing: 64 times the sum of a step."""
    p, (population,) = network.projections[0], network.populations
    found = np.zeros((*raster.shape[:2], *population.shape), np.int64)
    for b, t, c, y, x in zip(*np.nonzero(raster), strict=True):
        for o, i, j in itertools.product(*(range(p.weight.shape[axis]) for axis in (0, 2, 3))):
            to = [
                divmod(place + pad - k * gap, step)
                for place, pad, k, gap, step in zip(
                    (y, x), p.padding, (i, j), p.dilation, p.stride, strict=True
                )
            ]
            if all(rest == 0 and 0 <= at < n for (at, rest), n in zip(to, population.shape[1:], strict=True)):
                found[b, t, o, to[0][0], to[1][0]] += int(p.weight[o, c, i, j]) * int(raster[b, t, c, y, x])
    return found << 6


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pays", [True, False])
def test_sums_are_those_of_single_synapses(case, pays, monkeypatch):
    # Always, and never.
    monkeypatch.setattr(rowwise, "SUMS_PER_SPIKE", 1 << 40 if pays else 1e-9)
    network = network_of(*case)
    rng = np.random.default_rng(1)
    raster = (
        rng.random((2, 5, *case[:3])) < np.array([0.0, 0.02, 0.2, 0.6, 1.0]).reshape(5, 1, 1, 1)
    ).astype(np.uint8)
    raster[1, 2] *= 3  # counts go spike by spike
    expected = synapse_by_synapse(network, raster)
    strided = np.zeros((*raster.shape, 2), np.uint8)[..., 0]
    strided[:] = raster
    for given in (
        raster,
        raster.astype(np.int32),
        raster.astype(np.int64),
        raster.astype(np.float32),
        strided,
    ):
        np.testing.assert_array_equal(simulator.simulate(network, given, threads=1).output, expected)


@pytest.mark.parametrize(("channels", "together"), [(14, 3), (30, 1), (43, 1), (44, 0)])
def test_sums_stay_within_16_bits(channels, together):
    """Three rows of three columns of 254 each: 762 a channel and row."""
    network = network_of(channels, 5, 6, 4, (3, 3), (1, 1), (1, 1), (1, 1))
    full = np.full_like(network.projections[0].weight, 254)
    full[::2] *= -1
    network = replace(network, projections=(replace(network.projections[0], weight=full),))
    (projection,) = network.projections
    found = rowwise.rowwise(projection, (channels, 5, 6), network.populations[0].shape)
    assert (found is rowwise.NOT_ROWWISE) == (together == 0)
    assert together == 0 or found.geometry[rowwise.R_TOGETHER] == together
    raster = np.ones((1, 1, channels, 5, 6), np.uint8)
    run = simulator.simulate(network, raster, threads=1)
    np.testing.assert_array_equal(run.output, synapse_by_synapse(network, raster))
    assert abs(run.output).max() == 9 * 254 * channels << 6
