"""What decides an integer: pure functions of arrays, so that compilation and training round alike.

Units. A weight w becomes a mantissa m with m * 2**exponent = w * scale (rounded). A neuron adds its synaptic
input shifted by 6 bits, so a membrane v becomes v * scale * 64, a threshold mantissa v_th * scale (compared
shifted by 6 bits) and a bias b * scale * 64. All neurons that one scale covers may differ from all others.
"""

from __future__ import annotations

import numpy as np

from hardware.network.integer import (
    MAX_BIAS,
    MAX_BIAS_EXP,
    MAX_DECAY,
    MAX_THRESHOLD,
    MAX_WEIGHT_EXP,
    MIN_BIAS,
    SignMode,
    weight_grid,
)

Array = np.ndarray
# Sub-units of the membrane per unit of synaptic input.
ACTIVATION_UNIT = 64
# Mantissas of thresholds: fine enough to be rounded, and low enough for membranes to go 8 times as far below.
FINE_THRESHOLD, HIGH_THRESHOLD = 2**10, 2**14
# What a neuron's input of one step may sum to before its current wraps.
MAX_INPUT = 2**17 - 1


def sign_mode(weights: Array) -> SignMode:
    """The mode with the finest grid that holds these weights."""
    if weights.size == 0 or weights.min() >= 0:
        return "excitatory"
    return "inhibitory" if weights.max() <= 0 else "mixed"


def scale_that_fits(top: Array, bottom: Array, low: int, high: int) -> Array:
    """The largest factor that keeps weights from `bottom` <= 0 to `top` >= 0 within `low` to `high`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        up = np.where(top > 0, high / top, np.inf)
        down = np.where(bottom < 0, low / bottom, np.inf)
    return np.minimum(up, down)


def round_weights(weights: Array, scale: Array | float, exponent: int, mode: SignMode, bits: int) -> Array:
    """Mantissas, int16: weights * scale / 2**exponent on the nearest point of the grid, ends included.

    Halves go to the even step, so that the error has no sign; zeros stay zeros.
    """
    low, high, step = weight_grid(mode, bits)
    steps = np.rint(weights * (scale / (step * 2.0**exponent)))
    return (np.clip(steps, low / step, high / step) * step).astype(np.int16)


def shared_exponents(
    rooms: Array, largest: float, smallest_threshold: float, headroom: float, leaky: bool
) -> tuple[int, Array]:
    """How many bits to shift up all that leads to a population, and the exponent of each projection.

    rooms: for each projection the factor, 1 or more, by which its weights could grow and still fit the grid;
        all share one scale, so a projection of small weights gets a smaller exponent rather than few steps.
    largest: the largest sum of |mantissa| that arrives at a neuron when every source spikes at once.
    smallest_threshold: mantissa without a shift (0 where nothing fires).
    headroom: the factor, 1 or more, by which thresholds, biases and a read-out's membrane may grow.
    leaky: whether thresholds are rounded (see `threshold_mantissa`), which then asks for a large mantissa.

    The shift stops where there is no headroom left or a current could wrap.
    """
    wanted = [np.floor(np.log2(room)) for room in rooms if np.isfinite(room)]
    if leaky and smallest_threshold > 0:
        wanted.append(np.ceil(np.log2(FINE_THRESHOLD / smallest_threshold)))
    limits = [np.floor(np.log2(headroom)), *([np.floor(np.log2(MAX_INPUT / largest))] if largest > 0 else [])]
    shift = int(np.clip(min([max(wanted, default=0), *limits]), 0, MAX_WEIGHT_EXP))
    finite = np.where(np.isfinite(rooms), rooms, 2.0**MAX_WEIGHT_EXP)
    return shift, np.clip(shift - np.floor(np.log2(finite)), 0, MAX_WEIGHT_EXP).astype(int)


def threshold_mantissa(threshold: Array, lattice: Array | bool) -> Array:
    """Mantissas, int32, of thresholds (v_th * scale); 0 to 2**17 - 1, larger ones are cut.

    lattice: whether the membrane takes whole values only (no leak, no bias): then v > threshold exactly where
    v > floor(threshold). Otherwise the nearest.
    """
    below = np.floor(threshold * (1 + 1e-12))
    return np.clip(np.where(lattice, below, np.rint(threshold)), 0, MAX_THRESHOLD).astype(np.int32)


def bias_mantissa(bias: Array, exponent: int | None = None) -> tuple[Array, int]:
    """Mantissas, int16, and the one exponent of biases (b * scale * 64): the smallest at which all fit.

    exponent: 0..7 where it is given. What does not fit at it, or at 7, is cut.
    """
    largest = max(
        float(bias.max(initial=0.0)) / (MAX_BIAS + 0.5), float(bias.min(initial=0.0)) / (MIN_BIAS - 0.5)
    )
    if exponent is None:
        exponent = int(np.clip(np.ceil(np.log2(largest)), 0, MAX_BIAS_EXP)) if largest > 0 else 0
    return np.clip(np.rint(bias / 2**exponent), MIN_BIAS, MAX_BIAS).astype(np.int16), exponent


def largest_bias(exponent: int | None = None) -> float:
    """The largest |b * scale * 64| that `bias_mantissa` keeps."""
    return float(MAX_BIAS * 2 ** (MAX_BIAS_EXP if exponent is None else exponent))


def current_decay(share: Array) -> Array:
    """du, int32, of currents that lose `share` (0..1) a step: 4096 * share - 1, 0 at least."""
    return np.clip(np.rint(np.asarray(share) * MAX_DECAY) - 1, 0, MAX_DECAY - 1).astype(np.int32)


def membrane_decay(share: Array) -> Array:
    """dv, int32, of membranes that lose `share` (0..1) a step: 4096 * share."""
    return np.clip(np.rint(np.asarray(share) * MAX_DECAY), 0, MAX_DECAY).astype(np.int32)
