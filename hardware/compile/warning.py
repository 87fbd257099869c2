"""What makes a compiled population doubtful: weights that all became zero, neurons that can never fire."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hardware.compile.quantise import ACTIVATION_UNIT
from hardware.network.connectivity import shapes
from hardware.network.integer import (
    MAX_DECAY,
    ConvProjection,
    DenseProjection,
    Network,
    Population,
    Projection,
)

Array = np.ndarray


def warnings_of(network: Network, counts: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Of populations by name, where there is something to warn of.

    counts: the largest count of a spike of each input. A neuron can fire where the most that its excitatory synapses
    bring in one step, step after step, drives its membrane above the threshold.
    """
    shape = shapes(network)
    found = {}
    for population in network.populations:
        into = [p for p in network.projections if p.target == population.name]
        n, alive = math.prod(population.shape), True if population.dead is None else ~population.dead
        said = []
        if into and not any(np.any(p.weight) for p in into):
            said.append(f"all weights to {population.name!r} became 0")
        if population.spiking:
            most = np.zeros(n)
            for p in into:
                excitation = _excitation(p, shape[p.target])
                most += excitation * counts.get(p.source, 1) * 2.0**p.weight_exp
            if not (_fires(population, most) & alive).any():
                said.append(f"{population.name!r} can never fire: no input drives it above its threshold")
        if said:
            found[population.name] = tuple(said)
    return found


def _excitation(projection: Projection, target: tuple[int, ...]) -> Array:
    """The largest sum of positive mantissas at each target neuron, or a bound of it."""
    if isinstance(projection, ConvProjection):
        by_channel = np.maximum(projection.weight.astype(np.int64), 0).sum(axis=(1, 2, 3))
        return np.repeat(by_channel, math.prod(target) // target[0])
    if isinstance(projection, DenseProjection):
        return np.maximum(projection.weight, 0).sum(axis=1, dtype=np.float64)
    return np.bincount(projection.post, np.maximum(projection.weight, 0), math.prod(target))


def _fires(population: Population, most: Array) -> Array:
    def each(value: int | Array) -> Array:
        return np.broadcast_to(np.asarray(value).reshape(-1), most.shape).astype(np.float64)

    current = most * ACTIVATION_UNIT * MAX_DECAY / (each(population.du) + 1)
    drive = current + each(population.bias_mant) * 2.0**population.bias_exp
    leak = each(population.dv) / MAX_DECAY
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = np.where(leak > 0, drive / leak, np.where(drive > 0, np.inf, drive))
    return reached > each(population.vth) * ACTIVATION_UNIT
