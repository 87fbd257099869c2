"""What has arrived through the synapses of neurons when it matters: where their membranes are near the threshold.

What a rounded weight does to a spike it does at the moment of the threshold, by all that came through its synapse since the neuron
spiked last. So a population's float run on a few recordings gives, of some neurons at some such moments, what has arrived through
every synapse: decayed as current and membrane decay, and without what was there at the last reset. Of a read-out, or where no
membrane comes near, any moment is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hardware.compile.linear import Convolution
from hardware.compile.rounding import Rounded
from hardware.compile.weights import Weights

Array = np.ndarray
# How near to the threshold, as a share of it, and how many such moments a population needs to be looked at there.
NEAR, LEAST = 0.2, 50
# Moments of a row of weights, at most, and numbers that are kept of a path.
MOST_MOMENTS, MOST_NUMBERS = 6000, 1 << 25
# Without a threshold: moments of each neuron and recording.
ANY_MOMENTS = 32


@dataclass(frozen=True)
class Course:
    """Of a population in floats: spikes (batch, steps, neurons), None of a read-out, and its membrane as a share of the
    threshold, of the same shape, in each step before a spike's reset."""

    spikes: Array | None
    membrane: Array | None


@dataclass(frozen=True)
class Arrivals:
    """Of one path. arrived: of each row of its weights (moments, synapses of a row). neurons: of each row, of which
    neuron (moments,). shared: of the rows of each group of a convolution, one group otherwise, sums of products of all their
    arrivals with a 1 behind, (d + 1, d + 1), mean over moments."""

    arrived: list[Array]
    neurons: list[Array]
    shared: list[Array]

    def group(self, row: int) -> int:
        """The group of a row of weights."""
        return row * len(self.shared) // len(self.arrived)

    def common(self, group: int) -> tuple[Array, Array]:
        """Mean products (d, d) and mean (d,) of what arrives at the rows of a group."""
        total = self.shared[group]
        return total[:-1, :-1].copy(), total[:-1, -1]

    def own(self, row: int) -> tuple[Array, Array]:
        """The same of one row: of its moments, and of as many of its group's as there are synapses, which say more where its own
        are few."""
        h, mean = self.common(self.group(row))
        d, a = len(mean), self.arrived[row].astype(np.float64)
        return (d * h + a.T @ a) / (d + len(a)), (d * mean + a.sum(axis=0)) / (d + len(a))


