"""Commands about data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpap_neuro.cli.shared import app, collecting, interruptible, plain, progress, say, stdout
from dpap_neuro.data.remote import REMOTES

data = typer.Typer(
    help="Data sets: get them from their servers.", no_args_is_help=True, rich_markup_mode="rich"
)
app.add_typer(data, name="data")


@data.callback()
def _root() -> None:
    """Keeps `get` a command of its own while it is the only one."""
    collecting()


@data.command()
def get(
    name: Annotated[str, typer.Argument(help=f"{', '.join(REMOTES)}.")],
    data_dir: Annotated[Path, typer.Option(help="Folder of data sets, as --data-dir of the other commands.")],
) -> None:
    """Download a data set, check it, unpack it; what is there already is kept, and a download that broke off goes on.

    Example: dpap-neuro data get cifar10 --data-dir data
    """
    from dpap_neuro.data import DATASETS
    from dpap_neuro.data.download import get as fetch
    from dpap_neuro.errors import InputError
    from dpap_neuro.files import locked

    if name not in REMOTES:
        known = (
            "which comes with the package, or from no server that tells a checksum; "
            if name in DATASETS
            else ""
        )
        raise InputError(f"data get: found {name!r}, {known}expected one of {', '.join(REMOTES)}")
    remote = REMOTES[name]
    say(f"{name}: {remote.page}")
    say(f"licence: {remote.licence}")
    with interruptible("the same command goes on"), locked(data_dir), progress() as tell:
        files = fetch(remote, data_dir, tell)
    where = plain(str(data_dir))
    many = "1 file, its checksum right" if len(files) == 1 else f"{len(files)} files, their checksums right"
    stdout.print(f"{name} is in {where}: {many}", highlight=False)
    known = name.removesuffix("-ibm")
    stdout.print(
        f"next: dpap-neuro train --dataset {known} --data-dir {where} --out runs/first", highlight=False
    )
