"""Two data sets as their makers ship them, beside tonic's versions of them in `local`.

- DVS128 Gesture (Amir et al. 2017, doi 10.1109/CVPR.2017.781): AEDAT 3.1 recordings of a person's gestures one after another, tables of
  when each begins and ends, and lists of the trials for training and testing. tonic's version has 1,077 and 264 recordings of IBM's
  1,176 and 288 gestures.
- CIFAR10-DVS (Li et al. 2017, doi 10.3389/fnins.2017.00309): AEDAT 2.0, a folder or a zip file per class; tonic's has AEDAT 4.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data import local
from dpap_neuro.data.events import checked
from dpap_neuro.data.formats import RawEvents, read_aedat, read_events
from dpap_neuro.data.packed import UNREADABLE
from dpap_neuro.data.splits import LabelledRecordings
from dpap_neuro.errors import InputError, NoRecordings
from dpap_neuro.files import read_bytes

SENSOR_SIZE = (128, 128, 2)
_LISTS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
_HEADER = "class,startTime_usec,endTime_usec"
_MOST_TEXT, _MOST_MEMBER = 1 << 20, 1 << 28


# --- DVS128 Gesture ------------------------------------------------------------------------------------------


def gestures(data_dir: str | Path | None, split: str) -> LabelledRecordings:
    """DVS128 Gesture of `data_dir`, in tonic's version where that is there, else in IBM's."""
    if data_dir is not None:
        root = Path(data_dir)
        tonics = [folder / part for folder in (root / "DVSGesture", root) for part in local.DVSGESTURE.splits]
        here = [root / "DvsGesture", root / "extract" / "DvsGesture", root]
        ibm = next(
            (folder for folder in here if any((folder / name).is_file() for name in _LISTS.values())), None
        )
        if ibm is not None and not any(folder.is_dir() for folder in tonics):
            return IbmGestures(ibm, split)
    return local.LocalRecordings(local.DVSGESTURE, data_dir, split)


class IbmGestures:
    """The gestures of `split` "train", "test" or "all" in IBM's folder, trials that are not there left out: items are (events, see
    `EVENT_DTYPE`, label), times from the gesture's own beginning.

    Raises NoRecordings where there is none; InputError, naming file and line, for a table that cannot be read.
    """

    def __init__(self, root: Path, split: str) -> None:
        parts = tuple(_LISTS) if split == "all" else (split,)
        lists = [root / _LISTS[part] for part in parts if (root / _LISTS[part]).is_file()]
        self._windows: list[tuple[Path, int, int]] = []
        labels: list[int] = []
        self.sources = list(lists)
        for listed in lists:
            for name in _lines(listed):
                trial = root / name
                if Path(name).name != name or trial.suffix != ".aedat":
                    raise InputError(f"{listed}: found {name[:60]!r}, expected the name of an .aedat file")
                if not trial.is_file():
                    continue
                table = trial.with_name(f"{trial.stem}_labels.csv")
                self.sources += [trial, table]
                for label, begin, end in _gestures(table):
                    labels.append(label)
                    self._windows.append((trial, begin, end))
        if not labels:
            looked = " and ".join(str(root / _LISTS[part]) for part in parts)
            raise NoRecordings(f"DvsGesture: found no {split} recording of those that {looked} name")
        self.labels = np.array(labels, dtype=np.int64)
        self.groups = np.array([local.person(trial.name) for trial, _, _ in self._windows])
        # A dozen gestures are in one file, of some ten million bytes.
        self._last: tuple[Path, RawEvents] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, begin, end = self._windows[index]
        if self._last is None or self._last[0] != file:
            self._last = file, read_events(file)
        events = self._last[1]
        inside = (events.t >= begin) & (events.t < end)
        found = checked(
            events.x[inside], events.y[inside], events.t[inside] - begin, events.p[inside], SENSOR_SIZE, file
        )
        return found, int(self.labels[index])


def _lines(file: Path) -> list[str]:
    lines = read_bytes(file, _MOST_TEXT).decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _gestures(table: Path) -> list[tuple[int, int, int]]:
    """Label from 0, first microsecond and the one behind the last, of each row."""
    if not table.is_file():
        raise InputError(f"{table}: not found, expected it beside its recording")
    head, *rows = _lines(table) or [""]
    if head.replace(" ", "") != _HEADER:
        raise InputError(f"{table}: begins with {head[:60]!r}, expected {_HEADER}")
    found = []
    for number, row in enumerate(rows, 2):
        fields = [field.strip() for field in row.split(",")]
        # Twelve digits of microseconds are eleven days.
        numbers = [int(f) for f in fields if f.isascii() and f.isdigit() and len(f) <= 12]
        if len(fields) != 3 or len(numbers) != 3:
            raise InputError(
                f"{table}: line {number} is {row[:60]!r}, expected class, start and end in microseconds"
            )
        of_class, begin, end = numbers
        if not 1 <= of_class <= len(local.GESTURES) or begin >= end:
            raise InputError(
                f"{table}: line {number} is {row[:60]!r}, expected a class of 1 to {len(local.GESTURES)} and an end behind its start"
            )
        found.append((of_class - 1, begin, end))
    return found


# --- CIFAR10-DVS ---------------------------------------------------------------------------------------------


def cifar10_dvs(data_dir: str | Path | None, split: str) -> LabelledRecordings:
    """CIFAR10-DVS of `data_dir`, in tonic's version where that is there, else as figshare ships it."""
    if data_dir is not None:
        root = Path(data_dir)
        layout = local.CIFAR10DVS
        here = [root / layout.root, root / layout.root / "extract", root / "extract", root]
        tonics = any(next(folder.glob(layout.pattern), None) for folder in (here[0], root))
        shipped = next(
            (folder for folder in here if any(_of_class(folder, name) for name in layout.keys)), None
        )
        if shipped is not None and not tonics:
            return ShippedCifar(shipped, split)
    return local.LocalRecordings(local.CIFAR10DVS, data_dir, split)


