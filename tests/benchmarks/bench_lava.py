"""How many times faster than lava-nc: time per step of one network on one input, ours on one core.

    python tests/benchmarks/bench_lava.py            (a Python 3.10 with lava-nc 0.10.0)

Lava runs stock processes under ``Loihi2SimCfg(select_tag="fixed_pt")`` and hands its output to a sink; ours
returns the output spikes. Both are warm, their preparation is reported apart. The outputs must be equal.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hardware.files.netx_reading import read_net  # noqa: E402
from hardware.network.integer import (  # noqa: E402
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    conv_output_shape,
)
from hardware.simulate import lava  # noqa: E402
from hardware.simulate.lava.processes import build  # noqa: E402
from hardware.simulate.simulator import Simulator  # noqa: E402

# Of both sides the best of some runs: what else the machine does only adds.
REPEATS = 3
TINYNET = ROOT.parent / "shared" / "data" / "lava" / "tinynet"


def tinynet(steps):
    """The whole file, driven as it was recorded: by the biases of its input neurons, nothing from outside."""
    bias = np.load(TINYNET / "input_bias.npy").transpose(2, 1, 0).astype(int)
    network = read_net(TINYNET / "network.net", input_bias=bias)
    network = replace(network, projections=network.projections[1:])
    return network, np.zeros((steps, *network.inputs[0].shape), np.int32)


def pilotnet(steps, active=0.1):
    """PilotNet's layers with random weights; thresholds such that a tenth of each layer spikes in a step."""
    rng = np.random.default_rng(0)
    shape = (3, 66, 200)
    raster = (rng.random((steps, *shape)) < active).astype(np.int32)
    network = Network((InputPopulation("in", shape),), (), (), ())
    name = "in"
    layers = [(24, 2), (36, 2), (48, 2), (64, 1), (64, 1), 100, 50, 10, 1]
    for i, layer in enumerate(layers):
        target = f"layer{i}"
        if isinstance(layer, tuple):
            weight = 2 * rng.integers(-128, 128, (layer[0], shape[0], 3, 3)).astype(np.int32)
            projection = ConvProjection(name, target, weight, stride=(layer[1], layer[1]))
            shape = conv_output_shape(projection, shape)
        else:
            weight = 2 * rng.integers(-128, 128, (layer, math.prod(shape))).astype(np.int32)
            projection = DenseProjection(name, target, weight)
            shape = (layer,)
        population = Population(target, shape, dv=2048, spiking=False)
        network = replace(
            network,
            populations=(*network.populations, population),
            projections=(*network.projections, projection),
            outputs=(target,),
        )
        membrane = Simulator(network).run(raster[None, :20], "zero_delay", threads=1).output
        threshold = max(int(np.quantile(membrane, 1 - active)) >> 6, 1)
        population = replace(population, spiking=True, vth=threshold)
        network = replace(network, populations=(*network.populations[:-1], population))
        name = target
    return network, raster


def time_lava(network, raster, steps):
    """Seconds to compile and start, seconds per step, output (steps, neurons)."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer

    warm = max(steps // 10, 2)
    nodes = build(network, {network.inputs[0].name: raster})
    last = nodes[network.outputs[0]]
    sink = RingBuffer(shape=last.s_out.shape, buffer=len(raster))
    last.s_out.connect(sink.a_in)
    config = Loihi2SimCfg(select_tag="fixed_pt")
    begun = time.perf_counter()
    last.run(condition=RunSteps(num_steps=1), run_cfg=config)
    started = time.perf_counter() - begun
    last.run(condition=RunSteps(num_steps=warm - 1), run_cfg=config)
    took = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        last.run(condition=RunSteps(num_steps=steps), run_cfg=config)
        took.append(time.perf_counter() - begun)
    per_step = min(took) / steps
    output = sink.data.get()
    last.stop()
    if output.ndim == 4:
        output = output.transpose(2, 1, 0, 3)
    return started, per_step, output.reshape(-1, len(raster)).T[: warm + REPEATS * steps]


def time_ours(network, raster):
    """Seconds to prepare, seconds per step, `Run`."""
    begun = time.perf_counter()
    simulator = Simulator(network)
    simulator.run(raster[None, :2], "chip", threads=1)
    prepared = time.perf_counter() - begun
    took = []
    for _ in range(3 * REPEATS):
        begun = time.perf_counter()
        run = simulator.run(raster[None], "chip", threads=1)
        took.append(time.perf_counter() - begun)
    return prepared, min(took) / len(raster), run


def compare(title, network, raster, steps, bar):
    prepared, ours, run = time_ours(network, raster)
    started, theirs, output = time_lava(network, raster, steps)
    expected = run.output.reshape(len(raster), -1)[: len(output)]
    same = np.array_equal(output, expected)
    spikes = sum(c[0].mean() for c in run.spike_counts.values())
    events = sum(c[0].mean() for c in run.event_counts.values())
    neurons = sum(math.prod(p.shape) for p in network.populations)
    print(f"{title}: {neurons:,} neurons, {spikes:,.0f} spikes and {events:,.0f} synaptic events a step")
    print(f"  lava-nc  {theirs * 1e3:10.3f} ms a step, {started:6.2f} s to compile and start")
    print(f"  ours     {ours * 1e3:10.3f} ms a step, {prepared:6.2f} s to prepare")
    met = "met" if theirs >= bar * ours else "MISSED"
    print(f"  ratio    {theirs / ours:10.0f}  (bar {bar}: {met}); output of {output.size:,} values: ", end="")
    print("the same" if same else f"{np.count_nonzero(output != expected)} DIFFER")
    return same and theirs >= bar * ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["tinynet", "pilotnet"])
    given = parser.parse_args()
    if not lava.available():
        raise SystemExit(lava.NO_LAVA.format(python=sys.executable))
    ok = True
    if given.only != "pilotnet":
        if TINYNET.is_dir():
            ok &= compare("tinynet", *tinynet(640), 200, 600)
        else:
            print(f"tinynet: skipped, {TINYNET} is absent")
    if given.only != "tinynet":
        ok &= compare("PilotNet", *pilotnet(32), 10, 350)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
