"""Where a kernel stands, and the convolution itself on NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray
# Of windows that are unfolded at once for a matrix product.
BLOCK_BYTES = 8 << 20


def positions(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Positions of a kernel along each axis; the last incomplete one does not count, and below 1 it does not fit at all.

    size: of the input. padding: zeros before and after it.
    """
    reach = reaches(kernel, dilation)
    axes = zip(size, padding, reach, stride, strict=True)
    return tuple((n + before + after - r) // s + 1 for n, (before, after), r, s in axes)


def reaches(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Values that a kernel spans along each axis."""
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))


def conv(
    x: Array,
    weight: Array,
    bias: Array,
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int = 1,
) -> Array:
    """Conv1d, Conv2d: cross-correlation, as PyTorch's.

    x: (batch, in, *space); weight: (out, in / groups, *kernel); padding: zeros before and after each axis.
    With g(o) the first input channel of o's group, and zeros outside::

        y[o, p] = b[o] + sum over c, k of w[o, c, k] x[g(o) + c, p stride + k dilation - padding]
    """
    axes = weight.ndim - 2
    out, within, *kernel = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), *padding)) if any(p != (0, 0) for p in padding) else x
    reach = reaches(kernel, dilation)
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + axes)))
    steps = tuple(slice(None, None, s) for s in stride)
    taps = tuple(slice(None, None, d) for d in dilation)
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    space = windows.shape[2 : 2 + axes]
    # (batch, in, *kernel, *space): the innermost axes are copied in long runs, and matmul needs no transpose.
    windows = np.moveaxis(windows, tuple(range(2 + axes, 2 + 2 * axes)), tuple(range(2, 2 + axes)))
    inner, places = within * math.prod(kernel), math.prod(space)
    matrix = weight.reshape(groups, out // groups, inner).astype(x.dtype, copy=False)
    y = np.empty((len(x), groups, out // groups, places), x.dtype)
    block = max(1, BLOCK_BYTES // (groups * inner * places * x.dtype.itemsize))
    for at in range(0, len(x), block):
        part = windows[at : at + block]
        np.matmul(matrix, part.reshape(len(part), groups, inner, places), out=y[at : at + block])
    y = y.reshape(len(x), out, *space)
    return y + bias.astype(x.dtype, copy=False).reshape(-1, *(1,) * axes) if bias.any() else y
