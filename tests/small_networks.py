"""Random networks of a few tens of neurons, each with a chip scaled down until some of its limits are short."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import placement_networks as nets

from hardware.chip.chips import load_chip
from hardware.network.integer import InputPopulation, Network, Population


def random_sparse(seed):
    """(network, chip): two or three sparse populations that may hear themselves, 14 to 47 neurons; axons or neurons are short.

    Every neuron fits on a core of its own, but for the cores that its axon has to reach.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(7, 16, rng.integers(2, 4))
    names = [f"p{k}" for k in range(1, len(sizes) + 1)]
    n_in = int(rng.integers(4, 12))
    size = {"in": n_in, **dict(zip(names, (int(s) for s in sizes), strict=True))}
    pairs = [("in", names[0]), *itertools.pairwise(names)]
    pairs += [(name, name) for name in names if rng.random() < 0.4]
    projections, fan_in, fan_out = [], dict.fromkeys(names, 0), dict.fromkeys(size, 0)
    for source, target in pairs:
        joined = rng.random((size[source], size[target])) < rng.uniform(0.1, 0.4)
        joined[rng.integers(size[source], size=size[target]), np.arange(size[target])] = True
        joined[-1, -1] = True
        pre, post = np.nonzero(joined)
        projections.append(nets.sparse_layer(pre, post.astype(np.int32), size[source], source, target))
        fan_in[target] = fan_in[target] + joined.sum(axis=0)
        fan_out[source] = fan_out[source] + joined.sum(axis=1)
    heard = max(int(np.max(value)) for value in fan_in.values())
    axons_in = math.ceil(heard * rng.uniform(1.0, 2.5))
    axons_out, neurons = math.inf, math.inf
    if rng.random() < 0.3:
        axons_out = int(max(np.max(fan_out[name]) for name in names) * rng.uniform(0.8, 2.0)) + 1
    if rng.random() < 0.3:
        neurons = int(rng.integers(4, 10))
    chip = replace(
        load_chip("loihi1"),
        axons_in_per_core=axons_in,
        axons_out_per_core=axons_out,
        neurons_per_core=neurons,
    )
    network = Network(
        (InputPopulation("in", (n_in,)),),
        tuple(Population(name, (size[name],)) for name in names),
        tuple(projections),
        (names[-1],),
    )
    return network, chip
