"""What a network is run on: recordings of a data set, or rasters of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpap_neuro.data import Opened, binning_of, check_split, dataset, open_dataset, parse_sensor, spread
from dpap_neuro.data.opening import CHUNK
from dpap_neuro.errors import InputError
from dpap_neuro.files import read_numpy

if TYPE_CHECKING:
    from dpap_neuro.deploy.opening import Model
    from hardware.chip.chips import Chip

# Which of a pixel's two counts is first; this project's files have the darker one, off, first.
POLARITIES = ("off-on", "on-off")


@dataclass(frozen=True)
class Shown:
    """Recordings as one network is shown them.

    labels: (n,) of the classes, None where they are not known. parts(): rasters (some, steps, *shape) in order, some tens at a
    time. notes: what a reader of the results must know.
    """

    n: int
    labels: np.ndarray | None
    parts: Callable[[], Iterator[np.ndarray]]
    notes: tuple[str, ...] = ()

    def together(self) -> np.ndarray:
        """All in one array (n, steps, *shape); shorter ones end in silent steps."""
        parts = list(self.parts())
        steps = max(part.shape[1] for part in parts)
        widths = [[(0, 0), (0, steps - x.shape[1]), *[(0, 0)] * (x.ndim - 2)] for x in parts]
        return np.concatenate([np.pad(x, width) for x, width in zip(parts, widths, strict=True)])


@dataclass(frozen=True)
class Recordings:
    """Which recordings, before it is known which network sees them.

    dataset: its name or a folder (of sensor, columns x rows), with data_dir, split, bins, bin_us, clock, code, clip, downsample (None: as the network's file says), cache_dir (see
    `data.cache`). As another project trained its network: polarity, "off-on" (this project's order, None) or "on-off"; scale, by
    which every count is multiplied. file: instead, an `.npy` file of counts or an `.npz` file with `input` and, for accuracies, `labels`; shown
    as they are. limit: only so many, spread evenly. Raises InputError where not exactly one of the two is given, or for an
    unknown name.
    """

    dataset: str | None = None
    data_dir: str | Path | None = None
    split: str = "test"
    bins: int | None = None
    bin_us: float | None = None
    limit: int | None = None
    downsample: int | None = None
    cache_dir: str | Path | None = None
    file: Path | None = None
    sensor: str | None = None
    clock: str | None = None
    clip: int | None = None
    polarity: str | None = None
    scale: float | None = None
    code: str | None = None

    def __post_init__(self) -> None:
        if self.polarity not in (None, *POLARITIES):
            raise InputError(f"polarity: found {self.polarity!r}, expected {' or '.join(POLARITIES)}")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale != 0):
            raise InputError(f"scale: found {self.scale}, expected a finite number other than 0")
        if (self.dataset is None) == (self.file is None):
            raise InputError("input: give either --dataset NAME or --input FILE (.npz or .npy)")
        if self.dataset is not None:
            dataset(self.dataset, self._size)
            check_split(self.split)
        if self.file is not None:
            for name in (
                "data_dir",
                "bins",
                "bin_us",
                "downsample",
                "sensor",
                "clock",
                "clip",
                "polarity",
                "code",
            ):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"--{name.replace('_', '-')}: is for a data set, found --input {self.file}"
                    )

    def describe(self) -> str:
        """Which recordings, in words."""
        some = "" if self.limit is None else f", {self.limit} of them"
        return f"{self.file}{some}" if self.file is not None else f"{self.dataset}, {self.split}{some}"

    @property
    def _size(self) -> tuple[int, int] | None:
        return None if self.sensor is None else parse_sensor(self.sensor)

    def open(self, model: Model, classes: bool = True) -> Shown:
        """For this network. classes: whether its answers are compared with labels.

        Raises InputError for an unknown data set, a file that does not say its binning, recordings of another shape or, where
        they matter, of other classes than the network's.
        """
        if self.file is not None:
            return self._of_file(self.file, model, classes)
        binning = binning_of(
            model.metadata, self.bins, self.bin_us, self.downsample, self.clock, self.clip, self.code
        )
        opened = open_dataset(str(self.dataset), self.data_dir, self.split, self._size)
        if self.polarity is not None and opened.sensor_size[2] > 2:
            raise InputError(
                f"polarity: found {self.polarity}, but {opened.name} has {opened.sensor_size[2]} channels, not two"
            )
        check_shape(f"{opened.name}: its recordings have", binning.shape(opened.sensor_size), model)
        if classes:
            _check_classes(opened, model)
        chosen = opened.chosen(self.limit)
        known = model.metadata.get("dataset")
        return Shown(
            len(chosen),
            np.asarray(opened.recordings.labels)[chosen],
            lambda: map(self._as_trained, opened.parts(binning, chosen, self.cache_dir)),
            ()
            if known in (None, opened.name)
            else (f"{model.path} was trained on {known}, not on {opened.name}",),
        )

    def _of_file(self, file: Path, model: Model, classes: bool) -> Shown:
        counts, labels = read_rasters(file, model.input_shape or ())
        chosen = spread(len(counts), self.limit)
        counts = counts[chosen]
        if labels is not None:
            labels = labels[chosen]
            answers = model.classes
            if classes and len(labels) and not 0 <= labels.min() <= labels.max() < answers:
                raise InputError(
                    f"{file}: labels are {labels.min()} to {labels.max()}, expected 0 to {answers - 1}, the network's classes"
                )
        parts = range(0, len(counts), CHUNK)
        return Shown(len(counts), labels, lambda: (self._as_trained(counts[at : at + CHUNK]) for at in parts))

    def _as_trained(self, counts: np.ndarray) -> np.ndarray:
        """(n, steps, polarity, y, x) in the order and the units that were asked for."""
        if self.polarity == "on-off":
            counts = counts[:, :, ::-1]
        return counts if self.scale is None else counts.astype(np.float32) * np.float32(self.scale)


def check_shape(what: str, shape: tuple[int, ...], model: Model) -> None:
    """Raise InputError where a step of `shape` is none of the network's input."""
    if model.input_shape is not None and shape != model.input_shape:
        raise InputError(f"{what} shape {_text(shape)}, {model.path} takes {_text(model.input_shape)}")


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _check_classes(opened: Opened, model: Model) -> None:
    names = model.metadata.get("class_names")
    if len(opened.classes) != model.classes:
        raise InputError(
            f"{opened.name}: has {len(opened.classes)} classes, {model.path} tells {model.classes} apart"
        )
    if names is not None and list(names) != list(opened.classes):
        index = next(i for i, pair in enumerate(zip(names, opened.classes, strict=False)) if len({*pair}) > 1)
        raise InputError(
            f"{opened.name}: class {index} is {opened.classes[index]!r}, of {model.path} it is {names[index]!r}"
        )


def read_rasters(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Counts (batch, steps, *shape) and labels (batch,) or None: of an `.npz` file with the arrays `input` and, where it has
    them, `labels`; or of an `.npy` file. A single recording may leave out the batch. Raises InputError."""
    found = read_numpy(path)
    arrays = found if isinstance(found, dict) else {"input": found}
    counts, labels, names = arrays.get("input"), arrays.get("labels"), list(arrays)
    if counts is None:
        raise InputError(
            f"{path}: holds {', '.join(names)[:120] or 'no array'}, expected an array named input (and labels)"
        )
    if counts.dtype.kind not in "biuf":
        raise InputError(f"{path}: not an .npz or .npy file of numbers (its counts are {counts.dtype})")
    if counts.dtype.kind == "f" and not np.isfinite(counts).all():
        raise InputError(f"{path}: found counts that are NaN or infinite, expected finite numbers")
    if counts.shape[1:] == shape:
        counts = counts[None]
    if counts.ndim != 2 + len(shape) or counts.shape[2:] != shape:
        raise InputError(
            f"{path}: has shape {counts.shape}, expected (steps, {', '.join(map(str, shape))}), "
            "or that with the samples before"
        )
    if 0 in counts.shape[:2]:
        raise InputError(f"{path}: has shape {counts.shape}, expected at least one recording of one step")
    if labels is not None:
        labels = np.atleast_1d(labels)
        if labels.shape != counts.shape[:1] or labels.dtype.kind not in "iu":
            raise InputError(
                f"{path}: labels are {labels.dtype} of shape {labels.shape}, expected ({len(counts)},) whole numbers"
            )
        labels = labels.astype(np.int64)
    return counts, labels


def input_notes(chip: Chip, most: int) -> tuple[str, ...]:
    """What is to be said where a chip takes no counts at its inputs and the highest in a step is `most`."""
    if chip.neuron.graded_inputs or most <= 1:
        return ()
    return (
        f"inputs carry counts of up to {most} per step, {chip.name} takes single spikes: "
        "the chip would not see what was simulated (train with --clip 1)",
    )
