"""Units of other frameworks: each one's own equations, in a slow loop, give the spikes of this project's graph."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, out

pytest.importorskip("torch")

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.dialects import PEERS, as_nir, for_peer
from dpap_neuro.exchange.plain import read_plainly
from hardware.graph.parsing import from_nir
from hardware.simulate.reference import simulate

DT, N = 1e-3, 6


def lif(**changed):
    values = {"tau": 7e-3, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.3, "v_reset": 0.0, **changed}
    return nir.LIF(**{k: np.full(N, v) for k, v in values.items()})


def cuba(**changed):
    values = {
        "tau_syn": 2e-3,
        "tau_mem": 7e-3,
        "r": 1.0,
        "v_leak": 0.0,
        "v_threshold": 0.5,
        "v_reset": 0.0,
        "w_in": 1.5,
    }
    return nir.CubaLIF(**{k: np.full(N, v) for k, v in {**values, **changed}.items()})


def integrate(r=0.5, v_threshold=1.3):
    return nir.IF(np.full(N, r), np.full(N, v_threshold), np.zeros(N))


def network(node, reset="zero", **metadata):
    return from_nir(graph({"i": inp(N), "n": node, "o": out(N)}, dt=DT, reset=reset, **metadata))


def stimulus():
    return np.random.default_rng(0).random((3, 60, N)) * 2


def run(step, x, reset, at_least):
    """A loop over time. step: (state, input) to (state, membrane)."""
    spikes = np.zeros(x.shape, np.uint8)
    state = None
    for t in range(x.shape[1]):
        state, v, level = step(state, x[:, t])
        z = v >= level if at_least else v > level
        spikes[:, t] = z
        state = (state[0], np.where(z, v - level if reset == "subtract" else 0.0, v))
    return spikes


def snntorch(node, dt):
    """Leaky and Synaptic at the step of 0.0001 s that it fixes, threshold as it reads it."""
    keep = 1 - 1e-4 / np.asarray(node.tau if isinstance(node, nir.LIF) else node.tau_mem, float)
    keep_syn = 1 - 1e-4 / np.asarray(node.tau_syn, float) if hasattr(node, "tau_syn") else None
    assert np.allclose(node.r * 1e-4 / (node.tau if isinstance(node, nir.LIF) else node.tau_mem), 1)

    def step(state, x):
        i, v = (0.0, 0.0) if state is None else state
        i = x if keep_syn is None else keep_syn * i + x
        return (i, v), keep * v + i, node.v_threshold

    return step, False


def spikingjelly(node, dt):
    def step(state, x):
        i, v = (0.0, 0.0) if state is None else state
        if isinstance(node, nir.IF):
            assert np.allclose(node.r * dt, 1)
            return (x, v), v + x, node.v_threshold
        if isinstance(node, nir.LIF):
            assert (node.r == 1).all()
            return (x, v), v + (x - v) * dt / node.tau, node.v_threshold
        assert np.allclose(node.r, node.tau_mem / dt) and np.allclose(node.w_in, node.tau_syn / dt)
        i = i * (1 - dt / node.tau_syn) + x
        return (i, v), v * (1 - dt / node.tau_mem) + i, node.v_threshold

    return step, True


def sinabs(node, dt):
    def step(state, x):
        _, v = (0.0, 0.0) if state is None else state
        if isinstance(node, nir.IF):
            return (x, v), v + x, node.v_threshold
        return (x, v), np.exp(-1 / node.tau) * v + x, node.v_threshold

    return step, True


def rockpool(node, dt):
    own = (node.tau_mem / (1 + node.r)).min()
    assert own == pytest.approx(dt, rel=1e-5)

    def step(state, x):
        i, v = (0.0, 0.0) if state is None else state
        i = np.exp(-own / node.tau_syn) * (i + x)
        return (i, v), np.exp(-own / node.tau_mem) * v + i, node.v_threshold

    return step, True


def norse(node, dt):
    def step(state, x):
        i, v = (0.0, 0.0) if state is None else state
        if isinstance(node, nir.IF):
            return (x, v), v + x, node.v_threshold
        if isinstance(node, nir.LIF):
            return (x, v), v + dt / node.tau * (x - v), node.v_threshold
        i = i + dt / node.tau_syn * (node.w_in * x - i)
        return (i, v), v + dt / node.tau_mem * (node.r * i - v), node.v_threshold

    return step, False


READS = {
    "norse": norse,
    "snntorch": snntorch,
    "spikingjelly": spikingjelly,
    "sinabs": sinabs,
    "rockpool": rockpool,
}


@pytest.mark.parametrize(
    ("peer", "node", "reset"),
    [
        *(
            (peer, node, "zero")
            for peer in ("norse", "snntorch", "spikingjelly")
            for node in (lif(), lif(r=3.0), cuba())
        ),
        *((peer, integrate(), "zero") for peer in ("norse", "spikingjelly", "sinabs")),
        ("snntorch", integrate(), "zero"),
        *(("sinabs", node, reset) for node in (lif(), lif(r=0.5)) for reset in ("zero", "subtract")),
        ("rockpool", cuba(), "subtract"),
    ],
)
def test_same_spikes_by_the_peers_own_equations(peer, node, reset):
    g = network(node, reset)
    x = stimulus()
    here = simulate(g, x).output
    written, _ = for_peer(g, peer)
    assert written.metadata["writer"] == f"dpap-neuro for {peer}" and written.metadata["reset"] == reset
    made = written.nodes["n"]
    if peer == "snntorch" and isinstance(node, nir.IF):
        assert isinstance(made, nir.LIF) and (1 - 1e-4 / made.tau.astype(float) == 1).all()
    step, at_least = READS[peer](made, DT)
    assert here.sum() > 30 and np.array_equal(run(step, x, reset, at_least), here)


def test_spikes_at_the_threshold_itself():
    # Whole weights: sums equal the threshold, where v > 2 is no spike
    g = network(integrate(1.0, 2.0))
    x = np.ones((1, 9, N))
    here = simulate(g, x).output
    assert here.sum() == 3 * N
    for peer in ("spikingjelly", "sinabs"):
        step, at_least = READS[peer](for_peer(g, peer)[0].nodes["n"], DT)
        assert np.array_equal(run(step, x, "zero", at_least), here), peer


@pytest.mark.parametrize(
    ("peer", "kind", "other"),
    [("norse", nir.SumPool2d, nir.AvgPool2d), ("snntorch", nir.AvgPool2d, nir.SumPool2d)],
)
def test_pooling_is_exchanged_with_the_weights_behind_it(peer, kind, other):
    rng = np.random.default_rng(1)
    first = nir.IF(*(np.full((2, 4, 4), v) for v in (1.0, 0.5, 0.0)))
    pool = other(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    weight = rng.normal(size=(3, 8)).astype(np.float32)
    nodes = {
        "i": inp(2, 4, 4),
        "s": first,
        "p": pool,
        "f": nir.Flatten({"input": np.array([2, 2, 2])}, 0, -1),
    }
    nodes |= {
        "w": nir.Affine(weight, np.full(3, 0.1, np.float32)),
        "n": nir.IF(*(np.full(3, v) for v in (1.0, 0.8, 0.0))),
        "o": out(3),
    }
    g = from_nir(graph(nodes, dt=DT, reset="zero"))
    written, _ = for_peer(g, peer)
    assert isinstance(written.nodes["p"], kind) and np.array_equal(written.nodes["w"].bias, g.nodes["w"].bias)
    x = rng.integers(0, 2, (2, 20, 2, 4, 4))
    if peer == "norse":
        assert np.array_equal(simulate(from_nir(written), x).output, simulate(g, x).output)
    assert np.array_equal(written.nodes["w"].weight, weight * (0.25 if peer == "norse" else 4))


@pytest.mark.parametrize(
    ("peer", "node", "reset", "words"),
    [
        ("norse", lif(v_reset=-0.1), "zero", "'n'.*no v_reset"),
        ("norse", lif(), "subtract", "resets to 0"),
        ("snntorch", lif(v_leak=0.1), "zero", "v_leak of 0"),
        ("spikingjelly", lif(v_leak=0.1), "zero", "v_leak equal to v_reset"),
        ("spikingjelly", lif(tau=DT), "zero", "tau above dt"),
        ("spikingjelly", lif(r=-1.0), "zero", "r is -1"),
        (
            "spikingjelly",
            nir.LIF(np.linspace(2, 3, N) * DT, *(np.full(N, v) for v in (1.0, 0.0, 0.3, 0.0))),
            "zero",
            "one tau",
        ),
        ("spikingjelly", nir.Scale(np.ones(N)), "zero", "'n'.*Scale.*does not know"),
        ("sinabs", cuba(), "zero", "leaves the layer out"),
        ("rockpool", cuba(), "zero", "do not reset to 0"),
        ("rockpool", lif(), "subtract", "tau_mem"),
        ("lava-dl", lif(), "zero", "NETX"),
        ("brian", lif(), "zero", "expected one of"),
    ],
)
def test_what_a_peer_cannot_take_is_refused_with_its_reason(peer, node, reset, words):
    with pytest.raises(InputError, match=words):
        for_peer(network(node, reset), peer)


def test_a_late_subtraction_and_loops_are_refused():
    with pytest.raises(InputError, match="a step late"):
        for_peer(network(cuba(), "subtract", reset_delay=1), "rockpool")
    nodes = {"i": inp(N), "n": lif(), "w": nir.Linear(np.eye(N)), "o": out(N)}
    g = from_nir(graph(nodes, [("i", "n"), ("n", "w"), ("w", "n"), ("n", "o")], dt=DT, reset="zero"))
    for peer in ("snntorch", "sinabs"):
        with pytest.raises(InputError, match=PEERS[peer].recurrent[:20]):
            for_peer(g, peer)
    assert set(for_peer(g, "spikingjelly")[0].edges) == set(g.edges)


@pytest.mark.parametrize(
    ("node", "same", "changed"),
    [
        (lif(), ("norse", "spikingjelly"), ("snntorch", "sinabs")),
        (integrate(1.0), ("norse",), ("snntorch", "spikingjelly", "sinabs")),
        # In the form that everybody reads, as this project exports it.
        (cuba(r=7.0, w_in=2.0), ("norse", "spikingjelly"), ("snntorch",)),
    ],
)
def test_a_plain_export_names_who_reads_another_network(node, same, changed):
    g = network(node)
    found = read_plainly(g)
    assert (found.same, found.changed) == (same, changed)
    assert {*found.refused} == {*PEERS} - {*same, *changed}
    written = from_nir(as_nir(g)).nodes["n"]
    here = simulate(g, stimulus()).output
    for peer in same:
        step, at_least = READS[peer](written, DT)
        assert np.array_equal(run(step, stimulus(), "zero", at_least), here), peer
        assert f"{peer} (give it dt=0.001)" in found.line()
    if isinstance(node, nir.LIF):
        step, at_least = READS["sinabs"](written, DT)
        assert not np.array_equal(run(step, stimulus(), "zero", at_least), here)
    assert "another network in " + ", ".join(changed) + " unless written with --for PEER" in found.line()


def test_what_no_framework_takes_and_what_all_take():
    assert read_plainly(network(lif(v_reset=-0.1, v_leak=0.1))).line() == (
        "in NIR's own units: read as it is by no framework; not for norse, snntorch, spikingjelly, sinabs, rockpool, spyx, where --for "
        "says why"
    )
    matrix = from_nir(graph({"i": inp(N), "w": nir.Linear(np.eye(N)), "o": out(N)}))
    assert read_plainly(matrix).line().startswith("in NIR's own units: read as it is by norse")


def test_our_own_form_goes_through_a_file(tmp_path):
    g = network(cuba(), "subtract", class_names='["a", "b"]', bins=5)
    nir.write(tmp_path / "a.nir", as_nir(g))
    back = from_nir(nir.read(tmp_path / "a.nir", type_check=False))
    assert back.metadata == g.metadata and back.dt == DT
    assert np.array_equal(simulate(back, stimulus()).output, simulate(g, stimulus()).output)
