"""Read a `.nir` file (HDF5) into plain dictionaries without trusting it.

A `.nir` file is an HDF5 file with a group ``node``; a group holds the fields of one NIR node as data sets,
its ``type`` among them, a graph also the groups ``nodes`` and ``metadata`` and the data set ``edges`` (pairs
of names). HDF5 can do much more than that, and most of the rest is a way to make a reader follow links out of
the file, run in circles, or allocate what the file does not hold. So only what NIR needs is read, and every
size is held against the size of the file before anything is allocated.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hardware.errors import HardwareError

# Far above any network that fits a chip (120 million synapses of 8 bytes are 1 GB), far below what hurts.
MAX_BYTES = 4 << 30
MAX_NODES = 1024
MAX_EDGES = 8192
MAX_FIELDS = 256
MAX_DEPTH = 8
MAX_TEXT = 1 << 20
# Deflate cannot shrink by more than 1032 to 1; the rest is chunk padding.
MAX_COMPRESSION = 1100
SMALL = 1 << 16
_LFS = b"version https://git-lfs.github.com/spec/"

_COMPRESSORS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_LZF}
_OTHER_FILTERS = {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@dataclass
class Budget:
    """What one file may still use."""

    file_bytes: int
    bytes_left: int = MAX_BYTES
    nodes_left: int = MAX_NODES


def read_tree(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The group ``node`` of a `.nir` file as nested dictionaries.

    Data sets become numpy arrays (numbers), `str` (one string) or lists (strings), groups dictionaries.
    The HDF5 library itself may hang or crash on a damaged file: `hardware.files.guarded` keeps that in a child.

    Raises HardwareError for what is not a `.nir` file, is damaged, or asks for more memory than it holds.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise HardwareError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise HardwareError(f"{path} is not a file")
    try:
        check_start(path, "a .nir file")
        with h5py.File(path, "r") as file:
            root = _member(file, "node", "the file")
            if not isinstance(root, h5py.Group):
                raise HardwareError(f"{path} is not a .nir file: it has no group 'node'")
            return _read_node(root, "the graph", Budget(status.st_size), 0, set())
    except HardwareError as error:
        raise error if str(path) in str(error) else HardwareError(f"{path}: {error}") from None
    except Exception as error:  # h5py raises nearly every built-in exception for a damaged file
        raise damaged(path, error) from None


def check_start(path: Path, what: str) -> None:
    """Raise HardwareError for a file that does not begin as an HDF5 file does, and say what it is where that shows."""
    if h5py.is_hdf5(path):
        return
    with open(path, "rb") as file:
        start = file.read(256)
    if start.startswith(_LFS):
        size = re.search(rb"size (\d{1,15})", start)
        stored = f" of {int(size[1]):,} bytes" if size else ""
        raise HardwareError(
            f"{path} is a Git LFS pointer to a file{stored}, not the file itself: fetch it with git lfs pull"
        )
    if not start:
        raise HardwareError(f"{path} is empty: its writer stopped early")
    raise HardwareError(f"{path} is not {what}: it does not begin as an HDF5 file does")


def damaged(path: Path, error: Exception) -> HardwareError:
    """What h5py's error means for a reader. Its own words for a file that was cut, or never closed, say neither."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if any(word in reason for word in ("truncated file", "already open for write", "file consistency flags")):
        return HardwareError(f"{path} is incomplete: its writer stopped early, or it was copied in part")
    return HardwareError(f"{path} is damaged: {reason}")


