"""Damaged and rewritten NETX files and integer networks: a network that runs, or one clear line."""

from __future__ import annotations

import json
import random

import h5py
import numpy as np
import pytest
from test_graph_fuzz import damage
from test_netx import chain

from hardware.errors import HardwareError
from hardware.files.guarded import Reader
from hardware.files.network_file import load, save
from hardware.files.netx_reading import read_net
from hardware.files.netx_writing import write_net
from hardware.simulate.simulator import simulate

FILES = 120
KINDS = {"net": (read_net, write_net, "metadata"), "h5": (load, save, "network")}


@pytest.fixture(scope="module")
def reader():
    with Reader(seconds=1.0) as shared:
        yield shared


@pytest.fixture(params=list(KINDS))
def case(request, tmp_path, reader):
    """A file's bytes, a path for damaged ones, what reads it, and the data set that is JSON."""
    read, write, text = KINDS[request.param]
    path = tmp_path / f"x.{request.param}"
    write(chain(), path)
    return path.read_bytes(), path, lambda: read(path, reader=reader), text


def outcome(read) -> str:
    try:
        network = read()
    except HardwareError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 1000
        return "refused"
    if sum(int(np.prod(p.shape)) for p in (*network.inputs, *network.populations)) < 10_000:
        raster = {entry.name: np.ones((1, 3, *entry.shape), int) for entry in network.inputs}
        run = simulate(network, raster, "chip", [p.name for p in network.populations])
        assert all(np.abs(v).max() < 2**23 for v in run.v.values())
    assert network.dt is None or network.dt > 0
    assert isinstance(network.metadata.get("bins", 1), int)
    return "read"


def test_damaged_bytes(case):
    data, path, read, _ = case
    seen = []
    for seed in range(FILES):
        path.write_bytes(damage(data, random.Random(seed)))
        seen.append(outcome(read))
    assert min(seen.count("read"), seen.count("refused")) > FILES / 10
    path.write_bytes(data)
    assert outcome(read) == "read"


JUNK = (
    *(np.int64(n) for n in (-1, 0, 3, 1 << 20, 1 << 62)),
    *(np.float64(x) for x in ("nan", "inf", 1e300, 0.5)),
    np.zeros(0),
    np.zeros((0, 3)),
    np.ones((2, 2)),
    np.full((3, 2, 3, 2), 0.5),
    np.zeros((1,) * 20),
    np.arange(7),
    np.array([True, False]),
    np.array([3 + 1j]),
    np.array([2, 6, 5], ">i2"),
    np.uint64(2**64 - 1),
    "text",
    np.bytes_("conv"),
    np.bytes_(b"\xff"),
)


def test_rewritten_data_sets_and_attributes(case):
    """Dropped, replaced by another value, shape or type, or by another part of the file; attributes of any kind."""
    data, path, read, _ = case
    seen = []
    for seed in range(FILES):
        rng = random.Random(seed)
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            found: list[str] = []
            file.visit(found.append)
            name, other, what = rng.choice(found), rng.choice(found), rng.random()
            if what < 0.2:
                file[name].attrs[rng.choice(["name", "population", "x"])] = rng.choice(JUNK)
            elif what < 0.8 or other.startswith(name):
                del file[name]
                if what < 0.7:
                    file[name] = rng.choice(JUNK)
            else:
                del file[name]
                if other in file:
                    file.copy(other, file, name)
        seen.append(outcome(read))
    assert min(seen.count("read"), seen.count("refused")) > FILES / 10


def places(value, path=()):
    """Where every value of a JSON document is."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def test_rewritten_json(case):
    data, path, read, text = case
    junk = [None, True, -1, 0, 2**70, 1e300, float("nan"), "", "x\ny", "pixels", [], {}, [[1, 2], [3]]]
    junk += [
        {"array": 0},
        {"array": 3},
        {"tuple": ["a", 2]},
        {"dict": [["a", 1]]},
        {"array": [1], "dtype": "O"},
    ]
    seen = []
    for seed in range(FILES):
        rng = random.Random(seed)
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            document = json.loads(file[text][()])
            *way, last = rng.choice([place for place in places(document) if place])
            part = document
            for key in way:
                part = part[key]
            part[last] = rng.choice(junk)
            del file[text]
            file[text] = json.dumps(document)
        seen.append(outcome(read))
    assert seen.count("refused") > FILES / 2
