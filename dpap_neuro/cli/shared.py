"""What every command shares: the application, where it prints, options and progress bars."""

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
    from hardware.graph.graph import Graph

app = typer.Typer(
    help="Train spiking networks on event-camera recordings, prune them by DPAP, run them on a simulated Loihi.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
stdout = Console()
stderr = Console(stderr=True)

Model = Annotated[Path, typer.Argument(help="A .nir file, or a .net or .h5 file of `dpap-neuro compile`.")]
Dt = Annotated[float | None, typer.Option(help="Seconds per step, for a .nir file that does not say.")]
Bins = Annotated[int | None, typer.Option(help="Time steps per recording.")]
BinUs = Annotated[float | None, typer.Option(help="Microseconds per time step.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Dataset = Annotated[
    str, typer.Option(help="digits, motion, nmnist, dvsgesture, cifar10dvs, ncaltech101 or shd.")
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the data set, in tonic's layout.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        envvar="DPAP_NEURO_CACHE",
        help="Folder for recordings turned into counts; may be deleted. Default: the user's cache folder.",
    ),
]
Downsample = Annotated[int | None, typer.Option(help="Pixels per side that become one.")]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable on one machine.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def plain(text: str) -> str:
    """As it is to be printed: a path or a name from a stranger's file is no markup and moves no cursor."""
    return escape(text if text.isprintable() else repr(text))


def cache_folder(chosen: Path | None) -> Path:
    """Where rasters are kept."""
    if chosen is not None:
        return chosen
    from platformdirs import user_cache_path

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


def say_time_step(graph: Graph, dt: float | None = None) -> None:
    """On stderr a line for each thing that neither the file nor the caller says: time step, reset, axes of a batch."""
    from hardware.graph.assumed import assumptions

    for line in assumptions(graph, dt):
        stderr.print(plain(line), highlight=False)
