"""What the kernels of neurons on a CPU share: how they are compiled, and their work in parts, a thread each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dpap_neuro.team import share_out
from hardware.compiled import jit

# Neurons that the nearest cache holds, through all steps.
BLOCK = 1024
# Neurons that are worth a thread of their own.
_EACH = 16_384


def compiled(signature: Any = None) -> Callable[[Callable], Callable]:
    """For loops over neurons, see `hardware.compiled.jit`."""
    return jit(signature, nogil=True, boundscheck=False, error_model="numpy")


def in_parts(neurons: int, work: Callable[[int, int], Any], unit: int = BLOCK, values: int = 1) -> None:
    """work(first, last): neurons are independent, so that as many threads as PyTorch uses take parts of them, of whole units.

    values: of each neuron, where that is how much work it is.
    """
    threads = min(torch.get_num_threads(), -(-neurons * values // _EACH))
    if threads <= 1:
        work(0, neurons)
        return
    each = -(-neurons // threads // unit) * unit
    firsts = range(0, neurons, each)
    share_out(len(firsts), lambda part: work(firsts[part], min(firsts[part] + each, neurons)))
