"""The one exception for bad input on the deployment side."""


class HardwareError(ValueError):
    """Bad input: one line that names the thing, what was found and what was expected."""
