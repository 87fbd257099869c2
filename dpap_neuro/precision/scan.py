"""Populations over whole recordings in a chip's integers, with the gradients of the float neurons.

Forward, `hardware.network.integer`'s arithmetic to the last bit: 24-bit current and membrane, truncating decays, wrap and
clip. Backward, what `dpap_neuro.networks.scan` computes for the float neuron, in the units of its membrane: rounding,
truncation, wrap and clip pass gradients straight through, a spike has that of its surrogate (`networks.surrogates`), and the
reset its gradient. On a CPU compiled by numba (`scan_cpu`), on a GPU one kernel each
way in Triton (`scan_triton`); both give the same integers.

Training on integer dynamics is lava-dl SLAYER's since 2021, for its own blocks (github.com/lava-nc/lava-dl).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dpap_neuro.networks.surrogates import Surrogate
from dpap_neuro.precision import scan_cpu


@dataclass(frozen=True)
class Integers:
    """A population's constants; int32 tensors (width,), neuron n of a step laid flat has those in column n modulo width.

    keep_u, keep_v: 4096 - (du + 1) and 4096 - dv. threshold: vth * 64. bias: bias_mant * 2**bias_exp. unit: float32
    (width,), integer units of the membrane per unit of the float model's. spikes: False for a read-out, whose output is
    its membrane. subtract: a spike takes the threshold from the membrane instead of setting it to zero. surrogate: of the membrane
    in units of the float model.
    """

    keep_u: Tensor
    keep_v: Tensor
    threshold: Tensor
    bias: Tensor
    unit: Tensor
    spikes: bool = True
    subtract: bool = False
    surrogate: Surrogate = field(default_factory=Surrogate)

    @property
    def width(self) -> int:
        return len(self.keep_u)


def scan(
    x: Tensor,
    integers: Integers,
    bias: Tensor | None = None,
    leak: Tensor | None = None,
    back: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Spikes or membranes (T, B, ...), float32, and the integer membranes before a reset, int32, of the same shape.

    x: synaptic input (T, B, ...), float32 of whole numbers, exponents applied; a unit of the float model's input is unit /
    64 of it. A read-out's membranes are whole numbers too. bias, leak: what the float model has, one value or one per neuron of
    the population; the integers count in the forward pass, these get the gradients.
    back: (to, from), float32 of whole numbers, exponents applied: synapses from the population's own spikes of the step before.
    """
    return _Scan.apply(x, bias, leak, back, integers)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        bias: Tensor | None,
        leak: Tensor | None,
        back: Tensor | None,
        integers: Integers,
    ) -> Any:
        kernels = backend(x)
        steps, flat = len(x), x.contiguous().reshape(len(x), -1)
        out = torch.empty_like(flat)
        membranes = torch.empty_like(flat, dtype=torch.int32)
        u, v = (torch.zeros_like(flat[0], dtype=torch.int32) for _ in range(2))
        if back is None:
            kernels.forward(flat, integers, u, v, out, membranes, 0, steps)
        else:
            flat = flat.clone()
            matrix = back.t().contiguous()
            inputs, spikes = flat.view(steps, -1, len(back)), out.view(steps, -1, len(back))
            for t in range(steps):
                if t:
                    inputs[t].addmm_(spikes[t - 1], matrix)
                kernels.forward(flat, integers, u, v, out, membranes, t, t + 1)
        return out.view(x.shape), membranes.view(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, bias, leak, back, ctx.integers = inputs
        out, membranes = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(membranes)
        ctx.shapes = [None if tensor is None else tensor.shape for tensor in (bias, leak)]
        ctx.save_for_backward(membranes, back, out if back is not None else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * 5
        membranes, back, out = ctx.saved_tensors
        integers, kernels = ctx.integers, backend(grad)
        steps = len(grad)
        flat, kept = grad.contiguous().reshape(steps, -1), membranes.view(steps, -1)
        grad_x = torch.empty_like(flat)
        g_u, g_v, g_bias, g_leak = (torch.zeros_like(flat[0]) for _ in range(4))
        carried = (g_u, g_v, g_bias, g_leak)
        grad_back = None
        if back is None:
            kernels.backward(flat, integers, kept, *carried, grad_x, 0, steps)
        else:
            flat = flat.clone()
            wanted, found = (values.view(steps, -1, len(back)) for values in (flat, grad_x))
            for t in reversed(range(steps)):
                if t + 1 < steps:
                    wanted[t].addmm_(found[t + 1], back)
                kernels.backward(flat, integers, kept, *carried, grad_x, t, t + 1)
            spikes = out.view(steps, -1, len(back))
            grad_back = found[1:].flatten(0, 1).t() @ spikes[:-1].flatten(0, 1)
        each = [
            None if shape is None else _reduced(total, shape)
            for shape, total in zip(ctx.shapes, (g_bias, g_leak), strict=True)
        ]
        return grad_x.view(grad.shape), *each, grad_back, None


def _reduced(total: Tensor, shape: torch.Size) -> Tensor:
    """Gradients of all neurons of a batch, added up to a parameter's shape: one value, or one for each neuron."""
    width = shape.numel()
    return total.sum().reshape(shape) if width == 1 else total.reshape(-1, width).sum(0).reshape(shape)


def backend(x: Tensor) -> ModuleType:
    """The kernels for a tensor's device."""
    if not x.is_cuda:
        return scan_cpu
    from dpap_neuro.precision import scan_triton  # Triton comes with PyTorch's GPU builds alone

    return scan_triton
