"""Handwritten digits before a simulated event camera: the embedded data set, no download.

scikit-learn's 1,797 digits (8x8, UCI, shipped inside that package) are upsampled to 34x34 and moved along three
saccades, as in N-MNIST (Orchard et al. 2015, doi 10.3389/fnins.2015.00437). All arithmetic is on whole numbers, so
the events are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from dpap_neuro.data import camera
from dpap_neuro.data.splits import every_nth

SENSOR_SIZE = (34, 34, 2)  # x, y, polarity: tonic's order
DURATION_US = 300_000
CLASSES = tuple(str(d) for d in range(10))

_SUB = 16  # sub-pixels per sensor pixel: the unit of the saccades
_SCALE = 3  # sensor pixels per pixel of the original
_STEP_US = 2_500
# Corners of the saccades in sub-pixels (x, y), reached every 100 ms: a triangle, as the pan-tilt unit of N-MNIST moved.
# It stops just short of closing: an exact return would set off every pixel left one threshold away in one instant.
_CORNERS = ((0, 0), (32, 48), (-32, 48), (-3, 5))
_BACKGROUND = 48  # added to intensities (0..16 * 16): a dark pixel is not black


@lru_cache(maxsize=1)
def _images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.int64), digits.target.astype(np.int64)


@lru_cache(maxsize=1)
def _log_table() -> np.ndarray:
    """round(256 ln(intensity)) for every integer intensity; entries near a rounding tie would differ: there are none."""
    return np.array(
        [round(camera.LOG_UNIT * math.log(i + _BACKGROUND)) for i in range(16 * 16 + 1)], dtype=np.int64
    )


def _taps(size: int, padded: int, shifts: np.ndarray) -> np.ndarray:
    """What every sensor pixel of a row (or column) takes of the padded original's, in 1 / (2 * cell), (shifts, size, padded)."""
    cell = _SUB * _SCALE
    # Position of each sensor pixel's centre, in 2 / (sub-pixels) of the padded original.
    centre = (2 * np.arange(size) + 1 - size) * _SUB - 2 * shifts[:, None]
    first, part = np.divmod(centre + padded * cell - cell, 2 * cell)
    pixel = np.arange(padded)
    return np.where(pixel == first[..., None], 2 * cell - part[..., None], 0) + np.where(
        pixel == first[..., None] + 1, part[..., None], 0
    )


@lru_cache(maxsize=1)
def _all_taps(padded: int) -> tuple[np.ndarray, np.ndarray]:
    """Of rows and columns at all positions of a recording; in doubles, which hold these integers and their sums exactly."""
    dx, dy = np.array(list(_positions())).T
    columns, rows = SENSOR_SIZE[:2]
    return _taps(rows, padded, dy).astype(float), _taps(columns, padded, dx).astype(float).transpose(0, 2, 1)


def _frames(image: np.ndarray) -> np.ndarray:
    """The 34x34 intensities (0..256) of an 8x8 image at all positions of a recording, int64 (positions, rows, columns)."""
    padded = np.pad(np.asarray(image, dtype=float), 4)
    rows, columns = _all_taps(len(padded))
    return ((rows @ padded @ columns).astype(np.int64) * 16) // (2 * _SUB * _SCALE) ** 2


def record(image: np.ndarray) -> np.ndarray:
    """Events of one 8x8 image (0..16) during three saccades of 100 ms, see `camera.record`."""
    return camera.record(_log_table()[_frames(image)], _STEP_US)


def _positions() -> Iterator[tuple[int, int]]:
    """Where the image is before the recording and after each step."""
    yield _CORNERS[0]
    steps = DURATION_US // _STEP_US
    per_leg = steps // (len(_CORNERS) - 1)
    for step in range(1, steps + 1):
        leg, part = divmod(min(step, steps - 1), per_leg) if step < steps else (len(_CORNERS) - 2, per_leg)
        (xa, ya), (xb, yb) = _CORNERS[leg], _CORNERS[leg + 1]
        yield xa + ((xb - xa) * part) // per_leg, ya + ((yb - ya) * part) // per_leg


class Digits:
    """The recordings and their labels; `split`: "train" (1,437), "test" (360) or "all". Fixed split, stratified."""

    def __init__(self, split: str = "all") -> None:
        images, labels = _images()
        test = every_nth(labels)
        chosen = np.full(len(labels), True) if split == "all" else test == (split == "test")
        self.images, self.labels = images[chosen], labels[chosen]
        self.sources = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return record(self.images[index]), int(self.labels[index])
