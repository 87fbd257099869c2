"""What a graph says of itself besides its nodes: the time step, the reset, the input binning, the classes.

This project writes them into the metadata of the graph, which other readers of NIR pass on unread.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.network.integer import RESETS


def decode_metadata(raw: Any) -> dict[str, Any]:
    """Metadata in Python's own types; what this project writes is checked, the rest is passed on.

    Raises HardwareError, naming the entry, where it is not what is expected.
    """
    if not isinstance(raw, dict):
        return {}
    metadata: dict[str, Any] = {}
    for key, value in raw.items():
        value = _plain(value)
        if key in _KNOWN:
            check, expected = _KNOWN[key]
            try:
                value = check(value)
            except (ValueError, TypeError, RecursionError, OverflowError):
                value = None
            if value is None:
                raise HardwareError(f"metadata {key!r} is {str(raw[key])[:60]!r}, expected {expected}")
        metadata[key] = value
    return metadata


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf8", "replace")
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return _plain(value.item())
    return value


def _number_above_zero(value: Any) -> float | None:
    number = float(np.asarray(value).item())
    return number if math.isfinite(number) and number > 0 else None


def _whole_above_zero(value: Any) -> int | None:
    number = _number_above_zero(value)
    return int(number) if number is not None and number == math.floor(number) else None


def _indices(value: Any) -> np.ndarray | None:
    array = np.atleast_1d(np.asarray(value))
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        return None
    array = array.astype(np.int64)
    return array if array[0] >= 0 and (np.diff(array) > 0).all() else None


def _names(value: Any) -> list[str] | None:
    names = json.loads(value) if isinstance(value, str) else value
    names = names.tolist() if isinstance(names, np.ndarray) else names
    return list(names) if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names) else None


def _readout(value: Any) -> str | None:
    return value if isinstance(value, str) and value in ("spikes", "membrane") else None


def _clock(value: Any) -> str | None:
    return value if isinstance(value, str) and value in ("first-event", "recording") else None


def _code(value: Any) -> str | None:
    found = isinstance(value, str) and re.fullmatch(r"(constant|rate|latency)(:\d{1,10})?", value)
    return value if found else None


def _reset(value: Any) -> str | None:
    return value if isinstance(value, str) and value in RESETS else None


def _flag(value: Any) -> bool | None:
    return bool(value) if np.ndim(value) == 0 and value in (0, 1) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# For each entry the check, which returns its value or None, and what is expected.
_KNOWN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "dt": (_number_above_zero, "seconds per step above 0"),
    "bins": (_whole_above_zero, "a whole number above 0"),
    "bin_us": (_number_above_zero, "microseconds above 0"),
    "downsample": (_whole_above_zero, "a whole number above 0"),
    "clip": (_whole_above_zero, "a whole number above 0"),
    "clock": (_clock, "'first-event' or 'recording'"),
    "code": (_code, "'constant', 'rate' or 'latency', with a number behind a colon"),
    "kept_bins": (_indices, "increasing indices of time bins"),
    "class_names": (_names, "a JSON list of strings"),
    "readout": (_readout, "'spikes' or 'membrane'"),
    "reset": (_reset, "'zero' or 'subtract'"),
    "reset_delay": (_flag, "0 or 1: whether a subtraction comes one step late, behind its decay"),
    "writer": (_text, "the name of the program that wrote the file"),
}
