"""Live Rockpool networks (3.1, torch backend) as graphs.

LIFNeuronTorch: v <- alpha v + x, alpha = exp(-dt / tau_mem); a spike where v >= threshold, which is then subtracted. LIFTorch
has a synaptic current before it: i <- beta (i + x). A step of Euler decays alike with tau = dt / (1 - alpha).
"""

from __future__ import annotations

from typing import Any, cast

import nir
import numpy as np
import torch
from torch import nn

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.frameworks import Framework, Part, below, installed
from dpap_neuro.exchange.modules import read
from dpap_neuro.exchange.nir_nodes import Shape, array, full
from hardware.graph.graph import Graph


def from_rockpool(net: nn.Module) -> Graph:
    """A live Rockpool network of torch modules as a graph; it is left as it was. Its modules know dt and sizes.

    Raises InputError, naming the layer, for what cannot be converted exactly.
    """
    installed("rockpool")
    torch_modules = installed("rockpool.nn.modules.torch")
    framework = Framework(
        "rockpool",
        "3.1.0",
        {
            torch_modules.LIFNeuronTorch: _lif_neuron,
            torch_modules.LIFTorch: _lif,
            torch_modules.ExpSynTorch: _refused_current,
        },
        axes=lambda module: 2,
        synapses={torch_modules.LinearTorch: (1, _linear)},
    )
    size = getattr(net, "size_in", None)
    if not isinstance(net, nn.Module) or size is None:
        raise InputError(f"model: found a {type(net).__name__}, expected a Rockpool network of torch modules")
    steps = {float(cast(Any, m).dt) for m in nn.Module.modules(net) if hasattr(m, "dt")}
    if len(steps) != 1:
        raise InputError(f"model: found time steps of {sorted(steps)} s, expected one for the whole network")
    return read(framework, net, torch.zeros(1, 2, int(size)), steps.pop())


def _linear(name: str, m: Any, shape: Shape) -> nir.NIRNode:
    weight = array(m.weight).T
    return nir.Linear(weight) if m.bias is None else nir.Affine(weight, array(m.bias))


def _membrane(
    name: str, m: Any, shape: Shape, alpha: Any, dt: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tau_mem, r and threshold. Raises InputError for what NIR does not have."""
    kind = type(m).__name__
    if float(m.max_spikes_per_dt) != 1:
        raise InputError(
            f"layer {name}: {kind} may spike {float(m.max_spikes_per_dt):g} times a step, NIR's once; "
            "train it with max_spikes_per_dt=1"
        )
    if np.any(array(m.bias)):
        raise InputError(
            f"layer {name}: found a bias of {kind}, expected it in the LinearTorch before (has_bias=True)"
        )
    if float(m.noise_std):
        raise InputError(
            f"layer {name}: found noise_std {float(m.noise_std):g}, expected 0: files hold no noise"
        )
    kept = full(alpha, shape, name, "tau_mem").astype(np.float64)
    return dt / (1 - kept), 1 / (1 - kept), full(below(m.threshold), shape, name, "threshold")


def _lif_neuron(name: str, m: Any, shape: Shape, dt: float) -> Part:
    tau, r, threshold = _membrane(name, m, shape, torch.exp(-dt / m.tau_mem.detach().double()), dt)
    zeros = np.zeros(shape, np.float32)
    return Part(nir.LIF(tau, r, zeros, threshold, zeros), "subtract")


def _lif(name: str, m: Any, shape: Shape, dt: float) -> Part:
    if int(m.n_synapses) != 1:
        raise InputError(
            f"layer {name}: found {int(m.n_synapses)} synapses per neuron, NIR's CubaLIF has one"
        )
    tau, r, threshold = _membrane(name, m, shape, m.alpha, dt)
    kept = full(m.beta.detach().reshape(-1), shape, name, "tau_syn").astype(np.float64)
    zeros = np.zeros(shape, np.float32)
    node = nir.CubaLIF(dt / (1 - kept), tau, r, zeros, threshold, zeros, kept / (1 - kept))
    recurrent = m.w_rec if bool(m._has_rec) else None
    return Part(node, "subtract", feedback=None if recurrent is None else nir.Linear(array(recurrent).T))


def _refused_current(name: str, m: Any, shape: Shape, dt: float) -> Part:
    raise InputError(
        f"layer {name}: ExpSynTorch cannot be read: use LIFTorch, which has the current with its neurons"
    )
