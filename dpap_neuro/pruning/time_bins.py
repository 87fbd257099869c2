"""Which time bins a network needs, for pruners of single weights: the Fisher information of a gate on each bin.

Imagine a gate of 1 on all that the network reads in time bin t. By the chain rule the gradient of a recording's loss by it is c_t, the
sum of g (y - b) over the outputs y of the projections that read the input, b their biases and g the gradient of y. After every epoch
F_t <- delta F_t + (mean over recordings of c_t^2), and the bins of the least F_t go first, as channels do in Theis et al. 2018 (arXiv
1801.05787) and Molchanov et al. 2019 (arXiv 1906.10771). What has gone stays away. DPAP's own rule, by spikes and survival, is that of `dpap`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.labels import ALIVE, tensors
from dpap_neuro.pruning.statistics import reduce_over_ranks
from dpap_neuro.pruning.structure import Projection, Structure


def best_bins(values: Tensor, kept: Tensor, keep: int) -> Tensor:
    """Of the bins `kept`, rising indices, the `keep` (at least one) of the largest values (bins,); of equal ones the first."""
    order = torch.argsort(values[kept], descending=True, stable=True)
    return kept[order[: max(1, keep)].sort().values]


def check_asked(bins: int | None, epochs: int | None) -> None:
    """Raises InputError for a number of time bins to keep that is none, or without the length of the run."""
    if bins is not None and (bins < 1 or epochs is None):
        raise InputError(f"bins: found {bins} with epochs {epochs}, expected at least 1 and epochs given")


def check_bins(keep: int, steps: int) -> None:
    """Raises InputError where more time bins are to be left than a recording has."""
    if keep > steps:
        raise InputError(f"bins: found {keep}, expected at most the {steps} of the recording")


class BinGates:
    """The trace F_t of every time bin of a network in training mode: hooks on the projections that read its input.

    kept: the bins that the network is shown, in their order; to be set as they go. Raises InputError where no projection reads the input.
    """

    def __init__(self, structure: Structure, steps: int, delta: float) -> None:
        self.delta = delta
        self.kept = torch.arange(steps)
        self.trace = torch.zeros(steps, dtype=torch.float64)
        self._squares = torch.zeros(steps, dtype=torch.float64)
        self._recordings = torch.zeros(1, dtype=torch.float64)
        # By projection how often it was called since the last step; by call of the network c_t of each recording, (bins, recordings).
        self._calls: dict[str, int] = {}
        self._found: dict[int, Tensor] = {}
        first = [
            p
            for p in structure.projections.values()
            if p.kind != "recurrent" and bool((p.pre == ALIVE).all())
        ]
        if not first:
            raise InputError("bins: found no projection that reads the network's input, expected one")
        self._handles = [
            p.module.register_forward_hook(self._hook(p, structure.layouts[p.name])) for p in first
        ]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, p: Projection, layout: str) -> Any:
        def called(module: nn.Module, _args: Any, result: Any) -> None:
            out = next(tensors(result))
            if not module.training or not out.requires_grad:
                return
            number = self._calls.get(p.name, 0)
            self._calls[p.name] = number + 1
            steps = len(self.kept)
            # Not the tensor itself: with its own hook it would be held for ever.
            values = out.detach()

            def learned(gradient: Tensor) -> None:
                product = gradient.float() * (values - _bias(p)).float()
                if layout == "step":
                    call, at = divmod(number, steps)
                    own = product.new_zeros(steps, len(product))
                    own[at] = product.flatten(1).sum(1)
                else:
                    call = number
                    if layout == "batch first":
                        product = product.transpose(0, 1)
                    own = product.reshape(steps, -1, *product.shape[1 if layout == "merged" else 2 :])
                    own = own.flatten(2).sum(2) if own.dim() > 2 else own
                own = own.double()
                self._found[call] = self._found[call] + own if call in self._found else own

            out.register_hook(learned)

        return called

    def absorb(self, scale: float = 1.0) -> None:
        """After every optimizer step. scale: what a loss scaler has multiplied the gradients by."""
        for own in self._found.values():
            # A scaler skips a batch whose gradients overflow. Nothing here waits for a GPU.
            self._squares, self._recordings = self._squares.to(own.device), self._recordings.to(own.device)
            counts = torch.isfinite(own).all()
            squares = torch.where(counts, (own / scale).square().sum(1), 0.0)
            self._squares.index_add_(0, self.kept.to(own.device), squares)
            self._recordings += counts * own.shape[1]
        self._calls, self._found = {}, {}

    def end_epoch(self) -> Tensor:
        """F_t, (bins,), of bins that are shown no more as it was."""
        squares = reduce_over_ranks(self._squares).cpu()
        recordings = float(reduce_over_ranks(self._recordings))
        self.trace[self.kept] = (self.delta * self.trace + squares / max(1.0, recordings))[self.kept]
        self._squares, self._recordings = torch.zeros_like(self._squares), torch.zeros_like(self._recordings)
        return self.trace


def _bias(p: Projection) -> Tensor | float:
    """What a gate on the input leaves as it is, as it broadcasts to the projection's output."""
    bias = p.bias if p.weight_name == "weight" else None
    if bias is None:
        return 0.0
    return bias.detach().reshape(-1, *[1] * (len(p.shape) - 2)) if len(p.shape) > 2 else bias.detach()
