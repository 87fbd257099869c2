"""Small graphs that several tests share."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nir
import numpy as np

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def inp(*shape: int) -> nir.Input:
    return nir.Input({"input": np.array(shape)})


def out(*shape: int) -> nir.Output:
    return nir.Output({"output": np.array(shape)})


def lif(*shape: int, tau: float = 0.02, **changed: float) -> nir.LIF:
    values = {"tau": tau, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **changed}
    return nir.LIF(**{key: np.full(shape, value, np.float32) for key, value in values.items()})


def cuba_lif(*shape: int, **changed: float) -> nir.CubaLIF:
    values = {
        "tau_syn": 0.01,
        "tau_mem": 0.02,
        "r": 1.0,
        "v_leak": 0.0,
        "v_threshold": 1.0,
        "v_reset": 0.0,
        "w_in": 1.0,
        **changed,
    }
    return nir.CubaLIF(**{key: np.full(shape, value, np.float32) for key, value in values.items()})


def graph(nodes: dict, edges: list | None = None, **metadata: object) -> nir.NIRGraph:
    """A NIRGraph without nir's own shape inference; a chain where no edges are given."""
    chain = list(pairwise(nodes)) if edges is None else edges
    return nir.NIRGraph(nodes, chain, metadata=metadata, type_check=False)


def mixed(seed: int = 0) -> nir.NIRGraph:
    """Grouped convolution with a kernel that is not square, pooling, a matrix, a recurrent sub-graph."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    inner = graph(
        {
            "in": inp(3),
            "lif": cuba_lif(3, tau_syn=0.002, tau_mem=0.004, v_threshold=0.1),
            "w": nir.Linear(normal(3, 3)),
            "out": out(3),
        },
        [("in", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "out")],
    )
    return graph(
        {
            "input": inp(2, 5, 6),
            "conv": nir.Conv2d((5, 6), normal(4, 1, 3, 2), (1, 2), (0, 0), (1, 1), 2, normal(4)),
            "lif": lif(4, 3, 3, v_threshold=0.1),
            "pool": nir.AvgPool2d(np.array([2, 2]), np.array([1, 1]), np.array([0, 0])),
            "flat": nir.Flatten({"input": np.array([4, 2, 2])}, 0, -1),
            "fc": nir.Affine(normal(3, 16), normal(3)),
            "sub": inner,
            "output": out(3),
        },
        dt=1e-3,
        bins=10,
        kept_bins=np.array([0, 2, 3]),
        class_names='["a", "b", "c"]',
        readout="spikes",
    )
