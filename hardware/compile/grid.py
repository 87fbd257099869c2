"""Grids that floats already lie on, and the scales at which the chip holds them without rounding.

A network trained on 2 to 8 bits has weights that are whole multiples of a step, and often thresholds and biases
that are multiples of it, too. The largest scale that fits the chip's integers is off these steps; a scale on them rounds
nothing. Without leaks such a network is then equal to the float one, spike for spike:

- membranes are whole multiples of the common unit U of all weights and biases, so v > threshold exactly where v > T U with
  T = floor(threshold / U), and the chip's threshold may be any in [T U, (T + 1) U);
- a sum equal to the threshold does not fire. Floats hold a step of 0.1 only nearly, so that there such a sum is decided
  by noise of 1e-8; where it is a bias alone that reaches it, `steps_to_fire` says how the noise falls.

With leaks weights are exact all the same, but the chip's decays cut |v| (4096 - dv) / 4096 down to a whole number of
1/64 of a weight's unit: the membrane stays within min(t, 4096 / dv) such units of the float one that has the decay dv / 4096,
and spikes are equal as long as no float membrane comes as near as that to its threshold. No scale makes that error
vanish, unless decays keep nothing or all (dv 0 or 4096).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Array = np.ndarray
# Relative error of a float32 weight times a few factors, and with room for a step found from another such weight.
NOISE = 4e-7
# Denominators of the ratios between steps; the common unit may be so many times smaller than one of them.
MAX_DENOMINATOR, MAX_RATIO = 4096, 1 << 24
# Steps for which a bias is followed to the threshold.
MOST_STEPS = 4096
SUBUNITS = 64


def step_of(values: Array, levels: int) -> float | None:
    """The largest step of which all values are whole multiples, at most `levels` of it; None where there is none.

    values: any shape; zeros count for nothing, 0.0 where there is nothing else. A multiple may be off by the noise of floats.
    """
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return 0.0
    largest = float(sizes.max())
    counts = np.arange(1, levels + 1)
    for part in (sizes[:8], sizes[:256], np.unique(sizes)):
        multiples = part[:, None] * (counts / largest)
        off = np.abs(multiples - np.rint(multiples))
        counts = counts[(off <= NOISE * counts + 1e-12).all(axis=0) & (multiples > 0.5).all(axis=0)]
        if not counts.size:
            return None
    # The mean of all values says the step better than one of them.
    whole = np.rint(sizes * (counts[0] / largest))
    return float(sizes.sum() / whole.sum())


def common_unit(values: Iterable[float]) -> tuple[float, list[int]] | None:
    """The largest unit of which all (positive) values are whole multiples, and these; None where there is none."""
    values = list(values)
    if not values:
        return None
    first = values[0]
    ratios = []
    for value in values:
        ratio = Fraction(value / first).limit_denominator(MAX_DENOMINATOR)
        if ratio <= 0 or abs(float(ratio) * first - value) > 2 * NOISE * value:
            return None
        ratios.append(ratio)
    below = math.lcm(*(ratio.denominator for ratio in ratios))
    if below > MAX_RATIO:
        return None
    whole = [int(ratio * below) for ratio in ratios]
    shared = math.gcd(*whole)
    return first / below * shared, [n // shared for n in whole]


def steps_to_fire(drive: float, threshold: float) -> int | None:
    """In which step (1, 2, ...) a membrane that gains `drive` a step passes the threshold; None: not within 4096."""
    if drive <= 0 or threshold >= drive * MOST_STEPS:
        return None
    summed = np.cumsum(np.full(int(threshold / drive) + 3, drive))
    return int(np.argmax(summed > threshold)) + 1


@dataclass(frozen=True)
class Path:
    """The weights of one projection that follow one scale.

    step: see `step_of`, 0.0 where there are none. most: the largest positive and the largest negative weight, in steps.
    total: the largest sum of |weight| at a neuron, in steps. low, high, spacing: the mantissas that may be used, see
    `hardware.network.integer.weight_grid`.
    """

    step: float
    most: tuple[int, int]
    total: float
    low: int
    high: int
    spacing: int


@dataclass(frozen=True)
class Group:
    """What shares one scale: weights by projection, and of each of its neurons the bias per step and the threshold.

    thresholds: empty for a read-out. exact_thresholds: whether they must lie on the grid as well (soft reset) and not
    only sums on their right side; loose_thresholds: whether the nearest will do (leaks). accumulates: whether a
    membrane keeps all of what it has.
    """

    paths: tuple[Path, ...]
    drives: Array
    thresholds: Array
    exact_thresholds: bool = False
    loose_thresholds: bool = False
    accumulates: bool = True


@dataclass(frozen=True)
class Limits:
    """Of a chip: exponents of weights and biases (lowest, highest), largest mantissas of thresholds and biases.

    summed: what the synaptic input of a step may sum to when every source spikes, where there is a choice.
    """

    weight_exponents: tuple[int, int]
    bias_exponents: tuple[int, int]
    threshold: int
    bias: int
    summed: float


@dataclass(frozen=True)
class Solution:
    """scales: units of a weight at exponent 0 per unit of the graph, one per group. exponents: one per projection.

    thresholds (mantissas) and drives (64ths of a unit): per group, one per neuron. bias_exponent: which all drives divide.
    """

    scales: Array
    exponents: Array
    thresholds: list[Array]
    drives: list[Array]
    bias_exponent: int


@dataclass(frozen=True)
class _Units:
    """A group in whole numbers of its unit: steps of projections (0: no weights), drives, thresholds (rounded down).

    ties: where a sum that equals the threshold fires, since the floats' noise lets the bias do so.
    """

    unit: float
    steps: list[int]
    drives: Array
    thresholds: Array
    ties: Array


def solve(groups: Sequence[Group], limits: Limits, fine: Array | None) -> Solution | None:
    """Scales and exponents at which nothing is rounded, or None where the chip has none.

    fine: None for the smallest such scales; otherwise the largest that are not above these, one per group (leaks: less is cut
    off).
    """
    found = [_in_units(group) for group in groups]
    units = [u for u in found if u is not None]
    if len(units) < len(groups) or not groups:
        return None
    exponents = [max(0, limits.weight_exponents[0])] * len(groups[0].paths)
    best = None
    # Each round raises an exponent at least.
    for _ in range(8 * len(exponents) + 8):
        subunits = [_subunits(g, u, exponents) for g, u in zip(groups, units, strict=True)]
        full = [
            p
            for p in range(len(exponents))
            if not all(_fits(g.paths[p], u.steps[p], k, exponents[p]) for g, u, k in zip(groups, units, subunits, strict=True))
        ]  # fmt: skip
        if not full:
            placed = _placed(groups, units, subunits, exponents, limits)
            if best is not None and (placed is None or fine is None or (placed.scales > fine).any()):
                break
            best = placed if placed is not None else best
            if best is not None and fine is None:
                break
            # Twice as fine, all together.
            full = list(range(len(exponents)))
            heaviest = max(
                sum(p.total * n for p, n in zip(g.paths, u.steps, strict=True)) * k / SUBUNITS
                for g, u, k in zip(groups, units, subunits, strict=True)
            )
            if best is not None and 2 * heaviest > limits.summed:
                break
        for p in full:
            exponents[p] += 1
        if max(exponents, default=8) > limits.weight_exponents[1]:
            break
    return best


def _in_units(group: Group) -> _Units | None:
    alive = [i for i, path in enumerate(group.paths) if path.step]
    sizes, where = np.unique(np.abs(group.drives), return_inverse=True)
    values = [group.paths[i].step for i in alive] + [float(size) for size in sizes if size]
    thresholds = group.thresholds
    if group.exact_thresholds:
        levels = np.unique(thresholds)
        values += [float(level) for level in levels if level]
    if not values:
        return _Units(1.0, [0] * len(group.paths), np.zeros(len(group.drives), int), np.zeros(len(thresholds), int),
                      np.zeros(len(thresholds), bool))  # fmt: skip
    found = common_unit(values)
    if found is None:
        return None
    unit, whole = found
    steps = [0] * len(group.paths)
    for i, n in zip(alive, whole, strict=False):
        steps[i] = n
    counts = np.zeros(len(sizes), np.int64)
    counts[sizes > 0] = whole[len(alive) : len(alive) + int((sizes > 0).sum())]
    drives = counts[where] * np.sign(group.drives).astype(np.int64)
    below = np.floor(thresholds / unit * (1 + 2 * NOISE) + 1e-12).astype(np.int64)
    ties = np.zeros(len(below), bool)
    if not (group.exact_thresholds or group.loose_thresholds):
        for k in np.flatnonzero((drives > 0) & (below > 0)) if len(below) else ():
            alone, rest = divmod(int(below[k]), int(drives[k]))
            reached = rest == 0 and (group.accumulates or alone == 1)
            ties[k] = reached and steps_to_fire(float(group.drives[k]), float(thresholds[k])) == alone
    return _Units(unit, steps, drives, below, ties)


def _subunits(group: Group, units: _Units, exponents: Sequence[int]) -> int:
    """The least whole number of 64ths that a unit may be, so that weights are whole mantissas."""
    needed = 1
    for path, n, exponent in zip(group.paths, units.steps, exponents, strict=True):
        if n:
            whole = SUBUNITS * path.spacing << exponent
            needed = math.lcm(needed, whole // math.gcd(whole, n))
    if group.exact_thresholds:
        for t in np.unique(units.thresholds[units.thresholds > 0]):
            needed = math.lcm(needed, SUBUNITS // math.gcd(SUBUNITS, int(t)))
    return needed


def _fits(path: Path, steps: int, subunits: int, exponent: int) -> bool:
    mantissas = steps * subunits / (SUBUNITS << exponent)
    return path.most[0] * mantissas <= path.high and path.most[1] * mantissas <= -path.low


def _thresholds(group: Group, u: _Units, k: int) -> Array | None:
    """Mantissas where a unit is k 64ths; None where they cannot be exact."""
    if group.loose_thresholds:
        return np.rint(group.thresholds / u.unit * k / SUBUNITS).astype(np.int64)
    sums = u.thresholds * k  # 64ths: v above this fires
    vth = np.where(u.ties, (sums - 1) // SUBUNITS, -(-sums // SUBUNITS))
    inside = np.where(u.ties, vth * SUBUNITS >= sums - k, vth * SUBUNITS < sums + k)
    if group.exact_thresholds:
        inside &= vth * SUBUNITS == sums
    return vth if inside.all() else None


def _placed(
    groups: Sequence[Group],
    units: Sequence[_Units],
    subunits: Sequence[int],
    exponents: Sequence[int],
    limits: Limits,
) -> Solution | None:
    """The solution at these units, or None where thresholds or biases have no place."""
    scales, thresholds, drives = [], [], []
    for group, u, least in zip(groups, units, subunits, strict=True):
        found = None
        # Thresholds need a whole number between two sums, for which sums of less than a unit may be too close.
        for k in [least << i for i in range(7)]:
            paths = zip(group.paths, u.steps, exponents, strict=True)
            if not u.unit or k > 1 << 40 or not all(_fits(p, n, k, e) for p, n, e in paths):
                return None
            found = _thresholds(group, u, k)
            if found is not None:
                break
        if found is None:
            return None
        vth = found
        if vth.size and (vth.max() > limits.threshold or vth.min() < 0):
            return None
        scales.append(k / SUBUNITS / u.unit)
        thresholds.append(vth)
        drives.append(u.drives * k)
    largest = max((int(np.abs(d).max(initial=0)) for d in drives), default=0)
    low, high = limits.bias_exponents
    exponent = next((e for e in range(low, high + 1) if largest <= limits.bias << e), None)
    if exponent is None or any((d % (1 << exponent)).any() for d in drives):
        return None
    return Solution(np.array(scales), np.array(exponents, int), thresholds, drives, exponent)
