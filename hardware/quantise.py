"""What decides an integer: scale, exponent, rounding, sign. Pure functions of arrays, so that training can use the same.

A population's integers are `scale` times its real values: weight mantissa << exponent = scale * weight,
vth = scale * threshold, and u, v, bias in units of 64 * scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.network import SignMode

Array = np.ndarray
VTH_MAX = (1 << 17) - 1
BIAS_MANT_MAX = (1 << 12) - 1
EXPONENT_MAX = 7


def sign_mode(weight: Array) -> SignMode:
    """Of all weights of a projection: one sign spares the sign bit."""
    if not (weight < 0).any():
        return "excitatory"
    return "mixed" if (weight > 0).any() else "inhibitory"


def grid(mode: SignMode, bits: int = 8) -> tuple[int, int, int]:
    """Smallest and largest mantissa, and the step between them."""
    if not 1 <= bits <= 8:
        raise HardwareError(f"weight_bits: found {bits}, expected 1 to 8")
    step = 1 << (8 - bits + (mode == "mixed"))
    if mode == "mixed":
        return -256, 256 - step, step
    top = 256 - step
    return (0, top, step) if mode == "excitatory" else (-top, 0, step)


def round_weights(weight: Array, scale: Any, exponent: int, mode: SignMode, bits: int = 8) -> Array:
    """Mantissas nearest to weight * scale / 2**exponent on the chip's grid; zero stays zero. scale: may broadcast."""
    low, high, step = grid(mode, bits)
    mantissa = np.rint(np.asarray(weight, dtype=np.float64) * scale / (step * 2.0**exponent)) * step
    return np.clip(mantissa, low, high).astype(np.int32)


def weight_exponent(largest: float, scale: float, mode: SignMode, bits: int = 8) -> int:
    """The smallest exponent, at least 0, at which weights up to `largest` (absolute) fit the mantissa."""
    low, high, _ = grid(mode, bits)
    room = min(high, -low) if mode == "mixed" else max(high, -low)
    if largest == 0:
        return 0
    return max(0, math.ceil(math.log2(largest * scale / room) - 1e-9))


def choose_scale(
    largest_weight: float,
    largest_threshold: float,
    largest_drive: float,
    largest_bias: float,
    mode: SignMode = "mixed",
    bits: int = 8,
) -> float:
    """The scale that puts the largest weight at the end of the grid, times the power of two that thresholds, currents and
    biases allow.

    largest_drive: bound of the membrane and current that the simulation should hold without clipping.
    """
    low, high, _ = grid(mode, bits)
    room = min(high, -low) if mode == "mixed" else max(high, -low)
    limits = [
        VTH_MAX / (largest_threshold or 1e-300),
        # u and v hold 2**23 = 64 * 2**17; a current that wraps would be a disaster, a coarser threshold is not.
        (1 << 17) / (largest_drive or 1e-300),
        BIAS_MANT_MAX * 2.0**EXPONENT_MAX / 64 / (largest_bias or 1e-300),
    ]
    most = min(limits)
    if largest_weight == 0:
        return min(most, 254.0 / (largest_threshold or 1.0))
    base = room / largest_weight
    if base >= most:
        return min(base, VTH_MAX / (largest_threshold or 1e-300), limits[2])
    return base * 2.0 ** min(EXPONENT_MAX - 1, math.floor(math.log2(most / base)))


def round_threshold(threshold: Array, scale: Any, decays: bool) -> Array:
    """vth of thresholds. Without decay membranes lie on the weights' grid and v > threshold is v > floor(threshold)."""
    scaled = np.asarray(threshold, dtype=np.float64) * scale
    return (np.rint(scaled) if decays else np.floor(scaled + 1e-9)).astype(np.int64)


def round_decay(share: Array) -> Array:
    """12-bit decay of a membrane that loses `share` (0 to 1) of itself in a step: 0 to 4096."""
    return np.rint(np.asarray(share, dtype=np.float64) * 4096).astype(np.int64)


def round_bias(bias: Array, scale: Any) -> tuple[Array, int]:
    """Mantissa (13 bit signed) and exponent (0 to 7) of a bias in units of the membrane, 64 * scale."""
    value = np.asarray(bias, dtype=np.float64) * scale * 64
    largest = float(np.abs(value).max(initial=0.0))
    exponent = 0 if largest <= BIAS_MANT_MAX else math.ceil(math.log2(largest / BIAS_MANT_MAX))
    exponent = min(EXPONENT_MAX, exponent)
    mantissa = np.clip(np.rint(value / 2.0**exponent), -BIAS_MANT_MAX, BIAS_MANT_MAX).astype(np.int64)
    return mantissa, exponent
