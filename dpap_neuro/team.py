"""Work in parts on the threads that PyTorch itself computes with.

PyTorch's OpenMP threads keep a core busy for a while after each operation, waiting for the next: threads of one's own have to share it with
them, and are no faster than a single one. So parts are run by the same threads, through the entry point that GCC compiles parallel
regions to (GOMP_parallel; LLVM's and Intel's runtimes have it too, by the same name). Without it a pool of Python's does the work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share_out(parts: int, work: Callable[[int], Any]) -> None:
    """work(0) to work(parts - 1), in threads; work lets go of the interpreter's lock where it takes long."""
    openmp = _openmp()
    # Of another runtime than PyTorch's, threads would only be some more.
    if openmp is None or openmp.omp_get_max_threads() != torch.get_num_threads():
        list(_pool().map(work, range(parts)))
        return
    done: list[int] = []
    errors: list[BaseException] = []

    @_REGION
    def region(_: Any) -> None:
        try:
            # The team may be smaller than was asked for.
            for part in range(openmp.omp_get_thread_num(), parts, openmp.omp_get_num_threads()):
                work(part)
                done.append(part)
        except BaseException as error:
            errors.append(error)

    openmp.GOMP_parallel(region, None, parts, 0)
    if errors:
        raise errors[0]
    if len(done) < parts:  # interrupted on the way into a part, where an exception has nowhere to go
        raise KeyboardInterrupt


@cache
def _openmp() -> Any:
    """PyTorch's OpenMP runtime, as the process sees it; None without one."""
    try:
        library = ctypes.CDLL(None)
        for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_max_threads"):
            getattr(library, name)
    except (AttributeError, OSError, TypeError):
        return None
    library.GOMP_parallel.argtypes = (_REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    library.GOMP_parallel.restype = None
    return library


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="neurons")
