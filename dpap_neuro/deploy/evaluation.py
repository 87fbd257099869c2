"""Networks of a file on recordings: part of the command line, so it stands on both packages."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from dpap_neuro.files import write_stream
from hardware.chip.chips import DEFAULT, Chip, as_chip
from hardware.compile.compiler import LayerReport, compile_graph
from hardware.errors import HardwareError
from hardware.files.network_file import load, save
from hardware.files.netx import read_net, restrict, write_net
from hardware.graph.graph import Graph, time_step
from hardware.graph.parsing import read_graph
from hardware.network.connectivity import shapes
from hardware.network.integer import Network
from hardware.network.timing import depths
from hardware.simulate import fidelity, lava, neurobench, simulator
from hardware.simulate.float_simulator import FloatSimulator

BACKENDS = ("float", "fixed", "lava")
INTEGER_FILES = (".net", ".h5")
# The one that SANA-FE's costs are of.
CHIP = "loihi1"


@dataclass(frozen=True)
class Model:
    """A file's network. graph: of a `.nir` file, None for an integer network. dt: seconds per step, where known.
    chip: what a graph is compiled for, None: `DEFAULT`."""

    path: Path
    graph: Graph | None
    network: Network | None
    dt: float | None
    metadata: Mapping[str, Any]
    chip: Chip | None = None

    def integers(self) -> Network:
        """The integer network: as it stands, or compiled once for the chip, with one scale per population."""
        return self._integers

    @cached_property
    def _integers(self) -> Network:
        if self.network is not None:
            return self.network
        assert self.graph is not None
        return compile_graph(self.graph, self.chip or DEFAULT, self.dt, per_channel=False)[0]

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of a step of the input, None where the network has none or several."""
        if self.graph is not None:
            found = [tuple(self.graph.input_shape[name]) for name in self.graph.inputs]
        else:
            found = [tuple(entry.shape) for entry in self.integers().inputs]
        return found[0] if len(found) == 1 else None

    @property
    def classes(self) -> int:
        """How many classes the network tells apart: neurons of its output."""
        if self.graph is not None:
            return math.prod(self.graph.output_shape[self.graph.outputs[0]])
        network = self.integers()
        return math.prod(shapes(network)[network.outputs[0]])


def open_model(path: str | Path, dt: float | None = None, chip: Chip | str | Path | None = None) -> Model:
    """Read a `.nir` graph, a NETX `.net` file or an integer network in an `.h5` file.

    dt: seconds per step of a graph that does not say. chip: to compile a graph for, itself, its name or its file.
    Raises HardwareError or InputError.
    """
    path, chip = Path(path), None if chip is None else as_chip(chip)
    if path.suffix in INTEGER_FILES:
        if dt is not None:
            raise InputError(f"{path}: an integer network has its time constants in steps; leave out --dt")
        network = read_net(path) if path.suffix == ".net" else load(path)
        return Model(path, None, network, network.dt, network.metadata, chip)
    graph = read_graph(path)
    return Model(path, graph, None, time_step(graph, dt)[0], graph.metadata, chip)


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
    """accuracy = correct / n, both None where there are no labels. steps: time steps of the longest recording. spikes: of all
    neurons (inputs not counted) over all recordings. dt: seconds per step, None where the file does not say. seconds: of the
    simulation alone. predictions: class per recording. rates: spikes of every neuron and input per recording, by population.
    neurobench: see `hardware.simulate.neurobench`, of the network that was run. notes: what keeps these numbers from being the
    chip's, or from saying what they seem to say."""

    accuracy: float | None
    correct: int | None
    n: int
    steps: int
    spikes: int
    seconds: float
    backend: str
    dt: float | None
    neurobench: dict[str, Any]
    predictions: np.ndarray = field(repr=False)
    rates: dict[str, np.ndarray] = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        left_out = {"predictions", "rates"} | (set() if self.notes else {"notes"})
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


