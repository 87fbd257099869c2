"""Networks: synapse and neuron modules in sequence. To add one: a function here and its name in `networks.MODELS`.

Each comes with any of the spiking neurons, or with rectifiers in their place: its artificial twin.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks import MODELS, NEURONS, RELU
from dpap_neuro.networks.matrices import Linear
from dpap_neuro.networks.neurons import LI, CubaLI, Neuron, NeuronSettings, Recurrent
from dpap_neuro.networks.normed import can_join
from dpap_neuro.networks.own import check_runs, is_own, own_layers


@dataclass(frozen=True)
class ModelSettings:
    """All that is needed to build a network again.

    input_shape: (polarities, rows, columns). cell: a name of `networks.NEURONS`, or "relu". readout: "spikes" (the class
    whose neuron fires most) or "membrane" (the class whose leaky integrator is highest on average); of the artificial
    twin "mean" (the class whose value is highest on average). name: of `networks.MODELS`, or FILE.py:function of a network of
    one's own (see `own`); source: the SHA-256 of that file, None for any.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    neuron: NeuronSettings
    readout: str = "spikes"
    cell: str = "lif"
    source: str | None = None

    @property
    def spiking(self) -> bool:
        """Whether the network has spiking neurons, so that it can become a `.nir` file."""
        return self.cell != RELU

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ModelSettings:
        neuron = dict(values["neuron"])
        if "surrogate" not in neuron:
            # Of a run that is older: whatever slope it names, it learned with Norse's.
            neuron["surrogate_slope"] = NeuronSettings.surrogate_slope
        settings = cls(**{**values, "neuron": NeuronSettings(**neuron)})
        return replace(settings, input_shape=tuple(settings.input_shape))  # type: ignore[arg-type]


class Network(nn.Module):
    """What can be trained: (T, B, *input shape) to (T, B, classes), as its settings say."""

    settings: ModelSettings
    # The largest count of an input spike; None for any.
    max_count: int | None = None

    def stored(self) -> dict[str, Tensor] | None:
        """Of every weight, by its name in the state dict, whether a chip stores it; None where all floats count as stored."""
        return None

    def as_stored(self) -> AbstractContextManager:
        """For a while the network as a pruner is to rank it."""
        return nullcontext()

    def recheck(self) -> tuple[str, ...]:
        """Between epochs: choose anew what is fixed within one; names of the populations that changed."""
        return ()


class SpikingNetwork(nn.Sequential, Network):
    """Synapse modules see all time steps at once, as a batch of T * B; neuron modules scan over time.

    forward: x (T, B, ...) event counts; returns (T, B, classes): spikes, membranes or values of the read-out.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        norm = None
        layers: list[nn.Module] = [*self]
        for layer, after in zip_longest(layers, layers[1:]):
            if norm is not None:
                x, norm = layer(x, norm), None
            elif can_join(layer, x) and _takes_norms(after):
                norm = layer  # the neurons see to it
            else:
                x = over_time(layer, x)
        return x


def _takes_norms(layer: nn.Module | None) -> bool:
    """Whether a population can do what a batch norm in front of it would, without anybody seeing a difference."""
    return (
        isinstance(layer, Neuron) and type(layer).forward is Neuron.forward and not layer._forward_pre_hooks
    )


def over_time(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer on recordings (T, B, ...): neurons scan over time, all else sees all time steps at once, as a batch of T * B."""
    return layer(x) if isinstance(layer, Neuron) else layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def logits(output: Tensor) -> Tensor:
    """(T, B, classes) to (B, classes): spike counts, or the sum of membranes or values, over time."""
    return output.sum(0)


def neurons_of(settings: ModelSettings) -> nn.Module:
    """A hidden population, or its rectifiers."""
    return NEURONS[settings.cell](settings.neuron) if settings.spiking else nn.ReLU()


