"""Pruners against each other, run by run: what one gives more than the other on the same recordings with the same seed.

A run's accuracy moves more with its recordings and its first weights than with its pruner; the difference of two runs that
share both moves less, so that fewer runs decide.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.special import stdtrit

from dpap_neuro.train.planned import is_dense
from dpap_neuro.train.sweeps import Row

# Of the interval.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """How far `pruner` is ahead of `other` at a sparsity (`none` is compared at every one).

    units: folds or, without folds, seeds that both have; ahead, behind: in how many of them. points: mean difference of
    accuracy over units, in points. low, high: 95 % confidence interval of that mean by Student's t, None for one unit.
    """

    pruner: str
    other: str
    sparsity: float
    units: int
    ahead: int
    behind: int
    points: float
    low: float | None
    high: float | None


def differences(rows: Sequence[Row], folds: int | None = None) -> list[Difference]:
    """Every two pruners at every sparsity, the one that comes later in `rows` first; pairs without a common seed are left out.

    folds: of a cross-validation, whose fold is the seed's remainder. The seeds of a fold are averaged first: they are tested
    on the same recordings, and counting each by itself would claim more evidence than there is. What is left is not quite
    independent either: folds share most of their training recordings, and seeds without folds all of their test
    recordings, so that the interval says nothing of other test recordings.
    """
    groups: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        groups.setdefault((row.pruner, row.sparsity), {})[row.seed] = 100 * row.accuracy
    names = list(dict.fromkeys(row.pruner for row in rows))
    sparsities = dict.fromkeys(row.sparsity for row in rows if not is_dense(row.pruner))
    result = []
    for share in sparsities:
        for first, second in combinations(names, 2):
            a, b = (groups.get((name, 0.0 if is_dense(name) else share), {}) for name in (second, first))
            found = _by_unit({seed: a[seed] - b[seed] for seed in a if seed in b}, folds)
            if found:
                low, high = interval(found)
                ahead, behind = sum(d > 0 for d in found), sum(d < 0 for d in found)
                mean = statistics.fmean(found)
                result.append(Difference(second, first, share, len(found), ahead, behind, mean, low, high))
    return result


def against(found: Sequence[Difference], name: str) -> list[Difference]:
    """Those with the pruner `name`, seen from the other one."""
    return [d if d.other == name else _turned(d) for d in found if name in (d.pruner, d.other)]


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Confidence interval of the mean of independent values; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None, None
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _by_unit(by_seed: dict[int, float], folds: int | None) -> list[float]:
    units: dict[int, list[float]] = {}
    for seed, value in by_seed.items():
        units.setdefault(seed if folds is None else seed % folds, []).append(value)
    return [statistics.fmean(values) for values in units.values()]


def _turned(d: Difference) -> Difference:
    low, high = (None if d.high is None else -d.high), (None if d.low is None else -d.low)
    return Difference(d.other, d.pruner, d.sparsity, d.units, d.behind, d.ahead, -d.points, low, high)
