"""The survival schedule: rules and constants, and how survival values move from epoch to epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.plasticity import DELTA, settling, survival_gain, survive

PAPER_EPOCHS = 300


@dataclass(frozen=True)
class SurvivalRule:
    """Constants of one kind of unit: cost c, growth r, and tau (epochs) of the settling."""

    cost: float
    growth: float
    tau: float


@dataclass(frozen=True)
class SurvivalSettings:
    """All constants of DPAP; the defaults are the authors' (arXiv 2211.12714, runs of 300 epochs).

    delta: decay of the trace per step. initial: survival at the start. gamma: decay of survival per epoch.
    first_epoch: e0, the epoch (counted from 0) after which pruning begins. percentile: above it u is 1.
    """

    delta: float = DELTA
    initial: float = 10.0
    gamma: float = 0.999
    first_epoch: int = 5
    percentile: float = 75.0
    channel: SurvivalRule = field(default_factory=lambda: SurvivalRule(0.65, 5.0, 12.0))
    neuron: SurvivalRule = field(default_factory=lambda: SurvivalRule(1.5, 2.0, 13.0))
    synapse: SurvivalRule = field(default_factory=lambda: SurvivalRule(1.5, 2.0, 13.0))
    time_bin: SurvivalRule = field(default_factory=lambda: SurvivalRule(0.65, 5.0, 12.0))

    def __post_init__(self) -> None:
        if not 0.0 <= self.delta < 1.0:
            raise InputError(f"delta: found {self.delta}, expected 0 to below 1")
        if not 0.0 < self.percentile <= 100.0:
            raise InputError(f"percentile: found {self.percentile}, expected above 0 and at most 100")
        if not self.initial >= 0.0 or not 0.0 < self.gamma <= 1.0 or self.first_epoch < 0:
            raise InputError(
                f"survival: found start {self.initial}, gamma {self.gamma}, first epoch {self.first_epoch}, "
                "expected start >= 0, gamma in (0, 1], first epoch >= 0"
            )

    def scaled_to(self, epochs: int) -> SurvivalSettings:
        """The schedule of 300 epochs fitted to a run of `epochs`.

        Pruning begins after a fifteenth of the run (the authors: a sixtieth, but never before the second
        epoch here: a short run needs some epochs before its statistics mean anything), gains settle with tau
        of a quarter of the run, and the initial survival shrinks with the sum of the settling factors, so
        that a unit of a given constant gain lives or dies as it would in the long run. Runs of 300 epochs or
        more keep the constants.
        """
        if epochs < 1:
            raise InputError(f"epochs: found {epochs}, expected at least 1")
        if epochs >= PAPER_EPOCHS:
            return self
        first = min(self.first_epoch, max(1, round(epochs / 15)), max(0, epochs - 2))

        def shorter(rule: SurvivalRule) -> SurvivalRule:
            return replace(rule, tau=min(rule.tau, max(1.0, rule.tau * epochs / PAPER_EPOCHS, epochs / 4)))

        channel = shorter(self.channel)
        long_sum = sum(
            settling(e, self.first_epoch, self.channel.tau) for e in range(self.first_epoch, PAPER_EPOCHS)
        )
        short_sum = sum(settling(e, first, channel.tau) for e in range(first, epochs))
        return replace(
            self,
            initial=self.initial * short_sum / long_sum,
            first_epoch=first,
            channel=channel,
            neuron=shorter(self.neuron),
            synapse=shorter(self.synapse),
            time_bin=shorter(self.time_bin),
        )

    def describe(self) -> str:
        """One line: the constants in use, and whether they are the authors'."""
        origin = "the authors' constants" if self == SurvivalSettings() else "not the authors' constants"
        return (
            f"survival starts at {self.initial:.3g}, first pruning after epoch {self.first_epoch}, tau "
            f"{self.channel.tau:.3g} (channels), {self.neuron.tau:.3g} (neurons), {self.synapse.tau:.3g} "
            f"(synapses), gamma {self.gamma:g}, percentile {self.percentile:g}: {origin}"
        )

    def update(self, survival: Tensor, importance: Tensor, rule: SurvivalRule, epoch: int) -> Tensor:
        """Survival values after `epoch` (>= first_epoch); importance of the same shape."""
        gain = survival_gain(importance, rule.cost, rule.growth, self.percentile)
        return survive(survival, gain, self.gamma, settling(epoch, self.first_epoch, rule.tau))


def gradual_share(epoch: int, first_epoch: int, last_epoch: int, goal: float) -> float:
    """Share to have removed after `epoch`: cubic from 0 before `first_epoch` to `goal` at `last_epoch`.

    Zhu, Gupta 2017 (arXiv 1710.01878): goal (1 - (1 - progress)^3).
    """
    if epoch < first_epoch:
        return 0.0
    progress = min(1.0, (epoch - first_epoch + 1) / max(1, last_epoch - first_epoch + 1))
    return goal * (1.0 - math.pow(1.0 - progress, 3))
