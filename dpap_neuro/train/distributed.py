"""Several processes that train one network, as `torchrun` starts them: each takes its part of every batch.

Gradients are summed and batch norm takes its statistics over all parts, so that a run does what one process with the
whole batch does. Without `torchrun` there is one rank, and nothing here does anything.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpap_neuro.errors import InputError
from dpap_neuro.networks.normed import move
from dpap_neuro.pruning.statistics import reduce_over_ranks


def world() -> int:
    """How many processes there are."""
    dist = torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; the first one writes files."""
    return torch.distributed.get_rank() if world() > 1 else 0


def started() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def own_number() -> int:
    """Which of those that `torchrun` started this is, from 0, whether or not they are joined."""
    return int(os.environ.get("RANK", "0")) if started() > 1 else 0


def own_device(device: torch.device) -> torch.device:
    """This process's of the machine's GPUs, where `torchrun` started several."""
    if started() > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes where `torchrun` started several (nccl on GPUs, gloo on CPUs); yields this one's device.

    Raises InputError where one of the others ends before its time.
    """
    if started() < 2:
        yield device
        return
    device = own_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        said = " ".join(str(error).rpartition("] ")[2].partition(". ")[0].split())[:100]
        raise InputError(
            f"process {rank()} of {world()}: another one has ended or cannot be reached ({said}); train with --resume goes on "
            "behind the last whole epoch"
        ) from None
    finally:
        torch.distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """Whether it is the connection to another process that failed; gloo has no exception of its own."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def own_part(n: int) -> slice:
    """Which of n recordings are this process's."""
    return slice(rank(), n, world())


@torch.no_grad()
def sum_gradients(model: nn.Module) -> None:
    """Add up the processes' gradients."""
    if world() < 2:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    summed = reduce_over_ranks(torch.cat([g.flatten() for g in gradients]))
    for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def shared_norms(model: nn.Module) -> Iterator[None]:
    """For a while, batch norms in training mode take mean and variance over the parts of all processes.

    (PyTorch's SyncBatchNorm does so on GPUs only.)
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)] if world() > 1 else []
    for norm in norms:
        norm.forward = types.MethodType(_normalise, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient. (PyTorch deprecates its own, for one that is not public.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return reduce_over_ranks(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return reduce_over_ranks(gradient.clone())


def _normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = reduce_over_ranks(torch.tensor([x.numel() / x.shape[1]], dtype=x.dtype, device=x.device))
    mean = _Sum.apply(x.sum(axes)) / count
    centred = x - mean.reshape(shape)
    variance = _Sum.apply(centred.square().sum(axes)) / count
    move(norm, mean, variance * count / (count - 1))
    y = centred * torch.rsqrt(variance + norm.eps).reshape(shape)
    if norm.weight is not None:
        y = y * norm.weight.reshape(shape)
    return y if norm.bias is None else y + norm.bias.reshape(shape)
