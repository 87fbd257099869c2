"""Event-camera recordings by name. To add a data set: a class as in `digits.py` or a layout in `local.py`, and a line
in `DATASETS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dpap_neuro.data import digits, local, motion
from dpap_neuro.data.binning import Binning, Recordings, SensorSize, rasters
from dpap_neuro.data.cache import cached_rasters
from dpap_neuro.data.splits import LabelledRecordings, Selection, every_nth
from dpap_neuro.errors import InputError, NoRecordings

SPLITS = ("train", "test", "all")


@dataclass(frozen=True)
class Defaults:
    """What a data set gets where a user says nothing else. Those of real data sets but nmnist were chosen by their
    sizes, not tuned.

    model: see `models.MODELS`. bins, clip, downsample: see `Binning`. shift, flip, drop, jitter: see `augmentation`.
    """

    model: str = "cnn"
    bins: int = 10
    clip: int = 4
    downsample: int = 1
    shift: int = 2
    flip: bool = False
    drop: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set without opening it. open(data_dir, split). sensor_size: (columns, rows, polarities).
    duration_us: nominal length of a recording."""

    open: Callable[[str | Path | None, str], LabelledRecordings]
    sensor_size: SensorSize
    classes: tuple[str, ...]
    duration_us: float
    defaults: Defaults = Defaults()


def _local(layout: local.Layout, classes: tuple[str, ...], duration_us: float, defaults: Defaults) -> DataSet:
    return DataSet(
        lambda data_dir, split: local.LocalRecordings(layout, data_dir, split),
        layout.sensor_size,
        classes,
        duration_us,
        defaults,
    )


DATASETS = {
    "digits": DataSet(
        lambda _, split: digits.Digits(split), digits.SENSOR_SIZE, digits.CLASSES, digits.DURATION_US
    ),
    "motion": DataSet(
        lambda _, split: motion.Motion(split),
        motion.SENSOR_SIZE,
        motion.CLASSES,
        motion.DURATION_US,
        Defaults(bins=20),
    ),
    "nmnist": _local(local.NMNIST, local.DIGITS, 310_000, Defaults()),
    "dvsgesture": _local(
        local.DVSGESTURE, local.GESTURES, 6_000_000, Defaults(bins=20, clip=16, downsample=4, drop=0.1)
    ),
    "cifar10dvs": _local(
        local.CIFAR10DVS, local.CIFAR10, 1_300_000, Defaults(downsample=2, flip=True, drop=0.1)
    ),
    "ncaltech101": _local(
        local.NCALTECH101, local.CALTECH101, 300_000, Defaults(downsample=4, flip=True, drop=0.1)
    ),
    "shd": DataSet(
        local.HeidelbergDigits,
        local.HeidelbergDigits.SENSOR_SIZE,
        local.SPOKEN_DIGITS,
        1_000_000,
        Defaults("mlp", bins=50, downsample=5, jitter=0.1),
    ),
}


@dataclass(frozen=True)
class Opened:
    """Recordings of a data set. split: which. duration_us: nominal length of a recording."""

    name: str
    split: str
    recordings: LabelledRecordings
    sensor_size: SensorSize
    classes: tuple[str, ...]
    duration_us: float

    def rasters(
        self,
        binning: Binning,
        progress: Callable[[int, int], None] | None = None,
        cache_dir: str | Path | None = None,
    ) -> np.ndarray:
        """Counts (n, steps, polarity, y, x), uint8: in memory, or a memory map of a file in `cache_dir`, see `cache`."""
        if cache_dir is None:
            return rasters(self.recordings, binning, self.sensor_size, progress)
        name = f"{self.name}-{self.split}"
        return cached_rasters(cache_dir, name, self.recordings, binning, self.sensor_size, progress)


@dataclass(frozen=True)
class Both:
    """Training recordings, then testing recordings. held_out: whether the data set has no recordings for testing, so that
    every fifth of each class was kept from training."""

    opened: Opened
    n_train: int
    held_out: bool


def dataset(name: str) -> DataSet:
    """Raises InputError for an unknown name."""
    if name not in DATASETS:
        raise InputError(f"dataset: found {name!r}, expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def open_dataset(name: str, data_dir: str | Path | None = None, split: str = "train") -> Opened:
    """Open a split of a data set. Raises InputError for an unknown name or split, NoRecordings for a missing folder."""
    if split not in SPLITS:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    known = dataset(name)
    return Opened(
        name, split, known.open(data_dir, split), known.sensor_size, known.classes, known.duration_us
    )


def open_both(name: str, data_dir: str | Path | None = None) -> Both:
    """Training and testing recordings. Raises InputError for an unknown name or a missing folder."""
    train = open_dataset(name, data_dir, "train")
    n = np.arange(len(train.recordings))
    try:
        test = open_dataset(name, data_dir, "test").recordings
    except NoRecordings:
        held = every_nth(train.recordings.labels)
        if not held.any():
            raise InputError(
                f"{name}: found no recording for testing and fewer than 5 of each class, too few to hold some out"
            ) from None
        both = Selection((train.recordings, n[~held]), (train.recordings, n[held]))
        return Both(replace(train, recordings=both, split="held-out"), int(np.count_nonzero(~held)), True)
    both = Selection((train.recordings, n), (test, np.arange(len(test))))
    return Both(replace(train, recordings=both, split="both"), len(n), False)


__all__ = [
    "DATASETS",
    "SPLITS",
    "Binning",
    "Both",
    "DataSet",
    "Defaults",
    "LabelledRecordings",
    "Opened",
    "Recordings",
    "dataset",
    "every_nth",
    "open_both",
    "open_dataset",
    "rasters",
]
