"""NeuroBench's metrics against counting every operation one by one; against its harness see tests/interop."""

from __future__ import annotations

import itertools

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, lif, out

from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import from_nir
from hardware.network.integer import DenseProjection, InputPopulation, Network, Population
from hardware.simulate import neurobench, reference, simulator


def network(rng, pooled=True):
    """Convolutions with padding, stride, dilation and groups, a pool, a matrix; half of the weights zero."""

    def half(*shape):
        return rng.normal(size=shape) * (rng.random(shape) < 0.5)

    grouped = half(6, 2, 3, 2)
    nodes = {
        "input": inp(2, 9, 8),
        "conv": nir.Conv2d((9, 8), half(4, 2, 3, 3), (2, 1), (1, 2), 1, 1, np.full(4, 0.1)),
        "n1": lif(4, 5, 10, tau=0.1, r=2.0, v_threshold=0.3),
        "grouped": nir.Conv2d((5, 10), grouped, 1, (1, 0), (1, 2), 2, np.zeros(6)),
        "n2": lif(6, 5, 8, tau=0.1, r=2.0, v_threshold=0.3),
        **({"pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))} if pooled else {}),
        "flat": nir.Flatten({"input": np.array([6, 2, 4] if pooled else [6, 5, 8])}, 0, -1),
        "fc": nir.Affine(half(5, 48 if pooled else 240), np.full(5, 0.1)),
        "n3": lif(5, tau=0.1, r=2.0, v_threshold=0.3),
        "output": out(5),
    }
    return from_nir(graph(nodes, dt=0.05))


def operations(x, weight, stride, padding, dilation, groups):
    """(non-zero input, non-zero weight) pairs of a convolution, and all pairs, one by one; x: (channels, rows, columns)."""
    rows, columns = x.shape[1:]
    outs, within, *kernel = weight.shape
    space = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip((rows, columns), kernel, stride, padding, dilation, strict=True)
    ]
    found = dense = 0
    for o, i, j in itertools.product(range(outs), *map(range, space)):
        first = o // (outs // groups) * within
        for c, a, b in itertools.product(range(within), *map(range, kernel)):
            y, z = i * stride[0] - padding[0] + a * dilation[0], j * stride[1] - padding[1] + b * dilation[1]
            if 0 <= y < rows and 0 <= z < columns:
                dense += 1
                found += x[first + c, y, z] != 0 and weight[o, c, a, b] != 0
    return found, dense


def by_hand(g, raster, pooled=True):
    """MACs, ACs, all operations, and spikes, of all recordings."""
    names = ["n1", "n2", "n3", *(["pool"] if pooled else [])]
    run = reference.simulate(g, raster, record=names)
    macs = acs = dense = 0
    for b, t in np.ndindex(raster.shape[:2]):
        for name, x in (("conv", raster[b, t]), ("grouped", run.spikes["n1"][b, t])):
            node = g.nodes[name]
            found, every = operations(x, node.weight, node.stride, node.padding, node.dilation, node.groups)
            dense += every
            macs, acs = (macs + found, acs) if name == "conv" else (macs, acs + found)
        x = run.spikes["pool" if pooled else "n2"][b, t].ravel()
        weight = g.nodes["fc"].weight
        found = sum(int(np.count_nonzero(weight[:, j])) for j in np.flatnonzero(x))
        dense += weight.size
        macs, acs = (macs + found, acs) if pooled else (macs, acs + found)
    return macs, acs, dense, sum(int(run.counts[name].sum()) for name in ("n1", "n2", "n3"))


def measured(tally, raster, run, values=None):
    tally.add(
        raster[:2], {k: v[:2] for k, v in run.counts.items()}, {k: v[:2] for k, v in (values or {}).items()}
    )
    tally.add(
        raster[2:], {k: v[2:] for k, v in run.counts.items()}, {k: v[2:] for k, v in (values or {}).items()}
    )
    return tally.to_dict()


@pytest.mark.parametrize("pooled", [True, False])
def test_graph_counts_every_operation(pooled):
    rng = np.random.default_rng(0)
    g = network(rng, pooled)
    raster = rng.integers(0, 3, (3, 4, 2, 9, 8))
    tally = neurobench.of_graph(g)
    assert tally.recorded == (("pool",) if pooled else ())
    run = reference.simulate(g, raster, record=tally.recorded)
    found = measured(tally, raster, run, run.spikes)
    macs, acs, dense, spikes = by_hand(g, raster, pooled)
    expected = {"Effective_MACs": macs / 3, "Effective_ACs": acs / 3, "Dense": dense / 3}
    assert found["SynapticOperations"] == pytest.approx(expected) and spikes > 100
    assert found["ActivationSparsity"] == pytest.approx(1 - spikes / (3 * 4 * (200 + 240 + 5)))
    weights = [g.nodes[name].weight for name in ("conv", "grouped", "fc")]
    total = sum(w.size for w in weights)
    assert found["ConnectionSparsity"] == sum(int((w == 0).sum()) for w in weights) / total
    # Biases of `conv` and `fc`; of each population tau, r, v_leak, v_threshold, v_reset.
    assert found["Footprint"] == 4 * (total + 4 + 5 + 3 * 5)


def test_binary_input_is_accumulated():
    rng = np.random.default_rng(1)
    g = network(rng, pooled=False)
    raster = rng.integers(0, 2, (3, 4, 2, 9, 8))
    run = reference.simulate(g, raster)
    found = measured(neurobench.of_graph(g), raster, run)
    macs, acs, *_ = by_hand(g, raster, pooled=False)
    assert found["SynapticOperations"]["Effective_MACs"] == 0
    assert found["SynapticOperations"]["Effective_ACs"] == pytest.approx((macs + acs) / 3)


@pytest.mark.parametrize("bits", [8, 3])
def test_integer_network_counts_the_simulators_events(bits):
    rng = np.random.default_rng(2)
    integers = compile_graph(network(rng), "loihi1", weight_bits=bits)[0]
    raster = rng.integers(0, 3, (3, 4, 2, 9, 8))
    run = simulator.simulate(integers, raster)
    found = measured(neurobench.of_network(integers), raster, run)
    first = int(run.event_counts["n1"].sum())
    rest = sum(int(run.event_counts[name].sum()) for name in ("n2", "n3"))
    operations = found["SynapticOperations"]
    assert operations["Effective_MACs"] == pytest.approx(first / 3) and first > 0
    assert operations["Effective_ACs"] == pytest.approx(rest / 3) and rest > 0
    weights = [p.weight for p in integers.projections]
    assert found["Footprint"] > sum(w.size for w in weights)
    assert 0.3 < found["ConnectionSparsity"] < 0.9


def test_what_never_spikes_makes_no_operation():
    populations = (Population("a", (4,), spiking=False), Population("b", (2,)))
    projections = (
        DenseProjection("in", "a", np.full((4, 3), 2)),
        DenseProjection("a", "b", np.full((2, 4), 2)),
    )
    network = Network((InputPopulation("in", (3,)),), populations, projections, ("b",))
    x = np.ones((2, 5, 3), np.uint8)
    tally = neurobench.of_network(network)
    tally.add(x, simulator.simulate(network, x).counts)
    operations = tally.to_dict()["SynapticOperations"]
    assert operations == {"Effective_MACs": 0.0, "Effective_ACs": 5 * 12.0, "Dense": 5 * 20.0}


def test_recurrent_values_arrive_a_step_late():
    weight = np.array([[0.0, 1.0], [0.0, 0.0]])
    nodes = {
        "input": inp(2),
        "w": nir.Linear(np.eye(2) * 9.0),
        "n": lif(2, tau=0.1, r=2.0, v_threshold=0.3),
        "back": nir.Linear(weight),
        "output": out(2),
    }
    edges = [("input", "w"), ("w", "n"), ("n", "back"), ("back", "n"), ("n", "output")]
    g = from_nir(nir.NIRGraph(nodes, edges, metadata={"dt": 0.05}))
    raster = np.ones((1, 3, 2))
    tally = neurobench.of_graph(g)
    run = reference.simulate(g, raster, record=tally.recorded)
    tally.add(raster, run.counts, run.spikes)
    # Input: 2 a step. Both neurons spike in all 3 steps, the last time to no avail; one of them leads on.
    assert run.counts["n"].tolist() == [[3, 3]]
    assert tally.to_dict()["SynapticOperations"]["Effective_ACs"] == 3 * 2 + 2
