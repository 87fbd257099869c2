"""Integers fitted to recordings: scales, weights, thresholds and biases by the error of the membrane.

A rounded weight matters by what it does to the membrane between two spikes. Let a be what has arrived through each synapse of a
neuron (decayed as its current and membrane decay, and on average since its last spike), H = E[a a^T] over neurons and
times of a few recordings of the float network. Rounding w to q / s costs the membrane (q / s - w)^T H (q / s - w) in the mean
square. Of each projection and channel:

1. the scale s with the least such error, clipped weights included (the largest weight decides no more);
2. the integers, one after the other: each takes the value that makes up best for the error of all others, a few times over
   (coordinate descent, zeros stay zeros);
3. the threshold, times the factor between the two membranes that is left, (q^T H w) / (w^T H w) / s;
4. a bias against the mean of the error, where that is a good part of it.

Prior art: OSBC (one-shot pruning and quantisation by the membrane's error, arXiv 2506.03996) chooses weights by a second-order
expansion of the same error, of one layer at a time, as Optimal Brain Compression does for activations, and reports 0.17, 1.54
and 7.71 points lost at 4 bits on N-MNIST, CIFAR10-DVS and DVS128 Gesture. What is the same: the objective, H from a few
recordings, one rounding making up for another. What differs: the integers are a chip's (shared exponents, grids by sign, thresholds
and biases of so many bits), scales and thresholds are fitted with them, the membrane is reset in mean only, nothing is
pruned, and what counts is agreement of spikes on other recordings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from hardware.chip.chips import Chip, as_chip
from hardware.compile import quantise
from hardware.compile.compiler import Compiled, compile_layers
from hardware.compile.linear import Convolution
from hardware.compile.rounding import Fit, Rounded
from hardware.compile.scaling import Scaling, Seen, members, whole_scale
from hardware.compile.weights import Weights
from hardware.errors import HardwareError
from hardware.graph.graph import Graph
from hardware.network.integer import weight_grid
from hardware.simulate import reference
from hardware.simulate.simulator import check_rasters

Array = np.ndarray
# Beyond so many synapses per neuron their products are not kept; entries of a matrix that is looked at at once.
MOST_SYNAPSES, MOST_ENTRIES = 4096, 1 << 26
# Times of each recording and, of a convolution, positions at each time that are looked at.
TIMES, POSITIONS = 24, 48
FACTORS = np.geomspace(0.4, 1.6, 25)
SWEEPS = 4
# Share of the error that its mean must be for a bias to be worth it.
WORTH_A_BIAS = 0.05


@dataclass(frozen=True)
class Calibration:
    """(source, target) -> error of the membrane by that projection, root mean square relative to the membrane, before and after."""

    before: dict[tuple[str, str], float]
    after: dict[tuple[str, str], float]


@dataclass(frozen=True)
class Moments:
    """Of what arrived through the synapses of rows: products (d, d) and means (d,), both over neurons and times."""

    products: Array
    means: Array


@dataclass(frozen=True)
class _Block:
    """Rows of a path that share their inputs. weight: (rows, d)."""

    rows: slice
    moments: Moments


def calibrate(
    graph: Graph,
    chip: Chip | str,
    rasters: Array,
    seed: int = 0,
    pairs: Any = False,
    seen: dict[str, Seen] | None = None,
    **options: Any,
) -> tuple[Compiled, Calibration]:
    """The network with integers fitted to recordings, and the membrane's errors.

    rasters: (batch, steps, *input shape), whole numbers. seed: which times and positions are looked at. pairs, options: as
    `hardware.compile.compiler.compile_layers` takes them. Populations on a grid stay as they are.
    Raises HardwareError: no recordings, rasters that do not fit.
    """
    chip = as_chip(chip)
    plain = compile_layers(graph, chip, pairs=pairs, seen=seen, **options)
    given, batch, steps = check_rasters(plain.network, rasters)
    if not batch or not steps:
        raise HardwareError("there are no recordings to calibrate on")
    sources = [p.name for p in plain.network.populations if p.spiking and p.name in graph.nodes]
    run = reference.simulate(graph, rasters, plain.network.dt, options.get("reset"), sources)
    spikes = {**given, **run.spikes}
    fits, before, after = {}, {}, {}
    for layer in plain.layers:
        if layer.scaling.on_grid:
            continue
        rng = np.random.default_rng(seed)
        fit, errors = _fitted(layer, spikes, run.spikes, chip, rng)
        fits[layer.population.name] = fit
        for (source, target), (first, last) in errors.items():
            before[source, target], after[source, target] = first, last
    fitted = compile_layers(graph, chip, pairs=pairs, seen=seen, fits=fits, **options)
    return fitted, Calibration(before, after)


# --- what arrives --------------------------------------------------------------------------------------------


def _moments(
    layer: Rounded, w: Weights, spikes: dict[str, Array], leak: float, rng: np.random.Generator
) -> list[_Block] | None:
    """Of one path; None where it is too large to be looked at."""
    raster = spikes[w.path.source]
    batch, steps = raster.shape[:2]
    d = math.prod(w.map.weight.shape[1:]) if isinstance(w.map, Convolution) else w.map.matrix.shape[1]
    if d > MOST_SYNAPSES or (not isinstance(w.map, Convolution) and math.prod(w.map.matrix.shape) > MOST_ENTRIES):
        return None
    groups = w.map.groups if isinstance(w.map, Convolution) else 1
    products, means, seen = np.zeros((groups, d, d)), np.zeros((groups, d)), 0
    chosen = set(rng.choice(steps, min(TIMES, steps), replace=False).tolist())
    current = np.zeros((batch, *raster.shape[2:]))
    trace = np.zeros_like(current)
    forget = float(layer.demand.neurons.forget.mean())
    for t in range(steps):
        late = t - w.path.latency
        current *= 1 - forget
        if late >= 0:
            current += raster[:, late]
        trace = trace * (1 - leak) + current
        if t not in chosen:
            continue
        arrived = _patches(trace, w.map, rng) if isinstance(w.map, Convolution) else trace.reshape(1, batch, -1)
        products += arrived.transpose(0, 2, 1) @ arrived
        means += arrived.sum(axis=1)
        seen += arrived.shape[1]
    rows = len(w.row_scale) // groups
    return [
        _Block(slice(g * rows, (g + 1) * rows), Moments(products[g] / seen, means[g] / seen)) for g in range(groups)
    ]


def _patches(trace: Array, map_: Convolution, rng: np.random.Generator) -> Array:
    """(groups, samples, in / groups * kernel): what windows at random positions of every recording hold."""
    _, within, rows, columns = map_.weight.shape
    y = rng.integers(0, map_.target[1], POSITIONS)
    x = rng.integers(0, map_.target[2], POSITIONS)
    room = [(p, p + k * d + s) for p, k, d, s in zip(map_.padding, (rows, columns), map_.dilation, map_.stride, strict=True)]
    padded = np.pad(trace, ((0, 0), (0, 0), *room))
    at_y = (y * map_.stride[0])[:, None] + np.arange(rows) * map_.dilation[0]
    at_x = (x * map_.stride[1])[:, None] + np.arange(columns) * map_.dilation[1]
    windows = padded[:, :, at_y[:, :, None], at_x[:, None, :]]  # batch, channel, position, row, column
    samples = windows.transpose(0, 2, 1, 3, 4).reshape(-1, map_.groups, within * rows * columns)
    return samples.transpose(1, 0, 2)


def _leak(layer: Rounded, fired: Array | None) -> float:
    """The share of a membrane lost per step: its leak, and its resets, spread evenly over the steps of neurons that fire."""
    leak = float(layer.demand.neurons.leak.mean())
    if fired is None or not fired.any():
        return max(leak, 1 / 64)
    by_neuron = fired.reshape(*fired.shape[:2], -1).mean(axis=1, dtype=np.float64)
    rate = float(by_neuron[by_neuron > 0].mean())
    return 1 - (1 - leak) * (1 - rate)


# --- fitting -------------------------------------------------------------------------------------------------


def _fitted(
    layer: Rounded, spikes: dict[str, Array], own: dict[str, Array], chip: Chip, rng: np.random.Generator
) -> tuple[Fit, dict[tuple[str, str], tuple[float, float]]]:
    demand, scaling = layer.demand, layer.scaling
    leak = _leak(layer, own.get(layer.population.name))
    parts: list[tuple[Weights, Array, list[_Block], tuple[int, ...]] | None] = []
    for w, exponents, constant in zip(demand.weights, scaling.exponents, demand.constant, strict=True):
        blocks = None if constant else _moments(layer, w, spikes, leak, rng)
        parts.append(None if blocks is None else (w, _flat(w), blocks, exponents))
    known = [p for p in parts if p is not None]
    scale = scaling.scale.copy()
    if not any(len(exponents) == 2 for _, _, _, exponents in known):
        scale = _best_scales(known, scaling, layer)
    mantissas: list[tuple[Array, ...] | None] = []
    errors = {}
    shared, own_size = np.zeros(len(scale)), np.zeros(len(scale))
    mean_error = np.zeros(len(demand.group))
    total_error = np.zeros(len(demand.group))
    per_row = len(demand.group)
    for part in parts:
        if part is None:
            mantissas.append(None)
            continue
        w, weight, blocks, exponents = part
        unit, low, high = _grid(w, exponents)
        chosen = np.zeros_like(weight)
        first = last = size = 0.0
        means = np.zeros(len(weight))
        squares = np.zeros(len(weight))
        for block in blocks:
            exact = weight[block.rows] * scale[w.row_scale[block.rows]][:, None] / unit
            start = np.clip(np.rint(exact), low, high)
            plain = weight[block.rows] * scaling.scale[w.row_scale[block.rows]][:, None] / unit
            ends = np.clip(np.rint(plain), low, high)
            h = block.moments.products
            found = _descend(start, exact, h, low, high)
            chosen[block.rows] = found
            rows = w.row_scale[block.rows]
            in_floats = scale[rows][:, None] / unit
            error = found / in_floats - weight[block.rows]
            cost = np.einsum("ri,ij,rj->r", error, h, error, optimize=True)
            off = ends / (scaling.scale[rows][:, None] / unit) - weight[block.rows]
            first += float(np.einsum("ri,ij,rj->", off, h, off, optimize=True))
            last += float(cost.sum())
            against = weight[block.rows] @ h
            whole = (against * weight[block.rows]).sum(axis=1)
            size += float(whole.sum())
            np.add.at(own_size, rows, whole)
            np.add.at(shared, rows, (against * (found / in_floats)).sum(axis=1))
            means[block.rows] = error @ block.moments.means
            squares[block.rows] = cost
        errors[w.path.source, demand.neurons.name] = (
            math.sqrt(max(first, 0.0) / size) if size else 0.0,
            math.sqrt(max(last, 0.0) / size) if size else 0.0,
        )
        mean_error += np.repeat(means, per_row // len(means))
        total_error += np.repeat(squares, per_row // len(squares))
        mantissas.append(_as_mantissas(w, chosen, exponents))
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(own_size > 0, shared / own_size, 1.0)
    factor = np.clip(factor, 0.5, 2.0)
    drives = demand.drives.copy()
    if demand.thresholds is not None:
        worth = mean_error**2 > WORTH_A_BIAS * np.maximum(total_error, 1e-300)
        drives = drives - np.where(worth, mean_error * leak * float(demand.neurons.forget.mean()), 0.0)
    return Fit(_rescaled(layer, scale, factor, drives, chip), tuple(mantissas)), errors


def _best_scales(
    parts: list[tuple[Weights, Array, list[_Block], tuple[int, ...]]], scaling: Scaling, layer: Rounded
) -> Array:
    """Of each group the factor on its scale with the least error of the membrane, then thresholds whole."""
    groups = len(scaling.scale)
    cost = np.zeros((len(FACTORS), groups))
    for k, factor in enumerate(FACTORS):
        for w, weight, blocks, exponents in parts:
            unit, low, high = _grid(w, exponents)
            for block in blocks:
                rows = w.row_scale[block.rows]
                by_row = (scaling.scale * factor)[rows][:, None] / unit
                error = np.clip(np.rint(weight[block.rows] * by_row), low, high) / by_row - weight[block.rows]
                np.add.at(cost[k], rows, np.einsum("ri,ij,rj->r", error, block.moments.products, error, optimize=True))
    scale = scaling.scale * FACTORS[cost.argmin(axis=0)]
    thresholds = layer.demand.thresholds
    if thresholds is None:
        return scaling.scale.copy()
    for g, at in enumerate(members(layer.demand.group, groups)):
        scale[g] = whole_scale(scale[g], thresholds[at])
    return scale


def _descend(start: Array, exact: Array, h: Array, low: Array, high: Array) -> Array:
    """Integers near `start` with a smaller (q - exact)^T H (q - exact), row by row; zeros of `exact` stay."""
    q = start.copy()
    gradient = (q - exact) @ h
    diagonal = np.diag(h)
    alive = exact != 0
    for _ in range(SWEEPS):
        moved = False
        for i in np.flatnonzero(diagonal > 0):
            better = np.clip(np.rint(q[:, i] - gradient[:, i] / diagonal[i]), low, high)
            step = np.where(alive[:, i], better - q[:, i], 0.0)
            if step.any():
                gradient += step[:, None] * h[i]
                q[:, i] += step
                moved = True
        if not moved:
            break
    return q


def _rescaled(layer: Rounded, scale: Array, factor: Array, drives: Array, chip: Chip) -> Scaling:
    """Thresholds and drives at these scales, thresholds of each group times its factor."""
    demand, model = layer.demand, chip.neuron
    per_neuron = scale[demand.group]
    vth = layer.scaling.thresholds
    if demand.thresholds is not None:
        exact = demand.thresholds * per_neuron * factor[demand.group]
        vth = np.clip(np.rint(exact), 0, model.largest_threshold).astype(np.int64)
    exact_drives = drives * per_neuron * quantise.ACTIVATION_UNIT
    mantissas, bias_exp = quantise.bias_mantissa(exact_drives, model.network_bias_exponents, model.largest_bias)
    return replace(
        layer.scaling,
        scale=scale,
        thresholds=vth,
        drives=mantissas.astype(np.float64) * 2**bias_exp,
        bias_exp=bias_exp,
    )


def _flat(w: Weights) -> Array:
    """(rows, d)"""
    if isinstance(w.map, Convolution):
        return w.map.weight.reshape(len(w.map.weight), -1)
    return w.map.matrix.toarray() if sparse.issparse(w.map.matrix) else w.map.matrix


def _grid(w: Weights, exponents: tuple[int, ...]) -> tuple[float, float, float]:
    """What a whole number stands for, at the exponent 0, and the lowest and highest such number."""
    low, high, step = weight_grid(w.mode, w.bits)
    unit = step * 2.0 ** exponents[-1]
    if len(exponents) == 1:
        return unit, low / step, high / step
    ratio = 1 << (exponents[0] - exponents[1])
    return unit, low / step * ratio, high / step * ratio + ratio / 2 - 1


def _as_mantissas(w: Weights, whole: Array, exponents: tuple[int, ...]) -> tuple[Array, ...]:
    step = weight_grid(w.mode, w.bits)[2]
    whole = whole.reshape(w.map.weight.shape) if isinstance(w.map, Convolution) else whole
    if len(exponents) == 1:
        return ((whole * step).astype(np.int16),)
    return quantise.split_pairs(whole, exponents, w.mode, w.bits)


