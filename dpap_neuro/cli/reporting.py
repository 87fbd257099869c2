"""The command that writes a report page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpap_neuro.cli.options import command
from dpap_neuro.cli.shared import command_line, plain, progress, say, say_assumed, stdout
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.recordings import Recordings


@command()
def report(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of `dpap-neuro train` or `demo`, or .nir files; the first is compared with."
        ),
    ],
    options: CompileOptions,
    out: Annotated[Path, typer.Option(help="The page, one .html file that needs no network.")],
    shown: Recordings | None = None,
) -> None:
    """Write a page on one or more networks: numbers, training, kernels, spikes float and chip, cores, where it all came from.

    Accuracy and spikes need recordings: --dataset or --input.

    Example: dpap-neuro report demo --dataset digits --out report.html
    """
    from dpap_neuro.deploy import page

    page.check(out)
    with progress() as tell:
        subjects = page.gather(models, options, shown, tell)
    for subject in subjects:
        say_assumed(subject.model)
    for note in dict.fromkeys(note for s in subjects if s.found is not None for note in s.found.notes):
        say(note)
    page.write(subjects, out, command_line(), "none" if shown is None else shown.describe())
    stdout.print(f"Written: {plain(str(out))}", highlight=False)
