"""Networks trained on integers from the start, with batch norm on running statistics.

With the statistics of a batch a training forward pass could not be the chip's. Here weights and biases are folded with running
statistics in every forward pass, and a batch's statistics only update them: the integers are those that the chip would get at
that moment, in training mode as in evaluation mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings, SpikingNetwork
from dpap_neuro.networks.neurons import ParametricLIF
from dpap_neuro.precision.network import ExactNetwork, Precision
from hardware.graph.graph import Graph

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _Running:
    """A batch norm whose gain and shift are folded into the synapses before it; called, it only looks at what they sum.

    factor: sums in integers per unit of the normed output. gain: of the neurons, which the shift takes, too.
    """

    factor: float
    gain: float
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    eps: float
    momentum: float | None
    training: bool

    def slope(self) -> Tensor:
        """What a channel is multiplied with."""
        return self.weight * torch.rsqrt(self.running_var + self.eps)

    def scaled(self, weight: Tensor) -> Tensor:
        """The weight with the norm's gain folded in."""
        return weight * self.slope().reshape(-1, *(1,) * (weight.dim() - 1))

    def shifted(self) -> Tensor:
        """The neurons' drive that the norm's shift makes."""
        return (self.bias - self.running_mean * self.slope()) * self.gain

    @torch.no_grad()
    def look(self, x: Tensor) -> None:
        """Take in the statistics of sums (N, channels, ...)."""
        axes = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x, axes, correction=1)
        slope = self.slope() * self.factor
        alive = slope != 0
        share = self.momentum if self.momentum is not None else 1.0 / (int(self.num_batches_tracked) + 1)
        self.num_batches_tracked += 1
        mean = torch.where(alive, mean / slope, self.running_mean)
        variance = torch.where(alive, variance / slope**2, self.running_var)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class RunningNorm1d(_Running, nn.BatchNorm1d):
    """`_Running` behind a matrix."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.look(x)
        return x


class RunningNorm2d(_Running, nn.BatchNorm2d):
    """`_Running` behind a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.look(x)
        return x


@torch.no_grad()
def calibrate(network: SpikingNetwork, x: Tensor) -> None:
    """Running statistics of all batch norms from one batch (T, B, ...), in place of those that a new network has."""
    norms = [module for module in network.modules() if isinstance(module, _NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def from_scratch(
    network: SpikingNetwork, graph: Graph, settings: ModelSettings, precision: Precision
) -> ExactNetwork:
    """A new network in integers that keeps the batch norms of the float one. graph: of that network, norms folded, after
    `calibrate`.

    Raises InputError for a network that is not a sequence of synapse, norm and neurons.
    """
    pairs = _synapses(network)
    learned = [f"{name}_lif" for name, module in network.named_modules() if isinstance(module, ParametricLIF)]
    exact = ExactNetwork(graph, settings, precision, learned_leaks=learned, hold_zeros=False)
    found: list[Any] = list(exact.synapses.values())
    if len(found) != len(pairs):
        raise InputError(
            f"model: found {len(pairs)} synapse layers of {len(found)} projections, expected as many"
        )
    for layer, synapse, (module, norm) in zip(exact.plan, found, pairs, strict=True):
        if norm is None:
            continue
        population: Any = exact.populations[layer.key]
        grid = synapse.grid
        gain = grid.factor * 2.0**grid.exponent / population.scale
        kind = RunningNorm2d if isinstance(norm, nn.BatchNorm2d) else RunningNorm1d
        running: Any = kind(norm.num_features, norm.eps, norm.momentum)
        running.load_state_dict(norm.state_dict())
        running.gain = gain
        synapse.weight, synapse.bias = nn.Parameter(module.weight.detach().clone()), None
        exact.add_norm(layer, running)
    return exact


def _synapses(network: SpikingNetwork) -> list[tuple[Any, Any]]:
    """Synapses in order, each with the batch norm behind it, or None."""
    pairs: list[tuple[Any, Any]] = []
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            pairs.append((module, None))
        elif isinstance(module, _NORMS):
            if not pairs or pairs[-1][1] is not None:
                raise InputError(f"model: a {type(module).__name__} that is not behind a synapse layer")
            if pairs[-1][0].bias is not None:
                raise InputError(
                    f"model: a {type(module).__name__} behind a layer with a bias, expected bias=False there"
                )
            pairs[-1] = (pairs[-1][0], module)
    return pairs
