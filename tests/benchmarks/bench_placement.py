"""Cores and crossing spikes of the placer: python tests/benchmarks/bench_placement.py [dense | pruned | sparse | large | large-time | time | deep | methods | small ...]

Per network and chip: cores, the lower bound, their ratio; crossing spikes against those of the sequential splitter; processor
seconds. `full` is how full the scarcest resource of the cores is on average.

dense: the demo network, an N-MNIST CNN, the DPAP paper's CIFAR-10 network and PilotNet, no weight zero.
pruned: the same with one weight in ten left, and fully connected layers with one in twenty.
sparse: 10,000 and 100,000 neurons whose partners are near them, and 100,000 neurons and 10 million synapses drawn uniformly.
time: the step's time on Loihi 1 of placements for time, on as many cores as fewest and on twice as many, at random firing rates.
deep: networks of up to 26 million weights on Loihi 2, where an answer should take less than 20 s.
small: 200 random networks against an exact solver (OR-tools): python tests/benchmarks/bench_placement.py small
methods: every way to place on Loihi 1; the worst should take at most twice the cores of the best.
large, large-time: 1 million neurons, 100 million synapses, for fewest cores and for time; the peak of a process of its own.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import placement_networks as nets  # noqa: E402
import small_networks  # noqa: E402
from oracle_exact import fewest_cores  # noqa: E402

from hardware.chip.chips import load_chip  # noqa: E402
from hardware.errors import HardwareError  # noqa: E402
from hardware.placement import STRATEGIES, costing, loads, place  # noqa: E402

CHIPS = ("loihi1", "loihi2")


def timed(network, chip, strategy):
    start = time.process_time()
    placement = place(network, chip, strategy)
    return placement, time.process_time() - start


def report(label, network, chips=CHIPS):
    for chip in chips:
        try:
            best, seconds = timed(network, chip, "best")
        except HardwareError as error:
            print(f"{label:20} {chip}  refused: {error}", flush=True)
            continue
        plain, plain_seconds = timed(network, chip, "sequential")
        fewer = 1 - best.crossing_spikes / plain.crossing_spikes if plain.crossing_spikes else 0.0
        scarce = max(best.full, key=lambda key: best.full[key])
        print(
            f"{label:20} {chip}  {best.synapses:>11,} synapses  {best.cores:>5} cores, bound {best.lower_bound:>4}, "
            f"ratio {best.cores / best.lower_bound:6.3f}, full {best.full[scarce]:4.2f} ({scarce})  sequential {plain.cores:>5} | "
            f"crossing {best.crossing_spikes:>11,.0f}, {fewer:5.1%} below {plain.crossing_spikes:,.0f} | "
            f"{seconds:6.2f} s, sequential {plain_seconds:.2f} s [{best.strategy}]",
            flush=True,
        )


def dense():
    for function in (nets.demo, nets.nmnist, nets.pilotnet, nets.cifar10):
        report(function.__name__, function())


def pruned():
    for function in (nets.demo, nets.nmnist, nets.pilotnet, nets.cifar10):
        report(f"{function.__name__}, 10 % left", function(keep=0.1))
    shape = (2000, 2000, 2000, 500)
    report("layers, 5 % left", nets.pruned_dense(shape, 0.05))
    report("grouped, 5 % left", nets.pruned_dense(shape, 0.05, groups=16))


def most_neurons_by_chance(neurons, fan_in, axons):
    """The most neurons of a uniformly random network that can hear at most `axons` others, but for a chance below exp(-100).

    First moment: of n neurons drawn, fan_in * n synapses meet partners already met `fan_in * n - axons` times or more with a
    chance of at most exp(-(k ln(k / m) - k + m)), m = (fan_in * n)**2 / (2 neurons) the expected number (Chernoff); there are
    at most (e neurons / n)**n choices of them.
    """
    n = max(1, axons // fan_in)
    while True:
        n += 1
        synapses = fan_in * n
        met, mean = synapses - axons, synapses**2 / (2 * neurons)
        if met <= mean:
            continue
        unlikely = met * math.log(met / mean) - met + mean
        if n * (1 + math.log(neurons / n)) - unlikely < -100:
            return n - 1


def sparse():
    report("local, 10,000", nets.local(10_000, 100, 4.0))
    report("local, in order", nets.local(10_000, 100, 4.0, shuffled=False))
    report("local, 100,000", nets.local(100_000, 100, 4.0))
    network = nets.uniform(100_000, 100)
    report("uniform, 100,000", network)
    most = most_neurons_by_chance(100_000, 100, int(load_chip("loihi1").axons_in_per_core))
    print(
        f"  no core of loihi1 can hold more than {most} neurons of a uniform network but by a chance below exp(-100): "
        f"at least {math.ceil(100_000 / most)} cores, and {most * 100 / load_chip('loihi1').axons_in_per_core:.2f} synapses an "
        "incoming axon at best"
    )


def large(neurons=1_000_000, fan_out=100, objective="cores"):
    task = "large" if objective == "cores" else "large-time"
    if "--child" not in sys.argv:
        subprocess.run([sys.executable, __file__, task, "--child"], check=True)
        return
    network = nets.local(neurons, fan_out, 4.0)
    built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for name in CHIPS:
        # As many chips as it takes: for time there is a budget.
        chip = load_chip(name) if objective == "cores" else replace(load_chip(name), cores=100_000)
        start, wall = time.process_time(), time.perf_counter()
        placement = place(network, chip, objective=objective)
        print(
            f"{task} {name}: {neurons:,} neurons, {placement.synapses:,} synapses on {placement.cores:,} cores "
            f"(bound {placement.lower_bound:,}, {placement.crossing_spikes:,.0f} crossing, {placement.strategy}) in "
            f"{time.process_time() - start:.1f} s of processor, {time.perf_counter() - wall:.1f} s of time; peak "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, {built:.2f} when built",
            flush=True,
        )


def large_time():
    large(objective="time")


def methods():
    for function in (
        nets.demo,
        nets.nmnist,
        nets.pilotnet,
        nets.pooled_cifar10,
        nets.vgg9,
        nets.sew_resnet18,
    ):
        network = function()
        cores = {}
        for strategy in STRATEGIES:
            try:
                cores[strategy] = place(network, "loihi1", strategy).cores
            except HardwareError as error:
                print(f"{function.__name__} {strategy}: refused: {error}")
        if cores:
            print(
                f"{function.__name__}: {cores}, worst {max(cores.values()) / min(cores.values()):.2f} of the best",
                flush=True,
            )


def faster():
    rng = np.random.default_rng(0)
    for function, keep in ((nets.demo, 1), (nets.demo, 0.4), (nets.nmnist, 0.05), (nets.pilotnet, 1)):
        network = function(keep)
        rates = {p.name: 0.1 * rng.random(p.shape) for p in (*network.inputs, *network.populations)}
        chip = replace(load_chip("loihi1"), cores=1000)
        first = place(network, chip, firing_rates=rates)
        points = [first]
        for cores in (first.cores, 2 * first.cores):
            points.append(place(network, chip, firing_rates=rates, objective="time", max_cores=cores))
        steps = [costing.spent(loads.expected(network, p, rates), chip).step[0] for p in points]
        for placement, step in zip(points[1:], steps[1:], strict=True):
            print(
                f"{function.__name__} {keep:g}: {first.cores} cores {steps[0] / 1e3:.2f} us; for time {placement.cores} cores "
                f"{step / 1e3:.2f} us, {step / steps[0]:.3f} of it, {step / placement.step_bound_ns:.3f} of the bound",
                flush=True,
            )


def deep():
    for function in (nets.pooled_cifar10, nets.vgg9, nets.sew_resnet18):
        report(function.__name__, function(), ("loihi2",))


def small():
    above, refused, unproven = {}, 0, 0
    for seed in range(200):
        network, chip = small_networks.random_sparse(seed)
        placement = place(network, chip)
        refused += not placement.fits
        found = placement.cores if placement.fits else math.inf
        exact, proven = fewest_cores(network, chip, placement.lower_bound, found, 10.0)
        unproven += not proven
        above[found - exact] = above.get(found - exact, 0) + 1
    print(f"small: cores above the optimum {above}, {refused} refused, {unproven} not proven in 10 s")


if __name__ == "__main__":
    tasks = {
        "time": faster,
        "deep": deep,
        "small": small,
        "dense": dense,
        "pruned": pruned,
        "sparse": sparse,
        "large": large,
        "large-time": large_time,
        "methods": methods,
    }
    for name in [name for name in sys.argv[1:] if name in tasks] or [
        name for name in tasks if name != "small"
    ]:
        tasks[name]()
