"""N-MNIST at few bits: a float network, pruned, rounded, and finetuned on the chip's integers; every recording tested once.

python examples/nmnist_bits/run.py --data-dir DATA --out OUT [--folds 5] [--only 1] [--epochs 30] [--finetune 10]

Writes OUT/bits.csv, a row for each fold and width: accuracy of the float network at that sparsity, of the rounded one and of the
finetuned one, synapses that are not zero, and how many spikes and membranes differ between training and simulator. All folds
take an hour or so on two cores.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from dpap_neuro import data as sets
from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.deploy.finetuning import exact_network
from dpap_neuro.deploy.proof import prove
from dpap_neuro.networks.models import Network
from dpap_neuro.precision.network import Precision
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, runs, sweeps
from hardware.graph.parsing import from_nir

SPARSITY = 0.95
BITS = (8, 4, 2)
CPU = torch.device("cpu")


def accuracy(network: Network, test: runs.Data) -> float:
    return float((loop.predict(network, test[0], CPU) == test[1]).mean())


def one_fold(split: runs.Split, seed: int, settings: loop.TrainSettings, finetune: int) -> list[dict]:
    """Rows of one fold, one per width."""
    model = runs.model_settings(split, "cnn-wide", "membrane", 0.5, 0.5)
    pruner = make_pruner("magnitude", epochs=settings.epochs, sparsity=SPARSITY)
    network, _ = runs.train_run(split, model, pruner, replace(settings, seed=seed), CPU)
    graph = from_nir(runs.graph_of(network.eval(), runs.metadata_of(split)))
    rows = []
    for bits in BITS:
        precision = Precision(weight_bits=bits, max_count=split.binning.clip)
        shape, classes = split.train[0].shape[2:], len(split.opened.classes)
        exact = exact_network(graph, precision, shape, classes, split.dt, network)
        row = {
            "fold": seed,
            "bits": bits,
            "float": accuracy(network, split.test),
            "rounded": accuracy(exact, split.test),
        }
        own = replace(settings, epochs=finetune, learning_rate=5e-4, seed=seed)
        none = make_pruner("none", epochs=finetune)
        history = loop.train(exact, none, split.train, None, own, CPU)
        proof = prove(exact, [split.test[0][i : i + 50] for i in range(0, len(split.test[0]), 50)])
        row |= {"finetuned": accuracy(exact, split.test), "synapses": history.epochs[-1].remaining}
        rows.append({**row, "values": proof.values, "differing": proof.differing})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, help="so many of the folds")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--finetune", type=int, default=10)
    given = parser.parse_args()
    defaults = sets.dataset("nmnist").defaults
    binning = Binning(defaults.bins, clip=defaults.clip, downsample=defaults.downsample)
    opened = open_dataset("nmnist", given.data_dir, "train")
    everything = opened.rasters(binning), np.asarray(opened.recordings.labels)
    settings = loop.TrainSettings(epochs=given.epochs, learning_rate=2e-3)
    rows = []
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in range(given.only or given.folds):
        train, test = sweeps.fold(everything, seed, given.folds)
        rows += one_fold(runs.Split(opened, train, test, binning), seed, settings, given.finetune)
        with (given.out / "bits.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(asdict(settings))


if __name__ == "__main__":
    main()
