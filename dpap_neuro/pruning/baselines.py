"""What DPAP is measured against, with the same interface: magnitude, random, and dynamic sparse training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.base import Pruner
from dpap_neuro.pruning.structure import Projection


def keep_largest(
    scores: dict[str, Tensor], keep: int, sizes: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Masks of the weights with the largest scores over all layers, `keep` of them; at least one in each
    layer.

    sizes: connections each weight makes (broadcasts to it); then `keep` counts connections.
    """
    flat = torch.cat([s.flatten() for s in scores.values()])
    if sizes is None:
        mask = _largest(flat, min(max(0, keep), flat.numel()))
    else:
        order = torch.argsort(flat, descending=True, stable=True)
        weight = torch.cat([sizes[k].expand(s.shape).flatten() for k, s in scores.items()])
        mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
        mask[order[torch.cumsum(weight[order], 0) <= keep]] = True
    parts = mask.split([s.numel() for s in scores.values()])
    result = {}
    for (name, score), part in zip(scores.items(), parts, strict=True):
        part = part.clone()
        if not part.any():
            part[score.argmax()] = True
        result[name] = part.reshape(score.shape)
    return result


def _largest(flat: Tensor, keep: int) -> Tensor:
    """Mask of the `keep` largest elements; of equal ones the first."""
    if keep == 0:
        return torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    threshold = torch.kthvalue(flat, flat.numel() - keep + 1).values
    mask = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[: keep - int(mask.sum())]] = True
    return mask


class Unpruned(Pruner):
    """Removes nothing: the dense network."""

    name = "none"
    takes_budget = False

    def __init__(self, *, epochs: int | None = None) -> None:
        super().__init__(epochs=epochs)

    def describe(self) -> str:
        return f"{self.name}: removes nothing"


class SingleWeights(Pruner):
    """Base of pruners of single weights, which need a goal."""

    def __init__(self, **goal: Any) -> None:
        super().__init__(**goal)
        if not self.goal.is_given:
            raise InputError(f"pruner {self.name}: found no goal, expected sparsity or remaining")

    def _keep(self, scores: dict[str, Tensor], wanted: int) -> dict[str, Tensor]:
        """Keep the best weights so that, with the read-out, `wanted` parameters (or synapses) are left."""
        projections = self.structure.projections
        if self.goal.count == "synapses":
            sizes = {n: projections[n].connections().to(s.device) for n, s in scores.items()}
            fixed = sum(layer.synapses for layer in self.masks.layers() if layer.name not in scores)
            return keep_largest(scores, wanted - fixed, sizes)
        fixed = sum(p.weight.numel() for p in projections.values() if p.name not in scores)
        return keep_largest(scores, wanted - fixed)


class Magnitude(SingleWeights):
    """The smallest weights of all layers, gradually (Zhu, Gupta, arXiv 1710.01878)."""

    name = "magnitude"

    def _prune(self, epoch: int) -> None:
        wanted = self.wanted(epoch)
        if wanted is None:
            return
        self.masks.synapses = self._keep(self._scores(), wanted)
        self.masks.refresh()

    def _scores(self) -> dict[str, Tensor]:
        scores = {}
        for p in self.structure.prunable:
            # What is pruned never returns, even where a living weight happens to be zero.
            scores[p.name] = torch.where(
                self.masks.weights[p.name], p.weight.detach().abs(), torch.full_like(p.weight, -1.0)
            )
        return scores


class MagnitudePerLayer(Magnitude):
    """The smallest weights of each layer, the same share of all layers."""

    name = "magnitude-layer"

    def _scores(self) -> dict[str, Tensor]:
        # Within-layer ranks on one scale turn the global rule into the same share for each layer.
        return {k: _rank_from_top(v) for k, v in super()._scores().items()}


def _rank_from_top(values: Tensor) -> Tensor:
    flat = values.flatten()
    ranks = torch.empty_like(flat)
    order = torch.argsort(flat, stable=True)
    ranks[order] = torch.linspace(0.0, 1.0, flat.numel(), device=flat.device, dtype=flat.dtype)
    return ranks.reshape(values.shape)


