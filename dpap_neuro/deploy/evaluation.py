"""Networks of a file on recordings: part of the command line, so it stands on both packages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from dpap_neuro.deploy.opening import Model
from dpap_neuro.deploy.recordings import Recordings, input_notes
from dpap_neuro.deploy.simulation import run_lava
from dpap_neuro.errors import InputError
from hardware.errors import HardwareError
from hardware.simulate import fidelity, lava, neurobench, simulator
from hardware.simulate.float_simulator import FloatSimulator

BACKENDS = ("float", "fixed", "lava")


@dataclass(frozen=True)
class Evaluation:
    """accuracy = correct / n, both None where there are no labels. steps: time steps of the longest recording. spikes: of all
    neurons (inputs not counted) over all recordings. dt: seconds per step, None where the file does not say. seconds: of the
    simulation alone. chip, weight_bits: of the integers that were run, None in float or where a file does not say.
    predictions: class per recording. rates: spikes of every neuron and input per recording, by population.
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
    chip: str | None
    weight_bits: int | None
    neurobench: dict[str, Any]
    predictions: np.ndarray = field(repr=False)
    rates: dict[str, np.ndarray] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def layer_rates(self) -> dict[str, float]:
        """Spikes per neuron and step of every population, inputs first; of the steps of the longest recording."""
        return {name: float(each.mean()) / self.steps for name, each in self.rates.items()}

    @property
    def operations(self) -> float:
        """Synaptic operations per recording, see `neurobench`."""
        found = self.neurobench["SynapticOperations"]
        return found["Effective_MACs"] + found["Effective_ACs"]

    def to_dict(self) -> dict:
        left_out = {"predictions", "rates"} | (set() if self.notes else {"notes"})
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return {**values, "spikes_per_neuron_and_step": self.layer_rates}


def measured_rates(model: Model, shown_to: Recordings) -> dict[str, np.ndarray]:
    """Spikes of every neuron and input per recording, by population, of a run in the chip's integers.

    For `hardware.placement.place`. Raises InputError or HardwareError for what cannot be read or run.
    """
    return evaluate(model, shown_to, "fixed", classes=False).rates


def evaluate(
    model: Model,
    shown_to: Recordings,
    backend: str = "float",
    progress: Callable[[int, int], None] | None = None,
    lava_python: str | None = None,
    classes: bool = True,
) -> Evaluation:
    """Run a network on recordings once, and classify them by the largest spike count, or membrane sum, over time.

    backend: "float" (the float simulator; of a `.nir` file only), "fixed" (the chip's integers) or "lava"
    (the same integers on real Lava, in `lava_python` where given). progress(done, total). classes: whether the data's
    classes must be the network's. Raises InputError or HardwareError for what cannot be read or run.
    """
    check_backend(backend, lava_python)
    graph = model.graph
    if backend == "float" and graph is None:
        raise InputError(
            f"{model.path}: holds integers; give --backend fixed or --backend lava, or its .nir file"
        )
    if shown_to.scale is not None and backend != "float":
        raise InputError(
            f"scale: chips take whole counts, found --backend {backend}; multiply the first weights by it instead"
        )
    network = None if backend == "float" else model.integers()
    exactly = None
    if network is None:
        assert graph is not None
        exactly = FloatSimulator(graph, model.dt, model.reset)
        inputs, tally = list(graph.inputs), neurobench.of_graph(graph)
    else:
        inputs, tally = [entry.name for entry in network.stimulated], neurobench.of_network(network)
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
        for entry in network.inputs if network is not None else ():
            if entry.constant:
                arrived[entry.name] = np.full((len(raster), *entry.shape), raster.shape[1])
        for name, spikes in {**counts, **arrived}.items():
            total[name] = total.get(name, 0) + spikes.sum(axis=0, dtype=np.int64)
        steps = max(steps, raster.shape[1])
        most = max(most, int(raster.max(initial=0)))
        done += len(raster)
        if progress is not None:
            progress(done, shown.n)
    predictions = np.concatenate(predicted)
    correct = None if shown.labels is None else int((predictions == shown.labels).sum())
    silent = [name for name, each in counts.items() if not total[name].any()]
    said: tuple[str, ...] = ()
    if silent:
        named = f"layer {', '.join(silent)} never spikes on these recordings"
        said = (
            (f"{named}: all of them get the answer that biases alone give",)
            if len(silent) == len(counts)
            else (named,)
        )
    return Evaluation(
        None if correct is None else correct / shown.n,
        correct,
        shown.n,
        steps,
        sum(int(total[name].sum()) for name in counts),
        round(seconds, 3),
        backend,
        model.dt,
        None if network is None else model.chip.name,
        None if network is None else model.weight_bits,
        tally.to_dict(),
        predictions,
        {name: spikes / shown.n for name, spikes in total.items()},
        (*said, *shown.notes, *(() if network is None else (*input_notes(model.chip, most), *model.notes))),
    )


def check_backend(backend: str, lava_python: str | None, known: tuple[str, ...] = BACKENDS) -> None:
    """Raise InputError for an unknown backend, or Lava where there is none, before anything is read."""
    if backend not in known:
        raise InputError(f"backend: found {backend!r}, expected one of {', '.join(known)}")
    if lava_python is not None and backend != "lava":
        raise InputError(f"--lava-python is for --backend lava, found --backend {backend}")
    if backend == "lava" and lava_python is None and not lava.available():
        raise InputError(lava.NO_LAVA.format(python=sys.executable))
