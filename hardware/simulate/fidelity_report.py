"""Does the chip do what the trained network did, population by population, and where does it begin to differ?

Both run on the same recordings, without the chip's delays. A population inherits the errors of those before it; alone, in the
integers of the chip but fed with the float spikes of its sources (its own of the step before, too, where it is recurrent), it
shows what its own rounding does.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.graph.graph import SPIKING, Graph
from hardware.machine import cores
from hardware.network.connectivity import shapes, unroll
from hardware.network.integer import (
    INPUT_SHIFT,
    STATE_LIMIT,
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    Projection,
)
from hardware.network.timing import depths, is_recurrent, skipped_layers
from hardware.simulate.fidelity import Agreement, chunks, predictions
from hardware.simulate.float_simulator import FloatSimulator
from hardware.simulate.given import check_rasters
from hardware.simulate.simulator import Run, Simulator
from hardware.simulate.tables import Memory
from hardware.simulate.trains import Pairing, pair

Array = np.ndarray
# Of each population by name, integer units per unit of the graph's membrane and that membrane where v is 0: numbers or arrays.
Units = Mapping[str, tuple[Array | float, Array | float]]
# Something that runs the integers: rasters and what to record to a run.
Fixed = Callable[[Array, dict[str, tuple[str, ...]]], Run]
# Values of a step that are kept of a neuron at once: float spikes and membrane, integer spikes, u and v, spikes alone.
_VALUES = 20
SHIFTS = 3


@dataclass(frozen=True)
class Difference:
    """The first spike that only one of the two runs has: recording (the one where it comes first), step, neuron."""

    recording: int
    step: int
    neuron: tuple[int, ...]


@dataclass(frozen=True)
class PopulationReport:
    """A population in floats and in integers; shares are spikes in both / spikes in either (1 where there are none).

    agreement_alone: fed with the float spikes of its sources. agreement_within: spikes count as one where they are at most
    `Report.within` steps apart. chance: with trains shifted in time against each other. rate_float, rate_fixed: spikes per neuron
    and step. van_rossum: squared distance, mean over recordings and neurons, see `hardware.simulate.trains.pair`.
    membrane_error: root mean square in the graph's units, over steps without a spike; None where units are not known.
    wrapped: synaptic currents that passed 24 bits; saturated: membranes at their limit; over neurons and steps.
    """

    name: str
    shape: tuple[int, ...]
    both: int
    either: int
    agreement: float
    agreement_alone: float
    agreement_within: float
    chance: float
    rate_float: float
    rate_fixed: float
    van_rossum: float
    membrane_error: float | None
    wrapped: int
    saturated: int
    first_difference: Difference | None


@dataclass(frozen=True)
class Worst:
    """The recording whose spikes agree least, and both runs' spikes of it by population, (steps, *shape)."""

    recording: int
    agreement: float
    float_spikes: dict[str, Array] = field(repr=False, compare=False)
    fixed_spikes: dict[str, Array] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Report:
    """A graph and its integers on n recordings of at most `steps` steps.

    agreement: of all populations' spikes together. accuracy_float, accuracy_fixed: None where there are no labels.
    predictions_alike: share of recordings. differing_spikes: in one run only. within, tau: steps, see `PopulationReport`.
    """

    n: int
    steps: int
    within: int
    tau: float
    agreement: float
    accuracy_float: float | None
    accuracy_fixed: float | None
    predictions_alike: float
    differing_spikes: int
    populations: tuple[PopulationReport, ...]
    worst: Worst

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, ready for JSON; of the worst recording its number and agreement."""
        values = asdict(replace(self, worst=replace(self.worst, float_spikes={}, fixed_spikes={})))
        worst = values["worst"]
        values["worst"] = {"recording": worst["recording"], "agreement": worst["agreement"]}
        values["populations"] = list(values["populations"])
        return values


def fidelity(
    graph: Graph,
    network: Network,
    rasters: Iterable[Array],
    labels: Array | None = None,
    units: Units | None = None,
    within: int = 1,
    tau: float = 10.0,
    fixed: Fixed | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Run both and compare.

    rasters: parts (some, steps, *input shape) of the recordings, whole numbers; labels: (n,) of all. units: for the error of
    membranes. within: steps that a spike may be early or late. tau: van Rossum's time constant in steps. fixed: runs the integers;
    None: our simulator. progress(recordings done).
    Raises HardwareError: a raster that does not fit, no recordings, no spiking population that both have.
    """
    comparing = _Comparing(graph, network, units or {}, within, tau, fixed)
    for part in rasters:
        # Our own runs are recording by recording, those of others all at once.
        for chunk in [part] if fixed is None else chunks(part, _VALUES * comparing.size):
            comparing.add(chunk, progress or (lambda done: None))
    return comparing.report(labels)


