"""One form for all events, and a check of those that come from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dpap_neuro.errors import InputError

# What tonic's transforms take, sorted by time. t: microseconds. p: 1 brighter, 0 darker.
EVENT_DTYPE = np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "<i1")])


def checked(
    x: np.ndarray,
    y: np.ndarray | int,
    t: np.ndarray,
    p: np.ndarray | int,
    sensor_size: tuple[int, int, int],
    where: Path | str,
) -> np.ndarray:
    """Columns of events as one structured array, sorted by time.

    where: what the events come from. Raises InputError for an event off the sensor, or at no time.
    """
    for name, values, size in (("x", x, sensor_size[0]), ("y", y, sensor_size[1]), ("p", p, sensor_size[2])):
        values = np.asarray(values)
        # Written so that NaN fails.
        if values.size and not (values.min() >= 0 and values.max() < size):
            raise InputError(
                f"{where}: found events with {name} from {values.min()} to {values.max()}, expected 0 to {size - 1}"
            )
    if not np.isfinite(t).all():
        raise InputError(f"{where}: found events at no time (NaN or infinity), expected microseconds")
    events = np.empty(len(x), dtype=EVENT_DTYPE)
    events["x"], events["y"], events["t"], events["p"] = x, y, t, p
    if (np.diff(events["t"]) < 0).any():
        events = events[np.argsort(events["t"], kind="stable")]
    return events
