"""Braille letters at few bits: a recurrent network in floats, rounded, and finetuned on the chip's integers; five folds.

python examples/braille_bits/run.py --data-dir DATA --out OUT [--folds 5] [--fold 0] [--epochs 80] [--finetune 12]

Writes OUT/bits.csv and OUT/bits.png, in the form of ../nmnist_bits/run.py. --fold K does one fold and then puts together all that OUT has.
Settings are those of ../braille_recurrent, chosen like those of the finetuning on a fifth of the first fold's training recordings.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nmnist_bits"))
from run import CPU, all_folds, widths

from dpap_neuro import data as sets
from dpap_neuro.data import Binning, Opened, open_dataset
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, runs


def one_fold(split: runs.Split, seed: int, epochs: int, finetune: int) -> list[dict]:
    """Rows of one fold, one per width."""
    model = runs.model_settings(
        split, "recurrent", "membrane", 0.07, 0.5, 10.0, 0.2, "subtract", cell="cubalif"
    )
    settings = loop.TrainSettings(epochs=epochs, shift=0, jitter=0.3, drop=0.3, seed=seed)
    network, _ = runs.train_run(split, model, make_pruner("none", epochs=epochs), settings, CPU)
    return widths(split, network, replace(settings, epochs=finetune, learning_rate=1e-3))


def braille(folder: Path) -> tuple[Opened, Binning]:
    return open_dataset("braille", folder, "all"), sets.dataset("braille").defaults.binning(
        bin_us=10_000, clip=2
    )


if __name__ == "__main__":
    all_folds(__doc__, braille, one_fold, 80, 12, "Braille, 128 recurrent neurons")
