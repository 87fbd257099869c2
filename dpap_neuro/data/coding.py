"""Still images as spikes: how an intensity of 0 to 255 is shown over time steps. All on whole numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpap_neuro.errors import InputError

CODES = ("constant", "rate", "latency")
BRIGHTEST = 255
_MOST_SEED = (1 << 31) - 1


@dataclass(frozen=True)
class Code:
    """name: of `CODES`. number: of "constant" the count that stands for the brightest pixel; of "rate" the seed."""

    name: str
    number: int

    @property
    def most(self) -> int:
        """The highest count of a step."""
        return self.number if self.name == "constant" else 1


def parse_code(text: str) -> Code:
    """ "constant", "constant:LEVELS", "rate", "rate:SEED" or "latency". Raises InputError."""
    found = re.fullmatch(r"(constant|rate|latency)(?::(\d{1,10}))?", text)
    if found is not None:
        name, number = found[1], found[2]
        if name == "constant" and 1 <= int(number or BRIGHTEST) <= BRIGHTEST:
            return Code(name, int(number or BRIGHTEST))
        if name == "rate" and int(number or 0) <= _MOST_SEED:
            return Code(name, int(number or 0))
        if name == "latency" and number is None:
            return Code(name, 0)
    raise InputError(
        f"code: found {text[:40]!r}, expected constant (constant:LEVELS, 1 to {BRIGHTEST}), rate (rate:SEED, 0 to {_MOST_SEED:,}) or latency"
    )


def coded(image: np.ndarray, steps: int, code: Code, key: Sequence[int] = ()) -> np.ndarray:
    """Counts (steps, *image.shape), uint8, of an image of intensities v from 0 to 255, uint8.

    constant: round(v levels / 255) in every step. rate: in each step a spike with probability v / 255, drawn with the seed and
    `key`, which says which image it is: the same image has the same spikes in every epoch. latency: one spike, in step
    floor((255 - v) steps / 255): the brighter the earlier; none of a black pixel.
    """
    shape = (steps, *image.shape)
    if code.name == "constant":
        wide = image.astype(np.int64)
        return np.broadcast_to(
            ((2 * wide * code.number + BRIGHTEST) // (2 * BRIGHTEST)).astype(np.uint8), shape
        )
    if code.name == "rate":
        drawn = np.random.default_rng([code.number, *key]).integers(0, BRIGHTEST, shape, np.uint8)
        return (drawn < image).astype(np.uint8)
    first = (BRIGHTEST - image.astype(np.int64)) * steps // BRIGHTEST
    # Of a black pixel that is `steps`, which never comes.
    return (np.arange(steps).reshape(-1, *[1] * image.ndim) == first).astype(np.uint8)


def averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Of an image (channels, rows, columns), uint8, blocks of factor x factor pixels as one, their rounded mean; at the right and lower
    edge of what is there."""
    if factor == 1:
        return image
    starts = [np.arange(0, size, factor) for size in image.shape[1:]]
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.int64), starts[0], 1), starts[1], 2)
    heights, widths = (np.diff(np.append(s, size)) for s, size in zip(starts, image.shape[1:], strict=True))
    count = np.outer(heights, widths)
    return ((2 * sums + count) // (2 * count)).astype(np.uint8)
