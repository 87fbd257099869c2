"""What no placement can undercut: bits of a projection's synapses, and neurons that one core can hold.

Both lean on how many pre neurons two post neurons share. A list goes without an index only where its targets follow each other, and
neighbours in any numbering share no more pre neurons than a neuron shares with those that are most like it; and what a core's neurons
hear in common bounds how few incoming axons serve them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hardware.chip import memory
from hardware.chip.chips import Chip
from hardware.network.connectivity import Incoming
from hardware.placement import packing

# Lists are taken exactly up to that many blocks, longer ones by the least that a synapse can cost.
_EXACT_BLOCKS = 4


@dataclass(frozen=True)
class Shared:
    """Pre neurons of each post neuron, and how many it shares with others.

    heard: int64 (post,), without repetition. sizes: numbers of neurons, rising, the first two 2 and 3. top: int64 (sizes, post),
    the sum of the sizes - 1 largest numbers of pre neurons that a neuron shares with another one.
    """

    heard: np.ndarray
    sizes: np.ndarray
    top: np.ndarray


def shared_pre_neurons(incoming: Incoming, most: int) -> Shared:
    """Of a dense or sparse projection, for groups of up to about `most` + 1 neurons.

    It looks at as many synapses as the squares of the out-degrees sum up to.
    """
    sizes = [2, 3]
    while sizes[-1] <= most:
        sizes.append(math.ceil(1.2 * sizes[-1]))
    out_ptr, out_post = packing.transpose(incoming.indptr, incoming.pre, incoming.n_pre)
    rising = np.array(sizes, dtype=np.int64)
    n_post, n_pre = incoming.n_post, incoming.n_pre
    heard, top = np.zeros(n_post, dtype=np.int64), np.zeros((len(sizes), n_post), dtype=np.int64)
    room = (
        np.zeros(n_post, dtype=np.int32),
        np.empty(n_post + 1, dtype=np.int32),
        np.full(n_pre, -1, dtype=np.int32),
        np.zeros(n_pre + 1, dtype=np.int64),
    )
    packing.shared(incoming.indptr, incoming.pre, out_ptr, out_post, rising, heard, top, *room)
    return Shared(heard, rising, top)


def most_neurons(shared: Shared, axons: float, most: int) -> int:
    """Of any neurons that hear at most `axons` pre neurons together there are no more than that; at most `most`.

    Of n neurons that hear f each and share o with each other, (2 / (m + 1)) sum f - (2 / (m (m + 1))) sum o pre neurons are heard at
    least, the second sum over pairs, for every m = 1, 2, ... (Dawson and Sankoff 1967, doi 10.1214/aoms/1177698873).
    """
    for size, top in zip(shared.sizes, shared.top, strict=True):
        if size > min(most, len(shared.heard)):
            break
        best = 1 + int(np.median(top / np.maximum(1, shared.heard)))
        for m in {max(1, best - 1), best, best + 1}:
            each = 2 / (m + 1) * shared.heard - top / (m * (m + 1))
            if np.partition(each, size - 1)[:size].sum() > axons + 1e-6:
                return int(size) - 1
    return most


def indexed_bits(chip: Chip, shared: Shared, plain: int, most: int) -> tuple[float, float]:
    """(bits, cores): the least that a projection's lists take, each pre neuron with an axon of its own, and the cores that they take
    where no core holds more than `most` of the post neurons.

    Of a core's list of c synapses, c - r of them behind another without a gap, r runs in all, the smaller form takes at least
    rate * c - discount * (c - r) bits, a rate for any discount; and over a core, all c - r together are the pre neurons that
    neighbours share. The index width is at least that of as many targets as the core holds.
    """
    widths = sorted(width for width in chip.index_bits if width)
    widths = [width for n, width in enumerate(widths) if n == 0 or 2 ** widths[n - 1] < most]
    hears = shared.heard > 0
    # Each neuron has two neighbours at most, and each pair counts for both.
    heard, beside = shared.heard[hears], shared.top[1][hears] / 2
    bits, cores = 0.0, 0.0
    for n, width in enumerate(widths):
        # Cores with narrower indices hold few neurons.
        few = 1 / 2 ** widths[n - 1] if n else math.inf
        discounts = np.arange(0.0, width + 1)
        for rate, discount in zip(_rates(chip, plain, width, discounts), discounts, strict=True):
            each = rate * heard - discount * beside
            if n == 0:
                bits = max(bits, float(each.sum()))
            share = (each + chip.neuron_state_bits) / chip.memory_bits_per_core
            cores = max(cores, float(np.minimum(share, few).sum()))
    return bits, cores


def _rates(chip: Chip, plain: int, width: int, discounts: np.ndarray) -> np.ndarray:
    """Per discount the largest rate with rate * c - discount * (c - r) bits or fewer for all lists of c synapses in r runs."""
    exact = _EXACT_BLOCKS * chip.block_synapses
    bare = np.array([memory.list_bits(chip, n, plain) for n in range(2 * exact)])
    indexed = np.array([memory.list_bits(chip, c, plain + width) for c in range(exact + 1)])
    c, r = (index + 1 for index in np.tril_indices(exact))
    least = np.minimum(bare[c + r - 1], indexed[c])
    without, with_index = (memory.least_bits_per_synapse(chip, b) for b in (plain, plain + width))
    # Longer lists: one run or single synapses, between which all is linear.
    long = 1 - 1 / exact
    return np.array(
        [
            min(
                float(np.min((least + discount * (c - r)) / c)),
                with_index,
                without * (1 + long),
                without + discount * long,
            )
            for discount in discounts
        ]
    )


def grouped_bits(
    incoming: Incoming, group: np.ndarray, atoms: np.ndarray, bare: float, indexed: float
) -> float:
    """Least bits of a projection whose axons stand for groups of pre neurons, from the least bits of a synapse in both forms.

    group: the axon of each pre neuron; atoms: pre neurons of each axon, for all of which a list without indices has a synapse at
    each of its targets.
    """
    room = np.zeros(len(atoms), dtype=np.int64)
    return packing.grouped_bits(incoming.indptr, incoming.pre, group, atoms, bare, indexed, room)


def least_bits(chip: Chip, plain: int, degrees: np.ndarray) -> float:
    """Fewest bits of all axons of an unshared projection, their synapses cut as luckily as can be and without indices."""
    exact = 8 * chip.block_synapses
    table = np.array(memory.least_list_words(chip, exact, plain), dtype=np.float64) * chip.word_bits
    long = degrees[degrees > exact]
    return float(
        table[degrees[degrees <= exact]].sum() + memory.least_bits_per_synapse(chip, plain) * long.sum()
    )
