"""What a step of a population does, and which step functions do that: Norse's, and with another reset ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from norse.torch.functional.iaf import IAFFeedForwardState, iaf_feed_forward_step
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import LIFFeedForwardState, lif_feed_forward_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.functional.threshold import threshold
from torch import Tensor


@dataclass(frozen=True)
class Dynamics:
    """What a step does. current: the input adds to a current that decays, and that drives the membrane; otherwise the
    input does. leak: the membrane follows its drive by a time constant; otherwise it adds it up. spikes: the output
    is spikes, with a reset; otherwise the membrane. subtracts: the reset takes the threshold from the membrane;
    otherwise the membrane goes to a value."""

    current: bool
    leak: bool
    spikes: bool
    subtracts: bool = False


def lif_subtract_step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, LIFFeedForwardState]:
    """Norse's `lif_feed_forward_step`, which knows one reset, with Norse's `reset_subtract`."""
    current = state.i + x
    v = state.v + dt * p.tau_mem_inv * ((p.v_leak - state.v) + current)
    z = threshold(v - p.v_th, p.method, p.alpha)
    decayed = current + -dt * p.tau_syn_inv * current
    return z, LIFFeedForwardState(v=reset_subtract(z, v, p.v_reset, p.v_th), i=decayed)


def iaf_subtract_step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, IAFFeedForwardState]:
    """Norse's `iaf_feed_forward_step`, which knows one reset, with Norse's `reset_subtract`."""
    v = state.v + x
    z = threshold(v - p.v_th, p.method, p.alpha)
    return z, IAFFeedForwardState(v=reset_subtract(z, v, p.v_reset, p.v_th))


DYNAMICS: dict[Callable[..., Any], Dynamics] = {
    lif_box_feed_forward_step: Dynamics(current=False, leak=True, spikes=True),
    lif_feed_forward_step: Dynamics(current=True, leak=True, spikes=True),
    iaf_feed_forward_step: Dynamics(current=False, leak=False, spikes=True),
    li_box_feed_forward_step: Dynamics(current=False, leak=True, spikes=False),
    li_feed_forward_step: Dynamics(current=True, leak=True, spikes=False),
    lif_subtract_step: Dynamics(current=True, leak=True, spikes=True, subtracts=True),
    iaf_subtract_step: Dynamics(current=False, leak=False, spikes=True, subtracts=True),
}


def dynamics_of(step: Callable[..., Any], p: Any) -> Dynamics | None:
    """What a step with these parameters does; None for a step, a surrogate or a reset that is not known."""
    kind, method = DYNAMICS.get(step), getattr(p, "reset_method", None)
    if kind is None or getattr(p, "method", "super") != "super":
        return None
    if method is reset_subtract:
        return replace(kind, subtracts=True)
    return kind if method in (None, reset_value) else None
