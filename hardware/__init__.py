"""Deployment: from a `.nir` file to integer networks, their simulation, and the cores they fill.

Never imports torch, norse, tonic or `dpap_neuro`, so that it runs inside Lava's Python 3.10. What a user needs most is here by
name, and imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware.chip.chips import Chip, load_chip
    from hardware.compile.compiler import compile_graph
    from hardware.errors import HardwareError
    from hardware.files.network_file import load, save
    from hardware.files.netx_reading import read_net
    from hardware.files.netx_writing import write_net
    from hardware.graph.graph import Graph
    from hardware.graph.parsing import from_nir, read_graph
    from hardware.network.integer import Network
    from hardware.placement import Placement, place
    from hardware.simulate.fidelity_report import fidelity
    from hardware.simulate.float_simulator import FloatSimulator
    from hardware.simulate.simulator import Simulator

_FROM = {
    "hardware.chip.chips": ("Chip", "load_chip"),
    "hardware.compile.compiler": ("compile_graph",),
    "hardware.errors": ("HardwareError",),
    "hardware.files.network_file": ("load", "save"),
    "hardware.files.netx_reading": ("read_net",),
    "hardware.files.netx_writing": ("write_net",),
    "hardware.graph.graph": ("Graph",),
    "hardware.graph.parsing": ("from_nir", "read_graph"),
    "hardware.network.integer": ("Network",),
    "hardware.placement": ("Placement", "place"),
    "hardware.simulate.fidelity_report": ("fidelity",),
    "hardware.simulate.float_simulator": ("FloatSimulator",),
    "hardware.simulate.simulator": ("Simulator",),
}
_MODULES = {name: module for module, names in _FROM.items() for name in names}

__all__ = [
    "Chip",
    "FloatSimulator",
    "Graph",
    "HardwareError",
    "Network",
    "Placement",
    "Simulator",
    "compile_graph",
    "fidelity",
    "from_nir",
    "load",
    "load_chip",
    "place",
    "read_graph",
    "read_net",
    "save",
    "write_net",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dpap-neuro")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
