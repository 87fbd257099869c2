"""Pruning single weights: a score, an allocation between layers, a schedule and regrowth, chosen apart and combined.

Scores are those of `scores`, allocations those of `allocation`, regrowth that of `regrowth`; the schedule is the goal's, gradual
(Zhu, Gupta, arXiv 1710.01878). Pruners of a name (`baselines`) are such choices.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.allocation import ALLOCATIONS
from dpap_neuro.pruning.base import Pruner
from dpap_neuro.pruning.goal import COUNTS
from dpap_neuro.pruning.inputs import energy, watch_inputs
from dpap_neuro.pruning.plasticity import DELTA
from dpap_neuro.pruning.pricing import paid
from dpap_neuro.pruning.regrowth import REGROWTHS, exchange
from dpap_neuro.pruning.scores import SCORES, Measure, add_squares
from dpap_neuro.pruning.statistics import check_finite, is_finite, reduce_over_ranks
from dpap_neuro.pruning.structure import Projection
from dpap_neuro.pruning.time_bins import BinGates, best_bins, check_asked, check_bins


class SingleWeights(Pruner):
    """Base of pruners of single weights, which need a goal. bins: keep this many of a recording's time bins, see `time_bins`."""

    # Decay of the bins' trace per epoch.
    delta = DELTA

    def __init__(self, *, bins: int | None = None, **goal: Any) -> None:
        super().__init__(**goal)
        if not self.goal.is_given:
            raise InputError(f"pruner {self.name}: found no goal, expected sparsity or remaining")
        check_asked(bins, self.goal.epochs)
        self.goal_bins = bins
        self.gates: BinGates | None = None
        self.said: dict[str, Any] = {}

    def say(self, usual: dict[str, Any], chosen: dict[str, Any]) -> None:
        """Let `describe` name the choices that are not the usual ones."""
        self.said = {key: value for key, value in chosen.items() if value != usual[key]}

    def describe(self) -> str:
        said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.said.items())
        bins = f", {self.goal_bins} time bins left" if self.goal_bins is not None else ""
        return f"{self.name}{f' ({said})' if said else ''}{self.goal.describe()}{bins}"

    # time bins

    def _attached(self) -> None:
        super()._attached()
        if self.goal_bins is not None:
            check_bins(self.goal_bins, self.steps)
            self.gates = BinGates(self.structure, self.steps, self.delta)
            self.kept_bins = self.gates.kept

    def detach(self) -> None:
        if self.gates is not None:
            self.gates.detach()
        super().detach()

    @torch.no_grad()
    def step(self, optimizer: Optimizer | None = None) -> None:
        super().step(optimizer)
        if self.gates is not None:
            self.gates.absorb(self.gradient_scale)

    def observe(self, epoch: int) -> None:
        super().observe(epoch)
        if self.gates is not None and self.goal_bins is not None:
            # Before the weights, which what is left of the budget is for.
            keep = self.goal.bins_after(self.goal.ahead(epoch), self.steps, self.goal_bins)
            self.kept_bins = self.gates.kept = best_bins(self.gates.end_epoch(), self.gates.kept, keep)

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        if self.gates is not None:
            state["bin_trace"] = self.gates.trace.clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        trace = state.get("bin_trace")
        if self.gates is not None and (trace is None or trace.shape != self.gates.trace.shape):
            raise InputError(f"bin_trace: missing or of another length, expected {self.steps} time bins")
        super().load_state_dict(state)
        if self.gates is not None and trace is not None and self.kept_bins is not None:
            self.gates.trace, self.gates.kept = trace.clone(), self.kept_bins


