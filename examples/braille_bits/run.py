"""Braille letters at few bits: a recurrent network in floats, rounded, and finetuned on the chip's integers; five folds.

python examples/braille_bits/run.py --data-dir DATA --out OUT [--folds 5] [--fold 0] [--epochs 80] [--finetune 12]

Writes OUT/bits.csv and OUT/bits.png, in the form of ../nmnist_bits/run.py. --fold K does one fold and then puts together all that OUT has.
Settings are those of ../braille_recurrent, chosen like those of the finetuning on a fifth of the first fold's training recordings.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nmnist_bits"))
from run import CPU, gather, widths, write

from dpap_neuro import data as sets
from dpap_neuro.data import open_dataset
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, runs, sweeps


def one_fold(split: runs.Split, seed: int, epochs: int, finetune: int) -> list[dict]:
    """Rows of one fold, one per width."""
    model = runs.model_settings(
        split, "recurrent", "membrane", 0.07, 0.5, 10.0, 0.2, "subtract", cell="cubalif"
    )
    settings = loop.TrainSettings(epochs=epochs, shift=0, jitter=0.3, drop=0.3, seed=seed)
    network, _ = runs.train_run(split, model, make_pruner("none", epochs=epochs), settings, CPU)
    return widths(split, network, replace(settings, epochs=finetune, learning_rate=1e-3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold", type=int, help="only this one, from 0")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--finetune", type=int, default=12)
    given = parser.parse_args()
    opened = open_dataset("braille", given.data_dir, "all")
    binning = sets.dataset("braille").defaults.binning(bin_us=10_000, clip=2)
    everything = opened.rasters(binning), np.asarray(opened.recordings.labels)
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in range(given.folds) if given.fold is None else [given.fold]:
        train, test = sweeps.fold(everything, seed, given.folds)
        rows = one_fold(runs.Split(opened, train, test, binning), seed, given.epochs, given.finetune)
        write(rows, given.out / f"fold-{seed}.csv")
    gather(given.out, "Braille, 128 recurrent neurons")


if __name__ == "__main__":
    main()
