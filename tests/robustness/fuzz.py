"""Damaged files for every loader: each is read right or refused in one line, within time and memory.

`python tests/robustness/fuzz.py --inputs 20000` prints a table; tests/test_robustness.py runs some hundreds. Damage is to bytes
(bits flipped, runs overwritten, cut off, repeated) and, of text, to structure (values, keys and lines exchanged, removed, nested,
made huge); each input has a seed of its own, so that `--loader NAME --seed N --inputs 1` shows one again.

right: what came back is what the undamaged file holds, or, of formats without a checksum, what holds together. refused: one line.
wrong: another error, more than `SECONDS`, or, of files with a checksum, something else than was written.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from hardware.errors import BadInput  # noqa: E402

SECONDS = 20
MEMORY = 4 << 30
SENSOR = (128, 128, 2)


@dataclass
class Loader:
    """name: of the loader. file: what is damaged; other files that belong to it lie beside. load: reads it; what it returns compares
    equal for equal files. sealed: a checksum tells every change. text: damage to structure too."""

    name: str
    file: Path
    load: Callable[[], Any]
    sealed: bool = False
    text: bool = False


@dataclass
class Tally:
    inputs: int = 0
    right: int = 0
    refused: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


# --- damage ------------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random, text: bool) -> bytes:
    """Other bytes than `data`."""
    while True:
        found = _structure(data, rng) if text and rng.random() < 0.5 else _bytes(data, rng)
        if found != data:
            return found


def _bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    kind = rng.random()
    # Half of it near the beginning, where headers are.
    place = lambda: rng.randrange(min(len(changed), rng.choice([64, 1 << 30])))  # noqa: E731
    if kind < 0.08:
        return bytes(changed[: rng.randrange(len(changed))])
    if kind < 0.5:
        for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
            changed[place()] ^= 1 << rng.randrange(8)
    elif kind < 0.7:
        for _ in range(rng.choice([1, 2, 4])):
            changed[place()] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif kind < 0.85:
        at, length = place(), rng.choice([1, 4, 8, 64])
        filling = rng.choice([b"\0", b"\xff", b"\x7f", bytes([rng.randrange(256)])])
        changed[at : at + length] = filling * len(changed[at : at + length])
    elif kind < 0.95:
        a, b, length = place(), place(), rng.choice([4, 16, 256])
        changed[a : a + length] = changed[b : b + length]
    else:
        changed += rng.randbytes(rng.choice([1, 100])) if rng.random() < 0.5 else data
    return bytes(changed)


_VALUES = (
    "null", "true", "-1", "0", "1e999", "NaN", "-0.0", '"x"', "[]", "{}", "9" * 25, "9" * 5000, "1e-320", "[[[[1]]]]",
    "[" * 50_000, '{"a":' * 20_000, '"' + "y" * 1000 + '"', "2147483648", "18446744073709551616", "''", "\x00", "\ud7ff",
)  # fmt: skip


def _structure(data: bytes, rng: random.Random) -> bytes:
    """A token or a line exchanged for another, removed, or made absurd."""
    import re

    text = data.decode("utf-8", "replace")
    if rng.random() < 0.3:
        lines = text.splitlines(keepends=True)
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(3)
        if kind == 0:
            del lines[a]
        elif kind == 1:
            lines.insert(b, lines[a])
        else:
            lines[a], lines[b] = lines[b], lines[a]
        return "".join(lines).encode()
    tokens = [m.span() for m in re.finditer(r'"[^"]*"|-?[\d.]+(?:e[-+]?\d+)?|[A-Za-z_]+', text)]
    if not tokens:
        return _bytes(data, rng)
    begin, end = rng.choice(tokens)
    other = rng.choice(tokens)
    put = rng.choice(["", text[slice(*other)], rng.choice(_VALUES), rng.choice(_VALUES)])
    return (text[:begin] + put + text[end:]).encode("utf-8", "replace")


# --- loaders -----------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """What compares by value: arrays and tensors as bytes."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


