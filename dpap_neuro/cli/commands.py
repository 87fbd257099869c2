"""All commands, by name: `--help` lists them, and imports none of what they do; a command's own module is imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# In the order in which --help lists them: the module of `dpap_neuro.cli` that registers it, and the first paragraph of its help.
COMMANDS = {
    "demo": ("learning", "Learn, prune, export, run on a simulated Loihi: the whole road on embedded data."),
    "train": (
        "learning",
        "Train a spiking network on event-camera recordings, and prune it while it learns.",
    ),
    "finetune": (
        "learning",
        "Train a float network on with the integers that a chip runs; spikes in training are then spikes on the chip.",
    ),
    "sweep": (
        "sweeping",
        "Compare pruners at equal sparsity: pruners x sparsities x seeds, as a table and a picture.",
    ),
    "export": (
        "graphs",
        "Write the network of a run as a .nir file, for one framework where --for names it: with the same spikes there, or not at all.",
    ),
    "inspect": (
        "graphs",
        "Show what is in a .nir file: nodes, shapes, parameters, synapses, time constants; of a .net or .h5 file its populations and "
        "projections in integers.",
    ),
    "compile": (
        "running",
        "Turn a .nir file into the integers of a chip, and show what rounding did to each layer.",
    ),
    "simulate": (
        "running",
        "Run the integer network of a model; on Lava, compare every spike with ours (exit status 1 if any differs).",
    ),
    "evaluate": (
        "running",
        "Classify recordings with a network: in floats, or in the integers that `compile` makes with the same options.",
    ),
    "fidelity": ("measuring", "Compare float and chip population by population, spike by spike."),
    "cores": (
        "placing",
        "Place a network on the cores of a chip; exit status 0 where it fits, 3 where it does not.",
    ),
    "compare": (
        "placing",
        "Put networks side by side: parameters, synapses, cores, synapses per core, crossing spikes, accuracy.",
    ),
    "energy": (
        "placing",
        "Loads, time and energy per recording, by the costs in the chip's file; the slowest core decides how long a step takes.",
    ),
    "report": (
        "reporting",
        "Write a page on one or more networks: numbers, training, kernels, spikes float and chip, cores, where it all came from.",
    ),
    "data": ("data", "Data sets: get them from their servers."),
}


class Commands(TyperGroup):
    """The group of `COMMANDS`. It lays out its own --help, as Typer does, whose way imports as much again as all of Typer."""

    def __init__(self, *, commands: Any = None, **attributes: Any) -> None:
        self._loaded = dict(commands or {})
        listed = {name: TyperCommand(name, help=first) for name, (_, first) in COMMANDS.items()}
        super().__init__(commands={**listed, **self._loaded}, **attributes)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self._loaded:
            self._loaded[cmd_name] = _load(cmd_name)
        return self._loaded.get(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.console import Console
        from rich.padding import Padding
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        console = Console()
        console.print(Padding(Text(self.get_usage(ctx), style="bold"), 1))
        console.print(Padding(Text(self.help or ""), (0, 1, 1, 1)))
        options = [(", ".join(option.opts), option.help or "") for option in self.get_params(ctx)]  # type: ignore[attr-defined]
        for title, rows in (
            ("Options", options),
            ("Commands", [(name, first) for name, (_, first) in COMMANDS.items()]),
        ):
            table = Table(box=None, show_header=False, expand=True, padding=(0, 1), pad_edge=False)
            table.add_column(style="bold cyan", no_wrap=True)
            table.add_column(ratio=1)
            for name, said in rows:
                table.add_row(Text(name), Text(said))
            console.print(Panel(table, title=title, title_align="left", border_style="dim"))


def _load(name: str) -> Any:
    """A command as Typer makes it, of what its module registered."""
    from dpap_neuro.cli.shared import app

    import_module(f"dpap_neuro.cli.{COMMANDS[name][0]}")
    for group in app.registered_groups:
        if group.name == name and group.typer_instance is not None:
            return typer.main.get_group(group.typer_instance)
    alone = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=app.rich_markup_mode
    )
    alone.registered_commands = [
        command
        for command in app.registered_commands
        if (command.name or getattr(command.callback, "__name__", None)) == name
    ]
    return typer.main.get_command(alone)
