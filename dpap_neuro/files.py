"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpap_neuro.errors import InputError


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """`write` to a temporary file beside `path`, of the same suffix, renamed when it is whole.

    Raises InputError where the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: Any) -> None:
    """Indented JSON."""
    text = json.dumps(values, indent=2) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_folder(path: str | Path) -> None:
    """Raise InputError where `make_folder` and writing into it would fail, before hours of work; nothing is made."""
    path = Path(path)
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, expected {there} to be a folder open for writing")


def make_folder(path: str | Path) -> Path:
    """The folder, made where it is missing. Raises InputError where it cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder ({error.strerror or error})") from None
    return path
