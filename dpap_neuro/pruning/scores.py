"""How important a weight is: the scores that pruners of single weights choose from, as pure functions.

A score is a tensor of the weight's shape, at least zero; what scores least goes first. Notation: weight w_ij from input j to
output i (i and j channels of a convolution, where a weight has a tap besides); g the gradient of a batch's loss; F and C traces,
F <- delta F + (mean over the epoch's batches), so that with delta 0 they are means over one epoch.

| score | of a weight | source |
|---|---|---|
| magnitude | abs(w) | Han et al. 2015, arXiv 1506.02626 |
| taylor | F of (g w)^2 | Molchanov et al. 2019, arXiv 1906.10771 |
| fisher | w^2 F / 2, F of g^2 | Theis et al. 2018, arXiv 1801.05787 |
| weighted | abs(w) F^exponent, F of g^2 | this project's, see `weighted` |
| wanda | abs(w) times the root of F of sum x_j^2 | Sun et al. 2024, arXiv 2306.11695 |
| spikefit | C_j w_ij^2 / sum over i of w_ij^2, C of (sum over i of g w)^2 | after Kartashov et al. 2025, arXiv 2510.15542 |
| random | drawn once | |

Of single weights Taylor's and Fisher's scores differ only in when w is taken, in every batch or at the end of the epoch; both
papers score channels, summed before they are squared. g is of a batch (as in Molchanov et al.), where Theis et al. take
single recordings. Wanda's paper compares within the weights of each output; here that is the allocation's choice (`layer` in
the pruner of that name).

SpikeFit's abstract names its "Fisher Spike Contribution" without defining it, and no more of it was read. What stands here is
our reading: C_j is the Fisher information of a gate on all spikes of source j, since by the chain rule the gradient of such a
gate is sum over i of g_ij w_ij; each synapse has a part of it by its squared weight. It is not to be quoted as SpikeFit's result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# What is measured in every batch, added to `total` in place: (total, weight, gradient, groups).
Measure = Callable[[Tensor, Tensor, Tensor, int], None]


def add_squares(total: Tensor, weight: Tensor, gradient: Tensor, groups: int) -> None:
    """g^2, of the weight's shape."""
    total.addcmul_(gradient, gradient)


def add_products(total: Tensor, weight: Tensor, gradient: Tensor, groups: int) -> None:
    """(g w)^2, of the weight's shape."""
    total.add_((gradient * weight).square_())


def add_contributions(total: Tensor, weight: Tensor, gradient: Tensor, groups: int) -> None:
    """(sum over outputs and taps of g w)^2 of each input, (in,)."""
    product = (gradient * weight).flatten(1).unflatten(1, (weight.shape[1], -1)).sum(2)
    total.add_(product.reshape(groups, -1, weight.shape[1]).sum(1).flatten().square_())


def magnitude(weight: Tensor) -> Tensor:
    return weight.abs()


def fisher(weight: Tensor, squares: Tensor) -> Tensor:
    """w^2 F / 2: what removing a weight costs to second order, with the empirical Fisher information as curvature."""
    return 0.5 * weight.square() * squares


def weighted(weight: Tensor, squares: Tensor, exponent: float) -> Tensor:
    """abs(w) F^exponent; the square root of `fisher` (times a constant) at 1/2, `magnitude` at 0."""
    return weight.abs() * squares.pow(exponent)


def wanda(weight: Tensor, energy: Tensor, groups: int = 1) -> Tensor:
    """abs(w) times the norm of its input's activity; energy (in,): sum over recordings, steps and space of x_j^2."""
    return weight.abs() * per_input(energy.sqrt(), weight, groups)


def spikefit(weight: Tensor, contribution: Tensor, groups: int = 1) -> Tensor:
    """The contribution of an input's spikes, (in,), divided among the weights that read it by their squares."""
    square = weight.square()
    whole = square.flatten(1).unflatten(1, (weight.shape[1], -1)).sum(2)
    whole = whole.reshape(groups, -1, weight.shape[1]).sum(1).flatten()
    share = contribution / torch.where(whole > 0, whole, torch.ones_like(whole))
    return square * per_input(share, weight, groups)


def per_input(values: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """Values of each input, (in,), as they meet a weight (out, in / groups, ...): broadcasts to it."""
    rows = values.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


@dataclass(frozen=True)
class Score:
    """What a score needs. measure: of every batch's gradients; reads_inputs: the inputs' energy instead; of: the score of
    (weight, trace, groups, exponent), None of one that is drawn. sources: the trace has a value per input, not per weight.
    """

    of: Callable[[Tensor, Tensor, int, float], Tensor] | None
    measure: Measure | None = None
    reads_inputs: bool = False
    sources: bool = False

    @property
    def is_measured(self) -> bool:
        return self.measure is not None or self.reads_inputs


SCORES = {
    "magnitude": Score(lambda w, f, groups, exponent: magnitude(w)),
    "taylor": Score(lambda w, f, groups, exponent: f, add_products),
    "fisher": Score(lambda w, f, groups, exponent: fisher(w, f), add_squares),
    "weighted": Score(lambda w, f, groups, exponent: weighted(w, f, exponent), add_squares),
    "wanda": Score(lambda w, f, groups, exponent: wanda(w, f, groups), reads_inputs=True, sources=True),
    "spikefit": Score(lambda w, f, groups, exponent: spikefit(w, f, groups), add_contributions, sources=True),
    "random": Score(None),
}
