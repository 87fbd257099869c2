"""Surrogate gradients: what stands in, on the way back, for the derivative of a spike with regard to the membrane.

With x the membrane above its threshold and a the slope, the derivative is

- superspike: 1 / (a |x| + 1)^2 (Zenke, Ganguli 2018, doi 10.1162/neco_a_01086); with a = 1 what Norse 1.1 computes for any alpha
- atan: a / 2 / (1 + (pi / 2 a x)^2) (Fang et al. 2021, doi 10.1109/ICCV48922.2021.00266)
- sigmoid: a s (1 - s), s = 1 / (1 + exp(-a x)) (Zenke, Vogels 2021, doi 10.1162/neco_a_01367)
- triangle: a max(0, 1 - a |x|) (Bellec et al. 2018, arXiv 1803.09574; BrainCog's QGate)

All are computed as a division by a flatness, with the same operations in the same order by the loop, and on CPU and GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpap_neuro.networks import SURROGATES

# In the order of their numbers in the kernels.
NAMES = tuple(SURROGATES)
SUPERSPIKE, ATAN, SIGMOID, TRIANGLE = range(4)
# Norse's name of its own, which takes a slope and leaves it out.
NORSE = "super"


@dataclass(frozen=True)
class Surrogate:
    """name: one of `networks.SURROGATES`. slope: a above."""

    name: str = "superspike"
    slope: float = 1.0

    @property
    def number(self) -> int:
        """As the kernels know it."""
        return NAMES.index(self.name)

    @property
    def factors(self) -> tuple[float, float]:
        """What |x|, and what the flatness, is multiplied by."""
        a = self.slope
        return (math.pi / 2 * a, 2 / a) if self.name == "atan" else (a, 1 / a)

    def flatness(self, x: Tensor) -> Tensor:
        """One over the derivative."""
        inner, outer = self.factors
        reach = x.abs() * inner
        if self.name == "atan":
            return (reach * reach + 1.0) * outer
        if self.name == "sigmoid":
            e = torch.exp(-reach)
            return (e + 1.0) * (e + 1.0) / e * outer
        if self.name == "triangle":
            return torch.clamp(1.0 - reach, min=0.0).reciprocal() * outer
        return (reach + 1.0) * (reach + 1.0)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.surrogate = surrogate
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad / ctx.surrogate.flatness(x), None


def surrogate_of(p: Any) -> Surrogate | None:
    """The surrogate that Norse's parameters name; None for one of Norse's others."""
    method = getattr(p, "method", NORSE)
    if method == NORSE:
        return Surrogate()
    return Surrogate(method, float(p.alpha)) if method in SURROGATES else None


def spike(x: Tensor, surrogate: Surrogate) -> Tensor:
    """1 where x, the membrane above its threshold, is above 0, else 0."""
    return _Spike.apply(x, surrogate)
