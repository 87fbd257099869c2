"""Integers fitted to recordings: scales, weights and thresholds by the error of the membrane where spikes are decided.

A rounded weight matters by what it does to the membrane when that is near its threshold. Let a be what has arrived through each
synapse of a neuron since its last spike at such a moment (`hardware.compile.arrivals`, from the float network on a few
recordings), m = E[a] and H = E[(a - m)(a - m)^T] over neurons and moments. Rounding w to q / s moves the membrane there by
(q / s - w)^T m on average, which a threshold of so much more makes up for, and about that by (q / s - w)^T H (q / s - w) in the mean
square. Where neurons have no threshold of their own, m is 0. Of each row of weights, an output channel or a neuron:

1. the scale s with the least such error, clipped weights included (the largest weight decides no more);
2. the integers, one after the other: each takes the value that makes up best for the error of all others, a few times over
   (coordinate descent, zeros stay zeros). A projection may become several between the same populations, of exponents one apart and
   of one sign, whose mantissas spend no bit on it: each weight stays one synapse, in the one whose grid holds it best, so that
   small weights get fine steps;
3. thresholds, of each neuron where the chip has them, by how far its membrane has moved at its threshold.

Prior art: OSBC (one-shot pruning and quantisation by the membrane's error, arXiv 2506.03996) chooses weights by a second-order
expansion of the same error, of one layer at a time, as Optimal Brain Compression does for activations, and reports 0.17, 1.54
and 7.71 points lost at 4 bits on N-MNIST, CIFAR10-DVS and DVS128 Gesture; GPTQ (arXiv 2210.17323) rounds the columns of a
matrix in one pass and feeds each error to those that follow by H. What is the same: the objective, H from a few recordings, one
rounding making up for another. What differs: H is taken where spikes are decided and since the last one, of each row by itself; the
descent goes over the weights until none moves, which leaves less error here than GPTQ's one pass; the integers are a chip's (shared
exponents, grids by sign, thresholds of so many bits), scales and thresholds are fitted with them, nothing is pruned, and
what counts is agreement of spikes on other recordings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from hardware.chip.chips import Chip, NeuronModel, as_chip
from hardware.compile import quantise
from hardware.compile.arrivals import Arrivals, Course, arrivals
from hardware.compile.compiler import Compiled, compile_layers
from hardware.compile.descent import descend, nearest
from hardware.compile.linear import Convolution, is_sparse
from hardware.compile.rounding import Fit, Rounded
from hardware.compile.scaling import Scaling, Seen, members, whole_scale
from hardware.compile.weights import Weights
from hardware.errors import HardwareError
from hardware.graph.graph import Graph
from hardware.network.integer import SignMode, weight_grid
from hardware.simulate.float_simulator import FloatSimulator
from hardware.simulate.given import check_rasters

Array = np.ndarray
# Beyond so many synapses per neuron their products are not kept; entries of a matrix that is looked at at once.
MOST_SYNAPSES, MOST_ENTRIES = 4096, 1 << 26
FACTORS = np.geomspace(0.4, 1.6, 33)
# Products of weights and inputs up to which integers are fitted at every factor, beyond only at the best, and up to which each
# row has products of its own.
MOST_WORK, MOST_OWN = 1 << 27, 1 << 28
_SIGNS: tuple[SignMode, ...] = ("excitatory", "inhibitory")
# As how many moments of a neuron those of its row count for its threshold.
ROWS_SHARE = 10.0


@dataclass(frozen=True)
class Calibration:
    """(source, target) -> error of the membrane near its threshold by that projection, root mean square relative to the membrane,
    before and, but for what thresholds of their own make up for, after."""

    before: dict[tuple[str, str], float]
    after: dict[tuple[str, str], float]


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
    many the weights of a projection may be spread, each weight one synapse of one of them, and those of each sign by
    themselves where there is more than one. pairs, seen, options: as
    `hardware.compile.compiler.compile_layers` takes them. Populations on a grid stay as they are.
    Raises HardwareError: no recordings, rasters that do not fit.
    """
    chip = as_chip(chip)
    plain = compile_layers(graph, chip, pairs=pairs, seen=seen, **options)
    given, batch, steps = check_rasters(plain.network, rasters)
    if not batch or not steps:
        raise HardwareError("there are no recordings to calibrate on")
    courses = _courses(graph, plain, rasters, options.get("reset"))
    spikes = dict(given)
    for name, course in courses.items():
        if course.spikes is not None:
            spikes[name] = course.spikes
    fits, before, after = {}, {}, {}
    for layer in plain.layers:
        if layer.scaling.on_grid:
            continue
        rng = np.random.default_rng(seed)
        course = courses.get(layer.population.name, Course(None, None))
        fit, errors = _fitted(layer, spikes, course, chip, exponents, rng)
        fits[layer.population.name] = fit
        for (source, target), (first, last) in errors.items():
            before[source, target], after[source, target] = first, last
    fitted = compile_layers(graph, chip, pairs=pairs, seen=seen, fits=fits, **options)
    return fitted, Calibration(before, after)


