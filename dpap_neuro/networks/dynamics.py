"""What a step of a population does, and which of Norse's step functions do that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from norse.torch.functional.iaf import iaf_feed_forward_step
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step


@dataclass(frozen=True)
class Dynamics:
    """What a step does. current: the input adds to a current that decays, and that drives the membrane; otherwise the
    input does. leak: the membrane follows its drive by a time constant; otherwise it adds it up. spikes: the output
    is spikes, with a reset to a value; otherwise the membrane."""

    current: bool
    leak: bool
    spikes: bool


DYNAMICS: dict[Callable[..., Any], Dynamics] = {
    lif_box_feed_forward_step: Dynamics(current=False, leak=True, spikes=True),
    lif_feed_forward_step: Dynamics(current=True, leak=True, spikes=True),
    iaf_feed_forward_step: Dynamics(current=False, leak=False, spikes=True),
    li_box_feed_forward_step: Dynamics(current=False, leak=True, spikes=False),
    li_feed_forward_step: Dynamics(current=True, leak=True, spikes=False),
}
