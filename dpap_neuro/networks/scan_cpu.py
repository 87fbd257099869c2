"""The scan of `scan` on the CPU, compiled: blocks of neurons that the nearest cache holds go through all steps.

Operations, and the order in which gradients add up, are those of Norse's step and of autograd behind it: outputs and the
gradients of inputs are equal to the loop's to the bit. So is that of a tau_mem in float32, where all neurons share all
constants; those of other parameters are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dpap_neuro.compiled import BLOCK, in_parts
from dpap_neuro.networks.scan_kernels import backward_kernel, forward_kernel, moments, through_norm

if TYPE_CHECKING:
    from dpap_neuro.networks.dynamics import Dynamics

# Membranes that backward steps through again, at once: a quarter of a megabyte; and neurons below which a loop does not pay.
_HELD, _LEAST = 65_536, 128


def _flat(x: Tensor, constants: Tensor) -> Tensor:
    """(T, B, ...) as (T, neurons), or as (T, neurons / width, width) where neurons differ in their constants."""
    return x.reshape(len(x), -1) if constants.shape[1] == 1 else x.reshape(len(x), -1, constants.shape[1])


def _rows(constants: Tensor) -> tuple[Tensor, ...]:
    return (constants[:, 0] if constants.shape[1] == 1 else constants).unbind()


def _array(x: Tensor) -> np.ndarray:
    """(T, ...) as (T, neurons)."""
    return x.detach().flatten(1).numpy()


def _flags(constants: Tensor, kind: Dynamics) -> tuple[bool, ...]:
    resets = kind.spikes and not kind.subtracts and bool(constants.numpy()[6].any())
    return kind.current, kind.leak, kind.spikes, kind.subtracts, resets, constants.shape[1] == 1


def _factors(kind: Dynamics, dtype: np.dtype) -> tuple[Any, Any]:
    inner, outer = kind.surrogate.factors
    return dtype.type(inner), dtype.type(outer)


def _size(steps: int, channels: int) -> int:
    """Neurons that go through all steps at once: what the nearest caches hold, whole sets of channels where these are few."""
    size = max(_LEAST, min(BLOCK, _HELD // steps))
    return size // channels * channels or size


def forward(
    x: Tensor, constants: Tensor, kind: Dynamics, needed: bool, learned: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Outputs like x; where gradients of the constants are wanted, membranes before reset, and the currents that drove them.

    x: (T, B, ...), contiguous. constants: see `scan`. needed: whether any gradients are wanted, which makes no difference here.
    """
    out = torch.empty_like(x)
    membranes = torch.empty_like(x) if learned else None
    drives = torch.empty_like(x) if learned and kind.current else None
    none = x.new_empty(0, 1)
    arrays = [_array(a) for a in (x, constants)]
    results = [_array(none if a is None else a) for a in (out, membranes, drives)]
    kernel, size = forward_kernel(*_flags(constants, kind), normed=False), _size(len(x), 1)
    norm = np.zeros(1, arrays[0].dtype)
    in_parts(
        arrays[0].shape[1],
        lambda first, last: kernel(*arrays, norm, norm, *results, first, last, size),
        size,
    )
    return out, membranes, drives


