"""The order of many values, against plain sorting."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch

from dpap_neuro.pruning.order import ascending, least, most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_the_smallest_and_the_largest_are_those_of_sorting(dtype, size):
    torch.manual_seed(size)
    values = torch.randn(size).to(dtype)
    values[torch.rand(size) < 0.3] = math.inf
    values[torch.rand(size) < 0.1] = -math.inf
    right = sorted(values.tolist())
    assert ascending(values).tolist() == right
    for number in {0, 1, size // 2, size - 1, size}:
        low, high = least(values, number), most(values, number)
        assert low.dtype == high.dtype == torch.int64
        assert len(set(low.tolist())) == len(set(high.tolist())) == number
        assert sorted(values[low].tolist()) == right[:number]
        assert sorted(values[high].tolist()) == right[size - number :]
