"""The integer network a Loihi-style chip runs: populations, and the projections between them.

Frozen dataclasses with validation and no behaviour. The arithmetic they stand for is that of lava-nc 0.10's
bit-accurate LIF (``lava/proc/lif/models.py``), all integers, u and v in 24 bit::

    u <- wrap24(sgn(u) * ((|u| * (4096 - (du + 1))) >> 12) + (a << 6))
    v <- clip(sgn(v) * ((|v| * (4096 - dv)) >> 12) + u + bias_mant * 2**bias_exp, +-(2**23 - 1))
    spike where v > vth * 64;  v <- 0 there

``a`` is the summed synaptic input of the step: over all projections, (weight << weight_exp) times spike count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

SignMode = Literal["mixed", "excitatory", "inhibitory"]


@dataclass(frozen=True)
class Population:
    """Compartments that share a kind.

    shape: as in the NIR graph, e.g. (channels, height, width); neurons are numbered in C order.
    du, dv: decays of current and membrane, 0..4095 (dv up to 4096), scalar or one per neuron.
    vth: threshold mantissa, 0..2**17 - 1, scalar or one per neuron; spikes where v > vth * 64.
    bias_mant: 13 bit signed, scalar or one per neuron; bias_exp: 0..7.
    spiking: False for a leaky-integrator read-out, which integrates but never fires.
    """

    name: str
    shape: tuple[int, ...]
    du: int | np.ndarray = 4095
    dv: int | np.ndarray = 0
    vth: int | np.ndarray = 1
    bias_mant: int | np.ndarray = 0
    bias_exp: int = 0
    spiking: bool = True


@dataclass(frozen=True)
class InputPopulation:
    """Where spikes enter: non-negative integer counts per neuron and step."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DenseProjection:
    """weight: (post, pre) int, the mantissas. delay: extra steps, one for all or (post, pre)."""

    source: str
    target: str
    weight: np.ndarray
    weight_exp: int = 0
    sign_mode: SignMode = "mixed"
    weight_bits: int = 8
    delay: int | np.ndarray = 0


@dataclass(frozen=True)
class SparseProjection:
    """Compressed by pre-synaptic neuron, as axons are: neuron j's synapses are indptr[j]:indptr[j + 1].

    indptr: (pre + 1,) int64; post: (synapses,) int32 target neuron; weight: (synapses,) int mantissas.
    """

    source: str
    target: str
    indptr: np.ndarray
    post: np.ndarray
    weight: np.ndarray
    weight_exp: int = 0
    sign_mode: SignMode = "mixed"
    weight_bits: int = 8
    delay: int = 0


@dataclass(frozen=True)
class ConvProjection:
    """A cross-correlation, as PyTorch's ``conv2d``, on (channel, height, width).

    weight: (out, in / groups, kH, kW) int mantissas, shared by all positions.
    """

    source: str
    target: str
    weight: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_exp: int = 0
    sign_mode: SignMode = "mixed"
    weight_bits: int = 8
    delay: int = 0


Projection = DenseProjection | SparseProjection | ConvProjection


@dataclass(frozen=True)
class Network:
    """Populations and projections, input first. dt: seconds per step, None where the source did not say.

    metadata: what the `.nir` file said of the run (bins, read-out, class names ...), see `hardware.graph`.
    """

    inputs: tuple[InputPopulation, ...]
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    outputs: tuple[str, ...]
    dt: float | None = None
    metadata: dict = field(default_factory=dict)
