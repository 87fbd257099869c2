"""Matrices on a CPU by oneDNN, which PyTorch's convolutions take as well.

PyTorch's own matrices are MKL's, whose code for processors that are not Intel's reaches half of what these can do: on an AMD with AVX-512 a
product of 320 x 2352 x 256 takes 3.5 ms on one core, oneDNN's 1.6 ms.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Products below which the way through Python costs more than it saves.
_LEAST = 1 << 22


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, on many CPUs faster; its sums are in another order there."""
    if x.dim() == 2 and x.numel() * len(weight) >= _LEAST and _plain(x, weight, bias) and _has_onednn():
        return _Product.apply(x, weight, bias)
    return nn.functional.linear(x, weight, bias)


def _plain(*tensors: Tensor | None) -> bool:
    """float32 on a CPU, outside of whatever sees a matrix as PyTorch's own: autocast, compilers, modes and subclasses of Tensor."""
    given = [tensor for tensor in tensors if tensor is not None]
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in given):
        return False
    special = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return not special and not torch.overrides.has_torch_function(given)


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (n, in) times weight (out, in) transposed. What torch.compile makes of a matrix on a CPU; PyTorch has no other door to it."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if to_x else None,
            _product(grad.t(), x.t()) if to_weight else None,
            grad.sum(0) if to_bias else None,
        )


# Asked for at every call, and else put together anew.
_Product.forward.__signature__ = inspect.signature(_Product.forward)  # type: ignore[attr-defined]
