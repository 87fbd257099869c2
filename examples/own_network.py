"""Your own network and your own training loop: a spiking block with a skip connection, pruned by DPAP, on the chip's integers.

    python examples/own_network.py            # about a minute on two cores, downloads nothing

    dpap-neuro train --model examples/own_network.py:network --out runs/own

does all of this in one command, by the function `network` below. In `main` nothing of it is used but the parts: a data set, a
pruner around a plain PyTorch loop, the export, and the deployment side, which reads the `.nir` file.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.exchange.nir_export import to_nir, write_nir
from dpap_neuro.networks.models import ModelSettings
from dpap_neuro.networks.neurons import LIF, NeuronSettings
from dpap_neuro.pruning import make_pruner
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import read_graph
from hardware.placement import place
from hardware.simulate import fidelity, reference, simulator


def folded(layers: nn.Module, x: Tensor) -> Tensor:
    """Layers without memory see all time steps at once: (T, B, ...) as a batch of T * B."""
    return layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Residual(nn.Module):
    """Takes recordings (T, B, 2, 34, 34), gives spikes (T, B, 10)."""

    def __init__(self, neuron: NeuronSettings) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 12, 5, stride=3, bias=False), nn.BatchNorm2d(12))
        self.stem_neurons = LIF(neuron)
        self.first = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.first_neurons = LIF(neuron)
        self.second = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.block_neurons = LIF(neuron)
        self.readout = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12 * 25, 10))
        self.readout_neurons = LIF(neuron)

    def forward(self, x: Tensor) -> Tensor:
        skipped = self.stem_neurons(folded(self.stem, x))
        x = self.first_neurons(folded(self.first, skipped))
        x = self.block_neurons(folded(self.second, x) + skipped)
        return self.readout_neurons(folded(self.readout, x))


def network(settings: ModelSettings) -> nn.Module:
    """For `--model FILE.py:network`: input shape, classes and neurons as the command has them."""
    if settings.input_shape != (2, 34, 34) or settings.classes != 10:
        raise ValueError(
            f"this network is for 2x34x34 and 10 classes, not {settings.input_shape} and {settings.classes}"
        )
    return Residual(settings.neuron)


def main(epochs: int, out: Path) -> dict[str, float]:
    torch.manual_seed(0)
    binning = Binning(bins=10, clip=4)
    train, test = (open_dataset("digits", split=split) for split in ("train", "test"))
    dt = binning.seconds(train.duration_us)
    inputs = torch.as_tensor(train.rasters(binning)).float().transpose(0, 1)
    targets = torch.as_tensor(train.recordings.labels)

    model = Residual(NeuronSettings(dt=dt, tau_mem=2 * dt))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    pruner = make_pruner("dpap", epochs=epochs, sparsity=0.5)
    pruner.attach(model, inputs[:, :2])
    print(pruner.describe())
    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(len(targets)).split(64):
            loss = nn.functional.cross_entropy(model(inputs[:, batch]).sum(0), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pruner.step(optimizer)
        print(pruner.end_epoch(epoch, optimizer), f"loss {float(loss.detach()):.3f}")
    pruner.detach()

    write_nir(to_nir(model.eval(), (2, 34, 34), dt, bins=10, clip=4), out)

    # From here on there is only the file.
    graph = read_graph(out)
    network, _ = compile_graph(graph, "loihi1")
    rasters, labels = test.rasters(binning), test.recordings.labels
    hidden = [p.name for p in network.populations if p.spiking]
    exact = reference.simulate(graph, rasters, record=hidden)
    chip = simulator.simulate(network, rasters, record={name: ("spikes",) for name in hidden})
    with torch.no_grad():
        trained = model(torch.as_tensor(rasters).float().transpose(0, 1)).sum(0).argmax(1).numpy()
    result = {
        "accuracy": float((trained == labels).mean()),
        "accuracy_file": float((fidelity.predictions(exact.output) == labels).mean()),
        "accuracy_chip": float((fidelity.predictions(chip.output) == labels).mean()),
        "spike_agreement": fidelity.overall(fidelity.agreements(exact.spikes, chip.spikes)).share,
        "parameters_left": pruner.remaining() / pruner.masks.parameters(),
        "cores": place(network, "loihi1").cores,
    }
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("residual.nir"))
    main(**vars(parser.parse_args()))
