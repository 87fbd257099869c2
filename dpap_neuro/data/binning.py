"""Events to rasters, through tonic's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from dpap_neuro.errors import InputError

SensorSize = tuple[int, int, int]


class Recordings(Protocol):
    """Events and label by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


@dataclass(frozen=True)
class Binning:
    """How events become counts per time step: `bins` equal parts of a recording, or steps of `bin_us` microseconds.

    clip: counts above are cut to it (None: as they are). downsample: pixels per side that become one; their events add
    up. kept_bins: rising indices of the time bins that a network is shown, None: all. Raises InputError where not exactly
    one of `bins` and `bin_us` is given, or for a number that is not above 0.
    """

    bins: int | None = None
    bin_us: float | None = None
    clip: int | None = None
    downsample: int = 1
    kept_bins: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.bins is None) == (self.bin_us is None):
            raise InputError(
                f"binning: found bins {self.bins} and bin_us {self.bin_us}, expected exactly one of them"
            )
        for name in ("bins", "bin_us", "clip", "downsample"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}: found {value}, expected a finite number above 0")

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
        """As metadata and records hold it; without `kept_bins` where all are kept."""
        values = asdict(self)
        kept = values.pop("kept_bins")
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
) -> Binning:
    """What was asked for, else what a file's metadata says. Raises InputError where neither tells."""
    clip, kept = metadata.get("clip"), metadata.get("kept_bins")
    if downsample is None:
        downsample = int(metadata.get("downsample") or 1)
    if bins is None and bin_us is None:
        bins, bin_us = metadata.get("bins"), metadata.get("bin_us")
        if bins is None and bin_us is None:
            raise InputError(
                "binning: the file does not say how events become steps; give --bins N or --bin-us T"
            )
    return Binning(bins, bin_us, None if clip is None else int(clip), downsample).keeping(kept)


def frames(
    dataset: Recordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Each recording as uint8 counts (steps, polarity, y, x), the order of tonic's ToFrame.

    All time bins: which are shown is another matter (`Binning.shown`). progress(done, total) is called now and then.
    """
    import tonic.transforms

    shape = binning.shape(sensor_size)
    if binning.bins is not None:
        transform = tonic.transforms.ToFrame(sensor_size=shape[::-1], n_time_bins=binning.bins)
    else:
        transform = tonic.transforms.ToFrame(
            sensor_size=shape[::-1], time_window=binning.bin_us, include_incomplete=True
        )
    limit = 255 if binning.clip is None else min(255, binning.clip)
    for index in range(len(dataset)):
        events, _ = dataset[index]
        if binning.downsample > 1:
            # tonic's Downsample multiplies by the float 1 / n, which puts pixel 49 at 0 for n = 49.
            events = events.copy()
            events["x"] //= binning.downsample
            events["y"] //= binning.downsample
        frame = transform(events) if len(events) else np.zeros((binning.bins or 1, *shape))
        yield np.minimum(frame, limit).astype(np.uint8)
        if progress is not None and (index % 16 == 15 or index + 1 == len(dataset)):
            progress(index + 1, len(dataset))


def rasters(
    dataset: Recordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """All recordings as uint8 counts (n, steps, polarity, y, x), in memory.

    Recordings of unequal length (with bin_us) end in silent steps. progress: see `frames`.
    """
    parts = list(frames(dataset, binning, sensor_size, progress))
    shape = (len(parts), max(len(f) for f in parts), *binning.shape(sensor_size))
    out = np.zeros(shape, dtype=np.uint8)
    for index, frame in enumerate(parts):
        out[index, : len(frame)] = frame
    return out
