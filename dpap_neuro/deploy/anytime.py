"""How early a network on a chip could answer: part of the command line, so it stands on both packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.deploy.opening import Model
from dpap_neuro.deploy.recordings import Recordings, input_notes
from dpap_neuro.errors import InputError
from dpap_neuro.files import check_picture, write_picture
from hardware.errors import HardwareError
from hardware.placement import costing, loads, place

# Margins of the table where none is asked for: so many, between none and the largest that a recording reaches.
LEVELS = 8


@dataclass(frozen=True)
class Stopped:
    """Recordings that end where the read-out of the first class is ahead of the second by `margin`, or with their last step.

    accuracy: None without labels. alike: share with the same class as at the end. steps: the mean. events, energy: per recording, the
    latter in joules, None without costs. ended: the step of every recording, (n,).
    """

    margin: float
    accuracy: float | None
    alike: float
    steps: float
    events: float
    energy: float | None
    ended: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            "margin": self.margin,
            "accuracy": self.accuracy,
            "same_as_at_the_end": self.alike,
            "mean_steps": self.steps,
            "events": self.events,
            "energy_j": self.energy,
        }


@dataclass(frozen=True)
class Anytime:
    """The read-out so far after each step of the chip's clock, over `n` recordings; arrays (n, steps).

    Every projection takes a step, so that nothing has reached the read-out before step `depth` + 1; until then the answer is class 0.
    predicted: the class of the largest sum so far, the first where several are. margins: how far that sum is ahead of the second.
    events, energy (joules; None without costs): of all steps so far. labels: (n,), None where they are not known. unit: of margins.
    """

    chip: str
    n: int
    steps: int
    depth: int
    unit: str
    predicted: np.ndarray = field(repr=False)
    margins: np.ndarray = field(repr=False)
    events: np.ndarray = field(repr=False)
    energy: np.ndarray | None = field(repr=False)
    labels: np.ndarray | None = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> np.ndarray | None:
        """(steps,), None without labels."""
        return None if self.labels is None else (self.predicted == self.labels[:, None]).mean(axis=0)

    @property
    def alike(self) -> np.ndarray:
        """(steps,): share of the recordings with the class that they have at the end."""
        return (self.predicted == self.predicted[:, -1:]).mean(axis=0)

    def stop(self, margin: float) -> Stopped:
        """What stopping at `margin` gives. Raises InputError for a margin that is not finite and above 0."""
        if not 0 < margin < np.inf:
            raise InputError(f"margin: found {margin:g}, expected a finite number above 0")
        reached = self.margins >= margin
        ended = np.where(reached.any(axis=1), reached.argmax(axis=1), self.steps - 1)
        rows = np.arange(self.n)
        classes = self.predicted[rows, ended]
        return Stopped(
            float(margin),
            None if self.labels is None else float((classes == self.labels).mean()),
            float((classes == self.predicted[:, -1]).mean()),
            float(ended.mean() + 1),
            float(self.events[rows, ended].mean()),
            None if self.energy is None else float(self.energy[rows, ended].mean()),
            ended + 1,
        )

    def levels(self) -> list[Stopped]:
        """Stopped at margins between none and the largest that are reached, evenly over the recordings' own largest."""
        largest = self.margins.max(axis=1)
        found = np.quantile(largest, np.linspace(0, 1, LEVELS), method="lower")
        return [self.stop(float(margin)) for margin in np.unique(found) if margin > 0]

    def to_dict(self, margin: float | None = None) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON; of a margin the step of every recording, too."""
        accuracy, energy = self.accuracy, None if self.energy is None else self.energy.mean(axis=0)
        values: dict[str, Any] = {
            "chip": self.chip,
            "n": self.n,
            "steps": self.steps,
            "depth": self.depth,
            "margin_unit": self.unit,
            "accuracy": None if accuracy is None else accuracy.tolist(),
            "same_as_at_the_end": self.alike.tolist(),
            "events": self.events.mean(axis=0).tolist(),
            "energy_j": None if energy is None else energy.tolist(),
            "margins": [one.to_dict() for one in self.levels()],
            "notes": list(self.notes),
        }
        if margin is not None:
            stopped = self.stop(margin)
            values["stopped"] = {**stopped.to_dict(), "steps_of_recordings": stopped.ended.tolist()}
        return values


def measure(
    model: Model, shown_to: Recordings, progress: Callable[[int, int], None] | None = None
) -> Anytime:
    """Run a network's integers on the chip's clock, recording by recording, with fresh states. progress(done, total).

    Energy is that of a placement for these recordings, on a chip whose file has costs. Raises InputError or HardwareError for what cannot be read or run.
    """
    network, chip = model.integers(), model.chip
    shown = shown_to.open(model)
    raster = shown.together()
    output = next(p for p in network.populations if p.name == network.outputs[0])
    predicted, margins, events, trains = [], [], [], []
    depth = 0
    for number, one in enumerate(raster):
        spikes, run = loads.chip_run(network, one[None], fresh=True)
        depth = run.depth[output.name]
        last = depth + len(one)
        reached = run.output[0, :last].reshape(last, -1).astype(np.float64)
        reached[:depth] = 0.0
        so_far = reached.cumsum(axis=0)
        top = np.sort(so_far, axis=1)[:, -2:]
        predicted.append(so_far.argmax(axis=1))
        margins.append(top[:, -1] - top[:, 0] if so_far.shape[1] > 1 else np.abs(top[:, -1]))
        each_step = np.sum([each[0, :last] for each in run.event_counts.values()], axis=0)
        events.append(each_step.cumsum())
        trains.append(spikes)
        if progress is not None:
            progress(number + 1, len(raster))
    notes = (*shown.notes, *input_notes(chip, int(raster.max(initial=0))), *model.notes)
    energy = None
    try:
        energy = _energy(model, trains, depth + raster.shape[1])
    except HardwareError as error:
        notes += (f"no energy: {error}",)
    return Anytime(
        chip.name,
        len(raster),
        depth + raster.shape[1],
        depth,
        "spikes" if output.spiking else "integer units of the membrane",
        np.stack(predicted),
        np.stack(margins),
        np.stack(events).astype(np.float64),
        energy,
        shown.labels,
        notes,
    )


def _energy(model: Model, trains: list[dict[str, np.ndarray]], steps: int) -> np.ndarray:
    """Joules up to each step, (n, steps)."""
    network, chip = model.integers(), model.chip
    costing.needed(chip)
    rates = {
        name: np.mean([(each[name] != 0).sum(axis=1)[0] for each in trains], axis=0) for name in trains[0]
    }
    length = next(iter(trains[0].values())).shape[1]
    placement = place(network, chip, firing_rates=rates, steps=length)
    each = [costing.spent(loads.count(network, placement, one), chip).step_energy[:steps] for one in trains]
    return np.cumsum(each, axis=1) * 1e-12


def draw(found: Anytime, path: str | Path, margin: float | None = None) -> None:
    """Accuracy (or, without labels, agreement with the end) against steps, and against events: stopped at a fixed step, and at margins.

    Raises InputError for a name that ends otherwise than in .png, .svg or .pdf, or a folder that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    check_picture(Path(path))
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    right = found.alike if found.accuracy is None else found.accuracy
    share = found.events.mean(axis=0) / max(1.0, found.events[:, -1].mean())
    stops = found.levels() + ([] if margin is None else [found.stop(margin)])
    for axis, fixed, of in (
        (axes[0], np.arange(1, found.steps + 1), [one.steps for one in stops]),
        (
            axes[1],
            100 * share,
            [100 * one.events / max(1.0, found.events[:, -1].mean()) for one in stops],
        ),
    ):
        axis.plot(fixed, 100 * right, ".-", color="tab:gray", label="after a fixed step")
        shown = [100 * (one.alike if one.accuracy is None else one.accuracy) for one in stops]
        axis.plot(of, shown, "o", color="tab:blue", markersize=5, label="once a margin is reached")
        if margin is not None:
            axis.plot(of[-1:], shown[-1:], "s", color="tab:orange", markersize=8, label=f"margin {margin:g}")
        axis.grid(alpha=0.3)
    axes[0].set(
        xlabel="steps of the chip, mean",
        ylabel="same class as at the end, %" if found.accuracy is None else "accuracy, %",
    )
    axes[1].set(xlabel="synaptic events, % of all steps")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    write_picture(figure, path)
