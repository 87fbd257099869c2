"""The NIR node of each module: synapses, pooling, and populations with every parameter at full shape.

r is the factor `gain` on a population's input, else 1. The current-based cells get w_in = tau_syn / dt, since
Norse adds its input to the current as it is; those that spike also r = tau_mem / dt, and their membranes in units that make up
for it, the form that snnTorch and SpikingJelly write and read. To add a module: a line in `SYNAPSES` or in `POPULATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import nir
import norse.torch as norse
import numpy as np
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks import matrices, neurons
from dpap_neuro.networks.kinds import nearest

Shape = tuple[int, ...]


def array(value: Any) -> np.ndarray:
    """A tensor or number as float32."""
    return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value, np.float32)


def full(value: Any, shape: Shape, name: str, what: str) -> np.ndarray:
    """A parameter at its population's shape. Raises InputError where it does not fit, or is not finite."""
    values = array(value)
    try:
        values = np.array(np.broadcast_to(values, shape))
    except ValueError:
        raise InputError(
            f"layer {name}: found {what} of shape {values.shape}, expected one that fits the population's {shape}"
        ) from None
    if not np.isfinite(values).all():
        raise InputError(f"layer {name}: found NaN or infinite values in {what}, expected finite ones")
    return values


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _bias(m: Any) -> np.ndarray:
    return np.zeros(m.out_channels, np.float32) if m.bias is None else array(m.bias)


def _zero_padded(name: str, m: Any) -> None:
    if m.padding_mode != "zeros":
        raise InputError(f"layer {name}: found padding_mode {m.padding_mode!r}, expected zeros")


def _conv2d(name: str, m: nn.Conv2d, shape: Shape) -> nir.NIRNode:
    _zero_padded(name, m)
    padding = m.padding if isinstance(m.padding, str) else _pair(m.padding)
    return nir.Conv2d(
        shape[1:], array(m.weight), _pair(m.stride), padding, _pair(m.dilation), m.groups, _bias(m)
    )


def _conv1d(name: str, m: nn.Conv1d, shape: Shape) -> nir.NIRNode:
    _zero_padded(name, m)
    padding = m.padding if isinstance(m.padding, str) else m.padding[0]
    return nir.Conv1d(shape[1], array(m.weight), m.stride[0], padding, m.dilation[0], m.groups, _bias(m))


def _linear(_name: str, m: nn.Linear, _shape: Shape) -> nir.NIRNode:
    return nir.Linear(array(m.weight)) if m.bias is None else nir.Affine(array(m.weight), array(m.bias))


def _avg_pool(name: str, m: nn.AvgPool2d, _shape: Shape) -> nir.NIRNode:
    uncounted = not m.count_include_pad and m.padding not in (0, (0, 0))
    if m.ceil_mode or m.divisor_override not in (None, 1) or uncounted:
        raise InputError(
            f"layer {name}: found ceil_mode, a divisor or padding that is not counted; use plain AvgPool2d"
        )
    stride = m.kernel_size if m.stride is None else m.stride
    kind = nir.AvgPool2d if m.divisor_override is None else nir.SumPool2d
    return kind(*(np.array(_pair(v)) for v in (m.kernel_size, stride, m.padding)))


def _sum_pool(name: str, m: nn.LPPool2d, _shape: Shape) -> nir.NIRNode:
    if m.norm_type != 1 or m.ceil_mode:
        raise InputError(f"layer {name}: found a pooling of norm {m.norm_type}, expected 1 (a sum)")
    stride = m.kernel_size if m.stride is None else m.stride
    return nir.SumPool2d(np.array(_pair(m.kernel_size)), np.array(_pair(stride)), np.array((0, 0)))


def _scale(name: str, m: neurons.Scale, shape: Shape) -> nir.NIRNode:
    return nir.Scale(full(m.weight, shape, name, "weight"))


def _delay(name: str, m: neurons.Delay, shape: Shape) -> nir.NIRNode:
    return nir.Delay(full(m.steps * m.dt, shape, name, "steps"))


SYNAPSES: dict[type, Callable[[str, Any, Shape], nir.NIRNode]] = {
    nn.Conv2d: _conv2d,
    nn.Conv1d: _conv1d,
    nn.Linear: _linear,
    matrices.Linear: _linear,
    nn.AvgPool2d: _avg_pool,
    nn.LPPool2d: _sum_pool,
    neurons.Scale: _scale,
    neurons.Delay: _delay,
}

