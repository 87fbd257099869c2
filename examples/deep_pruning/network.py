"""A network of eight weight layers for small recordings: 16C3s2-16C3-32C3s2-32C3-48C3-48C3-128FC, batch norm behind each convolution.

dpap-neuro sweep --model examples/deep_pruning/network.py:eight_layers ...
"""

from __future__ import annotations

from torch import nn

from dpap_neuro.networks.models import ModelSettings, neurons_of, readout_of

# Channels and strides of the convolutions, of 3 x 3.
CONVOLUTIONS = ((16, 2), (16, 1), (32, 2), (32, 1), (48, 1), (48, 1))


def eight_layers(settings: ModelSettings) -> list[nn.Module]:
    channels, rows, columns = settings.input_shape
    layers: list[nn.Module] = []
    for out, stride in CONVOLUTIONS:
        layers += [
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            neurons_of(settings),
        ]
        channels, rows, columns = out, -(-rows // stride), -(-columns // stride)
    layers += [nn.Flatten(), nn.Linear(channels * rows * columns, 128), neurons_of(settings)]
    return [*layers, nn.Linear(128, settings.classes), *readout_of(settings)]
