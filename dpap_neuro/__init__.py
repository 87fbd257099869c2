"""Learning: event data, Norse networks, DPAP, training; ends in a `.nir` file.

What a user needs most is here by name, and imported when it is asked for: `import dpap_neuro` alone is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpap_neuro.data import Binning, open_dataset
    from dpap_neuro.deploy.comparison import compare
    from dpap_neuro.deploy.evaluation import evaluate
    from dpap_neuro.deploy.opening import CompileOptions, open_model
    from dpap_neuro.deploy.recordings import Recordings
    from dpap_neuro.errors import InputError
    from dpap_neuro.exchange.nir_export import to_nir, write_nir
    from dpap_neuro.exchange.nir_import import from_file
    from dpap_neuro.networks.models import ModelSettings, build_model
    from dpap_neuro.networks.neurons import NeuronSettings
    from dpap_neuro.pruning import Pruner, make_pruner
    from dpap_neuro.train.loop import TrainSettings
    from dpap_neuro.train.runs import load_run, load_split, model_settings, save_run, train_run

_FROM = {
    "dpap_neuro.data": ("Binning", "open_dataset"),
    "dpap_neuro.deploy.comparison": ("compare",),
    "dpap_neuro.deploy.evaluation": ("evaluate",),
    "dpap_neuro.deploy.opening": ("CompileOptions", "open_model"),
    "dpap_neuro.deploy.recordings": ("Recordings",),
    "dpap_neuro.errors": ("InputError",),
    "dpap_neuro.exchange.nir_export": ("to_nir", "write_nir"),
    "dpap_neuro.exchange.nir_import": ("from_file",),
    "dpap_neuro.networks.models": ("ModelSettings", "build_model"),
    "dpap_neuro.networks.neurons": ("NeuronSettings",),
    "dpap_neuro.pruning": ("Pruner", "make_pruner"),
    "dpap_neuro.train.loop": ("TrainSettings",),
    "dpap_neuro.train.runs": ("load_run", "load_split", "model_settings", "save_run", "train_run"),
}
_MODULES = {name: module for module, names in _FROM.items() for name in names}

__all__ = [
    "Binning",
    "CompileOptions",
    "InputError",
    "ModelSettings",
    "NeuronSettings",
    "Pruner",
    "Recordings",
    "TrainSettings",
    "build_model",
    "compare",
    "evaluate",
    "from_file",
    "load_run",
    "load_split",
    "make_pruner",
    "model_settings",
    "open_dataset",
    "open_model",
    "save_run",
    "to_nir",
    "train_run",
    "write_nir",
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
