"""Giving up the least important synapses for pruned ones, as a pure function.

By the gradient that the pruned ones have (Evci et al. 2020, arXiv 1911.11134, in sparse training; Liu et al. 2021, arXiv
2106.10404, behind gradual pruning) or at random (Mocanu et al. 2018, doi 10.1038/s41467-018-04316-3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpap_neuro.pruning.order import least, most

REGROWTHS = ("none", "gradient", "random")


def exchange(mask: Tensor, score: Tensor, appeal: Tensor, pruned: Tensor, share: float) -> Tensor:
    """Give up the least important `share` of a layer's synapses for as many of the `pruned` with the largest appeal."""
    moved = min(int(share * int(mask.sum())), int(pruned.sum()))
    flat = mask.flatten().clone()
    kept = flat.nonzero().squeeze(1)
    given_up = kept[least(score.flatten()[kept], moved)]
    appeal = torch.where(pruned.flatten(), appeal.flatten(), -math.inf)
    flat[given_up] = False
    flat[most(appeal, moved)] = True
    return flat.reshape(mask.shape)
