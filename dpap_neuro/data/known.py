"""Data sets by name: what is known of each without opening it, and how it is opened.

To add one: a class as in `digits.py` or a layout in `local.py`, and a line in `DATASETS`; from outside, `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data import digits, local, motion, original, stills
from dpap_neuro.data.binning import Binning, SensorSize
from dpap_neuro.data.coding import parse_code
from dpap_neuro.data.folder import Folder
from dpap_neuro.data.objects import Wrapped
from dpap_neuro.data.splits import LabelledRecordings, Selection
from dpap_neuro.errors import InputError, NoRecordings


@dataclass(frozen=True)
class Defaults:
    """What a data set gets where a user says nothing else. Those of real data sets but nmnist were chosen by their
    sizes, not tuned.

    model: see `networks.MODELS`. bins, bin_us, clip, downsample, clock: see `Binning`; bin_us goes before bins. shift, flip, drop, jitter: see `augmentation`.
    code: of still images, see `coding`; None of events. learning_rate: AdamW's, for its own model. network: options of its own model, by their names in `train`, where nothing of
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
    learning_rate: float = 3e-3
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


def _cochlea(name: str, classes: tuple[str, ...]) -> DataSet:
    return DataSet(
        lambda data_dir, split: local.Cochlea(name, len(classes), data_dir, split),
        local.Cochlea.SENSOR_SIZE,
        classes,
        1_000_000,
        Defaults("recurrent", bins=50, downsample=5, jitter=0.1, network=_CURRENT_BASED),
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
        # Of five rates the best for the dense network, see examples/motion_pruning, on training recordings alone.
        Defaults(bins=20, learning_rate=1e-3),
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
    "shd": _cochlea("SHD", local.SPOKEN_DIGITS),
    "ssc": _cochlea("SSC", local.SPEECH_COMMANDS),
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
    test: None where a fifth of each class is to be held out. sensor_size: (columns, rows, polarities). An object may have `groups`,
    (n,): who or what a recording is of, so that held-out recordings and folds never part them.
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