def _of_class(folder: Path, name: str) -> Sequence[tuple[Path, str | None]]:
    """Recordings of a class, in the order of their names: files of its folder, or of its zip file, which each member's name goes with."""
    files = sorted((folder / name).glob("*.aedat"), key=lambda file: file.name)
    if files:
        return [(file, None) for file in files]
    packed = folder / f"{name}.zip"
    if not packed.is_file():
        return []
    try:
        with zipfile.ZipFile(packed) as archive:
            members = sorted(
                m for m in archive.namelist() if m.endswith(".aedat") and not m.startswith("__MACOSX")
            )
    except UNREADABLE as error:
        raise InputError(
            f"{packed}: cannot be read as a zip file ({' '.join(str(error).split())[:120]})"
        ) from None
    return [(packed, member) for member in members]


class ShippedCifar:
    """CIFAR10-DVS in AEDAT 2.0, a folder or zip file per class, as upright as the pictures: x and y of the camera change places.

    There is no official split: recordings whose number ends in 4 or 9 are for testing, as of tonic's version. See `local.LocalRecordings`
    for items and errors.
    """

    def __init__(self, root: Path, split: str) -> None:
        self._items: list[tuple[Path, str | None]] = []
        labels: list[int] = []
        for label, name in enumerate(local.CIFAR10):
            for file, member in _of_class(root, name):
                if split == "all" or local.is_test(Path(member) if member else file) == (split == "test"):
                    self._items.append((file, member))
                    labels.append(label)
        if not labels:
            raise NoRecordings(f"CIFAR10DVS: found no {split} recording in {root}")
        self.labels = np.array(labels, dtype=np.int64)
        self.sources = list(dict.fromkeys(file for file, _ in self._items))
        self._opened: dict[tuple[int, Path], zipfile.ZipFile] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, member = self._items[index]
        where = file if member is None else Path(f"{file}:{member}")
        events = read_events(file) if member is None else read_aedat(self._unpacked(file, member), where)
        # Of the camera, which stood on its side: see SpikingJelly's reader.
        return checked(events.y, events.x, events.t, events.p, SENSOR_SIZE, where), int(self.labels[index])

    def _unpacked(self, file: Path, member: str) -> bytes:
        # A process has its own: forked ones would share the place in the file.
        key = os.getpid(), file
        try:
            if key not in self._opened:
                self._opened[key] = zipfile.ZipFile(file)
            info = self._opened[key].getinfo(member)
            if info.file_size > _MOST_MEMBER:
                raise InputError(
                    f"{file}: {member} has {info.file_size:,} bytes, expected at most {_MOST_MEMBER:,}"
                )
            return self._opened[key].read(info)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"{file}: {member} cannot be read ({' '.join(str(error).split())[:120]})"
            ) from None
