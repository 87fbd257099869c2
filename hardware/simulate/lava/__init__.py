"""Run an integer network on real Lava: lava-nc 0.10.0, ``Loihi2SimCfg(select_tag="fixed_pt")``.

Stock processes: `RingBuffer` sources, `Dense`, `DelayDense`, `Sparse`, `DelaySparse`, `Conv`, `LIF` and
`LIFReset`; for a reset by subtraction, which Lava has not, our own `soft_reset`. To read every u and v of every step without one more operating-system process and channel per
variable, the bit-accurate LIF models run with one method extended (`reset_voltage`, the last thing they
do in a step): it copies u, v and the spikes into memory that the processes share.

Where Lava's processes say less than our projections:

- `Conv` knows neither exponent, sign mode nor bits: it gets mantissa * 2**exponent as its kernel. What the
  kernel sums is wrapped to 24 bit by Lava, which a dense projection's sum is not.
- `Conv` has no delay: a `DelaySparse` identity holds its input back for as many steps.
- A sparse projection may have two synapses between the same neurons, a matrix may not: refused.
- A population that does not spike gets a threshold above what a membrane can reach.
- Lava numbers images (width, height, channel); populations of three dimensions are transposed to that.

lava-nc needs Python 3.10; `run_elsewhere` runs this module there. Lava is imported only where it is used.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import math
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.files.network_file import load, save
from hardware.files.netx import read_net
from hardware.network.integer import (
    NEVER,
    ConvProjection,
    DenseProjection,
    Network,
    Projection,
    SparseProjection,
)
from hardware.network.timing import depths
from hardware.simulate.simulator import VARIABLES, Rasters, Record, Run, check_rasters, wanted_variables

DTYPES: dict[str, type] = {"spikes": np.uint8, "u": np.int32, "v": np.int32}
# lava-nc keeps stride, padding, dilation and kernel size in 8 bit.
MAX_GEOMETRY = 127
# Graded spikes of up to 24 bit; 0 would have Lava take every count as one spike.
MESSAGE_BITS = 24

NO_LAVA = (
    "lava-nc is not installed for {python}: name a Python 3.10 with lava-nc 0.10.0 by --lava-python PATH"
)

Arrays = dict[tuple[str, str], np.ndarray]


def available() -> bool:
    """Whether this interpreter can import lava-nc."""
    try:
        return importlib.util.find_spec("lava.proc.lif") is not None
    except (ImportError, ValueError):
        return False


def simulate(
    network: Network,
    raster: Rasters,
    record: Record = (),
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> Run:
    """Run `network` on Lava, sample by sample, with the chip's timing.

    Arguments, `Run` and its values as those of `hardware.simulate.simulator.simulate(..., timing="chip")`, but for the
    counts of spikes per step and of synaptic events, which Lava does not keep.

    Raises HardwareError without lava-nc, where the arguments do not fit, or Lava cannot run the network.
    """
    if not available():
        raise HardwareError(NO_LAVA.format(python=sys.executable))
    rasters, batch, steps, wanted = _check(network, raster, record, reset_interval)
    arrays: Arrays = {
        (p.name, variable): np.zeros((batch, steps, *p.shape), DTYPES[variable])
        for p in network.populations
        for variable in _needed(network, wanted)[p.name]
    }
    for b in range(batch if steps else 0):
        sample = {name: array[b].astype(np.int32) for name, array in rasters.items()}
        for key, values in _run_one(network, sample, arrays.keys(), reset_interval, reset_offset).items():
            arrays[key][b] = values
    return _as_run(network, arrays, wanted)


def _check(
    network: Network, raster: Rasters, record: Record, reset_interval: int | None
) -> tuple[dict[str, np.ndarray], int, int, dict[str, tuple[str, ...]]]:
    if len(network.outputs) != 1:
        raise HardwareError(f"the network has {len(network.outputs)} outputs, one is expected")
    if reset_interval is not None and reset_interval < 1:
        raise HardwareError(f"reset interval {reset_interval}, expected at least 1")
    return (*check_rasters(network, raster), wanted_variables(network, record))


def _needed(network: Network, wanted: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """What a `Run` is made of: what is wanted, all spikes for the counts, and the output."""
    needed = {p.name: set(wanted.get(p.name, ())) for p in network.populations}
    for p in network.populations:
        if p.spiking:
            needed[p.name].add("spikes")
        elif p.name == network.outputs[0]:
            needed[p.name].add("v")
    return {name: sorted(variables) for name, variables in needed.items()}


def _as_run(network: Network, arrays: Arrays, wanted: Mapping[str, Collection[str]]) -> Run:
    output = network.outputs[0]
    spiking = [p.name for p in network.populations if p.spiking]

    def of(variable: str) -> dict[str, np.ndarray]:
        return {name: arrays[name, variable] for name, asked in wanted.items() if variable in asked}

    return Run(
        output=arrays[output, "spikes" if output in spiking else "v"],
        spikes=of("spikes"),
        u=of("u"),
        v=of("v"),
        counts={name: arrays[name, "spikes"].sum(1, dtype=np.int32) for name in spiking},
        depth=depths(network),
        timing="chip",
    )


# --- Lava ---


def build(
    network: Network,
    rasters: Mapping[str, np.ndarray],
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> dict[str, Any]:
    """Lava's processes of inputs and populations by name, connected by those of the projections.

    rasters: one (steps, *shape) int32 array per input; a source repeats it. Needs lava-nc.
    """
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF, LIFReset

    from hardware.simulate.lava.soft_reset import SoftResetLIF

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
        soft = p.spiking and p.reset == "subtract"
        if reset_interval is None:
            nodes[p.name] = (SoftResetLIF if soft else LIF)(**parameters)
        else:
            offset = (depth[p.name] + reset_offset + 1) % reset_interval
            kind = SoftResetLIF if soft else LIFReset
            nodes[p.name] = kind(**parameters, reset_interval=reset_interval, reset_offset=offset)
    for projection in network.projections:
        source, target = projection.source, projection.target
        _connect(projection, nodes[source], nodes[target], shapes[source], shapes[target], graded[source])
    return nodes


def _connect(
    projection: Projection,
    source: Any,
    target: Any,
    source_shape: tuple[int, ...],
    target_shape: tuple[int, ...],
    graded: bool,
) -> None:
    bits = MESSAGE_BITS if graded else 0
    if isinstance(projection, ConvProjection):
        port = source.s_out
        if projection.delay:
            relay = _relay(math.prod(source_shape), projection.delay, bits)
            _flat(port, source_shape).connect(relay.s_in)
            port = _unflat(relay.a_out, source_shape)
        synapse = _conv(projection, source_shape, bits)
        port.connect(synapse.s_in)
        synapse.a_out.connect(target.a_in)
        return
    if isinstance(projection, DenseProjection):
        synapse = _dense(projection, bits)
    else:
        synapse = _sparse(projection, math.prod(target_shape), bits)
    _flat(source.s_out, source_shape).connect(synapse.s_in)
    _unflat(synapse.a_out, target_shape).connect(target.a_in)


def _dense(projection: DenseProjection, bits: int) -> Any:
    from lava.proc.dense.process import DelayDense, Dense

    weights = np.asarray(projection.weight, np.int32)
    common = {"weights": weights, "num_message_bits": bits, **_synapse(projection)}
    delay = np.broadcast_to(np.asarray(projection.delay, np.int64), weights.shape)
    most = int(delay.max(initial=0))
    if most == 0:
        return Dense(**common)
    return DelayDense(**common, delays=delay.copy(), max_delay=most)


def _sparse(projection: SparseProjection, neurons: int, bits: int) -> Any:
    from lava.proc.sparse.process import DelaySparse, Sparse
    from scipy.sparse import csc_matrix, csr_matrix

    shape = (neurons, len(projection.indptr) - 1)
    weight = np.asarray(projection.weight, np.int32)
    weights = csc_matrix((weight, np.asarray(projection.post), np.asarray(projection.indptr)), shape).tocsr()
    weights.sum_duplicates()
    if weights.nnz != len(weight):
        raise HardwareError(f"{_name(projection)}: two synapses between the same neurons, Lava merges them")
    common = {"weights": weights, "num_message_bits": bits, **_synapse(projection)}
    delay = int(projection.delay)
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


def _shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, math.prod(shape)).reshape(shape)


def _recording_models(logs: Mapping[tuple[str, str], np.ndarray]) -> dict[type, type]:
    """The bit-accurate models of all neurons, which write what they computed to `logs`."""
    from lava.proc.lif.models import PyLifModelBitAcc, PyLifResetModelBitAcc
    from lava.proc.lif.process import LIF, LIFReset

    from hardware.simulate.lava.soft_reset import PySoftResetLifModel, SoftResetLIF

    def extend(model: Any) -> Any:
        class Recording(model):
            def reset_voltage(self, spike_vector: np.ndarray) -> None:
                super().reset_voltage(spike_vector)
                name = self.proc_params["name"]
                for variable, values in (("spikes", spike_vector), ("u", self.u), ("v", self.v)):
                    if (name, variable) in logs:
                        logs[name, variable][self.time_step - 1] = values

        return Recording

    return {
        LIF: extend(PyLifModelBitAcc),
        LIFReset: extend(PyLifResetModelBitAcc),
        SoftResetLIF: extend(PySoftResetLifModel),
    }


def _run_one(
    network: Network,
    sample: Mapping[str, np.ndarray],
    keys: Collection[tuple[str, str]],
    reset_interval: int | None,
    reset_offset: int,
) -> Arrays:
    """One sample, (steps, *shape) per input; what of each population is asked for, (steps, *shape)."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    steps = len(next(iter(sample.values())))
    shapes = {p.name: tuple(p.shape) for p in network.populations}
    logs = {key: _shared((steps, *_lava_shape(shapes[key[0]])), DTYPES[key[1]]) for key in keys}
    config = Loihi2SimCfg(
        select_tag="fixed_pt", exception_proc_model_map=_recording_models(logs), loglevel=logging.ERROR
    )
    try:
        nodes = build(network, sample, reset_interval, reset_offset)
        # Lava runs what is connected to the process it is told to run, so one of each part.
        for name in _parts(network):
            with _watched(nodes[name]):
                nodes[name].run(condition=RunSteps(num_steps=steps), run_cfg=config)
            nodes[name].stop()
    except HardwareError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise HardwareError(f"Lava cannot run this network: {reason}") from error
    return {(name, variable): _from_lava(log, shapes[name]) for (name, variable), log in logs.items()}


