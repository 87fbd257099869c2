"""A training run as a user starts it: data by name, a model, a pruner; and the folder it is kept in.

A run folder holds `weights.safetensors`, `run.json` (settings and history) and, of a spiking network, `model.nir`. Of one that
was trained on a chip's integers, run.json says the precision, and model.nir holds the integers.
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
from safetensors.torch import load_file, save

from dpap_neuro.data import Binning, Opened, binning_of, open_both
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import encoded_metadata, to_nir, without_dead_units, write_nir
from dpap_neuro.exchange.nir_import import IMPORTED, ImportedNetwork, from_file
from dpap_neuro.files import make_folder, write_bytes, write_json
from dpap_neuro.networks import RELU
from dpap_neuro.networks.models import ModelSettings, Network, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.precision import export
from dpap_neuro.precision.network import ExactNetwork, from_run
from dpap_neuro.pruning import Pruner, PruneReport
from dpap_neuro.train.loop import Epoch, History, TrainSettings, train

Data = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Rasters (n, steps, polarity, y, x), of the time bins that `binning` keeps, and labels of training and testing;
    `opened` describes the data set. held_out: whether the test recordings were taken from those for training.
    """

    opened: Opened
    train: Data
    test: Data
    binning: Binning
    held_out: bool = False

    @property
    def dt(self) -> float:
        return self.binning.seconds(self.opened.duration_us)


def load_split(
    dataset: str,
    data_dir: str | Path | None,
    binning: Binning,
    progress: Callable[[str, int, int], None] | None = None,
    cache_dir: str | Path | None = None,
    sensor: tuple[int, int] | None = None,
) -> Split:
    """Both splits as rasters, see `Opened.rasters`. Without test recordings every fifth of each class is held out.

    Raises InputError for an unknown data set, a missing folder, or a time bin to keep that is not there.
    """
    both = open_both(dataset, data_dir, sensor)
    n, labels = both.n_train, both.opened.recordings.labels

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress("train", min(done, n), n)
            if done > n:
                progress("test", done - n, total - n)

    x = both.opened.rasters(binning, told, cache_dir)
    return Split(both.opened, (x[:n], labels[:n]), (x[n:], labels[n:]), binning, both.held_out)


def model_settings(
    split: Split,
    name: str,
    readout: str | None,
    decay: float,
    v_th: float,
    slope: float,
    cell: str = "lif",
    current_decay: float | None = None,
    reset: str = "zero",
) -> ModelSettings:
    """Settings for this data. decay: share of the membrane lost in a step, dt / tau_mem; current_decay: the same of the
    synaptic current of "cubalif" (None: as the membrane). reset: see `NeuronSettings`. readout: None is "spikes", or "mean" of the artificial twin.
    """
    for what, share in (("decay", decay), ("current_decay", current_decay)):
        if share is not None and not 0 < share <= 1:
            raise InputError(f"{what}: found {share}, expected above 0 and at most 1")
    tau_syn = None if current_decay is None else split.dt / current_decay
    neuron = NeuronSettings(split.dt, split.dt / decay, v_th, slope, tau_syn, reset)
    shape = split.train[0].shape[2:]
    if readout is None:
        readout = "mean" if cell == RELU else "spikes"
    return ModelSettings(name, tuple(shape), len(split.opened.classes), neuron, readout, cell)  # type: ignore[arg-type]


def train_run(
    split: Split,
    model: ModelSettings | ImportedNetwork | ExactNetwork,
    pruner: Pruner,
    settings: TrainSettings,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch, PruneReport], None] | None = None,
    checkpoint: str | Path | None = None,
) -> tuple[Network, History]:
    """Build a network from the seed, or take one of a file, and train it; or go on from `checkpoint` (see
    `training.train`)."""
    network = build_model(model, settings.seed) if isinstance(model, ModelSettings) else model
    history = train(
        network, pruner, split.train, split.test, settings, device, on_batch, on_epoch, checkpoint
    )
    return network, history


def graph_of(network: Network, split_metadata: dict[str, Any]) -> nir.NIRGraph:
    """The network as NIR, with how to feed it in the metadata (see `metadata_of`)."""
    settings = network.settings
    if isinstance(network, ExactNetwork):
        return export.to_nir(network, **encoded_metadata({"readout": settings.readout, **split_metadata}))
    return to_nir(
        network, settings.input_shape, settings.neuron.dt, readout=settings.readout, **split_metadata
    )


def metadata_of(split: Split) -> dict[str, Any]:
    """Input binning and class names, as a graph carries them."""
    known = {"class_names": list(split.opened.classes), "dataset": split.opened.name}
    return {**split.binning.to_dict(), **known}


def save_run(
    folder: str | Path,
    network: Network,
    history: History,
    metadata: dict[str, Any],
    compact: bool = False,
) -> None:
    """Write the folder's files, each whole or not at all.

    compact: leave neurons that pruning silenced out of model.nir.
    """
    folder = make_folder(folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    write_bytes(folder / "weights.safetensors", save(tensors))
    if history.kept_bins is not None:
        metadata = {**metadata, **binning_of(metadata).keeping(history.kept_bins).to_dict()}
    write_json(
        folder / "run.json",
        {
            "model": network.settings.to_dict(),
            "metadata": metadata,
            "history": [asdict(e) for e in history.epochs],
            "seconds": history.seconds,
            "compact": compact,
            **({"precision": network.precision.to_dict()} if isinstance(network, ExactNetwork) else {}),
        },
    )
    # Last: it can be made again from the two before.
    if network.settings.spiking:
        exported = without_dead_units(network, network.settings.input_shape) if compact else network
        write_nir(graph_of(exported, metadata), folder / "model.nir")


def add_to_record(folder: str | Path, **values: Any) -> None:
    """Let the run.json of a folder say more."""
    path = Path(folder) / "run.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def is_compact(folder: str | Path) -> bool:
    """Whether the folder's model.nir leaves out silenced neurons. The folder has been read by `load_run`."""
    values = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    return bool(values.get("compact", False))


def load_run(folder: str | Path) -> tuple[Network, dict[str, Any]]:
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
    if values.get("precision") is not None:
        # The integers are what was trained; the floats behind them lie in weights.safetensors.
        return from_run(folder / "model.nir", settings, values["precision"]).eval(), metadata
    if settings.name == IMPORTED:
        return from_file(folder / "model.nir").eval(), metadata
    try:
        network = build_model(settings)
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:  # sizes that are none
        raise InputError(f"{folder}: damaged run ({type(error).__name__}: {error})") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise InputError(f"{folder}/weights.safetensors: of another architecture ({line[:160]})") from None
    return network.eval(), metadata
