"""Which recordings are for training and which for testing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dpap_neuro.data.binning import Binning, Recordings


class LabelledRecordings(Recordings, Protocol):
    """What a data set offers: labels (n,) int64, and items (events, label), see `Recordings`. sources: the files they are
    read from, in order; none where the events are computed."""

    labels: np.ndarray

    @property
    def sources(self) -> Sequence[Path]: ...


class Selection:
    """Some recordings of one or more data sets: of each, those of the given numbers, in that order."""

    def __init__(self, *parts: tuple[LabelledRecordings, np.ndarray]) -> None:
        self.items = [(recordings, int(number)) for recordings, numbers in parts for number in numbers]
        self.labels = np.concatenate([recordings.labels[numbers] for recordings, numbers in parts])
        self.one_process = any(getattr(recordings, "one_process", False) for recordings, _ in parts)
        self.stills = any(getattr(recordings, "stills", False) for recordings, _ in parts)
        self.sources = [source for recordings, _ in parts for source in recordings.sources]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        recordings, number = self.items[index]
        return recordings[number]

    def counts(self, index: int, binning: Binning) -> np.ndarray:
        """Of still images, see `stills.Stills`."""
        recordings, number = self.items[index]
        return recordings.counts(number, binning)  # type: ignore[attr-defined]


def every_nth(labels: np.ndarray, first: int = 4, n: int = 5) -> np.ndarray:
    """Every n-th recording of each class, from number `first` on, as a mask (len(labels),)."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[first::n]] = True
    return chosen
