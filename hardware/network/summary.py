"""What an integer network holds, population by population and projection by projection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hardware.network.connectivity import shapes, synapses_of
from hardware.network.integer import Network


def describe(network: Network) -> dict[str, Any]:
    """Populations and projections in the types that JSON takes; a parameter that differs from neuron to neuron as
    "low to high". synapses: non-zero connections of the unrolled network, which is not made to count them.
    """
    where = shapes(network)
    inputs = [
        {"name": p.name, "shape": _shape(p.shape), "neurons": math.prod(p.shape)}
        | dict.fromkeys(("du", "dv", "vth", "reset"), "")
        for p in network.inputs
    ]
    populations = [
        {
            "name": p.name,
            "shape": _shape(p.shape),
            "neurons": p.neurons,
            "du": _range(p.du),
            "dv": _range(p.dv),
            "vth": _range(p.vth) if p.spiking else "never",
            "reset": p.reset if p.spiking else "",
        }
        for p in network.populations
    ]
    projections = [
        {
            "source": p.source,
            "target": p.target,
            "kind": type(p).__name__.removesuffix("Projection").lower(),
            "parameters": int(np.count_nonzero(p.weight)),
            "synapses": synapses_of(p, where[p.source], where[p.target]),
            "weight_bits": p.weight_bits,
            "weight_exp": p.weight_exp,
            "delay": _range(p.delay),
        }
        for p in network.projections
    ]
    return {
        "populations": inputs + populations,
        "projections": projections,
        "outputs": list(network.outputs),
        "dt": network.dt,
    }


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _range(value: Any) -> int | str:
    low, high = int(np.min(value)), int(np.max(value))
    return low if low == high else f"{low} to {high}"