@contextlib.contextmanager
def loaders(root: Path) -> Iterator[list[Loader]]:
    """All of them, each with a small file of its own."""
    with contextlib.ExitStack() as stack:
        yield [
            *_of_hardware(root / "hardware", stack),
            *_of_data(root / "data"),
            *_of_originals(root / "originals"),
            *_of_runs(root / "runs"),
        ]


def _of_hardware(root: Path, stack: contextlib.ExitStack) -> list[Loader]:
    import nir
    from graph_samples import graph, inp, lif, mixed, out

    from hardware.chip import chips
    from hardware.compile.compiler import compile_graph
    from hardware.files import network_file, netx_reading, netx_writing
    from hardware.files.guarded import Reader
    from hardware.graph.parsing import from_nir, read_graph

    root.mkdir()
    reader = stack.enter_context(Reader(seconds=1.0))
    nir.write(root / "mixed.nir", mixed())
    plain = graph(
        {"i": inp(2), "w": nir.Linear(np.ones((2, 2), np.float32)), "lif": lif(2), "o": out(2)}, dt=1e-3
    )
    nir.write(root / "plain.nir", plain, compression=None)
    integers = compile_graph(from_nir(plain), chips.load_chip("loihi1"))[0]
    network_file.save(integers, root / "a.h5")
    netx_writing.write_net(integers, root / "a.net")
    for name in chips.BUILT_IN:
        (root / f"{name}.toml").write_bytes(Path(chips.__file__).with_name(f"{name}.toml").read_bytes())
    return [
        Loader("graph (.nir)", root / "mixed.nir", lambda: _ran(read_graph(root / "mixed.nir", reader))),
        Loader("graph (.nir, plain)", root / "plain.nir", lambda: _ran(read_graph(root / "plain.nir", reader))),
        Loader("integers (.h5)", root / "a.h5", lambda: _ran(network_file.load(root / "a.h5", reader))),
        Loader("integers (.net)", root / "a.net", lambda: _ran(netx_reading.read_net(root / "a.net", reader=reader))),
        *(
            Loader(f"chip {name}", root / f"{name}.toml", lambda n=name: _ran(chips.load_chip(root / f"{n}.toml")), text=True)
            for name in chips.BUILT_IN
        ),
    ]  # fmt: skip


def _ran(value: Any) -> None:
    """Of formats without a checksum: that it was read without another error is all that is known."""


