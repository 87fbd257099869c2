"""How much a network's weights take of what a goal counts: parameters, synapses, or synaptic events at measured rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpap_neuro.errors import CannotLearn
from dpap_neuro.pruning.goal import Goal
from dpap_neuro.pruning.masks import Masks, count
from dpap_neuro.pruning.pricing import MeasuredRates
from dpap_neuro.pruning.structure import Projection


class Tally:
    """What a goal counts, of a network's masks.

    measured: with a goal of events, what counts them. rates: what each projection reads per recording, (in, *space), as of the last
    epoch. events_at_first: events before the first weight went, 0 as long as that is.
    """

    def __init__(self, masks: Masks, goal: Goal) -> None:
        self.masks, self.goal = masks, goal
        self.structure = masks.structure
        self.measured: MeasuredRates | None = None
        self.rates: dict[str, Tensor] = {}
        self.events_at_first = 0.0
        self._prices: dict[str, Tensor] = {}

    def take_rates(self, epoch: int) -> None:
        """With a goal of events, charge weights from now on by the rates of the epoch that ends."""
        if self.measured is None:
            return
        self.rates = self.measured.take()
        for name, p in self.structure.projections.items():
            if p.inputs_there is not None:
                # Neurons may have gone since they were heard.
                self.rates[name] = self.rates[name] * p.inputs_there
            self._prices[name] = p.sums(self.rates[name], p.outputs_there)
        if not self.events_at_first and epoch >= self.goal.schedule()[0]:
            self.events_at_first = float(self.left())

    @property
    def is_heard(self) -> bool:
        """Whether every projection reads anything: what a silent layer reads and feeds costs nothing."""
        return all(bool(counts.any()) for counts in self.rates.values())

    def sizes(self, p: Projection) -> Tensor:
        """What each weight of a projection takes; broadcasts to the weight."""
        if self.goal.count == "events":
            return self._prices[p.name]
        return p.connections_left() if self.goal.count == "synapses" else torch.ones(1, 1, dtype=torch.long)

    def left(self, masks: dict[str, Tensor] | None = None) -> int:
        """How much the (given) masks of weights leave, rounded up."""
        masks = self.masks.weights if masks is None else masks
        if self.goal.count == "synapses":
            return self.masks.synapse_count(masks)
        if self.goal.count == "parameters":
            return sum(count(mask) for mask in masks.values())
        events = 0.0
        for name, p in self.structure.projections.items():
            price = self.sizes(p)
            # Rows that are charged alike are counted first.
            mask = masks[name].cpu()
            events += float(
                (mask.sum(0, keepdim=True) if price.shape[0] == 1 else mask).double().mul(price).sum()
            )
        return math.ceil(events)

    def total(self) -> int:
        """Parameters (or synapses) of the whole network; events before the first weight goes."""
        if self.goal.count == "events":
            return max(1, math.ceil(self.events_at_first))
        if self.goal.count == "synapses":
            return sum(layer.synapses for layer in self.masks.layers())
        return self.masks.parameters()

    def check_goal(self, pruner: str, always_left: dict[str, int]) -> None:
        """Raises CannotLearn for a goal below what is left whatever it is, always_left: weights of each projection."""
        goal = self.goal
        if not goal.is_number or goal.count == "events":
            # How often the read-out's inputs will spike, nobody knows yet.
            return
        wanted = goal.at_end(self.total())
        least = sum(
            always_left[p.name] * int(self.sizes(p).min()) for p in self.structure.projections.values()
        )
        if wanted < least:
            text = "remaining" if goal.sparsity is None else f"sparsity {goal.sparsity:g}"
            raise CannotLearn(
                f"pruner {pruner}: found {text}, {wanted:,} {goal.count} left, expected at least {least:,}: the read-out is "
                "not pruned, and no layer is emptied"
            )