def _courses(graph: Graph, plain: Compiled, rasters: Array, reset: Any) -> dict[str, Course]:
    """Of every population that spikes, in floats."""
    layers = [x for x in plain.layers if x.population.spiking and x.population.name in graph.nodes]
    names = [layer.population.name for layer in layers]
    simulator = FloatSimulator(graph, plain.network.dt, reset)
    found: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    for b in range(len(rasters)):  # membranes of one recording at a time
        run = simulator.run(rasters[b : b + 1], names)
        for layer in layers:
            name, neurons = layer.population.name, layer.demand.neurons
            fired, v = (x[name].reshape(*x[name].shape[:2], -1) for x in (run.spikes, run.membranes))
            found[name].append((fired, ((v - neurons.offset) / neurons.threshold).astype(np.float32)))
    return {
        name: Course(*(np.concatenate([part[k] for part in parts]) for k in (0, 1)))
        for name, parts in found.items()
    }


# --- fitting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A path under fitting. weight: (rows, d) floats. given: its exponents as it is rounded plainly. centred: whether a threshold
    of its own makes up for what a row's membrane moves by on average."""

    w: Weights
    weight: Array
    arrived: Arrivals
    given: tuple[int, ...]
    values: _Values
    centred: bool

    def h(self, row: int) -> Array:
        """H of a row."""
        if self.work > MOST_OWN:
            return self._common[self.arrived.group(row)]
        return self._about(*self.arrived.own(row))

    @cached_property
    def _common(self) -> list[Array]:
        """H of each group of rows."""
        return [self._about(*self.arrived.common(group)) for group in range(len(self.arrived.shared))]

    def _about(self, h: Array, mean: Array) -> Array:
        return h - np.outer(mean, mean) if self.centred else h

    @property
    def work(self) -> int:
        return self.weight.size * self.weight.shape[1]

    def fitted(self, row: int, scales: Array) -> tuple[Array, Array]:
        """Values of a row at each of the scales, (scales, d), and the error's square."""
        h = self.h(row)
        exact = self.weight[row] * scales[:, None]
        found = nearest(exact, self.values.points)
        if len(scales) == 1 or self.work <= MOST_WORK:
            found = descend(found, exact, h, self.values.points)
        return found, _squared(found / scales[:, None] - self.weight[row], h)

    def plain_errors(self, scale: Array) -> tuple[float, float]:
        """The error's square of rows that are rounded plainly, and the square of their membranes."""
        plain = _Values((self.w.mode,), self.w.bits, self.given, self.values.classes)
        by_row = scale[self.w.row_scale][:, None]
        off = nearest(self.weight * by_row, plain.points) / by_row - self.weight
        error = size = 0.0
        for group in range(len(self.arrived.shared)):
            h, _ = self.arrived.common(group)
            rows = [row for row in range(len(off)) if self.arrived.group(row) == group]
            error += float(_squared(off[rows], h).sum())
            size += float(_squared(self.weight[rows], h).sum())
        return error, size


def _squared(error: Array, h: Array) -> Array:
    return np.einsum("ri,ij,rj->r", error, h, error, optimize=True)


