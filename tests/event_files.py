"""Tiny recordings in the formats and folders of the real data sets, written byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from dpap_neuro.data import local

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


def make(name: str, root: Path, per_class: int = 6) -> dict[str, list[tuple[Events, int]]]:
    """A folder of two classes in tonic's layout; returns what is in it by split, in order."""
    written: dict[str, list[tuple[Events, int]]] = {"train": [], "test": []}
    seed = 0
    if name == "shd":
        for split in written:
            recordings, labels = [], []
            for label in (3, 17):
                for _ in range(per_class):
                    seed += 1
                    events = [(x, 0, t, 0) for x, _, t, _ in random_events(seed, 40, 700, 1, 900_000, 1000)]
                    recordings.append(([t / 1e6 for _, _, t, _ in events], [x for x, *_ in events]))
                    labels.append(label)
                    written[split].append((events, label))
            write_shd(root / "SHD" / f"shd_{split}.h5", recordings, labels)
        return written
    for split in written:
        for label in (3, 7):
            for number in range(per_class):
                seed += 1
                if name == "nmnist":
                    events = random_events(seed, 60, 34, 34, 300_000)
                    path = f"NMNIST/{split.capitalize()}/{label}/{number:05}.bin"
                    write_atis(root / path, events)
                elif name == "dvsgesture":
                    events = random_events(seed, 60, 128, 128, 5_000_000, 1000)
                    path = f"DVSGesture/ibmGesture{split.capitalize()}/user{number:02}_fluorescent_led/{label}.npy"
                    write_gesture(root / path, events)
                elif (number % 5 == 4) == (split == "test"):
                    # No official split: the number decides.
                    if name == "cifar10dvs":
                        events = random_events(seed, 60, 128, 128, 1_300_000)
                        of_class = local.CIFAR10[label]
                        path = f"CIFAR10DVS/{of_class}/cifar10_{of_class}_{number}.aedat4"
                        write_aedat4(root / path, events)
                    else:
                        events = random_events(seed, 60, 200 + number, 180 - number, 300_000)
                        path = f"NCALTECH101/Caltech101/{local.CALTECH101[label]}/image_{number:04}.bin"
                        write_atis(root / path, events)
                else:
                    continue
                written[split].append((events, label))
    if name == "dvsgesture":  # sorted by user, then gesture
        for split, items in written.items():
            written[split] = [items[k * per_class + n] for n in range(per_class) for k in range(2)]
    return written


def needs(name: str) -> None:
    """Skip where what reads a data set is not installed."""
    if name == "cifar10dvs":
        pytest.importorskip("aedat", reason="the reader of AEDAT 4 files is not installed")
