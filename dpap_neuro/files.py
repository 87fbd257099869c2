"""Files that are there whole or not at all, see `hardware.files.whole`; and folders for results."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

from dpap_neuro.errors import InputError
from hardware.files.whole import check_output, write_bytes, write_hdf5, write_stream

__all__ = [
    "check_folder",
    "check_output",
    "check_picture",
    "make_folder",
    "write_bytes",
    "write_hdf5",
    "write_json",
    "write_picture",
    "write_stream",
    "write_text",
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


def check_folder(path: str | Path) -> None:
    """Raise InputError where `make_folder` and writing into it would fail, before hours of work; nothing is made."""
    path = Path(path)
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, expected {there} to be a folder open for writing")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is missing. Raises InputError where it cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder ({error.strerror or error})") from None
    return path
