"""Run an integer network on real Lava: lava-nc 0.10.0, ``Loihi2SimCfg(select_tag="fixed_pt")``.

Stock processes only: `RingBuffer` sources, `Dense`, `DelayDense`, `Sparse`, `DelaySparse`, `Conv`, `LIF` and
`LIFReset`. To read every u and v of every step without one more operating-system process and channel per
variable, the stock bit-accurate LIF models run with one method extended (`reset_voltage`, the last thing they
do in a step): it copies u, v and the spikes into memory that the processes share.

Where Lava's processes say less than our projections:

- `Conv` knows neither exponent, sign mode nor bits: it gets mantissa * 2**exponent as its kernel. What the
  kernel sums is wrapped to 24 bit by Lava, which a dense projection's sum is not.
- `Conv` has no delay: a `DelaySparse` identity holds its input back for as many steps.
- A population that does not spike gets a threshold above what a membrane can reach.
- Lava numbers images (width, height, channel); populations of three dimensions are transposed to that.

lava-nc needs Python 3.10; `run_elsewhere` runs this module there. Lava is imported only where it is used.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.network import (
    ConvProjection,
    DenseProjection,
    Network,
    Projection,
    SparseProjection,
)
from hardware.network_file import load, save

VARIABLES = ("spikes", "u", "v")
MAX_DELAY = 63
# lava-nc keeps stride, padding, dilation and kernel size in 8 bit.
MAX_GEOMETRY = 127
# Graded spikes of up to 24 bit; 0 would have Lava take every count as one spike.
MESSAGE_BITS = 24
# << 6 and still 32 bit, above every 24-bit membrane.
NEVER = 1 << 18

NO_LAVA = "lava-nc is not installed for {python}: name a Python 3.10 with lava-nc 0.10.0 by --lava-python PATH"

Recorded = dict[str, dict[str, np.ndarray]]


def available() -> bool:
    """Whether this interpreter can import lava-nc."""
    try:
        return importlib.util.find_spec("lava.proc.lif") is not None
    except (ImportError, ValueError):
        return False


def record(
    network: Network,
    raster: np.ndarray | Mapping[str, np.ndarray],
    populations: Mapping[str, Collection[str]] | None = None,
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> Recorded:
    """Run `network` on Lava, chip timing (every projection takes one step and its delay).

    raster: (batch, steps, *input shape) non-negative integers, or one such array per input population.
    populations: what to record of which population, of "spikes", "u" and "v"; None: all of all.
    reset_interval, reset_offset: zero u and v every so many steps, see `depths`.

    Returns per population and variable an int32 (spikes: uint8) array (batch, steps, *shape); u and v are
    those at the end of the step, after the reset of neurons that spiked.
    Raises HardwareError without lava-nc, or where Lava cannot run the network.
    """
    if not available():
        raise HardwareError(NO_LAVA.format(python=sys.executable))
    rasters = _rasters(network, raster)
    wanted = _wanted(network, populations)
    if reset_interval is not None and reset_interval < 1:
        raise HardwareError(f"reset interval {reset_interval}, expected at least 1")
    batch = next(iter(rasters.values())).shape[0]
    runs = []
    for b in range(batch):
        sample = {name: r[b] for name, r in rasters.items()}
        runs.append(_run_one(network, sample, wanted, reset_interval, reset_offset))
    return {
        name: {variable: np.stack([run[name][variable] for run in runs]) for variable in variables}
        for name, variables in wanted.items()
    }


def depths(network: Network) -> dict[str, int]:
    """Layers between a population and the input that is farthest from it (inputs 0, without cycles).

    With a reset interval N and offset k, a population at depth d is reset, before its dynamics, in the steps
    t (from 1) with t mod N = (d + k + 1) mod N, as lava-dl's ``Network(reset_interval, reset_offset)`` does.
    """
    rank = {p.name: 0 for p in network.inputs}
    rank |= {p.name: i + 1 for i, p in enumerate(network.populations)}
    depth = {name: 0 for name in rank}
    for population in network.populations:
        sources = [p.source for p in network.projections if p.target == population.name]
        earlier = [depth[s] for s in sources if rank[s] < rank[population.name]]
        depth[population.name] = 1 + max(earlier, default=0)
    return depth


# --- what is asked for ---


def _rasters(network: Network, raster: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = {p.name: tuple(p.shape) for p in network.inputs}
    if not isinstance(raster, Mapping):
        if len(inputs) != 1:
            raise HardwareError(f"the network has {len(inputs)} inputs: give one raster for each by name")
        raster = {next(iter(inputs)): np.asarray(raster)}
    if set(raster) != set(inputs):
        raise HardwareError(f"rasters for {sorted(raster)}, the network's inputs are {sorted(inputs)}")
    checked = {}
    for name, shape in inputs.items():
        array = np.asarray(raster[name])
        if array.ndim != 2 + len(shape) or array.shape[2:] != shape:
            raise HardwareError(
                f"raster of '{name}' has shape {array.shape}, expected (batch, steps, *{shape})"
            )
        if array.dtype.kind not in "biu" and not np.array_equal(array, np.trunc(array)):
            raise HardwareError(f"raster of '{name}' holds values that are not whole numbers")
        if array.size and (array.min() < 0 or array.max() >= 2 ** (MESSAGE_BITS - 1)):
            raise HardwareError(
                f"raster of '{name}' holds counts from {array.min()} to {array.max()}, expected 0 to "
                f"{2 ** (MESSAGE_BITS - 1) - 1}"
            )
        checked[name] = array.astype(np.int32)
    if len({array.shape[:2] for array in checked.values()}) != 1:
        raise HardwareError("the rasters differ in batch or steps")
    if min(next(iter(checked.values())).shape[:2]) < 1:
        raise HardwareError("the raster has no sample or no step")
    return checked


def _wanted(
    network: Network, populations: Mapping[str, Collection[str]] | None
) -> dict[str, tuple[str, ...]]:
    names = [p.name for p in network.populations]
    if populations is None:
        return {name: VARIABLES for name in names}
    for name, variables in populations.items():
        if name not in names:
            raise HardwareError(f"cannot record '{name}': the network's populations are {names}")
        if not set(variables) <= set(VARIABLES):
            raise HardwareError(f"cannot record {sorted(variables)} of '{name}': expected {list(VARIABLES)}")
    return {name: tuple(v for v in VARIABLES if v in variables) for name, variables in populations.items()}


# --- Lava ---


def build(
    network: Network,
    rasters: Mapping[str, np.ndarray],
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> tuple[dict[str, Any], list[Any]]:
    """Lava's processes for `network`: those of inputs and populations by name, and all.

    rasters: one (steps, *shape) int32 array per input; a source repeats it. Needs lava-nc.
    """
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF, LIFReset

    nodes: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    graded: dict[str, bool] = {}
    for entry in network.inputs:
        shapes[entry.name] = tuple(entry.shape)
        data = np.stack([_to_lava(step, entry.shape) for step in rasters[entry.name]], axis=-1)
        graded[entry.name] = bool(data.size) and int(data.max()) > 1
        nodes[entry.name] = RingBuffer(data=np.ascontiguousarray(data, np.int32))
    depth = depths(network)
    for p in network.populations:
        shapes[p.name] = tuple(p.shape)
        graded[p.name] = False
        parameters = {
            "shape": _lava_shape(p.shape),
            "du": _parameter(p.du, p.shape),
            "dv": _parameter(p.dv, p.shape),
            "vth": _parameter(p.vth, p.shape) if p.spiking else NEVER,
            "bias_mant": _parameter(p.bias_mant, p.shape),
            "bias_exp": int(p.bias_exp),
            "name": p.name,
        }
        if reset_interval is None:
            nodes[p.name] = LIF(**parameters)
        else:
            offset = (depth[p.name] + reset_offset + 1) % reset_interval
            nodes[p.name] = LIFReset(**parameters, reset_interval=reset_interval, reset_offset=offset)
    processes = list(nodes.values())
    for projection in network.projections:
        source, target = projection.source, projection.target
        processes += _connect(
            projection, nodes[source], nodes[target], shapes[source], shapes[target], graded[source]
        )
    return nodes, processes


def _connect(
    projection: Projection,
    source: Any,
    target: Any,
    source_shape: tuple[int, ...],
    target_shape: tuple[int, ...],
    graded: bool,
) -> list[Any]:
    bits = MESSAGE_BITS if graded else 0
    if isinstance(projection, ConvProjection):
        port, made = source.s_out, []
        if projection.delay:
            relay = _relay(math.prod(source_shape), _scalar_delay(projection), bits)
            _flat(port, source_shape).connect(relay.s_in)
            port, made = relay.a_out.reshape(_lava_shape(source_shape)), [relay]
        synapse = _conv(projection, source_shape, bits)
        port.connect(synapse.s_in)
        synapse.a_out.connect(target.a_in)
        return [*made, synapse]
    synapse = (
        _dense(projection, bits)
        if isinstance(projection, DenseProjection)
        else _sparse(projection, math.prod(target_shape), bits)
    )
    _flat(source.s_out, source_shape).connect(synapse.s_in)
    _unflat(synapse.a_out, target_shape).connect(target.a_in)
    return [synapse]


def _dense(projection: DenseProjection, bits: int) -> Any:
    from lava.proc.dense.process import DelayDense, Dense

    weights = np.asarray(projection.weight, np.int32)
    common = {"weights": weights, "num_message_bits": bits, **_synapse(projection)}
    delay = np.broadcast_to(np.asarray(projection.delay, np.int64), weights.shape)
    most = int(delay.max(initial=0))
    if most == 0:
        return Dense(**common)
    _check_delay(projection, most)
    return DelayDense(**common, delays=delay.copy(), max_delay=most)


def _sparse(projection: SparseProjection, neurons: int, bits: int) -> Any:
    from lava.proc.sparse.process import DelaySparse, Sparse
    from scipy.sparse import csc_matrix, csr_matrix

    shape = (neurons, len(projection.indptr) - 1)
    weight = np.asarray(projection.weight, np.int32)
    weights = csc_matrix((weight, np.asarray(projection.post), np.asarray(projection.indptr)), shape).tocsr()
    weights.sum_duplicates()
    common = {"weights": weights, "num_message_bits": bits, **_synapse(projection)}
    delay = _scalar_delay(projection)
    if delay == 0:
        return Sparse(**common)
    # Lava wants 64-bit delays, of the weights' own structure.
    delays = csr_matrix((np.full(weights.nnz, delay, np.int64), weights.indices, weights.indptr), shape)
    return DelaySparse(**common, delays=delays, max_delay=delay)


def _conv(projection: ConvProjection, source_shape: tuple[int, ...], bits: int) -> Any:
    from lava.proc.conv.process import Conv

    weight, exponent = np.asarray(projection.weight, np.int64), int(projection.weight_exp)
    geometry = (*projection.stride, *projection.padding, *projection.dilation, *weight.shape[2:])
    if max(*geometry, projection.groups) > MAX_GEOMETRY:
        raise HardwareError(
            f"{_name(projection)}: stride, padding, dilation, kernel or groups above {MAX_GEOMETRY}, "
            "which Lava keeps in 8 bit"
        )
    if exponent < 0 and np.any(weight % (1 << -exponent)):
        raise HardwareError(
            f"{_name(projection)}: Lava's Conv has no exponent, its weights are not "
            f"multiples of {1 << -exponent}"
        )
    weight = weight << exponent if exponent >= 0 else weight >> -exponent
    # (out, in, kH, kW), cross-correlation -> (out, kW, kH, in), convolution
    kernel = weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
    return Conv(
        weight=np.ascontiguousarray(kernel, np.int32),
        input_shape=_lava_shape(source_shape),
        stride=tuple(projection.stride)[::-1],
        padding=tuple(projection.padding)[::-1],
        dilation=tuple(projection.dilation)[::-1],
        groups=int(projection.groups),
        num_message_bits=bits,
    )


def _relay(neurons: int, delay: int, bits: int) -> Any:
    """One to one, weight 1: a spike comes out `delay` steps later."""
    from lava.proc.sparse.process import DelaySparse, Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import identity

    weights = identity(neurons, np.int32, "csr")
    if delay == 1:
        return Sparse(weights=weights, num_message_bits=bits, sign_mode=SignMode.EXCITATORY)
    return DelaySparse(
        weights=weights,
        delays=identity(neurons, np.int64, "csr") * (delay - 1),
        max_delay=delay - 1,
        num_message_bits=bits,
        sign_mode=SignMode.EXCITATORY,
    )


def _synapse(projection: DenseProjection | SparseProjection) -> dict[str, Any]:
    from lava.utils.weightutils import SignMode

    return {
        "weight_exp": int(projection.weight_exp),
        "num_weight_bits": int(projection.weight_bits),
        "sign_mode": SignMode[projection.sign_mode.upper()],
    }


def _name(projection: Projection) -> str:
    return f"projection '{projection.source}' -> '{projection.target}'"


def _check_delay(projection: Projection, delay: int) -> None:
    if delay > MAX_DELAY:
        raise HardwareError(f"{_name(projection)}: delay {delay}, Lava has at most {MAX_DELAY}")


def _scalar_delay(projection: SparseProjection | ConvProjection) -> int:
    delay = int(projection.delay)
    _check_delay(projection, delay)
    return delay


# Layout: C order of (channel, height, width) here, of (width, height, channel) there.


def _lava_shape(shape: Iterable[int]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in shape)
    return shape[::-1] if len(shape) == 3 else (math.prod(shape),)


def _to_lava(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return values.transpose(2, 1, 0) if len(shape) == 3 else values.reshape(-1)


def _parameter(value: Any, shape: tuple[int, ...]) -> Any:
    if np.ndim(value) == 0:
        return int(value)
    array = np.broadcast_to(np.asarray(value, np.int64).reshape(_at_shape(value, shape)), shape)
    return np.ascontiguousarray(_to_lava(array, shape))


def _at_shape(value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """One value per neuron may come flat or in the population's shape."""
    return shape if np.size(value) == math.prod(shape) else np.shape(value)


