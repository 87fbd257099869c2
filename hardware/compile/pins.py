"""Scales that a network brings along: one trained on the chip's integers has them, and compiling must not choose anew.

The metadata `chip_scales` of a graph says, as JSON, for every population the scale of its membrane and for every projection
its exponent and sign mode. The graph's weights, thresholds and biases then lie on that grid, so that rounding returns the
very integers that were trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hardware.errors import HardwareError
from hardware.network.integer import MAX_WEIGHT_EXP, SignMode

KEY = "chip_scales"


@dataclass(frozen=True)
class PinnedProjection:
    """source: name of the population it comes from. latency: steps it takes when layers take none."""

    source: str
    latency: int
    exponent: int
    mode: SignMode


@dataclass(frozen=True)
class PinnedPopulation:
    """scale: integer units (of a weight at the exponent 0) per unit of the graph. projections: all that lead to it."""

    name: str
    scale: float
    projections: tuple[PinnedProjection, ...]

    def match(self, ways: Sequence[tuple[str, int]]) -> list[PinnedProjection]:
        """The projection of each (source, latency). Raises HardwareError where they are not those of the file."""
        left = list(self.projections)
        found = []
        for way in ways:
            fits = next((p for p in left if (p.source, p.latency) == way), None)
            if fits is None:
                raise HardwareError(
                    f"node {self.name!r}: metadata {KEY!r} says nothing of its synapses from {way[0]!r} "
                    f"with a delay of {way[1]}; the graph was changed: drop that entry to choose scales anew"
                )
            left.remove(fits)
            found.append(fits)
        return found


@dataclass(frozen=True)
class Pins:
    """bits: of the weights, as they were trained. netx: whether a NETX file can hold the network."""

    bits: int
    populations: tuple[PinnedPopulation, ...]
    netx: bool = False

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


def read(metadata: Mapping[str, Any], bits: int, netx: bool) -> Pins | None:
    """What a graph's metadata says; None where it says nothing, or where fewer bits than it was trained with are wanted.

    Raises HardwareError for an entry that is damaged, and where a NETX file is to hold what it cannot.
    """
    if KEY not in metadata:
        return None
    try:
        pins = _pins(json.loads(metadata[KEY]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise HardwareError(f"metadata {KEY!r}: expected the scales of a network trained on integers") from None
    if bits < pins.bits:
        return None
    if netx and not pins.netx:
        raise HardwareError(
            "NETX has no weight exponents, and one exponent for biases: this network was trained with others; write "
            "an .h5 file, or train it with --netx"
        )
    return pins


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
            projections.append(PinnedProjection(str(p["source"]), latency, exponent, mode))
        populations.append(PinnedPopulation(str(given["name"]), scale, tuple(projections)))
    bits = int(values["bits"])
    if not 1 <= bits <= 8:
        raise ValueError(bits)
    return Pins(bits, tuple(populations), bool(values.get("netx", False)))
