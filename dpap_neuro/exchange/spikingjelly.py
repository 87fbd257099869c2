"""Live SpikingJelly networks (2.0) as graphs. Neurons: Fang et al. 2023, doi 10.1126/sciadv.adi1480.

LIFNode: v <- v + (x - (v - v_reset)) / tau, or without `decay_input` x undivided; a spike where v >= v_threshold. tau counts
in steps; v_reset=None is a reset by subtraction.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.frameworks import Framework, Part, below, installed
from dpap_neuro.exchange.modules import read
from dpap_neuro.exchange.nir_nodes import Shape, full
from hardware.graph.graph import Graph


def from_spikingjelly(model: nn.Module, sample: Tensor, dt: float) -> Graph:
    """A live SpikingJelly network as a graph; it is left as it was.

    sample: what its forward pass takes: (batch, ...) in step mode "s", (steps, batch, ...) in "m". dt: seconds per step, which
    SpikingJelly does not know. Raises InputError, naming the layer, for what cannot be converted exactly.
    """
    installed("spikingjelly")
    layer = installed("spikingjelly.activation_based.layer")
    neuron = installed("spikingjelly.activation_based.neuron")
    one_matrix = (
        "its loop cannot be followed; export it from a network of dpap_neuro.networks.neurons.Recurrent"
    )
    framework = Framework(
        "spikingjelly",
        "2.0.0",
        {
            neuron.IFNode: _if,
            neuron.LIFNode: _lif,
            neuron.ParametricLIFNode: _plif,
            neuron.CUBALIFNode: _cubalif,
        },
        axes=lambda module: 2 if module.step_mode == "m" else 1,
        instead={
            layer.MaxPool2d: "NIR and the chips have no maximum; use layer.AvgPool2d, or a strided convolution",
            layer.LinearRecurrentContainer: one_matrix,
            layer.ElementWiseRecurrentContainer: one_matrix,
            neuron.QIFNode: "NIR has no quadratic neuron; use LIFNode",
            neuron.EIFNode: "NIR has no exponential neuron; use LIFNode",
        },
        passed=(layer.SeqToANNContainer, layer.MultiStepContainer),
    )
    return read(framework, model, sample, dt)


def _exactly(name: str, m: Any, known: str) -> None:
    """Children of a neuron (LIAFNode, GatedLIFNode ...) do something else under the same parent."""
    if type(m).__name__ != known:
        raise InputError(f"layer {name}: {type(m).__name__} of spikingjelly cannot be read: expected {known}")


def _reset(m: Any, shape: Shape) -> tuple[str, np.ndarray]:
    soft = m.v_reset is None
    return "subtract" if soft else "zero", np.full(shape, 0.0 if soft else m.v_reset, np.float32)


def _threshold(name: str, m: Any, shape: Shape) -> np.ndarray:
    return full(below(m.v_threshold), shape, name, "v_threshold")


def _if(name: str, m: Any, shape: Shape, dt: float) -> Part:
    _exactly(name, m, "IFNode")
    reset, v_reset = _reset(m, shape)
    return Part(nir.IF(np.ones(shape, np.float32), _threshold(name, m, shape), v_reset), reset)


def _leaky(name: str, m: Any, shape: Shape, dt: float, tau: float) -> Part:
    reset, v_reset = _reset(m, shape)
    r = 1.0 if m.decay_input else tau
    node = nir.LIF(
        tau=np.full(shape, tau * dt),
        r=np.full(shape, r),
        v_leak=v_reset,
        v_threshold=_threshold(name, m, shape),
        v_reset=v_reset,
    )
    return Part(node, reset)


def _lif(name: str, m: Any, shape: Shape, dt: float) -> Part:
    _exactly(name, m, "LIFNode")
    return _leaky(name, m, shape, dt, float(m.tau))


def _plif(name: str, m: Any, shape: Shape, dt: float) -> Part:
    _exactly(name, m, "ParametricLIFNode")
    return _leaky(name, m, shape, dt, 1 / float(m.w.double().sigmoid()))


def _cubalif(name: str, m: Any, shape: Shape, dt: float) -> Part:
    _exactly(name, m, "CUBALIFNode")
    for key in ("c_decay", "v_decay"):
        if not 0 <= float(getattr(m, key)) < 1:
            raise InputError(f"layer {name}: found {key} of {getattr(m, key)}, expected 0 or more, below 1")
    tau_syn, tau_mem = dt / (1 - float(m.c_decay)), dt / (1 - float(m.v_decay))
    reset, v_reset = _reset(m, shape)
    if v_reset.any():
        raise InputError(
            f"layer {name}: found v_reset {m.v_reset}, from where its membrane decays to 0; expected 0 or None"
        )
    node = nir.CubaLIF(
        tau_syn=np.full(shape, tau_syn),
        tau_mem=np.full(shape, tau_mem),
        r=np.full(shape, tau_mem / dt),
        v_leak=np.zeros(shape),
        v_threshold=_threshold(name, m, shape),
        v_reset=v_reset,
        w_in=np.full(shape, tau_syn / dt),
    )
    return Part(node, reset)
