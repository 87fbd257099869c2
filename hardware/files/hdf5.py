"""Read any small-structured HDF5 file (NETX, our own networks) into plain dictionaries without trusting it.

The same care as for `.nir` files, see `hardware.files.nir_tree`: no link out of the file, no group twice, and every
size held against the size of the file before anything is allocated.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import h5py

from hardware.errors import HardwareError
from hardware.files.nir_tree import (
    MAX_DEPTH,
    MAX_NODES,
    Budget,
    check_start,
    damaged,
    enter,
    keys,
    read_dataset,
)

# An attribute lies in the object's header, which HDF5 limits to 64 KB; no reader here needs more.
MAX_ATTRIBUTE = 1 << 16


def read_groups(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The file's groups as nested dictionaries; data sets as numpy arrays, `str`, or lists of strings.

    Attributes are the keys that begin with "@" (one string or one number each; others are passed over).
    The HDF5 library itself may hang or crash on a damaged file: `hardware.files.guarded` keeps that in a child.

    Raises HardwareError for what is not an HDF5 file, is damaged, or asks for more memory than it holds.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise HardwareError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise HardwareError(f"{path} is not a file")
    try:
        check_start(path, "an HDF5 file")
        with h5py.File(path, "r") as file:
            return _read_group(file, "", Budget(status.st_size), 0, set())
    except HardwareError as error:
        raise error if str(path) in str(error) else HardwareError(f"{path}: {error}") from None
    except Exception as error:  # h5py raises nearly every built-in exception for a damaged file
        raise damaged(path, error) from None


def _read_group(group: h5py.Group, where: str, budget: Budget, depth: int, seen: set[int]) -> dict[str, Any]:
    name = where or "the file"
    if depth > MAX_DEPTH:
        raise HardwareError(f"{name}: nested more than {MAX_DEPTH} deep")
    enter(group, name, depth, seen)
    budget.nodes_left -= 1
    if budget.nodes_left < 0:
        raise HardwareError(f"more than {MAX_NODES} groups")
    values: dict[str, Any] = _attributes(group)
    for key in keys(group, MAX_NODES, name, "members"):
        inner = f"{where}/{key}" if where else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise HardwareError(f"{inner}: a link to elsewhere, such files have none")
        item = group[key]
        if isinstance(item, h5py.Dataset):
            values[key] = read_dataset(item, inner, budget)
        elif isinstance(item, h5py.Group):
            values[key] = _read_group(item, inner, budget, depth + 1, seen)
        else:
            raise HardwareError(f"{inner}: neither a group nor a data set")
    return values


def _attributes(group: h5py.Group) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for i in range(min(h5py.h5a.get_num_attrs(group.id), 64)):
        attribute = h5py.h5a.open(group.id, index=i)
        kind = attribute.get_type().get_class()
        scalar = attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
        if not scalar or kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING):
            continue
        if attribute.get_storage_size() > MAX_ATTRIBUTE:
            continue
        name = attribute.name.decode("utf8", "replace")
        value = group.attrs[name]
        if isinstance(value, bytes):
            value = value.decode("utf8", "replace")
        values[f"@{name}"] = value if isinstance(value, str) else value.item()
    return values
