"""Figures that turn clockwise or counter-clockwise before a simulated event camera: the label is in the motion alone.

An embedded data set, no download. A light in a corner blinks; a figure (arms or dots around a centre) appears on a
uniform ground, turns by 240 to 480 degrees and disappears; the light blinks again. Groups of four recordings share all
that is random about the figure: both directions, each with a figure brighter and one darker than the ground.

- Summed over time, the two directions of a figure leave the same events, pixel by pixel and polarity by polarity: one
  film is the other played backwards, and both begin and end with the uniform ground. A classifier that sees only the
  sums gives both directions the same answer: it is right on exactly half of the recordings.
- A clockwise bright figure and its counter-clockwise dark twin send the same pictures of events, in reverse order:
  played backwards, an edge that brightened darkens, and so does an edge of the twin. So a classifier that sees the
  steps but not their order is right on exactly half as well.

All arithmetic is on integers, so the events are the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dpap_neuro.data import camera

SENSOR_SIZE = (34, 34, 2)  # x, y, polarity: tonic's order
CLASSES = ("clockwise", "counter-clockwise")
DURATION_US = 300_000
GROUPS = 500  # of four recordings; every fifth is for testing

STEP_US = 5_000
_SUB = 16  # sub-pixels per sensor pixel: the unit of lengths
_TURN = 1440  # steps of angle in a turn; a multiple of every number of arms
_UNIT = 1024  # of the table of cosines


@dataclass(frozen=True)
class Figure:
    """What is random about a recording but its direction. Lengths in 1 / 16 pixels, angles in quarter degrees.

    centre: (x, y). dots: whether there are discs around the centre instead of arms from it. arms: how many, evenly
    spread. length: of an arm, or distance of a disc. width: half of an arm's, or radius of a disc. start: angle of
    the first, from x towards y. turn: how far it goes. contrast: thresholds between figure and ground, negative for
    a dark figure.
    """

    centre: tuple[int, int]
    dots: bool
    arms: int
    length: int
    width: int
    start: int
    turn: int
    contrast: int


def figure(group: int, dark: bool = False) -> Figure:
    """The figure of a group."""
    # The raw stream of a bit generator is the same in every NumPy; that of `Generator` is not promised to be.
    raw = iter(np.random.PCG64(group).random_raw(9).tolist())

    def pick(low: int, high: int) -> int:
        return low + next(raw) % (high - low + 1)

    return Figure(
        centre=(pick(13 * _SUB, 21 * _SUB), pick(13 * _SUB, 21 * _SUB)),
        dots=bool(pick(0, 1)),
        arms=pick(1, 3),
        length=pick(8 * _SUB, 13 * _SUB),
        width=pick(_SUB, 3 * _SUB),
        start=pick(0, _TURN - 1),
        turn=pick(_TURN * 2 // 3, _TURN * 4 // 3),
        contrast=pick(1, 3) * (-1 if dark else 1),
    )


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """round(1024 cos) for every angle; none lies near a rounding tie, where machines might differ."""
    return np.array([round(_UNIT * math.cos(2 * math.pi * k / _TURN)) for k in range(_TURN)], dtype=np.int64)


def film(what: Figure, clockwise: bool = True) -> np.ndarray:
    """Log intensity over the ground (steps + 1, rows, columns), int64: before the recording, then after each step."""
    columns, rows, _ = SENSOR_SIZE
    places = DURATION_US // STEP_US - 5  # the light comes and goes, twice, and the figure goes
    angles = what.start + what.turn * np.arange(places) // (places - 1)
    covered = np.zeros((places, rows, columns), dtype=bool)
    x = (_SUB * np.arange(columns) + _SUB // 2 - what.centre[0])[None, None, :]
    y = (_SUB * np.arange(rows) + _SUB // 2 - what.centre[1])[None, :, None]
    for arm in range(what.arms):
        angle = angles + arm * _TURN // what.arms
        cos = _cosines()[angle % _TURN][:, None, None]
        sin = _cosines()[(angle - _TURN // 4) % _TURN][:, None, None]
        along, across = x * cos + y * sin, y * cos - x * sin
        length, width = what.length * _UNIT, what.width * _UNIT
        if what.dots:
            covered |= (along - length) ** 2 + across**2 <= width**2
        else:
            covered |= (along >= 0) & (along <= length) & (np.abs(across) <= width)
    # y points down: from x towards y is clockwise to the eye.
    turning = covered if clockwise else covered[::-1]
    pictures = np.pad(turning * np.int64(what.contrast), ((3, 3), (0, 0), (0, 0)))
    pictures[[1, -2], :2, :2] = 1  # the light
    return pictures * camera.THRESHOLD


def record(what: Figure, clockwise: bool = True) -> np.ndarray:
    """Events of a turning figure, see `camera.record`."""
    return camera.record(film(what, clockwise), STEP_US)


class Motion:
    """The recordings and their labels; `split`: "train" (1,600), "test" (400) or "all". Groups are never parted."""

    def __init__(self, split: str = "all") -> None:
        groups = np.arange(GROUPS)
        test = groups % 5 == 4
        chosen = groups if split == "all" else groups[test if split == "test" else ~test]
        self.labels = np.tile(np.array([0, 1, 0, 1], dtype=np.int64), len(chosen))
        self.groups = np.repeat(chosen, 4)
        self.sources = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        label = int(self.labels[index])
        what = figure(int(self.groups[index]), dark=index % 4 >= 2)
        return record(what, clockwise=label == 0), label
