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
