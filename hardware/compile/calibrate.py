"""Integers fitted to recordings: scales, weights, thresholds and biases by the error of the membrane.

A rounded weight matters by what it does to the membrane between two spikes. Let a be what has arrived through each synapse of a
neuron (decayed as its current and membrane decay, and on average since its last spike), H = E[a a^T] over neurons and
times of a few recordings of the float network. Rounding w to q / s costs the membrane (q / s - w)^T H (q / s - w) in the mean
square. Of each projection and channel:

1. the scale s with the least such error, clipped weights included (the largest weight decides no more);
2. the integers, one after the other: each takes the value that makes up best for the error of all others, a few times over
   (coordinate descent, zeros stay zeros). A projection may become several between the same populations, of exponents one apart:
   each weight stays one synapse, in the one whose grid holds it best, so that small weights get fine steps;
3. thresholds, of each neuron where the chip has them, times the factor by which its membrane has grown or shrunk; the drive of
   a bias with it, so that it fires the neuron as often.

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
from hardware.network.geometry import conv
from hardware.network.integer import weight_grid
from hardware.simulate import float_simulator
from hardware.simulate.simulator import check_rasters

Array = np.ndarray
# Beyond so many synapses per neuron their products are not kept; entries of a matrix that is looked at at once.
MOST_SYNAPSES, MOST_ENTRIES = 4096, 1 << 26
# Times of each recording and, of a convolution, positions at each time that are looked at.
TIMES, POSITIONS = 32, 64
FACTORS = np.geomspace(0.5, 1.5, 13)
SWEEPS = 8
# Up to so many products of weights and inputs, integers are fitted at every factor, beyond only at the best.
MOST_WORK = 1 << 24
# How much of its group a neuron's factor is drawn to, as a share of what recordings say of a neuron of it in mean.
SHRINK = 0.3


@dataclass(frozen=True)
class Calibration:
    """(source, target) -> error of the membrane by that projection, root mean square relative to the membrane, before and after."""

    before: dict[tuple[str, str], float]
    after: dict[tuple[str, str], float]


@dataclass(frozen=True)
class Moments:
    """Of what arrived through the synapses of rows: products (d, d), mean over neurons and times."""

    products: Array


@dataclass(frozen=True)
class _Block:
    """Rows of a path that share their inputs."""

    rows: slice
    moments: Moments


def calibrate(
    graph: Graph,
    chip: Chip | str,
    rasters: Array,
    seed: int = 0,
    pairs: Any = False,
    seen: dict[str, Seen] | None = None,
    exponents: int = 3,
    **options: Any,
) -> tuple[Compiled, Calibration]:
    """The network with integers fitted to recordings, and the membrane's errors.

    rasters: (batch, steps, *input shape), whole numbers. seed: which times and positions are looked at. exponents: over how
    many the weights of a projection may be spread, each weight one synapse of one of them. pairs, seen, options: as
    `hardware.compile.compiler.compile_layers` takes them. Populations on a grid stay as they are.
    Raises HardwareError: no recordings, rasters that do not fit.
    """
    chip = as_chip(chip)
    plain = compile_layers(graph, chip, pairs=pairs, seen=seen, **options)
    given, batch, steps = check_rasters(plain.network, rasters)
    if not batch or not steps:
        raise HardwareError("there are no recordings to calibrate on")
    sources = [p.name for p in plain.network.populations if p.spiking and p.name in graph.nodes]
    run = float_simulator.simulate(
        graph, rasters, plain.network.dt, options.get("reset"), sources, membranes=False
    )
    spikes = {**given, **run.spikes}
    fits, before, after = {}, {}, {}
    for layer in plain.layers:
        if layer.scaling.on_grid:
            continue
        rng = np.random.default_rng(seed)
        fit, errors = _fitted(layer, spikes, run.spikes, chip, exponents, rng)
        fits[layer.population.name] = fit
        for (source, target), (first, last) in errors.items():
            before[source, target], after[source, target] = first, last
    fitted = compile_layers(graph, chip, pairs=pairs, seen=seen, fits=fits, **options)
    return fitted, Calibration(before, after)


# --- what arrives --------------------------------------------------------------------------------------------


def _traces(
    layer: Rounded, w: Weights, spikes: dict[str, Array], leak: float, times: set[int]
) -> list[Array]:
    """What has arrived of each source neuron, (batch, *source shape), at some of the steps."""
    raster = spikes[w.path.source]
    current = np.zeros((len(raster), *raster.shape[2:]))
    trace = np.zeros_like(current)
    forget = float(layer.demand.neurons.forget.mean())
    found = []
    for t in range(raster.shape[1]):
        late = t - w.path.latency
        current *= 1 - forget
        if late >= 0:
            current += raster[:, late]
        trace = trace * (1 - leak) + current
        if t in times:
            found.append(trace)
    return found


def _moments(
    layer: Rounded, w: Weights, spikes: dict[str, Array], leak: float, rng: np.random.Generator
) -> list[_Block] | None:
    """Of one path; None where it is too large to be looked at."""
    steps = spikes[w.path.source].shape[1]
    d = math.prod(w.map.weight.shape[1:]) if isinstance(w.map, Convolution) else w.map.matrix.shape[1]
    if d > MOST_SYNAPSES or (
        not isinstance(w.map, Convolution) and math.prod(w.map.matrix.shape) > MOST_ENTRIES
    ):
        return None
    groups = w.map.groups if isinstance(w.map, Convolution) else 1
    products, seen = np.zeros((groups, d, d)), 0
    times = set(rng.choice(steps, min(TIMES, steps), replace=False).tolist())
    for trace in _traces(layer, w, spikes, leak, times):
        arrived = (
            _patches(trace, w.map, rng)
            if isinstance(w.map, Convolution)
            else trace.reshape(1, len(trace), -1)
        )
        products += arrived.transpose(0, 2, 1) @ arrived
        seen += arrived.shape[1]
    rows = len(w.row_scale) // groups
    return [_Block(slice(g * rows, (g + 1) * rows), Moments(products[g] / seen)) for g in range(groups)]


def _patches(trace: Array, map_: Convolution, rng: np.random.Generator) -> Array:
    """(groups, samples, in / groups * kernel): what windows at random positions of every recording hold."""
    _, within, rows, columns = map_.weight.shape
    y = rng.integers(0, map_.target[1], POSITIONS)
    x = rng.integers(0, map_.target[2], POSITIONS)
    room = [
        (p, p + k * d + s)
        for p, k, d, s in zip(map_.padding, (rows, columns), map_.dilation, map_.stride, strict=True)
    ]
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


@dataclass(frozen=True)
class _Part:
    """A path under fitting. weight: (rows, d) floats."""

    w: Weights
    weight: Array
    blocks: list[_Block]
    values: _Values

    def rounded(self, scale: Array, descend: bool) -> tuple[Array, Array]:
        """Values on the chip's grid at these scales of the groups, (rows, d), and the error's square of each row."""
        chosen, cost = np.zeros_like(self.weight), np.zeros(len(self.weight))
        for block in self.blocks:
            exact = self.weight[block.rows]
            by_row = scale[self.w.row_scale[block.rows]][:, None]
            found = self.values.nearest(exact * by_row)
            if descend:
                found = _descend(found, exact * by_row, block.moments.products, self.values)
            error = found / by_row - exact
            chosen[block.rows] = found
            cost[block.rows] = np.einsum("ri,ij,rj->r", error, block.moments.products, error, optimize=True)
        return chosen, cost

    @property
    def size(self) -> float:
        """Square of the membrane that the path drives, summed over rows."""
        return sum(
            float(np.einsum("ri,ij,rj->", e, block.moments.products, e, optimize=True))
            for block in self.blocks
            for e in (self.weight[block.rows],)
        )


def _fitted(
    layer: Rounded,
    spikes: dict[str, Array],
    own: dict[str, Array],
    chip: Chip,
    exponents: int,
    rng: np.random.Generator,
) -> tuple[Fit, dict[tuple[str, str], tuple[float, float]]]:
    demand, scaling, model = layer.demand, layer.scaling, chip.neuron
    leak = _leak(layer, own.get(layer.population.name))
    parts: list[_Part | None] = []
    taken: list[tuple[int, ...]] = []
    for w, given, constant in zip(demand.weights, scaling.exponents, demand.constant, strict=True):
        blocks = None if constant else _moments(layer, w, spikes, leak, rng)
        if blocks is None:
            parts.append(None)
            taken.append(given)
            continue
        spacing = weight_grid(w.mode, w.bits)[2]
        lowest = max(-int(math.log2(spacing)), model.weight_exponents[0])
        pair = len(given) == 2
        steps = given if pair else tuple(e for e in range(given[0], given[0] - exponents, -1) if e >= lowest)
        parts.append(_Part(w, _flat(w), blocks, _values(w, steps, not pair)))
        taken.append(steps)
    known = [p for p in parts if p is not None]
    scale = scaling.scale.copy()
    if known and demand.thresholds is not None and all(p.values.classes for p in known):
        scale = _best_scales(known, scaling.scale)
        for g, at in enumerate(members(demand.group, len(scale))):
            scale[g] = whole_scale(scale[g], demand.thresholds[at])
    mantissas: list[tuple[Array, ...] | None] = []
    chosen: list[Array] = []
    errors = {}
    for part in parts:
        if part is None:
            mantissas.append(None)
            continue
        found, cost = part.rounded(scale, descend=True)
        plain = _Part(part.w, part.weight, part.blocks, _values(part.w, part.values.exponents[:1], True))
        _, first = (part if not part.values.classes else plain).rounded(scaling.scale, descend=False)
        size = part.size
        errors[part.w.path.source, demand.neurons.name] = (
            math.sqrt(max(float(first.sum()), 0.0) / size) if size else 0.0,
            math.sqrt(max(float(cost.sum()), 0.0) / size) if size else 0.0,
        )
        chosen.append(found / scale[part.w.row_scale][:, None])
        mantissas.append(_as_mantissas(part.w, found, part.values))
    factor = np.ones(len(demand.group))
    if demand.thresholds is not None and known:
        factor = _threshold_factors(layer, known, chosen, spikes, leak, model.thresholds_per == "neuron", rng)
    fitted = _rescaled(layer, scale, factor, tuple(taken), chip)
    return Fit(fitted, tuple(mantissas)), errors


def _best_scales(parts: list[_Part], scale: Array) -> Array:
    """Of each group the scale, among factors on the given one, with the least error of the membrane."""
    work = max(p.weight.size * p.weight.shape[1] for p in parts)
    descend = work <= MOST_WORK
    costs = []
    for factor in FACTORS:
        cost = np.zeros(len(scale))
        for part in parts:
            np.add.at(cost, part.w.row_scale, part.rounded(scale * factor, descend)[1])
        costs.append(cost)
    return scale * FACTORS[np.argmin(costs, axis=0)]


def _descend(start: Array, exact: Array, h: Array, values: _Values) -> Array:
    """Values near `start` with a smaller (q - exact)^T H (q - exact), row by row; zeros of `exact` stay."""
    q = start.copy()
    gradient = (q - exact) @ h
    diagonal = np.diag(h)
    alive = exact != 0
    for _ in range(SWEEPS):
        moved = False
        for i in np.flatnonzero(diagonal > 0):
            better = values.nearest(q[:, i] - gradient[:, i] / diagonal[i])
            step = np.where(alive[:, i], better - q[:, i], 0.0)
            if step.any():
                gradient += step[:, None] * h[i]
                q[:, i] += step
                moved = True
        if not moved:
            break
    return q


def _threshold_factors(
    layer: Rounded,
    parts: list[_Part],
    chosen: list[Array],
    spikes: dict[str, Array],
    leak: float,
    each: bool,
    rng: np.random.Generator,
) -> Array:
    """By what each neuron's membrane grew or shrank as its weights were rounded, where it is on its way to the threshold.

    One for all neurons, or (each) one per neuron, drawn to that of its group where recordings say little of it.
    """
    n = len(layer.demand.group)
    batch, steps = next(iter(spikes.values())).shape[:2]
    times = np.sort(rng.choice(steps, min(TIMES, steps), replace=False))
    before, after = np.zeros((len(times) * batch, n)), np.zeros((len(times) * batch, n))
    for part, weight in zip(parts, chosen, strict=True):
        traces = _traces(layer, part.w, spikes, leak, set(times.tolist()))
        stacked = np.concatenate(traces)
        for total, flat in ((before, part.weight), (after, weight)):
            if isinstance(part.w.map, Convolution):
                map_ = part.w.map
                around = tuple((p, p) for p in map_.padding)
                none = np.zeros(len(flat))
                kernel = flat.reshape(map_.weight.shape)
                total += conv(stacked, kernel, none, map_.stride, around, map_.dilation, map_.groups).reshape(
                    len(stacked), -1
                )
            else:
                total += stacked.reshape(len(stacked), -1) @ flat.T
    rising = before > 0
    products, squares = (before * after * rising).sum(axis=0), (before**2 * rising).sum(axis=0)
    group = layer.demand.group if each else np.zeros(n, np.int64)
    of_group = [np.bincount(group, values) for values in (products, squares)]
    common = np.where(of_group[1] > 0, of_group[0] / np.maximum(of_group[1], 1e-300), 1.0)[group]
    if not each:
        return np.clip(common, 0.5, 2.0)
    few = SHRINK * (of_group[1] / np.bincount(group))[group]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(squares + few > 0, (products + few * common) / (squares + few), 1.0)
    return np.clip(factor, 0.5, 2.0)


def _rescaled(
    layer: Rounded, scale: Array, factor: Array, exponents: tuple[tuple[int, ...], ...], chip: Chip
) -> Scaling:
    """Thresholds and drives at these scales, the thresholds times the neurons' factors."""
    demand, model = layer.demand, chip.neuron
    per_neuron = scale[demand.group]
    vth = layer.scaling.thresholds
    if demand.thresholds is not None:
        exact = demand.thresholds * per_neuron * factor
        vth = np.clip(np.rint(exact), 0, model.largest_threshold).astype(np.int64)
    # A bias must fire a neuron as often as before: it keeps its ratio to the threshold.
    exact_drives = demand.drives * per_neuron * factor * quantise.ACTIVATION_UNIT
    mantissas, bias_exp = quantise.bias_mantissa(
        exact_drives, model.network_bias_exponents, model.largest_bias
    )
    return replace(
        layer.scaling,
        scale=scale,
        exponents=exponents,
        thresholds=vth,
        drives=mantissas.astype(np.float64) * 2**bias_exp,
        bias_exp=bias_exp,
    )


