"""A training run as a user starts it: data by name, a model, a pruner; and the folder it is kept in.

A run folder holds `weights.safetensors`, `run.json` (settings and history) and, of a spiking network, `model.nir`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dpap_neuro.data import Binning, Opened, open_dataset
from dpap_neuro.errors import InputError
from dpap_neuro.files import make_folder, write_json, write_whole
from dpap_neuro.models import RELU, ModelSettings, SpikingNetwork, build_model
from dpap_neuro.neurons import NeuronSettings
from dpap_neuro.nir_export import to_nir, write_nir
from dpap_neuro.pruning import Pruner, PruneReport
from dpap_neuro.training import Epoch, History, TrainSettings, train

Data = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Rasters (n, steps, polarity, y, x) and labels of training and testing; `opened` describes the data set."""

    opened: Opened
    train: Data
    test: Data
    binning: Binning

    @property
    def dt(self) -> float:
        return self.binning.seconds(self.opened.duration_us)


def load_split(
    dataset: str,
    data_dir: str | Path | None,
    binning: Binning,
    progress: Callable[[str, int, int], None] | None = None,
) -> Split:
    """Both splits as rasters. N-MNIST folders without test recordings: every fifth of each class is held out.

    Raises InputError for an unknown data set or a missing folder.
    """
    opened = open_dataset(dataset, data_dir, "train")

    def read(part: Opened, what: str) -> Data:
        told = None if progress is None else (lambda done, total: progress(what, done, total))
        return part.rasters(binning, told), part.recordings.labels

    first = read(opened, "train")
    try:
        second = read(open_dataset(dataset, data_dir, "test"), "test")
    except InputError:
        x, y = first
        held = np.zeros(len(y), dtype=bool)
        for label in np.unique(y):
            held[np.flatnonzero(y == label)[4::5]] = True
        first, second = (x[~held], y[~held]), (x[held], y[held])
    steps = max(first[0].shape[1], second[0].shape[1])
    return Split(opened, _padded(first, steps), _padded(second, steps), binning)


def _padded(data: Data, steps: int) -> Data:
    x, y = data
    missing = steps - x.shape[1]
    return (np.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2))), y) if missing else data


def model_settings(
    split: Split,
    name: str,
    readout: str | None,
    decay: float,
    v_th: float,
    slope: float,
    cell: str = "lif",
    current_decay: float | None = None,
) -> ModelSettings:
    """Settings for this data. decay: share of the membrane lost in a step, dt / tau_mem; current_decay: the same of the
    synaptic current of "cubalif" (None: as the membrane). readout: None is "spikes", or "mean" of the artificial twin.
    """
    for what, share in (("decay", decay), ("current_decay", current_decay)):
        if share is not None and not 0 < share <= 1:
            raise InputError(f"{what}: found {share}, expected above 0 and at most 1")
    tau_syn = None if current_decay is None else split.dt / current_decay
    neuron = NeuronSettings(split.dt, split.dt / decay, v_th, slope, tau_syn)
    shape = split.train[0].shape[2:]
    if readout is None:
        readout = "mean" if cell == RELU else "spikes"
    return ModelSettings(name, tuple(shape), len(split.opened.classes), neuron, readout, cell)  # type: ignore[arg-type]


def train_run(
    split: Split,
    model: ModelSettings,
    pruner: Pruner,
    settings: TrainSettings,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch, PruneReport], None] | None = None,
    checkpoint: str | Path | None = None,
) -> tuple[SpikingNetwork, History]:
    """Build a network from the seed and train it, or go on from `checkpoint` (see `training.train`)."""
    network = build_model(model, settings.seed)
    history = train(
        network, pruner, split.train, split.test, settings, device, on_batch, on_epoch, checkpoint
    )
    return network, history


def graph_of(network: SpikingNetwork, split_metadata: dict[str, Any]) -> nir.NIRGraph:
    """The network as NIR, with how to feed it in the metadata (see `metadata_of`)."""
    settings = network.settings
    return to_nir(
        network, settings.input_shape, settings.neuron.dt, readout=settings.readout, **split_metadata
    )


def metadata_of(split: Split) -> dict[str, Any]:
    """Input binning and class names, as a graph carries them."""
    return {**asdict(split.binning), "class_names": list(split.opened.classes), "dataset": split.opened.name}


def save_run(folder: str | Path, network: SpikingNetwork, history: History, metadata: dict[str, Any]) -> None:
    """Write the folder's files, each whole or not at all."""
    folder = make_folder(folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    write_whole(folder / "weights.safetensors", lambda path: save_file(tensors, path))
    if history.kept_bins is not None:
        metadata = {**metadata, "kept_bins": list(history.kept_bins)}
    if network.settings.spiking:
        write_nir(graph_of(network, metadata), folder / "model.nir")
    write_json(
        folder / "run.json",
        {
            "model": network.settings.to_dict(),
            "metadata": metadata,
            "history": [asdict(e) for e in history.epochs],
            "seconds": history.seconds,
        },
    )


def load_run(folder: str | Path) -> tuple[SpikingNetwork, dict[str, Any]]:
    """Network and metadata of a run folder. Nothing in it is executed.

    Raises InputError for a missing or damaged file, or weights of another architecture.
    """
    folder = Path(folder)
    try:
        values = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        settings = ModelSettings.from_dict(values["model"])
        metadata = dict(values["metadata"])
        tensors = load_file(folder / "weights.safetensors")
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: not found, expected a folder written by `dpap-neuro train`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{folder}: damaged run ({type(error).__name__}: {error})") from None
    network = build_model(settings)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise InputError(f"{folder}/weights.safetensors: of another architecture ({line[:160]})") from None
    return network.eval(), metadata
