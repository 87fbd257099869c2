"""How often neurons spike while they learn, and the price of it in the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.pruning.labels import tensors
from dpap_neuro.pruning.statistics import reduce_over_ranks
from dpap_neuro.pruning.structure import Structure


class Activity:
    """Spikes per neuron and step of every recording, by population, the read-out's apart: hooks on a network in training mode.

    Neurons that are pruned count too, those that `compact` cut away as silent, so that rates go on as they were. priced: whether
    rates have gradients.
    """

    def __init__(self, structure: Structure, priced: bool = True) -> None:
        self._priced = priced
        readouts = {p.population for p in structure.projections.values() if p.readout}
        self._layouts: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._spikes: dict[str, Tensor] = {}
        self._steps = self._batch = 1
        self._sums: dict[str, Tensor] = {}
        self._recordings = 0
        self._handles: list[Any] = []
        names: dict[nn.Module, str] = {}
        for name, population in structure.populations.items():
            if not population.spiking or name in readouts:
                continue
            size = population.labels.numel() * math.prod(population.space)
            if population.module in names:
                # One module in several places: its calls add up.
                self._sizes[names[population.module]] += size
                continue
            names[population.module] = name
            self._sizes[name], self._layouts[name] = size, population.layout
            self._handles.append(population.module.register_forward_hook(self._hook(name)))

    @property
    def layers(self) -> tuple[str, ...]:
        """The populations that are watched."""
        return tuple(self._sizes)

    def expect(self, steps: int, batch: int) -> None:
        """Before a call of the network with (steps, batch, ...)."""
        self._steps, self._batch = steps, batch
        self._spikes = {}

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, _args: Any, result: Any) -> None:
            if not module.training:
                return
            out = next(tensors(result))
            now = self._per_recording(out if self._priced else out.detach(), self._layouts[name])
            self._spikes[name] = self._spikes[name] + now if name in self._spikes else now

        return hook

    def _per_recording(self, out: Tensor, layout: str) -> Tensor:
        """(B,) sums over neurons and the steps that a call has. Axes stay apart: channels last, they are one only in a copy."""
        if layout == "step":
            return out.sum(tuple(range(1, out.dim())), dtype=torch.float32)
        if layout == "merged":
            out = out.unflatten(0, (self._steps, self._batch))
        elif layout != "sequence":
            out = out.reshape(self._steps, self._batch, -1)
        return out.sum((0, *range(2, out.dim())), dtype=torch.float32)

    def take(self) -> dict[str, Tensor]:
        """Rates of the recordings of the last call, (B,) each, with their gradients; adds them to the epoch's."""
        rates = {name: spikes / (self._steps * self._sizes[name]) for name, spikes in self._spikes.items()}
        self._spikes = {}
        for name, rate in rates.items():
            total = rate.detach().double().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._recordings += self._batch
        return rates

    def epoch(self) -> dict[str, float]:
        """Means over recordings since the last call, of all ranks."""
        found = {}
        for name in self._sizes:
            total = self._sums.get(name, torch.zeros((), dtype=torch.float64))
            both = reduce_over_ranks(torch.stack([total, total.new_tensor(float(self._recordings))]))
            found[name] = float(both[0] / both[1].clamp_min(1.0))
        self._sums, self._recordings = {}, 0
        return found

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def too_much(rates: Mapping[str, Tensor], target: float) -> Tensor:
    """Mean over recordings of the sum over layers of max(0, rate - target); rates (B,), spikes per neuron and step, of at least one layer.

    What a recording is charged does not depend on the others, so that parts of a batch, and ranks, add up to the whole.
    """
    return torch.stack([(rate - target).clamp_min(0.0) for rate in rates.values()]).sum(0).mean()
