"""Which channels and neurons a network keeps when it may only have a share of its size.

Size is the mean of two shares, of the connections that the unrolled network would make with every weight between living
units, and of its neurons: what a training step does for synapses and for membranes, and what a chip stores. Every layer
gives up the same share of its units, the least important first: where layers competed, by importance for the size that
a unit takes, the first convolution lost most of its channels. What is left of a layer is rounded to whole lots of units,
since kernels of processors and GPUs work in such.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpap_neuro.pruning.masks import Masks
from dpap_neuro.pruning.structure import Structure

LOT = 8


def _connections(structure: Structure, alive: Tensor) -> float:
    total = 0.0
    for p in structure.projections.values():
        rows = torch.ones_like(alive[p.labels]) if p.readout else alive[p.labels]
        # Within each group, every living unit hears every living input.
        pairs = rows.double().reshape(p.groups, -1).sum(1) * alive[p.pre].double().reshape(p.groups, -1).sum(
            1
        )
        total += float(pairs.sum()) * int(p.connections().sum())
    return total


def network_size(structure: Structure, units: dict[str, Tensor]) -> float:
    """Size, 0 to 1, of the network in which units (out,) per projection are alive."""
    alive, every = structure.alive_labels(units), structure.alive_labels({})
    connections = _connections(structure, alive) / _connections(structure, every)
    return 0.5 * (connections + structure.neurons(alive) / max(1, structure.neurons(every)))


def within_size(masks: Masks, worth: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The most important units (out,) per projection, as large a part of every layer, of size at most `share`.

    worth: importance of each unit, (out,) per projection. Dead units stay dead; every projection keeps one.
    """
    structure, before = masks.structure, {name: unit.cpu() for name, unit in masks.units.items()}
    if network_size(structure, before) <= share:
        return masks.units
    places = {name: _places(worth[name].cpu(), unit) for name, unit in before.items()}

    def best(part: float) -> dict[str, Tensor]:
        return {
            name: place <= in_lots(int((place <= part).sum())) / len(place) for name, place in places.items()
        }

    ladder = torch.cat(list(places.values())).unique().tolist()
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if network_size(structure, best(ladder[middle])) > share:
            high = middle - 1
        else:
            low = middle
    return {name: unit.to(masks.units[name].device) for name, unit in best(ladder[low]).items()}


def in_lots(count: int) -> int:
    """The number of units nearest to `count` that is a multiple of LOT, halves up; small layers, below two LOTs, unrounded."""
    return max(1, count) if count < 2 * LOT else (count + LOT // 2) // LOT * LOT


def _places(worth: Tensor, alive: Tensor) -> Tensor:
    """The part of its layer that lives where each unit is the last to: 1 / out for the most important, infinite for the dead."""
    order = torch.where(alive, worth.double(), -math.inf).argsort(descending=True, stable=True)
    places = torch.empty(len(worth), dtype=torch.double)
    places[order] = torch.arange(1, len(worth) + 1, dtype=torch.double) / len(worth)
    return torch.where(alive, places, math.inf)
