"""Commands that compile a network and run it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dpap_neuro.cli.options import Code, DataDir, Json, LavaPython, Model, Sensor, command
from dpap_neuro.cli.shared import plain, progress, say, say_assumed, say_reset, say_time_step, stdout
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.recordings import Recordings, input_notes

if TYPE_CHECKING:
    from dpap_neuro.deploy.anytime import Anytime, Stopped
    from dpap_neuro.deploy.compilation import Fitting
    from dpap_neuro.deploy.simulation import Simulated
    from hardware.compile.compiler import LayerReport
    from hardware.network.integer import Network


@command("compile")
def compile_(
    model: Annotated[Path, typer.Argument(help="A .nir file.")],
    out: Annotated[
        Path, typer.Option(help="The file to write: .net (NETX, for lava-dl) or .h5 (any integer network).")
    ],
    options: CompileOptions,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="A data set; scales, weights and thresholds are fitted to a few of its recordings."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A data set for --pairs auto where nothing is calibrated.")
    ] = None,
    data_dir: DataDir = None,
    sensor: Sensor = None,
    split: Annotated[str, typer.Option(help="train, test or all.")] = "train",
    bins: Annotated[int | None, typer.Option(help="Time steps per recording.")] = None,
    bin_us: Annotated[float | None, typer.Option(help="Microseconds per time step.")] = None,
    code: Code = None,
    limit: Annotated[
        int, typer.Option(help="Recordings, spread evenly; every second one is held out to report on.")
    ] = 20,
    min_agreement: Annotated[
        float, typer.Option(help="Share of spikes alike at which --pairs auto has enough.")
    ] = 0.99,
    max_synapses: Annotated[
        int | None, typer.Option(help="Synapses that a network with pairs may have.")
    ] = None,
    exponents: Annotated[
        int,
        typer.Option(
            help="Over how many exponents, with a projection for each sign, calibrated weights may be spread; 1: a projection stays one."
        ),
    ] = 3,
    as_json: Json = False,
) -> None:
    """Turn a .nir file into the integers of a chip, and show what rounding did to each layer.

    In an .h5 file for a chip with a threshold per neuron (Loihi 2) every output channel has its own; NETX and Loihi 1 have one
    per population.

    Example: dpap-neuro compile demo/pruned.nir --chip loihi2 --out demo/pruned.net
    """
    from dpap_neuro.deploy.compilation import Wish, compile_file
    from hardware.chip.chips import as_chip
    from hardware.graph.parsing import read_graph

    shown_to = calibrate or dataset
    recordings = None
    if shown_to is not None:
        recordings = Recordings(shown_to, data_dir, split, bins, bin_us, limit, sensor=sensor, code=code)
    wish = Wish(recordings, calibrate is not None, exponents, min_agreement, max_synapses)
    graph = read_graph(model)
    say_time_step(graph, options.dt)
    say_reset(graph, options.reset)
    chip = as_chip(options.chip)
    network, reports, fitting = compile_file(graph, out, options, wish)
    warnings = list(dict.fromkeys(text for r in reports for text in r.warnings))
    choice = None if fitting is None else fitting.choice
    if choice is not None and not choice.reached:
        warnings.append(
            f"{choice.agreement[-1]:.2%} of the spikes are alike, {min_agreement:.2%} was asked for"
        )
    if choice is not None and choice.wrapped:
        warnings.append(f"{choice.wrapped:,} synaptic currents wrapped at 24 bit on the recordings")
    said = dict.fromkeys(f"{r.source} -> {r.target}: {note}" for r in reports for note in r.notes)
    for warning in warnings:
        say(f"warning: {warning}")
    if as_json:
        layers = [dataclasses.asdict(report) for report in reports]
        values: dict[str, Any] = {"model": str(model), "chip": str(options.chip), "out": str(out)}
        values |= {"dt": network.dt, "layers": layers, "warnings": warnings}
        if fitting is not None:
            values["fitting"] = fitting.to_dict()
        print(json.dumps(values))
        return
    bits = max(r.weight_bits for r in reports)
    stdout.print(_layers(f"{model} for {chip.name}, {bits}-bit weights", reports))
    if fitting is not None:
        stdout.print(_fitting(fitting))
    for line in said:
        say(line)
    stdout.print(f"Written: {out}", highlight=False, markup=False)


def _fitting(fitting: Fitting) -> Table:
    """Rounded plainly, and fitted: a row per figure."""
    table = Table(
        title=f"fitted to {fitting.fitted_on} recordings, {fitting.held_out} held out", title_justify="left"
    )
    for heading in ("", "rounded", "fitted"):
        table.add_column(heading, justify="right" if heading else "left")
    if fitting.agreement is not None:
        table.add_row("spikes alike, held out", *(f"{share:.2%}" for share in fitting.agreement))
    if fitting.calibration is not None:
        for (source, target), before in fitting.calibration.before.items():
            after = fitting.calibration.after[source, target]
            table.add_row(
                f"membrane error, {plain(source)} -> {plain(target)}", f"{before:.2%}", f"{after:.2%}"
            )
    first, last = fitting.price
    table.add_row("synapses", f"{first.synapses:,}", f"{last.synapses:,}")
    if first.cores is not None and last.cores is not None:
        table.add_row("cores", f"{first.cores:,}", f"{last.cores:,}")
        table.add_row("memory, bits", f"{first.memory_bits:,}", f"{last.memory_bits:,}")
    if fitting.choice is not None:
        for source, target in fitting.choice.pairs:
            table.add_row("in pairs", "", plain(f"{source} -> {target}"))
        table.add_row("membranes at their limit", "", f"{fitting.choice.at_limit:,}")
    return table


def _layers(title: str, reports: list[LayerReport]) -> Table:
    """A row per projection, narrow enough for 80 columns; delays only where there are some."""
    columns: dict[str, list[str]] = {
        "parameters": [f"{r.parameters:,}" for r in reports],
        "to 0": [f"{r.zeroed:,}" for r in reports],
    }
    if any(r.delay for r in reports):
        columns["delay"] = [str(r.delay) for r in reports]
    columns |= {
        "weight": [f"{r.weight_error_rms:.2%}" for r in reports],
        "threshold": [f"{r.threshold_error:.2%}" for r in reports],
        "bias": [f"{r.bias_error:.2%}" for r in reports],
        "decay": [f"{max(r.du_error, r.dv_error):.2%}" for r in reports],
    }
    table = Table(
        title=plain(title),
        title_justify="left",
        caption="to 0: rounded to zero. Errors are relative: weights rms, others largest.",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    names = [len(name) for r in reports for name in (r.source, f"-> {r.target}")]
    table.add_column("projection", overflow="fold", min_width=min(max(names, default=0), 28))
    table.add_column("kind", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for k, r in enumerate(reports):
        table.add_row(plain(f"{r.source} -> {r.target}"), r.kind, *(values[k] for values in columns.values()))
    return table


@command(limit=10)
def simulate(
    model: Model,
    shown_to: Recordings | None,
    options: CompileOptions,
    steps: Annotated[
        int | None, typer.Option(help="Instead of recordings: so many steps of silent input.")
    ] = None,
    backend: Annotated[str, typer.Option(help="fixed (our simulator) or lava (and compare).")] = "fixed",
    lava_python: LavaPython = None,
    timing: Annotated[
        str, typer.Option(help="zero_delay, or chip: each layer a step behind the one before.")
    ] = "zero_delay",
    reset_interval: Annotated[
        int | None, typer.Option(help="--timing chip: states are zeroed every so many steps.")
    ] = None,
    reset_offset: Annotated[int, typer.Option(help="--timing chip: so many steps later.")] = 0,
    input_layer: Annotated[
        str,
        typer.Option(
            help="Of a .net file whose input layer has neurons: pixels that drive them, or spikes in their place."
        ),
    ] = "pixels",
    input_bias: Annotated[
        Path | None,
        typer.Option(
            help="Of such a file: an .npy of the neurons' biases, (channel, row, column) or lava-dl's (column, row, channel)."
        ),
    ] = None,
    record: Annotated[
        list[str] | None,
        typer.Option(
            help="What --out keeps: a population's spikes (NAME), some of its variables (NAME:spikes,u,v), or these of all "
            "populations (spikes,u,v); repeat for more."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The .npz file for output and what is recorded.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the spikes of the first recording, input and layers (.png, .svg, .pdf)."),
    ] = None,
    expect: Annotated[
        Path | None,
        typer.Option(
            help="An .npy file of the output that was recorded elsewhere, (recordings, steps, *shape) or lava-dl's "
            "(recordings, *shape, steps); exit status 1 if any value differs."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the integer network of a model; on Lava, compare every spike with ours (exit status 1 if any differs).

    Example: dpap-neuro simulate demo/pruned.nir --dataset digits --record 9_lif --out spikes.npz

    Example: dpap-neuro simulate demo/pruned.nir --dataset digits --limit 1 --plot spikes.png

    Example: dpap-neuro simulate network.net --input-bias input_bias.npy --steps 15 --expect output.npy
    """
    from dpap_neuro.deploy import simulation as s
    from dpap_neuro.deploy.evaluation import check_backend
    from dpap_neuro.deploy.opening import open_model
    from dpap_neuro.deploy.rasters import draw_spikes
    from dpap_neuro.files import check_picture

    check_backend(backend, lava_python, ("fixed", "lava"))
    clock = s.Clock(timing, reset_interval, reset_offset)
    s.check_request(backend, clock, record, out, shown_to is not None, steps)
    if plot is not None:
        check_picture(plot)
    opened = open_model(model, options, s.input_of(input_layer, input_bias), shown_to)
    say_assumed(opened)
    network = opened.integers()
    for note in opened.notes:
        say(note)
    wanted = s.recorded_of(network, record or ())
    counts = s.raster_of(opened, shown_to, steps)
    for note in input_notes(opened.chip, int(counts.max(initial=0))):
        say(note)
    spiking = [p.name for p in network.populations if p.spiking]
    shown = wanted if plot is None else s.with_spikes(wanted, spiking)
    done = s.run(network, counts, shown, clock, backend, lava_python, expect)
    if out is not None:
        s.write_run(done.run, wanted, out)
    if plot is not None:
        trains = {"input": counts[0], **{name: done.run.spikes[name][0] for name in spiking}}
        which = f", the first of {done.samples} recordings" if done.samples > 1 else ""
        draw_spikes(trains, plot, f"{model.name} on {opened.chip.name}{which}")
    if as_json:
        print(json.dumps(done.to_dict()))
    else:
        stdout.print(_populations(f"{model}: {done.samples} samples of {done.steps} steps", network, done))
        for what, differing in done.compared.items():
            stdout.print(
                f"values that differ between {what} and our simulator: {differing:,}", highlight=False
            )
        for path in (out, plot):
            if path is not None:
                stdout.print(f"Written: {path}", highlight=False, markup=False)
    if any(done.compared.values()):
        raise typer.Exit(1)


