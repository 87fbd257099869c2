"""One run of an integer network: on which clock, what of it is kept, and with what it is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.deploy.opening import InputNeurons, Model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from dpap_neuro.files import read_numpy, write_stream
from hardware.network.integer import Network
from hardware.network.timing import depths
from hardware.simulate import given, lava, simulator

Recorded = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Clock:
    """See `hardware.simulate.simulator.simulate`."""

    timing: str = "zero_delay"
    reset_interval: int | None = None
    reset_offset: int = 0


@dataclass(frozen=True)
class Simulated:
    """run: what our simulator, or Lava, returned. spikes, events: by population, over all recordings (events: of our simulator
    only). compared: how many values differ between our simulator and each of what it was compared with."""

    run: simulator.Run
    samples: int
    steps: int
    backend: str
    spikes: dict[str, int]
    events: dict[str, int]
    compared: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        values = {
            "samples": self.samples,
            "steps": self.steps,
            "backend": self.backend,
            "spikes": self.spikes,
        }
        if self.events:
            values["events"] = self.events
        if self.compared:
            values["differing"] = sum(self.compared.values())
        return values


def check_request(
    backend: str,
    clock: Clock,
    record: Sequence[str] | None,
    out: Path | None,
    recordings: bool,
    steps: int | None,
) -> None:
    """Raise InputError for what cannot be together, before anything is read."""
    if out is not None:
        check_spikes_path(out)
    elif record:
        raise InputError(f"record: nothing is kept of {', '.join(record)} without --out SPIKES.npz")
    if recordings == (steps is not None):
        raise InputError("input: give either --dataset NAME, --input FILE (.npz or .npy) or --steps N")
    if steps is not None and steps < 1:
        raise InputError(f"steps: found {steps}, expected at least 1")
    if clock.timing not in ("zero_delay", "chip"):
        raise InputError(f"timing: found {clock.timing!r}, expected zero_delay or chip")
    resets = clock.reset_interval is not None or clock.reset_offset != 0
    if resets and clock.timing != "chip":
        raise InputError("reset-interval and reset-offset: are on the chip's clock, give --timing chip")
    if backend == "lava" and (resets or clock.timing == "chip"):
        raise InputError("timing: --backend lava has a clock of its own, leave out --timing and --reset-*")


def input_of(input_layer: str, input_bias: Path | None) -> InputNeurons:
    """What a NETX file's input neurons are given. Raises InputError."""
    if input_layer not in ("pixels", "spikes"):
        raise InputError(f"input-layer: found {input_layer!r}, expected pixels or spikes")
    return InputNeurons(input_layer, None if input_bias is None else _array(input_bias))


