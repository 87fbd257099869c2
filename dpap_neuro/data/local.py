"""Data sets from a local folder in the layout of tonic's classes, complete or partial.

tonic's classes refuse a partial folder and would download instead, so recordings are found here, in the order of their
names, and read by tonic's readers. Reading never executes code. To add a data set: a `Layout`.

- nmnist, ncaltech101: Orchard et al. 2015, doi 10.3389/fnins.2015.00437
- dvsgesture: Amir et al. 2017, doi 10.1109/CVPR.2017.781
- cifar10dvs: Li et al. 2017, doi 10.3389/fnins.2017.00309
- shd: Cramer et al. 2020, doi 10.1109/TNNLS.2020.3044364
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dpap_neuro.data.events import checked
from dpap_neuro.errors import InputError, NoRecordings

SensorSize = tuple[int, int, int]

DIGITS = tuple(str(d) for d in range(10))
GESTURES = (
    "Hand clapping",
    "Right hand wave",
    "Left hand wave",
    "Right arm cw",
    "Right arm ccw",
    "Left arm cw",
    "Left arm ccw",
    "Arm roll",
    "Air drums",
    "Air guitar",
    "Other gestures",
)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Caltech101 without the class Faces, in the order of a file listing.
CALTECH101 = tuple(
    """BACKGROUND_Google Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular
    bonsai brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier
    cougar_body cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly
    electric_guitar elephant emu euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano
    hawksbill headphone hedgehog helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster
    lotus mandolin mayfly menorah metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid
    revolver rhino rooster saxophone schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish
    stegosaurus stop_sign strawberry sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat
    windsor_chair wrench yin_yang""".split()  # noqa: SIM905 - a list literal fills a page
)
SPOKEN_DIGITS = tuple(
    """zero one two three four five six seven eight nine
    null eins zwei drei vier fuenf sechs sieben acht neun""".split()  # noqa: SIM905
)


def _mnist(file: Path, sensor_size: SensorSize) -> np.ndarray:
    if file.stat().st_size % 5:
        raise InputError(f"{file}: found {file.stat().st_size} bytes, expected a multiple of 5 per event")
    import tonic.datasets
    from tonic.io import read_mnist_file

    events = read_mnist_file(str(file), dtype=tonic.datasets.NMNIST.dtype)
    return checked(events["x"], events["y"], events["t"], events["p"], sensor_size, file)


def _caltech(file: Path, sensor_size: SensorSize) -> np.ndarray:
    """Recordings are of unequal size: as in tonic, each is moved to the corner."""
    events = _mnist(file, (256, 256, 2))
    for name, size in (("x", sensor_size[0]), ("y", sensor_size[1])):
        if len(events):
            events[name] -= events[name].min()
            if events[name].max() >= size:
                raise InputError(
                    f"{file}: found events on {events[name].max() + 1} pixels in {name}, expected at most {size}"
                )
    return events


def _gesture(file: Path, sensor_size: SensorSize) -> np.ndarray:
    table = np.load(file, allow_pickle=False)
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.shape[1] != 4:
        raise InputError(f"{file}: found shape {np.shape(table)}, expected (events, 4): x, y, p, t in ms")
    x, y, p, t = table.T
    return checked(x, y, t.astype(np.result_type(t, np.int64)) * 1000, p, sensor_size, file)


def _aedat4(file: Path, sensor_size: SensorSize) -> np.ndarray:
    from tonic.io import read_aedat4

    try:
        events = read_aedat4(str(file))
    except ImportError:
        raise InputError(
            f"{file}: reading it needs the package aedat; to get it: pip install aedat"
        ) from None
    except BaseException as error:
        # Of the decoder, in Rust: no subclass of Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{file}: cannot be read (damaged AEDAT 4)") from None
    t, x, y, p = (events[name] for name in events.dtype.names)
    return checked(x, y, t, p, sensor_size, file)


@dataclass(frozen=True)
class Layout:
    """Where recordings of one file each lie and how they are read.

    root: the folder that tonic makes, DIR/root. splits: the folders of "train" and "test" in it; where they are the
    same there is no official split, and recordings whose number ends in 4 or 9 are for testing, in a partial folder as
    in a complete one. pattern: of a recording's path in that folder. keys: what names a class, in the order of
    labels; key: where it is found. read: a file's events.
    """

    root: str
    splits: tuple[str, str]
    pattern: str
    keys: tuple[str, ...]
    key: Callable[[Path], str]
    read: Callable[[Path, SensorSize], np.ndarray]
    sensor_size: SensorSize


def _folder(file: Path) -> str:
    return file.parent.name


def _stem(file: Path) -> str:
    return file.stem


NMNIST = Layout("NMNIST", ("Train", "Test"), "[0-9]/*.bin", DIGITS, _folder, _mnist, (34, 34, 2))
DVSGESTURE = Layout(
    "DVSGesture",
    ("ibmGestureTrain", "ibmGestureTest"),
    "user*/*.npy",
    tuple(str(n) for n in range(len(GESTURES))),
    _stem,
    _gesture,
    (128, 128, 2),
)
CIFAR10DVS = Layout("CIFAR10DVS", ("", ""), "*/*.aedat4", CIFAR10, _folder, _aedat4, (128, 128, 2))
NCALTECH101 = Layout(
    "NCALTECH101", ("Caltech101", "Caltech101"), "*/*.bin", CALTECH101, _folder, _caltech, (240, 180, 2)
)


class LocalRecordings:
    """The recordings of `split` "train", "test" or "all" (whatever is there), in the order of their names.

    Items: (events, see `EVENT_DTYPE`, label). Raises InputError where no folder is given, NoRecordings where it is
    missing or holds no recording, naming the path looked for; on reading, InputError for a damaged file.
    """

    def __init__(self, layout: Layout, data_dir: str | Path | None, split: str = "train") -> None:
        self.layout = layout
        official = layout.splits[0] != layout.splits[1]
        how = _help(layout.root, split if official else None)
        root = _root(layout.root, data_dir, layout.splits[0], how)
        folders = [root / name for name in _chosen(layout.splits, split)]
        self.sources = [
            file for folder in dict.fromkeys(folders) for file in sorted(folder.glob(layout.pattern))
        ]
        if not official and split != "all":
            self.sources = [file for file in self.sources if _is_test(file) == (split == "test")]
        if not self.sources:
            looked = " and ".join(str(folder / layout.pattern) for folder in dict.fromkeys(folders))
            raise NoRecordings(f"{layout.root}: found no {split} recording at {looked}; {how}")
        for file in self.sources:
            if layout.key(file) not in layout.keys:
                raise InputError(f"{file}: found class {layout.key(file)!r}, expected one of {layout.root}'s")
        self.labels = np.array([layout.keys.index(layout.key(file)) for file in self.sources], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file = self.sources[index]
        try:
            return self.layout.read(file, self.layout.sensor_size), int(self.labels[index])
        except InputError:
            raise
        except Exception as error:  # of a reader that does not say what it raises
            raise InputError(f"{file}: cannot be read ({type(error).__name__}: {_line(error)})") from None


class HeidelbergDigits:
    """Spiking Heidelberg Digits: 700 channels of a cochlea, as one row of pixels of one polarity. See `LocalRecordings`."""

    SENSOR_SIZE = (700, 1, 1)

    def __init__(self, data_dir: str | Path | None, split: str = "train") -> None:
        import tonic.datasets

        class SHD(tonic.datasets.SHD):
            """tonic's, of a file that is there already."""

            def _check_exists(self) -> bool:
                return True

        how = _help("SHD", split)
        root = _root("SHD", data_dir, "shd_train.h5", how)
        wanted = [root / name for name in _chosen(("shd_train.h5", "shd_test.h5"), split)]
        self.sources = [file for file in wanted if file.is_file()]
        if not self.sources:
            raise NoRecordings(f"SHD: found no file at {' and '.join(map(str, wanted))}; {how}")
        self._items: list[tuple[Any, int]] = []
        labels: list[int] = []
        for file in self.sources:
            try:
                recordings = SHD(str(root.parent), train=file.name == "shd_train.h5")
                with h5py.File(file, "r") as values:
                    own = np.asarray(values["labels"], dtype=np.int64)
            except Exception as error:
                raise InputError(f"{file}: cannot be read ({type(error).__name__}: {_line(error)})") from None
            if len(own) and not (own.min() >= 0 and own.max() < len(SPOKEN_DIGITS)):
                raise InputError(f"{file}: found labels {own.min()} to {own.max()}, expected 0 to 19")
            labels += own.tolist()
            self._items += [(recordings, index) for index in range(len(own))]
        if not labels:
            raise NoRecordings(f"SHD: found no recording in {' and '.join(map(str, self.sources))}; {how}")
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        recordings, number = self._items[index]
        file = Path(recordings.location_on_system) / recordings.data_filename
        try:
            events, label = recordings[number]
        except Exception as error:
            raise InputError(
                f"{file}: recording {number} cannot be read ({type(error).__name__}: {_line(error)})"
            ) from None
        return checked(events["x"], 0, events["t"], 0, self.SENSOR_SIZE, f"{file}: recording {number}"), int(
            label
        )


def _root(name: str, data_dir: str | Path | None, inside: str, how: str) -> Path:
    """DIR/name, or DIR where it is that folder itself."""
    if data_dir is None:
        raise InputError(
            f"{name}: no folder given, expected --data-dir DIR with {Path('DIR', name, inside)}; {how}"
        )
    root = Path(data_dir)
    return root if root.name == name and not (root / name).is_dir() else root / name


def _chosen(splits: tuple[str, str], split: str) -> tuple[str, ...]:
    return {"train": splits[:1], "test": splits[1:], "all": splits}[split]


def _is_test(file: Path) -> bool:
    number = re.search(r"(\d+)$", file.stem)
    if number is None:
        raise InputError(
            f"{file}: found no number at the end of the name, expected one: it decides the split"
        )
    return int(number[1]) % 5 == 4


def _help(name: str, split: str | None) -> str:
    """How to get a data set; split: where it has an official one."""
    part = "" if split is None else f", train={split != 'test'}"
    return f"to get it: python -c \"import tonic; tonic.datasets.{name}('DIR'{part})\", then --data-dir DIR"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
