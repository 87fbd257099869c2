"""How well the chip runs the network that was trained: spikes alike, layer by layer, with what the compiler can do about it.

    python tests/benchmarks/bench_fidelity.py [cuba] [braille] [cnn] [grid] [--recordings N]

On the recordings of ../shared/data (absent: that part is left out). What is fitted to recordings (headroom of pairs,
calibration) is fitted to FITTED recordings, others than are reported.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from hardware.chip.chips import as_chip  # noqa: E402
from hardware.compile.calibrate import calibrate  # noqa: E402
from hardware.compile.compiler import Compiled, compile_layers  # noqa: E402
from hardware.compile.pairs import choose_pairs, saturation, seen_on  # noqa: E402
from hardware.graph.graph import Graph  # noqa: E402
from hardware.graph.parsing import from_nir, read_graph  # noqa: E402
from hardware.placement import place  # noqa: E402
from hardware.simulate import fidelity, float_simulator, reference, simulator  # noqa: E402

SHARED = ROOT.parent / "shared"
FITTED = 12
CHUNK = 50


def nmnist(count: int | None, **binning: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rasters and labels of the shared recordings, spread evenly."""
    from dpap_neuro.data import Binning, open_dataset, rasters

    opened = open_dataset("nmnist", SHARED / "data" / "nmnist", "train")
    total = len(opened.recordings.labels)
    chosen = np.linspace(0, total - 1, min(count or total, total)).astype(int)
    parts = [opened.recordings[int(i)] for i in chosen]
    return rasters(parts, Binning(**binning), opened.sensor_size), np.asarray(opened.recordings.labels)[
        chosen
    ]


class Judge:
    """Float spikes of the recordings that are reported, a stretch at a time, against networks on the same."""

    def __init__(self, graph: Graph, x: np.ndarray, labels: np.ndarray, dt: float | None, reset: Any = None):
        self.graph, self.dt, self.reset = graph, dt, reset
        held = np.ones(len(x), bool)
        held[np.linspace(0, len(x) - 1, FITTED).astype(int)] = False
        self.fitted, self.x, self.labels = x[~held], x[held], labels[held]
        self.float_accuracy: float | None = None

    def says(self, title: str, networks: dict[str, Compiled]) -> dict[str, float]:
        """Overall agreement of each network; prints all."""
        parts: dict[str, Any] = {name: {} for name in networks}
        right, exactly = dict.fromkeys(networks, 0), 0
        for at in range(0, len(self.x), CHUNK):
            x, labels = self.x[at : at + CHUNK], self.labels[at : at + CHUNK]
            first = next(iter(networks.values())).network
            names = [p.name for p in first.populations if p.spiking]
            exact = float_simulator.simulate(self.graph, x, self.dt, self.reset, names, membranes=False)
            exactly += int((fidelity.predictions(exact.output) == labels).sum())
            for name, compiled in networks.items():
                run = simulator.simulate(compiled.network, x, record={n: ("spikes",) for n in names})
                right[name] += int((fidelity.predictions(run.output) == labels).sum())
                for key, part in fidelity.agreements(exact.spikes, run.spikes).items():
                    parts[name][key] = parts[name].get(key, fidelity.Agreement(0, 0)) + part
        n = len(self.x)
        print(f"\n{title}: {n} recordings, accuracy in float {exactly / n:.2%}")
        found = {}
        for name, compiled in networks.items():
            found[name] = fidelity.overall(parts[name]).share
            layers = " ".join(f"{key} {part.share:.4f}" for key, part in parts[name].items())
            synapses = sum(r.synapses for r in compiled.reports)
            placed = place(compiled.network, as_chip("loihi2"), effort=0.2)
            bits = int(placed.memory_bits_per_core.sum())
            print(
                f"  {name:34} accuracy {right[name] / n:.2%}  overall {found[name]:.4f}  {layers}  synapses {synapses:,}"
                f"  {placed.cores} cores of loihi2, {bits:,} bits"
            )
        return found


def cuba(count: int | None) -> None:
    graph = read_graph(SHARED / "cases" / "cubalif_nmnist.nir")
    x, labels = nmnist(count, bins=graph.metadata["bins"], clip=graph.metadata["clip"])
    judge = Judge(graph, x, labels, None)
    networks = {chip: compile_layers(graph, chip) for chip in ("loihi1", "loihi2")}
    seen = seen_on(networks["loihi2"], judge.fitted)
    networks["loihi2, all pairs"] = compile_layers(graph, "loihi2", pairs=True, seen=seen)
    judge.says("cubalif_nmnist, biases through an always-on input", networks)


