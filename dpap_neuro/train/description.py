"""Everything that shapes a training run, as plain values: a run that differs in one of them is another run.

Left out is what may differ from one start to the next: the device, the number of processes and of workers, the folders, and the
epochs added to a run (`TrainSettings.more_epochs`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from torch import nn

from dpap_neuro.data.stored import Rasters
from dpap_neuro.networks.models import Network
from dpap_neuro.precision.network import ExactNetwork
from dpap_neuro.pruning import Pruner
from dpap_neuro.train.settings import TrainSettings

# Those whose numbers are in the weights.
_PACKAGES = ("dpap-neuro", "torch", "norse", "numpy")
# Bytes at a time.
_PART = 1 << 26
TRAINED, TESTED = "recordings (SHA-256)", "test recordings (SHA-256)"

Data = tuple[Rasters, np.ndarray]


def describe_run(
    model: Network,
    pruner: Pruner,
    train_data: Data,
    test_data: Data | None,
    settings: TrainSettings,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Of a run before its first step, the pruner not attached yet; values as JSON gives them back. origin: where the data are from,
    and their digests where these are known."""
    values: dict[str, Any] = {key: value for key, value in asdict(settings).items() if key != "more_epochs"}
    values |= _flat(origin)
    values |= _flat({"network": model.settings.to_dict(), "pruner": pruner.description()})
    if isinstance(model, ExactNetwork):
        values |= _flat({"precision": model.precision.to_dict()})
    values |= {"version of " + name: _version(name) for name in _PACKAGES}
    values["shape of the recordings"] = list(train_data[0].shape)
    for what, data in ((TRAINED, train_data), (TESTED, test_data)):
        if what not in values:  # else of `origin`, which has it already
            values[what] = None if data is None else digest(data)
    values["first weights (SHA-256)"] = _of_weights(model)
    return dict(json.loads(json.dumps(values)))


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first value that differs, as a line's end; None where the two describe the same run."""
    for what in (*now, *before):
        if what not in before or what not in now or before[what] != now[what]:
            found, expected = (values.get(what, "nothing") for values in (before, now))
            return f"found a run with {what} {_short(found)}, expected {_short(expected)}"
    return None


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined, so that a difference names one number."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key} ")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from its source
        return "unknown"


def digest(data: Data) -> str:
    """SHA-256 of rasters and labels. A part at a time: rasters may be larger than memory."""
    rasters, labels = data
    digest = hashlib.sha256(f"{rasters.dtype.str} {rasters.shape}".encode())
    at_once = max(1, _PART // max(1, rasters.dtype.itemsize * math.prod(rasters.shape[1:])))
    for begin in range(0, len(rasters), at_once):
        digest.update(np.ascontiguousarray(rasters[begin : begin + at_once]).data)
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).data)
    return digest.hexdigest()


def _of_weights(model: nn.Module) -> str:
    """With what is not learned too, such as the time constants of an imported neuron."""
    digest = hashlib.sha256()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
