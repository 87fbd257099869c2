"""What to put together on one core so that none of its resources is left over while another is used up."""

from __future__ import annotations

import itertools

import numpy as np


def best_mix(
    fixed: np.ndarray, slope: np.ndarray, value: np.ndarray, left: np.ndarray
) -> list[tuple[int, float]]:
    """The one or two populations that are worth most on an empty core: [(population, neurons), ...], empty where none fits.

    A core with n neurons of population p spends the shares fixed[p] + n * slope[p] of its resources, (populations, resources);
    each neuron is worth value[p], and left[p] of them are to be had. Exact for that model: the best of two variables lies where
    two of the limits (resources, or none or all of a population) meet.
    """
    best: list[tuple[int, float]] = []
    worth = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where(slope > 0, (1 - fixed) / slope, np.inf).min(axis=1, initial=np.inf)
    alone = np.where((fixed > 1).any(axis=1), 0.0, np.minimum(alone, left))
    if len(alone) and (alone * value).max() > 0:
        p = int(np.argmax(alone * value))
        best, worth = [(p, float(alone[p]))], float(alone[p] * value[p])
    pairs = np.array(list(itertools.combinations(np.flatnonzero(left > 0), 2)), dtype=np.int64).reshape(-1, 2)
    room = 1 - fixed[pairs].sum(axis=1)
    pairs, room = pairs[(room >= 0).all(axis=1)], room[(room >= 0).all(axis=1)]
    if not len(pairs):
        return best
    # Rows a x <= b of every pair: its resources, and x between nothing and what is left.
    sides = np.array([[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
    a = np.concatenate([slope[pairs].transpose(0, 2, 1), np.broadcast_to(sides, (len(pairs), 4, 2))], axis=1)
    b = np.concatenate([room, np.zeros((len(pairs), 2)), left[pairs]], axis=1)
    one, other = np.array(list(itertools.combinations(range(a.shape[1]), 2))).T
    (a1, a2), (b1, b2) = (a[:, one], a[:, other]), (b[:, one], b[:, other])
    across = a1[..., 0] * a2[..., 1] - a1[..., 1] * a2[..., 0]
    first, second = b1 * a2[..., 1] - a1[..., 1] * b2, a1[..., 0] * b2 - b1 * a2[..., 0]
    x = np.stack([first, second], axis=-1) / np.where(across == 0, np.nan, across)[..., None]
    scale = np.maximum(1.0, np.abs(b))[:, None]
    inside = (np.einsum("kci,kri->kcr", x, a) <= b[:, None] + 1e-9 * scale).all(axis=2)
    gain = (np.where(inside[..., None], x, 0.0) * value[pairs][:, None]).sum(axis=2)
    k, corner = np.unravel_index(int(np.argmax(gain)), gain.shape)
    # Two where one does as well would only spread a population over more cores.
    if gain[k, corner] > worth * (1 + 1e-9):
        best = [(int(p), float(n)) for p, n in zip(pairs[k], x[k, corner], strict=True)]
    return best
