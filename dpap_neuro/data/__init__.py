"""Event-camera recordings by name, or in a folder of one's own (`folder`).

To add a data set: a class as in `digits.py` or a layout in `local.py`, and a line in `DATASETS`; from outside, `register`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data import digits, local, motion, original, stills
from dpap_neuro.data.binning import Binning, Recordings, SensorSize, binning_of, rasters
from dpap_neuro.data.cache import cached_rasters, kept_rasters, stored_rasters
from dpap_neuro.data.coding import parse_code
from dpap_neuro.data.folder import Folder, FolderSettings, parse_sensor
from dpap_neuro.data.objects import Wrapped
from dpap_neuro.data.splits import LabelledRecordings, Selection, every_nth
from dpap_neuro.data.stored import Rasters, Stored
from dpap_neuro.errors import InputError, NoRecordings

SPLITS = ("train", "test", "all")
# What `open_both` opens: training recordings and behind them those for testing, official or held out.
BOTH, HELD_OUT = "both", "held-out"
# Recordings turned into rasters at once, where not all of them are wanted in one array.
CHUNK = 50


@dataclass(frozen=True)
class Defaults:
    """What a data set gets where a user says nothing else. Those of real data sets but nmnist were chosen by their
    sizes, not tuned.

    model: see `networks.MODELS`. bins, bin_us, clip, downsample, clock: see `Binning`; bin_us goes before bins. shift, flip, drop, jitter: see `augmentation`.
    code: of still images, see `coding`; None of events. network: options of its own model, by their names in `train`, where nothing of
    the network is said.
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
    clock: str = "first-event"
    code: str | None = None
    network: Mapping[str, Any] = field(default_factory=dict)

    def binning(
        self,
        bins: int | None = None,
        bin_us: float | None = None,
        clip: int | None = None,
        downsample: int | None = None,
        clock: str | None = None,
        code: str | None = None,
    ) -> Binning:
        """What is said, and these where nothing is. Raises InputError for a code of events, which have none."""
        if code is not None and self.code is None:
            raise InputError(
                f"code: found {code!r}, which is for still images; these are recordings of events"
            )
        code = self.code if code is None else code
        # No count is higher, and a network that computes in integers is told so.
        highest = self.clip if code is None else parse_code(code).most
        if bins is None and bin_us is None:
            bins, bin_us = (self.bins, None) if self.bin_us is None else (None, self.bin_us)
        return Binning(
            bins,
            bin_us,
            highest if clip is None else clip,
            self.downsample if downsample is None else downsample,
            clock or self.clock,
            code=code,
        )


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


def _stills(
    source: stills.Source, sensor_size: SensorSize, classes: tuple[str, ...], defaults: Defaults
) -> DataSet:
    return DataSet(
        lambda data_dir, split: stills.Stills(source, data_dir, split),
        sensor_size,
        classes,
        stills.DURATION_US,
        replace(defaults, code="constant"),
    )


