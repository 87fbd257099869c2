"""A network trained in snnTorch, on Loihi's integers: spike for spike the same network first, then what rounding does to it.

    pip install -e '.[learn]' snntorch
    python examples/snntorch_to_loihi.py            # some seconds, downloads nothing

SpikingJelly, Sinabs, Rockpool and Norse go the same way, see the end. What opens where: examples/compatibility.md.
"""

import argparse
from pathlib import Path

import numpy as np
import snntorch as snn
import torch
from torch import nn

from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.exchange.dialects import as_nir
from dpap_neuro.exchange.nir_export import write_nir
from dpap_neuro.exchange.snntorch import from_snntorch
from hardware.compile.compiler import compile_graph
from hardware.placement import place
from hardware.simulate import fidelity, reference, simulator

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("snntorch.nir"))
parser.add_argument("--epochs", type=int, default=3)
given = parser.parse_args()
torch.manual_seed(0)

# 1. Recordings: digits seen by a simulated event camera, 10 steps each. Yours may come from anywhere: (recordings, steps, channels, ...).
binning = Binning(bins=10, clip=1)
train, test = (open_dataset("digits", split=split) for split in ("train", "test"))
x, y = torch.as_tensor(train.rasters(binning)).float(), torch.as_tensor(train.recordings.labels)
rasters, labels = test.rasters(binning), test.recordings.labels

# 2. A network and a loop as snnTorch's tutorials have them: Leaky with a beta that is one number, reset by subtraction (its default).
net = nn.Sequential(
    nn.Flatten(),
    nn.Linear(2 * 34 * 34, 100, bias=False),
    snn.Leaky(beta=0.8, init_hidden=True),
    nn.Linear(100, 10, bias=False),
    snn.Leaky(beta=0.8, init_hidden=True, output=True),
)


def spikes(recordings: torch.Tensor) -> torch.Tensor:
    """(recordings, steps, ...) to (steps, recordings, classes), from rest."""
    for module in net:
        if isinstance(module, snn.Leaky):
            module.reset_mem()
    return torch.stack([net(now)[0] for now in recordings.transpose(0, 1)])


optimizer = torch.optim.Adam(net.parameters(), 2e-3)
for epoch in range(given.epochs):
    for batch in torch.randperm(len(y)).split(64):
        loss = nn.functional.cross_entropy(spikes(x[batch]).sum(0), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {float(loss.detach()):.3f}")
with torch.no_grad():
    there = spikes(torch.as_tensor(rasters).float()).transpose(0, 1).numpy()
print(f"in snnTorch:            {np.mean(there.sum(1).argmax(1) == labels):.2%} of {len(labels)} recordings")

# 3. The live network, not its file: a .nir file cannot say that resets subtract, nor that snnTorch's come a step late. The second argument
#    is one step of a batch, the third the seconds that a step stands for.
graph = from_snntorch(net, x[:4, 0], binning.seconds(train.duration_us))
print(f"what a file would not say: {', '.join(f'{k}={v}' for k, v in graph.metadata.items())}")
hidden = [name for name in graph.order if type(graph.nodes[name]).__name__ == "LIF"]
here = reference.simulate(graph, rasters, record=hidden)
differ = int((here.output.reshape(there.shape) != there).sum())
print(f"in floats, here:        {differ} of {there.size:,} outputs differ from snnTorch's")
assert differ == 0

# 4. Loihi 2's integers. Loihi 1 resets to zero only: there `compile_graph(graph, "loihi1")` refuses the network, and says so.
network, reports = compile_graph(graph, "loihi2")
for warning in dict.fromkeys(text for report in reports for text in (*report.warnings, *report.notes)):
    print(f"note: {warning}")
chip = simulator.simulate(network, rasters, record={name: ("spikes",) for name in hidden})
alike = fidelity.overall(fidelity.agreements(here.spikes, chip.spikes)).share
print(
    f"on the chip's integers: {np.mean(fidelity.predictions(chip.output) == labels):.2%}, {alike:.1%} of the spikes alike"
)
placed = place(network, "loihi2")
print(f"{placed.synapses:,} synapses on {placed.cores} cores")

# 5. From here on a file of ours, whose metadata say what NIR cannot. All commands read it:
write_nir(as_nir(graph), given.out)
print(f"written: {given.out}")
#        dpap-neuro inspect snntorch.nir
#        dpap-neuro fidelity snntorch.nir --dataset digits --bins 10 --clip 1 --chip loihi2
#        dpap-neuro train --model snntorch.nir --dataset digits --pruner weighted --sparsity 0.9 --out runs/pruned
#
# The spikes part for the reason in the note above, not by rounding: a late subtraction is exact in floats only. Train with
# snn.Leaky(..., reset_mechanism="zero"), for which late and at once are the same spikes, and Loihi 1 takes the network too; or train on with the
# integers: dpap-neuro finetune snntorch.nir --dataset digits --bins 10 --clip 1 --out runs/fine
#
# Sinabs. Its neurons fire several times a step and the chip's once, so train with what the chip has:
#        sl.IAFSqueeze(batch_size=1, spike_fn=sinabs.activation.SingleSpike, reset_fn=sinabs.activation.MembraneReset())
#        graph = from_sinabs(net, sample)              # dpap_neuro.exchange.sinabs; sample as the network takes it
# A Sinabs file is in steps, with exponential decays, and has neither: from_sinabs converts them exactly, reading its file does not.
# SpikingJelly: from_spikingjelly(net, sample, dt). Rockpool: from_rockpool(net), trained with max_spikes_per_dt=1. Norse: from_norse(net, shape, dt).
