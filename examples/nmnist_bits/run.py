"""N-MNIST at few bits: a float network, pruned, rounded, and finetuned on the chip's integers; every recording tested once.

python examples/nmnist_bits/run.py --data-dir DATA --out OUT [--folds 5] [--fold 0] [--epochs 30] [--finetune 10]

Writes OUT/bits.csv, a row for each fold and width: accuracy of the float network at that sparsity, of the same after as many epochs
more as the finetuned ones get, of the rounded one and of the finetuned one, parameters that are not zero, and how many spikes and
membranes differ between training and simulator; and OUT/bits.png. --fold K does one fold and then puts together all that OUT has, so that folds may
run side by side. Nothing is chosen by what is reported: all folds have the same settings, and the last epoch counts.
"""

from __future__ import annotations

import argparse
import copy
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dpap_neuro import data as sets
from dpap_neuro.data import Binning, Opened, open_dataset
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


def longer_in_float(network: Network, split: runs.Split, settings: loop.TrainSettings) -> Network:
    """A copy, trained on with what is pruned held at zero: what the epochs alone bring."""
    longer = copy.deepcopy(network)
    for weight in longer.parameters():
        kept = (weight != 0).to(weight.dtype)
        weight.register_hook(kept.mul)
    loop.train(longer, make_pruner("none", epochs=settings.epochs), split.train, None, settings, CPU)
    return longer


def one_fold(split: runs.Split, seed: int, epochs: int, finetune: int) -> list[dict]:
    """Rows of one fold, one per width."""
    settings = loop.TrainSettings(epochs=epochs, learning_rate=2e-3)
    model = runs.model_settings(split, "cnn-wide", "membrane", 0.5, 0.5)
    pruner = make_pruner("magnitude", epochs=settings.epochs, sparsity=SPARSITY)
    network, _ = runs.train_run(split, model, pruner, replace(settings, seed=seed), CPU)
    own = replace(settings, epochs=finetune, learning_rate=5e-4, seed=seed)
    return widths(split, network, own)


def widths(split: runs.Split, network: Network, own: loop.TrainSettings) -> list[dict]:
    """Rows of a trained network, one per width; own: settings of what is trained on, as many epochs for floats as for integers."""
    graph = from_nir(runs.graph_of(network.eval(), runs.metadata_of(split)))
    rows, longer = [], longer_in_float(network, split, own)
    for bits in BITS:
        precision = Precision(weight_bits=bits, max_count=split.binning.clip)
        shape, classes = split.train[0].shape[2:], len(split.opened.classes)
        exact = exact_network(graph, precision, shape, classes, split.dt, network)
        row = {
            "fold": own.seed,
            "bits": bits,
            "float": accuracy(network, split.test),
            "float_longer": accuracy(longer, split.test),
            "rounded": accuracy(exact, split.test),
        }
        none = make_pruner("none", epochs=own.epochs)
        history = loop.train(exact, none, split.train, None, own, CPU)
        proof = prove(exact, [split.test[0][i : i + 50] for i in range(0, len(split.test[0]), 50)])
        row |= {"finetuned": accuracy(exact, split.test), "parameters": history.epochs[-1].remaining}
        rows.append({**row, "values": proof.values, "differing": proof.differing})
        print(rows[-1], flush=True)
    return rows


def write(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict], path: Path, what: str) -> None:
    """Accuracy by width: means over folds, and a dot per fold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    longer = 100 * np.mean([float(row["float_longer"]) for row in rows])
    axes.axhline(longer, color="0.4", linestyle="--", label=f"float, as many epochs: {longer:.1f} %")
    for offset, (key, label, marker) in enumerate(
        [("rounded", "float, rounded", "v"), ("finetuned", "finetuned on the chip's integers", "o")]
    ):
        found = [[100 * float(r[key]) for r in rows if int(r["bits"]) == bits] for bits in BITS]
        at = np.arange(len(BITS)) + 0.1 * (2 * offset - 1)
        colour = f"C{offset}"
        axes.plot(at, [np.mean(one) for one in found], marker + "-", color=colour, label=label)
        for x, one in zip(at, found, strict=True):
            axes.plot([x] * len(one), one, ".", color=colour, alpha=0.4)
            axes.annotate(f"{np.mean(one):.1f}", (x, np.mean(one)), (5, 24 * offset - 15), textcoords="offset points", color=colour)  # fmt: skip
    axes.set_xticks(range(len(BITS)), [str(bits) for bits in BITS])
    axes.set_xlim(-0.4, len(BITS) - 0.6)
    folds = len({row["fold"] for row in rows})
    axes.set(xlabel="bits of a weight", ylabel="test accuracy (%)")
    axes.set_title(f"{what}; dots: {folds} folds")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def gather(out: Path, what: str) -> None:
    """All folds that are there in one table and one picture."""
    rows = []
    for path in sorted(out.glob("fold-*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))
    write(rows, out / "bits.csv")
    draw(rows, out / "bits.png", what)


def all_folds(
    about: str | None,
    recordings: Callable[[Path], tuple[Opened, Binning]],
    one: Callable[[runs.Split, int, int, int], list[dict]],
    epochs: int,
    finetune: int,
    what: str,
) -> None:
    """The command line of such an example. about: its help. recordings: those of a folder, and how they are binned. one: rows of a
    fold, from its split, number, epochs and epochs of finetuning. epochs, finetune: what goes without saying. what: title of the picture."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold", type=int, help="only this one, from 0")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--finetune", type=int, default=finetune)
    given = parser.parse_args()
    opened, binning = recordings(given.data_dir)
    everything = opened.rasters(binning), np.asarray(opened.recordings.labels)
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in range(given.folds) if given.fold is None else [given.fold]:
        train, test = sweeps.fold(everything, seed, given.folds)
        rows = one(runs.Split(opened, train, test, binning), seed, given.epochs, given.finetune)
        write(rows, given.out / f"fold-{seed}.csv")
    gather(given.out, what)


def nmnist(folder: Path) -> tuple[Opened, Binning]:
    defaults = sets.dataset("nmnist").defaults
    binning = Binning(defaults.bins, clip=defaults.clip, downsample=defaults.downsample)
    return open_dataset("nmnist", folder, "train"), binning


if __name__ == "__main__":
    all_folds(__doc__, nmnist, one_fold, 30, 10, f"N-MNIST, {SPARSITY:.0%} of the parameters removed")
