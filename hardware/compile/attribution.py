"""Which rounding costs what: one approximation at a time, the others left out, in floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardware.compile.compiler import Compiled
from hardware.compile.emulation import APPROXIMATIONS, Approximation, float_graph
from hardware.compile.linear import Convolution
from hardware.simulate import fidelity, float_simulator
from hardware.simulate.fidelity import Agreement
from hardware.simulate.given import check_rasters

Array = np.ndarray


def attribution(compiled: Compiled, rasters: Array) -> dict[Approximation, Agreement]:
    """Agreement of all populations' spikes where only that was rounded, with none rounded.

    Keys: (source, target) for the weights of a projection, and "biases", "thresholds", "decays" of all populations; only what
    rounding changed at all. rasters: (batch, steps, *input shape), whole numbers. Projections that share source and
    target (ways of different delay) count as one. What the sum of all leaves to be explained is the chip's cutting of
    decayed values.
    """
    exact = _spikes(compiled, rasters, ())
    found: dict[Approximation, Agreement] = {}
    for key in _changed(compiled):
        spikes = _spikes(compiled, rasters, (key,))
        found[key] = fidelity.overall(fidelity.agreements(exact, spikes))
    return found


def _changed(compiled: Compiled) -> list[Approximation]:
    keys: dict[Approximation, None] = {}
    others = dict.fromkeys(APPROXIMATIONS, False)
    for layer in compiled.layers:
        demand, neurons = layer.demand, layer.demand.neurons
        for w, map_, constant in zip(demand.weights, layer.maps, demand.constant, strict=True):
            differs = _differs(w.map, map_)
            if constant:
                others["biases"] |= differs
            elif differs:
                keys[w.path.source, neurons.name] = None
        others["biases"] |= not np.allclose(layer.drive, demand.drives, rtol=1e-9, atol=0)
        others["decays"] |= bool((layer.forget != neurons.forget).any() or (layer.leak != neurons.leak).any())
        if demand.thresholds is not None and layer.threshold is not None:
            others["thresholds"] |= not np.allclose(layer.threshold, demand.thresholds, rtol=1e-9, atol=0)
    return [*keys, *(name for name, differs in others.items() if differs)]


def _differs(exact: Any, rounded: Any) -> bool:
    a, b = (m.weight if isinstance(m, Convolution) else m.matrix for m in (exact, rounded))
    off = abs(a - b)
    return bool(off.max() > 1e-9 * abs(a).max()) if min(off.shape) else False


def _spikes(compiled: Compiled, rasters: Array, rounded: tuple[Approximation, ...]) -> dict[str, Array]:
    graph, ones = float_graph(compiled.layers, compiled.network, rounded)
    given, batch, steps = check_rasters(compiled.network, rasters)
    given = {
        **given,
        **{name: np.broadcast_to(np.uint8(1), (batch, steps, *shape)) for name, shape in ones.items()},
    }
    names = [p.name for p in compiled.network.populations if p.spiking]
    return float_simulator.simulate(graph, given, record=names, membranes=False).spikes
