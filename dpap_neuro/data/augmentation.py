"""Recordings changed at random while training. All on rasters (B, T, C, H, W) uint8 of the CPU, none in place.

Slices and copies: gathering all recordings of a batch by one index took ten times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor


def augment(
    x: Tensor,
    generator: torch.Generator,
    *,
    shift: int = 0,
    flip: bool = False,
    drop: float = 0.0,
    jitter: float = 0.0,
) -> Tensor:
    """`flipped`, `thinned`, `jittered` and `shifted`, as far as asked for; what is off draws no random number."""
    if flip:
        x = flipped(x, generator)
    if drop:
        x = thinned(x, drop, generator)
    if jitter:
        x = jittered(x, jitter, generator)
    return shifted(x, shift, generator) if shift else x


def shifted(x: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each recording moved by up to `shift` pixels, along axes of more than one; what leaves is lost."""
    moves = torch.randint(-shift, shift + 1, (len(x), 2), generator=generator)
    rows, columns = x.shape[-2:]
    moves *= torch.tensor([rows > 1, columns > 1])
    padded = torch.nn.functional.pad(x, (shift, shift, shift, shift))
    return torch.stack(
        [
            sample[..., shift + dy : shift + dy + rows, shift + dx : shift + dx + columns]
            for sample, (dy, dx) in zip(padded, moves.tolist(), strict=True)
        ]
    )


def flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each recording mirrored left to right with probability 1/2."""
    chosen = torch.rand(len(x), generator=generator) < 0.5
    out = x.clone()
    out[chosen] = x[chosen].flip(-1)
    return out


def thinned(x: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Each recording without a share of its events, itself drawn from 0 to `drop`; which events is random.

    As the random drop of EventDrop (Gu et al. 2021, doi 10.24963/ijcai.2021/97).
    """
    kept = 1.0 - drop * torch.rand(len(x), generator=generator)
    counts = x.flatten()
    where = counts.nonzero().squeeze(1)
    out = torch.zeros_like(counts)
    recording = where // x[0].numel()
    out[where] = torch.binomial(counts[where].float(), kept[recording], generator=generator).to(x.dtype)
    return out.view_as(x)


def jittered(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each event moved one step earlier or later with probability `share`; at the ends it stays in the recording."""
    flat = x.flatten()
    where = flat.nonzero().squeeze(1)
    counts = flat[where].float()
    moved = torch.binomial(counts, torch.full_like(counts, share), generator=generator)
    later = torch.binomial(moved, torch.full_like(moved, 0.5), generator=generator)
    out = flat.to(torch.int16)
    out[where] -= moved.to(out.dtype)
    steps, step = x.shape[1], x[0, 0].numel()
    now = where // step % steps
    for number, by in ((later, 1), (moved - later, -1)):
        to = where + ((now + by).clamp(0, steps - 1) - now) * step
        out.index_add_(0, to, number.to(out.dtype))
    return out.clamp(max=255).to(x.dtype).view_as(x)
