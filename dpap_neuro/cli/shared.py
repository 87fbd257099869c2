"""What every command shares: the application, where it prints, and progress bars."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from dpap_neuro.cli.commands import Commands

if TYPE_CHECKING:
    from dpap_neuro.deploy.opening import Model
    from hardware.graph.graph import Graph

app = typer.Typer(
    cls=Commands,
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


def command_line() -> str:
    """What was typed, as a page or a record names it."""
    return shlex.join(["dpap-neuro", *sys.argv[1:]])


def cache_folder(chosen: Path | None) -> Path:
    """Where rasters are kept; where this user's own folder cannot be written to, a temporary one, which is said."""
    if chosen is not None:
        return chosen
    from platformdirs import user_cache_path  # not before it is needed: most commands keep nothing

    from hardware.files.spare import spare_folder

    own = user_cache_path("dpap-neuro", appauthor=False) / "rasters"
    try:
        own.mkdir(parents=True, exist_ok=True)
        if os.access(own, os.W_OK):
            return own
    except OSError:
        pass
    spare = spare_folder()
    if spare is None:
        return own
    say(f"{own} cannot be written to: rasters are kept in {spare}; --cache-dir names another folder")
    return spare / "rasters"


def collecting() -> None:
    """Garbage is looked for again, after `main` put that off, and not among what has been imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def speaking(aloud: bool) -> Iterator[None]:
    """Whether anything is printed for a while; errors come after it."""
    stdout.quiet = stderr.quiet = not aloud
    try:
        yield
    finally:
        stdout.quiet = stderr.quiet = False


@contextmanager
def interruptible(how: str) -> Iterator[None]:
    """Ctrl-C ends the command with a line that says how to go on, and exit status 130 as shells have it."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; {how}")
        raise typer.Exit(130) from None


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with the time left for each thing being done, on stderr; lines, where that is no terminal."""
    if not stderr.is_terminal:
        yield Lines(say)
        return
    # Not before it is needed: --help shows no bar.
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as bars:
        tasks: dict[str, int] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield tell


class Lines:
    """Progress for a log: of each thing being done a line per ten per cent, of what is over in `SHORT` seconds none.

    say: prints a line. clock: seconds.
    """

    SHORT = 2.0

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.clock = say, clock
        # Of each thing when it began, and the tenths and the time of its last line.
        self.told: dict[str, tuple[float, int, float]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self.clock()
        begin, last, said = self.told.setdefault(what, (now, 0, now))
        tenths = 10 * done // max(1, total)
        if tenths <= last or (now - said < self.SHORT and not (done >= total and said > begin)):
            return
        seconds = now - begin
        left = "" if done >= total else f", about {seconds * (total - done) / done:.0f} s left"
        self.say(f"{what}: {100 * done / max(1, total):.0f} %, {seconds:.0f} s{left}")
        self.told[what] = begin, tenths, now


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
    """What is assumed of a `.nir` file that does not say, time step and reset; and a reset that no chip has."""
    from hardware.graph.graph import reset_of

    if model.graph is None:
        return
    say_time_step(model.graph, model.options.dt)
    say_reset(model.graph, model.options.reset)
    subtracts = reset_of(model.graph, model.options.reset)[0] == "subtract"
    if subtracts and model.graph.metadata.get("reset_delay"):
        say(
            "the file's resets come one step late (reset_delay), as snnTorch's do: so they do in floats here; a chip subtracts at "
            "once, and its spikes part from them beyond what rounding does"
        )
