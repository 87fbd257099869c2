"""Rasters kept on disk: one `.npy` file per data set, binning and state of the files that the events come from.

It is read as a memory map, a batch at a time, so that rasters may be larger than memory. tonic's DiskCachedDataset
keeps a compressed HDF5 file per recording under its number alone: it cannot know that the binning or the data have
changed, writes in place, and opens a file per recording and epoch. Here the name holds a digest of all that matters,
so that a stale entry is never found, and a file appears when it is whole; a checksum at its end tells a damaged one, which is made
again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.format import write_array_header_1_0

from dpap_neuro.data.binning import Binning, Recordings, SensorSize, frames
from dpap_neuro.data.splits import LabelledRecordings
from dpap_neuro.data.stored import Stored
from dpap_neuro.errors import InputError
from dpap_neuro.files import make_folder, write_stream


def cached_rasters(
    folder: str | Path,
    name: str,
    recordings: LabelledRecordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
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
        write_stream(path, lambda file: _write(file, recordings, binning, sensor_size, progress, workers))
        found = _opened(path, len(recordings), step, just_written=True)
        if found is None:
            raise InputError(f"{path}: cannot be read back")
    return found


def stored_rasters(
    folder: str | Path,
    name: str,
    recordings: LabelledRecordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Stored:
    """What `cached_rasters` returns, of the time bins that `binning` keeps, read from its file when it is asked for."""
    found = cached_rasters(folder, name, recordings, binning, sensor_size, progress, workers)
    assert isinstance(found, np.memmap)
    return Stored(str(found.filename), found.shape, found.offset, bins=binning.kept_bins)


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
    folders: dict[str, str] = {}

    def state(file: Path) -> list:
        # Text and not paths, each folder resolved once: of thousands of files that took as long as binning them.
        text = str(file)
        status = os.stat(text)
        parent, name = os.path.split(text)
        if parent not in folders:
            folders[parent] = os.path.realpath(parent)
        where = os.path.join(folders[parent], name)
        if os.path.islink(where):
            where = os.path.realpath(where)
        return [where, status.st_size, status.st_mtime_ns]

    key = {
        "name": name,
        "n": len(recordings),
        "binning": replace(binning, kept_bins=None).to_dict(),
        "sensor_size": sensor_size,
        "code": [state(module) for module in sorted(Path(__file__).parent.glob("*.py"))],
        "sources": [state(file) for file in recordings.sources],
    }
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _opened(path: Path, n: int, step: tuple[int, int, int], just_written: bool = False) -> np.ndarray | None:
    """None where there is no such file, or not an undamaged one of n recordings. just_written: its checksum need not be read back."""
    try:
        if not path.is_file() or not (just_written or _undamaged(path)):
            return None
        # Copy on write: torch takes no read-only array.
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(found, np.memmap) and found.dtype == np.uint8 and found.ndim == 5
    return found if whole and len(found) == n and found.shape[2:] == step else None


# Behind the array, where NumPy does not look: a mark, and the CRC-32 of those of the header and of each recording, so that
# a recording's own can be made before the number of steps is known.
_END = struct.Struct("<8sI")
_MARK = b"dpapcrc2"
_CHUNK = 1 << 22


def _undamaged(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                return False
            shape = np.lib.format.read_array_header_1_0(file)[0]
        except Exception:  # NumPy's parser has many
            return False
        start, size = file.tell(), math.prod(shape[1:])
        if path.stat().st_size != start + shape[0] * size + _END.size:
            return False
        file.seek(0)
        sums = [zlib.crc32(file.read(start))]
        for _ in range(shape[0]):
            crc, left = 0, size
            while left:
                part = file.read(min(left, _CHUNK))
                if not part:
                    return False
                crc = zlib.crc32(part, crc)
                left -= len(part)
            sums.append(crc)
        return file.read() == _end(sums)


def _end(sums: Sequence[int]) -> bytes:
    return _END.pack(_MARK, zlib.crc32(struct.pack(f"<{len(sums)}I", *sums)))


def _header(n: int, steps: int, step: tuple[int, int, int]) -> bytes:
    memory = io.BytesIO()
    write_array_header_1_0(memory, {"descr": "|u1", "fortran_order": False, "shape": (n, steps, *step)})
    return memory.getvalue()


def _write(
    file: IO[bytes],
    recordings: Recordings,
    binning: Binning,
    sensor_size: SensorSize,
    progress: Callable[[int, int], None] | None,
    workers: int | None,
) -> None:
    """Recordings one behind another; where, with bin_us, they differ in length, they are then moved apart from the last on, in the
    same file, so that writing takes no more of the disk than the file itself."""
    step = binning.shape(sensor_size)
    size, n = math.prod(step), len(recordings)
    lengths: list[int] = []
    sums: list[int] = []
    packed = 0
    for frame in frames(recordings, binning, sensor_size, progress, workers):
        if not lengths:
            packed = file.write(_header(n, len(frame), step))
        file.write(frame.data)
        lengths.append(len(frame))
        sums.append(zlib.crc32(frame.data))
    steps = max(lengths)
    header = _header(n, steps, step)
    if min(lengths) < steps:
        sources = packed + size * np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        for index in range(n - 1, -1, -1):
            file.seek(int(sources[index]))
            frame_bytes = file.read(lengths[index] * size)
            silent = bytes((steps - lengths[index]) * size)
            # Never before its source: what is still to be moved lies in front of both.
            file.seek(len(header) + index * steps * size)
            file.write(frame_bytes)
            file.write(silent)
            sums[index] = zlib.crc32(silent, sums[index])
        file.seek(0)
        file.write(header)
    file.seek(0, os.SEEK_END)
    file.write(_end([zlib.crc32(header), *sums]))
