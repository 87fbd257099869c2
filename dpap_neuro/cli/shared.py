"""What every command shares: the application, where it prints, options and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(
    help="Train spiking networks on event-camera recordings, prune them by DPAP, run them on a simulated Loihi.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
stdout = Console()
stderr = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the data set, in tonic's layout.")]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable on one machine.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


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