def _of_data(root: Path) -> list[Loader]:
    import event_files as files
    import h5py

    from dpap_neuro.data import Binning, open_dataset
    from dpap_neuro.data.binning import counted
    from dpap_neuro.data.events import checked
    from dpap_neuro.data.folder import read_settings
    from dpap_neuro.data.formats import read_events
    from dpap_neuro.deploy.recordings import read_rasters

    root.mkdir()
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (3, 5, 2, 4, 4)).astype(np.uint8)
    np.save(root / "counts.npy", counts)
    np.savez(root / "counts.npz", input=counts, labels=np.arange(3))
    np.savez_compressed(root / "packed.npz", input=counts.astype(np.float32), labels=np.arange(3))
    events = files.random_events(1, 40, 34, 34, 300_000)
    files.write_atis(root / "a.bin", events)
    table = np.array([(x, y, t, p) for x, y, t, p in events], np.int64)
    np.save(root / "table.npy", table)
    np.savez(root / "columns.npz", x=table[:, 0], y=table[:, 1], t=table[:, 2], p=table[:, 3])
    with h5py.File(root / "a.h5", "w") as file:
        for number, name in enumerate("xytp"):
            file[f"events/{name}"] = table[:, number]
    (root / "a.csv").write_text("x,y,t,p\n" + "".join(f"{x},{y},{t},{p}\n" for x, y, t, p in events))
    (root / "a.txt").write_text("".join(f"{t} {x} {y} {p}\n" for x, y, t, p in events))
    words = [y << 17 | x << 1 | p for x, y, _, p in events]
    aer = b"".join(
        w.to_bytes(4, "big") + t.to_bytes(4, "big") for w, (_, _, t, _) in zip(words, events, strict=True)
    )
    (root / "a.aedat").write_bytes(b"#!AER-DAT2.0\r\n# made here\r\n" + aer)
    dat = b"".join(
        t.to_bytes(4, "little") + (p << 28 | y << 14 | x).to_bytes(4, "little") for x, y, t, p in events
    )
    (root / "a.dat").write_bytes(b"% Width 34\n% Height 34\n" + bytes([0, 8]) + dat)
    evt2 = b"".join(
        (8 << 28 | t >> 6).to_bytes(4, "little")
        + (p << 28 | (t & 63) << 22 | x << 11 | y).to_bytes(4, "little")
        for x, y, t, p in events
    )
    (root / "a.raw").write_bytes(b"% evt 2.0\n% geometry 34x34\n% end\n" + evt2)
    (root / "set").mkdir()
    (root / "set" / "dataset.toml").write_text(
        'classes = ["a", "b"]\nsensor = [34, 34]\ncolumns = ["x", "y", "t", "p"]\ntime_unit = "us"\nbins = 10\nclip = 4\nseed = 3\n'
    )
    binning = Binning(bins=10, clip=4)

    def recording(file: Path) -> None:
        found = read_events(file)
        counted(checked(found.x, found.y, found.t, found.p, SENSOR, file), binning, SENSOR, file)

    found = [
        Loader(f"raster {file}", root / file, lambda f=file: _ran(read_rasters(root / f, (2, 4, 4))))
        for file in ("counts.npy", "counts.npz", "packed.npz")
    ]
    for file in ("a.bin", "table.npy", "columns.npz", "a.h5", "a.csv", "a.txt", "a.aedat", "a.dat", "a.raw"):
        found.append(
            Loader(
                f"recording {file}",
                root / file,
                lambda f=file: recording(root / f),
                text=file in ("a.csv", "a.txt"),
            )
        )
    found.append(
        Loader(
            "dataset.toml",
            root / "set" / "dataset.toml",
            lambda: _ran(read_settings(root / "set")),
            text=True,
        )
    )
    for label in range(2):
        for number in range(3):
            files.write_atis(
                root / f"NMNIST/Train/{label}/{number:05}.bin",
                files.random_events(number, 30, 34, 34, 100_000),
            )
    opened = open_dataset("nmnist", root)
    opened.rasters(binning, None, root / "cache")
    (entry,) = (root / "cache").iterdir()
    found.append(
        Loader(
            "cache",
            entry,
            lambda: _plain(np.array(opened.rasters(binning, None, root / "cache"))),
            sealed=True,
        )
    )
    return found


