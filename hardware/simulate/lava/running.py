"""One sample after the other on Lava, in this interpreter, with every u and v."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import mmap
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.network.integer import Network
from hardware.network.timing import depths
from hardware.simulate.given import Rasters, Record, check_rasters, wanted_variables
from hardware.simulate.lava.processes import build, from_lava, lava_shape
from hardware.simulate.simulator import Run

DTYPES: dict[str, type] = {"spikes": np.uint8, "u": np.int32, "v": np.int32}

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
    rasters, batch, steps, wanted = checked(network, raster, record, reset_interval)
    arrays: Arrays = {
        (p.name, variable): np.zeros((batch, steps, *p.shape), DTYPES[variable])
        for p in network.populations
        for variable in needed(network, wanted)[p.name]
    }
    for b in range(batch if steps else 0):
        sample = {name: array[b].astype(np.int32) for name, array in rasters.items()}
        for key, values in _run_one(network, sample, arrays.keys(), reset_interval, reset_offset).items():
            arrays[key][b] = values
    return as_run(network, arrays, wanted)


def checked(
    network: Network, raster: Rasters, record: Record, reset_interval: int | None
) -> tuple[dict[str, np.ndarray], int, int, dict[str, tuple[str, ...]]]:
    """Rasters by name, batch, steps, and the variables wanted of each population. Raises HardwareError."""
    if len(network.outputs) != 1:
        raise HardwareError(f"the network has {len(network.outputs)} outputs, one is expected")
    if reset_interval is not None and reset_interval < 1:
        raise HardwareError(f"reset interval {reset_interval}, expected at least 1")
    return (*check_rasters(network, raster), wanted_variables(network, record))


def needed(network: Network, wanted: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """What a `Run` is made of: what is wanted, all spikes for the counts, and the output."""
    kept = {p.name: set(wanted.get(p.name, ())) for p in network.populations}
    for p in network.populations:
        if p.spiking:
            kept[p.name].add("spikes")
        elif p.name == network.outputs[0]:
            kept[p.name].add("v")
    return {name: sorted(variables) for name, variables in kept.items()}


def as_run(network: Network, arrays: Arrays, wanted: Mapping[str, Collection[str]]) -> Run:
    for p in network.populations:
        for variable in ("u", "v"):
            if p.dead is not None and (p.name, variable) in arrays:
                values = arrays[p.name, variable]
                values.reshape(*values.shape[:2], -1)[..., p.dead] = 0
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


# --- one sample ---


def shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, math.prod(shape)).reshape(shape)


def recording_models(logs: Mapping[tuple[str, str], np.ndarray]) -> dict[type, type]:
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
    logs = {key: shared((steps, *lava_shape(shapes[key[0]])), DTYPES[key[1]]) for key in keys}
    config = Loihi2SimCfg(
        select_tag="fixed_pt", exception_proc_model_map=recording_models(logs), loglevel=logging.ERROR
    )
    try:
        nodes = build(network, sample, reset_interval, reset_offset)
        # Lava runs what is connected to the process it is told to run, so one of each part.
        for name in _parts(network):
            with watched(nodes[name]):
                nodes[name].run(condition=RunSteps(num_steps=steps), run_cfg=config)
            nodes[name].stop()
    except HardwareError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise HardwareError(f"Lava cannot run this network: {reason}") from error
    return {(name, variable): from_lava(log, shapes[name]) for (name, variable), log in logs.items()}


@contextlib.contextmanager
def watched(process: Any, every: float = 0.5) -> Iterator[None]:
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
