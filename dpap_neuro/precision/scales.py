"""Scales and exponents of a population and all that leads to it, chosen by least squares.

The compiler takes the scale at which the largest weight just fits. At few bits, and for pruned layers, whose large weights
are all that is left, clipping the largest costs less than coarse steps for all others: of many scales the one whose rounded
weights lie nearest to the float ones is taken. Exponents are then the compiler's own choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from hardware.compile import quantise
from hardware.compile.compiler import FloatPopulation, FloatProjection
from hardware.compile.linear import Convolution
from hardware.compile.pins import PinnedPopulation, PinnedProjection
from hardware.errors import HardwareError
from hardware.network.integer import MAX_THRESHOLD, SignMode, weight_grid

Array = np.ndarray
# Scales are tried in steps of an eighth of an octave, up to so many octaves above the largest that clips nothing.
_STEPS, _OCTAVES = 8, 3


def weights_of(projection: FloatProjection) -> Array:
    """The weights as an array: a kernel, or a matrix with its zeros."""
    map_: Any = projection.map
    if isinstance(map_, Convolution):
        return map_.weight
    return map_.matrix.toarray() if sparse.issparse(map_.matrix) else np.asarray(map_.matrix)


def squared_error(weights: Array, factor: float, mode: SignMode, bits: int) -> float:
    """Of weights that become mantissas, `factor` of which make one of them."""
    error = quantise.round_weights(weights, factor, 0, mode, bits) / factor - weights
    return float((error**2).sum())


def least_squares(weights: Array, mode: SignMode, bits: int) -> float:
    """The factor from weights to mantissas with the smallest squared error; infinite where all are zero."""
    alive = weights[weights != 0]
    if not alive.size:
        return np.inf
    low, high, _ = weight_grid(mode, bits)
    top, bottom = np.maximum(alive.max(), 0.0), np.minimum(alive.min(), 0.0)
    fits = float(quantise.scale_that_fits(top, bottom, low, high))
    tried = fits * 2.0 ** (np.arange(_OCTAVES * _STEPS + 1) / _STEPS)
    return float(min(tried, key=lambda factor: squared_error(alive, factor, mode, bits)))


def choose(population: FloatPopulation, bits: int, netx: bool = False) -> PinnedPopulation:
    """Scale, exponents and sign modes. netx: without exponents, as a NETX file has to be.

    Raises HardwareError, naming the population, for weights of both signs at 1 bit, and for thresholds beyond 17 bits.
    """
    weights = [weights_of(p) for p in population.projections]
    modes = [quantise.sign_mode(w) for w in weights]
    for projection, mode in zip(population.projections, modes, strict=True):
        if mode == "mixed" and bits == 1:
            raise HardwareError(
                f"node {population.name!r}: weights of both signs from {projection.source!r} need 2 bits at least"
            )
    best = np.array([least_squares(w, mode, bits) for w, mode in zip(weights, modes, strict=True)])
    finite, cap = best[np.isfinite(best)], population.highest_scale
    lowest = min(float(finite.min()) if finite.size else 1.0, cap)
    totals = [float(np.abs(w).reshape(len(w), -1).sum(1).max(initial=0.0)) for w in weights]

    def exponents_at(scale: float) -> tuple[float, Array]:
        if netx:
            return scale, np.zeros(len(weights), int)
        threshold = population.threshold
        shift, exponents = quantise.shared_exponents(
            np.maximum(best / scale, 1.0),
            sum(totals) * scale / max(float(population.forget.min()), 1e-3),
            0.0 if threshold is None else float(threshold.min() * scale),
            cap / scale,
            leaky=bool((~population.lattice).any()) and threshold is not None,
        )
        return scale * 2.0**shift, exponents

    def error_at(scale: float) -> float:
        full, exponents = exponents_at(scale)
        return sum(
            squared_error(w, full / 2.0**e, mode, bits)
            for w, mode, e in zip(weights, modes, exponents, strict=True)
        )

    tried = [lowest]
    if len(finite) > 1:
        octaves = np.arange(-_STEPS, _STEPS + 1) / _STEPS if not netx else np.arange(4 * _STEPS) / _STEPS
        tried += [scale for scale in lowest * 2.0**octaves if scale <= cap]
    scale, exponents = exponents_at(min(tried, key=error_at) if len(tried) > 1 else lowest)
    if population.threshold is not None and (population.threshold * scale).max() > MAX_THRESHOLD:
        highest = float((population.threshold * scale).max())
        raise HardwareError(
            f"node {population.name!r}: its highest threshold is {highest:.3g} steps of its weights, the chip's thresholds "
            f"have 17 bit (at most {MAX_THRESHOLD})"
        )
    return PinnedPopulation(
        population.name,
        scale,
        tuple(
            PinnedProjection(p.source, p.latency, int(e), mode)
            for p, e, mode in zip(population.projections, exponents, modes, strict=True)
        ),
    )