def _of_originals(root: Path) -> list[Loader]:
    """Data sets as their makers ship them: stills, Gesture's folder, CIFAR10-DVS in zips; and an archive that is unpacked."""
    import io
    import shutil
    import tarfile
    import zipfile

    import event_files as files
    import still_files

    from dpap_neuro.data import open_dataset
    from dpap_neuro.data.download import unpack

    root.mkdir()
    still_files.write_idx(root / "mnist", gzipped=False)
    still_files.write("fashionmnist", root / "fashionmnist")
    still_files.write_cifar(root / "cifar10")
    gestures = root / "dvsgesture"
    gestures.mkdir()
    events = files.random_events(7, 60, 128, 128, 15_000)
    words = b"".join(
        (x << 17 | y << 2 | p << 1 | 1).to_bytes(4, "little") + t.to_bytes(4, "little")
        for x, y, t, p in events
    )
    head = b"".join(n.to_bytes(size, "little") for n, size in ((1, 2), (1, 2), (8, 4), (4, 4), (0, 4)))
    head += b"".join(len(events).to_bytes(4, "little") for _ in range(3))
    (gestures / "user01_led.aedat").write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + head + words)
    (gestures / "user01_led_labels.csv").write_text(
        "class,startTime_usec,endTime_usec\n1,100,4000\n11,4000,9000\n3,8500,12000\n"
    )
    for part in ("train", "test"):
        (gestures / f"trials_to_{part}.txt").write_text("user01_led.aedat\n")
    shipped = root / "cifar10dvs"
    shipped.mkdir()
    aer = b"".join((y << 8 | x << 1 | p).to_bytes(4, "big") + t.to_bytes(4, "big") for x, y, t, p in events)
    for name in ("airplane", "automobile"):
        with zipfile.ZipFile(shipped / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(6):
                archive.writestr(f"{name}/cifar10_{name}_{number}.aedat", b"#!AER-DAT2.0\r\n" + aer)
    with tarfile.open(root / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("set/a.bin")
        entry.size = 3000
        archive.addfile(entry, io.BytesIO(bytes(range(250)) * 12))

    def recordings(name: str) -> None:
        found = open_dataset(name, root / name, "all").recordings
        for number in range(0, len(found), 5):
            found[number]

    def unpacked() -> None:
        shutil.rmtree(root / "unpacked", ignore_errors=True)
        (root / "unpacked").mkdir()
        unpack(root / "a.tar.gz", root / "unpacked")

    damaged = {
        "mnist": "train-images-idx3-ubyte",
        "fashionmnist": "FashionMNIST/raw/train-labels-idx1-ubyte.gz",
        "cifar10": "cifar-10-batches-bin/data_batch_2.bin",
        "dvsgesture": "user01_led_labels.csv",
        "cifar10dvs": "airplane.zip",
    }
    found = [
        Loader(
            f"{name}, shipped", root / name / file, lambda n=name: recordings(n), text=file.endswith(".csv")
        )
        for name, file in damaged.items()
    ]
    found.append(Loader("Gesture's events", gestures / "user01_led.aedat", lambda: recordings("dvsgesture")))
    return [*found, Loader("archive", root / "a.tar.gz", unpacked)]


def _of_runs(root: Path) -> list[Loader]:
    import torch
    from torch import nn

    from dpap_neuro.deploy import comparison
    from dpap_neuro.networks.models import ModelSettings, build_model
    from dpap_neuro.networks.neurons import NeuronSettings
    from dpap_neuro.pruning import make_pruner
    from dpap_neuro.train import checkpoint, loop, runs, sweeps

    root.mkdir()
    torch.manual_seed(0)
    settings = ModelSettings("mlp", (1, 2, 2), 2, NeuronSettings(1e-3, 2e-3))
    network = build_model(settings)
    history = loop.History([loop.Epoch(0, 1.0, 0.5, 10, 10, 10, 10, 0.1)])
    runs.save_run(root / "run", network, history, {"bins": 5, "clip": 4})

    def run() -> Any:
        found, metadata = runs.load_run(root / "run")
        return _plain({**found.state_dict(), "settings": found.settings.to_dict(), "metadata": metadata})

    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint.save_checkpoint(root / "kept", model, optimizer, epoch=1, extra={"history": [1.0, 2.0]})

    def kept() -> Any:
        other = nn.Linear(2, 2)
        own = torch.optim.AdamW(other.parameters())
        found = checkpoint.load_checkpoint(root / "kept", other, own)
        return _plain([other.state_dict(), own.state_dict(), torch.get_rng_state(), found.epoch, found.extra])

    rows = [
        sweeps.Row(name, 0.8, "parameters", seed, 2, 10, 8, 6, 0.75, 100, 20, 300, 60, 5, 1.5)
        for name in ("dpap", "magnitude") for seed in range(3)
    ]  # fmt: skip
    sweeps.write_table(rows, root / "runs.csv")
    model = asdict(ModelSettings("mlp", (2, 4, 4), 3, NeuronSettings(0.01, 0.02)))
    shared = {"model": model.pop("name"), "batch": 8, **model}
    sweeps.write_sealed(root / "runs.json", shared, 2)
    weights, training = (next((root / "kept").glob(f"{name}-*")) for name in ("weights", "training"))
    make_pruner("none")
    return [
        Loader("run.json", root / "run" / "run.json", run, True, True),
        Loader("weights.safetensors", root / "run" / "weights.safetensors", run, True),
        Loader("recorded accuracy", root / "run" / "run.json",
               lambda: comparison.recorded_accuracy(root / "run" / "model.nir"), True, True),
        Loader("checkpoint.json", root / "kept" / "checkpoint.json", kept, True, True),
        Loader("checkpoint's weights", weights, kept, True),
        Loader("checkpoint's training", training, kept, True),
        Loader("runs.csv", root / "runs.csv", lambda: sweeps.read_table(root / "runs.csv"), False, True),
        Loader("runs.json", root / "runs.json", lambda: sweeps._check_shared(root / "runs.json", shared, True), True, True),
    ]  # fmt: skip


# --- running -----------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """Not an Exception, so that no loader takes it for one of its own."""


def _late(*_: object) -> None:
    raise TooLong


def one(loader: Loader, original: bytes, expected: Any, seed: int, tally: Tally) -> None:
    """Damage, load, judge; the file is as it was afterwards."""
    rng = random.Random(f"{loader.name} {seed}")
    loader.file.write_bytes(damaged(original, rng, loader.text))
    tally.inputs += 1
    begin = time.perf_counter()
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = loader.load()
        if loader.sealed and found != expected:
            tally.wrong.append(f"{loader.name} seed {seed}: something else than was written came back")
        else:
            tally.right += 1
    except BadInput as error:
        line = str(error)
        if "\n" in line or not line or len(line) > 1000:
            tally.wrong.append(f"{loader.name} seed {seed}: not one line: {line[:200]!r}")
        else:
            tally.refused += 1
    except TooLong:
        tally.wrong.append(f"{loader.name} seed {seed}: more than {SECONDS} s")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        tally.wrong.append(
            f"{loader.name} seed {seed}: {type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        )
    finally:
        signal.alarm(0)
        loader.file.write_bytes(original)
    tally.slowest = max(tally.slowest, time.perf_counter() - begin)


def fuzz(
    root: Path, inputs: int, seed: int = 0, only: str | None = None, seconds: float = float("inf")
) -> dict[str, Tally]:
    """`inputs` over all loaders, in turn, for so many seconds at most."""
    tallies: dict[str, Tally] = {}
    begin = time.perf_counter()
    with loaders(root) as every:
        chosen = [loader for loader in every if only in (None, loader.name)]
        known = {loader.name: (loader.file.read_bytes(), loader.load()) for loader in chosen}
        number = 0
        while number < inputs and time.perf_counter() - begin < seconds:
            loader = chosen[number % len(chosen)]
            original, expected = known[loader.name]
            one(
                loader,
                original,
                expected,
                seed + number // len(chosen),
                tallies.setdefault(loader.name, Tally()),
            )
            number += 1
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    head = f"{'loader':24} {'inputs':>8} {'right':>8} {'refused':>8} {'wrong':>6} {'slowest':>8}"
    lines = [head]
    total = Tally()
    for name, tally in tallies.items():
        lines.append(_line(name, tally))
        total.inputs, total.right, total.refused = (
            a + b
            for a, b in zip(
                (total.inputs, total.right, total.refused),
                (tally.inputs, tally.right, tally.refused),
                strict=True,
            )
        )
        total.wrong += tally.wrong
        total.slowest = max(total.slowest, tally.slowest)
    return "\n".join([*lines, _line("all", total)])


def _line(name: str, tally: Tally) -> str:
    counts = f"{tally.inputs:8} {tally.right:8} {tally.refused:8} {len(tally.wrong):6}"
    return f"{name:24} {counts} {tally.slowest:6.2f} s"


def limit_memory() -> None:
    """`MEMORY` more than is mapped now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="over all loaders")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loader", help="only this one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    faulthandler.enable()
    import dpap_neuro.deploy.comparison
    import dpap_neuro.train.runs  # noqa: F401

    limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        tallies = fuzz(Path(folder), given.inputs, given.seed, given.loader, given.seconds)
    if given.json:
        print(json.dumps({name: vars(tally) for name, tally in tallies.items()}))
    else:
        print(table(tallies))
    wrong = [text for tally in tallies.values() for text in tally.wrong]
    for text in wrong[:50]:
        print(text, file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
