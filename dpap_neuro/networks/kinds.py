"""What a module is, told by its type: a class of one's own that derives from a neuron is one as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import norse.torch as norse
from norse.torch.module.encode import PoissonEncoderStep, SignedPoissonEncoderStep
from norse.torch.module.exp_filter import ExpFilter
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import nn

from dpap_neuro.networks.neurons import Neuron

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Hardswish)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

# All modules of Norse, and those of them that are neither neurons nor what stands for such.
NORSE: tuple[type[nn.Module], ...] = (
    *(kind for kind in vars(norse).values() if isinstance(kind, type) and issubclass(kind, nn.Module)),
    *(SNN, SNNCell, SNNRecurrent, SNNRecurrentCell, ExpFilter, PoissonEncoderStep, SignedPoissonEncoderStep),
)
_CONTAINERS = (norse.SequentialState, norse.RecurrentSequential, norse.Lift, norse.RegularizationCell)

Entry = TypeVar("Entry")


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a population: `neurons.Neuron`, a Norse neuron, a rectifier, or one that says `is_neuron`."""
    if isinstance(module, (*RECTIFIERS, Neuron)):
        return True
    if isinstance(module, NORSE):
        return not isinstance(module, _CONTAINERS)
    return bool(getattr(module, "is_neuron", False))


def nearest(kinds: Mapping[type, Any] | tuple[type, ...], thing: object) -> type | None:
    """The class of `kinds` that a thing is, or derives from most closely; None where it does from none."""
    return next((kind for kind in type(thing).__mro__ if kind in kinds), None)


def overrides(module: nn.Module, kind: type, *methods: str) -> bool:
    """Whether the class of a module that derives from `kind` has any of these methods of its own."""
    return any(getattr(type(module), name, None) is not getattr(kind, name, None) for name in methods)
