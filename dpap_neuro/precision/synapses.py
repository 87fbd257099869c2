"""Synapses whose weights are a chip's mantissas: rounded by the compiler's own functions, summed exactly.

`hardware.compile.quantise` decides every integer; parameters stay floats, and gradients go straight through the rounding
(Bengio et al. 2013, arXiv 1308.3432), except where a weight is clipped and a step would take it further out. A sum of
whole numbers below 2**24 is exact in float32 in any order; the exponent is applied after it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dpap_neuro.errors import InputError
from dpap_neuro.networks.matrices import linear
from hardware.compile import quantise
from hardware.network.integer import SignMode, weight_grid

# Whole numbers up to here are exact in float32; what a convolution sums is wrapped to 24 bits with sign on the chip.
EXACT, WRAPPED = 2**24, 2**23


@dataclass(frozen=True)
class Grid:
    """How a projection is rounded. factor: mantissas per unit of the parameter; exponent: applied after the sum."""

    factor: float
    exponent: int
    mode: SignMode
    bits: int


class _Rounded(torch.autograd.Function):
    """Mantissas, float32 of whole numbers. stretch: what is learned of the factor's log2, see `learned_scale`."""

    @staticmethod
    def forward(weight: Tensor, stretch: Tensor | None, grid: Grid, factor: float) -> Tensor:
        exact = weight.detach().cpu().double().numpy()
        found = quantise.round_weights(exact, factor, 0, grid.mode, grid.bits)
        return torch.from_numpy(found).to(weight.device, torch.float32)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        weight, ctx.stretch, ctx.grid, ctx.factor = inputs
        ctx.save_for_backward(weight, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, mantissas = ctx.saved_tensors
        low, high, step = weight_grid(ctx.grid.mode, ctx.grid.bits)
        scaled = weight * ctx.factor
        above, below = scaled > high + step / 2, scaled < low - step / 2
        outward = (above & (grad < 0)) | (below & (grad > 0))
        to_weight = torch.where(outward, 0.0, grad * ctx.factor)
        if ctx.stretch is None:
            return to_weight, None, None, None
        # Of mantissas / factor with regard to log2 of the factor, as LSQ has it (arXiv 1902.08153).
        inside = torch.where(above | below, -mantissas, scaled - mantissas)
        scale = (weight.numel() * max(high, -low)) ** -0.5
        return to_weight, (grad * inside).sum() * scale, None, None


def rounded(weight: Tensor, grid: Grid, stretch: Tensor | None = None, alive: Tensor | None = None) -> Tensor:
    """Mantissas, float32 of whole numbers, with the exponent applied: a power of two may go before a sum that stays exact.

    stretch: what is learned of log2 of the factor. alive: 0 for what stays zero, else 1.
    """
    factor = grid.factor if stretch is None else grid.factor * 2.0 ** float(stretch.detach())
    mantissas = _Rounded.apply(weight if alive is None else weight * alive, stretch, grid, factor)
    return mantissas if grid.exponent == 0 else mantissas * 2.0**grid.exponent


def zeros_held(weight: Tensor) -> Tensor | None:
    """1 where a weight is not zero, so that zeros can stay; None where none is."""
    alive = weight.detach() != 0
    return None if alive.all() else alive.to(weight.dtype)


class _Exact:
    """What `ExactConv2d` and `ExactLinear` add to PyTorch's layers."""

    grid: Grid
    stretch: Tensor | None
    norm: Any
    alive: Tensor | None
    weight: Any
    bias: Any

    def effective(self) -> Tensor:
        """The weight that is rounded: the parameter, with a batch norm's gain folded in."""
        return self.weight if self.norm is None else self.norm.scaled(self.weight)

    def weights(self) -> Tensor:
        """Mantissas * 2**exponent, float32 of whole numbers."""
        return rounded(self.effective(), self.grid, self.stretch, self.alive)

    def constant(self) -> Tensor | None:
        """The bias (channels,) that comes with these weights, or a batch norm's shift; None where there is none."""
        return self.bias if self.norm is None else self.norm.shifted()

    def seen(self, sums: Tensor) -> Tensor:
        """The layer's sums (N, channels, ...), which a batch norm has looked at."""
        if self.norm is None:
            return sums
        stretch = 1.0 if self.stretch is None else 2.0 ** float(self.stretch.detach())
        self.norm.factor = self.grid.factor * 2.0**self.grid.exponent * stretch
        return self.norm(sums)


class ExactConv2d(_Exact, nn.Conv2d):
    """A convolution in mantissas; the population that it leads to takes the bias."""

    def __init__(self, grid: Grid, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.grid = grid
        self.stretch = self.norm = None
        self.register_buffer("alive", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weights()
        with _plain_sums(x, self):
            return nn.functional.conv2d(
                x, weight, None, self.stride, self.padding, self.dilation, self.groups
            )


class ExactLinear(_Exact, nn.Linear):
    """A matrix in mantissas; the population that it leads to takes the bias."""

    def __init__(self, grid: Grid, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.grid = grid
        self.stretch = self.norm = None
        self.register_buffer("alive", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weights())


Exact = ExactConv2d | ExactLinear


def _plain_sums(x: Tensor, layer: nn.Conv2d) -> AbstractContextManager:
    """Without cuDNN where it might take Winograd's algorithm, which does not sum whole numbers."""
    at_risk = x.is_cuda and max(layer.stride) == 1 and max(layer.kernel_size) > 1
    return torch.backends.cudnn.flags(enabled=False) if at_risk else nullcontext()


def check_precision(device: torch.device) -> None:
    """Raises InputError where PyTorch is set to sum in less than float32, so that whole numbers would not stay whole."""
    if torch.is_autocast_enabled(device.type):
        raise InputError(
            f"autocast is on for {device.type}: sums of integers would be rounded, expected it off for --precision loihi"
        )
    if torch.get_float32_matmul_precision() == "medium":
        raise InputError(
            "float32_matmul_precision: found 'medium', which sums in bfloat16, expected 'high' or 'highest'"
        )


def largest_sum(fan_in: int, grid: Grid, count: int) -> int:
    """What |sum| can be at most, exponent applied, whatever the weights become: all sources at `count`."""
    low, high, _ = weight_grid(grid.mode, grid.bits)
    return fan_in * max(high, -low) * count << grid.exponent


def largest_sum_now(weights: Tensor, count: int) -> int:
    """The same of weights as they are."""
    sums = weights.detach().abs().double().flatten(1).sum(1)
    return int(sums.max()) * count if sums.numel() else 0
