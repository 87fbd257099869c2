"""A chip, a neuron and a pruner of your own, in one script that then trains and deploys with all three.

    python examples/add_your_own.py            # half a minute, downloads nothing

Nothing of the package is changed: a chip is a TOML file, neurons and pruners are classes in registries that every command reads. What is to
stay goes into the package by the recipes of CONTRIBUTING.md, which also have networks and data sets.
"""

import argparse
import math
import re
import shlex
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor, nn

import hardware.chip
from dpap_neuro.cli import app
from dpap_neuro.networks import NEURONS
from dpap_neuro.networks.neurons import LIF, NeuronSettings
from dpap_neuro.pruning import PRUNERS
from dpap_neuro.pruning.allocation import ALLOCATIONS
from dpap_neuro.pruning.scored import SingleWeights

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("own"), help="folder for all that is written")
parser.add_argument("--epochs", type=int, default=4)
given = parser.parse_args()
given.out.mkdir(parents=True, exist_ok=True)


# 1. A chip. Every entry of a chip file has a value, a unit and a source, so begin with the nearest chip and change what you know. Here:
#    a small Loihi of 8 cores, 256 neurons and a quarter of the memory each, whose synapses hold 4 bits at most, and whose input
#    spikes carry counts.
text = (Path(hardware.chip.__path__[0]) / "loihi1.toml").read_text()
for entry, value in (
    ("limits.cores", "8"),
    ("limits.neurons_per_core", "256"),
    ("limits.memory_bits_per_core", str(1 << 18)),
    ("format.weight_bits", "[0, 1, 2, 3, 4]"),
    ("neuron.graded_inputs", "true"),
):
    section = rf"(\[{re.escape(entry)}\]\nvalue = ).*(\nunit = .*\nsource = ).*"
    text, found = re.subn(section, rf'\g<1>{value}\g<2>"assumption: a small Loihi"', text)
    assert found == 1, entry
chip = given.out / "small_loihi.toml"
chip.write_text(text.replace('name = "loihi1"', 'name = "small_loihi"'))


# 2. A neuron: a LIF whose threshold is learned, one for each population. The step, the compiled scan and the export are LIF's; `v_th` is read
#    wherever a threshold is. A neuron with another equation has a `norse_step` of its own, and runs as a loop.
class LearnedThreshold(LIF):
    """A LIF that learns v_th = exp(w)."""

    defaults = ("tau_mem", "v_leak", "v_reset")

    def __init__(self, settings: NeuronSettings, **changed: Tensor | float) -> None:
        super().__init__(settings, **changed)
        self.w = nn.Parameter(torch.tensor(math.log(settings.v_th)))

    @property
    def v_th(self) -> Tensor:
        return self.w.exp()


NEURONS["lif-threshold"] = LearnedThreshold


# 3. A pruner: movement (Sanh et al. 2020, arXiv 2005.07683). What training moves towards zero goes first, summed over the epochs. The base
#    class has the schedule, the masks and the counting: `wanted(epoch)` says how many parameters are to be left by now.
class Movement(SingleWeights):
    """Weights that move towards zero go first."""

    name = "movement"
    needs_gradients = True  # of each weight, smoothed over batches, in `self.gradients`

    def __init__(self, **goal: Any) -> None:
        super().__init__(**goal)
        self.moved: dict[str, Tensor] = {}

    def _prune(self, epoch: int) -> None:
        for p in self.structure.prunable:
            step = self.gradients[p.name] * p.weight.detach()
            self.moved[p.name] = self.moved.get(p.name, torch.zeros_like(step)) - step
        wanted = self.wanted(epoch)
        if wanted is None:  # the schedule has not begun
            return
        scores = {
            name: moved.where(self.masks.weights[name], torch.tensor(-torch.inf))  # what is gone stays gone
            for name, moved in self.moved.items()
        }
        readout = sum(p.weight.numel() for p in self.structure.projections.values() if p.name not in scores)
        self.masks.synapses = ALLOCATIONS["global"](scores, wanted - readout, None)
        self.masks.refresh()


PRUNERS["movement"] = Movement


# 4. All three at work. These are the commands of the shell, run in this process, where the new names are known.
def type_in(command: str) -> None:
    print(f"\n$ dpap-neuro {command}", flush=True)
    app(shlex.split(command), standalone_mode=False)


run, own = shlex.quote(str(given.out / "run")), shlex.quote(str(chip))
type_in(
    "train --dataset digits --model mlp --neuron lif-threshold --pruner movement --sparsity 0.8 "
    f"--epochs {given.epochs} --force --out {run}"
)
for name, node in nir.read(given.out / "run" / "model.nir").nodes.items():
    if isinstance(node, nir.LIF):
        print(f"{name}: a threshold of {node.v_threshold.flat[0]:.3f} was learned, from 0.5")
type_in(f"cores {run}/model.nir --chip {own}")
type_in(f"fidelity {run}/model.nir --dataset digits --limit 50 --chip {own}")
print(
    "\n--> 'a core holds' are your chip's limits, and 'alike' is what its 4 bits cost. Before you believe a pruner, compare it over seeds: "
    "examples/nmnist_baselines."
)
