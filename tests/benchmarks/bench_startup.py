"""How long short commands take beside the imports that they cannot do without.

python tests/benchmarks/bench_startup.py [MODEL.nir] [--repeats 15]

`--help` against `import typer, rich`; `cores`, `inspect` and `compile` on MODEL against `import numpy, nir, numba, scipy`. Processes take turns; given are
medians in seconds, the ratio of medians, and the ratio of processor time (children included), which other work on the machine disturbs less.
Compiled modules are kept, as of an installed package, in a folder of this run's: PYTHONDONTWRITEBYTECODE would have the project's own compiled anew
in each process, and those of other packages read.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PRETRAINED = Path(__file__).parents[2] / "examples/pretrained/nmnist-weighted.nir"
BASES = {"typer, rich": "import typer, rich", "numpy, nir, numba, scipy": "import numpy, nir, numba, scipy"}


def used() -> float:
    """Processor time of all children so far."""
    of = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of.ru_utime + of.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=PRETRAINED)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = [sys.executable, "-m", "dpap_neuro.cli"]
        commands = {name: [sys.executable, "-c", code] for name, code in BASES.items()}
        commands["--help"] = [*own, "--help"]
        commands["cores"] = [*own, "cores", str(given.model)]
        commands["inspect"] = [*own, "inspect", str(given.model)]
        commands["compile"] = [*own, "compile", str(given.model), "--out", f"{folder}/m.h5"]
        wall: dict[str, list[float]] = {name: [] for name in commands}
        processor: dict[str, list[float]] = {name: [] for name in commands}
        kept = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        for repeat in range(given.repeats + 1):
            for name, arguments in commands.items():
                begin, before = time.perf_counter(), used()
                subprocess.run(arguments, check=True, capture_output=True, env=kept)
                if repeat:  # the first fills caches
                    wall[name].append(time.perf_counter() - begin)
                    processor[name].append(used() - before)
    for name in commands:
        seconds, base = (
            statistics.median(wall[name]),
            "typer, rich" if name == "--help" else "numpy, nir, numba, scipy",
        )
        if name in BASES:
            print(f"import {name}: {seconds:.3f} s")
            continue
        ratio = seconds / statistics.median(wall[base])
        of_processor = statistics.median(processor[name]) / statistics.median(processor[base])
        print(
            f"{name}: {seconds:.3f} s, {ratio:.2f} times import {base}; processor time {of_processor:.2f} times"
        )


if __name__ == "__main__":
    main()
