"""Which recordings are for training and which for testing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dpap_neuro.data.binning import Binning, Recordings


class LabelledRecordings(Recordings, Protocol):
    """What a data set offers: labels (n,) int64, and items (events, label), see `Recordings`. sources: the files they are
    read from, in order; none where the events are computed. It may offer groups, too, see `groups_of`."""

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
        groups = [groups_of(recordings) for recordings, _ in parts]
        if all(known is not None for known in groups):
            own = zip(groups, (numbers for _, numbers in parts), strict=True)
            self.groups = np.concatenate([known[numbers] for known, numbers in own if known is not None])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        recordings, number = self.items[index]
        return recordings[number]

    def counts(self, index: int, binning: Binning) -> np.ndarray:
        """Of still images, see `stills.Stills`."""
        recordings, number = self.items[index]
        return recordings.counts(number, binning)  # type: ignore[attr-defined]


def groups_of(recordings: Any) -> np.ndarray | None:
    """Of each recording a number or a name, (n,), that all of one figure or person have, so that a network that has learned some of
    them knows more of the rest than of new ones. None where nothing is known of it."""
    return getattr(recordings, "groups", None)


def every_nth(labels: np.ndarray, first: int = 4, n: int = 5, groups: np.ndarray | None = None) -> np.ndarray:
    """Every n-th recording of each class, from number `first` on, as a mask (len(labels),). groups: see `groups_of`; a group is
    chosen whole, and counts as one recording, of the class of its first."""
    if groups is not None:
        _, firsts, own = np.unique(groups, return_index=True, return_inverse=True)
        order = np.argsort(firsts)
        whole = np.zeros(len(firsts), dtype=bool)
        whole[order] = every_nth(labels[firsts[order]], first, n)
        return whole[own]
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[first::n]] = True
    return chosen
