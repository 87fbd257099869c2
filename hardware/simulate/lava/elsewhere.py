"""Lava in another interpreter: lava-nc needs Python 3.10, this package runs in newer ones."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.files.network_file import load, save
from hardware.files.netx_reading import read_net
from hardware.network.integer import Network
from hardware.simulate.given import VARIABLES, Rasters, Record
from hardware.simulate.lava import running
from hardware.simulate.lava.running import NO_LAVA, Arrays
from hardware.simulate.simulator import Run


def run_elsewhere(
    python: str | os.PathLike[str],
    network: Network,
    raster: Rasters,
    record: Record = (),
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> Run:
    """As `simulate`, in the interpreter `python`, which needs lava-nc and what this package needs.

    Raises HardwareError where it cannot be started, has no lava-nc, or Lava cannot run the network.
    """
    rasters, _, _, wanted = running.checked(network, raster, record, reset_interval)
    options: dict[str, Any] = {"record": running.needed(network, wanted)}
    options |= {"reset_interval": reset_interval, "reset_offset": reset_offset}
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join([_package_alone(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        files = [str(Path(folder) / name) for name in ("network.h5", "raster.npz", "out.npz")]
        save(network, files[0])
        # Those that are always on are made over there as well.
        given = {i.name for i in network.inputs if not i.constant}
        _save_arrays(files[1], {(name, "raster"): rasters[name] for name in rasters if name in given})
        command = [
            os.fspath(python),
            "-m",
            "hardware.simulate.lava",
            *files,
            "--options",
            json.dumps(options),
        ]
        try:
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise HardwareError(f"cannot start {python}: {error.strerror}, see --lava-python") from None
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else f"ended with code {done.returncode}"
            needs = "" if "Lava" in reason else "; it needs lava-nc 0.10.0 and this package's requirements"
            raise HardwareError(reason if "lava-nc" in reason else f"{python}: {reason}{needs}")
        return running.as_run(network, _load_arrays(files[2]), wanted)


def _package_alone(folder: str) -> str:
    """A folder inside that holds this package and nothing else: the one it is installed in may hold all of another
    Python's packages, built for that Python."""
    package, alone = Path(__file__).resolve().parents[2], Path(folder) / "path"
    alone.mkdir()
    try:
        (alone / package.name).symlink_to(package, target_is_directory=True)
    except OSError:  # Windows, for most users
        shutil.copytree(package, alone / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return str(alone)


def _save_arrays(path: str, arrays: Mapping[tuple[str, str], np.ndarray]) -> None:
    """An npz of numbered arrays and a JSON index: a population may be called what no file may."""
    index = np.frombuffer(json.dumps(list(arrays)).encode(), np.uint8)
    part = f"{path}.part.npz"
    numbered: dict[str, Any] = {str(k): array for k, array in enumerate(arrays.values())}
    np.savez_compressed(part, index=index, **numbered)
    os.replace(part, path)


def _load_arrays(path: str) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        index = json.loads(file["index"].tobytes())
        return {(name, variable): file[str(k)] for k, (name, variable) in enumerate(index)}


def main(arguments: list[str] | None = None) -> int:
    """``python -m hardware.simulate.lava NETWORK RASTER.npz OUT.npz``: what `run_elsewhere` runs."""
    parser = argparse.ArgumentParser(
        prog="python -m hardware.simulate.lava", description="Run an integer network on real Lava."
    )
    parser.add_argument("network", help="a file of hardware.files.network_file, or a NETX .net file")
    parser.add_argument("raster", help="as run_elsewhere writes it, or an npz with one array per input")
    parser.add_argument("out", help="npz to write: arrays 0, 1, ..., and their names in 'index' (JSON)")
    parser.add_argument("--options", default=None, help="JSON: record, reset_interval, reset_offset")
    given = parser.parse_args(arguments)
    try:
        if not running.available():
            raise HardwareError(NO_LAVA.format(python=sys.executable))
        network = read_net(given.network) if given.network.endswith(".net") else load(given.network)
        options: dict[str, Any] = {"record": [p.name for p in network.populations]}
        options |= json.loads(given.options) if given.options else {}
        run = running.simulate(network, _load_raster(given.raster), **options)
        arrays = {
            (name, variable): values
            for variable in VARIABLES
            for name, values in getattr(run, variable).items()
        }
        _save_arrays(given.out, arrays)
    except (HardwareError, OSError, ValueError) as error:
        print(str(error), file=sys.stderr)
        return 1
    return 0


def _load_raster(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        if "index" not in file:
            return {name: file[name] for name in file.files}
    return {name: array for (name, _), array in _load_arrays(path).items()}
