"""How large a population's integers are: one scale per group of neurons, exponents, thresholds and biases.

Three ways, in this order:

- On a grid that weights, biases and thresholds already share, so that nothing is rounded (`hardware.compile.grid`).
- Otherwise the largest scale that fits, lowered until thresholds are whole: a sum that equals the threshold must not fire, and
  a bias that fires a neuron every n steps in floats does so on the chip.
- With a projection in pairs (two synapses per weight, of different exponents), a scale beyond what one synapse holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hardware.chip.chips import NeuronModel
from hardware.compile import grid, quantise
from hardware.compile.layers import Neurons
from hardware.compile.weights import Weights
from hardware.network.integer import MAX_DECAY, MAX_WEIGHT_EXP, weight_grid

Array = np.ndarray
# A read-out's membrane must not run into its limits: assume this share of its sources active in every step,
# over its time constant, at most so many steps.
READOUT_ACTIVITY, READOUT_STEPS = 0.1, 100
# Where thresholds are lower than this, making them whole would cost too much of the weights' range.
LEAST_WHOLE_THRESHOLD = 8
# Rounding may add half a unit per synapse to a sum.
ROUNDED_SUMS = 0.97
# Times the largest current of the recordings that a current may grow to.
SEEN_MARGIN = 2.0
# Times the depth that membranes needed on the recordings.
DEEPER = 1.1


@dataclass(frozen=True)
class Scaling:
    """scale: units of a weight at the exponent 0 per unit of the graph's weights, per group.

    exponents: of each path one, or two where its weights are pairs: of the coarse and of the fine synapse.
    thresholds: mantissas, (neurons,), empty for a read-out. drives: (neurons,), 64ths of a unit, to be rounded to multiples
    of 2**bias_exp. on_grid: whether weights, thresholds and drives are exact.
    """

    scale: Array
    exponents: tuple[tuple[int, ...], ...]
    thresholds: Array
    drives: Array
    bias_exp: int
    on_grid: bool


@dataclass(frozen=True)
class Seen:
    """Of each neuron on recordings, on the scale that its group shares: the largest |current|, and the room that its membrane
    needs below zero, see `hardware.compile.pairs.depth_needed`."""

    current: Array
    below: Array


@dataclass(frozen=True)
class Demand:
    """A population to be scaled. group: which scale each neuron follows. residual: what of the gain is each neuron's own.

    drive: of the membrane per step. paired: of each path, whether its weights may be pairs. counts: the largest count
    of a spike that comes over each path. constant: of each path, whether it carries a bias, which always may be pairs: it
    has few synapses. seen: on recordings; None: nothing is known of them.
    """

    neurons: Neurons
    group: Array
    residual: Array
    drive: Array
    weights: list[Weights]
    paired: list[bool]
    counts: list[int]
    constant: list[bool]
    seen: Seen | None = None

    @property
    def thresholds(self) -> Array | None:
        """On the scale that a group shares."""
        return None if self.neurons.threshold is None else self.neurons.threshold / self.residual

    @property
    def drives(self) -> Array:
        """On the scale that a group shares."""
        return self.drive / self.residual

    @property
    def weights_paired(self) -> bool:
        """Whether weights other than biases may be pairs."""
        return any(p and not c for p, c in zip(self.paired, self.constant, strict=True))

    @property
    def decays(self) -> bool:
        """Whether anything is kept in part from step to step, so that the chip cuts off what is not whole."""
        leak = self.neurons.leak
        return bool(((leak > 0) & (leak < 1)).any() or (self.neurons.forget < 1).any())


def scaled(demand: Demand, model: NeuronModel) -> Scaling:
    """The scaling of a population on a chip."""
    found = _on_grid(demand, model)
    return found if found is not None else _rounded(demand, model)


# --- on a grid -----------------------------------------------------------------------------------------------


def _on_grid(demand: Demand, model: NeuronModel) -> Scaling | None:
    neurons, groups = demand.neurons, int(demand.group.max()) + 1
    cap = _highest_scale(demand, model)
    limits = grid.Limits(
        (0, min(model.weight_exponents[1], MAX_WEIGHT_EXP)),
        model.network_bias_exponents,
        model.largest_threshold,
        model.largest_bias,
        model.largest_input * max(float(neurons.forget.min()), 1e-3),
    )
    at_group = members(demand.group, groups)
    paths = [_grid_paths(demand.weights, g) for g in range(groups)]
    if any(p is None for p in paths):
        return None
    thresholds = demand.thresholds
    soft = demand.neurons.reset == "subtract" and thresholds is not None
    for exact, loose in ((True, False), (False, True)) if demand.decays else ((soft, False),):
        parts = [
            grid.Group(
                tuple(p or ()),
                demand.drives[at],
                np.zeros(0) if thresholds is None else thresholds[at],
                exact_thresholds=exact,
                loose_thresholds=loose,
                accumulates=bool((neurons.leak == 0).all()),
            )
            for p, at in zip(paths, at_group, strict=True)
        ]
        found = grid.solve(parts, limits, _deepest(demand, cap, model) if demand.decays else None)
        if found is not None and (thresholds is not None or (found.scales <= cap * (1 + 1e-9)).all()):
            break
    else:
        return None
    vth, drives = np.zeros(len(demand.group), np.int64), np.zeros(len(demand.group))
    for at, t, d in zip(at_group, found.thresholds, found.drives, strict=True):
        if t.size:
            vth[at] = t
        drives[at] = d
    exponents = tuple((int(e),) for e in found.exponents)
    return Scaling(found.scales, exponents, vth, drives, found.bias_exponent, True)


def _deepest(demand: Demand, cap: Array, model: NeuronModel) -> Array:
    """`cap`, lowered so that no membrane meets its lower limit."""
    cap = cap.copy()
    with np.errstate(divide="ignore"):
        np.minimum.at(cap, demand.group, (model.largest_input + 1) / _lowest(demand))
    return cap


def members(group: Array, groups: int) -> list[Array]:
    order = np.argsort(group, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group, minlength=groups))[:-1])


def _grid_paths(weights: list[Weights], g: int) -> list[grid.Path] | None:
    paths = []
    for w in weights:
        low, high, spacing = weight_grid(w.mode, w.bits)
        levels = max(high, -low) // spacing
        values = w.values(g)
        step = grid.step_of(values, levels)
        if step is None:
            return None
        rows = w.row_scale == g
        in_steps = 1 / step if step else 0.0
        most = (
            round(float(values.max(initial=0.0)) * in_steps),
            round(-float(values.min(initial=0.0)) * in_steps),
        )
        total = float(w.total[rows].max(initial=0.0)) * in_steps
        paths.append(grid.Path(step, most, total, low, high, spacing))
    return paths


# --- rounded -------------------------------------------------------------------------------------------------


def _rounded(demand: Demand, model: NeuronModel) -> Scaling:
    """The largest scales that fit, with thresholds as whole as they can be."""
    neurons, group = demand.neurons, demand.group
    scale, exponents = _pair_scales(demand, model) if demand.weights_paired else _single_scales(demand, model)
    thresholds = demand.thresholds
    if thresholds is not None:
        for g, at in enumerate(members(group, len(scale))):
            scale[g] = whole_scale(scale[g], thresholds[at])
    per_neuron = scale[group]
    vth = np.zeros(len(group), np.int64)
    if thresholds is not None:
        exact = thresholds * per_neuron
        keeps = ((neurons.leak == 0) | (neurons.leak == 1)) & (neurons.forget == 1)
        whole_sums = keeps & (demand.drive == 0) & (neurons.reset == "zero")
        vth = quantise.threshold_mantissa(exact, whole_sums, model.largest_threshold).astype(np.int64)
    exact_drive = demand.drives * per_neuron * quantise.ACTIVATION_UNIT
    mantissas, bias_exp = quantise.bias_mantissa(
        exact_drive, model.network_bias_exponents, model.largest_bias
    )
    drives = mantissas.astype(np.float64) * 2**bias_exp
    if thresholds is not None and demand.neurons.reset == "zero":
        drives = _as_often(drives, bias_exp, vth, demand.drives, thresholds, neurons)
    return Scaling(scale, exponents, vth, drives, bias_exp, False)


def whole_scale(scale: float, thresholds: Array) -> float:
    """At most `scale`, so that thresholds become whole numbers, where that costs little."""
    found = grid.common_unit(float(t) for t in np.unique(thresholds) if t > 0)
    if found is None or found[0] * scale < LEAST_WHOLE_THRESHOLD:
        return scale
    return math.floor(found[0] * scale * (1 + 1e-12)) / found[0]


def _as_often(
    drives: Array, bias_exp: int, vth: Array, exact: Array, thresholds: Array, neurons: Neurons
) -> Array:
    """Biases that fire a neuron in the same step as in floats, where they alone do and nothing leaks."""
    drives = drives.copy()
    known: dict[tuple[float, float, float, int], float] = {}
    for k in np.flatnonzero((exact > 0) & (neurons.leak == 0) & (neurons.forget == 1) & (vth > 0)):
        key = (float(drives[k]), float(exact[k]), float(thresholds[k]), int(vth[k]))
        if key not in known:
            known[key] = _same_step(*key, 2**bias_exp)
        drives[k] = known[key]
    return drives


def _same_step(drive: float, exact: float, threshold: float, vth: int, unit: int) -> float:
    wanted = grid.steps_to_fire(exact, threshold)
    if wanted is None:
        return drive
    level = vth * quantise.ACTIVATION_UNIT
    # Fires in step n where (n - 1) drive <= level < n drive.
    least = level // (wanted * unit) + 1
    most = level // ((wanted - 1) * unit) if wanted > 1 else math.inf
    return min(max(drive / unit, least), most) * unit if least <= most else drive


def _fits(demand: Demand) -> Array:
    """(paths, groups): the largest scale at which a path's weights fit one synapse at the exponent 0."""
    fits = np.full((len(demand.weights), int(demand.group.max()) + 1), np.inf)
    for fit, w in zip(fits, demand.weights, strict=True):
        low, high, _ = weight_grid(w.mode, w.bits)
        np.minimum.at(fit, w.row_scale, quantise.scale_that_fits(w.top, w.bottom, low, high))
    return fits


