"""Opened data sets: their recordings as rasters, from the cache or made anew, and training and testing recordings apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dpap_neuro.data.binning import Binning, SensorSize, rasters
from dpap_neuro.data.cache import cached_rasters, kept_rasters, stored_rasters
from dpap_neuro.data.known import DATASETS, DataSet, dataset
from dpap_neuro.data.splits import LabelledRecordings, Selection, every_nth, groups_of
from dpap_neuro.data.stored import Stored
from dpap_neuro.errors import InputError, NoRecordings

SPLITS = ("train", "test", "all")
# What `open_both` opens: training recordings and behind them those for testing, official or held out.
BOTH, HELD_OUT = "both", "held-out"
# Recordings turned into rasters at once, where not all of them are wanted in one array.
CHUNK = 50


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
        groups = groups_of(train.recordings)
        held = every_nth(train.recordings.labels, groups=groups)
        if not held.any():
            of = "each class" if groups is None else "those who made them"
            raise InputError(
                f"{train.name}: found no recording for testing and fewer than 5 of {of}, too few to hold some out"
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
