"""A user's own folder of recordings as a data set: a folder per class, a file per recording.

    DIR/train/<class>/*  and  DIR/test/<class>/*
    DIR/<class>/*                                  a share of each class is held out for testing, by a seed

One reader per suffix, see `formats`; files and folders whose names begin with a dot are passed over. `DIR/dataset.toml` may hold

    classes = ["left", "right"]        # the order of labels; otherwise by name
    sensor = [346, 260]                # columns, rows; otherwise as the files say
    columns = ["t", "x", "y", "p"]     # of tables without names
    time_unit = "us"                   # ns, us, ms or s
    duration_us = 300000               # nominal length of a recording; otherwise the median
    bins = 10                          # or bin_us, and clip, downsample: defaults of the data set
    held_out = 0.2                     # share for testing where there is no test folder
    seed = 0                           # of that share
    groups = "_"                       # files alike up to the first "_" of their names, of one person, are never parted
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data.events import checked
from dpap_neuro.data.formats import READERS, UNITS, Layout, RawEvents, read_events
from dpap_neuro.errors import InputError, NoRecordings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Recordings that are looked into for their size and length.
_SAMPLED = 25


@dataclass(frozen=True)
class FolderSettings:
    """What `dataset.toml` says, see this module. sensor: (columns, rows). defaults: bins, bin_us, clip, downsample. groups: what ends
    the part of a file's name that says whose it is, None where nothing does."""

    classes: tuple[str, ...] | None = None
    sensor: tuple[int, int] | None = None
    layout: Layout = field(default_factory=Layout)
    duration_us: float | None = None
    held_out: float = 0.2
    seed: int = 0
    groups: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)


def read_settings(root: Path) -> FolderSettings:
    """`root/dataset.toml`, or what holds without it. Raises InputError for a key or value that is not expected."""
    path = root / "dataset.toml"
    if not path.exists():
        return FolderSettings()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as TOML ({' '.join(str(error).split())[:120]})") from None

    def wrong(key: str, expected: str) -> InputError:
        return InputError(f"{path}: {key} is {str(table[key])[:60]!r}, expected {expected}")

    def number(key: str, low: float, whole: bool) -> Any:
        value = table.get(key)
        if value is None:
            return None
        if type(value) not in ((int,) if whole else (int, float)) or not low <= value < 1 << 40:
            raise wrong(key, f"a {'whole ' if whole else ''}number of at least {low:g}")
        return value

    known = {
        "classes",
        "sensor",
        "columns",
        "time_unit",
        "duration_us",
        "held_out",
        "seed",
        "groups",
        "bins",
        "bin_us",
        "clip",
        "downsample",
    }
    for key in table:
        if key not in known:
            raise InputError(
                f"{path}: unknown key {str(key)[:40]!r}, expected one of {', '.join(sorted(known))}"
            )
    classes = table.get("classes")
    if classes is not None and not (_list_of(classes, str) and len(set(classes)) == len(classes) > 1):
        raise wrong("classes", "a list of two or more different names")
    sensor = table.get("sensor")
    if sensor is not None and not (
        _list_of(sensor, int) and len(sensor) == 2 and all(0 < n < 1 << 15 for n in sensor)
    ):
        raise wrong("sensor", "[columns, rows]")
    columns = table.get("columns")
    if columns is not None and not (_list_of(columns, str) and sorted(columns) == ["p", "t", "x", "y"]):
        raise wrong("columns", 'the four of "x", "y", "t", "p" in their order')
    unit = table.get("time_unit")
    if unit is not None and not (isinstance(unit, str) and unit in UNITS):
        raise wrong("time_unit", f"one of {', '.join(UNITS)}")
    held_out = number("held_out", 0.0, False)
    if held_out is not None and not 0 < held_out < 1:
        raise wrong("held_out", "a share above 0 and below 1")
    groups = table.get("groups")
    if groups is not None and not (isinstance(groups, str) and groups):
        raise wrong("groups", 'what ends the part of a name that says whose it is, such as "_"')
    defaults = {
        key: value
        for key, value in (
            ("bins", number("bins", 1, True)),
            ("bin_us", number("bin_us", 1e-3, False)),
            ("clip", number("clip", 1, True)),
            ("downsample", number("downsample", 1, True)),
        )
        if value is not None
    }
    if "bins" in defaults and "bin_us" in defaults:
        raise InputError(f"{path}: found bins and bin_us, expected one of them")
    return FolderSettings(
        None if classes is None else tuple(classes),
        None if sensor is None else (sensor[0], sensor[1]),
        Layout(None if columns is None else tuple(columns), unit),
        number("duration_us", 1e-3, False),
        0.2 if held_out is None else held_out,
        number("seed", 0, True) or 0,
        groups,
        defaults,
    )


