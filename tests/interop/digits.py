"""A network that snnTorch trains on this project's digits classifies here as it does there, before any fine-tuning.

`python tests/interop/digits.py`, in snnTorch's environment; ends with status 1 where the two differ by more than one recording.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpap_neuro.data import open_dataset
from dpap_neuro.data.binning import Binning
from dpap_neuro.deploy.evaluation import evaluate
from dpap_neuro.deploy.opening import open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.exchange.dialects import as_nir
from dpap_neuro.exchange.nir_export import write_nir
from dpap_neuro.exchange.snntorch import from_snntorch

BINS, EPOCHS, BATCH = 10, 4, 64


class Network(nn.Module):
    """As snnTorch's tutorials write one: a loop over time in the forward pass, the default reset."""

    def __init__(self, snn: Any, inputs: int) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(inputs, 64), snn.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(64, 10), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for step in range(x.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(x[step].flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


def main() -> int:
    snn = importlib.import_module("snntorch")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    binning = Binning(bins=BINS, clip=1)
    x, y = {}, {}
    for split in ("train", "test"):
        opened = open_dataset("digits", None, split)
        x[split] = torch.as_tensor(np.array(opened.rasters(binning)), dtype=torch.float32).transpose(0, 1)
        y[split] = torch.as_tensor(np.asarray(opened.recordings.labels))
    network = Network(snn, x["train"][0, 0].numel())
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(y["train"])).split(BATCH):
            spikes, _ = network(x["train"][:, part])
            loss = nn.functional.cross_entropy(spikes.sum(0), y["train"][part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        spikes, _ = network(x["test"])
    there = int((spikes.sum(0).argmax(1) == y["test"]).sum())
    graph = from_snntorch(network, x["test"][:, :2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.nir"
        write_nir(as_nir(graph), path)
        found = evaluate(open_model(path), Recordings("digits", bins=BINS, clip=1))
    print(f"snnTorch: {there} of {len(y['test'])}; here: {found.correct} of {found.n}")
    return int(abs(there - found.correct) > 1 or there < 0.5 * found.n)


if __name__ == "__main__":
    sys.exit(main())
