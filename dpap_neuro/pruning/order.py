"""The order of many values; on a CPU by NumPy, which takes a third (sorting) to a tenth (the largest of all) of torch's time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def ascending(values: Tensor) -> Tensor:
    """Values (n,) in ascending order."""
    if not _numpy_has(values):
        return values.sort().values
    return torch.from_numpy(np.sort(values.detach().numpy()))


def least(values: Tensor, number: int) -> Tensor:
    """Where the smallest of values (n,) are, (number,) int64 in any order; of equals any."""
    if not _numpy_has(values):
        return torch.topk(values, number, largest=False).indices
    if not 0 < number < len(values):
        return torch.arange(number)
    return torch.from_numpy(np.argpartition(values.detach().numpy(), number - 1)[:number])


def most(values: Tensor, number: int) -> Tensor:
    """As `least`, of the largest."""
    if not _numpy_has(values):
        return torch.topk(values, number).indices
    return least(-values, number)


def _numpy_has(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype != torch.bfloat16
