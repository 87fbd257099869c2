"""Read HDF5 in a child process, so that a damaged file can neither hang, crash nor swell the one that asked.

The HDF5 library is not made for files from strangers: a flipped byte in a heap or B-tree can send it round in
circles or past the end of a buffer, and no check from outside comes before that. The child does the reading
(`hardware.files.nir_tree`, `hardware.files.hdf5`) under a limit on time and memory, and answers with JSON and raw
numbers: nothing that it says is executed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np

from hardware.errors import HardwareError
from hardware.files.hdf5 import read_groups
from hardware.files.nir_tree import MAX_BYTES, MAX_COMPRESSION, read_tree

_HEADER = struct.Struct("<Q")
_MAX_HEADER = 64 << 20
READERS = {"nir": read_tree, "hdf5": read_groups}
# The interpreter with numpy and h5py, and what HDF5 needs besides the data.
_BASE_MEMORY = 2 << 30


class Reader:
    """A child process that reads files, one after the other; a context manager.

    seconds: the time a file of no size may take; None: 10, and a second for every 5 MB.
    """

    def __init__(self, seconds: float | None = None):
        self.seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the child, which takes its time, before there is something to read; else `read` does."""
        if self._child is None:
            self._child = _start()

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # a dead child cannot take what is left
                        pipe.close()

    def read(self, path: str | os.PathLike[str], kind: str = "nir") -> dict[str, Any]:
        """As `hardware.files.nir_tree.read_tree`, or for "hdf5" `hardware.files.hdf5.read_groups`.

        Raises HardwareError also where the child hangs or crashes.
        """
        path = Path(path)
        try:
            size = path.stat().st_size
        except (OSError, ValueError) as error:
            raise HardwareError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from None
        seconds = self.seconds if self.seconds is not None else 10 + size / 5e6
        self.start()
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        wanted = {"path": os.path.abspath(path), "size": size, "seconds": seconds, "kind": kind}
        request = json.dumps(wanted).encode()
        timer = threading.Timer(seconds, stop)
        try:
            child.stdin.write(_HEADER.pack(len(request)) + request)
            child.stdin.flush()
            # The clock starts once the child runs: what it needs to start says nothing about the file.
            if child.stdout.read(1) != b"!":
                raise EOFError
            timer.start()
            answer = _receive(child.stdout)
        except (OSError, EOFError):
            self.close()
            if late.is_set():
                raise HardwareError(f"{path} is damaged: reading it did not end in {seconds:g} s") from None
            raise HardwareError(f"{path} is damaged: the HDF5 library failed on it") from None
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
        if isinstance(answer, str):
            # The child is told an absolute path; the message names the file as the caller did.
            raise HardwareError(answer.replace(os.path.abspath(path), str(path)))
        return answer


def _start() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from hardware.files.guarded import serve; serve()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # One thread: a BLAS that reserves memory for each would not fit the limit.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )


def _receive(stream: IO[bytes]) -> dict[str, Any] | str:
    (length,) = _HEADER.unpack(_exactly(stream, _HEADER.size))
    if length > _MAX_HEADER:
        raise EOFError
    header = json.loads(_exactly(stream, length))
    if "error" in header:
        return str(header["error"])
    left = MAX_BYTES

    def decode(value: Any) -> Any:
        nonlocal left
        if not isinstance(value, dict):
            return value
        if "group" in value:
            return {key: decode(inner) for key, inner in value["group"].items()}
        dtype, shape = np.dtype(value["dtype"]), tuple(int(n) for n in value["shape"])
        if dtype.hasobject or min(shape, default=0) < 0:
            raise EOFError
        left -= math.prod(shape) * dtype.itemsize
        if left < 0:
            raise EOFError
        array = np.empty(shape, dtype)
        if array.nbytes:
            view = array.reshape(-1).view(np.uint8).data
            at = 0
            while at < len(view):
                got = stream.readinto(view[at:])  # type: ignore[attr-defined]
                if not got:
                    raise EOFError
                at += got
        return array

    return decode(header["tree"])


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise EOFError
    return data


def serve() -> None:
    """The child: read the files named on standard input, answer on standard output, until it is closed."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    while True:
        start = requests.read(_HEADER.size)
        if len(start) < _HEADER.size:
            return
        request = json.loads(requests.read(*_HEADER.unpack(start)))
        _limit(request["size"], request["seconds"])
        answers.write(b"!")
        answers.flush()
        arrays: list[np.ndarray] = []
        try:
            header = {"tree": _encode(READERS[request["kind"]](request["path"]), arrays)}
        except HardwareError as error:
            header, arrays = {"error": str(error)}, []
        text = json.dumps(header).encode()
        answers.write(_HEADER.pack(len(text)) + text)
        # What is sent is freed: the caller holds it now, and a large network is not in memory twice.
        arrays.reverse()
        while arrays:
            answers.write(arrays.pop().reshape(-1).view(np.uint8).data)
        answers.flush()


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {"group": {key: _encode(inner, arrays) for key, inner in value.items()}}
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        if array.size:
            arrays.append(array)
        return {"dtype": array.dtype.str, "shape": list(value.shape)}
    return value


def _limit(size: int, seconds: float) -> None:
    """Limits of the operating system, where it has them (not on Windows), should the caller be gone."""
    try:
        import resource
    except ImportError:
        return
    memory = _BASE_MEMORY + 2 * min(MAX_BYTES, MAX_COMPRESSION * size)
    used = resource.getrusage(resource.RUSAGE_SELF)
    processor = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, processor)):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        try:
            resource.setrlimit(kind, (value, hard))
        except (ValueError, OSError):
            continue
