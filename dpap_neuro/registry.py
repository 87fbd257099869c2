"""Things by name, imported when one is asked for: naming them (in `--help`, in an error) costs no import of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any

from dpap_neuro.errors import InputError


class Registry(MutableMapping[str, Any]):
    """Names to objects. what: the thing, for errors. places: of each name "module:object"; to add one, add a line, or set
    `registry[name]` to an object of one's own.

    `registry[name]` raises InputError for an unknown name; a registry knows its names without importing anything.
    """

    def __init__(self, what: str, places: Mapping[str, str]) -> None:
        self.what = what
        self._places: dict[str, Any] = dict(places)

    def __getitem__(self, name: str) -> Any:
        place = self._places[self.checked(name)]
        if not isinstance(place, str):
            return place
        module, _, attribute = place.partition(":")
        return getattr(import_module(module), attribute)

    def __setitem__(self, name: str, value: Any) -> None:
        self._places[name] = value

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._places else default

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def checked(self, name: str) -> str:
        """The name. Raises InputError for an unknown one."""
        if name not in self._places:
            raise InputError(f"{self.what}: found {name!r}, expected one of {', '.join(self)}")
        return name


def lazily(package: str, names: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562) that imports what it exports when it is asked for.

    names: what comes from each of its modules.
    """
    module_of = {name: module for module, exported in names.items() for name in exported}

    def attribute(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return attribute
