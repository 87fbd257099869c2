"""Seven Braille letters under a finger, a recurrent network, five folds: in floats, pruned, exported, compiled, simulated.

python examples/braille_recurrent/run.py --data-dir DATA --out OUT [--folds 5] [--epochs 80]

Writes OUT/runs.csv, a row for each fold and network as soon as it is done (a row that is there is not made again), OUT/summary.csv and
OUT/braille.png, and the last network's .nir files. Some twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dpap_neuro import data as sets
from dpap_neuro.data import open_dataset
from dpap_neuro.exchange.nir_export import write_nir
from dpap_neuro.exchange.nir_import import from_file
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, runs, sweeps
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import read_graph
from hardware.placement import place
from hardware.simulate import fidelity, reference, simulator

CPU = torch.device("cpu")
# Networks: name, model, pruner, share of the parameters removed.
NETWORKS = [
    ("without recurrence", "mlp", "none", 0.0),
    ("recurrent", "recurrent", "none", 0.0),
    ("recurrent, magnitude", "recurrent", "magnitude", 0.8),
    ("recurrent, weighted", "recurrent", "weighted", 0.8),
    ("recurrent, dpap", "recurrent", "dpap", 0.8),
]
CHIP = "loihi2"


def settings(epochs: int) -> loop.TrainSettings:
    """Chosen on a fifth of the first fold's training recordings, not on what is reported."""
    return loop.TrainSettings(epochs=epochs, shift=0, jitter=0.3, drop=0.3)


def correct(output: np.ndarray, labels: np.ndarray) -> int:
    return int((fidelity.predictions(output) == labels).sum())


def one(split: runs.Split, fold: int, network: tuple[str, str, str, float], epochs: int, out: Path) -> dict:
    """A row: recordings told right by the trained network, by its file in floats, and by the chip's integers."""
    name, model, method, sparsity = network
    model_settings = runs.model_settings(
        split, model, "membrane", 0.07, 0.5, 10.0, 0.2, "subtract", cell="cubalif"
    )
    options = {} if method == "none" else {"sparsity": sparsity}
    pruner = make_pruner(method, epochs=epochs, **options)
    own = replace(settings(epochs), seed=fold)
    trained, history = runs.train_run(split, model_settings, pruner, own, CPU)
    path = out / f"{name.replace(', ', '_').replace(' ', '_')}.nir"
    write_nir(runs.graph_of(trained, runs.metadata_of(split)), path)
    rasters, labels = split.test
    graph = read_graph(path)
    chip, _ = compile_graph(graph, CHIP)
    last = history.epochs[-1]
    return {
        "network": name,
        "fold": fold,
        "tested": len(labels),
        "trained": int((loop.predict(trained, rasters, CPU) == labels).sum()),
        "imported": int((loop.predict(from_file(path), rasters, CPU) == labels).sum()),
        "file": correct(reference.simulate(graph, rasters).output, labels),
        "chip": correct(simulator.simulate(chip, rasters).output, labels),
        "parameters": last.parameters,
        "remaining": last.remaining,
        "synapses_on_chip": place(chip, CHIP).synapses,
        "cores": place(chip, CHIP).cores,
        "seconds": round(history.seconds, 1),
    }


def write(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def summarise(rows: list[dict]) -> list[dict]:
    """Over folds: every recording is tested once; the spread is the standard deviation between folds, in points."""
    found = []
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        tested = sum(int(row["tested"]) for row in own)
        line = {"network": name, "folds": len(own), "tested": tested}
        for what in ("trained", "imported", "file", "chip"):
            line[what] = round(100 * sum(int(row[what]) for row in own) / tested, 2)
            shares = [100 * int(row[what]) / int(row["tested"]) for row in own]
            line[f"{what}_spread"] = round(statistics.stdev(shares), 2) if len(own) > 1 else 0.0
        for what in ("parameters", "remaining", "synapses_on_chip", "cores"):
            line[what] = round(statistics.fmean(int(row[what]) for row in own))
        found.append(line)
    return found


def draw(summary: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(summary))
    for offset, (what, label) in enumerate([("trained", "trained, floats"), ("chip", f"{CHIP}, integers")]):
        axis.barh(
            places + 0.4 * offset,
            [line[what] for line in summary],
            0.36,
            xerr=[line[f"{what}_spread"] for line in summary],
            label=label,
            color=("#4477aa", "#ccbb44")[offset],
        )
    for place_, line in zip(places, summary, strict=True):
        axis.text(66, place_, f"{line['remaining']:,} parameters", va="center", color="white", fontsize=8)
    most = max(line["folds"] for line in summary)
    parts = ["" if line["folds"] == most else f"\n({line['folds']} of {most} folds)" for line in summary]
    axis.set_yticks(places + 0.2, [line["network"] + part for line, part in zip(summary, parts, strict=True)])
    axis.invert_yaxis()
    axis.set_xlim(65, 100)
    axis.set_xlabel("recordings told right, %; bars: standard deviation between folds")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=80)
    given = parser.parse_args()
    opened = open_dataset("braille", given.data_dir, "all")
    binning = sets.dataset("braille").defaults.binning(bin_us=10_000, clip=2)
    everything = opened.rasters(binning), np.asarray(opened.recordings.labels)
    given.out.mkdir(parents=True, exist_ok=True)
    table = given.out / "runs.csv"
    rows: list[dict] = []
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    for fold in range(given.folds):
        train, test = sweeps.fold(everything, fold, given.folds)
        split = runs.Split(opened, train, test, binning)
        for network in NETWORKS:
            if any(row["network"] == network[0] and int(row["fold"]) == fold for row in rows):
                continue
            rows.append(one(split, fold, network, given.epochs, given.out))
            print(rows[-1], flush=True)
            write(rows, table)
    summary = summarise(rows)
    write(summary, given.out / "summary.csv")
    draw(summary, given.out / "braille.png")


if __name__ == "__main__":
    main()
