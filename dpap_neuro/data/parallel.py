"""Work on recordings in several processes, its results in order.

No pool of the standard library: one that loses a process hangs or keeps all results in memory. Here each process makes every so
many-th part and sends it through a pipe of its own, which holds it back until its turn; nothing is shared, and none outlives the first.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

if sys.platform == "linux":
    import fcntl

from dpap_neuro.errors import InputError
from hardware.machine import cores

# Recordings that a process makes before it hands them over.
PART = 8
# Fewer are not worth a process.
_LEAST = 64
_USUALLY, MOST = 8, 1024
# Bytes that a process sends at once, when it has so many, and those that wait in a pipe.
_AT_ONCE, _PIPE = 1 << 18, 1 << 20
# Where arrays begin in what is sent, in bytes: no kind of number needs more.
_ALIGNED = 16

Make = Callable[[int], tuple[np.ndarray, Any]]


def check_workers(workers: int | None) -> None:
    """Raises InputError for a number outside its range."""
    if workers is not None and not 0 <= workers <= MOST:
        raise InputError(f"workers: found {workers}, expected 0 to {MOST:,}")


def workers_for(recordings: Any, wanted: int | None = None) -> int:
    """Processes for these recordings: as many as are wanted, else one per core where they are many and may be read by several at
    once (`one_process` says where not). 0 and 1 are this process alone."""
    if wanted is not None:
        return max(1, wanted)
    if getattr(recordings, "one_process", False) or multiprocessing.current_process().daemon:
        return 1
    return max(1, min(cores(), _USUALLY, len(recordings) // _LEAST))


def in_order(make: Make, n: int, workers: int) -> Iterator[tuple[np.ndarray, Any]]:
    """make(0) to make(n - 1), each an array and something small beside it, made in `workers` processes.

    Processes are forked on Linux; elsewhere they begin anew, and `make` has to be one that can be pickled. An error of `make` is
    raised here in its turn. Raises InputError where a process ends without one.
    """
    workers = min(workers, -(-n // PART))
    if workers < 2:
        yield from map(make, range(n))
        return
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    started: list[tuple[Any, Connection]] = []
    try:
        for number in range(workers):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(make, n, number, workers, there), daemon=True)
            try:
                process.start()
            except (pickle.PicklingError, AttributeError, TypeError):
                if number:
                    raise
                # Of one's own object, which no other process can have.
                yield from map(make, range(n))
                return
            there.close()
            started.append((process, here))
        for part in range(-(-n // PART)):
            process, pipe = started[part % workers]
            left = min(n, (part + 1) * PART) - part * PART
            while left:
                for found in _received(pipe, process):
                    left -= 1
                    yield found
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
        for process, _ in started:
            process.join()


def _received(pipe: Connection, process: Any) -> Iterator[tuple[np.ndarray, Any]]:
    """What one call of `_send` has sent."""
    try:
        error, made = pipe.recv()
        packed = pipe.recv_bytes() if made else b""
    except EOFError:
        process.join()
        raise InputError(
            f"workers: one of the processes that read recordings ended (exit status {process.exitcode}); it may have lacked memory: "
            "fewer --workers need less"
        ) from None
    at = 0
    for shape, dtype, beside in made:
        count = math.prod(shape)
        yield np.frombuffer(packed, dtype, count, at).reshape(shape), beside
        at += -(-count * dtype.itemsize // _ALIGNED) * _ALIGNED
    if error is not None:
        raise error


def _serve(make: Make, n: int, number: int, workers: int, pipe: Connection) -> None:
    """What a process does: its parts, one after another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _widen(pipe)
    try:
        for part in range(number, -(-n // PART), workers):
            made: list[tuple[np.ndarray, Any]] = []
            for index in range(part * PART, min(n, (part + 1) * PART)):
                try:
                    found, beside = make(index)
                except Exception as error:
                    _send(pipe, made, _sendable(error))
                    return
                made.append((np.ascontiguousarray(found), beside))
                if sum(array.nbytes for array, _ in made) >= _AT_ONCE:
                    _send(pipe, made)
                    made = []
            if made:
                _send(pipe, made)
        pipe.close()
    except OSError:  # nobody listens any more
        pass
    finally:
        # Without the end that a fork has in common with its parent: its streams, its threads' locks.
        os._exit(0)


def _send(pipe: Connection, made: list[tuple[np.ndarray, Any]], error: Exception | None = None) -> None:
    """Arrays and what is beside them, in one go: a message for each costs as much as a small recording takes to be made."""
    pipe.send((error, [(array.shape, array.dtype, beside) for array, beside in made]))
    if made:
        padded = (
            (array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % _ALIGNED)) for array, _ in made
        )
        pipe.send_bytes(b"".join(itertools.chain.from_iterable(padded)))


def _widen(pipe: Connection) -> None:
    """A pipe of Linux holds 64 KiB, which is three recordings of N-MNIST: a process would stand still until its turn comes."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # of a system that allows less
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return InputError(f"{type(error).__name__}: {error}")


def _end_with(parent: int) -> None:
    """However the parent ends, pipes that siblings hold open too would keep this process waiting."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
