"""This project's networks, one for each row of the table, with the recordings that they are compared on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from nir_networks import chain

from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.networks.neurons import IF, LIF, CubaLIF, NeuronSettings, ParametricLIF, Recurrent
from hardware.graph.graph import Graph
from hardware.graph.parsing import from_nir
from hardware.simulate.reference import simulate

DT = 1e-3
STEPS, BATCH = 30, 4
SETTINGS = NeuronSettings(dt=DT, tau_mem=5e-3, tau_syn=2e-3, v_th=0.3)


def _rows() -> dict[str, Any]:
    s = SETTINGS
    two = lambda kind: chain(nn.Linear(12, 20), kind(s), nn.Linear(20, 6), kind(s), shape=(12,))  # noqa: E731
    image = lambda *layers: chain(*layers, shape=(2, 8, 6))  # noqa: E731
    loop = lambda kind: chain(  # noqa: E731
        nn.Linear(12, 9), Recurrent(kind(s), 9), nn.Linear(9, 4), kind(s), shape=(12,)
    )
    return {
        "IF": two(IF),
        "LIF": two(LIF),
        "ParametricLIF": two(ParametricLIF),
        "CubaLIF": two(CubaLIF),
        "recurrent LIF": loop(LIF),
        "recurrent CubaLIF": loop(CubaLIF),
        "convolution, average pooling": image(
            nn.Conv2d(2, 4, 3, padding=1), LIF(s), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 5), LIF(s)
        ),
        "convolution, sum pooling": image(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            IF(s),
            nn.AvgPool2d(2, divisor_override=1),
            nn.Flatten(),
            nn.Linear(48, 5),
            IF(s),
        ),
    }


ROWS = tuple(_rows())


def graph(row: str, reset: str = "zero") -> Graph:
    """The row's network, as this project exports it."""
    torch.manual_seed(ROWS.index(row))
    network, shape = _rows()[row]()
    exported = to_nir(network, shape, DT)
    exported.metadata["reset"] = reset
    return from_nir(exported)


def recordings(shape: tuple[int, ...], seed: int = 3) -> Tensor:
    """(steps, batch, *shape) counts."""
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((STEPS, BATCH, *shape), 0.8), generator=generator)


def spikes(graph: Graph, x: Tensor, **how: Any) -> np.ndarray:
    """(steps, batch, *output) of the reference simulator."""
    return simulate(graph, x.transpose(0, 1).numpy().astype(np.float64), **how).output.swapaxes(0, 1)


def differing(a: Any, b: Any) -> int:
    """Spikes of one that the other does not have; all of both where even the shapes differ."""
    a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v) for v in (a, b))
    if a.size != b.size:
        return int(a.sum() + b.sum())
    return int(np.abs(a - b.reshape(a.shape)).sum())


def only_nodes(graph: Graph, *kinds: type) -> bool:
    return any(isinstance(node, kinds) for node in graph.nodes.values())


__all__ = ["BATCH", "DT", "ROWS", "STEPS", "differing", "graph", "nir", "recordings", "spikes"]
