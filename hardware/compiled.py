"""How the project's inner loops are compiled: once, and kept on disk wherever there is a place for it.

Numba keeps compiled code beside the source, else in the user's cache folder (or where NUMBA_CACHE_DIR says), and raises an error
where it may write to neither: a container with another user's packages and a home that is read-only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, njit

from hardware.files.spare import spare_folder


def jit(signature: Any = None, **options: Any) -> Callable[[Callable], Any]:
    """`numba.njit` with its cache; without a place for that in a temporary folder of this user's, else in memory alone.

    Either is said once, on stderr. signature: compiled for at once; None: at the first call, for its types.
    """

    def decorate(function: Callable) -> Any:
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "locator" not in str(error):
                raise
        folder = _said()
        if folder is None:
            return njit(signature, **options)(function)
        # Read as a function is decorated; other packages' are none of our business.
        settings: Any = config
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
        try:
            return njit(signature, cache=True, **options)(function)
        finally:
            settings.CACHE_DIR = before

    return decorate


@cache
def _said() -> Path | None:
    """Where compiled code goes instead, said once."""
    folder = spare_folder()
    where = "in memory alone, anew in each process" if folder is None else f"in {folder}"
    print(
        "note: neither the package's folder nor this user's cache folder can be written to: compiled code is kept "
        f"{where}; NUMBA_CACHE_DIR names another folder",
        file=sys.stderr,
    )
    return folder
