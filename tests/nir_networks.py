"""Networks of every layer that the project can train and export, for tests of the way to NIR and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dpap_neuro.networks.neurons import (
    IF,
    LI,
    LIF,
    CubaLI,
    CubaLIF,
    Integrator,
    Neuron,
    NeuronSettings,
    ParametricLIF,
    Recurrent,
    Scale,
    Threshold,
)
from hardware.simulate import reference

SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.03, v_th=0.4, tau_syn=0.02)


class Net(nn.Module):
    """Named layers and a function of them and the recording (T, B, ...)."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def seeded(network, gain=3.0):
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            module.reset_parameters()
            module.weight.data *= gain
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 2.0)
            nn.init.uniform_(module.bias, -0.1, 0.2)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.2, 1.0)
        if isinstance(module, Recurrent):
            nn.init.normal_(module.recurrent_weights, std=0.5)
    return network.eval()


def folded(layer, x):
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def chain(*layers, shape):
    """Layers one after the other: neurons over time, others folded."""

    def forward(s, x):
        for i in range(len(layers)):
            layer = getattr(s, f"l{i}")
            x = layer(x) if isinstance(layer, Neuron | Scale) else folded(layer, x)
        return x

    return lambda: (seeded(Net(forward, **{f"l{i}": layer for i, layer in enumerate(layers)})), shape)


def _conv_norm():
    def forward(s, x):
        x = s.lif(folded(s.norm, folded(s.conv, x)))
        return s.out(folded(s.fc, folded(s.flat, x)))

    layers = {
        "conv": nn.Conv2d(2, 4, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(4),
        "lif": LIF(SETTINGS),
        "flat": nn.Flatten(),
        "fc": nn.Linear(192, 5),
        "out": LIF(SETTINGS),
    }
    return seeded(Net(forward, **layers)), (2, 8, 6)


def _skip():
    def forward(s, x):
        y = s.first(folded(s.a, x))
        z = s.second(folded(s.b, y))
        return s.out(folded(s.c, z + y) + folded(s.d, x) * 0.5)

    layers = {
        "a": nn.Linear(12, 10),
        "first": LIF(SETTINGS),
        "b": nn.Linear(10, 10),
        "second": CubaLIF(SETTINGS),
        "c": nn.Linear(10, 6),
        "d": nn.Linear(12, 6, bias=False),
        "out": IF(SETTINGS),
    }
    return seeded(Net(forward, **layers)), (12,)


NETWORKS = {
    "skip": _skip,
    "batch norm, conv": _conv_norm,
    "current-based": chain(
        nn.Linear(12, 9), CubaLIF(SETTINGS), nn.Linear(9, 4), CubaLIF(SETTINGS), shape=(12,)
    ),
    "IF": chain(nn.Linear(12, 9), IF(SETTINGS), shape=(12,)),
    "parametric": chain(nn.Linear(12, 9), ParametricLIF(SETTINGS), shape=(12,)),
    "membrane": chain(nn.Linear(12, 9), LIF(SETTINGS), nn.Linear(9, 3), LI(SETTINGS), shape=(12,)),
    "current-based membrane": chain(
        nn.Linear(12, 9), LIF(SETTINGS), nn.Linear(9, 3), CubaLI(SETTINGS), shape=(12,)
    ),
    "integrator": chain(nn.Linear(12, 9), LIF(SETTINGS), Integrator(SETTINGS), shape=(12,)),
    "recurrent": chain(
        nn.Linear(12, 9), Recurrent(LIF(SETTINGS), 9), nn.Linear(9, 4), LIF(SETTINGS), shape=(12,)
    ),
    "recurrent, bias": chain(nn.Linear(12, 9), Recurrent(CubaLIF(SETTINGS), 9, bias=True), shape=(12,)),
    "threshold, scale": chain(
        Scale(torch.linspace(0.2, 2, 12)),
        nn.Linear(12, 9),
        Threshold(SETTINGS),
        nn.Linear(9, 4),
        LIF(SETTINGS),
        shape=(12,),
    ),
    "one-dimensional": chain(
        nn.Conv1d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2, bias=False),
        LIF(SETTINGS),
        nn.Dropout(),
        shape=(2, 15),
    ),
    "grouped, dilated": chain(
        nn.Conv2d(2, 6, 3, dilation=2, padding=2, groups=2), LIF(SETTINGS), shape=(2, 8, 6)
    ),
    "same padding": chain(nn.Conv2d(2, 3, (2, 3), padding="same"), LIF(SETTINGS), shape=(2, 8, 6)),
    "pools": chain(
        nn.LPPool2d(1, 2),
        nn.Conv2d(2, 4, 3, padding=1),
        LIF(SETTINGS),
        nn.AvgPool2d(2, padding=1),
        nn.Flatten(),
        nn.Linear(24, 5),
        LIF(SETTINGS),
        shape=(2, 8, 6),
    ),
    "arrays": chain(
        nn.Linear(12, 9),
        LIF(
            SETTINGS,
            tau_mem=torch.linspace(0.02, 0.1, 9),
            v_th=torch.linspace(0.2, 0.6, 9),
            v_leak=0.1,
            v_reset=-0.1,
            gain=1.5,
        ),
        CubaLIF(SETTINGS, tau_syn=torch.linspace(0.01, 0.1, 9), gain=torch.linspace(0.5, 2, 9), v_leak=0.05),
        shape=(12,),
    ),
}


def same_spikes(graph, x, expected):
    """The reference simulator's output equals `expected` (T, B, ...), but in samples where a membrane lay within
    1e-5 of its threshold; those are counted and may be one."""
    raster = x.transpose(0, 1).numpy()
    names = [n for n, node in graph.nodes.items() if hasattr(node, "v_threshold")]
    run = reference.simulate(graph, raster, record=names)
    wrong = np.abs(run.output - np.swapaxes(expected, 0, 1)).reshape(len(raster), -1).max(1) > 1e-4
    near = np.zeros(len(raster), bool)
    for name in names:
        gap = np.abs(run.membranes[name] - graph.nodes[name].v_threshold)
        near |= (gap < 1e-5).reshape(len(raster), -1).any(1)
    assert not (wrong & ~near).any() and wrong.sum() <= 1, f"{wrong.sum()} of {len(raster)} samples differ"
