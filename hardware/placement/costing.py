"""Time and energy of a placed network from its loads and the costs in the chip's file.

A core updates its neurons and then works through its synaptic events, while messages pass: it is busy for the longer of
(events + updates) and messages, each at the chip's price (a max-affine model; arXiv 2601.10035). All cores wait for each other at the
end of a step, so the busiest one decides how long it takes, and a barrier comes on top ("floorline", arXiv 2511.21549). Hops cost
energy; their time passes while cores work.

Left out: static power, the embedded processors, getting data onto the chip and off it, learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.chip.chips import Chip
from hardware.chip.costs import barrier, needed
from hardware.placement.loads import Loads

LEFT_OUT = "static power, the embedded processors, input and output of the chip"
# Picojoules of a 32-bit floating point operation at 45 nm, as papers count them: Horowitz 2014, doi 10.1109/ISSCC.2014.6757323.
ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ = 0.9, 4.6
BOTTLENECKS = ("synapses", "neurons", "messages")


@dataclass(frozen=True)
class Spent:
    """What `Loads` cost. Times in nanoseconds, energies in picojoules.

    busy: (steps, cores), the time of each core; step: (steps,), that of each step, barrier included; step_energy: (steps,).
    parts: (3, cores), mean times of each core's synapses, neurons and messages per step. layer_parts: (3, layers, cores), the same of each layer.
    energy: per inference, by synapses, neurons, messages and hops.
    convention: per inference, synaptic operations at 45 nm (`ACCUMULATE_PJ`; `MULTIPLY_ACCUMULATE_PJ` where a spike
        carries a count): of no chip.
    latency: of an inference, the mean over the recordings.
    """

    busy: np.ndarray
    step: np.ndarray
    parts: np.ndarray
    layer_parts: np.ndarray
    energy: dict[str, float]
    convention: float
    latency: float
    step_energy: np.ndarray

    @property
    def slowest(self) -> int:
        """The core that is busy longest over all steps."""
        return int(self.busy.sum(axis=0).argmax())

    @property
    def bottleneck(self) -> str:
        """What the slowest core spends most time on."""
        return BOTTLENECKS[int(self.parts[:, self.slowest].argmax())]

    @property
    def total(self) -> float:
        """Energy per inference."""
        return sum(self.energy.values())

    @property
    def power(self) -> float:
        """Watts at full speed, one inference after the other."""
        return self.total / self.latency * 1e-3

    def power_at(self, seconds: float) -> float:
        """Watts at one inference every so many seconds, the recording's own pace; what is left out would come on top."""
        return self.total * 1e-12 / seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON, in SI units."""
        return {
            "step_s": float(self.step.mean()) * 1e-9,
            "latency_s": self.latency * 1e-9,
            "energy_j": self.total * 1e-12,
            "energy_parts_j": {key: value * 1e-12 for key, value in self.energy.items()},
            "power_w": self.power,
            "convention_45nm_j": self.convention * 1e-12,
            "slowest_core": self.slowest,
            "bottleneck": self.bottleneck,
            "core_s": (self.busy.mean(axis=0) * 1e-9).tolist(),
            "left_out": LEFT_OUT,
        }


def spent(loads: Loads, chip: Chip) -> Spent:
    """Time and energy of `loads` on `chip`. Raises HardwareError where the chip's file has no costs."""
    costs = needed(chip)

    def parts(
        events: np.ndarray, active: np.ndarray, inactive: np.ndarray, messages: np.ndarray
    ) -> np.ndarray:
        return np.stack(
            [
                events * costs.synaptic_event_ns,
                active * costs.active_neuron_ns + inactive * costs.inactive_neuron_ns,
                messages * costs.message_ns,
            ]
        )

    each = parts(loads.events, loads.active, loads.inactive, loads.messages_in + loads.messages_out)
    busy = np.maximum(each[0] + each[1], each[2])
    step = busy.max(axis=1) + barrier(chip, loads.cores)
    energy = {
        "synapses": loads.events.sum(axis=1) * costs.synaptic_event_pj,
        "neurons": loads.active.sum(axis=1) * costs.active_neuron_pj
        + loads.inactive.sum(axis=1) * costs.inactive_neuron_pj,
        "messages": loads.messages_in.sum(axis=1) * costs.message_pj,
        "hops": loads.hops_x.sum(axis=1) * costs.hop_x_pj + loads.hops_y.sum(axis=1) * costs.hop_y_pj,
    }
    multiplied = loads.multiplied.sum()
    convention = (loads.events.sum() - multiplied) * ACCUMULATE_PJ + multiplied * MULTIPLY_ACCUMULATE_PJ
    return Spent(
        busy=busy,
        step=step,
        parts=each.mean(axis=1),
        layer_parts=parts(loads.layer_events, loads.layer_active, loads.layer_inactive, loads.layer_messages),
        energy={key: float(value.sum()) / loads.samples for key, value in energy.items()},
        convention=float(convention) / loads.samples,
        latency=float(step.sum()) / loads.samples,
        step_energy=np.sum(list(energy.values()), axis=0),
    )
