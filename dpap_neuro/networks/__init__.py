"""Spiking networks: populations over time, what a step does, and models by name.

To add a neuron: a subclass of `neurons.Neuron` and a line in `NEURONS`; to add a model: a function in `models.py` and a
line in `MODELS`. The command line knows them from here, without importing PyTorch.
"""

from __future__ import annotations

from dpap_neuro.registry import Registry

_NEURONS, _MODELS = "dpap_neuro.networks.neurons", "dpap_neuro.networks.models"
_DEEP = "dpap_neuro.networks.deep"

# For hidden populations and spiking read-outs.
NEURONS = Registry(
    "neuron",
    {
        "lif": f"{_NEURONS}:LIF",
        "cubalif": f"{_NEURONS}:CubaLIF",
        "if": f"{_NEURONS}:IF",
        "plif": f"{_NEURONS}:ParametricLIF",
    },
)
MODELS = Registry(
    "model",
    {
        "cnn": f"{_MODELS}:cnn",
        "cnn-wide": f"{_MODELS}:cnn_wide",
        "mlp": f"{_MODELS}:mlp",
        "recurrent": f"{_MODELS}:recurrent",
        "dpap-cifar10": f"{_DEEP}:dpap_cifar10",
        "dpap-cifar10-avg": f"{_DEEP}:dpap_cifar10_avg",
        "vgg9": f"{_DEEP}:vgg9",
        "sew-resnet18": f"{_DEEP}:sew_resnet18",
    },
)
# Of a spike's derivative, each with the slope that it has where none is said; see `surrogates`.
SURROGATES: dict[str, float] = {"superspike": 1.0, "atan": 2.0, "sigmoid": 4.0, "triangle": 1.0}
# The artificial twin: rectifiers instead of spiking neurons, frame by frame.
RELU = "relu"
CELLS = (*NEURONS, RELU)
