"""What made a run, so that it can be made again: of run.json all that is not the network, `config.toml`, `history.csv`, and a picture."""

from __future__ import annotations

import csv
import io
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dpap_neuro.deploy.request import TrainRequest
from dpap_neuro.errors import InputError
from dpap_neuro.files import write_picture, write_text
from dpap_neuro.train import distributed
from dpap_neuro.train.loop import Epoch

CONFIG, HISTORY, PICTURE = "config.toml", "history.csv", "training.png"
_PACKAGES = ("dpap-neuro", "torch", "norse", "nir", "numpy", "tonic", "h5py")
# Those that name a file or a folder where one is there.
_PATHS = ("dataset", "data_dir", "model", "chip", "precision")


def machine(device: torch.device) -> dict[str, Any]:
    """Where a run is made: the same seed gives other numbers on another device, or with another number of threads or processes."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        **({} if gpu is None else {"gpu": gpu}),
        "threads": torch.get_num_threads(),
        "processes": distributed.world(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }


def repeatable(seed: int, device: torch.device) -> str:
    """What the same numbers take, as a line."""
    threads = torch.get_num_threads()
    on = f"{device}" if device.type != "cpu" else f"the CPU with {threads} thread{'s' * (threads != 1)}"
    return f"seed {seed} on {on}; another device or number of threads gives other numbers"


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python and of the packages whose numbers are in a run."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from its source, or an extra that is not installed
            continue
    return found


def said(asked: TrainRequest) -> dict[str, Any]:
    """A request as JSON has it."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(asked).items()}


def write_config(asked: TrainRequest, path: Path, command: str = "") -> None:
    """The request as `train --config` reads it, see `request.read_config`; what nobody said is left out. Paths become absolute,
    so that the file can be read from another folder."""
    lines = [f"# {command}" if command.isprintable() else "#"] if command else []
    for name, value in said(asked).items():
        if value is None:
            continue
        if name in _PATHS and os.path.exists(str(value).partition(".py:")[0]):
            value = os.path.abspath(value)
        elif name == "model" and ".py:" in value:
            file, _, function = value.rpartition(":")
            value = f"{os.path.abspath(file)}:{function}"
        lines.append(f"{name} = {_toml(value)}")
    write_text(path, "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    escaped = "".join(
        "\\" + c if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in str(value)
    )
    return f'"{escaped}"'


def write_history(epochs: Sequence[Epoch], path: Path) -> None:
    """A row per epoch: the fields of `Epoch`, of a budget the numbers behind `budget_`, and of every layer its rate behind `rate_` and
    the parameters left behind `left_`."""
    names = [f.name for f in fields(Epoch) if f.name not in ("fill", "rates", "layers")]
    rows = []
    for epoch in epochs:
        row = {name: getattr(epoch, name) for name in names}
        row |= {f"budget_{k}": v for k, v in (epoch.fill or {}).items() if isinstance(v, int | float | str)}
        row |= {f"rate_{name}": rate for name, rate in (epoch.rates or {}).items()}
        row |= {f"left_{name}": counts[0] for name, counts in (epoch.layers or {}).items()}
        rows.append(row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)) or names)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw_history(epochs: Sequence[Epoch], path: Path, title: str = "") -> None:
    """Loss, test accuracy, what is left of parameters and synapses, and every layer's rate, by epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rates = [epoch.rates or {} for epoch in epochs]
    layers = list(dict.fromkeys(name for found in rates for name in found))
    rows = 4 if layers else 3
    figure = Figure(figsize=(6.4, 2 + 1.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True)
    loss, accuracy, left = axes[:3]
    number = [epoch.epoch + 1 for epoch in epochs]
    loss.plot(number, [epoch.loss for epoch in epochs], ".-", color="tab:blue")
    loss.set(ylabel="training loss")
    shown = [(n, 100 * e.accuracy) for n, e in zip(number, epochs, strict=True) if e.accuracy is not None]
    accuracy.plot([n for n, _ in shown], [a for _, a in shown], ".-", color="tab:green")
    accuracy.set(ylabel="test accuracy, %")
    for key, of, style in (
        ("remaining", "parameters", ".-"),
        ("synapses_remaining", "synapses", ".--"),
    ):
        share = [100 * getattr(epoch, key) / max(1, getattr(epoch, of)) for epoch in epochs]
        left.plot(number, share, style, label=of)
    left.set(ylabel="left, %", ylim=(0, 103))
    left.legend(frameon=False)
    for layer in layers:
        axes[3].plot(number, [found.get(layer, math.nan) for found in rates], ".-", label=layer)
    if layers:
        axes[3].set(ylabel="spikes per\nneuron and step", ylim=(0, None))
        for text in axes[3].legend(frameon=False, ncols=4, fontsize="small").get_texts():
            text.set_parse_math(False)
    axes[-1].set(xlabel="epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        axis.grid(alpha=0.3)
    loss.set_title(title, fontsize="medium").set_parse_math(False)
    write_picture(figure, path)


class Tensorboard:
    """Scalars of a training where TensorBoard reads them: folder/tensorboard. Closed at the end. Raises InputError without it."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "--log tensorboard: tensorboard is not installed; to get it: pip install 'dpap-neuro[tensorboard]'"
            ) from None
        self._folder, self._make = folder / "tensorboard", SummaryWriter
        self._writer: Any = None

    def __call__(self, epoch: Epoch) -> None:
        if self._writer is None:  # not before there is something to write
            self._writer = self._make(str(self._folder), purge_step=epoch.epoch + 1)
        for name, value in scalars(epoch).items():
            self._writer.add_scalar(name, value, epoch.epoch + 1)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def scalars(epoch: Epoch) -> dict[str, float]:
    """What an epoch shows, by name."""
    found: Mapping[str, float | None] = {
        "loss": epoch.loss,
        "test accuracy": epoch.accuracy,
        "parameters left": epoch.remaining / max(1, epoch.parameters),
        "synapses left": epoch.synapses_remaining / max(1, epoch.synapses),
        "seconds per epoch": epoch.seconds,
        **{f"spikes per neuron and step/{name}": rate for name, rate in (epoch.rates or {}).items()},
    }
    return {name: value for name, value in found.items() if value is not None}
