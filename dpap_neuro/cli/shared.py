"""What every command shares: the application, where it prints, and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from dpap_neuro.deploy.opening import Model
    from hardware.graph.graph import Graph

app = typer.Typer(
    help="Train spiking networks on event-camera recordings, prune them by DPAP, run them on a simulated Loihi.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
stdout = Console()
stderr = Console(stderr=True)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"dpap-neuro {version('dpap-neuro')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and end.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    """Options before a command."""


def plain(text: str) -> str:
    """As it is to be printed: a path or a name from a stranger's file is no markup and moves no cursor."""
    return escape(text if text.isprintable() else repr(text))


def cache_folder(chosen: Path | None) -> Path:
    """Where rasters are kept."""
    if chosen is not None:
        return chosen
    from platformdirs import user_cache_path  # not before it is needed: most commands keep nothing

    return user_cache_path("dpap-neuro", appauthor=False) / "rasters"


@contextmanager
def speaking(aloud: bool) -> Iterator[None]:
    """Whether anything is printed for a while; errors come after it."""
    stdout.quiet = stderr.quiet = not aloud
    try:
        yield
    finally:
        stdout.quiet = stderr.quiet = False


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with the time left for each thing being done, on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as bars:
        tasks: dict[str, int] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield tell


def say(line: str) -> None:
    """A line beside the results, on stderr; names of strangers' files are no markup."""
    stderr.print(plain(line), highlight=False)


def say_time_step(graph: Graph, dt: float | None = None) -> None:
    """On stderr a line for each thing that neither the file nor the caller says: time step, reset, axes of a batch."""
    from hardware.graph.assumed import assumptions

    # The reset is `say_reset`'s.
    for line in assumptions(graph, dt, "zero"):
        say(line)


def say_reset(graph: Graph, reset: str | None = None) -> None:
    """The reset that is assumed, on stderr, where neither the file nor the caller names one, and something has a reset."""
    from hardware.graph.graph import reset_of

    reason = reset_of(graph, reset)[1]
    if "assumed" in reason:
        say(reason)


def say_assumed(model: Model) -> None:
    """What is assumed of a `.nir` file that does not say: time step and reset."""
    if model.graph is not None:
        say_time_step(model.graph, model.options.dt)
        say_reset(model.graph, model.options.reset)
