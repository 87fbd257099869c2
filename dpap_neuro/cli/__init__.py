"""The command line: thin layers over documented functions. Stands on both packages.

Nothing is imported before `main` runs, so that an environment that lacks something is answered in one line.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, NoReturn

# What the extras of this project install, by the names under which it is imported: pictures of every command, learning, and downloads.
_EXTRAS = {
    "pictures": ("matplotlib", "jinja2"),
    "learn": ("torch", "norse", "tonic", "sklearn", "safetensors"),
    "download": ("pooch", "requests"),
}
# How many more objects there are before garbage is looked for among them: with Python's own 700 that takes a tenth of a short command's time,
# which goes on importing.
_OBJECTS = 10_000


def main() -> None:
    """Entry point: bad input is one line on stderr and exit status 2."""
    _pictures_without_home()
    # Of what is imported at the start nothing is garbage, and looking for it takes a fifth of the time; `collecting` goes on.
    gc.disable()
    usual = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *usual[1:])
    try:
        from dpap_neuro.cli.shared import app
        from dpap_neuro.errors import BadInput
    except ImportError as error:
        _fail(_import_said(error))
    try:
        app()
    except BadInput as error:
        _fail(str(error))
    except ImportError as error:
        _fail(_import_said(error))
    except OSError as error:  # a full disk behind stdout, say
        _fail(str(error))
    except MemoryError as error:
        _fail(f"not enough memory ({error})" if str(error) else "not enough memory")
    finally:
        gc.set_threshold(*usual)
        gc.enable()
        gc.unfreeze()


def _pictures_without_home() -> None:
    """Matplotlib, which other packages import, warns in three lines where it cannot keep its list of fonts."""
    import os

    if "MPLCONFIGDIR" in os.environ or os.access(os.path.expanduser("~"), os.W_OK):
        return
    from hardware.files.spare import spare_folder

    spare = spare_folder()
    if spare is not None:
        os.environ["MPLCONFIGDIR"] = str(spare / "matplotlib")


def _import_said(error: ImportError) -> str:
    """One line for a module that is missing, naming the extra that brings it, or for one that does not load."""
    missing = (error.name or "").partition(".")[0]
    for extra, packages in _EXTRAS.items():
        if isinstance(error, ModuleNotFoundError) and missing in packages:
            return f"{missing} is not installed, this command needs it; to get it: pip install 'dpap-neuro[{extra}]'"
    return str(error)


def _fail(message: str) -> NoReturn:
    from rich.console import Console

    text = " ".join(message.split())
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    Console(stderr=True).print(f"error: {shown}", highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)


def __getattr__(name: str) -> Any:
    """`app`, with all commands, for those who run them from Python."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dpap_neuro.cli.shared import app

    return app
