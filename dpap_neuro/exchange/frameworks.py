"""What a reader of another framework's live networks says of it: a table of its populations, axes and synapses.

A reader (`snntorch.py` ...) is a `Framework`: for each type of population a function that makes its node, and what the framework calls
its axes. `modules.read` does everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
from torch import Tensor

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_nodes import Shape


@dataclass(frozen=True)
class Part:
    """What a population becomes.

    node: NIR's. feedback: its recurrent weights. factor: on its spikes. reset: "zero", "subtract", or "" for one that
    has none; late: whether a subtraction comes a step late. note: what is only nearly the same.
    """

    node: nir.NIRNode
    reset: str = ""
    late: bool = False
    feedback: nir.NIRNode | None = None
    factor: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Framework:
    """A reader's table.

    name: of the package. tried: the version that the tests compare with. populations: from (name, module, shape, dt) to
    a `Part`. axes: how many axes a population's input has before those of a sample. synapses: (axes of a sample, node)
    of the framework's own synapses. instead: for types that cannot be read, what to use.
    """

    name: str
    tried: str
    populations: dict[type, Callable[[str, Any, Shape, float], Part]]
    axes: Callable[[Any], int]
    synapses: dict[type, tuple[int, Callable[[str, Any, Shape], nir.NIRNode]]] = field(default_factory=dict)
    instead: dict[type, str] = field(default_factory=dict)
    passed: tuple[type, ...] = ()


def installed(package: str) -> Any:
    """The package. Raises InputError, naming the extra, where it is not there."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        own = package.split(".")[0]
        if own == "sinabs":  # pins an older NIR than this project reads
            how = f"pip install {own}, then pip install 'nir>=1.0.8'"
        else:
            how = "pip install 'dpap-neuro[interop]'"
        raise InputError(f"{package} is not installed: {how}") from None


def below(threshold: Any) -> np.ndarray:
    """The threshold of frameworks that fire at v >= threshold, for NIR's v > threshold: the next lower float32."""
    value = threshold.detach().cpu().numpy() if isinstance(threshold, Tensor) else threshold
    return np.nextafter(np.asarray(value, np.float32), np.float32(-np.inf))


def version_of(package: str) -> str:
    """What an installed package says of itself, else its metadata; "unknown" where neither does. Raises InputError as `installed`."""
    from importlib.metadata import PackageNotFoundError, version

    said = str(getattr(installed(package), "__version__", ""))
    try:
        return said or version(package)
    except PackageNotFoundError:
        return "unknown"
