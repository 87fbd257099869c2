"""Populations in a chip's integers: the same call as those of `dpap_neuro.networks.neurons`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from dpap_neuro.networks.neurons import Neuron, NeuronSettings
from dpap_neuro.networks.surrogates import Surrogate
from dpap_neuro.precision.scan import Integers, scan
from dpap_neuro.precision.synapses import Grid, rounded, zeros_held
from hardware.chip.chips import NeuronModel
from hardware.compile import quantise
from hardware.compile.layers import Neurons


class ExactNeuron(Neuron):
    """A population as the chip has it: LIF, current-based LIF, IF, or a read-out of membranes, from zero.

    neurons: what the compiler makes of the float population. scale: integer units of a weight at the exponent 0 per unit of the
    float model; a membrane has 64 for one of these. thresholds: mantissas, (neurons,). learned: whether one leak for the
    population is learned, rounded to the chip's 12 bits; dt / tau_mem = sigmoid(w), as in `ParametricLIF`. drive: constant
    input of the membrane per step where the synapses do not bring it. back, back_grid: (to, from) weights by which the population
    feeds itself, a step later, and how they are rounded. stretch: see `dpap_neuro.precision.synapses.rounded`.
    """

    stretch: Tensor | None

    def __init__(
        self,
        settings: NeuronSettings,
        neurons: Neurons,
        scale: float,
        thresholds: np.ndarray,
        model: NeuronModel,
        learned: bool = False,
        drive: np.ndarray | None = None,
        back: np.ndarray | None = None,
        back_grid: Grid | None = None,
    ) -> None:
        super().__init__(settings)
        self.stretch = None
        self.floats: tuple[np.ndarray, np.ndarray] | None = None
        self.shape, self.model, self.scale = neurons.shape, model, scale
        self.spikes = neurons.threshold is not None
        self.subtract = self.spikes and neurons.reset == "subtract"
        self.forget, self.leak = neurons.forget, neurons.leak
        self.du = quantise.current_decay(neurons.forget, model.current_decay_bits)
        self.dv = quantise.membrane_decay(neurons.leak, model.membrane_decay_bits)
        self.vth = thresholds.astype(np.int32)
        self.w: nn.Parameter | None = None
        if learned:
            share = min(max(float(neurons.leak.mean()), 1e-3), 0.999)
            self.w = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        self.drive = None if drive is None else nn.Parameter(torch.as_tensor(drive, dtype=torch.float32))
        self.back_grid = back_grid
        self.recurrent_weights: nn.Parameter | None = None
        if back is not None:
            self.recurrent_weights = nn.Parameter(torch.as_tensor(back, dtype=torch.float32))
        self.register_buffer("alive", None, persistent=False)

    @property
    def unit(self) -> float:
        """Integer units of the membrane per unit of the float model's, as of now."""
        return self.scale_now * quantise.ACTIVATION_UNIT

    @property
    def scale_now(self) -> float:
        """`scale`, as far as it is learned."""
        return self.scale if self.stretch is None else self.scale * 2.0 ** float(self.stretch.detach())

    def rescale(self, scale: float, thresholds: np.ndarray) -> None:
        """Another scale, with the thresholds that it makes."""
        self.scale, self.vth = scale, thresholds.astype(np.int32)

    def learn_scale(self, thresholds: np.ndarray | None, whole_sums: np.ndarray) -> None:
        """Let log2 of the scale be learned; thresholds (neurons,) of the float model follow it. whole_sums: see
        `hardware.compile.quantise.threshold_mantissa`."""
        self.stretch = nn.Parameter(torch.zeros(()))
        self.floats = None if thresholds is None else (thresholds, whole_sums)

    def thresholds(self) -> np.ndarray:
        """Mantissas, (neurons,) or (1,), as of now."""
        if self.floats is None:
            return self.vth
        exact, whole_sums = self.floats
        return quantise.threshold_mantissa(exact * self.scale_now, whole_sums, self.model.largest_threshold)

    def back(self) -> Tensor | None:
        """The weights by which it feeds itself, whole numbers with the exponent applied."""
        if self.recurrent_weights is None or self.back_grid is None:
            return None
        return rounded(self.recurrent_weights, self.back_grid, self.stretch, self.alive)

    def hold_zeros(self) -> None:
        """Recurrent weights that are zero now stay so."""
        if self.recurrent_weights is not None:
            self.alive = zeros_held(self.recurrent_weights)

    def decays(self) -> np.ndarray:
        """dv, (neurons,) or (1,), as of now."""
        if self.w is None:
            return self.dv
        share = np.array([float(torch.sigmoid(self.w.detach().double()))])
        unit = 2 ** max(12 - self.model.membrane_decay_bits, 0)
        return np.maximum(quantise.membrane_decay(share, self.model.membrane_decay_bits), unit)

    def biases(self, bias: Tensor | None) -> tuple[np.ndarray, int]:
        """Mantissas and exponent of a constant drive (neurons,) or (1,) of the float model."""
        if bias is None:
            return np.zeros(1, np.int16), self.model.network_bias_exponents[0]
        exact = bias.detach().cpu().double().numpy().reshape(-1) * self.unit
        return quantise.bias_mantissa(exact, self.model.network_bias_exponents, self.model.largest_bias)

    def integers(self, bias: Tensor | None, device: torch.device) -> Integers:
        """The population's constants; bias: constant drive of the float model, (neurons,) or (1,)."""
        mantissas, exponent = self.biases(bias)
        columns = [_short(c) for c in (self.du, self.decays(), self.thresholds(), mantissas)]
        width = max(len(c) for c in columns)
        du, dv, vth, mant = (np.broadcast_to(c, width).astype(np.int32) for c in columns)
        tensors = [4095 - du, 4096 - dv, vth << 6, mant << exponent, np.full(width, self.unit, np.float32)]
        keep_u, keep_v, threshold, drive, unit = (
            torch.from_numpy(np.ascontiguousarray(t)).to(device) for t in tensors
        )
        surrogate = Surrogate(self.settings.surrogate, self.settings.surrogate_slope)
        return Integers(keep_u, keep_v, threshold, drive, unit, self.spikes, self.subtract, surrogate)

    def forward(self, x: Tensor, bias: Tensor | None = None, always: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """x: synaptic input (T, B, ...), float32 of whole numbers. bias: (neurons,) or (1,), constant drive of the float model.

        always: synaptic input of all samples, that of an input which is always on; broadcasts to x, whole numbers.
        Returns spikes, or membranes in integer units of a read-out.
        """
        return self.traced(x, bias, always)[0]

    def traced(
        self, x: Tensor, bias: Tensor | None = None, always: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, and the integer membranes before a reset."""
        x = x if always is None else x + always
        if self.drive is not None:
            bias = self.drive if bias is None else bias + self.drive
        leak = None if self.w is None else torch.sigmoid(self.w)
        out, membranes = scan(x, self.integers(bias, x.device), bias, leak, self.back())
        if self.dead is not None:
            # Weights by which dead neurons would be heard are zero already.
            out, membranes = self.without_dead(out), membranes.masked_fill(self.dead, 0)
        return out, membranes


def _short(values: np.ndarray) -> np.ndarray:
    """One value where all are the same."""
    flat = np.asarray(values).reshape(-1)
    return flat[:1] if (flat == flat[0]).all() else flat
