"""Augmentation: what it does to rasters, and that it repeats."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("tonic")

import torch

from dpap_neuro.data.augmentation import augment, flipped, jittered, shifted, thinned
from dpap_neuro.errors import InputError
from dpap_neuro.train.loop import TrainSettings


def sample(n=200, steps=6, rows=8, columns=9, rate=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.poisson(rate, (n, steps, 2, rows, columns)).astype(np.uint8))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_off_draws_nothing_and_changes_nothing():
    generator = seeded()
    before = generator.get_state()
    x = sample(4)
    assert augment(x, generator) is x and torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("options", [{"shift": 2}, {"flip": True}, {"drop": 0.5}, {"jitter": 0.3}])
def test_a_seed_repeats_it_and_the_input_stays(options):
    x = sample(30)
    kept = x.clone()
    first = augment(x, seeded(3), **options)
    assert torch.equal(first, augment(x, seeded(3), **options)) and torch.equal(x, kept)
    assert first.dtype == torch.uint8 and first.shape == x.shape and not torch.equal(first, x)
    assert not torch.equal(first, augment(x, seeded(4), **options))


def test_every_shift_occurs_and_what_leaves_is_lost():
    x = sample(300)
    out = shifted(x, 1, seeded())
    seen = set()
    for before, after in zip(x.numpy(), out.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (0, 0), (1, 1), (1, 1)))
        fits = [
            (dy, dx)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if np.array_equal(padded[..., 1 + dy : 9 + dy, 1 + dx : 10 + dx], after)
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) == 9


def test_a_row_of_channels_is_shifted_along_itself_only():
    x = sample(100, rows=1, columns=40)
    out = shifted(x, 2, seeded())
    assert (out[..., 2:-2].sum((1, 2, 3, 4)) > 0).all() and not torch.equal(out, x)
    assert out.sum() > 0.9 * x.sum()


def test_half_of_the_recordings_are_mirrored():
    x = sample(400)
    out = flipped(x, seeded())
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all() and 160 < int(mirrored.sum()) < 240


def test_dropped_events_are_a_random_share_of_each_recording():
    x = sample(400, rate=2.0)
    out = thinned(x, 0.6, seeded())
    assert (out <= x).all()
    kept = out.sum((1, 2, 3, 4)) / x.sum((1, 2, 3, 4))
    # A share drawn from 0 to 0.6, and a binomial spread of about 0.01 on it.
    assert kept.min() < 0.45 and kept.max() > 0.95 and abs(float(kept.mean()) - 0.7) < 0.03
    assert abs(float(kept.std()) - 0.6 / 12**0.5) < 0.02


def test_jittered_events_move_by_one_step_and_none_is_lost():
    x = torch.zeros(400, 5, 1, 2, 2, dtype=torch.uint8)
    x[:, 2], x[:, 0, 0, 0, 0] = 50, 60
    out = jittered(x, 0.2, seeded())
    assert torch.equal(out.sum((1, 2, 3, 4)), x.sum((1, 2, 3, 4)))
    inside = out[:, :, 0, 1, 1].float().mean(0)
    assert inside[0] == inside[4] == 0
    assert inside[[1, 2, 3]].tolist() == pytest.approx([5, 40, 5], abs=0.4)
    # Nothing is before the first step: half of those that would leave it stay.
    assert float(out[:, 0, 0, 0, 0].float().mean()) == pytest.approx(54, abs=0.6)


def test_full_counts_stay_full():
    x = torch.full((3, 4, 1, 2, 2), 255, dtype=torch.uint8)
    assert int(jittered(x, 0.5, seeded()).min()) > 150


@pytest.mark.parametrize("values", [{"shift": -1}, {"drop": 1.0}, {"jitter": -0.1}, {"drop": float("nan")}])
def test_bad_settings(values):
    with pytest.raises(InputError, match=next(iter(values))):
        TrainSettings(**values)
