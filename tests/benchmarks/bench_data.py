"""Recordings on their way into training: binning in processes, an epoch from the cache beside one from memory, a set larger than memory.

python tests/benchmarks/bench_data.py [--recordings 1000] [--events 4200] [--rounds 3] [--gigabytes 0] [--folder DIR]

Ratios of interleaved repeats. Recordings have N-MNIST's format and, without --events, as many events as those; DVS128 Gesture's have some
hundred thousand (--recordings 200 --events 300000). --gigabytes 20 also trains an epoch on a made set of so many gigabytes of counts with `dpap-neuro train`
in a process of its own, whose memory is watched, and removes it all again. Bars: two workers at least 1.6 times one; an epoch from the
cache at most 1.1 times one from memory; under 4 GB of memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nir
import numpy as np
import torch

from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import runs
from dpap_neuro.train.loop import TrainSettings
from hardware.machine import cores

# Of N-MNIST's recordings.
EVENTS, LAST_US = 4_200, 306_000


def write(root: Path, n: int, events: int) -> None:
    """n recordings of N-MNIST's format in 10 classes, each busier in rows of its own, a fifth of them for testing."""
    rng = np.random.default_rng(0)
    for number in range(n):
        label, split = number % 10, "Test" if number // 10 % 5 == 4 else "Train"
        t = np.sort(rng.integers(0, LAST_US, events))
        x, y = rng.integers(0, 34, events), rng.integers(0, 34, events)
        y[: events // 2] = rng.integers(0, 3, events // 2) + 3 * label
        raw = np.stack([x, y, rng.integers(0, 2, events) << 7 | t >> 16, t >> 8 & 255, t & 255], 1)
        path = root / f"NMNIST/{split}/{label}/{number:06}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw.astype(np.uint8).tobytes())


def binning(root: Path, rounds: int, scratch: Path) -> float:
    """How many times as fast two workers are as one."""
    opened, ratios = open_dataset("nmnist", root, "all"), []
    for number in range(rounds):
        seconds = []
        for workers in (1, 2):
            begin = time.perf_counter()
            opened.stored(Binning(bins=10, clip=4), scratch / f"{number}-{workers}", workers=workers)
            seconds.append(time.perf_counter() - begin)
        ratios.append(seconds[0] / seconds[1])
        print(f"  binning: {seconds[0]:.2f} s with one worker, {seconds[1]:.2f} s with two", flush=True)
    return statistics.median(ratios)


def epochs(root: Path, rounds: int, scratch: Path) -> tuple[float, bool]:
    """Time of an epoch from the cache over one from memory, and whether the weights are the same, byte for byte."""
    ratios, same = [], True
    for number in range(rounds):
        seconds, weights = [], []
        order = (None, scratch) if number % 2 == 0 else (scratch, None)
        for cache in order:
            split = runs.load_split("nmnist", root, Binning(bins=10, clip=4), None, cache)
            model = runs.model_settings(split, "cnn", "spikes", 0.5, 0.5)
            network, history = runs.train_run(
                split,
                model,
                make_pruner("none", epochs=3),
                TrainSettings(epochs=3, batch=64),
                torch.device("cpu"),
            )
            # The first one warms up.
            seconds.append(min(epoch.seconds for epoch in history.epochs[1:]))
            weights.append(b"".join(v.numpy().tobytes() for v in network.state_dict().values()))
        same &= weights[0] == weights[1]
        at = order.index(scratch)
        ratios.append(seconds[at] / seconds[1 - at])
        print(f"  epoch: {seconds[1 - at]:.2f} s from memory, {seconds[at]:.2f} s from the cache", flush=True)
    return statistics.median(ratios), same


def large(gigabytes: float, scratch: Path) -> None:
    steps = 1_000
    n = -(-int(gigabytes * 1e9) // (steps * 2 * 34 * 34))
    write(scratch / "large", n, 500)
    rng = np.random.default_rng(0)

    def neurons(n: int) -> nir.LIF:
        one = np.ones(n, np.float32)
        return nir.LIF(tau=2e-3 * one, r=one, v_leak=0 * one, v_threshold=0.05 * one, v_reset=0 * one)

    def dense(n: int, m: int) -> nir.Affine:
        return nir.Affine(rng.normal(0, 1, (m, n)).astype(np.float32), np.zeros(m, np.float32))

    nodes = {
        "input": nir.Input({"input": np.array([2, 34, 34])}),
        "pool": nir.AvgPool2d(kernel_size=(17, 17), stride=(17, 17), padding=(0, 0)),
        "flat": nir.Flatten({"input": np.array([2, 2, 2])}, 0, -1),
        "hidden": dense(8, 16),
        "hidden_lif": neurons(16),
        "out": dense(16, 10),
        "out_lif": neurons(10),
        "output": nir.Output({"output": np.array([10])}),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(names)))
    graph.metadata = {"dt": LAST_US * 1e-6 / steps, "reset": "zero"}
    nir.write(scratch / "pooled.nir", graph)
    command = ["train", "--dataset", "nmnist", "--data-dir", scratch / "large", "--model", scratch / "pooled.nir", "--bins", steps,
               "--clip", 4, "--epochs", 1, "--batch", 16, "--pruner", "none", "--cache-dir", scratch / "cache", "--device", "cpu",
               "--dt", LAST_US * 1e-6 / steps, "--out", scratch / "run"]  # fmt: skip
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dpap_neuro.cli", *map(str, command)])
    peak: dict[str, int] = {}
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    code = process.wait()
    watcher.join()
    size = sum(path.stat().st_size for path in (scratch / "cache").iterdir())
    print(
        f"large: {n:,} recordings, a cache of {size / 1e9:.1f} GB; exit status {code} after {time.perf_counter() - begin:.0f} s; "
        f"most memory at once, of all its processes together: {peak.get('all', 0) / 1e9:.2f} GB resident, of which "
        f"{peak.get('own', 0) / 1e9:.2f} GB are its own and not pages of files; the largest process {peak.get('one', 0) / 1e9:.2f} GB "
        f"(bar 4 GB)"
    )


def _watch(process: subprocess.Popen, peak: dict[str, int]) -> None:
    """Resident memory of a process and its children, from /proc, twenty times a second."""
    while process.poll() is None:
        found = []
        for pid in [process.pid, *_children(process.pid)]:
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            values = {
                line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")
            }
            found.append((values.get("VmRSS", 0), values.get("RssAnon", 0)))
        if found:
            for key, value in (("all", sum(a for a, _ in found)), ("own", sum(b for _, b in found)), ("one", max(a for a, _ in found))):  # fmt: skip
                peak[key] = max(peak.get(key, 0), value)
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--events", type=int, default=EVENTS, help="of a recording")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=0)
    parser.add_argument("--folder", type=Path, help="where the made sets lie for a while")
    asked = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {cores()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        scratch = Path(name)
        if asked.rounds:
            write(scratch, asked.recordings, asked.events)
            faster = binning(scratch, asked.rounds, scratch / "cache")
            print(f"two workers: {faster:.2f} times one (bar 1.6)")
            ratio, same = epochs(scratch, asked.rounds, scratch / "cache")
            print(f"epoch from the cache: {ratio:.2f} times one from memory (bar 1.1); same weights: {same}")
        if asked.gigabytes:
            large(asked.gigabytes, scratch)


if __name__ == "__main__":
    main()
