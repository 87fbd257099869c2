"""Networks of a file on recordings: part of the command line, so it stands on both packages."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data import Binning, Opened, open_dataset, rasters
from dpap_neuro.errors import InputError
from dpap_neuro.files import write_whole
from hardware.chip.chips import DEFAULT, Chip, as_chip
from hardware.compile.compiler import LayerReport, compile_graph
from hardware.errors import HardwareError
from hardware.files.network_file import load, save
from hardware.files.netx import read_net, restrict, write_net
from hardware.graph.graph import Graph, time_step
from hardware.graph.parsing import read_graph
from hardware.network.integer import Network
from hardware.network.timing import depths
from hardware.placement import Placement, energy, place
from hardware.simulate import fidelity, lava, neurobench, reference, simulator

BACKENDS = ("float", "fixed", "lava")
INTEGER_FILES = (".net", ".h5")
_CHUNK = 50


@dataclass(frozen=True)
class Model:
    """A file's network. graph: of a `.nir` file, None for an integer network. dt: seconds per step, where known."""

    path: Path
    graph: Graph | None
    network: Network | None
    dt: float | None
    metadata: Mapping[str, Any]

    def integers(self, chip: Chip | str | Path = DEFAULT, per_channel: bool | None = False) -> Network:
        """The integer network: as it stands, or compiled for a chip, see `hardware.compile.compiler.compile_graph`."""
        if self.network is not None:
            return self.network
        assert self.graph is not None
        return compile_graph(self.graph, chip, self.dt, per_channel=per_channel)[0]


def open_model(path: str | Path, dt: float | None = None) -> Model:
    """Read a `.nir` graph, a NETX `.net` file or an integer network in an `.h5` file.

    dt: seconds per step of a graph that does not say. Raises HardwareError or InputError.
    """
    path = Path(path)
    if path.suffix in INTEGER_FILES:
        if dt is not None:
            raise InputError(f"{path}: an integer network has its time constants in steps; leave out --dt")
        network = read_net(path) if path.suffix == ".net" else load(path)
        return Model(path, None, network, network.dt, network.metadata)
    graph = read_graph(path)
    return Model(path, graph, None, time_step(graph, dt)[0], graph.metadata)


def compile_file(
    model: str | Path | Graph,
    chip: Chip | str | Path,
    out: str | Path,
    dt: float | None = None,
    weight_bits: int | None = None,
) -> tuple[Network, list[LayerReport]]:
    """Compile a `.nir` file, or the graph that was read from it, for a chip and write it: `.net` (NETX) or `.h5` (all that an integer network can say).

    Where the chip has a threshold per neuron, every output channel in an `.h5` file gets its own scale and threshold;
    NETX has one per population. Returns the network and a report per projection; nothing is written where
    an error is raised (HardwareError, InputError).
    """
    out = Path(out)
    chip = as_chip(chip)
    if out.suffix not in INTEGER_FILES:
        raise InputError(f"{out}: expected a name that ends in .net (NETX) or .h5 (any integer network)")
    graph = model if isinstance(model, Graph) else read_graph(model)
    netx = out.suffix == ".net"
    network, reports = compile_graph(graph, restrict(chip) if netx else chip, dt, weight_bits)
    (write_net if netx else save)(network, out)
    return network, reports


@dataclass(frozen=True)
class Evaluation:
    """accuracy = correct / n. steps: time steps of the longest recording. spikes: of all neurons (inputs not counted) over all
    recordings. dt: seconds per step, None where the file does not say. seconds: of the simulation alone. predictions: class per recording.
    neurobench: see `hardware.simulate.neurobench`, of the network that was run."""

    accuracy: float
    correct: int
    n: int
    steps: int
    spikes: int
    seconds: float
    backend: str
    dt: float | None
    neurobench: dict[str, Any]
    predictions: np.ndarray = field(repr=False)

    def to_dict(self) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "predictions"}


def binning_of(
    metadata: Mapping[str, Any],
    bins: int | None = None,
    bin_us: float | None = None,
    downsample: int | None = None,
) -> Binning:
    """What was asked for, else what a file's metadata says. Raises InputError where neither tells."""
    clip = metadata.get("clip")
    if downsample is None:
        downsample = int(metadata.get("downsample") or 1)
    if bins is None and bin_us is None:
        bins, bin_us = metadata.get("bins"), metadata.get("bin_us")
        if bins is None and bin_us is None:
            raise InputError(
                "binning: the file does not say how events become steps; give --bins N or --bin-us T"
            )
    return Binning(bins, bin_us, None if clip is None else int(clip), downsample)


