"""Commands on `.nir` files as files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dpap_neuro.cli.options import Dt, Json, Model, command
from dpap_neuro.cli.shared import plain, say, say_reset, say_time_step, stdout


@command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder written by `dpap-neuro train`, or a .nir file.")],
    out: Annotated[Path, typer.Option(help="The .nir file to write.")],
    peer: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="In the units that this framework reads: norse, snntorch, spikingjelly, sinabs, rockpool, lava-dl.",
        ),
    ] = None,
    dt: Dt = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Leave out neurons that pruning silenced, as runs with a budget do."),
    ] = False,
) -> None:
    """Write the network of a run as a .nir file, for one framework where --for names it: with the same spikes there, or not at all.

    Example: dpap-neuro export runs/first --out first.nir --for snntorch
    """
    from dpap_neuro.errors import InputError
    from dpap_neuro.exchange.dialects import for_peer
    from dpap_neuro.exchange.nir_export import without_dead_units, write_nir
    from dpap_neuro.exchange.plain import read_plainly
    from hardware.graph.parsing import from_nir, read_graph

    if run.suffix == ".nir":
        if peer is None or compact:
            raise InputError(
                f"{run}: a .nir file is exported for another framework; give --for, leave out --compact"
            )
        graph = read_graph(run)
        say_time_step(graph, dt)
        say_reset(graph)
    else:
        from dpap_neuro.train.runs import graph_of, is_compact, load_run

        network, metadata = load_run(run)
        if compact or is_compact(run):
            network = without_dead_units(network, network.settings.input_shape)
        written = graph_of(network, metadata)
        graph = from_nir(written)
    if peer is not None:
        written, notes = for_peer(graph, peer, dt)
        for line in notes:
            say(line)
    elif line := read_plainly(graph, dt).line():
        say(line)
    write_nir(written, out)
    stdout.print(f"Written: {plain(str(out))}", highlight=False)


@command()
def inspect(
    model: Model,
    draw: Annotated[
        Path | None, typer.Option(help="Draw the graph into this file (.dot, .svg, .png).")
    ] = None,
    dt: Dt = None,
    as_json: Json = False,
) -> None:
    """Show what is in a .nir file: nodes, shapes, parameters, synapses, time constants; of a .net or .h5 file its
    populations and projections in integers.

    Counts are of weights that are not zero, before they are rounded for a chip (`cores` names both); "stored" are the synapses with the zeros, "sparsity" is the share of the
    parameters that are zero.

    Example: dpap-neuro inspect demo/pruned.nir
    """
    from hardware.graph import summary
    from hardware.graph.parsing import read_graph

    if model.suffix in (".net", ".h5"):
        _inspect_integers(model, draw, dt, as_json)
        return
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
        said = [_constant(*item) for item in (node.time_constants or {}).items()]
        if node.never_spiking:
            said.append(
                f"{node.never_spiking:,} more neurons never spike (infinite thresholds) and are left out of the counts"
            )
        if said:
            stdout.print(f"{plain(node.name)}: {', '.join(said)}", highlight=False)
    stdout.print(found.dt_reason, highlight=False)
    for line in found.assumed:
        stdout.print(plain(line), highlight=False)
    for key, value in found.metadata.items():
        if key != "dt":
            stdout.print(f"{plain(key)}: {plain(str(value)[:400])}", highlight=False)


def _inspect_integers(model: Path, draw: Path | None, dt: float | None, as_json: bool) -> None:
    """The populations and projections of a network of the chip's integers."""
    from dpap_neuro.errors import InputError
    from hardware.files.network_file import load
    from hardware.files.netx_reading import read_net
    from hardware.network import summary

    if draw is not None or dt is not None:
        raise InputError(
            f"{model}: an integer network is in steps and is not drawn; leave out --dt and --draw"
        )
    network = read_net(model) if model.suffix == ".net" else load(model)
    found = summary.describe(network)
    if as_json:
        print(json.dumps(found))
        return
    populations = Table(title=plain(str(model)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    populations.add_column("population", overflow="fold")
    for heading in ("shape", "neurons", "du", "dv", "threshold", "reset"):
        populations.add_column(heading, justify="right", no_wrap=True)
    for p in found["populations"]:
        populations.add_row(
            plain(p["name"]), *(str(p[key]) for key in ("shape", "neurons", "du", "dv", "vth", "reset"))
        )
    projections = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    projections.add_column("projection", overflow="fold")
    for heading in ("kind", "parameters", "synapses", "bits", "exponent", "delay"):
        projections.add_column(heading, justify="right", no_wrap=True)
    for p in found["projections"]:
        counts = (f"{p['parameters']:,}", f"{p['synapses']:,}")
        rest = (str(p[key]) for key in ("weight_bits", "weight_exp", "delay"))
        projections.add_row(plain(f"{p['source']} -> {p['target']}"), p["kind"], *counts, *rest)
    stdout.print(populations)
    stdout.print(projections)
    dt_said = "dt is not in the file: it counts in steps" if network.dt is None else f"dt = {network.dt:g} s"
    stdout.print(f"{dt_said}; output: {plain(', '.join(network.outputs))}", highlight=False)
    for key, value in network.metadata.items():
        if key != "dt":
            stdout.print(f"{plain(key)}: {plain(str(value)[:400])}", highlight=False)


def _constant(name: str, bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{name} {low:.4g} s" if low == high else f"{name} {low:.4g} to {high:.4g} s"
