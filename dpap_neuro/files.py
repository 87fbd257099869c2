"""Files that are there whole or not at all, see `hardware.files.whole`; and folders for results."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.errors import InputError, InUse
from hardware.files.whole import check_output, write_bytes, write_hdf5, write_stream, write_together

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "check_folder",
    "check_new",
    "check_output",
    "check_picture",
    "locked",
    "make_folder",
    "read_bytes",
    "read_json",
    "read_numpy",
    "read_sealed",
    "sealed",
    "write_bytes",
    "write_hdf5",
    "write_json",
    "write_picture",
    "write_sealed",
    "write_stream",
    "write_text",
    "write_together",
]


def write_text(path: str | Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def check_picture(path: Path) -> None:
    """Raise InputError for a name that `write_picture` does not write, or where there is no matplotlib, before hours of work."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            f"{path}: pictures need matplotlib, which is not installed; to get it: pip install 'dpap-neuro[pictures]'"
        )


def write_picture(figure: Any, path: str | Path) -> None:
    """A matplotlib figure in the format of the file's suffix."""
    memory = io.BytesIO()
    figure.savefig(memory, dpi=120, format=Path(path).suffix.lstrip("."))
    write_bytes(path, memory.getbuffer())


def write_json(path: str | Path, values: Any) -> None:
    """Indented JSON."""
    write_text(path, json.dumps(values, indent=2) + "\n")


# A record of a run of thousands of epochs has a few megabytes.
_MOST_JSON = 256 << 20
_SEAL = "checksum"


def write_sealed(path: str | Path, values: dict[str, Any], indent: int | None = None) -> None:
    """JSON with a checksum of its values, see `read_sealed`."""
    write_bytes(path, sealed(values, indent))


def sealed(values: dict[str, Any], indent: int | None = None) -> bytes:
    """What `write_sealed` writes."""
    plain = json.loads(json.dumps({key: value for key, value in values.items() if key != _SEAL}))
    return (json.dumps({**plain, _SEAL: _checksum(plain)}, indent=indent) + "\n").encode("utf-8")


def read_sealed(path: str | Path, what: str, required: bool = True) -> dict[str, Any]:
    """The values that `write_sealed` wrote. what: as an error calls the file. required: False takes a file
    without a checksum as it is.

    Raises InputError for a file that is not there, that is none of these, or in which a value has changed.
    """
    values = read_json(path, what)
    if not isinstance(values, dict):
        raise InputError(f"{path}: found format {type(values).__name__}, expected {what}")
    seal = values.pop(_SEAL, None)
    if seal is None and not required:
        return values
    if not isinstance(seal, str):
        found = f"found format {values['format']} and" if "format" in values else "found"
        raise InputError(f"{path}: {found} no checksum, expected {what} of this version")
    if seal != _checksum(values):
        raise InputError(
            f"{path}: damaged (its checksum is another), expected the {what.split(' ', 1)[-1]} that was written"
        )
    return values


def _checksum(values: dict[str, Any]) -> str:
    """Of the values, not of the bytes: how they are laid out does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_json(path: str | Path, what: str = "JSON") -> Any:
    """Raises InputError, in one line, for whatever is no JSON file."""
    data = read_bytes(path, _MOST_JSON)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not JSON ({why}), expected {what}") from None


def read_bytes(path: str | Path, most: float) -> bytes:
    """A whole plain file of at most so many bytes; a pipe or a device would never end. Raises InputError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is no plain file, expected one")
        if status.st_size > most:
            raise InputError(f"{path}: has {status.st_size:,} bytes, expected at most {most:,}")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({said})") from None


# What a compressed `.npz` file may hold besides a few times its own size.
_MOST_UNPACKED = 2 << 30


def read_numpy(path: str | Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an `.npy` file, or those of an `.npz` file by name; of plain numbers, never unpickled.

    Sizes are bounded by the file's own before anything is allocated. Raises InputError.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is no plain file, expected an .npz or .npy file of numbers")
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                return _unpacked(path, status.st_size)
            file.seek(0)
            return _array(file, status.st_size, path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # zipfile, zlib and NumPy have many
        said = " ".join(str(error).split())[:120]
        why = "" if "pickle" in said else f" ({said})"  # NumPy's advice for whatever it does not know
        raise InputError(f"{path}: not an .npz or .npy file of numbers{why}") from None


def _unpacked(path: Path, size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > max(_MOST_UNPACKED, 4 * size):
            raise InputError(
                f"{path}: has {size:,} bytes and declares {total:,}, expected at most {_MOST_UNPACKED:,}"
            )
        found = {}
        for member in members:
            with archive.open(member) as file:
                found[member.filename.removesuffix(".npy")] = _array(file, member.file_size, path)
                if file.read(1):  # and so to the end, where its checksum is looked at
                    raise InputError(f"{path}: {member.filename} is longer than its array")
    return found


def _array(file: Any, size: int, path: Path) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise InputError(f"{path}: found version {version} of NumPy's format, expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise InputError(f"{path}: not an .npz or .npy file of numbers")
    wanted = dtype.itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or wanted > size:
        raise InputError(f"{path}: declares shape {shape} of {dtype}, {wanted:,} bytes in a file of {size:,}")
    data = file.read(wanted)
    if len(data) != wanted:
        raise InputError(f"{path}: ends after {len(data):,} of the {wanted:,} bytes that it declares")
    values = np.frombuffer(bytearray(data), dtype=dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def check_folder(path: str | Path) -> None:
    """Raise InputError where `make_folder` and writing into it would fail, before hours of work; nothing is made."""
    path = Path(path)
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, expected {there} to be a folder open for writing")


def check_new(folder: str | Path, name: str, how: str) -> None:
    """Raise InputError where a folder holds results already, which writing would replace. name: of the file that tells; how: what
    else can be done."""
    if os.path.lexists(Path(folder) / name):
        raise InputError(f"{folder}: holds results already ({name}), expected a new folder, or {how}")


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder, made where it is missing, for this process alone; one that was made and stays empty is removed.

    The lock is the kernel's, on the folder itself: it ends with the process, however that ends, so that none is ever stale. Raises
    InUse, naming the process that holds it. Where the system or the file system has no such locks there is none.
    """
    new = not Path(path).exists()
    folder = make_folder(path)
    handle = -1
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
        if fcntl is not None and handle >= 0:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(
                    f"{folder}: in use by {_holder(os.fstat(handle).st_ino)}; wait for its end, or give another folder"
                ) from None
            except OSError:  # a file system without locks
                pass
        yield folder
    finally:
        if handle >= 0:
            os.close(handle)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _holder(inode: int) -> str:
    """Of a lock, as Linux lists them."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return f"process {words[4]}"
    return "another process"


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is missing. Raises InputError where it cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder ({error.strerror or error})") from None
    return path