def _populations(title: str, network: Network, done: Simulated) -> Table:
    """A row per population: spikes, and synaptic events where our simulator counted them."""
    table = Table(title=plain(title), title_justify="left")
    for heading in ("population", "shape", "spikes", *(["synaptic events"] if done.events else [])):
        table.add_column(heading)
    for p in network.populations:
        shape = "x".join(map(str, p.shape))
        row = [plain(p.name), shape, f"{done.spikes[p.name]:,}" if p.spiking else "read-out"]
        table.add_row(*row, *([f"{done.events[p.name]:,}"] if done.events else []))
    return table


@command()
def evaluate(
    model: Model,
    shown_to: Recordings,
    options: CompileOptions,
    backend: Annotated[
        str | None,
        typer.Option(
            help="float, fixed (the chip's integers) or lava (the same on lava-nc).",
            show_default="float; with --anytime fixed",
        ),
    ] = None,
    lava_python: LavaPython = None,
    anytime: Annotated[
        bool,
        typer.Option(
            "--anytime", help="Accuracy, events and energy after each step of the chip: the read-out so far."
        ),
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            help="--anytime: stop a recording where the first class is so far ahead of the second (spikes, or the membrane's units)."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="--anytime: draw accuracy by steps and events (.png, .svg, .pdf).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify recordings with a network: in floats, or in the integers that `compile` makes with the same options.

    Example: dpap-neuro evaluate demo/pruned.nir --dataset digits --backend fixed

    Example: dpap-neuro evaluate demo/pruned.nir --dataset digits --anytime --margin 5 --plot anytime.png

    A margin is to be chosen on other recordings than those that are reported, such as --split train.
    """
    from dpap_neuro.deploy import evaluation as e
    from dpap_neuro.deploy.opening import open_model
    from dpap_neuro.errors import InputError

    if anytime:
        if backend not in (None, "fixed"):
            raise InputError(
                f"--anytime: runs the chip's integers, found --backend {backend}, expected fixed"
            )
        return _anytime(model, shown_to, options, margin, plot, as_json)
    for name, value in (("margin", margin), ("plot", plot)):
        if value is not None:
            raise InputError(f"--{name}: is for --anytime")
    backend = backend or "float"
    e.check_backend(backend, lava_python)
    opened = open_model(model, options, recordings=shown_to)
    say_assumed(opened)
    with progress() as tell:
        result = e.evaluate(
            opened,
            shown_to,
            backend,
            lambda done, total: tell(f"simulating ({backend})", done, total),
            lava_python,
        )
    for note in result.notes:
        say(note)
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    table = Table(title=plain(str(model)), title_justify="left", show_header=False)
    if result.accuracy is not None:
        table.add_row("accuracy", f"{result.accuracy:.2%} ({result.correct:,} of {result.n:,})")
    if result.chip is not None:
        bits = "" if result.weight_bits is None else f", {result.weight_bits}-bit weights"
        table.add_row("integers for", plain(f"{result.chip}{bits}"))
    step = "" if result.dt is None else f" of {result.dt:g} s"
    table.add_row("time steps", f"{result.steps:,}{step}")
    table.add_row("spikes", f"{result.spikes:,}")
    rates = "\n".join(f"{plain(name)} {rate:.4f}" for name, rate in result.layer_rates.items())
    table.add_row("per neuron and step", rates)
    table.add_row("synaptic operations", f"{result.operations:,.0f} per recording")
    table.add_row("seconds", f"{result.seconds:.1f}")
    stdout.print(table)


def _anytime(
    model: Path,
    shown_to: Recordings,
    options: CompileOptions,
    margin: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    from dpap_neuro.deploy import anytime
    from dpap_neuro.deploy.opening import open_model
    from dpap_neuro.errors import InputError
    from dpap_neuro.files import check_picture

    if margin is not None and not 0 < margin < math.inf:
        raise InputError(f"margin: found {margin:g}, expected a finite number above 0")
    if plot is not None:
        check_picture(plot)
    opened = open_model(model, options, recordings=shown_to)
    say_assumed(opened)
    with progress() as tell:
        found = anytime.measure(opened, shown_to, lambda done, total: tell("simulating", done, total))
    for note in found.notes:
        say(note)
    if plot is not None:
        anytime.draw(found, plot, margin)
    if as_json:
        print(json.dumps({"model": str(model), **found.to_dict(margin)}))
        return
    stdout.print(_by_step(f"{model.name} on {found.chip}, {found.n:,} recordings", found))
    stops = found.levels() if margin is None else [found.stop(margin)]
    stdout.print(_by_margin(found, stops))
    if found.labels is None:
        say("no labels: accuracy is not known")
    if plot is not None:
        stdout.print(f"Written: {plot}", highlight=False, markup=False)


def _by_step(title: str, found: Anytime) -> Table:
    """The read-out so far after up to 16 of the steps."""
    first, last = max(0, found.depth - 1), found.steps - 1
    rows = sorted({round(first + (last - first) * k / 15) for k in range(16)})
    table = _share_table(title, "step")
    accuracy, energy = found.accuracy, None if found.energy is None else found.energy.mean(axis=0)
    events = found.events.mean(axis=0)
    for k in rows:
        _share_row(
            table,
            f"{k + 1:,}",
            None if accuracy is None else accuracy[k],
            found.alike[k],
            (events[k], events[-1]),
            None if energy is None else (energy[k], energy[-1]),
        )
    return table


def _by_margin(found: Anytime, stops: list[Stopped]) -> Table:
    table = _share_table(f"stopped at a margin, in {found.unit}; until step {found.steps} else", "margin")
    table.add_column("mean steps", justify="right")
    events = float(found.events[:, -1].mean())
    for one in stops:
        energy = None
        if one.energy is not None and found.energy is not None:
            energy = (one.energy, float(found.energy[:, -1].mean()))
        _share_row(
            table,
            f"{one.margin:,g}",
            one.accuracy,
            one.alike,
            (one.events, events),
            energy,
            f"{one.steps:.2f}",
        )
    return table


def _share_table(title: str, first: str) -> Table:
    table = Table(title=plain(title), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in (first, "accuracy", "as at the end", "events", "energy"):
        table.add_column(heading, justify="right")
    return table


def _share_row(
    table: Table,
    first: str,
    accuracy: float | None,
    alike: float,
    events: tuple[float, float],
    energy: tuple[float, float] | None,
    *more: str,
) -> None:
    """events, energy: and what all steps take."""
    cells = [
        "" if accuracy is None else f"{accuracy:.2%}",
        f"{alike:.2%}",
        f"{events[0]:,.0f} ({events[0] / max(1.0, events[1]):.0%})",
        ""
        if energy is None
        else f"{1e6 * energy[0]:,.2f} uJ ({energy[0] / energy[1] if energy[1] else 0:.0%})",
    ]
    table.add_row(first, *cells, *more)
