"""Commands about cores."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dpap_neuro.cli.options import Budgets, Json, Model, command
from dpap_neuro.cli.shared import plain, progress, say, say_assumed, stdout
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.recordings import Recordings

if TYPE_CHECKING:
    from dpap_neuro.deploy.charging import Charged
    from hardware.chip.chips import Chip as ChipData
    from hardware.placement import Placement

Objective = Annotated[
    str, typer.Option(help="What to place for: cores, time or crossings (spikes between cores).")
]


@command(limit=10)
def cores(
    model: Model,
    options: CompileOptions,
    max_cores: Budgets = None,
    max_synapses: Budgets = None,
    max_synapses_per_core: Budgets = None,
    objective: Objective = "cores",
    effort: Annotated[float | None, typer.Option(help="About so many seconds of searching.")] = None,
    trade_off: Annotated[
        bool, typer.Option("--trade-off", help="Also a table of cores against time per step.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Draw cores against time here (.png, .svg, .pdf); with --trade-off.")
    ] = None,
    shown: Recordings | None = None,
    as_json: Json = False,
) -> None:
    """Place a network on the cores of a chip; exit status 0 where it fits, 3 where it does not.

    Crossing spikes: per recording with --dataset or --input, else as if every neuron fired once. Time needs firing rates: those of the
    recordings, else assumed ones, which is said. A step takes as long as its slowest core, so more cores are faster.

    Example: dpap-neuro cores demo/pruned.nir --chip loihi1 --objective time --max-cores 8 --dataset digits
    """
    from dpap_neuro.deploy.opening import open_model
    from dpap_neuro.errors import InputError
    from dpap_neuro.files import check_picture
    from hardware import placement as placing
    from hardware.chip.chips import as_chip
    from hardware.graph.summary import synapses
    from hardware.placement.budget import Budget, fill
    from hardware.placement.rates import ASSUMED_RATE

    budget = Budget(as_chip(options.chip), max_cores, max_synapses, max_synapses_per_core)
    if out is not None:
        check_picture(out)
        if not trade_off:
            raise InputError(f"{out}: --out draws cores against time; expected --trade-off with it")
    opened = open_model(model, options, recordings=shown)
    say_assumed(opened)
    rates, steps = None, 1
    if shown is not None:
        from dpap_neuro.deploy.evaluation import evaluate

        run = evaluate(opened, shown, "fixed", classes=False)
        rates, steps = run.rates, run.steps
    network = opened.integers()
    for note in opened.notes:
        say(note)
    found = fill(network, budget, rates, effort, objective, steps)
    placement = found.placement
    points = []
    if trade_off:
        points = placing.trade_off(network, budget.chip, rates, steps, max_cores, effort)
        if out is not None:
            from dpap_neuro.deploy import charging

            charging.draw_trade_off(points, out)
    before = None if opened.graph is None else synapses(opened.graph)
    values = {
        "model": str(model),
        **placement.to_dict(),
        **found.to_dict(),
        "synapses_before_rounding": before,
    }
    values["crossing_spikes_unit"] = "each neuron once" if rates is None else "per recording"
    timed = trade_off or objective == "time"
    if timed:
        values["rates"] = f"assumed: {ASSUMED_RATE:g} spikes a step" if rates is None else "measured"
        values["assumed_costs"] = [] if budget.chip.costs is None else list(budget.chip.costs.assumed)
    if trade_off:
        keys = ("cores", "step_ns", "step_bound_ns", "crossing_spikes")
        values["trade_off"] = [{key: getattr(point, key) for key in keys} for point in points]
    if as_json:
        print(json.dumps(values))
    else:
        title = plain(f"{model} on {budget.chip.name}")
        if placement.layers:
            stdout.print(_layers(title, placement))
        else:
            stdout.print(_cores(title, placement))
            stdout.print(_tightest(placement), highlight=False)
        crossing = "where each neuron fires once" if rates is None else "per recording"
        plural = "s" if placement.cores > 1 else ""
        rounded = "" if before is None else f" after rounding for the chip ({before:,} before)"
        stdout.print(
            f"{placement.synapses:,} synapses{rounded} on {placement.cores} core{plural} (at least "
            f"{placement.lower_bound} needed); {placement.crossing_spikes:,.0f} spikes cross cores {crossing}",
            highlight=False,
            soft_wrap=True,
        )
        if placement.step_ns is not None:
            assert placement.step_bound_ns is not None
            stdout.print(
                f"a step takes {placement.step_ns / 1e3:,.3g} us, on so many cores no placement less than "
                f"{placement.step_bound_ns / 1e3:,.3g} us",
                highlight=False,
            )
        if points:
            stdout.print(_points(title, points))
            if out is not None:
                stdout.print(f"Written: {plain(str(out))}", highlight=False)
        if timed:
            for line in _caveats(budget.chip, rates is not None):
                stdout.print(line, highlight=False)
    for broken in found.broken:
        say(f"does not fit: {broken}")
    if explanation := found.explain():
        say(explanation)
    if not found.fits:
        raise typer.Exit(3)


def _cores(title: str, placement: Placement) -> Table:
    """A row per core, below them what a core holds and how full the fullest and all of them are."""
    from hardware.placement.budget import percent

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("core", no_wrap=True)
    for heading in ("neurons", "synapses", "memory bits", "axons in", "axons out"):
        table.add_column(heading, justify="right", no_wrap=True)
    keys = ("neurons", "synapses", "memory_bits", "axons_in", "axons_out")
    for core in range(placement.cores):
        table.add_row(str(core), *(f"{getattr(placement, f'{key}_per_core')[core]:,}" for key in keys))
    table.add_section()
    limits = [getattr(placement.chip, f"{key}_per_core", math.inf) for key in keys]
    most = [getattr(placement, f"{key}_per_core").max() for key in keys]
    table.add_row("a core holds", *("" if math.isinf(limit) else f"{limit:,}" for limit in limits))
    table.add_row(
        "fullest core",
        *("" if math.isinf(limit) else percent(n / limit) for n, limit in zip(most, limits, strict=True)),
    )
    full = [placement.full.get(f"{key}_per_core") for key in keys]
    table.add_row("all cores", *("" if share is None else percent(share) for share in full))
    return table


def _tightest(placement: Placement) -> str:
    from hardware.placement.budget import RESOURCES, percent

    key = max(placement.full, key=lambda k: placement.full[k], default=None)
    if key is None:
        return f"{placement.chip.name} limits nothing but its cores"
    return f"tight: {RESOURCES[key]}, {percent(placement.full[key])} of what these cores hold"


def _points(title: str, points: Sequence[Placement]) -> Table:
    """Cores against time per step; ratios are to the first."""
    table = Table(
        title=f"{title}: cores and time", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in ("cores", "us per step", "ratio", "at least", "crossing spikes", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = points[0]
    for point in points:
        assert point.step_ns and point.step_bound_ns and first.step_ns
        crossing = point.crossing_spikes / first.crossing_spikes if first.crossing_spikes else 1.0
        table.add_row(
            f"{point.cores:,}",
            f"{point.step_ns / 1e3:,.2f}",
            f"{point.step_ns / first.step_ns:.3f}",
            f"{point.step_bound_ns / 1e3:,.2f}",
            f"{point.crossing_spikes:,.0f}",
            f"{crossing:.2f}",
        )
    return table


def _caveats(chip: ChipData, measured: bool) -> list[str]:
    """What keeps times from being the chip's."""
    from hardware.placement.rates import ASSUMED_RATE

    lines = []
    if not measured:
        lines.append(
            f"firing rates are assumed: every neuron and input {ASSUMED_RATE:g} times a step (--dataset measures them)"
        )
    times = [] if chip.costs is None else [key for key in chip.costs.assumed if key.endswith(("_ns", "_pj"))]
    if times:
        lines.append(f"costs of {chip.name} are assumed, not published: {len(times)} of its file's keys")
    return lines


