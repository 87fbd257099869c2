"""What a network takes of a budget, and what would have to shrink: sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware.chip.chips import load_chip
from hardware.errors import HardwareError
from hardware.network.integer import DenseProjection, InputPopulation, Network, Population
from hardware.placement.budget import Budget, fill, percent

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")


def network(neurons=100, inputs=10):
    weight = np.full((neurons, inputs), 2)
    return Network(
        (InputPopulation("in", (inputs,)),),
        (Population("n", (neurons,)),),
        (DenseProjection("in", "n", weight),),
        ("n",),
    )


def test_what_fits_has_nothing_in_excess():
    found = fill(network(), Budget(LOIHI1, max_cores=1, max_synapses=1000, max_synapses_per_core=1000))
    assert found.fits and found.excess() == {} and found.explain() == ""
    assert found.shares["synapses"] == found.shares["synapses_per_core"] == found.shares["cores"] == 1.0
    assert found.shares["neurons_per_core"] == 100 / 1024
    assert found.fullest() == ("synapses", 1.0)
    assert found.to_dict()["budget"] == {"max_cores": 1, "max_synapses": 1000, "max_synapses_per_core": 1000}


def test_too_many_neurons():
    found = fill(network(100), Budget(replace(LOIHI1, neurons_per_core=30), max_cores=2))
    assert not found.fits and found.placement.cores == 4
    assert found.excess() == {"neurons": pytest.approx(100 / 60)}
    assert found.explain() == "2 cores hold 60 neurons, the network has 100 (40 over, 166.7%)"
    assert str(found.broken[0]) == "network: cores 4 > 2 (2 over)"


def test_too_many_synapses():
    found = fill(network(), Budget(LOIHI1, max_synapses=400, max_synapses_per_core=200))
    assert [broken.limit for broken in found.broken] == ["synapses", "synapses_per_core"]
    assert found.excess() == {"synapses": pytest.approx(5.0)}
    # The cores themselves suffice.
    assert found.explain() == ""


def test_memory_goes_with_its_larger_part():
    synapses = fill(network(), Budget(replace(LOIHI1, memory_bits_per_core=4096), max_cores=1))
    used = int(synapses.placement.memory_bits_per_core.sum())
    assert used > 4096 and synapses.excess() == {"synapses": pytest.approx(used / 4096)}
    # 64 bits a neuron, and few of synapses and axons.
    state = fill(network(1000, 1), Budget(replace(LOIHI2, memory_bits_per_core=50_000), max_cores=1))
    used = int(state.placement.memory_bits_per_core.sum())
    assert 64_000 < used < 90_000
    assert state.excess() == {"neurons": pytest.approx(64_000 / (64_000 - (used - 50_000)))}
    assert "bits of memory" in state.explain()


def test_where_no_sum_exceeds_the_budget_a_little_goes():
    """Three neurons of ten axons of one word each: two do not go into 1,000 bits, all three into 2,000."""
    weight = np.kron(np.eye(3, dtype=np.int64), np.full((1, 10), 2))
    apart = Network(
        (InputPopulation("in", (30,)),),
        (Population("n", (3,)),),
        (DenseProjection("in", "n", weight),),
        ("n",),
    )
    found = fill(apart, Budget(replace(LOIHI1, memory_bits_per_core=1000), max_cores=2))
    assert found.placement.cores == 3 and found.shares["memory_bits_per_core"] == pytest.approx(0.96)
    assert found.excess() == {"synapses": 1.02}
    assert found.explain().endswith("1,920 (96.0%), but no way to cut it into so few cores was found")


@pytest.mark.parametrize("key", ["max_cores", "max_synapses", "max_synapses_per_core"])
def test_limits_below_one_are_refused(key):
    with pytest.raises(HardwareError, match=f"{key} is 0"):
        Budget(LOIHI1, **{key: 0})


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.5, "50.0%"),
        (1.0, "100.0%"),
        (4105 / 4096, "100.2%"),
        (1.00001, "100.001%"),
        (0.9999, "99.99%"),
        (2.5, "250.0%"),
    ],
)
def test_what_is_over_never_reads_as_all(share, text):
    assert percent(share) == text
