"""Lava itself, the oracle written from the text and our simulator: the same integers, every one of them."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from network_samples import networks
from oracle_chip import simulate as oracle

from hardware import lava
from hardware.errors import HardwareError
from hardware.network import ConvProjection, DenseProjection, InputPopulation, Network, Population

needs_lava = pytest.mark.skipif(
    not lava.available(), reason="lava-nc 0.10.0 is not installed in this Python (it needs 3.10)"
)
many = settings(
    max_examples=int(os.environ.get("LAVA_EXAMPLES", "300")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def differences(expected, found):
    return [
        f"{name}.{variable}: {np.count_nonzero(values != found[name][variable])} of {values.size}"
        for name, variables in expected.items()
        for variable, values in variables.items()
        if not np.array_equal(values, found[name][variable])
    ]


@needs_lava
@many
@given(case=networks())
def test_lava_and_oracle(case):
    network, raster = case
    found = {n: {k: a[0] for k, a in v.items()} for n, v in lava.record(network, raster).items()}
    assert differences(oracle(network, raster[0]), found) == []
