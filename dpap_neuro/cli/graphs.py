"""Commands on `.nir` files as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpap_neuro.cli.shared import Json, app, stdout


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder written by `dpap-neuro train`.")],
    out: Annotated[Path, typer.Option(help="The .nir file to write.")],
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Leave out neurons that pruning silenced, as runs with a budget do."),
    ] = False,
) -> None:
    """Write the network of a run as a .nir file.

    Example: dpap-neuro export runs/first --out first.nir
    """
    from dpap_neuro.nir_export import without_dead_units, write_nir
    from dpap_neuro.runs import graph_of, is_compact, load_run

    network, metadata = load_run(run)
    if compact or is_compact(run):
        network = without_dead_units(network, network.settings.input_shape)
    write_nir(graph_of(network, metadata), out)
    stdout.print(f"Written: {out}", highlight=False)


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
    stdout.print(table)