def _flat(w: Weights) -> Array:
    """(rows, d)"""
    if isinstance(w.map, Convolution):
        return w.map.weight.reshape(len(w.map.weight), -1)
    return w.map.matrix.toarray() if sparse.issparse(w.map.matrix) else w.map.matrix


@dataclass(frozen=True)
class _Values:
    """What a weight times its scale may become: one grid, a grid per exponent, or the sums of two synapses.

    exponents: falling. classes: whether each weight takes one of them, not their sum.
    """

    low: float
    high: float
    step: float
    exponents: tuple[int, ...]
    classes: bool

    def nearest(self, x: Array) -> Array:
        """The nearest such value."""
        if len(self.exponents) == 1 or not self.classes:
            unit = self.step * 2.0 ** self.exponents[-1]
            ratio = 2.0 ** (self.exponents[0] - self.exponents[-1])
            rest = (ratio - 1) * self.step if ratio > 1 else 0.0
            low, high = self.low * 2.0 ** self.exponents[0], self.high * 2.0 ** self.exponents[0]
            return np.clip(np.rint(x / unit) * unit, low, high + rest * 0)
        best = np.full(x.shape, np.inf)
        for exponent in self.exponents:
            unit = 2.0**exponent
            value = np.clip(np.rint(x / (self.step * unit)) * self.step, self.low, self.high) * unit
            best = np.where(np.abs(value - x) < np.abs(best - x), value, best)
        return best

    def mantissas(self, values: Array) -> tuple[Array, ...]:
        """Of each exponent, for values that `nearest` gave."""
        parts, left = [], values.copy()
        for exponent in self.exponents[::-1]:
            unit = 2.0**exponent
            mantissa = left / unit
            fits = (mantissa >= self.low) & (mantissa <= self.high) & (np.mod(mantissa, self.step) == 0)
            mantissa = np.where(fits, mantissa, 0.0)
            left -= mantissa * unit
            parts.append(mantissa.astype(np.int16))
        return tuple(parts[::-1])


def _values(w: Weights, exponents: tuple[int, ...], classes: bool) -> _Values:
    low, high, step = weight_grid(w.mode, w.bits)
    return _Values(low, high, step, exponents, classes)


def _as_mantissas(w: Weights, chosen: Array, values: _Values) -> tuple[Array, ...]:
    chosen = chosen.reshape(w.map.weight.shape) if isinstance(w.map, Convolution) else chosen
    if len(values.exponents) == 1 or values.classes:
        return values.mantissas(chosen)
    whole = chosen / (values.step * 2.0 ** values.exponents[-1])
    return quantise.split_pairs(whole, values.exponents, w.mode, w.bits)