@contextlib.contextmanager
def _watched(process: Any, every: float = 0.5) -> Iterator[None]:
    """Ends a run of which one of Lava's operating-system processes has ended: Lava itself waits for it for ever.

    It breaks into the main thread by the signal of Ctrl-C; nothing is watched in other threads.
    """
    main, over, dead = threading.main_thread(), threading.Event(), threading.Event()

    def infrastructure() -> Any:
        return getattr(process.runtime, "_messaging_infrastructure", None)

    def actors() -> list[Any]:
        return list(getattr(infrastructure(), "actors", ()))

    def watch() -> None:
        late = False
        while not over.wait(every):
            try:
                ended = any(actor.exitcode is not None for actor in actors())
            except ValueError:  # Lava has seen it, and closed them
                return
            if ended and late:
                dead.set()
                signal.pthread_kill(main.ident or 0, signal.SIGINT)
                return
            late = ended

    if threading.current_thread() is main:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not dead.is_set():
            raise
        raised = [actor.exception[0] for actor in actors() if actor.exception]
        for actor in actors():
            with contextlib.suppress(ValueError):
                actor.kill()
        with contextlib.suppress(Exception):
            infrastructure().stop()
        if raised:
            raise raised[0] from None
        if dead.is_set():
            raise RuntimeError("one of its processes ended; is memory short, or room in /dev/shm?") from None
        raise
    finally:
        over.set()


