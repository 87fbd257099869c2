"""Two synapses per weight: the nearest sum there is, no more than the chip holds, where rounding costs most."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import SHARED, cuba_lif, graph, inp, out
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.compile import quantise
from hardware.compile.attribution import attribution
from hardware.compile.compiler import compile_layers
from hardware.compile.emulation import float_graph
from hardware.compile.pairs import Saturation, agreement_with, choose_pairs, depth_needed, saturation, seen_on
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir, read_graph
from hardware.network.connectivity import shapes, unroll
from hardware.network.integer import weight_grid
from hardware.simulate import fidelity, reference
from hardware.simulate.simulator import simulate

EXAMPLES = settings(max_examples=60, deadline=None)


@EXAMPLES
@given(
    st.integers(0, 2**32),
    st.sampled_from(["mixed", "excitatory", "inhibitory"]),
    st.integers(2, 8),
    st.integers(1, 7),
    st.integers(1, 8),
)
def test_the_nearest_sum_of_two_grids(seed, mode, bits, coarse, apart):
    """Every sum of a coarse and a fine mantissa is tried."""
    rng = np.random.default_rng(seed)
    fine = max(coarse - min(apart, bits), -7)
    low, high, step = weight_grid(mode, bits)
    grid = np.arange(low, high + 1, step)
    sums = np.unique(np.add.outer(grid * 2.0**coarse, grid * 2.0**fine))
    ends = (low * 2.0**coarse, high * 2.0**coarse)
    weights = rng.uniform(*ends, 40)
    weights[:5] = 0
    first, second = quantise.round_pairs(weights, 1.0, (coarse, fine), mode, bits)
    found = first * 2.0**coarse + second * 2.0**fine
    assert set(first) <= set(grid) and set(second) <= set(grid)
    assert not found[:5].any()
    nearest = np.abs(sums[:, None] - weights).min(axis=0)
    np.testing.assert_allclose(np.abs(found - weights), nearest, rtol=0, atol=1e-9)


def small(seed=0, loop=False):
    rng = np.random.default_rng(seed)
    node = {"tau_syn": 2.0, "tau_mem": 4.0, "r": 4.0, "w_in": 2.0, "v_threshold": 1.0}
    nodes = {
        "input": inp(10),
        "w1": nir.Affine(rng.normal(size=(24, 10)) * 0.4, rng.normal(size=24) * 0.1),
        "n1": cuba_lif(24, **node),
        "w2": nir.Affine(rng.normal(size=(12, 24)) * 0.3, rng.normal(size=12) * 0.1),
        "n2": cuba_lif(12, **node),
        "output": out(12),
    }
    edges = [("input", "w1"), ("w1", "n1"), ("n1", "w2"), ("w2", "n2"), ("n2", "output")]
    if loop:
        nodes["back"] = nir.Linear(rng.normal(size=(24, 24)) * 0.2)
        edges += [("n1", "back"), ("back", "n1")]
    return from_nir(graph(nodes, edges, dt=1.0))


def spikes(seed=1, batch=6, steps=60):
    return (np.random.default_rng(seed).random((batch, steps, 10)) < 0.3).astype(np.uint8)


def test_pairs_come_closer_at_twice_the_synapses():
    checked, x = small(loop=True), spikes()
    one, both = (compile_layers(checked, "loihi2", weight_bits=4, pairs=p) for p in (False, True))
    assert agreement_with(checked, both.network, x).share > agreement_with(checked, one.network, x).share
    by_path = {}
    for p in both.network.projections:
        by_path.setdefault((p.source, p.target), []).append(p)
    assert all(len(parts) == 2 for key, parts in by_path.items() if key[0] != "always on")
    rounded = {r.population.name: r for r in both.layers}
    for (source, target), parts in by_path.items():
        layer = rounded[target]
        at = next(i for i, w in enumerate(layer.demand.weights) if w.path.source == source)
        w, scale = layer.demand.weights[at], layer.scaling.scale[layer.demand.group]
        shape = shapes(both.network)
        total = sum(unroll(p, shape[source], shape[target]).toarray().T * 2.0**p.weight_exp for p in parts)
        finest = weight_grid(parts[-1].sign_mode, parts[-1].weight_bits)[2] * 2.0 ** parts[-1].weight_exp
        assert np.abs(total - w.map.matrix * scale[:, None]).max() <= finest / 2 + 1e-9


@EXAMPLES
@given(st.integers(0, 2**32), st.floats(0.1, 30))
def test_no_current_wraps_whatever_spikes(seed, size):
    rng = np.random.default_rng(seed)
    nodes = {
        "input": inp(40),
        "w": nir.Linear(rng.normal(size=(4, 40)) * size),
        "n": cuba_lif(4, tau_syn=3.0, tau_mem=4.0),
        "output": out(4),
    }
    compiled = compile_layers(from_nir(graph(nodes, dt=1.0, clip=1)), "loihi2", pairs=True)
    shape = shapes(compiled.network)
    total = sum(
        np.abs(unroll(p, shape["input"], shape["n"]).toarray()).astype(float) * 2.0**p.weight_exp
        for p in compiled.network.projections
    ).sum(axis=0)
    forget = (np.asarray(compiled.network.populations[0].du) + 1) / 4096
    assert (total * 64 / forget).max() < 2**23
    assert saturation(compiled.network, np.ones((1, 30, 40), int))["n"].wrapped == 0


def test_currents_that_wrap_are_counted():
    """A network whose sums leave 24 bit, step by step against Python's integers."""
    compiled = compile_layers(small(), "loihi2", pairs=True)
    network = compiled.network
    x = spikes().astype(int) * 40_000
    run = simulate(network, x, record=["n1"])
    shape, wraps = shapes(network), 0
    into = [p for p in network.projections if p.target == "n1"]
    matrices = [unroll(p, shape[p.source], shape["n1"]).toarray() for p in into]
    for b in range(len(x)):
        u = [0] * 24
        for t in range(x.shape[1]):
            for n in range(24):
                a = 0
                for p, m in zip(into, matrices, strict=True):
                    given = x[b, t] if p.source == "input" else [1]
                    part = sum(int(m[j, n]) * int(given[j]) for j in range(len(m)))
                    a += part << p.weight_exp if p.weight_exp >= 0 else part >> -p.weight_exp
                du = int(np.asarray(network.populations[0].du).flat[0])
                kept = abs(u[n]) * (4095 - du) >> 12
                now = (kept if u[n] > 0 else -kept) + (a << 6)
                u[n] = int(run.u["n1"][b, t, n])
                wraps += now != u[n]
    stuck = int((np.abs(run.v["n1"]) >= 2**23 - 1).sum())
    assert wraps > 0 and saturation(network, x)["n1"] == Saturation(wraps, stuck)


