"""Commands about cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dpap_neuro.cli.options import Budgets, Json, Model, command
from dpap_neuro.cli.shared import plain, say, say_assumed, stdout
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.recordings import Recordings

if TYPE_CHECKING:
    from hardware.placement import Placement


@command(limit=10)
def cores(
    model: Model,
    options: CompileOptions,
    max_cores: Budgets = None,
    max_synapses: Budgets = None,
    max_synapses_per_core: Budgets = None,
    shown: Recordings | None = None,
    as_json: Json = False,
) -> None:
    """Place a network on the cores of a chip; exit status 0 where it fits, 3 where it does not.

    Crossing spikes: per recording with --dataset or --input, else as if every neuron fired once.

    Example: dpap-neuro cores demo/pruned.nir --chip loihi1 --max-cores 4
    """
    from dpap_neuro.deploy.evaluation import measured_rates
    from dpap_neuro.deploy.opening import open_model
    from hardware.chip.chips import as_chip
    from hardware.placement.budget import Budget, fill

    budget = Budget(as_chip(options.chip), max_cores, max_synapses, max_synapses_per_core)
    opened = open_model(model, options)
    say_assumed(opened)
    rates = None if shown is None else measured_rates(opened, shown)
    found = fill(opened.integers(), budget, rates)
    placement = found.placement
    values = {"model": str(model), **placement.to_dict(), **found.to_dict()}
    values["crossing_spikes_unit"] = "each neuron once" if rates is None else "per recording"
    if as_json:
        print(json.dumps(values))
    else:
        title = plain(f"{model} on {budget.chip.name}")
        stdout.print(_layers(title, placement) if placement.layers else _cores(title, placement))
        crossing = "where each neuron fires once" if rates is None else "per recording"
        plural = "s" if placement.cores > 1 else ""
        stdout.print(
            f"{placement.synapses:,} synapses on {placement.cores} core{plural} (at least "
            f"{placement.lower_bound} needed); {placement.crossing_spikes:,.0f} spikes cross cores {crossing}",
            highlight=False,
            soft_wrap=True,
        )
    for broken in found.broken:
        say(f"does not fit: {broken}")
    if explanation := found.explain():
        say(explanation)
    if not found.fits:
        raise typer.Exit(3)


def _cores(title: str, placement: Placement) -> Table:
    """A row per core."""
    table = Table(title=title, title_justify="left")
    for heading in ("core", "neurons", "synapses", "memory bits", "axons in", "axons out"):
        table.add_column(heading, justify="right")
    keys = ("neurons", "synapses", "memory_bits", "axons_in", "axons_out")
    for core in range(placement.cores):
        table.add_row(str(core), *(f"{getattr(placement, f'{key}_per_core')[core]:,}" for key in keys))
    return table


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
    from hardware.chip.chips import as_chip

    found_chip = as_chip(options.chip)
    if out is not None:
        comparison.check_picture(out)
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
    as_json: Json = False,
) -> None:
    """Estimate energy and latency per recording on Loihi 1, by SANA-FE (extra `energy`).

    Dynamic energy of neurons, synapses and messages by published costs; no static power, no input or output of the chip.

    Example: dpap-neuro energy demo/pruned.nir --dataset digits
    """
    from dpap_neuro.deploy.evaluation import estimate_energy
    from dpap_neuro.deploy.opening import open_model

    opened = open_model(model, options)
    say_assumed(opened)
    found, placement = estimate_energy(opened, shown)
    values = {"model": str(model), "chip": placement.chip.name, "cores": placement.cores, **found.to_dict()}
    if as_json:
        print(json.dumps(values))
        return
    title = plain(f"{model} on {placement.chip.name}, per recording (mean of {found.samples})")
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for label, joules in (
        ("energy", found.energy),
        ("  neurons", found.soma),
        ("  synapses", found.synapse),
        ("  messages", found.network),
    ):
        table.add_row(label, f"{joules * 1e6:,.3f} uJ")
    table.add_row("latency", f"{found.latency * 1e6:,.1f} us in {found.steps} steps")
    table.add_row("power, dynamic", f"{found.power * 1e3:,.2f} mW")
    table.add_row("spikes", f"{found.spikes:,.0f}")
    table.add_row("synaptic events", f"{found.events:,.0f}")
    table.add_row("cores", f"{placement.cores}")
    stdout.print(table)
