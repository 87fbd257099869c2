"""Rasters of a file, read when they are asked for: more than memory holds."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data.binning import only_bins

# Bytes that are read before the memory map lets go of its pages; the system may keep them, as long as it has room.
HELD = 1 << 28


class Stored:
    """Counts (n, steps, polarity, y, x), uint8, of a file of the cache, or some of its recordings and time bins.

    Indexing by a number, a slice or an array of numbers gives an array in memory; `chosen` another of these, which has read nothing.
    It can be sent to other processes: what is sent is the file's name.
    """

    def __init__(
        self,
        path: str | Path,
        shape: Sequence[int],
        offset: int,
        rows: np.ndarray | None = None,
        bins: Sequence[int] | None = None,
    ) -> None:
        self.path, self.whole, self.offset = Path(path), tuple(shape), offset
        self.rows = np.arange(shape[0]) if rows is None else rows
        self.bins = None if bins is None else tuple(bins)
        # Raises for a bin that is not there.
        steps = only_bins(np.empty((0, shape[1])), self.bins).shape[1]
        self.shape = (len(self.rows), steps, *self.whole[2:])
        self.dtype = np.dtype(np.uint8)
        self.ndim = len(self.shape)
        self._map: mmap.mmap | None = None
        self._read = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = self.rows[key]
        wanted = np.atleast_1d(rows)
        whole = self._mapped()
        found = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for place, row in enumerate(wanted):
            recording = whole[row]
            found[place] = recording if self.bins is None else recording[list(self.bins)]
            self._let_go(recording.nbytes)
        return found if np.ndim(rows) else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def chosen(self, rows: Any) -> Stored:
        """The recordings of a slice, a mask or numbers, not read yet."""
        return Stored(self.path, self.whole, self.offset, self.rows[rows], self.bins)

    def _mapped(self) -> np.ndarray:
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = int(np.prod(self.whole, dtype=np.int64))
        return np.frombuffer(self._map, np.uint8, count, self.offset).reshape(self.whole)

    def _let_go(self, read: int) -> None:
        self._read += read
        if self._read >= HELD and self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0


Rasters = np.ndarray | Stored


def chosen(rasters: Rasters, rows: Any) -> Rasters:
    """Some recordings, by a slice, a mask or numbers; of a file they are not read yet."""
    return rasters.chosen(rows) if isinstance(rasters, Stored) else rasters[rows]
