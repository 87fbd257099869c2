"""A simulated event camera, on integers throughout, so that its events are the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dpap_neuro.data.events import EVENT_DTYPE

LOG_UNIT = 256  # log intensity in units of 1 / 256
THRESHOLD = 70  # contrast threshold: 70 / 256 = 0.27 in natural log


def record(log_intensity: Iterable[np.ndarray], step_us: int) -> np.ndarray:
    """Events of a film: a pixel sends one whenever its log intensity has changed by a threshold since its last event.

    log_intensity: pictures (rows, columns), int64 in units of 1 / 256: the first before the recording, then one at the
    end of each step of `step_us` microseconds. Returns events, see `EVENT_DTYPE`.
    """
    pictures = iter(log_intensity)
    reference = next(pictures).copy()
    level, columns = reference.reshape(-1), reference.shape[1]
    found = []
    for step, picture in enumerate(pictures):
        change = picture.reshape(-1) - level
        (at,) = np.nonzero(np.abs(change) >= THRESHOLD)
        if len(at):
            change = change[at]
            level[at] += np.sign(change) * (np.abs(change) // THRESHOLD) * THRESHOLD
            found.append((np.full(len(at), step), at, change))
    if not found:
        return np.empty(0, dtype=EVENT_DTYPE)
    steps, at, change = (np.concatenate(parts) for parts in zip(*found, strict=True))
    n = np.abs(change) // THRESHOLD
    y, x = np.divmod(at, columns)
    index = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    # Event k of a pixel comes when a steady change would have crossed k thresholds, as in ESIM.
    events = np.empty(int(n.sum()), dtype=EVENT_DTYPE)
    events["x"], events["y"] = np.repeat(x, n), np.repeat(y, n)
    crossing = (step_us * THRESHOLD * (index + 1)) // np.repeat(np.abs(change), n)
    events["t"] = np.repeat(steps, n) * step_us + np.minimum(crossing, step_us - 1)
    events["p"] = np.repeat(change > 0, n)
    return events[np.argsort(events["t"], kind="stable")]
