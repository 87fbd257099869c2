"""Exceptions for bad input on the learning side."""

from __future__ import annotations

from pathlib import Path

import hardware

_where = getattr(hardware, "__file__", None) or "a folder of that name"
try:
    # An editable installation would find our modules inside another's package.
    if not Path(_where).with_name("errors.py").is_file():
        raise ImportError
    from hardware.errors import BadInput
except ImportError:
    raise ImportError(
        f"another package named hardware ({_where}) hides the one of dpap-neuro; uninstall it, or start from another folder"
    ) from None


class InputError(BadInput):
    """Bad input: one line that names the thing, what was found and what was expected."""


class NoRecordings(InputError):
    """A folder without a single recording of the split asked for."""


class CannotLearn(InputError):
    """What one network cannot do with one pruner and goal; other runs with the same data may."""


class InUse(InputError):
    """A folder that another process works in."""
