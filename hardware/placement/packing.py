"""What a list of post neurons costs the core that holds them: `hardware.placement.loops`, with the results and the scratch that they take."""

from __future__ import annotations

import numpy as np

from hardware.ahead import Loops
from hardware.chip.chips import Chip

LOOPS = Loops("hardware.placement.loops")
# Bits of n synapses of `bits` each, as `hardware.chip.memory.list_bits`: (n, bits, form).
list_bits = LOOPS("list_bits", "q", "q", "q", "*q")
# The narrowest non-zero width that holds indices 0..largest: (largest, widths).
index_width = LOOPS("index_width", "q", "q", "*q")
# The smaller form of one axon: (synapses, span, bits of one, index width, form).
axon_bits = LOOPS("axon_bits", "q", "q", "q", "q", "q", "*q")
_MEASURED = ("*i", "q", "*q", "*q", "**i", "*i")
measure_rows = LOOPS("measure_rows", "", "*q", "*i", *_MEASURED, "*q")
measure_groups = LOOPS("measure_groups", "", "*q", "*i", *_MEASURED, "*i", "*q", "*q")
measure_taps = LOOPS(
    "measure_taps", "", "*q", "**q", "*q", "q", *_MEASURED, "*q", "*Q", "*Q", "*Q", "*q", "*?", "*q", "*q", "*?", "*Q", "*q"
)  # fmt: skip
reach_rows = LOOPS("reach_rows", "q", "*q", "*i", "*i", "*?", "*i")
reach_taps = LOOPS("reach_taps", "q", "*q", "**q", "*q", "*q", "*q", "*q", "*i", "*i", "*i", "*i", "*i", "*q")
sum_once = LOOPS("sum_once", "q", "*i", "*i", "*q", "*?")
count_once = LOOPS("count_once", "", "*i", "*i", "*i", "*?", "q", "*q")
_used_taps = LOOPS("used_taps", "", "*q", "**q", "*q", "*?", "*q", "*q", "*?", "*?")
_group_taps = LOOPS("group_taps", "", "*q", "**q", "q", "*Q", "*Q", "q", "***q", "***Q", "**q", "*q", "*Q")
_grow = LOOPS(
    "grow", "", "*q", "*i", "*q", "*i", "*q", "*q", "*q", "d", "*i", "*q", "**i", "**i", "*?", "*i", "*q", "*q", "*q"
)  # fmt: skip
_transpose = LOOPS("transpose", "", "*q", "*i", "*q", "*q", "*i")
shared = LOOPS("shared", "", "*q", "*i", "*q", "*i", "*q", "*q", "**q", "*i", "*i", "*i", "*q")
grouped_bits = LOOPS("grouped_bits", "d", "*q", "*i", "*i", "*q", "d", "d", "*q")

# Neighbours in `grow` whose best is known together.
BLOCK = 256


def form_of(chip: Chip) -> np.ndarray:
    """How a chip stores lists, int64, for the loops."""
    offsets = min(chip.axon_offsets, np.iinfo(np.int64).max)
    return np.array([chip.word_bits, chip.block_synapses, chip.block_header_bits, offsets], dtype=np.int64)


def widths_of(chip: Chip) -> np.ndarray:
    """Index widths of a chip's lists, int64, for the loops."""
    return np.array(chip.index_bits, dtype=np.int64)


def random_words(n: int, seed: int) -> np.ndarray:
    """n odd 64-bit words, the same for the same seed: factors of the hash of a list of synapses."""
    return np.random.default_rng(seed).integers(0, 2**63, n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def used_taps(
    indptr: np.ndarray,
    taps: np.ndarray,
    geometry: np.ndarray,
    masks: tuple[np.ndarray, ...],
    dead: np.ndarray,
) -> np.ndarray:
    """Which taps make a synapse between two neurons that are not dead, anywhere; masks: those of `measure_taps`, dead: post neurons."""
    used = np.zeros(len(taps), dtype=np.bool_)
    _used_taps(indptr, taps, geometry, *masks, dead, used)
    return used


def group_taps(
    indptr: np.ndarray,
    taps: np.ndarray,
    atoms: int,
    channel_word: np.ndarray,
    weight_word: np.ndarray,
    lowest: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Taps with the channels of an axon taken together: rows of (block of channels, kernel row, column, synapses) by output channel, in
    rising order; their indptr; and a word for each, the sum over its channels of channel_word[channel in the block] times
    weight_word[weight - lowest]."""
    most = taps[:, :3].max(axis=0, initial=0)
    cells = (int(most[0]) // atoms + 1, int(most[1]) + 1, int(most[2]) + 1)
    grouped, words = np.empty((len(taps), 4), dtype=np.int64), np.empty(len(taps), dtype=np.uint64)
    starts = np.zeros(len(indptr), dtype=np.int64)
    room = np.zeros(cells, dtype=np.int64), np.zeros(cells, dtype=np.uint64)
    _group_taps(indptr, taps, atoms, channel_word, weight_word, lowest, *room, grouped, starts, words)
    return grouped[: starts[-1]].copy(), starts, words[: starts[-1]].copy()


def grow(
    in_ptr: np.ndarray,
    in_pre: np.ndarray,
    out_ptr: np.ndarray,
    out_post: np.ndarray,
    limits: np.ndarray,
    costs: np.ndarray,
    form: np.ndarray,
    most_visits: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """An order of post neurons in which neighbours share pre neurons, where in it each core ends, and how many synapses were looked at; see
    `loops.grow`."""
    n_post, n_pre = len(in_ptr) - 1, len(out_ptr) - 1
    order, ends = np.empty(n_post, dtype=np.int32), np.empty(n_post, dtype=np.int64)
    known, pre_known = (np.full((n, 2), -1, dtype=np.int32) for n in (n_post, n_pre))
    placed, neighbour = np.zeros(n_post, dtype=np.bool_), np.empty(n_post, dtype=np.int32)
    keys, best = np.empty(n_post, dtype=np.int64), np.empty(n_post // BLOCK + 1, dtype=np.int64)
    result = np.zeros(2, dtype=np.int64)
    _grow(
        in_ptr, in_pre, out_ptr, out_post, limits, costs, form, most_visits,
        order, ends, known, pre_known, placed, neighbour, keys, best, result,
    )  # fmt: skip
    return order, ends[: result[0]], int(result[1])


def transpose(indptr: np.ndarray, pre: np.ndarray, n_pre: int) -> tuple[np.ndarray, np.ndarray]:
    """By pre neuron what is given by post neuron."""
    starts, cursor = np.zeros(n_pre + 1, dtype=np.int64), np.empty(n_pre, dtype=np.int64)
    post = np.empty(len(pre), dtype=np.int32)
    _transpose(indptr, pre, starts, cursor, post)
    return starts, post
