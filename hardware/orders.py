"""Orders in which a population's neurons are handed out to cores, so that neighbours share pre neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardware import _packing as packing
from hardware.connectivity import Incoming

# What one step of growing a core costs, in synapses looked at.
VISITS_PER_STEP = 5.0


@dataclass(frozen=True)
class Order:
    """A population's neurons in the order in which cores take them, int32. unit: a core takes multiples of that many where it
    can, since part of a tile may cost it more memory than the whole.
    """

    neurons: np.ndarray
    unit: int = 1

    def middle(self) -> int:
        """Where the unit in the middle begins."""
        return len(self.neurons) // self.unit // 2 * self.unit


def spatial_orders(shape: tuple[int, ...], most: int) -> list[Order]:
    """For a (channel, height, width) population: orders that keep positions together.

    Channels are cut into blocks of 1, 2, 4, ... or all. Within a block, all channels of a position follow each other, and
    positions follow each other by rows or by square tiles (Morton order); or whole tiles of one or more rows of one
    block are handed out as units of at most `most` neurons. Empty for other shapes.
    """
    if len(shape) != 3 or shape[1] * shape[2] < 2 or shape[0] < 2:
        return []
    channels, height, width = shape
    rows = np.arange(height * width)
    tiles = np.argsort(_morton(rows // width, rows % width), kind="stable")
    index = np.arange(channels * height * width, dtype=np.int32).reshape(channels, height * width)
    orders = []
    blocks = [2**n for n in range(channels.bit_length()) if 2**n < channels]
    for block in (channels, *reversed(blocks)):
        starts = range(0, channels, block)
        if block >= 8 or block == channels:
            for positions in (rows, tiles):
                parts = [index[first : first + block, positions].T.ravel() for first in starts]
                orders.append(Order(np.concatenate(parts)))
        for high in {1, 2, 4, 8, height}:
            unit = block * high * width
            if unit > most or channels % block or height % high:
                continue
            parts = [
                index[first : first + block, y * width : (y + high) * width].T.ravel()
                for first in starts
                for y in range(0, height, high)
            ]
            orders.append(Order(np.concatenate(parts), unit))
    return orders


def _morton(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bits of y and x interleaved."""
    code = np.zeros(len(x), dtype=np.int64)
    for bit in range(16):
        code |= ((x >> bit) & 1) << (2 * bit)
        code |= ((y >> bit) & 1) << (2 * bit + 1)
    return code


def grown_order(incoming: Incoming, per_core: int, most_visits: float) -> np.ndarray:
    """For a sparse projection: cores of `per_core` neurons grown one by one, each next neuron the one that shares most pre
    neurons with its core; see `_packing.grow`. Neurons in their own order where that would look at more than `most_visits` synapses.
    """
    out_ptr, out_post = packing.transpose(incoming.indptr, incoming.pre, incoming.n_pre)
    degrees = np.diff(out_ptr)
    cores = -(-incoming.n_post // per_core)
    steps = float((degrees * np.minimum(degrees, cores)).sum())
    if steps * VISITS_PER_STEP > most_visits:
        return np.arange(incoming.n_post, dtype=np.int32)
    return packing.grow(incoming.indptr, incoming.pre, out_ptr, out_post, per_core)
