"""A population in a chip's integers with the float model's gradients, slow and obvious: numbers forward, autograd back."""

from __future__ import annotations

import numpy as np
import torch
from oracle_network import neuron_step

from hardware.network.integer import Population


class _Spike(torch.autograd.Function):
    """1 above zero; backward by `derivative`, a function of x."""

    @staticmethod
    def forward(ctx, x, fired, derivative):
        ctx.derivative = derivative
        ctx.save_for_backward(x)
        return fired

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ctx.derivative(x), None, None


def superspike(x):
    return 1 / (1 + x.abs()) ** 2


def _through(value, exact):
    """The gradient of `value`, the number `exact`."""
    return value + (torch.as_tensor(exact, dtype=torch.float64) - value).detach()


def loop(x, population: Population, unit: float, bias, leak, back=None, derivative=superspike):
    """Outputs (T, B, n) and membranes before a reset of integer inputs x (T, B, n), float64.

    Each step is `oracle_network.neuron_step` in integers; its float model, whose values are pulled to those of the
    integers after each operation, has the gradients. derivative: of a spike, by the membrane above its threshold.
    """
    forget = (torch.as_tensor(np.asarray(population.du, float)) + 1) / 4096
    threshold = torch.as_tensor(np.asarray(population.vth, float)) * 64 / unit
    steps, batch, n = x.shape
    state_u = state_v = np.zeros((batch, n), np.int64)
    u = v = torch.zeros(batch, n, dtype=torch.float64)
    z = torch.zeros(batch, n, dtype=torch.float64)
    outputs, membranes = [], []
    silent = Population(
        "p",
        population.shape,
        **{k: getattr(population, k) for k in ("du", "dv", "bias_mant")},
        bias_exp=population.bias_exp,
        spiking=False,
    )
    for t in range(steps):
        a = x[t] if back is None else x[t] + z @ back.T
        state_u, before, _ = neuron_step(silent, a.detach().numpy().astype(np.int64), state_u, state_v)
        u = _through((1 - forget) * u + a * 64 / unit, state_u / unit)
        v = _through((1 - leak) * v + u + bias, before / unit)
        membranes.append(before)
        if not population.spiking:
            outputs.append(v * unit)
            state_v = before
            continue
        fired = before > np.asarray(population.vth, np.int64) * 64
        z = _Spike.apply(v - threshold, torch.as_tensor(fired, dtype=torch.float64), derivative)
        if population.reset == "subtract":
            v, state_v = v - z * threshold, before - fired * np.asarray(population.vth, np.int64) * 64
        else:
            v, state_v = v - z * v, np.where(fired, 0, before)
        outputs.append(z)
    return torch.stack(outputs), np.stack(membranes)
