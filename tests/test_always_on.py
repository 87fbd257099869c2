"""Biases of current-based neurons come from an input that spikes in every step, on both clocks, as in floats."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import cuba_lif, graph, inp, lif, out

from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph
from hardware.compile.warning import warnings_of
from hardware.errors import HardwareError
from hardware.files.network_file import load, save
from hardware.files.netx import restrict
from hardware.files.netx_writing import write_net
from hardware.graph.parsing import from_nir
from hardware.network.integer import InputPopulation
from hardware.network.timing import depths
from hardware.placement import place
from hardware.simulate import neurobench, reference
from hardware.simulate.fidelity import agreement
from hardware.simulate.given import check_rasters
from hardware.simulate.simulator import simulate


def chain(seed=0, delay=0):
    """Two layers of current-based neurons; weights of 1/128, so that only decays are cut off."""
    rng = np.random.default_rng(seed)
    node = {"tau_syn": 2.0, "tau_mem": 4.0, "r": 4.0, "w_in": 2.0, "v_threshold": 1.0}
    nodes = {"input": inp(6)}
    for k, (post, pre) in enumerate(((8, 6), (5, 8))):
        weight = rng.integers(-60, 61, (post, pre)) / 128
        nodes[f"w{k}"] = nir.Affine(weight, rng.integers(-30, 50, post) / 128)
        if delay and k:
            nodes["late"] = nir.Delay(np.full(post, float(delay)))
        nodes[f"n{k}"] = cuba_lif(post, **node)
    return from_nir(graph({**nodes, "output": out(5)}, dt=1.0))


def raster(seed=1, batch=4, steps=60):
    return (np.random.default_rng(seed).random((batch, steps, 6)) < 0.3).astype(np.uint8)


@pytest.mark.parametrize("delay", [0, 3])
def test_the_current_rises_as_in_floats(delay):
    checked, x = chain(delay=delay), raster()
    network, reports = compile_graph(checked, "loihi2")
    always_on = [p for p in network.projections if p.source == "always on"]
    assert {p.target for p in always_on} == {"n0", "n1"} and not network.populations[0].bias_mant
    assert network.inputs[-1] == InputPopulation("always on", (1,), constant=1)
    assert any("always on" in note for r in reports for note in r.notes)
    exact = reference.simulate(checked, x, record=["n0", "n1"])
    run = simulate(network, x, record=["n0", "n1"])
    for name in ("n0", "n1"):
        part = agreement(exact.spikes[name], run.spikes[name])
        assert part.either > 100 and part.share > 0.99, (name, part)
    # A bias behind a delay acts when that is over: nothing moves before.
    silent = np.zeros_like(x)
    alone = simulate(network, silent, record=["n0", "n1"])
    assert not alone.u["n1"][:, : delay + 0].any() and alone.u["n1"][:, delay].any()


def test_both_clocks_and_back_to_back_samples_are_alike():
    network, _ = compile_graph(chain(), "loihi2")
    x = raster(batch=3, steps=40)
    exact = simulate(network, x, record=["n0", "n1"])
    depth = depths(network)
    # One after the other on the chip's clock, with a reset before each.
    stream = np.concatenate([x.reshape(1, -1, 6), np.zeros((1, 5, 6), np.uint8)], axis=1)
    chip = simulate(network, stream, "chip", ["n0", "n1"], reset_interval=40)
    for name in ("n0", "n1"):
        late = chip.v[name][:, depth[name] : depth[name] + 120].reshape(3, 40, -1)
        np.testing.assert_array_equal(late, exact.v[name])


def test_nobody_gives_its_raster():
    network, _ = compile_graph(chain(), "loihi2")
    given, batch, steps = check_rasters(network, {"input": raster()})
    assert list(given) == ["input", "always on"] and (given["always on"] == 1).all()
    assert given["always on"].shape == (batch, steps, 1)
    with pytest.raises(HardwareError, match="rasters are given for"):
        check_rasters(network, {"input": raster(), "always on": np.ones((4, 60, 1))})
    with pytest.raises(HardwareError, match=r"constant is 2, expected 0 to 1"):
        InputPopulation("x", (1,), constant=2)


def test_files_placement_and_tallies_know_it(tmp_path):
    network, reports = compile_graph(chain(), "loihi1")
    save(network, tmp_path / "a.h5")
    again = load(tmp_path / "a.h5")
    assert again.inputs == network.inputs
    x = raster()
    np.testing.assert_array_equal(simulate(again, x).output, simulate(network, x).output)
    placement = place(network, "loihi1")
    assert placement.synapses == sum(r.synapses for r in reports)
    biases = sum(r.synapses for r in reports if r.source == "always on")
    assert biases >= 10
    # One axon each on the core that all of it fits.
    sizes = {"input": 6, "n0": 8, "always on": 1}
    assert placement.cores == 1
    assert placement.axons_in_per_core.sum() == sum(sizes[p.source] for p in network.projections)
    tally = neurobench.of_network(network)
    tally.add(x, simulate(network, x).counts)
    steps = x.shape[1]
    inputs = (x.sum(axis=(0, 1)) @ (network.projections[0].weight != 0).sum(axis=0)) / len(x)
    counts = simulate(network, x).counts["n0"].sum(axis=0)
    second = next(p for p in network.projections if p.source == "n0")
    inner = counts @ (second.weight != 0).sum(axis=0) / len(x)
    assert tally.to_dict()["SynapticOperations"]["Effective_ACs"] == pytest.approx(
        inputs + inner + biases * steps
    )
    with pytest.raises(HardwareError, match="NETX has no input that is always on"):
        write_net(network, tmp_path / "a.net")


def test_a_netx_file_has_the_bias_on_the_membrane(tmp_path):
    network, reports = compile_graph(chain(), restrict(load_chip("loihi2")))
    assert len(network.inputs) == 1 and np.any(network.populations[0].bias_mant)
    assert any("not through the synaptic current" in note for r in reports for note in r.notes)
    write_net(network, tmp_path / "a.net")


def test_neurons_without_a_current_keep_theirs_on_the_membrane():
    nodes = {
        "input": inp(2),
        "w": nir.Affine(np.ones((3, 2)), np.full(3, 0.3)),
        "n": lif(3),
        "output": out(3),
    }
    network, _ = compile_graph(from_nir(graph(nodes, dt=1e-3)), "loihi2")
    assert len(network.inputs) == 1 and np.any(network.populations[0].bias_mant)
    assert warnings_of(network, {}) == {}


def test_a_node_of_that_name_keeps_it():
    checked = chain()
    nodes = {("always on" if name == "input" else name): node for name, node in checked.nodes.items()}
    edges = [tuple("always on" if end == "input" else end for end in edge) for edge in checked.edges]
    network, _ = compile_graph(from_nir(graph(nodes, edges, dt=1.0)), "loihi2")
    assert [entry.name for entry in network.inputs] == ["always on", "always on'"]
