"""Networks of a few tens of neurons: no core too many, and none refused that fits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import oracle_placement as oracle
import placement_networks as nets
import pytest
import small_networks
from oracle_exact import fewest_cores

from hardware.chip.chips import load_chip
from hardware.files.network_file import load
from hardware.placement import place

CASES = Path(__file__).parents[2] / "shared" / "cases"


@pytest.mark.parametrize("seed", [0, 6, 17, 21])
def test_no_core_more_than_an_exact_solver(seed):
    pytest.importorskip("ortools", reason="OR-tools is not installed (extra `test`)")
    network, chip = small_networks.random_sparse(seed)
    placement = place(network, chip)
    oracle.check(network, placement)
    assert placement.fits
    exact, proven = fewest_cores(network, chip, placement.lower_bound, placement.cores)
    assert proven and placement.cores == exact


@pytest.mark.skipif(not CASES.is_dir(), reason="the project's shared cases are not here")
def test_a_network_short_of_axons_is_not_refused():
    network = load(CASES / "place_seed3.h5")
    placement = place(network, CASES / "place_seed3.toml")
    oracle.check(network, placement)
    assert placement.fits and placement.cores == 9


def test_a_larger_network_takes_many_cores_rather_than_being_refused():
    network = nets.local(2500, 20, 2.0, seed=1)
    chip = replace(load_chip("loihi1"), memory_bits_per_core=2**15, cores=math.inf)
    free = place(network, chip, "greedy", effort=0)
    tight = replace(chip, axons_out_per_core=130)
    placement = place(network, tight, "greedy", effort=0)
    oracle.check(network, placement)
    assert placement.fits and placement.cores > 1.05 * free.cores
