"""Populations of Norse cells over whole recordings: (T, B, ...) in, (T, B, ...) out.

To add a neuron: a subclass of `Neuron` whose `step` is one time step, and its NIR node in `nir_export.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from norse.torch import LIBoxCell, LIBoxParameters, LIFBoxCell, LIFBoxParameters
from torch import Tensor, nn

from dpap_neuro.errors import InputError


@dataclass(frozen=True)
class NeuronSettings:
    """dt: seconds per time step. tau_mem: membrane time constant in seconds, longer than dt. v_th: threshold.
    surrogate_slope: alpha of the surrogate gradient 1 / (alpha |v - v_th| + 1)^2 (SuperSpike)."""

    dt: float
    tau_mem: float
    v_th: float = 0.5
    surrogate_slope: float = 10.0

    def __post_init__(self) -> None:
        for name in ("dt", "tau_mem", "v_th", "surrogate_slope"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InputError(f"{name}: found {value}, expected a finite number above 0")
        if self.tau_mem < self.dt:
            raise InputError(
                f"tau_mem: found {self.tau_mem} s, expected at least the time step of {self.dt} s"
            )


class Neuron(nn.Module):
    """A population: runs its Norse cell over the first axis of its input, time, from rest."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """x: input currents (T, B, ...). Returns spikes, or membranes of a leaky integrator, of the same shape."""
        state = None
        out = []
        for current in x:
            z, state = self.cell(current, state)
            out.append(z)
        return torch.stack(out)


class LIF(Neuron):
    """v <- v + dt / tau (i - v); a spike where v > v_th, then v <- 0. Norse's LIFBoxCell."""

    def __init__(self, settings: NeuronSettings) -> None:
        p = LIFBoxParameters(
            tau_mem_inv=torch.tensor(1.0 / settings.tau_mem),
            v_leak=torch.tensor(0.0),
            v_th=torch.tensor(settings.v_th),
            v_reset=torch.tensor(0.0),
            alpha=torch.tensor(settings.surrogate_slope),
        )
        super().__init__(LIFBoxCell(p=p, dt=settings.dt))
        self.settings = settings


class LI(Neuron):
    """v <- v + dt / tau (i - v), never a spike: a read-out by membrane. Norse's LIBoxCell."""

    def __init__(self, settings: NeuronSettings) -> None:
        p = LIBoxParameters(tau_mem_inv=torch.tensor(1.0 / settings.tau_mem), v_leak=torch.tensor(0.0))
        super().__init__(LIBoxCell(p=p, dt=settings.dt))
        self.settings = settings
