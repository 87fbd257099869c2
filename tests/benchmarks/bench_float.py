"""The float simulator, compiled, against the integer one and against its definition: python tests/benchmarks/bench_float.py

The convolutional network of the NIR paper on shared N-MNIST recordings, spikes of every population kept by nobody, as in
`dpap-neuro evaluate`. Runs alternate within one process; ratios are of the shortest times.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

from graph_samples import SHARED  # noqa: E402
from nmnist_samples import recordings  # noqa: E402

from hardware.compile.compiler import compile_graph  # noqa: E402
from hardware.graph.parsing import read_graph  # noqa: E402
from hardware.simulate import reference  # noqa: E402
from hardware.simulate.float_simulator import FloatSimulator  # noqa: E402
from hardware.simulate.simulator import Simulator  # noqa: E402


def main(samples: int = 100, steps: int = 314, repeats: int = 5) -> None:
    graph = read_graph(next(SHARED.rglob("cnn_sinabs.nir")))
    raster, _ = recordings(samples, steps)
    compiled, integers = FloatSimulator(graph), Simulator(compile_graph(graph, "loihi2")[0])
    ways = {"integer": lambda: integers.run(raster), "compiled": lambda: compiled.run(raster)}
    times: dict[str, list[float]] = {name: [] for name in (*ways, "NumPy")}
    found = {}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            found[name] = way()
            times[name].append(time.perf_counter() - begin)
    begin = time.perf_counter()
    exact = reference.simulate(graph, raster)
    times["NumPy"].append(time.perf_counter() - begin)
    seconds = {name: min(t) for name, t in times.items()}
    same = all(np.array_equal(exact.counts[k], found["compiled"].counts[k]) for k in exact.counts)
    print(
        f"{len(raster)} recordings of {raster.shape[1]} steps: integer {seconds['integer']:.2f} s, float compiled "
        f"{seconds['compiled']:.2f} s ({seconds['compiled'] / seconds['integer']:.1f} times that), NumPy "
        f"{seconds['NumPy']:.2f} s ({seconds['NumPy'] / seconds['integer']:.0f} times); spikes equal: {same}"
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
