"""Which channels and neurons a network keeps when it may only have a share of its size.

Size is the mean of two shares, of the connections that the unrolled network would make with every weight between living
units, and of its neurons: what a training step does for synapses and for membranes, and what a chip stores. A unit lives
while the importance of its weights exceeds a price times what it adds to the size. The price is the same for all layers and
the lowest one that suffices, so that units go where most is saved for the importance that is lost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpap_neuro.pruning.masks import Masks
from dpap_neuro.pruning.structure import Projection, Structure


def _rows_and_columns(p: Projection, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Living units and inputs of a projection, (groups, out / groups) and (groups, in / groups)."""
    rows = torch.ones_like(alive[p.labels]) if p.readout else alive[p.labels]
    return rows.double().reshape(p.groups, -1), alive[p.pre].double().reshape(p.groups, -1)


def _connections(structure: Structure, alive: Tensor) -> float:
    total = 0.0
    for p in structure.projections.values():
        rows, columns = _rows_and_columns(p, alive)
        total += float((rows.sum(1) * columns.sum(1)).sum()) * int(p.connections().sum())
    return total


def _neurons(structure: Structure, alive: Tensor) -> float:
    return float(sum(int(alive[p.labels].sum()) * math.prod(p.space) for p in structure.populations.values()))


def network_size(structure: Structure, units: dict[str, Tensor]) -> float:
    """Size, 0 to 1, of the network in which units (out,) per projection are alive."""
    alive, every = structure.alive_labels(units), structure.alive_labels({})
    connections = _connections(structure, alive) / _connections(structure, every)
    return 0.5 * (connections + _neurons(structure, alive) / max(1.0, _neurons(structure, every)))


def unit_sizes(structure: Structure, units: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the size loses with each unit alone, (out,) per projection: its neurons, and what it reads and feeds now."""
    alive, every = structure.alive_labels(units), structure.alive_labels({})
    connections, neurons = _connections(structure, every), max(1.0, _neurons(structure, every))
    sizes = torch.zeros(len(structure.labels), dtype=torch.double)
    for p in structure.projections.values():
        rows, columns = _rows_and_columns(p, alive)
        each = 0.5 * int(p.connections().sum()) / connections
        if not p.readout:
            sizes.index_add_(0, p.labels, (rows * columns.sum(1, keepdim=True)).flatten() * each)
        sizes.index_add_(0, p.pre, (columns * rows.sum(1, keepdim=True)).flatten() * each)
    for population in structure.populations.values():
        own = torch.ones(population.labels.numel(), dtype=torch.double)
        sizes.index_add_(0, population.labels, own, alpha=0.5 * math.prod(population.space) / neurons)
    return {name: sizes[structure.projections[name].labels] for name in units}


def worth_their_size(masks: Masks, worth: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Units (out,) per projection that live at the lowest price at which the size is at most `share`.

    worth: importance of each unit, (out,) per projection, at least 0. Dead units stay dead; every projection keeps one.
    """
    structure, before = masks.structure, {name: unit.cpu() for name, unit in masks.units.items()}
    if network_size(structure, before) <= share:
        return masks.units
    sizes = unit_sizes(structure, before)
    rates = {
        name: torch.where(unit, worth[name].cpu().double() / sizes[name].clamp_min(1e-12), -1.0)
        for name, unit in before.items()
    }

    def alive(price: float) -> dict[str, Tensor]:
        units = {name: rate > price for name, rate in rates.items()}
        for name, unit in units.items():
            if not unit.any():
                unit[rates[name].argmax()] = True
        return units

    ladder = torch.cat(list(rates.values())).unique().tolist()
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high) // 2
        if network_size(structure, alive(ladder[middle])) > share:
            low = middle + 1
        else:
            high = middle
    return {name: unit.to(masks.units[name].device) for name, unit in alive(ladder[high]).items()}