# Chosen for Braille, see examples/braille_recurrent, on training recordings alone; taken over for sounds, untuned.
_CURRENT_BASED = {
    "neuron": "cubalif",
    "readout": "membrane",
    "decay": 0.07,
    "current_decay": 0.2,
    "surrogate_slope": 10.0,
    "reset": "subtract",
}

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
    "dvsgesture": DataSet(
        original.gestures,
        original.SENSOR_SIZE,
        local.GESTURES,
        6_000_000,
        Defaults(bins=20, clip=16, downsample=4, drop=0.1),
    ),
    "cifar10dvs": DataSet(
        original.cifar10_dvs,
        original.SENSOR_SIZE,
        local.CIFAR10,
        1_300_000,
        Defaults(downsample=2, flip=True, drop=0.1),
    ),
    "mnist": _stills(stills.MNIST, stills.GREY, local.DIGITS, Defaults()),
    "fashionmnist": _stills(stills.FASHION_MNIST, stills.GREY, stills.FASHION, Defaults(flip=True)),
    "cifar10": _stills(stills.CIFAR10, stills.COLOUR, local.CIFAR10, Defaults(shift=4, flip=True)),
    "ncaltech101": _local(
        local.NCALTECH101, local.CALTECH101, 300_000, Defaults(downsample=4, flip=True, drop=0.1)
    ),
    "shd": DataSet(
        lambda data_dir, split: local.Cochlea("SHD", len(local.SPOKEN_DIGITS), data_dir, split),
        local.Cochlea.SENSOR_SIZE,
        local.SPOKEN_DIGITS,
        1_000_000,
        Defaults("recurrent", bins=50, downsample=5, jitter=0.1, network=_CURRENT_BASED),
    ),
    "ssc": DataSet(
        lambda data_dir, split: local.Cochlea("SSC", len(local.SPEECH_COMMANDS), data_dir, split),
        local.Cochlea.SENSOR_SIZE,
        local.SPEECH_COMMANDS,
        1_000_000,
        Defaults("recurrent", bins=50, downsample=5, jitter=0.1, network=_CURRENT_BASED),
    ),
    "braille": DataSet(
        local.Braille,
        local.Braille.SENSOR_SIZE,
        local.BRAILLE,
        local.Braille.STEPS * local.Braille.STEP_US,
        Defaults(
            "recurrent",
            clip=2,
            shift=0,
            drop=0.3,
            jitter=0.3,
            bin_us=2 * local.Braille.STEP_US,
            clock="recording",
            network=_CURRENT_BASED,
        ),
    ),
}


def spread(n: int, limit: int | None = None) -> np.ndarray:
    """Indices of all of n, or of `limit` of them, spread evenly. Raises InputError for a limit below 1."""
    if limit is not None and limit < 1:
        raise InputError(f"limit: found {limit}, expected at least 1")
    return np.arange(n) if limit is None or limit >= n else np.linspace(0, n - 1, limit).astype(int)


@dataclass(frozen=True)
class Opened:
    """Recordings of a data set. split: which. duration_us: nominal length of a recording. both(): both splits of it.
    folder: where it lies, None of one that is computed."""

    name: str
    split: str
    recordings: LabelledRecordings
    sensor_size: SensorSize
    classes: tuple[str, ...]
    duration_us: float
    both: Callable[[], Both] | None = field(default=None, repr=False, compare=False)
    folder: Path | None = None

    def rasters(
        self,
        binning: Binning,
        progress: Callable[[int, int], None] | None = None,
        cache_dir: str | Path | None = None,
        workers: int | None = None,
    ) -> np.ndarray:
        """Counts (n, steps, polarity, y, x), uint8, of the time bins that `binning` keeps: in memory, or of all bins a memory
        map of a file in `cache_dir`, see `cache`. workers: processes that make them, as many as is good where None."""
        if cache_dir is None:
            found = rasters(self.recordings, binning, self.sensor_size, progress, workers)
        else:
            found = cached_rasters(
                cache_dir, self._entry, self.recordings, binning, self.sensor_size, progress, workers
            )
        return binning.shown(found)

    def stored(
        self,
        binning: Binning,
        cache_dir: str | Path,
        progress: Callable[[int, int], None] | None = None,
        workers: int | None = None,
    ) -> Stored:
        """As `rasters`, but read from the file in `cache_dir` when they are asked for: more than memory holds."""
        return stored_rasters(
            cache_dir, self._entry, self.recordings, binning, self.sensor_size, progress, workers
        )

    def chosen(self, limit: int | None = None) -> np.ndarray:
        """Indices of all recordings, or of `limit` of them, spread evenly. Raises InputError for a limit below 1."""
        return spread(len(self.recordings.labels), limit)

    def parts(
        self, binning: Binning, chosen: np.ndarray, cache_dir: str | Path | None = None
    ) -> Iterator[np.ndarray]:
        """Rasters (n, steps, polarity, y, x) of the chosen recordings, some tens at a time, each part as long as its longest.

        From what training or an earlier command has left in `cache_dir`; else all recordings of the split are kept there,
        but few of them are only read.
        """
        whole, row = None, np.arange(len(self.recordings))
        if cache_dir is not None:
            whole, row = self._kept(binning, Path(cache_dir))
            if whole is None and len(chosen) == len(self.recordings):
                whole = cached_rasters(cache_dir, self._entry, self.recordings, binning, self.sensor_size)
        for first in range(0, len(chosen), CHUNK):
            part = chosen[first : first + CHUNK]
            if whole is None:
                found = rasters(Selection((self.recordings, part)), binning, self.sensor_size)
            else:
                found = _without_silent_end(np.asarray(whole[row[part]]), binning)
            yield binning.shown(found)

    @property
    def _entry(self) -> str:
        """Begins its files' names in the cache: what a folder is called may be too long there, or refused by Windows."""
        plain = re.sub(r"[^\w .-]", "_", self.name)[:60]
        return f"{plain}-{self.split}"

    def _kept(self, binning: Binning, cache_dir: Path) -> tuple[np.ndarray | None, np.ndarray]:
        """Rasters in the cache that hold these recordings, if any, and the row of each: those of this split, or of training,
        which keeps both splits in one entry."""
        rows = np.arange(len(self.recordings))
        own = kept_rasters(cache_dir, self._entry, self.recordings, binning, self.sensor_size)
        if own is not None or self.split == "all" or self.both is None:
            return own, rows
        of_training = tuple(f"{self.name}-{split}-" for split in (BOTH, HELD_OUT))
        if not cache_dir.is_dir() or not any(p.name.startswith(of_training) for p in cache_dir.iterdir()):
            return None, rows
        try:
            both = self.both()
        except InputError:  # of the split that is not asked for
            return None, rows
        known = both.opened
        found = kept_rasters(cache_dir, known._entry, known.recordings, binning, self.sensor_size)
        if found is None:  # training has kept another binning
            return None, rows
        if both.order is not None:  # only a split "train" opens where there is none for testing
            return found, np.argsort(both.order)
        return found, rows if self.split == "train" else rows + both.n_train


