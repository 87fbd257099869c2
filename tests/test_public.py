"""The names that a user imports from the packages themselves, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import dpap_neuro
import hardware

NAMES = {
    "dpap_neuro": (
        "Binning CompileOptions InputError ModelSettings NeuronSettings Pruner Recordings TrainSettings build_model "
        "compare evaluate from_file load_run load_split make_pruner model_settings open_dataset open_model save_run "
        "to_nir train_run write_nir"
    ),
    "hardware": (
        "Chip FloatSimulator Graph HardwareError Network Placement Simulator compile_graph fidelity from_nir load "
        "load_chip place read_graph read_net save write_net"
    ),
}
PACKAGES = {"dpap_neuro": dpap_neuro, "hardware": hardware}


@pytest.mark.parametrize("package", NAMES)
def test_the_public_names(package):
    module = PACKAGES[package]
    assert sorted(module.__all__) == sorted(NAMES[package].split()) == sorted(module._MODULES)
    for name in module.__all__:
        found = getattr(module, name)
        assert found.__name__ == name and found.__module__.startswith(module._MODULES[name].split(".")[0])
        assert name in dir(module)
    assert module.__version__ == version("dpap-neuro")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", NAMES)
def test_importing_a_package_alone_imports_nothing_else(package):
    code = f"import sys, {package}; print(*sorted({{'torch', 'numpy', 'nir', 'numba', 'typer'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
