"""A budget of cores, synapses, events, time or energy: what of it a placed network takes, and what would have to shrink for it to fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardware.chip.chips import Chip
from hardware.chip.costs import needed
from hardware.errors import HardwareError
from hardware.network.integer import Network
from hardware.placement import Broken, Placement, Rates, place
from hardware.placement.costing import spent
from hardware.placement.layers import MEMORIES
from hardware.placement.loads import count, spike_trains

# Where no sum over all cores exceeds the budget, only the cut into cores does not fit: shrink a little and look again.
_PACKING = 1.02

# The limited resources of a core, in a few words.
RESOURCES = {
    "neurons_per_core": "neurons",
    "memory_bits_per_core": "memory",
    "axons_in_per_core": "axons in",
    "axons_out_per_core": "axons out",
}
_NAMES = {
    "synapses": "synapses",
    "synapses_per_core": "synapses on one core",
    "events": "events",
    "energy_uj": "energy",
    "step_us": "time per step",
    "neurons_per_core": "neurons",
    "memory_bits_per_core": "bits of memory",
    "axons_in_per_core": "incoming axons",
    "axons_out_per_core": "outgoing axons",
}


@dataclass(frozen=True)
class Budget:
    """What a network may take of a chip. max_cores: None stands for all cores of one chip.

    max_synapses, max_synapses_per_core: non-zero connections of the unrolled network, None: no limit. max_events, max_energy_uj:
    synaptic events and microjoules per recording, max_step_us: microseconds of a mean step, by the costs in the chip's file; they need
    recordings.
    Raises HardwareError for a limit of cores or synapses below 1, another that is not finite and above 0, or no costs in the chip's file.
    """

    chip: Chip
    max_cores: int | None = None
    max_synapses: int | None = None
    max_synapses_per_core: int | None = None
    max_step_us: float | None = None
    max_energy_uj: float | None = None
    max_events: float | None = None

    def __post_init__(self) -> None:
        for key in ("max_cores", "max_synapses", "max_synapses_per_core"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise HardwareError(f"{key} is {value}; expected at least 1")
        for key in ("max_step_us", "max_energy_uj", "max_events"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise HardwareError(f"{key} is {value}; expected a finite number above 0")
        if self.max_step_us is not None or self.max_energy_uj is not None:
            needed(self.chip)

    @property
    def is_charged(self) -> bool:
        """Whether it limits what only recordings tell: events, energy or time."""
        return any(x is not None for x in (self.max_step_us, self.max_energy_uj, self.max_events))

    @property
    def cores(self) -> float:
        return self.chip.cores if self.max_cores is None else self.max_cores

    def describe(self) -> str:
        """The limits in words."""
        text = f"{self.cores:,g} core{'s' if self.cores != 1 else ''} of {self.chip.name}"
        for key in ("max_synapses", "max_synapses_per_core"):
            if (limit := getattr(self, key)) is not None:
                text += f", at most {limit:,} {key[4:].replace('_', ' ')}"
        for key, unit in (
            ("max_step_us", "us per step"),
            ("max_energy_uj", "uJ per recording"),
            ("max_events", "events per recording"),
        ):
            if (limit := getattr(self, key)) is not None:
                text += f", at most {limit:,g} {unit}"
        return text


@dataclass(frozen=True)
class Fill:
    """A placed network against a budget.

    shares: what the network takes over what the budget allows, of "cores", of each limited resource (the sum over all
        cores over what the budget's cores hold) and of "synapses" and "synapses_per_core" (the fullest core's) where they are limited.
    broken: the limits that do not hold, those of the budget first.
    charged: "events" and, where the chip's file has costs, "energy_uj" per recording and "step_us" of a mean step; empty where nothing was run.
    silent: of every layer before the outputs that does not spike at all in most recordings, in how many of the `recordings` that were
        run: what does nothing costs little, and fits.
    """

    budget: Budget
    placement: Placement
    shares: dict[str, float]
    broken: tuple[Broken, ...]
    charged: dict[str, float] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)
    recordings: int = 0

    @property
    def fits(self) -> bool:
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        limits = {
            key: value for key, value in vars(self.budget).items() if key != "chip" and value is not None
        }
        return {
            "fits": self.fits,
            "broken": [str(broken) for broken in self.broken],
            "budget": limits,
            "shares": dict(self.shares),
            **({"charged": dict(self.charged), "silent": dict(self.silent)} if self.charged else {}),
        }

    def excess(self) -> dict[str, float]:
        """Factors, above 1, by which "neurons" and "synapses" should shrink; empty where the network fits.

        An estimate: axons go with synapses, and of a memory that both share the larger part has to give way.
        """
        if self.fits:
            return {}
        neurons = self.shares.get("neurons_per_core", 0.0)
        others = ("axons_in_per_core", "axons_out_per_core", "synapses", "synapses_per_core")
        synapses = max(self.shares.get(key, 0.0) for key in others)
        # Updates of neurons, and barriers, stay as they are: events have to shrink by more.
        dear = max(self.shares.get("energy_uj", 0.0), self.shares.get("step_us", 0.0))
        synapses = max(
            synapses, self.shares.get("events", 0.0), max(dear**2, _PACKING) if dear > 1.0 else 0.0
        )
        share = self.shares.get("memory_bits_per_core", 0.0)
        if share:
            used = float(self.placement.memory_bits_per_core.sum())
            state = float(self.placement.neurons_per_core.sum()) * self.budget.chip.neuron_state_bits
            part = max(state, used - state)
            # The part that is left when the larger one alone makes up for all that is too much.
            left = part - (used - used / share)
            factor = share if share <= 1 or left <= 0 else part / left
            if state > used - state:
                neurons = max(neurons, factor)
            else:
                synapses = max(synapses, factor)
        factors = {"neurons": neurons, "synapses": synapses}
        if max(factors.values()) <= 1.0:
            return {max(factors, key=lambda key: factors[key]): _PACKING}
        return {key: factor for key, factor in factors.items() if factor > 1.0}

    def fullest(self) -> tuple[str, float] | None:
        """The resource that the budget is fullest of, and its share; None where nothing is limited."""
        limited = [key for key in _NAMES if key in self.shares]
        key = max(limited, key=lambda k: self.shares[k], default=None)
        return None if key is None else (_NAMES[key], self.shares[key])

    def silence(self) -> str:
        """Which layers do nothing, in words; empty where none is silent."""
        return ", ".join(
            f"layer {name} never spikes in {number} of {self.recordings} recordings"
            for name, number in self.silent.items()
        )

    def explain(self) -> str:
        """One line: what keeps a network from the budget's cores; empty where their number suffices."""
        allowed, chip = self.budget.cores, self.budget.chip
        if self.placement.cores <= allowed or chip.layers is not None:
            return ""
        cores = int(allowed)
        key = max(self.placement.full, key=lambda k: self.shares[k], default=None)
        if key is None:
            return f"{chip.name} limits nothing but its cores"
        used, share = int(getattr(self.placement, key).sum()), self.shares[key]
        room = cores * getattr(chip, key)
        over = f"{used - room:,} over, " if used > room else ""
        text = (
            f"{cores:,} core{'s hold' if cores > 1 else ' holds'} {room:,} {_NAMES[key]}, "
            f"the network has {used:,} ({over}{percent(share)})"
        )
        return text if share > 1 else f"{text}, but no way to cut it into so few cores was found"


