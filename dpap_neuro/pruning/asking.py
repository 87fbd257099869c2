"""Options of a pruner by name: which there are, and what their values are in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from dpap_neuro.errors import InputError


def options_of(cls: type) -> dict[str, str]:
    """What a pruner's constructor takes besides `epochs`, its own and its parents' where it passes them on: name and type."""
    found: dict[str, str] = {}
    for kind in cls.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        for p in parameters:
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
                said = (
                    p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "")
                )
                found.setdefault(p.name, said)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return {name: kind for name, kind in found.items() if name not in ("self", "epochs")}


def read_options(name: str, cls: type, said: Iterable[str]) -> dict[str, Any]:
    """Options from "option=value" each, by the types of the constructor of pruner `name`.

    Raises InputError for an unknown option, a value of another kind, or an option said twice.
    """
    known = {key: kind for key, kind in options_of(cls).items() if _kind(kind) in _READ}
    options: dict[str, Any] = {}
    for part in said:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not equals:
            raise InputError(f"pruner {name}: found {part.strip()!r}, expected option=value")
        if key not in known:
            expected = f"expected {', '.join(sorted(known))}" if known else "expected none"
            raise InputError(f"pruner {name}: has no option {key!r}, {expected}")
        if key in options:
            raise InputError(f"pruner {name}: found {key} twice, expected it once")
        what, read = _READ[_kind(known[key])]
        try:
            options[key] = read(value)
        except (ValueError, KeyError):
            raise InputError(f"pruner {name}: found {key} {value!r}, expected {what}") from None
    return options


def _kind(annotation: str) -> str:
    return annotation.replace(" | None", "")


_READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "float": ("a number", float),
    "int": ("a whole number", int),
    "bool": ("true or false", lambda text: {"true": True, "false": False}[text.lower()]),
    "str": ("a name", str),
}
