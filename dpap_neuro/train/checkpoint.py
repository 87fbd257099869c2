"""Checkpoints of a training run: weights in safetensors, the rest JSON or tensors; loading never executes
code.

A checkpoint is a directory: `checkpoint.json` names the two tensor files that belong to it,
`weights-*.safetensors` (the network) and `training-*.safetensors` (optimizer, pruner, random states). New
files are written first, then `checkpoint.json` is replaced, then the old files are removed: an interruption
leaves the old checkpoint or the new one.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from dpap_neuro.errors import BadInput, InputError
from dpap_neuro.files import make_folder, write_bytes, write_text
from dpap_neuro.pruning.base import Pruner

FORMAT = 1
_INDEX = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` returns: the last finished epoch and what the caller had added."""

    epoch: int
    extra: dict[str, Any] = field(default_factory=dict)


def _plain(value: Any, where: str) -> Any:
    """A value as JSON holds it; tuples become lists. Raises InputError for what JSON cannot hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    raise InputError(
        f"checkpoint: {where} holds a {type(value).__name__}, expected numbers, text, lists or tensors"
    )


def _optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = _plain(value, f"optimizer.{key}")
    groups = [_plain(g, "optimizer") for g in state["param_groups"]]
    return tensors, {"type": type(optimizer).__name__, "groups": groups, "scalars": scalars}


def _random_states(generators: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"random/torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        for device, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"random/cuda/{device}"] = state
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - libraries draw from it
    plain = {
        "python": _plain(random.getstate(), "random"),
        "numpy": _plain(numpy_state, "random"),
        "generators": {},
    }
    for name, generator in generators.items():
        if isinstance(generator, torch.Generator):
            tensors[f"random/generator/{name}"] = generator.get_state()
        else:
            plain["generators"][name] = _plain(generator.bit_generator.state, f"generator {name}")
    return tensors, plain


def save_checkpoint(
    directory: str | os.PathLike[str],
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: Any = None,
    pruner: Pruner | None = None,
    epoch: int = 0,
    generators: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write the state after `epoch` into `directory` (made if absent); returns the path of `checkpoint.json`.

    generators: torch.Generator or numpy.random.Generator by name, besides the global random states. extra:
    anything JSON holds. With torch.distributed the caller lets rank 0 save.
    """
    folder = make_folder(directory)
    tensors: dict[str, Tensor] = {}
    index: dict[str, Any] = {"format": FORMAT, "epoch": int(epoch), "extra": _plain(extra or {}, "extra")}
    if optimizer is not None:
        found, index["optimizer"] = _optimizer_tensors(optimizer)
        tensors.update(found)
    if scheduler is not None:
        index["scheduler"] = _plain(scheduler.state_dict(), "scheduler")
    if pruner is not None:
        index["pruner"] = pruner.name
        tensors.update({f"pruner/{k}": v for k, v in pruner.state_dict().items()})
    found, index["random"] = _random_states(generators or {})
    tensors.update(found)

    number = 0
    while (folder / f"weights-{epoch:04d}-{number}.safetensors").exists():
        number += 1
    index["weights"] = f"weights-{epoch:04d}-{number}.safetensors"
    index["training"] = f"training-{epoch:04d}-{number}.safetensors"
    try:
        _write_tensors(folder / index["weights"], model.state_dict())
        _write_tensors(folder / index["training"], tensors)
        write_text(folder / _INDEX, json.dumps(index))
    except BadInput:
        # What no index names would stay for good.
        for name in (index["weights"], index["training"]):
            (folder / name).unlink(missing_ok=True)
        raise
    for pattern in ("weights-*.safetensors", "training-*.safetensors"):
        for path in folder.glob(pattern):
            if path.name not in (index["weights"], index["training"]):
                path.unlink()
    return folder / _INDEX


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Clones: safetensors refuses tensors that share memory.
    write_bytes(path, save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    path = folder / _INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected a checkpoint directory") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}), expected a checkpoint") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise InputError(f"{path}: found format {found}, expected {FORMAT}")
    parts = []
    for key in ("weights", "training"):
        name = index.get(key)
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{path}: found {key} {name!r}, expected the name of a file beside it")
        try:
            parts.append(load_file(folder / name))
        except (FileNotFoundError, SafetensorError) as error:
            raise InputError(
                f"{folder / name}: cannot be read ({error}), expected a safetensors file"
            ) from None
    return index, parts[0], parts[1]


