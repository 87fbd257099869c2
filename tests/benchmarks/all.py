"""All benchmarks that together take less than ten minutes, as one table of what they say, with machine and versions.

python tests/benchmarks/all.py [--out table.md] [--lava PYTHON] [--only NAME ...]

Each runs in a process of its own, one after the other, so give it a quiet machine. --lava: a Python 3.10 with lava-nc 0.10.0, for
the comparisons with Lava; LAVA_PYTHON in the environment does as well. What cannot be run is named in the table, with the reason, and the others go on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = ("dpap-neuro", "torch", "norse", "numpy", "numba", "scipy", "spikingjelly", "snntorch")
# No benchmark here takes half of it.
MOST_SECONDS = 600


@dataclass(frozen=True)
class Benchmark:
    """arguments: of Python, the script first. said: a regular expression for the lines of its output that are results."""

    what: str
    arguments: tuple[str, ...]
    said: str
    lava: bool = False

    @property
    def name(self) -> str:
        return Path(self.arguments[0]).stem.removeprefix("bench_")

    @property
    def command(self) -> str:
        return f"python tests/benchmarks/{' '.join(self.arguments)}"


BENCHMARKS = (
    Benchmark("start-up", ("bench_startup.py",), r"\d"),
    Benchmark("training step, one thread", ("bench_training.py",), r"times ours|^ours:|left out"),
    Benchmark("training step, two threads", ("bench_training.py", "--threads", "2"), r"times ours|^ours:"),
    Benchmark("training step on the chip's integers", ("bench_exact.py",), r"ratio"),
    Benchmark("what a pruner costs", ("bench_pruning.py", "none", "dpap", "weighted"), r"\d"),
    Benchmark("float simulator against the integer one", ("bench_float.py",), r"\d"),
    Benchmark("fidelity against its two runs", ("bench_fidelity_time.py",), r"median|absent"),
    Benchmark("simulator, synaptic events", ("bench_simulator.py", "conv"), r"\d"),
    Benchmark("simulator, one recording on two cores", ("bench_simulator.py", "alone"), r"\d"),
    Benchmark("integer simulator against Lava", ("bench_lava.py",), r"neurons|ratio|skipped", lava=True),
    Benchmark("placement for time", ("bench_placement.py", "time"), r"\d"),
    Benchmark("export, reading, import", ("bench_nir.py",), r"\d"),
)


def run(benchmark: Benchmark, python: str | None) -> tuple[list[str], float]:
    """Its results, line by line, or why there are none; and the seconds that it took."""
    if python is None:
        return ["not run: no Python with lava-nc (--lava PYTHON)"], 0.0
    begin = time.perf_counter()
    paths = os.pathsep.join(p for p in (str(HERE.parents[1]), os.environ.get("PYTHONPATH")) if p)
    try:
        done = subprocess.run(
            [python, str(HERE / benchmark.arguments[0]), *benchmark.arguments[1:]],
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        return [f"not finished in {MOST_SECONDS} s"], time.perf_counter() - begin
    took = time.perf_counter() - begin
    lines = [line.strip() for line in done.stdout.splitlines() if re.search(benchmark.said, line)]
    # Status 1 with results is a bar that is missed, and says so itself.
    if done.returncode and (done.returncode != 1 or not lines or "Traceback" in done.stderr):
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        return [f"failed with status {done.returncode}: {last[:200]}"], took
    return lines or ["said nothing"], took


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--out", type=Path)
    parser.add_argument("--lava", default=os.environ.get("LAVA_PYTHON"))
    parser.add_argument("--only", nargs="+", choices=sorted({b.name for b in BENCHMARKS}))
    given = parser.parse_args()
    lines = [
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}; {versions()}",
        "",
        "| what | result | seconds | command |",
        "|---|---|---|---|",
    ]
    for benchmark in BENCHMARKS:
        if given.only and benchmark.name not in given.only:
            continue
        print(benchmark.command, file=sys.stderr, flush=True)
        found, took = run(benchmark, given.lava if benchmark.lava else sys.executable)
        cell = "<br>".join(" ".join(line.replace("|", "\\|").split()) for line in found)
        lines.append(f"| {benchmark.what} | {cell} | {took:.0f} | `{benchmark.command}` |")
        print(lines[-1], flush=True)
    if given.out is not None:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
