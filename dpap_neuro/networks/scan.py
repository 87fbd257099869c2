"""Populations over whole recordings as one operation, in place of a loop over Norse's step functions.

Forward gives the loop's spikes to the bit, backward the gradients of its graph: through the surrogate, and through the
reset, as Norse does. Between the two, only membranes are kept. On a GPU one kernel each way, in Triton
(`scan_triton`); on the CPU steps in place (`scan_cpu`).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dpap_neuro.networks import scan_cpu
from dpap_neuro.networks.dynamics import Dynamics, dynamics_of

_HALVES = (torch.float16, torch.bfloat16)


def covers(step: Callable[..., Any], x: Tensor, p: Any) -> bool:
    """Whether `scan` stands in for a loop over the step: where `dynamics_of` knows it, of the surrogates of `surrogates`; on
    a CPU in any of PyTorch's four, and on a GPU where Triton works. PyTorch's own compilers get the loop."""
    if torch.compiler.is_compiling() or not x.numel() or dynamics_of(step, p) is None:
        return False
    if x.is_cuda:
        return x.is_floating_point() and kernels_work(x.device)
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64, *_HALVES)


@cache
def kernels_work(device: torch.device) -> bool:
    """Whether Triton builds and runs a kernel on the GPU. Where it does not, a warning says why, once."""
    try:
        from dpap_neuro.networks import scan_triton

        x, constants = torch.zeros(1, 1, device=device), torch.zeros(7, 1, device=device)
        kind = Dynamics(current=False, leak=False, spikes=True)
        scan_triton.forward(x, constants, kind, needed=False, learned=False)
    except Exception as error:  # whatever may be missing: Triton, a compiler, a driver, support of an old GPU
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(
            f"{device}: neurons step one by one, slower, since Triton failed ({reason})", stacklevel=2
        )
        return False
    return True


def scan(step: Callable[..., Any], x: Tensor, state: Any, p: Any, dt: float) -> Tensor:
    """The outputs of a loop `z, state = step(x[t], state, p, dt)`, stacked: (T, B, ...) as x, and of its type.

    state, p: Norse's, each value one number or a tensor that broadcasts to x[0]; gradients reach x and all of them.
    Membranes have float32's precision at least, so that half precision is stepped better than by the loop.
    """
    parameters, learned = constants_of(x, state, p)
    needed = learned or (torch.is_grad_enabled() and x.requires_grad)
    given = parameters, dynamics_of(step, p), dt, needed, learned
    if x.device.type == "cpu" and x.dtype in _HALVES:
        return _Scan.apply(x.float(), *given)[0].to(x.dtype)
    if parameters.shape[1] == 1 and x.dim() == 5 and not x.is_contiguous():
        # As convolutions on a CPU leave them, channels last: neurons that are all alike can be taken in any order.
        return _Scan.apply(x.permute(0, 1, 3, 4, 2), *given)[0].permute(0, 1, 4, 2, 3)
    return _Scan.apply(x, *given)[0]


def constants_of(x: Tensor, state: Any, p: Any) -> tuple[Tensor, bool]:
    """(7, width): membrane and current at first, 1 / tau_mem, 1 / tau_syn, v_leak, v_th, v_reset, of width 1 where all neurons are alike; and
    whether any of it is learned."""
    zero = x.new_zeros((), dtype=torch.float32)
    values = [
        state.v,
        getattr(state, "i", zero),
        *(getattr(p, name, zero) for name in ("tau_mem_inv", "tau_syn_inv", "v_leak", "v_th", "v_reset")),
    ]
    # A current at rest may have x's type; dt / tau comes of the parameters', as in Norse.
    values = [value.to(state.v.dtype) for value in values]
    if any(value.dim() for value in values):
        shape = torch.broadcast_shapes(*(value.shape for value in values))
        shape = x.shape[x.dim() - len(shape) :]
        values = [value.expand(shape).reshape(-1) for value in values]
    parameters = torch.stack(values).reshape(len(values), -1)
    return parameters, torch.is_grad_enabled() and parameters.requires_grad


def of_a_step(parameters: Tensor, x: Tensor, dt: float) -> Tensor:
    """`constants_of` with dt / tau in place of 1 / tau, in x's precision, float32's at least."""
    constants = parameters.clone()
    constants[2:4] *= dt
    return constants.to(torch.promote_types(x.dtype, torch.float32))


class _Scan(torch.autograd.Function):
    """x (T, B, ...), parameters (7, width): membrane and current at first, 1 / tau_mem, 1 / tau_syn, v_leak, v_th,
    v_reset; neuron n of x[t], laid flat, has those in column n modulo width. Returns the output, and what backward
    needs: the constants of a step, dt / tau in place of 1 / tau, membranes before reset, and what drove them."""

    @staticmethod
    def forward(x: Tensor, parameters: Tensor, kind: Dynamics, dt: float, needed: bool, learned: bool) -> Any:
        constants = of_a_step(parameters, x, dt)
        out, membranes, drives = _backend(x).forward(x.contiguous(), constants, kind, needed, learned)
        return out, constants, membranes, drives

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, _, ctx.kind, ctx.dt, _, ctx.learned = inputs
        _, constants, membranes, drives = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(tensor for tensor in output[1:] if tensor is not None))
        # Without membranes backward steps again, from x.
        again = membranes is None and ctx.kind.spikes
        ctx.save_for_backward(
            constants, membranes, x if drives is None and (ctx.learned or again) else drives
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        constants, membranes, drives = ctx.saved_tensors
        if drives is not None:
            drives = drives.contiguous()
        given = grad.contiguous(), constants, membranes, drives, ctx.kind, ctx.learned, ctx.dt
        return *_backend(grad).backward(*given), None, None, None, None


# Asked for at every call, and else put together anew.
_Scan.forward.__signature__ = inspect.signature(_Scan.forward)  # type: ignore[attr-defined]


def _backend(x: Tensor) -> ModuleType:
    if not x.is_cuda:
        return scan_cpu
    from dpap_neuro.networks import scan_triton  # Triton comes with PyTorch's GPU builds alone

    return scan_triton
