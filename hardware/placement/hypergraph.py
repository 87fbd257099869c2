"""Cores for a sparse population by hypergraph partitioning, with mtkahypar (the `placement` extra).

Post neurons are nodes and every pre neuron an edge over its targets, and over itself where it belongs to the population:
the connectivity that the partitioner minimises is then the number of cores an axon enters beyond its first, and the spikes
that cross where edges are weighted by firing rates (Ronzani and Silvano, arXiv 2601.16118).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.network.connectivity import Incoming
from hardware.placement import packing
from hardware.placement.orders import Order

# How uneven parts may be; the rest of a core's room stays for what their neurons' axons take.
IMBALANCE = 0.03
# Edges have whole weights: the highest firing rate counts that much.
HIGHEST_WEIGHT = 1000


def installed() -> bool:
    return find_spec("mtkahypar") is not None


@cache
def _library() -> tuple[Any, Any]:
    if not installed():
        raise HardwareError(
            "placement strategy 'hypergraph': the package mtkahypar is not installed; "
            "expected it from: pip install 'dpap-neuro[placement]'"
        )
    import mtkahypar

    # One thread: results do not depend on the machine.
    return mtkahypar, mtkahypar.initialize(1)


def partitioned_order(incoming: Incoming, parts: int, rates: np.ndarray | None, seed: int) -> Order:
    """The post neurons of a sparse projection cut into `parts` cores of about equal synapses.

    rates: of the pre neurons, one each; None: all alike. Raises HardwareError where mtkahypar is not installed.
    """
    library, runtime = _library()
    n_post = incoming.n_post
    starts, post = packing.transpose(incoming.indptr, incoming.pre, incoming.n_pre)
    own = incoming.projection.source == incoming.projection.target
    edges, weights = [], []
    scale = HIGHEST_WEIGHT / max(1e-12, float(rates.max(initial=0.0))) if rates is not None else 0.0
    for j, targets in enumerate(np.split(post, starts[1:-1])):
        pins = targets.tolist()
        if own and j not in pins:
            pins.append(j)
        if len(pins) > 1:
            edges.append(pins)
            weights.append(1 if rates is None else 1 + round(scale * float(rates[j])))
    loads = (np.diff(incoming.indptr) + 1).tolist()
    library.set_seed(seed)
    context = runtime.context_from_preset(library.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(parts, IMBALANCE, library.Objective.KM1)
    context.logging = False
    graph = runtime.create_hypergraph(context, n_post, len(edges), edges, loads, weights)
    block = np.array(graph.partition(context).get_partition(), dtype=np.int64)
    order = np.argsort(block, kind="stable").astype(np.int32)
    sizes = np.bincount(block, minlength=parts)
    return Order(order, ends=np.cumsum(sizes[sizes > 0]))
