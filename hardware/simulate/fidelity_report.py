"""Does the chip do what the trained network did, population by population, and where does it begin to differ?

Both run on the same recordings, without the chip's delays. A population inherits the errors of those before it; alone, in the
integers of the chip but fed with the float spikes of its sources (its own of the step before, too, where it is recurrent), it
shows what its own rounding does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.graph.graph import SPIKING, Graph
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
from hardware.simulate.simulator import Run, Simulator, check_rasters
from hardware.simulate.trains import Pairing, chance, in_both, pair

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
        for chunk in chunks(part, _VALUES * comparing.size):
            comparing.add(chunk)
            if progress is not None:
                progress(comparing.n)
    return comparing.report(labels)


class _Totals:
    """What is summed of a population."""

    def __init__(self) -> None:
        self.both = self.first = self.second = self.near = self.compared = self.saturated = self.wrapped = 0
        self.values = 0
        self.distance = self.error = 0.0
        self.chance, self.alone = Agreement(0, 0), Agreement(0, 0)
        self.difference: Difference | None = None

    def add(self, found: Pairing, offset: int, shape: tuple[int, ...]) -> None:
        for name in ("both", "first", "second", "near", "compared", "saturated", "distance", "error"):
            setattr(self, name, getattr(self, name) + getattr(found, name).sum().item())
        differing = np.flatnonzero(found.step >= 0)
        if not len(differing):
            return
        b = differing[np.argmin(found.step[differing])]
        step = int(found.step[b])
        if self.difference is None or step < self.difference.step:
            neuron = tuple(int(i) for i in np.unravel_index(found.neuron[b], shape))
            self.difference = Difference(offset + int(b), step, neuron)


class _Comparing:
    """Both runs of a chunk at a time, and their sums."""

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
        simulator = Simulator(network)
        self.fixed: Fixed = fixed or (lambda raster, record: simulator.run(raster, record=record))
        self.alone = {p.name: _Alone(network, p) for p in self.populations}
        self.most = {p.name: _largest_sums(network, p) for p in self.populations}
        self.totals = {name: _Totals() for name in self.names}
        self.n = self.steps = 0
        self.exact: list[Array] = []
        self.rounded: list[Array] = []
        self.worst: Worst | None = None

    def add(self, raster: Array) -> None:
        given, batch, steps = check_rasters(self.network, raster)
        counts = max((int(r.max(initial=0)) for r in given.values()), default=0)
        watched = [p for p in self.populations if self._may_wrap(p, counts)]
        record: dict[str, tuple[str, ...]] = {
            p.name: ("spikes",) for p in self.network.populations if p.spiking
        }
        for p in self.populations:
            record[p.name] = ("spikes", "v", *(("u",) if p in watched else ()))
        known = [name for name in self.names if name in self.units]
        a = self.exactly.run(raster, self.names, membranes=bool(known))
        b = self.fixed(raster, record)
        self.exact.append(predictions(a.output))
        self.rounded.append(predictions(b.output))
        sources = {**given, **b.spikes, **{name: a.spikes[name] for name in self.names}}
        both, either = np.zeros(batch), np.zeros(batch)
        shifts = tuple(dict.fromkeys(s for s in (steps // 3, steps // 2, 2 * steps // 3) if 0 < s < steps))
        for p in self.populations:
            name, total = p.name, self.totals[p.name]
            scale, offset = self.units.get(name, (1.0, 0.0))
            found = pair(
                a.spikes[name],
                b.spikes[name],
                self.within,
                self.tau,
                a.membranes[name] if name in self.units else None,
                b.v[name],
                scale,
                offset,
            )
            total.add(found, self.n, p.shape)
            total.values += batch * steps * math.prod(p.shape)
            alone = self.alone[name].run(sources)
            shared = in_both(a.spikes[name], alone)
            spikes = int(found.first.sum()) + int(np.count_nonzero(alone.view(bool)))
            total.alone += Agreement(shared, spikes - shared)
            total.chance += Agreement(*chance(a.spikes[name], b.spikes[name], shifts))
            if p in watched:
                total.wrapped += _wraps(p, b.u[name], self.most[name] * max(counts, 1))
            both += found.both
            either += found.first + found.second - found.both
        shares = np.where(either > 0, both / np.maximum(either, 1), 1.0)
        least = int(np.argmin(shares))
        if self.worst is None or shares[least] < self.worst.agreement:
            self.worst = Worst(
                self.n + least,
                float(shares[least]),
                {name: a.spikes[name][least].copy() for name in self.names},
                {name: b.spikes[name][least].copy() for name in self.names},
            )
        self.n += batch
        self.steps = max(self.steps, steps)

    def _may_wrap(self, p: Population, counts: int) -> bool:
        """Whether a current of 24 bits can be passed at all: by its largest sum in a step, for ever, with its own decay."""
        left = np.ravel(p.du).astype(np.float64) + 1
        return bool((self.most[p.name] * max(counts, 1) * 4096 >= STATE_LIMIT * left).any())

    def report(self, labels: Array | None) -> Report:
        if self.worst is None:
            raise HardwareError("there are no recordings to compare")
        exact, rounded = np.concatenate(self.exact), np.concatenate(self.rounded)
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
            agreement_alone=t.alone.share,
            agreement_within=Agreement(t.near, t.first + t.second - t.near).share,
            chance=t.chance.share,
            rate_float=t.first / t.values,
            rate_fixed=t.second / t.values,
            van_rossum=t.distance / (self.n * math.prod(p.shape)),
            membrane_error=math.sqrt(t.error / t.compared) if t.compared else None,
            wrapped=t.wrapped,
            saturated=t.saturated,
            first_difference=t.difference,
        )


class _Alone:
    """One population with an input in the place of each of its sources."""

    def __init__(self, network: Network, population: Population) -> None:
        depth, shape = depths(network), shapes(network)
        constant = {entry.name: entry.constant for entry in network.inputs}
        inputs: list[InputPopulation] = []
        projections: list[Projection] = []
        # Of each input the source and how many steps later than in a chain its spikes arrive.
        self.given: dict[str, tuple[str, int]] = {}
        for number, q in enumerate(q for q in network.projections if q.target == population.name):
            name = f"{number} {q.source}"
            late = int(is_recurrent(network, q))
            early = skipped_layers(network, q, depth)
            delay = np.maximum(q.delay, early) - early
            inputs.append(InputPopulation(name, shape[q.source], constant=constant.get(q.source, 0)))
            own: Any = delay if np.ndim(q.delay) else int(delay)
            projections.append(replace(q, source=name, delay=own))
            if not constant.get(q.source):
                self.given[name] = (q.source, late)
        self.name = population.name
        self.simulator = Simulator(
            Network(tuple(inputs), (population,), tuple(projections), (population.name,), dt=network.dt)
        )

    def run(self, spikes: Mapping[str, Array]) -> Array:
        """spikes: (batch, steps, *shape) of every source."""
        rasters = {}
        for name, (source, late) in self.given.items():
            x = spikes[source]
            if late:
                x = np.pad(x, [(0, 0), (late, 0), *[(0, 0)] * (x.ndim - 2)])[:, : x.shape[1]]
            rasters[name] = x
        return self.simulator.run(rasters).output


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


def _wraps(population: Population, u: Array, most: Array) -> int:
    """Currents that passed 24 bits: from one step to the next they then change by 2**24 less what arrived.

    most: the largest input of a step. Where that alone may be half of 24 bits, a wrap is counted only where nothing else explains
    the change.
    """
    n = math.prod(population.shape)
    u = u.reshape(*u.shape[:2], n).astype(np.int64)
    keep = 4095 - np.broadcast_to(np.ravel(population.du), (n,)).astype(np.int64)
    before = np.concatenate([np.zeros_like(u[:, :1]), u[:, :-1]], axis=1)
    kept = np.sign(before) * ((np.abs(before) * keep) >> 12)
    return int(np.count_nonzero(np.abs(u - kept) > np.maximum(most, 0)))