def test_the_room_that_a_membrane_needs():
    v = np.array([-50, -40, 5, 0, -90, -30, -95])[None, :, None]
    fired = np.array([0, 0, 0, 1, 0, 0, 0])[None, :, None] != 0
    # Up to the spike it was 50 below; after it rises by 60 of which the threshold is 20.
    assert depth_needed(v, fired, np.array([20])).tolist() == [50]
    assert depth_needed(v[:, 4:], fired[:, 4:], np.array([20])).tolist() == [40]


@pytest.mark.parametrize("loop", [False, True])
def test_with_nothing_rounded_the_emulation_is_the_graph(loop):
    checked, x = small(loop=loop), spikes()
    compiled = compile_layers(checked, "loihi2", weight_bits=3)
    back, ones = float_graph(compiled.layers, compiled.network)
    given = {"input": x, **{name: np.ones((*x.shape[:2], *shape)) for name, shape in ones.items()}}
    exact = reference.simulate(checked, x, record=["n1", "n2"]).spikes
    found = reference.simulate(back, given, record=["n1", "n2"]).spikes
    for name in ("n1", "n2"):
        assert exact[name].any()
        np.testing.assert_array_equal(found[name], exact[name])


def test_one_approximation_at_a_time():
    checked, x = small(), spikes()
    compiled = compile_layers(checked, "loihi2", weight_bits=3)
    costs = attribution(compiled, x)
    assert {("input", "n1"), ("n1", "n2"), "biases"} <= set(costs)
    # By hand: the graph with only the first weights replaced.
    w = compiled.layers[0]
    by_hand = small()
    gain = 2.0 / 2.0 * 4.0 / 4.0
    by_hand.nodes["w1"].weight[:] = w.maps[0].matrix / gain
    exact = reference.simulate(checked, x, record=["n1", "n2"]).spikes
    other = reference.simulate(by_hand, x, record=["n1", "n2"]).spikes
    parts = fidelity.agreements(exact, other)
    assert costs["input", "n1"] == fidelity.overall(parts) and costs["input", "n1"].share < 1


def test_pairs_go_where_rounding_costs_most_until_it_is_enough():
    checked, x = small(), spikes()
    options = {"weight_bits": 4}
    plain = compile_layers(checked, "loihi2", **options)
    first = sum(r.synapses for r in plain.reports)
    compiled, choice = choose_pairs(checked, "loihi2", x, 1.0, **options)
    assert choice.pairs and list(choice.agreement) == sorted(choice.agreement)
    costs = attribution(plain, x)
    assert choice.pairs[0] == min((k for k in costs if isinstance(k, tuple)), key=lambda k: costs[k].share)
    assert choice.synapses[0] == first and choice.synapses[-1] == sum(r.synapses for r in compiled.reports)
    assert choice.agreement[-1] == agreement_with(checked, compiled.network, x).share
    _, less = choose_pairs(checked, "loihi2", x, choice.agreement[1] - 1e-9, **options)
    assert less.reached and less.pairs == choice.pairs[:1]
    _, none = choose_pairs(checked, "loihi2", x, 0.0, **options)
    assert none.pairs == () and none.reached
    with pytest.raises(HardwareError, match="without pairs"):
        choose_pairs(checked, "loihi2", x, 1.0, first - 1, **options)
    with pytest.raises(HardwareError, match="hold no pairs"):
        choose_pairs(checked, "loihi2", x, 1.0, first, **options)
    with pytest.raises(HardwareError, match="expected 0 to 1"):
        choose_pairs(checked, "loihi2", x, 2.0, **options)


@pytest.mark.skipif(not (SHARED / "braille").is_dir(), reason="../shared/data/braille is absent")
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_the_braille_network_in_pairs(reset):
    checked = read_graph(SHARED / "nir" / "braille_noDelay_noBias_subtract.nir")
    with np.load(SHARED / "braille" / "braille7.npz") as file:
        x = np.unpackbits(file["spikes"], axis=1)[::11]
    options = {"dt": 1e-4, "reset": reset}
    plain = compile_layers(checked, "loihi2", **options)
    seen = seen_on(plain, x[::2])
    both = compile_layers(checked, "loihi2", pairs=True, seen=seen, **options)
    exact = reference.simulate(checked, x[1::2], 1e-4, reset, ["lif1.lif"]).spikes
    share = {}
    for name, network in (("plain", plain.network), ("pairs", both.network)):
        found = simulate(network, x[1::2], record={"lif1.lif": ("spikes",)}).spikes
        share[name] = fidelity.agreements(exact, found)["lif1.lif"].share
    assert share["pairs"] > 0.93 > 0.85 > share["plain"]
    assert not any(s.wrapped for s in saturation(both.network, x[1::2]).values())