def _check_architecture(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    own = model.state_dict()
    for name, value in own.items():
        if name not in weights:
            raise InputError(f"{where}: {name} is missing, expected a checkpoint of this architecture")
        if weights[name].shape != value.shape:
            shape = tuple(weights[name].shape)
            raise InputError(f"{where}: {name} has shape {shape}, the network expects {tuple(value.shape)}")
    for name in weights:
        if name not in own:
            raise InputError(
                f"{where}: holds {name}, which the network has not; expected the same architecture"
            )


def load_checkpoint(
    directory: str | os.PathLike[str],
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: Any = None,
    pruner: Pruner | None = None,
    generators: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Restore a run so that it goes on bit for bit; the pruner has to be attached. Nothing is executed.

    Without `optimizer` only what is passed is restored, and random states are left alone (for evaluation).
    Raises InputError, before anything is changed, for a missing or damaged checkpoint, another architecture,
    optimizer or pruner.
    """
    folder = Path(directory)
    index, weights, tensors = _read(folder)
    where = str(folder)
    _check_architecture(model, weights, where)
    optimizer_state = _optimizer_state(optimizer, index, tensors, where) if optimizer is not None else None
    if scheduler is not None and "scheduler" not in index:
        raise InputError(f"{where}: holds no scheduler, expected the checkpoint of a training run")
    if optimizer is not None:
        _check_generators(generators or {}, index["random"], tensors, where)
    if pruner is not None:
        if index.get("pruner") != pruner.name:
            raise InputError(f"{where}: found pruner {index.get('pruner')}, expected {pruner.name}")
        prefix = "pruner/"
        pruner.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    model.load_state_dict({k: v.clone() for k, v in weights.items()})
    if optimizer is not None and optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
        if scheduler is not None:
            scheduler.load_state_dict(index["scheduler"])
        _restore_random(index["random"], tensors, generators or {})
    return Checkpoint(epoch=int(index["epoch"]), extra=index["extra"])


def _optimizer_state(
    optimizer: Optimizer, index: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> dict[str, Any]:
    saved = index.get("optimizer")
    if not isinstance(saved, dict):
        raise InputError(f"{where}: holds no optimizer, expected the checkpoint of a training run")
    if saved["type"] != type(optimizer).__name__:
        raise InputError(f"{where}: found optimizer {saved['type']}, expected {type(optimizer).__name__}")
    current = optimizer.state_dict()["param_groups"]
    sizes = [len(g["params"]) for g in saved["groups"]]
    expected = [len(g["params"]) for g in current]
    if sizes != expected:
        raise InputError(f"{where}: found optimizer groups of {sizes} parameters, expected {expected}")
    groups = []
    for group, own in zip(saved["groups"], current, strict=True):
        groups.append({k: tuple(v) if isinstance(own.get(k), tuple) else v for k, v in group.items()})
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in saved["scalars"].items()}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/", 2)
            state.setdefault(int(number), {})[key] = value
    return {"state": state, "param_groups": groups}


def _check_generators(
    generators: Mapping[str, Any], plain: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> None:
    for name, generator in generators.items():
        saved = (
            f"random/generator/{name}" in tensors
            if isinstance(generator, torch.Generator)
            else name in plain["generators"]
        )
        if not saved:
            raise InputError(f"{where}: holds no random generator {name}, expected the same generators")


def _restore_random(
    plain: Mapping[str, Any], tensors: Mapping[str, Tensor], generators: Mapping[str, Any]
) -> None:
    torch.set_rng_state(tensors["random/torch"])
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            if f"random/cuda/{device}" in tensors:
                torch.cuda.set_rng_state(tensors[f"random/cuda/{device}"], device)
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    state = dict(plain["numpy"])
    state["state"] = {"key": np.array(state["state"]["key"], dtype=np.uint32), "pos": state["state"]["pos"]}
    np.random.set_state(state)  # noqa: NPY002
    for name, generator in generators.items():
        if isinstance(generator, torch.Generator):
            generator.set_state(tensors[f"random/generator/{name}"])
        else:
            generator.bit_generator.state = plain["generators"][name]