def braille(count: int | None) -> None:
    graph = read_graph(SHARED / "data" / "nir" / "braille_noDelay_noBias_subtract.nir")
    with np.load(SHARED / "data" / "braille" / "braille7.npz") as file:
        x, labels = np.unpackbits(file["spikes"], axis=1)[:count], file["labels"][:count]
    for reset in ("subtract", "zero"):
        judge = Judge(graph, x, labels, 1e-4, reset)
        options: dict[str, Any] = {"dt": 1e-4, "reset": reset}
        plain = compile_layers(graph, "loihi2", **options)
        seen = seen_on(plain, judge.fitted)
        both = compile_layers(graph, "loihi2", pairs=True, seen=seen, **options)
        judge.says(f"braille, reset {reset}", {"8 bits": plain, "all pairs": both})
        print("  saturation of all pairs:", saturation(both.network, judge.x[:100]))


def cnn(count: int | None) -> None:
    graph = read_graph(SHARED / "data" / "nir" / "cnn_sinabs.nir")
    x, labels = nmnist(count or 200, bin_us=1000)
    judge = Judge(graph, x, labels, None)
    print("fitted to", len(judge.fitted), "recordings")
    plain = compile_layers(graph, "loihi2")
    seen = seen_on(plain, judge.fitted)
    networks = {
        "8 bits, a scale per channel": plain,
        "8 bits, one scale": compile_layers(graph, "loihi2", per_channel=False),
        "all pairs": compile_layers(graph, "loihi2", pairs=True, seen=seen),
        "4 bits, a scale per channel": compile_layers(graph, "loihi2", weight_bits=4),
        "4 bits, one scale": compile_layers(graph, "loihi2", weight_bits=4, per_channel=False),
    }
    for exponents in (1, 3):
        begin = time.perf_counter()
        fitted, _ = calibrate(graph, "loihi2", judge.fitted, weight_bits=4, exponents=exponents)
        networks[f"4 bits, calibrated, {exponents} exponents"] = fitted
        print(f"calibrated in {time.perf_counter() - begin:.0f} s")
    first = [("input", "1")]
    networks["4 bits, calibrated, first in pairs"], _ = calibrate(
        graph, "loihi2", judge.fitted, weight_bits=4, pairs=first, seen=seen
    )
    begin = time.perf_counter()
    chosen, choice = choose_pairs(graph, "loihi2", judge.fitted, 0.9)
    networks["pairs auto, 0.9"] = chosen
    print(f"chosen in {time.perf_counter() - begin:.0f} s: {choice}")
    found = judge.says("cnn_sinabs", networks)
    for at, base in (
        ("a scale per channel", "8 bits, a scale per channel"),
        ("one scale", "8 bits, one scale"),
    ):
        low, high = found[f"4 bits, {at}"], found[base]
        for exponents in (1, 3):
            back = (found[f"4 bits, calibrated, {exponents} exponents"] - low) / (high - low)
            print(
                f"  of what 4 bits lose ({at}), calibration over {exponents} exponents brings back {back:.0%}"
            )


def grids(count: int | None) -> None:
    """Networks whose weights and thresholds are whole multiples of a step, without leaks: every spike."""
    total, differing = 0, 0
    for bits in range(2, 9):
        for seed in range(count or 6):
            rng = np.random.default_rng(seed)
            most, step = 2 ** (bits - 1) - 1, 2.0 ** -int(rng.integers(0, 8))
            nodes: dict[str, Any] = {"in": nir.Input({"input": np.array([20])})}
            for k, (post, pre) in enumerate(((32, 20), (32, 32), (10, 32))):
                weight = rng.integers(-most, most + 1, (post, pre)) * step
                nodes[f"l{k}"] = nir.Affine(weight, rng.integers(-2, 3, post) * step / 2)
                nodes[f"if{k}"] = nir.IF(
                    np.ones(post), np.full(post, rng.integers(3, 12) * step), np.zeros(post)
                )
            nodes["out"] = nir.Output({"output": np.array([10])})
            names = list(nodes)
            graph = from_nir(nir.NIRGraph(nodes, list(pairwise(names)), type_check=False))
            compiled = compile_layers(graph, "loihi2", weight_bits=bits)
            x = (rng.random((20, 50, 20)) < 0.2).astype(np.int32)
            record = ["if0", "if1", "if2"]
            exact = reference.simulate(graph, x, record=record).spikes
            run = simulator.simulate(compiled.network, x, record=record).spikes
            total += sum(int(s.sum()) for s in exact.values())
            differing += sum(int((exact[k] != run[k]).sum()) for k in record)
    print(f"\nnetworks on a grid, 2 to 8 bits: {total:,} spikes, {differing} differ")


if __name__ == "__main__":
    parts = {"grid": grids, "cuba": cuba, "braille": braille, "cnn": cnn}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", help=", ".join(parts))
    parser.add_argument("--recordings", type=int, help="at most so many (grid: networks per width)")
    given = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is absent")
    for name in given.part or parts:
        parts[name](given.recordings)
