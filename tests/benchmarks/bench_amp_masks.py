"""Masks under bfloat16 beside those of float32: noise between runs, or a fault? On digits, one network, the same first weights.

python tests/benchmarks/bench_amp_masks.py [--epochs 12] [--recordings 700] [--sparsity 0.8] [--model cnn]

Compared with a float32 run are: float32 whose first weights differ in their last bits (relative 2**-20), or once by as much as bfloat16
rounds (2**-9), float32 whose batches come in another order, and bfloat16. Beside each stands in how many bits independent masks would
agree by chance.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from dpap_neuro.data import Binning
from dpap_neuro.networks.models import build_model
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, runs

CPU = torch.device("cpu")
RUNS = {  # name: order of the batches, change of the first weights, amp
    "float32": (0, 0.0, None),
    "float32, last bits of the first weights": (0, 2.0**-20, None),
    "float32, first weights changed as bfloat16 rounds": (0, 2.0**-9, None),
    "float32, batches in another order": (1, 0.0, None),
    "bfloat16": (0, 0.0, "bfloat16"),
}


def kept(network: torch.nn.Module) -> torch.Tensor:
    """Of every weight of a matrix or kernel whether it is left, in one row."""
    return torch.cat([p.detach().flatten() != 0 for p in network.parameters() if p.dim() > 1])


def agreement(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Share of bits that agree, and what independent masks of these densities would have."""
    p, q = float(a.double().mean()), float(b.double().mean())
    return float((a == b).double().mean()), p * q + (1 - p) * (1 - q)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--recordings", type=int, default=700)
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--pruner", action="append")
    asked = parser.parse_args()
    split = runs.load_split("digits", None, Binning(bins=10, clip=4))
    few = split.train[0][: asked.recordings], split.train[1][: asked.recordings]
    model = runs.model_settings(split, asked.model, "spikes", 0.5, 0.5)
    for method in asked.pruner or ["dpap", "magnitude", "weighted"]:
        first = None
        for name, (order, change, amp) in RUNS.items():
            network = build_model(model, 0)
            if change:
                noise = torch.Generator().manual_seed(0)
                with torch.no_grad():
                    for p in network.parameters():
                        p.mul_(1 + change * torch.randn(p.shape, generator=noise))
            options = {"sparsity": asked.sparsity} if method != "dpap-published" else {}
            pruner = make_pruner(method, epochs=asked.epochs, **options)
            settings = replace(loop.TrainSettings(epochs=asked.epochs, seed=order), amp=amp)
            history = loop.train(network, pruner, few, split.test, settings, CPU)
            masks = kept(network)
            first = masks if first is None else first
            same, chance = agreement(first, masks)
            print(f"{method}, {name}: accuracy {history.epochs[-1].accuracy:.2%}, {1 - float(masks.double().mean()):.1%} removed; bits like float32's "
                  f"{same:.1%}, by chance {chance:.1%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
