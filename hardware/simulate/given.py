"""What a run is given, checked: rasters of its inputs, and what of its populations is to be recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from hardware.errors import HardwareError
from hardware.network.integer import STATE_LIMIT, Network

Array = np.ndarray
Rasters = Array | Mapping[str, Array]
Record = Collection[str] | Mapping[str, Collection[str]]

VARIABLES = ("spikes", "u", "v")
# Lava's graded messages have 24 bit.
MAX_COUNT = STATE_LIMIT - 1


def check_rasters(network: Network, raster: Rasters) -> tuple[dict[str, Array], int, int]:
    """The rasters by name of the input, those of always-on inputs filled in, batch and steps.

    Raises HardwareError where they do not fit.
    """
    return with_largest(network, raster)[:3]


def with_largest(network: Network, raster: Rasters) -> tuple[dict[str, Array], int, int, int]:
    """As `check_rasters`, and the largest count."""
    shapes = {entry.name: tuple(entry.shape) for entry in network.stimulated}
    if not isinstance(raster, Mapping):
        if len(shapes) != 1:
            raise HardwareError(f"the network has {len(shapes)} inputs: give a raster for each, by name")
        raster = {next(iter(shapes)): raster}
    if set(raster) != set(shapes):
        raise HardwareError(
            f"rasters are given for {sorted(raster)}, the network's inputs are {sorted(shapes)}"
        )
    checked, largest = {}, max((entry.constant for entry in network.inputs), default=0)
    for name, shape in shapes.items():
        array = np.asarray(raster[name])
        check_shape(name, array, shape)
        if array.dtype.kind not in "biuf":
            raise HardwareError(f"the raster for {name!r} holds {array.dtype}, expected whole numbers")
        if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.trunc(array))).all():
            raise HardwareError(f"the raster for {name!r} holds values that are no whole numbers")
        most = _most(array)
        if most > MAX_COUNT:
            raise HardwareError(
                f"the raster for {name!r} holds counts from {array.min():.12g} to {array.max():.12g}, expected "
                f"0 to {MAX_COUNT}"
            )
        largest = max(largest, most)
        checked[name] = array
    batch, steps = batch_and_steps(checked)
    # In the network's order, and an always-on input without the memory of its spikes.
    filled = {
        entry.name: checked[entry.name]
        if entry.name in checked
        else np.broadcast_to(np.uint8(entry.constant), (batch, steps, *entry.shape))
        for entry in network.inputs
    }
    return filled, batch, steps, largest


def check_shape(name: str, raster: Array, shape: tuple[int, ...]) -> None:
    """Raises HardwareError for a raster that is not (batch, steps, *shape)."""
    if raster.ndim != 2 + len(shape) or raster.shape[2:] != shape:
        raise HardwareError(
            f"the raster for {name!r} has shape {raster.shape}, expected (batch, steps, {', '.join(map(str, shape))})"
        )


def batch_and_steps(rasters: Mapping[str, Array]) -> tuple[int, int]:
    """Of all rasters, at least one. Raises HardwareError where they differ."""
    sizes = {raster.shape[:2] for raster in rasters.values()}
    if len(sizes) != 1:
        raise HardwareError(f"the rasters differ in batch or steps: {sorted(sizes)}")
    return sizes.pop()


def _most(raster: Array) -> int:
    """The largest count, in one pass over what caches may not hold; above MAX_COUNT where one is negative."""
    if not raster.size:
        return 0
    if raster.dtype.kind == "i":
        # Without their sign, negative numbers are the largest of all.
        most = int(raster.view(raster.dtype.str.replace("i", "u")).max())
        return most if most <= np.iinfo(raster.dtype).max else MAX_COUNT + 1
    negative = raster.dtype.kind == "f" and bool(raster.min() < 0)
    return MAX_COUNT + 1 if negative else int(raster.max())


def wanted_variables(network: Network, record: Record) -> dict[str, tuple[str, ...]]:
    """The variables to record of each population named; HardwareError for a name or a variable unknown."""
    names = [population.name for population in network.populations]
    if isinstance(record, str):
        record = [record]
    if not isinstance(record, Mapping):
        record = dict.fromkeys(record, VARIABLES)
    for name, variables in record.items():
        if name not in names:
            raise HardwareError(f"record names {name!r}, the network has {', '.join(names)[:300]}")
        if isinstance(variables, str) or not set(variables) <= set(VARIABLES):
            raise HardwareError(f"record asks for {variables!r} of {name!r}, expected some of {VARIABLES}")
    return {name: tuple(v for v in VARIABLES if v in variables) for name, variables in record.items()}
