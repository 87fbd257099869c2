"""What a step of a population does, and which step functions do that: Norse's, and with another reset ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from norse.torch.functional.iaf import IAFFeedForwardState, iaf_feed_forward_step
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import LIFFeedForwardState, lif_feed_forward_step
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, lif_box_feed_forward_step
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.functional.threshold import threshold
from torch import Tensor

from dpap_neuro.networks.surrogates import Surrogate, spike, surrogate_of


@dataclass(frozen=True)
class Dynamics:
    """What a step does. current: the input adds to a current that decays, and that drives the membrane; otherwise the
    input does. leak: the membrane follows its drive by a time constant; otherwise it adds it up. spikes: the output
    is spikes, with a reset; otherwise the membrane. subtracts: the reset takes the threshold from the membrane;
    otherwise the membrane goes to a value. surrogate: what stands in for a spike's derivative."""

    current: bool
    leak: bool
    spikes: bool
    subtracts: bool = False
    surrogate: Surrogate = field(default_factory=Surrogate)


def lif_box_step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, LIFBoxFeedForwardState]:
    """Norse's `lif_box_feed_forward_step` with any surrogate."""
    v = state.v + dt * p.tau_mem_inv * (x + p.v_leak - state.v)
    z = _spikes(v - p.v_th, p)
    return z, LIFBoxFeedForwardState(v=p.reset_method(z, v, p.v_reset, p.v_th))


def lif_step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, LIFFeedForwardState]:
    """Norse's `lif_feed_forward_step` with any surrogate."""
    return _lif(x, state, p, dt, reset_value)


def iaf_step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, IAFFeedForwardState]:
    """Norse's `iaf_feed_forward_step` with any surrogate."""
    return _iaf(x, state, p, reset_value)


def lif_subtract_step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, LIFFeedForwardState]:
    """Norse's `lif_feed_forward_step`, which knows one reset, with Norse's `reset_subtract` and any surrogate."""
    return _lif(x, state, p, dt, reset_subtract)


def iaf_subtract_step(x: Tensor, state: Any, p: Any, dt: float) -> tuple[Tensor, IAFFeedForwardState]:
    """Norse's `iaf_feed_forward_step`, which knows one reset, with Norse's `reset_subtract` and any surrogate."""
    return _iaf(x, state, p, reset_subtract)


def _spikes(x: Tensor, p: Any) -> Tensor:
    surrogate = surrogate_of(p)
    return threshold(x, p.method, p.alpha) if surrogate is None else spike(x, surrogate)


def _lif(
    x: Tensor, state: Any, p: Any, dt: float, reset: Callable[..., Tensor]
) -> tuple[Tensor, LIFFeedForwardState]:
    current = state.i + x
    v = state.v + dt * p.tau_mem_inv * ((p.v_leak - state.v) + current)
    z = _spikes(v - p.v_th, p)
    decayed = current + -dt * p.tau_syn_inv * current
    return z, LIFFeedForwardState(v=reset(z, v, p.v_reset, p.v_th), i=decayed)


def _iaf(x: Tensor, state: Any, p: Any, reset: Callable[..., Tensor]) -> tuple[Tensor, IAFFeedForwardState]:
    v = state.v + x
    z = _spikes(v - p.v_th, p)
    return z, IAFFeedForwardState(v=reset(z, v, p.v_reset, p.v_th))


DYNAMICS: dict[Callable[..., Any], Dynamics] = {
    lif_box_feed_forward_step: Dynamics(current=False, leak=True, spikes=True),
    lif_feed_forward_step: Dynamics(current=True, leak=True, spikes=True),
    iaf_feed_forward_step: Dynamics(current=False, leak=False, spikes=True),
    li_box_feed_forward_step: Dynamics(current=False, leak=True, spikes=False),
    li_feed_forward_step: Dynamics(current=True, leak=True, spikes=False),
    lif_box_step: Dynamics(current=False, leak=True, spikes=True),
    lif_step: Dynamics(current=True, leak=True, spikes=True),
    iaf_step: Dynamics(current=False, leak=False, spikes=True),
    lif_subtract_step: Dynamics(current=True, leak=True, spikes=True, subtracts=True),
    iaf_subtract_step: Dynamics(current=False, leak=False, spikes=True, subtracts=True),
}


def dynamics_of(step: Callable[..., Any], p: Any) -> Dynamics | None:
    """What a step with these parameters does; None for a step, a surrogate or a reset that is not known."""
    return _dynamics(step, surrogate_of(p), getattr(p, "reset_method", None))


@lru_cache(maxsize=256)
def _dynamics(
    step: Callable[..., Any], surrogate: Surrogate | None, method: Callable[..., Tensor] | None
) -> Dynamics | None:
    kind = DYNAMICS.get(step)
    if kind is None or surrogate is None:
        return None
    kind = replace(kind, surrogate=surrogate)
    if method is reset_subtract:
        return replace(kind, subtracts=True)
    return kind if method in (None, reset_value) else None
