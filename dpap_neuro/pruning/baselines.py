"""What DPAP is measured against, with the same interface: scores and allocations of the field, and dynamic sparse training."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.allocation import erdos_renyi_kernel
from dpap_neuro.pruning.base import Pruner
from dpap_neuro.pruning.regrowth import exchange
from dpap_neuro.pruning.scored import Scored, SingleWeights
from dpap_neuro.pruning.structure import Projection


class Unpruned(Pruner):
    """Removes nothing: the dense network."""

    name = "none"
    no_budget = "it removes nothing"

    def __init__(self, *, epochs: int | None = None) -> None:
        super().__init__(epochs=epochs)

    def describe(self) -> str:
        return f"{self.name}: removes nothing"


class Magnitude(Scored):
    """The smallest weights of all layers, gradually (Zhu, Gupta, arXiv 1710.01878)."""

    name = "magnitude"


class MagnitudePerLayer(Scored):
    """The smallest weights of each layer, the same share of all layers."""

    name = "magnitude-layer"
    own: ClassVar = {"allocation": "layer"}


class LAMP(Scored):
    """The smallest weights for what is left of their layer, gradually (Lee et al., arXiv 2010.07611)."""

    name = "lamp"
    own: ClassVar = {"allocation": "lamp"}


class ERK(Scored):
    """The smallest weights of each layer, shares by the layers' shapes (Evci et al., arXiv 1911.11134)."""

    name = "erk"
    no_budget = "a layer's share comes from its shape alone"
    own: ClassVar = {"allocation": "erk"}


class GraNet(Scored):
    """Magnitude, gradually, with regrowth where gradients are large (Liu et al., arXiv 2106.10404).

    The paper's dense-to-sparse version. Departures: exchanges come once per epoch, of the share that `rigl` has here (`fraction`, 0.3
    at first), and what is given up in an exchange does not return in it.
    """

    name = "granet"
    own: ClassVar = {"regrow": "gradient"}


class Taylor(Scored):
    """The smallest (gradient times weight) squared of all layers (Molchanov et al., arXiv 1906.10771)."""

    name = "taylor"
    own: ClassVar = {"score": "taylor"}


class Fisher(Scored):
    """The smallest cost by Fisher information, w^2 F / 2, of all layers (Theis et al., arXiv 1801.05787)."""

    name = "fisher"
    own: ClassVar = {"score": "fisher"}


class Wanda(Scored):
    """The smallest weight times its input's activity, the same share of all layers (Sun et al., arXiv 2306.11695).

    Departures: gradually while the network learns (the paper: once, without any), and compared within a layer (the paper: within
    the weights of each output).
    """

    name = "wanda"
    own: ClassVar = {"score": "wanda", "allocation": "layer"}


class Random(Scored):
    """Weights in a random order, drawn once from the seed."""

    name = "random"
    own: ClassVar = {"score": "random"}


class Rewiring(SingleWeights):
    """Base of dynamic sparse training: sparse from the start, rewired after every epoch.

    Layers get an Erdos-Renyi-kernel share of the weights; the share rewired falls with a cosine from `fraction` to 0 at
    `reach` of the run.
    """

    no_budget = "its layers are sparse from the start"
    counts = ("parameters",)

    def __init__(self, *, fraction: float = 0.3, **goal: Any) -> None:
        super().__init__(**goal)
        if not 0.0 <= fraction < 1.0:
            raise InputError(f"fraction: found {fraction}, expected 0 to below 1")
        self.fraction = fraction

    def _attached(self) -> None:
        super()._attached()
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
            mask = self.masks.synapses[p.name]
            self.masks.synapses[p.name] = exchange(
                mask, p.weight.detach().abs(), self._appeal(p), ~mask, share
            )
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
