"""A training run as a user starts it: data by name, a model, a pruner; and the folder it is kept in.

A run folder holds `weights.safetensors`, `run.json` (settings, history and the checksums of the others) and, of a spiking network,
`model.nir`. Of one that was trained on a chip's integers, run.json says the precision, and model.nir holds the integers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from dpap_neuro.data import Binning, Opened, Rasters, binning_of, groups_of, open_both
from dpap_neuro.data.stored import chosen
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import encoded_metadata, nir_bytes, to_nir, without_dead_units
from dpap_neuro.exchange.nir_import import IMPORTED, ImportedNetwork, from_file
from dpap_neuro.files import (
    make_folder,
    read_bytes,
    read_sealed,
    sealed,
    write_bytes,
    write_sealed,
    write_together,
)
from dpap_neuro.networks import MODELS, RELU, SURROGATES
from dpap_neuro.networks.models import ModelSettings, Network, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.networks.own import is_own, located
from dpap_neuro.precision import export
from dpap_neuro.precision.network import ExactNetwork, from_run
from dpap_neuro.pruning import Pruner, PruneReport
from dpap_neuro.train.description import TESTED, TRAINED, digest
from dpap_neuro.train.loop import Epoch, History, TrainSettings, train

Data = tuple[Rasters, np.ndarray]
_RECORD, _WEIGHTS, _GRAPH = "run.json", "weights.safetensors", "model.nir"


@dataclass(frozen=True)
class Split:
    """Rasters (n, steps, polarity, y, x), of the time bins that `binning` keeps, and labels of training and testing;
    `opened` describes the data set. held_out: whether the test recordings were taken from those for training. groups: of the
    training recordings, see `data.groups_of`.
    """

    opened: Opened
    train: Data
    test: Data
    binning: Binning
    held_out: bool = False
    groups: np.ndarray | None = None

    @property
    def dt(self) -> float:
        return self.binning.seconds(self.opened.duration_us)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of what the network is shown and of its labels, by the names that `train.description` has for them."""
        return {TRAINED: digest(self.train), TESTED: digest(self.test)}

    def record(self) -> dict[str, Any]:
        """What run.json says of the data."""
        classes = self.opened.classes

        def part(data: Data, sha256: str) -> dict[str, Any]:
            counts = np.bincount(data[1], minlength=len(classes)).tolist()
            return {
                "recordings": len(data[1]),
                "of_class": dict(zip(classes, counts, strict=True)),
                "sha256": sha256,
            }

        return {
            "name": self.opened.name,
            "folder": None if self.opened.folder is None else str(Path(self.opened.folder).resolve()),
            "sensor_size": list(self.opened.sensor_size),
            "duration_us": self.opened.duration_us,
            "binning": self.binning.to_dict(),
            "shape": list(self.train[0].shape[1:]),
            "train": part(self.train, self.digests[TRAINED]),
            "test": part(self.test, self.digests[TESTED]),
            "held_out": len(self.test[1]) / (len(self.train[1]) + len(self.test[1]))
            if self.held_out
            else 0.0,
        }


def load_split(
    dataset: str,
    data_dir: str | Path | None,
    binning: Binning,
    progress: Callable[[str, int, int], None] | None = None,
    cache_dir: str | Path | None = None,
    sensor: tuple[int, int] | None = None,
    workers: int | None = None,
) -> Split:
    """Both splits as rasters, in memory, or read from a file of `cache_dir` when they are asked for, see `Opened.stored`; workers:
    processes that make them. Without test recordings every fifth of each class is held out.

    Raises InputError for an unknown data set, a missing folder, or a time bin to keep that is not there.
    """
    both = open_both(dataset, data_dir, sensor)
    n, labels = both.n_train, both.opened.recordings.labels

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress("train", min(done, n), n)
            if done > n:
                progress("test", done - n, total - n)

    x: Rasters
    if cache_dir is None:
        x = both.opened.rasters(binning, told, workers=workers)
    else:
        x = both.opened.stored(binning, cache_dir, told, workers)
    trained, tested = slice(None, n), slice(n, None)
    groups = groups_of(both.opened.recordings)
    return Split(
        both.opened,
        (chosen(x, trained), labels[:n]),
        (chosen(x, tested), labels[n:]),
        binning,
        both.held_out,
        None if groups is None else groups[:n],
    )


def model_settings(
    split: Split,
    name: str,
    readout: str | None,
    decay: float,
    v_th: float,
    slope: float | None = None,
    current_decay: float | None = None,
    reset: str = "zero",
    surrogate: str = "superspike",
    cell: str = "lif",
) -> ModelSettings:
    """Settings for this data. decay: share of the membrane lost in a step, dt / tau_mem; current_decay: the same of the
    synaptic current of "cubalif" (None: as the membrane). reset, surrogate: see `NeuronSettings`. slope: of the surrogate,
    None as `networks.SURROGATES` has it. readout: None is "spikes", or "mean" of the artificial twin.
    """
    neuron = neuron_settings(split.dt, decay, v_th, slope, current_decay, reset, surrogate)
    shape = split.train[0].shape[2:]
    if readout is None:
        readout = "mean" if cell == RELU else "spikes"
    source = None
    if is_own(name):
        name, source = located(name)
    return ModelSettings(name, tuple(shape), len(split.opened.classes), neuron, readout, cell, source)  # type: ignore[arg-type]


