"""Events to rasters, through tonic's transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tonic.transforms

from dpap_neuro.errors import InputError


class Recordings(Protocol):
    """Events and label by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


@dataclass(frozen=True)
class Binning:
    """How events become counts per time step: `bins` equal parts of a recording, or steps of `bin_us` microseconds.

    clip: counts above are cut to it (None: as they are). Raises InputError where not exactly one of the two is given.
    """

    bins: int | None = None
    bin_us: float | None = None
    clip: int | None = None

    def __post_init__(self) -> None:
        if (self.bins is None) == (self.bin_us is None):
            raise InputError(
                f"binning: found bins {self.bins} and bin_us {self.bin_us}, expected exactly one of them"
            )
        for name in ("bins", "bin_us", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}: found {value}, expected more than 0")

    def seconds(self, duration_us: float) -> float:
        """Length of a step, for a recording of `duration_us`."""
        return (self.bin_us if self.bin_us is not None else duration_us / self.bins) * 1e-6  # type: ignore[operator]


def rasters(
    dataset: Recordings,
    binning: Binning,
    sensor_size: tuple[int, int, int],
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """All recordings as uint8 counts (n, steps, polarity, y, x), the order of tonic's ToFrame.

    Recordings of unequal length (with bin_us) end in silent steps. progress(done, total) is called now and then.
    """
    if binning.bins is not None:
        transform = tonic.transforms.ToFrame(sensor_size=sensor_size, n_time_bins=binning.bins)
    else:
        transform = tonic.transforms.ToFrame(
            sensor_size=sensor_size, time_window=binning.bin_us, include_incomplete=True
        )
    columns, rows, polarities = sensor_size
    limit = 255 if binning.clip is None else min(255, binning.clip)
    frames = []
    for index in range(len(dataset)):
        events, _ = dataset[index]
        empty = np.zeros((binning.bins or 1, polarities, rows, columns))
        frame = transform(events) if len(events) else empty
        frames.append(np.minimum(frame, limit).astype(np.uint8))
        if progress is not None and index % 16 == 15:
            progress(index + 1, len(dataset))
    out = np.zeros((len(frames), max(len(f) for f in frames), polarities, rows, columns), dtype=np.uint8)
    for index, frame in enumerate(frames):
        out[index, : len(frame)] = frame
    return out
