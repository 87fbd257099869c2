"""Pruning that stops where a network fits a budget, whatever measures it.

A meter says by which factors neurons and synapses should shrink. The goal is estimated anew after every epoch and
approached on the gradual schedule of all goals; at its end the pruner reduces and measures until the network fits.
What fits is not pruned any more, unless learning makes it outgrow the budget again. Where the meter runs recordings, no reduction
may silence a layer, and while learning has silenced one nothing is pruned: a network that does nothing costs nothing, and would fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.goal import Meter, Reading
from dpap_neuro.pruning.masks import Masks
from dpap_neuro.pruning.survival import gradual_share

# Reductions at the end of the schedule before an epoch gives up.
TRIES = 40
# Of a reduction that silences a layer this part is tried last.
GENTLEST = 1 / 16


def approach(
    measure: Callable[[], Reading],
    masks: Masks,
    reduce: Callable[[dict[str, int]], None],
    epoch: int,
    schedule: tuple[int, int],
    left: Callable[[], int],
    keep: Callable[[], Callable[[], None]],
) -> Reading:
    """Prune after `epoch` of the schedule (its first and last) towards what is measured; what was measured last.

    reduce(targets): change the masks so that at most so many "neurons", and of what the pruner counts so many "synapses", are left.
    left(): how many the latter are now. keep(): remember the network and its masks; what it returns brings them back. That is done with
    a reduction that silences a layer, and half of it is tried.
    """
    first, last = schedule

    def sizes() -> dict[str, int]:
        return {"neurons": masks.neuron_count(), "synapses": left()}

    reading = measure()
    if epoch < first:
        return reading
    if reading.silent and not reading.fits:
        # What is pruned cannot wake it, learning may.
        return replace(reading, text=f"{reading.text}; nothing is pruned while a layer is silent")
    whole = share = _share(epoch, first, last)
    lost: tuple[str, ...] = ()
    for _ in range(TRIES):
        if reading.fits or share < GENTLEST * whole:
            break
        before, undo = sizes(), None if reading.silent is None else keep()
        reduce(
            {
                key: max(1, math.floor(before[key] * (1.0 - share * (1.0 - 1.0 / factor))))
                for key, factor in reading.excess.items()
            }
        )
        if before == sizes():
            break
        now = measure()
        if undo is not None and now.silent:
            undo()
            lost, share = now.silent, share / 2
            continue
        reading = now
        if epoch < last:
            break
    if lost and not reading.fits:
        names = ", ".join(lost)
        return replace(reading, text=f"{reading.text}; pruned no further: that would silence layer {names}")
    return reading


def _share(epoch: int, first: int, last: int) -> float:
    """Share of what is left to remove that goes after `epoch`, so that all of it follows `gradual_share`."""
    before = 1.0 - gradual_share(epoch - 1, first, last, 1.0)
    return 1.0 if before <= 0.0 else 1.0 - (1.0 - gradual_share(epoch, first, last, 1.0)) / before


@torch.no_grad()
def check_possible(model: nn.Module, masks: Masks, meter: Meter) -> None:
    """Raises InputError where one channel, neuron and weight in every layer that may be pruned is still too much."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    units, synapses = masks.units, masks.synapses

    def only_first(mask: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(mask)
        mask.view(-1)[0] = True
        return mask

    masks.units = {name: only_first(unit) for name, unit in units.items()}
    masks.synapses = {p.name: only_first(masks.weights[p.name]) for p in masks.structure.prunable}
    masks.refresh()
    masks.apply()
    reading = meter(model)
    masks.units, masks.synapses = units, synapses
    masks.refresh()
    model.load_state_dict(kept)
    if not reading.fits:
        raise InputError(
            f"budget: too small for this network even with one channel or neuron left in every layer ({reading.text}); "
            "the read-out is never pruned"
        )
