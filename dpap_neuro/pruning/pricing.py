"""What a weight and a neuron are charged for when pruning counts synaptic events: rates measured while the network trains.

A weight makes an event whenever an input that it meets is not zero: the spikes that each projection reads, position by position and
per recording, times the connections that the weight makes there (`Projection.sums`). A neuron may cost besides, for its update
in every step and for the messages that its spikes are (`NeuronPrices`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.pruning.inputs import channel_axis, watch_inputs
from dpap_neuro.pruning.labels import tensors
from dpap_neuro.pruning.shrinking import Cut, put
from dpap_neuro.pruning.statistics import reduce_over_ranks
from dpap_neuro.pruning.structure import Projection, Structure

# Events per recording below which a weight costs no less.
LEAST = 1e-3


@dataclass(frozen=True)
class NeuronPrices:
    """What a neuron costs, in synaptic events: update, per recording; message, for each of its spikes and projections that hear it."""

    update: float = 0.0
    message: float = 0.0


class MeasuredRates:
    """Counts what every projection of a network in training mode reads, until `take`.

    time, loop: of the network's input, see `finding.find_structure`. steps: of a recording.
    """

    def __init__(self, model: nn.Module, structure: Structure, *, time: bool, loop: bool, steps: int) -> None:
        self.structure = structure
        self.cut: Cut | None = None
        self._time, self._loop, self._steps = time, loop, steps
        self._counts: dict[str, Tensor] = {}
        self._recordings = 0.0
        self._handles = [
            *watch_inputs(structure, self._seen),
            model.register_forward_pre_hook(self._called, with_kwargs=True),
        ]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _called(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if module.training:
            shape = next(tensors((args, kwargs))).shape
            whole = self._time and not self._loop
            self._recordings += shape[1] if whole else shape[0] / (self._steps if self._loop else 1)

    @torch.no_grad()
    def _seen(self, p: Projection, x: Tensor) -> None:
        if not p.module.training:
            return
        own = (x != 0).flatten(0, channel_axis(p, x) - 1).sum(0, dtype=torch.float32).double()
        if self.cut is not None and own.shape[0] != p.pre.numel():
            whole = own.new_zeros(p.pre.numel(), *own.shape[1:])
            own = put(whole, {0: self.cut.columns[p.name].to(own.device)}, own)
        known = self._counts.get(p.name)
        self._counts[p.name] = own if known is None else known + own

    def take(self) -> dict[str, Tensor]:
        """Counts per recording, (in, *space) on the CPU, of what was seen since the last call, by all ranks."""
        recordings = float(reduce_over_ranks(torch.tensor([self._recordings], dtype=torch.float64)))
        counts = {}
        for p in self.structure.projections.values():
            own = self._counts.get(p.name, torch.zeros(p.pre.numel(), dtype=torch.float64))
            counts[p.name] = reduce_over_ranks(own).cpu() / max(1.0, recordings)
        self._counts, self._recordings = {}, 0.0
        return counts


def neuron_costs(structure: Structure, counts: dict[str, Tensor], prices: NeuronPrices) -> Tensor:
    """What the neurons of every label cost in synaptic events per recording, float64 (labels,)."""
    costs = torch.zeros(len(structure.labels), dtype=torch.float64)
    for population in structure.populations.values():
        each = prices.update * math.prod(population.space)
        costs.index_add_(
            0, population.labels, torch.full((population.labels.numel(),), each, dtype=torch.float64)
        )
    for p in structure.projections.values():
        heard = counts[p.name].flatten(1).sum(1) if counts[p.name].dim() > 1 else counts[p.name]
        costs.index_add_(0, p.pre, prices.message * heard)
    return costs


def paid(events: Tensor) -> Tensor:
    """What a score is divided by where weights pay for the events that they make: a square root, as of connections."""
    return events.clamp_min(LEAST).sqrt()