def shares_per_core(placement: Placement) -> dict[str, np.ndarray]:
    """Of each limited resource, in a few words, the share of it that every core has taken, (cores,).

    Where a core takes one layer, of each of its memories; 0 of a layer that has no core.
    """
    chip = placement.chip
    if chip.layers is not None:
        return {
            key.removesuffix("_words"): np.array(
                [
                    0.0
                    if placed.core is None
                    else getattr(placed.layer, key) / getattr(chip.layers, key)[placed.core]
                    for placed in placement.layers
                ]
            )
            for key in MEMORIES
        }
    return {
        label: getattr(placement, key) / getattr(chip, key)
        for key, label in RESOURCES.items()
        if not math.isinf(getattr(chip, key))
    }


def fullest_per_core(placement: Placement) -> np.ndarray:
    """(cores,) shares: how much each core has taken of the resource that it has least left of; 0 where nothing is limited."""
    shares = list(shares_per_core(placement).values())
    return np.max(shares, axis=0) if shares else np.zeros(placement.cores)


def percent(share: float) -> str:
    """A share in percent, with as many digits as it takes to tell it from all."""
    for digits in range(1, 7):
        text = f"{100 * share:.{digits}f}%"
        if share == 1 or text != f"{100:.{digits}f}%":
            return text
    return "more than 100%" if share > 1 else "less than 100%"


