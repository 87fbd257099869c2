"""fidelity on recordings of N-MNIST against one float and one integer run of the same: at most three times their time.

python tests/benchmarks/bench_fidelity_time.py [--recordings 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from dpap_neuro.data import Binning, open_dataset  # noqa: E402
from hardware.compile.compiler import compile_graph  # noqa: E402
from hardware.graph.parsing import read_graph  # noqa: E402
from hardware.simulate.fidelity_report import fidelity  # noqa: E402
from hardware.simulate.float_simulator import FloatSimulator  # noqa: E402
from hardware.simulate.simulator import Simulator  # noqa: E402

DATA = ROOT.parent / "shared" / "data"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recordings", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    graph = read_graph(DATA / "nir" / "cnn_sinabs.nir")
    network, _ = compile_graph(graph, "loihi2")
    opened = open_dataset("nmnist", DATA / "nmnist", "train")
    raster = np.concatenate(
        [
            np.pad(x, [(0, 0), (0, 320 - x.shape[1]), (0, 0), (0, 0), (0, 0)])
            for x in opened.parts(Binning(bin_us=1000), opened.chosen(asked.recordings))
        ]
    )
    units = {p.name: (64.0, 0.0) for p in network.populations}
    exactly, fixed = FloatSimulator(graph, network.dt), Simulator(network)
    names = [p.name for p in network.populations if p.spiking]
    fidelity(graph, network, [raster[:2]], units=units)  # compiled once
    ratios = []
    for _ in range(asked.rounds):
        times = [time.perf_counter()]
        exactly.run(raster, names, membranes=False)
        times.append(time.perf_counter())
        fixed.run(raster, record={name: ("spikes",) for name in names})
        times.append(time.perf_counter())
        fidelity(graph, network, [raster], units=units)
        times.append(time.perf_counter())
        once_float, once_fixed, whole = np.diff(times)
        ratios.append(whole / (once_float + once_fixed))
        print(
            f"float {once_float:.2f} s, integers {once_fixed:.2f} s, fidelity {whole:.2f} s: {ratios[-1]:.2f} times both"
        )
    print(f"median: {statistics.median(ratios):.2f} times, at most 3")


main()
