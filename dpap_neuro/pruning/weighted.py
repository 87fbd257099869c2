"""DPAP weighted by the synapse itself: our extension, not the published method.

The published importance never looks at a weight. Here a synapse is worth |w| * (x_j / mean x) ** power: its
weight, and how active its pre-synaptic side is within its layer, by the mean activity x of DPAP's traces.
The power is small: a square root ended at a higher training loss than |w| alone in our trials. Every epoch
the least important go, on a gradual schedule, and a share of what went is regrown where the loss gradient asks
for it most, in exchange for the least important that were left.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.baselines import _WithGoal


class WeightedDPAP(_WithGoal):
    """Importance |w| * (pre-synaptic activity) ** power, gradual schedule, regrowth; needs a goal, `epochs`.

    power: exponent of the trace. regrow: share of the remaining synapses exchanged in the first pruning
    epoch, falling with a cosine to 0 when the goal is reached.
    """

    name = "dpap-weighted"
    needs_statistics = True

    def __init__(self, *, power: float = 0.25, regrow: float = 0.1, **goal: Any) -> None:
        super().__init__(**goal)
        if not 0.0 <= regrow < 1.0:
            raise InputError(f"regrow: found {regrow}, expected 0 to below 1")
        self.power = power
        self.regrow = regrow
        self.needs_gradients = regrow > 0.0

    def _prune(self, epoch: int) -> None:
        wanted = self.wanted(epoch)
        if wanted is None:
            return
        scores = self.scores()
        before = self.masks.weights
        masks = self._keep(scores, wanted)
        assert self.epochs is not None
        progress = (epoch + 1) / max(1.0, self.reach * self.epochs)
        if self.regrow and progress < 1.0 and self.gradients:
            share = self.regrow * 0.5 * (1.0 + math.cos(math.pi * progress))
            masks = {k: self._exchange(k, m, scores[k], before[k], share) for k, m in masks.items()}
        self.masks.synapses = masks
        self.masks.refresh()

    def scores(self) -> dict[str, Tensor]:
        """Importance of every prunable weight; pruned ones below all others."""
        statistics = self.statistics
        assert statistics is not None
        result = {}
        for p in self.structure.prunable:
            pre = statistics.pre_activity(p)
            # Within the layer: between layers |w| alone decides.
            pre = pre.clamp_min(0.0)
            pre = (pre / pre.mean().clamp_min(torch.finfo(pre.dtype).tiny)).pow(self.power)
            pre = pre.reshape(*pre.shape, *[1] * (p.weight.dim() - 2))
            score = p.weight.detach().abs() * pre
            result[p.name] = torch.where(self.masks.weights[p.name], score, torch.full_like(score, -1.0))
        return result

    def _exchange(self, name: str, mask: Tensor, score: Tensor, before: Tensor, share: float) -> Tensor:
        """Give up the least important `share` of a layer's synapses for pruned ones with the largest
        gradient.
        """
        gradient = self.gradients.get(name)
        pruned = ~before.flatten()
        moved = min(int(share * int(mask.sum())), int(pruned.sum()))
        if gradient is None or moved == 0:
            return mask
        flat = mask.flatten().clone()
        least = torch.topk(torch.where(flat, score.flatten(), math.inf), moved, largest=False).indices
        appeal = torch.where(pruned & ~flat, gradient.abs().flatten(), -math.inf)
        best = torch.topk(appeal, moved)
        flat[least] = False
        flat[best.indices[best.values > -math.inf]] = True
        return flat.reshape(mask.shape)
