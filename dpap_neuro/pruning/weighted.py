"""Weight times a trace of squared gradients: `weighted`, this project's own, not the published method (`dpap-weighted` until 0.2).

It keeps DPAP's principle, use it or lose it and gradually decay, and the loop of its pruner, but no trace of spikes, no BCM term,
no spine size and no survival value. "Use" is what the loss feels: every weight keeps a trace of its squared gradient,
F <- delta F + (mean over the epoch's batches of g^2). The gradient of a synapse is its pre-synaptic activity times the error of its
post-synaptic neuron, so F is large where a used synapse meets a neuron that matters. Importance is |w| F^(1/4), halfway in the
exponent between |w| alone and |w| F^(1/2), the square root of what removing a weight costs to second order (LeCun, Denker, Solla
1989, with the empirical Fisher information for the curvature).

With a goal of synapses a weight pays for the c connections that it makes (`connection_price`): its importance is divided by
sqrt(c). With a goal of events c is what the weight makes of these: its connections times the rates of their sources, as
measured in the epoch (`pricing`).

A neuron that the read-out reads costs its read-out weights, which are never pruned one by one (`neuron_price`): it lives while
the importance of its synapses above the threshold exceeds threshold times cost, as the Lagrangian of "most importance within
a budget" has it. What went too early can return (`regrow`): each epoch a share of what is left is exchanged for the pruned
weights of the largest gradient.

Prior art. Scores of weight and gradient: optimal brain damage (LeCun et al. 1989), Fisher pruning (Theis et al. 2018, arXiv
1801.05787), Taylor (Molchanov et al. 2019, arXiv 1906.10771), WoodFisher (arXiv 2004.14340), SNIP (arXiv 1810.02340), movement
pruning (arXiv 2005.07683), PLATON (arXiv 2206.12562); of weight and activity: Wanda (arXiv 2306.11695); for spiking networks SpikeFit
(arXiv 2510.15542), SLAMP (arXiv 2603.14946) and OSBC (arXiv 2506.03996). The gradual schedule with regrowth by gradient is that of
GraNet (arXiv 2106.10404). New, as far as we know, is the exponent of 1/4 under a decaying trace together with the prices that
neurons and connections pay within one threshold; each part can be turned off to see what it gives.

structured: whole channels and neurons go first, so that the network can be cut down while it trains (see `units`). They
take part of the reduction, counted in the exponent (size left: the remaining share to the power of UNITS), twice as
fast as the schedule; single weights take the rest.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.goal import COUNTS
from dpap_neuro.pruning.order import ascending
from dpap_neuro.pruning.plasticity import DELTA
from dpap_neuro.pruning.pricing import LEAST, NeuronPrices, neuron_costs, paid
from dpap_neuro.pruning.regrowth import exchange
from dpap_neuro.pruning.scored import Traced, check_exponent, check_share
from dpap_neuro.pruning.scores import weighted
from dpap_neuro.pruning.structure import Projection
from dpap_neuro.pruning.units import within_size

# Units in structured pruning: their part of the reduction.
UNITS = 0.28

# A threshold between the scores of pruned weights, -1, and all others.
BELOW_ALL = -0.5

# Looks for the threshold that leap before they halve.
LEAPS = 8

# Choices that go without saying.
_USUAL = {
    "exponent": 0.25,
    "delta": DELTA,
    "regrow": 0.3,
    "neuron_price": True,
    "connection_price": True,
}


class Weighted(Traced):
    """This project's own: |w| times a trace of its squared gradient, prices and regrowth.

    Importance |w| F^exponent, gradual schedule, neurons that pay for themselves, regrowth; needs a goal and `epochs`.
    exponent: of the trace of squared gradients. delta: decay of that trace per epoch. regrow: share of the remaining
    weights exchanged in the first pruning epoch, falling with a cosine to 0 when the goal is reached. neuron_price: neurons pay
    for their read-out weights. connection_price: with a goal of synapses, weights pay for the connections that they make. With
    exponent 0, regrow 0 and no prices it is `magnitude`. `step` has to come before the gradients are cleared (with several
    ranks: of averaged gradients).
    """

    name = "weighted"
    needs_gradients = True
    counts = COUNTS

    def __init__(
        self,
        *,
        exponent: float = 0.25,
        delta: float = DELTA,
        regrow: float = 0.3,
        neuron_price: bool = True,
        connection_price: bool = True,
        structured: bool = False,
        **goal: Any,
    ) -> None:
        super().__init__(delta=delta, **goal)
        if isinstance(regrow, str):
            raise InputError(f"regrow: found {regrow!r}, expected the share that is regrown, 0 to below 1")
        check_share("regrow", regrow)
        check_exponent(exponent)
        self.exponent = exponent
        self.regrow = regrow
        self.neuron_price = neuron_price
        self.connection_price = connection_price
        self.structured = structured
        prices = {"neuron_price": neuron_price, "connection_price": connection_price}
        self.say(_USUAL, {"exponent": exponent, "delta": delta, "regrow": regrow, **prices})

    def _always_left(self, p: Projection) -> int:
        if not self.neuron_price and not self.structured:
            return super()._always_left(p)
        # Of the read-out what reads from one unit; a layer's last weight may be that of a dead one.
        return p.shape[0] // p.groups * math.prod(p.shape[2:]) if p.readout else 0

    def _prune(self, epoch: int) -> None:
        wanted = self.wanted(epoch)
        if wanted is None:
            return
        self._check_traces()
        if self.structured:
            self._prune_units(self.wanted(self.goal.ahead(epoch)) or wanted)
        scores = self.scores()
        units, masks = self._within(scores, wanted)
        share = self.goal.exchanged(epoch, self.regrow)
        if share:
            # What goes now may return like what went before, from a weight of zero.
            self._set(units, masks)
            self.masks.apply()
            free, _ = self.masks.weight_masks(units, {})
            masks = {
                k: exchange(m, scores[k], self.gradients[k].abs(), free[k] & ~m, share)
                for k, m in masks.items()
            }
        self._set(units, masks)

    def _set(self, units: dict[str, Tensor], synapses: dict[str, Tensor]) -> None:
        self.masks.units, self.masks.synapses = units, synapses
        self.masks.refresh()

    def _prune_units(self, wanted: int) -> None:
        """Units that the network may keep on the way to `wanted` parameters (or synapses)."""
        worth = {name: score.clamp_min(0.0).flatten(1).sum(1) for name, score in self.scores().items()}
        share = (wanted / self.tally.total()) ** UNITS
        self.masks.units = within_size(self.masks, worth, share)
        self.masks.refresh()

    def scores(self) -> dict[str, Tensor]:
        """Importance of every prunable weight; pruned ones below all others."""
        result = {}
        for p in self.structure.prunable:
            score = weighted(self._whole(p.name, p.weight.detach()), self.traces[p.name], self.exponent)
            if self.connection_price and self.goal.count == "synapses":
                score = score / self.tally.sizes(p).to(score).clamp_min(1.0).sqrt()
            elif self.connection_price and self.goal.count == "events":
                score = score / paid(self.tally.sizes(p) / self._usual_price()).to(score)
            result[p.name] = torch.where(self.masks.weights[p.name], score, torch.full_like(score, -1.0))
        return result

    def _within(self, scores: dict[str, Tensor], wanted: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Units and synapses at the lowest threshold that leaves at most `wanted`; everything, where that is little enough."""
        ladder = ascending(torch.cat([s.flatten() for s in scores.values()]))
        # Scores of pruned weights are below 0.
        ladder = torch.cat([ladder.new_tensor([BELOW_ALL]), ladder[torch.searchsorted(ladder, 0.0) :]])
        costs = self._costs()
        low, high = -1, min(len(ladder) - 1, max(0, self._enough(len(ladder), wanted)))
        # A rung takes about one weight, so that few looks are needed; where units go in lumps, halving is surer.
        rate = len(ladder) / self._left(self.masks.units, self.masks.synapses)
        guess, looks = high - 1, 0
        while high - low > 1:
            guess = min(max(guess, low + 1), high - 1)
            excess = self._left(*self._above(scores, ladder[guess], costs)) - wanted
            low, high = (guess, high) if excess > 0 else (low, guess)
            looks += 1
            guess = guess + round(excess * rate) if looks < LEAPS else (low + high) // 2
        return self._above(scores, ladder[high], costs)

    def _enough(self, rungs: int, wanted: int) -> int:
        """The rung from which on at most `wanted` are left whatever becomes of units, so that nothing need be counted.

        Above rung i are at most rungs - 1 - i weights; each layer may keep one more, and so may its units.
        """
        if self.goal.count != "parameters":
            return rungs
        unpruned = sum(math.prod(p.shape) for p in self.structure.projections.values() if p.readout)
        spare = len(self.structure.prunable) + len(self.masks.units)
        return rungs - 1 - (wanted - unpruned - spare)

    def _costs(self) -> Tensor:
        """What each unit makes stay in projections that are not pruned weight by weight, by label."""
        costs = torch.zeros(len(self.structure.labels))
        if not self.neuron_price:
            return costs
        for p in self.structure.projections.values():
            if p.readout:
                per_input = (torch.ones(p.shape) * self.tally.sizes(p)).flatten(1).sum(0)
                per_input = per_input.reshape(p.shape[1], -1).sum(1)
                costs.index_add_(0, p.pre, per_input.float().repeat(p.groups))
        if self.goal.count == "events":
            prices = getattr(self.goal.meter, "neuron_prices", NeuronPrices())
            costs = (
                costs + neuron_costs(self.structure, self.tally.rates, prices)
            ).float() / self._usual_price()
        return costs

    def _usual_price(self) -> float:
        """Events of a mean weight that is not of the read-out: importance is compared with cost, whatever the rates."""
        sizes = [
            self.tally.sizes(p).expand(p.shape).mean() * math.prod(p.shape) for p in self.structure.prunable
        ]
        return max(LEAST, float(sum(sizes)) / sum(math.prod(p.shape) for p in self.structure.prunable))

    def _above(
        self, scores: dict[str, Tensor], threshold: Tensor, costs: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Synapses above a threshold, and the units that are worth their cost at it; none emptied wholly."""
        masks = {}
        worth = -float(threshold) * costs
        for p in self.structure.prunable:
            score = scores[p.name]
            mask = score > threshold
            if not torch.count_nonzero(mask):
                mask.view(-1)[score.argmax()] = True
            masks[p.name] = mask
            if not costs[p.labels].any():
                continue
            excess = (score - threshold).clamp_min(0.0).flatten(1).sum(1).float().cpu()
            worth.index_add_(0, p.labels, excess)
        units = {}
        for name, before in self.masks.units.items():
            labels = self.structure.projections[name].labels
            alive = before & ((worth[labels] > 0.0) | (costs[labels] == 0.0)).to(before.device)
            if not alive.any():
                best = int(torch.where(before.cpu(), worth[labels], torch.tensor(-math.inf)).argmax())
                alive[best] = True
                masks[name][best].view(-1)[scores[name][best].argmax()] = True
            units[name] = alive
        return units, masks

    def _left(self, units: dict[str, Tensor], synapses: dict[str, Tensor]) -> int:
        masks, _ = self.masks.weight_masks(units, synapses)
        return self.tally.left(masks)