def _flat(port: Any, shape: tuple[int, ...]) -> Any:
    return port.transpose([2, 1, 0]).flatten() if len(shape) == 3 else port


def _unflat(port: Any, shape: tuple[int, ...]) -> Any:
    return port.reshape(tuple(shape)).transpose([2, 1, 0]) if len(shape) == 3 else port


class _Log:
    """Arrays (steps, *shape in Lava's order) that forked processes write and this one reads."""

    def __init__(self, steps: int, shape: tuple[int, ...], variables: Collection[str]):
        self.arrays = {
            v: _shared((steps, *shape), np.uint8 if v == "spikes" else np.int32) for v in variables
        }

    def write(self, step: int, **values: np.ndarray) -> None:
        for variable, array in self.arrays.items():
            array[step] = values[variable]


def _shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, math.prod(shape)).reshape(shape)


def _recording_models(logs: Mapping[str, _Log]) -> dict[type, type]:
    """Lava's own bit-accurate models, with a log of what they computed."""
    from lava.proc.lif.models import PyLifModelBitAcc, PyLifResetModelBitAcc
    from lava.proc.lif.process import LIF, LIFReset

    def extend(model: Any) -> Any:
        class Recording(model):
            def reset_voltage(self, spike_vector: np.ndarray) -> None:
                super().reset_voltage(spike_vector)
                log = logs.get(self.proc_params["name"])
                if log is not None:
                    log.write(self.time_step - 1, spikes=spike_vector, u=self.u, v=self.v)

        return Recording

    return {LIF: extend(PyLifModelBitAcc), LIFReset: extend(PyLifResetModelBitAcc)}


