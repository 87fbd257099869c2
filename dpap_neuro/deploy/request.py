"""What a user can say of a training run. Imports nothing that learns, so that the command line can show it."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dpap_neuro.data import parse_sensor
from dpap_neuro.errors import InputError
from dpap_neuro.files import read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Of a network that is made anew; one of a `.nir` file has its own.
NEURON, DECAY, THRESHOLD, SURROGATE, RESET = "lif", 0.5, 0.5, "superspike", "zero"
# Of a run that says of neither, or of no goal.
PRUNER, SPARSITY = "weighted", 0.8
# The only one that prunes time bins; and what frees neurons for a budget of cores.
OF_UNITS = "dpap"


@dataclass(frozen=True)
class NeuronRequest:
    """What a user says of a new network's neurons; None is nothing said. The names are those of the options of `dpap-neuro train`."""

    neuron: str | None = None
    decay: float | None = None
    current_decay: float | None = None
    threshold: float | None = None
    surrogate: str | None = None
    surrogate_slope: float | None = None
    reset: str | None = None

    def neuron_settings(self) -> tuple[float, float, float | None, float | None, str, str]:
        """decay, v_th, slope, current_decay, reset and surrogate, as `train.runs.neuron_settings` takes them."""
        return (
            DECAY if self.decay is None else self.decay,
            THRESHOLD if self.threshold is None else self.threshold,
            self.surrogate_slope,
            self.current_decay,
            self.reset or RESET,
            self.surrogate or SURROGATE,
        )


@dataclass(frozen=True)
class TrainRequest(NeuronRequest):
    """What a user says of a run; None is nothing said. The names are those of the options of `dpap-neuro train`."""

    recipe: str | None = None
    dataset: str = "digits"
    data_dir: Path | None = None
    sensor: str | None = None
    model: str | None = None
    pruner: str | None = None
    score: str | None = None
    allocation: str | None = None
    regrow: str | None = None
    sparsity: float | None = None
    count: str | None = None
    structured: bool = False
    compact: bool = False
    keep_bins: int | None = None
    prune_positions: str | None = None
    chip: str | None = None
    max_cores: int | None = None
    max_synapses: int | None = None
    max_synapses_per_core: int | None = None
    max_step_us: float | None = None
    max_energy_uj: float | None = None
    max_events: float | None = None
    epochs: int = 24
    more_epochs: int = 0
    batch: int = 64
    learning_rate: float | None = None
    loss: str = "cross-entropy"
    label_smoothing: float = 0.1
    weight_decay: float = 0.01
    warmup: float = 1.0
    amp: str | None = None
    accumulate: int = 1
    rate_target: float = 0.0
    rate_weight: float = 0.0
    bins: int | None = None
    bin_us: float | None = None
    clock: str | None = None
    code: str | None = None
    clip: int | None = None
    downsample: int | None = None
    shift: int | None = None
    flip: bool | None = None
    drop: float | None = None
    jitter: float | None = None
    readout: str | None = None
    dt: float | None = None
    seed: int = 0
    precision: str | None = None
    weight_bits: int | None = None
    timing: str = "zero_delay"
    scales: str = "fixed"
    netx: bool = False

    @property
    def sensor_size(self) -> tuple[int, int] | None:
        """(columns, rows) of a folder of recordings that does not say. Raises InputError for another text."""
        return None if self.sensor is None else parse_sensor(self.sensor)


Request = TypeVar("Request", bound=NeuronRequest)


def with_network_of(asked: Request, model: str | None, defaults: Mapping[str, Any]) -> Request:
    """The request with a data set's own network options in it, where neither a model nor a kind of neuron is asked for; what is
    said goes before them."""
    if model is not None or asked.neuron is not None:
        return asked
    known = {f.name for f in fields(asked)}
    if asked.surrogate is not None:  # a slope is one surrogate's
        known.remove("surrogate_slope")
    return replace(asked, **{k: v for k, v in defaults.items() if k in known and getattr(asked, k) is None})


_MOST_CONFIG = 1 << 20


def read_config(path: str | Path, also: Iterable[str] = ()) -> dict[str, Any]:
    """Options of `train` from a TOML file, by their names with underscores or dashes; also: names of options that are no part of a
    request, taken as they are. Raises InputError, naming the file and the key, for an unknown one or a value of another type.
    """
    try:
        table = tomllib.loads(read_bytes(path, _MOST_CONFIG).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as TOML ({' '.join(str(error).split())[:120]})") from None
    kinds = typing.get_type_hints(TrainRequest)
    known = {field.name: kinds[field.name] for field in fields(TrainRequest)} | dict.fromkeys(also, Any)
    found = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise InputError(
                f"{path}: unknown key {key[:40]!r}, expected options of train such as {', '.join(list(known)[:4])}"
            )
        wanted = [kind for kind in (typing.get_args(known[name]) or (known[name],)) if kind is not type(None)]
        taken = {Path: (str,), float: (int, float)}.get(wanted[0], (wanted[0],))
        if wanted[0] is not Any and type(value) not in taken:
            what = " or ".join(
                {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[t]
                for t in taken[-1:]
            )
            raise InputError(f"{path}: {key} is {str(value)[:60]!r}, expected {what}")
        if isinstance(value, dict | list):
            raise InputError(f"{path}: {key} is a {type(value).__name__}, expected one value")
        found[name] = value
    return found
