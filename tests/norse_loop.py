"""A population as Norse says, step by step."""

import torch


def loop(neuron, x):
    """Outputs of a `Neuron` for x (T, B, ...)."""
    p = neuron.constants()
    state, out = neuron.rest(x[0], p), []
    for current in x:
        z, state = neuron.step(current, state, p, neuron.settings.dt)
        out.append(z)
    return torch.stack(out)
