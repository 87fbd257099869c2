"""Rasters kept on disk: one `.npy` file per data set, binning and state of the files that the events come from.

It is read as a memory map, a batch at a time, so that rasters may be larger than memory. tonic's DiskCachedDataset
keeps a compressed HDF5 file per recording under its number alone: it cannot know that the binning or the data have
changed, writes in place, and opens a file per recording and epoch. Here the name holds a digest of all that matters,
so that a stale entry is never found, and a file appears when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.format import write_array_header_1_0

from dpap_neuro.data.binning import Binning, Recordings, SensorSize, frames
from dpap_neuro.data.splits import LabelledRecordings
from dpap_neuro.errors import InputError
from dpap_neuro.files import make_folder, write_stream


def cached_rasters(
    folder: str | Path,
    name: str,
    recordings: LabelledRecordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """What `rasters` returns, from `folder` where it is there already; changes to the array never reach the disk.

    All time bins are kept on disk, so that networks that are shown some of them share an entry.

    name: begins the file's name; it says which of the recordings of a data set these are. A source of another path,
    size or time of change makes another entry, and so does other code in this package. Raises
    InputError where the folder cannot be written.
    """
    path = _entry(make_folder(folder), name, recordings, binning, sensor_size)
    step = binning.shape(sensor_size)
    found = _opened(path, len(recordings), step)
    if found is None:
        write_stream(path, lambda file: _write(file, path.parent, recordings, binning, sensor_size, progress))
        found = _opened(path, len(recordings), step)
        if found is None:
            raise InputError(f"{path}: cannot be read back")
    return found


def kept_rasters(
    folder: str | Path, name: str, recordings: LabelledRecordings, binning: Binning, sensor_size: SensorSize
) -> np.ndarray | None:
    """What `cached_rasters` has kept, None where it has kept nothing."""
    path = _entry(Path(folder), name, recordings, binning, sensor_size)
    return _opened(path, len(recordings), binning.shape(sensor_size))


def _entry(
    folder: Path, name: str, recordings: LabelledRecordings, binning: Binning, sensor_size: SensorSize
) -> Path:
    return folder / f"{name}-{_digest(name, recordings, binning, sensor_size)}.npy"


def _digest(name: str, recordings: LabelledRecordings, binning: Binning, sensor_size: SensorSize) -> str:
    def state(file: Path) -> list:
        status = file.stat()
        return [str(file.resolve()), status.st_size, status.st_mtime_ns]

    key = {
        "name": name,
        "n": len(recordings),
        "binning": replace(binning, kept_bins=None).to_dict(),
        "sensor_size": sensor_size,
        "code": [state(module) for module in sorted(Path(__file__).parent.glob("*.py"))],
        "sources": [state(file) for file in recordings.sources],
    }
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _opened(path: Path, n: int, step: tuple[int, int, int]) -> np.ndarray | None:
    """None where there is no such file, or not a whole one of n recordings."""
    try:
        # Copy on write: torch takes no read-only array.
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(found, np.memmap) and found.dtype == np.uint8 and found.ndim == 5
    return found if whole and len(found) == n and found.shape[2:] == step else None


def _write(
    file: IO[bytes],
    folder: Path,
    recordings: Recordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Recordings are spooled first: with bin_us the longest decides the number of steps."""
    step = binning.shape(sensor_size)
    size = math.prod(step)
    with tempfile.TemporaryFile(dir=folder) as spool:
        lengths = []
        for frame in frames(recordings, binning, sensor_size, progress):
            spool.write(frame.tobytes())
            lengths.append(len(frame))
        spool.seek(0)
        steps = max(lengths)
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(lengths), steps, *step)}
        write_array_header_1_0(file, header)
        for length in lengths:
            file.write(spool.read(length * size))
            file.write(bytes((steps - length) * size))
