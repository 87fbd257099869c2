"""What goes together on a core, against linear programs of every pair of populations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from hardware.placement.mixing import best_mix


def worth_of_best_pair(fixed, slope, value, left):
    """The slow way: a linear program for each one and each two, whatever they have fixed taken off first."""
    best = 0.0
    for chosen in itertools.chain(
        itertools.combinations(range(len(left)), 1), itertools.combinations(range(len(left)), 2)
    ):
        rows = list(chosen)
        room = 1 - fixed[rows].sum(axis=0)
        if (room < 0).any():
            continue
        found = linprog(-value[rows], A_ub=slope[rows].T, b_ub=room, bounds=[(0, left[p]) for p in rows])
        assert found.status == 0
        best = max(best, -found.fun)
    return best


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_the_best_mix_is_that_of_linear_programs(seed, populations, resources):
    rng = np.random.default_rng(seed)
    slope = rng.choice([0.0, 0.001, 0.01, 0.1], (populations, resources)) * rng.random(
        (populations, resources)
    )
    slope += 1e-5 * rng.random((populations, 1))
    fixed = rng.choice([0.0, 0.0, 0.3, 1.2], (populations, resources)) * rng.random((populations, resources))
    value = rng.random(populations)
    left = rng.integers(0, 2000, populations).astype(float)
    mix = best_mix(fixed, slope, value, left)
    number = np.zeros(populations)
    for p, n in mix:
        number[p] = n
    assert len(mix) == len({p for p, _ in mix}) <= 2
    used = fixed[[p for p, _ in mix]].sum(axis=0) + number @ slope
    assert np.all(used <= 1 + 1e-6) and np.all(number <= left + 1e-6) and np.all(number >= -1e-6)
    wanted = worth_of_best_pair(fixed, slope, value, left)
    assert number @ value == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_a_heavy_and_a_light_population_fill_a_core_together():
    # 100 neurons of the first fill memory and hardly take neurons, 1,000 of the second the other way round.
    slope = np.array([[0.0001, 0.01], [0.001, 0.0001]])
    mix = dict(best_mix(np.zeros((2, 2)), slope, np.array([0.01, 0.001]), np.array([1e4, 1e4])))
    used = mix[0] * slope[0] + mix[1] * slope[1]
    assert used == pytest.approx([1.0, 1.0])


def test_nothing_fits():
    assert best_mix(np.full((2, 1), 1.5), np.ones((2, 1)), np.ones(2), np.ones(2)) == []
    assert best_mix(np.zeros((2, 1)), np.ones((2, 1)), np.ones(2), np.zeros(2)) == []
