"""Speed and memory of the simulator: python tests/benchmarks/bench_simulator.py [conv | pruned | alone | start | memory ...]

conv: synaptic events per second and core, every input pixel spiking in every step.
pruned: a fully connected network with 90 % of its weights pruned at random against the same one unpruned; once
    as it is, when it spikes less, and once with thresholds lowered until it spikes as much as before.
alone: one recording of PilotNet on one core and on two, interleaved; on a quiet machine with two cores.
start: a fresh process whose compiled code is not on disk yet, until its first simulation is over.
memory: the peak of a process that builds and runs 100 million sparse synapses.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from hardware.network.integer import (  # noqa: E402
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)


def best(function, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.process_time()  # of one thread, so that other processes on the machine do not count
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def conv(channels=32, size=64, kernel=3):
    from hardware.simulate.simulator import Simulator

    rng = np.random.default_rng(0)
    weight = (rng.integers(-60, 60, (channels, channels, kernel, kernel)) * 2).astype(np.int16)
    shape = (channels, size, size)
    network = Network(
        (InputPopulation("in", shape),),
        (Population("conv", shape, vth=1000),),
        (ConvProjection("in", "conv", weight, padding=(kernel // 2, kernel // 2)),),
        ("conv",),
    )
    simulator = Simulator(network)
    raster = np.ones((1, 10, *shape), np.uint8)
    seconds, run = best(lambda: simulator.run(raster, threads=1))
    events = run.event_counts["conv"].sum()
    print(
        f"conv {channels}x{size}x{size}, kernel {kernel}x{kernel}: {events:,} events in {seconds * 1e3:.1f} ms, "
        f"{events / seconds / 1e9:.2f}e9 events a second and core"
    )


def pruned(neurons=4096, layers=3, steps=40, rate=0.05):
    from hardware.simulate.simulator import Simulator

    rng = np.random.default_rng(0)
    keep = [rng.random((neurons, neurons)) < 0.1 for _ in range(layers)]
    weights = [
        rng.integers(-100, 101, (neurons, neurons), dtype=np.int16) * np.int16(2) for _ in range(layers)
    ]
    raster = (rng.random((1, steps, neurons)) < rate).astype(np.uint8)
    names = ["in", *(f"layer{k}" for k in range(layers))]
    seconds = {}
    for title, share, alive in (
        ("unpruned", 1.0, 1.0),
        ("90 % pruned", 0.1, 1.0),
        ("90 % pruned, as active", 0.1, 0.1),
    ):
        network = Network(
            (InputPopulation("in", (neurons,)),),
            tuple(
                Population(name, (neurons,), dv=4096, vth=int(threshold(neurons * alive, rate)))
                for name in names[1:]
            ),
            tuple(
                DenseProjection(a, b, w if share == 1.0 else np.where(k, w, 0).astype(np.int16))
                for a, b, w, k in zip(names, names[1:], weights, keep, strict=False)
            ),
            (names[-1],),
        )
        simulator = Simulator(network)
        seconds[title], run = best(lambda s=simulator: s.run(raster, threads=1))
        events = sum(int(e.sum()) for e in run.event_counts.values())
        active = sum(run.spike_counts[n].sum() for n in names[:-1]) / (len(names) - 1) / steps / neurons
        print(
            f"{title}: {neurons} neurons x {layers} layers, {active:.1%} active, {events:,} events, "
            f"{seconds[title] / steps * 1e6:.0f} us a step, {events / seconds[title] / 1e9:.2f}e9 events a second, "
            f"{seconds['unpruned'] / seconds[title]:.1f} times as fast"
        )


def threshold(sources, rate):
    """1.64 standard deviations of a sum of weights uniform in -200..200: one neuron in twenty exceeds it."""
    return 1.64 * np.sqrt(sources * rate) * 200 / np.sqrt(3)


def alone(repeats=25):
    from bench_lava import pilotnet

    from hardware.simulate.simulator import Simulator

    for steps in (128, 314):
        network, raster = pilotnet(steps)
        simulator = Simulator(network)
        took: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(repeats):
            for threads, seconds in took.items():
                begin = time.perf_counter()
                simulator.run(raster[None], threads=threads)
                seconds.append(time.perf_counter() - begin)
        one, two = (float(np.median(seconds)) for seconds in took.values())
        print(
            f"PilotNet, one recording of {steps} steps: {one * 1e3:.1f} ms on one core, {two * 1e3:.1f} on two, {one / two:.2f} times"
        )


def start():
    program = (
        "import time; t = time.perf_counter(); import numpy as np\n"
        "from hardware.network.integer import *; from hardware.simulate.simulator import simulate\n"
        "n = Network((InputPopulation('i', (2,)),), (Population('p', (2,)),),"
        " (DenseProjection('i', 'p', np.eye(2, dtype=np.int16) * 100),), ('p',))\n"
        "simulate(n, np.ones((1, 3, 2), np.uint8)); print(f'{time.perf_counter() - t:.1f}')"
    )
    with tempfile.TemporaryDirectory() as cache:
        for state in ("fresh", "cached"):
            done = subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"first simulation, {state}: {done.stdout.strip()} s")


def memory():
    done = subprocess.run(
        [sys.executable, __file__, "memory-child"], capture_output=True, text=True, check=True
    )
    print(done.stdout.strip())


def memory_child(synapses=100_000_000, neurons=1_000_000):
    from hardware.simulate.simulator import Simulator

    each = synapses // neurons
    rng = np.random.default_rng(0)
    post = rng.integers(0, neurons, synapses, dtype=np.int32)
    weight = rng.integers(-64, 64, synapses, dtype=np.int8) * np.int8(2)
    network = Network(
        (InputPopulation("in", (neurons,)),),
        (Population("p", (neurons,), dv=100, vth=500),),
        (SparseProjection("in", "p", np.arange(0, synapses + 1, each), post, weight),),
        ("p",),
    )
    raster = (rng.random((1, 4, neurons), dtype=np.float32) < 0.05).astype(np.uint8)
    simulator = Simulator(network)
    seconds, run = best(lambda: simulator.run(raster, threads=1), 2)
    events = int(run.event_counts["p"].sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(
        f"{len(weight):,} sparse synapses: peak {peak:.2f} GB of the whole process, "
        f"{events / seconds / 1e9:.2f}e9 events a second"
    )


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["conv", "pruned", "alone", "start", "memory"]
    for name in chosen:
        {
            "conv": conv,
            "pruned": pruned,
            "alone": alone,
            "start": start,
            "memory": memory,
            "memory-child": memory_child,
        }[name]()