def readout_of(settings: ModelSettings) -> list[nn.Module]:
    """What follows the last matrix."""
    if settings.readout == "mean":
        return []
    if settings.readout == "spikes":
        return [neurons_of(settings)]
    return [CubaLI(settings.neuron) if settings.cell == "cubalif" else LI(settings.neuron)]


def cnn(settings: ModelSettings) -> list[nn.Module]:
    """12C5s2-24C3s2-128FC with batch norm."""
    channels, rows, columns = settings.input_shape
    rows, columns = ((((n + 4 - 5) // 2 + 1) + 2 - 3) // 2 + 1 for n in (rows, columns))
    return [
        nn.Conv2d(channels, 12, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(12),
        neurons_of(settings),
        nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        neurons_of(settings),
        nn.Flatten(),
        Linear(24 * rows * columns, 128, bias=False),
        nn.BatchNorm1d(128),
        neurons_of(settings),
        Linear(128, settings.classes),
        *readout_of(settings),
    ]


def cnn_wide(settings: ModelSettings) -> list[nn.Module]:
    """24C5s2-48C3s2-256FC, batch norm behind the convolutions alone: small kernels before one large matrix."""
    channels, rows, columns = settings.input_shape
    rows, columns = (((n - 5) // 2 + 1 - 3) // 2 + 1 for n in (rows, columns))
    return [
        nn.Conv2d(channels, 24, 5, stride=2, bias=False),
        nn.BatchNorm2d(24),
        neurons_of(settings),
        nn.Conv2d(24, 48, 3, stride=2, bias=False),
        nn.BatchNorm2d(48),
        neurons_of(settings),
        nn.Flatten(),
        Linear(48 * rows * columns, 256),
        neurons_of(settings),
        Linear(256, settings.classes),
        *readout_of(settings),
    ]


def mlp(settings: ModelSettings) -> list[nn.Module]:
    """256FC with batch norm."""
    channels, rows, columns = settings.input_shape
    return [
        nn.Flatten(),
        Linear(channels * rows * columns, 256, bias=False),
        nn.BatchNorm1d(256),
        neurons_of(settings),
        Linear(256, settings.classes),
        *readout_of(settings),
    ]


def recurrent(settings: ModelSettings) -> list[nn.Module]:
    """128FC whose neurons hear each other one step later; batch norm in front of them. With cubalif it is Norse's LIFRecurrent
    without its delay."""
    channels, rows, columns = settings.input_shape
    neurons = neurons_of(settings)
    if not isinstance(neurons, Neuron):
        raise InputError(
            f"model recurrent: found neuron {settings.cell}, expected one of {', '.join(NEURONS)}"
        )
    return [
        nn.Flatten(),
        Linear(channels * rows * columns, 128, bias=False),
        nn.BatchNorm1d(128),
        Recurrent(neurons, 128),
        Linear(128, settings.classes),
        *readout_of(settings),
    ]


class Own(Network):
    """A module over recordings, (T, B, *input shape) to (T, B, classes)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def build_model(settings: ModelSettings, seed: int = 0) -> SpikingNetwork | Own:
    """A network with random weights from `seed`. Raises InputError for an unknown name, cell or read-out, and for what is wrong
    in the user's own file, which is executed."""
    layers = None if is_own(settings.name) else MODELS[settings.name]
    if settings.spiking and settings.cell not in NEURONS:
        raise InputError(f"neuron: found {settings.cell!r}, expected one of {', '.join((*NEURONS, RELU))}")
    readouts = ("spikes", "membrane") if settings.spiking else ("mean",)
    if settings.readout not in readouts:
        raise InputError(
            f"readout: found {settings.readout!r}, expected {' or '.join(readouts)} of neuron {settings.cell}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = own_layers(settings.name, settings) if layers is None else layers(settings)
        model = Own(made) if isinstance(made, nn.Module) else SpikingNetwork(*made)
        if layers is None:
            check_runs(settings.name, model, settings)
    model.settings = settings
    return model
