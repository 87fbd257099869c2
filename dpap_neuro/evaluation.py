"""A `.nir` file on recordings: part of the command line, so it stands on both packages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from dpap_neuro.data import Binning, open_dataset, rasters
from dpap_neuro.errors import InputError
from hardware import fidelity, reference, simulator
from hardware.compile import compile_graph
from hardware.graph import Graph, read_graph, time_step

BACKENDS = ("float", "fixed")
_CHUNK = 50


@dataclass(frozen=True)
class Evaluation:
    """accuracy = correct / n. steps: time steps of the longest recording. spikes: of all neurons (inputs not counted) over all
    recordings. seconds: of the simulation alone. predictions: class per recording."""

    accuracy: float
    correct: int
    n: int
    steps: int
    spikes: int
    seconds: float
    backend: str
    dt: float
    predictions: np.ndarray = field(repr=False)

    def to_dict(self) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "predictions"}


def binning_of(graph: Graph, bins: int | None = None, bin_us: float | None = None) -> Binning:
    """What was asked for, else what the graph's metadata says. Raises InputError where neither tells."""
    clip = graph.metadata.get("clip")
    if bins is None and bin_us is None:
        bins, bin_us = graph.metadata.get("bins"), graph.metadata.get("bin_us")  # type: ignore[assignment]
        if bins is None and bin_us is None:
            raise InputError(
                "binning: the file does not say how events become steps; give --bins N or --bin-us T"
            )
    return Binning(bins, bin_us, None if clip is None else int(clip))  # type: ignore[call-overload]


def shown(graph: Graph, rasters: np.ndarray) -> np.ndarray:
    """The time bins that the network is shown: all, or those its metadata kept."""
    kept = graph.metadata.get("kept_bins")
    return rasters if kept is None else rasters[:, np.asarray(kept, dtype=np.int64)]


def evaluate(
    model: str | Path,
    dataset: str,
    data_dir: str | Path | None = None,
    split: str = "test",
    bins: int | None = None,
    bin_us: float | None = None,
    backend: str = "float",
    dt: float | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Classify recordings by the largest spike count, or membrane sum, over time.

    backend: "float" (the reference simulator, single precision) or "fixed" (8-bit weights, the chip's integers).
    limit: only so many recordings, spread evenly. progress(done, total).
    Raises InputError or HardwareError for what cannot be read or run.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend: found {backend!r}, expected one of {', '.join(BACKENDS)}")
    if limit is not None and limit < 1:
        raise InputError(f"limit: found {limit}, expected at least 1")
    graph = read_graph(model)
    opened = open_dataset(dataset, data_dir, split)
    binning = binning_of(graph, bins, bin_us)
    labels = opened.recordings.labels
    chosen = np.arange(len(labels))
    if limit is not None and limit < len(labels):
        chosen = np.linspace(0, len(labels) - 1, limit).astype(int)
    step, _ = time_step(graph, dt)
    network = compile_graph(graph, step)[0] if backend == "fixed" else None
    predicted, spikes, steps, seconds = [], 0, 0, 0.0
    for first in range(0, len(chosen), _CHUNK):
        part = [opened.recordings[i] for i in chosen[first : first + _CHUNK]]
        raster = shown(graph, rasters(part, binning, opened.sensor_size))
        begin = time.perf_counter()
        if network is not None:
            run = simulator.simulate(network, raster)
            output, counts = run.output, run.counts
        else:
            exact = reference.simulate(graph, raster, dt=step, dtype=np.float32)
            output, counts = exact.output, exact.counts
        seconds += time.perf_counter() - begin
        predicted.append(fidelity.predictions(output))
        spikes += sum(int(c.sum(dtype=np.int64)) for c in counts.values())
        steps = max(steps, raster.shape[1])
        if progress is not None:
            progress(min(first + _CHUNK, len(chosen)), len(chosen))
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
        step,
        predictions,
    )
