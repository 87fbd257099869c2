"""Lists of synapses that axons share within the reach of their offsets, against the text of nengo-loihi 1.1.0."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import oracle_placement as oracle
import placement_networks as nets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_memory import nengo_bits

from hardware.chip.chips import load_chip
from hardware.network.integer import ConvProjection, InputPopulation, Network, Population
from hardware.placement import place
from hardware.placement.problem import Problem

LOIHI1 = load_chip("loihi1")
# Every list takes one word, so that the bits of a core count its lists.
COUNTING = replace(LOIHI1, word_bits=2**24, block_synapses=2**16)


def conv2d_weights(weight, shape, stride, padding, channels_last):
    """`conv2d_loihi_weights` of nengo_loihi/conv.py: per used input pixel (weights (channels, n), targets (n,), offset).

    The rows and columns of outputs that a pixel reaches pick a part of the kernel; offset is what of the first target's number
    an axon holds, targets what is left for the list's indices.
    """
    filters, channels, k_y, k_x = weight.shape
    out_y, out_x = (
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape, padding, (k_y, k_x), stride, strict=True)
    )
    kernel = np.transpose(weight, (1, 2, 3, 0))[:, ::-1, ::-1, :]
    pixels = []
    for i, j in itertools.product(range(shape[0]), range(shape[1])):
        rows = np.arange(k_y) + i + padding[0] + 1 - k_y
        columns = np.arange(k_x) + j + padding[1] + 1 - k_x
        mask_y = (rows >= 0) & (rows < (out_y - 1) * stride[0] + 1) & (rows % stride[0] == 0)
        mask_x = (columns >= 0) & (columns < (out_x - 1) * stride[1] + 1) & (columns % stride[1] == 0)
        if not mask_y.any() or not mask_x.any():
            continue
        first = rows[mask_y][0] // stride[0] * out_x + columns[mask_x][0] // stride[1]
        w = kernel[:, mask_y[:, None] * mask_x, :]
        row, column, filter_ = np.ix_(*(np.arange(n) for n in (mask_y.sum(), mask_x.sum(), filters)))
        if channels_last:
            number = first * filters
            beyond = ((row * out_x + column) * filters + filter_).reshape(-1)
        else:
            number = first
            w = np.transpose(w, (0, 2, 1))
            beyond = np.moveaxis(filter_ * out_y * out_x + row * out_x + column, 2, 0).reshape(-1)
        offset = number % 256
        pixels.append((w.reshape(channels, -1), number - offset + beyond, offset))
    return pixels


def split_weights(pixels, block):
    """`set_new_synapse_weights` of nengo_loihi/builder/split_blocks.py: the same for the compartments in `block` alone."""
    new = {old: n for n, old in enumerate(block)}
    parts = []
    for weights, targets, offset in pixels:
        kept = [n for n, target in enumerate(targets + offset) if target in new]
        if kept:
            numbers = np.array([new[target] for target in (targets + offset)[kept]])
            base = numbers.min() % 256
            parts.append((weights[:, kept], numbers - base, base))
    return parts


def stored(pixels):
    """The distinct lists: [(weights, targets)]."""
    return list({(w.tobytes(), w.shape, t.tobytes()): (w, t) for w, t, _ in pixels}.values())


@st.composite
def convolutions(draw):
    """(weight without a zero and no two alike, input height and width, stride, padding), 257 to 1,500 neurons."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    while True:
        kernel = rng.integers(1, 4, 2)
        filters, channels = rng.integers(1, 7), rng.integers(1, 4)
        stride, padding = rng.integers(1, 3, 2), rng.integers(0, kernel)
        shape = rng.integers(kernel, 36)
        out = (shape + 2 * padding - kernel) // stride + 1
        size = filters * channels * kernel[0] * kernel[1]
        if 256 < filters * out[0] * out[1] <= 1500 and size < 250:
            break
    values = rng.permutation(np.append(np.arange(-256, 0, 2), np.arange(2, 256, 2)))[:size]
    weight = values.reshape(filters, channels, *kernel).astype(np.int16)
    return weight, *(tuple(int(n) for n in pair) for pair in (shape, stride, padding))


def network_of(weight, shape, stride, padding):
    out = [
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape, padding, weight.shape[2:], stride, strict=True)
    ]
    projection = ConvProjection("in", "conv", weight, stride, padding)
    return Network(
        (InputPopulation("in", (weight.shape[1], *shape)),),
        (Population("conv", (len(weight), *out)),),
        (projection,),
        ("conv",),
    )


