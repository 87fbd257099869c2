"""Which layer sits on which core, on a chip whose cores take one layer each and differ in size.

A layer is never split, so that this is a matching of layers and cores. `assign` solves it exactly: as many layers as can be
have a core that holds them, and of all such matchings it takes one that leaves the fewest words unused, so that large cores stay free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.chip.chips import Chip, LayerCores
from hardware.chip.layers import Layer, layers_of
from hardware.errors import HardwareError
from hardware.network.connectivity import by_post, out_degrees, shapes
from hardware.network.integer import Network
from hardware.placement.measuring import Broken

MEMORIES = ("kernel_words", "neuron_words", "bias_words")


@dataclass(frozen=True)
class PlacedLayer:
    """A layer on a core of the chip, by its number there; core: None where none is left that holds it."""

    layer: Layer
    core: int | None

    def to_dict(self, cores: LayerCores) -> dict[str, Any]:
        """Plain numbers and strings: of each memory the words taken, and those there are (None without a core)."""
        return {
            "population": self.layer.name,
            "core": self.core,
            "pooling": dict(self.layer.pooling),
            **{key: getattr(self.layer, key) for key in MEMORIES},
            **{
                f"{key}_of_core": None if self.core is None else getattr(cores, key)[self.core]
                for key in MEMORIES
            },
        }


@dataclass(frozen=True)
class Assignment:
    """All layers of a network on a chip. Per layer, in the network's order: synapses, neurons, bits of its three memories (int64);
    crossing: spikes from core to core, as of `hardware.placement`."""

    placed: tuple[PlacedLayer, ...]
    synapses: np.ndarray
    neurons: np.ndarray
    bits: np.ndarray
    crossing: float
    broken: tuple[Broken, ...]


def assign(network: Network, chip: Chip, rates: Mapping[str, np.ndarray]) -> Assignment:
    """The layers of `network` on cores of `chip`. rates: spikes per neuron of populations and inputs, missing ones 1.

    Raises HardwareError for an empty network, and for what no core of the chip can do (`hardware.chip.layers`).
    """
    cores = chip.layers
    assert cores is not None
    if not network.populations:
        raise HardwareError("the network has no populations; expected at least one")
    layers = layers_of(network, chip)
    core_of = match(layers, cores)
    shape = shapes(network)
    synapses = dict.fromkeys((layer.name for layer in layers), 0)
    crossing = 0.0
    heard: dict[tuple[str, str], np.ndarray] = {}
    for projection in network.projections:
        incoming = by_post(projection, shape[projection.source], shape[projection.target])
        synapses[projection.target] += incoming.synapses
        way = (projection.source, projection.target)
        heard[way] = heard.get(way, np.zeros(incoming.n_pre, bool)) | (out_degrees(incoming) > 0)
    for (source, _), speaks in heard.items():
        crossing += float(rates[source][speaks].sum()) if source in rates else float(np.count_nonzero(speaks))
    return Assignment(
        placed=tuple(PlacedLayer(layer, core) for layer, core in zip(layers, core_of, strict=True)),
        synapses=np.array([synapses[layer.name] for layer in layers], np.int64),
        neurons=np.array([math.prod(shape[layer.name]) for layer in layers], np.int64),
        bits=np.array([_bits(layer, cores) for layer in layers], np.int64),
        crossing=crossing,
        broken=tuple(_broken(layers, core_of, cores)),
    )


def match(layers: tuple[Layer, ...], cores: LayerCores) -> list[int | None]:
    """A core for each layer, no core twice; None where no core is left: as few of those as can be, then as few words unused."""
    n = len(cores.kernel_words)
    size = [_core_bits(cores, core) for core in range(n)]
    never = sum(size) * (len(layers) + 1.0) + 1.0
    # A column of its own for each layer that gets no core.
    cost = np.full((len(layers), n + len(layers)), never)
    for row, layer in enumerate(layers):
        for core in range(n):
            if layer.fits(cores, core):
                cost[row, core] = size[core]
    # Not before it is needed: it takes as long to import as a small network to place.
    from scipy.optimize import linear_sum_assignment

    _, column = linear_sum_assignment(cost)
    return [int(c) if c < n and cost[row, c] < never else None for row, c in enumerate(column)]


def _bits(layer: Layer, cores: LayerCores) -> int:
    return (
        layer.kernel_words * cores.kernel_word_bits
        + layer.neuron_words * cores.neuron_word_bits
        + layer.bias_words * cores.bias_word_bits
    )


def _core_bits(cores: LayerCores, core: int) -> int:
    return (
        cores.kernel_words[core] * cores.kernel_word_bits
        + cores.neuron_words[core] * cores.neuron_word_bits
        + cores.bias_words[core] * cores.bias_word_bits
    )


def _broken(layers: tuple[Layer, ...], core_of: list[int | None], cores: LayerCores) -> list[Broken]:
    """Why the layers without a core have none: too large for every core, or too many for the cores that would hold them."""
    broken = []
    for layer, core in zip(layers, core_of, strict=True):
        if core is not None:
            continue
        holding = [c for c in range(len(cores.kernel_words)) if layer.fits(cores, c)]
        if holding:
            rivals = _rivals(layer, layers, cores)
            names = ", ".join(repr(name) for name in rivals)
            wanted = sum(
                any(other.fits(cores, c) for other in layers if other.name in rivals)
                for c in range(len(cores.kernel_words))
            )
            broken.append(Broken("cores", f"layers {names}", len(rivals), wanted))
        else:
            # The core that it comes closest to.
            best = min(
                range(len(cores.kernel_words)),
                key=lambda c: (len(layer.excess(cores, c)), _overflow(layer, cores, c), c),
            )
            broken += [
                Broken(key, f"layer {layer.name!r} on core {best}", needed, there, best)
                for key, (needed, there) in layer.excess(cores, best).items()
            ]
    return broken


def _overflow(layer: Layer, cores: LayerCores, core: int) -> float:
    return sum(needed / max(there, 1) for needed, there in layer.excess(cores, core).values())


def _rivals(layer: Layer, layers: tuple[Layer, ...], cores: LayerCores) -> list[str]:
    """Layers that have fewer cores between them than they are (Hall's condition), `layer` among them, in the network's order.

    Found from `layer` along cores that hold it and the layers on them that could not go elsewhere.
    """
    core_of = match(layers, cores)
    on = {core: i for i, core in enumerate(core_of) if core is not None}
    reached, waiting = set(), [next(i for i, other in enumerate(layers) if other is layer)]
    while waiting:
        i = waiting.pop()
        reached.add(i)
        for core in range(len(cores.kernel_words)):
            if layers[i].fits(cores, core) and on[core] not in reached and on[core] not in waiting:
                waiting.append(on[core])
    return [layers[i].name for i in sorted(reached)]
