"""Scales that a network brings along: one trained on the chip's integers has them, and compiling must not choose anew.

The metadata `chip_scales` of a graph says, as JSON, for every population the scale of its membrane and for every projection
its exponent and sign mode. The graph's weights, thresholds and biases then lie on that grid, so that rounding returns the
very integers that were trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hardware.chip.chips import Chip
from hardware.compile import quantise
from hardware.compile.scaling import Demand, Scaling
from hardware.errors import HardwareError
from hardware.network.integer import MAX_WEIGHT_EXP, SignMode

KEY = "chip_scales"


@dataclass(frozen=True)
class PinnedProjection:
    """source: name of the population it comes from, None for the input that is always on. latency: steps it takes when layers
    take none."""

    source: str | None
    latency: int
    exponent: int
    mode: SignMode


@dataclass(frozen=True)
class PinnedPopulation:
    """scale: integer units (of a weight at the exponent 0) per unit of the graph. projections: all that lead to it."""

    name: str
    scale: float
    projections: tuple[PinnedProjection, ...]

    def applied(self, demand: Demand, chip: Chip, always_on: str) -> tuple[Demand, Scaling]:
        """The population with these sign modes, and its scaling. Raises HardwareError where projections are not those of the
        file, or the chip has not their exponents."""
        left, weights, exponents = list(self.projections), [], []
        for w in demand.weights:
            way = (None if w.path.source == always_on else w.path.source, w.path.latency)
            found = next((p for p in left if (p.source, p.latency) == way), None)
            if found is None:
                raise HardwareError(
                    f"node {self.name!r}: metadata {KEY!r} says nothing of its synapses from {w.path.source!r}; the graph "
                    "was changed: drop that entry to choose scales anew"
                )
            left.remove(found)
            low, high = chip.neuron.weight_exponents
            if not low <= found.exponent <= high:
                raise HardwareError(
                    f"node {self.name!r}: its synapses from {w.path.source!r} were trained with the weight exponent "
                    f"{found.exponent}, {chip.name} has {low} to {high}; train the network for it"
                )
            weights.append(replace(w, mode=found.mode))
            exponents.append((found.exponent,))
        thresholds = demand.thresholds
        drives = demand.drives * self.scale * quantise.ACTIVATION_UNIT
        mantissas, bias_exp = quantise.bias_mantissa(
            drives, chip.neuron.network_bias_exponents, chip.neuron.largest_bias
        )
        return replace(demand, weights=weights), Scaling(
            np.full(int(demand.group.max()) + 1, self.scale),
            tuple(exponents),
            np.zeros(len(drives), np.int64) if thresholds is None else np.rint(thresholds * self.scale),
            mantissas * 2.0**bias_exp,
            bias_exp,
            on_grid=True,
        )


@dataclass(frozen=True)
class Pins:
    """bits: of the weights, as they were trained."""

    bits: int
    populations: tuple[PinnedPopulation, ...]

    def of(self, name: str) -> PinnedPopulation:
        """Raises HardwareError for a population that is not known."""
        for population in self.populations:
            if population.name == name:
                return population
        raise HardwareError(
            f"node {name!r}: metadata {KEY!r} says nothing of it; the graph was changed: drop that entry to choose "
            "scales anew"
        )


def write(pins: Pins) -> str:
    """The entry `chip_scales` of a graph's metadata."""
    return json.dumps(asdict(pins))


def read(metadata: Mapping[str, Any], bits: int) -> Pins | None:
    """What a graph's metadata says; None where it says nothing, or where fewer bits than it was trained with are wanted.

    Raises HardwareError for an entry that is damaged.
    """
    if KEY not in metadata:
        return None
    try:
        pins = _pins(json.loads(metadata[KEY]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise HardwareError(
            f"metadata {KEY!r}: expected the scales of a network trained on integers"
        ) from None
    return pins if bits >= pins.bits else None


def _pins(values: Any) -> Pins:
    populations = []
    for given in values["populations"]:
        scale = float(given["scale"])
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(scale)
        projections = []
        for p in given["projections"]:
            exponent, latency, mode = int(p["exponent"]), int(p["latency"]), p["mode"]
            if not 0 <= exponent <= MAX_WEIGHT_EXP or mode not in ("mixed", "excitatory", "inhibitory"):
                raise ValueError(exponent, mode)
            source = None if p["source"] is None else str(p["source"])
            projections.append(PinnedProjection(source, latency, exponent, mode))
        populations.append(PinnedPopulation(str(given["name"]), scale, tuple(projections)))
    bits = int(values["bits"])
    if not 1 <= bits <= 8:
        raise ValueError(bits)
    return Pins(bits, tuple(populations))
