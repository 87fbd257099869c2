"""What the kernels of neurons on a CPU share: how they are compiled, and their work in parts, a thread each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from numba import njit

# Neurons that the nearest cache holds, through all steps.
BLOCK = 1024
# Neurons that are worth a thread of their own.
_EACH = 16_384


def compiled(signature: Any = None) -> Callable[[Callable], Callable]:
    """Compiled once and kept on disk; in every process where there is nowhere to keep it. Without a signature at the first
    call, for its types."""

    def decorate(function: Callable) -> Callable:
        options: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "locator" not in str(error):
                raise
            return njit(signature, **options)(function)

    return decorate


def in_parts(neurons: int, work: Callable[[int, int], Any]) -> None:
    """work(first, last): neurons are independent, so that as many threads as PyTorch uses take parts of them."""
    threads = min(torch.get_num_threads(), -(-neurons // _EACH))
    if threads <= 1:
        work(0, neurons)
        return
    each = -(-neurons // threads // BLOCK) * BLOCK
    firsts = range(0, neurons, each)
    list(_pool().map(work, firsts, (min(at + each, neurons) for at in firsts)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="neurons")
