"""Live Sinabs networks (3.1) as graphs.

LIF: v <- alpha v + (1 - alpha) x, without `norm_input` x as it is, alpha = exp(-1 / tau_mem) with tau_mem in steps; a spike
where v >= spike_threshold. A step of Euler decays alike with tau = dt / (1 - alpha).
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.frameworks import Framework, Part, below, installed
from dpap_neuro.exchange.modules import read
from dpap_neuro.exchange.nir_nodes import SYNAPSES, Shape, array, full
from hardware.graph.graph import Graph


def from_sinabs(model: nn.Module, sample: Tensor, dt: float = 1.0) -> Graph:
    """A live Sinabs network as a graph; it is left as it was.

    sample: what its forward pass takes: (batch, steps, ...), or (batch * steps, ...) for Squeeze layers. dt: seconds per step;
    Sinabs counts in steps. Raises InputError, naming the layer, for what cannot be converted exactly.
    """
    installed("sinabs")
    layers = installed("sinabs.layers")
    recurrent = "use IAFRecurrent or LIFRecurrent with an nn.Linear"
    framework = Framework(
        "sinabs",
        "3.1.3",
        {layers.IAF: _neuron, layers.LIF: _neuron, layers.ExpLeak: _leak},
        axes=lambda module: 1 if "Squeeze" in type(module).__name__ else 2,
        synapses={layers.SumPool2d: (3, SYNAPSES[nn.LPPool2d])},
        instead={
            layers.ALIF: "NIR has no adaptive threshold; use LIF",
            layers.ALIFRecurrent: f"NIR has no adaptive threshold; {recurrent}",
            layers.SpikingMaxPooling2dLayer: "NIR and the chips have no maximum; use SumPool2d",
            layers.NeuromorphicReLU: "an artificial neuron; use IAF",
        },
        passed=(layers.FlattenTime, layers.UnflattenTime, layers.Repeat),
    )
    return read(framework, model, sample, dt)


def _neuron(name: str, m: Any, shape: Shape, dt: float) -> Part:
    kind = type(m).__name__
    if getattr(m.spike_fn, "__name__", "") != "SingleSpike":
        found = getattr(m.spike_fn, "__name__", type(m.spike_fn).__name__)
        raise InputError(
            f"layer {name}: {kind} with {found} may spike several times a step, NIR's once; "
            "train it with spike_fn=sinabs.activation.SingleSpike"
        )
    if m.min_v_mem is not None:
        raise InputError(
            f"layer {name}: found min_v_mem {float(m.min_v_mem):g}, NIR's membranes have no bound; expected None"
        )
    threshold = full(below(m.spike_threshold), shape, name, "spike_threshold")
    reset = type(m.reset_fn).__name__
    amount = getattr(m.reset_fn, "subtract_value", None) if reset == "MembraneSubtract" else None
    if reset == "MembraneReset" and m.reset_fn.reset_value == 0:
        reset = "zero"
    elif reset == "MembraneSubtract" and (amount is None or np.all(amount == array(m.spike_threshold))):
        reset = "subtract"
    else:
        raise InputError(
            f"layer {name}: found {m.reset_fn}, expected MembraneReset() to 0 or MembraneSubtract() of the threshold"
        )
    alpha = full(m.alpha_mem_calculated, shape, name, "tau_mem").astype(np.float64)
    zeros = np.zeros(shape, np.float32)
    decays = bool((alpha < 1).all())
    r = np.ones(shape) if m.norm_input else 1 / np.where(decays, 1 - alpha, 1.0)
    feedback = _feedback(name, m) if hasattr(m, "rec_connect") else None
    alpha_syn = m.alpha_syn_calculated
    if alpha_syn is None:
        if not decays:
            return Part(nir.IF(np.ones(shape, np.float32), threshold, zeros), reset, feedback=feedback)
        return Part(nir.LIF(dt / (1 - alpha), r, zeros, threshold, zeros), reset, feedback=feedback)
    if not decays:
        raise InputError(
            f"layer {name}: {kind} with tau_syn, whose membrane never decays, is not in NIR; expected LIF"
        )
    # i <- alpha_syn (i + x): the new input decays at once.
    kept = full(alpha_syn, shape, name, "tau_syn").astype(np.float64)
    node = nir.CubaLIF(
        tau_syn=dt / (1 - kept),
        tau_mem=dt / (1 - alpha),
        r=r,
        v_leak=zeros,
        v_threshold=threshold,
        v_reset=zeros,
        w_in=kept / (1 - kept),
    )
    return Part(node, reset, feedback=feedback)


def _feedback(name: str, m: Any) -> nir.NIRNode:
    if type(m.rec_connect) is not nn.Linear:
        raise InputError(
            f"layer {name}: found rec_connect of {type(m.rec_connect).__name__}, expected nn.Linear"
        )
    weight, bias = array(m.rec_connect.weight), m.rec_connect.bias
    # Before the first step Sinabs adds nothing; NIR's bias is there from the first step on.
    if bias is not None and bool(bias.any()):
        raise InputError(
            f"layer {name}: found a bias in rec_connect, which comes one step late, expected bias=False"
        )
    return nir.Linear(weight)


def _leak(name: str, m: Any, shape: Shape, dt: float) -> Part:
    if type(m).__name__ not in ("ExpLeak", "ExpLeakSqueeze") or m.min_v_mem is not None:
        raise InputError(
            f"layer {name}: {type(m).__name__} cannot be read: expected ExpLeak without min_v_mem"
        )
    alpha = full(m.alpha_mem_calculated, shape, name, "tau_mem").astype(np.float64)
    if m.alpha_syn_calculated is not None:
        raise InputError(f"layer {name}: ExpLeak with tau_syn cannot be read, expected tau_syn=None")
    r = np.ones(shape) if m.norm_input else 1 / (1 - alpha)
    return Part(nir.LI(dt / (1 - alpha), r, np.zeros(shape, np.float32)))