def arrivals(layer: Rounded, w: Weights, raster: Array, course: Course, rng: np.random.Generator) -> Arrivals:
    """Of the path of `w`; raster: (batch, steps, *source shape) of its source."""
    neurons = layer.demand.neurons
    keep, stay = 1 - float(neurons.leak.mean()), 1 - float(neurons.forget.mean())
    windows, row_of, group_of = _windows(w, len(layer.demand.group))
    rows, d = len(w.row_scale), windows.shape[2]
    batch, steps = raster.shape[:2]
    each = int(np.clip(MOST_NUMBERS // max(rows * d, 1), 32, MOST_MOMENTS))
    near = _near(course, batch, steps, len(row_of), rng)
    arrived: list[list[Array]] = [[] for _ in range(rows)]
    which: list[list[Array]] = [[] for _ in range(rows)]
    for b in range(batch):
        trace = _traces(raster[b].reshape(steps, -1), w.path.latency, stay, keep)
        t, neuron = np.nonzero(near[b])
        chosen = _at_most(row_of[neuron], -(-each // batch), rng)
        t, neuron = t[chosen], neuron[chosen]
        since = np.zeros(len(t), np.int64)
        if course.spikes is not None and neurons.reset == "zero":
            since = _last_reset(course.spikes[b])[t, neuron]
        at = windows[group_of[neuron], neuron % windows.shape[1]]
        found = trace[t[:, None] + 1, at] - keep ** (t - since + 1)[:, None] * trace[since[:, None], at]
        bounds = np.searchsorted(row_of[neuron], np.arange(rows + 1))
        for row, (begin, end) in enumerate(pairwise(bounds)):
            if end > begin:
                arrived[row].append(found[begin:end])
                which[row].append(neuron[begin:end])
    none = np.zeros((0, d), np.float32)
    joined = [np.concatenate([none, *parts]) for parts in arrived]
    groups = w.map.groups if isinstance(w.map, Convolution) else 1
    shared = []
    for g in range(groups):
        total = np.zeros((d + 1, d + 1))
        for a in joined[g * rows // groups : (g + 1) * rows // groups]:
            one = np.concatenate([a, np.ones((len(a), 1), np.float32)], axis=1).astype(np.float64)
            total += one.T @ one
        shared.append(total / max(total[d, d], 1.0))
    return Arrivals(joined, [np.concatenate([np.zeros(0, np.int64), *parts]) for parts in which], shared)


def _near(course: Course, batch: int, steps: int, n: int, rng: np.random.Generator) -> Array:
    """(batch, steps, neurons): the moments to look at."""
    if course.membrane is not None:
        near = np.abs(course.membrane - 1) < NEAR
        # Where nothing arrives a membrane without leak stays what it is, and says nothing new.
        near[:, 1:] &= course.membrane[:, 1:] != course.membrane[:, :-1]
        if np.count_nonzero(near) >= LEAST:
            return near
    near = np.zeros((batch, steps, n), bool)
    near[:, rng.choice(steps, min(ANY_MOMENTS, steps), replace=False)] = True
    return near


def _at_most(rows: Array, each: int, rng: np.random.Generator) -> Array:
    """Which of the entries to keep, at most so many of a row, any of them; in the order of rows."""
    shuffled = rng.permutation(len(rows))
    order = shuffled[np.argsort(rows[shuffled], kind="stable")]
    first = np.searchsorted(rows[order], rows[order])
    return order[np.arange(len(rows)) - first < each]


def _traces(raster: Array, latency: int, stay: float, keep: float) -> Array:
    """(steps + 1, sources + 1) float32: what has arrived of each source before each step and after the last, nothing reset; the
    last column, of no source, is 0."""
    steps, n = raster.shape
    found = np.zeros((steps + 1, n + 1), np.float32)
    current = np.zeros(n)
    trace = np.zeros(n)
    for t in range(steps):
        current *= stay
        if t >= latency:
            current += raster[t - latency]
        trace = trace * keep + current
        found[t + 1, :n] = trace
    return found


def _last_reset(spikes: Array) -> Array:
    """(steps, neurons): of each step the one after the last spike before it, 0 where there was none."""
    after = np.where(spikes != 0, np.arange(1, len(spikes) + 1)[:, None], 0)
    last = np.maximum.accumulate(after, axis=0)
    return np.concatenate([np.zeros_like(last[:1]), last[:-1]])


def _windows(w: Weights, n: int) -> tuple[Array, Array, Array]:
    """Of each group and position (one of each for a matrix) the sources of a row's synapses, their number where there is none;
    and of each neuron its row and its group."""
    size = math.prod(w.path.source_shape)
    if not isinstance(w.map, Convolution):
        zeros = np.zeros(n, np.int64)
        return np.arange(size)[None, None], np.arange(n), zeros
    map_ = w.map
    out, within, rows, columns = map_.weight.shape
    _, height, width = map_.source
    _, tall, wide = map_.target
    (y, inside_y), (x, inside_x) = (
        _places(*axis)
        for axis in (
            (tall, rows, map_.stride[0], map_.dilation[0], map_.padding[0], height),
            (wide, columns, map_.stride[1], map_.dilation[1], map_.padding[1], width),
        )
    )
    channel = np.arange(map_.source[0]).reshape(map_.groups, within)
    place = y[:, None, :, None] * width + x[None, :, None, :]  # (tall, wide, rows, columns)
    inside = inside_y[:, None, :, None] & inside_x[None, :, None, :]
    whole = channel[:, None, None, :, None, None] * (height * width) + place[None, :, :, None]
    whole = np.where(inside[None, :, :, None], whole, size)
    row_of = np.arange(n) // (tall * wide)
    return (
        whole.reshape(map_.groups, tall * wide, within * rows * columns),
        row_of,
        row_of // (out // map_.groups),
    )


def _places(
    targets: int, kernel: int, stride: int, dilation: int, padding: int, sources: int
) -> tuple[Array, Array]:
    """(targets, kernel): which place of the source an entry of the kernel takes, and whether there is one."""
    at = np.arange(targets)[:, None] * stride + np.arange(kernel) * dilation - padding
    inside = (at >= 0) & (at < sources)
    return np.where(inside, at, 0), inside
