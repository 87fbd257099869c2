"""Cores grown along synapses, against the rule as it is written, neuron by neuron."""

from __future__ import annotations

import numpy as np
import pytest

from hardware.placement import packing


def grown(rows, columns, limits, costs, form):
    """Order and ends by `packing.grow`'s rule. rows: pre neurons of each post neuron; columns: post neurons of each pre neuron."""
    bits, axon, neuron = costs
    order, ends, left = [], [], set(range(len(rows)))
    synapses, came, reached, used, clock, visits = {}, {}, {}, np.zeros(3, np.int64), 0, 0

    def more(i):
        fresh = [j for j in rows[i] if j not in reached]
        grow = sum(
            packing.list_bits(reached[j] + 1, bits, form) - packing.list_bits(reached[j], bits, form)
            for j in rows[i]
            if j in reached
        )
        first = int(packing.list_bits(1, bits, form)) + axon
        return np.array([1, len(fresh), neuron + grow + len(fresh) * first])

    while left:
        known = [i for i in left if synapses.get(i, 0)]
        i = max(known, key=lambda n: (synapses[n], came[n])) if known else min(left)
        if used[0] and np.any(used + more(i) > limits):
            ends.append(len(order))
            synapses, came, reached, used = {}, {}, {}, np.zeros(3, np.int64)
        used = used + more(i)
        left.remove(i)
        order.append(i)
        for j in rows[i]:
            if j not in reached:
                visits += len(columns[j])
                for t in columns[j]:
                    clock += 1
                    synapses[t], came[t] = synapses.get(t, 0) + 1, clock
            reached[j] = reached.get(j, 0) + 1
    return order, [*ends, len(order)], visits


@pytest.mark.parametrize(
    ("post", "pre", "density", "limits"),
    [
        (60, 40, 0.1, (1000, 1000, 10**6)),
        (60, 40, 0.1, (7, 1000, 10**6)),
        (90, 50, 0.05, (1000, 12, 10**6)),
        (90, 50, 0.05, (1000, 1000, 900)),
        (700, 30, 0.6, (40, 29, 10**6)),  # more neighbours than a block
        (300, 200, 0.01, (25, 60, 4000)),  # some hear nothing, parts are apart
    ],
)
def test_each_core_takes_the_neuron_that_shares_most(post, pre, density, limits):
    rng = np.random.default_rng(post)
    hears = rng.random((post, pre)) < density
    rows, columns = [np.flatnonzero(r) for r in hears], [np.flatnonzero(c) for c in hears.T]
    costs, form = np.array([9, 16, 24]), np.array([64, 60, 4, 1], dtype=np.int64)
    expected = grown(rows, columns, np.array(limits), costs.tolist(), form)

    def listed(parts):
        return np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64), np.concatenate(
            parts
        ).astype(np.int32)

    order, ends, visits = packing.grow(*listed(rows), *listed(columns), np.array(limits), costs, form, 1e18)
    assert (order.tolist(), ends.tolist(), visits) == expected
    assert len(ends) > 1 or limits == (1000, 1000, 10**6)
    unfinished = packing.grow(*listed(rows), *listed(columns), np.array(limits), costs, form, visits / 2)
    assert visits / 2 < unfinished[2] <= visits
