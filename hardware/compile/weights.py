"""A layer's maps in the form that is rounded: gains folded in, rows with their extremes, the scale that each follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.chip.chips import Chip
from hardware.compile import quantise
from hardware.compile.layers import Layer, Path
from hardware.compile.linear import (
    Convolution,
    Diagonal,
    Matrix,
    is_sparse,
    scaled_rows,
    symmetric,
    to_matrix,
)
from hardware.errors import HardwareError
from hardware.network.integer import SignMode

Array = np.ndarray
# From this share of non-zero weights on, a matrix is kept as one.
DENSE_FROM = 0.5


@dataclass(frozen=True)
class Weights:
    """A path ready to be rounded: its rows (output channels or neurons) and which scale each follows.

    row_scale: index into the layer's scales, per row. top, bottom: largest and smallest weight of a row, 0 at
    least and at most. total, inhibition: sums of |weight| and of |negative weight| per row. bits: of a mantissa.
    """

    path: Path
    map: Convolution | Matrix
    mode: SignMode
    row_scale: Array
    top: Array
    bottom: Array
    total: Array
    inhibition: Array
    bits: int

    def values(self, group: int | None = None) -> Array:
        """The weights, flat, zeros of a sparse matrix left out; of the rows that follow one scale, or of all."""
        flat: Any = self.map.weight if isinstance(self.map, Convolution) else self.map.matrix
        if group is not None:
            flat = flat[self.row_scale == group]
        return np.asarray(flat.data if is_sparse(flat) else flat).reshape(-1)


def groups_of(shape: tuple[int, ...], maps: list[Convolution | Matrix], per_channel: bool) -> Array:
    """Which scale each neuron follows: one for all, or one per channel where a convolution leads to them, else each its own."""
    n = math.prod(shape)
    if not per_channel:
        return np.zeros(n, np.int64)
    by_channel = any(isinstance(m, Convolution) for m in maps)
    return np.arange(n) // (n // shape[0]) if by_channel else np.arange(n)


def folded_gain(layer: Layer) -> tuple[list[Convolution | Matrix], Array]:
    """Maps with the neurons' gains folded in, and what of the gain is left to each neuron's own scale.

    A convolution can take a gain per channel only. Where gains differ within a channel but keep their sign,
    the membrane is scaled by what is left; where they do not, the convolution becomes a matrix.
    """
    neurons = layer.neurons
    residual, common = np.ones(math.prod(neurons.shape)), neurons.gain
    maps = []
    for path in layer.paths:
        map_ = path.map
        if map_ is None:
            map_ = Diagonal(np.ones(math.prod(path.source_shape)))
        if isinstance(map_, Convolution):
            fitting = symmetric(map_)
            as_convolution = (
                fitting is not None and map_.target == neurons.shape and map_.source == path.source_shape
            )
            map_ = fitting if as_convolution and fitting is not None else Matrix(to_matrix(map_))
        maps.append(map_)
    if neurons.threshold is not None and any(isinstance(m, Convolution) for m in maps):
        rows = neurons.gain.reshape(neurons.shape[0], -1)
        if not (rows == rows[:, :1]).all() and ((rows > 0).all(axis=1) | (rows < 0).all(axis=1)).all():
            mean = np.sign(rows[:, :1]) * np.exp(np.log(np.abs(rows)).mean(axis=1, keepdims=True))
            residual, common = (rows / mean).reshape(-1), np.repeat(mean, rows.shape[1])
    folded: list[Convolution | Matrix] = []
    for map_ in maps:
        scaled = scaled_rows(map_, common)
        if isinstance(scaled, Diagonal):
            scaled = Matrix(to_matrix(scaled))
        folded.append(scaled)
    return [
        _without(m, path.dead, neurons.dead) for m, path in zip(folded, layer.paths, strict=True)
    ], residual


def _without(map_: Convolution | Matrix, pre: Array | None, post: Array | None) -> Convolution | Matrix:
    """A matrix without what leads from dead neurons `pre` or to dead neurons `post`; of a convolution the projection says that."""
    if isinstance(map_, Convolution) or (pre is None and post is None):
        return map_
    matrix: Any = map_.matrix
    rows = np.ones(matrix.shape[0]) if post is None else (~post).astype(float)
    columns = np.ones(matrix.shape[1]) if pre is None else (~pre).astype(float)
    if not is_sparse(matrix):
        return Matrix(matrix * rows[:, None] * columns)
    left = matrix.multiply(rows[:, None]).multiply(columns[None]).tocsr()
    left.eliminate_zeros()
    return Matrix(left)


def rows_of(
    path: Path, map_: Convolution | Matrix, group: Array, channels: int, chip: Chip, bits: int, target: str
) -> Weights:
    """The weights of one path to `target`. Raises HardwareError for signs that the chip, or one bit, cannot hold."""
    if isinstance(map_, Convolution):
        flat: Any = map_.weight.reshape(len(map_.weight), -1)
        row_scale = group[:: len(group) // channels]
    else:
        flat, row_scale = map_.matrix, group
    if is_sparse(flat):
        if flat.nnz:
            top = np.maximum(flat.max(axis=1).toarray().reshape(-1), 0.0)
            bottom = np.minimum(flat.min(axis=1).toarray().reshape(-1), 0.0)
        else:
            top = bottom = np.zeros(flat.shape[0])
        total = np.asarray(np.abs(flat).sum(axis=1)).reshape(-1)
        net = np.asarray(flat.sum(axis=1)).reshape(-1)
    else:
        top, bottom = flat.max(axis=1, initial=0.0), flat.min(axis=1, initial=0.0)
        total, net = np.abs(flat).sum(axis=1), flat.sum(axis=1)
    mode = quantise.sign_mode(np.concatenate([top, bottom]))
    if mode not in chip.neuron.sign_modes:
        if "mixed" not in chip.neuron.sign_modes:
            raise HardwareError(
                f"node {target!r}: {mode} weights from {path.source!r}, {chip.name} has {' and '.join(chip.neuron.sign_modes)} ones"
            )
        mode = "mixed"
    if mode == "mixed" and bits == 1:
        raise HardwareError(
            f"node {target!r}: weights of both signs from {path.source!r} need 2 bits at least"
        )
    inhibition = np.where(bottom < 0, np.maximum(total - net, 0.0) / 2, 0.0)
    return Weights(path, map_, mode, row_scale, top, bottom, total, inhibition, bits)
