"""How many weights each layer keeps: from scores to masks, as pure functions of (scores, keep, sizes).

scores: a tensor of the weight's shape for each layer, below zero where a weight is pruned already. keep: weights to keep over
all layers. sizes: connections that each weight makes (broadcasts to it); then `keep` counts connections. Every layer keeps
at least one weight.

| allocation | layers keep | source |
|---|---|---|
| global | what lies above one threshold | Han et al. 2015, arXiv 1506.02626 |
| layer | the same share each | Zhu, Gupta 2017, arXiv 1710.01878 |
| erk | the more of their weights the smaller they are: density in proportion to (sum of dimensions) / (product of them) | Evci et al. 2020, arXiv 1911.11134 |
| lamp | what lies above one threshold of s^2 / (sum of the s^2 of their layer that are not smaller) | Lee et al. 2021, arXiv 2010.07611 |
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


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


def same_share(
    scores: dict[str, Tensor], keep: int, sizes: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Within-layer ranks on one scale turn the global rule into the same share for each layer."""
    return keep_largest({k: _rank_from_top(v) for k, v in scores.items()}, keep, sizes)


def _rank_from_top(values: Tensor) -> Tensor:
    flat = values.flatten()
    ranks = torch.empty_like(flat)
    order = torch.argsort(flat, stable=True)
    ranks[order] = torch.linspace(0.0, 1.0, flat.numel(), device=flat.device, dtype=flat.dtype)
    return ranks.reshape(values.shape)


def layer_adaptive(
    scores: dict[str, Tensor], keep: int, sizes: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """LAMP's threshold; the paper's own with magnitudes for scores."""
    return keep_largest({k: lamp(v) for k, v in scores.items()}, keep, sizes)


def lamp(score: Tensor) -> Tensor:
    """s^2 / (sum of the s^2 of the layer that come no earlier in ascending order), in double precision; -1 where pruned."""
    square = score.double().flatten().clamp_min(0.0).square()
    order = torch.argsort(square, stable=True)
    # From the smallest up: adding large to small would lose the small ones.
    tail = square[order].flip(0).cumsum(0).flip(0)
    result = torch.empty_like(square)
    result[order] = square[order] / torch.where(tail > 0, tail, torch.ones_like(tail))
    return torch.where(score < 0, -1.0, result.reshape(score.shape))


def by_shape(
    scores: dict[str, Tensor], keep: int, sizes: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """ERK's share of each layer, of it the largest scores. With sizes: the most weights whose connections do not exceed `keep`."""
    shapes = {k: tuple(s.shape) for k, s in scores.items()}

    def masks(weights: int) -> dict[str, Tensor]:
        kept = erdos_renyi_kernel(shapes, weights)
        return {k: _largest(s.flatten(), kept[k]).reshape(s.shape) for k, s in scores.items()}

    def connections(weights: int) -> int:
        assert sizes is not None
        return sum(int((mask * sizes[k]).sum()) for k, mask in masks(weights).items())

    if sizes is not None:
        low, high = len(scores), sum(s.numel() for s in scores.values())
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if connections(middle) <= keep else (low, middle - 1)
        keep = low
    # A share grows by a weight where another is rounded down: what is pruned does not return for it.
    return {
        k: mask & (scores[k] >= 0) if (mask & (scores[k] >= 0)).any() else mask
        for k, mask in masks(keep).items()
    }


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


ALLOCATIONS: dict[str, Callable[[dict[str, Tensor], int, dict[str, Tensor] | None], dict[str, Tensor]]] = {
    "global": keep_largest,
    "layer": same_share,
    "erk": by_shape,
    "lamp": layer_adaptive,
}