def _layers(title: str, placement: Placement) -> Table:
    """A row per layer, on a chip whose cores take one each: the words it takes of each memory, and those of its core."""
    table = Table(
        title=title,
        title_justify="left",
        caption="kernel, neuron, bias: words of memory, needed/there.",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer")
    for heading in ("core", "neurons", "synapses", "kernel", "neuron", "bias"):
        table.add_column(heading, justify="right")
    cores = placement.chip.layers
    assert cores is not None
    for row, (layer, core) in enumerate((placed.layer, placed.core) for placed in placement.layers):
        words = [
            f"{getattr(layer, key):,}" + ("" if core is None else f"/{getattr(cores, key)[core]:,}")
            for key in ("kernel_words", "neuron_words", "bias_words")
        ]
        counts = (f"{placement.neurons_per_core[row]:,}", f"{placement.synapses_per_core[row]:,}")
        table.add_row(plain(layer.name), "none" if core is None else str(core), *counts, *words)
    return table


@command()
def compare(
    models: Annotated[list[Path], typer.Argument(help="Files .nir, .net or .h5, two or more.")],
    options: CompileOptions,
    out: Annotated[Path | None, typer.Option(help="Draw synapses per core here (.png, .svg, .pdf).")] = None,
    shown: Recordings | None = None,
    as_json: Json = False,
) -> None:
    """Put networks side by side: parameters, synapses, cores, synapses per core, crossing spikes, accuracy.

    With --dataset or --input, accuracy and crossing spikes are measured there; without, the accuracy is what a run.json or summary.json beside the file says.

    Example: dpap-neuro compare demo/dense.nir demo/pruned.nir --chip loihi1 --out cores.png
    """
    from dpap_neuro.deploy import comparison
    from dpap_neuro.deploy.report import compare_table
    from dpap_neuro.files import check_picture
    from hardware.chip.chips import as_chip

    found_chip = as_chip(options.chip)
    if out is not None:
        check_picture(out)
    networks = comparison.compare(models, options, shown)
    for note in dict.fromkeys(note for network in networks for note in network.notes):
        say(note)
    if out is not None:
        comparison.draw(networks, found_chip, out)
    unit = "each neuron once" if shown is None else "per recording"
    if as_json:
        rows = [network.to_dict() for network in networks]
        print(json.dumps({"chip": found_chip.name, "crossing_spikes_unit": unit, "networks": rows}))
        return
    names = [plain(name) for name in comparison.labels(networks)]
    stdout.print(compare_table(networks, names, plain(found_chip.name), unit))
    if out is not None:
        stdout.print(f"Written: {plain(str(out))}", highlight=False)


@command(limit=10, chip="loihi1")
def energy(
    model: Model,
    shown: Recordings,
    options: CompileOptions,
    objective: Objective = "cores",
    max_cores: Budgets = None,
    sanafe: Annotated[
        bool, typer.Option("--sanafe", help="By SANA-FE too (Loihi 1; extra `energy`; slow).")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Draw the floorline here (.png, .svg, .pdf).")] = None,
    as_json: Json = False,
) -> None:
    """Loads, time and energy per recording, by the costs in the chip's file; the slowest core decides how long a step takes.

    Counted are synaptic events, neuron updates and messages on every core in every step. No static power, no input or output
    of the chip.

    Example: dpap-neuro energy demo/pruned.nir --dataset digits --objective time --max-cores 8
    """
    from dpap_neuro.deploy import charging
    from dpap_neuro.deploy.opening import open_model
    from dpap_neuro.files import check_picture

    if out is not None:
        check_picture(out)
    opened = open_model(model, options, recordings=shown)
    say_assumed(opened)
    with progress() as tell:
        found = charging.charge(
            opened, shown, opened.chip, objective, max_cores, sanafe, None if as_json else tell
        )
    for note in opened.notes:
        say(note)
    if out is not None:
        charging.draw_floorline(found, out)
    if as_json:
        print(json.dumps({"model": str(model), **found.to_dict()}))
    else:
        title = plain(
            f"{model} on {found.placement.chip.name}, per recording (mean of {found.loads.samples})"
        )
        stdout.print(_charged(title, found))
        stdout.print(_layer_loads(found))
        for line in _verdict(found):
            stdout.print(line, highlight=False)
        if out is not None:
            stdout.print(f"Written: {plain(str(out))}", highlight=False)
    for broken in found.placement.broken:
        say(f"does not fit: {broken}")


def _charged(title: str, found: Charged) -> Table:
    """Time, energy and power, by the chip's file and by SANA-FE where it was asked."""
    spent, other = found.spent, found.sanafe
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("chip's costs", justify="right", no_wrap=True)
    if other is not None:
        table.add_column("SANA-FE", justify="right", no_wrap=True)

    def row(label: str, ours: str, theirs: str = "") -> None:
        table.add_row(label, ours, *([] if other is None else [theirs]))

    def energies(label: str, ours: float, theirs: float | None) -> None:
        row(label, f"{ours * 1e-6:,.3f} uJ", "" if theirs is None else f"{theirs * 1e6:,.3f} uJ")

    steps = found.loads.steps
    row(
        f"latency, {steps} steps",
        f"{spent.latency * 1e-3:,.1f} us",
        "" if other is None else f"{other.latency * 1e6:,.1f} us",
    )
    row(
        "  a step, mean",
        f"{spent.step.mean() * 1e-3:,.2f} us",
        "" if other is None else f"{other.latency / other.steps * 1e6:,.2f} us",
    )
    energies("energy", spent.total, None if other is None else other.energy)
    energies("  synapses", spent.energy["synapses"], None if other is None else other.synapse)
    energies("  neurons", spent.energy["neurons"], None if other is None else other.soma)
    network = spent.energy["messages"] + spent.energy["hops"]
    energies("  messages and hops", network, None if other is None else other.network)
    row(
        "power at full speed",
        f"{spent.power * 1e3:,.2f} mW",
        "" if other is None else f"{other.power * 1e3:,.2f} mW",
    )
    if found.seconds is not None:
        own = spent.power_at(found.seconds) * 1e6
        theirs = "" if other is None else f"{other.energy / found.seconds * 1e6:,.2f} uW"
        row(f"power, one each {found.seconds:.3g} s", f"{own:,.2f} uW", theirs)
    events = found.loads.events.sum() / found.loads.samples
    row("synaptic events", f"{events:,.0f}", "" if other is None else f"{other.events:,.0f}")
    energies("45 nm convention", spent.convention, None)
    row("cores", f"{found.placement.cores}")
    return table


def _layer_loads(found: Charged) -> Table:
    """A row per layer: what happens in a step, the largest core's part, and what takes most of its time there."""
    from hardware.placement.costing import BOTTLENECKS

    loads, parts = found.loads, found.spent.layer_parts
    table = Table(title="per step", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    for heading in ("events", "updates", "active", "messages", "largest core"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bottleneck", no_wrap=True)

    def row(name: str, counts: Sequence[np.ndarray], parts: np.ndarray) -> None:
        events, active, inactive, messages = counts
        updates = active.sum() + inactive.sum()
        busy = np.maximum(parts[0] + parts[1], parts[2])
        core = int(busy.argmax())
        share = f"{busy[core] / busy.sum():.1%}" if busy.sum() else ""
        awake = f"{active.sum() / updates:.1%}" if updates else ""
        table.add_row(
            plain(name),
            f"{events.sum():,.0f}",
            f"{updates:,.0f}",
            awake,
            f"{messages.sum():,.1f}",
            share,
            BOTTLENECKS[int(parts[:, core].argmax())],
        )

    for n, name in enumerate(loads.layers):
        counts = (
            loads.layer_events[n],
            loads.layer_active[n],
            loads.layer_inactive[n],
            loads.layer_messages[n],
        )
        row(name, counts, parts[:, n])
    table.add_section()
    means = [part.mean(axis=0) for part in (loads.events, loads.active, loads.inactive, loads.messages_out)]
    row("all", means, found.spent.parts)
    return table


def _verdict(found: Charged) -> list[str]:
    from hardware.placement.costing import ACCUMULATE_PJ, LEFT_OUT, MULTIPLY_ACCUMULATE_PJ

    busy = found.spent.busy.mean(axis=0)
    slowest = found.spent.slowest
    lines = [
        f"core {slowest} is slowest, busy {busy[slowest] / busy.mean():.2f} times the mean, most of it with "
        f"{found.spent.bottleneck}",
        f"left out: {LEFT_OUT}; power is energy over time",
        f"45 nm convention: synaptic operations at {ACCUMULATE_PJ} pJ ({MULTIPLY_ACCUMULATE_PJ} pJ where a spike carries "
        "a count), of no chip (Horowitz 2014)",
    ]
    if found.sanafe is not None:
        lines.append(
            "SANA-FE's Loihi file has other costs than the table it cites: 24.0 to 35.5 pJ an event, 72.8 pJ a neuron and "
            "step, 69.3 pJ a spike, 111 pJ a message, and a barrier of 0.6 to 1.8 us"
        )
    return lines + _caveats(found.placement.chip, measured=True)
