"""Live Norse networks as graphs: `to_nir`, checked."""

from __future__ import annotations

from torch import nn

from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.exchange.nir_nodes import Shape
from hardware.graph.graph import Graph
from hardware.graph.parsing import from_nir


def from_norse(model: nn.Module, shape: Shape, dt: float) -> Graph:
    """A live Norse network as a graph. shape: of one sample, without time and batch. dt: seconds per step.

    Norse 1.1's own exporter multiplies a LIFBox's time constant by dt once too often and leaves out the gain of a LIFCell's current.
    Raises InputError as `to_nir` does.
    """
    return from_nir(to_nir(model, shape, dt))
