"""The command line: thin layers over documented functions. Stands on both packages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dpap_neuro.errors import InputError
from hardware.errors import HardwareError

app = typer.Typer(
    help="Train spiking networks on event-camera recordings, prune them by DPAP, run them on a simulated Loihi.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_out = Console()
_err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the data set, in tonic's layout.")]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable on one machine.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with the time left for each thing being done, on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err) as bars:
        tasks: dict[str, int] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield tell


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")],
    epochs: Annotated[int, typer.Option(help="Epochs of each of the two trainings.")] = 24,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Learn, prune, export, run on a simulated Loihi: the whole road on embedded data.

    Example: dpap-neuro demo --out demo
    """
    from dpap_neuro.demo import run_demo
    from dpap_neuro.report import core_table, demo_table

    with _progress() as tell:
        summary = run_demo(out, epochs, seed, device, tell, lambda line: _err.print(line, highlight=False))
    _out.print(demo_table(summary))
    for chip in summary["cores_dense"]:
        _out.print(
            core_table(
                chip, summary["synapses_per_core_dense"][chip], summary["synapses_per_core_pruned"][chip]
            )
        )
    _out.print(
        f"DPAP's share of a training step: {summary['dpap_overhead']:.1%}. "
        f"All of it took {summary['seconds']:.0f} s. Results in {out}: "
        "dense.nir, pruned.nir, summary.json, demo.png",
        highlight=False,
    )


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the run; made if missing.")],
    dataset: Annotated[str, typer.Option(help="digits or nmnist.")] = "digits",
    data_dir: DataDir = None,
    model: Annotated[str, typer.Option(help="cnn or mlp.")] = "cnn",
    pruner: Annotated[
        str, typer.Option(help="none, dpap, dpap-weighted, magnitude, magnitude-layer, random, set or rigl.")
    ] = "dpap",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the parameters to remove; dpap finds its own without.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training recordings.")] = 24,
    batch: Annotated[int, typer.Option(help="Recordings per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at the top of its cosine.")] = 3e-3,
    bins: Annotated[
        int | None, typer.Option(help="Time steps per recording (10 where neither is given).")
    ] = None,
    bin_us: Annotated[
        float | None, typer.Option(help="Microseconds per time step, instead of --bins.")
    ] = None,
    clip: Annotated[int | None, typer.Option(help="Event counts above are cut to this.")] = 4,
    readout: Annotated[str, typer.Option(help="spikes or membrane.")] = "spikes",
    decay: Annotated[float, typer.Option(help="Share of the membrane lost in a step, dt / tau.")] = 0.5,
    threshold: Annotated[float, typer.Option(help="Membrane threshold.")] = 0.5,
    surrogate_slope: Annotated[
        float, typer.Option(help="Of the surrogate gradient (SuperSpike's alpha).")
    ] = 10.0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a network, pruning it on the way; writes weights, history and model.nir.

    Example: dpap-neuro train --dataset nmnist --data-dir data --pruner dpap --out runs/first
    """
    from dpap_neuro import runs, training
    from dpap_neuro.data import Binning
    from dpap_neuro.pruning import make_pruner

    chosen = training.choose_device(device)
    settings = training.TrainSettings(epochs=epochs, batch=batch, learning_rate=learning_rate, seed=seed)
    options = {} if sparsity is None else {"sparsity": sparsity}
    method = make_pruner(pruner, epochs=epochs, **options)
    binning = Binning(10 if bins is None and bin_us is None else bins, bin_us, clip)
    with _progress() as tell:
        split = runs.load_split(dataset, data_dir, binning, lambda what, a, b: tell(f"reading {what}", a, b))
        description = runs.model_settings(split, model, readout, decay, threshold, surrogate_slope)
        batches = max(1, len(split.train[1]) // batch)
        _err.print(method.describe(), highlight=False)
        network, history = runs.train_run(
            split,
            description,
            method,
            settings,
            chosen,
            lambda epoch, done: tell("training", epoch * batches + done, epochs * batches),
            lambda e, _: _err.print(
                f"epoch {e.epoch + 1}: loss {e.loss:.3f}, test accuracy {e.accuracy:.2%}, "
                f"{e.remaining:,} of {e.parameters:,} parameters",
                highlight=False,
            ),
        )
    runs.save_run(out, network.cpu(), history, runs.metadata_of(split))
    _out.print(f"Written to {out}: model.nir, weights.safetensors, run.json", highlight=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder written by `dpap-neuro train`.")],
    out: Annotated[Path, typer.Option(help="The .nir file to write.")],
) -> None:
    """Write the network of a run as a .nir file.

    Example: dpap-neuro export runs/first --out first.nir
    """
    from dpap_neuro.nir_export import write_nir
    from dpap_neuro.runs import graph_of, load_run

    write_nir(graph_of(*load_run(run)), out)
    _out.print(f"Written: {out}", highlight=False)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A .nir file.")],
    dataset: Annotated[str, typer.Option(help="digits or nmnist.")],
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="train, test or all.")] = "test",
    bins: Annotated[int | None, typer.Option(help="Time steps per recording.")] = None,
    bin_us: Annotated[float | None, typer.Option(help="Microseconds per time step.")] = None,
    backend: Annotated[str, typer.Option(help="float or fixed (the chip's integers).")] = "float",
    dt: Annotated[float | None, typer.Option(help="Seconds per step, for a file that does not say.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many recordings, spread evenly.")] = None,
    as_json: Json = False,
) -> None:
    """Classify recordings with a .nir file.

    Example: dpap-neuro evaluate demo/pruned.nir --dataset digits --backend fixed
    """
    from dpap_neuro.evaluation import evaluate as run
    from hardware.graph import read_graph, time_step

    if dt is None and read_graph(model).dt is None:
        _err.print(time_step(read_graph(model))[1], highlight=False)
    with _progress() as tell:
        result = run(
            model,
            dataset,
            data_dir,
            split,
            bins,
            bin_us,
            backend,
            dt,
            limit,
            lambda done, total: tell(f"simulating ({backend})", done, total),
        )
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    table = Table(title=str(model), title_justify="left", show_header=False)
    table.add_row("accuracy", f"{result.accuracy:.2%} ({result.correct:,} of {result.n:,})")
    table.add_row("time steps", f"{result.steps:,} of {result.dt:g} s")
    table.add_row("spikes", f"{result.spikes:,}")
    table.add_row("seconds", f"{result.seconds:.1f}")
    _out.print(table)


@app.command()
def cores(
    model: Annotated[Path, typer.Argument(help="A .nir file.")],
    chip: Annotated[str, typer.Option(help="loihi1, loihi2, or the TOML file of a chip.")] = "loihi2",
    max_cores: Annotated[
        int | None, typer.Option(help="Budget; exit status 3 where it does not suffice.")
    ] = None,
    dt: Annotated[float | None, typer.Option(help="Seconds per step, for a file that does not say.")] = None,
    as_json: Json = False,
) -> None:
    """Place a network on the cores of a chip; exit status 0 where it fits, 3 where it does not.

    Example: dpap-neuro cores demo/pruned.nir --chip loihi1 --max-cores 4
    """
    from hardware.compile import compile_graph
    from hardware.graph import read_graph
    from hardware.placement import place

    placement = place(compile_graph(read_graph(model), dt)[0], chip, max_cores=max_cores)
    values = placement.to_dict()
    if as_json:
        print(json.dumps(values))
    else:
        table = Table(title=f"{model} on {chip}", title_justify="left")
        for heading in ("core", "neurons", "synapses", "memory bits", "axons in", "axons out"):
            table.add_column(heading, justify="right")
        keys = ("neurons", "synapses", "memory_bits", "axons_in", "axons_out")
        for core in range(values["cores"]):
            table.add_row(str(core), *(f"{values[f'{key}_per_core'][core]:,}" for key in keys))
        _out.print(table)
        _out.print(
            f"{values['synapses']:,} synapses on {values['cores']} cores (at least {values['lower_bound']} needed)",
            highlight=False,
        )
    for broken in placement.broken:
        _err.print(f"does not fit: {broken}", highlight=False)
    if not placement.fits:
        raise typer.Exit(3)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A .nir file.")],
    draw: Annotated[
        Path | None, typer.Option(help="Draw the graph into this file (.dot, .svg, .png).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is in a .nir file: nodes, shapes, parameters, synapses, time constants.

    Example: dpap-neuro inspect demo/pruned.nir
    """
    from hardware import summary
    from hardware.graph import read_graph

    graph = read_graph(model)
    found = summary.describe(graph)
    if draw is not None:
        summary.draw(graph, draw)
    values = summary.as_json(found)
    if as_json:
        print(json.dumps(values))
        return
    table = Table(title=str(model), title_justify="left")
    columns = [key for key in values["nodes"][0] if not isinstance(values["nodes"][0][key], dict)]
    for column in columns:
        table.add_column(column.replace("_", " "))
    for node in values["nodes"]:
        table.add_row(*("" if node[c] is None else str(node[c]) for c in columns))
    _out.print(table)


def main() -> None:
    """Entry point: bad input is one line on stderr and exit status 2."""
    try:
        app()
    except (InputError, HardwareError) as error:
        _err.print(f"error: {' '.join(str(error).split())}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
