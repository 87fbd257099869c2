"""The scan of `scan` on the CPU: step by step, in place, without a graph of every operation.

Operations, and the order in which gradients add up, are those of Norse's step and of autograd behind it: outputs and the
gradients of inputs are equal to the loop's to the bit. So is that of a tau_mem in float32, where all neurons share all
constants; those of other parameters are equal up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dpap_neuro.networks.dynamics import Dynamics


def _flat(x: Tensor, constants: Tensor) -> Tensor:
    """(T, B, ...) as (T, neurons), or as (T, neurons / width, width) where neurons differ in their constants."""
    return x.reshape(len(x), -1) if constants.shape[1] == 1 else x.reshape(len(x), -1, constants.shape[1])


def _rows(constants: Tensor) -> tuple[Tensor, ...]:
    return (constants[:, 0] if constants.shape[1] == 1 else constants).unbind()


def forward(
    x: Tensor, constants: Tensor, kind: Dynamics, needed: bool, learned: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Outputs like x; where `backward` needs them, membranes before reset, and the currents that drove them.

    x: (T, B, ...), contiguous. constants: see `scan`. needed, learned: whether any gradients, and those of the constants,
    are wanted.
    """
    inputs, outputs = _flat(x, constants), _flat(torch.empty_like(x), constants)
    membranes = torch.empty_like(inputs) if learned or (needed and kind.spikes) else None
    drives = torch.empty_like(inputs) if learned and kind.current else None
    v, i, mem, syn, v_leak, v_th, v_reset = _rows(constants)
    resets = kind.spikes and not kind.subtracts and bool(v_reset.any())
    v, i, spare = v.expand_as(inputs[0]), i.expand_as(inputs[0]), torch.empty_like(inputs[0])
    after, current, summed = (torch.empty_like(spare) for _ in range(3))
    for t, drive in enumerate(inputs):
        if kind.current:
            drive = torch.add(i, drive, out=summed if drives is None else drives[t])
            torch.mul(drive, syn, out=current)
            i = torch.sub(drive, current, out=current)
        membrane = membranes[t] if membranes is not None else after if kind.spikes else outputs[t]
        if not kind.leak:
            torch.add(v, drive, out=membrane)
        else:
            # Norse adds in another order where input meets the membrane of a spiking neuron directly.
            if kind.spikes and not kind.current:
                torch.add(drive, v_leak, out=spare).sub_(v)
            else:
                torch.sub(v_leak, v, out=spare).add_(drive)
            torch.add(v, spare.mul_(mem), out=membrane)
        if not kind.spikes:
            v = membrane
            if membranes is not None:
                outputs[t].copy_(membrane)
            continue
        z = torch.gt(membrane, v_th, out=outputs[t])
        v = torch.sub(membrane, torch.mul(v_th if kind.subtracts else membrane, z, out=spare), out=after)
        if resets:
            v.add_(torch.mul(z, v_reset, out=spare))
    return outputs.view(x.shape), membranes, drives


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

    membranes, drives: what `forward` gave; for neurons without a synaptic current, x drives.
    """
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
            a.div_(torch.sub(membrane, v_th, out=b).abs_().add_(1.0).square_())
            torch.gt(membrane, v_th, out=z).mul_(g_v)
            # What is subtracted does not depend on the membrane, so that all of its gradient passes.
            g_v = g_v.add_(a) if kind.subtracts else g_v.sub_(z).add_(a)
            if learned:
                add(5, a, -1.0)
                add(5 if kind.subtracts else 6, z, -1.0 if kind.subtracts else 1.0)
        else:
            g_v.add_(grads[t])
            if kind.leak:
                g_v.sub_(g_leaked)
        g_drive = g_v
        if kind.leak:
            g_drive = torch.mul(g_v, mem, out=g_leaked)
            if learned:
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
            if learned:
                assert drives is not None
                add(3, drives[t] * g_i, -dt)
            torch.mul(g_i, syn, out=a)
            g_i = torch.sub(g_i, a, out=grad_x[t]).add_(g_drive)
        else:
            grad_x[t].copy_(g_drive)
    if learned:
        add(0, g_v - g_leaked)
        add(1, g_i)
    return grad_x.view(grad.shape), torch.stack(totals).reshape(constants.shape) if learned else None
