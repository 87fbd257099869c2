"""When spikes arrive: on the chip every projection takes a step, as trained a layer takes none.

The two are one network seen through two clocks: the population at depth d runs d steps later on the chip. A
projection that skips layers needs as many extra steps there as it skips layers, so `hardware.compile.compiler` gives
it that delay, and without the chip's clock it is taken out again.
"""

from __future__ import annotations

from typing import Literal

from hardware.network.integer import Network, Projection

Timing = Literal["zero_delay", "chip"]


def depths(network: Network) -> dict[str, int]:
    """Projections on the longest way from the inputs (depth 0) to each population, cycles left out.

    Populations are taken in the network's order; a projection to an earlier one, or to itself, is recurrent.
    """
    rank = ranks(network)
    depth = dict.fromkeys(rank, 0)
    sources: dict[str, list[str]] = {name: [] for name in rank}
    for projection in network.projections:
        sources[projection.target].append(projection.source)
    for population in network.populations:
        name = population.name
        depth[name] = 1 + max((depth[s] for s in sources[name] if rank[s] < rank[name]), default=0)
    return depth


def ranks(network: Network) -> dict[str, int]:
    """Place of every population in the network's order, inputs first."""
    names = [entry.name for entry in network.inputs] + [entry.name for entry in network.populations]
    return {name: i for i, name in enumerate(names)}


def is_recurrent(network: Network, projection: Projection) -> bool:
    """Whether it leads to its own source or to an earlier population."""
    rank = ranks(network)
    return rank[projection.source] >= rank[projection.target]


def skipped_layers(network: Network, projection: Projection, depth: dict[str, int]) -> int:
    """Layers that a projection passes over; 0 for a recurrent one."""
    if is_recurrent(network, projection):
        return 0
    return depth[projection.target] - depth[projection.source] - 1


def latency(
    network: Network, projection: Projection, delay: int, timing: Timing, depth: dict[str, int]
) -> int:
    """Steps from a spike to the synaptic input it causes, through a synapse of this delay.

    "chip": 1 + delay. "zero_delay": forward, the delay beyond the layers skipped (0 at least); recurrent,
    1 + delay, since a step cannot need its own spikes.
    """
    if timing == "chip" or is_recurrent(network, projection):
        return 1 + delay
    return max(0, delay - skipped_layers(network, projection, depth))
