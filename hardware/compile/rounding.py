"""A scaled population in integers: projections, thresholds, biases and decays, and what is left of each in floats."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware.chip.chips import Chip
from hardware.compile import quantise
from hardware.compile.layers import Layer, Neurons
from hardware.compile.linear import Convolution, Matrix, is_sparse
from hardware.compile.report import LayerReport
from hardware.compile.scaling import Demand, Scaling
from hardware.compile.weights import DENSE_FROM, Weights
from hardware.errors import HardwareError
from hardware.network.integer import (
    MAX_DECAY,
    ConvProjection,
    DenseProjection,
    Population,
    Projection,
    SignMode,
    SparseProjection,
)

Array = np.ndarray


@dataclass(frozen=True)
class Rounded:
    """A layer before and after rounding, on the scale that a group of neurons shares.

    projections: of each path, one or, in pairs, two. maps: of each path, the floats that its integers stand for.
    threshold (None for a read-out), drive, forget, leak: what integers make of `demand.thresholds`, `demand.drives` and
    the neurons' decays.
    """

    layer: Layer
    demand: Demand
    scaling: Scaling
    population: Population
    projections: tuple[tuple[Projection, ...], ...]
    reports: tuple[tuple[LayerReport, ...], ...]
    maps: tuple[Convolution | Matrix, ...]
    threshold: Array | None
    drive: Array
    forget: Array
    leak: Array


@dataclass(frozen=True)
class Fit:
    """Integers chosen from recordings, see `hardware.compile.calibrate`. scaling: with thresholds and drives.

    mantissas: of each path those of its projections, in the form of `Weights.map`; None: rounded as without recordings.
    modes: of each path the signs of these projections; None: as its weights'.
    """

    scaling: Scaling
    mantissas: tuple[tuple[Array, ...] | None, ...]
    modes: tuple[tuple[SignMode, ...] | None, ...]


def round_layer(
    layer: Layer,
    demand: Demand,
    scaling: Scaling,
    chip: Chip,
    fit: Fit | None = None,
) -> Rounded:
    """The integers of a layer, those of `fit` where there are some. Raises HardwareError, naming the node, for thresholds that the
    chip has not."""
    neurons, model = layer.neurons, chip.neuron
    per_group = scaling.scale[demand.group]
    exact_threshold = np.zeros(len(per_group)) if demand.thresholds is None else demand.thresholds * per_group
    if (exact_threshold > model.largest_threshold * (1 + 1e-9)).any():
        raise HardwareError(
            f"node {neurons.name!r}: its highest threshold is {exact_threshold.max():.3g} steps of its weights, "
            f"the chip's thresholds have {model.largest_threshold.bit_length()} bit (at most {model.largest_threshold})"
        )
    vth = scaling.thresholds.astype(np.int32)
    if neurons.threshold is not None and model.thresholds_per == "population" and (vth != vth[0]).any():
        raise HardwareError(
            f"node {neurons.name!r}: its thresholds differ from neuron to neuron, {chip.name} has one per "
            "population; give its neurons the same constants, or take a chip with a threshold per neuron"
        )
    bias = (scaling.drives / 2**scaling.bias_exp).astype(np.int16)
    du = quantise.current_decay(neurons.forget, model.current_decay_bits)
    dv = quantise.membrane_decay(neurons.leak, model.membrane_decay_bits)
    population = Population(
        neurons.name,
        neurons.shape,
        du=_uniform(du, neurons.shape),
        dv=_uniform(dv, neurons.shape),
        vth=0 if neurons.threshold is None else _uniform(vth, neurons.shape),
        bias_mant=_uniform(bias, neurons.shape),
        bias_exp=scaling.bias_exp,
        spiking=neurons.threshold is not None,
        reset=neurons.reset if neurons.threshold is not None else "zero",
        dead=neurons.dead,
    )
    exact_drive = demand.drives * per_group * quantise.ACTIVATION_UNIT
    # A threshold between two sums is exact as it stands.
    whole = (
        ((neurons.leak == 0) | (neurons.leak == 1))
        & (neurons.forget == 1)
        & ((demand.drive == 0) | scaling.on_grid)
        & (neurons.reset == "zero")
    )
    shared = {
        "threshold_error": _relative(np.where(whole, 0, vth - exact_threshold), exact_threshold),
        "bias_error": float(
            np.abs(scaling.drives - exact_drive).max() / max(np.abs(exact_drive).max(), 1e-300)
        ),
        "du_error": _relative((du + 1) / MAX_DECAY - neurons.forget, neurons.forget),
        "dv_error": _relative(dv / MAX_DECAY - neurons.leak, neurons.leak),
        "membrane_scale": float(np.median(per_group / demand.residual)) * quantise.ACTIVATION_UNIT,
        "membrane_offset": float(np.median(neurons.offset)),
        "notes": (*neurons.notes, *layer.notes),
        "on_grid": scaling.on_grid,
    }
    none = [None] * len(demand.weights)
    chosen, modes = (none, none) if fit is None else (fit.mantissas, fit.modes)
    parts = [
        _round(w, neurons, scaling.scale, exponents, shared, mantissas, signs)
        for w, exponents, mantissas, signs in zip(
            demand.weights, scaling.exponents, chosen, modes, strict=True
        )
    ]
    return Rounded(
        layer,
        demand,
        scaling,
        population,
        tuple(projections for projections, _, _ in parts),
        tuple(reports for _, reports, _ in parts),
        tuple(map_ for _, _, map_ in parts),
        None if demand.thresholds is None else vth / per_group,
        scaling.drives / quantise.ACTIVATION_UNIT / per_group,
        (du + 1) / MAX_DECAY,
        dv / MAX_DECAY,
    )


def _round(
    w: Weights,
    neurons: Neurons,
    scale: Array,
    exponents: tuple[int, ...],
    shared: dict[str, Any],
    chosen: tuple[Array, ...] | None,
    modes: tuple[SignMode, ...] | None,
) -> tuple[tuple[Projection, ...], tuple[LayerReport, ...], Convolution | Matrix]:
    rows, target = scale[w.row_scale], neurons.name
    matrix: Any = None if isinstance(w.map, Convolution) else w.map.matrix
    exact: Any
    if isinstance(w.map, Convolution):
        exact, by_row = w.map.weight, rows[:, None, None, None]
    elif is_sparse(matrix):
        by_pre = matrix.tocoo()
        order = np.lexsort((by_pre.coords[0], by_pre.coords[1]))
        post, pre, exact = by_pre.coords[0][order], by_pre.coords[1][order], by_pre.data[order]
        by_row = rows[post]
    else:
        exact, by_row = matrix, rows[:, None]
    if chosen is not None:
        parts: list[Array] = [m if np.shape(m) == np.shape(exact) else m[post, pre] for m in chosen]
    elif len(exponents) == 1:
        parts = [quantise.round_weights(exact, by_row, exponents[0], w.mode, w.bits)]
    else:
        parts = list(quantise.round_pairs(exact, by_row, exponents, w.mode, w.bits))
    back = sum(m * 2.0**e for m, e in zip(parts, exponents, strict=True)) / by_row
    error, size = back - exact, np.abs(exact)
    rms = float(np.sqrt((exact**2).mean())) if exact.size else 0.0
    projections: list[Projection] = []
    reports: list[LayerReport] = []
    for rounded, exponent, mode in zip(parts, exponents, modes or (w.mode,) * len(parts), strict=True):
        if projections and not rounded.any():
            continue
        common: dict[str, Any] = {"weight_exp": exponent, "sign_mode": mode, "weight_bits": w.bits}
        projection: Projection
        if isinstance(w.map, Convolution):
            geometry = (w.map.stride, w.map.padding, w.map.dilation, w.map.groups)
            masks = {"dead_pre": w.path.dead, "dead_post": neurons.dead}
            projection = ConvProjection(w.path.source, target, rounded, *geometry, **{**common, **masks})
        else:
            shape = matrix.shape
            if np.count_nonzero(exact) >= DENSE_FROM * math.prod(shape):
                full = rounded
                if is_sparse(matrix):
                    full = np.zeros(shape, np.int16)
                    full[post, pre] = rounded
                projection = DenseProjection(w.path.source, target, full, **common)
            else:
                if not is_sparse(matrix):
                    pre, post = np.nonzero(exact.T)
                    rounded = rounded[post, pre]
                kept = rounded != 0
                indptr = np.zeros(shape[1] + 1, np.int64)
                np.cumsum(np.bincount(pre[kept], minlength=shape[1]), out=indptr[1:])
                projection = SparseProjection(
                    w.path.source, target, indptr, post[kept].astype(np.int32), rounded[kept], **common
                )
        projections.append(projection)
        reports.append(
            LayerReport(
                source=w.path.source,
                target=target,
                kind=type(projection).__name__.removesuffix("Projection").lower(),
                scale=(float(rows.min()), float(rows.max())),
                delay=w.path.latency,
                parameters=int(np.count_nonzero(projection.weight)),
                zeroed=int(np.count_nonzero((back == 0) & (exact != 0))),
                weight_error_max=float(np.abs(error).max(initial=0.0) / size.max(initial=1e-300)),
                weight_error_rms=float(np.sqrt((error**2).mean()) / rms) if rms else 0.0,
                **common,
                **shared,
            )
        )
    map_: Convolution | Matrix
    if isinstance(w.map, Convolution):
        map_ = replace(w.map, weight=back)
    elif is_sparse(matrix):
        from scipy import sparse

        map_ = Matrix(sparse.csr_array(sparse.coo_array((back, (post, pre)), matrix.shape)))
    else:
        map_ = Matrix(back)
    return tuple(projections), tuple(replace(r, parts=len(reports)) for r in reports), map_


def _uniform(values: Array, shape: tuple[int, ...]) -> int | Array:
    return int(values[0]) if (values == values[0]).all() else values.reshape(shape)


def _relative(error: Array, exact: Array) -> float:
    alive = exact != 0
    return float(np.abs(error[alive] / exact[alive]).max(initial=0.0))
