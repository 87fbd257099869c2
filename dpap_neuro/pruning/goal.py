"""What pruning is to reach, and by which epoch: a share, a count, or a budget that something else measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.survival import gradual_share

# How many times as fast as single weights whole units and time bins go.
AHEAD = 2

# What a goal may be of.
COUNTS = ("parameters", "synapses", "events")


@dataclass(frozen=True)
class Reading:
    """What a network takes of a budget.

    excess: factors above 1 by which "neurons" and "synapses" should shrink, empty where the network fits.
    text: one line; values: plain numbers and strings for a record of the run. silent: layers that do next to nothing on the recordings
    that were run, None where none were: a budget of what recordings cost is kept too when a layer dies.
    """

    excess: Mapping[str, float]
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)
    silent: tuple[str, ...] | None = None

    @property
    def fits(self) -> bool:
        return not self.excess


# meter(network, bins=None) measures the network as it is, in evaluation or training mode, and leaves it as it was; bins: the time bins that it
# is shown, all where None (pruners that prune none never say them). Its str() names the budget.
Meter = Callable[..., Reading]


@dataclass(frozen=True)
class Goal:
    """What a pruner is to reach in a run of `epochs`; without sparsity, remaining and meter nothing is asked for.

    sparsity: share of all weights to have removed at the end (0 to below 1). remaining: the same as a count of what is
    left. count: what the two are of, "parameters" (weights), "synapses" (connections of the unrolled network) or "events"
    (synaptic events per recording; a sparsity is of those before the first weight goes); None: parameters, or of a meter synapses. first_epoch: where the schedule begins (None: after a tenth of the run). reach: share
    of the run after which the goal is reached. meter: prune until the network fits what it measures.

    Raises InputError for what is outside its range, for two goals at once, and for one without `epochs`.
    """

    sparsity: float | None = None
    remaining: int | None = None
    count: str | None = None
    epochs: int | None = None
    first_epoch: int | None = None
    reach: float = 0.7
    meter: Meter | None = None

    def __post_init__(self) -> None:
        sparsity, remaining, epochs, first = self.sparsity, self.remaining, self.epochs, self.first_epoch
        if sparsity is not None and not 0.0 <= sparsity < 1.0:
            raise InputError(
                f"sparsity: found {sparsity}, expected 0 to below 1 (share of the parameters removed)"
            )
        if sparsity is not None and remaining is not None:
            raise InputError("goal: found both sparsity and remaining, expected one of them")
        if remaining is not None and (remaining < 1 or remaining % 1):
            raise InputError(f"remaining: found {remaining}, expected a whole number of at least 1")
        if self.count is None:
            object.__setattr__(self, "count", "parameters" if self.meter is None else "synapses")
        if self.count not in COUNTS:
            raise InputError(f"count: found {self.count!r}, expected {', '.join(map(repr, COUNTS))}")
        if epochs is not None and epochs < 1:
            raise InputError(f"epochs: found {epochs}, expected at least 1")
        if first is not None and not 0 <= first < (epochs or math.inf):
            raise InputError(
                f"first_epoch: found {first}, expected at least 0 and below the {epochs} epochs of the run"
            )
        if not 0.0 < self.reach <= 1.0:
            raise InputError(f"reach: found {self.reach}, expected above 0 and at most 1")
        if self.meter is not None and (sparsity is not None or remaining is not None):
            raise InputError("goal: found a budget and a sparsity or count, expected one of them")
        if self.is_given and epochs is None:
            raise InputError(
                "epochs: found none, expected the length of the run (a goal is approached gradually)"
            )

    @property
    def is_given(self) -> bool:
        return self.is_number or self.meter is not None

    @property
    def is_number(self) -> bool:
        """Whether it is a sparsity or a count, and not a budget."""
        return self.sparsity is not None or self.remaining is not None

    def describe(self) -> str:
        """The end of a line that begins with the pruner's name; empty without a goal."""
        reached = f"reached after {self.reach:.0%} of {self.epochs} epochs"
        if self.sparsity is not None:
            return f" to {self.sparsity:.1%} of the {self.count} removed, {reached}"
        if self.remaining is not None:
            return f" to {int(self.remaining):,} {self.count} left, {reached}"
        if self.meter is not None:
            return f" until the network fits {self.meter}, {reached}"
        return ""

    # when

    def schedule(self, first: int | None = None) -> tuple[int, int]:
        """The first epoch that prunes (the given one, else the goal's), and the one that reaches the goal."""
        assert self.epochs is not None
        if first is None:
            first = self.first_epoch
        if first is None:
            first = min(self.epochs - 1, max(1, self.epochs // 10))
        return first, max(first, round(self.reach * self.epochs) - 1)

    def ahead(self, epoch: int) -> int:
        """The epoch of the schedule at which whatever goes before single weights is after `epoch`: it takes AHEAD of them in one."""
        first, _ = self.schedule()
        return first + AHEAD * (epoch - first)

    def exchanged(self, epoch: int, share: float) -> float:
        """Share of the weights that sparse training exchanges after `epoch`: by a cosine from `share` to 0 at the goal."""
        assert self.epochs is not None
        progress = (epoch + 1) / max(1.0, self.reach * self.epochs)
        return share * 0.5 * (1.0 + math.cos(math.pi * progress)) if progress < 1.0 else 0.0

    # how much

    def bins_after(self, epoch: int, steps: int, bins: int, first: int | None = None) -> int:
        """How many of `steps` time bins shall be left after `epoch` for `bins` to be left at last. first: see `schedule`."""
        share = gradual_share(epoch, *self.schedule(first), 1.0 - bins / steps)
        return max(bins, math.ceil(steps * (1.0 - share) - 1e-9))

    def at_end(self, total: int) -> int:
        """How many of `total` parameters (or synapses) shall be left at last; of a goal that is a number."""
        if self.sparsity is not None:
            return round(total * (1.0 - self.sparsity))
        assert self.remaining is not None
        return int(self.remaining)

    def left_after(self, epoch: int, total: int) -> int | None:
        """How many of `total` shall be left after `epoch`; None before the schedule begins, and of a budget."""
        if not self.is_number:
            return None
        share = self.sparsity
        if share is None:
            share = max(0.0, 1.0 - self.at_end(total) / total)
        first, last = self.schedule()
        if epoch < first:
            return None
        if self.remaining is not None and epoch >= last:
            return min(total, self.at_end(total))
        return round(total * (1.0 - gradual_share(epoch, first, last, share)))
