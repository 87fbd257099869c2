"""Recordings in anybody's object: `__len__` and `__getitem__`, as tonic's and torch's data sets have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data.binning import Recordings, SensorSize
from dpap_neuro.data.events import checked
from dpap_neuro.data.splits import groups_of
from dpap_neuro.errors import InputError


class Wrapped:
    """Items of `recordings`, checked: (events, see `EVENT_DTYPE`, label).

    Labels come from its `targets` or `labels` where it has them, otherwise every item is read once. Its `groups`, (n,), where it has
    them, are what recordings share, see `splits.groups_of`. Raises InputError for groups of another length.
    """

    # What somebody's object has open is not shared unasked.
    one_process = True

    def __init__(self, recordings: Recordings, sensor_size: SensorSize, classes: int) -> None:
        self.recordings, self.sensor_size, self.classes = recordings, sensor_size, classes
        self.sources: tuple[Path, ...] = ()
        n = len(recordings)
        given = next(
            (getattr(recordings, key) for key in ("targets", "labels") if hasattr(recordings, key)), None
        )
        if given is None or np.shape(given) != (n,) or np.asarray(given).dtype.kind not in "iu":
            given = [recordings[index][1] for index in range(n)]
        self.labels = np.array(
            [self._label(label, index) for index, label in enumerate(given)], dtype=np.int64
        )
        groups = groups_of(recordings)
        if groups is not None:
            self.groups = np.asarray(groups)
            if self.groups.shape != (n,):
                raise InputError(
                    f"groups: found shape {self.groups.shape}, expected ({n},), one of each recording"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        events, label = self.recordings[index]
        where = f"recording {index}"
        names: Any = getattr(getattr(events, "dtype", None), "names", None)
        if not names or not {"x", "y", "t", "p"} <= set(names):
            raise InputError(
                f"{where}: found {type(events).__name__} of fields {names}, expected x, y, t and p"
            )
        return checked(
            events["x"], events["y"], events["t"], events["p"], self.sensor_size, where
        ), self._label(label, index)

    def _label(self, label: Any, index: int) -> int:
        if int(label) != label or not 0 <= label < self.classes:
            raise InputError(f"recording {index}: found label {label!r}, expected 0 to {self.classes - 1}")
        return int(label)
