"""N-MNIST within a budget of synaptic events: pruning by events against magnitude by parameters, with fewer time bins and a price of spikes.

python examples/nmnist_events/run.py --data-dir DATA --out OUT [--fold 0] [--method NAME] [--epochs 30] [--inner]

Folds, seeds and settings are those of examples/nmnist_baselines, whose runs.csv has the dense network and magnitude pruning at 98 % of
the parameters; budgets are the events that the latter makes in the same fold, or a share of the dense network's. They are measured on 32
training recordings after every epoch; events are those of `sweep`'s tables (NeuroBench's synaptic operations), which need no placement.
Rows of twice the epochs stand beside a dense network that learned as long.
Writes OUT/events.csv, a row for each fold and method: accuracy and events per test recording, weights that are left, rates of the last
epoch; and OUT/events.png. What OUT has already is not done again; --fold K does one fold, so that folds may run side by side.
--inner chooses time bins and the price of spikes: on a fifth of the fold's training recordings, against a dense network of its own.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpap_neuro import data as sets
from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.data.binning import only_bins
from dpap_neuro.pruning import Reading, make_pruner
from dpap_neuro.pruning.finding import find_structure
from dpap_neuro.pruning.inputs import synaptic_events
from dpap_neuro.pruning.labels import tensors
from dpap_neuro.train import loop, runs, sweeps

CPU = torch.device("cpu")
# Recordings that are run at each measurement.
MEASURED = 32
FOLDS = 5
BASELINES = Path(__file__).parents[1] / "nmnist_baselines" / "runs.csv"
COLUMNS = [
    "fold",
    "method",
    "accuracy",
    "events",
    "events_in_training",
    "fits",
    "bins",
    "parameters",
    "synapses",
    "rates",
    "seconds",
]


@dataclass(frozen=True)
class Method:
    """share: of the events of a dense network that learned as long, its budget; None: as many as magnitude pruning makes. bins: time
    bins left of ten. times: epochs, of those that are given."""

    pruner: str
    share: float | None = None
    rate_weight: float = 0.0
    bins: int | None = None
    times: int = 1


DENSE, PARAMETERS = "dense", "magnitude by parameters, 98 %"
TWICE = ", twice the epochs"
# Recordings of the test make up to a tenth more events than those that a budget is measured on: with these they stay near 5 %, and on
# average below.
SHARE, BELOW = 0.048, 0.046
# Chosen by --inner, for the epochs given and for twice as many.
RATE_WEIGHT, BINS, BINS_TWICE = 0.1, 2, 4
METHODS = {
    "weighted by events": Method("weighted"),
    "weighted by events, rate term, 5 %": Method("weighted", 0.05, 1.0),
    "weighted by events, 3 time bins, 5 %": Method("weighted", 0.05, bins=3),
    "weighted by events, 3 time bins, rate term, 5 %": Method("weighted", 0.05, RATE_WEIGHT, 3),
    f"weighted by events, {BINS} time bins, 5 %": Method("weighted", SHARE, bins=BINS),
    f"weighted by events, {BINS} time bins, rate term, 5 %": Method("weighted", SHARE, RATE_WEIGHT, BINS),
    "magnitude by events, 3 time bins, 5 %": Method("magnitude", 0.05, bins=3),
    DENSE + TWICE: Method("none", times=2),
    f"weighted by events, {BINS_TWICE} time bins, 5 %{TWICE}": Method(
        "weighted", BELOW, bins=BINS_TWICE, times=2
    ),
    f"weighted by events, {BINS_TWICE} time bins, rate term, 5 %{TWICE}": Method(
        "weighted", BELOW, RATE_WEIGHT, BINS_TWICE, times=2
    ),
}
CHOICES = {
    DENSE: Method("none"),
    **{f"{bins or 10} time bins, 5 %": Method("weighted", SHARE, bins=bins) for bins in (None, 4, 3, 2)},
    f"{BINS} time bins, rate term, 5 %": Method("weighted", SHARE, RATE_WEIGHT, BINS),
    DENSE + TWICE: Method("none", times=2),
    **{f"{bins} time bins, 5 %{TWICE}": Method("weighted", SHARE, bins=bins, times=2) for bins in (4, 3, 2)},
}


class EventMeter:
    """Measures the synaptic events of a network on some recordings against the most that it may make; a `pruning.Meter`.

    A layer that never spikes in most of them is named: pruning does not silence one.
    """

    count = "events"

    def __init__(self, recordings: runs.Data, most: float) -> None:
        x, y = recordings
        order = np.argsort(y, kind="stable")
        shown = np.sort(order[np.linspace(0, len(y) - 1, min(MEASURED, len(y))).round().astype(int)])
        self.most, self.x = most, loop.as_input(x[shown], CPU)

    def __str__(self) -> str:
        return f"{self.most:,.0f} synaptic events per recording"

    @torch.no_grad()
    def __call__(self, network: torch.nn.Module, bins: Sequence[int] | None = None) -> Reading:
        x = self.x if bins is None else self.x[list(bins)]
        structure = find_structure(network, x[:, :2])
        readouts = {p.population for p in structure.projections.values() if p.readout}
        quiet: dict[str, int] = {}

        def hook(name: str) -> Any:
            def seen(_module: Any, _args: Any, result: Any) -> None:
                out = next(tensors(result))
                quiet[name] = int((~(out != 0).flatten(2).any(2).any(0)).sum())

            return seen

        handles = [
            population.module.register_forward_hook(hook(name))
            for name, population in structure.populations.items()
            if name not in readouts
        ]
        events = synaptic_events(network, structure, [(x, x.shape[1])])
        for handle in handles:
            handle.remove()
        silent = tuple(name for name, number in quiet.items() if 2 * number > x.shape[1])
        excess = {} if events <= self.most else {"synapses": events / self.most}
        return Reading(excess, f"{events:,.0f} events", {"events": events, "fits": not excess}, silent)


def one_run(
    split: runs.Split,
    name: str,
    method: Method,
    settings: loop.TrainSettings,
    budget: float | None,
    given: argparse.Namespace,
) -> dict:
    """A row; budget: events per recording, None for the dense network."""
    model = runs.model_settings(split, given.model, "membrane", 0.5, 0.5, given.surrogate_slope)
    if budget is None:
        pruner = make_pruner("none", epochs=settings.epochs)
    else:
        meter = EventMeter(split.train, budget)
        options = {} if method.bins is None else {"bins": method.bins}
        pruner = make_pruner(method.pruner, epochs=settings.epochs, count="events", meter=meter, **options)
    network, history = runs.train_run(replace(split, test=None), model, pruner, settings, CPU)
    kept = history.kept_bins
    training = EventMeter(split.train, math.inf)(network, kept).values["events"]
    last, (x, y) = history.epochs[-1], split.test
    x = only_bins(x, kept)
    parts = ((loop.as_input(x[i : i + 100], CPU), len(x[i : i + 100])) for i in range(0, len(x), 100))
    return {
        "fold": settings.seed,
        "method": name,
        "accuracy": round(float((loop.predict(network, x, CPU) == y).mean()), 4),
        "events": round(synaptic_events(network, pruner.structure, parts), 1),
        "events_in_training": round(training, 1),
        "fits": "" if last.fill is None else last.fill["fits"],
        "bins": " ".join(map(str, kept)) if kept is not None else "",
        "parameters": last.remaining,
        "synapses": last.synapses_remaining,
        "rates": " ".join(f"{rate:.4f}" for rate in (last.rates or {}).values()),
        "seconds": round(history.seconds),
    }


def draw(rows: list[dict], names: list[str], path: Path) -> None:
    """Accuracy against events, shares of the dense network's: a dot per fold, a marker for the mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 6.4), layout="constrained")
    dense = {row["fold"]: float(row["events"]) for row in rows if row["method"] == DENSE}
    for number, name in enumerate(names):
        own = [row for row in rows if row["method"] == name]
        if not own:
            continue
        x = [100 * float(row["events"]) / dense[row["fold"]] for row in own]
        y = [100 * float(row["accuracy"]) for row in own]
        colour, marker = plt.get_cmap("tab20").colors[number], "D" if name.endswith(TWICE) else "o"
        axes.plot(x, y, ".", color=colour, alpha=0.6)
        label = f"{name.replace(', 5 %', '')}: {np.mean(x):.1f} % of the events, {np.mean(y):.1f} %"
        axes.plot([np.mean(x)], [np.mean(y)], marker, color=colour, label=label)
    axes.set(
        xscale="log", xlabel="synaptic events per test recording, % of dense", ylabel="test accuracy (%)"
    )
    axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_title(f"N-MNIST, {len(dense)} folds; dots: folds, markers: means", fontsize=10)
    figure.legend(loc="outside lower center", fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def write(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def baselines(seed: int) -> list[dict]:
    """Rows of the dense network and of magnitude pruning of a fold."""
    found = []
    for row in read(BASELINES):
        name = {"none": DENSE, "magnitude": PARAMETERS}.get(row["pruner"])
        if name is not None and int(row["seed"]) == seed:
            values = {"fold": seed, "method": name, "accuracy": round(float(row["accuracy"]), 4)}
            values |= {
                "events": row["events"],
                "parameters": row["remaining"],
                "synapses": row["synapses_remaining"],
            }
            found.append({**dict.fromkeys(COLUMNS, ""), **values})
    return found


def reference(method: Method | None) -> str:
    """The dense network that a method is measured by: one that learned as long."""
    return DENSE + TWICE if method is not None and method.times == 2 else DENSE


def table(rows: list[dict], methods: Mapping[str, Method | None]) -> None:
    """Means over folds; events and points lost against the dense network of the same fold and as many epochs."""
    print("| method | events, % of dense | accuracy | points lost |\n|---|---|---|---|")
    for name, method in methods.items():
        dense = {row["fold"]: row for row in rows if row["method"] == reference(method)}
        own = [row for row in rows if row["method"] == name and row["fold"] in dense]
        if not own:
            continue
        share = np.array([float(row["events"]) / float(dense[row["fold"]]["events"]) for row in own]) * 100
        accuracy = np.array([float(row["accuracy"]) for row in own]) * 100
        lost = np.array([float(dense[row["fold"]]["accuracy"]) for row in own]) * 100 - accuracy
        spread = accuracy.std(ddof=1) if len(own) > 1 else 0.0
        print(
            f"| {name} | {share.mean():.1f} ({share.min():.1f} to {share.max():.1f}) | {accuracy.mean():.2f} +- {spread:.2f} | "
            f"{lost.mean():.2f} ({lost.min():.2f} to {lost.max():.2f}) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fold", type=int, help="only this one, from 0")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--model", default="cnn-wide")
    parser.add_argument("--surrogate-slope", type=float, default=1.0)
    parser.add_argument("--method", action="append", help="only this one; give it several times")
    parser.add_argument("--inner", action="store_true")
    given = parser.parse_args()
    methods = CHOICES if given.inner else METHODS
    defaults = sets.dataset("nmnist").defaults
    binning = Binning(defaults.bins, clip=defaults.clip, downsample=defaults.downsample)
    opened = open_dataset("nmnist", given.data_dir, "train")
    everything = opened.rasters(binning), np.asarray(opened.recordings.labels)
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in range(FOLDS) if given.fold is None else [given.fold]:
        train, test = sweeps.fold(everything, seed, FOLDS)
        if given.inner:
            train, test = sweeps.fold(train, 0, sweeps.INNER)
        split = runs.Split(opened, train, test, binning)
        settings = loop.TrainSettings(
            epochs=given.epochs, learning_rate=2e-3, shift=defaults.shift, seed=seed
        )
        path = given.out / f"fold-{seed}.csv"
        rows = read(path) if path.exists() else [] if given.inner else baselines(seed)
        for name, method in methods.items():
            known = {row["method"]: row for row in rows}
            if name in known or (given.method and name not in given.method):
                continue
            budget = None
            if method.pruner != "none":
                key = PARAMETERS if method.share is None else reference(method)
                budget = (method.share or 1.0) * float(known[key]["events"])
            own = replace(settings, epochs=method.times * given.epochs, rate_weight=method.rate_weight)
            rows.append(one_run(split, name, method, own, budget, given))
            print(rows[-1], flush=True)
            write(rows, path)
    rows = [row for path in sorted(given.out.glob("fold-*.csv")) for row in read(path)]
    shown = {**CHOICES} if given.inner else {DENSE: None, PARAMETERS: None, **METHODS}
    write(rows, given.out / "events.csv")
    draw(rows, list(shown), given.out / "events.png")
    table(rows, shown)


if __name__ == "__main__":
    main()
