"""Orders in which a population's neurons are handed out to cores, so that neighbours share pre neurons."""

from __future__ import annotations

import time

import numpy as np

from hardware import _packing as packing
from hardware.connectivity import Incoming


def spatial_orders(shape: tuple[int, ...]) -> list[np.ndarray]:
    """For a (channel, height, width) population: orders that keep positions together, int32 each.

    Channels are cut into blocks (all of them, 32, 8); within a block all channels of a position follow each other, and
    positions follow each other by rows or by square tiles (Morton order). Empty for other shapes.
    """
    if len(shape) != 3 or shape[1] * shape[2] < 2 or shape[0] < 2:
        return []
    channels, height, width = shape
    rows = np.arange(height * width)
    tiles = np.argsort(_morton(rows // width, rows % width), kind="stable")
    orders = []
    for block in (channels, *(b for b in (32, 8) if b < channels)):
        for positions in (rows, tiles):
            parts = [
                (positions[:, None] + height * width * np.arange(first, min(first + block, channels))).ravel()
                for first in range(0, channels, block)
            ]
            orders.append(np.concatenate(parts).astype(np.int32))
    return orders


def _morton(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bits of y and x interleaved."""
    code = np.zeros(len(x), dtype=np.int64)
    for bit in range(16):
        code |= ((x >> bit) & 1) << (2 * bit)
        code |= ((y >> bit) & 1) << (2 * bit + 1)
    return code


def grown_order(incoming: Incoming, per_core: int, deadline: float) -> np.ndarray:
    """For a sparse projection: cores of `per_core` neurons grown one by one, each next neuron the one that shares most pre
    neurons with its core; see `_packing.grow`. Neurons in their own order where the time left is too short.
    """
    out_ptr, out_post = packing.transpose(incoming.indptr, incoming.pre, incoming.n_pre)
    degrees = np.diff(out_ptr)
    cores = -(-incoming.n_post // per_core)
    steps = float((degrees * np.minimum(degrees, cores)).sum())
    if steps * 2e-8 > deadline - time.monotonic():
        return np.arange(incoming.n_post, dtype=np.int32)
    return packing.grow(incoming.indptr, incoming.pre, out_ptr, out_post, per_core)
