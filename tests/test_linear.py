"""Folding: the folded map is the product of its parts, on any input."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, out
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from hardware.compile.linear import (
    Convolution,
    Diagonal,
    Matrix,
    apply,
    compose,
    of_node,
    scaled_rows,
    symmetric,
    to_matrix,
)
from hardware.graph.parsing import from_nir
from hardware.network.integer import ConvProjection, conv_output_shape
from hardware.simulate.reference import simulate

EXAMPLES = settings(max_examples=150, deadline=None)


def pair(draw, low, high):
    return draw(st.integers(low, high)), draw(st.integers(low, high))


def draw_node(draw, rng, shape, kinds):
    """A stateless node that takes this shape; whole numbers, so that nothing is rounded."""
    kind = draw(st.sampled_from(kinds if len(shape) == 3 else ["scale", "affine"]))
    if kind == "scale":
        factor = rng.integers(-2, 3, shape)
        if draw(st.booleans()):
            factor = np.broadcast_to(rng.integers(-2, 3, (shape[0],) + (1,) * (len(shape) - 1)), shape)
        return nir.Scale(factor.astype(float))
    if kind == "affine":
        return nir.Linear(rng.integers(-3, 4, (draw(st.integers(1, 4)), shape[0])).astype(float))
    if kind == "flatten":
        return nir.Flatten({"input": np.array(shape)}, 0, -1)
    size, stride, padding = pair(draw, 1, 3), pair(draw, 1, 3), pair(draw, 0, 2)
    dilation = pair(draw, 1, 2) if kind == "conv" else (1, 1)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True))
    if any(r > n + 2 * p for r, n, p in zip(reach, shape[1:], padding, strict=True)):
        size, padding, dilation = (1, 1), (0, 0), (1, 1)
    if kind == "sum":
        return nir.SumPool2d(np.array(size), np.array(stride), np.array(padding))
    if kind == "same":
        size, stride, padding = pair(draw, 1, 4), (1, 1), "same"
    groups = draw(st.sampled_from([1, shape[0]]))
    weight = rng.integers(-3, 4, (groups * draw(st.integers(1, 2)), shape[0] // groups, *size)).astype(float)
    return nir.Conv2d(None, weight, stride, padding, dilation, groups, np.zeros(len(weight)))


@EXAMPLES
@given(st.data(), st.integers(1, 4))
def test_a_chain_folds_to_its_product(data, length):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = (data.draw(st.integers(1, 3)), *pair(data.draw, 3, 8))
    nodes = {"in": inp(*shape)}
    at = shape
    for k in range(length):
        node = draw_node(data.draw, rng, at, ["conv", "conv", "sum", "sum", "same", "scale", "flatten"])
        nodes[f"n{k}"] = node
        at = shape_after(nodes)
    checked = from_nir(graph({**nodes, "out": out(*at)}))
    folded = None
    for k in reversed(range(length)):
        name = f"n{k}"
        map_ = of_node(checked.nodes[name], checked.input_shape[name], checked.output_shape[name])
        folded = compose(folded, map_)
    x = rng.integers(0, 3, (1, 1, *shape))
    expected = simulate(checked, x).output.reshape(-1)
    np.testing.assert_array_equal(apply(folded, x.reshape(-1).astype(float)), expected)
    if folded is not None:
        np.testing.assert_array_equal(to_matrix(folded) @ x.reshape(-1), expected)
    if isinstance(folded, Convolution):
        fitting = symmetric(folded)
        if fitting is not None:
            np.testing.assert_array_equal(to_matrix(fitting) @ x.reshape(-1), expected)
            weight = np.zeros(fitting.weight.shape, int)
            projection = ConvProjection(
                "a", "b", weight, fitting.stride, fitting.padding, fitting.dilation, fitting.groups
            )
            assert conv_output_shape(projection, fitting.source) == fitting.target


def shape_after(nodes):
    shape = from_nir(graph({**nodes, "last": nir.Output({"output": None})})).output_shape["last"]
    return tuple(int(n) for n in shape)


def pooled(kind, shape, window, stride, padding=0):
    node = kind(np.array([window] * 2), np.array([stride] * 2), np.array([padding] * 2))
    size = tuple((n + 2 * padding - window) // stride + 1 for n in shape[1:])
    return of_node(node, shape, (shape[0], *size))


def convolution(weight, shape, padding=0, stride=1):
    size = tuple((n + 2 * padding - weight.shape[2]) // stride + 1 for n in shape[1:])
    return Convolution(weight, (stride,) * 2, (padding,) * 2, (1, 1), 1, shape, (weight.shape[0], *size))


def test_pooling_before_a_convolution_stays_a_convolution():
    weight = np.arange(1, 2 * 3 * 9 + 1.0).reshape(2, 3, 3, 3)
    pool = pooled(nir.AvgPool2d, (3, 8, 8), 2, 2)
    folded = compose(convolution(weight, (3, 4, 4), padding=1), pool)
    assert isinstance(folded, Convolution)
    assert folded.weight.shape == (2, 3, 6, 6) and folded.stride == (2, 2) and folded.padding == (2, 2)
    np.testing.assert_array_equal(folded.weight, np.kron(weight, np.ones((2, 2))) / 4)


@pytest.mark.parametrize(("size", "window", "stride"), [(7, 2, 2), (8, 3, 2)])
def test_padding_that_would_see_the_input_is_not_folded(size, window, stride):
    # A last row that no window reaches, or windows that overlap: as one convolution the padding would see input.
    pool = pooled(nir.SumPool2d, (1, size, size), window, stride)
    after = convolution(np.ones((1, 1, 3, 3)), pool.target, padding=1)
    folded = compose(after, pool)
    assert isinstance(folded, Matrix) and sparse.issparse(folded.matrix)
    unpadded = compose(convolution(np.ones((1, 1, 2, 2)), pool.target), pool)
    assert isinstance(unpadded, Convolution)


def test_zeros_stay_zeros():
    weight = np.zeros((2, 2, 3, 3))
    weight[0, 1, 2, 0] = 5.0
    pool = pooled(nir.SumPool2d, (2, 8, 8), 2, 2)
    folded = compose(convolution(weight, (2, 4, 4), padding=1), pool)
    assert np.count_nonzero(folded.weight) == 4
    matrix = to_matrix(folded)
    assert matrix.nnz == np.count_nonzero(matrix.toarray())
    assert to_matrix(Diagonal(np.array([0.0, 1.0, 0.0]))).nnz == 1


def test_factors_within_a_channel_unroll_a_convolution():
    map_ = convolution(np.ones((2, 1, 2, 2)), (1, 3, 3))
    alike = np.repeat([2.0, 3.0], 4)
    assert isinstance(scaled_rows(map_, alike), Convolution)
    different = np.arange(1.0, 9.0)
    scaled = scaled_rows(map_, different)
    assert isinstance(scaled, Matrix)
    x = np.arange(9.0)
    np.testing.assert_array_equal(apply(scaled, x), apply(map_, x) * different)
