"""Exceptions for bad input on the learning side."""

from __future__ import annotations

try:
    from hardware.errors import BadInput
except ImportError:
    import hardware

    where = getattr(hardware, "__file__", None) or "a folder of that name"
    raise ImportError(
        f"another package named hardware ({where}) hides the one of dpap-neuro; uninstall it, or start from another folder"
    ) from None


class InputError(BadInput):
    """Bad input: one line that names the thing, what was found and what was expected."""


class NoRecordings(InputError):
    """A folder without a single recording of the split asked for."""
