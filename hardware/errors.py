"""Exceptions for bad input, on both sides of the door."""


class BadInput(ValueError):
    """One line that names the thing, what was found and what was expected. The parent of all of this project's."""


class HardwareError(BadInput):
    """Bad input on the deployment side."""