def _list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(type(entry) is kind for entry in value)


def parse_sensor(text: str) -> tuple[int, int]:
    """(columns, rows) of "346x260". Raises InputError."""
    found = re.fullmatch(r"(\d{1,5})[x,](\d{1,5})", text.strip())
    if found is None or not all(0 < int(n) < 1 << 15 for n in found.groups()):
        raise InputError(f"sensor: found {text[:40]!r}, expected columns x rows, such as 346x260")
    return int(found[1]), int(found[2])


# What Windows' file manager leaves in folders; that of macOS begins with a dot.
_OF_FILE_MANAGERS = ("thumbs.db", "desktop.ini")


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, without hidden names, in the order of names: which Windows' paths, compared, are not in."""
    try:
        found = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        return sorted((e for e in found if e.name.lower() not in _OF_FILE_MANAGERS), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from None


class Folder:
    """What is known of a folder of recordings before any split is opened.

    root: the folder. classes: names in the order of labels. sensor_size: (columns, rows, 2). duration_us: nominal length.
    Raises InputError for no folder, no or one class, a file of an unknown suffix, mixed or unknown sensor sizes.
    """

    def __init__(self, root: str | Path, sensor: tuple[int, int] | None = None) -> None:
        self.root = Path(root)
        self.given = sensor
        if not self.root.is_dir():
            raise InputError(f"dataset: {root}: found no such folder, and no data set of that name")
        self.settings = read_settings(self.root)
        names = [entry.name for entry in _inside(self.root) if entry.is_dir()]
        self.official = "train" in names
        held = {
            split: self._files(self.root / split if self.official else self.root)
            for split in self._splits(names)
        }
        found = sorted({name for files in held.values() for name in files})
        named = tuple(unicodedata.normalize("NFC", name) for name in self.settings.classes or ())
        self.classes = named or tuple(found)
        unknown = [name for name in found if name not in self.classes]
        if unknown:
            raise InputError(
                f"{self.root}: found class {unknown[0]!r}, expected one of dataset.toml's {', '.join(self.classes)[:120]}"
            )
        if len(self.classes) < 2:
            what = f"one class, {self.classes[0]!r}" if self.classes else "no class folder with recordings"
            raise InputError(
                f"{self.root}: found {what}, expected two or more: {self.root}/train/<class>/* or {self.root}/<class>/*"
            )
        if self.official and not set(self.classes) <= set(held["train"]):
            missing = next(name for name in self.classes if name not in held["train"])
            raise InputError(f"{self.root}: found no recording of class {missing!r} in train")
        self._held = held
        every = [file for files in held.values() for name in files for file in files[name]]
        some = [every[i] for i in np.linspace(0, len(every) - 1, min(_SAMPLED, len(every))).astype(int)]
        looked = [read_events(file, self.settings.layout) for file in some]
        self.given = self.given or self.settings.sensor
        self.sensor_size = (*self._sensor(looked, some), 2)
        spans = [int(events.t.max() - events.t.min()) for events in looked if len(events.t)]
        self.duration_us = float(self.settings.duration_us or (np.median(spans) if spans else 0) or 1)

    def _splits(self, names: list[str]) -> tuple[str, ...]:
        if not self.official:
            return ("all",)
        return ("train", "test") if "test" in names else ("train",)

    def _files(self, folder: Path) -> dict[str, list[Path]]:
        held = {}
        for entry in _inside(folder):
            if not entry.is_dir():
                continue
            files = [file for file in _inside(entry) if not file.is_dir()]
            for file in files:
                if file.suffix.lower() not in READERS:
                    raise InputError(
                        f"{file}: found suffix {file.suffix!r}, expected one of {', '.join(READERS)}"
                    )
            if files:
                # Older macOS file systems take letters and their accents apart.
                held[unicodedata.normalize("NFC", entry.name)] = files
        return held

    def _sensor(self, looked: Sequence[RawEvents], files: Sequence[Path]) -> tuple[int, int]:
        if self.given is not None:
            return self.given
        sizes = {events.size: file for events, file in zip(looked, files, strict=True)}
        known = [size for size in sizes if size is not None]
        if len(known) > 1:
            text = " and ".join(f"{size[0]}x{size[1]} ({sizes[size]})" for size in known[:2])
            raise InputError(
                f"{self.root}: found sensors of different sizes, {text}; give --sensor COLUMNSxROWS"
            )
        if known:
            return known[0]
        at_least = [
            max((int(v.max()) + 1 for v in axis if len(v)), default=1)
            for axis in ([e.x for e in looked], [e.y for e in looked])
        ]
        raise InputError(
            f"{self.root}: its files do not say the sensor's size; give --sensor COLUMNSxROWS, or sensor = [columns, rows] in "
            f"{self.root / 'dataset.toml'} (events seen reach {at_least[0]}x{at_least[1]})"
        )

    def open(self, split: str) -> FolderRecordings:
        """The recordings of "train", "test" or "all". Raises NoRecordings where there are none."""
        chosen: list[tuple[Path, int]] = []
        away = self._groups_held_out()
        for part, files in self._held.items():
            for label, name in enumerate(self.classes):
                of_class = files.get(name, [])
                if part == "all" and split != "all":
                    if away is None:
                        test = _held_out(len(of_class), self.settings.held_out, self.settings.seed, label)
                    else:
                        test = np.array([self.group(file) in away for file in of_class])
                    of_class = [
                        f for f, held in zip(of_class, test, strict=True) if held == (split == "test")
                    ]
                elif part not in ("all", split) and split != "all":
                    of_class = []
                chosen += [(file, label) for file in of_class]
        if not chosen:
            raise NoRecordings(f"{self.root}: found no {split} recording")
        return FolderRecordings(self, chosen)

    def group(self, file: Path) -> str:
        """Whose recording it is, where `dataset.toml` says how to tell. Raises InputError for a name that does not say."""
        ends = self.settings.groups or ""
        name, found, _ = file.stem.partition(ends)
        if not (name and found):
            raise InputError(
                f"{file}: found no {ends!r} behind whose it is, expected one in its name (groups in dataset.toml)"
            )
        return name

    def _groups_held_out(self) -> set[str] | None:
        """Whose recordings are for testing, where there is no folder for it and groups are told apart."""
        if self.official or self.settings.groups is None:
            return None
        own = {name: {self.group(file) for file in files} for name, files in self._held["all"].items()}
        groups = sorted(set().union(*own.values()))
        if len(groups) < 2:
            raise InputError(
                f"{self.root}: found recordings of {groups[0]!r} alone, expected two or more groups, to hold some out"
            )
        mask = _held_out(len(groups), self.settings.held_out, self.settings.seed)
        away = {group for group, test in zip(groups, mask, strict=True) if test}
        for name, found in own.items():
            if found <= away:
                raise InputError(
                    f"{self.root}: found class {name!r} of {', '.join(sorted(found))[:80]} alone, who are held out for testing; "
                    "give a test folder, or another seed in dataset.toml"
                )
        return away


def _held_out(n: int, share: float, *seed: int) -> np.ndarray:
    """Which of n, a class's recordings or all groups, are for testing, (n,) bool: at least one of two or more. seed: each class has
    its own stream, so that one more recording of another changes nothing here."""
    count = min(max(1, round(n * share)), n - 1) if n > 1 else 0
    mask = np.zeros(n, bool)
    mask[np.random.default_rng(seed).permutation(n)[:count]] = True
    return mask


class FolderRecordings:
    """Recordings of a folder: items are (events, see `EVENT_DTYPE`, label)."""

    def __init__(self, folder: Folder, chosen: Sequence[tuple[Path, int]]) -> None:
        self.folder = folder
        self.sources = [file for file, _ in chosen]
        self.labels = np.array([label for _, label in chosen], dtype=np.int64)
        if folder.settings.groups is not None:
            self.groups = np.array([folder.group(file) for file in self.sources])

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, size = self.sources[index], self.folder.sensor_size
        events = read_events(file, self.folder.settings.layout)
        if events.size is not None and events.size != size[:2] and self.folder.given is None:
            found = f"{events.size[0]}x{events.size[1]}"
            raise InputError(
                f"{file}: found a sensor of {found}, expected {size[0]}x{size[1]} as in the other recordings"
            )
        return checked(events.x, events.y, events.t, events.p, size, file), int(self.labels[index])