class Traced(SingleWeights):
    """Base of those that keep a trace of what every batch measures: F <- delta F + (mean over the epoch's batches).

    delta: decay of the trace per epoch, 0 to below 1. measure: what is measured of a batch's weights and gradients, None for
    nothing (see `scores`). `step` has to come before the gradients are cleared (with several ranks: of averaged gradients).
    """

    def __init__(self, *, delta: float = DELTA, **goal: Any) -> None:
        super().__init__(**goal)
        check_share("delta", delta)
        self.delta = delta
        self.measure: Measure | None = add_squares
        self.traces: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._batches = 0

    @property
    def is_traced(self) -> bool:
        return True

    def _empty_trace(self, p: Projection) -> Tensor:
        return torch.zeros_like(p.weight, requires_grad=False)

    def _attached(self) -> None:
        super()._attached()
        if not self.is_traced:
            return
        self.traces = {p.name: self._empty_trace(p) for p in self.structure.prunable}
        self._squares = {name: torch.zeros_like(trace) for name, trace in self.traces.items()}
        self._batches = 0
        if self.measure is not None:
            self._check_learning()

    def _check_learning(self) -> None:
        for p in self.structure.prunable:
            if not p.weight.requires_grad:
                raise InputError(
                    f"layer {p.name}: its weight is frozen, expected one that learns (or its name in `ignore`)"
                )

    @torch.no_grad()
    def step(self, optimizer: Optimizer | None = None) -> None:
        super().step(optimizer)
        if self.measure is None:
            return
        gradients = {}
        for p in self.structure.prunable:
            if p.weight.grad is None:
                raise InputError(
                    f"layer {p.name}: has no gradient, expected step() after backward() and before zero_grad()"
                )
            gradients[p.name] = p.weight.grad
        if not is_finite(*gradients.values()):
            # A loss scaler skips such a batch; without one the weights are no longer finite either, and end_epoch says so.
            return
        for p in self.structure.prunable:
            weight, gradient = self._whole(p.name, p.weight.detach()), self._whole(p.name, gradients[p.name])
            self.measure(self._squares[p.name], weight, gradient, p.groups)
        self._batches += 1

    def observe(self, epoch: int) -> None:
        super().observe(epoch)
        for name, squares in self._squares.items():
            check_finite(name, "squared gradient" if self.measure is not None else "input", squares)
            self.traces[name].mul_(self.delta).add_(squares, alpha=1.0 / max(1, self._batches))
            squares.zero_()
        self._batches = 0

    def _check_traces(self) -> None:
        for p in self.structure.prunable:
            if p.name in self.traces and not torch.count_nonzero(self.traces[p.name]):
                never = (
                    "its weights never had a gradient that is finite and not zero"
                    if self.measure is not None
                    else "nothing ever reached it in training mode"
                )
                raise InputError(
                    f"layer {p.name}: {never}, expected batches, and neurons that spike (lower their threshold)"
                )

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        state.update({f"traces/{k}": v.clone() for k, v in self.traces.items()})
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, trace in self.traces.items():
            found = state.get(f"traces/{name}")
            if found is None or found.shape != trace.shape:
                shape = "none" if found is None else tuple(found.shape)
                raise InputError(f"traces of {name}: found {shape}, expected shape {tuple(trace.shape)}")
        super().load_state_dict(state)
        for name, trace in self.traces.items():
            trace.copy_(state[f"traces/{name}"])