def backward(
    grad: Tensor,
    constants: Tensor,
    membranes: Tensor | None,
    drives: Tensor | None,
    kind: Dynamics,
    learned: bool,
    dt: float,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and, where they are learned, of the parameters behind the constants.

    membranes: what `forward` gave. drives: the same, or x where it gave none.
    """
    if learned:
        return _backward_learned(grad, constants, membranes, drives, kind, dt)
    grad_x = torch.empty_like(grad)
    arrays = [_array(a) for a in (grad, grad if drives is None else drives, constants)]
    kernel, size = (
        backward_kernel(*_flags(constants, kind), False, kind.surrogate.number),
        _size(len(grad), 1),
    )
    norm, sums = np.zeros(1, arrays[0].dtype), np.zeros((2, 1))
    factors, found = _factors(kind, arrays[0].dtype), _array(grad_x)
    in_parts(
        found.shape[1],
        lambda first, last: kernel(*arrays, norm, norm, norm, *factors, found, sums, first, last, size),
        size,
    )
    return grad_x, None


def _backward_learned(
    grad: Tensor,
    constants: Tensor,
    membranes: Tensor | None,
    drives: Tensor | None,
    kind: Dynamics,
    dt: float,
) -> tuple[Tensor, Tensor]:
    """Step by step in PyTorch, so that sums over neurons are in the order of autograd's."""
    grads = _flat(grad, constants)
    grad_x = torch.empty_like(grads)
    membranes, drives = (None if x is None else _flat(x, constants) for x in (membranes, drives))
    v_start, _, mem, syn, v_leak, v_th, v_reset = _rows(constants)
    resets = kind.spikes and not kind.subtracts and bool(v_reset.any())
    # With regard to membrane and current behind the step; the leak's part of the former is added last.
    g_v, g_leaked, g_i = (torch.zeros_like(grads[0]) for _ in range(3))
    a, b, z = (torch.empty_like(grads[0]) for _ in range(3))
    totals = [torch.zeros_like(v_start) for _ in range(7)]  # row by row of the parameters

    def add(row: int, each: Tensor, factor: float = 1.0) -> None:
        totals[row] += (each.sum() if v_start.dim() == 0 else each.sum(0)) * factor

    for t in reversed(range(len(grads))):
        if kind.spikes:
            assert membranes is not None
            membrane = membranes[t]
            if kind.leak:
                g_v.sub_(g_leaked)
            torch.mul(g_v, membrane, out=a)
            if kind.subtracts:
                torch.sub(membrane, v_th, out=b).mul_(g_v).add_(grads[t])
            elif resets:
                torch.mul(g_v, v_reset, out=b).add_(grads[t])
            torch.sub(b if kind.subtracts or resets else grads[t], a, out=a)
            a.div_(kind.surrogate.flatness(torch.sub(membrane, v_th, out=b)))
            torch.gt(membrane, v_th, out=z).mul_(g_v)
            # What is subtracted does not depend on the membrane, so that all of its gradient passes.
            g_v = g_v.add_(a) if kind.subtracts else g_v.sub_(z).add_(a)
            add(5, a, -1.0)
            add(5 if kind.subtracts else 6, z, -1.0 if kind.subtracts else 1.0)
        else:
            g_v.add_(grads[t])
            if kind.leak:
                g_v.sub_(g_leaked)
        g_drive = g_v
        if kind.leak:
            g_drive = torch.mul(g_v, mem, out=g_leaked)
            assert membranes is not None and drives is not None
            before = v_start.expand_as(a)
            if t:
                before = membranes[t - 1]
                if kind.spikes:
                    spiked = (before > v_th).to(before.dtype)
                    after = before - v_th if kind.subtracts else v_reset
                    before = (1 - spiked) * before + spiked * after
            if kind.spikes and not kind.current:
                torch.add(drives[t], v_leak, out=a).sub_(before)
            else:
                torch.sub(v_leak, before, out=a).add_(drives[t])
            add(2, a.mul_(g_v), dt)
            add(4, g_drive)
        if kind.current:
            assert drives is not None
            add(3, drives[t] * g_i, -dt)
            torch.mul(g_i, syn, out=a)
            g_i = torch.sub(g_i, a, out=grad_x[t]).add_(g_drive)
        else:
            grad_x[t].copy_(g_drive)
    add(0, g_v - g_leaked)
    add(1, g_i)
    return grad_x.view(grad.shape), torch.stack(totals).reshape(constants.shape)


def normed_forward(
    x: Tensor, constants: Tensor, kind: Dynamics, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs like x for populations that see (x - mean) / sqrt(variance + eps) * weight + bias, channel by channel.

    x: (T, B, ..., channels), contiguous. constants: see `scan`, of width 1. Returns the output, mean and variance (biased) of each channel,
    float64.
    """
    channels = x.shape[-1]
    rows = x.detach().numpy().reshape(-1, channels)
    summed = _summed(len(rows), channels, partial(moments, rows), _size(1, 1), channels)
    away, squares = summed / len(rows)
    mean, variance = rows[0] + away, np.maximum(squares - away**2, 0.0)
    out = torch.empty_like(x)
    given, c, result = (_array(a) for a in (x, constants, out))
    kernel, size = forward_kernel(*_flags(constants, kind), normed=True), _size(len(x), channels)
    scale, shift = _affine(mean, variance, weight, bias, eps, given.dtype)
    none = np.empty((0, 1), given.dtype)
    in_parts(
        given.shape[1],
        lambda first, last: kernel(given, c, scale, shift, result, none, none, first, last, size),
        size,
    )
    return out, torch.from_numpy(mean), torch.from_numpy(variance)


def normed_backward(
    grad: Tensor,
    x: Tensor,
    constants: Tensor,
    kind: Dynamics,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mean: Tensor,
    variance: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias of `normed_forward`, from that of its output and what it was given and gave."""
    channels, grad_x = x.shape[-1], torch.empty_like(grad)
    to_out, given, c, found = (_array(a) for a in (grad, x, constants, grad_x))
    dtype, centre, spread = given.dtype, mean.numpy(), 1.0 / np.sqrt(variance.numpy() + eps)
    scale, shift = _affine(centre, variance.numpy(), weight, bias, eps, dtype)
    kernel, size = (
        backward_kernel(*_flags(constants, kind), True, kind.surrogate.number),
        _size(len(x), channels),
    )
    means, factors = centre.astype(dtype), _factors(kind, dtype)

    def work(first: int, last: int, sums: np.ndarray) -> None:
        kernel(to_out, given, c, scale, shift, means, *factors, found, sums, first, last, size)

    total, products = _summed(given.shape[1], channels, work, size)
    n = x.numel() // channels
    shared, slope = (total / n).astype(dtype), (products / n * spread**2).astype(dtype)
    flat, values = found.reshape(-1), given.reshape(-1)
    size = _size(1, channels)
    in_parts(
        len(flat),
        lambda first, last: through_norm(flat, values, means, scale, shared, slope, first, last, size),
        size,
    )
    to_weight, to_bias = (torch.from_numpy(a.astype(dtype)) for a in (products * spread, total))
    return grad_x, to_weight, to_bias


def _summed(
    neurons: int,
    channels: int,
    work: Callable[[int, int, np.ndarray], Any],
    unit: int,
    values: int = 1,
) -> np.ndarray:
    """Sums (2, channels) float64 that work(first, last, sums) makes of the parts of `in_parts`, added in one order, whichever thread was first."""
    parts: dict[int, np.ndarray] = {}

    def part(first: int, last: int) -> None:
        parts[first] = np.zeros((2, channels))
        work(first, last, parts[first])

    in_parts(neurons, part, unit, values)
    return np.sum([parts[first] for first in sorted(parts)], axis=0)


def _affine(
    mean: np.ndarray,
    variance: np.ndarray,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    dtype: np.dtype,
) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm as a factor and a summand of each channel."""
    scale = 1.0 / np.sqrt(variance + eps)
    if weight is not None:
        scale = scale * weight.detach().numpy()
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.detach().numpy()
    return scale.astype(dtype), shift.astype(dtype)
