"""What is trained on integers is what compiles and what runs: 0 differing spikes and membranes, the very same integers."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from exact_networks import cases
from hypothesis import HealthCheck, given, settings

from dpap_neuro.deploy.proof import integers, prove
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
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases(("loihi1", "loihi2"), timings=("zero_delay",)))
def test_lava_has_the_spikes_that_were_trained(case):
    network, counts = case
    proof = prove(network, [counts], lava=len(counts), lava_python=LAVA)
    assert proof.differing == 0 and proof.lava_recordings == len(counts), proof.lines()
