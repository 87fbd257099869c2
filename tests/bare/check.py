"""Commands of an installation without extras: run by the Python of a bare environment that has `pip install .` alone.

Needs nothing of this project's folder, and not pytest. Ends with status 1 where a command does not do what it says.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nir
import numpy as np

LEFT_OUT = ("torch", "norse", "tonic", "sklearn", "matplotlib", "jinja2")


def write_files(folder: Path) -> None:
    """Two networks of one layer of neurons, and recordings with labels."""
    rng = np.random.default_rng(0)
    for name, kept in (("dense", 1.0), ("pruned", 0.5)):
        nodes = {
            "input": nir.Input({"input": np.array([6])}),
            "fc": nir.Linear(rng.normal(size=(4, 6)) * (rng.random((4, 6)) < kept)),
            "n": nir.LIF(np.full(4, 0.01), np.full(4, 10.0), np.zeros(4), np.ones(4)),
            "output": nir.Output({"output": np.array([4])}),
        }
        edges = [("input", "fc"), ("fc", "n"), ("n", "output")]
        graph = nir.NIRGraph(nodes, edges, metadata={"dt": 0.001, "v_reset": "subtract"})
        nir.write(folder / f"{name}.nir", graph)
    np.savez(folder / "x.npz", input=rng.integers(0, 2, (8, 12, 6)), labels=rng.integers(0, 4, 8))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # Not in the project's folder, whose own packages would go before the installed ones.
    return subprocess.run(
        [sys.executable, "-m", "dpap_neuro.cli", *arguments], cwd=folder, capture_output=True, text=True
    )


def works(folder: Path, *arguments: str) -> str:
    done = run(folder, *arguments)
    assert done.returncode == 0, f"{arguments}: status {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    print("works:", *arguments)
    return done.stdout


def names_extra(folder: Path, extra: str, *arguments: str) -> None:
    done = run(folder, *arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1, f"{arguments}: {done.returncode}\n{done.stderr}"
    assert f"pip install 'dpap-neuro[{extra}]'" in lines[0], lines[0]
    assert "Traceback" not in done.stderr, done.stderr
    print("says what it needs:", *arguments)


def check(folder: Path) -> None:
    there = [name for name in LEFT_OUT if importlib.util.find_spec(name) is not None]
    assert not there, f"expected a bare environment, found {', '.join(there)}"
    write_files(folder)
    shown = ("--input", "x.npz")
    assert works(folder, "--version").startswith("dpap-neuro ")
    works(folder, "--help")
    assert "synapses" in works(folder, "inspect", "dense.nir")
    assert json.loads(works(folder, "cores", "dense.nir", "--chip", "loihi1", "--json"))["cores"] == 1
    compared = json.loads(works(folder, "compare", "dense.nir", "pruned.nir", *shown, "--json"))
    assert compared["networks"][1]["synapses"] < compared["networks"][0]["synapses"]
    works(folder, "compile", "dense.nir", "--out", "dense.net")
    works(folder, "compile", "dense.nir", "--out", "dense.h5")
    assert json.loads(works(folder, "simulate", "dense.net", *shown, "--json"))["samples"] == 8
    works(folder, "simulate", "dense.nir", *shown, "--record", "n", "--out", "spikes.npz")
    for backend in ("float", "fixed"):
        found = json.loads(works(folder, "evaluate", "dense.nir", *shown, "--backend", backend, "--json"))
        assert found["n"] == 8 and 0 <= found["accuracy"] <= 1
    alike = json.loads(works(folder, "fidelity", "dense.nir", *shown, "--json"))
    assert 0.5 < alike["agreement"] <= 1, alike["agreement"]
    names_extra(folder, "learn", "train", "--out", "run")
    names_extra(folder, "learn", "demo", "--out", "demo")
    names_extra(folder, "learn", "evaluate", "dense.nir", "--dataset", "digits", "--bins", "4")
    names_extra(folder, "pictures", "fidelity", "dense.nir", *shown, "--plot", "worst.png")
    names_extra(folder, "pictures", "compare", "dense.nir", "pruned.nir", "--out", "cores.png")
    names_extra(folder, "pictures", "report", "dense.nir", "--out", "report.html")
    assert not (folder / "run").exists() and not (folder / "demo").exists()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as chosen:
        check(Path(chosen))
