from __future__ import annotations

import numpy as np
import oracle_network as oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from network_samples import networks, raster

from hardware.simulator import simulate

EXAMPLES = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def everything(network):
    return [p.name for p in network.populations]


@EXAMPLES
@given(st.data(), networks(), st.sampled_from(["zero_delay", "chip"]), st.sampled_from([None, 1, 4, 7]))
def test_every_value_is_the_oracles(data, network, timing, interval):
    x = raster(data.draw, network, 2, 12)
    offset = data.draw(st.integers(0, 3))
    run = simulate(
        network, x, timing, everything(network), threads=2, reset_interval=interval, reset_offset=offset
    )
    for b in range(len(x)):
        expected, events = oracle.run(network, {"in": x[b]}, timing, interval, offset)
        for name, variables in expected.items():
            for key, found in (("spikes", run.spikes), ("u", run.u), ("v", run.v)):
                np.testing.assert_array_equal(
                    found[name][b].reshape(len(x[b]), -1), variables[key], name + key
                )
            np.testing.assert_array_equal(run.event_counts[name][b], events[name])
            np.testing.assert_array_equal(run.spike_counts[name][b], variables["spikes"].sum(axis=1))
            if name in run.counts:
                np.testing.assert_array_equal(run.counts[name][b].ravel(), variables["spikes"].sum(axis=0))
