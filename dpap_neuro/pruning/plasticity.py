"""The equations of DPAP as pure functions: trace, activity, BCM, spine size, survival.

Han, Zhao, Zeng, Shen: Developmental Plasticity-inspired Adaptive Pruning for Deep Spiking and Artificial
Neural Networks, arXiv 2211.12714. Notation: post-synaptic unit i, pre-synaptic unit j, sample b, time step t
of T, epoch e. Nothing here keeps state: `statistics` gathers what the equations need, `dpap` keeps survival.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

DELTA = 0.5
"""Decay of the activity-dependent trace per time step."""


def decay_weights(steps: int, delta: float = DELTA, *, like: Tensor | None = None) -> Tensor:
    """Weight of step t in the trace at the last step: delta ** (T - 1 - t), shape (T,).

    q[t] = delta q[t-1] + s[t] with q[0] = 0 is linear, so q[T] needs no loop over time.
    """
    exponents = torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    weights = torch.pow(torch.tensor(delta, dtype=torch.float64), exponents)
    return weights.to(like) if like is not None else weights.to(torch.get_default_dtype())


def trace(spikes: Tensor, weights: Tensor) -> Tensor:
    """Activity-dependent trace at the last step: spikes (T, ...), weights (T,) of `decay_weights` -> q[T] (...)."""
    return (weights @ spikes.flatten(1)).unflatten(0, spikes.shape[1:])


def trace_step(q: Tensor, spikes: Tensor, delta: float) -> Tensor:
    """The same one step at a time: q[t] = delta q[t-1] + s[t]; delta 1 adds up the activations of rectifiers."""
    return q * delta + spikes


def delayed(spikes: Tensor) -> Tensor:
    """What a recurrent synapse hears: spikes (T, ...) one step later, none at first."""
    return torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]])


def sum_over_space(values: Tensor, lead: int = 3) -> Tensor:
    """(T, B, C, *space) -> (T, B, C); `lead` is the number of axes that stay."""
    return values if values.dim() <= lead else values.flatten(lead).sum(-1)


def activity(spikes: Tensor, weights: Tensor) -> Tensor:
    """Activity of each sample: spikes (T, B, C, *space), weights (T,) -> x (B, C), (sum over space of q[T]) / T."""
    return trace(sum_over_space(spikes), weights) / spikes.shape[0]


def activity_of_activations(values: Tensor) -> Tensor:
    """The same of an artificial network, whose trace is the activation: (T, B, C, *space) -> x (B, C).

    The activation is summed over space and averaged over the T frames (T = 1 for still images).
    """
    return sum_over_space(values).mean(0)


def add_bcm(m: Tensor, post: Tensor, theta: Tensor, pre: Tensor, groups: int = 1) -> Tensor:
    """Local synaptic plasticity, in place: M_ij += sum over b of x_i (x_i - theta_i) x_j.

    m (I, J / groups), post (B, I), theta (I,), pre (B, J). In groups: the i-th part of the post-synaptic units hears
    the i-th part of the pre-synaptic ones alone, as in a grouped convolution.
    """
    drive = post * (post - theta)
    if groups == 1:
        return m.addmm_(drive.T, pre)
    parts = drive.reshape(len(drive), groups, -1), pre.reshape(len(pre), groups, -1)
    return m.add_(torch.einsum("bgi,bgj->gij", *parts).reshape(m.shape))


def sliding_threshold(total: Tensor, samples: int | Tensor) -> Tensor:
    """theta_i: the mean of x_i over everything seen so far; zero before the first batch."""
    return total / max(int(samples), 1)


def min_max(values: Tensor) -> Tensor:
    """n: min-max scaling to [0, 1] over all elements; 0.5 everywhere when all are equal."""
    low, high = values.min(), values.max()
    if high == low:
        return torch.full_like(values, 0.5)
    return (values - low) / (high - low)


def spine_size(m: Tensor, total: Tensor) -> Tensor:
    """Dendritic spine size: D_i = n(sum over j of M_ij) n(A_i); m (I, J), total (I,) -> (I,)."""
    return min_max(m.sum(1)) * min_max(total)


def bin_share(counts: Tensor, spines: Tensor) -> Tensor:
    """Importance of time bins in a layer: z_t = sum over i of D_i s_i[t], scaled to a sum of one; zeros where all are silent.

    counts (bins, I): spikes of all samples; spines (I,) -> (bins,).
    """
    z = (counts * spines).sum(1)
    total = z.sum()
    return z / total if total > 0 else torch.zeros_like(z)


def order_statistics(values: Tensor, *ranks: int) -> Tensor:
    """The elements at `ranks`, from 0, of the sorted values; shape (number of ranks,).

    On a CPU NumPy selects in less than half of torch.kthvalue's time.
    """
    flat = values.flatten()
    if flat.device.type != "cpu" or flat.dtype == torch.bfloat16:
        return torch.stack([torch.kthvalue(flat, rank + 1).values for rank in ranks])
    # A rank asked for twice: NumPy's way to a single one takes twenty times as long among many equal values.
    return torch.from_numpy(np.partition(flat.numpy(), [ranks[0], *ranks])[list(ranks)])


def percentile(values: Tensor, q: float) -> Tensor:
    """The q-th percentile (0 to 100) of all elements, linear between order statistics.

    Position q / 100 * (n - 1) in the sorted values, as NumPy's default; without torch.quantile's limit on
    size.
    """
    flat = values.flatten()
    position = q / 100.0 * (flat.numel() - 1)
    below = min(math.floor(position), flat.numel() - 1)
    low, high = order_statistics(flat, below, min(below + 1, flat.numel() - 1))
    return low + (high - low) * (position - below)


def unit_interval(values: Tensor, q: float = 75.0) -> Tensor:
    """u: clip((z - min z) / (q-th percentile of z - min z), 0, 1); 0.5 everywhere when the two are equal."""
    low, high = values.min(), percentile(values, q)
    if high == low:
        return torch.full_like(values, 0.5)
    return ((values - low) / (high - low)).clamp_(0.0, 1.0)


def survival_gain(importance: Tensor, cost: float, growth: float, q: float = 75.0) -> Tensor:
    """g_i = 2 u(z_i) - cost, and growth more where that is positive (use it)."""
    gain = 2.0 * unit_interval(importance, q) - cost
    return torch.where(gain > 0, gain + growth, gain)


def settling(epoch: int, first_epoch: float, tau: float) -> float:
    """exp(-floor((e - e0) / tau)): how much of a gain still counts in epoch e."""
    return math.exp(-math.floor((epoch - first_epoch) / tau))


def survive(survival: Tensor, gain: Tensor, gamma: float, settle: float) -> Tensor:
    """S_i <- gamma S_i + g_i settle (decay gradually, or lose it)."""
    return gamma * survival + gain * settle
