"""What happens on every core of a placed network in every step: the loads that time and energy follow from.

A spike is a message to each core that one of its neuron's projections has a synapse on, counted per projection (as
outgoing axons are); it makes a synaptic event at each non-zero synapse, counted on the core of the post neuron in the step
of the spike. Every neuron is updated in every step: "active" where it hears an event in that step, "inactive" else. A message
to another tile makes hops, first along the row and then from row to row; spikes of inputs come from outside and make none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from hardware.chip.chips import Chip
from hardware.errors import HardwareError
from hardware.network.connectivity import by_post, shapes
from hardware.network.integer import Network, Projection
from hardware.network.timing import depths
from hardware.placement import Placement
from hardware.placement.packing import transpose
from hardware.placement.rates import Rates, step_rates

if TYPE_CHECKING:
    from hardware.simulate import simulator

# Recordings are counted some at a time, so that arrays of (steps, neurons) stay below that many entries.
_CELLS = 2**24


@dataclass(frozen=True)
class Loads:
    """Counts, float64. Arrays per step are (steps, cores), the steps of all recordings in a row; per layer, (layers, cores), means
    over these steps.

    events: synaptic events. active, inactive: neuron updates. messages_in, messages_out: spikes that arrive at and leave a
        core. hops_x, hops_y: of the messages that it sends.
    layers: names of the populations, in the network's order. layer_events, layer_active, layer_inactive, layer_messages
        (sent): the parts of each.
    multiplied: synaptic events per step (steps,) whose spike carries a count above 1.
    samples: recordings. measured: False where rates were assumed and a step stands for all.
    """

    events: np.ndarray
    active: np.ndarray
    inactive: np.ndarray
    messages_in: np.ndarray
    messages_out: np.ndarray
    hops_x: np.ndarray
    hops_y: np.ndarray
    layers: tuple[str, ...]
    layer_events: np.ndarray
    layer_active: np.ndarray
    layer_inactive: np.ndarray
    layer_messages: np.ndarray
    multiplied: np.ndarray
    samples: int
    measured: bool

    @property
    def steps(self) -> int:
        """Of a recording."""
        return len(self.events) // self.samples

    @property
    def cores(self) -> int:
        return self.events.shape[1]


def spike_trains(network: Network, raster: np.ndarray) -> dict[str, np.ndarray]:
    """Spikes (batch, steps, *shape) of the inputs (counts, or 1 where always on) and of the populations that spike, on the chip's clock, until the
    last has arrived. raster: (batch, steps, *shape) of the only input. Raises HardwareError where it does not fit."""
    return chip_run(network, raster)[0]


def chip_run(
    network: Network, raster: np.ndarray, fresh: bool = False
) -> tuple[dict[str, np.ndarray], simulator.Run]:
    """What `spike_trains` returns, and the run. fresh: states are zeroed before a recording's first step reaches a population, as where
    recordings follow each other, so that the read-out is that of the zero-delay clock, its `depth` later."""
    # Not before it is needed: cores are counted without a simulator.
    from hardware.simulate import given, simulator

    source, late = network.stimulated[0].name, max(depths(network).values())
    checked, _, _ = given.check_rasters(network, raster)
    padded = np.pad(checked[source], [(0, 0), (0, late), *[(0, 0)] * (raster.ndim - 2)])
    record = {p.name: ("spikes",) for p in network.populations if p.spiking}
    interval = padded.shape[1] if fresh else None
    run = simulator.simulate(network, padded, "chip", record, reset_interval=interval)
    always_on = {
        entry.name: np.ones((*padded.shape[:2], *entry.shape), np.uint8)
        for entry in network.inputs
        if entry.constant
    }
    return {source: padded, **always_on, **run.spikes}, run


def measure(network: Network, placement: Placement, raster: np.ndarray) -> Loads:
    """Loads of the recordings of `raster`, (batch, steps, *shape) of the only input, each after the other.

    Raises HardwareError: a raster that does not fit, a network of several inputs or outputs.
    """
    if len(network.stimulated) != 1:
        raise HardwareError(f"the network has {len(network.stimulated)} inputs; loads are counted for one")
    size = max(math.prod(shape) for shape in shapes(network).values())
    each = max(1, _CELLS // (size * raster.shape[1]))
    parts = [
        count(network, placement, spike_trains(network, raster[first : first + each]))
        for first in range(0, len(raster), each)
    ]
    return joined(parts)


def joined(parts: Sequence[Loads]) -> Loads:
    """Loads of recordings that were counted one after the other, of equal steps."""
    samples = sum(part.samples for part in parts)
    weights = np.array([part.samples for part in parts]) / samples
    values: dict[str, np.ndarray] = {}
    for field in fields(Loads):
        each = [getattr(part, field.name) for part in parts]
        if field.name.startswith("layer_"):
            values[field.name] = np.tensordot(weights, np.stack(each), axes=1)
        elif isinstance(each[0], np.ndarray):
            values[field.name] = np.concatenate(each)
    measured = all(part.measured for part in parts)
    return Loads(**values, layers=parts[0].layers, samples=samples, measured=measured)


def count(network: Network, placement: Placement, spikes: Mapping[str, np.ndarray]) -> Loads:
    """Loads of given spikes, (batch, steps, *shape) by population; an entry above 1 is one graded spike, a population that is missing
    is silent."""
    batch, steps = next(iter(spikes.values())).shape[:2]
    trains = {name: values.reshape(batch * steps, -1) for name, values in spikes.items()}
    return _count(network, placement, trains, batch, whole=True, measured=True)


def expected(network: Network, placement: Placement, rates: Rates | None = None, steps: float = 1.0) -> Loads:
    """Loads of a mean step, where neurons fire `rates` times in `steps` steps (see `hardware.placement.rates`).

    A neuron is active as often as it would be if the events came independently of each other.
    """
    trains = step_rates(network, rates, steps)
    rows = {name: rate[None] for name, rate in trains.items()}
    return _count(network, placement, rows, 1, whole=False, measured=rates is not None)


def tiles(chip: Chip, cores: int) -> np.ndarray:
    """(column, row) of each core's tile, int64 (cores, 2); all on one tile where the chip's file has no costs."""
    if chip.costs is None:
        return np.zeros((cores, 2), dtype=np.int64)
    tile = np.arange(cores) // chip.costs.cores_per_tile
    return np.stack([tile % chip.costs.tiles_per_row, tile // chip.costs.tiles_per_row], axis=1)


def _count(
    network: Network,
    placement: Placement,
    trains: Mapping[str, np.ndarray],
    samples: int,
    whole: bool,
    measured: bool,
) -> Loads:
    """trains: (steps, neurons). whole: whether they are counts of spikes, of which one is a graded spike, or else rates."""
    cores, shape = placement.cores, shapes(network)
    rows = len(next(iter(trains.values())))
    where = tiles(placement.chip, cores)
    layers = tuple(p.name for p in network.populations)
    events, active, inactive, arrived, sent, hops_x, hops_y = (np.zeros((rows, cores)) for _ in range(7))
    by_layer = {key: np.zeros((len(layers), cores)) for key in ("events", "active", "inactive", "messages")}
    multiplied = np.zeros(rows)
    nowhere = np.zeros(0, dtype=np.int32)
    for number, name in enumerate(layers):
        core_of = placement.core_of[name]
        heard = np.zeros((rows, len(core_of)), dtype=np.float32 if whole else np.float64)
        own = np.zeros((rows, cores))
        for projection in network.projections:
            if projection.target != name or projection.source not in trains:
                continue
            home = placement.core_of.get(projection.source, nowhere)
            spiking = _Trains.of(trains[projection.source], whole)
            out = np.zeros((rows, cores))
            _deliver(
                spiking, projection, shape, core_of, home, where, own, heard, arrived, out, hops_x, hops_y, multiplied
            )  # fmt: skip
            sent += out
            if projection.source in layers:
                by_layer["messages"][layers.index(projection.source)] += out.mean(axis=0)
        awake = _per_core((heard > 0) if whole else -np.expm1(-heard), core_of, cores)
        asleep = np.bincount(core_of[core_of >= 0], minlength=cores) - awake
        events += own
        active += awake
        inactive += asleep
        for key, values in (("events", own), ("active", awake), ("inactive", asleep)):
            by_layer[key][number] = values.mean(axis=0)
    return Loads(
        events, active, inactive, arrived, sent, hops_x, hops_y, layers,
        **{f"layer_{key}": values for key, values in by_layer.items()},
        multiplied=multiplied, samples=samples, measured=measured,
    )  # fmt: skip


def _per_core(values: np.ndarray, core_of: np.ndarray, cores: int) -> np.ndarray:
    there = core_of >= 0
    return np.stack([np.bincount(core_of[there], weights=row[there], minlength=cores) for row in values])


@dataclass(frozen=True)
class _Trains:
    """The neurons that spike in each step, starts[t]:starts[t + 1] of `neurons`, and how much: 1 a spike, or a rate.

    graded: whether the spike carries a count above 1.
    """

    starts: np.ndarray
    neurons: np.ndarray
    weights: np.ndarray
    graded: np.ndarray

    @classmethod
    def of(cls, trains: np.ndarray, whole: bool) -> _Trains:
        step, neuron = np.nonzero(trains)
        starts = np.zeros(len(trains) + 1, dtype=np.int64)
        np.cumsum(np.bincount(step, minlength=len(trains)), out=starts[1:])
        values = trains[step, neuron]
        weights = np.ones(len(values)) if whole else values.astype(np.float64)
        return cls(starts, neuron.astype(np.int32), weights, (values > 1) & whole)


def _deliver(
    trains: _Trains,
    projection: Projection,
    shape: Mapping[str, tuple[int, ...]],
    core_of: np.ndarray,
    home: np.ndarray,
    where: np.ndarray,
    *counts: np.ndarray,
) -> None:
    """Count one projection's spikes into `counts`, see `counting_loops.spread`."""
    from hardware.placement.counting_loops import (
        spread,
    )  # not before it is needed: Numba takes long to import

    incoming = by_post(projection, shape[projection.source], shape[projection.target])
    head = (trains.starts, trains.neurons, trains.weights, trains.graded, core_of, home, where)
    if incoming.taps is None:
        out_ptr, out_post = transpose(incoming.indptr, incoming.pre, incoming.n_pre)
        taps, geometry = np.zeros((0, 3), dtype=np.int64), np.zeros(10, dtype=np.int64)
    else:
        channel = np.argsort(incoming.taps[:, 0], kind="stable")
        out = np.repeat(np.arange(len(incoming.indptr) - 1), np.diff(incoming.indptr))
        taps = np.column_stack([out, incoming.taps[:, 1:3]])[channel]
        out_ptr = np.zeros(shape[projection.source][0] + 1, dtype=np.int64)
        np.cumsum(np.bincount(incoming.taps[:, 0], minlength=len(out_ptr) - 1), out=out_ptr[1:])
        out_post, geometry = np.zeros(0, dtype=np.int32), incoming.geometry
    spread(*head, out_ptr, out_post, taps, geometry, *counts)
