"""DPAP as its authors' code computes it (BrainCog, examples/Structural_Development/DPAP): for repeating what was published.

What differs from `DPAP` stands in the table beside that class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.base import PruneReport
from dpap_neuro.pruning.dpap import DPAP
from dpap_neuro.pruning.masks import Masks
from dpap_neuro.pruning.statistics import Statistics
from dpap_neuro.pruning.structure import Projection, Structure
from dpap_neuro.pruning.survival import SurvivalSettings


class SlotStatistics(Statistics):
    """`Statistics` whose sliding threshold is a running mean for each slot of the batch: what stands in one place of the batches.

    slots: of each population (batch, channels); seen: batches that had the slot, (batch,). A shorter batch moves its slots alone.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots: dict[str, Tensor] = {}
        self.seen = torch.zeros(0)

    def theta(self, p: Projection, batch: int = 0) -> Tensor:
        """(batch, out)."""
        key = self.post_key(p)
        if key not in self.slots:
            return torch.zeros(batch, p.shape[0], device=p.weight.device)
        found = torch.zeros(max(batch, len(self.seen)), self.slots[key].shape[1], device=p.weight.device)
        found[: len(self.seen)] = self.slots[key]
        return found[:batch, self._present[p.name].post]

    def took_in(self, posts: dict[str, Tensor]) -> None:
        batch = next(iter(posts.values())).shape[0]
        if batch > len(self.seen):
            more = batch - len(self.seen)
            self.seen = torch.cat([self.seen, torch.zeros(more)])
            for key, total in self.totals.items():
                known = self.slots.get(key, torch.zeros(0, total.numel(), device=total.device))
                self.slots[key] = torch.cat([known, torch.zeros(more, total.numel(), device=total.device)])
        self.seen[:batch] += 1
        for key, slots in self.slots.items():
            n = self.seen[:batch, None].to(slots.device)
            slots[:batch] = (slots[:batch] * (n - 1) + posts[key].to(slots.dtype)) / n

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        batch = len(state.get("slots seen/", ()))
        self.seen = torch.zeros(batch)
        self.slots = {
            key: torch.zeros(batch, total.numel(), device=total.device)
            for key, total in self.totals.items()
            if batch
        }
        super().load_state_dict(state)

    def _groups(self) -> dict[str, dict[str, Tensor]]:
        return {**super()._groups(), "slots": self.slots, "slots seen": {"": self.seen}}


class WeightMasks(Masks):
    """Masks that take the weights of a dead unit and nothing else of it: its bias and batch norm, and the weights that read
    from it, go on."""

    def weight_masks(
        self, units: dict[str, Tensor], synapses: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        masks = {}
        for p in self.structure.projections.values():
            grid = torch.ones(p.shape, dtype=torch.bool, device=p.weight.device)
            if p.name in units:
                grid &= units[p.name].to(grid.device).reshape(-1, *(1,) * (len(p.shape) - 1))
            masks[p.name] = grid & synapses[p.name] if p.name in synapses else grid
        return masks, torch.ones(len(self.structure.labels), dtype=torch.bool)

    def refresh(self) -> None:
        self.weights, _ = self.weight_masks(self.units, self.synapses)
        self._kept = []
        for p in self.structure.projections.values():
            self._add(p.weight, ~self.weights[p.name], {})


class PublishedDPAP(DPAP):
    """`DPAP.as_published()`: to the letter of its authors' code, for repeating the paper; takes no goal.

    scaled: the authors' schedule of 300 epochs fitted to a shorter run, which theirs is not.
    """

    name = "dpap-published"
    whole_batches = True
    no_budget = "the compression found is the method's own"

    def __init__(
        self,
        settings: SurvivalSettings | None = None,
        *,
        scaled: bool = False,
        epochs: int | None = None,
    ) -> None:
        super().__init__(settings, epochs=epochs)
        self.scaled = scaled

    @classmethod
    def for_run(cls, epochs: int | None, **options: Any) -> PublishedDPAP:
        pruner = cls(epochs=epochs, **options)
        if pruner.scaled and epochs is not None:
            pruner.scaled_to(epochs)
        return pruner

    def _make_statistics(self, structure: Structure, loop: bool, time: bool) -> Statistics:
        return SlotStatistics(structure, delta=self.settings.delta, loop=loop, time=time)

    def _make_masks(self, structure: Structure) -> Masks:
        return WeightMasks(structure)

    def _attached(self) -> None:
        dist = torch.distributed
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise InputError(
                f"{self.name}: found {dist.get_world_size()} processes, expected one, as the authors' code has"
            )
        super()._attached()

    def _watch_gradients(self) -> None:
        """What is pruned learns again until the epoch ends."""

    def step(self, optimizer: Optimizer | None = None) -> None:
        self._check_attached()
        assert self.statistics is not None
        self.statistics.absorb()

    def end_epoch(self, epoch: int, optimizer: Optimizer | None = None) -> PruneReport:
        """Prune; momentum of what is pruned stays."""
        return super().end_epoch(epoch, None)

    def compact(self, optimizer: Optimizer | None = None) -> bool:
        raise InputError(
            f"{self.name}: a unit without weights goes on with its bias and batch norm, expected no compaction while it learns"
        )

    def _check_activity(self) -> None:
        """A silent population is pruned as any other."""

    def _prune(self, epoch: int) -> None:
        if epoch < self.settings.first_epoch:
            return
        for name, survival in self.unit_survival.items():
            self.masks.units[name] = self.masks.units[name] & (survival >= 0)
        for name, survival in self.synapse_survival.items():
            before = self.masks.synapses.get(name, torch.ones_like(survival, dtype=torch.bool))
            self.masks.synapses[name] = before & (survival >= 0)
        self.masks.refresh()