class Random(SingleWeights):
    """Weights in a random order, drawn once from the seed."""

    name = "random"

    def _attached(self) -> None:
        self._order = {
            p.name: torch.rand(p.weight.shape, generator=self.generator).to(p.weight.device)
            for p in self.structure.prunable
        }

    def _prune(self, epoch: int) -> None:
        wanted = self.wanted(epoch)
        if wanted is not None:
            self.masks.synapses = self._keep(self._order, wanted)
            self.masks.refresh()


class Rewiring(SingleWeights):
    """Base of dynamic sparse training: sparse from the start, rewired after every epoch.

    Layers get an Erdos-Renyi-kernel share of the weights; the share rewired falls with a cosine from `fraction` to 0 at
    `reach` of the run.
    """

    takes_budget = False

    def __init__(self, *, fraction: float = 0.3, **goal: Any) -> None:
        super().__init__(**goal)
        if not 0.0 <= fraction < 1.0:
            raise InputError(f"fraction: found {fraction}, expected 0 to below 1")
        if self.goal.count != "parameters":
            raise InputError(f"pruner {self.name}: found count {self.goal.count!r}, expected 'parameters'")
        self.fraction = fraction

    def _attached(self) -> None:
        wanted = self.goal.at_end(self.masks.parameters())
        fixed = sum(p.weight.numel() for p in self.structure.projections.values() if p.readout)
        layers = {p.name: p.weight for p in self.structure.prunable}
        keep = erdos_renyi_kernel({k: tuple(w.shape) for k, w in layers.items()}, max(0, wanted - fixed))
        for name, weight in layers.items():
            order = torch.rand(weight.numel(), generator=self.generator).to(weight.device)
            mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
            mask[torch.topk(order, keep[name]).indices] = True
            self.masks.synapses[name] = mask.reshape(weight.shape)
        self.masks.refresh()
        self.masks.apply()
        self._before = self.masks.remaining()

    def _prune(self, epoch: int) -> None:
        share = self.goal.exchanged(epoch, self.fraction)
        for p in self.structure.prunable:
            mask = self.masks.synapses[p.name].flatten().clone()
            moved = min(int(share * int(mask.sum())), int((~mask).sum()))
            if moved == 0:
                continue
            size = torch.where(mask, p.weight.detach().abs().flatten(), math.inf)
            dropped = torch.topk(size, moved, largest=False).indices
            appeal = torch.where(mask, -math.inf, self._appeal(p).flatten())
            mask[dropped] = False
            mask[torch.topk(appeal, moved).indices] = True
            self.masks.synapses[p.name] = mask.reshape(p.weight.shape)
        self.masks.refresh()

    def _appeal(self, p: Projection) -> Tensor:
        """Of a projection's weights: the pruned ones with the largest are regrown."""
        return torch.rand(p.weight.numel(), generator=self.generator).to(p.weight.device)


class SET(Rewiring):
    """Sparse from the start, regrown at random (Mocanu et al. 2018, doi 10.1038/s41467-018-04316-3)."""

    name = "set"


class RigL(Rewiring):
    """Sparse from the start, regrown where gradients are large (Evci et al., arXiv 1911.11134)."""

    name = "rigl"
    needs_gradients = True

    def _appeal(self, p: Projection) -> Tensor:
        return self.gradients[p.name].abs() if p.name in self.gradients else super()._appeal(p)


def erdos_renyi_kernel(shapes: dict[str, tuple[int, ...]], keep: int) -> dict[str, int]:
    """Weights to keep per layer, `keep` in all: density proportional to (sum of dimensions) / (product of
    them).
    """
    sizes = {k: math.prod(s) for k, s in shapes.items()}
    keep = min(max(keep, len(shapes)), sum(sizes.values()))
    full: set[str] = set()
    while True:
        left = keep - sum(sizes[k] for k in full)
        weight = {k: float(sum(shapes[k])) for k in shapes if k not in full}
        scale = left / sum(weight.values()) if weight else 0.0
        over = {k for k, w in weight.items() if w * scale > sizes[k]}
        if not over:
            break
        full |= over
    result = {k: sizes[k] if k in full else max(1, int(weight[k] * scale)) for k in shapes}
    for k in shapes:
        spare = keep - sum(result.values())
        if spare > 0:
            result[k] += min(spare, sizes[k] - result[k])
    return result
