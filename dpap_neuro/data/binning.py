"""Events to rasters: counts per time step, polarity and pixel. Every event is counted once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from dpap_neuro.data.coding import parse_code
from dpap_neuro.data.parallel import in_order, workers_for
from dpap_neuro.errors import InputError

SensorSize = tuple[int, int, int]
CLOCKS = ("first-event", "recording")
# A wrong time stamp is not to ask for all memory: values of one recording's raster.
MAX_VALUES = 1 << 30
# Beyond so many, counts are of 16 bits: a raster of mostly zeros is not to take eight bytes for each.
WIDE_VALUES = 1 << 26
MAX_BINS = 1 << 20
MAX_CLIP = (1 << 31) - 1
# No sensor has more pixels per side.
MAX_FACTOR = 1 << 15
# Counts are bytes.
MAX_COUNT = 255


class Recordings(Protocol):
    """Events and label by number. One whose attribute `stills` is true has images in place of events, and `counts`, see `stills`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


@dataclass(frozen=True)
class Binning:
    """How events become counts per time step: `bins` equal parts of a recording, or steps of `bin_us` microseconds.

    clip: counts above are cut to it (None: to 255, with a warning). downsample: pixels per side that become one; their
    events add up. clock: time begins with the "first-event", or with the "recording", at 0 microseconds, so that a late
    first event leaves silent steps before it. kept_bins: rising indices of the time bins that a network is shown, None: all.
    code: how still images are shown, see `coding.parse_code`; None for events.
    Raises InputError where not exactly one of `bins` and `bin_us` is given, or for a number that is not above 0.
    """

    bins: int | None = None
    bin_us: float | None = None
    clip: int | None = None
    downsample: int = 1
    clock: str = "first-event"
    kept_bins: tuple[int, ...] | None = None
    code: str | None = None

    def __post_init__(self) -> None:
        if (self.bins is None) == (self.bin_us is None):
            raise InputError(
                f"binning: found bins {self.bins} and bin_us {self.bin_us}, expected exactly one of them"
            )
        for name in ("bins", "bin_us", "clip", "downsample"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}: found {value}, expected a finite number above 0")
        for name, most in (("bins", MAX_BINS), ("downsample", MAX_FACTOR), ("clip", MAX_CLIP)):
            value = getattr(self, name)
            if value is not None and (value > most or value != int(value)):
                raise InputError(f"{name}: found {value:.12g}, expected a whole number from 1 to {most:,}")
        if self.clock not in CLOCKS:
            raise InputError(f"clock: found {self.clock!r}, expected one of {', '.join(CLOCKS)}")
        if self.code is not None:
            parse_code(self.code)

    def seconds(self, duration_us: float) -> float:
        """Length of a step, for a recording of `duration_us`."""
        return (self.bin_us if self.bin_us is not None else duration_us / self.bins) * 1e-6  # type: ignore[operator]

    def shape(self, sensor_size: SensorSize) -> tuple[int, int, int]:
        """(polarities, rows, columns) of a step, for a sensor of (columns, rows, polarities)."""
        columns, rows, polarities = sensor_size
        return polarities, -(-rows // self.downsample), -(-columns // self.downsample)

    def shown(self, rasters: np.ndarray) -> np.ndarray:
        """Of rasters (n, steps, ...) the time bins that are kept. Raises InputError where one is missing."""
        return only_bins(rasters, self.kept_bins)

    def keeping(self, kept: Sequence[int] | None) -> Binning:
        """The same with only some of the bins that are shown, counted among these (None: all of them)."""
        if kept is None:
            return self
        own = tuple(int(i) for i in kept)
        return replace(
            self, kept_bins=own if self.kept_bins is None else tuple(self.kept_bins[i] for i in own)
        )

    def to_dict(self) -> dict[str, Any]:
        """As metadata and records hold it; without `kept_bins` where all are kept, without `code` where events are counted."""
        values = asdict(self)
        kept = values.pop("kept_bins")
        if self.code is None:
            del values["code"]
        return values if kept is None else {**values, "kept_bins": list(kept)}


def only_bins(rasters: Any, kept: Sequence[int] | None) -> Any:
    """Of an array or tensor (n, steps, ...) the time bins of these rising indices, all of them where None.

    Raises InputError where one is missing.
    """
    if kept is None:
        return rasters
    if kept[-1] >= rasters.shape[1]:
        raise InputError(
            f"kept_bins: found {kept[-1]}, expected below the {rasters.shape[1]} time bins of a recording"
        )
    return rasters[:, list(kept)]


def binning_of(
    metadata: Mapping[str, Any],
    bins: int | None = None,
    bin_us: float | None = None,
    downsample: int | None = None,
    clock: str | None = None,
    clip: int | None = None,
    code: str | None = None,
) -> Binning:
    """What was asked for, else what a file's metadata says. Raises InputError where neither tells."""
    clip, kept = metadata.get("clip") if clip is None else clip, metadata.get("kept_bins")
    code = metadata.get("code") if code is None else code
    began = clock or metadata.get("clock") or "first-event"
    if downsample is None:
        downsample = int(metadata.get("downsample") or 1)
    if bins is None and bin_us is None:
        bins, bin_us = metadata.get("bins"), metadata.get("bin_us")
        if bins is None and bin_us is None:
            raise InputError(
                "binning: the file does not say how events become steps; give --bins N or --bin-us T"
            )
    cut = None if clip is None else int(clip)
    return Binning(bins, bin_us, cut, downsample, began, code=code).keeping(kept)


def check_values(values: int, what: str) -> None:
    """Raises InputError, saying what, where a recording would have more values than fit `MAX_VALUES`."""
    if values > MAX_VALUES:
        raise InputError(f"{what}: {values:,} counts, expected at most {MAX_VALUES:,}; give fewer steps")


def steps_of(t: np.ndarray, binning: Binning) -> tuple[np.ndarray, int]:
    """The step of every event, and the number of steps. t: rising times in whole microseconds.

    With `bins`: step = floor((t - t0) bins / (t1 - t0)), t0 where the clock begins and t1 the last event, which belongs to
    the last step; in whole numbers, so that no event falls between two steps. Equal times are of the first step.
    With `bin_us`: floor((t - t0) / bin_us), as many steps as reach the last event.
    """
    t0 = int(t[0]) if binning.clock == "first-event" else min(0, int(t[0]))
    since, last = t - t0, int(t[-1]) - t0
    if binning.bins is not None:
        # Python's integers where 64 bits might not hold the product.
        wide = since if last <= (1 << 62) // binning.bins else since.astype(object)
        step = wide * binning.bins // max(last, 1)
        return np.minimum(step, binning.bins - 1).astype(np.int64), binning.bins
    assert binning.bin_us is not None
    if float(binning.bin_us).is_integer():
        return since // int(binning.bin_us), last // int(binning.bin_us) + 1
    step = np.floor(since / binning.bin_us).astype(np.int64)
    return step, int(step[-1]) + 1


def counted(
    events: np.ndarray, binning: Binning, sensor_size: SensorSize, where: object = "recording"
) -> np.ndarray:
    """One recording's counts (steps, polarity, y, x), whole numbers, not cut below 65,535. events: see `EVENT_DTYPE`; without events, silent steps.

    Raises InputError, naming `where`, for a recording of more steps than fit `MAX_VALUES`.
    """
    shape = binning.shape(sensor_size)
    step, steps = steps_of(events["t"], binning) if len(events) else (events["t"], binning.bins or 1)
    if steps * math.prod(shape) > MAX_VALUES:
        span = (int(events["t"][-1]) - int(events["t"][0])) * 1e-6 if len(events) else 0.0
        raise InputError(
            f"{where}: its events span {span:,.6g} s, {steps:,} steps of {'x'.join(map(str, shape))} counts, at most "
            f"{MAX_VALUES:,} counts are made; a time stamp may be wrong, or give longer or fewer steps"
        )
    y, x = (
        events["y"].astype(np.int64) // binning.downsample,
        events["x"].astype(np.int64) // binning.downsample,
    )
    place = ((step * shape[0] + events["p"]) * shape[1] + y) * shape[2] + x
    size = steps * math.prod(shape)
    if size <= WIDE_VALUES:
        return np.bincount(place, minlength=size).reshape(steps, *shape)
    counts = np.zeros(size, np.uint16)
    places, found = np.unique(place, return_counts=True)
    counts[places] = np.minimum(found, np.iinfo(np.uint16).max)
    return counts.reshape(steps, *shape)


def frames(
    dataset: Recordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Iterator[np.ndarray]:
    """Each recording as uint8 counts (steps, polarity, y, x), made in `workers` processes, see `parallel.workers_for`.

    All time bins: which are shown is another matter (`Binning.shown`). progress(done, total) is called now and then. Warns, once, where counts above 255 were cut without a `clip`.
    """
    n, warned = len(dataset), False
    if binning.code is not None and not getattr(dataset, "stills", False):
        raise InputError(
            f"code: found {binning.code}, which is for still images; these are recordings of events"
        )
    make = partial(_frame, dataset, binning, sensor_size)
    for index, (frame, most) in enumerate(in_order(make, n, workers_for(dataset, workers))):
        if most > MAX_COUNT and not warned:
            warned = True
            warnings.warn(
                f"{_name(dataset, index)}: {most:,} events of one pixel in one step; counts above {MAX_COUNT} are cut",
                stacklevel=2,
            )
        yield frame
        if progress is not None and (index % 16 == 15 or index + 1 == n):
            progress(index + 1, n)


def _frame(
    dataset: Recordings, binning: Binning, sensor_size: SensorSize, index: int
) -> tuple[np.ndarray, int]:
    """Counts of one recording, and the highest of them before they are cut where nobody asked for that."""
    if getattr(dataset, "stills", False):
        frame = dataset.counts(index, binning)  # type: ignore[attr-defined]
    else:
        frame = counted(dataset[index][0], binning, sensor_size, _name(dataset, index))
    most = int(frame.max(initial=0)) if binning.clip is None else 0
    limit = MAX_COUNT if binning.clip is None else min(MAX_COUNT, binning.clip)
    return np.minimum(frame, limit).astype(np.uint8), most


def _name(dataset: Recordings, index: int) -> object:
    sources = getattr(dataset, "sources", ())
    return sources[index] if len(sources) == len(dataset) else f"recording {index}"


def rasters(
    dataset: Recordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """All recordings as uint8 counts (n, steps, polarity, y, x), in memory.

    Recordings of unequal length (with bin_us) end in silent steps. progress, workers: see `frames`.
    """
    parts = list(frames(dataset, binning, sensor_size, progress, workers))
    shape = (len(parts), max(len(f) for f in parts), *binning.shape(sensor_size))
    out = np.zeros(shape, dtype=np.uint8)
    for index, frame in enumerate(parts):
        out[index, : len(frame)] = frame
    return out
