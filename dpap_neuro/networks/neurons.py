"""Populations of Norse neurons over whole recordings: (T, B, ...) in, (T, B, ...) out, from rest.

All step by Norse's functions, or by `scan`, which gives what a loop over them would, faster. A parameter is one number
for the whole population or a tensor of its shape (without batch); it moves with the module, and only what is learned is
part of the state dict, and `dead`. By default a spike resets the membrane to v_reset; by `NeuronSettings.reset` the threshold is
subtracted. To add a neuron: a subclass of `Neuron`, its name in `networks.NEURONS`, its NIR node in `nir_export.py`,
and the way back in `nir_import.py`; it loops until `dynamics.DYNAMICS` knows its step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from norse.torch import IAFParameters, LIBoxParameters, LIFBoxParameters, LIFParameters, LIParameters
from norse.torch.functional.iaf import IAFFeedForwardState, iaf_feed_forward_step
from norse.torch.functional.leaky_integrator import LIState, li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import LIBoxState, li_box_feed_forward_step
from norse.torch.functional.lif import LIFFeedForwardState, lif_feed_forward_step
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, lif_box_feed_forward_step
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks import SURROGATES
from dpap_neuro.networks.dynamics import (
    iaf_step,
    iaf_subtract_step,
    lif_box_step,
    lif_step,
    lif_subtract_step,
)
from dpap_neuro.networks.normed import can_join, normed_scan
from dpap_neuro.networks.scan import covers, scan
from dpap_neuro.networks.surrogates import NORSE, Surrogate, spike

# Networks count in 32 bits.
_LARGEST = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True)
class NeuronSettings:
    """dt: seconds per time step. tau_mem: membrane time constant in seconds, at least dt. v_th: threshold.
    tau_syn: time constant of the synaptic current in seconds, at least dt, for neurons
    that have one (None: tau_mem). reset: what a spike does, "zero": v <- v_reset; "subtract": v <- v - v_th (Norse's
    `reset_subtract`, through which gradients flow as Norse's autograd has them). surrogate, surrogate_slope: what stands in for
    the derivative of a spike, see `surrogates`; superspike with slope 1 is Norse's."""

    dt: float
    tau_mem: float
    v_th: float = 0.5
    surrogate_slope: float = SURROGATES["superspike"]
    tau_syn: float | None = None
    reset: str = "zero"
    surrogate: str = "superspike"

    def __post_init__(self) -> None:
        if self.reset not in ("zero", "subtract"):
            raise InputError(f"reset: found {self.reset!r}, expected zero or subtract")
        if self.surrogate not in SURROGATES:
            raise InputError(f"surrogate: found {self.surrogate!r}, expected one of {', '.join(SURROGATES)}")
        for name in ("dt", "tau_mem", "v_th", "surrogate_slope", "tau_syn"):
            value = getattr(self, name)
            if value is None and name == "tau_syn":
                continue
            if not 0 < value < _LARGEST:
                raise InputError(f"{name}: found {value}, expected a finite number above 0 (of 32 bits)")
            if name.startswith("tau") and value < self.dt:
                raise InputError(f"{name}: found {value} s, expected at least the time step of {self.dt} s")


class Neuron(nn.Module):
    """A population: steps over the first axis of its input, time, from rest.

    changed: parameters other than the settings say, numbers or tensors of the population's shape: tau_mem, tau_syn
    (seconds), v_th, v_leak, v_reset, and gain, a factor on the input. `defaults` names those the neuron has.
    dead: bool, of the population's shape: neurons whose spikes are held at zero; None: none. Exported with an infinite threshold.
    """

    defaults: tuple[str, ...] = ()
    gain: Tensor | None
    dead: Tensor | None
    v_th: Tensor
    v_leak: Tensor
    v_reset: Tensor
    tau_mem_inv: Tensor
    tau_syn_inv: Tensor
    norse_step: Callable[..., tuple[Tensor, Any]]
    # In its place where the reset is by subtraction; None: Norse's own step takes the reset from its parameters.
    subtract_step: Callable[..., tuple[Tensor, Any]] | None = None
    # In its place with another surrogate than Norse's; None: there is none for a step of one's own.
    own_step: Callable[..., tuple[Tensor, Any]] | None = None

    def __init__(self, settings: NeuronSettings, **changed: Tensor | float) -> None:
        super().__init__()
        self.settings = settings
        values: dict[str, Tensor | float | None] = {
            "tau_mem": settings.tau_mem,
            "tau_syn": settings.tau_syn or settings.tau_mem,
            "v_th": settings.v_th,
            "v_leak": 0.0,
            "v_reset": 0.0,
            **changed,
        }
        for name in (*self.defaults, "gain"):
            value = values.get(name)
            tensor = None if value is None else torch.as_tensor(value, dtype=torch.float64)
            if name.startswith("tau"):
                assert tensor is not None
                name, tensor = f"{name}_inv", 1.0 / tensor
            self.register_buffer(name, None if tensor is None else tensor.float(), persistent=False)
        self.register_buffer("dead", None)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # A network that was just made has no dead neurons.
        dead = state_dict.get(f"{prefix}dead")
        if dead is not None and self.dead is None:
            self.dead = torch.zeros_like(dead)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def without_dead(self, x: Tensor) -> Tensor:
        """What the population gives out, without what dead neurons would."""
        # Not masked_fill, which loses the order in memory by which convolutions are fast.
        return x if self.dead is None else x * ~self.dead

    @property
    def step(self) -> Callable[..., tuple[Tensor, Any]]:
        """(input, state, parameters, dt) to (output, state)."""
        kind = type(self)
        if self.settings.reset == "subtract" and kind.subtract_step is not None:
            return kind.subtract_step
        if self.surrogate.name == NORSE:
            return kind.norse_step
        if kind.own_step is None:
            raise InputError(
                f"surrogate: found {self.settings.surrogate} of slope {self.settings.surrogate_slope:g}, expected superspike of "
                f"slope 1, which is all that {kind.__name__} knows"
            )
        return kind.own_step

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "norse_step" in vars(cls) and "own_step" not in vars(cls):
            cls.own_step = None

    @property
    def surrogate(self) -> Surrogate:
        """As parameters of Norse name it: Norse's own under Norse's name."""
        named = Surrogate(self.settings.surrogate, self.settings.surrogate_slope)
        return Surrogate(NORSE) if named == Surrogate() else named

    def constants(self) -> Any:
        """Norse's parameters of the population, for one recording."""
        raise NotImplementedError

    def rest(self, x: Tensor, p: Any) -> Any:
        """Norse's state before the first step; x: the first input (B, ...)."""
        raise NotImplementedError

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """x: input currents (T, B, ...). Returns spikes, or membranes of an integrator, of the same shape.

        norm: a batch norm that x is still to pass, on its (T * B, ...); see `normed`.
        """
        p = self.constants()
        if norm is not None:
            if self.gain is None and can_join(norm, x):
                joint = normed_scan(norm, self.step, x, self.rest(x[0], p), p, self.settings.dt)
                if joint is not None:
                    return self.without_dead(joint)
            x = norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        x = x if self.gain is None else x * self.gain
        state, step, dt = self.rest(x[0], p), self.step, self.settings.dt
        if covers(step, x, p):
            return self.without_dead(scan(step, x, state, p, dt))
        out = []
        for current in x:
            z, state = step(current, state, p, dt)
            out.append(z)
        return self.without_dead(torch.stack(out))


class LIF(Neuron):
    """v <- v + dt / tau_mem (i + v_leak - v); a spike where v > v_th, then v <- v_reset. Norse's LIFBoxCell."""

    defaults: tuple[str, ...] = ("tau_mem", "v_th", "v_leak", "v_reset")
    norse_step = staticmethod(lif_box_feed_forward_step)
    own_step = staticmethod(lif_box_step)

    def constants(self) -> LIFBoxParameters:
        reset = reset_subtract if self.settings.reset == "subtract" else reset_value
        return LIFBoxParameters(
            self.tau_mem_inv,
            self.v_leak,
            self.v_th,
            self.v_reset,
            self.surrogate.name,
            torch.tensor(self.surrogate.slope),
            reset,
        )

    def rest(self, x: Tensor, p: Any) -> LIFBoxFeedForwardState:
        return LIFBoxFeedForwardState(v=p.v_leak)


class ParametricLIF(LIF):
    """A LIF that learns one tau_mem for its population: dt / tau_mem = sigmoid(w), so tau_mem stays above dt.

    Fang et al. 2021, doi 10.1109/ICCV48922.2021.00266.
    """

    defaults: tuple[str, ...] = ("v_th", "v_leak", "v_reset")

    def __init__(self, settings: NeuronSettings, **changed: Tensor | float) -> None:
        super().__init__(settings, **changed)
        share = min(settings.dt / settings.tau_mem, 0.999)
        self.w = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    @property
    def tau_mem_inv(self) -> Tensor:  # type: ignore[override]
        """1 / tau_mem in 1 / s, a function of the learned parameter."""
        return torch.sigmoid(self.w) / self.settings.dt


class CubaLIF(Neuron):
    """A LIF with a synaptic current: i <- i + x; v <- v + dt / tau_mem (i + v_leak - v); i <- i - dt / tau_syn i.

    A spike where v > v_th, then v <- v_reset. Norse's LIFCell; the membrane sees the current before its decay.
    """

    defaults = ("tau_syn", "tau_mem", "v_th", "v_leak", "v_reset")
    norse_step = staticmethod(lif_feed_forward_step)
    own_step = staticmethod(lif_step)
    subtract_step = staticmethod(lif_subtract_step)

    def constants(self) -> LIFParameters:
        return LIFParameters(
            self.tau_syn_inv,
            self.tau_mem_inv,
            self.v_leak,
            self.v_th,
            self.v_reset,
            self.surrogate.name,
            torch.tensor(self.surrogate.slope),
        )

    def rest(self, x: Tensor, p: Any) -> LIFFeedForwardState:
        return LIFFeedForwardState(v=p.v_leak, i=x.new_zeros(()))


class IF(Neuron):
    """v <- v + i; a spike where v > v_th, then v <- v_reset. Time counts in steps. Norse's IAFCell."""

    defaults = ("v_th", "v_reset")
    norse_step = staticmethod(iaf_feed_forward_step)
    own_step = staticmethod(iaf_step)
    subtract_step = staticmethod(iaf_subtract_step)

    def constants(self) -> IAFParameters:
        return IAFParameters(self.v_th, self.v_reset, self.surrogate.name, torch.tensor(self.surrogate.slope))

    def rest(self, x: Tensor, p: Any) -> IAFFeedForwardState:
        return IAFFeedForwardState(v=p.v_reset)


class LI(Neuron):
    """v <- v + dt / tau_mem (i + v_leak - v), never a spike: a read-out by membrane. Norse's LIBoxCell."""

    defaults = ("tau_mem", "v_leak")
    norse_step = own_step = staticmethod(li_box_feed_forward_step)

    def constants(self) -> LIBoxParameters:
        return LIBoxParameters(self.tau_mem_inv, self.v_leak)

    def rest(self, x: Tensor, p: Any) -> LIBoxState:
        return LIBoxState(p.v_leak)


class CubaLI(Neuron):
    """`CubaLIF` without spikes: a read-out by membrane. Norse's LICell."""

    defaults = ("tau_syn", "tau_mem", "v_leak")
    norse_step = own_step = staticmethod(li_feed_forward_step)

    def constants(self) -> LIParameters:
        return LIParameters(self.tau_syn_inv, self.tau_mem_inv, self.v_leak)

    def rest(self, x: Tensor, p: Any) -> LIState:
        return LIState(v=p.v_leak, i=x.new_zeros(()))


class Integrator(Neuron):
    """v <- v + i from zero, never a spike (NIR's I). Time counts in steps."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return (x if self.gain is None else x * self.gain).cumsum(0)


class Threshold(Neuron):
    """1 where the input is above v_th, else 0, without memory; with the surrogate gradient of the neurons."""

    defaults = ("v_th",)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x if self.gain is None else x * self.gain
        return spike(x - self.v_th, Surrogate(self.settings.surrogate, self.settings.surrogate_slope))


class Recurrent(Neuron):
    """A population (T, B, size) that receives its own spikes of the step before by a square matrix, none at first.

    neuron: what it is made of. recurrent_weights: (to, from). bias: whether a learned constant comes with them.
    """

    def __init__(self, neuron: Neuron, size: int, bias: bool = False) -> None:
        super().__init__(neuron.settings)
        self.neuron = neuron
        self.recurrent_weights = nn.Parameter(torch.empty(size, size))
        self.recurrent_bias = nn.Parameter(torch.zeros(size)) if bias else None
        nn.init.normal_(self.recurrent_weights, std=0.5 / size**0.5)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        neuron = self.neuron
        p = neuron.constants()
        if x.dtype in (torch.float16, torch.bfloat16):  # as autocast leaves it; membranes need more
            x = x.float()
        state, z = neuron.rest(x[0], p), torch.zeros_like(x[0])
        out = []
        for current in x:
            current = current + nn.functional.linear(z, self.recurrent_weights, self.recurrent_bias)
            current = current if neuron.gain is None else current * neuron.gain
            z, state = neuron.step(current, state, p, self.settings.dt)
            z = neuron.without_dead(z)
            out.append(z)
        return torch.stack(out)


class Scale(nn.Module):
    """y = weight * x, element by element; weight: one number or a tensor of the population's shape, learned."""

    def __init__(self, weight: Tensor | float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight, dtype=torch.float32).clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Delay(nn.Module):
    """(T, B, ...) later by whole time steps of dt seconds, zeros before; steps: of the population's shape."""

    steps: Tensor

    def __init__(self, steps: Any, dt: float) -> None:
        super().__init__()
        self.dt = dt
        self.register_buffer("steps", torch.as_tensor(steps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        time = torch.arange(x.shape[0], device=x.device).reshape(-1, *(1,) * (x.dim() - 1)) - self.steps
        return torch.where(time >= 0, x.gather(0, time.clamp(min=0).expand(x.shape)), 0.0)


# For read-outs by membrane.
READOUTS: dict[str, type[Neuron]] = {"li": LI, "cubali": CubaLI}
