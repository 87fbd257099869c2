"""Scales and exponents of a population and all that leads to it, chosen by least squares.

The compiler takes the scale at which the largest weight just fits, unless weights are on a grid already: then that stays. At
few bits, and for pruned layers, whose large weights are all that is left, clipping the largest costs less than coarse steps
for all others: of many scales the one whose rounded weights lie nearest to the float ones is taken.
"""

from __future__ import annotations

import numpy as np

from hardware.chip.chips import NeuronModel
from hardware.compile import quantise
from hardware.compile.scaling import Demand, Scaling, highest_scale
from hardware.network.integer import MAX_WEIGHT_EXP, SignMode, weight_grid

Array = np.ndarray
# Scales are tried in steps of an eighth of an octave, up to so many octaves above the largest that clips nothing.
_STEPS, _OCTAVES = 8, 3


def squared_error(weights: Array, factor: float, mode: SignMode, bits: int) -> float:
    """Of weights that become mantissas, `factor` of which make a weight of 1."""
    error = quantise.round_weights(weights, factor, 0, mode, bits) / factor - weights
    return float((error**2).sum())


def least_squares(weights: Array, mode: SignMode, bits: int) -> float:
    """The factor from weights to mantissas with the smallest squared error; infinite where all become zero.

    Weights that training has moved to the other sign of a mode of one are zero at every scale.
    """
    low, high, _ = weight_grid(mode, bits)
    alive = weights[(weights > 0) & (high > 0) | (weights < 0) & (low < 0)]
    if not alive.size:
        return np.inf
    top, bottom = np.maximum(alive.max(), 0.0), np.minimum(alive.min(), 0.0)
    fits = float(quantise.scale_that_fits(top, bottom, low, high))
    tried = fits * 2.0 ** (np.arange(_OCTAVES * _STEPS + 1) / _STEPS)
    return float(min(tried, key=lambda factor: squared_error(alive, factor, mode, bits)))


def choose(demand: Demand, found: Scaling, model: NeuronModel) -> Scaling:
    """The scaling of a population that has one scale. found: the compiler's, kept where it rounds nothing."""
    if found.on_grid:
        return found
    weights = [w.values() for w in demand.weights]
    best = np.array([least_squares(v, w.mode, w.bits) for v, w in zip(weights, demand.weights, strict=True)])
    finite, cap = best[np.isfinite(best)], float(highest_scale(demand, model)[0])
    lowest = min(float(finite.min()) if finite.size else 1.0, cap)
    total = sum(float(w.total.max(initial=0.0)) for w in demand.weights)
    thresholds, forget = demand.thresholds, max(float(demand.neurons.forget.min()), 1e-3)
    leaky = (demand.decays or bool(demand.drive.any())) and thresholds is not None

    def exponents_at(scale: float) -> tuple[float, Array]:
        shift, exponents = quantise.shared_exponents(
            np.maximum(best / scale, 1.0),
            total * scale / forget,
            0.0 if thresholds is None else float(thresholds.min() * scale),
            cap / scale,
            leaky,
            min(model.weight_exponents[1], MAX_WEIGHT_EXP),
            model.largest_input,
        )
        return scale * 2.0**shift, exponents

    def error_at(scale: float) -> float:
        full, exponents = exponents_at(scale)
        return sum(
            squared_error(v, full / 2.0**e, w.mode, w.bits)
            for v, w, e in zip(weights, demand.weights, exponents, strict=True)
        )

    tried = [lowest]
    if len(finite) > 1:
        tried += [s for s in lowest * 2.0 ** (np.arange(-_STEPS, 3 * _STEPS + 1) / _STEPS) if s <= cap]
    scale, exponents = exponents_at(min(tried, key=error_at) if len(tried) > 1 else lowest)
    return at(demand, scale, tuple((int(e),) for e in exponents), model)


def error_of(demand: Demand, scaling: Scaling) -> float:
    """The squared error of all weights that lead to a population which has one scale."""
    return sum(
        squared_error(w.values(), float(scaling.scale[0]) / 2.0**exponent, w.mode, w.bits)
        for w, (exponent, *_) in zip(demand.weights, scaling.exponents, strict=True)
    )


def at(demand: Demand, scale: float, exponents: tuple[tuple[int, ...], ...], model: NeuronModel) -> Scaling:
    """Thresholds and biases at a scale, as the compiler rounds them."""
    thresholds = demand.thresholds
    vth = np.zeros(len(demand.group), np.int64)
    if thresholds is not None:
        exact = thresholds * scale
        vth = quantise.threshold_mantissa(exact, whole_sums(demand), model.largest_threshold).astype(np.int64)
    drives = demand.drives * scale * quantise.ACTIVATION_UNIT
    mantissas, bias_exp = quantise.bias_mantissa(drives, model.network_bias_exponents, model.largest_bias)
    return Scaling(np.array([scale]), exponents, vth, mantissas * 2.0**bias_exp, bias_exp, False)


def whole_sums(demand: Demand) -> Array:
    """Of each neuron whether its membrane is a sum of weights and nothing else, see `quantise.threshold_mantissa`."""
    neurons = demand.neurons
    keeps = ((neurons.leak == 0) | (neurons.leak == 1)) & (neurons.forget == 1)
    return keeps & (demand.drive == 0) & (neurons.reset == "zero")
