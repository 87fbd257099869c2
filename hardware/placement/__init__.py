"""Which neuron sits on which core of a chip, so that every limit holds: fewest cores first, then fewest spikes
that cross from one core to another.

An input axon is a (projection, pre neuron, core) with at least one synapse there; an output axon the same, counted
on the core of the pre neuron. Where the chip shares convolution kernels, the channels of one position share an axon
(`Chip.population_axon_atoms`), which takes `Chip.population_axon_slots` entries of the outgoing table, and axons whose
synapses differ only by a shift store them once per core, as far as their offsets reach (`Chip.axon_offsets`); the pre
neurons of a dense projection share axons as `Chip.dense_axon_atoms` says. A core's memory is that of `hardware.chip.memory`. A
spike of a neuron with targets on k other cores crosses k times (a hyperedge, as in Ronzani and Silvano, arXiv 2601.16118);
inputs sit on no core, so each of theirs crosses to every core that listens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.chip.chips import Chip, as_chip
from hardware.chip.costs import needed
from hardware.errors import HardwareError
from hardware.network.connectivity import shapes
from hardware.network.integer import Network
from hardware.placement import layers
from hardware.placement.balancing import Work, fastest, work_of
from hardware.placement.measuring import Broken, Found, resources
from hardware.placement.problem import VISITS_PER_SECOND, Problem
from hardware.placement.rates import Rates, step_rates
from hardware.placement.search import find_best

__all__ = [
    "OBJECTIVES",
    "STRATEGIES",
    "Broken",
    "Placement",
    "Rates",
    "lower_bound",
    "place",
    "trade_off",
]

OBJECTIVES = ("cores", "time", "crossings")
STRATEGIES = ("best", "sequential", "greedy", "hypergraph")

# Seconds of searching where nothing is said; large networks are looked at a few times more, that a search gets beyond its first
# placement, but not for longer than that.
EFFORT, LOOKS, MOST_EFFORT = 1.0, 5.0, 9.0
# Of that, what placing for time takes on top.
FOR_TIME = 2.0
# How many times the fewest cores a table of cores against time goes through.
TRADE_OFF = (1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Placement:
    """Every neuron's core, and how full the cores are.

    core_of: per population the core of each neuron, int32 in C order, -1 where it is dead. number_of: per population each neuron's
    number among its population's neurons on that core (which decides index bits and shared kernels).
    Arrays `*_per_core` are int64 (cores,). crossing_spikes: spikes from core to core in the unit of the firing
    rates, or per step with every neuron firing where none were given.
    lower_bound: cores that no placement can undercut. full: per resource, its sum over the cores divided by
    what these cores can hold. chips: chips of `chip.cores` cores that these cores take.
    fits: whether all limits hold, the number of cores among them; broken: those that do not.
    strategy: which one found it. objective: what was sought first. step_ns: nanoseconds of a mean step by the costs in the chip's
    file, None where time was not the objective; step_bound_ns: no placement on as many cores as were allowed takes less.
    layers: on a chip whose cores take one layer each, what each row of `*_per_core` is, and on
    which of the chip's cores it sits; bits of memory are then of the words it takes there, and no axons are counted.
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
    objective: str = "cores"
    step_ns: float | None = None
    step_bound_ns: float | None = None
    layers: tuple[layers.PlacedLayer, ...] = ()

    @property
    def synapses(self) -> int:
        return int(self.synapses_per_core.sum())

    @property
    def chips(self) -> int:
        return 1 if math.isinf(self.chip.cores) else math.ceil(self.cores / self.chip.cores)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, ready for JSON."""
        cores = self.chip.layers
        of_layers = {} if cores is None else {"layers": [layer.to_dict(cores) for layer in self.layers]}
        return {
            "chip": self.chip.name,
            "strategy": self.strategy,
            "objective": self.objective,
            "step_ns": self.step_ns,
            "step_bound_ns": self.step_bound_ns,
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
            **of_layers,
        }


def place(
    network: Network,
    chip: Chip | str | Path,
    strategy: str = "best",
    effort: float | None = None,
    firing_rates: Rates | None = None,
    max_cores: int | None = None,
    seed: int = 0,
    max_synapses_per_core: float | None = None,
    objective: str = "cores",
    steps: float = 1.0,
) -> Placement:
    """Split the populations of `network` over the cores of `chip`, or, where a core takes one layer, give each a core of its own.

    strategy: "sequential" (one population after the other, neurons in C order or in that of their positions that fills a core best, a
        new core when one is full), "greedy" (neighbourhood orders, shared cores,
        populations mixed so that a core's resources run out together, and a local search over which order each population
        takes, when, and over how many cores), "hypergraph" (sparse populations cut by mtkahypar, the `placement` extra, and
        placed so), or "best": all of them, fewest cores first, then fewest crossing spikes; without mtkahypar where it is
        not installed or the effort is too little for it.
    effort: about how many seconds are searched, after which no further attempt begins. What is counted is synapses looked at,
        `VISITS_PER_SECOND` to a second of a core of 2024, so that the result is the same for the same arguments on every machine.
        Reading the network, a first placement and growing cores along synapses come on top. None: a second and a few looks at every
        synapse, nine seconds at most; a second where the bound already exceeds the budget.
    firing_rates: spikes of each neuron (scalar or array) per population and input, missing ones 1.
    seed: of the hypergraph partitioner and of the search. max_synapses_per_core: of two placements the one that keeps to it is
        taken, whatever its cores; it is no limit of the chip and none that `fits` knows.
    max_cores: the budget; the chip's cores where None. A network that needs more is placed all the same, with `fits` False.
    objective: "cores": fewest cores, then fewest crossing spikes. "time": within the budget, the shortest step: the busiest
        core's events and updates (or its messages), by the costs in the chip's file and the firing rates, of which there are
        `steps` time steps (missing ones then fire as `hardware.placement.rates` assumes). It starts from the placement with fewest
        cores, which is never faster, and takes up to twice the effort on top. "crossings": within the budget, fewest crossing spikes.

    Where a core takes one layer, the best matching is always found, and strategy, effort, seed and max_synapses_per_core change nothing.

    Raises HardwareError: an empty network, what no core of the chip can do, max_cores below 1, an unknown strategy or objective, no costs in the chip's
    file, shapes that do not fit together, a neuron
    that alone exceeds a core (named, with the number).
    """
    chip = as_chip(chip)
    if strategy not in STRATEGIES:
        raise HardwareError(f"placement strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    if max_cores is not None and max_cores < 1:
        raise HardwareError(f"max_cores is {max_cores}; expected at least 1")
    if objective not in OBJECTIVES:
        raise HardwareError(f"objective {objective!r}; expected one of {', '.join(OBJECTIVES)}")
    if objective == "time":
        needed(chip)
    if chip.layers is not None:
        return _by_layer(network, chip, _rates(network, firing_rates), max_cores)
    problem = Problem(network, chip, _rates(network, firing_rates))
    if max_synapses_per_core is not None:
        problem.most_synapses = max_synapses_per_core
    allowed = chip.cores if max_cores is None else max_cores
    if objective == "crossings":
        problem.most_cores = allowed
    work = work_of(problem, step_rates(network, firing_rates, steps)) if objective == "time" else None
    bound = problem.lower_bound()
    limit = _limit(problem, effort, bound, allowed)
    found = find_best(problem, strategy, limit, bound, seed)
    if work is None:
        return _placement(problem, found, bound, max_cores, objective=objective)
    return _for_time(problem, work, found, bound, max_cores, limit, seed)


def trade_off(
    network: Network,
    chip: Chip | str | Path,
    firing_rates: Rates | None = None,
    steps: float = 1.0,
    max_cores: int | None = None,
    effort: float | None = None,
    seed: int = 0,
) -> list[Placement]:
    """Placements on more and more cores and with shorter and shorter steps, from the fewest cores up to `max_cores`; arguments and
    errors of `place`.

    The first is that with fewest cores, the second the fastest found on as many. One that is no faster than one on fewer
    cores is left out.
    """
    chip = as_chip(chip)
    problem = Problem(network, chip, _rates(network, firing_rates))
    work = work_of(problem, step_rates(network, firing_rates, steps))
    bound = problem.lower_bound()
    most = chip.cores if max_cores is None else max_cores
    limit = _limit(problem, effort, bound, most)
    first = find_best(problem, "best", limit, bound, seed)
    least = len(first.segments)
    wanted = {min(most, math.ceil(least * share)) for share in TRADE_OFF}
    if not math.isinf(most):
        wanted.add(most)
    points = [_placement(problem, first, bound, max_cores, work=work, step_cores=least)]
    for cores in sorted(number for number in wanted if number >= least):
        found = _for_time(problem, work, first, bound, int(cores), limit, seed)
        assert found.step_ns is not None and points[-1].step_ns is not None
        if found.step_ns < points[-1].step_ns:
            points.append(found)
    return points


def _limit(problem: Problem, effort: float | None, bound: int, allowed: float) -> float:
    """Synapses that a search may look at, see `place`."""
    synapses = sum(wire.incoming.synapses for wire in problem.wires)
    if effort is not None:
        return effort * VISITS_PER_SECOND
    # However it is placed, it does not fit.
    seconds = EFFORT if bound > allowed else MOST_EFFORT
    return min(EFFORT * VISITS_PER_SECOND + LOOKS * synapses, seconds * VISITS_PER_SECOND)


def _for_time(
    problem: Problem, work: Work, first: Found, bound: int, max_cores: int | None, limit: float, seed: int
) -> Placement:
    allowed = problem.chip.cores if max_cores is None else max_cores
    found = fastest(problem, work, first, allowed, FOR_TIME * limit, seed)
    return _placement(problem, found, bound, max_cores, objective="time", work=work)


def lower_bound(network: Network, chip: Chip | str | Path) -> int:
    """Cores that no placement can undercut: the largest of the resource sums over a core's capacity, or those of one population.

    Sums that every placement must spend: neurons; bits, where each pre neuron's synapses are cut as luckily as can be and
    stored without indices (each distinct part of a shared kernel once), or with them where too few pre neurons are shared
    (`hardware.placement.bounds`); axons, where a population needs at least as many cores as its neurons fill, each with at least the
    smallest fan-in of its neurons.
    """
    chip = as_chip(chip)
    if chip.layers is not None:
        return len(network.populations)
    return Problem(network, chip, {}).lower_bound()


def _by_layer(network: Network, chip: Chip, rates: dict[str, np.ndarray], max_cores: int | None) -> Placement:
    found = layers.assign(network, chip, rates)
    n = len(found.placed)
    broken = list(found.broken)
    allowed = chip.cores if max_cores is None else max_cores
    if n > allowed:
        broken.insert(0, Broken("cores", "network" if max_cores is not None else "chip", n, allowed))
    size = {population.name: math.prod(population.shape) for population in network.populations}
    return Placement(
        chip=chip,
        cores=n,
        lower_bound=n,
        fits=not broken,
        broken=tuple(broken),
        core_of={name: np.full(size[name], row, np.int32) for row, name in enumerate(size)},
        number_of={name: np.arange(size[name], dtype=np.int32) for name in size},
        synapses_per_core=found.synapses,
        neurons_per_core=found.neurons,
        memory_bits_per_core=found.bits,
        axons_in_per_core=np.zeros(n, np.int64),
        axons_out_per_core=np.zeros(n, np.int64),
        crossing_spikes=found.crossing,
        full={},
        strategy="layers",
        layers=found.placed,
    )


def _placement(
    problem: Problem,
    found: Found,
    bound: int,
    max_cores: int | None,
    objective: str = "cores",
    work: Work | None = None,
    step_cores: float | None = None,
) -> Placement:
    """step_cores: how many the step's bound is of, where not of all that are allowed."""
    chip, cores = problem.chip, len(found.segments)
    broken = list(found.broken)
    allowed = chip.cores if max_cores is None else max_cores
    if cores > allowed:
        broken.insert(0, Broken("cores", "network" if max_cores is not None else "chip", cores, allowed))
    number_of = {name: np.full(problem.size[name], -1, dtype=np.int32) for name in problem.names}
    for content in found.segments:
        for name, neurons in content:
            number_of[name][problem.numbered(name, neurons)] = np.arange(len(neurons))
    size = sum(problem.count.values())
    most_cores = max(cores, min(allowed if step_cores is None else step_cores, size))
    full = {
        label: float(used.sum() / (cores * getattr(chip, label)))
        for label, used in resources(found).items()
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
        objective=objective,
        step_ns=work.step(problem, found) if work else None,
        step_bound_ns=work.bound(int(most_cores))[0] if work else None,
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
