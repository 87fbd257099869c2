"""Which neuron sits on which core of a chip, so that every limit holds: fewest cores first, then fewest spikes
that cross from one core to another.

An input axon is a (projection, pre neuron, core) with at least one synapse there; an output axon the same, counted
on the core of the pre neuron. Where the chip shares convolution kernels, the channels of one position share an axon
(`Chip.population_axon_atoms`), which takes `Chip.population_axon_slots` entries of the outgoing table, and axons whose
synapses differ only by a shift store them once per core, as far as their offsets reach (`Chip.axon_offsets`); the pre
neurons of a dense projection share axons as `Chip.dense_axon_atoms` says. A core's memory is that of `hardware.memory`. A
spike of a neuron with targets on k other cores crosses k times (a hyperedge, as in Ronzani and Silvano, arXiv 2601.16118);
inputs sit on no core, so each of theirs crosses to every core that listens.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardware import _packing as packing
from hardware import bounds, hypergraph, memory
from hardware.chips import Chip, load_chip
from hardware.connectivity import Incoming, by_post, in_degrees, out_degrees, shapes
from hardware.errors import HardwareError
from hardware.mixing import best_mix
from hardware.network import ConvProjection, DenseProjection, Network
from hardware.orders import Order, grown_order, spatial_orders

STRATEGIES = ("best", "sequential", "greedy", "hypergraph")

# Synapses that a search may look at: about a second on one core of 2024.
EFFORT = 2e8
# Large networks are looked at a few times more, that a search gets beyond its first placement.
LOOKS = 5.0
# Growing cores along synapses may look at each this often, beyond the search's effort: it is what finds neighbours in a
# network whose numbers do not tell them.
GROWTH_LOOKS = 30.0
# The share of a core's memory that growing leaves free where outgoing axons take memory: how many there are shows only when
# all cores are grown, and filling again is slow.
GROWTH_SPARE = 0.04
# Orders of a population are looked at where a core holds that share of what the best of them puts on it.
GOOD_SHARE = 0.5
# The share of the effort that may be spent until there are fewer cores, the rest goes to fewer crossing spikes.
SEARCH_CORES = 0.75
# A search ends after that many changes of its plan in a row that were of no use.
PATIENCE = 400
# A trial's fixed cost, in synapses looked at.
VISITS_PER_CALL = 5000.0
# A bound counts the pre neurons that post neurons share where they are joined by less than that share of all pairs, so that
# indices may take less than the gaps of lists without, and where it looks at no more synapses than a search does.
SPARSE = 0.6
# A hypergraph partitioner's cost for each synapse, in synapses looked at: 50 microseconds.
VISITS_PER_PIN = 1e4

Rates = Mapping[str, float | np.ndarray]


@dataclass(frozen=True)
class Broken:
    """A limit that does not hold: of core `core`, or of all cores together. used and allowed in the unit of the chip file.

    where: "core 3", "chip", or "network" where `max_cores` says how many cores there are.
    """

    limit: str
    where: str
    used: float
    allowed: float
    core: int | None = None

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.limit} {self.used:g} > {self.allowed:g} ({self.used - self.allowed:g} over)"
        )


@dataclass(frozen=True)
class Placement:
    """Every neuron's core, and how full the cores are.

    core_of: per population the core of each neuron, int32 in C order. number_of: per population each neuron's
    number among its population's neurons on that core (which decides index bits and shared kernels).
    Arrays `*_per_core` are int64 (cores,). crossing_spikes: spikes from core to core in the unit of the firing
    rates, or per step with every neuron firing where none were given.
    lower_bound: cores that no placement can undercut. full: per resource, its sum over the cores divided by
    what these cores can hold. chips: chips of `chip.cores` cores that these cores take.
    fits: whether all limits hold, the number of cores among them; broken: those that do not.
    strategy: which one found it.
    """

    chip: Chip
    cores: int
    lower_bound: int
    fits: bool
    broken: tuple[Broken, ...]
    core_of: dict[str, np.ndarray]
    number_of: dict[str, np.ndarray]
    synapses_per_core: np.ndarray
    neurons_per_core: np.ndarray
    memory_bits_per_core: np.ndarray
    axons_in_per_core: np.ndarray
    axons_out_per_core: np.ndarray
    crossing_spikes: float
    full: dict[str, float]
    strategy: str

    @property
    def synapses(self) -> int:
        return int(self.synapses_per_core.sum())

    @property
    def chips(self) -> int:
        return 1 if math.isinf(self.chip.cores) else math.ceil(self.cores / self.chip.cores)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, ready for JSON."""
        return {
            "chip": self.chip.name,
            "strategy": self.strategy,
            "cores": self.cores,
            "chips": self.chips,
            "lower_bound": self.lower_bound,
            "fits": self.fits,
            "broken": [str(broken) for broken in self.broken],
            "synapses": self.synapses,
            "synapses_per_core": self.synapses_per_core.tolist(),
            "neurons_per_core": self.neurons_per_core.tolist(),
            "memory_bits_per_core": self.memory_bits_per_core.tolist(),
            "axons_in_per_core": self.axons_in_per_core.tolist(),
            "axons_out_per_core": self.axons_out_per_core.tolist(),
            "crossing_spikes": self.crossing_spikes,
            "full": dict(self.full),
        }


