"""Data sets from a local folder in the layout of tonic's classes, complete or partial.

tonic's classes refuse a partial folder and would download instead, so recordings are found here, in the order of their
names; tests hold what is read to tonic's own classes. Reading never executes code. To add a data set: a `Layout`.

- nmnist, ncaltech101: Orchard et al. 2015, doi 10.3389/fnins.2015.00437
- dvsgesture: Amir et al. 2017, doi 10.1109/CVPR.2017.781
- cifar10dvs: Li et al. 2017, doi 10.3389/fnins.2017.00309
- shd, ssc: Cramer et al. 2020, doi 10.1109/TNNLS.2020.3044364
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dpap_neuro.data.events import checked
from dpap_neuro.data.formats import read_events
from dpap_neuro.data.splits import every_nth
from dpap_neuro.errors import InputError, NoRecordings
from dpap_neuro.files import read_numpy

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
# Their words stand in the files, as extra/keys.
SPEECH_COMMANDS = tuple(str(n) for n in range(35))
BRAILLE = ("Space", "A", "E", "I", "O", "U", "Y")


def _file(file: Path, sensor_size: SensorSize) -> np.ndarray:
    events = read_events(file)
    return checked(events.x, events.y, events.t, events.p, sensor_size, file)


def _caltech(file: Path, sensor_size: SensorSize) -> np.ndarray:
    """Recordings are of unequal size: as in tonic, each is moved to the corner."""
    events = _file(file, (256, 256, 2))
    for name, size in (("x", sensor_size[0]), ("y", sensor_size[1])):
        if len(events):
            events[name] -= events[name].min()
            if events[name].max() >= size:
                raise InputError(
                    f"{file}: found events on {events[name].max() + 1} pixels in {name}, expected at most {size}"
                )
    return events


def _gesture(file: Path, sensor_size: SensorSize) -> np.ndarray:
    table = read_numpy(file)
    if not isinstance(table, np.ndarray):
        raise InputError(f"{file}: found an .npz file, expected an .npy file of x, y, p, t")
    if table.ndim != 2 or table.shape[1] != 4:
        raise InputError(f"{file}: found shape {table.shape}, expected (events, 4): x, y, p, t in ms")
    x, y, p, t = table.T
    return checked(x, y, t.astype(np.result_type(t, np.int64)) * 1000, p, sensor_size, file)


@dataclass(frozen=True)
class Layout:
    """Where recordings of one file each lie and how they are read.

    root: the folder that tonic makes, DIR/root. splits: the folders of "train" and "test" in it; where they are the
    same there is no official split, and recordings whose number ends in 4 or 9 are for testing, in a partial folder as
    in a complete one. pattern: of a recording's path in that folder. keys: what names a class, in the order of
    labels; key: where it is found. read: a file's events. group: who made it, see `splits.groups_of`.
    """

    root: str
    splits: tuple[str, str]
    pattern: str
    keys: tuple[str, ...]
    key: Callable[[Path], str]
    read: Callable[[Path, SensorSize], np.ndarray]
    sensor_size: SensorSize
    group: Callable[[Path], str] | None = None


def _folder(file: Path) -> str:
    return file.parent.name


def _stem(file: Path) -> str:
    return file.stem


def person(trial: str) -> str:
    """Who moves in a trial of DVS128 Gesture, such as user01_fluorescent; each is recorded under several lights."""
    return trial.partition("_")[0]


NMNIST = Layout("NMNIST", ("Train", "Test"), "[0-9]/*.bin", DIGITS, _folder, _file, (34, 34, 2))
DVSGESTURE = Layout(
    "DVSGesture",
    ("ibmGestureTrain", "ibmGestureTest"),
    "user*/*.npy",
    tuple(str(n) for n in range(len(GESTURES))),
    _stem,
    _gesture,
    (128, 128, 2),
    lambda file: person(file.parent.name),
)
CIFAR10DVS = Layout("CIFAR10DVS", ("", ""), "*/*.aedat4", CIFAR10, _folder, _file, (128, 128, 2))
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
        how = _help(layout.root)
        root = _root(layout.root, data_dir, layout.splits[0], how)
        folders = [root / name for name in _chosen(layout.splits, split)]
        self.sources = [
            file for folder in dict.fromkeys(folders) for file in sorted(folder.glob(layout.pattern))
        ]
        if not official and split != "all":
            self.sources = [file for file in self.sources if is_test(file) == (split == "test")]
        if not self.sources:
            looked = " and ".join(str(folder / layout.pattern) for folder in dict.fromkeys(folders))
            raise NoRecordings(f"{layout.root}: found no {split} recording at {looked}; {how}")
        for file in self.sources:
            if layout.key(file) not in layout.keys:
                raise InputError(f"{file}: found class {layout.key(file)!r}, expected one of {layout.root}'s")
        self.labels = np.array([layout.keys.index(layout.key(file)) for file in self.sources], dtype=np.int64)
        if layout.group is not None:
            self.groups = np.array([layout.group(file) for file in self.sources])

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


class Cochlea:
    """Spiking Heidelberg Digits and Speech Commands: 700 channels of a cochlea, as one row of pixels of one polarity.

    name: of the folder in DIR. See `LocalRecordings` for items and errors.
    """

    SENSOR_SIZE = (700, 1, 1)

    def __init__(self, name: str, classes: int, data_dir: str | Path | None, split: str = "train") -> None:
        low = name.lower()
        how = _help(name)
        root = _root(name, data_dir, f"{low}_train.h5", how)
        wanted = [root / file for file in _chosen((f"{low}_train.h5", f"{low}_test.h5"), split)]
        self.sources = [file for file in wanted if file.is_file()]
        if not self.sources:
            raise NoRecordings(f"{name}: found no file at {' and '.join(map(str, wanted))}; {how}")
        self._items: list[tuple[Path, int]] = []
        labels: list[int] = []
        for file in self.sources:
            try:
                with h5py.File(file, "r") as values:
                    own = np.asarray(values["labels"], dtype=np.int64)
            except Exception as error:
                raise InputError(f"{file}: cannot be read ({type(error).__name__}: {_line(error)})") from None
            if len(own) and not (own.min() >= 0 and own.max() < classes):
                raise InputError(
                    f"{file}: found labels {own.min()} to {own.max()}, expected 0 to {classes - 1}"
                )
            labels += own.tolist()
            self._items += [(file, index) for index in range(len(own))]
        if not labels:
            raise NoRecordings(f"{name}: found no recording in {' and '.join(map(str, self.sources))}; {how}")
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, number = self._items[index]
        where = f"{file}: recording {number}"
        try:
            with h5py.File(file, "r") as values:
                seconds, units = values["spikes/times"][number], values["spikes/units"][number]
        except Exception as error:
            raise InputError(f"{where} cannot be read ({type(error).__name__}: {_line(error)})") from None
        if len(seconds) != len(units):
            raise InputError(f"{where}: found {len(seconds)} times and {len(units)} channels")
        t = np.asarray(seconds, np.float64) * 1e6
        return checked(units, 0, t, 0, self.SENSOR_SIZE, where), int(self.labels[index])


class Braille:
    """Seven Braille letters under a finger of 12 taxels, 256 steps of 5 ms, as one row of pixels of one polarity.

    Mueller-Cleve et al. 2022, doi 10.3389/fnins.2022.951164. Read from `DIR/braille7.npz` or `DIR/braille/braille7.npz`: spikes
    (n, 32, 12), bits along the second axis, labels (n,), classes (7,). There is no official split: every fifth of each class is for testing.
    """

    SENSOR_SIZE = (12, 1, 1)
    STEPS, STEP_US = 256, 5_000

    def __init__(self, data_dir: str | Path | None, split: str = "train") -> None:
        if data_dir is None:
            raise InputError("braille: no folder given, expected --data-dir DIR with DIR/braille7.npz")
        wanted = [Path(data_dir) / "braille7.npz", Path(data_dir) / "braille" / "braille7.npz"]
        file = next((path for path in wanted if path.is_file()), None)
        if file is None:
            raise NoRecordings(f"braille: found no file at {' or '.join(map(str, wanted))}")
        try:
            arrays = read_numpy(file)
            packed, labels = arrays["spikes"], arrays["labels"].astype(np.int64)  # type: ignore[call-overload]
        except (LookupError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: cannot be read ({type(error).__name__}: {_line(error)})") from None
        if packed.dtype != np.uint8 or packed.shape != (len(labels), self.STEPS // 8, self.SENSOR_SIZE[0]):
            raise InputError(
                f"{file}: found spikes of shape {packed.shape}, {packed.dtype}, expected ({len(labels)}, 32, 12), uint8"
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(BRAILLE)):
            raise InputError(
                f"{file}: found labels {labels.min()} to {labels.max()}, expected 0 to {len(BRAILLE) - 1}"
            )
        test = every_nth(labels)
        chosen = np.full(len(labels), True) if split == "all" else test == (split == "test")
        self.sources = [file]
        self.packed, self.labels = packed[chosen], labels[chosen]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        step, taxel = np.nonzero(np.unpackbits(self.packed[index], axis=0))
        where = f"{self.sources[0]}: recording {index}"
        return checked(taxel, 0, step * self.STEP_US, 0, self.SENSOR_SIZE, where), int(self.labels[index])


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


def is_test(file: Path) -> bool:
    """Whether the number that ends a recording's name ends in 4 or 9."""
    number = re.search(r"(\d+)$", file.stem)
    if number is None:
        raise InputError(
            f"{file}: found no number at the end of the name, expected one: it decides the split"
        )
    return int(number[1]) % 5 == 4


def _help(name: str) -> str:
    return f"to get it: dpap-neuro data get {name.lower()} --data-dir DIR"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
