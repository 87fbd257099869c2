"""Commands that run a network on recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpap_neuro.cli.shared import DataDir, Json, app, progress, stderr, stdout


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
        stderr.print(time_step(read_graph(model))[1], highlight=False)
    with progress() as tell:
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
    stdout.print(table)
