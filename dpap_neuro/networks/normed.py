"""A batch norm and the population behind it as one operation on a CPU: two passes forward, two back, where each alone would take twice that.

Statistics are over time and recordings, as everywhere. What is normed is never stored: both ways it is computed as neurons step. Outputs are
to the bit those of Norse's steps on x * scale + shift, whose scale and shift come of statistics in float64; PyTorch's batch norm sums in
another order, so that last bits of theirs differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from dpap_neuro.networks import scan_cpu
from dpap_neuro.networks.dynamics import Dynamics, dynamics_of
from dpap_neuro.networks.scan import constants_of, covers, of_a_step

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d)


def can_join(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm1d | nn.BatchNorm2d]:
    """Whether nothing but `normed_scan` has to know of a batch norm in front of a population that steps on x (T, B, channels, ...): in training,
    unaltered, unwatched, on a CPU in full precision, channels last in memory."""
    if type(norm) not in _KINDS or not norm.training or not torch.is_grad_enabled():
        return False
    hooks = norm._forward_hooks, norm._forward_pre_hooks, norm._backward_hooks, norm._backward_pre_hooks
    altered = "forward" in vars(norm) or nn.utils.parametrize.is_parametrized(norm)
    # Not what stands for a tensor as a graph is traced.
    plain = isinstance(x, Tensor) and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if any(hooks) or altered or not plain:
        return False
    fits = isinstance(norm, {3: nn.BatchNorm1d, 5: nn.BatchNorm2d}.get(x.dim(), ()))
    # A channel's single value has no variance: PyTorch's own says so.
    return fits and x.shape[2] == norm.num_features and x.numel() > x.shape[2] and _last(x).is_contiguous()


def _last(x: Tensor) -> Tensor:
    """(T, B, channels, rows, columns) with channels last."""
    return x.permute(0, 1, 3, 4, 2) if x.dim() == 5 else x


def normed_scan(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, step: Callable[..., Any], x: Tensor, state: Any, p: Any, dt: float
) -> Tensor | None:
    """`scan` on what a batch norm makes of x, whose running statistics it moves; None where neurons differ from each other or learn.

    norm, x: as `can_join` has it. The rest: see `scan`.
    """
    if not covers(step, x, p):
        return None
    parameters, learned = constants_of(x, state, p)
    if learned or parameters.shape[1] > 1:
        return None
    given = norm.weight, norm.bias, of_a_step(parameters, x, dt), dynamics_of(step, p), norm.eps
    out, mean, variance = _NormedScan.apply(_last(x), *given)
    if norm.track_running_stats:
        count = x.numel() // x.shape[2]
        move(norm, mean, variance * (count / (count - 1)))
    return out.permute(0, 1, 4, 2, 3) if x.dim() == 5 else out


@torch.no_grad()
def move(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Running statistics, where a norm has any, as PyTorch moves them; variance: unbiased."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _NormedScan(torch.autograd.Function):
    """x (T, B, ..., channels), contiguous; constants: `of_a_step`. Returns the output, and mean and variance of each channel."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, constants: Tensor, kind: Dynamics, eps: float
    ) -> Any:
        return scan_cpu.normed_forward(x, constants, kind, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, bias, constants, ctx.kind, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, bias, constants, *output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, constants, mean, variance = ctx.saved_tensors
        to_x, to_weight, to_bias = scan_cpu.normed_backward(
            grad.contiguous(), x, constants, ctx.kind, weight, bias, ctx.eps, mean, variance
        )
        learned = [
            None if of is None else to.to(of.dtype) for of, to in ((weight, to_weight), (bias, to_bias))
        ]
        return to_x, *learned, None, None, None


# Asked for at every call, and else put together anew.
_NormedScan.forward.__signature__ = inspect.signature(_NormedScan.forward)  # type: ignore[attr-defined]
