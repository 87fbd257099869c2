"""Where to keep what can be made again, when neither the package's folder nor the user's own can be written to."""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path


@cache
def spare_folder() -> Path | None:
    """A temporary folder of this user's, the same in every process; None where there is none.

    Nobody else can write to it, since compiled code that is read from it is executed.
    """
    if not hasattr(os, "getuid"):  # Windows' temporary folder is the user's own, and so is its cache
        return None
    folder = Path(tempfile.gettempdir(), f"dpap-neuro-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None
