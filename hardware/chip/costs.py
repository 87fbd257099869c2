"""What a chip takes for what happens on it: time and energy per event, and where its cores lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardware.errors import HardwareError

if TYPE_CHECKING:
    from hardware.chip.chips import Chip


@dataclass(frozen=True)
class Costs:
    """The group `[costs]` of a chip's file, `_ns` in nanoseconds and `_pj` in picojoules.

    synaptic_event: a spike at one synapse. active_neuron, inactive_neuron: the update of a neuron that heard an event in the
        step, and of one that heard none. message: a spike on its way to one core, within a tile. hop_x, hop_y: each step of
        that way from tile to tile, along a row or from row to row.
    barrier_one_tile, barrier_all_tiles: what all cores take to end a step together, where they fill one tile of the chip or all.
    cores_per_tile, tiles_per_row: core c lies on tile c // cores_per_tile, tiles lie row by row.
    assumed: the keys whose source begins with "assumption".
    """

    synaptic_event_ns: float
    synaptic_event_pj: float
    active_neuron_ns: float
    active_neuron_pj: float
    inactive_neuron_ns: float
    inactive_neuron_pj: float
    message_ns: float
    message_pj: float
    hop_x_ns: float
    hop_x_pj: float
    hop_y_ns: float
    hop_y_pj: float
    barrier_one_tile_ns: float
    barrier_all_tiles_ns: float
    cores_per_tile: int
    tiles_per_row: int
    assumed: tuple[str, ...] = ()


# Keys that are times or energies.
COSTS = tuple(key for key in Costs.__annotations__ if key.endswith(("_ns", "_pj")))


def needed(chip: Chip) -> Costs:
    """The costs of a chip. Raises HardwareError where its file has none."""
    if chip.costs is None:
        raise HardwareError(
            f"chip {chip.name!r}: its file has no costs, so there are loads but no times; expected [costs.<key>] tables"
        )
    return chip.costs


def barrier(chip: Chip, cores: int) -> float:
    """Nanoseconds that so many cores take to end a step together: linear in their tiles, between one and all of the chip."""
    costs = needed(chip)
    tiles = -(-cores // costs.cores_per_tile)
    every = math.ceil(chip.cores / costs.cores_per_tile) if chip.cores < math.inf else math.inf
    share = min(1.0, (tiles - 1) / (every - 1)) if every > 1 else 0.0
    return costs.barrier_one_tile_ns + share * (costs.barrier_all_tiles_ns - costs.barrier_one_tile_ns)
