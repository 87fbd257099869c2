"""How often neurons fire: what was measured, or what is assumed where nothing was."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hardware.errors import HardwareError
from hardware.network.connectivity import Incoming, shapes
from hardware.network.integer import Network

Rates = Mapping[str, float | np.ndarray]

# Spikes per neuron and step where nothing was measured.
ASSUMED_RATE = 0.1


def step_rates(network: Network, rates: Rates | None, steps: float = 1.0) -> dict[str, np.ndarray]:
    """Spikes per step of every neuron and input, float64, from those in `steps` steps.

    Missing ones fire `ASSUMED_RATE` times a step, read-outs that do not spike and dead neurons never.

    Raises HardwareError for rates that do not fit, or no steps.
    """
    if not 0 < steps < math.inf:
        raise HardwareError(f"steps is {steps}; expected above 0")
    silent = {p.name for p in network.populations if not p.spiking}
    found = {}
    for name, shape in shapes(network).items():
        size = math.prod(shape)
        if rates is not None and name in rates:
            value = np.asarray(rates[name], dtype=np.float64) / steps
        else:
            value = np.asarray(0.0 if name in silent else ASSUMED_RATE)
        if value.size not in (1, size) or not np.all(value >= 0):
            raise HardwareError(
                f"firing rates of {name!r}: {value.size} values; expected 1 or {size}, none negative"
            )
        found[name] = np.ascontiguousarray(np.broadcast_to(value.ravel(), (size,)))
    for p in network.populations:
        if p.dead is not None:
            found[p.name] = np.where(p.dead, 0.0, found[p.name])
    return found


def heard_per_step(incoming: Incoming, rate: np.ndarray) -> np.ndarray:
    """Synaptic events that arrive at each post neuron in a mean step, float64, from the pre neurons' spikes per step."""
    from hardware.placement import counting_loops  # not before it is needed: Numba takes long to import

    if incoming.taps is None:
        return counting_loops.heard_rows(incoming.indptr, incoming.pre, rate)
    pre, post = incoming.dead()
    rate = np.where(pre, 0.0, rate)
    heard = counting_loops.heard_taps(
        incoming.indptr, incoming.taps, incoming.geometry, rate, incoming.n_post
    )
    return np.where(post, 0.0, heard)
