"""Counts of parameters and synapses against counting by hand, the JSON form, and the drawing."""

from __future__ import annotations

import itertools
import json
import sys

import nir
import numpy as np
import pytest
from graph_samples import SHARED, graph, inp, lif, mixed, out

from hardware.errors import HardwareError
from hardware.graph.graph import padding_of
from hardware.graph.parsing import from_nir, read_graph
from hardware.graph.summary import as_json, describe, draw, parameters, synapses


def count_by_hand(node, height, width, shape):
    """Every (output neuron, tap) whose tap lies inside the input: all, and those of weight not zero."""
    (top, _), (left, _) = padding_of(node)
    nonzero = stored = 0
    for _, row, column in itertools.product(*map(range, shape)):
        for a, b in itertools.product(*map(range, node.weight.shape[2:])):
            r = row * node.stride[0] + a * node.dilation[0] - top
            c = column * node.stride[1] + b * node.dilation[1] - left
            if 0 <= r < height and 0 <= c < width:
                stored += node.weight.shape[1]
                nonzero += np.count_nonzero(node.weight[_, :, a, b])
    return stored, nonzero


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1),
        ((4, 1, 5, 2), (2, 3), (4, 0), (1, 2), 2),
        ((2, 2, 4, 3), (1, 1), "same", (1, 3), 1),
        ((2, 2, 2, 2), (3, 1), (5, 7), (4, 1), 1),
    ],
)
def test_synapses_of_a_convolution(kernel, stride, padding, dilation, groups):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=kernel) * (rng.random(kernel) < 0.6)
    node = nir.Conv2d(None, weight, stride, padding, dilation, groups, np.zeros(kernel[0]))
    g = from_nir(graph({"i": inp(2, 8, 9), "c": node, "o": nir.Output({"output": None})}))
    summary = describe(g).nodes[1]
    stored, nonzero = count_by_hand(g.nodes["c"], 8, 9, g.output_shape["c"])
    assert (summary.synapses_stored, summary.synapses) == (stored, nonzero)
    assert (summary.parameters_stored, summary.parameters) == (weight.size, np.count_nonzero(weight))
    assert synapses(g) == nonzero and parameters(g) == np.count_nonzero(weight)


def test_conv1d_and_matrix():
    line = nir.Conv1d(None, np.ones((2, 1, 3)), 1, 1, 1, 1, np.zeros(2))
    matrix = np.array([[1.0, 0.0] * 5, [0.0] * 10])
    nodes = {
        "i": inp(1, 5),
        "c": line,
        "f": nir.Flatten({"input": None}, 0, -1),
        "a": nir.Affine(matrix, np.ones(2)),
        "lif": lif(2, tau=0.01),
        "o": out(2),
    }
    summary = describe(from_nir(graph(nodes)))
    by_name = {node.name: node for node in summary.nodes}
    # two outer positions lose one tap each
    assert by_name["c"].synapses == 2 * (5 * 3 - 2)
    assert (by_name["a"].synapses, by_name["a"].synapses_stored, by_name["a"].sparsity) == (5, 20, 0.75)
    assert by_name["lif"].time_constants == {"tau": (pytest.approx(0.01), pytest.approx(0.01))}
    assert by_name["lif"].sparsity is None and by_name["lif"].neurons == 2
    assert (summary.parameters, summary.parameters_stored) == (11, 26)
    assert summary.sparsity == pytest.approx(1 - 11 / 26)
    assert summary.neurons == 2


def test_counts_do_not_need_the_unrolled_network():
    # nearly 2 ** 24 positions: unrolling would take a gigabyte
    node = nir.Conv2d(None, np.ones((1, 1, 3, 3)), 1, 1, 1, 1, np.zeros(1))
    g = from_nir(graph({"i": inp(1, 4094, 4094), "c": node, "o": nir.Output({"output": None})}))
    side = 4094
    assert synapses(g) == (3 * side - 2) ** 2


def test_sinabs_network():
    path = SHARED / "nir" / "cnn_sinabs.nir"
    if not path.exists():
        pytest.skip("shared/data/nir is not there")
    g = read_graph(path)
    summary = describe(g)
    assert (
        parameters(g) == summary.parameters == 16 * 2 * 25 + 16 * 16 * 9 + 8 * 16 * 9 + 256 * 128 + 10 * 256
    )
    # 46 = 3 * 16 - 2 taps along an axis of 16, 22 along one of 8, 79 = 5 * 16 - 1 with stride 2 on 34
    assert synapses(g) == 32 * 79**2 + 256 * 46**2 + 128 * 22**2 + 256 * 128 + 10 * 256
    assert summary.neurons == 2 * 4096 + 512 + 256 + 10
    assert summary.dt == 1.0


def test_json_holds_everything():
    data = json.loads(json.dumps(as_json(describe(from_nir(mixed())))))
    assert data["dt"] == 1e-3 and data["metadata"]["kept_bins"] == [0, 2, 3]
    assert data["recurrent"] == [["sub.lif", "sub.w"]]
    assert sum(node["synapses"] for node in data["nodes"]) == data["synapses"]
    assert next(n for n in data["nodes"] if n["name"] == "conv")["output_shape"] == [4, 3, 3]


def test_json_has_no_nan():
    g = from_nir(graph({"i": inp(2), "lif": lif(2), "o": out(2)}, loss=np.nan, trace=np.array([1.0, np.inf])))
    assert as_json(describe(g))["metadata"] == {"loss": None, "trace": [1.0, None]}


def test_unknown_time_step_is_said_not_raised():
    summary = describe(from_nir(graph({"i": inp(2), "lif": lif(2, tau=1e-5), "o": out(2)})))
    assert summary.dt is None and "1e-05" in summary.dt_reason


def test_drawing(tmp_path):
    pytest.importorskip("nirviz")
    draw(from_nir(mixed()), tmp_path / "x.dot")
    text = (tmp_path / "x.dot").read_text()
    assert text.startswith("digraph") and "conv -> lif" in text and 'label="conv\nConv2d\n4x3x3"' in text
    with pytest.raises(HardwareError, match=r"\.svg"):
        draw(from_nir(mixed()), tmp_path / "x.gif")
    with pytest.raises(HardwareError, match="cannot be written"):
        draw(from_nir(mixed()), tmp_path / "none" / "x.dot")
    (tmp_path / "link.dot").symlink_to(tmp_path / "elsewhere.dot")
    with pytest.raises(HardwareError, match=r"link\.dot: found a link"):
        draw(from_nir(mixed()), tmp_path / "link.dot")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.dot", "x.dot"]


def test_drawn_names_move_no_cursor(tmp_path):
    pytest.importorskip("nirviz")
    nodes = {"i": inp(2), "\x1b[31mx": nir.Scale(np.ones(2)), "o": nir.Output({"output": None})}
    draw(from_nir(graph(nodes)), tmp_path / "x.dot")
    text = (tmp_path / "x.dot").read_text()
    assert "\x1b" not in text and "[31mx" in text


def test_drawing_without_nirviz_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nirviz", None)
    with pytest.raises(HardwareError, match="pip install nirviz"):
        draw(from_nir(mixed()), tmp_path / "x.svg")