def _member(group: h5py.Group, key: str, where: str) -> Any:
    """The object behind a hard link; None where there is none. Links that lead elsewhere are refused."""
    link = group.get(key, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise HardwareError(f"{where}: '{key}' is a {type(link).__name__}, a .nir file has none")
    return group[key]


def enter(group: h5py.Group, where: str, depth: int, seen: set[int]) -> None:
    if depth > MAX_DEPTH:
        raise HardwareError(f"{where}: nested more than {MAX_DEPTH} deep")
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise HardwareError(f"{where}: the same HDF5 group occurs twice")
    seen.add(address)


def keys(group: h5py.Group, limit: int, where: str, what: str) -> list[str]:
    keys = list(islice(iter(group), limit + 1))
    if len(keys) > limit:
        raise HardwareError(f"{where}: more than {limit} {what}")
    return keys


def _read_node(group: h5py.Group, where: str, budget: Budget, depth: int, seen: set[int]) -> dict[str, Any]:
    enter(group, where, depth, seen)
    budget.nodes_left -= 1
    if budget.nodes_left < 0:
        raise HardwareError(f"more than {MAX_NODES} nodes")
    fields: dict[str, Any] = {}
    for key in keys(group, MAX_FIELDS, where, "fields"):
        item = _member(group, key, where)
        if isinstance(item, h5py.Dataset):
            fields[key] = read_dataset(item, f"{where}, '{key}'", budget)
        elif isinstance(item, h5py.Group) and key == "metadata":
            fields[key] = _read_metadata(item, f"{where}, metadata", budget, depth + 1, seen)
        elif isinstance(item, h5py.Group) and key == "nodes":
            enter(item, where, depth + 1, seen)
            fields[key] = {}
            for name in keys(item, MAX_NODES, where, "nodes"):
                node = _member(item, name, where)
                if not isinstance(node, h5py.Group):
                    raise HardwareError(f"node '{name}' is not a group")
                fields[key][name] = _read_node(node, f"node '{name}'", budget, depth + 2, seen)
        else:
            raise HardwareError(f"{where}: unexpected '{key}'")
    # Writers begin with the nodes, each with its type last or first: what is not there was never written.
    missing = [key for key in ("type", "edges", "nodes") if key not in fields]
    if "type" in missing or (fields["type"] == "NIRGraph" and missing):
        raise HardwareError(
            f"{where} has no {missing[0]!r}: the file is incomplete, its writer stopped early"
        )
    return fields


def _read_metadata(
    group: h5py.Group, where: str, budget: Budget, depth: int, seen: set[int]
) -> dict[str, Any]:
    enter(group, where, depth, seen)
    values: dict[str, Any] = {}
    for key in keys(group, MAX_FIELDS, where, "entries"):
        item = _member(group, key, where)
        if isinstance(item, h5py.Dataset):
            values[key] = read_dataset(item, f"{where}, '{key}'", budget)
        elif isinstance(item, h5py.Group):
            values[key] = _read_metadata(item, f"{where}.{key}", budget, depth + 1, seen)
        else:
            raise HardwareError(f"{where}: unexpected '{key}'")
    return values


def read_dataset(dataset: h5py.Dataset, where: str, budget: Budget) -> Any:
    kind = dataset.id.get_type().get_class()
    text = kind == h5py.h5t.STRING
    if not text and kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM):
        raise HardwareError(f"{where}: neither numbers nor strings")
    if dataset.shape is None:
        raise HardwareError(f"{where}: empty")
    _check_storage(dataset, where, budget)
    if text:
        return _read_text(dataset, where)
    if dataset.dtype.kind not in "biuf":
        raise HardwareError(f"{where}: data type {dataset.dtype}, expected numbers")
    return np.asarray(dataset[()])


def _check_storage(dataset: h5py.Dataset, where: str, budget: Budget) -> None:
    """Refuse a data set whose declared size is out of proportion to what the file stores for it."""
    declared = dataset.id.get_type().get_size()
    for length in dataset.shape:
        declared *= int(length)  # Python integers: no overflow
    if declared == 0:
        return
    if declared > budget.bytes_left:
        raise HardwareError(
            f"{where}: declares {declared:,} bytes (shape {tuple(dataset.shape)}), "
            f"a file may declare {MAX_BYTES:,} in all"
        )
    budget.bytes_left -= declared
    plist = dataset.id.get_create_plist()
    if dataset.is_virtual or dataset.external:
        raise HardwareError(f"{where}: data kept in another file")
    stored = dataset.id.get_storage_size()
    if stored > budget.file_bytes:
        raise HardwareError(f"{where}: claims {stored:,} stored bytes, the file has {budget.file_bytes:,}")
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    compressors = [f for f in filters if f in _COMPRESSORS]
    if len(compressors) > 1 or any(f not in _COMPRESSORS | _OTHER_FILTERS for f in filters):
        raise HardwareError(f"{where}: filters {filters}, expected at most one of gzip, szip and lzf")
    allowed = stored * MAX_COMPRESSION if compressors else stored
    if dataset.chunks is not None and compressors:
        # A chunk is unpacked whole, even where the data set fills only a corner of it.
        chunk = dataset.id.get_type().get_size()
        for length in dataset.chunks:
            chunk *= int(length)
        if chunk > max(allowed, SMALL):
            raise HardwareError(f"{where}: chunks of {chunk:,} bytes, {stored:,} are stored")
    if declared > allowed:
        raise HardwareError(
            f"{where}: declares {declared:,} bytes (shape {tuple(dataset.shape)}), {stored:,} are stored"
        )


def _read_text(dataset: h5py.Dataset, where: str) -> Any:
    if dataset.size > 2 * MAX_EDGES:
        raise HardwareError(f"{where}: {dataset.size:,} strings, expected at most {2 * MAX_EDGES:,}")
    values = dataset.asstr("utf8")[()]
    texts = [values] if isinstance(values, str) else values.ravel().tolist()
    if sum(len(t) for t in texts) > MAX_TEXT:
        raise HardwareError(f"{where}: more than {MAX_TEXT:,} characters")
    return values if isinstance(values, str) else values.tolist()
