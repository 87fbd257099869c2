"""What a network's spikes on recordings cost on a chip: part of the command line, so it stands on both packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.deploy.opening import Model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.files import check_picture, write_picture
from hardware.chip.chips import Chip
from hardware.placement import Placement, costing, energy, loads, place

# Colours of what a core spends most time on.
_COLOURS = {"synapses": "tab:blue", "neurons": "tab:orange", "messages": "tab:green"}


@dataclass(frozen=True)
class Charged:
    """A placed network's loads on recordings and what they cost. seconds: how long a recording is, None where the file does not say.

    sanafe: the same by SANA-FE, None where that was not asked for.
    """

    placement: Placement
    loads: loads.Loads
    spent: costing.Spent
    seconds: float | None
    sanafe: energy.Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON; loads are means per step."""
        found = self.loads
        per_core = {
            key: getattr(found, key).mean(axis=0).tolist()
            for key in ("events", "active", "inactive", "messages_in", "messages_out", "hops_x", "hops_y")
        }
        layers = {
            name: {
                key: float(getattr(found, f"layer_{key}")[row].sum())
                for key in ("events", "active", "inactive", "messages")
            }
            for row, name in enumerate(found.layers)
        }
        return {
            "chip": self.placement.chip.name,
            "objective": self.placement.objective,
            "cores": self.placement.cores,
            "fits": self.placement.fits,
            "samples": found.samples,
            "steps": found.steps,
            "events": float(found.events.sum()) / found.samples,
            **self.spent.to_dict(),
            "power_own_pace_w": None if self.seconds is None else self.spent.power_at(self.seconds),
            "assumed_costs": list(costing.needed(self.placement.chip).assumed),
            "loads_per_core_and_step": per_core,
            "loads_per_layer_and_step": layers,
            "sanafe": None if self.sanafe is None else self.sanafe.to_dict(),
        }


def charge(
    model: Model,
    shown_to: Recordings,
    chip: Chip,
    objective: str = "cores",
    max_cores: int | None = None,
    sanafe: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Charged:
    """Loads, time and energy on `chip`, of a placement made for the spikes of these recordings.

    model: opened for that chip. sanafe: estimate by SANA-FE too, which has Loihi 1 only. progress(what, done, total).
    Raises InputError or HardwareError for what cannot be read, run or estimated.
    """
    costing.needed(chip)
    if sanafe:
        energy.check(chip)
    tell = progress or (lambda what, done, total: None)
    network = model.integers()
    raster = shown_to.open(model, classes=False).together()
    spikes = []
    for number, sample in enumerate(raster):
        spikes.append(loads.spike_trains(network, sample[None]))
        tell("running", number + 1, len(raster))
    rates = {
        name: np.mean([(each[name] != 0).sum(axis=1)[0] for each in spikes], axis=0) for name in spikes[0]
    }
    steps = raster.shape[1]
    placement = place(
        network, chip, firing_rates=rates, max_cores=max_cores, objective=objective, steps=steps
    )
    counted = []
    for number, sample in enumerate(spikes):
        counted.append(loads.count(network, placement, sample))
        tell("counting", number + 1, len(spikes))
    found = loads.joined(counted)
    estimate = None
    if sanafe:
        trains = {
            name: np.concatenate([each[name] for each in spikes]).reshape(len(spikes), found.steps, -1) != 0
            for name in spikes[0]
        }
        estimate = energy.estimate(network, placement, trains, lambda *done: tell("SANA-FE", *done))
    seconds = None if model.dt is None else steps * model.dt
    return Charged(placement, found, costing.spent(found, chip), seconds, estimate)


def draw_floorline(charged: Charged, path: str | Path) -> None:
    """A point per core: its synaptic events per step against the time it is busy, over the floors of what events and neurons alone
    would take; the line is the step of the slowest ("floorline", arXiv 2511.21549).

    Raises InputError for a name that ends otherwise than in .png, .svg or .pdf, or a folder that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_picture(Path(path))
    spent, chip = charged.spent, charged.placement.chip
    costs = costing.needed(chip)
    events, busy = charged.loads.events.mean(axis=0), spent.busy.mean(axis=0) / 1e3
    kinds = np.array(costing.BOTTLENECKS)[spent.parts.argmax(axis=0)]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    widest = 1.05 * max(1.0, float(events.max()))
    axis.plot([0, widest], [0, widest * costs.synaptic_event_ns / 1e3], color="tab:gray", linewidth=1)
    axis.axhline(float(spent.parts[1].max()) / 1e3, color="tab:gray", linewidth=1, linestyle=":")
    axis.axhline(float(busy.max()), color="black", linewidth=1, linestyle="--")
    for kind, colour in _COLOURS.items():
        if (kinds == kind).any():
            axis.scatter(
                events[kinds == kind], busy[kinds == kind], s=24, color=colour, label=f"mostly {kind}"
            )
    axis.set(xlim=(0, widest), xlabel="synaptic events per step on a core", ylabel="busy per step, us")
    axis.set_ylim(0, 1.1 * float(busy.max()))
    assumed = ", costs assumed" if "synaptic_event_ns" in costs.assumed else ""
    axis.set_title(
        f"{charged.placement.cores} cores of {chip.name}{assumed}\ndashed: the slowest core, "
        "grey: its synaptic events alone, dotted: most neurons alone",
        fontsize=9,
        parse_math=False,
    )
    axis.legend(frameon=False, loc="lower right")
    write_picture(figure, path)


def draw_trade_off(points: Sequence[Placement], path: str | Path) -> None:
    """Cores against time per step, and the bound. Raises InputError as `draw_floorline`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    check_picture(Path(path))
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    cores = [point.cores for point in points]
    for values, style, label in (
        ([(point.step_ns or 0) / 1e3 for point in points], "o-", "placed"),
        ([(point.step_bound_ns or 0) / 1e3 for point in points], "k:", "no placement below"),
    ):
        axis.plot(cores, values, style, label=label, markersize=4, linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    # Numbers as they are, not as powers: at most eight of cores, and six of a decade.
    shown = sorted(set(cores))
    axis.set_xticks(shown[:: -(-len(shown) // 8)])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_title("Time of a step by cores", fontsize=10)
    axis.set(xlabel=f"cores of {points[0].chip.name}", ylabel="time per step, us")
    axis.legend(frameon=False)
    write_picture(figure, path)
