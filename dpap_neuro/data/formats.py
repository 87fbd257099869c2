"""Event files of many makers, one reader per suffix, on NumPy: nothing in a file is executed, sizes are bounded by the file's own.

expelliarmus, which tonic brings, refuses EVT 3 recordings with trigger or vendor words, and evlib needs Python 3.11, polars and
pyarrow; the raw formats are a few lines each, and tests hold them to expelliarmus where it can read. AEDAT 4 is compressed and
self-describing: the package aedat reads it (extra `recordings`).

Formats: N-MNIST's and N-Caltech101's `.bin` (Orchard et al. 2015); Prophesee's `.dat`, and EVT 2.0 and 3.0 in `.raw` (Metavision SDK,
"data formats"); iniVation's AEDAT 2.0 and 3.1 in `.aedat`; `.npy`, `.npz` (also SpikingJelly's), `.h5`, `.csv`, `.txt` with named
columns, or in the order that a `dataset.toml` gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dpap_neuro.errors import InputError
from dpap_neuro.files import read_numpy

Array = np.ndarray
# As files call the four columns.
_NAMES = {
    "x": ("x", "xs", "x_addr", "col"),
    "y": ("y", "ys", "y_addr", "row"),
    "t": ("t", "ts", "timestamp", "timestamps", "time", "times"),
    "p": ("p", "ps", "pol", "polarity", "polarities", "on"),
}
UNITS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
# Text is read a number at a time.
_MAX_TEXT_BYTES = 1 << 30


@dataclass(frozen=True)
class Layout:
    """What a folder's `dataset.toml` may say of its tables. columns: their order where a table does not name them; None: not said.
    time_unit: of `UNITS`; None: whole numbers are microseconds."""

    columns: tuple[str, ...] | None = None
    time_unit: str | None = None


@dataclass(frozen=True)
class RawEvents:
    """Columns of events as the file has them, t in microseconds, p 0 or 1; size: (columns, rows) where the file says so."""

    x: Array
    y: Array
    t: Array
    p: Array
    size: tuple[int, int] | None = None


def read_events(file: Path, layout: Layout = Layout()) -> RawEvents:
    """Events of one file, by its suffix. Raises InputError, naming the file, for one that cannot be read."""
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"{file}: found suffix {file.suffix!r}, expected one of {', '.join(READERS)}")
    try:
        return reader(file, layout)
    except InputError:
        raise
    except Exception as error:  # of a library that does not say what it raises
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{file}: cannot be read ({type(error).__name__}: {said})") from None


# --- tables ------------------------------------------------------------------------------------------------


def _from_columns(columns: Mapping[str, Any], file: Path, layout: Layout) -> RawEvents | None:
    """By their names; None where one of the four is missing."""
    lower = {name.lower(): name for name in columns}
    found = {}
    for key, names in _NAMES.items():
        name = next((lower[n] for n in names if n in lower), None)
        if name is None:
            return None
        found[key] = np.asarray(columns[name])
    lengths = {key: np.shape(values) for key, values in found.items()}
    if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) != 1:
        raise InputError(f"{file}: found columns of shapes {lengths}, expected four of one length")
    for key, values in found.items():
        if values.dtype.kind not in "biuf":
            raise InputError(f"{file}: found {values.dtype} in column {key}, expected numbers")
    t = _microseconds(found["t"], file, layout)
    return RawEvents(
        _whole(found["x"], "x", file), _whole(found["y"], "y", file), t, _polarity(found["p"], file)
    )


def _from_matrix(table: Array, file: Path, layout: Layout, usual: tuple[str, ...]) -> RawEvents:
    if table.ndim != 2 or table.shape[1] != 4:
        raise InputError(f"{file}: found shape {table.shape}, expected (events, 4)")
    order = layout.columns or usual
    events = _from_columns(dict(zip(order, table.T, strict=True)), file, layout)
    assert events is not None
    return events


def _whole(values: Array, name: str, file: Path) -> Array:
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise InputError(
            f"{file}: found {name} that are no whole numbers; if its columns stand in another order, say so in "
            'dataset.toml: columns = ["x", "y", "t", "p"]'
        )
    return values.astype(np.int64)


def _polarity(values: Array, file: Path) -> Array:
    """0 and 1, also of -1 and 1."""
    values = _whole(values, "p", file)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 1)
    if low == -1 and high <= 1 and not (values == 0).any():
        return (values > 0).astype(np.int64)
    if low < 0 or high > 1:
        raise InputError(
            f"{file}: found polarities from {low} to {high}, expected 0 and 1 or -1 and 1; if its columns stand in another "
            'order, say so in dataset.toml: columns = ["x", "y", "t", "p"]'
        )
    return values


def _microseconds(values: Array, file: Path, layout: Layout) -> Array:
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InputError(f"{file}: found events at no time (NaN or infinity)")
        if layout.time_unit is None and not (values == np.rint(values)).all():
            raise InputError(
                f'{file}: found times with fractions; say their unit in dataset.toml: time_unit = "s" '
                f"(one of {', '.join(UNITS)})"
            )
    factor = UNITS[layout.time_unit or "us"]
    if factor == 1 and values.dtype.kind in "biu":
        return values.astype(np.int64)
    scaled = np.rint(values.astype(np.float64) * factor)
    if scaled.size and np.abs(scaled).max() >= 2**62:
        raise InputError(f"{file}: found a time of {values.max():.4g}, expected below 2**62 microseconds")
    return scaled.astype(np.int64)


def _npy(file: Path, layout: Layout) -> RawEvents:
    return _table(read_numpy(file), file, layout)


def _table(table: Any, file: Path, layout: Layout) -> RawEvents:
    if not isinstance(table, np.ndarray):
        raise InputError(f"{file}: found {type(table).__name__}, expected an array")
    if table.dtype.names:
        events = _from_columns({name: table[name] for name in table.dtype.names}, file, layout)
        if events is None:
            raise InputError(f"{file}: found fields {', '.join(table.dtype.names)}, expected x, y, t and p")
        return events
    return _from_matrix(table, file, layout, ("x", "y", "t", "p"))


def _npz(file: Path, layout: Layout) -> RawEvents:
    arrays = read_numpy(file)
    if not isinstance(arrays, dict):
        return _table(arrays, file, layout)
    names = list(arrays)
    wanted = {name for names_ in _NAMES.values() for name in names_}
    events = _from_columns({n: arrays[n] for n in names if n.lower() in wanted}, file, layout)
    if events is not None:
        return events
    if len(names) == 1:
        return _table(arrays[names[0]], file, layout)
    raise InputError(f"{file}: found arrays {', '.join(names)[:120]}, expected x, y, t and p")


def _h5(file: Path, layout: Layout) -> RawEvents:
    with h5py.File(file, "r") as source:
        for group in (source.get("events"), source.get("CD/events"), source):
            if isinstance(group, h5py.Dataset):
                return _table(group[:], file, layout)
            if isinstance(group, h5py.Group):
                data = {name: group[name] for name in group if isinstance(group.get(name), h5py.Dataset)}
                flat = {name: values[:] for name, values in data.items() if values.ndim == 1}
                events = _from_columns(flat, file, layout)
                if events is not None:
                    return events
        raise InputError(
            f"{file}: found {', '.join(source)[:120]}, expected events/x, events/y, events/t, events/p"
        )


def _text(file: Path, layout: Layout) -> RawEvents:
    if file.stat().st_size > _MAX_TEXT_BYTES:
        raise InputError(
            f"{file}: found {file.stat().st_size:,} bytes of text, expected at most {_MAX_TEXT_BYTES:,}"
        )
    with open(file, encoding="utf-8", errors="replace") as lines:
        head = next((line for line in lines if line.strip() and not line.startswith(("#", "%"))), "")
    comma = "," if "," in head else ";" if ";" in head else None
    words = [word.strip().strip('"').lower() for word in (head.split(comma) if comma else head.split())]
    named = any(
        re.search(r"[a-z]", word) and word not in ("nan", "inf") and "e" not in word[1:-1] for word in words
    )
    named = named or set(words) & {name for names in _NAMES.values() for name in names} != set()
    if len(words) not in (0, 4) and not named:
        raise InputError(f"{file}: found {len(words)} values in a line, expected 4")
    body = []
    with open(file, encoding="utf-8", errors="replace") as lines:
        skipped = not named
        for line in lines:
            if not line.strip() or line.startswith(("#", "%")):
                continue
            if not skipped:
                skipped = True
                continue
            body.append(line)
    table = np.loadtxt(body, delimiter=comma, ndmin=2) if body else np.empty((0, max(4, len(words))))
    if named:
        events = _from_columns(dict(zip(words, table.T, strict=True)), file, layout)
        if events is None:
            raise InputError(f"{file}: found columns {', '.join(words)[:80]}, expected x, y, t and p")
        return events
    # As in the Event Camera Dataset (Mueggler et al. 2017) and most since: t x y p.
    return _from_matrix(table, file, layout, ("t", "x", "y", "p"))


# --- cameras' own formats -----------------------------------------------------------------------------------


def _bin(file: Path, layout: Layout) -> RawEvents:
    """40 bits an event: x, y, polarity, 23 bits of time; y = 240 marks 2**13 us gone by, and a counter at its end starts anew."""
    raw = np.fromfile(file, np.uint8)
    if len(raw) % 5:
        raise InputError(f"{file}: found {len(raw)} bytes, expected a multiple of 5 per event")
    x, y, high, middle, low = (column.astype(np.int64) for column in raw.reshape(-1, 5).T)
    t = (high & 127) << 16 | middle << 8 | low
    t += np.cumsum(y == 240) << 13
    t += np.cumsum(np.diff(t, prepend=t[:1]) < -(1 << 22)) << 23
    real = y != 240
    return RawEvents(x[real], y[real], t[real], (high >> 7)[real])


def _header(raw: bytes, mark: bytes) -> tuple[list[str], int]:
    """The lines at the beginning that start with `mark`, and where they end."""
    lines: list[str] = []
    at = 0
    while raw.startswith(mark, at):
        end = raw.find(b"\n", at)
        if end < 0 or len(lines) == 10_000:
            break
        lines.append(raw[at:end].decode("latin-1").lstrip(mark.decode()).strip())
        at = end + 1
        if lines[-1] == "end":
            break
    return lines, at


def _size(lines: list[str]) -> tuple[int, int] | None:
    text = " ".join(lines).lower()
    wide = re.search(r"geometry[: ]+(\d{1,5})x(\d{1,5})", text)
    if wide:
        return int(wide[1]), int(wide[2])
    width, height = (re.search(rf"{word}[= ]+(\d{{1,5}})", text) for word in ("width", "height"))
    return (int(width[1]), int(height[1])) if width and height else None


def _words(raw: bytes, at: int, kind: str, file: Path) -> Array:
    """What follows the header; the last word of a recording that was cut short may be incomplete."""
    size = np.dtype(kind).itemsize
    return np.frombuffer(raw, kind, (len(raw) - at) // size, at)


def _dat(file: Path, layout: Layout) -> RawEvents:
    """Prophesee's DAT: 8 bytes an event, t (32 bits), then x (14), y (14), p (4)."""
    raw = file.read_bytes()
    lines, at = _header(raw, b"%")
    if len(raw) < at + 2:
        raise InputError(
            f"{file}: found {len(raw)} bytes, expected a header and two bytes that tell the kind of event"
        )
    if raw[at + 1] != 8:
        raise InputError(f"{file}: found events of {raw[at + 1]} bytes, expected 8")
    words = _words(raw, at + 2, "<u4", file)
    t, data = words[0 : len(words) // 2 * 2 : 2].astype(np.int64), words[1::2].astype(np.int64)
    return RawEvents(data & 0x3FFF, data >> 14 & 0x3FFF, _unwrapped(t, 32), data >> 28 & 1, _size(lines))


def _unwrapped(t: Array, bits: int) -> Array:
    """Times of a counter of so many bits that may start anew."""
    return t + (np.cumsum(np.diff(t, prepend=t[:1]) < -(1 << (bits - 1))) << bits)


def _held(values: Array, given: Array) -> tuple[Array, Array]:
    """For each word the latest value at or before it, of those that are `given`; and whether there is one."""
    latest = np.maximum.accumulate(np.where(given, np.arange(len(values)), -1))
    return values[np.maximum(latest, 0)], latest >= 0


def _raw(file: Path, layout: Layout) -> RawEvents:
    raw = file.read_bytes()
    lines, at = _header(raw, b"%")
    text = " ".join(lines).lower()
    version = re.search(r"evt ?(\d)", text)
    if version is None or version[1] not in "23":
        found = f"EVT {version[1]}" if version else "no format in the header"
        raise InputError(
            f"{file}: found {found}, expected a line like '% evt 3.0' (EVT 2.0 and 3.0 are read)"
        )
    return (_evt2 if version[1] == "2" else _evt3)(raw, at, file, _size(lines))


def _evt2(raw: bytes, at: int, file: Path, size: tuple[int, int] | None) -> RawEvents:
    """32 bits a word; the upper 28 bits of time come in words of their own. Triggers and others are passed over."""
    words = _words(raw, at, "<u4", file).astype(np.int64)
    kind = words >> 28
    high, known = _held(_unwrapped_where(words & 0xFFFFFFF, kind == 8, 28), kind == 8)
    cd = (kind <= 1) & known
    words, kind, high = words[cd], kind[cd], high[cd]
    return RawEvents(words >> 11 & 0x7FF, words & 0x7FF, high << 6 | words >> 22 & 0x3F, kind, size)


def _unwrapped_where(values: Array, given: Array, bits: int) -> Array:
    out = values.copy()
    out[given] = _unwrapped(values[given], bits)
    return out


def _evt3(raw: bytes, at: int, file: Path, size: tuple[int, int] | None) -> RawEvents:
    """16 bits a word: row, column, upper and lower time come as they change; vectors are masks of 12 or 8 columns from a base."""
    words = _words(raw, at, "<u2", file).astype(np.int64)
    kind, data = words >> 12, words & 0xFFF
    high, has_high = _held(_unwrapped_where(data, kind == 8, 12), kind == 8)
    low_of, low_at = np.where(kind == 6, data, 0), np.where(kind == 6, np.arange(len(words)), -1)
    last_low = np.maximum.accumulate(low_at)
    last_high = np.maximum.accumulate(np.where(kind == 8, np.arange(len(words)), -1))
    # The lower half belongs to the upper half it came after.
    low = np.where(last_low >= last_high, low_of[np.maximum(last_low, 0)], 0)
    t = high << 12 | low
    row, has_row = _held(data & 0x7FF, kind == 0)
    base, has_base = _held(data & 0x7FF, kind == 3)
    polarity, _ = _held(data >> 11, kind == 3)
    width = np.where(kind == 4, 12, np.where(kind == 5, 8, 0))
    # Columns that vectors since the last base have passed.
    passed = np.cumsum(width) - width
    offset = passed - _held(passed, kind == 3)[0]
    single = (kind == 2) & has_row & has_high
    vector = (width > 0) & has_row & has_high & has_base
    at_vector = np.flatnonzero(vector)
    bits = (data[at_vector, None] >> np.arange(12)) & 1 & (np.arange(12) < width[at_vector, None])
    which, bit = np.nonzero(bits)
    from_vector = at_vector[which]
    at_single = np.flatnonzero(single)
    index = np.concatenate([at_single, from_vector])
    x = np.concatenate([data[at_single] & 0x7FF, base[from_vector] + offset[from_vector] + bit])
    p = np.concatenate([data[at_single] >> 11, polarity[from_vector]])
    order = np.argsort(index, kind="stable")
    index = index[order]
    return RawEvents(x[order], row[index], t[index], p[order], size)


def _aedat(file: Path, layout: Layout) -> RawEvents:
    return read_aedat(file.read_bytes(), file)


def read_aedat(raw: bytes, file: Path) -> RawEvents:
    """What an AEDAT 2.0 or 3.1 file holds; file: its name, for messages. Raises InputError."""
    version = re.match(rb"#!AER-DAT(\d)\.(\d)", raw)
    if version is None or version[1] not in (b"2", b"3"):
        found = version[0].decode() if version else "another beginning"
        raise InputError(f"{file}: found {found}, expected #!AER-DAT2.0 or #!AER-DAT3.1")
    return (_aedat2 if version[1] == b"2" else _aedat3)(raw, file)


def _aedat2(raw: bytes, file: Path) -> RawEvents:
    """AEDAT 2.0 of a DVS128: 32 bits of address, 32 of time, big-endian; the address is y (7 bits), x (7), off (1).

    jAER counts x from the right edge: x is turned round, as its own viewer shows it.
    """
    _, at = _header(raw, b"#")
    words = _words(raw, at, ">u4", file)
    address, t = words[0 : len(words) // 2 * 2 : 2].astype(np.int64), words[1::2].astype(np.int64)
    events = (address >> 15 & 1) == 0  # the top bit marks special events
    address, t = address[events], _unwrapped(t[events], 32)
    return RawEvents(
        127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F), t, 1 - (address & 1), (128, 128)
    )


def _aedat3(raw: bytes, file: Path) -> RawEvents:
    """AEDAT 3.1: packets of a header of 28 bytes; polarity events are 8 bytes: valid (1 bit), on (1), y (15), x (15), then time."""
    at = raw.find(b"#!END-HEADER\r\n")
    if at < 0:
        raise InputError(f"{file}: found no end of its header, expected #!END-HEADER")
    at += len(b"#!END-HEADER\r\n")
    parts = []
    while at + 28 <= len(raw):
        kind, _source = np.frombuffer(raw, "<u2", 2, at).tolist()
        size, _offset, overflow, capacity, number, _valid = np.frombuffer(raw, "<u4", 6, at + 4).tolist()
        at += 28
        if size < 1 or number > capacity:
            raise InputError(f"{file}: found a damaged packet at byte {at - 28:,}")
        if kind == 1:
            if size != 8:
                raise InputError(f"{file}: found polarity events of {size} bytes, expected 8")
            n = min(number, (len(raw) - at) // 8)
            data, t = np.frombuffer(raw, "<u4", 2 * n, at).reshape(-1, 2).T.astype(np.int64)
            real = (data & 1) == 1
            parts.append(np.stack([data[real], t[real] | overflow << 31]))
        at += capacity * size
    data, t = np.concatenate(parts, axis=1) if parts else np.empty((2, 0), np.int64)
    return RawEvents(data >> 17 & 0x7FFF, data >> 2 & 0x7FFF, t, data >> 1 & 1)


def _aedat4(file: Path, layout: Layout) -> RawEvents:
    try:
        import aedat
    except ImportError:
        raise InputError(
            f"{file}: reading it needs the package aedat; to get it: pip install 'dpap-neuro[recordings]'"
        ) from None
    try:
        decoder = aedat.Decoder(str(file))
        streams = {i: s for i, s in decoder.id_to_stream().items() if s["type"] == "events"}
        if not streams:
            raise InputError(f"{file}: found no events in it, expected a stream of them")
        chosen = min(streams)
        packets = [
            packet["events"] for packet in decoder if packet["stream_id"] == chosen and "events" in packet
        ]
    except InputError:
        raise
    except BaseException as error:
        # Of the decoder, in Rust: no subclass of Exception.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(f"{file}: cannot be read (damaged AEDAT 4)") from None
    stream: dict[str, Any] = streams[chosen]
    known = (
        (int(stream["width"]), int(stream["height"]))
        if stream.get("width") and stream.get("height")
        else None
    )
    if not packets:
        empty = np.empty(0, np.int64)
        return RawEvents(empty, empty, empty, empty, known)
    events = np.concatenate(packets)
    t, x, y, p = (events[name].astype(np.int64) for name in ("t", "x", "y", "on"))
    return RawEvents(x, y, t, p, known)


READERS: dict[str, Callable[[Path, Layout], RawEvents]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".bin": _bin,
    ".dat": _dat,
    ".raw": _raw,
    ".aedat": _aedat,
    ".aedat4": _aedat4,
    ".h5": _h5,
    ".hdf5": _h5,
    ".csv": _text,
    ".txt": _text,
}
