"""DPAP's equations, one loop at a time, in plain NumPy: slow, obvious, and independent of the fast
implementation.
"""

from __future__ import annotations

import math

import numpy as np


def trace(spikes, delta):
    """q at the last step for spikes (T, ...): q[t] = delta q[t-1] + s[t], q[0] = 0."""
    q = np.zeros(spikes.shape[1:])
    for t in range(spikes.shape[0]):
        q = delta * q + spikes[t]
    return q


def activity(spikes, delta):
    """x[b, i] of spikes (T, B, C, *space)."""
    q = trace(spikes, delta)
    steps, batch, channels = spikes.shape[:3]
    x = np.zeros((batch, channels))
    for b in range(batch):
        for i in range(channels):
            total = 0.0
            for value in np.ravel(q[b, i]):
                total += value
            x[b, i] = total / steps
    return x


class Layer:
    """M, theta and A of one layer of post neurons and pre neurons; in groups, post hears the pre of its group alone."""

    def __init__(self, post, pre, groups=1):
        self.groups = groups
        self.m = np.zeros((post, pre // groups))
        self.a = np.zeros(post)
        self.seen = 0

    def batch(self, post, pre):
        """post (B, I), pre (B, J): activities of one batch."""
        theta = [self.a[i] / self.seen if self.seen else 0.0 for i in range(len(self.a))]
        for b in range(post.shape[0]):
            for i in range(post.shape[1]):
                first = i // (post.shape[1] // self.groups) * self.m.shape[1]
                for j in range(self.m.shape[1]):
                    self.m[i, j] += post[b, i] * (post[b, i] - theta[i]) * pre[b, first + j]
        for b in range(post.shape[0]):
            for i in range(post.shape[1]):
                self.a[i] += post[b, i]
        self.seen += post.shape[0]

    def spines(self):
        rows = [sum(self.m[i, j] for j in range(self.m.shape[1])) for i in range(self.m.shape[0])]
        return [p * q for p, q in zip(min_max(rows), min_max(list(self.a)), strict=True)]


def min_max(values):
    low, high = min(values), max(values)
    if low == high:
        return [0.5] * len(values)
    return [(v - low) / (high - low) for v in values]


def percentile(values, q):
    ordered = sorted(values)
    position = q / 100 * (len(ordered) - 1)
    below = int(position)
    if below + 1 == len(ordered):
        return ordered[below]
    return ordered[below] + (position - below) * (ordered[below + 1] - ordered[below])


def gain(values, cost, growth, q=75.0):
    low, high = min(values), percentile(values, q)
    result = []
    for v in values:
        u = 0.5 if high == low else min(1.0, max(0.0, (v - low) / (high - low)))
        g = 2 * u - cost
        if g > 0:
            g += growth
        result.append(g)
    return result


def survive(survival, gains, gamma, epoch, first_epoch, tau):
    factor = math.exp(-math.floor((epoch - first_epoch) / tau))
    return [gamma * s + g * factor for s, g in zip(survival, gains, strict=True)]


class PublishedLayer:
    """A layer as the authors' code has it: theta per unit and slot of the batch; masks from survival alone, kept for good.

    kind: "conv" or "linear"; weights are (post, pre, ...). Constants are those of the kind.
    """

    def __init__(self, post, pre, kind, start, first_epoch):
        self.kind, self.first_epoch = kind, first_epoch
        self.m = [[0.0] * pre for _ in range(post)]
        self.a = [0.0] * post
        self.theta = []
        self.batches = 0
        self.units = [start] * post
        self.synapses = [[start] * pre for _ in range(post)]
        self.book = [[1] * pre for _ in range(post)]

    def batch(self, post, pre):
        """post (B, I), pre (B, J): activities of one batch, always as many samples."""
        self.batches += 1
        if not self.theta:
            self.theta = [[0.0] * post.shape[1] for _ in range(post.shape[0])]
        for b in range(post.shape[0]):
            for i in range(post.shape[1]):
                for j in range(pre.shape[1]):
                    self.m[i][j] += post[b, i] * (post[b, i] - self.theta[b][i]) * pre[b, j]
        for b in range(post.shape[0]):
            for i in range(post.shape[1]):
                self.theta[b][i] = (self.theta[b][i] * (self.batches - 1) + post[b, i]) / self.batches
                self.a[i] += post[b, i]

    def end_epoch(self, epoch):
        """Survival, and what is left of each (post, pre)."""
        if epoch < self.first_epoch:
            return
        spines = [p * q for p, q in zip(min_max([sum(row) for row in self.m]), min_max(self.a), strict=True)]
        cost, growth, tau = (0.65, 5.0, 12.0) if self.kind == "conv" else (1.5, 2.0, 13.0)
        now = epoch, self.first_epoch, tau
        self.units = survive(self.units, gain(spines, cost, growth), 0.999, *now)
        if self.kind == "linear":
            width = len(self.m[0])
            values = [v for row in self.m for v in row]
            flat = survive([s for row in self.synapses for s in row], gain(values, cost, growth), 0.999, *now)
            self.synapses = [flat[i : i + width] for i in range(0, len(flat), width)]
        for i, row in enumerate(self.book):
            for j in range(len(row)):
                if self.units[i] < 0 or (self.kind == "linear" and self.synapses[i][j] < 0):
                    row[j] = 0
