"""Tiny recordings in the formats and folders of the real data sets, written byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

Events = list[tuple[int, int, int, int]]  # x, y, t in microseconds, p


def random_events(seed: int, n: int, columns: int, rows: int, last: int, unit: int = 1) -> Events:
    """n events in the order of their times, whole multiples of `unit` microseconds; all corners of the sensor used."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, columns, n), rng.integers(0, rows, n)
    x[:2], y[:2] = (0, columns - 1), (rows - 1, 0)
    t = np.sort(rng.integers(0, last // unit, n)) * unit
    return list(zip(x.tolist(), y.tolist(), t.tolist(), rng.integers(0, 2, n).tolist(), strict=True))


def _write(path: Path, raw: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def write_atis(path: Path, events: Events) -> Path:
    """N-MNIST and N-Caltech101: 40 bits an event: x, y, polarity, 23 bits of time."""
    return _write(
        path, b"".join(struct.pack(">BBBH", x, y, p << 7 | t >> 16, t & 0xFFFF) for x, y, t, p in events)
    )


def write_gesture(path: Path, events: Events, dtype: type = np.int64) -> Path:
    """DVSGesture as tonic has cut it: rows of x, y, p, t in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = [(x, y, p, t // 1000) for x, y, t, p in events]
    np.save(path, np.array(table, dtype=dtype).reshape(-1, 4))
    return path


def write_shd(path: Path, recordings: list[tuple[list[float], list[int]]], labels: list[int]) -> Path:
    """Spiking Heidelberg Digits: seconds and channels per recording, in HDF5 arrays of unequal length."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, kind, column in (("times", np.float32, 0), ("units", np.uint16, 1)):
            data = file.create_dataset(f"spikes/{name}", (len(labels),), dtype=h5py.vlen_dtype(kind))
            for index, recording in enumerate(recordings):
                data[index] = np.array(recording[column], dtype=kind)
        file["labels"] = np.array(labels, dtype=np.uint16)
        file["extra/keys"] = np.array([b"zero"] * 20)
        file["extra/speaker"] = np.zeros(len(labels), dtype=np.uint16)
    return path


def _flatbuffer(identifier: bytes, vtable: list[int], table: bytes, rest: bytes) -> bytes:
    """One table: its fields' offsets are in `vtable`; `table` begins after the offset to the vtable."""
    v = struct.pack(f"<HH{len(vtable)}H", 4 + 2 * len(vtable), 4 + len(table), *vtable)
    v += b"\0" * (
        -len(v) % 8 + 4 if len(v) % 8 != 4 else 0
    )  # so that 8-byte fields at 4 in the table are aligned
    root = 8 + len(v)
    body = struct.pack("<I", root) + identifier + v + struct.pack("<i", len(v)) + table + rest
    return struct.pack("<I", len(body)) + body


def write_aedat4(path: Path, events: Events, packets: int = 2) -> Path:
    """CIFAR10-DVS as tonic has it: AEDAT 4, not compressed, its flatbuffers spelled out."""
    xml = b"""<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/"><node name="0" path="/mainloop/Recorder/outInfo/0/">
<attr key="compression" type="string">NONE</attr><attr key="originalModuleName" type="string">converter</attr>
<attr key="originalOutputName" type="string">events</attr><attr key="typeDescription" type="string">Array of events (polarity ON/OFF).</attr>
<attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="/mainloop/Recorder/outInfo/0/info/">
<attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr><attr key="source" type="string">DVS128</attr></node></node></node></dv>"""
    # compression (int32) at 4, dataTablePosition (int64) at 8, infoNode (offset of a string) at 16
    table = struct.pack("<iqI", 0, -1, 4)
    raw = b"#!AER-DAT4.0\r\n" + _flatbuffer(
        b"IOHE", [4, 8, 16], table, struct.pack("<I", len(xml)) + xml + b"\0" * 4
    )
    for part in np.array_split(np.arange(len(events)), packets):
        # elements (offset of a vector of structs of 16 bytes) at 4
        structs = b"".join(struct.pack("<qhhB3x", t, x, y, p) for x, y, t, p in (events[i] for i in part))
        packet = _flatbuffer(b"EVTS", [4], struct.pack("<I", 4), struct.pack("<I", len(part)) + structs)
        raw += struct.pack("<ii", 0, len(packet)) + packet
    return _write(path, raw)