class _Totals:
    """What is summed of a population."""

    def __init__(self) -> None:
        self.both = self.first = self.second = self.near = self.compared = self.saturated = self.wrapped = 0
        self.chance = self.shifted = self.third = self.third_both = 0
        self.values = 0
        self.distance = self.error = 0.0
        self.difference: Difference | None = None

    def add(self, one: _Compared, recording: int, shape: tuple[int, ...]) -> None:
        found = one.pairing
        for name in (
            *("both", "first", "second", "near", "compared", "saturated"),
            *("distance", "error", "chance", "third", "third_both"),
        ):
            setattr(self, name, getattr(self, name) + getattr(found, name).sum().item())
        self.shifted += one.shifts * int(found.first[0] + found.second[0])
        self.wrapped += one.wrapped
        self.values += one.values
        step = int(found.step[0])
        if step >= 0 and (self.difference is None or step < self.difference.step):
            neuron = tuple(int(i) for i in np.unravel_index(found.neuron[0], shape))
            self.difference = Difference(recording, step, neuron)


@dataclass(frozen=True)
class _Compared:
    """A population in one recording. shifts: how many for its chance. values: neurons times steps."""

    pairing: Pairing
    shifts: int
    wrapped: int
    values: int


@dataclass(frozen=True)
class _Recording:
    """Classes of both runs, every population and the share of spikes alike. spikes: of both, None where others agree less."""

    exact: int
    rounded: int
    parts: dict[str, _Compared]
    share: float
    spikes: tuple[dict[str, Array], dict[str, Array]] | None


class _Worker(threading.local):
    """What a thread keeps from one recording to the next."""

    def __init__(self) -> None:
        self.exactly, self.fixed, self.alone = Memory(), Memory(), Memory()


