"""Orders in which a population's neurons are handed out to cores, so that neighbours share pre neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardware.network.connectivity import Incoming
from hardware.placement import packing

# What one step of growing a core costs, in synapses looked at.
VISITS_PER_STEP = 2.0


@dataclass(frozen=True, eq=False)
class Order:
    """A population's neurons in the order in which cores take them, int32.

    unit: a core takes multiples of that many where it can, since part of a tile may cost it more memory than the whole.
    ends: where in the order each core is to end; None where cores are simply filled.
    """

    neurons: np.ndarray
    unit: int = 1
    ends: np.ndarray | None = None

    def parts(self) -> list[np.ndarray]:
        """The neurons core by core, where the order says where cores end."""
        return [] if self.ends is None else np.split(self.neurons, self.ends[:-1])

    def only(self, alive: np.ndarray) -> Order:
        """The order without neurons that are not alive, (neurons,) bool; units are no longer of one size then."""
        kept = alive[self.neurons]
        ends = None
        if self.ends is not None:
            ends = np.unique(np.cumsum(kept)[self.ends - 1])
            ends = ends[ends > 0]
        return Order(self.neurons[kept], ends=ends)

    def middle(self) -> int:
        """Where the unit or core in the middle begins."""
        if self.ends is not None and len(self.ends) > 1:
            return int(self.ends[(len(self.ends) - 1) // 2])
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


def grown_order(
    incoming: Incoming,
    by_pre: tuple[np.ndarray, np.ndarray],
    limits: np.ndarray,
    costs: np.ndarray,
    form: np.ndarray,
    most_visits: float,
) -> tuple[Order | None, float]:
    """For a sparse projection: cores grown one by one, each next neuron the one that shares most pre neurons with its
    core; by_pre: `packing.transpose` of it; see `packing.grow` for limits and costs. None where that would look at more than `most_visits` synapses;
    and how many it looked at.
    """
    out_ptr, out_post = by_pre
    finite = np.minimum(limits, 2.0**62).astype(np.int64)
    most = max(0.0, most_visits / VISITS_PER_STEP)
    order, ends, steps = packing.grow(
        incoming.indptr, incoming.pre, out_ptr, out_post, finite, costs, form, most
    )
    return (Order(order, ends=ends) if steps <= most else None), float(steps * VISITS_PER_STEP)
