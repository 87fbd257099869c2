"""A network made ready for placement: its axons, and what neurons cost the core that holds them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hardware.ahead import Bound
from hardware.chip import memory
from hardware.chip.chips import Chip
from hardware.errors import HardwareError
from hardware.network.connectivity import (
    Incoming,
    Shape,
    by_post,
    in_degrees,
    out_degrees,
    rises,
    shapes,
    unroll,
)
from hardware.network.integer import ConvProjection, DenseProjection, Network, SparseProjection
from hardware.placement import bounds, packing
from hardware.placement.orders import Order

# What every chip's cores have so much of; `Problem.capacity` holds them in this order.
RESOURCES = ("neurons_per_core", "memory_bits_per_core", "axons_in_per_core", "axons_out_per_core")
# Synapses that a search looks at in about a second, on one core of 2024.
VISITS_PER_SECOND = 2e8
# A trial's fixed cost, in synapses looked at.
VISITS_PER_CALL = 5000.0
# A bound counts the pre neurons that post neurons share where they are joined by less than that share of all pairs, so that
# indices may take less than the gaps of lists without, and where it looks at no more synapses than a search does.
SPARSE = 0.6


class Problem:
    """A network made ready for placement: incoming synapses per population, axon groups, scratch arrays."""

    def __init__(self, network: Network, chip: Chip, rates: dict[str, np.ndarray]) -> None:
        self.chip = chip
        self.rates = rates
        self.shape = shapes(network)
        self.size = {name: math.prod(shape) for name, shape in self.shape.items()}
        self.names = [population.name for population in network.populations]
        # Dead neurons sit on no core; `count` leaves them out, `size` does not.
        self.dead = {p.name: p.dead for p in network.populations if p.dead is not None}
        self.count = {p.name: p.neurons for p in network.populations}
        if sum(self.size[name] for name in self.names) == 0:
            raise HardwareError("network without neurons; expected at least one population with a neuron")
        self.form, self.widths = packing.form_of(chip), packing.widths_of(chip)
        self.wires: list[Wire] = []
        for projection in network.projections:
            for end in (projection.source, projection.target):
                if end not in self.shape:
                    raise HardwareError(
                        f"projection {projection.source!r} -> {projection.target!r}: no population {end!r}"
                    )
            incoming = by_post(projection, self.shape[projection.source], self.shape[projection.target])
            ends = self.shape[projection.source], self.shape[projection.target]
            self.wires.append(Wire(len(self.wires), incoming, chip, *ends))
        self.into = {n: [w for w in self.wires if w.target == n] for n in self.names}
        self.shifted = {w.target for w in self.wires if w.share == 1 and w.incoming.taps is not None}
        self.out_of = {n: [w for w in self.wires if w.source == n] for n in self.size}
        # Synapses looked at so far in trials: what a search spends, counted and not timed.
        self.visits = 0.0
        self.most_synapses = math.inf
        # Cores that fewer crossing spikes may take; None where fewer cores come first.
        self.most_cores: float | None = None
        # Per population what each neuron keeps its core busy with, and what a core may be; see `set_work`.
        self.work: dict[str, np.ndarray] = {}
        self.visits_of_neuron = {n: 2.0 + sum(wire.visits for wire in self.into[n]) for n in self.names}
        limit = min(chip.neurons_per_core, 2 ** max(chip.index_bits))
        self.capacity = np.array(
            [limit, chip.memory_bits_per_core, chip.axons_in_per_core, chip.axons_out_per_core]
        )
        for wire in self.wires:
            wire.find_shared(int(min(self.count.get(wire.target, 0), self.capacity[0])))
        self.most = {name: self._most(name) for name in self.names}
        for wire in self.wires:
            wire.least_fan_out = wire.least_targets(self.most[wire.target])

    def set_work(self, work: dict[str, np.ndarray], most: float) -> None:
        """Let a core's time be a resource like its memory: each neuron takes `work`, all together `most` at most. Without work it
        is none again."""
        self.work = work
        self.capacity = self.capacity[: len(RESOURCES)]
        if work:
            self.capacity = np.append(self.capacity, most)

    def there(self, name: str, order: Order) -> Order:
        """An order without the population's dead neurons."""
        return order if name not in self.dead else order.only(~self.dead[name])

    def unit(self, name: str) -> int:
        """Neurons that cost a core as much memory as any one of them: an output channel, where kernels are stored once."""
        shared = any(wire.share == 2 and len(wire.kernel_bits) for wire in self.into[name])
        return math.prod(self.shape[name][1:]) if shared else 1

    def least_fan_out(self) -> list[np.ndarray]:
        """Per wire how many cores each of its axons reaches at least, wherever neurons sit."""
        return [wire.least_fan_out for wire in self.wires]

    def numbered(self, name: str, neurons: np.ndarray) -> np.ndarray:
        """The neurons in the order of their numbers on a core.

        Channel by channel where they are more than an axon has offsets: an axon's first target is then one of the first
        channel, whose positions the offsets may reach although not all neurons, and more axons share a list.
        """
        if len(neurons) <= self.chip.axon_offsets or name not in self.shifted:
            return neurons
        return np.sort(neurons)

    def _most(self, name: str) -> int:
        """No core holds more neurons of the population than that."""
        chip = self.chip
        most = int(min(self.capacity[0], self.count[name]))
        for wire in self.into[name]:
            if wire.shared is not None and not math.isinf(chip.axons_in_per_core):
                most = bounds.most_neurons(wire.shared, chip.axons_in_per_core, most)
            if wire.full and wire.groups <= chip.axons_in_per_core:
                low = 1
                while low < most:
                    middle = (low + most + 1) // 2
                    bits = wire.full_bits(middle)
                    if memory.core_bits(chip, bits, middle, wire.groups, 0) <= chip.memory_bits_per_core:
                        low = middle
                    else:
                        most = middle - 1
        return max(1, most)

    def usage(self, name: str, neurons: np.ndarray, fan_out: Sequence[np.ndarray]) -> np.ndarray:
        """[neurons, bits, axons in, axons out], with `set_work` also the time, that a core spends on `neurons` of population `name`, `numbered`.

        fan_out: per wire the assumed number of target cores of each axon group.
        """
        chip = self.chip
        self.visits += VISITS_PER_CALL + len(neurons) * self.visits_of_neuron[name]
        neurons = self.numbered(name, neurons)
        bits = axons_in = axons_out = 0
        for wire in self.into[name]:
            more, axons, _, _ = wire.measure(neurons)
            bits += more
            axons_in += axons
        for wire in self.out_of[name]:
            axons_out += wire.slots * packing.sum_once(neurons, wire.group, fan_out[wire.number], wire.seen)
        total = memory.core_bits(chip, bits, len(neurons), axons_in, axons_out)
        used = [len(neurons), total, axons_in, axons_out]
        if self.work:
            used.append(self.work[name][neurons].sum())
        return np.array(used, dtype=np.float64)

    def lower_bound(self) -> int:
        """Cores that no placement can undercut; see `hardware.placement.lower_bound`."""
        chip = self.chip
        bits, least = 0.0, 1.0
        axons_in = axons_out = neurons = 0
        for name in self.names:
            size = self.count[name]
            neurons += size
            alive = slice(None) if name not in self.dead else ~self.dead[name]
            own_bits, alone, least_in, reached = 0.0, size / self.most[name], 0, 0
            for wire in self.into[name]:
                wire_bits, wire_cores = wire.least_bits(chip, self.most[name])
                own_bits, alone = own_bits + wire_bits, max(alone, wire_cores)
                reached += int(wire.least_fan_out.sum())
                if wire.source in self.into:
                    axons_out += wire.slots * int(wire.least_fan_out.sum())
                least_in += math.ceil(int(wire.in_degrees[alive].min()) / wire.atoms) if size else 0
            alone = math.ceil(max(alone, own_bits / chip.memory_bits_per_core) - 1e-9)
            axons_in += max(reached, alone * least_in)
            bits += own_bits
            least = max(least, alone)
        total = memory.core_bits(chip, 0, neurons, axons_in, axons_out) + bits
        needs = np.array([neurons, total, axons_in, axons_out])
        return math.ceil(max(least, float(np.max(needs / self.capacity[: len(needs)]))) - 1e-9)


