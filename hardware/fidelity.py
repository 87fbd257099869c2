"""Does the chip do what the trained network did? Predictions, accuracy and spike agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardware.errors import HardwareError

Array = np.ndarray


@dataclass(frozen=True)
class Agreement:
    """both: spikes of the same neuron in the same step in both runs; either: in at least one of them."""

    both: int
    either: int

    @property
    def share(self) -> float:
        """both / either; 1 where nobody spiked. Silent steps count for nothing: they would flatter it."""
        return self.both / self.either if self.either else 1.0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.both + other.both, self.either + other.either)


def agreement(a: Array, b: Array) -> Agreement:
    """Of two spike arrays of one shape. Raises HardwareError where shapes differ."""
    if a.shape != b.shape:
        raise HardwareError(f"spikes to compare: found shapes {a.shape} and {b.shape}, expected the same")
    a, b = a != 0, b != 0
    return Agreement(int((a & b).sum()), int((a | b).sum()))


def agreements(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, Agreement]:
    """Per population that both runs recorded, in the order of `a`."""
    return {name: agreement(a[name], b[name]) for name in a if name in b}


def overall(parts: Mapping[str, Agreement]) -> Agreement:
    """All populations' spikes thrown together."""
    return sum(parts.values(), Agreement(0, 0))


def predictions(output: Array) -> Array:
    """(batch, steps, classes) spikes or membranes to (batch,) classes: the largest sum over time, the first where several."""
    return output.reshape(*output.shape[:2], -1).sum(axis=1, dtype=np.float64).argmax(axis=1)
