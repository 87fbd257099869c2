"""Event files of many makers: written here byte by byte, read back, and held to other readers where these can read."""

from __future__ import annotations

import struct

import event_files
import h5py
import numpy as np
import pytest

from dpap_neuro.data.formats import READERS, Layout, read_events
from dpap_neuro.errors import InputError

SIZE = (320, 240)


def events_of(
    seed: int, n: int = 400, size: tuple[int, int] = SIZE, last: int = 200_000
) -> event_files.Events:
    return event_files.random_events(seed, n, *size, last)


def table(events: event_files.Events) -> np.ndarray:
    return np.array(events, np.int64).reshape(-1, 4)


def write_evt2(events: event_files.Events) -> bytes:
    out, high = b"% evt 2.0\n% geometry 320x240\n% end\n", None
    for n, (x, y, t, p) in enumerate(events):
        if t >> 6 != high:
            high = t >> 6
            out += struct.pack("<I", 8 << 28 | high & 0xFFFFFFF)
        out += struct.pack("<I", p << 28 | (t & 63) << 22 | x << 11 | y)
        if n % 50 == 0:  # a trigger and a word of another kind, which are no events
            out += struct.pack("<II", 0xA << 28 | 1, 0xE << 28 | 5)
    return out


def write_evt3(events: event_files.Events, vectors: bool = True) -> bytes:
    out, state = b"% format EVT3;height=240;width=320\n% evt 3.0\n% end\n", [None, None, None]
    groups: list[list] = []
    for event in events:  # neighbours of one row, time and polarity can share a vector
        x, y, t, p = event
        if vectors and groups and groups[-1][0][1:] == (y, t, p) and 0 < x - groups[-1][-1][0] <= 12:
            groups[-1].append(event)
        else:
            groups.append([event])
    for group in groups:
        x, y, t, p = group[0]
        if t >> 12 != state[0]:
            state[0], state[1] = t >> 12, None
            out += struct.pack("<H", 8 << 12 | t >> 12 & 0xFFF)
        if t & 0xFFF != state[1]:
            state[1] = t & 0xFFF
            out += struct.pack("<H", 6 << 12 | t & 0xFFF)
        if y != state[2]:
            state[2] = y
            out += struct.pack("<H", y)
        if len(group) == 1:
            out += struct.pack("<H", 2 << 12 | p << 11 | x)
            continue
        out += struct.pack("<H", 3 << 12 | p << 11 | x)
        columns, base = {e[0] for e in group}, x
        while any(c >= base for c in columns):
            wide = 12 if max(columns) - base >= 8 else 8
            mask = sum(1 << k for k in range(wide) if base + k in columns)
            out += struct.pack("<H", (4 if wide == 12 else 5) << 12 | mask)
            base += wide
    return out


def write_dat(events: event_files.Events) -> bytes:
    out = b"% Data file containing CD events.\n% Width 320\n% Height 240\n" + bytes([0x0C, 8])
    return out + b"".join(struct.pack("<II", t, p << 28 | y << 14 | x) for x, y, t, p in events)


def write_aedat2(events: event_files.Events) -> bytes:
    out = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"
    return out + b"".join(
        struct.pack(">II", (127 - y) << 8 | (127 - x) << 1 | 1 - p, t) for x, y, t, p in events
    )


def write_aedat3(events: event_files.Events) -> bytes:
    out = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"
    for at in range(0, len(events), 64):
        part = events[at : at + 64]
        out += struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, 64, len(part), len(part))
        body = b"".join(struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t) for x, y, t, p in part)
        out += body.ljust(64 * 8, b"\0")
        out += struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + bytes(8)  # a special event
    return out


