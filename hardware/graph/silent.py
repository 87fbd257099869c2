"""What in a graph leads nowhere, since some of its neurons never spike (`hardware.graph.graph.never_spiking`)."""

from __future__ import annotations

from collections.abc import Callable

import nir
import numpy as np

from hardware.graph.graph import Array, Graph, never_spiking

_SAME = (nir.Flatten, nir.Scale, nir.Delay)
_POOLS = (nir.SumPool2d, nir.AvgPool2d)


def silent_inputs(graph: Graph) -> dict[str, Array]:
    """By node the elements of its input, (elements,) bool, that only neurons that never spike add to; nodes without are left out.

    Followed through flattening, scaling, delays and pooling, as far as a single way leads back.
    """
    before = graph.predecessors()

    def of(name: str, seen: frozenset[str]) -> Array | None:
        found: Array | None = None
        for source in before[name] if name not in seen else ():
            node = graph.nodes[source]
            silent = never_spiking(node)
            if isinstance(node, _SAME + _POOLS):
                silent = of(source, seen | {name})
                if silent is not None and isinstance(node, _POOLS):
                    silent = _pooled(node, ~silent, graph, source)
            if silent is None:
                return None
            found = silent if found is None else found & silent
        return found

    return _known(graph, of)


def unheard_outputs(graph: Graph) -> dict[str, Array]:
    """By node the elements of its output, (elements,) bool, that only neurons that never spike hear; nodes without are left out."""
    after = graph.successors()

    def of(name: str, seen: frozenset[str]) -> Array | None:
        found: Array | None = None
        for target in after[name] if name not in seen else ():
            node = graph.nodes[target]
            unheard = never_spiking(node)
            if isinstance(node, _SAME):
                unheard = of(target, seen | {name})
            if unheard is None:
                return None
            found = unheard if found is None else found & unheard
        return found

    return _known(graph, of)


def _known(graph: Graph, of: Callable[[str, frozenset[str]], Array | None]) -> dict[str, Array]:
    if all(never_spiking(node) is None for node in graph.nodes.values()):
        return {}
    found = ((name, of(name, frozenset())) for name in graph.nodes)
    return {name: mask for name, mask in found if mask is not None and mask.any()}


def _pooled(node: nir.SumPool2d | nir.AvgPool2d, speaks: Array, graph: Graph, name: str) -> Array:
    """Elements of a pool's output whose windows hold nothing that speaks."""
    channels, _, _ = shape = graph.input_shape[name]
    _, height, width = graph.output_shape[name]
    (k_y, k_x), (s_y, s_x), (p_y, p_x) = (
        tuple(int(v) for v in getattr(node, key)) for key in ("kernel_size", "stride", "padding")
    )
    padded = np.pad(speaks.reshape(shape), ((0, 0), (p_y, p_y), (p_x, p_x)))
    out = np.zeros((channels, height, width), bool)
    for y in range(height):
        for x in range(width):
            out[:, y, x] = padded[:, y * s_y : y * s_y + k_y, x * s_x : x * s_x + k_x].any(axis=(1, 2))
    return ~out.reshape(-1)