class Wire:
    """One projection with its axons and scratch arrays. group: the axon of each pre neuron."""

    def __init__(
        self, number: int, incoming: Incoming, chip: Chip, source_shape: Shape, target_shape: Shape
    ) -> None:
        projection = incoming.projection
        self.form, self.widths = packing.form_of(chip), packing.widths_of(chip)
        self.source_shape, self.target_shape = source_shape, target_shape
        self.number = number
        self.incoming = incoming
        self.source, self.target = projection.source, projection.target
        delay = memory.stored_delay_bits(chip, int(np.max(projection.delay, initial=0)))
        self.plain = memory.stored_weight_bits(chip, projection.weight_bits) + delay + chip.tag_bits
        n_pre = incoming.n_pre
        neuron = np.arange(n_pre, dtype=np.int64)
        self.share = ("no", "shifted", "once").index(chip.shared_kernels)
        self.kernel_bits = np.zeros(0, dtype=np.int64)
        self.atoms = 1
        if isinstance(projection, ConvProjection):
            size = math.prod(projection.weight.shape[1:])
            self.kernel_bits = np.array(
                [
                    memory.kernel_bits(chip, size, int(nonzero), self.plain - chip.tag_bits)
                    for nonzero in np.diff(incoming.indptr)
                ],
                dtype=np.int64,
            )
        if incoming.taps is not None and self.share:
            self.atoms = chip.population_axon_atoms
            area = source_shape[1] * source_shape[2]
            neuron = neuron % area + area * (neuron // area // self.atoms)
        elif isinstance(projection, DenseProjection):
            self.atoms = chip.dense_axon_atoms
            neuron = neuron // self.atoms
        self.group = neuron.astype(np.int32)
        self.groups = int(self.group.max(initial=-1)) + 1
        self.in_degrees, self.out_degrees = in_degrees(incoming), out_degrees(incoming)
        # A list holds the weights of all channels of its axon, of those that are dead at its position, too: so it is the same at others.
        stored = (
            out_degrees(replace(incoming, dead_pre=None, dead_post=None))
            if incoming.masked
            else self.out_degrees
        )
        self.group_atoms = np.bincount(self.group[stored > 0], minlength=self.groups).astype(np.int64)
        self.slots = chip.population_axon_slots if self.group_atoms.max(initial=0) > 1 else 1
        self.full = incoming.taps is None and incoming.synapses == n_pre * incoming.n_post
        self.known_full_bits: dict[int, int] = {}
        self.shared: bounds.Shared | None = None
        self.lists = np.zeros((self.groups, 4), dtype=np.int32)
        self.touched = np.zeros(self.groups, dtype=np.int32)
        if self.full:
            self.touched[:] = np.arange(self.groups)
        self.seen = np.zeros(max(n_pre, self.groups), dtype=np.bool_)
        self.reached = np.zeros(n_pre, dtype=np.int32)
        if incoming.taps is not None:
            self.pattern = np.zeros(self.groups, dtype=np.uint64)
            self.rank_word = packing.random_words(incoming.n_post, 1)
            self.axon_taps, self.axon_indptr, self.tap_word = _axon_taps(incoming, self.atoms)
            self.masks = _masks(incoming, self.axon_taps, self.atoms)
            self.hears = _hears(incoming)
            area_in, area_out = (incoming.geometry[n] * incoming.geometry[n + 1] for n in (0, 2))
            self.done = np.zeros((len(self.hears.cell_ptr) - 1) * area_out, dtype=np.int32)
            self.heard = np.zeros((len(self.hears.list_ptr) - 1) * area_in, dtype=np.int32)
            self.stamps = np.zeros(n_pre, dtype=np.int32)
            self.stamp = np.zeros(1, dtype=np.int64)
        self._measured = np.zeros(3, dtype=np.int64)
        self._measure, self._reach = self._bound()
        # What a look at one post neuron costs.
        if incoming.taps is not None:
            self.visits = len(self.axon_taps) / max(1, len(self.axon_indptr) - 1)
        else:
            self.visits = 0.0 if self.full else incoming.synapses / max(1, incoming.n_post)
        self.least_fan_out = self.least_targets(1)

    def measure(self, neurons: np.ndarray) -> tuple[int, int, int, int]:
        """(bits, axons in, synapses, touched axons) of these post neurons on one core; see `packing`."""
        into = self.incoming
        if self.full and len(neurons):
            return (
                self.full_bits(len(neurons)),
                self.groups,
                len(neurons) * into.n_pre,
                self.groups,
            )
        self._measure(neurons)
        bits, axons, synapses = self._measured.tolist()
        return bits, axons, synapses, axons

    def _bound(self) -> tuple[Bound, Bound]:
        """`packing`'s loops that measure and that reach, for this projection: given the post neurons on a core."""
        into = self.incoming
        per_synapse = self.plain, self.form, self.widths, self.lists, self.touched
        if into.taps is not None:
            size = 16
            while size < 2 * self.groups:
                size *= 2
            room = np.zeros(len(self.kernel_bits), dtype=np.bool_), np.zeros(size, dtype=np.uint64)
            measure = packing.measure_taps.bound(
                self.axon_indptr, self.axon_taps, into.geometry, self.share, ..., *per_synapse, self.group_atoms,
                self.pattern, self.rank_word, self.tap_word, self.kernel_bits, *self.masks, *room, self._measured,
            )  # fmt: skip
            h = self.hears
            reach = packing.reach_taps.bound(
                h.cell_ptr, h.cells, h.list_ptr, h.channels, into.geometry, h.kind, ..., self.done, self.heard,
                self.stamps, self.reached, self.stamp,
            )  # fmt: skip
            return measure, reach
        rows = into.indptr, into.pre, ...
        reach = packing.reach_rows.bound(*rows, self.seen, self.reached)
        if self.atoms == 1:
            return packing.measure_rows.bound(*rows, *per_synapse, self._measured), reach
        groups = self.group, self.group_atoms, self._measured
        return packing.measure_groups.bound(*rows, *per_synapse, *groups), reach

    def find_shared(self, most: int) -> None:
        """Pre neurons that post neurons share, where a bound may gain by it."""
        into = self.incoming
        if (
            into.taps is None
            and self.atoms == 1
            and into.synapses < SPARSE * into.n_pre * into.n_post
            and float(np.square(self.out_degrees, dtype=np.float64).sum()) <= VISITS_PER_SECOND
        ):
            self.shared = bounds.shared_pre_neurons(into, most)

    def least_targets(self, most: int) -> np.ndarray:
        """Per axon how many cores it reaches at least, where none holds more than `most` post neurons."""
        degrees = np.zeros(self.groups, dtype=np.int64)
        np.maximum.at(degrees, self.group, self.out_degrees)
        return -(-degrees // most)

    def full_bits(self, neurons: int) -> int:
        """Bits of every pre neuron onto `neurons` neurons: all lists of as many atoms are alike."""
        if neurons not in self.known_full_bits:
            width = packing.index_width(neurons - 1, self.widths)
            atoms, lists = np.unique(self.group_atoms, return_counts=True)
            each = [packing.axon_bits(a * neurons, a * neurons, self.plain, width, self.form) for a in atoms]
            self.known_full_bits[neurons] = int(np.dot(each, lists))
        return self.known_full_bits[neurons]

    def by_pre(self) -> tuple[np.ndarray, np.ndarray]:
        """Of a dense or sparse projection the post neurons of each pre neuron, rising: (indptr, post), not to be changed."""
        into, projection = self.incoming, self.incoming.projection
        if (
            isinstance(projection, SparseProjection)
            and len(projection.post) == into.synapses
            and rises(projection)
        ):
            return np.asarray(projection.indptr, np.int64), np.ascontiguousarray(projection.post, np.int32)
        return packing.transpose(into.indptr, into.pre, into.n_pre)

    def synapses(self) -> tuple[np.ndarray, np.ndarray]:
        """(pre, post) of every synapse, a convolution's too: for small networks."""
        into = self.incoming
        if into.taps is None:
            return into.pre, np.repeat(np.arange(into.n_post), np.diff(into.indptr))
        shape = self.source_shape, self.target_shape
        matrix = unroll(into.projection, *shape).tocoo()
        return matrix.row, matrix.col

    def reach(self, neurons: np.ndarray) -> np.ndarray:
        """The pre neurons with a synapse onto these post neurons, in no order."""
        into = self.incoming
        if self.full and len(neurons):
            return np.arange(into.n_pre, dtype=np.int32)
        if into.taps is not None:
            self.stamp += 1
        n = self._reach(neurons)
        if into.dead_pre is not None:
            found = self.reached[:n]
            return found[~into.dead_pre[found]]
        return self.reached[:n].copy()

    def least_bits(self, chip: Chip, most: int) -> tuple[float, float]:
        """Fewest bits of this projection's synapses over all placements with at most `most` post neurons on a core, and the
        cores that they take at least."""
        bits, cores = self._least_bits(chip, most), 0.0
        if self.shared is not None:
            indexed, cores = bounds.indexed_bits(chip, self.shared, self.plain, most)
            bits = max(bits, indexed)
        return bits, max(cores, bits / chip.memory_bits_per_core)

    def _least_bits(self, chip: Chip, most: int) -> float:
        into = self.incoming
        if into.taps is not None and self.share == 2:
            channels = into.dead()[1].reshape(len(self.kernel_bits), -1)
            return float(self.kernel_bits[~channels.all(axis=1)].sum())
        if self.full:
            return into.n_post * min(self.full_bits(n) / n for n in range(1, most + 1))
        if into.taps is None and self.atoms > 1:
            bare, indexed = (
                memory.least_bits_per_synapse(chip, self.plain + width)
                for width in (0, packing.index_width(0, self.widths))
            )
            return bounds.grouped_bits(into, self.group, self.group_atoms, bare, indexed)
        if into.taps is None or self.share == 0:
            axons = np.bincount(self.group, weights=self.out_degrees, minlength=self.groups)
            return bounds.least_bits(chip, self.plain, axons.astype(np.int64))
        # A stored list holds one vector of weights (over the channels of an axon) per rank, so every vector of weights
        # that differs from the others is stored at least once.
        used = _used(self.axon_taps, into.geometry)
        if into.masked:
            dead = into.dead()[1]
            used = packing.used_taps(self.axon_indptr, self.axon_taps, into.geometry, self.masks, dead)
        _, once = np.unique(self.tap_word[used], return_index=True)
        return float(memory.least_bits_per_synapse(chip, self.plain) * self.axon_taps[used][once, 3].sum())


def _axon_taps(incoming: Incoming, atoms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A convolution's taps with the channels of an axon taken together: (taps, indptr, words) for `measure_taps`.

    A word is the same exactly where the weights over the axon's channels are (but for chance hits of 64-bit hashes).
    """
    taps = incoming.taps
    assert taps is not None
    lowest = int(taps[:, 3].min(initial=0))
    channels = min(atoms, int(taps[:, 0].max(initial=0)) + 1)
    words = packing.random_words(channels + int(taps[:, 3].max(initial=0)) - lowest + 1, 2)
    return packing.group_taps(incoming.indptr, taps, atoms, words[:channels], words[channels:], lowest)


def _masks(
    incoming: Incoming, axon_taps: np.ndarray, atoms: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dead pre neurons, channel_ptr, channels) for `measure_taps`: the taps of `_axon_taps` stand for so many channels each. Empty where no
    pre neuron is dead."""
    taps = incoming.taps
    assert taps is not None
    if incoming.dead_pre is None:
        return np.zeros(0, np.bool_), np.zeros(1, np.int64), np.zeros(0, np.int64)
    out = np.repeat(np.arange(len(incoming.indptr) - 1), np.diff(incoming.indptr))
    order = np.lexsort((taps[:, 2], taps[:, 1], taps[:, 0] // atoms, out))
    channel_ptr = np.concatenate([[0], np.cumsum(axon_taps[:, 3])]).astype(np.int64)
    return incoming.dead_pre, channel_ptr, np.ascontiguousarray(taps[order, 0])


class _Hears(NamedTuple):
    """Which inputs the output channels of a convolution hear; see `packing.reach_taps`."""

    kind: np.ndarray
    cell_ptr: np.ndarray
    cells: np.ndarray
    list_ptr: np.ndarray
    channels: np.ndarray


def _hears(incoming: Incoming) -> _Hears:
    assert incoming.taps is not None
    where = np.ascontiguousarray(incoming.taps[:, :3])
    kinds: dict[bytes, int] = {}
    lists: dict[bytes, int] = {}
    kind, cell_ptr = [], [0]
    cells: list[tuple[int, int, int]] = []
    parts: list[np.ndarray] = []
    for part in np.split(where, incoming.indptr[1:-1]):
        known = len(kinds)
        kind.append(kinds.setdefault(part.tobytes(), known))
        if len(kinds) == known:
            continue
        order = np.lexsort((part[:, 0], part[:, 2], part[:, 1]))
        part = part[order]
        starts = np.flatnonzero(np.any(np.diff(part[:, 1:], axis=0, prepend=-1), axis=1))
        for first, last in itertools.pairwise([*starts, len(part)]):
            channels = np.ascontiguousarray(part[first:last, 0])
            number = lists.setdefault(channels.tobytes(), len(lists))
            if number == len(parts):
                parts.append(channels)
            cells.append((part[first, 1], part[first, 2], number))
        cell_ptr.append(len(cells))
    return _Hears(
        np.array(kind, dtype=np.int64),
        np.array(cell_ptr, dtype=np.int64),
        np.array(cells, dtype=np.int64).reshape(-1, 3),
        np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64),
        np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64),
    )


def _used(taps: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Which taps meet at least one input pixel for at least one output position."""
    h_in, w_in, h_out, w_out, s_y, s_x, p_y, p_x, d_y, d_x = geometry
    y = np.arange(h_out) * s_y - p_y + taps[:, 1:2] * d_y
    x = np.arange(w_out) * s_x - p_x + taps[:, 2:3] * d_x
    return np.any((y >= 0) & (y < h_in), axis=1) & np.any((x >= 0) & (x < w_in), axis=1)