def place(
    network: Network,
    chip: Chip | str | Path,
    strategy: str = "best",
    effort: float = EFFORT,
    firing_rates: Rates | None = None,
    max_cores: int | None = None,
    seed: int = 0,
    max_synapses_per_core: float | None = None,
) -> Placement:
    """Split the populations of `network` over the cores of `chip`.

    strategy: "sequential" (neurons in C order, a new core when one is full), "greedy" (neighbourhood orders, shared cores,
        populations mixed so that a core's resources run out together, and a local search over which order each population
        takes, when, and over how many cores), "hypergraph" (sparse
        populations cut by mtkahypar, the `placement` extra, and placed so), or "best": all of them, fewest cores first, then fewest crossing spikes; without mtkahypar where it is not
        installed or the effort is too little for it.
    effort: synapses looked at in trials, beyond five looks at each of the network's (and thirty for growing cores along
        synapses), after which no further attempt begins; the default takes about a second. The result is the same for the
        same arguments on every machine, which a limit in seconds would not give.
    firing_rates: spikes of each neuron (scalar or array) per population and input, missing ones 1.
    seed: of the hypergraph partitioner and of the search. max_synapses_per_core: of two placements the one that keeps to it is
        taken, whatever its cores; it is no limit of the chip and none that `fits` knows.
    max_cores: the budget; the chip's cores where None. A network that needs more is placed all the same, with `fits` False.

    Raises HardwareError: an empty network, max_cores below 1, an unknown strategy, shapes that do not fit together, a neuron
    that alone exceeds a core (named, with the number).
    """
    chip = chip if isinstance(chip, Chip) else load_chip(chip)
    if strategy not in STRATEGIES:
        raise HardwareError(f"placement strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    if max_cores is not None and max_cores < 1:
        raise HardwareError(f"max_cores is {max_cores}; expected at least 1")
    problem = _Problem(network, chip, _rates(network, firing_rates))
    if max_synapses_per_core is not None:
        problem.most_synapses = max_synapses_per_core
    bound = _lower_bound(problem)
    limit = effort + LOOKS * sum(wire.incoming.synapses for wire in problem.wires)
    return _search(problem, strategy, limit, bound, max_cores, seed)


def lower_bound(network: Network, chip: Chip | str | Path) -> int:
    """Cores that no placement can undercut: the largest of the resource sums over a core's capacity, or those of one population.

    Sums that every placement must spend: neurons; bits, where each pre neuron's synapses are cut as luckily as can be and
    stored without indices (each distinct part of a shared kernel once), or with them where too few pre neurons are shared
    (`hardware.bounds`); axons, where a population needs at least as many cores as its neurons fill, each with at least the
    smallest fan-in of its neurons.
    """
    chip = chip if isinstance(chip, Chip) else load_chip(chip)
    return _lower_bound(_Problem(network, chip, {}))


class _Problem:
    """A network made ready for placement: incoming synapses per population, axon groups, scratch arrays."""

    def __init__(self, network: Network, chip: Chip, rates: dict[str, np.ndarray]) -> None:
        self.chip = chip
        self.rates = rates
        self.shape = shapes(network)
        self.size = {name: math.prod(shape) for name, shape in self.shape.items()}
        self.names = [population.name for population in network.populations]
        if sum(self.size[name] for name in self.names) == 0:
            raise HardwareError("network without neurons; expected at least one population with a neuron")
        self.form = packing.form_of(chip)
        self.widths = np.array(chip.index_bits, dtype=np.int64)
        self.wires: list[_Wire] = []
        for projection in network.projections:
            for end in (projection.source, projection.target):
                if end not in self.shape:
                    raise HardwareError(
                        f"projection {projection.source!r} -> {projection.target!r}: no population {end!r}"
                    )
            incoming = by_post(projection, self.shape[projection.source], self.shape[projection.target])
            self.wires.append(_Wire(len(self.wires), incoming, chip, self.shape[projection.source]))
        self.into = {n: [w for w in self.wires if w.target == n] for n in self.names}
        self.shifted = {w.target for w in self.wires if w.share == 1 and w.incoming.taps is not None}
        self.out_of = {n: [w for w in self.wires if w.source == n] for n in self.size}
        # Synapses looked at so far in trials: what a search spends, counted and not timed.
        self.visits = 0.0
        self.most_synapses = math.inf
        self.visits_of_neuron = {n: 2.0 + sum(wire.visits for wire in self.into[n]) for n in self.names}
        limit = min(chip.neurons_per_core, 2 ** max(chip.index_bits))
        self.capacity = np.array(
            [limit, chip.memory_bits_per_core, chip.axons_in_per_core, chip.axons_out_per_core]
        )
        for wire in self.wires:
            wire.find_shared(int(min(self.size.get(wire.target, 0), self.capacity[0])))
        self.most = {name: self._most(name) for name in self.names}
        for wire in self.wires:
            wire.least_fan_out = wire.least_targets(self.most[wire.target])

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
        most = int(min(self.capacity[0], self.size[name]))
        for wire in self.into[name]:
            if wire.shared is not None:
                most = bounds.most_neurons(wire.shared, chip.axons_in_per_core, most)
            if wire.full and wire.groups <= chip.axons_in_per_core:
                low = 1
                while low < most:
                    middle = (low + most + 1) // 2
                    bits = wire.full_bits(middle, self.form, self.widths)
                    if memory.core_bits(chip, bits, middle, wire.groups, 0) <= chip.memory_bits_per_core:
                        low = middle
                    else:
                        most = middle - 1
        return max(1, most)

    def usage(self, name: str, neurons: np.ndarray, fan_out: Sequence[np.ndarray]) -> np.ndarray:
        """[neurons, bits, axons in, axons out] that a core spends on `neurons` of population `name`, `numbered`.

        fan_out: per wire the assumed number of target cores of each axon group.
        """
        chip = self.chip
        self.visits += VISITS_PER_CALL + len(neurons) * self.visits_of_neuron[name]
        neurons = self.numbered(name, neurons)
        bits = axons_in = axons_out = 0
        for wire in self.into[name]:
            more, axons, _, _ = wire.measure(neurons, self.form, self.widths)
            bits += more
            axons_in += axons
        for wire in self.out_of[name]:
            axons_out += wire.slots * packing.sum_once(neurons, wire.group, fan_out[wire.number], wire.seen)
        total = memory.core_bits(chip, bits, len(neurons), axons_in, axons_out)
        return np.array([len(neurons), total, axons_in, axons_out], dtype=np.float64)


class _Wire:
    """One projection with its axons and scratch arrays. group: the axon of each pre neuron."""

    def __init__(self, number: int, incoming: Incoming, chip: Chip, source_shape: tuple[int, ...]) -> None:
        projection = incoming.projection
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
        self.group_atoms = np.bincount(self.group[self.out_degrees > 0], minlength=self.groups).astype(
            np.int64
        )
        self.slots = chip.population_axon_slots if self.group_atoms.max(initial=0) > 1 else 1
        self.full = incoming.taps is None and incoming.synapses == n_pre * incoming.n_post
        self.known_full_bits: dict[int, int] = {}
        self.shared: bounds.Shared | None = None
        self.lists = np.zeros((self.groups, 4), dtype=np.int32)
        self.touched = np.zeros(self.groups, dtype=np.int32)
        if self.full:
            self.touched[:] = np.arange(self.groups)
        self.seen = np.zeros(max(n_pre, self.groups), dtype=np.uint8)
        self.reached = np.zeros(n_pre, dtype=np.int32)
        if incoming.taps is not None:
            self.pattern = np.zeros(self.groups, dtype=np.uint64)
            self.rank_word = packing.random_words(incoming.n_post, 1)
            self.axon_taps, self.axon_indptr, self.tap_word = _axon_taps(incoming, self.atoms)
            self.kind = _kinds(incoming)
            self.done = np.zeros(
                (int(self.kind.max()) + 1) * (incoming.n_post // len(self.kind)), dtype=np.uint8
            )
        # What a look at one post neuron costs.
        if incoming.taps is not None:
            self.visits = len(self.axon_taps) / max(1, len(self.axon_indptr) - 1)
        else:
            self.visits = 0.0 if self.full else incoming.synapses / max(1, incoming.n_post)
        self.least_fan_out = self.least_targets(1)

    def measure(self, neurons: np.ndarray, form: np.ndarray, widths: np.ndarray) -> tuple[int, int, int, int]:
        """(bits, axons in, synapses, touched axons) of these post neurons on one core; see `_packing`."""
        into = self.incoming
        if self.full and len(neurons):
            return (
                self.full_bits(len(neurons), form, widths),
                self.groups,
                len(neurons) * into.n_pre,
                self.groups,
            )
        head = (neurons, self.plain, form, widths, self.lists, self.touched)
        if into.taps is not None:
            return packing.measure_taps(
                self.axon_indptr, self.axon_taps, into.geometry, self.share, *head, self.group_atoms,
                self.pattern, self.rank_word, self.tap_word, self.kernel_bits,
            )  # fmt: skip
        if self.atoms == 1:
            return packing.measure_rows(into.indptr, into.pre, *head)
        return packing.measure_groups(into.indptr, into.pre, *head, self.group, self.group_atoms)

    def find_shared(self, most: int) -> None:
        """Pre neurons that post neurons share, where a bound may gain by it."""
        into = self.incoming
        if (
            into.taps is None
            and self.atoms == 1
            and into.synapses < SPARSE * into.n_pre * into.n_post
            and bounds.shared_looks(into) <= EFFORT
        ):
            self.shared = bounds.shared_pre_neurons(into, most)

    def least_targets(self, most: int) -> np.ndarray:
        """Per axon how many cores it reaches at least, where none holds more than `most` post neurons."""
        degrees = np.zeros(self.groups, dtype=np.int64)
        np.maximum.at(degrees, self.group, self.out_degrees)
        return -(-degrees // most)

    def full_bits(self, neurons: int, form: np.ndarray, widths: np.ndarray) -> int:
        """Bits of every pre neuron onto `neurons` neurons: all lists of as many atoms are alike."""
        if neurons not in self.known_full_bits:
            width = packing.index_width(neurons - 1, widths)
            atoms, lists = np.unique(self.group_atoms, return_counts=True)
            each = [packing.axon_bits(a * neurons, a * neurons, self.plain, width, form) for a in atoms]
            self.known_full_bits[neurons] = int(np.dot(each, lists))
        return self.known_full_bits[neurons]

    def reach(self, neurons: np.ndarray) -> np.ndarray:
        """The pre neurons with a synapse onto these post neurons, in no order."""
        into = self.incoming
        if self.full and len(neurons):
            return np.arange(into.n_pre, dtype=np.int32)
        if into.taps is None:
            n = packing.reach_rows(into.indptr, into.pre, neurons, self.seen, self.reached)
        else:
            n = packing.reach_taps(
                into.indptr, into.taps, into.geometry, self.kind, neurons, self.done, self.seen, self.reached
            )
        return self.reached[:n].copy()

    def least_bits(self, chip: Chip, most: int, form: np.ndarray, widths: np.ndarray) -> tuple[float, float]:
        """Fewest bits of this projection's synapses over all placements with at most `most` post neurons on a core, and the
        cores that they take at least."""
        bits, cores = self._least_bits(chip, most, form, widths), 0.0
        if self.shared is not None:
            indexed, cores = bounds.indexed_bits(chip, self.shared, self.plain, most)
            bits = max(bits, indexed)
        return bits, max(cores, bits / chip.memory_bits_per_core)

    def _least_bits(self, chip: Chip, most: int, form: np.ndarray, widths: np.ndarray) -> float:
        into = self.incoming
        if into.taps is not None and self.share == 2:
            return float(self.kernel_bits.sum())
        if self.full:
            return into.n_post * min(self.full_bits(n, form, widths) / n for n in range(1, most + 1))
        if into.taps is None and self.atoms > 1:
            bare, indexed = (
                memory.least_bits_per_synapse(chip, self.plain + width)
                for width in (0, packing.index_width(0, widths))
            )
            return bounds.grouped_bits(into, self.group, self.group_atoms, bare, indexed)
        if into.taps is None or self.share == 0:
            axons = np.bincount(self.group, weights=self.out_degrees, minlength=self.groups)
            return bounds.least_bits(chip, self.plain, axons.astype(np.int64))
        # A stored list holds one vector of weights (over the channels of an axon) per rank, so every vector of weights
        # that differs from the others is stored at least once.
        used = _used(self.axon_taps, into.geometry)
        _, once = np.unique(self.tap_word[used], return_index=True)
        return float(memory.least_bits_per_synapse(chip, self.plain) * self.axon_taps[used][once, 3].sum())


def _axon_taps(incoming: Incoming, atoms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A convolution's taps with the channels of an axon taken together: (taps, indptr, words) for `measure_taps`.

    A word is the same exactly where the weights over the axon's channels are (but for chance hits of 64-bit hashes).
    """
    taps = incoming.taps
    assert taps is not None
    out = np.repeat(np.arange(len(incoming.indptr) - 1), np.diff(incoming.indptr))
    keys = np.stack([out, taps[:, 0] // atoms, taps[:, 1], taps[:, 2]], axis=1)
    _, first, tap, sizes = np.unique(
        _pack_rows(keys), return_index=True, return_inverse=True, return_counts=True
    )
    grouped = np.column_stack([keys[first][:, 1:], sizes]).astype(np.int64).reshape(-1, 4)
    indptr = np.zeros(len(incoming.indptr), dtype=np.int64)
    np.cumsum(np.bincount(keys[first][:, 0], minlength=len(indptr) - 1), out=indptr[1:])
    _, channel = np.unique(taps[:, 0] % atoms, return_inverse=True)
    _, weight = np.unique(taps[:, 3], return_inverse=True)
    words = packing.random_words(2 * len(taps) + 2, 2)
    word = np.zeros(len(sizes), dtype=np.uint64)
    np.add.at(word, tap.ravel(), words[channel.ravel()] * words[len(taps) + weight.ravel()])
    return grouped, indptr, word


def _kinds(incoming: Incoming) -> np.ndarray:
    """A number per output channel, the same for channels with taps at the same inputs."""
    assert incoming.taps is not None
    cells = np.ascontiguousarray(incoming.taps[:, :3])
    known: dict[bytes, int] = {}
    parts = np.split(cells, incoming.indptr[1:-1])
    return np.array([known.setdefault(part.tobytes(), len(known)) for part in parts], dtype=np.int64)


def _used(taps: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """Which taps meet at least one input pixel for at least one output position."""
    h_in, w_in, h_out, w_out, s_y, s_x, p_y, p_x, d_y, d_x = geometry
    y = np.arange(h_out) * s_y - p_y + taps[:, 1:2] * d_y
    x = np.arange(w_out) * s_x - p_x + taps[:, 2:3] * d_x
    return np.any((y >= 0) & (y < h_in), axis=1) & np.any((x >= 0) & (x < w_in), axis=1)


def _pack_rows(rows: np.ndarray) -> np.ndarray:
    """One int64 per row of small non-negative integers, equal exactly where the rows are."""
    code = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        code = code * (int(column.max(initial=0)) + 1) + column
    return code


# A core's content: (population, neurons in the order in which they were put there).
Segment = tuple[str, np.ndarray]
# A population, the order its neurons are handed out in, and over how many cores they are spread evenly (0: fill up).
Plan = tuple[str, Order, int]
FanOut = Sequence[np.ndarray]


class Draft(NamedTuple):
    """What a search changes. parts: per population, in the order they are placed: (name, which of its orders, over how many
    cores it is spread). mixed: core by core whatever fills it best instead, in any order and unspread."""

    parts: tuple[tuple[str, int, int], ...]
    mixed: bool = False


class _Cores:
    """Cores being filled."""

    def __init__(self, problem: _Problem, fan_out: FanOut, most: float) -> None:
        self.problem = problem
        self.fan_out = fan_out
        self.most = most
        self.room: list[np.ndarray] = []
        self.content: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []

    def open(self) -> bool:
        if len(self.room) >= self.most:
            return False
        self.room.append(self.problem.capacity.copy())
        self.content.append({})
        return True

    def put_units(self, core: int, name: str, order: Order, start: int, guess: int = 0) -> int:
        """Put as many of order.neurons[start:] on `core` as its room allows; how many they were.

        Whole units where one fits, else part of a unit.
        """
        neurons = order.neurons[start:]
        if order.unit == 1 or name in self.content[core]:
            return self.put(core, name, neurons, guess)
        unit = min(len(neurons), order.unit - start % order.unit)
        room = self.room[core]
        if unit > room[0]:
            return self.put(core, name, neurons, guess)
        # Units in the first `good` fit, in the first `bad` do not: gallop from the last core's number, then bisect.
        units = -(-(len(neurons) - unit) // order.unit) + 1
        good, bad, usage = 0, units + 1, np.zeros(4)
        trial, step = max(1, min(units, guess // order.unit)), 1
        while bad - good > 1:
            used = self.problem.usage(name, neurons[: unit + (trial - 1) * order.unit], self.fan_out)
            if np.any(used > room):
                bad, step = trial, 1
                trial = max(good + 1, min((good + bad) // 2, trial - 1))
            else:
                good, usage = trial, used
                trial = min(good + step if bad > units else (good + bad) // 2, bad - 1)
                step *= 2
        if good == 0:
            return 0 if self.content[core] else self.put(core, name, neurons[:unit], guess)
        number = min(len(neurons), unit + (good - 1) * order.unit)
        self.room[core] = room - usage
        self.content[core][name] = (neurons[:number], usage)
        return number

    def put(self, core: int, name: str, neurons: np.ndarray, guess: int = 0) -> int:
        """Put as many of `neurons`, from the front, on `core` as its room allows; how many they were."""
        room = self.room[core]
        number = int(min(room[0], len(neurons)))
        if number < 1:
            return 0
        old, old_usage = self.content[core].get(name, (neurons[:0], np.zeros(4)))
        candidates = np.concatenate([old, neurons[:number]]) if len(old) else neurons[:number]
        total, usage = self._prefix(name, candidates, room + old_usage, len(old), len(old) + guess)
        if total <= len(old):
            return 0
        self.room[core] = room + old_usage - usage
        self.content[core][name] = (candidates[:total], usage)
        return total - len(old)

    def _prefix(
        self, name: str, neurons: np.ndarray, room: np.ndarray, good: int, guess: int
    ) -> tuple[int, np.ndarray]:
        """The longest front part of `neurons` that fits in `room`, at least the first `good`: gallop, then bisect."""
        good_usage = np.zeros(4)
        bad = len(neurons) + 1
        if good == 0 and room[0] < self.problem.capacity[0]:
            good_usage = self.problem.usage(name, neurons[:1], self.fan_out)
            if np.any(good_usage > room):
                return 0, good_usage
            good = 1
        trial = guess if good < guess < bad else len(neurons)
        step = 1
        while bad - good > 1:
            usage = self.problem.usage(name, neurons[:trial], self.fan_out)
            if np.all(usage <= room):
                good, good_usage = trial, usage
                trial = good + step if bad > len(neurons) else (good + bad) // 2
                trial = min(trial, bad - 1)
                step *= 4
            else:
                bad = trial
                share = min(r / u for r, u in zip(room, usage, strict=True) if u > 0)
                trial = max(good + 1, min(bad - 1, int(bad * share)))
                if step > 1 or trial == good + 1:
                    trial = (good + bad) // 2
                step = 4
        return good, good_usage

    def segments(self) -> list[list[Segment]]:
        return [[(name, neurons) for name, (neurons, _) in content.items()] for content in self.content]


def _fill(
    problem: _Problem,
    plans: Sequence[Plan],
    fan_out: FanOut,
    most: float = math.inf,
    revisit: bool = True,
    limit: float = math.inf,
) -> list[list[Segment]] | None:
    """Hand out all populations, plan by plan; None where `most` cores or the time do not suffice, or a neuron sends to more
    cores than one of its own lets it.

    revisit: whether a population may use room left on any core, or only on the last.
    """
    cores = _Cores(problem, fan_out, most)
    left = sum(len(order.neurons) for _, order, _ in plans)
    if left > most * problem.capacity[0]:
        return None
    for name, order, spread in plans:
        if order.ends is not None:
            order = Order(_put_parts(cores, name, order.parts()))
        elif spread:
            order = Order(_spread(cores, name, order.neurons, spread))
        start = 0
        core = 0 if revisit else max(0, len(cores.room) - 1)
        guess = 0
        while start < len(order.neurons):
            fresh = core == len(cores.room)
            if (fresh and not cores.open()) or problem.visits > limit:
                return None
            number = cores.put_units(core, name, order, start, guess)
            if fresh and number == 0:
                _check_possible(problem, name, int(order.neurons[start]))
                return None
            start += number
            guess = number or guess
            core += 1
    return cores.segments()


def _fill_mixed(
    problem: _Problem, plans: Sequence[Plan], fan_out: FanOut, most: float, limit: float
) -> list[list[Segment]] | None:
    """Core by core the one or two populations that make most of it, where what is scarce over all that is left is worth most
    (the dot-product rule of vector bin packing; Panigrahy et al. 2011), and what else finds room; None as in `_fill`."""
    names, orders = [name for name, _, _ in plans], [order for _, order, _ in plans]
    finite = np.isfinite(problem.capacity)
    demands = [_demand(problem, name, order, fan_out) for name, order in zip(names, orders, strict=True)]
    one, many = (np.stack(part)[:, finite] for part in list(zip(*demands, strict=True))[:2])
    held = np.array([demand[2] for demand in demands], dtype=np.float64)[:, None]
    slope = np.where(held > 1, (many - one) / np.maximum(1, held - 1), one)
    fixed = np.maximum(0.0, one - slope)
    # A neuron's part of a core that its population fills alone, counted as full where that is fullest.
    each = many / (held * many.max(axis=1, keepdims=True))
    start, size = [0] * len(plans), [len(order.neurons) for order in orders]
    guess = [0] * len(plans)
    cores = _Cores(problem, fan_out, most)
    while start != size:
        if not cores.open() or problem.visits > limit:
            return None
        problem.visits += VISITS_PER_CALL
        core = len(cores.room) - 1
        left = [whole - begun for whole, begun in zip(size, start, strict=True)]
        mix = best_mix(fixed, slope, each @ (left @ each), np.array(left, dtype=np.float64))
        # The one whose neurons are largest first, since the others fit in what it leaves.
        mix.sort(key=lambda part: -slope[part[0]].max())
        planned = {p: max(1, round(number)) for p, number in mix[:-1]}
        for p in [*(p for p, _ in mix), *(p for p in range(len(plans)) if p not in dict(mix))]:
            room = cores.room[core][finite] / problem.capacity[finite]
            if p not in dict(mix) and np.any(fixed[p] + slope[p] > room):
                continue
            part = Order(orders[p].neurons[: start[p] + planned.get(p, left[p])], orders[p].unit)
            put = cores.put_units(core, names[p], part, start[p], guess[p])
            start[p] += put
            guess[p] = put or guess[p]
        if not cores.content[core]:
            for p in range(len(plans)):
                if left[p]:
                    _check_possible(problem, names[p], int(orders[p].neurons[start[p]]))
            return None
    return cores.segments()


def _demand(
    problem: _Problem, name: str, order: Order, fan_out: FanOut
) -> tuple[np.ndarray, np.ndarray, int]:
    """Shares of an empty core that one neuron takes, and that as many as it holds from the middle of the order, and how
    many those are."""
    cores = _Cores(problem, fan_out, 1)
    cores.open()
    held = max(1, cores.put_units(0, name, order, order.middle()))
    middle = order.neurons[order.middle() :]
    one = problem.usage(name, middle[:1], fan_out)
    many = problem.usage(name, middle[:held], fan_out)
    return one / problem.capacity, many / problem.capacity, held


def _put_parts(cores: _Cores, name: str, parts: list[np.ndarray]) -> np.ndarray:
    """Each part on the first core that has room for all of it, or on a new one; what did not fit."""
    left = [parts[0][:0]]
    others = [core for core, content in enumerate(cores.content) if name not in content]
    for part in parts:
        usage = cores.problem.usage(name, part, cores.fan_out)
        for core in others:
            if np.all(usage <= cores.room[core]):
                cores.room[core] = cores.room[core] - usage
                cores.content[core][name] = (part, usage)
                others.remove(core)
                break
        else:
            number = cores.put(len(cores.room) - 1, name, part) if cores.open() else 0
            left.append(part[number:])
    return np.concatenate(left)


def _spread(cores: _Cores, name: str, order: np.ndarray, spread: int) -> np.ndarray:
    """Share `order` out evenly over the `spread` cores with the most room; what did not fit."""
    while len(cores.room) < spread and cores.open():
        pass
    capacity = cores.problem.capacity
    finite = np.isfinite(capacity)
    emptiest = sorted(
        range(len(cores.room)), key=lambda c: (-float(np.min(cores.room[c][finite] / capacity[finite])), c)
    )
    chosen = sorted(emptiest[:spread])
    left = []
    for core, chunk in zip(chosen, np.array_split(order, len(chosen)), strict=True):
        left.append(chunk[cores.put(core, name, chunk) :])
    return np.concatenate(left)


def _check_possible(problem: _Problem, name: str, neuron: int) -> None:
    """Raises HardwareError with the limit that one neuron breaks on a core of its own, however others are placed."""
    chip = problem.chip
    fan_out = problem.least_fan_out()
    used = problem.usage(name, np.array([neuron], dtype=np.int32), fan_out)
    fan_in = sum(
        w.measure(np.array([neuron], dtype=np.int32), problem.form, problem.widths)[2]
        for w in problem.into[name]
    )
    labels = ("neurons", "bits of memory", "incoming axons", "outgoing axons")
    for label, need, room in zip(labels, used, problem.capacity, strict=True):
        if need > room:
            raise HardwareError(
                f"population {name!r}, neuron {neuron}: its {fan_in} synapses alone take {need:g} {label}; "
                f"a core of {chip.name} has {room:g}"
            )


@dataclass
class _Found:
    """A filled set of cores, measured exactly. targets: per wire the number of cores each axon group reaches."""

    segments: list[list[Segment]]
    core_of: dict[str, np.ndarray]
    synapses: np.ndarray
    neurons: np.ndarray
    bits: np.ndarray
    axons_in: np.ndarray
    axons_out: np.ndarray
    crossing: float
    targets: list[np.ndarray]
    strategy: str = ""
    broken: list[Broken] = field(default_factory=list)
    too_many: bool = False

    def rank(self) -> tuple[bool, bool, int, float]:
        """Lower is better. too_many: a core holds more synapses than are wanted."""
        return (bool(self.broken), self.too_many, len(self.segments), self.crossing)


def _measure(problem: _Problem, segments: list[list[Segment]], strategy: str) -> _Found:
    """Exact counts of every core."""
    chip, n = problem.chip, len(segments)
    core_of = {name: np.full(size, -1, dtype=np.int32) for name, size in problem.size.items()}
    for core, content in enumerate(segments):
        for name, neurons in content:
            core_of[name][neurons] = core
    synapses, neurons_on, synapse_bits, axons_in, axons_out = (np.zeros(n, dtype=np.int64) for _ in range(5))
    targets = [np.zeros(wire.groups, dtype=np.int64) for wire in problem.wires]
    outgoing = {
        w.number: _outgoing(w, core_of[w.source], n) for w in problem.wires if w.source in problem.into
    }
    crossing = 0.0
    for core, content in enumerate(segments):
        heard: dict[str, list[np.ndarray]] = {}
        for name, neurons in content:
            problem.visits += VISITS_PER_CALL + 2 * len(neurons) * problem.visits_of_neuron[name]
            neurons_on[core] += len(neurons)
            numbered = problem.numbered(name, neurons)
            for wire in problem.into[name]:
                bits, axons, number, reached = wire.measure(numbered, problem.form, problem.widths)
                synapse_bits[core] += bits
                axons_in[core] += axons
                synapses[core] += number
                targets[wire.number][wire.touched[:reached]] += 1
                pre = wire.reach(neurons)
                if wire.source in problem.into:
                    packing.count_once(pre, *outgoing[wire.number], wire.slots, axons_out)
                heard.setdefault(wire.source, []).append(pre)
        for source, lists in heard.items():
            pre = lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists))
            away = pre[core_of[source][pre] != core]
            crossing += (
                float(problem.rates[source][away].sum()) if source in problem.rates else float(len(away))
            )
    memory_bits = (
        synapse_bits
        + neurons_on * chip.neuron_state_bits
        + axons_in * chip.axon_in_bits
        + axons_out * chip.axon_out_bits
    )
    found = _Found(
        segments, core_of, synapses, neurons_on, memory_bits, axons_in, axons_out, crossing, targets, strategy
    )
    found.too_many = bool(synapses.max() > problem.most_synapses)
    for label, used in _resources(found).items():
        allowed = getattr(chip, label)
        found.broken += [
            Broken(label, f"core {c}", int(used[c]), allowed, int(c)) for c in np.flatnonzero(used > allowed)
        ]
    return found


def _outgoing(wire: _Wire, home: np.ndarray, cores: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outgoing axons of a wire's pre neurons on the cores `home`: (the axon of each, the core of each axon, scratch)."""
    if wire.atoms == 1:
        return np.arange(len(home), dtype=np.int32), home, np.zeros(len(home), dtype=np.uint8)
    pairs, axon = np.unique(wire.group.astype(np.int64) * cores + home, return_inverse=True)
    return axon.astype(np.int32), (pairs % cores).astype(np.int32), np.zeros(len(pairs), dtype=np.uint8)


def _resources(found: _Found) -> dict[str, np.ndarray]:
    return {
        "neurons_per_core": found.neurons,
        "memory_bits_per_core": found.bits,
        "axons_in_per_core": found.axons_in,
        "axons_out_per_core": found.axons_out,
    }


def _settle(
    problem: _Problem, attempt: Callable[[FanOut], list[list[Segment]] | None], strategy: str
) -> _Found | None:
    """Fill, measure, and fill again while cores send to more cores than was assumed when they were filled."""
    fan_out = problem.least_fan_out()
    found = None
    for extra in (0, 0, 0, 1, 2, 4, 8):
        if extra == 1 and found is not None:
            halved = _halve(problem, found)
            if halved is not None:
                return halved
        segments = attempt(fan_out)
        if segments is None:
            return found
        found = _measure(problem, segments, strategy)
        if not found.broken:
            return found
        fan_out = [np.maximum(a, b + extra) for a, b in zip(fan_out, found.targets, strict=True)]
    return found


def _halve(problem: _Problem, found: _Found) -> _Found | None:
    """Cut the cores that break a limit in two, and those that break one by that; None where a twentieth more cores do not
    suffice.

    A core in a network that talks to itself gains little from giving up a few neurons, which its others then have to reach
    outside: only cores much smaller send less.
    """
    most = 1.05 * len(found.segments)
    while found.broken:
        over = {broken.core for broken in found.broken}
        if len(found.segments) + len(over) > most:
            return None
        segments: list[list[Segment]] = []
        for core, content in enumerate(found.segments):
            if core not in over:
                segments.append(content)
                continue
            cuts = [np.array_split(neurons, 2) for _, neurons in content]
            for half in (0, 1):
                part = [
                    (name, cut[half]) for (name, _), cut in zip(content, cuts, strict=True) if len(cut[half])
                ]
                segments += [part] if part else []
        if len(segments) == len(found.segments):
            return None
        found = _measure(problem, segments, found.strategy)
    return found


def _search(
    problem: _Problem, strategy: str, limit: float, bound: int, max_cores: int | None, seed: int
) -> Placement:
    natural = {
        name: Order(np.arange(problem.size[name], dtype=np.int32), problem.unit(name))
        for name in problem.names
        if problem.size[name]
    }
    best: _Found | None = None
    if strategy in ("best", "greedy", "hypergraph"):
        best = _greedy(problem, natural, limit, bound, seed)
    if strategy in ("best", "hypergraph"):
        assert best is not None
        best = _hypergraph(problem, natural, limit, bound, seed, best, always=strategy == "hypergraph")
    if strategy == "sequential" or (strategy == "best" and problem.visits < limit):
        plans: list[Plan] = [(name, order, 0) for name, order in natural.items()]
        most_visits = math.inf if best is None else limit
        found = _settle(
            problem,
            lambda fan_out: _fill(problem, plans, fan_out, revisit=False, limit=most_visits),
            "sequential",
        )
        if found is not None and (best is None or found.rank() < best.rank()):
            best = found
    assert best is not None
    return _placement(problem, best, bound, max_cores)


def _greedy(problem: _Problem, natural: dict[str, Order], limit: float, bound: int, seed: int) -> _Found:
    """Neighbours together, room on any core used, then better and better plans."""
    choices = _scored_orders(problem, natural, limit)
    heavy = _heaviest_first(problem, natural)
    # First fit in the network's order, or the populations first of which a core holds fewest neurons, or what the heaviest
    # one leaves of its cores filled up with the lightest.
    topped_up = heavy[:1] + heavy[:0:-1]
    best: _Found | None = None
    chosen = Draft(())
    tried: set[Draft] = set()
    kinds = [(list(natural), False), (list(natural), True), (heavy, False), (topped_up, False)]
    for choice, (names, mixed) in itertools.product(range(3), kinds):
        # One population, or one order, makes some of these alike.
        parts = tuple((name, choices[name].index(choices[name][choice]), 0) for name in names)
        draft = Draft(parts, mixed and len(natural) > 1)
        until = math.inf if len(tried) < 2 else limit
        if draft not in tried and problem.visits < until:
            tried.add(draft)
            most = math.inf if best is None or best.broken else len(best.segments)
            found = _try(problem, choices, draft, most, until)
            if found is not None and (best is None or found.rank() < best.rank()):
                best, chosen = found, draft
    assert best is not None
    if best.broken:
        return best
    return _improved(problem, choices, chosen, best, limit, bound, seed)


def _try(
    problem: _Problem, choices: dict[str, list[Order]], draft: Draft, most: float, limit: float
) -> _Found | None:
    plans = [(name, choices[name][choice], spread) for name, choice, spread in draft.parts]
    if draft.mixed:
        return _settle(problem, lambda fan_out: _fill_mixed(problem, plans, fan_out, most, limit), "greedy")
    return _settle(problem, lambda fan_out: _fill(problem, plans, fan_out, most, limit=limit), "greedy")


def _improved(
    problem: _Problem,
    choices: dict[str, list[Order]],
    draft: Draft,
    best: _Found,
    limit: float,
    bound: int,
    seed: int,
) -> _Found:
    """A plan changed at random and kept where it is no worse, until enough changes in a row were of no use: first for fewer
    cores, then for fewer crossing spikes on as many.

    On as many cores, those filled as unevenly as can be are worth most: it takes little to empty one of them.
    """
    rng = random.Random(seed)
    chosen = draft
    goals: list[tuple[Callable[[_Found], float], int, float]] = [
        (lambda found: -_unevenness(problem, found), bound, SEARCH_CORES * limit),
        (lambda found: found.crossing, 1, limit),
    ]
    for cost, enough, until in goals:
        draft, found = chosen, best
        tried = {draft}
        idle = 0
        while idle < PATIENCE and problem.visits < until and len(best.segments) > enough:
            idle += 1
            other = _changed(draft, choices, len(best.segments), rng)
            if other in tried:
                continue
            tried.add(other)
            new = _try(problem, choices, other, len(best.segments), until)
            if new is None or new.broken:
                continue
            if new.rank() < best.rank():
                best, chosen = new, other
            ranks = [(len(f.segments), cost(f)) for f in (new, found)]
            if ranks[0] <= ranks[1]:
                idle = 0 if ranks[0] < ranks[1] else idle
                draft, found = other, new
    return best


def _changed(draft: Draft, choices: dict[str, list[Order]], cores: int, rng: random.Random) -> Draft:
    """One to three changes: a population in another order, earlier or later, or spread over some cores or no longer."""
    parts = list(draft.parts)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(parts))
        name, choice, spread = parts[at]
        kind = 0.0 if draft.mixed else rng.random()
        if kind < 0.35:
            parts[at] = (name, rng.randrange(len(choices[name])), spread)
        elif kind < 0.65:
            parts.insert(rng.randrange(len(parts)), parts.pop(at))
        elif spread and kind < 0.9:
            parts[at] = (name, choice, max(1, spread + rng.randint(-2, 2)))
        else:
            parts[at] = (name, choice, 0 if spread else rng.randint(1, cores))
    return Draft(tuple(parts), draft.mixed)


def _unevenness(problem: _Problem, found: _Found) -> float:
    """The mean square of how full cores are, each by its scarcest resource."""
    used = np.stack(list(_resources(found).values()), axis=1) / problem.capacity
    return float(np.mean(used.max(axis=1) ** 2))


def _hypergraph(
    problem: _Problem,
    natural: dict[str, Order],
    limit: float,
    bound: int,
    seed: int,
    best: _Found,
    always: bool,
) -> _Found:
    """Sparse populations cut by a hypergraph partitioner into as many cores as `best` needs for them, then into fewer.

    always: whether the effort is no limit to the first cut, and its placement is taken even where `best` is better.
    """
    wires = {}
    for name in natural:
        rows = [w for w in problem.into[name] if w.incoming.taps is None and not w.full]
        if rows and len(rows) == len(problem.into[name]):
            wires[name] = max(rows, key=lambda w: w.incoming.synapses)
    if always and not wires:
        raise HardwareError(
            "placement strategy 'hypergraph': the network has no population with sparse synapses alone; "
            "expected one, or strategy 'best'"
        )
    pins = sum(wire.incoming.synapses for wire in wires.values())
    share, chosen = 1.0, best
    first = always
    while wires and (first or (hypergraph.installed() and problem.visits + pins * VISITS_PER_PIN <= limit)):
        problem.visits += pins * VISITS_PER_PIN
        orders = dict(natural)
        for name, wire in wires.items():
            parts = max(1, int(share * len(np.unique(best.core_of[name]))))
            if parts > 1:
                rates = problem.rates.get(wire.source)
                orders[name] = hypergraph.partitioned_order(wire.incoming, parts, rates, seed)
        plans: list[Plan] = [(name, order, 0) for name, order in orders.items()]
        found = _settle(problem, lambda fan_out: _fill(problem, plans, fan_out), "hypergraph")  # noqa: B023
        assert found is not None
        better = found.rank() < chosen.rank()
        if better or first:
            chosen = found
        first = False
        fewer = len(chosen.segments) - 1
        if not better or fewer < bound:
            break
        share = fewer / len(best.segments)
    return chosen


def _heaviest_first(problem: _Problem, natural: dict[str, Order]) -> list[str]:
    """Populations by how much of a core's scarcest other resource one neuron takes, most first."""
    fan_out = problem.least_fan_out()
    weight = {}
    for name, order in natural.items():
        sample = order.neurons[: int(min(256, problem.capacity[0]))]
        usage = problem.usage(name, sample, fan_out) / problem.capacity
        weight[name] = float(usage[1:].max()) / len(sample)
    return sorted(natural, key=lambda name: -weight[name])


def _scored_orders(problem: _Problem, natural: dict[str, Order], limit: float) -> dict[str, list[Order]]:
    """Per population its orders, judged by what the first core holds: [close, lean, natural, others that may do].

    Close: most neurons, then fewest pre neurons heard for each. Lean: about as many neurons, then least of the core's
    scarcest other resource, so that other populations find room beside them.
    """
    fan_out = problem.least_fan_out()
    choices = {}
    for name, order in natural.items():
        candidates = [order, *spatial_orders(problem.shape[name], int(problem.capacity[0]))]
        rows = [w for w in problem.into[name] if w.incoming.taps is None and not w.full]
        if rows:
            heaviest = max(rows, key=lambda w: w.incoming.synapses)
            grown = _grown(problem, name, heaviest)
            candidates += [] if grown is None else [grown]
        scores = []
        for number, candidate in enumerate(candidates if len(candidates) > 1 else []):
            if number and problem.visits > limit:
                break
            held, share = _hold(problem, name, candidate, fan_out)
            if held:
                neurons = candidate.neurons[candidate.middle() :][:held]
                reached = sum(len(w.reach(neurons)) for w in problem.into[name])
                scores.append((held, reached / held, share / held, candidate))
        choices[name] = [order, order, order]
        if scores:
            most = max(held for held, *_ in scores)
            close = min(scores, key=lambda score: (-round(math.log(score[0]) * 50), score[1]))[-1]
            lean = min(
                (score for score in scores if score[0] > 0.9 * most), key=lambda score: (score[2], score[1])
            )[-1]
            others = [score[-1] for score in scores if score[0] > GOOD_SHARE * most]
            choices[name] = [close, lean, order, *(o for o in others if o not in (close, lean, order))]
    return choices


def _grown(problem: _Problem, name: str, wire: _Wire) -> Order | None:
    """Cores grown along the synapses of `wire`: once as if a core could be full of neurons, once with the index bits that
    the largest of these cores needs."""
    most, chip, best = problem.most[name], problem.chip, None
    left = GROWTH_LOOKS * wire.incoming.synapses
    while True:
        width = packing.index_width(most - 1, problem.widths)
        costs = np.array([wire.plain + width, chip.axon_in_bits + chip.axon_out_bits, chip.neuron_state_bits])
        spare = GROWTH_SPARE if chip.axon_out_bits else 0.0
        limits = np.array([most, problem.capacity[2], (1 - spare) * problem.capacity[1]])
        order, visits = grown_order(wire.incoming, limits, costs, problem.form, left)
        left -= visits
        if order is None:
            return best
        best = order
        needed = packing.index_width(max(map(len, order.parts())) - 1, problem.widths)
        if needed >= width:
            return best
        most = min(most, 2 ** int(needed))


def _hold(problem: _Problem, name: str, order: Order, fan_out: FanOut) -> tuple[int, float]:
    """How many neurons from the middle of an order an empty core holds, and how full they make it but for its neurons."""
    cores = _Cores(problem, fan_out, 1)
    cores.open()
    held = cores.put_units(0, name, order, order.middle())
    finite = np.isfinite(problem.capacity)
    full = 1 - cores.room[0][finite] / problem.capacity[finite]
    return held, float(np.max(full[1:], initial=0.0))


def _placement(problem: _Problem, found: _Found, bound: int, max_cores: int | None) -> Placement:
    chip, cores = problem.chip, len(found.segments)
    broken = list(found.broken)
    allowed = chip.cores if max_cores is None else max_cores
    if cores > allowed:
        broken.insert(0, Broken("cores", "network" if max_cores is not None else "chip", cores, allowed))
    number_of = {name: np.zeros(problem.size[name], dtype=np.int32) for name in problem.names}
    for content in found.segments:
        for name, neurons in content:
            number_of[name][problem.numbered(name, neurons)] = np.arange(len(neurons))
    full = {
        label: float(used.sum() / (cores * getattr(chip, label)))
        for label, used in _resources(found).items()
        if not math.isinf(getattr(chip, label))
    }
    return Placement(
        chip=chip,
        cores=cores,
        lower_bound=bound,
        fits=not broken,
        broken=tuple(broken),
        core_of={name: found.core_of[name] for name in problem.names},
        number_of=number_of,
        synapses_per_core=found.synapses,
        neurons_per_core=found.neurons,
        memory_bits_per_core=found.bits,
        axons_in_per_core=found.axons_in,
        axons_out_per_core=found.axons_out,
        crossing_spikes=found.crossing,
        full=full,
        strategy=found.strategy,
    )


def _rates(network: Network, rates: Rates | None) -> dict[str, np.ndarray]:
    """Firing rates as one float per neuron, of the populations that have any."""
    result: dict[str, np.ndarray] = {}
    shape = shapes(network)
    for name, rate in (rates or {}).items():
        if name not in shape:
            raise HardwareError(
                f"firing rates of {name!r}: no such population; expected one of {', '.join(shape)}"
            )
        size = math.prod(shape[name])
        values = np.asarray(rate, dtype=np.float64)
        if values.size not in (1, size) or not np.all(np.isfinite(values)) or np.any(values < 0):
            raise HardwareError(
                f"firing rates of {name!r}: {values.size} values; expected 1 or {size}, none negative"
            )
        result[name] = np.ascontiguousarray(np.broadcast_to(values.ravel(), (size,)))
    return result


def _lower_bound(problem: _Problem) -> int:
    chip = problem.chip
    bits, least = 0.0, 1.0
    axons_in = axons_out = neurons = 0
    for name in problem.names:
        size = problem.size[name]
        neurons += size
        own_bits, alone, least_in, reached = 0.0, size / problem.most[name], 0, 0
        for wire in problem.into[name]:
            wire_bits, wire_cores = wire.least_bits(chip, problem.most[name], problem.form, problem.widths)
            own_bits, alone = own_bits + wire_bits, max(alone, wire_cores)
            reached += int(wire.least_fan_out.sum())
            if wire.source in problem.into:
                axons_out += wire.slots * int(wire.least_fan_out.sum())
            least_in += math.ceil(int(wire.in_degrees.min()) / wire.atoms) if size else 0
        alone = math.ceil(max(alone, own_bits / chip.memory_bits_per_core) - 1e-9)
        axons_in += max(reached, alone * least_in)
        bits += own_bits
        least = max(least, alone)
    total = memory.core_bits(chip, 0, neurons, axons_in, axons_out) + bits
    needs = np.array([neurons, total, axons_in, axons_out])
    return math.ceil(max(least, float(np.max(needs / problem.capacity))) - 1e-9)