def measured(network, chip, order):
    """Bits of the neurons in this order on one core, counted fast and slowly."""
    problem = Problem(network, chip, {})
    (wire,) = problem.wires
    bits, axons, synapses, _ = wire.measure(np.array(order, dtype=np.int32))
    assert (bits, axons, synapses) == oracle.Unrolled(network, chip).core({"conv": list(order)})
    return bits


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.booleans(), st.floats(0.3, 1.0))
def test_lists_are_those_of_nengo_loihi(convolution, channels_last, share):
    network = network_of(*convolution)
    filters, *out = network.populations[0].shape
    numbers = np.arange(math.prod((filters, *out))).reshape(filters, -1)
    # Our neurons in the order of nengo-loihi's compartments.
    order = numbers.T.ravel() if channels_last else numbers.ravel()
    pixels = conv2d_weights(*convolution, channels_last)
    # A part of the neurons, one after the other in this order, as blocks are split.
    part = max(257, int(share * len(order)))
    first = (len(order) - part) // 2
    if part < len(order):
        pixels = split_weights(pixels, range(first, first + part))
    lists = stored(pixels)
    order = order[first : first + part]
    assert measured(network, COUNTING, order) == len(lists) * COUNTING.word_bits
    largest = max(int(targets.max()) for _, targets in lists)
    ours = measured(network, LOIHI1, order)
    # nengo-loihi stores indices always, an axon of ours the smaller of both forms.
    assert ours <= nengo_bits([w.size for w, _ in lists], 8, largest)
    assert ours == sum(
        min(
            nengo_bits([w.size], 8, largest),
            nengo_bits([(int(targets.max()) + 1) * len(w)], 8, None),
        )
        for w, targets in lists
    )


def test_known_lists():
    """A 1 x 1 kernel on 32 x 32 pixels: one synapse an axon, 8 bits and 10 for an index of up to 768, 64 with the header."""
    network = network_of(np.full((1, 1, 1, 1), 2, dtype=np.int16), (32, 32), (1, 1), (0, 0))
    order = np.arange(1024)
    assert measured(network, LOIHI1, order) == 4 * 64
    assert measured(network, LOIHI1, order[:256]) == 64
    assert measured(network, LOIHI1, order[:257]) == 2 * 64
    assert measured(network, replace(LOIHI1, axon_offsets=math.inf), order) == 64
    assert measured(network, replace(LOIHI1, axon_offsets=1), order) == 1024 * 64


def test_own_lists_without_indices_begin_where_an_offset_reaches():
    """Each of 600 axons tells one neuron: 8 bits, those beyond 255 with synapses of weight zero ahead, or an index of 10 bits."""
    weight = np.zeros((600, 600), dtype=np.int16)
    np.fill_diagonal(weight, 2)
    network = nets.layers((600,), ("dense", 600))
    network = replace(network, projections=(replace(network.projections[0], weight=weight),))
    form = replace(LOIHI1, word_bits=1)
    bits = place(network, form).memory_bits_per_core
    assert bits.tolist() == [sum(10 + min(18, 8 * max(1, n - 255 + 1)) for n in range(600))]
    free = place(network, replace(form, axon_offsets=math.inf)).memory_bits_per_core
    assert free.tolist() == [600 * 18]


def test_neurons_are_numbered_by_channel_where_they_are_more_than_offsets():
    """With channels first, the first targets of all axons are among the positions; with positions first among all neurons."""
    network = nets.layers((2, 12, 12), ("conv", 6, 3, 1, 1))
    placement = place(network, LOIHI1)
    oracle.check(network, placement)
    assert placement.cores == 1 and placement.number_of["conv1"].tolist() == list(range(864))
    by_position = np.arange(864).reshape(6, -1).T.ravel()
    with_copies = oracle.Unrolled(network, LOIHI1).core({"conv1": by_position.tolist()})[0]
    assert placement.memory_bits_per_core[0] < 0.6 * with_copies


@pytest.mark.parametrize("offsets", [1, 7, 64, math.inf])
def test_placements_with_other_offsets_pass_the_checker(offsets):
    network = nets.layers((2, 9, 9), ("conv", 6, 3, 1, 1), ("conv", 8, 3, 2, 1), ("dense", 20), keep=0.5)
    chip = replace(LOIHI1, axon_offsets=offsets, neurons_per_core=200, memory_bits_per_core=60_000)
    for strategy in ("sequential", "best"):
        oracle.check(network, place(network, chip, strategy))


def test_fewer_offsets_never_take_less_memory():
    network = nets.layers((2, 12, 12), ("conv", 6, 3, 1, 1), keep=0.6)
    order = np.arange(864)
    chips = [replace(LOIHI1, axon_offsets=n) for n in (math.inf, 512, 256, 64, 8, 1)]
    bits = [oracle.Unrolled(network, chip).core({"conv1": order.tolist()})[0] for chip in chips]
    assert bits == sorted(bits) and bits[0] < bits[-1]