BINARY = {
    "a.raw": (write_evt2, SIZE),
    "b.raw": (write_evt3, SIZE),
    "c.raw": (lambda events: write_evt3(events, vectors=False), SIZE),
    "d.dat": (write_dat, SIZE),
    "e.aedat": (write_aedat2, (128, 128)),
    "f.aedat": (write_aedat3, (346, 260)),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_formats_give_back_what_was_written(name, tmp_path):
    write, size = BINARY[name]
    events = events_of(3, size=size)
    row = [
        (x, 7, 150_000, 1) for x in (3, 4, 6, 9, 17, 21, 28)
    ]  # for vectors, also ones that follow each other
    events = sorted([*events, *row], key=lambda e: e[2])
    (tmp_path / name).write_bytes(write(events))
    found = read_events(tmp_path / name)
    got = np.stack([found.x, found.y, found.t, found.p], axis=1)
    assert np.array_equal(got, table(events))
    assert found.size in (size, None if "f" in name[0] else size)


@pytest.mark.parametrize(("name", "encoding"), [("a.raw", "evt2"), ("b.raw", "evt3"), ("d.dat", "dat")])
def test_expelliarmus_reads_the_same(name, encoding, tmp_path):
    expelliarmus = pytest.importorskip("expelliarmus")
    # expelliarmus takes the lower half of EVT 3's time, which is smaller after a new upper half, for an overflow besides.
    last = 4_000 if encoding == "evt3" else 200_000
    (tmp_path / name).write_bytes(BINARY[name][0](events_of(5, last=last)))
    theirs = expelliarmus.Wizard(encoding=encoding).read(tmp_path / name)
    ours = read_events(tmp_path / name)
    for column in ("x", "y", "t", "p"):
        assert np.array_equal(getattr(ours, column), theirs[column].astype(np.int64)), column


def test_a_long_evt3_recording_passes_the_end_of_its_counter(tmp_path):
    events = [(1, 2, t, 1) for t in range(0, 1 << 25, 1 << 11)]  # 24 bits of time
    (tmp_path / "long.raw").write_bytes(write_evt3(events))
    assert read_events(tmp_path / "long.raw").t.tolist() == [e[2] for e in events]


def test_tables_by_name_and_by_order(tmp_path):
    events = events_of(7)
    x, y, t, p = table(events).T
    named = np.rec.fromarrays([t, x, y, p], names="timestamp,x,y,polarity")
    np.save(tmp_path / "named.npy", np.asarray(named))
    np.save(tmp_path / "plain.npy", table(events))
    np.savez(tmp_path / "jelly.npz", t=t, x=x, y=y, p=p.astype(bool))
    with h5py.File(tmp_path / "group.h5", "w") as file:
        for key, values in zip(("xs", "ys", "ts", "ps"), (x, y, t * 1e-6, 2 * p - 1), strict=True):
            file[f"events/{key}"] = values
    head = ["x,y,t,p", *(",".join(map(str, e)) for e in events)]
    (tmp_path / "named.csv").write_text("\n".join(head) + "\n")
    (tmp_path / "plain.txt").write_text("".join(f"{c} {a} {b} {d}\n" for a, b, c, d in events))
    layouts = {"group.h5": Layout(time_unit="s")}
    for name in ("named.npy", "plain.npy", "jelly.npz", "group.h5", "named.csv", "plain.txt"):
        found = read_events(tmp_path / name, layouts.get(name, Layout()))
        assert np.array_equal(np.stack([found.x, found.y, found.t, found.p], axis=1), table(events)), name
    np.save(tmp_path / "turned.npy", table(events)[:, [2, 0, 1, 3]])
    found = read_events(tmp_path / "turned.npy", Layout(columns=("t", "x", "y", "p")))
    assert np.array_equal(found.t, t) and np.array_equal(found.x, x)


def test_nmnist_counters_that_overflow(tmp_path):
    marked = [(1, 1, 10, 1), (0, 240, 0, 0), (2, 2, 20, 1)]
    event_files.write_atis(tmp_path / "a.bin", marked)
    found = read_events(tmp_path / "a.bin")
    assert found.t.tolist() == [10, 20 + 2**13] and found.x.tolist() == [1, 2]
    event_files.write_atis(tmp_path / "b.bin", [(1, 1, (1 << 23) - 5, 1), (2, 2, 3, 1)])
    assert read_events(tmp_path / "b.bin").t.tolist() == [(1 << 23) - 5, (1 << 23) + 3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xyz", b"", "found suffix '.xyz', expected one of .npy"),
        ("a.bin", b"1234", "found 4 bytes, expected a multiple of 5"),
        ("a.raw", b"nothing", "found no format in the header"),
        ("a.raw", b"% evt 4.0\n% end\n", "found EVT 4"),
        ("a.dat", b"% end\n", "found 6 bytes, expected a header"),
        ("a.dat", b"\x0c\x07" + bytes(14), "events of 7 bytes"),
        ("a.aedat", b"#!AER-DAT1.0\r\n", "found #!AER-DAT1.0"),
        ("a.aedat", b"#!AER-DAT3.1\r\n", "no end of its header"),
        ("a.txt", b"1 2 3\n", "found 3 values in a line"),
        ("a.csv", b"x,y,t,q\n1,2,3,4\n", "found columns x, y, t, q"),
        ("a.csv", b"0.5,1,2,1\n", "times with fractions"),
        ("a.csv", b"5,1.5,2,1\n", "found x that are no whole numbers"),
        ("a.csv", b"5,1,2,7\n", "found polarities from 7 to 7"),
        ("a.npz", b"PK\x03\x04", "cannot be read"),
        ("a.npy", b"\x93NUM", "cannot be read"),
        ("a.h5", b"\x89HDF", "cannot be read"),
        ("a.aedat4", b"#!AER-DAT4.0\r\n", "aedat|damaged"),
    ],
)
def test_wrong_files_are_one_line(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_events(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match=r"cannot be read|found arrays"):
            read_events(tmp_path / name)


@pytest.mark.parametrize("name", [*BINARY, "g.bin"])
def test_damaged_files_are_read_or_refused(name, tmp_path):
    """Bytes flipped, cut and added: events, or one line, and never more events than the file has bits."""
    write, size = BINARY.get(name, (None, (34, 34)))
    events = events_of(1, 80, size)
    path = tmp_path / name
    if write is None:
        event_files.write_atis(path, events)
    else:
        path.write_bytes(write(events))
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        raw = bytearray(whole)
        for at in rng.integers(0, len(raw), 4):
            raw[at] = rng.integers(256)
        path.write_bytes(bytes(raw[: rng.integers(1, len(raw) + 1)]))
        try:
            found = read_events(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(found.x) == len(found.y) == len(found.t) == len(found.p) <= 8 * len(raw)


def test_every_suffix_of_the_text_has_a_reader():
    assert {".npy", ".npz", ".bin", ".dat", ".raw", ".aedat", ".aedat4", ".h5", ".csv", ".txt"} <= set(
        READERS
    )
