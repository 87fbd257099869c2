"""How the project's inner loops are compiled: once, and kept on disk wherever there is a place for it.

Numba keeps compiled code until the file of the outermost function changes. What is compiled into it may come of other files, so that it is
kept here in a folder named by a digest of all of them: `kernels-...` beside the source, else in the user's cache folder (or in both
cases where NUMBA_CACHE_DIR says); without a place for that, in a temporary folder of this user's. Where Numba may write to none of them
(a container with another user's packages and a home that is read-only), compiled code stays in memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hardware.files.spare import spare_folder

_ROOT = Path(__file__).resolve().parents[1]
# Threads too make kernels, where they meet the first layer that needs one.
_DECORATING = threading.RLock()
# Of this project, at the margin: what a kernel calls by its global names.
_IMPORT = re.compile(
    rb"^(?:from ((?:hardware|dpap_neuro)[\w.]*) import (\([^)]*\)|.*)|import ((?:hardware|dpap_neuro)[\w.]*))",
    re.M,
)


def jit(signature: Any = None, **options: Any) -> Callable[[Callable], Any]:
    """`numba.njit` with its cache; without a place for that in a temporary folder of this user's, else in memory alone.

    Either is said once, on stderr. signature: compiled for at once; None: at the first call, for its types.
    """

    def decorate(function: Callable) -> Any:
        source = Path(function.__code__.co_filename).resolve()
        if not source.is_file():  # of a frozen application or an archive, where nothing changes
            return _as_numba_does(function, signature, options)
        # Numba's folders are named by the path: one for all links to it, `simulate.lava.elsewhere` has a new one for each run.
        function.__code__ = function.__code__.replace(co_filename=str(source))
        from numba import config, njit

        folder = folder_of(source)
        if folder is None:
            return njit(signature, **options)(function)
        # Read as a function is decorated; other packages' are none of our business.
        settings: Any = config
        with _DECORATING:
            before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
            try:
                return njit(signature, cache=True, **options)(function)
            finally:
                settings.CACHE_DIR = before

    return decorate


def _as_numba_does(function: Callable, signature: Any, options: dict[str, Any]) -> Any:
    from numba import njit

    try:
        return njit(signature, cache=True, **options)(function)
    except RuntimeError as error:
        if "locator" not in str(error):
            raise
    return njit(signature, **options)(function)


def folder_of(source: Path) -> Path | None:
    """Where compiled code of a file is kept, there and writable; None where there is no place. Folders of what the file was go."""
    where = hashlib.sha256(bytes(source)).hexdigest()[:8]
    name = f"kernels-{source.stem}-{where}-"
    for place in own_places(source):
        found = _made(place, name, digest(source))
        if found is not None:
            return found
    spare = _said()
    return None if spare is None else _made(spare, name, digest(source))


def own_places(source: Path) -> Iterator[Path]:
    """Where compiled code may be kept, the best first."""
    with _DECORATING:
        # Not imported for that: `hardware.ahead` runs what is kept without it.
        numba: Any = sys.modules.get("numba")
        given = os.environ.get("NUMBA_CACHE_DIR") if numba is None else numba.config.CACHE_DIR
    if given:
        yield Path(given)
    yield source.parent / "__pycache__"
    from platformdirs import user_cache_path  # not before it is needed: most can write beside the source

    yield user_cache_path("dpap-neuro", appauthor=False)


@cache
def _made(place: Path, name: str, stamp: str) -> Path | None:
    folder = place / (name + stamp)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for old in place.glob(f"{name}*"):
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


@cache
def digest(source: Path) -> str:
    """Of a file and of all of this project's that it imports, and these import, at their margin: whatever may be compiled with it."""
    seen: dict[Path, None] = {}
    waiting = [source]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen[file] = None
        waiting += _read(file)[1]
    whole = hashlib.sha256()
    for file in sorted(seen):
        whole.update(_read(file)[0])
    return whole.hexdigest()[:12]


@cache
def _read(file: Path) -> tuple[bytes, tuple[Path, ...]]:
    """(digest of the content, what it imports of this project); of a file that is none, of nothing."""
    try:
        text = file.read_bytes()
    except OSError:
        return b"", ()
    names: list[str] = []
    for parent, members, module in _IMPORT.findall(text):
        name = (parent or module).decode()
        names += [name, *(f"{name}.{member}" for member in re.findall(r"\w+", members.decode()))]
    files = (_ROOT / (name.replace(".", "/") + end) for name in names for end in (".py", "/__init__.py"))
    return hashlib.sha256(text).digest(), tuple(path for path in files if path.is_file())


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
