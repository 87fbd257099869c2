"""Other people's `.nir` files as trainable networks: the spikes of the reference simulator, or one clear line."""

from __future__ import annotations

import nir
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from graph_samples import SHARED, cuba_lif, graph, inp, lif, mixed, out
from nir_networks import same_spikes

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.exchange.nir_import import from_graph
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir, read_graph
from hardware.simulate.reference import simulate


def events(shape, steps=30, rate=0.6):
    return torch.poisson(torch.full((steps, 3, *shape), rate), generator=torch.Generator().manual_seed(2))


def agrees(g, x):
    network = from_graph(g)
    with torch.no_grad():
        found = network(x).numpy()
    assert found.any()
    same_spikes(g, x, found)
    return network


def test_convolution_pooling_and_a_recurrent_sub_graph():
    g = from_nir(mixed())
    network = agrees(g, events((2, 5, 6)))
    loss = network(events((2, 5, 6))).sum()
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network.conv.weight.grad.abs().sum() > 0 and network.metadata["bins"] == 10


@pytest.mark.parametrize(
    ("shape", "start", "end"), [((2, 3, 4), -3, -1), ((2, 3, 4), -2, -1), ((2, 3, 4), 0, -2), ((4,), 1, -1)]
)
def test_flatten_counts_axes_from_either_end(shape, start, end):
    flat = nir.Flatten({"input": np.array(shape)}, start, end)
    g = from_nir(graph({"input": inp(*shape), "flat": flat, "output": nir.Output({"output": None})}))
    x = events(shape)
    expected = simulate(g, x.numpy().swapaxes(0, 1)).output.swapaxes(0, 1)
    np.testing.assert_array_equal(from_graph(g)(x).numpy(), expected)


def test_delay_bare_loop_and_sum():
    rng = np.random.default_rng(0)
    nodes = {
        "input": inp(4),
        "late": nir.Delay(np.array([0.0, 1e-3, 2e-3, 5e-3])),
        "w": nir.Linear(rng.normal(size=(4, 4)).astype(np.float32)),
        "lif": lif(4, tau=0.004, v_threshold=0.2),
        "output": out(4),
    }
    edges = [
        ("input", "late"),
        ("late", "w"),
        ("w", "lif"),
        ("input", "lif"),
        ("lif", "lif"),
        ("lif", "output"),
    ]
    g = from_nir(graph(nodes, edges, dt=1e-3))
    network = agrees(g, events((4,)))
    back = from_nir(to_nir(network, (4,), network.dt))
    assert back.nodes["late"].delay.tolist() == pytest.approx([0.0, 1e-3, 2e-3, 5e-3])
    with torch.no_grad():
        same_spikes(back, events((4,)), network(events((4,))).numpy())


def test_time_step_is_found_given_or_assumed():
    def made(**metadata):
        return from_nir(graph({"input": inp(3), "lif": lif(3, tau=0.02), "output": out(3)}, **metadata))

    assert from_graph(made(dt=0.002)).dt == 0.002 and from_graph(made(dt=0.002), dt=0.01).dt == 0.01
    assumed = from_graph(made())
    assert assumed.dt == 1e-4 and "assumed" in assumed.dt_reason
    counts = from_nir(graph({"input": inp(3), "if": nir.IF(*np.ones((2, 3), np.float32)), "output": out(3)}))
    assert from_graph(counts).dt == 1.0
    with pytest.raises(InputError, match=r"node lif: found tau_mem of 0.02 s"):
        from_graph(made(), dt=0.05)
    with pytest.raises(HardwareError, match="dt is -1"):
        from_graph(made(), dt=-1.0)


def test_a_loop_over_two_populations_is_named():
    nodes = {
        "input": inp(3),
        "a": lif(3),
        "b": cuba_lif(3),
        "w": nir.Linear(np.eye(3, dtype=np.float32)),
        "output": out(3),
    }
    edges = [("input", "a"), ("a", "b"), ("b", "w"), ("w", "a"), ("b", "output")]
    with pytest.raises(InputError, match=r"nodes a, b, w form a loop, expected a one-dimensional"):
        from_graph(from_nir(graph(nodes, edges)))


@pytest.mark.parametrize("name", ["lif_norse", "cnn_sinabs"])
def test_files_of_others(name):
    path = SHARED / "nir" / f"{name}.nir"
    if not path.exists():
        pytest.skip("shared/data/nir is not there")
    g = read_graph(path)
    shape = g.input_shape[g.inputs[0]]
    x = events(shape, steps=12, rate=0.3 if len(shape) == 3 else 2.0)
    network = from_graph(g)
    with torch.no_grad():
        found = network(x).transpose(0, 1).numpy()
    expected = simulate(g, x.transpose(0, 1).numpy(), dt=network.dt).output
    assert np.mean(found != expected) <= 0.002, "only rounding in float32 may differ"
