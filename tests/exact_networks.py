"""Graphs that hypothesis makes up, for networks that are trained on integers: of every neuron, with skips, loops and delays."""

from __future__ import annotations

import nir
import numpy as np
import torch
from graph_samples import graph, inp, out
from hypothesis import reject
from hypothesis import strategies as st

from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.precision.network import ExactNetwork, Precision
from hardware.graph.parsing import from_nir


def neurons(draw, rng, shape, spiking=True, reset="zero", own=True):
    """A population with any decays that NIR can say: dv and du from 0 (an IF, or a tau without end) to 4096."""
    kind = draw(st.sampled_from(["lif", "lif", "cuba", "if"]))
    each = draw(st.booleans()) and len(shape) == 1

    def tau():
        if draw(st.integers(0, 5)) == 0:
            return np.full(shape, 1e6, np.float32)
        steps = rng.integers(1, 4097, shape) if each else np.full(shape, draw(st.integers(1, 4096)))
        return (4096 / steps).astype(np.float32)

    v_reset = -0.25 if spiking and reset == "zero" and draw(st.booleans()) else 0.0
    level = rng.uniform(0.2, 1.5, shape) if each and own else np.full(shape, float(rng.uniform(0.2, 1.5)))
    spikes = {"v_threshold": level.astype(np.float32), "v_reset": np.full(shape, v_reset, np.float32)}
    given = spikes if spiking else {}
    r = np.full(shape, draw(st.sampled_from([1.0, 3.0])), np.float32)
    rest = np.full(shape, draw(st.sampled_from([0.0, 0.1])), np.float32)
    if kind == "if":
        return (nir.IF if spiking else nir.I)(r=r, **given)
    if kind == "cuba":
        w_in = np.full(shape, draw(st.sampled_from([0.3, 1.0])), np.float32)
        tau_syn, tau_mem = tau(), tau()
        heard = {"r": _heard(r, tau_mem), "w_in": _heard(w_in, tau_syn)}
        values = {"tau_syn": tau_syn, "tau_mem": tau_mem, "v_leak": rest, **heard}
        return (nir.CubaLIF if spiking else nir.CubaLI)(**values, **given)
    tau_mem = tau()
    return (nir.LIF if spiking else nir.LI)(tau=tau_mem, r=_heard(r, tau_mem), v_leak=rest, **given)


def _heard(r, tau):
    """A gain that keeps up with a time constant without end."""
    return np.where(tau > 1e5, r * tau, r).astype(np.float32)


def weights(rng, shape, positive, zeros):
    drawn = rng.normal(size=shape) * 1.5 / np.sqrt(np.prod(shape[1:]))
    drawn[rng.random(shape) < zeros] = 0
    return (np.abs(drawn) if positive else drawn).astype(np.float32)


@st.composite
def graphs(draw, bits, recurrent=True, reset="zero", own=True):
    """A chain from an input, with a convolution and pooling, or without; skips, a loop and a delay at times.

    own: whether each neuron may have a threshold of its own.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    zeros = draw(st.sampled_from([0.0, 0.6]))
    positive = bits == 1

    def matrix(post, pre):
        weight = weights(rng, (post, pre), positive, zeros)
        if not draw(st.booleans()):
            return nir.Linear(weight)
        return nir.Affine(weight, (rng.normal(size=post) * 0.2).astype(np.float32))

    nodes, edges = {}, []

    def add(name, node, *sources):
        nodes[name] = node
        edges.extend((source, name) for source in sources)
        return name

    if draw(st.booleans()):
        height, width = draw(st.integers(5, 7)), draw(st.integers(5, 7))
        groups = draw(st.sampled_from([1, 2]))
        add("input", inp(2, height, width))
        weight = weights(rng, (4, 2 // groups, 3, 3), positive, zeros)
        padding = draw(st.sampled_from([0, 1]))
        bias = (rng.normal(size=4) * 0.1).astype(np.float32) * draw(st.booleans())
        add("conv", nir.Conv2d((height, width), weight, 1, padding, 1, groups, bias), "input")
        shape = (4, height + 2 * padding - 2, width + 2 * padding - 2)
        last = add("c1", neurons(draw, rng, shape, reset=reset, own=own), "conv")
        if draw(st.booleans()):
            kernel = np.array([2, 2])
            last = add("pool", nir.AvgPool2d(kernel, kernel, np.array([0, 0])), last)
            shape = (4, shape[1] // 2, shape[2] // 2)
        last = add("flat", nir.Flatten({"input": np.array(shape)}, 0, -1), last)
        pre = int(np.prod(shape))
    else:
        pre = draw(st.integers(2, 9))
        last = add("input", inp(pre))
        first = pre
    wide = "conv" in nodes
    for k in range(draw(st.integers(1, 2))):
        post = draw(st.integers(1, 8))
        name = f"n{k}"
        if draw(st.integers(0, 3)) == 0:
            delay = np.full(shape if last == "flat" else (pre,), float(draw(st.integers(1, 3))), np.float32)
            last = add(f"late{k}", nir.Delay(delay if delay.ndim == 1 else delay.reshape(-1)), last)
        sources = [add(f"w{k}", matrix(post, pre), last)]
        if k and not wide and draw(st.booleans()):
            sources.append(add(f"skip{k}", nir.Linear(weights(rng, (post, first), positive, zeros)), "input"))
        add(name, neurons(draw, rng, (post,), reset=reset, own=own), *sources)
        if recurrent and draw(st.booleans()):
            back = add(f"back{k}", nir.Linear(weights(rng, (post, post), positive, zeros)), name)
            edges.append((back, name))
        last, pre = name, post
    classes = draw(st.integers(2, 4))
    add("w", matrix(classes, pre), last)
    end = draw(st.sampled_from(["spikes", "membrane", "currents"]))
    last = "w"
    if end != "currents":
        last = add("read", neurons(draw, rng, (classes,), end == "spikes", reset, own), "w")
    add("output", out(classes), last)
    return graph(nodes, edges, dt=1.0, readout="spikes" if end == "spikes" else "membrane", reset=reset)


@st.composite
def cases(draw, chips=("loihi1", "loihi2", "netx")):
    """(network after a step of training, counts (n, steps, *shape)), for any chip and width."""
    bits, chip = draw(st.integers(1, 8)), draw(st.sampled_from(chips))
    reset = draw(st.sampled_from(["zero", "subtract"])) if chip == "loihi2" else "zero"
    source = from_nir(draw(graphs(bits, chip != "netx", reset, chip == "loihi2")))
    shape = source.input_shape[source.inputs[0]]
    settings = ModelSettings("imported", shape, 2, NeuronSettings(1.0, 1.0), source.metadata["readout"])
    most = draw(st.sampled_from([1, 4])) if chip != "loihi1" else 1
    timing = draw(st.sampled_from(["zero_delay", "chip"]))
    try:
        network = ExactNetwork(
            source,
            settings,
            Precision(chip.replace("netx", "loihi2"), bits, most, timing, netx=chip == "netx"),
        )
    except InputError as error:  # so slow a neuron that its weights are nothing beside its threshold
        assert "fit no exponent" in str(error)
        reject()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.as_tensor(rng.normal(size=parameter.shape), dtype=torch.float32)
            parameter += noise * 0.2 * parameter.abs().mean()
    counts = rng.integers(0, most + 1, (2, draw(st.integers(3, 12)), *shape))
    return network, (counts * (rng.random(counts.shape) < 0.5)).astype(np.uint8)
