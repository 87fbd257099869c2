"""Right files as other writers leave them: read as they mean it, with a note of what was assumed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
from graph_samples import graph, inp, lif, mixed, out

from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir, read_graph
from hardware.simulate.float_simulator import FloatSimulator
from hardware.simulate.reference import simulate

CASES = Path(__file__).parents[1].parent / "shared" / "cases"
ANY = nir.Output({"output": None})


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def conv2d(weight: np.ndarray, padding=(0, 0)) -> nir.Conv2d:
    return nir.Conv2d(None, weight, 1, padding, 1, 1, np.zeros(len(weight)))


def flat(start: int, end: int = -1, shape=None) -> nir.Flatten:
    return nir.Flatten({"input": None if shape is None else np.array(shape)}, start, end)


# --- batch axes --------------------------------------------------------------------------------------------


def test_leading_ones_of_an_output_are_of_the_batch():
    g = from_nir(graph({"i": inp(3), "a": lif(3), "o": out(1, 1, 3)}))
    assert g.output_shape["o"] == (3,)
    assert len(g.notes) == 1 and "'o'" in g.notes[0] and "batch" in g.notes[0]


@pytest.mark.parametrize("declared", [(1, 2, 8, 8), (1, 1, 2, 8, 8)])
def test_leading_ones_of_an_input_are_of_the_batch_where_only_that_fits(declared):
    nodes = {"i": inp(*declared), "c": conv2d(ones(4, 2, 3, 3), padding=(1, 1)), "a": lif(4, 8, 8), "o": ANY}
    g = from_nir(graph(nodes))
    assert g.input_shape["c"] == (2, 8, 8)
    assert len(g.notes) == 1 and str(declared) in g.notes[0] and "batch" in g.notes[0]


def test_one_channel_is_no_batch():
    nodes = {"i": inp(1, 8, 8), "c": conv2d(ones(4, 1, 3, 3)), "a": lif(4, 6, 6), "o": out(4, 6, 6)}
    g = from_nir(graph(nodes))
    assert g.input_shape["c"] == (1, 8, 8) and g.notes == ()


def test_every_input_loses_the_ones_it_has():
    nodes = {"i": inp(1, 3), "j": inp(3), "w": nir.Linear(ones(2, 3)), "o": out(2)}
    g = from_nir(graph(nodes, [("i", "w"), ("j", "w"), ("w", "o")]))
    assert g.input_shape["w"] == (3,) and len(g.notes) == 1


@pytest.mark.parametrize(
    "nodes",
    [
        {"i": inp(5, 2, 8, 8), "c": conv2d(ones(4, 2, 3, 3)), "o": ANY},
        {"i": inp(5, 3), "w": nir.Linear(ones(2, 3)), "o": ANY},
        {"i": inp(3), "w": nir.Linear(ones(2, 3)), "o": out(5, 2)},
        {"i": inp(2, 4, 4), "f": flat(2, 5), "o": ANY},
    ],
)
def test_a_batch_that_cannot_be_told_is_called_one(nodes):
    with pytest.raises(HardwareError, match="batch"):
        from_nir(graph(nodes))


@pytest.mark.parametrize(
    ("start", "end", "following", "expected"),
    [
        (1, -1, nir.Linear(ones(3, 32)), (32,)),
        (1, 3, nir.Linear(ones(3, 32)), (32,)),
        (2, 3, lif(2, 16), (2, 16)),
        (1, -1, lif(32), (32,)),
        (1, -1, nir.Linear(ones(3, 16)), None),  # (2, 16) does not fit either way
        (1, -1, lif(2, 16), (2, 16)),  # as NIR counts
    ],
)
def test_flatten_that_counts_a_batch(start, end, following, expected):
    nodes = {"i": inp(2, 4, 4), "f": flat(start, end), "x": following, "o": ANY}
    if expected is None:
        with pytest.raises(HardwareError, match="'x'"):
            from_nir(graph(nodes))
        return
    g = from_nir(graph(nodes))
    assert g.output_shape["f"] == expected
    x = np.random.default_rng(0).random((1, 1, 2, 4, 4))
    shown = simulate(from_nir(graph({"i": inp(2, 4, 4), "f": g.nodes["f"], "o": ANY})), x).output
    assert np.array_equal(shown[0, 0], x[0, 0].reshape(expected))
    plain = start == 1 and end == -1 and expected == (2, 16)
    assert len(g.notes) == (0 if plain else 1)


def test_flatten_whose_own_shape_has_the_batch():
    nodes = {"i": inp(2, 4, 4), "f": flat(1, -1, (1, 2, 4, 4)), "o": ANY}
    g = from_nir(graph(nodes))
    assert g.output_shape["f"] == (32,) and "batch" in g.notes[0]


# --- parameters and parts ----------------------------------------------------------------------------------


def test_parameters_of_one_element_are_for_all():
    node = nir.LIF(*(np.full(1, value) for value in (0.01, 1.0, 0.0, 1.0, 0.0)))
    nodes = {"i": inp(5), "w": nir.Affine(ones(4, 5), ones(4)), "a": node, "o": out(4)}
    g = from_nir(graph(nodes))
    assert g.nodes["a"].tau.shape == (4,) and (g.nodes["a"].tau == 0.01).all()
    mixed_sizes = lif(4)
    mixed_sizes.tau, mixed_sizes.v_leak = np.full(1, 0.01), np.zeros(())
    assert from_nir(graph({"i": inp(4), "a": mixed_sizes, "o": out(4)})).nodes["a"].r.shape == (4,)


def test_a_part_driven_by_its_bias_runs_by_itself():
    nodes = {"i": inp(1), "w": nir.Affine(ones(1, 1), 2 * ones(1)), "a": lif(1, tau=0.01), "o": out(1)}
    nodes["a"] = nir.LIF(np.full(1, 0.01), ones(1), np.zeros(1), np.full(1, 0.15), np.zeros(1))
    edges = [("w", "a"), ("a", "w"), ("a", "o"), ("i", "o")]
    g = from_nir(graph(nodes, edges))
    run = simulate(g, np.zeros((2, 30, 1)), dt=1e-3)
    assert (FloatSimulator(g, 1e-3).run(np.zeros((2, 30, 1))).counts["a"] == run.counts["a"]).all()
    v, z, spikes = 0.0, 0.0, 0
    for _ in range(30):
        v += 0.1 * (2 + z - v)
        z = float(v > 0.15)
        v = 0.0 if z else v
        spikes += int(z)
    assert spikes > 10 and (run.counts["a"] == spikes).all()


def test_a_node_that_nothing_leads_to_is_still_refused():
    nodes = {"i": inp(2), "a": lif(2), "b": lif(2), "o": out(2)}
    with pytest.raises(HardwareError, match=r"no path.*'b'"):
        from_nir(graph(nodes, [("i", "a"), ("a", "o"), ("b", "o")]))


def test_an_edge_to_nowhere_lists_what_is_there():
    inner = graph({"in": inp(2), "lif": lif(2), "out": out(2)})
    inner.edges.append(("lif", "recurrent"))
    with pytest.raises(HardwareError, match=r"sub-graph 'm'.*'recurrent'.*there are 'in', 'lif', 'out'"):
        from_nir(graph({"i": inp(2), "m": inner, "o": out(2)}))


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes",
    [
        {"i": inp(1 << 27), "o": out(1 << 27)},
        {"i": inp(1, 4, 4), "c": conv2d(ones(4, 1, 3, 3), padding=(4000, 4000)), "o": ANY},
        {"i": inp(1 << 23), **{f"s{k}": nir.Scale(np.ones(())) for k in range(9)}, "o": out(1 << 23)},
    ],
)
def test_more_values_than_chips_hold_are_refused_before_they_are_made(nodes):
    source = graph(nodes)
    tracemalloc.start()
    with pytest.raises(HardwareError, match=r"in all|at most"):
        from_nir(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


# --- files -------------------------------------------------------------------------------------------------


def test_a_pointer_of_git_lfs_is_called_one(tmp_path):
    path = tmp_path / "a.nir"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 611968\n")
    with pytest.raises(HardwareError, match=r"Git LFS.*611,968.*git lfs pull"):
        read_graph(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_cut_short_is_incomplete(tmp_path, share):
    nir.write(tmp_path / "a.nir", mixed())
    data = (tmp_path / "a.nir").read_bytes()
    (tmp_path / "a.nir").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(HardwareError, match=r"incomplete.*writer stopped early"):
        read_graph(tmp_path / "a.nir")


@pytest.mark.parametrize("key", ["node/nodes/b/type", "node/edges", "node/nodes", "node/type"])
def test_a_writer_that_stopped_early_is_named(tmp_path, key):
    nir.write(tmp_path / "a.nir", graph({"a": inp(2), "b": lif(2), "c": out(2)}))
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        del file[key]
    with pytest.raises(HardwareError, match=f"no '{key.rsplit('/', 1)[1]}'.*writer stopped early"):
        read_graph(tmp_path / "a.nir")


@pytest.mark.skipif(not CASES.exists(), reason="shared/cases is not there")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("output_leading_ones", None),
        ("batched_input", None),
        ("flatten_start1", None),
        ("driven_by_bias", None),
        ("one_element_lif", None),
        ("lfs_pointer", "Git LFS"),
        ("huge_scalar", "16,777,216"),
        ("huge_pad", "16,777,216"),
    ],
)
def test_cases(name, words):
    if words is None:
        assert read_graph(CASES / f"{name}.nir").outputs
        return
    with pytest.raises(HardwareError, match=words):
        read_graph(CASES / f"{name}.nir")
