"""Networks: synapse and neuron modules in sequence. To add one: a function here and its name in `MODELS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.neurons import LI, LIF, Neuron, NeuronSettings


@dataclass(frozen=True)
class ModelSettings:
    """All that is needed to build a network again.

    input_shape: (polarities, rows, columns). readout: "spikes" (the class whose neuron fires most) or "membrane"
    (the class whose leaky integrator is highest on average).
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    neuron: NeuronSettings
    readout: str = "spikes"

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ModelSettings:
        settings = cls(**{**values, "neuron": NeuronSettings(**values["neuron"])})
        return replace(settings, input_shape=tuple(settings.input_shape))  # type: ignore[arg-type]


class Network(nn.Module):
    """What can be trained: (T, B, *input shape) to (T, B, classes), as its settings say."""

    settings: ModelSettings


class SpikingNetwork(nn.Sequential, Network):
    """Synapse modules see all time steps at once, as a batch of T * B; neuron modules scan over time.

    forward: x (T, B, ...) event counts; returns (T, B, classes): spikes, or membranes of the read-out.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x) if isinstance(layer, Neuron) else layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return x


def logits(output: Tensor) -> Tensor:
    """(T, B, classes) to (B, classes): spike counts, or the sum of the membranes, over time."""
    return output.sum(0)


def _readout(settings: ModelSettings) -> Neuron:
    return LIF(settings.neuron) if settings.readout == "spikes" else LI(settings.neuron)


def _cnn(settings: ModelSettings) -> list[nn.Module]:
    channels, rows, columns = settings.input_shape
    rows, columns = ((((n + 4 - 5) // 2 + 1) + 2 - 3) // 2 + 1 for n in (rows, columns))
    return [
        nn.Conv2d(channels, 12, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(12),
        LIF(settings.neuron),
        nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        LIF(settings.neuron),
        nn.Flatten(),
        nn.Linear(24 * rows * columns, 128, bias=False),
        nn.BatchNorm1d(128),
        LIF(settings.neuron),
        nn.Linear(128, settings.classes),
        _readout(settings),
    ]


def _cnn_wide(settings: ModelSettings) -> list[nn.Module]:
    """24C5s2-48C3s2-256FC, batch norm behind the convolutions alone: small kernels before one large matrix."""
    channels, rows, columns = settings.input_shape
    rows, columns = (((n - 5) // 2 + 1 - 3) // 2 + 1 for n in (rows, columns))
    return [
        nn.Conv2d(channels, 24, 5, stride=2, bias=False),
        nn.BatchNorm2d(24),
        LIF(settings.neuron),
        nn.Conv2d(24, 48, 3, stride=2, bias=False),
        nn.BatchNorm2d(48),
        LIF(settings.neuron),
        nn.Flatten(),
        nn.Linear(48 * rows * columns, 256),
        LIF(settings.neuron),
        nn.Linear(256, settings.classes),
        _readout(settings),
    ]


def _mlp(settings: ModelSettings) -> list[nn.Module]:
    channels, rows, columns = settings.input_shape
    return [
        nn.Flatten(),
        nn.Linear(channels * rows * columns, 256, bias=False),
        nn.BatchNorm1d(256),
        LIF(settings.neuron),
        nn.Linear(256, settings.classes),
        _readout(settings),
    ]


MODELS: dict[str, Callable[[ModelSettings], list[nn.Module]]] = {
    "cnn": _cnn,
    "cnn-wide": _cnn_wide,
    "mlp": _mlp,
}


def build_model(settings: ModelSettings, seed: int = 0) -> SpikingNetwork:
    """A network with random weights from `seed`. Raises InputError for an unknown name or read-out."""
    if settings.name not in MODELS:
        raise InputError(f"model: found {settings.name!r}, expected one of {', '.join(MODELS)}")
    if settings.readout not in ("spikes", "membrane"):
        raise InputError(f"readout: found {settings.readout!r}, expected spikes or membrane")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SpikingNetwork(*MODELS[settings.name](settings))
    model.settings = settings
    return model