class Scored(Traced):
    """Single weights by a score, an allocation and a regrowth of one's choice.

    score, allocation, regrow: names of `scores.SCORES`, `allocation.ALLOCATIONS` and `regrowth.REGROWTHS`; None: the usual ones of the
    pruner. exponent, delta: of the weighted score, and of what is measured. fraction: share of each layer's weights exchanged
    in the first epochs, falling with a cosine to 0 when the goal is reached; of each layer so that regrowth moves nothing between
    them. Raises InputError for names that are not known and for choices that do not go together.
    """

    counts = COUNTS

    usual: ClassVar[dict[str, Any]] = {
        "score": "magnitude",
        "allocation": "global",
        "regrow": "none",
        "exponent": 0.25,
        "delta": DELTA,
        "fraction": 0.3,
    }
    # What a pruner's usual choices are where they differ.
    own: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        *,
        score: str | None = None,
        allocation: str | None = None,
        regrow: str | None = None,
        exponent: float | None = None,
        delta: float | None = None,
        fraction: float | None = None,
        **goal: Any,
    ) -> None:
        usual = {**self.usual, **self.own}
        asked = dict(zip(usual, (score, allocation, regrow, exponent, delta, fraction), strict=True))
        chosen: dict[str, Any] = {key: usual[key] if value is None else value for key, value in asked.items()}
        super().__init__(delta=chosen["delta"], **goal)
        for key, names in (("score", SCORES), ("allocation", ALLOCATIONS), ("regrow", REGROWTHS)):
            if chosen[key] not in names:
                raise InputError(f"{key}: found {chosen[key]!r}, expected one of {', '.join(names)}")
        check_exponent(chosen["exponent"])
        check_share("fraction", chosen["fraction"])
        self.score, self.allocation, self.regrow = chosen["score"], chosen["allocation"], chosen["regrow"]
        self.exponent, self.fraction = chosen["exponent"], chosen["fraction"]
        if self.score != "weighted" and exponent is not None:
            raise InputError(
                f"exponent: found {exponent} with score {self.score}, expected score weighted, the only one that has one"
            )
        if self.regrow == "none" and fraction is not None:
            raise InputError(
                f"fraction: found {fraction} with regrow none, expected regrow gradient or random"
            )
        if self.score == "random" and self.regrow != "none":
            raise InputError(
                "regrow: found a random score, whose order is drawn once, so that what regrows would go again; expected regrow none"
            )
        if self.allocation == "erk" and self.goal.meter is not None:
            raise InputError(
                "allocation: found erk with a budget, which it cannot follow (a layer's share comes from its shape alone); "
                "expected global, layer or lamp"
            )
        self._score = SCORES[self.score]
        self.measure = self._score.measure
        self.needs_gradients = self.regrow == "gradient"
        self._order: dict[str, Tensor] = {}
        self._inputs: list[Any] = []
        self.say(usual, chosen)

    # measuring

    @property
    def is_traced(self) -> bool:
        return self._score.is_measured

    def _empty_trace(self, p: Projection) -> Tensor:
        return p.weight.new_zeros(p.pre.numel()) if self._score.sources else super()._empty_trace(p)

    def _attached(self) -> None:
        super()._attached()
        if self.needs_gradients:
            self._check_learning()
        if self._score.reads_inputs:
            self._inputs = watch_inputs(self.structure, self._seen)
        if self._score.of is None:
            self._order = {
                p.name: torch.rand(p.weight.shape, generator=self.generator).to(p.weight.device)
                for p in self.structure.prunable
            }

    @torch.no_grad()
    def _seen(self, p: Projection, x: Tensor) -> None:
        if p.readout or not p.module.training:
            return
        total, cut = self._squares[p.name], self.masks.cut
        own = energy(p, x).to(total)
        if cut is None or own.numel() == total.numel():
            total.add_(own)
        else:
            total.index_add_(0, cut.columns[p.name].to(total.device), own)

    def detach(self) -> None:
        for handle in self._inputs:
            handle.remove()
        self._inputs = []
        super().detach()

    @torch.no_grad()
    def step(self, optimizer: Optimizer | None = None) -> None:
        super().step(optimizer)
        if self._score.reads_inputs:
            self._batches += 1

    def observe(self, epoch: int) -> None:
        if self._score.reads_inputs:
            for squares in self._squares.values():
                reduce_over_ranks(squares)
        super().observe(epoch)

    # choosing

    def scores(self) -> dict[str, Tensor]:
        """Importance of every prunable weight; pruned ones below all others, those of a random order aside."""
        if self._score.of is None:
            return self._order
        result = {}
        for p in self.structure.prunable:
            weight = self._whole(p.name, p.weight.detach())
            trace = self.traces.get(p.name, weight)
            score = self._score.of(weight, trace, p.groups, self.exponent)
            # What is pruned never returns, even where a living weight happens to be zero.
            result[p.name] = torch.where(self.masks.weights[p.name], score, torch.full_like(score, -1.0))
        return result

    def _prune(self, epoch: int) -> None:
        wanted = self.wanted(epoch)
        if wanted is None:
            return
        self._check_traces()
        scores = self.scores()
        masks = self._keep(scores, wanted)
        share = 0.0 if self.regrow == "none" else self.goal.exchanged(epoch, self.fraction)
        if share:
            # What the schedule removes returns, if it does, as all that regrows: with a weight of zero.
            self.masks.synapses = masks
            self.masks.refresh()
            self.masks.apply()
            free, _ = self.masks.weight_masks(self.masks.units, {})
            masks = {
                k: exchange(m, scores[k], self._appeal(k, m), free[k] & ~m, share) for k, m in masks.items()
            }
        self.masks.synapses = masks
        self.masks.refresh()

    def _keep(self, scores: dict[str, Tensor], wanted: int) -> dict[str, Tensor]:
        """Keep the best weights so that, with the read-out, `wanted` parameters (or synapses, or events) are left.

        With a goal of events a weight pays for what it makes: its score is divided by the square root of these.
        """
        projections, sizes = self.structure.projections, None
        fixed = sum(
            float(self.tally.sizes(p).expand(p.shape).sum())
            for p in projections.values()
            if p.name not in scores
        )
        if self.goal.count != "parameters":
            sizes = {n: self.tally.sizes(projections[n]).to(s.device) for n, s in scores.items()}
        if self.goal.count == "events":
            assert sizes is not None
            scores = {n: torch.where(s < 0, s, s / paid(sizes[n]).to(s)) for n, s in scores.items()}
        masks = ALLOCATIONS[self.allocation](scores, math.floor(wanted - fixed), sizes)
        if self.goal.count != "parameters":
            # As rates change or single neurons go there may be room again, and some weights cost nothing: neither lets the pruned return.
            masks = {
                n: kept if (kept := mask & (scores[n] >= 0)).any() else mask for n, mask in masks.items()
            }
        return masks

    def _appeal(self, name: str, mask: Tensor) -> Tensor:
        """Of a projection's weights: the pruned ones with the largest are regrown."""
        if self.regrow == "random":
            return torch.rand(mask.shape, generator=self.generator).to(mask.device)
        if name not in self.gradients:
            raise InputError(
                f"layer {name}: has no gradient to regrow by, expected backward() before end_epoch()"
            )
        return self.gradients[name].abs()


def check_share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise InputError(f"{name}: found {value}, expected 0 to below 1")


def check_exponent(value: float) -> None:
    if not 0.0 <= value < math.inf:
        raise InputError(f"exponent: found {value}, expected at least 0")
