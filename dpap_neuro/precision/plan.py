"""What the forward pass of a network in a chip's integers goes through: projections, populations, inputs that are always on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dpap_neuro.precision.synapses import Grid, rounded


@dataclass(frozen=True)
class Link:
    """A projection as the forward pass takes it. late: steps from a spike to its input. synapse: name in `synapses`."""

    source: str
    synapse: str
    late: int
    latency: int


@dataclass(frozen=True)
class Plan:
    """A population as the forward pass takes it. key: name in `populations`; constants: names in `constants`. biased: whether its first
    synapse holds a bias that drives its membranes.

    watched: whether its sums could pass what float32 holds, were all weights at their largest, and are checked in each pass.
    """

    name: str
    key: str
    links: tuple[Link, ...]
    constants: tuple[str, ...]
    biased: bool
    watched: bool


class Constant(nn.Module):
    """An input that is always on: biases of current-based neurons, or behind delays. late: steps until they arrive.

    own: the weights, (neurons,); None: those of the layer's first synapse, one for `each` neurons.
    """

    def __init__(self, grid: Grid, own: np.ndarray | None, each: int, late: int, latency: int) -> None:
        super().__init__()
        self.grid, self.each, self.late, self.latency = grid, each, late, latency
        self.stretch: Tensor | None = None
        self.own = None if own is None else nn.Parameter(torch.as_tensor(own, dtype=torch.float32))

    def values(self, bias: Tensor | None) -> Tensor:
        """The float weights, (neurons,)."""
        if self.own is not None:
            return self.own
        assert bias is not None
        return bias.repeat_interleave(self.each)

    def vector(self, bias: Tensor | None) -> Tensor:
        """What arrives in every step, (neurons,), whole numbers."""
        if self.own is not None:
            return rounded(self.own, self.grid, self.stretch)
        assert bias is not None
        return rounded(bias, self.grid, self.stretch).repeat_interleave(self.each)