def _finite(scale: Array) -> Array:
    known = scale[np.isfinite(scale)]
    return np.where(np.isfinite(scale), scale, known.min() if known.size else 1.0)


def _single_scales(demand: Demand, model: NeuronModel) -> tuple[Array, tuple[tuple[int, ...], ...]]:
    """The scale of each group, at which the most demanding projection uses its whole range, and the exponents."""
    fits, cap, thresholds = _fits(demand), _highest_scale(demand, model), demand.thresholds
    highest = min(model.weight_exponents[1], MAX_WEIGHT_EXP)
    # A bias that is larger than the weights takes a larger exponent, not their bits.
    own = fits[[not constant for constant in demand.constant]].min(axis=0, initial=np.inf)
    all_of = fits.min(axis=0, initial=np.inf)
    scale = _finite(np.minimum(np.minimum(own, all_of * 2.0**highest), cap))
    lowest = 0.0 if thresholds is None else float((thresholds * scale[demand.group]).min())
    with np.errstate(invalid="ignore", divide="ignore"):
        rooms = np.array([np.min(fit / scale) for fit in fits])
    larger = math.ceil(max(-math.log2(float(rooms.min(initial=1.0))), 0.0) - 1e-9)
    shift, _ = quantise.shared_exponents(
        np.maximum(rooms, 1.0),
        _largest_input(demand, scale) / max(float(demand.neurons.forget.min()), 1e-3),
        lowest,
        float((cap / scale).min()),
        leaky=(demand.decays or bool(demand.drive.any())) and thresholds is not None,
        highest=highest - larger,
        largest_input=model.largest_input,
    )
    finite = np.where(np.isfinite(rooms), rooms, 2.0**highest)
    exponents = np.clip(shift - np.floor(np.log2(finite) + 1e-9), 0, highest)
    return scale * 2.0**shift, tuple(
        _exponents(w, int(e), constant, model)
        for w, e, constant in zip(demand.weights, exponents, demand.constant, strict=True)
    )