@dataclass(frozen=True)
class Both:
    """Training recordings, then testing recordings. held_out: whether the data set has no recordings for testing, so that
    every fifth of each class was kept from training; order: then the number of each recording among all of them."""

    opened: Opened
    n_train: int
    held_out: bool
    order: np.ndarray | None = None


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


def check_split(split: str) -> None:
    """Raises InputError for an unknown split."""
    if split not in SPLITS:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")


def open_dataset(
    name: str | Path | DataSet,
    data_dir: str | Path | None = None,
    split: str = "train",
    sensor: tuple[int, int] | None = None,
) -> Opened:
    """Open a split of a data set. Raises InputError for an unknown name or split, NoRecordings for a missing folder."""
    check_split(split)
    known = dataset(name, sensor)
    called = (
        "recordings"
        if isinstance(name, DataSet)
        else Path(name).resolve().name
        if str(name) not in DATASETS
        else str(name)
    )
    return Opened(
        called,
        split,
        known.open(data_dir, split),
        known.sensor_size,
        known.classes,
        known.duration_us,
        lambda: open_both(name, data_dir, sensor),
        _where(name, data_dir),
    )


def _where(name: str | Path | DataSet, data_dir: str | Path | None) -> Path | None:
    if not isinstance(name, DataSet) and str(name) not in DATASETS:
        return Path(name)
    return None if data_dir is None else Path(data_dir)


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
        order = np.concatenate([n[~held], n[held]])
        opened = replace(train, recordings=Selection((train.recordings, order)), split=HELD_OUT)
        return Both(opened, int(np.count_nonzero(~held)), True, order)
    both = Selection((train.recordings, n), (test, np.arange(len(test))))
    return Both(replace(train, recordings=both, split=BOTH), len(n), False)


def _without_silent_end(found: np.ndarray, binning: Binning) -> np.ndarray:
    """Steps behind the last event of all these recordings are padding, where steps have a length; parts of a recording are not."""
    if binning.bin_us is None:
        return found
    steps = np.flatnonzero(found.any(axis=(0, 2, 3, 4)))
    return found[:, : 1 + steps.max(initial=0)]


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
    "Rasters",
    "Recordings",
    "Stored",
    "binning_of",
    "check_split",
    "dataset",
    "every_nth",
    "from_objects",
    "open_both",
    "open_dataset",
    "parse_sensor",
    "rasters",
    "register",
    "spread",
]