def fill(
    network: Network,
    budget: Budget,
    rates: Rates | None = None,
    effort: float | None = None,
    objective: str = "cores",
    steps: float = 1.0,
    raster: np.ndarray | None = None,
) -> Fill:
    """Place `network` and compare it with `budget`; arguments and errors of `hardware.placement.place`.

    raster: recordings (n, steps, *shape), which a budget of events, energy or time needs: their spikes are what is placed for
    (instead of `rates` and `steps`; where time is limited, for time) and charged. Raises HardwareError where they are missing.
    """
    trains = None
    if budget.is_charged:
        if raster is None or not len(raster):
            raise HardwareError(f"budget of {budget.describe()}: found no recordings, expected some to run")
        trains = spike_trains(network, raster)
        rates = {name: (each != 0).sum(axis=1).mean(axis=0) for name, each in trains.items()}
        steps = next(iter(trains.values())).shape[1]
        if budget.max_step_us is not None:
            objective = "time"
    placement = place(
        network,
        budget.chip,
        "best",
        effort,
        rates,
        budget.max_cores,
        max_synapses_per_core=budget.max_synapses_per_core,
        objective=objective,
        steps=steps,
    )
    if trains is None:
        return compare(placement, budget)
    found = compare(placement, budget, _charged(network, placement, trains))
    return replace(found, silent=_silent(network, trains), recordings=len(next(iter(trains.values()))))


def _silent(network: Network, trains: dict[str, np.ndarray]) -> dict[str, int]:
    """Layers without a spike in more than half of the recordings, and in how many."""
    found = {}
    for population in network.populations:
        if population.name in trains and population.name not in network.outputs:
            spikes = trains[population.name]
            quiet = int((~spikes.reshape(len(spikes), -1).any(1)).sum())
            if 2 * quiet > len(spikes):
                found[population.name] = quiet
    return found


def _charged(network: Network, placement: Placement, trains: dict[str, np.ndarray]) -> dict[str, float]:
    found = count(network, placement, trains)
    charged = {"events": float(found.events.sum()) / found.samples}
    if placement.chip.costs is not None:
        bill = spent(found, placement.chip)
        charged |= {"energy_uj": bill.total * 1e-6, "step_us": float(bill.step.mean()) * 1e-3}
    return charged


def compare(placement: Placement, budget: Budget, charged: dict[str, float] | None = None) -> Fill:
    """A placement against a budget of its chip (made with the budget's `max_cores`). charged: see `Fill`."""
    shares: dict[str, float] = {}
    if not math.isinf(budget.cores):
        shares["cores"] = placement.cores / budget.cores
        for key, full in placement.full.items():
            shares[key] = full * placement.cores / budget.cores
    broken = list(placement.broken)
    fullest = int(placement.synapses_per_core.argmax())
    for key, where, used in (
        ("synapses", "network", placement.synapses),
        ("synapses_per_core", f"core {fullest}", int(placement.synapses_per_core[fullest])),
    ):
        allowed = getattr(budget, f"max_{key}")
        if allowed is not None:
            shares[key] = used / allowed
            if used > allowed:
                broken.append(Broken(key, where, used, allowed))
    for key, value in (charged or {}).items():
        most = getattr(budget, f"max_{key}")
        if most is not None:
            shares[key] = value / most
            if value > most:
                broken.append(Broken(key, "network", value, most))
    return Fill(budget, placement, shares, tuple(broken), charged or {})
