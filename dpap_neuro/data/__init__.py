"""Event-camera recordings by name, or in a folder of one's own (`folder`).

To add a data set: a class as in `digits.py` or a layout in `local.py`, and a line in `DATASETS`; from outside, `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data import digits, local, motion
from dpap_neuro.data.binning import Binning, Recordings, SensorSize, rasters
from dpap_neuro.data.cache import cached_rasters
from dpap_neuro.data.folder import Folder, FolderSettings, parse_sensor
from dpap_neuro.data.objects import Wrapped
from dpap_neuro.data.splits import LabelledRecordings, Selection, every_nth
from dpap_neuro.errors import InputError, NoRecordings

SPLITS = ("train", "test", "all")


@dataclass(frozen=True)
class Defaults:
    """What a data set gets where a user says nothing else. Those of real data sets but nmnist were chosen by their
    sizes, not tuned.

    model: see `models.MODELS`. bins, bin_us, clip, downsample: see `Binning`; bin_us goes before bins. shift, flip, drop, jitter: see `augmentation`.
    """

    model: str = "cnn"
    bins: int = 10
    clip: int = 4
    downsample: int = 1
    shift: int = 2
    flip: bool = False
    drop: float = 0.0
    jitter: float = 0.0
    bin_us: float | None = None


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
        lambda data_dir, split: local.Cochlea("SHD", len(local.SPOKEN_DIGITS), data_dir, split),
        local.Cochlea.SENSOR_SIZE,
        local.SPOKEN_DIGITS,
        1_000_000,
        Defaults("mlp", bins=50, downsample=5, jitter=0.1),
    ),
    "ssc": DataSet(
        lambda data_dir, split: local.Cochlea("SSC", len(local.SPEECH_COMMANDS), data_dir, split),
        local.Cochlea.SENSOR_SIZE,
        local.SPEECH_COMMANDS,
        1_000_000,
        Defaults("mlp", bins=50, downsample=5, jitter=0.1),
    ),
    "braille": DataSet(
        local.Braille,
        local.Braille.SENSOR_SIZE,
        local.BRAILLE,
        local.Braille.STEPS * local.Braille.STEP_US,
        Defaults("mlp", clip=1, shift=0, bin_us=local.Braille.STEP_US),
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


def register(name: str, data_set: DataSet) -> None:
    """Make a data set known by name, for the commands too. Raises InputError for a name that is taken or cannot be typed."""
    if name in DATASETS or not name.isidentifier():
        raise InputError(f"register: found {name!r}, expected a new name of letters, digits and underscores")
    DATASETS[name] = data_set


def from_objects(
    train: Any,
    test: Any | None,
    sensor_size: SensorSize,
    classes: Sequence[str],
    duration_us: float,
    defaults: Defaults = Defaults(),
) -> DataSet:
    """A data set of any objects with `__len__` and `__getitem__`, such as tonic's or torch's, to `register` or to open.

    Items: (events, label): a structured array with fields x, y, t (microseconds) and p, label 0 to len(classes) - 1.
    test: None where a fifth of each class is to be held out. sensor_size: (columns, rows, polarities).
    """

    def opened(_: str | Path | None, split: str) -> LabelledRecordings:
        chosen = {"train": [train], "test": [test], "all": [train, test]}[split]
        present = [Wrapped(part, sensor_size, len(classes)) for part in chosen if part is not None]
        if not present:
            raise NoRecordings(f"found no {split} recordings")
        return Selection(*((part, np.arange(len(part))) for part in present))

    return DataSet(opened, sensor_size, tuple(classes), duration_us, defaults)


def dataset(name: str | Path | DataSet, sensor: tuple[int, int] | None = None) -> DataSet:
    """A data set by its name, or that of a folder, see `folder`; sensor: (columns, rows) of a folder that does not say.

    Raises InputError for an unknown name, or a folder that holds no data set.
    """
    if isinstance(name, DataSet):
        return name
    if str(name) in DATASETS:
        if sensor is not None:
            raise InputError(f"sensor: found {sensor[0]}x{sensor[1]}, but {name} has its own; leave it out")
        return DATASETS[str(name)]
    if not Path(name).is_dir():
        raise InputError(
            f"dataset: found {str(name)!r}, expected one of {', '.join(DATASETS)}, or a folder of recordings"
        )
    folder = Folder(name, sensor)
    return DataSet(
        lambda _, split: folder.open(split),
        folder.sensor_size,
        folder.classes,
        folder.duration_us,
        Defaults(**folder.settings.defaults),
    )


def open_dataset(
    name: str | Path | DataSet,
    data_dir: str | Path | None = None,
    split: str = "train",
    sensor: tuple[int, int] | None = None,
) -> Opened:
    """Open a split of a data set. Raises InputError for an unknown name or split, NoRecordings for a missing folder."""
    if split not in SPLITS:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    known = dataset(name, sensor)
    called = (
        "recordings"
        if isinstance(name, DataSet)
        else Path(name).resolve().name
        if str(name) not in DATASETS
        else str(name)
    )
    return Opened(
        called, split, known.open(data_dir, split), known.sensor_size, known.classes, known.duration_us
    )


def open_both(
    name: str | Path | DataSet, data_dir: str | Path | None = None, sensor: tuple[int, int] | None = None
) -> Both:
    """Training and testing recordings. Raises InputError for an unknown name or a missing folder."""
    train = open_dataset(name, data_dir, "train", sensor)
    n = np.arange(len(train.recordings))
    try:
        test = open_dataset(name, data_dir, "test", sensor).recordings
    except NoRecordings:
        held = every_nth(train.recordings.labels)
        if not held.any():
            raise InputError(
                f"{train.name}: found no recording for testing and fewer than 5 of each class, too few to hold some out"
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
    "Folder",
    "FolderSettings",
    "LabelledRecordings",
    "Opened",
    "Recordings",
    "dataset",
    "every_nth",
    "from_objects",
    "open_both",
    "open_dataset",
    "parse_sensor",
    "rasters",
    "register",
]
