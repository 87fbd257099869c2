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
    parts = []
    for step, picture in enumerate(pictures):
        change = picture - reference
        count = np.abs(change) // THRESHOLD
        reference += np.sign(change) * count * THRESHOLD
        y, x = np.nonzero(count)
        if not len(y):
            continue
        n = count[y, x]
        first = np.cumsum(n) - n
        index = np.arange(n.sum()) - np.repeat(first, n)
        # Event k of a pixel comes when a steady change would have crossed k thresholds, as in ESIM.
        events = np.empty(int(n.sum()), dtype=EVENT_DTYPE)
        events["x"], events["y"] = np.repeat(x, n), np.repeat(y, n)
        crossing = (step_us * THRESHOLD * (index + 1)) // np.repeat(np.abs(change[y, x]), n)
        events["t"] = step * step_us + np.minimum(crossing, step_us - 1)
        events["p"] = np.repeat(change[y, x] > 0, n)
        parts.append(events[np.argsort(events["t"], kind="stable")])
    return np.concatenate(parts) if parts else np.empty(0, dtype=EVENT_DTYPE)
