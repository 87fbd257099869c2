"""Event-camera recordings by name. To add a data set: a class as in `digits.py`, and a line in `open_dataset`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dpap_neuro.data.binning import Binning, Recordings, rasters
from dpap_neuro.errors import InputError

DATASETS = ("digits", "nmnist")
SPLITS = ("train", "test", "all")


class LabelledRecordings(Recordings, Protocol):
    """What a data set offers: labels (n,) int64, and items (events, label), see `Recordings`."""

    labels: np.ndarray


@dataclass(frozen=True)
class Opened:
    """A split of a data set. duration_us: nominal length of a recording."""

    name: str
    recordings: LabelledRecordings
    sensor_size: tuple[int, int, int]
    classes: tuple[str, ...]
    duration_us: float

    def rasters(self, binning: Binning, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Counts (n, steps, polarity, y, x), uint8."""
        return rasters(self.recordings, binning, self.sensor_size, progress)


def open_dataset(name: str, data_dir: str | Path | None = None, split: str = "train") -> Opened:
    """Open a split of a data set. Raises InputError for an unknown name or split, or a missing folder."""
    if split not in SPLITS:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    if name == "digits":
        from dpap_neuro.data import digits

        return Opened(name, digits.Digits(split), digits.SENSOR_SIZE, digits.CLASSES, digits.DURATION_US)
    if name == "nmnist":
        from dpap_neuro.data import nmnist

        return Opened(name, nmnist.NMNIST(data_dir, split), nmnist.SENSOR_SIZE, nmnist.CLASSES, 310_000)
    raise InputError(f"dataset: found {name!r}, expected one of {', '.join(DATASETS)}")


__all__ = [
    "DATASETS",
    "SPLITS",
    "Binning",
    "LabelledRecordings",
    "Opened",
    "Recordings",
    "open_dataset",
    "rasters",
]
