"""The kernels of `scan`, in Triton: one program steps a block of neurons through the whole recording, or back.

Arithmetic is Norse's, operation by operation and in its order, without fused multiply-add, so that spikes are equal to
the bit. Membranes are kept in the precision of the constants, float32 or float64, whatever that of input and output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from dpap_neuro.networks.dynamics import Dynamics

BLOCK = 256


@triton.jit
def forward_kernel(
    x,
    constants,
    out,
    membranes,
    drives,
    steps,
    size,
    width,
    CURRENT: tl.constexpr,
    LEAK: tl.constexpr,
    SPIKES: tl.constexpr,
    SUBTRACTS: tl.constexpr,
    SAVE_MEMBRANES: tl.constexpr,
    SAVE_DRIVES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    neuron = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < size
    own = constants + neuron % width
    v = tl.load(own, mask=inside, other=0.0)
    if CURRENT:
        i = tl.load(own + width, mask=inside, other=0.0)
        syn = tl.load(own + 3 * width, mask=inside, other=0.0)
    if LEAK:
        mem = tl.load(own + 2 * width, mask=inside, other=0.0)
        v_leak = tl.load(own + 4 * width, mask=inside, other=0.0)
    if SPIKES:
        v_th = tl.load(own + 5 * width, mask=inside, other=0.0)
        v_reset = tl.load(own + 6 * width, mask=inside, other=0.0)
    here = neuron
    for _ in range(steps):
        drive = tl.load(x + here, mask=inside, other=0.0).to(v.dtype)
        if CURRENT:
            drive = i + drive
            i = drive - syn * drive
            if SAVE_DRIVES:
                tl.store(drives + here, drive, mask=inside)
        if LEAK:
            # Norse adds in another order where input meets the membrane of a spiking neuron directly.
            pull = drive + v_leak - v if SPIKES and not CURRENT else v_leak - v + drive
            v = v + mem * pull
        else:
            v = v + drive
        if SAVE_MEMBRANES:
            tl.store(membranes + here, v, mask=inside)
        if SPIKES:
            z = ((v - v_th) > 0).to(v.dtype)
            tl.store(out + here, z.to(out.dtype.element_ty), mask=inside)
            v = v - z * v_th if SUBTRACTS else (1 - z) * v + z * v_reset
        else:
            tl.store(out + here, v.to(out.dtype.element_ty), mask=inside)
        here += size


@triton.jit
def over(a, b):
    # In float32 Triton's plain division is not the nearest number; in float64 it is.
    return tl.div_rn(a, b) if b.dtype == tl.float32 else a / b


@triton.jit
def flatness(x, SURROGATE: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr):
    """`Surrogate.flatness`, with the same operations."""
    reach = tl.abs(x) * INNER
    if SURROGATE == 1:
        found = (reach * reach + 1.0) * OUTER
    elif SURROGATE == 2:
        e = tl.exp(-reach)
        found = over((e + 1.0) * (e + 1.0), e) * OUTER
    elif SURROGATE == 3:
        found = over(tl.full(x.shape, 1.0, x.dtype), tl.maximum(1.0 - reach, 0.0)) * OUTER
    else:
        found = (reach + 1.0) * (reach + 1.0)
    return found


@triton.jit(do_not_specialize=["steps"])
def backward_kernel(
    grad,
    constants,
    membranes,
    drives,
    grad_x,
    grad_constants,
    steps,
    size,
    width,
    CURRENT: tl.constexpr,
    LEAK: tl.constexpr,
    SPIKES: tl.constexpr,
    SUBTRACTS: tl.constexpr,
    LEARNED: tl.constexpr,
    SURROGATE: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    neuron = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < size
    own = constants + neuron % width
    # Gradients with regard to membrane and current behind the step, and to the constants.
    g_v = tl.full([BLOCK], 0.0, constants.dtype.element_ty)
    g_i = g_v
    g_leaked = g_v
    if LEARNED:
        g_mem = g_v
        g_syn = g_v
        g_leak = g_v
        g_th = g_v
        g_reset = g_v
        v_start = tl.load(own, mask=inside, other=0.0)
    if CURRENT:
        syn = tl.load(own + 3 * width, mask=inside, other=0.0)
    if LEAK:
        mem = tl.load(own + 2 * width, mask=inside, other=0.0)
        v_leak = tl.load(own + 4 * width, mask=inside, other=0.0)
    if SPIKES:
        v_th = tl.load(own + 5 * width, mask=inside, other=0.0)
        v_reset = tl.load(own + 6 * width, mask=inside, other=0.0)
    here = neuron + (steps - 1).to(tl.int64) * size
    for step in range(steps):
        g_out = tl.load(grad + here, mask=inside, other=0.0).to(g_v.dtype)
        if SPIKES:
            v = tl.load(membranes + here, mask=inside, other=0.0)
            beyond = v - v_th
            z = (beyond > 0).to(v.dtype)
            flat = flatness(beyond, SURROGATE, INNER, OUTER)
            g_v = g_v - g_leaked
            g_z = g_out + g_v * (beyond if SUBTRACTS else v_reset) - g_v * v
            g_beyond = over(g_z, flat)
            if LEARNED:
                g_th -= g_beyond
                if SUBTRACTS:
                    g_th -= g_v * z
                else:
                    g_reset += g_v * z
            # What is subtracted does not depend on the membrane, so that all of its gradient passes.
            g_v = (g_v if SUBTRACTS else g_v * (1 - z)) + g_beyond
        else:
            g_v = g_out + g_v - g_leaked
        g_drive = g_v
        if LEAK:
            g_drive = mem * g_v
            if LEARNED:
                first = step == steps - 1
                before = tl.load(membranes + here - size, mask=inside & (not first), other=0.0)
                if SPIKES:
                    z = ((before - v_th) > 0).to(before.dtype)
                    before = before - z * v_th if SUBTRACTS else (1 - z) * before + z * v_reset
                before = tl.where(first, v_start, before)
                drive = tl.load(drives + here, mask=inside, other=0.0).to(g_v.dtype)
                g_mem += g_v * ((v_leak - before) + drive)
                g_leak += g_drive
            g_leaked = g_drive
        if CURRENT:
            if LEARNED:
                g_syn -= g_i * tl.load(drives + here, mask=inside, other=0.0)
            g_i = g_drive + (g_i - syn * g_i)
            g_drive = g_i
        tl.store(grad_x + here, g_drive.to(grad_x.dtype.element_ty), mask=inside)
        here -= size
    if LEARNED:
        own = grad_constants + neuron
        tl.store(own, g_v - g_leaked, mask=inside)
        tl.store(own + size, g_i, mask=inside)
        tl.store(own + 2 * size, g_mem, mask=inside)
        tl.store(own + 3 * size, g_syn, mask=inside)
        tl.store(own + 4 * size, g_leak, mask=inside)
        tl.store(own + 5 * size, g_th, mask=inside)
        tl.store(own + 6 * size, g_reset, mask=inside)


def forward(
    x: Tensor, constants: Tensor, kind: Dynamics, needed: bool, learned: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `scan_cpu.forward`, on a GPU."""
    out = torch.empty_like(x)
    membranes = torch.empty_like(x, dtype=constants.dtype) if learned or (needed and kind.spikes) else None
    drives = torch.empty_like(x, dtype=constants.dtype) if learned and kind.current else None
    _launch(
        forward_kernel,
        (x, constants, out, membranes, drives),
        constants.shape[1],
        kind,
        SAVE_MEMBRANES=membranes is not None,
        SAVE_DRIVES=drives is not None,
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
    """As `scan_cpu.backward`, on a GPU."""
    rows, width = constants.shape
    grad_x = torch.empty_like(grad)
    each = constants.new_empty(rows, grad[0].numel()) if learned else None
    inner, outer = kind.surrogate.factors
    _launch(
        backward_kernel,
        (grad, constants, membranes, drives, grad_x, each),
        width,
        kind,
        LEARNED=learned,
        SURROGATE=kind.surrogate.number,
        INNER=inner,
        OUTER=outer,
    )
    if each is None:
        return grad_x, None
    grad_constants = each.unflatten(1, (-1, width)).sum(1)
    grad_constants[2:4] *= dt
    return grad_x, grad_constants


def _launch(
    kernel: Any, tensors: tuple[Tensor | None, ...], width: int, kind: Dynamics, **constexprs: bool | float
) -> None:
    """Run a kernel over all neurons of its first tensor (T, B, ...), on that tensor's device."""
    first = tensors[0]
    assert first is not None
    size = first[0].numel()
    constexprs |= {name.upper(): getattr(kind, name) for name in ("current", "leak", "spikes", "subtracts")}
    with torch.cuda.device_of(first):
        kernel[(triton.cdiv(size, BLOCK),)](
            *tensors, len(first), size, width, BLOCK=BLOCK, enable_fp_fusion=False, **constexprs
        )
