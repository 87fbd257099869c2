"""Bits of a core's memory, as the chip stores synapses, neuron state and axons.

An axon is a pre-synaptic neuron's way into one core, or that of a group of pre neurons (the channels of one position
of a convolution's input, where the chip has such population axons: the group's synapses then count as one list); its synapses there, n of them, lie in blocks of at most
`block_synapses`. A block takes

    n * (weight bits + delay bits + tag bits + index bits) + block_header_bits

rounded up to whole words (Loihi 1: 64 synapses, 10 bits, 64-bit words; nengo-loihi, `nengo_loihi/block.py`).
The index names the target neuron within the core. It takes no bits where the targets follow each other without a gap; a gap
may also be stored as synapses of weight zero, and an axon takes whichever of the two forms is smaller (the block
header names a block's format, so axons of one core may differ). The index width is one of the widths the chip
offers, the same for all axons of a projection on a core.

An axon has an offset of its own, 0 to `axon_offsets` - 1, that the chip adds to the targets of its list. A list that several
axons share lies at the offset of each: (first target) mod `axon_offsets`, and what is left of the first target's number,
a multiple of `axon_offsets`, is part of its indices, or comes as synapses of weight zero ahead of contiguous targets. So
axons whose targets agree but for a shift share a list only where that multiple is the same for them (nengo-loihi,
`nengo_loihi/conv.py` and `builder/split_blocks.py`). An axon with a list of its own has its targets' numbers as indices, as in
nengo-loihi; its contiguous targets begin at the largest offset that is not beyond the first of them. Where some channels of a population
axon are dead at a position (`hardware.network.integer.Population.dead`), its list has their weights all the same, as at other positions, at each
target that a living channel reaches; dead targets are in no list.

Where a core takes one layer (`LayerCores`), its memories are addressed by the bits of each index, so that sizes count as the
powers of two that hold them: a kernel word for each (input channel, filter, tap), a neuron word for each (filter, row,
column) (sinabs 3.1, `sinabs/backend/dynapcnn/dynapcnn_layer.py`, memory_summary).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hardware.chip.chips import Chip
from hardware.errors import HardwareError


def stored_weight_bits(chip: Chip, bits: int) -> int:
    """The narrowest weight width of the chip that holds `bits`; HardwareError where there is none."""
    for width in chip.weight_bits:
        if width >= bits:
            return width
    raise HardwareError(
        f"weights of {bits} bits: {chip.name} stores at most {max(chip.weight_bits)} bits; expected narrower weights"
    )


def stored_index_bits(chip: Chip, largest_index: int) -> int:
    """The narrowest non-zero index width that holds indices 0..largest_index; HardwareError where there is none."""
    needed = max(1, int(largest_index).bit_length())
    for width in chip.index_bits:
        if width >= needed:
            return width
    raise HardwareError(
        f"target index {largest_index}: {chip.name} has indices of at most {max(chip.index_bits)} bits; "
        f"expected at most {2 ** max(chip.index_bits) - 1}"
    )


def stored_delay_bits(chip: Chip, largest_delay: int) -> int:
    """Bits of a synaptic delay of 0..largest_delay extra steps; HardwareError where the chip has too few."""
    bits = int(largest_delay).bit_length()
    if bits > chip.delay_bits:
        raise HardwareError(
            f"delay of {largest_delay} steps: {chip.name} stores {chip.delay_bits} delay bits; "
            f"expected at most {2**chip.delay_bits - 1} steps"
        )
    return bits


def list_bits(chip: Chip, synapses: int, bits_per_synapse: int) -> int:
    """Bits of one axon's list of `synapses` synapses of `bits_per_synapse` each, in blocks and words."""
    full, rest = divmod(int(synapses), chip.block_synapses)
    bits = full * _block_bits(chip, chip.block_synapses, bits_per_synapse)
    return bits + (_block_bits(chip, rest, bits_per_synapse) if rest else 0)


