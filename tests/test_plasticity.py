"""DPAP's equations against the slow reference, on random spikes and values."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracle_dpap as oracle  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dpap_neuro.pruning import plasticity  # noqa: E402

seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=40, deadline=None)


def spikes(seed, steps, batch, channels, space):
    rng = np.random.default_rng(seed)
    return (rng.random((steps, batch, channels, *space)) < 0.4).astype(np.float64)


@few
@given(
    seeds,
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([(), (3,), (2, 3)]),
    st.floats(0, 0.95),
)
def test_activity_is_the_looped_trace_summed_over_space(seed, steps, batch, channels, space, delta):
    s = spikes(seed, steps, batch, channels, space)
    x = torch.tensor(s)
    weights = plasticity.decay_weights(steps, delta, like=x)
    np.testing.assert_allclose(plasticity.trace(x, weights), oracle.trace(s, delta), rtol=1e-9)
    np.testing.assert_allclose(plasticity.activity(x, weights), oracle.activity(s, delta), rtol=1e-9)
    q = x[0].clone()
    for now in x[1:]:
        q = plasticity.trace_step(q, now, delta)
    np.testing.assert_allclose(q, oracle.trace(s, delta), rtol=1e-9)


def test_trace_by_hand():
    s = torch.tensor([[1.0], [0.0], [1.0]])
    weights = plasticity.decay_weights(3)
    assert weights.tolist() == [0.25, 0.5, 1.0]
    assert plasticity.trace(s, weights).item() == 1.25
    assert plasticity.activity(s.reshape(3, 1, 1), weights).item() == pytest.approx(1.25 / 3)
    assert plasticity.delayed(s).tolist() == [[0.0], [1.0], [0.0]]


def test_activations_are_averaged_over_frames():
    values = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]])
    assert plasticity.activity_of_activations(values).item() == 6.0


@few
@given(
    seeds,
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3]),
)
def test_bcm_and_spines_over_several_batches(seed, batch, post, pre, batches, groups):
    rng = np.random.default_rng(seed)
    post, pre = post * groups, pre * groups
    reference = oracle.Layer(post, pre, groups)
    m = torch.zeros(post, pre // groups, dtype=torch.float64)
    total, seen = torch.zeros(post, dtype=torch.float64), 0
    for _ in range(batches):
        x, y = rng.random((batch, post)), rng.random((batch, pre))
        reference.batch(x, y)
        theta = plasticity.sliding_threshold(total, seen)
        assert plasticity.add_bcm(m, torch.tensor(x), theta, torch.tensor(y), groups) is m
        total += torch.tensor(x).sum(0)
        seen += batch
    np.testing.assert_allclose(m, reference.m, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(plasticity.spine_size(m, total), reference.spines(), rtol=1e-6, atol=1e-9)


@few
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.floats(1, 100))
def test_percentile_and_gain(values, q):
    z = torch.tensor(values, dtype=torch.float64)
    assert plasticity.percentile(z, q).item() == pytest.approx(np.percentile(values, q), abs=1e-6)
    expected = oracle.gain(values, 1.5, 2.0, q)
    found = plasticity.survival_gain(z, 1.5, 2.0, q)
    spread = max(values) - min(values)
    for g, e in zip(found.tolist(), expected, strict=True):
        # The step by `growth` at zero gain may fall on either side of a rounding error.
        assert g == pytest.approx(e, abs=1e-6) or (spread > 0 and abs(abs(g - e) - 2.0) < 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_order_statistics_are_those_of_sorting(dtype):
    values = (10 * torch.rand(5, 8, generator=torch.Generator().manual_seed(0))).round().to(dtype)
    found = torch.cat([plasticity.order_statistics(values, k, 39 - k) for k in range(40)]).reshape(40, 2)
    expected = values.flatten().sort().values
    assert found.dtype == dtype and torch.equal(found, torch.stack([expected, expected.flip(0)], 1))


def test_time_bins_share_a_layers_spikes_by_spines():
    counts = torch.tensor([[1.0, 4.0], [2.0, 0.0], [0.0, 0.0]])
    assert plasticity.bin_share(counts, torch.tensor([0.5, 0.25])).tolist() == pytest.approx([0.6, 0.4, 0])
    assert plasticity.bin_share(torch.zeros(3, 2), torch.ones(2)).tolist() == [0.0, 0.0, 0.0]


def test_min_max_of_equal_values_is_a_half():
    assert plasticity.min_max(torch.full((3,), 7.0)).tolist() == [0.5, 0.5, 0.5]
    assert plasticity.unit_interval(torch.full((3,), 7.0)).tolist() == [0.5, 0.5, 0.5]
    assert plasticity.min_max(torch.tensor([1.0, 3.0, 2.0])).tolist() == [0.0, 1.0, 0.5]


def test_unit_interval_clips_above_the_percentile():
    z = torch.arange(5.0)
    # 75th percentile of 0..4 is 3.
    assert plasticity.unit_interval(z).tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize("epoch, expected", [(5, 1.0), (16, 1.0), (17, math.exp(-1)), (29, math.exp(-2))])
def test_settling_drops_every_tau_epochs(epoch, expected):
    assert plasticity.settling(epoch, 5, 12.0) == pytest.approx(expected)