def _fitted(
    layer: Rounded,
    spikes: dict[str, Array],
    course: Course,
    chip: Chip,
    exponents: int,
    rng: np.random.Generator,
) -> tuple[Fit, dict[tuple[str, str], tuple[float, float]]]:
    demand, scaling, model = layer.demand, layer.scaling, chip.neuron
    each = demand.thresholds is not None and model.thresholds_per == "neuron"
    parts: list[_Part | None] = []
    taken: list[tuple[int, ...]] = []
    for w, given, constant in zip(demand.weights, scaling.exponents, demand.constant, strict=True):
        if constant or not _small(w):
            parts.append(None)
            taken.append(given)
            continue
        values = _allowed(w, given, exponents, model)
        arrived = arrivals(layer, w, spikes[w.path.source], course, rng)
        parts.append(_Part(w, _flat(w), arrived, given, values, each))
        taken.append(tuple(exponent for _, exponent in values.forms) if values.classes else given)
    known = [p for p in parts if p is not None]
    scale = scaling.scale.copy()
    if known and demand.thresholds is not None and all(p.values.classes for p in known):
        scale = _best_scales(known, scaling.scale)
        for g, at in enumerate(members(demand.group, len(scale))):
            scale[g] = whole_scale(scale[g], demand.thresholds[at])
    mantissas: list[tuple[Array, ...] | None] = []
    modes: list[tuple[SignMode, ...] | None] = []
    errors: dict[tuple[str, str], tuple[float, float]] = {}
    moved = np.zeros(len(demand.group))
    for part in parts:
        if part is None:
            mantissas.append(None)
            modes.append(None)
            continue
        found, after, n = np.zeros_like(part.weight), 0.0, len(moved) // len(part.weight)
        for row in range(len(found)):
            own = part.w.row_scale[row]
            found[row], cost = (x[0] for x in part.fitted(row, scale[own : own + 1]))
            after += float(cost)
            moved[row * n : (row + 1) * n] += _moves(part, row, found[row] / scale[own] - part.weight[row], n)
        before, size = part.plain_errors(scaling.scale)
        errors[part.w.path.source, demand.neurons.name] = (
            (math.sqrt(max(before, 0.0) / size), math.sqrt(max(after, 0.0) / size)) if size else (0.0, 0.0)
        )
        if isinstance(part.w.map, Convolution):
            found = found.reshape(part.w.map.weight.shape)
        mantissas.append(part.values.mantissas(found))
        modes.append(tuple(mode for mode, _ in part.values.forms))
    thresholds = demand.thresholds
    if thresholds is not None and known:
        thresholds = thresholds * np.clip(1 + (moved if each else moved.mean()) / thresholds, 0.5, 2.0)
    fitted = _rescaled(layer, scale, thresholds, tuple(taken), chip)
    return Fit(fitted, tuple(mantissas), tuple(modes)), errors


def _small(w: Weights) -> bool:
    """Whether a path is small enough to be looked at."""
    if isinstance(w.map, Convolution):
        return math.prod(w.map.weight.shape[1:]) <= MOST_SYNAPSES
    return w.map.matrix.shape[1] <= MOST_SYNAPSES and math.prod(w.map.matrix.shape) <= MOST_ENTRIES


def _moves(part: _Part, row: int, error: Array, n: int) -> Array:
    """By how much the membranes of the n neurons of a row move at the threshold where its weights are off by `error`, drawn to the
    mean of the row where recordings say little of a neuron."""
    which = part.arrived.neurons[row] - row * n
    if not len(which):
        return np.full(n, error @ part.arrived.common(part.arrived.group(row))[1])
    off = part.arrived.arrived[row] @ error
    own, number = np.bincount(which, off, n), np.bincount(which, minlength=n)
    return (own + ROWS_SHARE * off.mean()) / (number + ROWS_SHARE)


