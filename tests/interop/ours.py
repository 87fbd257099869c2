"""This project's networks, one for each row of the table, and the recordings that networks are compared on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from nir_networks import chain

from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.networks.neurons import (
    IF,
    LIF,
    CubaLIF,
    NeuronSettings,
    ParametricLIF,
    Recurrent,
)
from hardware.graph.graph import Graph
from hardware.graph.parsing import from_nir
from hardware.simulate.reference import simulate

DT = 1e-3
STEPS, BATCH = 30, 4
SETTINGS = NeuronSettings(dt=DT, tau_mem=5e-3, tau_syn=2e-3, v_th=0.3)


def _networks() -> dict[str, Any]:
    s = SETTINGS

    def two(kind: Any) -> Any:
        return chain(nn.Linear(12, 20), kind(s), nn.Linear(20, 6), kind(s), shape=(12,))

    def loop(kind: Any) -> Any:
        return chain(nn.Linear(12, 9), Recurrent(kind(s), 9), nn.Linear(9, 4), kind(s), shape=(12,))

    def image(kind: Any, divisor: int | None) -> Any:
        pool = nn.AvgPool2d(2, divisor_override=divisor)
        first = nn.Conv2d(2, 4, 3, padding=1)
        return chain(first, kind(s), pool, nn.Flatten(), nn.Linear(48, 5), kind(s), shape=(2, 8, 6))

    return {
        "IF": two(IF),
        "LIF": two(LIF),
        "ParametricLIF": two(ParametricLIF),
        "CubaLIF": two(CubaLIF),
        "recurrent LIF": loop(LIF),
        "recurrent CubaLIF": loop(CubaLIF),
        "LIF, convolution, average pooling": image(LIF, None),
        "IF, convolution, sum pooling": image(IF, 1),
    }


NETWORKS = tuple(_networks())
ROWS = tuple((name, reset) for reset in ("zero", "subtract") for name in NETWORKS)


def graph(name: str, reset: str) -> Graph:
    """The network of a row, as this project exports it."""
    torch.manual_seed(NETWORKS.index(name))
    network, shape = _networks()[name]()
    exported = to_nir(network, shape, DT)
    exported.metadata["reset"] = reset
    return from_nir(exported)


def recordings(*shape: int, seed: int = 3) -> Tensor:
    """Counts (steps, batch, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((STEPS, BATCH, *shape), 0.8), generator=generator)


def spikes(graph: Graph, x: Tensor, **how: Any) -> np.ndarray:
    """(steps, batch, neurons) of the reference simulator."""
    output = simulate(graph, x.transpose(0, 1).numpy().astype(np.float64), **how).output
    return output.reshape(*output.shape[:2], -1).swapaxes(0, 1).astype(np.float64)


def differing(a: Any, b: Any) -> int:
    """Spikes of one that the other does not have; all of both where they have not as many neurons."""
    a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v, np.float64) for v in (a, b))
    if a.size != b.size:
        return int(np.abs(a).sum() + np.abs(b).sum())
    return int(np.abs(a - b.reshape(a.shape)).sum())
