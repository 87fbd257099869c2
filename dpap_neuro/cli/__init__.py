"""The command line: thin layers over documented functions. Stands on both packages.

One module per group of commands; importing it registers them.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from dpap_neuro.cli.shared import app, stderr
from hardware.errors import BadInput

# In the order in which --help lists them.
# isort: off
from dpap_neuro.cli import learning  # noqa: F401
from dpap_neuro.cli import graphs  # noqa: F401
from dpap_neuro.cli import running  # noqa: F401
from dpap_neuro.cli import placing  # noqa: F401
# isort: on


def main() -> None:
    """Entry point: bad input is one line on stderr and exit status 2."""
    try:
        app()
    except BadInput as error:
        _fail(str(error))
    except OSError as error:  # a full disk behind stdout, say
        _fail(str(error))
    except MemoryError as error:
        _fail(f"not enough memory ({error})" if str(error) else "not enough memory")


def _fail(message: str) -> NoReturn:
    text = " ".join(message.split())
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    stderr.print(f"error: {shown}", highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)
