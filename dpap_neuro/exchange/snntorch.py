"""Live snnTorch networks (1.0) as graphs. Neurons: Eshraghian et al. 2023, doi 10.1109/JPROC.2023.3308088.

Leaky: m <- beta m + x; a spike where m > threshold. tau = dt / (1 - beta) and r = tau / dt say the same to NIR. With
reset_delay=True, the default, the reset comes with the next step: to zero that is the same spikes for Leaky, by subtraction
it is exact as our metadata's `reset_delay`; Synaptic, RLeaky and RSynaptic reset to zero with a delay also drop that step's
input or current, which NIR cannot say.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.frameworks import Framework, Part, installed
from dpap_neuro.exchange.modules import read
from dpap_neuro.exchange.nir_nodes import Shape, array, full
from hardware.graph.graph import Graph

DT = 1e-4


def from_snntorch(model: nn.Module, sample: Tensor, dt: float = DT) -> Graph:
    """A live snnTorch network as a graph; it is left as it was.

    sample: what its forward pass takes: (batch, ...) for a network that takes one time step, (steps, batch, ...) for one that
    loops over time. dt: seconds per step; snnTorch counts in steps, its own files say 0.0001.
    Raises InputError, naming the layer, for what cannot be converted exactly.
    """
    snn = installed("snntorch")
    framework = Framework(
        "snntorch",
        "1.0.0",
        {snn.Leaky: _leaky, snn.Synaptic: _synaptic, snn.RLeaky: _leaky, snn.RSynaptic: _synaptic},
        axes=lambda module: 1,
        instead={
            snn.Lapicque: "use snn.Leaky of the same beta",
            snn.Alpha: "NIR has no second-order neuron; use snn.Synaptic",
            snn.SLSTM: "NIR has no LSTM; use snn.RSynaptic",
            snn.SConv2dLSTM: "NIR has no LSTM; use snn.RLeaky",
            nn.ReLU: "an artificial neuron; use a spiking one",
        },
    )
    return read(framework, model, sample, dt)


def _decay(name: str, value: Any, shape: Shape, what: str) -> np.ndarray:
    """The share that is lost per step. Raises InputError where nothing is lost."""
    kept = np.clip(full(value, shape, name, what).astype(np.float64), 0, 1)
    if (kept >= 1).any():
        raise InputError(f"layer {name}: found a {what} of 1, which never decays, expected below 1")
    return 1 - kept


def _leaky(name: str, m: Any, shape: Shape, dt: float) -> Part:
    common = _common(name, m, shape)
    beta = np.clip(full(m.beta, shape, name, "beta"), 0, 1)
    if (beta == 1).all():
        node = nir.IF(np.ones(shape, np.float32), common.pop("v_threshold"), np.zeros(shape, np.float32))
    else:
        tau = dt / _decay(name, m.beta, shape, "beta")
        node = nir.LIF(tau, tau / dt, np.zeros(shape), common.pop("v_threshold"), np.zeros(shape, np.float32))
    return Part(node, **common)


def _synaptic(name: str, m: Any, shape: Shape, dt: float) -> Part:
    common = _common(name, m, shape)
    tau_syn = dt / _decay(name, m.alpha, shape, "alpha")
    tau_mem = dt / _decay(name, m.beta, shape, "beta")
    node = nir.CubaLIF(
        tau_syn=tau_syn,
        tau_mem=tau_mem,
        r=tau_mem / dt,
        v_leak=np.zeros(shape),
        v_threshold=common.pop("v_threshold"),
        v_reset=np.zeros(shape, np.float32),
        w_in=tau_syn / dt,
    )
    return Part(node, **common)


def _common(name: str, m: Any, shape: Shape) -> dict[str, Any]:
    """What all neurons have: threshold, reset, factor, recurrent weights."""
    kind = type(m).__name__
    if m.inhibition:
        raise InputError(
            f"layer {name}: found inhibition between neurons, which NIR does not have, expected False"
        )
    if m.state_quant:
        raise InputError(f"layer {name}: found quantised states (state_quant), expected False")
    mechanism = ("subtract", "zero", "none")[int(m.reset_mechanism_val)]
    if mechanism == "none":
        raise InputError(
            f"layer {name}: found reset_mechanism 'none', NIR's {kind} resets; expected subtract or zero"
        )
    late = bool(m.reset_delay)
    if mechanism == "zero" and late and kind != "Leaky":
        drops = "input" if kind == "RLeaky" else "current"
        raise InputError(
            f"layer {name}: {kind} with reset_delay=True and a reset to zero drops the {drops} of the step behind a spike, "
            "which NIR cannot say; train it with reset_delay=False"
        )
    if mechanism == "subtract" and not late:
        raise InputError(
            f"layer {name}: {kind} with reset_delay=False and subtraction fires above twice the threshold only where a spike "
            "left the membrane above it, which NIR cannot say; train it with reset_delay=True, which is exact"
        )
    feedback = None
    if hasattr(m, "recurrent"):
        feedback = _feedback(name, m, shape)
    return {
        "v_threshold": full(m.threshold, shape, name, "threshold"),
        "reset": mechanism,
        "late": late and mechanism == "subtract",
        "factor": float(m.graded_spikes_factor),
        "feedback": feedback,
    }


def _feedback(name: str, m: Any, shape: Shape) -> nir.NIRNode:
    if not m.all_to_all:
        return nir.Scale(full(m.recurrent.V, shape, name, "V"))
    if not isinstance(m.recurrent, nn.Linear):
        raise InputError(
            f"layer {name}: found a recurrent convolution, expected linear_features or all_to_all=False"
        )
    weight, bias = array(m.recurrent.weight), m.recurrent.bias
    return nir.Linear(weight) if bias is None else nir.Affine(weight, array(bias))
