"""Who reads a file in NIR's own units as it is, and to whom it is another network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.dialects import PEERS, as_nir, for_peer
from hardware.graph.graph import Graph, time_step


@dataclass(frozen=True)
class Plain:
    """How a file in NIR's own units, as `as_nir` writes it, is read: as it is by `same`; with other spikes or not at all by
    `changed`, for which `for_peer` makes the same network in their units, and by `refused`, for which nothing does."""

    dt: float
    same: tuple[str, ...]
    changed: tuple[str, ...]
    refused: tuple[str, ...]

    def line(self) -> str:
        """What the user of such a file must know, in one line; empty where every framework reads it as it is."""
        if not self.changed and not self.refused:
            return ""
        given = [f"{p} (give it dt={self.dt:g})" if PEERS[p].unsaid_dt else p for p in self.same]
        parts = [f"in NIR's own units: read as it is by {' and '.join(given) or 'no framework'}"]
        if self.changed:
            parts.append(f"another network in {', '.join(self.changed)} unless written with --for PEER")
        if self.refused:
            parts.append(f"not for {', '.join(self.refused)}, where --for says why")
        return "; ".join(parts)


def read_plainly(graph: Graph, dt: float | None = None) -> Plain:
    """Which frameworks read the graph as it is written without `for_peer`.

    dt as in `for_peer`. A framework whose user must set something by hand, or that fixes another step, is among `changed`.
    """
    own = {name: _said(node) for name, node in as_nir(graph).nodes.items()}
    found: dict[str, list[str]] = {"same": [], "changed": [], "refused": []}
    for peer in PEERS:
        try:
            written, _ = for_peer(graph, peer, dt)
        except InputError:
            found["refused"].append(peer)
            continue
        there = {name: _said(node) for name, node in written.nodes.items()}
        same = own.keys() == there.keys() and all(_alike(own[name], there[name]) for name in own)
        found["same" if same and not PEERS[peer].by_hand else "changed"].append(peer)
    return Plain(time_step(graph, dt)[0], *(tuple(found[key]) for key in ("same", "changed", "refused")))


def _said(node: nir.NIRNode) -> dict[str, Any]:
    """What a node's reader is told: its kind and its numbers; a matrix without bias is one with a bias of 0."""
    if isinstance(node, nir.Linear):
        node = nir.Affine(node.weight, np.zeros(len(node.weight)))
    numbers = (
        "weight",
        "bias",
        "r",
        "tau",
        "tau_syn",
        "tau_mem",
        "w_in",
        "v_leak",
        "v_threshold",
        "v_reset",
        "scale",
    )
    return {"kind": type(node), **{key: getattr(node, key) for key in numbers if hasattr(node, key)}}


def _alike(own: dict[str, Any], there: dict[str, Any]) -> bool:
    """The same kind and numbers, but for the last bit, by which frameworks that fire at v >= threshold have it higher."""
    return own.keys() == there.keys() and all(
        own[key] is there[key] if key == "kind" else np.allclose(own[key], there[key], rtol=1e-6, atol=0)
        for key in own
    )