def measured_rates(model: Model, shown_to: Recordings) -> dict[str, np.ndarray]:
    """Spikes of every neuron and input per recording, by population, of a run in the chip's integers.

    For `hardware.placement.place`. Raises InputError or HardwareError for what cannot be read or run.
    """
    return evaluate(model, shown_to, "fixed", classes=False).rates


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
    model: Model,
    shown_to: Recordings,
    backend: str = "float",
    progress: Callable[[int, int], None] | None = None,
    lava_python: str | None = None,
    classes: bool = True,
) -> Evaluation:
    """Run a network on recordings once, and classify them by the largest spike count, or membrane sum, over time.

    backend: "float" (the float simulator; of a `.nir` file only), "fixed" (8-bit weights, the chip's integers) or "lava"
    (the same integers on real Lava, in `lava_python` where given). progress(done, total). classes: whether the data's
    classes must be the network's. Raises InputError or HardwareError for what cannot be read or run.
    """
    check_backend(backend, lava_python)
    graph = model.graph
    if backend == "float" and graph is None:
        raise InputError(
            f"{model.path}: holds integers; give --backend fixed or --backend lava, or its .nir file"
        )
    network = None if backend == "float" else model.integers()
    exactly = None
    if network is None:
        assert graph is not None
        exactly = FloatSimulator(graph, model.dt)
        inputs, tally = list(graph.inputs), neurobench.of_graph(graph)
    else:
        inputs, tally = [entry.name for entry in network.inputs], neurobench.of_network(network)
    simulation = simulator.Simulator(network) if network is not None and backend == "fixed" else None
    shown = shown_to.open(model, classes)
    predicted, steps, seconds, done, most = [], 0, 0.0, 0, 0
    total: dict[str, np.ndarray] = {}
    for raster in shown.parts():
        begin = time.perf_counter()
        if network is None:
            assert exactly is not None
            exact = exactly.run(raster, record=tally.recorded, membranes=False)
            output, counts, values = exact.output, exact.counts, exact.spikes
        else:
            if simulation is None:
                run, differing = run_lava(network, raster, python=lava_python)
                if differing:
                    raise HardwareError(
                        f"{model.path}: {differing:,} values differ between Lava and our simulator"
                    )
            else:
                run = simulation.run(raster)
            output, counts, values = run.output, run.counts, {}
        seconds += time.perf_counter() - begin
        tally.add(raster, counts, values)
        predicted.append(fidelity.predictions(output))
        # A count above 1 enters as one graded spike.
        arrived = dict.fromkeys(inputs, np.count_nonzero(raster, axis=1))
        for name, spikes in {**counts, **arrived}.items():
            total[name] = total.get(name, 0) + spikes.sum(axis=0, dtype=np.int64)
        steps = max(steps, raster.shape[1])
        most = max(most, int(raster.max(initial=0)))
        done += len(raster)
        if progress is not None:
            progress(done, shown.n)
    predictions = np.concatenate(predicted)
    correct = None if shown.labels is None else int((predictions == shown.labels).sum())
    return Evaluation(
        None if correct is None else correct / shown.n,
        correct,
        shown.n,
        steps,
        sum(int(total[name].sum()) for name in total if name not in inputs),
        round(seconds, 3),
        backend,
        model.dt,
        tally.to_dict(),
        predictions,
        {name: spikes / shown.n for name, spikes in total.items()},
        (*shown.notes, *(() if network is None else input_notes(model, most))),
    )


def input_notes(model: Model, most: int) -> tuple[str, ...]:
    """What is to be said where the model's chip takes no counts at its inputs and the highest in a step is `most`."""
    if model.chip is None or model.chip.neuron.graded_inputs or most <= 1:
        return ()
    return (
        f"inputs carry counts of up to {most} per step, {model.chip.name} takes single spikes: "
        "the chip would not see what was simulated (train with --clip 1)",
    )


def check_backend(backend: str, lava_python: str | None, known: tuple[str, ...] = BACKENDS) -> None:
    """Raise InputError for an unknown backend, or Lava where there is none, before anything is read."""
    if backend not in known:
        raise InputError(f"backend: found {backend!r}, expected one of {', '.join(known)}")
    if lava_python is not None and backend != "lava":
        raise InputError(f"--lava-python is for --backend lava, found --backend {backend}")
    if backend == "lava" and lava_python is None and not lava.available():
        raise InputError(lava.NO_LAVA.format(python=sys.executable))


def write_spikes(run: simulator.Run, path: str | Path) -> None:
    """An `.npz` of ``output`` and of ``spikes/NAME`` of what was recorded, (batch, steps, *shape) each."""
    path = Path(path)
    check_spikes_path(path)
    arrays: dict[str, Any] = {f"spikes/{name}": values for name, values in run.spikes.items()}

    write_stream(path, lambda file: np.savez_compressed(file, output=run.output, **arrays))


def check_spikes_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a name that `write_spikes` does not write."""
    if Path(path).suffix != ".npz":
        raise InputError(f"{path}: expected a name that ends in .npz")