# Which of NIR's parameters a kind of population has.
POPULATIONS: dict[type, type[nir.NIRNode]] = {
    neurons.LIF: nir.LIF,
    neurons.ParametricLIF: nir.LIF,
    neurons.CubaLIF: nir.CubaLIF,
    neurons.IF: nir.IF,
    neurons.LI: nir.LI,
    neurons.CubaLI: nir.CubaLI,
    neurons.Integrator: nir.I,
    neurons.Threshold: nir.Threshold,
    norse.LIFBoxCell: nir.LIF,
    norse.LIFCell: nir.CubaLIF,
    norse.LIF: nir.CubaLIF,
    norse.IAFCell: nir.IF,
    norse.IAF: nir.IF,
    norse.LIBoxCell: nir.LI,
    norse.LICell: nir.CubaLI,
    norse.LI: nir.CubaLI,
}


def reset(model: nn.Module) -> str | None:
    """What a spike does to the membranes of a network, "zero" or "subtract"; None where nothing spikes.

    Raises InputError, naming the layers, where they do not all do the same, or something else.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        nearest_kind = nearest(POPULATIONS, module)
        if nearest_kind is None or POPULATIONS[nearest_kind] not in (nir.LIF, nir.CubaLIF, nir.IF):
            continue
        if isinstance(module, neurons.Neuron):
            kind = module.settings.reset
        else:
            method = getattr(module.p, "reset_method", reset_value)
            if method not in (reset_value, reset_subtract):
                raise InputError(
                    f"layer {name}: found a reset of its own, expected Norse's reset_value or reset_subtract"
                )
            kind = "subtract" if method is reset_subtract else "zero"
        found.setdefault(kind, name)
    if len(found) > 1:
        raise InputError(
            f"layers {found['zero']} and {found['subtract']}: reset to a value and by subtraction, expected one "
            "reset in all layers of a file"
        )
    return next(iter(found), None)


def population(name: str, module: Any, shape: Shape, dt: float) -> nir.NIRNode:
    """The node of a `Neuron` or of a bare Norse cell over a population of `shape`.

    NIR has one time step, `dt`, for all: a cell of another step gets the time constants that decay alike.
    Raises InputError for parameters that do not fit. What its spike does to the membrane NIR cannot say: see `reset`.
    """
    kind = POPULATIONS[cast(type, nearest(POPULATIONS, module))]
    own = isinstance(module, neurons.Neuron)
    gain = module.gain if own and module.gain is not None else 1.0
    if kind is nir.I:
        return nir.I(r=full(gain, shape, name, "gain"))
    if kind is nir.Threshold:
        if module.gain is not None:
            raise InputError(f"layer {name}: found a Threshold with a gain, expected a Scale before it")
        return nir.Threshold(full(module.v_th, shape, name, "v_th"))
    p = module.constants() if own else module.p
    share = dt / float(module.settings.dt if own else module.dt)

    def tau(which: str) -> np.ndarray:
        return full(1.0 / getattr(p, f"{which}_inv").double() * share, shape, name, which)

    values: dict[str, np.ndarray] = {"r": full(gain, shape, name, "gain")}
    if kind in (nir.CubaLIF, nir.CubaLI):
        values = {"r": np.ones(shape, np.float32), "tau_syn": tau("tau_syn"), "tau_mem": tau("tau_mem")}
        values["w_in"] = full(gain, shape, name, "gain") * values["tau_syn"] / np.float32(dt)
    elif kind in (nir.LIF, nir.LI):
        values["tau"] = tau("tau_mem")
    if kind is not nir.IF:
        values["v_leak"] = full(p.v_leak, shape, name, "v_leak")
    if kind in (nir.LIF, nir.CubaLIF, nir.IF):
        values["v_threshold"] = full(p.v_th, shape, name, "v_th")
        values["v_reset"] = full(p.v_reset, shape, name, "v_reset")
    if kind is nir.CubaLIF and (values["w_in"] > 0).all():
        # In double precision, so that `nir_import` gets back every bit.
        tau_syn, tau_mem = values["tau_syn"].astype(np.float64), values["tau_mem"].astype(np.float64)
        unit = tau_mem / dt / full(gain, shape, name, "gain")
        values |= {k: values[k].astype(np.float64) * unit for k in ("v_leak", "v_threshold", "v_reset")}
        values |= {"r": tau_mem / dt, "w_in": tau_syn / dt}
    if own and module.dead is not None and "v_threshold" in values:
        dead = np.broadcast_to(module.dead.cpu().numpy(), shape)
        values["v_threshold"] = np.where(dead, np.inf, values["v_threshold"]).astype(
            values["v_threshold"].dtype
        )
    return kind(**values)