class _Comparing:
    """Both runs of a recording at a time, in threads, and their sums."""

    def __init__(
        self, graph: Graph, network: Network, units: Units, within: int, tau: float, fixed: Fixed | None
    ) -> None:
        self.populations = [
            p for p in network.populations if p.spiking and isinstance(graph.nodes.get(p.name), SPIKING)
        ]
        if not self.populations:
            raise HardwareError("there is no spiking population that both the graph and its integers have")
        self.network, self.units, self.within, self.tau = network, units, within, tau
        self.names = [p.name for p in self.populations]
        self.size = sum(math.prod(p.shape) for p in network.populations)
        # What the chip was compiled for, whatever the file says.
        self.exactly = FloatSimulator(graph, network.dt, self.populations[0].reset)
        self.simulator = Simulator(network)
        self.fixed = fixed
        self.alone = _Alone(network, self.populations)
        self.most = {p.name: _largest_sums(network, p) for p in self.populations}
        # The order in which both write membranes, where it is one; in all of them, so that a run has one.
        numbers = {name: self.simulator.numbers(name) for name in self.names}
        self.inside = fixed is None and all(
            np.array_equal(numbers[name], self.exactly.numbers(name)) for name in self.names
        )
        self.numbers = numbers if self.inside else dict.fromkeys(self.names)
        self.totals = {name: _Totals() for name in self.names}
        self.n = self.steps = 0
        self.exact: list[int] = []
        self.rounded: list[int] = []
        self.worst: Worst | None = None
        self.worker = _Worker()

    def add(self, raster: Array, progress: Callable[[int], None]) -> None:
        given, batch, steps = check_rasters(self.network, raster)
        counts = max((int(r.max(initial=0)) for r in given.values()), default=0)
        watched = [p.name for p in self.populations if self._may_wrap(p, counts)]
        record: dict[str, tuple[str, ...]] = {
            p.name: ("spikes",) for p in self.network.populations if p.spiking
        }
        for name in self.names:
            record[name] = ("spikes", "v", *(("u",) if name in watched else ()))
        whole = None if self.fixed is None else self.fixed(raster, record)

        def one(b: int) -> _Recording:
            return self._recording(
                raster[b : b + 1], record, None if whole is None else _part(whole, b), counts
            )

        with ThreadPoolExecutor(max(1, min(cores(), batch))) as pool:
            for found in pool.map(one, range(batch)):
                self._take(found)
                progress(self.n)
        self.steps = max(self.steps, steps)

    def _recording(
        self, raster: Array, record: dict[str, tuple[str, ...]], fixed: Run | None, counts: int
    ) -> _Recording:
        known = [name for name in self.names if name in self.units]
        worker = self.worker
        a = self.exactly.run(
            raster, self.names, membranes=bool(known), inside=self.inside, memory=worker.exactly
        )
        b = fixed or self.simulator.run(raster, record=record, inside=self.inside, memory=worker.fixed)
        given, _, steps = check_rasters(self.network, raster)
        sources = {**given, **b.spikes, **{name: a.spikes[name] for name in self.names}}
        alone = self.alone.run(sources, worker.alone)
        shifts = tuple(dict.fromkeys(s for s in (steps // 3, steps // 2, 2 * steps // 3) if 0 < s < steps))
        parts = {}
        for p in self.populations:
            name = p.name
            scale, offset = self.units.get(name, (1.0, 0.0))
            membranes = a.membranes[name] if name in self.units else None
            if membranes is not None and p.dead is not None:
                _at_rest(membranes, p.dead, offset, self.numbers[name])
            found = pair(
                a.spikes[name],
                b.spikes[name],
                self.within,
                self.tau,
                membranes,
                b.v[name],
                scale,
                offset,
                self.numbers[name],
                shifts,
                alone[name],
            )
            if membranes is not None:
                gone = steps * (math.prod(p.shape) - p.neurons)
                found = replace(found, compared=found.compared - gone)
            wrapped = (
                _wraps(p, b.u[name], self.most[name] * max(counts, 1), self.numbers[name])
                if "u" in record[name]
                else 0
            )
            parts[name] = _Compared(found, len(shifts), wrapped, steps * math.prod(p.shape))
        both = sum(int(part.pairing.both[0]) for part in parts.values())
        either = sum(int(part.pairing.first[0] + part.pairing.second[0]) for part in parts.values()) - both
        share = Agreement(both, either).share
        spikes = None
        if self.worst is None or share < self.worst.agreement:
            spikes = self._copied(a.spikes), self._copied(b.spikes)
        return _Recording(int(predictions(a.output)[0]), int(predictions(b.output)[0]), parts, share, spikes)

    def _copied(self, spikes: Mapping[str, Array]) -> dict[str, Array]:
        return {name: spikes[name][0].copy() for name in self.names}

    def _take(self, found: _Recording) -> None:
        self.exact.append(found.exact)
        self.rounded.append(found.rounded)
        for p in self.populations:
            self.totals[p.name].add(found.parts[p.name], self.n, p.shape)
        if found.spikes is not None and (self.worst is None or found.share < self.worst.agreement):
            self.worst = Worst(self.n, found.share, *found.spikes)
        self.n += 1

    def _may_wrap(self, p: Population, counts: int) -> bool:
        """Whether a current of 24 bits can be passed at all: by its largest sum in a step, for ever, with its own decay."""
        left = np.ravel(p.du).astype(np.float64) + 1
        return bool((self.most[p.name] * max(counts, 1) * 4096 >= STATE_LIMIT * left).any())

    def report(self, labels: Array | None) -> Report:
        if self.worst is None:
            raise HardwareError("there are no recordings to compare")
        exact, rounded = np.array(self.exact), np.array(self.rounded)
        if labels is not None and len(labels) != len(exact):
            raise HardwareError(f"{len(labels)} labels for {len(exact)} recordings, expected as many")
        parts = tuple(self._population(p) for p in self.populations)
        overall = sum((Agreement(p.both, p.either) for p in parts), Agreement(0, 0))
        return Report(
            self.n,
            self.steps,
            self.within,
            self.tau,
            overall.share,
            None if labels is None else float((exact == labels).mean()),
            None if labels is None else float((rounded == labels).mean()),
            float((exact == rounded).mean()),
            overall.either - overall.both,
            parts,
            self.worst,
        )

    def _population(self, p: Population) -> PopulationReport:
        t = self.totals[p.name]
        either = t.first + t.second - t.both
        return PopulationReport(
            name=p.name,
            shape=tuple(p.shape),
            both=t.both,
            either=either,
            agreement=Agreement(t.both, either).share,
            agreement_alone=Agreement(t.third_both, t.first + t.third - t.third_both).share,
            agreement_within=Agreement(t.near, t.first + t.second - t.near).share,
            chance=Agreement(t.chance, t.shifted - t.chance).share,
            rate_float=t.first / t.values,
            rate_fixed=t.second / t.values,
            van_rossum=t.distance / (self.n * math.prod(p.shape)),
            membrane_error=math.sqrt(t.error / t.compared) if t.compared else None,
            wrapped=t.wrapped,
            saturated=t.saturated,
            first_difference=t.difference,
        )


def _at_rest(membranes: Array, dead: Array, offset: Array | float, numbers: Array | None) -> None:
    """Put the float membranes of dead neurons where the chip, which has none of them, counts as 0."""
    level = np.broadcast_to(np.ravel(offset), dead.shape)
    if numbers is not None:
        dead, level = dead[numbers], level[numbers]
    membranes.reshape(*membranes.shape[:2], -1)[..., dead] = level[dead]


def _part(run: Run, b: int) -> Run:
    """One recording of a run, with its spikes, u and v."""
    spikes, u, v = ({name: x[b : b + 1] for name, x in kept.items()} for kept in (run.spikes, run.u, run.v))
    return Run(run.output[b : b + 1], spikes, u, v)


class _Alone:
    """Populations side by side, each with an input of its own in the place of each of its sources."""

    def __init__(self, network: Network, populations: list[Population]) -> None:
        depth, shape = depths(network), shapes(network)
        constant = {entry.name: entry.constant for entry in network.inputs}
        inputs: list[InputPopulation] = []
        projections: list[Projection] = []
        self.names = [p.name for p in populations]
        # Of each input the source and how many steps later than in a chain its spikes arrive.
        self.given: dict[str, tuple[str, int]] = {}
        for number, q in enumerate(q for q in network.projections if q.target in self.names):
            name = f"{number} {q.source}"
            late = int(is_recurrent(network, q))
            early = skipped_layers(network, q, depth)
            delay = np.maximum(q.delay, early) - early
            inputs.append(InputPopulation(name, shape[q.source], constant=constant.get(q.source, 0)))
            own: Any = delay if np.ndim(q.delay) else int(delay)
            # Neurons of an input are never dead; those that were never spike.
            whole: dict[str, Any] = {"dead_pre": None} if isinstance(q, ConvProjection) else {}
            projections.append(replace(q, source=name, delay=own, **whole))
            if not constant.get(q.source):
                self.given[name] = (q.source, late)
        self.simulator = Simulator(
            Network(tuple(inputs), tuple(populations), tuple(projections), (self.names[-1],), dt=network.dt)
        )

    def run(self, spikes: Mapping[str, Array], memory: Memory) -> dict[str, Array]:
        """Spikes of each population. spikes: (batch, steps, *shape) of every source."""
        rasters = {}
        for name, (source, late) in self.given.items():
            x = spikes[source]
            if late:
                x = np.pad(x, [(0, 0), (late, 0), *[(0, 0)] * (x.ndim - 2)])[:, : x.shape[1]]
            rasters[name] = x
        record = {name: ("spikes",) for name in self.names}
        return self.simulator.run(rasters, record=record, memory=memory).spikes


def _largest_sums(network: Network, population: Population) -> Array:
    """(neurons,) or one for all: the largest synaptic input of a step in units of u, from above, all sources spiking once."""
    total: Array = np.zeros(1)
    shape = shapes(network)
    for q in network.projections:
        if q.target != population.name:
            continue
        if isinstance(q, DenseProjection):
            sums = np.abs(q.weight).sum(axis=1, dtype=np.float64)
        elif isinstance(q, ConvProjection):
            sums = np.abs(q.weight).sum(axis=(1, 2, 3), dtype=np.float64).max(keepdims=True)
        else:
            matrix = unroll(q, shape[q.source], shape[q.target])
            sums = np.asarray(abs(matrix).sum(axis=0), np.float64).reshape(-1)
        total = total + sums * 2.0**q.weight_exp + 1  # shifts to the right round down
    return total * 2**INPUT_SHIFT


def _wraps(population: Population, u: Array, most: Array, numbers: Array | None = None) -> int:
    """Currents that passed 24 bits: from one step to the next they then change by 2**24 less what arrived.

    most: the largest input of a step. Where that alone may be half of 24 bits, a wrap is counted only where nothing else explains
    the change. numbers: of each neuron of u, in C order; None: u is in that order.
    """
    n = math.prod(population.shape)
    u = u.reshape(*u.shape[:2], n)
    keep = 4095 - np.broadcast_to(np.ravel(population.du), (n,)).astype(np.int64)
    most = np.maximum(np.broadcast_to(most, (n,)), 0)
    if numbers is not None:
        keep, most = keep[numbers], most[numbers]
    if not keep.any():  # a current without memory is what arrives
        return int(np.count_nonzero(np.abs(u) > most))
    u = u.astype(np.int64)
    before = np.concatenate([np.zeros_like(u[:, :1]), u[:, :-1]], axis=1)
    kept = np.sign(before) * ((np.abs(before) * keep) >> 12)
    return int(np.count_nonzero(np.abs(u - kept) > most))
