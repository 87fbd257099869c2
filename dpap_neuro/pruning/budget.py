"""Pruning that stops where a network fits a budget, whatever measures it.

A meter says by which factors neurons and synapses should shrink. The goal is estimated anew after every epoch and
approached on the gradual schedule of all goals; at its end the pruner reduces and measures until the network fits.
What fits is not pruned any more, unless learning makes it outgrow the budget again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.survival import gradual_share

if TYPE_CHECKING:
    from dpap_neuro.pruning.base import Pruner

# Reductions at the end of the schedule before an epoch gives up.
TRIES = 40


@dataclass(frozen=True)
class Fill:
    """What a network takes of a budget.

    excess: factors above 1 by which "neurons" and "synapses" should shrink, empty where the network fits.
    text: one line; values: plain numbers and strings for a record of the run.
    """

    excess: Mapping[str, float]
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        return not self.excess


# Measures the network as it is, in evaluation or training mode, and leaves it as it was; its str() names the budget.
Meter = Callable[[nn.Module], Fill]


def neurons(pruner: Pruner, units: dict[str, torch.Tensor] | None = None) -> int:
    """Neurons of the channels that (given) units leave alive, over all populations."""
    structure = pruner.structure
    return structure.neurons(structure.alive_labels(pruner.masks.units if units is None else units))


def approach(pruner: Pruner, meter: Meter, epoch: int) -> Fill:
    """Prune after `epoch` towards what the meter asks for; what was measured last."""
    assert pruner.model is not None
    first, last = pruner.schedule()
    fill = meter(pruner.model)
    if epoch < first:
        return fill
    pruner.observe(epoch)
    share = _share(epoch, first, last)
    for _ in range(TRIES if epoch >= last else 1):
        if fill.fits:
            break
        before = {"neurons": neurons(pruner), "synapses": pruner.masks.synapse_count()}
        pruner.targets = {
            key: max(1, math.floor(before[key] * (1.0 - share * (1.0 - 1.0 / factor))))
            for key, factor in fill.excess.items()
        }
        pruner.prune_now(epoch)
        if before == {"neurons": neurons(pruner), "synapses": pruner.masks.synapse_count()}:
            break
        fill = meter(pruner.model)
    return fill


def _share(epoch: int, first: int, last: int) -> float:
    """Share of what is left to remove that goes after `epoch`, so that all of it follows `gradual_share`."""
    before = 1.0 - gradual_share(epoch - 1, first, last, 1.0)
    return 1.0 if before <= 0.0 else 1.0 - (1.0 - gradual_share(epoch, first, last, 1.0)) / before


@torch.no_grad()
def check_possible(pruner: Pruner, meter: Meter) -> None:
    """Raises InputError where one channel, neuron and weight in every layer that may be pruned is still too much."""
    model, masks = pruner.model, pruner.masks
    assert model is not None
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    units, synapses = masks.units, masks.synapses

    def only_first(mask: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(mask)
        mask.view(-1)[0] = True
        return mask

    masks.units = {name: only_first(unit) for name, unit in units.items()}
    masks.synapses = {p.name: only_first(masks.weights[p.name]) for p in pruner.structure.prunable}
    masks.refresh()
    masks.apply()
    fill = meter(model)
    masks.units, masks.synapses = units, synapses
    masks.refresh()
    model.load_state_dict(kept)
    if not fill.fits:
        raise InputError(
            f"budget: too small for this network even with one channel or neuron left in every layer ({fill.text}); "
            "the read-out is never pruned"
        )
