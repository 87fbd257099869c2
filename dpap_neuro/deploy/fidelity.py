"""Float and chip on the same recordings: the report, what to mend first, and a picture of the worst recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.deploy.evaluation import check_backend
from dpap_neuro.deploy.opening import Model
from dpap_neuro.deploy.recordings import Recordings, input_notes
from dpap_neuro.deploy.simulation import run_lava
from dpap_neuro.errors import InputError
from dpap_neuro.files import check_picture, write_picture
from hardware.compile.attribution import attribution
from hardware.errors import HardwareError
from hardware.simulate import fidelity_report
from hardware.simulate.fidelity_report import Report, Units, Worst
from hardware.simulate.simulator import Run

BACKENDS = ("fixed", "lava")
# Recordings on which roundings are told apart: every one of them is another run.
ATTRIBUTED = 10
# More spikes than these are drawn as pixels, also in a picture of lines, whose file would grow by 100 bytes a spike.
RASTERIZED = 1500


@dataclass(frozen=True)
class Asked:
    """within, tau: steps, see `fidelity_report.fidelity`. min_agreement: 0 to 1, None: none asked for. attributed: whether each
    rounding's share is measured. Raises InputError for a number out of range, or Lava where there is none."""

    backend: str = "fixed"
    within: int = 1
    tau: float = 10.0
    min_agreement: float | None = None
    attributed: bool = False
    lava_python: str | None = None

    def __post_init__(self) -> None:
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise InputError(
                f"min-agreement: found {self.min_agreement:g}, expected a share of spikes, 0 to 1"
            )
        check_backend(self.backend, self.lava_python, BACKENDS)


@dataclass(frozen=True)
class Found:
    """report: see `fidelity_report`. parts: by what was rounded alone, the share of spikes that it leaves alike, worst first; empty
    where that was not asked for. notes: what a reader must know besides. reached: whether the agreement is as asked."""

    report: Report
    parts: dict[str, float]
    notes: tuple[str, ...]
    reached: bool

    def to_dict(self) -> dict[str, Any]:
        values = self.report.to_dict()
        if self.parts:
            values["attribution"] = self.parts
        return {**values, "notes": list(self.notes)}


def measure(
    model: Model,
    recordings: Recordings,
    asked: Asked,
    progress: Callable[[int, int], None] | None = None,
    integers: Model | None = None,
) -> Found:
    """Run a `.nir` file's network in floats and in integers: those it is compiled to, or those of a file that was made of it.

    integers: that file, opened; what it rounded is not known, so that membranes are not compared. progress(recordings done, all).
    Raises InputError or HardwareError for a file of integers, recordings that are not the network's, or what cannot be run.
    """
    if model.graph is None:
        raise InputError(
            f"{model.path}: holds integers alone; fidelity needs the .nir file that they were made of"
        )
    if integers is not None and asked.attributed:
        raise InputError(f"attribution: what {integers.path} rounded is not known; leave out --integers")
    network = model.integers() if integers is None else integers.integers()
    chip = (integers or model).chip
    shown = recordings.open(model)
    few: list[np.ndarray] = []
    most = [0]

    def parts() -> Iterator[np.ndarray]:
        for part in shown.parts():
            most[0] = max(most[0], int(part.max(initial=0)))
            have = sum(len(x) for x in few)
            if have < ATTRIBUTED and (not few or few[0].shape[1] == part.shape[1]):
                few.append(np.array(part[: ATTRIBUTED - have]))
            yield part

    def on_lava(raster: np.ndarray, record: dict[str, tuple[str, ...]]) -> Run:
        run, differing = run_lava(network, raster, record, asked.lava_python)
        if differing:
            raise HardwareError(f"{model.path}: {differing:,} values differ between Lava and our simulator")
        return run

    report = fidelity_report.fidelity(
        model.graph,
        network,
        parts(),
        shown.labels,
        _units(model) if integers is None else None,
        asked.within,
        asked.tau,
        on_lava if asked.backend == "lava" else None,
        None if progress is None else lambda done: progress(done, shown.n),
    )
    shares: dict[str, float] = {}
    if asked.attributed:
        found = attribution(model.compiled, np.concatenate(few))
        named = {
            key if isinstance(key, str) else f"weights {key[0]} -> {key[1]}": a.share
            for key, a in found.items()
        }
        shares = dict(sorted(named.items(), key=lambda item: item[1]))
    reports = model.compiled.reports if integers is None else []
    warnings = dict.fromkeys(text for r in reports for text in r.warnings)
    notes = (*shown.notes, *input_notes(chip, most[0]), *model.notes, *warnings)
    reached = asked.min_agreement is None or report.agreement >= asked.min_agreement
    return Found(report, shares, notes, reached)


