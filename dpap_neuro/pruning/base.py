"""What all pruners share: attaching to a network, holding masks, counting, and saving."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.budget import approach, check_possible
from dpap_neuro.pruning.finding import find_structure
from dpap_neuro.pruning.goal import Goal, Meter, Reading
from dpap_neuro.pruning.masks import LayerCount, Masks, clear
from dpap_neuro.pruning.plasticity import DELTA
from dpap_neuro.pruning.positions import mark
from dpap_neuro.pruning.pricing import MeasuredRates
from dpap_neuro.pruning.shrinking import Cut, Shrunk, check_moments, cut_of_dead, put
from dpap_neuro.pruning.statistics import Statistics, average_over_ranks, check_finite, finite_or
from dpap_neuro.pruning.structure import Projection, Structure, call_network, evaluating
from dpap_neuro.pruning.tally import Tally


@dataclass(frozen=True)
class PruneReport:
    """What is left after an epoch. parameters: weights of kernels and matrices; synapses: connections of the
    unrolled network; sparsity: share of the parameters removed; pruned: how many went in this epoch (below
    zero: regrown); kept_bins: indices of the time bins still shown, None where bins are not pruned; reading: what
    the network takes of a budget, None without one.
    """

    epoch: int
    parameters: int
    remaining: int
    pruned: int
    synapses: int
    synapses_remaining: int
    layers: tuple[LayerCount, ...]
    kept_bins: tuple[int, ...] | None = None
    reading: Reading | None = None

    @property
    def sparsity(self) -> float:
        return 1.0 - self.remaining / self.parameters

    def __str__(self) -> str:
        left = f"{self.remaining:,} of {self.parameters:,} parameters left"
        return f"epoch {self.epoch}: {left} ({self.sparsity:.1%} removed)"


class Pruner:
    """Base of all pruners: observes a network, scores what it is made of, and masks what goes.

    A pruner of one's own overrides `_prune`, which changes `self.masks` towards `self.wanted(epoch)`, and where needed
    `_attached`, `observe`, `describe` and the state. The first line of its docstring says what it does in lists of
    pruners. sparsity, remaining, count, epochs, first_epoch, reach, meter: see `Goal`. seed: of everything random.
    Raises InputError for a goal outside its range.
    """

    name = "pruner"
    # Why it cannot prune towards a budget; empty where it can.
    no_budget = ""
    # What its goal may be of, see `Goal`.
    counts: tuple[str, ...] = ("parameters", "synapses")
    needs_statistics = False
    needs_gradients = False
    # Whether a recording's place in its batch matters, so that a batch cannot run in parts.
    whole_batches = False
    # Whether the backward pass at work is the last before the optimizer's step, and by what a loss scaler has multiplied the loss.
    last_part = True
    gradient_scale = 1.0

    def __init__(
        self,
        *,
        sparsity: float | None = None,
        remaining: int | None = None,
        count: str | None = None,
        epochs: int | None = None,
        first_epoch: int | None = None,
        reach: float = 0.7,
        seed: int = 0,
        meter: Meter | None = None,
    ) -> None:
        if count is None and (usual := getattr(meter, "count", None)) in self.counts:
            count = usual
        self.goal = Goal(sparsity, remaining, count, epochs, first_epoch, reach, meter)
        if self.goal.is_given and self.goal.count not in self.counts:
            raise InputError(
                f"pruner {self.name}: found count {self.goal.count!r}, expected {' or '.join(map(repr, self.counts))}"
            )
        self.targets: dict[str, int] = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.model: nn.Module | None = None
        self.statistics: Statistics | None = None
        self.gradients: dict[str, Tensor] = {}
        self._handles: list = []
        self._before = 0
        self.kept_bins: Tensor | None = None
        self._shrunk: Shrunk | None = None

    @classmethod
    def for_run(cls, epochs: int | None, **options: Any) -> Pruner:
        """The pruner of a run of `epochs`, as `make_pruner` makes it."""
        return cls(epochs=epochs, **options)

    # attaching

    def attach(
        self,
        model: nn.Module,
        sample_input: Tensor,
        *,
        time: bool = True,
        loop: bool = False,
        ignore: Iterable[str] = (),
    ) -> Pruner:
        """Find the structure of `model` and start observing; see `find_structure` for the arguments and errors. Raises
        InputError, too, for a goal below what the pruner always leaves.
        """
        if self.model is not None:
            raise InputError(
                "attach: the pruner is attached already, expected a new pruner (or detach() first)"
            )
        structure = find_structure(model, sample_input, time=time, loop=loop, ignore=ignore)
        self._unwatch_gradients()
        self.model = model
        self.structure: Structure = structure
        self._loop = loop
        self._sample = sample_input.narrow(1 if time else 0, 0, 1).detach().clone()
        mark(model, structure, self._sample, loop)
        self.masks = self._make_masks(structure)
        self.tally = Tally(self.masks, self.goal)
        self._before = self.masks.remaining()
        self.steps = sample_input.shape[0] if time else 1
        self.gradients = {}
        self.targets = {}
        self._shrunk = None
        try:
            self.tally.check_goal(
                self.name, {name: self._always_left(p) for name, p in structure.projections.items()}
            )
            if self.needs_statistics:
                self.statistics = self._make_statistics(structure, loop, time)
                self.statistics.attach(model)
            self._watch_gradients()
            if self.goal.is_given and self.goal.count == "events":
                self.tally.measured = MeasuredRates(model, structure, time=time, loop=loop, steps=self.steps)
            self._attached()
            if self.goal.meter is not None:
                check_possible(model, self.masks, self.goal.meter)
        except InputError:
            self.detach()
            raise
        return self

    def _make_statistics(self, structure: Structure, loop: bool, time: bool) -> Statistics:
        return Statistics(structure, delta=DELTA, loop=loop, time=time)

    def _make_masks(self, structure: Structure) -> Masks:
        return Masks(structure)

    def _attached(self) -> None:
        """For subclasses: after attaching."""

    def detach(self) -> None:
        """Stop observing; the masks, and the network's size, stay as they are. Where training goes on without the pruner, what it
        pruned comes back, which a warning says once.
        """
        if self.statistics is not None:
            self.statistics.detach()
        if self.tally.measured is not None:
            self.tally.measured.detach()
        self._unwatch_gradients()
        self.model = None
        self._watch_return()

    def _watch_return(self) -> None:
        def returning(_: Tensor) -> None:
            self._unwatch_gradients()
            pruned = self.masks.parameters() - self.masks.remaining()
            warnings.warn(
                f"pruner {self.name} is detached: the {pruned:,} weights that it pruned come back as training goes on; detach it "
                "behind the last step, and call step() after every one until then",
                stacklevel=2,
            )

        for p in self.structure.projections.values():
            weight = p.weight
            if weight.requires_grad and self.masks.kept(weight) is not None:
                self._handles.append(weight.register_post_accumulate_grad_hook(returning))

    def _watch_gradients(self) -> None:
        for p in self.structure.projections.values():
            for tensor in (p.weight, p.bias):
                if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                    name = p.name if tensor is p.weight and not p.readout else ""
                    self._handles.append(tensor.register_post_accumulate_grad_hook(self._gradient_hook(name)))

    def _unwatch_gradients(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _gradient_hook(self, name: str) -> Any:
        @torch.no_grad()
        def hook(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            if name and self.needs_gradients and self.last_part:
                whole = self._whole(name, gradient.detach())
                if self.gradient_scale != 1.0:
                    whole = whole / self.gradient_scale
                seen = self.gradients.get(name)
                # A loss scaler skips a batch whose gradients overflow.
                if seen is None:
                    self.gradients[name] = finite_or(whole, torch.zeros_like(whole)).clone()
                else:
                    seen.lerp_(finite_or(whole, seen), 0.1)
            # Clipping by norm, and momentum, are not to see what is pruned.
            kept = self.masks.kept(parameter)
            if kept is not None:
                clear(gradient, kept)

        return hook

    def _whole(self, name: str, part: Tensor) -> Tensor:
        """A tensor of the weight of projection `name`, with zeros where the network is cut down."""
        cut = self.masks.cut
        if cut is None:
            return part
        whole = part.new_zeros(self.structure.projections[name].shape)
        return put(whole, cut.axes(name), part)

    # training

    def step(self, optimizer: Optimizer | None = None) -> None:
        """After every optimizer step: pruned parameters back to exactly zero, statistics of the batch taken
        in.
        """
        self._check_attached()
        self.masks.apply()
        if self.statistics is not None:
            self.statistics.absorb()

    @torch.no_grad()
    def end_epoch(self, epoch: int, optimizer: Optimizer | None = None) -> PruneReport:
        """After every epoch (counted from 0): prune, and clear the momentum of what is pruned. Raises InputError for
        weights that are NaN or infinite; batches whose gradients are count for nothing, as for a loss scaler.
        """
        self._check_attached()
        if self.statistics is not None:
            self.statistics.end_epoch()
        for p in self.structure.projections.values():
            check_finite(p.name, "weight", p.weight)
        for name, gradient in self.gradients.items():
            # What the hooks saw is each rank's own gradient, before it was averaged.
            self.gradients[name] = average_over_ranks(gradient)
        self.tally.take_rates(epoch)
        reading = None
        if self.goal.meter is None:
            self.observe(epoch)
            # Of a silent layer, which costs nothing, all would go, or all of others in its place.
            if self.tally.is_heard:
                self.prune_now(epoch)
        else:
            reading = self._approach(self.goal.meter, epoch)
        if optimizer is not None:
            if self._shrunk is not None and self._shrunk.replaced_in(optimizer):
                raise InputError(
                    "end_epoch: the optimizer has parameters that compact() replaced, expected compact(optimizer)"
                )
            self.masks.clear_optimizer(optimizer)
        return self.report(epoch, reading)

    def _approach(self, meter: Meter, epoch: int) -> Reading:
        """Observe, and prune towards the budget."""
        assert self.model is not None
        schedule = self.goal.schedule()
        if epoch >= schedule[0]:
            self.observe(epoch)

        def reduce(targets: dict[str, int]) -> None:
            self.targets = targets
            self.prune_now(epoch)

        return approach(
            partial(self._measure, meter),
            self.masks,
            reduce,
            epoch,
            schedule,
            self.tally.left,
            self._keep_all,
        )

    def _measure(self, meter: Meter) -> Reading:
        """What the network takes of the budget, shown the time bins that are left."""
        assert self.model is not None
        return meter(self.model) if self.kept_bins is None else meter(self.model, self.kept_bins.tolist())

    def _keep_all(self) -> Callable[[], None]:
        """Remember weights and masks; what is returned brings them back."""
        model = self.model
        assert model is not None
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        masks = self.masks.state_dict()

        def back() -> None:
            self.masks.load_state_dict(masks)
            model.load_state_dict(weights)

        return back

    def prune_now(self, epoch: int) -> None:
        """Change the masks, and set what they removed to zero."""
        self._prune(epoch)
        self.masks.apply()

    def observe(self, epoch: int) -> None:
        """For subclasses: once per epoch, before masks change."""

    def _prune(self, epoch: int) -> None:
        """For subclasses: change the masks."""

    def report(self, epoch: int, reading: Reading | None = None) -> PruneReport:
        """Counts as of now."""
        self._check_attached(ever=True)
        layers = self.masks.layers()
        remaining = sum(layer.remaining for layer in layers)
        pruned, self._before = self._before - remaining, remaining
        return PruneReport(
            epoch=epoch,
            parameters=sum(layer.parameters for layer in layers),
            remaining=remaining,
            pruned=pruned,
            synapses=sum(layer.synapses for layer in layers),
            synapses_remaining=sum(layer.synapses_remaining for layer in layers),
            layers=layers,
            kept_bins=tuple(self.kept_bins.tolist()) if self.kept_bins is not None else None,
            reading=reading,
        )

    def mark_positions(self, optimizer: Optimizer | None = None) -> None:
        """Charge for what single neurons that were pruned since (see `positions`) leave: a goal of synapses or events counts no
        connection from or to them.
        """
        self._check_attached()
        assert self.model is not None
        with self.whole(optimizer):
            mark(self.model, self.structure, self._sample, self._loop)

    # compaction

    def compact(self, optimizer: Optimizer | None = None) -> bool:
        """Cut dead channels and neurons out of the network and its optimizer; returns whether its size changed.

        To be called between `end_epoch` and the next epoch, so that epochs get faster as the network shrinks. What is
        cut away is silent and zero for good: masks, statistics, survival and every number that the pruner reports go
        on for the whole network, and training goes on as it would have (to the order of sums: float tolerance, where
        a spike may flip). Parameters are new objects after it, in the network and in `optimizer`; without it make a
        new optimizer, or what was cut learns no more. A network shrinks by its dead channels and neurons: those of
        `dpap`, and of `weighted` above all when `structured`. Raises InputError for a network whose code depends
        on the sizes that change, and for an optimizer whose state does not have its parameters' shapes.
        """
        self._check_attached()
        cut = cut_of_dead(self.structure, self.masks.units)
        if cut.removes_nothing if self._shrunk is None else cut.same_as(self._shrunk.cut):
            return False
        assert self.model is not None
        if optimizer is not None:
            check_moments(optimizer)
        self.expand(optimizer)
        self._shrunk = Shrunk(cut, optimizer)
        try:
            with evaluating(self.model), torch.no_grad():
                call_network(self.model, self._sample, self._loop)
        except (RuntimeError, IndexError) as error:
            self.expand(optimizer)
            raise InputError(
                f"compact: the smaller network does not run ({str(error).splitlines()[0]}), expected a forward pass "
                "that does not fix the sizes of its layers"
            ) from None
        self._fit(cut)
        return True

    def expand(self, optimizer: Optimizer | None = None) -> None:
        """Undo `compact`: the network at full size, with zeros where it was cut."""
        if self._shrunk is not None:
            self._shrunk.expand(optimizer)
            self._shrunk = None
            self._fit(None)

    @contextmanager
    def whole(self, optimizer: Optimizer | None = None) -> Iterator[None]:
        """The network at full size for a while, to save it."""
        shrunk = self._shrunk
        self.expand(optimizer)
        try:
            yield
        finally:
            if shrunk is not None:
                self.compact(optimizer)

    def _fit(self, cut: Cut | None) -> None:
        self._unwatch_gradients()
        self.masks.cut = cut
        self.masks.refresh()
        if self.model is not None:
            self._watch_gradients()
        else:
            self._watch_return()
        if self.statistics is not None:
            self.statistics.shrink(cut)
        if self.tally.measured is not None:
            self.tally.measured.cut = cut

    def _check_attached(self, *, ever: bool = False) -> None:
        """ever: what was detached again has its masks still."""
        if self.model is None and not (ever and hasattr(self, "masks")):
            raise InputError(f"pruner {self.name}: not attached, expected attach(model, sample_input) first")

    # counting

    def remaining(self) -> int:
        """Weights of kernels and matrices left."""
        self._check_attached(ever=True)
        return self.masks.remaining()

    def sparsity(self) -> float:
        """Share of the weights of kernels and matrices that is removed."""
        self._check_attached(ever=True)
        return 1.0 - self.masks.remaining() / self.masks.parameters()

    def describe(self) -> str:
        """One line about what the pruner does."""
        return f"{self.name}{self.goal.describe()}"

    def description(self) -> dict[str, Any]:
        """All that it was made with, in plain values; before `attach`. A subclass's settings are its public attributes."""
        found: dict[str, Any] = {"name": self.name, "seed": self.generator.initial_seed()}
        for key, value in sorted(vars(self).items()):
            if key.startswith("_") or key == "goal":
                continue
            if is_dataclass(value) and not isinstance(value, type):
                found[key] = asdict(value)
            elif isinstance(value, (bool, int, float, str)):
                found[key] = value
        goal: dict[str, Any] = {f.name: getattr(self.goal, f.name) for f in fields(self.goal)}
        meter = goal.pop("meter")
        goal["budget"] = None if meter is None else str(meter)
        if is_dataclass(meter):
            # With every number of the chip's.
            goal["budget (SHA-256)"] = hashlib.sha256(repr(meter).encode()).hexdigest()
        return {**found, "goal": goal}

    # goals

    def _always_left(self, p: Projection) -> int:
        """Weights of a projection that are left whatever the goal: all of the read-out, and one of others."""
        return math.prod(p.shape) if p.readout else 1

    def wanted(self, epoch: int) -> int | None:
        """How many parameters (or synapses) should be left after `epoch`; None before the schedule begins."""
        if self.goal.meter is not None:
            return self.targets.get("synapses")
        return self.goal.left_after(epoch, self.tally.total()) if self.goal.is_number else None

    # saving

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on, as tensors."""
        self._check_attached(ever=True)
        state = {f"masks/{k}": v for k, v in self.masks.state_dict().items()}
        if self.statistics is not None:
            state.update({f"statistics/{k}": v for k, v in self.statistics.state_dict().items()})
        state.update({f"gradients/{k}": v.clone() for k, v in self.gradients.items()})
        if self.tally.events_at_first:
            state["events"] = torch.tensor(self.tally.events_at_first, dtype=torch.float64)
        state["generator"] = self.generator.get_state()
        if self.kept_bins is not None:
            state["kept_bins"] = self.kept_bins.clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises InputError for the state of another network or pruner."""
        self._check_attached()

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) + 1 :]: v for k, v in state.items() if k.startswith(f"{prefix}/")}

        if "generator" not in state:
            raise InputError("pruner state: generator is missing, expected the state_dict() of a pruner")
        gradients = part("gradients")
        for name, gradient in gradients.items():
            p = self.structure.projections.get(name)
            if p is None or gradient.shape != p.shape:
                raise InputError(
                    f"gradients of {name}: found shape {tuple(gradient.shape)}, expected those of this network"
                )
        self.masks.check(part("masks"))
        if self.statistics is not None:
            self.statistics.load_state_dict(part("statistics"))
        self.masks.load_state_dict(part("masks"))
        self.gradients = {
            k: v.to(self.structure.projections[k].weight.device, copy=True) for k, v in gradients.items()
        }
        self.generator.set_state(state["generator"])
        self.tally.events_at_first = float(state.get("events", 0.0))
        self._load_bins(state.get("kept_bins"))
        self._before = self.masks.remaining()

    def _load_bins(self, kept: Tensor | None) -> None:
        self.kept_bins = kept.clone() if kept is not None else None
        if self.statistics is not None:
            self.statistics.kept_bins = self.kept_bins