def _run_one(
    network: Network,
    sample: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[str, ...]],
    reset_interval: int | None,
    reset_offset: int,
) -> Recorded:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    steps = len(next(iter(sample.values())))
    shapes = {p.name: tuple(p.shape) for p in network.populations}
    logs = {name: _Log(steps, _lava_shape(shapes[name]), variables) for name, variables in wanted.items()}
    config = Loihi2SimCfg(
        select_tag="fixed_pt", exception_proc_model_map=_recording_models(logs), loglevel=logging.ERROR
    )
    try:
        nodes, _ = build(network, sample, reset_interval, reset_offset)
        # Lava runs what is connected to the process it is told to run, so one of each part.
        for part in _parts(network):
            process = nodes[part]
            try:
                process.run(condition=RunSteps(num_steps=steps), run_cfg=config)
            finally:
                process.stop()
    except HardwareError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise HardwareError(f"Lava cannot run this network: {reason}") from error
    return {
        name: {variable: _from_lava(array, shapes[name]) for variable, array in log.arrays.items()}
        for name, log in logs.items()
    }


def _from_lava(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    moved = array.transpose(0, 3, 2, 1) if len(shape) == 3 else array
    return moved.reshape(len(array), *shape).copy()


def _parts(network: Network) -> list[str]:
    """The name of one population of every connected part."""
    names = [p.name for p in network.inputs] + [p.name for p in network.populations]
    part = {name: name for name in names}

    def root(name: str) -> str:
        while part[name] != name:
            name = part[name]
        return name

    for projection in network.projections:
        part[root(projection.source)] = root(projection.target)
    first: dict[str, str] = {}
    for population in network.populations:
        first.setdefault(root(population.name), population.name)
    return list(first.values())


# --- another interpreter ---


def run_elsewhere(
    python: str | os.PathLike[str],
    network: Network,
    raster: np.ndarray | Mapping[str, np.ndarray],
    populations: Mapping[str, Collection[str]] | None = None,
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> Recorded:
    """As `record`, in the interpreter `python`, which needs lava-nc, h5py, scipy, nir and numpy.

    Raises HardwareError where it cannot be started, has no lava-nc, or Lava cannot run the network.
    """
    rasters = _rasters(network, raster)
    _wanted(network, populations)
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = {"populations": populations, "reset_interval": reset_interval, "reset_offset": reset_offset}
    if populations is not None:
        options["populations"] = {name: list(variables) for name, variables in populations.items()}
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("network.h5", "raster.npz", "out.npz")]
        save(network, files[0])
        _save_arrays(files[1], {name: {"raster": r} for name, r in rasters.items()})
        command = [os.fspath(python), "-m", "hardware.lava", *files, "--options", json.dumps(options)]
        try:
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise HardwareError(f"cannot start {python}: {error.strerror}, see --lava-python") from None
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise HardwareError(lines[-1].strip() if lines else f"{python} ended with code {done.returncode}")
        return _load_arrays(files[2])


def _save_arrays(path: str, tree: Recorded) -> None:
    """An npz of numbered arrays and a JSON index, as names of populations need not be names of files."""
    index = [[name, variable] for name, variables in tree.items() for variable in variables]
    arrays = {str(k): tree[name][variable] for k, (name, variable) in enumerate(index)}
    text = np.frombuffer(json.dumps(index).encode(), np.uint8)
    part = f"{path}.part.npz"
    np.savez_compressed(part, index=text, **arrays)  # type: ignore[arg-type]
    os.replace(part, path)


def _load_arrays(path: str) -> Recorded:
    tree: Recorded = {}
    with np.load(path, allow_pickle=False) as file:
        for k, (name, variable) in enumerate(json.loads(file["index"].tobytes())):
            tree.setdefault(name, {})[variable] = file[str(k)]
    return tree


def main(arguments: list[str] | None = None) -> int:
    """``python -m hardware.lava NETWORK RASTER.npz OUT.npz``: what `run_elsewhere` runs."""
    parser = argparse.ArgumentParser(prog="python -m hardware.lava", description=__doc__.splitlines()[0])
    parser.add_argument("network", help="a file of hardware.network_file, or a NETX .net file")
    parser.add_argument("raster", help="as run_elsewhere writes it, or an npz with one array per input")
    parser.add_argument("out", help="npz to write")
    parser.add_argument("--options", default="{}", help="JSON: populations, reset_interval, reset_offset")
    given = parser.parse_args(arguments)
    try:
        if not available():
            raise HardwareError(NO_LAVA.format(python=sys.executable))
        network = _load_network(given.network)
        _save_arrays(given.out, record(network, _load_raster(given.raster), **json.loads(given.options)))
    except (HardwareError, OSError, ValueError) as error:
        print(str(error), file=sys.stderr)
        return 1
    return 0


def _load_network(path: str) -> Network:
    if path.endswith(".net"):
        from hardware.netx import read_net

        return read_net(path)
    return load(path)


def _load_raster(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        if "index" not in file:
            return {name: file[name] for name in file.files}
    return {name: variables["raster"] for name, variables in _load_arrays(path).items()}


if __name__ == "__main__":
    sys.exit(main())