def _units(model: Model) -> Units:
    """Of each population, integers per unit of the graph's membrane and that membrane where v is 0, by neuron."""
    found = {}
    for layer in model.compiled.layers:
        scale = layer.scaling.scale[layer.demand.group] / layer.demand.residual
        shape = layer.population.shape
        offset = np.broadcast_to(np.asarray(layer.demand.neurons.offset, np.float64), scale.shape)
        found[layer.population.name] = (64.0 * scale.reshape(shape), offset.reshape(shape))
    return found


def draw(worst: Worst, path: Path, title: str = "") -> None:
    """`raster_figure` of the worst recording as a picture. Raises InputError for another suffix than .png, .svg or .pdf, or a
    folder that cannot be written."""
    check_picture(path)
    write_picture(raster_figure(worst, title), path)


def raster_figure(
    worst: Worst, title: str = "", ink: str = "0.35", differing: str = "tab:red", width: float = 11.0
) -> Any:
    """Rasters of a recording, a panel per population: float above, chip below, spikes that only one has in another colour.

    Of a large population those neurons that spike in either run, most differing first, at most 120. A matplotlib figure, width in
    inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(worst.float_spikes)
    figure = Figure(figsize=(width, 1.0 + 2.3 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        a, b = (x[name].reshape(len(x[name]), -1) != 0 for x in (worst.float_spikes, worst.fixed_spikes))
        shown = _shown(a, b)
        height = max(len(shown), 1)
        for ours, theirs, base in ((a, b, height + 0.08 * height), (b, a, 0.0)):
            for only, colour in ((False, ink), (True, differing)):
                steps, neurons = np.nonzero(ours[:, shown] & (theirs[:, shown] != only))
                axis.scatter(
                    steps,
                    base + neurons,
                    s=max(2.0, min(22.0, 700 / height)),
                    marker="|",
                    linewidths=0.9,
                    color=colour,
                    rasterized=len(steps) > RASTERIZED,
                )
        axis.axhline(1.04 * height - 0.5, color="0.7", linewidth=0.7)
        axis.set_ylim(-1, 2.08 * height)
        axis.set_yticks([0.5 * height, 1.58 * height], ["chip", "float"])
        either = int((a | b).sum())
        share = int((a & b).sum()) / either if either else 1.0
        some = "" if len(shown) == a.shape[1] else f", {len(shown)} of {a.shape[1]:,} neurons"
        axis.set_title(
            f"{name}: {share:.1%} of {either:,} spikes alike{some}", fontsize=9, loc="left", parse_math=False
        )
    axes[-1].set_xlabel("step")
    axes[-1].set_xlim(-1, len(a))
    key = [
        Line2D([], [], marker="|", linestyle="", color=colour, label=label)
        for colour, label in ((ink, "spikes of both"), (differing, "spikes of one only"))
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    text = f"recording {worst.recording}, {worst.agreement:.1%} of its spikes alike"
    figure.suptitle(f"{title}: {text}" if title else text, fontsize=10, parse_math=False)
    return figure


def _shown(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Neurons to draw, in their order."""
    active = np.flatnonzero((a | b).any(axis=0))
    if a.shape[1] <= 120:
        return np.arange(a.shape[1])
    differing = (a != b).sum(axis=0)[active]
    return np.sort(active[np.argsort(-differing, kind="stable")[:120]])
