"""DPAP: use it or lose it, gradually decay."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.base import Pruner
from dpap_neuro.pruning.masks import count
from dpap_neuro.pruning.plasticity import order_statistics
from dpap_neuro.pruning.statistics import Statistics
from dpap_neuro.pruning.structure import Projection, Structure
from dpap_neuro.pruning.survival import SurvivalRule, SurvivalSettings
from dpap_neuro.pruning.time_bins import check_asked, check_bins


class DPAP(Pruner):
    """Developmental Plasticity-inspired Adaptive Pruning (arXiv 2211.12714).

    Without a goal the published rule: a unit whose survival falls below zero is removed for good. With a goal
    (`sparsity` or `remaining`, and `epochs`) a pressure, found anew in each epoch, is taken off (or added to)
    all survival values, so that the count follows a gradual schedule; among equal survival the smaller
    importance goes first. Pressure acts on single synapses, and on channels and neurons only where these do
    not suffice. With a `meter` that finds too many neurons, channels and neurons pay a price for each neuron that
    they have, and no single synapse goes for it.

    structured: single synapses have no survival of their own, so that only channels and neurons die, which
    `compact` can cut out; a goal's pressure is then in proportion to the largest survival of each layer, so that
    all kinds of units share it. time_bins: prune time bins too (steps of the recording, sample_input.shape[0] of
    them). bins: keep this many.

    Departures from the authors' code (BrainCog, examples/Structural_Development/DPAP); `as_published` does as that does, where the
    last column names nothing else:

    | | here | theirs |
    |---|---|---|
    | sliding threshold theta | one running mean per unit | one per unit and slot of the batch |
    | masks | hold inside an epoch, after every step; momentum and gradients of what is pruned go too | weights go to zero at its end and learn again until the next |
    | a dead unit | takes its bias, its batch norm channel and the weights reading from it | not done |
    | a unit that nobody reads | is removed too | not done |
    | a population | never loses its last unit | not guarded |
    | a population that never spikes | stops the run with an error | not guarded |
    | time bins | pruned by survival; our reading: the paper names spatio-temporal pruning without defining it | none |
    | goals, budgets, `structured`, schedules for short runs | this project's | none: the compression found is the method's own (a schedule may be asked for: `scaled`) |
    | a batch that is shorter than the first | as any other | not possible; `as_published` moves the slots it has |
    | several processes, compaction while it learns | yes | no |
    """

    name = "dpap"
    needs_statistics = True

    def __init__(
        self,
        settings: SurvivalSettings | None = None,
        *,
        structured: bool = False,
        time_bins: bool = False,
        bins: int | None = None,
        **goal: Any,
    ) -> None:
        super().__init__(**goal)
        self.settings = settings if settings is not None else SurvivalSettings()
        self.structured = structured
        self.time_bins = time_bins or bins is not None
        self.goal_bins = bins
        check_asked(bins, self.goal.epochs)
        self.unit_survival: dict[str, Tensor] = {}
        self.synapse_survival: dict[str, Tensor] = {}
        self.bin_survival: Tensor | None = None
        self._scaled_from: SurvivalSettings | None = None

    @classmethod
    def for_run(cls, epochs: int | None, **options: Any) -> DPAP:
        """The schedule of the settings (the authors' without any) scaled to `epochs` (from 300 on, or without `epochs`: as it is)."""
        pruner = cls(epochs=epochs, **options)
        return pruner if epochs is None else pruner.scaled_to(epochs)

    @classmethod
    def as_published(cls, settings: SurvivalSettings | None = None, **options: Any) -> DPAP:
        """The strict mode: every departure in the table above undone; see `published.PublishedDPAP`."""
        from dpap_neuro.pruning.published import PublishedDPAP

        return PublishedDPAP(settings, **options)

    @classmethod
    def from_paper(cls, **goal: Any) -> DPAP:
        """The authors' constants, made for 300 epochs."""
        return cls(SurvivalSettings(), **goal)

    def scaled_to(self, epochs: int) -> DPAP:
        """Fit the schedule to a shorter run (see SurvivalSettings.scaled_to); returns itself. Before
        `attach`.
        """
        if self.model is not None:
            raise InputError("scaled_to: the pruner is attached already, expected the call before attach()")
        self._scaled_from, self.settings = self.settings, self.settings.scaled_to(epochs)
        self.goal = replace(self.goal, epochs=epochs)
        return self

    def describe(self) -> str:
        what = ", channels and neurons only" if self.structured else ""
        bins = f", {self.goal_bins} time bins left" if self.goal_bins is not None else ""
        text = f"{self.name}{what}{self.goal.describe()}{bins}: {self.settings.describe()}"
        if self._scaled_from is not None and self._scaled_from != self.settings:
            text += f" (a schedule of 300 epochs scaled to {self.goal.epochs})"
        return text

    def _make_statistics(self, structure: Structure, loop: bool, time: bool) -> Statistics:
        return Statistics(
            structure,
            delta=self.settings.delta,
            loop=loop,
            time=time,
            bins=self.steps if self.time_bins else 0,
        )

    def _attached(self) -> None:
        start = self.settings.initial
        for p in self.structure.prunable:
            if p.kind != "recurrent":
                size = p.labels.numel()
                self.unit_survival[p.name] = torch.full((size,), start, device=p.weight.device)
            if not self.structured and p.kind != "conv" and p.weight.dim() == 2:
                self.synapse_survival[p.name] = torch.full(p.weight.shape, start, device=p.weight.device)
        if self.goal.is_given and not self.unit_survival and not self.synapse_survival:
            raise InputError(
                "dpap: found no channels or neurons that could die, expected some to reach a goal with structured pruning"
            )
        if self.time_bins:
            self.bin_survival = torch.full((self.steps,), start)
            self.kept_bins = torch.arange(self.steps)
            assert self.statistics is not None
            self.statistics.kept_bins = self.kept_bins
            if self.goal_bins is not None:
                check_bins(self.goal_bins, self.steps)

    def _always_left(self, p: Projection) -> int:
        # Of the read-out what reads from one unit, of a convolution a whole kernel; a matrix's last weight may be that of a
        # dead unit.
        taps = math.prod(p.shape[2:])
        return p.shape[0] // p.groups * taps if p.readout else taps if len(p.shape) > 2 else 0

    # survival

    def unit_rule(self, kind: str) -> SurvivalRule:
        return self.settings.channel if kind == "conv" else self.settings.neuron

    def observe(self, epoch: int) -> None:
        if epoch < self.settings.first_epoch:
            return
        statistics = self.statistics
        assert statistics is not None
        if statistics.samples == 0:
            raise InputError(
                "dpap: no batch was seen, expected step() after every optimizer step in training mode"
            )
        self._check_activity()
        for p in self.structure.prunable:
            if p.name in self.unit_survival:
                self.unit_survival[p.name] = self.settings.update(
                    self.unit_survival[p.name], statistics.spines(p), self.unit_rule(p.kind), epoch
                )
            if p.name in self.synapse_survival:
                self.synapse_survival[p.name] = self.settings.update(
                    self.synapse_survival[p.name], statistics.m[p.name], self.settings.synapse, epoch
                )
        if self.time_bins:
            self._prune_bins(epoch)

    def _check_activity(self) -> None:
        assert self.statistics is not None
        silent = self.statistics.silent()
        if silent:
            raise InputError(
                f"layer {silent[0]}: its neurons never spiked, expected activity (lower its threshold)"
            )

    def _prune(self, epoch: int) -> None:
        if epoch < self.settings.first_epoch:
            return
        statistics = self.statistics
        assert statistics is not None
        if self.goal.is_given:
            wanted = self.wanted(epoch)
            unit_ranks = {
                k: _rank(statistics.spines(self.structure.projections[k])) for k in self.unit_survival
            }
            if "neurons" in self.targets and self.unit_survival:
                self._steer_neurons(self.targets["neurons"], unit_ranks)
            if wanted is not None:
                synapse_ranks = {k: _squash(statistics.m[k]) for k in self.synapse_survival}
                self._steer(wanted, unit_ranks, synapse_ranks)
        else:
            self.masks.units, self.masks.synapses = self._below_zero(
                self.unit_survival, self.synapse_survival
            )
        self.masks.refresh()
        if not self.goal.is_number:
            # Lossless, but it would overshoot a goal that others are to be compared at.
            self.masks.remove_dead_ends()

    def _below_zero(
        self, units: dict[str, Tensor], synapses: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Units and synapses alive now: those alive before whose survival is not below zero."""
        alive_units = {}
        for name, survival in units.items():
            before = self.masks.units[name]
            alive = before & (survival >= 0)
            if not alive.any():
                # A population never loses its last unit: the network would be cut.
                alive = torch.zeros_like(before)
                alive[torch.where(before, survival, torch.full_like(survival, -math.inf)).argmax()] = True
            alive_units[name] = alive
        alive_synapses = {}
        for name, survival in synapses.items():
            alive = survival >= 0
            if name in self.masks.synapses:
                alive &= self.masks.synapses[name]
            if not count(alive):
                alive.view(-1)[survival.argmax()] = True
            alive_synapses[name] = alive
        return alive_units, alive_synapses

    # steering

    def _steer(self, wanted: int, unit_ranks: dict[str, Tensor], synapse_ranks: dict[str, Tensor]) -> None:
        """Find the pressure that leaves `wanted` parameters (or synapses)."""
        # Ranks, 0 to 1 within a layer, break ties: everything above the percentile has grown alike.
        units = {k: v + 0.01 * unit_ranks[k] for k, v in self.unit_survival.items()}
        synapses = {k: v + 0.01 * synapse_ranks[k] for k, v in self.synapse_survival.items()}
        sizes = {p.name: self.tally.sizes(p) for p in self.structure.projections.values()}
        # Channels gather several times what neurons do.
        scale = {k: max(float(v.max()), 1e-6) if self.structured else 1.0 for k, v in units.items()}

        @functools.cache
        def leave(unit_pressure: float) -> tuple[int, dict[str, Tensor]]:
            """What is left besides single synapses, and which of these could be, under a pressure on units."""
            alive, _ = self._below_zero({k: v - unit_pressure * scale[k] for k, v in units.items()}, {})
            grids, _ = self.masks.weight_masks(alive, self.masks.synapses)
            fixed, free = 0, {}
            for name, grid in grids.items():
                if name in synapses:
                    free[name] = grid
                elif self.goal.count == "synapses":
                    fixed += int((grid * sizes[name].to(grid.device)).sum())
                else:
                    fixed += count(grid)
            return fixed, free

        def synapses_in(free: dict[str, Tensor]) -> int:
            return sum(count(grid) for grid in free.values())

        def everything(unit_pressure: float) -> int:
            fixed, free = leave(unit_pressure)
            return fixed + synapses_in(free)

        total = self.tally.total()
        matrices = sum(v.numel() for v in synapses.values())

        def at_most(unit_pressure: float) -> int:
            """What is left when matrices are cut to half of the share that is wanted over all."""
            fixed, free = leave(unit_pressure)
            return fixed + min(synapses_in(free), round(0.5 * wanted / total * matrices))

        def rungs() -> Tensor:
            """Pressures just above each unit's survival: with each rung one more unit dies."""
            return torch.unique(torch.cat([v.flatten() / scale[k] for k, v in units.items()])) + 1e-6

        if not units:
            # Recurrent synapses alone: their neurons are those of another projection, or never die.
            candidates = [0.0]
        elif everything(0.0) < wanted:
            # The published rule alone would remove more than the schedule asks for: relieve units.
            below = rungs()
            ladder = [float(below[0]) - 1.0, *below[below < 0].tolist(), 0.0]
            candidates = _last_enough(ladder, everything, wanted)
        elif at_most(0.0) > wanted:
            candidates = _last_enough([0.0, *(v for v in rungs().tolist() if v > 0)], at_most, wanted)
        else:
            candidates = [0.0]
        options = []
        for unit in candidates:
            fixed, free = leave(unit)
            # Units go in lumps; synapses make up the rest, but matrices are never emptied for it.
            keep = max(wanted - fixed, round(0.25 * wanted / total * matrices), 1)
            keep = min(keep, synapses_in(free))
            excess = fixed + keep - wanted
            # What is removed never returns: too much left can be made good later, too little cannot.
            options.append((excess if excess >= 0 else -2 * excess, unit, keep, free))
        _, unit, keep, free = min(options, key=lambda option: option[0])
        pressure = 0.0
        if keep:
            # The dead below all others: to leave them out takes longer.
            values = torch.cat([torch.where(g, synapses[k], -math.inf).flatten() for k, g in free.items()])
            pressure = float(order_statistics(values, values.numel() - keep))
        self.masks.units, self.masks.synapses = self._below_zero(
            {k: v - unit * scale[k] for k, v in units.items()},
            {k: v - pressure for k, v in synapses.items()},
        )
        for name, value in self.unit_survival.items():
            self.unit_survival[name] = value - unit * scale[name]
        for name, value in self.synapse_survival.items():
            self.synapse_survival[name] = value - pressure

    def _steer_neurons(self, wanted: int, ranks: dict[str, Tensor]) -> None:
        """Find the price of a neuron at which at most `wanted` are left.

        A unit pays for all neurons it has, out of what its survival is above the least of its layer: where a
        channel frees hundreds of neurons and a neuron one, channels go.
        """
        space = {k: self._neurons_per_unit(k) for k in self.unit_survival}
        least = {k: float(v[self.masks.units[k]].min()) for k, v in self.unit_survival.items()}
        value = {k: v.double() - least[k] + 0.01 * ranks[k] for k, v in self.unit_survival.items()}

        def alive(price: float) -> dict[str, Tensor]:
            return self._below_zero({k: v - price * space[k] for k, v in value.items()}, {})[0]

        rungs = torch.cat([value[k][self.masks.units[k]] / space[k] for k in value])
        # Prices just above what a unit can pay: with each rung one more dies.
        ladder = [-1.0, *(rung * (1 + 1e-9) + 1e-12 for rung in torch.unique(rungs).tolist())]
        price = _last_enough(ladder, lambda price: self.masks.neuron_count(alive(price)), wanted + 1)[-1]
        self.masks.units = alive(price)
        self.masks.refresh()
        for name, survival in self.unit_survival.items():
            self.unit_survival[name] = survival - (least[name] + price * space[name])

    def _neurons_per_unit(self, name: str) -> int:
        population = self.structure.projections[name].population
        return 1 if population is None else math.prod(self.structure.populations[population].space)

    # time bins

    def _prune_bins(self, epoch: int) -> None:
        statistics = self.statistics
        assert statistics is not None and self.bin_survival is not None and self.kept_bins is not None
        z = statistics.bin_importance()
        self.bin_survival = self.settings.update(self.bin_survival, z, self.settings.time_bin, epoch)
        alive = torch.zeros(self.steps, dtype=torch.bool)
        alive[self.kept_bins] = True
        if self.goal_bins is None:
            alive &= self.bin_survival >= 0
        else:
            keep = self.goal.bins_after(epoch, self.steps, self.goal_bins, self.settings.first_epoch)
            ranked = torch.where(alive, self.bin_survival + 0.01 * _rank(z), torch.full_like(z, -math.inf))
            chosen = torch.topk(ranked, min(keep, int(alive.sum()))).indices
            alive = torch.zeros_like(alive)
            alive[chosen] = True
        if not alive.any():
            alive[self.kept_bins[self.bin_survival[self.kept_bins].argmax()]] = True
        self.kept_bins = alive.nonzero().flatten()
        statistics.kept_bins = self.kept_bins

    # saving

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        for kind, survival in self._survival().items():
            state.update({f"{kind}/{k}": v.clone() for k, v in survival.items()})
        if self.bin_survival is not None:
            state["bin_survival"] = self.bin_survival.clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._check_attached()
        for kind, survival in self._survival().items():
            for name, value in survival.items():
                found = state.get(f"{kind}/{name}")
                if found is None or found.shape != value.shape:
                    shape = "none" if found is None else tuple(found.shape)
                    raise InputError(f"{kind} of {name}: found {shape}, expected shape {tuple(value.shape)}")
        if self.bin_survival is not None and (
            "bin_survival" not in state or state["bin_survival"].shape != self.bin_survival.shape
        ):
            raise InputError(f"bin_survival: missing or of another length, expected {self.steps} time bins")
        super().load_state_dict(state)
        for kind, survival in self._survival().items():
            for name, value in survival.items():
                survival[name] = state[f"{kind}/{name}"].to(value.device, copy=True)
        if self.bin_survival is not None:
            self.bin_survival = state["bin_survival"].clone()

    def _survival(self) -> dict[str, dict[str, Tensor]]:
        return {"unit_survival": self.unit_survival, "synapse_survival": self.synapse_survival}


def _last_enough(ladder: list[float], left: Callable[[float], int], wanted: int) -> list[float]:
    """The last rung of an ascending ladder of pressures that leaves enough, and the rung after it."""
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if left(ladder[middle]) >= wanted:
            low = middle
        else:
            high = middle - 1
    return ladder[low : low + 2]


def _squash(values: Tensor) -> Tensor:
    """A monotone map of a heavy-tailed tensor to 0 to 1: what a rank would do, without sorting."""
    flat = values.flatten()
    centred = flat - order_statistics(flat, (flat.numel() + 1) // 2 - 1)
    scale = centred.abs().mean() + torch.finfo(flat.dtype).tiny
    return (0.5 + 0.5 * centred / (centred.abs() + scale)).reshape(values.shape)


def _rank(values: Tensor) -> Tensor:
    """Position of each element in the sorted order, 0 to 1."""
    flat = values.flatten()
    ranks = torch.empty_like(flat, dtype=torch.float32)
    order = torch.argsort(flat, stable=True)
    ranks[order] = torch.linspace(0.0, 1.0, flat.numel(), device=flat.device)
    return ranks.reshape(values.shape)