def _block_bits(chip: Chip, synapses: int, bits_per_synapse: int) -> int:
    bits = synapses * bits_per_synapse + chip.block_header_bits
    return -(-bits // chip.word_bits) * chip.word_bits


def axon_bits(
    chip: Chip, synapses: int, span: int, weight_bits: int, index_bits: int, delay_bits: int = 0
) -> int:
    """Bits of one axon's synapses on one core, in the smaller of the two forms.

    synapses: how many; span: the length without index bits, see `axon_span`.
    """
    if synapses == 0:
        return 0
    plain = weight_bits + delay_bits + chip.tag_bits
    return min(list_bits(chip, span, plain), list_bits(chip, synapses, plain + index_bits))


def axon_span(chip: Chip, first: int, last: int) -> int:
    """Synapses of an axon's own list that goes without a gap from its offset to target `last`, `first` its first target."""
    return last - int(min(first, chip.axon_offsets - 1)) + 1


def kernel_bits(chip: Chip, taps: int, nonzero: int, weight_bits: int, delay_bits: int = 0) -> int:
    """Bits of one output channel's kernel of `taps` weights, `nonzero` of them not zero, in the smaller of both forms."""
    if nonzero == 0:
        return 0
    plain = weight_bits + delay_bits + chip.tag_bits
    whole = list_bits(chip, taps, plain)
    if (taps - 1).bit_length() > max(chip.index_bits):
        return whole
    return min(whole, list_bits(chip, nonzero, plain + stored_index_bits(chip, taps - 1)))


def core_bits(chip: Chip, synapse_bits: int, neurons: int, axons_in: int, axons_out: int) -> int:
    """All that counts against `memory_bits_per_core`: synapses, and state and axons where they share that memory."""
    return (
        int(synapse_bits)
        + int(neurons) * chip.neuron_state_bits
        + int(axons_in) * chip.axon_in_bits
        + int(axons_out) * chip.axon_out_bits
    )


def least_list_words(chip: Chip, synapses: int, bits_per_synapse: int) -> list[int]:
    """Fewest words that hold 0..`synapses` synapses of one axon, however they are cut over blocks and cores.

    Entry n is the least sum of block words over all ways to write n as blocks of at most `block_synapses`; a lower
    bound for any placement, since the cut over cores may come out luckier than full blocks.
    """
    words = [
        -(-(n * bits_per_synapse + chip.block_header_bits) // chip.word_bits)
        for n in range(chip.block_synapses + 1)
    ]
    least = [0]
    for total in range(1, synapses + 1):
        least.append(min(words[n] + least[total - n] for n in range(1, min(total, chip.block_synapses) + 1)))
    return least


def least_bits_per_synapse(chip: Chip, bits_per_synapse: int) -> float:
    """The least bits that any block spends on one synapse: a linear lower bound for long axons."""
    best = math.inf
    for n in range(1, chip.block_synapses + 1):
        best = min(best, _block_bits(chip, n, bits_per_synapse) / n)
    return best


def kernel_words(channels: int, filters: int, taps: int) -> int:
    """Words of a layer's kernels: filters and taps (height times width) go by powers of two."""
    return channels << (_address_bits(taps) + _address_bits(filters))


def neuron_words(filters: int, height: int, width: int) -> int:
    """Words of a layer's membranes: rows and columns go by powers of two."""
    return filters << (_address_bits(height) + _address_bits(width))


def _address_bits(n: int) -> int:
    return (n - 1).bit_length()


def projection_bits(
    chip: Chip, targets: Sequence[Sequence[int]], weight_bits: int, delay_bits: int = 0
) -> int:
    """Bits of an unshared projection on one core: targets[j] are axon j's rising target numbers 0.. on the core."""
    largest = max((int(row[-1]) for row in targets if len(row)), default=-1)
    if largest < 0:
        return 0
    width = stored_index_bits(chip, largest)
    return sum(
        axon_bits(chip, len(row), axon_span(chip, int(row[0]), int(row[-1])), weight_bits, width, delay_bits)
        for row in targets
        if len(row)
    )
