"""What a trained network comes to as a graph."""

from __future__ import annotations

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.networks.models import Network
from dpap_neuro.pruning.structure import evaluating
from hardware.graph import summary
from hardware.graph.parsing import from_nir


def synapses(model: Network) -> int | None:
    """Connections between neurons that can spike, as `dpap-neuro inspect` counts those of its file; None where it can have none."""
    settings = model.settings
    try:
        with evaluating(model):
            return summary.synapses(from_nir(to_nir(model, settings.input_shape, settings.neuron.dt)))
    except InputError:
        return None