def _from_lava(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    moved = array.transpose(0, 3, 2, 1) if len(shape) == 3 else array
    return moved.reshape(len(array), *shape)


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
    raster: Rasters,
    record: Record = (),
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> Run:
    """As `simulate`, in the interpreter `python`, which needs lava-nc and what this package needs.

    Raises HardwareError where it cannot be started, has no lava-nc, or Lava cannot run the network.
    """
    rasters, _, _, wanted = _check(network, raster, record, reset_interval)
    options: dict[str, Any] = {"record": _needed(network, wanted)}
    options |= {"reset_interval": reset_interval, "reset_offset": reset_offset}
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join([_package_alone(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        files = [str(Path(folder) / name) for name in ("network.h5", "raster.npz", "out.npz")]
        save(network, files[0])
        _save_arrays(files[1], {(name, "raster"): array for name, array in rasters.items()})
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
        return _as_run(network, _load_arrays(files[2]), wanted)


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
        prog="python -m hardware.simulate.lava", description=__doc__.splitlines()[0]
    )
    parser.add_argument("network", help="a file of hardware.files.network_file, or a NETX .net file")
    parser.add_argument("raster", help="as run_elsewhere writes it, or an npz with one array per input")
    parser.add_argument("out", help="npz to write: arrays 0, 1, ..., and their names in 'index' (JSON)")
    parser.add_argument("--options", default=None, help="JSON: record, reset_interval, reset_offset")
    given = parser.parse_args(arguments)
    try:
        if not available():
            raise HardwareError(NO_LAVA.format(python=sys.executable))
        network = read_net(given.network) if given.network.endswith(".net") else load(given.network)
        options: dict[str, Any] = {"record": [p.name for p in network.populations]}
        options |= json.loads(given.options) if given.options else {}
        run = simulate(network, _load_raster(given.raster), **options)
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
