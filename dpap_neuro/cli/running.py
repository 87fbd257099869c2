"""Commands that compile a network and run it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dpap_neuro.cli.shared import (
    Bins,
    BinUs,
    DataDir,
    Dataset,
    Downsample,
    Dt,
    Json,
    Model,
    app,
    plain,
    progress,
    say_time_step,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from hardware.compile.compiler import LayerReport

LavaPython = Annotated[
    str | None, typer.Option(help="A Python 3.10 with lava-nc 0.10.0, where this one has none.")
]


@app.command("compile")
def compile_(
    model: Annotated[Path, typer.Argument(help="A .nir file.")],
    out: Annotated[
        Path, typer.Option(help="The file to write: .net (NETX, for lava-dl) or .h5 (any integer network).")
    ],
    chip: Annotated[str, typer.Option(help="loihi1, loihi2, or the TOML file of a chip.")] = "loihi2",
    weight_bits: Annotated[
        int | None, typer.Option(help="Bits of a weight, 1 to 8; as wide as the chip stores them without.")
    ] = None,
    dt: Dt = None,
    as_json: Json = False,
) -> None:
    """Turn a .nir file into the integers of a chip, and show what rounding did to each layer.

    In an .h5 file for a chip with a threshold per neuron (Loihi 2) every output channel has its own; NETX and Loihi 1 have one
    per population.

    Example: dpap-neuro compile demo/pruned.nir --chip loihi2 --out demo/pruned.net
    """
    from dpap_neuro.deploy.evaluation import compile_file
    from hardware.graph.parsing import read_graph

    graph = read_graph(model)
    say_time_step(graph, dt)
    network, reports = compile_file(graph, chip, out, dt, weight_bits)
    if as_json:
        layers = [dataclasses.asdict(report) for report in reports]
        print(
            json.dumps(
                {"model": str(model), "chip": chip, "out": str(out), "dt": network.dt, "layers": layers}
            )
        )
        return
    stdout.print(_layers(f"{model} for {chip}, {max(r.weight_bits for r in reports)}-bit weights", reports))
    for note in dict.fromkeys(f"{r.source} -> {r.target}: {note}" for r in reports for note in r.notes):
        stderr.print(plain(note), highlight=False)
    stdout.print(f"Written: {out}", highlight=False, markup=False)


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


@app.command()
def simulate(
    model: Model,
    dataset: Annotated[str | None, typer.Option(help="A data set, as `evaluate` takes it.")] = None,
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="train, test or all.")] = "test",
    bins: Bins = None,
    bin_us: BinUs = None,
    downsample: Downsample = None,
    limit: Annotated[int, typer.Option(help="Recordings of the data set, spread evenly.")] = 10,
    raster: Annotated[
        Path | None,
        typer.Option("--input", help="An .npy file of counts, (steps, *shape), instead of a data set."),
    ] = None,
    backend: Annotated[str, typer.Option(help="fixed (our simulator) or lava (and compare).")] = "fixed",
    lava_python: LavaPython = None,
    record: Annotated[list[str] | None, typer.Option(help="A population to record; repeat for more.")] = None,
    out: Annotated[Path | None, typer.Option(help="The .npz file for output and recorded spikes.")] = None,
    dt: Dt = None,
    as_json: Json = False,
) -> None:
    """Run the integer network of a model; on Lava, compare every spike with ours (exit status 1 if any differs).

    Example: dpap-neuro simulate demo/pruned.nir --dataset digits --record 9_lif --out spikes.npz
    """
    from dpap_neuro.data import open_dataset, rasters
    from dpap_neuro.deploy import evaluation as e
    from dpap_neuro.errors import InputError
    from hardware.simulate import simulator

    e.check_backend(backend, lava_python, ("fixed", "lava"))
    if out is not None:
        e.check_spikes_path(out)
    elif record:
        raise InputError(f"record: nothing is kept of {', '.join(record)} without --out SPIKES.npz")
    if (raster is None) == (dataset is None):
        raise InputError("input: give either --dataset NAME or --input RASTER.npy")
    opened_model = e.open_model(model, dt)
    if opened_model.graph is not None:
        say_time_step(opened_model.graph, dt)
    network = opened_model.integers()
    wanted = {name: ("spikes",) for name in record or ()}
    if raster is not None:
        counts = e.read_raster(raster, next((tuple(entry.shape) for entry in network.stimulated), ()))
    else:
        binning = e.binning_of(opened_model.metadata, bins, bin_us, downsample)
        opened = open_dataset(str(dataset), data_dir, split)
        part = [opened.recordings[i] for i in e.chosen_recordings(opened, limit)]
        counts = e.shown(opened_model.metadata, rasters(part, binning, opened.sensor_size))
    simulator.check_rasters(network, counts)
    differing = None
    if backend == "lava":
        run, differing = e.run_lava(network, counts, wanted, lava_python)
    else:
        run = simulator.simulate(network, counts, record=wanted)
    if out is not None:
        recorded = {name: run.spikes[name] for name in wanted}
        e.write_spikes(dataclasses.replace(run, spikes=recorded), out)
    spikes = {name: int(c.sum()) for name, c in run.counts.items()}
    values = {"samples": counts.shape[0], "steps": counts.shape[1], "backend": backend, "spikes": spikes}
    if differing is None:
        values["events"] = {p.name: int(run.event_counts[p.name].sum()) for p in network.populations}
    else:
        values["differing"] = differing
    if as_json:
        print(json.dumps(values))
    else:
        table = Table(
            title=plain(f"{model}: {counts.shape[0]} samples of {counts.shape[1]} steps"),
            title_justify="left",
        )
        for heading in ("population", "shape", "spikes", *(["synaptic events"] if differing is None else [])):
            table.add_column(heading)
        for p in network.populations:
            shape = "x".join(map(str, p.shape))
            row = [plain(p.name), shape, f"{spikes[p.name]:,}" if p.spiking else "read-out"]
            table.add_row(*row, *([f"{values['events'][p.name]:,}"] if differing is None else []))
        stdout.print(table)
        if differing is not None:
            stdout.print(f"values that differ between Lava and our simulator: {differing:,}", highlight=False)
        if out is not None:
            stdout.print(f"Written: {out}", highlight=False, markup=False)
    if differing:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Model,
    dataset: Dataset,
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="train, test or all.")] = "test",
    bins: Bins = None,
    bin_us: BinUs = None,
    downsample: Downsample = None,
    backend: Annotated[
        str, typer.Option(help="float, fixed (the chip's integers) or lava (the same on lava-nc).")
    ] = "float",
    dt: Dt = None,
    limit: Annotated[int | None, typer.Option(help="Only so many recordings, spread evenly.")] = None,
    lava_python: LavaPython = None,
    as_json: Json = False,
) -> None:
    """Classify recordings with a network.

    Example: dpap-neuro evaluate demo/pruned.nir --dataset digits --backend fixed
    """
    from dpap_neuro.deploy import evaluation as e

    e.check_backend(backend, lava_python)
    opened_model = e.open_model(model, dt)
    if opened_model.graph is not None:
        say_time_step(opened_model.graph, dt)
    with progress() as tell:
        result = e.evaluate(
            opened_model,
            dataset,
            data_dir,
            split,
            bins,
            bin_us,
            backend,
            dt,
            limit,
            lambda done, total: tell(f"simulating ({backend})", done, total),
            lava_python,
            downsample,
        )
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    table = Table(title=plain(str(model)), title_justify="left", show_header=False)
    table.add_row("accuracy", f"{result.accuracy:.2%} ({result.correct:,} of {result.n:,})")
    step = "" if result.dt is None else f" of {result.dt:g} s"
    table.add_row("time steps", f"{result.steps:,}{step}")
    table.add_row("spikes", f"{result.spikes:,}")
    table.add_row("seconds", f"{result.seconds:.1f}")
    stdout.print(table)
