"""The kernels of `scan` in Triton: one program steps a block of neurons through the recording, or back.

Integers are equal to those of `scan_cpu` to the bit, gradients up to the rounding of divisions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpap_neuro.networks.scan_triton import flatness

if TYPE_CHECKING:
    from dpap_neuro.precision.scan import Integers

BLOCK = 256
LIMIT: tl.constexpr = tl.constexpr(2**23)


@triton.jit
def scaled(x, factor):
    """sgn(x) * ((|x| * factor) >> 12), a product of up to 36 bits, in 32."""
    m = tl.abs(x)
    m = (m >> 12) * factor + (((m & 4095) * factor) >> 12)
    return tl.where(x < 0, -m, m)


@triton.jit(do_not_specialize=["begin", "end"])
def forward_kernel(
    x,
    keep_u,
    keep_v,
    threshold,
    bias,
    u_at,
    v_at,
    out,
    membranes,
    begin,
    end,
    size,
    width,
    SPIKES: tl.constexpr,
    SUBTRACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    neuron = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < size
    own = neuron % width
    ku = tl.load(keep_u + own, mask=inside, other=0)
    kv = tl.load(keep_v + own, mask=inside, other=0)
    th = tl.load(threshold + own, mask=inside, other=0)
    constant = tl.load(bias + own, mask=inside, other=0)
    u = tl.load(u_at + neuron, mask=inside, other=0)
    v = tl.load(v_at + neuron, mask=inside, other=0)
    here = neuron + begin.to(tl.int64) * size
    for _ in range(begin, end):
        a = tl.load(x + here, mask=inside, other=0.0).to(tl.int32)
        u = scaled(u, ku) + (a << 6)
        u = tl.where(u > LIMIT, u - 2 * LIMIT, tl.where(u <= -LIMIT, u + 2 * LIMIT, u))
        v = scaled(v, kv) + u + constant
        v = tl.minimum(tl.maximum(v, 1 - LIMIT), LIMIT - 1)
        tl.store(membranes + here, v, mask=inside)
        if SPIKES:
            fired = v > th
            tl.store(out + here, fired.to(tl.float32), mask=inside)
            v = tl.where(fired, v - th if SUBTRACT else 0, v)
        else:
            tl.store(out + here, v.to(tl.float32), mask=inside)
        here += size
    tl.store(u_at + neuron, u, mask=inside)
    tl.store(v_at + neuron, v, mask=inside)


@triton.jit(do_not_specialize=["begin", "end"])
def backward_kernel(
    grad,
    keep_u,
    keep_v,
    threshold,
    unit,
    membranes,
    g_u,
    g_v,
    g_bias,
    g_leak,
    grad_x,
    begin,
    end,
    size,
    width,
    SPIKES: tl.constexpr,
    SUBTRACT: tl.constexpr,
    SURROGATE: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    neuron = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < size
    own = neuron % width
    ku = tl.load(keep_u + own, mask=inside, other=0).to(tl.float32) * 0.000244140625
    kv = tl.load(keep_v + own, mask=inside, other=0).to(tl.float32) * 0.000244140625
    th = tl.load(threshold + own, mask=inside, other=0)
    units = tl.load(unit + own, mask=inside, other=1.0)
    per = tl.div_rn(1.0, units)
    gu = tl.load(g_u + neuron, mask=inside, other=0.0)
    gv = tl.load(g_v + neuron, mask=inside, other=0.0)
    gb = tl.load(g_bias + neuron, mask=inside, other=0.0)
    gl = tl.load(g_leak + neuron, mask=inside, other=0.0)
    here = neuron + (end - 1).to(tl.int64) * size
    for _ in range(begin, end):
        row = tl.load(grad + here, mask=inside, other=0.0)
        if SPIKES:
            v = tl.load(membranes + here, mask=inside, other=0)
            flat = flatness((v - th).to(tl.float32) * per, SURROGATE, INNER, OUTER)
            if SUBTRACT:
                gv += tl.div_rn(row - gv * (th.to(tl.float32) * per), flat)
            else:
                through = tl.div_rn(row - gv * (v.to(tl.float32) * per), flat)
                gv = tl.where(v > th, 0.0, gv) + through
        else:
            gv += row * units
        earlier = here >= size  # there is a step before
        before = tl.load(membranes + here - size, mask=inside & earlier, other=0)
        if SPIKES:
            before = tl.where(before > th, before - th if SUBTRACT else 0, before)
        gl -= tl.where(earlier, gv * (before.to(tl.float32) * per), 0.0)
        gb += gv
        gu += gv
        tl.store(grad_x + here, gu * (64.0 * per), mask=inside)
        gu *= ku
        gv *= kv
        here -= size
    tl.store(g_u + neuron, gu, mask=inside)
    tl.store(g_v + neuron, gv, mask=inside)
    tl.store(g_bias + neuron, gb, mask=inside)
    tl.store(g_leak + neuron, gl, mask=inside)


def forward(
    x: Tensor, integers: Integers, u: Tensor, v: Tensor, out: Tensor, membranes: Tensor, begin: int, end: int
) -> None:
    """As `scan_cpu.forward`, on a GPU."""
    constants = (integers.keep_u, integers.keep_v, integers.threshold, integers.bias)
    _launch(forward_kernel, (x, *constants, u, v, out, membranes), integers, begin, end)


def backward(
    grad: Tensor,
    integers: Integers,
    membranes: Tensor,
    g_u: Tensor,
    g_v: Tensor,
    g_bias: Tensor,
    g_leak: Tensor,
    grad_x: Tensor,
    begin: int,
    end: int,
) -> None:
    """As `scan_cpu.backward`, on a GPU."""
    constants = (integers.keep_u, integers.keep_v, integers.threshold, integers.unit)
    tensors = (grad, *constants, membranes, g_u, g_v, g_bias, g_leak, grad_x)
    inner, outer = integers.surrogate.factors
    kind = {"SURROGATE": integers.surrogate.number, "INNER": inner, "OUTER": outer}
    _launch(backward_kernel, tensors, integers, begin, end, **kind)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], integers: Integers, begin: int, end: int, **kind: float
) -> None:
    """Run a kernel over all neurons of its first tensor (T, neurons), on that tensor's device."""
    size = tensors[0].shape[1]
    with torch.cuda.device_of(tensors[0]):
        kernel[(triton.cdiv(size, BLOCK),)](
            *tensors,
            begin,
            end,
            size,
            integers.width,
            SPIKES=integers.spikes,
            SUBTRACT=integers.subtract,
            **kind,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )
