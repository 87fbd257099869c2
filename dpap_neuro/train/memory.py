"""Memory of a training process on the CPU."""

from __future__ import annotations

import ctypes
from functools import cache

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@cache
def keep_freed() -> bool:
    """Have glibc keep the memory that is freed, for the process: every training step asks for the same tensors of some
    megabytes again, and getting their pages from the system anew takes a quarter of a step. False without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