def recorded_of(network: Network, texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What is recorded of each population: "NAME" (spikes), "NAME:u,v", or "spikes,u,v" of all. Raises InputError."""
    wanted: dict[str, tuple[str, ...]] = {}
    names = [p.name for p in network.populations]

    def add(name: str, variables: Iterable[str]) -> None:
        wanted[name] = tuple(dict.fromkeys((*wanted.get(name, ()), *variables)))

    for text in texts:
        name, _, variables = text.rpartition(":")
        if text in names:
            add(text, ("spikes",))
        elif all(part in given.VARIABLES for part in text.split(",")):
            for each in names:
                add(each, text.split(","))
        elif name in names and all(part in given.VARIABLES for part in variables.split(",")):
            add(name, variables.split(","))
        else:
            raise InputError(
                f"record: found {text!r}, expected a population ({', '.join(names)[:200]}), one with variables "
                f"(NAME:{','.join(given.VARIABLES)}), or variables of all"
            )
    return wanted


def with_spikes(record: Recorded, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What is recorded, and the spikes of these populations besides."""
    return {**record, **{name: tuple(dict.fromkeys((*record.get(name, ()), "spikes"))) for name in names}}


def raster_of(model: Model, recordings: Recordings | None, steps: int | None) -> np.ndarray:
    """Counts (n, steps, *shape), checked: of recordings, or one of silence. Raises InputError or HardwareError."""
    if recordings is not None:
        counts = recordings.open(model, classes=False).together()
    else:
        counts = np.zeros((1, steps or 0, *(model.input_shape or ())), np.uint8)
    given.check_rasters(model.integers(), counts)
    return counts


def run(
    network: Network,
    counts: np.ndarray,
    record: Recorded,
    clock: Clock,
    backend: str = "fixed",
    lava_python: str | None = None,
    expect: Path | None = None,
) -> Simulated:
    """Run it once, on Lava too where that is asked for. expect: an `.npy` file of the output as it was recorded elsewhere.

    Raises InputError or HardwareError for what cannot be run or compared.
    """
    compared = {}
    if backend == "lava":
        found, compared["Lava"] = run_lava(network, counts, record, lava_python)
    else:
        found = simulator.simulate(
            network,
            counts,
            clock.timing,  # type: ignore[arg-type]
            record,
            reset_interval=clock.reset_interval,
            reset_offset=clock.reset_offset,
        )
    if expect is not None:
        compared[str(expect)] = int(np.count_nonzero(found.output != _expected(expect, found.output.shape)))
    events = (
        {}
        if backend == "lava"
        else {p.name: int(found.event_counts[p.name].sum()) for p in network.populations}
    )
    spikes = {name: int(c.sum()) for name, c in found.counts.items()}
    samples, steps = counts.shape[:2]
    return Simulated(found, samples, steps, backend, spikes, events, compared)


def run_lava(
    network: Network, raster: np.ndarray, record: given.Record = (), python: str | None = None
) -> tuple[simulator.Run, int]:
    """The network on real Lava, and how many values differ from our simulator's.

    raster: (batch, steps, *shape). Both run on the chip's clock, one step per projection, for as many steps more as
    the output is late. The first steps, in which layers still wait for their input, are reset away as between
    samples, and taken off what is returned: `Run` is on the zero-delay clock. Compared are all spikes, and the
    membrane of a read-out that does not spike. python: an interpreter with lava-nc, None: this one.
    """
    late = max(depths(network).values())
    width = [(0, 0), (0, late), *[(0, 0)] * (raster.ndim - 2)]
    padded = np.pad(raster, width)
    everything = {p.name: ("spikes",) if p.spiking else ("v",) for p in network.populations}
    record = given.wanted_variables(network, record)
    both = {name: tuple({*variables, *record.get(name, ())}) for name, variables in everything.items()}
    interval = padded.shape[1]
    if python is None:
        run = lava.simulate(network, padded, both, reset_interval=interval)
    else:
        run = lava.run_elsewhere(python, network, padded, both, reset_interval=interval)
    ours = simulator.simulate(network, padded, "chip", both, reset_interval=interval)
    differing = sum(
        int(np.count_nonzero(getattr(run, variable)[name] != getattr(ours, variable)[name]))
        for name, variables in both.items()
        for variable in variables
    )

    def aligned(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {k: v[:, run.depth[k] : run.depth[k] + raster.shape[1]] for k, v in values.items()}

    spikes = aligned(run.spikes)
    output = network.outputs[0]
    done = replace(
        run,
        output=aligned({output: run.output})[output],
        spikes=spikes,
        u=aligned(run.u),
        v=aligned(run.v),
        counts={name: s.sum(axis=1, dtype=np.int32) for name, s in spikes.items()},
        timing="zero_delay",
    )
    return done, differing


def _expected(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A recorded output as (n, steps, *shape); in lava-dl's order its first step may be the one before the first."""
    values = _array(path)
    n, steps, *rest = shape
    if values.shape == shape:
        return values
    size = int(np.prod(rest))
    if values.ndim >= 2 and len(values) == n and values[0, ..., 0].size == size:
        turned = values.reshape(n, size, -1).transpose(0, 2, 1)
        if turned.shape[1] in (steps, steps + 1):
            return turned[:, -steps:].reshape(shape)
    raise InputError(f"{path}: has shape {values.shape}, expected {shape}, or steps last as lava-dl has them")


def _array(path: Path) -> np.ndarray:
    found = read_numpy(path)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise InputError(f"{path}: not an .npy file of numbers")
    return found


def write_run(done: simulator.Run, record: Recorded, path: str | Path) -> None:
    """An `.npz` of ``output`` and of ``VARIABLE/NAME`` of what was recorded, (batch, steps, *shape) each."""
    check_spikes_path(path)
    arrays: dict[str, Any] = {
        f"{variable}/{name}": getattr(done, variable)[name]
        for name, variables in record.items()
        for variable in variables
    }
    write_stream(path, lambda file: np.savez_compressed(file, output=done.output, **arrays))


def check_spikes_path(path: str | Path) -> None:
    """Raise InputError for a name that `write_run` does not write."""
    if Path(path).suffix != ".npz":
        raise InputError(f"{path}: expected a name that ends in .npz")
