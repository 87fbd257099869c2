"""Reading and checking graphs: shapes, cycles, sub-graphs, metadata, and what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import h5py
import nir
import numpy as np
import pytest
from graph_samples import SHARED, cuba_lif, graph, inp, lif, mixed, out

from hardware.errors import HardwareError
from hardware.files import guarded
from hardware.files.guarded import Reader
from hardware.graph.graph import padding_of, time_constants, time_step
from hardware.graph.parsing import from_nir, read_graph

F4 = np.float32


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, F4)


def conv2d(weight: np.ndarray, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1) -> nir.Conv2d:
    return nir.Conv2d(None, weight, stride, padding, dilation, groups, np.zeros(len(weight), F4))


def refused(source: nir.NIRGraph, *words: str) -> str:
    with pytest.raises(HardwareError) as error:
        from_nir(source)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# --- what a checked graph looks like -----------------------------------------------------------------------


def test_sinabs_file():
    path = SHARED / "nir" / "cnn_sinabs.nir"
    if not path.exists():
        pytest.skip("shared/data/nir is not there")
    g = read_graph(path)
    assert g.order == ("input", *map(str, range(13)), "output")
    assert [g.output_shape[n] for n in g.order] == [
        (2, 34, 34),
        (16, 16, 16),
        (16, 16, 16),
        (16, 16, 16),
        (16, 16, 16),
        (16, 8, 8),
        (8, 8, 8),
        (8, 8, 8),
        (8, 4, 4),
        (128,),
        (256,),
        (256,),
        (10,),
        (10,),
        (10,),
    ]
    assert not g.recurrent and g.dt is None
    assert time_step(g)[0] == 1.0
    # the file has no v_reset: NIR's default is zero
    assert g.nodes["1"].v_reset.shape == (16, 16, 16) and not g.nodes["1"].v_reset.any()


def test_mixed_graph_survives_the_file_and_back(tmp_path):
    direct = from_nir(mixed())
    nir.write(tmp_path / "a.nir", mixed())
    read = read_graph(tmp_path / "a.nir")
    nir.write(tmp_path / "b.nir", nir.NIRGraph(read.nodes, list(read.edges), read.metadata, type_check=False))
    again = read_graph(tmp_path / "b.nir")
    for g in (read, again):
        assert set(g.edges) == set(direct.edges)
        assert g.recurrent == direct.recurrent == {("sub.lif", "sub.w")}
        assert g.output_shape == direct.output_shape
        assert g.input_shape == direct.input_shape
        assert g.dt == 1e-3
        assert g.metadata["class_names"] == ["a", "b", "c"]
        assert g.metadata["kept_bins"].tolist() == [0, 2, 3]
        for name, node in g.nodes.items():
            for key, value in vars(direct.nodes[name]).items():
                if isinstance(value, np.ndarray):
                    np.testing.assert_array_equal(getattr(node, key), value)
                    assert getattr(node, key).dtype == value.dtype
    assert direct.output_shape["conv"] == (4, 3, 3)
    assert direct.output_shape["pool"] == (4, 2, 2)
    assert direct.order[0] == "input"


def test_edges_run_forward_in_order():
    g = from_nir(mixed())
    rank = {name: i for i, name in enumerate(g.order)}
    assert sorted(g.order) == sorted(g.nodes)
    for source, target in g.edges:
        assert rank[source] < rank[target] or (source, target) in g.recurrent


def test_from_nir_leaves_the_source_alone():
    source = graph({"input": inp(3), "lif": lif(), "output": nir.Output({"output": None})})
    tau = source.nodes["lif"].tau
    g = from_nir(source)
    assert source.nodes["lif"].tau is tau and tau.shape == ()
    assert g.nodes["lif"].tau.shape == (3,)
    assert g.output_shape["output"] == (3,)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "expected"),
    [
        ((4, 2, 3, 5), (1, 1), (0, 0), (1, 1), 1, (4, 7, 7)),
        ((4, 2, 3, 5), (2, 3), (1, 2), (1, 1), 1, (4, 5, 4)),
        ((4, 1, 2, 3), (1, 2), (0, 1), (3, 2), 2, (4, 6, 5)),
        ((4, 2, 3, 5), (1, 1), "same", (1, 1), 1, (4, 9, 11)),
        ((4, 2, 2, 4), (1, 1), "same", (3, 1), 1, (4, 9, 11)),
        ((4, 2, 3, 5), (2, 2), "valid", (1, 1), 1, (4, 4, 4)),
    ],
)
def test_convolution_shapes(kernel, stride, padding, dilation, groups, expected):
    node = conv2d(ones(*kernel), stride, padding, dilation, groups)
    g = from_nir(graph({"input": inp(2, 9, 11), "conv": node, "output": out(*expected)}))
    assert g.output_shape["conv"] == expected
    assert g.nodes["conv"].input_shape == (9, 11)


def test_padding_is_a_pair_of_integers_where_it_is_the_same_on_both_sides():
    def of(kernel, padding):
        node = conv2d(ones(1, 1, *kernel), padding=padding)
        return from_nir(graph({"i": inp(1, 8, 8), "c": node, "o": nir.Output({"output": None})})).nodes["c"]

    assert of((3, 5), "same").padding == (1, 2)
    assert of((3, 5), "valid").padding == (0, 0)
    assert of((3, 5), 2).padding == (2, 2)
    odd = of((2, 3), "same")
    assert odd.padding == "same" and padding_of(odd) == ((0, 1), (1, 1))
    line = nir.Conv1d(None, ones(1, 1, 3), np.array([1]), (1,), 1, 1, None)
    node = from_nir(graph({"i": inp(1, 8), "c": line, "o": out(1, 8)})).nodes["c"]
    assert (node.padding, node.stride, node.bias.tolist()) == (1, 1, [0.0])


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, -1, (24,)), (1, -1, (2, 12)), (0, 1, (6, 4)), (-2, -1, (2, 12)), (1, 1, (2, 3, 4))],
)
def test_flatten_counts_axes_without_batch(start, end, expected):
    node = nir.Flatten({"input": None}, start, end)
    g = from_nir(graph({"i": inp(2, 3, 4), "f": node, "o": nir.Output({"output": None})}))
    assert g.output_shape["f"] == expected


@pytest.mark.parametrize(
    "shape",
    [
        np.array([3]),
        np.array(3),
        [3],
        (3.0,),
        {"input": np.array([3])},
        {"input": {"input": [3]}},
        {"x": (3,)},
    ],
)
def test_input_shapes_as_writers_keep_them(shape):
    source = graph({"i": inp(3), "lif": lif(3), "o": out(3)})
    source.nodes["i"].input_type = shape
    g = from_nir(source)
    assert g.output_shape["i"] == (3,)


# --- cycles ------------------------------------------------------------------------------------------------


def test_recurrent_matrix_gets_the_spikes_of_the_step_before():
    g = from_nir(
        graph(
            {"i": inp(3), "lif": lif(3), "w": nir.Linear(ones(3, 3)), "o": out(3)},
            [("i", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "o")],
        )
    )
    assert g.recurrent == {("lif", "w")}


def test_self_edge_and_feedback_over_two_layers():
    nodes = {"i": inp(2), "a": lif(2), "b": lif(2), "w": nir.Linear(ones(2, 2)), "o": out(2)}
    g = from_nir(graph(nodes, [("i", "a"), ("a", "b"), ("b", "b"), ("b", "w"), ("w", "a"), ("b", "o")]))
    assert g.recurrent == {("b", "b"), ("b", "w")}


def test_skip_connection_into_a_cycle_does_not_turn_it_round():
    nodes = {"i": inp(2), "a": lif(2), "b": lif(2), "c": lif(2), "o": out(2)}
    edges = [("i", "c"), ("i", "a"), ("a", "b"), ("b", "c"), ("c", "b"), ("c", "o")]
    assert from_nir(graph(nodes, edges)).recurrent == {("c", "b")}


def test_shared_matrix_on_the_way_back_is_not_delayed_for_others():
    # w feeds both the loop and the output: only its edge into the loop is late
    nodes = {"i": inp(2), "a": lif(2), "w": nir.Linear(ones(2, 2)), "o": out(2)}
    g = from_nir(graph(nodes, [("i", "a"), ("a", "w"), ("w", "a"), ("w", "o")]))
    assert g.recurrent == {("w", "a")}


def test_cycle_without_a_neuron_is_refused():
    nodes = {"i": inp(2), "a": nir.Linear(ones(2, 2)), "s": nir.Scale(ones(2)), "o": out(2)}
    refused(graph(nodes, [("i", "a"), ("a", "s"), ("s", "a"), ("s", "o")]), "'a', 's'", "cycle")


# --- sub-graphs --------------------------------------------------------------------------------------------


def test_nested_subgraphs_are_inlined():
    wire = graph({"in": inp(2), "out": out(2)})
    inner = graph({"in": inp(2), "lif": lif(2), "out": out(2)})
    middle = graph({"in": inp(2), "deep": inner, "wire": wire, "out": out(2)})
    g = from_nir(graph({"i": inp(2), "m": middle, "o": out(2)}))
    assert set(g.nodes) == {"i", "m.deep.lif", "o"}
    assert set(g.edges) == {("i", "m.deep.lif"), ("m.deep.lif", "o")}


def test_subgraph_problems_are_refused():
    two = graph(
        {"a": inp(2), "b": inp(2), "lif": lif(2), "o": out(2)}, [("a", "lif"), ("b", "lif"), ("lif", "o")]
    )
    refused(graph({"i": inp(2), "m": two, "o": out(2)}), "'m'", "2 Input nodes")
    inner = graph({"in": inp(2), "lif": lif(2), "out": out(2)})
    clash = {"i": inp(2), "m.lif": lif(2), "m": inner, "o": out(2)}
    refused(graph(clash), "'m.lif'", "two nodes")
    deep = inner
    for _ in range(12):
        deep = graph({"in": inp(2), "s": deep, "out": out(2)})
    refused(graph({"i": inp(2), "m": deep, "o": out(2)}), "nested")


# --- what is refused ---------------------------------------------------------------------------------------


class MaxPool2d(nir.NIRNode):
    def __init__(self) -> None:
        self.metadata = {}


def bad(value: float, *shape: int) -> np.ndarray:
    array = ones(*shape)
    array.flat[-1] = value
    return array


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (MaxPool2d(), ["'x'", "MaxPool2d", "SumPool2d"]),
        (nir.Affine(bad(np.nan, 3, 3), ones(3)), ["'x' (Affine)", "weight", "1 entries", "NaN"]),
        (nir.Affine(ones(3, 3), bad(np.inf, 3)), ["'x'", "bias", "infinite"]),
        (nir.Affine(ones(3, 4), ones(3)), ["'x'", "(3,)", "(4,)", "'i'"]),
        (nir.Affine(ones(3, 3), ones(4)), ["'x'", "bias", "(4,)", "(3,)"]),
        (nir.Linear(ones(2, 3, 3)), ["'x'", "(2, 3, 3)"]),
        (lif(4), ["'x' (LIF)", "(3,)", "(4,)"]),
        (lif(3, tau=0.0), ["'x'", "tau", "above 0"]),
        (lif(3, v_threshold=np.nan), ["'x'", "v_threshold"]),
        (nir.Delay(-ones(3)), ["'x'", "delay"]),
        (nir.Scale(ones(2)), ["'x' (Scale)", "(2,)"]),
        (nir.Flatten({"input": None}, 2, 3), ["'x'", "2 to 3"]),
        (nir.Conv1d(None, ones(1, 1, 3), 1, 0, 1, 1, ones(1)), ["'x'", "(1, height)"]),
        (nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), ["'x'", "(3,)"]),
    ],
)
def test_bad_nodes_are_named(node, words):
    refused(graph({"i": inp(3), "x": node, "o": nir.Output({"output": None})}), *words)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (conv2d(ones(4, 3, 3, 3)), ["(3, height, width)"]),
        (conv2d(ones(4, 2, 9, 3)), ["reaches over (9, 3)"]),
        (conv2d(ones(3, 1, 3, 3), groups=2), ["groups is 2"]),
        (conv2d(ones(4, 2, 3, 3), stride=(0, 1)), ["stride is (0, 1)"]),
        (conv2d(ones(4, 2, 3, 3), padding=(-1, 0)), ["padding"]),
        (conv2d(ones(4, 2, 3, 3), padding=(1 << 20, 1 << 20)), ["padded input"]),
        (conv2d(ones(4, 2, 3, 3), stride=(2, 2), padding="same"), ["'same'", "stride"]),
        (conv2d(ones(4, 2, 3, 3), stride=(1.5, 1)), ["stride", "integer"]),
        (nir.AvgPool2d(np.array([0, 2]), np.array([1, 1]), np.array([0, 0])), ["kernel_size"]),
        (nir.SumPool2d(np.array([7, 2]), np.array([1, 1]), np.array([0, 0])), ["reaches over (7, 2)"]),
        (nir.Linear(ones(3, 60)), ["(2, 5, 6)", "Flatten"]),
    ],
)
def test_bad_images_are_named(node, words):
    refused(graph({"i": inp(2, 5, 6), "x": node, "o": nir.Output({"output": None})}), "'x'", *words)


def test_bad_edges_are_named():
    nodes = {"i": inp(2), "a": lif(2), "b": lif(3), "o": out(2)}
    refused(graph(nodes, [("i", "a"), ("a", "nowhere")]), "'nowhere'", "no node")
    refused(graph(nodes, [("i", "a"), ("a", "o")]), "no path", "'b'")
    refused(graph(nodes, [("i", "a"), ("i", "b"), ("a", "o")]), "'b'", "(2,)", "(3,)")
    refused(graph(nodes, [("i", "a"), ("i", "a"), ("a", "o")]), "twice")
    refused(graph(nodes, [("i", "a"), ("a", "i"), ("a", "o")]), "'i'", "Input")
    refused(graph(nodes, [("i", "o"), ("o", "a")]), "'o'", "Output")
    refused(graph({"i": inp(2), "a": lif(2), "b": lif(2)}), "no Output")
    refused(graph({"a": lif(2), "o": out(2)}), "no Input")
    refused(graph({"i": inp(2), "a": lif(2), "o": out(3)}), "'o' (Output)", "(2,)", "(3,)")
    two = {"i": inp(2), "j": inp(3), "a": lif(2), "o": out(2)}
    refused(graph(two, [("i", "a"), ("j", "a"), ("a", "o")]), "'a'", "'j'", "(3,)")


def test_several_edges_into_a_node_and_several_inputs_are_fine():
    two = {"i": inp(2), "j": inp(2), "a": lif(2), "o": out(2)}
    g = from_nir(graph(two, [("i", "a"), ("j", "a"), ("a", "o")]))
    assert g.inputs == ("i", "j") and g.predecessors()["a"] == ["i", "j"]


def test_parameters_that_disagree_are_refused():
    node = cuba_lif(3)
    node.w_in = ones(4)
    refused(graph({"i": inp(3), "x": node, "o": out(3)}), "'x' (CubaLIF)", "w_in (4,)")


# --- metadata and time step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dt", -1.0),
        ("dt", "soon"),
        ("bins", 0),
        ("bins", 2.5),
        ("clip", np.array([1, 2])),
        ("kept_bins", np.array([3, 1])),
        ("kept_bins", np.array([0.5])),
        ("class_names", "not json"),
        ("class_names", "[" * 100_000),
        ("class_names", '{"a": 1}'),
        ("readout", "loud"),
        ("reset", "soft"),
    ],
)
def test_bad_metadata_is_named(key, value):
    refused(graph({"i": inp(2), "a": lif(2), "o": out(2)}, **{key: value}), f"metadata {key!r}", "expected")


def test_unknown_metadata_is_passed_on():
    g = from_nir(graph({"i": inp(2), "a": lif(2), "o": out(2)}, author=b"me", note={"x": np.int64(3)}))
    assert g.metadata == {"author": "me", "note": {"x": 3}}


def test_time_step_and_its_reason():
    def of(node, dt=None, **metadata):
        return time_step(from_nir(graph({"i": inp(2), "a": node, "o": out(2)}, **metadata)), dt)

    integrate = nir.IF(r=ones(2), v_threshold=ones(2))
    assert of(integrate)[0] == 1.0
    assert of(lif(2))[0] == 1e-4 and "assumed" in of(lif(2))[1]
    assert of(lif(2, tau=2.0))[0] == 1.0
    assert of(lif(2), dt=0.005)[0] == 0.005
    assert of(lif(2), dt=0.005, **{})[1].endswith("as given")
    assert time_step(from_nir(graph({"i": inp(2), "a": lif(2), "o": out(2)}, **{"dt": 0.002})))[0] == 0.002
    with pytest.raises(HardwareError, match="5e-05"):
        of(lif(2, tau=5e-5))
    with pytest.raises(HardwareError, match="expected seconds"):
        of(lif(2), dt=0.0)


def test_a_delay_is_a_time_constant():
    """A file whose only length of time is a delay counts in seconds, and in steps where that is a whole number."""

    def made(delay):
        nodes = {"i": inp(2), "d": nir.Delay(np.full(2, delay, np.float32)), "o": out(2)}
        return from_nir(graph(nodes))

    assert time_constants(made(0.003)) == [pytest.approx(0.003)]
    assert time_step(made(0.003))[0] == 1e-4 and time_step(made(2.0))[0] == 1.0
    with pytest.raises(HardwareError, match="shortest time constant is 5e-05 s"):
        time_step(made(5e-5))


# --- files from strangers ----------------------------------------------------------------------------------


def write(path: Path) -> Path:
    nir.write(path, graph({"i": inp(3), "a": nir.Linear(ones(3, 3)), "o": out(3)}))
    return path


def huge(file):
    file.create_dataset("node/nodes/a/weight", shape=(1 << 20, 1 << 20), chunks=(64, 64), dtype="f4")


def large_without_storage(file):
    file.create_dataset("node/nodes/a/weight", shape=(1 << 12, 1 << 12), chunks=(64, 64), dtype="f4")


def corner_of_a_large_one(file):
    data = file.create_dataset(
        "node/nodes/a/weight", shape=(1 << 14, 1 << 14), chunks=(64, 64), dtype="f4", compression="gzip"
    )
    data[:64, :64] = 1


def strings_for_weights(file):
    file["node/nodes/a/weight"] = "three"


def arrays_of_any_length(file):
    kind = h5py.vlen_dtype(np.float32)
    file.create_dataset("node/nodes/a/weight", shape=(3,), dtype=kind)


def references(file):
    file["node/nodes/a/weight"] = np.array([file["node"].ref] * 3, dtype=h5py.ref_dtype)


def complex_numbers(file):
    file["node/nodes/a/weight"] = np.ones((3, 3), complex)


def soft_link(file):
    file["node/nodes/a/weight"] = h5py.SoftLink("/node/nodes/a/weight")


def external_link(file):
    file["node/nodes/a/weight"] = h5py.ExternalLink("/etc/passwd", "/x")


def another_file(file):
    layout = h5py.VirtualLayout((3, 3), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "w", (3, 3))
    file.create_virtual_dataset("node/nodes/a/weight", layout)


def external_storage(file):
    file.create_dataset("node/nodes/a/weight", (3, 3), "f4", external=[("elsewhere.bin", 0, 36)])


def loop_of_groups(file):
    file["node/nodes/a/metadata"] = file["node/nodes"]
    file["node/nodes/a/weight"] = ones(3, 3)


def group_for_weights(file):
    file.create_group("node/nodes/a/weight/deep")


def missing(file):
    pass


def unknown_field(file):
    file["node/nodes/a/weight"] = ones(3, 3)
    file["node/nodes/a/wait"] = 3


def not_a_number(file):
    file["node/nodes/a/weight"] = bad(np.nan, 3, 3)


def no_edges(file):
    file["node/nodes/a/weight"] = ones(3, 3)
    del file["node/edges"]


def too_many_edges(file):
    file["node/nodes/a/weight"] = ones(3, 3)
    del file["node/edges"]
    file.create_dataset("node/edges", data=np.full((40_000, 2), "i", object), dtype=h5py.string_dtype())


def too_many_nodes(file):
    file["node/nodes/a/weight"] = ones(3, 3)
    for i in range(1100):
        file.create_group(f"node/nodes/n{i}")["type"] = "Input"


def no_node(file):
    del file["node"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (huge, ["'weight'", "declares 4,398,046,511,104 bytes"]),
        (large_without_storage, ["'weight'", "declares 67,108,864 bytes", "0 are stored"]),
        (corner_of_a_large_one, ["'weight'", "declares 1,073,741,824 bytes", "are stored"]),
        (strings_for_weights, ["'a'", "weight"]),
        (arrays_of_any_length, ["'weight'", "neither numbers nor strings"]),
        (references, ["'weight'", "neither numbers nor strings"]),
        (complex_numbers, ["'weight'", "neither numbers nor strings"]),
        (soft_link, ["'weight'", "SoftLink"]),
        (external_link, ["'weight'", "ExternalLink"]),
        (another_file, ["'weight'", "another file"]),
        (external_storage, ["'weight'", "another file"]),
        (loop_of_groups, ["twice"]),
        (group_for_weights, ["'weight'"]),
        (missing, ["'a' (Linear)", "weight is missing"]),
        (unknown_field, ["'a'", "'wait'"]),
        (not_a_number, ["'a'", "NaN"]),
        (no_edges, ["edges"]),
        (too_many_edges, ["edges", "strings"]),
        (too_many_nodes, ["more than 1024 nodes"]),
        (no_node, ["no group 'node'"]),
    ],
)
def test_hostile_files_are_refused(tmp_path, spoil, words, reader):
    path = write(tmp_path / "x.nir")
    with h5py.File(path, "r+") as file:
        del file["node/nodes/a/weight"]
        spoil(file)
    with pytest.raises(HardwareError) as error:
        read_graph(path, reader)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


@pytest.fixture(scope="module")
def reader():
    with Reader() as shared:
        yield shared


def test_what_is_no_hdf5_file(tmp_path, reader):
    (tmp_path / "text.nir").write_text("hello")
    (tmp_path / "empty.nir").touch()
    for name, words in (("text.nir", "not a .nir"), ("empty.nir", "empty"), ("none.nir", "cannot open")):
        with pytest.raises(HardwareError, match=words):
            read_graph(tmp_path / name, reader)
    with pytest.raises(HardwareError, match="not a file"):
        read_graph(tmp_path, reader)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.nir")
        with pytest.raises(HardwareError, match="not a file"):
            read_graph(tmp_path / "pipe.nir", reader)


def test_single_node_is_no_network(tmp_path, reader):
    nir.write(tmp_path / "x.nir", lif(3))
    with pytest.raises(HardwareError, match="'LIF', expected a NIRGraph"):
        read_graph(tmp_path / "x.nir", reader)


def test_reader_survives_a_child_that_dies(tmp_path):
    path = write(tmp_path / "x.nir")
    with Reader() as reader:
        assert read_graph(path, reader).output_shape["a"] == (3,)
        reader._child.kill()
        with pytest.raises(HardwareError, match="failed"):
            read_graph(path, reader)
        assert read_graph(path, reader).output_shape["a"] == (3,)


def test_reading_that_does_not_end_is_cut_off(tmp_path, monkeypatch):
    def never_answers():
        code = "import sys, time; sys.stdout.write('!'); sys.stdout.flush(); time.sleep(60)"
        return Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE)

    monkeypatch.setattr(guarded, "_start", never_answers)
    with Reader(seconds=0.2) as reader, pytest.raises(HardwareError, match=r"did not end in 0\.2 s"):
        read_graph(write(tmp_path / "x.nir"), reader)


def test_ten_million_synapses(tmp_path):
    weight = np.random.default_rng(0).normal(size=(2000, 5000)).astype(F4)
    source = graph({"i": inp(5000), "a": nir.Linear(weight), "o": out(2000)})
    nir.write(tmp_path / "x.nir", source, compression="lzf")
    np.testing.assert_array_equal(read_graph(tmp_path / "x.nir").nodes["a"].weight, weight)
