"""What a training run is done with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpap_neuro.errors import InputError

# Of --prune-positions: neurons that never spike.
SILENT = "silent"
LOSSES = ("cross-entropy", "mse", "one-sided-mse")
AMP = ("bfloat16", "float16")
MOST_EPOCHS = 1_000_000
MOST_BATCH = 1_000_000
# What torch, NumPy and a checkpoint can all hold.
MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class TrainSettings:
    """epochs: passes over the data. batch: recordings per step, of all processes together. warmup: epochs in which the
    learning rate rises, before its cosine. compact: cut dead channels and neurons out while training goes on, so that
    epochs get faster; at the end the network has its full size again. more_epochs: passes added to a run that has a checkpoint,
    behind its epochs: the learning rate goes on along the cosine of the longer run, the pruner keeps to its own schedule.

    loss: one of `LOSSES`, see `steps.loss_function`; label_smoothing: of cross-entropy. amp: None, or one of `AMP`, in which synapses
    compute. accumulate: parts that a batch runs in, for less memory. rate_weight: of a term in the loss, the sum over layers of a
    recording's spikes per neuron and step above rate_target, see `activity.too_much`; 0: without.

    prune_positions: neurons of feature maps that go one by one until the pruner's schedule ends: "silent", or their share, see
    `pruning.positions`; None: none.

    shift, flip, drop, jitter: see `data.augmentation`. Raises InputError for a number outside its range.
    """

    epochs: int = 20
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup: float = 1.0
    label_smoothing: float = 0.1
    shift: int = 2
    flip: bool = False
    drop: float = 0.0
    jitter: float = 0.0
    seed: int = 0
    compact: bool = False
    more_epochs: int = 0
    loss: str = "cross-entropy"
    amp: str | None = None
    accumulate: int = 1
    rate_target: float = 0.0
    rate_weight: float = 0.0
    prune_positions: str | None = None

    @property
    def all_epochs(self) -> int:
        return self.epochs + self.more_epochs

    def __post_init__(self) -> None:
        _within("epochs", self.epochs, 1, MOST_EPOCHS)
        _within("more_epochs", self.more_epochs, 0, MOST_EPOCHS)
        if self.batch < 2:
            raise InputError(f"batch: found {self.batch}, expected at least 2 (batch norm needs them)")
        _within("batch", self.batch, 2, MOST_BATCH)
        _within("seed", self.seed, 0, MOST_SEED)
        _within("accumulate", self.accumulate, 1, self.batch // 2)
        if self.loss not in LOSSES:
            raise InputError(f"loss: found {self.loss!r}, expected one of {', '.join(LOSSES)}")
        if self.amp is not None and self.amp not in AMP:
            raise InputError(f"amp: found {self.amp!r}, expected {' or '.join(AMP)}")
        if self.shift < 0:
            raise InputError(f"shift: found {self.shift}, expected at least 0 pixels")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate: found {self.learning_rate}, expected a finite number above 0")
        for name in ("weight_decay", "warmup", "rate_target", "rate_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"{name}: found {getattr(self, name)}, expected a finite number of at least 0"
                )
        if self.rate_target and not self.rate_weight:
            raise InputError(
                f"rate_target: found {self.rate_target} without rate_weight, expected what a spike above it costs"
            )
        if self.prune_positions is not None:
            share_of_positions(self.prune_positions)
        for name in ("drop", "jitter", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected 0 to below 1")


def share_of_positions(wanted: str) -> float | None:
    """The share of the neurons that a text asks for, None for "silent": those that never spike. Raises InputError for others."""
    if wanted == SILENT:
        return None
    try:
        share = float(wanted)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise InputError(
            f"prune-positions: found {wanted!r}, expected silent, or a share of the feature maps' neurons above 0 and below 1"
        )
    return share


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        shown = value if abs(value) < 10**30 else f"a number of {len(str(abs(value)))} digits"
        raise InputError(f"{name}: found {shown}, expected {least} to {most:,}")
