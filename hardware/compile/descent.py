"""Coordinate descent on a grid: integers whose errors make up for one another."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba import float64, int64, void

from hardware.simulate import kernels

Array = np.ndarray
SWEEPS = 8


def descend(start: Array, exact: Array, h: Array, points: Array) -> Array:
    """Values near `start` with a smaller (q - exact)^T H (q - exact), row by row; zeros of `exact` stay.

    start, exact: (rows, d). h: (d, d), symmetric. points: what a value may be, rising. One value after the other takes the
    point that is best with all others as they are, up to `SWEEPS` times.
    """
    q, target = (np.array(x, np.float64, order="C") for x in (start, exact))
    _kernel()(
        q, target, np.ascontiguousarray(h, np.float64), np.ascontiguousarray(points, np.float64), SWEEPS
    )
    return q


def nearest(x: Array, points: Array) -> Array:
    """The nearest of the points, which rise; of two the lower."""
    above = (
        np.clip(np.searchsorted(points, x), 1, len(points) - 1) if len(points) > 1 else np.zeros_like(x, int)
    )
    low, high = points[above - 1], points[above]
    return np.where(high - x < x - low, high, low)


@functools.cache
def _kernel() -> Callable[..., None]:
    signature = void(float64[:, ::1], float64[:, ::1], float64[:, ::1], float64[::1], int64)
    return kernels.cached(signature, _descend)


def _descend(q, exact, h, points, sweeps):  # type: ignore[no-untyped-def]
    rows, d = q.shape
    last = len(points) - 1
    gradient = np.empty(d)
    for r in range(rows):
        for j in range(d):
            gradient[j] = 0.0
        for i in range(d):
            error = q[r, i] - exact[r, i]
            if error != 0.0:
                for j in range(d):
                    gradient[j] += error * h[i, j]
        for _ in range(sweeps):
            moved = False
            for i in range(d):
                if exact[r, i] == 0.0 or h[i, i] <= 0.0:
                    continue
                best = q[r, i] - gradient[i] / h[i, i]
                low, high = 0, last
                while high - low > 1:
                    middle = (low + high) // 2
                    if points[middle] <= best:
                        low = middle
                    else:
                        high = middle
                value = points[high] if points[high] - best < best - points[low] else points[low]
                step = value - q[r, i]
                if step != 0.0:
                    for j in range(d):
                        gradient[j] += step * h[i, j]
                    q[r, i] = value
                    moved = True
            if not moved:
                break
