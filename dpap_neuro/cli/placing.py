"""Commands about cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpap_neuro.cli.shared import Dt, Json, app, say_time_step, stderr, stdout


@app.command()
def cores(
    model: Annotated[Path, typer.Argument(help="A .nir file.")],
    chip: Annotated[str, typer.Option(help="loihi1, loihi2, or the TOML file of a chip.")] = "loihi2",
    max_cores: Annotated[
        int | None, typer.Option(help="Budget; exit status 3 where it does not suffice.")
    ] = None,
    dt: Dt = None,
    as_json: Json = False,
) -> None:
    """Place a network on the cores of a chip; exit status 0 where it fits, 3 where it does not.

    Example: dpap-neuro cores demo/pruned.nir --chip loihi1 --max-cores 4
    """
    from hardware.compile import compile_graph
    from hardware.graph import read_graph
    from hardware.placement import place

    graph = read_graph(model)
    say_time_step(graph, dt)
    placement = place(compile_graph(graph, dt)[0], chip, max_cores=max_cores)
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
        stdout.print(table)
        stdout.print(
            f"{values['synapses']:,} synapses on {values['cores']} cores (at least {values['lower_bound']} needed)",
            highlight=False,
        )
    for broken in placement.broken:
        stderr.print(f"does not fit: {broken}", highlight=False)
    if not placement.fits:
        raise typer.Exit(3)
