"""Filled cores, counted exactly, and the limits that they break."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hardware.placement import packing
from hardware.placement.filling import Segment
from hardware.placement.problem import VISITS_PER_CALL, Problem, Wire


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
        return f"{self.where}: {self.limit} {self.used:.10g} > {self.allowed:.10g} ({self.used - self.allowed:.10g} over)"


@dataclass
class Found:
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
    most_cores: float | None = None

    def rank(self) -> tuple[bool, bool, float, float]:
        """Lower is better. too_many: a core holds more synapses than are wanted. most_cores: as many do not matter, see `Problem`."""
        cores = len(self.segments)
        if self.most_cores is not None:
            return (bool(self.broken), self.too_many, max(0, cores - self.most_cores), self.crossing)
        return (bool(self.broken), self.too_many, cores, self.crossing)


def measure(problem: Problem, segments: list[list[Segment]], strategy: str) -> Found:
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
                bits, axons, number, reached = wire.measure(numbered)
                synapse_bits[core] += bits
                axons_in[core] += axons
                synapses[core] += number
                targets[wire.number][wire.touched[:reached]] += 1
                pre = wire.reach(neurons)
                problem.visits += len(pre)
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
    found = Found(
        segments, core_of, synapses, neurons_on, memory_bits, axons_in, axons_out, crossing, targets, strategy
    )
    found.most_cores = problem.most_cores
    found.too_many = bool(synapses.max() > problem.most_synapses)
    for label, used in resources(found).items():
        allowed = getattr(chip, label)
        found.broken += [
            Broken(label, f"core {c}", int(used[c]), allowed, int(c)) for c in np.flatnonzero(used > allowed)
        ]
    return found


def _outgoing(wire: Wire, home: np.ndarray, cores: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outgoing axons of a wire's pre neurons on the cores `home`: (the axon of each, the core of each axon, scratch)."""
    if wire.atoms == 1:
        return np.arange(len(home), dtype=np.int32), home, np.zeros(len(home), dtype=np.bool_)
    pairs, axon = np.unique(wire.group.astype(np.int64) * cores + home, return_inverse=True)
    return axon.astype(np.int32), (pairs % cores).astype(np.int32), np.zeros(len(pairs), dtype=np.bool_)


def resources(found: Found) -> dict[str, np.ndarray]:
    return {
        "neurons_per_core": found.neurons,
        "memory_bits_per_core": found.bits,
        "axons_in_per_core": found.axons_in,
        "axons_out_per_core": found.axons_out,
    }
