"""Files that are there whole or not at all, whatever the disk says.

What is written is made in memory first, or, where it may be larger than that, in a temporary file beside its place, and renamed
when it is whole. HDF5 is made in memory too: its library, met by a full disk, leaves a file that it cannot close.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py

from hardware.errors import HardwareError


def check_output(path: str | os.PathLike[str]) -> Path:
    """Raises HardwareError, naming it, where `path` is there and is no plain file, so that renaming would replace something else:
    a folder, a device, a pipe, a link to elsewhere; or where its folder is none."""
    path = Path(path)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError) as error:
        raise HardwareError(f"{path}: cannot be written ({_reason(error)})") from None
    if mode is not None and not stat.S_ISREG(mode):
        kinds = (
            (stat.S_ISDIR, "a folder"),
            (stat.S_ISLNK, "a link"),
            (stat.S_ISFIFO, "a pipe"),
            (stat.S_ISSOCK, "a socket"),
            (lambda m: stat.S_ISCHR(m) or stat.S_ISBLK(m), "a device"),
        )
        kind = next((name for is_one, name in kinds if is_one(mode)), "no plain file")
        raise HardwareError(f"{path}: found {kind}, expected a new file or a plain one to replace")
    if not path.parent.is_dir():
        raise HardwareError(f"{path}: cannot be written, {path.parent} is no folder")
    return path


def write_stream(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, open for reading too, renamed when it is whole and on the disk; nothing is left over otherwise.

    The file gets the mode of any new file (the umask's). Raises HardwareError where it cannot be written; errors of `write` that
    are not the disk's pass through.
    """
    path = check_output(path)
    part = None
    try:
        part = _part(path, write)
        os.replace(part, path)
        part = None
    except OSError as error:
        raise HardwareError(f"{path}: cannot be written ({_reason(error)})") from None
    finally:
        _remove(part)


def write_together(files: Mapping[Path, bytes]) -> None:
    """Files that belong together, see `write_stream`: the first is renamed when all of them are on the disk."""
    parts: dict[Path, str] = {}
    try:
        for path, data in files.items():
            try:
                parts[path] = _part(check_output(path), partial(_put, data))
            except OSError as error:
                raise HardwareError(f"{path}: cannot be written ({_reason(error)})") from None
        for path in files:
            try:
                os.replace(parts[path], path)
            except OSError as error:
                raise HardwareError(f"{path}: cannot be written ({_reason(error)})") from None
            del parts[path]
    finally:
        for part in parts.values():
            _remove(part)


def _part(path: Path, write: Callable[[IO[bytes]], object]) -> str:
    """A temporary file beside `path`, on the disk and with its mode. Raises OSError, having removed it."""
    handle, part = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, _new_mode(path.parent))
    except BaseException:
        _remove(part)
        raise
    return part


def _put(data: bytes, file: IO[bytes]) -> None:
    file.write(data)


def _remove(part: str | None) -> None:
    if part is not None:
        with contextlib.suppress(OSError):
            os.unlink(part)


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """`data` as a file, see `write_stream`."""
    write_stream(path, lambda file: file.write(data))


def write_hdf5(path: str | os.PathLike[str], write: Callable[[h5py.File], object]) -> None:
    """Let `write` fill a new HDF5 file in memory, then write it, see `write_stream`."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        write(file)
    write_bytes(path, memory.getbuffer())


def _new_mode(folder: Path) -> int:
    """Of a new file: asked for without changing the process's umask, which threads share."""
    handle, name = -1, folder / f".{os.getpid()}.{os.urandom(6).hex()}.mode"
    try:
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        if handle >= 0:
            os.close(handle)
            os.unlink(name)


def _reason(error: Exception) -> str:
    said: Any = getattr(error, "strerror", None) or error
    return " ".join(str(said).split())[:120]