def shown(metadata: Mapping[str, Any], raster: np.ndarray) -> np.ndarray:
    """The time bins that the network is shown: all, or those its metadata kept. Raises InputError where one is missing."""
    if metadata.get("kept_bins") is None:
        return raster
    kept = np.asarray(metadata["kept_bins"], dtype=np.int64)
    if kept.max(initial=-1) >= raster.shape[1]:
        raise InputError(
            f"kept_bins: the file keeps bin {kept.max()}, the recordings have {raster.shape[1]} bins"
        )
    return raster[:, kept]


def chosen_recordings(opened: Opened, limit: int | None) -> np.ndarray:
    """Indices of all recordings, or of `limit` of them, spread evenly."""
    if limit is not None and limit < 1:
        raise InputError(f"limit: found {limit}, expected at least 1")
    n = len(opened.recordings.labels)
    if limit is None or limit >= n:
        return np.arange(n)
    return np.linspace(0, n - 1, limit).astype(int)


def recordings(
    opened: Opened, chosen: np.ndarray, binning: Binning, metadata: Mapping[str, Any]
) -> Iterator[np.ndarray]:
    """Rasters (n, steps, *shape) of the chosen recordings, as the network is shown them, some tens at a time."""
    for first in range(0, len(chosen), _CHUNK):
        part = [opened.recordings[i] for i in chosen[first : first + _CHUNK]]
        yield shown(metadata, rasters(part, binning, opened.sensor_size))


