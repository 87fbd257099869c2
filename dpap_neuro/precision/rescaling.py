"""Scales of a network that trains in a chip's integers, chosen anew as its weights change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from dpap_neuro.precision import scales
from dpap_neuro.precision.neurons import ExactNeuron
from dpap_neuro.precision.plan import Constant, Plan
from hardware.chip.chips import Chip
from hardware.compile.linear import Convolution, Matrix
from hardware.compile.scaling import Demand, Scaling
from hardware.compile.weights import Weights, rows_of

if TYPE_CHECKING:
    from dpap_neuro.precision.network import ExactNetwork

# Share of the squared weights below which their rounding is not worth another scale.
WORTH = 1e-3


@torch.no_grad()
def recheck(network: ExactNetwork, slack: float) -> tuple[str, ...]:
    """Choose the scales of populations anew whose weights a better one would round with a squared error lower by `slack`,
    where that error is worth it; their names. Learned scales stay."""
    changed = []
    for layer in network.plan:
        if network.population(layer.key).stretch is not None:
            continue
        now, current = _now(network, layer)
        better = scales.choose(now, current, network.chip.neuron)
        error, size = scales.error_of(now, current), sum(float((w.values() ** 2).sum()) for w in now.weights)
        if error > max(slack * scales.error_of(now, better), WORTH * size):
            _rescale(network, layer, better)
            changed.append(layer.name)
    return tuple(changed)


def scaling_of(network: ExactNetwork, layer: Plan) -> list[float]:
    """A population's scale, and the exponent of each of its paths."""
    paths = _paths(network, layer)
    return [network.population(layer.key).scale, *(float(getattr(m, at).exponent) for _, m, at, _ in paths)]


def set_scaling(network: ExactNetwork, layer: Plan, found: list[float]) -> None:
    """Give a population what `scaling_of` has found."""
    exponents = tuple((int(e),) for e in found[1:])
    demand = network.demands[layer.name]
    _rescale(network, layer, scales.at(demand, found[0], exponents, network.chip.neuron))


def gain_of(demand: Demand) -> float:
    """What a population's weights are divided by, to become its parameters."""
    return float(np.median(np.abs(demand.neurons.gain))) or 1.0


def _paths(network: ExactNetwork, layer: Plan) -> Iterator[tuple[Weights, Any, str, float]]:
    """Of each path of a population its weights as they were, its module, where that keeps its grid, and the gain that its
    parameters do not have."""
    demand, links, constants = network.demands[layer.name], list(layer.links), list(layer.constants)
    gain = gain_of(demand)
    for w in demand.weights:
        if w.path.source in network.always_on:
            yield w, network.constant(constants.pop(0)), "grid", 1.0
        elif w.path.source == layer.name:
            yield w, network.population(layer.key), "back_grid", gain
        else:
            yield w, network.synapse(links.pop(0).synapse), "grid", gain


def _now(network: ExactNetwork, layer: Plan) -> tuple[Demand, Scaling]:
    """What a population asks of its scale with the weights as they are, and the scale that it has."""
    demand, weights = network.demands[layer.name], []
    first = network.synapse(layer.links[0].synapse) if layer.links else None
    for w, module, _, gain in _paths(network, layer):
        if isinstance(module, Constant):
            values = module.values(None if first is None else first.constant())
        else:
            own = module.recurrent_weights if isinstance(module, ExactNeuron) else module.effective()
            values = cast(Tensor, own)
        weights.append(_with_weights(w, values.detach().cpu().double().numpy() * gain, demand, network.chip))
    population = network.population(layer.key)
    exponents = tuple((getattr(m, at).exponent,) for _, m, at, _ in _paths(network, layer))
    scale = np.array([population.scale])
    return replace(demand, weights=weights), Scaling(scale, exponents, population.vth, demand.drive, 0, False)


def _rescale(network: ExactNetwork, layer: Plan, scaling: Scaling) -> None:
    population = network.population(layer.key)
    scale = float(scaling.scale[0])
    population.rescale(scale, np.asarray(scaling.thresholds))
    for (_, module, at, gain), (exponent, *_) in zip(_paths(network, layer), scaling.exponents, strict=True):
        factor = scale * gain / 2.0**exponent
        setattr(module, at, replace(getattr(module, at), factor=factor, exponent=exponent))


def _with_weights(w: Weights, values: np.ndarray, demand: Demand, chip: Chip) -> Weights:
    """The same path with other weights."""
    map_: Any = w.map
    if isinstance(map_, Convolution):
        map_ = replace(map_, weight=values)
    else:
        map_ = Matrix(values.reshape(len(demand.group), -1))
    neurons = demand.neurons
    found = rows_of(w.path, map_, demand.group, neurons.shape[0], chip, max(w.bits, 2), neurons.name)
    return replace(found, mode=w.mode, bits=w.bits)