def neuron_settings(
    dt: float,
    decay: float,
    v_th: float,
    slope: float | None,
    current_decay: float | None,
    reset: str,
    surrogate: str = "superspike",
) -> NeuronSettings:
    """Of shares lost in a step of dt seconds, see `model_settings`. Raises InputError for a number outside its range."""
    for what, share in (("decay", decay), ("current_decay", current_decay)):
        if share is not None and not 0 < share <= 1:
            raise InputError(f"{what}: found {share}, expected above 0 and at most 1")
    tau_syn = None if current_decay is None else dt / current_decay
    slope = SURROGATES.get(surrogate, 1.0) if slope is None else slope
    return NeuronSettings(dt, dt / decay, v_th, slope, tau_syn, reset, surrogate)


def train_run(
    split: Split,
    model: ModelSettings | ImportedNetwork | ExactNetwork,
    pruner: Pruner,
    settings: TrainSettings,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch, PruneReport], None] | None = None,
    checkpoint: str | Path | None = None,
    on_note: Callable[[str], None] | None = None,
    workers: int = 0,
) -> tuple[Network, History]:
    """Build a network from the seed, or take one of a file, and train it; or go on from `checkpoint` (see
    `loop.train`)."""
    network = build_model(model, settings.seed) if isinstance(model, ModelSettings) else model
    history = train(
        network,
        pruner,
        split.train,
        split.test,
        settings,
        device,
        on_batch,
        on_epoch,
        checkpoint,
        metadata_of(split) if checkpoint is None else {**metadata_of(split), **split.digests},
        on_note,
        workers,
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


def why_not_written(settings: ModelSettings) -> str | None:
    """Why a network of these settings cannot become a `.nir` file, in a line; None where it can."""
    if not settings.spiking:
        return "NIR and the chips have no artificial neurons"
    try:
        to_nir(build_model(settings), settings.input_shape, settings.neuron.dt)
    except InputError as error:
        twin = f"{settings.name}-avg"
        return f"{error}; --model {twin} has average pooling" if twin in MODELS else str(error)
    return None


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
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder's files, each whole or not at all; what was there stays until the new weights and record are on the disk.

    compact: leave neurons that pruning silenced out of model.nir. about: what run.json says besides, in plain values.
    """
    folder = make_folder(folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    files = {_WEIGHTS: save(tensors)}
    if history.kept_bins is not None:
        metadata = {**metadata, **binning_of(metadata).keeping(history.kept_bins).to_dict()}
    made = network.settings.name != IMPORTED and not isinstance(network, ExactNetwork)
    if not made or why_not_written(network.settings) is None:
        exported = without_dead_units(network, network.settings.input_shape) if compact else network
        files[_GRAPH] = nir_bytes(graph_of(exported, metadata))
    record = {
        **(about or {}),
        "model": network.settings.to_dict(),
        "metadata": metadata,
        "history": [asdict(e) for e in history.epochs],
        "seconds": history.seconds,
        "compact": compact,
        **({} if history.positions is None else {"positions": history.positions}),
        **({"precision": network.precision.to_dict()} if isinstance(network, ExactNetwork) else {}),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    # What can be made again from the others comes last, so that a disk that is too full for it loses no training.
    again = made and not is_own(network.settings.name)
    graph = files.pop(_GRAPH, None) if again else None
    write_together(
        {**{folder / name: data for name, data in files.items()}, folder / _RECORD: sealed(record, 2)}
    )
    if graph is not None:
        write_bytes(folder / _GRAPH, graph)


def add_to_record(folder: str | Path, **values: Any) -> None:
    """Let the run.json of a folder say more."""
    write_sealed(Path(folder) / _RECORD, {**read_record(folder), **values}, 2)


def is_compact(folder: str | Path) -> bool:
    """Whether the folder's model.nir leaves out silenced neurons. Raises InputError for a damaged run.json."""
    return bool(read_record(folder).get("compact", False))


def read_record(folder: str | Path) -> dict[str, Any]:
    """What run.json says. Raises InputError for a missing or damaged file."""
    path = Path(folder) / _RECORD
    if not path.exists():
        raise InputError(f"{path}: not found, expected a folder written by `dpap-neuro train`")
    return read_sealed(path, "a run")


def _checked(folder: Path, name: str, record: dict[str, Any]) -> bytes:
    """A file that run.json knows. Raises InputError where it is another."""
    path = folder / name
    data = read_bytes(path, math.inf)
    if record["sha256"].get(name) != hashlib.sha256(data).hexdigest():
        raise InputError(
            f"{path}: damaged or of another run (its SHA-256 is not that of {_RECORD}), expected the file that was written"
        )
    return data


def load_run(folder: str | Path, trusted: bool = False) -> tuple[Network, dict[str, Any]]:
    """Network and metadata of a run folder. Nothing in it is executed.

    A network of the user's own file comes from model.nir; with `trusted` from that file, if it is still the same, which is then
    executed. Raises InputError for a missing or damaged file, or weights of another architecture.
    """
    folder = Path(folder)
    try:
        values = read_record(folder)
        settings = ModelSettings.from_dict(values["model"])
        metadata = dict(values["metadata"])
        tensors = load(_checked(folder, _WEIGHTS, values))
        by_file = settings.name == IMPORTED or (is_own(settings.name) and not trusted)
        if by_file and _GRAPH not in values["sha256"]:
            raise InputError(
                f"{folder}: its network is that of {settings.name}, which loading does not execute; load_run(..., trusted=True) does"
            )
        if by_file or values.get("precision") is not None:
            _checked(folder, _GRAPH, values)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{folder}: damaged run ({type(error).__name__}: {said})") from None
    if values.get("precision") is not None:
        # The integers are what was trained; the floats behind them lie in weights.safetensors.
        return from_run(folder / _GRAPH, settings, values["precision"]).eval(), metadata
    if by_file:
        return from_file(folder / _GRAPH).eval(), metadata
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
