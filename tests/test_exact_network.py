"""What is trained on integers is what compiles and what runs: 0 differing spikes and membranes, the very same integers."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import nir
import torch
from exact_networks import cases
from graph_samples import cuba_lif, graph, inp, lif, out
from hypothesis import HealthCheck, given, settings

from dpap_neuro.deploy.proof import integers, prove
from dpap_neuro.networks.models import ModelSettings
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.precision.network import ExactNetwork, Precision
from hardware.graph.parsing import from_nir
from hardware.network.connectivity import unroll
from hardware.network.integer import ConvProjection
from hardware.simulate import lava

EXAMPLES = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def check_integers(network, compiled):
    """Every integer of the compiled network against the forward pass's."""
    shapes = {p.name: p.shape for p in (*compiled.inputs, *compiled.populations)}
    left = list(compiled.projections)
    device = torch.device("cpu")

    def take(source, target, expected):
        for projection in left:
            if (projection.source, projection.target) != (source, target):
                continue
            if isinstance(projection, ConvProjection):
                found = projection.weight
            else:
                found = unroll(projection, shapes[source], shapes[target]).toarray().T
            if found.shape == expected.shape and (found * 2.0**projection.weight_exp == expected).all():
                left.remove(projection)
                return
        raise AssertionError(f"{source} -> {target}")

    for layer in network.plan:
        population = network.populations[layer.key]
        first = network.synapses[layer.links[0].synapse] if layer.links else None
        for link in layer.links:
            take(link.source, layer.name, network.synapses[link.synapse].weights().detach().numpy())
        if population.recurrent_weights is not None:
            take(layer.name, layer.name, population.back().detach().numpy())
        for name in layer.constants:
            vector = network.constants[name].vector(first.constant()).detach().numpy()
            if vector.any():
                (always,) = [p.name for p in compiled.inputs if p.constant]
                take(always, layer.name, vector.reshape(-1, 1))
        found = next(p for p in compiled.populations if p.name == layer.name)
        bias = None
        if layer.biased:
            bias = first.constant()
            bias = bias.repeat_interleave(int(np.prod(found.shape)) // len(bias))
        if population.drive is not None:
            bias = population.drive if bias is None else bias + population.drive
        ours = population.integers(bias, device)
        for value, expected in (
            (np.asarray(found.du), 4095 - ours.keep_u),
            (np.asarray(found.dv), 4096 - ours.keep_v),
            (np.asarray(found.vth) * 64, ours.threshold),
            (np.asarray(found.bias_mant, int) << found.bias_exp, ours.bias),
        ):
            size = int(np.prod(found.shape))
            np.testing.assert_array_equal(
                np.broadcast_to(value.reshape(-1), size), np.broadcast_to(expected, size)
            )
        assert found.spiking == population.spikes and (found.reset == "subtract") == population.subtract
    assert not left


@EXAMPLES
@given(cases())
def test_the_compiled_network_has_the_integers_and_the_spikes_that_were_trained(case):
    network, counts = case
    compiled = integers(network)
    check_integers(network, compiled)
    proof = prove(network, [counts], compiled=compiled)
    assert proof.differing == 0 and proof.values > 0, proof.lines()
    x = torch.as_tensor(counts).transpose(0, 1).float()
    traces = [{}, {}]
    for trace, training in zip(traces, (True, False), strict=True):
        network.train(training).traced(x, trace)
    assert all(torch.equal(traces[0][name], traces[1][name]) for name in traces[0])


LAVA = os.environ.get("LAVA_PYTHON") or (sys.executable if lava.available() else None)


@pytest.mark.skipif(LAVA is None, reason="no Python with lava-nc: name one in LAVA_PYTHON")
def test_lava_has_the_spikes_that_were_trained():
    """A loop, a bias and decays of every kind, on real Lava."""
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return rng.normal(size=shape).astype(np.float32)

    nodes = {
        "input": inp(6),
        "w": nir.Affine(drawn(5, 6), drawn(5) / 5),
        "n": lif(5, tau=3.3, r=3.0, v_threshold=0.7),
        "back": nir.Linear(drawn(5, 5)),
        "w2": nir.Linear(drawn(3, 5)),
        "read": cuba_lif(3, tau_syn=2.1, tau_mem=4.7, r=4.0, w_in=2.0, v_threshold=0.5),
        "output": out(3),
    }
    edges = [
        ("input", "w"),
        ("w", "n"),
        ("n", "back"),
        ("back", "n"),
        ("n", "w2"),
        ("w2", "read"),
        ("read", "output"),
    ]
    settings = ModelSettings("imported", (6,), 3, NeuronSettings(1.0, 1.0), "spikes")
    network = ExactNetwork(
        from_nir(graph(nodes, edges, dt=1.0)), settings, Precision(weight_bits=4, max_count=3)
    )
    counts = rng.integers(0, 4, (1, 20, 6)).astype(np.uint8)
    proof = prove(network, [counts], lava=1, lava_python=LAVA)
    assert proof.differing == 0 and proof.lava_recordings == 1, proof.lines()
    assert all(tally.active and tally.lava == 0 for tally in proof.populations.values())
