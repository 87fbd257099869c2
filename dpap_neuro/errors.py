"""The one exception for bad input on the learning side."""


class InputError(ValueError):
    """Bad input: one line that names the thing, what was found and what was expected."""


class NoRecordings(InputError):
    """A folder without a single recording of the split asked for."""
