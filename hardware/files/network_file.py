"""An integer network in one HDF5 file: what `hardware.simulate.lava` hands to another interpreter. No pickle.

The data set ``network`` is JSON, one object per dataclass of `hardware.network.integer` with its ``kind`` and its
fields; an array is {"array": k} and lies, compressed, in the data set ``arrays/k``. All the dataclasses can
say is kept: sparse, recurrent, skip, per-neuron parameters (NETX, `hardware.files.netx`, cannot say all of it).
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import h5py
import numpy as np

from hardware.errors import HardwareError
from hardware.files.guarded import Reader
from hardware.files.metadata import decode_metadata
from hardware.files.whole import write_hdf5
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)

FORMAT = "integer-network/1"
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (InputPopulation, Population, DenseProjection, SparseProjection, ConvProjection, Network)
}
_MAX_DEPTH = 16


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write `network` to `path`. Raises HardwareError where a value has no place in the file."""
    arrays: list[np.ndarray] = []
    text = json.dumps({"format": FORMAT, "network": _encode(network, arrays, "network")})

    def write(file: h5py.File) -> None:
        file.create_dataset("network", data=text, dtype=h5py.string_dtype())
        group = file.create_group("arrays")
        for k, array in enumerate(arrays):
            packed = (
                {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.size > 64 else {}
            )
            group.create_dataset(str(k), data=array, **packed)

    write_hdf5(path, write)


def load(path: str | os.PathLike[str], reader: Reader | None = None) -> Network:
    """Read what `save` wrote; the dataclasses validate it again.

    reader: for many files, one child process for all. Raises HardwareError for any other or damaged file.
    """
    if reader is None:
        with Reader() as one:
            tree = one.read(path, "hdf5")
    else:
        tree = reader.read(path, "hdf5")
    text, arrays = tree.get("network"), tree.get("arrays")
    try:
        if not isinstance(text, str) or not isinstance(arrays, dict):
            raise HardwareError("not an integer network: no data set 'network' and group 'arrays'")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise HardwareError("the data set 'network' is not JSON") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise HardwareError(f"format is not '{FORMAT}'")
        network = _decode(document.get("network"), arrays, 0)
        if not isinstance(network, Network):
            raise HardwareError("the data set 'network' holds no network")
        return dataclasses.replace(network, metadata=decode_metadata(network.metadata))
    except HardwareError as error:
        raise HardwareError(f"{path}: {error}") from None


def _encode(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise HardwareError(f"{where}: an array of {value.dtype}, expected numbers")
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and type(value).__name__ in _KINDS:
        # What is None is left out: an older version then reads what it knows.
        fields = {
            f.name: getattr(value, f.name)
            for f in dataclasses.fields(value)
            if getattr(value, f.name) is not None or f.default is not None
        }
        inner = {k: _encode(v, arrays, f"{where}.{k}") for k, v in fields.items()}
        return {"kind": type(value).__name__, "fields": inner}
    if isinstance(value, dict):
        return {"dict": [[str(k), _encode(v, arrays, f"{where}.{k}")] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, arrays, where) for v in value]}
    if isinstance(value, list):
        return [_encode(v, arrays, where) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise HardwareError(f"{where}: a {type(value).__name__} has no place in the file")


def _decode(value: Any, arrays: dict[str, Any], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise HardwareError("nested too deep")
    if isinstance(value, list):
        return [_decode(v, arrays, depth + 1) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"array"}:
        key = str(value["array"])
        array = arrays.get(key)
        if not isinstance(array, np.ndarray):
            raise HardwareError(f"array {' '.join(key.split())[:20]} is missing")
        return array
    if set(value) == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(_decode(v, arrays, depth + 1) for v in value["tuple"])
    if set(value) == {"dict"} and isinstance(value["dict"], list):
        pairs = value["dict"]
        if not all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
            raise HardwareError("a dictionary is not a list of pairs")
        return {k: _decode(v, arrays, depth + 1) for k, v in pairs}
    if set(value) == {"kind", "fields"} and isinstance(value["fields"], dict):
        kind = _KINDS.get(str(value["kind"]))
        if kind is None:
            raise HardwareError(f"unknown kind {str(value['kind'])[:40]!r}")
        known = {f.name for f in dataclasses.fields(kind)}
        if not set(value["fields"]) <= known:
            odd = sorted(set(value["fields"]) - known)[0]
            raise HardwareError(f"{kind.__name__} has no field {odd[:40]!r}")
        fields = {k: _decode(v, arrays, depth + 1) for k, v in value["fields"].items()}
        try:
            return kind(**fields)
        except HardwareError:
            raise
        except Exception as error:  # what validation meets in a field of an unexpected type
            raise HardwareError(f"{kind.__name__}: {' '.join(str(error).split())[:200]}") from None
    raise HardwareError("unexpected object in the data set 'network'")
