"""What an integer network may not be: every check names the thing and what was expected."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hardware.errors import HardwareError
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
    conv_output_shape,
    weight_grid,
)


def even(*shape):
    return np.full(shape, 2)


def sparse(indptr=(0, 1, 2), post=(0, 1), weight=(2, 4), **more):
    return SparseProjection("in", "p", np.array(indptr), np.array(post), np.array(weight), **more)


def network(projection, source=(2,), target=(2,), **more):
    given = {"populations": (Population("p", target),), "outputs": ("p",), **more}
    return Network((InputPopulation("in", source),), projections=(projection,), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Population("p", ()), "population 'p': shape is ()"),
        (
            lambda: Population("p", (1 << 12, 1 << 13)),
            "shape is (4096, 8192), expected at most 16,777,216 neurons",
        ),
        (lambda: InputPopulation("in", (1 << 62, 8)), "expected at most 16,777,216 neurons"),
        (lambda: Population("p", (3, 0)), "shape is (3, 0), expected one positive integer per axis"),
        (lambda: InputPopulation("i", [3]), "input 'i': shape is [3]"),
        (lambda: Population("p", (3,), du=4096), "population 'p': du is 4096, expected 0 to 4095"),
        (lambda: Population("p", (3,), du=-1), "du is -1"),
        (lambda: Population("p", (3,), dv=4097), "dv is 4097, expected 0 to 4096"),
        (lambda: Population("p", (3,), dv=np.array([0, 5000, 1])), "dv is 5000"),
        (lambda: Population("p", (3,), dv=0.5), "dv is 0.5, expected integers from 0 to 4096"),
        (lambda: Population("p", (3,), vth=2**17), "vth is 131072, expected 0 to 131071"),
        (
            lambda: Population("p", (3,), vth=np.zeros(2, int)),
            "vth has shape (2,), expected one value or (3,)",
        ),
        (lambda: Population("p", (3,), bias_mant=4096), "bias_mant is 4096, expected -4096 to 4095"),
        (lambda: Population("p", (3,), bias_exp=8), "bias_exp is 8, expected 0 to 7"),
        (lambda: Population("p", (3,), reset="soft"), "reset is 'soft', expected 'zero' or 'subtract'"),
        (lambda: Population("p", (3,), reset=np.zeros(2)), "expected 'zero' or 'subtract'"),
        (lambda: DenseProjection("a", "b", even(2, 2, 2)), "projection 'a' -> 'b': its weights are no array"),
        (lambda: DenseProjection("a", "b", np.ones((2, 2))), "no array of integers with 2 axes"),
        (lambda: DenseProjection("a", "b", [[2]]), "no array of integers"),
        (lambda: DenseProjection("a", "b", np.array([[2, 3]])), "a weight is 3, expected multiples of 2"),
        (lambda: DenseProjection("a", "b", np.array([[256]])), "a mixed weight is 256, expected -256 to 254"),
        (
            lambda: DenseProjection("a", "b", np.array([[-1]]), sign_mode="excitatory"),
            "a excitatory weight is -1, expected 0 to 255",
        ),
        (
            lambda: DenseProjection("a", "b", np.array([[-256]]), sign_mode="inhibitory"),
            "expected -255 to 0",
        ),
        (lambda: DenseProjection("a", "b", np.array([[16]]), weight_bits=4), "expected multiples of 32"),
        (lambda: DenseProjection("a", "b", np.array([[-2]], np.int8), weight_bits=1), "multiples of 256"),
        (lambda: DenseProjection("a", "b", even(1, 1), sign_mode="both"), "sign mode is 'both'"),
        (lambda: DenseProjection("a", "b", even(1, 1), weight_bits=9), "weight_bits is 9, expected 1 to 8"),
        (lambda: DenseProjection("a", "b", even(1, 1), weight_exp=8), "weight_exp is 8, expected -8 to 7"),
        (lambda: DenseProjection("a", "b", even(1, 1), delay=64), "delay is 64, expected 0 to 63"),
        (lambda: DenseProjection("a", "b", even(1, 2), delay=np.array([1, 2])), "delay has shape (2,)"),
        (lambda: sparse(indptr=(0, 1, 3)), "2 weights, 2 targets and indptr from [0] to [3]"),
        (lambda: sparse(indptr=(0, 3, 2)), "indptr decreases"),
        (lambda: sparse(post=(0,)), "2 weights, 1 targets"),
        (lambda: sparse(post=(0.0, 1.0)), "post is no one-dimensional array of integers"),
        (lambda: ConvProjection("a", "b", even(1, 1, 3, 3), stride=(0, 1)), "stride is 0, expected 1 to"),
        (lambda: ConvProjection("a", "b", even(1, 1, 3, 3), padding=1), "padding is 1, expected a pair"),
        (
            lambda: ConvProjection("a", "b", even(3, 1, 3, 3), groups=2),
            "3 output channels, expected a multiple",
        ),
    ],
)
def test_a_part_out_of_range(make, message):
    with pytest.raises(HardwareError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(DenseProjection("in", "p", even(3, 2))), "weight has shape (3, 2), expected (2, 2)"),
        (lambda: network(sparse(), source=(5,)), "indptr has 3 entries, expected 6"),
        (lambda: network(sparse(post=(0, 7))), "a target is 7, expected 0 to 1"),
        (lambda: network(sparse(post=(0, -1))), "a target is -1"),
        (lambda: network(ConvProjection("in", "p", even(1, 1, 1, 1))), "expected (channels, height, width)"),
        (
            lambda: network(ConvProjection("in", "p", even(2, 1, 3, 3)), (1, 5, 5), (2, 4, 3)),
            "makes (1, ...) -> (2, 3, 3) of (1, 5, 5), expected (2, 4, 3)",
        ),
        (
            lambda: network(ConvProjection("in", "p", even(2, 2, 3, 3)), (1, 5, 5), (2, 3, 3)),
            "kernel (2, 2, 3, 3) in 1 groups",
        ),
        (lambda: network(DenseProjection("x", "p", even(2, 2))), "no population is named 'x'"),
        (lambda: network(DenseProjection("p", "in", even(2, 2))), "leads to an input"),
        (lambda: network(sparse(), outputs=("in",)), "output 'in' is no population"),
        (
            lambda: network(sparse(), populations=(Population("p", (2,)), Population("p", (2,)))),
            "two populations are named 'p'",
        ),
        (lambda: network(sparse(), populations=(Population("in", (2,)),)), "two populations are named 'in'"),
    ],
)
def test_parts_that_do_not_fit(make, message):
    with pytest.raises(HardwareError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_everything_at_its_limits_is_let_in():
    Population(
        "p", (2, 2), 4095, 4096, np.full((2, 2), 2**17 - 1), np.array([-4096, 4095, 0, 0]), 7, spiking=False
    )
    for mode, low, high in (("mixed", -256, 254), ("excitatory", 0, 255), ("inhibitory", -255, 0)):
        DenseProjection("in", "p", np.array([[low, high]]), 7, mode, 8, np.array([[0, 63]]))
    network(sparse(post=(1, 1), weight_exp=-8, delay=63))
    network(ConvProjection("in", "p", even(4, 1, 3, 2), (2, 1), (1, 0), (1, 2), 2), (2, 5, 6), (4, 3, 4))


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_grid_is_what_lavas_truncation_leaves(bits):
    for mode in ("mixed", "excitatory", "inhibitory"):
        low, high, step = weight_grid(mode, bits)
        cut = 8 - bits + (mode == "mixed")
        # lava.utils.weightutils: clip to 8 bits, then shift right and left again; inhibitory on its magnitude
        whole = np.arange(-256 if mode == "mixed" else 0, 256)
        left = np.unique(whole >> cut << cut)
        left = np.sort(-left) if mode == "inhibitory" else left
        np.testing.assert_array_equal(left, np.arange(low, high + 1, step))


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Population("p", (1,)).vth = 3


def test_shape_of_a_convolution():
    projection = ConvProjection("a", "b", even(4, 3, 3, 2), (2, 1), (1, 0), (1, 2))
    assert conv_output_shape(projection, (3, 8, 7)) == (4, 4, 5)