def _rescaled(
    layer: Rounded, scale: Array, thresholds: Array | None, exponents: tuple[tuple[int, ...], ...], chip: Chip
) -> Scaling:
    """These thresholds, None of a read-out, and the drives at these scales."""
    demand, model = layer.demand, chip.neuron
    per_neuron = scale[demand.group]
    vth = layer.scaling.thresholds
    if thresholds is not None:
        vth = np.clip(np.rint(thresholds * per_neuron), 0, model.largest_threshold).astype(np.int64)
    mantissas, bias_exp = quantise.bias_mantissa(
        demand.drives * per_neuron * quantise.ACTIVATION_UNIT,
        model.network_bias_exponents,
        model.largest_bias,
    )
    return replace(
        layer.scaling,
        scale=scale,
        exponents=exponents,
        thresholds=vth,
        drives=mantissas.astype(np.float64) * 2**bias_exp,
        bias_exp=bias_exp,
    )


def _best_scales(parts: list[_Part], scale: Array) -> Array:
    """Of each group the scale, among factors on the given one, with the least error of the membrane."""
    costs = np.zeros((len(scale), len(FACTORS)))
    for part in parts:
        for row, group in enumerate(part.w.row_scale):
            costs[group] += part.fitted(row, scale[group] * FACTORS)[1]
    return scale * FACTORS[np.argmin(costs, axis=1)]


def _flat(w: Weights) -> Array:
    """(rows, d)"""
    if isinstance(w.map, Convolution):
        return w.map.weight.reshape(len(w.map.weight), -1)
    return w.map.matrix.toarray() if is_sparse(w.map.matrix) else w.map.matrix


@dataclass(frozen=True)
class _Values:
    """What a weight times its scale may become: a value of one of several grids, or the sum of two synapses.

    modes: signs of the grids of each exponent. exponents: falling. classes: whether each weight takes one value, not a sum.
    """

    modes: tuple[SignMode, ...]
    bits: int
    exponents: tuple[int, ...]
    classes: bool

    @property
    def forms(self) -> tuple[tuple[SignMode, int], ...]:
        """Of each projection."""
        return tuple((mode, exponent) for exponent in self.exponents for mode in self.modes)

    @cached_property
    def points(self) -> Array:
        """All of them, rising."""
        if self.classes:
            parts = []
            for mode, exponent in self.forms:
                low, high, step = weight_grid(mode, self.bits)
                parts.append(np.arange(low, high + 1, step) * 2.0**exponent)
            return np.unique(np.concatenate(parts))
        low, high, step = weight_grid(self.modes[0], self.bits)
        coarse, fine = 2.0 ** self.exponents[0], 2.0 ** self.exponents[-1]
        return np.arange(low * coarse, high * coarse + step * fine, step * fine)

    def mantissas(self, values: Array) -> tuple[Array, ...]:
        """Of each projection, for some of the points."""
        if not self.classes:
            step = weight_grid(self.modes[0], self.bits)[2]
            whole = values / (step * 2.0 ** self.exponents[-1])
            return quantise.split_pairs(whole, self.exponents, self.modes[0], self.bits)
        parts, left = [], values.copy()
        for mode, exponent in self.forms[::-1]:
            low, high, step = weight_grid(mode, self.bits)
            mantissa = left / 2.0**exponent
            fits = (mantissa >= low) & (mantissa <= high) & (np.mod(mantissa, step) == 0)
            mantissa = np.where(fits, mantissa, 0.0)
            left -= mantissa * 2.0**exponent
            parts.append(mantissa.astype(np.int16))
        return tuple(parts[::-1])


def _allowed(w: Weights, given: tuple[int, ...], exponents: int, model: NeuronModel) -> _Values:
    """What weights of a path may become; given: its exponents as it is rounded plainly, two where it is in pairs."""
    if len(given) == 2:
        return _Values((w.mode,), w.bits, given, False)
    modes: tuple[SignMode, ...] = (w.mode,)
    several = exponents > 1 and model.weight_exponents[0] < model.weight_exponents[1]
    if several and w.mode == "mixed" and {*_SIGNS} <= {*model.sign_modes}:
        modes = _SIGNS
    spacing = weight_grid(modes[0], w.bits)[2]
    lowest = max(-int(math.log2(spacing)), model.weight_exponents[0])
    taken = tuple(e for e in range(given[0], given[0] - exponents, -1) if e >= lowest)
    return _Values(modes, w.bits, taken or given, True)
