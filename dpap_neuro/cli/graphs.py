"""Commands on `.nir` files as files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dpap_neuro.cli.options import Dt, Json, command
from dpap_neuro.cli.shared import plain, stdout


@command()
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
    from dpap_neuro.exchange.nir_export import without_dead_units, write_nir
    from dpap_neuro.train.runs import graph_of, is_compact, load_run

    network, metadata = load_run(run)
    if compact or is_compact(run):
        network = without_dead_units(network, network.settings.input_shape)
    write_nir(graph_of(network, metadata), out)
    stdout.print(f"Written: {plain(str(out))}", highlight=False)


@command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A .nir file.")],
    draw: Annotated[
        Path | None, typer.Option(help="Draw the graph into this file (.dot, .svg, .png).")
    ] = None,
    dt: Dt = None,
    as_json: Json = False,
) -> None:
    """Show what is in a .nir file: nodes, shapes, parameters, synapses, time constants.

    Counts are of weights that are not zero; "stored" are the synapses with the zeros, "sparsity" is the share of the
    parameters that are zero.

    Example: dpap-neuro inspect demo/pruned.nir
    """
    from hardware.graph import summary
    from hardware.graph.parsing import read_graph

    graph = read_graph(model)
    found = summary.describe(graph, dt)
    if draw is not None:
        summary.draw(graph, draw)
    if as_json:
        print(json.dumps(summary.as_json(found)))
        return
    table = Table(title=plain(str(model)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("node", overflow="fold")
    table.add_column("type", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for heading in ("neurons", "parameters", "synapses", "stored", "sparsity"):
        table.add_column(heading, justify="right", no_wrap=True)
    for node in found.nodes:
        weights = [""] * 4
        if node.sparsity is not None:
            counts = (node.parameters, node.synapses, node.synapses_stored)
            weights = [*(f"{n:,}" for n in counts), f"{node.sparsity:.1%}"]
        shape = "x".join(map(str, node.output_shape))
        table.add_row(
            plain(node.name), node.type, shape, f"{node.neurons:,}" if node.neurons else "", *weights
        )
    table.add_section()
    total = (found.neurons, found.parameters, found.synapses, found.synapses_stored)
    sparsity = "" if found.sparsity is None else f"{found.sparsity:.1%}"
    table.add_row("all", "", "", *(f"{n:,}" for n in total), sparsity)
    stdout.print(table)
    chain = set(pairwise(node.name for node in found.nodes))
    forward = [edge for edge in found.edges if edge not in found.recurrent]
    for what, edges in (("edges", forward), ("recurrent edges", found.recurrent)):
        if edges and set(edges) != chain:
            text = ", ".join(f"{source} -> {target}" for source, target in edges)
            stdout.print(f"{what}: {plain(text)}", highlight=False)
    for node in found.nodes:
        if node.time_constants:
            text = ", ".join(_constant(*item) for item in node.time_constants.items())
            stdout.print(f"{plain(node.name)}: {text}", highlight=False)
    stdout.print(found.dt_reason, highlight=False)
    for key, value in found.metadata.items():
        if key != "dt":
            stdout.print(f"{plain(key)}: {plain(str(value)[:400])}", highlight=False)


def _constant(name: str, bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{name} {low:.4g} s" if low == high else f"{name} {low:.4g} to {high:.4g} s"