def _exponents(w: Weights, coarse: int, paired: bool, model: NeuronModel) -> tuple[int, ...]:
    """Of one synapse or two per weight, `coarse` being what the weights need."""
    spacing = weight_grid(w.mode, w.bits)[2]
    # The fine synapse covers a step of the coarse one, and its sums stay whole numbers.
    fine = max(coarse - w.bits, -int(math.log2(spacing)), model.weight_exponents[0])
    return (coarse, fine) if paired and fine < coarse else (coarse,)


def _pair_scales(demand: Demand, model: NeuronModel) -> tuple[Array, tuple[tuple[int, ...], ...]]:
    """Scales as large as exponents and headroom allow, and two exponents where weights are pairs.

    A current must not wrap when every source of a neuron spikes at once, in every step, with the highest count, or, where
    there are recordings, at twice what was seen on them: a bound, not a hope. (With exponents 7 and 0
    whatever the sums, a recurrent network fell apart.)
    """
    high = min(model.weight_exponents[1], MAX_WEIGHT_EXP)
    fits, cap = _fits(demand), _highest_scale(demand, model)
    most = np.zeros(len(demand.group))
    forget = (quantise.current_decay(demand.neurons.forget, model.current_decay_bits) + 1) / MAX_DECAY
    for w, count in zip(demand.weights, demand.counts, strict=True):
        most += np.repeat(w.total * count, len(most) // len(w.total)) / forget
    if demand.seen is not None:
        most = np.minimum(most, SEEN_MARGIN * demand.seen.current)
        with np.errstate(divide="ignore"):
            room = (model.largest_input + 1) / (DEEPER * demand.seen.below)
        np.minimum.at(cap, demand.group, room)
    with np.errstate(divide="ignore"):
        np.minimum.at(
            cap, demand.group, np.where(most > 0, ROUNDED_SUMS * model.largest_input / most, np.inf)
        )
    scale = _finite(np.minimum(fits.min(axis=0, initial=np.inf) * 2.0**high, cap))
    exponents: list[tuple[int, ...]] = []
    for fit, w, paired in zip(fits, demand.weights, demand.paired, strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            beyond = float(np.max(np.where(np.isfinite(fit), scale / fit, 0.0), initial=0.0))
        coarse = int(np.clip(math.ceil(math.log2(beyond) - 1e-9), 0, high)) if beyond > 0 else 0
        exponents.append(_exponents(w, coarse, paired, model))
    return scale, tuple(exponents)


def _largest_input(demand: Demand, scale: Array) -> float:
    """The largest |sum| at a neuron, in integer units, when every source spikes at once."""
    return sum(float((w.total * scale[w.row_scale]).max(initial=0.0)) for w in demand.weights)


def _highest_scale(demand: Demand, model: NeuronModel) -> Array:
    """The scale of each group above which a threshold, a bias or a read-out's membrane has no room."""
    neurons, group = demand.neurons, demand.group
    cap = np.full(int(group.max()) + 1, np.inf)

    def limit(index: Array, highest: float | Array, value: Array) -> None:
        with np.errstate(divide="ignore", invalid="ignore"):
            np.minimum.at(cap, index, np.where(value > 0, highest / value, np.inf))

    thresholds = demand.thresholds
    if thresholds is not None:
        far = quantise.high_threshold(model.largest_threshold, model.largest_input)
        # All bits of thresholds, where membranes cannot go so far below that they meet their limit.
        below = _lowest(demand)
        with np.errstate(divide="ignore", invalid="ignore"):
            deep = np.where(below > 0, (model.largest_input + 1) * thresholds / below, np.inf)
        near = np.where(demand.neurons.reset == "subtract", far, model.largest_threshold)
        limit(group, np.clip(deep, far, near), thresholds)
    else:
        steps = min(1 / max(float(neurons.leak.min()), 1 / READOUT_STEPS), READOUT_STEPS)
        share = READOUT_ACTIVITY * steps / max(float(neurons.forget.min()), 1e-3)
        for w in demand.weights:
            limit(w.row_scale, model.largest_input, w.total * max(share, 1.0) * len(demand.weights))
    most = quantise.largest_bias(model.network_bias_exponents[1], model.largest_bias)
    limit(group, most / quantise.ACTIVATION_UNIT, np.abs(demand.drives))
    return cap


def _lowest(demand: Demand) -> Array:
    """How far below zero each membrane can go (infinite where nothing bounds it)."""
    neurons = demand.neurons
    down = np.maximum(-demand.drives, 0.0)
    for w, count in zip(demand.weights, demand.counts, strict=True):
        inhibition = w.inhibition * count
        down = down + np.repeat(inhibition, len(down) // len(inhibition)) / neurons.forget
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(down > 0, down / neurons.leak, 0.0)


def highest_scale(demand: Demand, model: NeuronModel) -> Array:
    """Per group the scale above which a threshold, a bias or a read-out's membrane has no room."""
    return _highest_scale(demand, model)
