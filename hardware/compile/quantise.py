"""What decides an integer: pure functions of arrays, so that compilation and training round alike.

Units. A weight w becomes a mantissa m with m * 2**exponent = w * scale (rounded). A neuron adds its synaptic
input shifted by 6 bits, so a membrane v becomes v * scale * 64, a threshold mantissa v_th * scale (compared
shifted by 6 bits) and a bias b * scale * 64. All neurons that one scale covers may differ from all others.
"""

from __future__ import annotations

import numpy as np

from hardware.network.integer import (
    DECAY_BITS,
    INPUT_SHIFT,
    MAX_BIAS,
    MAX_BIAS_EXP,
    MAX_DECAY,
    MAX_THRESHOLD,
    MAX_WEIGHT_EXP,
    NEVER,
    SignMode,
    weight_grid,
)

Array = np.ndarray
# Sub-units of the membrane per unit of synaptic input.
ACTIVATION_UNIT = 2**INPUT_SHIFT
# A mantissa of a threshold that is fine enough to be rounded.
FINE_THRESHOLD = 2**10
# What a neuron's input of one step may sum to before its current wraps.
MAX_INPUT = NEVER - 1


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
    rooms: Array,
    largest: float,
    smallest_threshold: float,
    headroom: float,
    leaky: bool,
    highest: int = MAX_WEIGHT_EXP,
    largest_input: float = MAX_INPUT,
) -> tuple[int, Array]:
    """How many bits to shift up all that leads to a population, and the exponent of each projection.

    rooms: for each projection the factor, 1 or more, by which its weights could grow and still fit the grid;
        all share one scale, so a projection of small weights gets a smaller exponent rather than few steps.
    largest: the largest sum of |mantissa| that arrives at a neuron when every source spikes at once.
    smallest_threshold: mantissa without a shift (0 where nothing fires).
    headroom: the factor, 1 or more, by which thresholds, biases and a read-out's membrane may grow.
    leaky: whether thresholds are rounded (see `threshold_mantissa`), which then asks for a large mantissa.
    highest: exponent, 0 or more. largest_input: what a neuron's input of one step may sum to.

    The shift stops where there is no headroom left or a current could wrap.
    """
    wanted = [np.floor(np.log2(room)) for room in rooms if np.isfinite(room)]
    if leaky and smallest_threshold > 0:
        wanted.append(np.ceil(np.log2(FINE_THRESHOLD / smallest_threshold)))
    limits = [
        np.floor(np.log2(headroom)),
        *([np.floor(np.log2(largest_input / largest))] if largest > 0 else []),
    ]
    shift = int(np.clip(min([max(wanted, default=0), *limits]), 0, highest))
    finite = np.where(np.isfinite(rooms), rooms, 2.0**highest)
    return shift, np.clip(shift - np.floor(np.log2(finite)), 0, highest).astype(int)


def threshold_mantissa(threshold: Array, lattice: Array | bool, highest: int = MAX_THRESHOLD) -> Array:
    """Mantissas, int32, of thresholds (v_th * scale); 0 to `highest`, larger ones are cut.

    lattice: whether the membrane takes whole values only (no leak, no bias): then v > threshold exactly where
    v > floor(threshold). Otherwise the nearest.
    """
    below = np.floor(threshold * (1 + 1e-12))
    return np.clip(np.where(lattice, below, np.rint(threshold)), 0, highest).astype(np.int32)


def high_threshold(largest_threshold: int = MAX_THRESHOLD, largest_input: int = MAX_INPUT) -> int:
    """A threshold mantissa low enough for membranes to go 8 times as far below."""
    return min(largest_threshold, (largest_input + 1) // 8)


def bias_mantissa(
    bias: Array, exponents: tuple[int, int] = (0, MAX_BIAS_EXP), largest: int = MAX_BIAS
) -> tuple[Array, int]:
    """Mantissas, int16, and the one exponent of biases (b * scale * 64): the smallest of `exponents` at which all fit.

    exponents: lowest and highest. largest: mantissa, the most negative one is one further from zero. What does not fit at the
    highest exponent is cut.
    """
    smallest = -largest - 1
    excess = max(
        float(bias.max(initial=0.0)) / (largest + 0.5), float(bias.min(initial=0.0)) / (smallest - 0.5)
    )
    exponent = int(np.clip(np.ceil(np.log2(excess)), *exponents)) if excess > 0 else exponents[0]
    return np.clip(np.rint(bias / 2.0**exponent), smallest, largest).astype(np.int16), exponent


def largest_bias(exponent: int = MAX_BIAS_EXP, largest: int = MAX_BIAS) -> float:
    """The largest |b * scale * 64| that `bias_mantissa` keeps; exponent: the highest."""
    return float(largest * 2**exponent)


def current_decay(share: Array, bits: int = DECAY_BITS) -> Array:
    """du, int32, of currents that lose `share` (0..1) a step: 4096 * share - 1, one step of so many bits at least."""
    unit = _decay_unit(bits)
    return (np.clip(np.rint(np.asarray(share) * (MAX_DECAY / unit)), 1, MAX_DECAY / unit) * unit - 1).astype(
        np.int32
    )


def membrane_decay(share: Array, bits: int = DECAY_BITS) -> Array:
    """dv, int32, of membranes that lose `share` (0..1) a step: 4096 * share, in steps of so many bits."""
    unit = _decay_unit(bits)
    return (np.clip(np.rint(np.asarray(share) * (MAX_DECAY / unit)), 0, MAX_DECAY / unit) * unit).astype(
        np.int32
    )


def _decay_unit(bits: int) -> float:
    return 2.0 ** max(DECAY_BITS - bits, 0)


def round_pairs(
    weights: Array, scale: Array | float, exponents: tuple[int, ...], mode: SignMode, bits: int
) -> tuple[Array, Array]:
    """Mantissas, int16, of two synapses per weight: sum of mantissa * 2**exponent nearest to weights * scale.

    exponents: of the coarse and of the fine one, apart by `bits` at most. Both keep to the grid of `mode`, so that what the
    coarse one leaves is of its sign, or of both signs where weights are.
    """
    step = weight_grid(mode, bits)[2]
    return split_pairs(np.rint(weights * (scale / (step * 2.0 ** exponents[1]))), exponents, mode, bits)


def split_pairs(whole: Array, exponents: tuple[int, ...], mode: SignMode, bits: int) -> tuple[Array, Array]:
    """Mantissas as `round_pairs`, of weights in steps of the fine synapse."""
    low, high, step = weight_grid(mode, bits)
    ratio = 1 << (exponents[0] - exponents[1])
    first = {"mixed": np.floor(whole / ratio + 0.5), "excitatory": np.floor(whole / ratio)}.get(
        mode, np.ceil(whole / ratio)
    )
    first = np.clip(first, low / step, high / step)
    second = np.clip(whole - first * ratio, low / step, high / step)
    return (first * step).astype(np.int16), (second * step).astype(np.int16)
