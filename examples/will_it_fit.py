"""Will my network fit on Loihi? No training, no PyTorch: the base install is enough.

    python examples/will_it_fit.py            # some seconds

A network is described by a `.nir` file; here one is made of random weights, as large as yours will be, before anybody trains it.
"""

import argparse
from pathlib import Path

import nir
import numpy as np

from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import read_graph
from hardware.placement import place
from hardware.placement.budget import RESOURCES, percent

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("will_it_fit.nir"))
parser.add_argument("--hidden", type=int, default=256)
given = parser.parse_args()

# 1. The network: 34 x 34 pixels, a convolution, a hidden layer, ten classes. Time constants in seconds, a step of 1 ms.
rng = np.random.default_rng(0)


def lif(*shape: int) -> nir.LIF:
    full = [np.full(shape, value) for value in (0.002, 1.0, 0.0, 1.0)]
    return nir.LIF(*full, v_reset=np.zeros(shape))


def network(kept: float) -> nir.NIRGraph:
    """With this share of the weights; the others are zero, as a pruner leaves them."""

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.2, shape) * (rng.random(shape) < kept)

    nodes = {
        "input": nir.Input({"input": np.array([2, 34, 34])}),
        "conv": nir.Conv2d((34, 34), weights(8, 2, 5, 5), 2, 2, 1, 1, np.zeros(8)),
        "neurons": lif(8, 17, 17),
        "flat": nir.Flatten({"input": np.array([8, 17, 17])}, 0, -1),
        "hidden": nir.Linear(weights(given.hidden, 8 * 17 * 17)),
        "hidden_neurons": lif(given.hidden),
        "classes": nir.Linear(weights(10, given.hidden)),
        "class_neurons": lif(10),
        "output": nir.Output({"output": np.array([10])}),
    }
    names = list(nodes)
    return nir.NIRGraph(nodes, list(zip(names, names[1:])), metadata={"dt": 0.001})  # noqa: B905, RUF007


# 2. The questions that people ask, answered for each chip, dense and with a tenth of the weights.
for kept in (1.0, 0.1):
    nir.write(given.out, network(kept))
    graph = read_graph(given.out)
    for name in ("loihi1", "loihi2"):
        chip = load_chip(name)
        integers, reports = compile_graph(graph, chip)
        placed = place(integers, chip)
        tight = max(placed.full, key=lambda key: placed.full[key])
        print(f"{name}, {kept:.0%} of the weights:")
        # "How many cores does it take?" Fewer than the second number no placement has.
        print(f"  {placed.cores} cores, at least {placed.lower_bound} are needed; it fits: {placed.fits}")
        # "What is it that fills them?" In this network synaptic memory and, where most weights are gone, neurons on Loihi 1.
        print(f"  tight: {RESOURCES[tight]}, {percent(placed.full[tight])} of what these cores hold")
        # "A weight is shared by a convolution, does it count once?" Once as a parameter, and once per position as a synapse.
        print(
            f"  {placed.synapses:,} synapses of {sum(r.parameters for r in reports):,} weights that are not zero"
        )
        # "What do 8 bits do to it?" Ask `dpap-neuro fidelity FILE --dataset ...`: that depends on your recordings.

# 3. The same from the command line, for your own file:
#        dpap-neuro inspect will_it_fit.nir
#        dpap-neuro cores will_it_fit.nir --chip loihi1
#    Exit status 3 says that it does not fit, and the last line what to change. To prune until it does:
#        dpap-neuro train --model FILE.nir --chip loihi1 --max-cores 4 --dataset ... --out smaller