@dataclass(frozen=True)
class Recordings:
    """Recordings to run a network on. bins, bin_us: None: as the network's file says. limit: only so many, spread evenly."""

    dataset: str
    data_dir: str | Path | None = None
    split: str = "test"
    bins: int | None = None
    bin_us: float | None = None
    limit: int | None = None

    def rasters(self, metadata: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """As `recordings` gives them. Raises InputError for an unknown data set, or a file that does not say its binning."""
        binning = binning_of(metadata, self.bins, self.bin_us)
        opened = open_dataset(self.dataset, self.data_dir, self.split)
        return recordings(opened, chosen_recordings(opened, self.limit), binning, metadata)


def measured_rates(model: Model, shown_to: Recordings) -> dict[str, np.ndarray]:
    """Spikes of every neuron and input per recording, by population, of a run in the chip's integers.

    For `hardware.placement.place`. Raises InputError or HardwareError for what cannot be read or run.
    """
    network = model.integers()
    inputs = [entry.name for entry in network.stimulated]
    always_on = [entry for entry in network.inputs if entry.constant]
    names = [*inputs, *(entry.name for entry in always_on), *(p.name for p in network.populations if p.spiking)]
    total: dict[str, np.ndarray] = {}
    samples = 0
    simulation = simulator.Simulator(network)
    for raster in shown_to.rasters(model.metadata):
        samples += len(raster)
        counts = simulation.run(raster).counts
        # A count above 1 enters as one graded spike.
        counts |= dict.fromkeys(inputs, np.count_nonzero(raster, axis=1))
        counts |= {
            entry.name: np.full((len(raster), *entry.shape), entry.constant * raster.shape[1]) for entry in always_on
        }
        for name in names:
            total[name] = total.get(name, 0) + counts[name].sum(axis=0, dtype=np.int64)
    return {name: spikes / samples for name, spikes in total.items()}


def estimate_energy(
    path: str | Path, shown_to: Recordings, dt: float | None = None
) -> tuple[energy.Estimate, Placement]:
    """Energy and latency on Loihi 1, see `hardware.placement.energy`, and the placement that they are of.

    Neurons are placed so that as few spikes of these recordings as possible cross cores.
    Raises InputError or HardwareError for what cannot be read, run or estimated.
    """
    if not energy.available():
        raise InputError(energy.NEEDS)
    model = open_model(path, dt)
    network = model.integers()
    parts = list(shown_to.rasters(model.metadata))
    steps = max(part.shape[1] for part in parts)
    raster = np.concatenate(
        [np.pad(x, [(0, 0), (0, steps - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]) for x in parts]
    )
    placement = place(network, "loihi1", firing_rates=measured_rates(model, shown_to))
    return energy.estimate(network, placement, raster), placement


def run_lava(
    network: Network, raster: np.ndarray, record: simulator.Record = (), python: str | None = None
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
    record = simulator.wanted_variables(network, record)
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


def evaluate(
    model: str | Path | Model,
    dataset: str,
    data_dir: str | Path | None = None,
    split: str = "test",
    bins: int | None = None,
    bin_us: float | None = None,
    backend: str = "float",
    dt: float | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    lava_python: str | None = None,
    downsample: int | None = None,
) -> Evaluation:
    """Classify recordings by the largest spike count, or membrane sum, over time.

    model: a `.nir`, `.net` or `.h5` file, or what `open_model` made of it. backend: "float" (the reference simulator;
    of a `.nir` file only), "fixed" (8-bit weights, the chip's integers) or "lava" (the same integers on real Lava,
    in `lava_python` where given). limit: only so many recordings, spread evenly. progress(done, total).
    Raises InputError or HardwareError for what cannot be read or run.
    """
    check_backend(backend, lava_python)
    opened_model = model if isinstance(model, Model) else open_model(model, dt)
    metadata = opened_model.metadata
    binning = binning_of(metadata, bins, bin_us, downsample)
    graph = opened_model.graph
    if backend == "float" and graph is None:
        raise InputError(
            f"{opened_model.path}: holds integers; give --backend fixed or --backend lava, or its .nir file"
        )
    network = None if backend == "float" else opened_model.integers()
    if network is None:
        assert graph is not None
        tally = neurobench.of_graph(graph)
    else:
        tally = neurobench.of_network(network)
    opened = open_dataset(dataset, data_dir, split)
    labels = opened.recordings.labels
    chosen = chosen_recordings(opened, limit)
    predicted, spikes, steps, seconds = [], 0, 0, 0.0
    done = 0
    for raster in recordings(opened, chosen, binning, metadata):
        begin = time.perf_counter()
        if network is None:
            assert graph is not None
            exact = reference.simulate(graph, raster, dt=opened_model.dt, record=tally.recorded)
            output, counts, values = exact.output, exact.counts, exact.spikes
        else:
            if backend == "lava":
                run, differing = run_lava(network, raster, python=lava_python)
                if differing:
                    raise HardwareError(
                        f"{opened_model.path}: {differing:,} values differ between Lava and our simulator"
                    )
            else:
                run = simulator.simulate(network, raster)
            output, counts, values = run.output, run.counts, {}
        seconds += time.perf_counter() - begin
        tally.add(raster, counts, values)
        predicted.append(fidelity.predictions(output))
        spikes += sum(int(c.sum(dtype=np.int64)) for c in counts.values())
        steps = max(steps, raster.shape[1])
        done += len(raster)
        if progress is not None:
            progress(done, len(chosen))
    predictions = np.concatenate(predicted)
    correct = int((predictions == labels[chosen]).sum())
    return Evaluation(
        correct / len(chosen),
        correct,
        len(chosen),
        steps,
        spikes,
        round(seconds, 3),
        backend,
        opened_model.dt,
        tally.to_dict(),
        predictions,
    )


def check_backend(backend: str, lava_python: str | None, known: tuple[str, ...] = BACKENDS) -> None:
    """Raise InputError for an unknown backend, or Lava where there is none, before anything is read."""
    if backend not in known:
        raise InputError(f"backend: found {backend!r}, expected one of {', '.join(known)}")
    if lava_python is not None and backend != "lava":
        raise InputError(f"--lava-python is for --backend lava, found --backend {backend}")
    if backend == "lava" and lava_python is None and not lava.available():
        raise InputError(lava.NO_LAVA.format(python=sys.executable))


def read_raster(path: str | Path, shape: tuple[int, ...]) -> np.ndarray:
    """Counts (batch, steps, *shape) of an `.npy` file, which may leave out the batch. Raises InputError."""
    try:
        raster = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(
            f"{path}: not an .npy file of numbers ({' '.join(str(error).split())[:120]})"
        ) from None
    if not isinstance(raster, np.ndarray):
        raise InputError(f"{path}: an archive, expected one array of an .npy file")
    if raster.shape[1:] == shape:
        raster = raster[None]
    if raster.ndim != 2 + len(shape) or raster.shape[2:] != shape:
        raise InputError(
            f"{path}: has shape {raster.shape}, expected (steps, {', '.join(map(str, shape))}), "
            "or that with the samples before"
        )
    return raster


def write_spikes(run: simulator.Run, path: str | Path) -> None:
    """An `.npz` of ``output`` and of ``spikes/NAME`` of what was recorded, (batch, steps, *shape) each."""
    path = Path(path)
    check_spikes_path(path)
    arrays: dict[str, Any] = {f"spikes/{name}": values for name, values in run.spikes.items()}

    def write(temporary: Path) -> None:
        np.savez_compressed(temporary, output=run.output, **arrays)

    write_whole(path, write)


def check_spikes_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a name that `write_spikes` does not write."""
    if Path(path).suffix != ".npz":
        raise InputError(f"{path}: expected a name that ends in .npz")
