"""Batches of rasters for training, read by torch's own loader: from memory, or from a file that is larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dpap_neuro.data.stored import Rasters


class _Rows(Dataset[Tensor]):
    """A whole batch at a time: what torch collates of single recordings it would copy once more."""

    def __init__(self, rasters: Rasters) -> None:
        self.rasters = torch.as_tensor(rasters) if isinstance(rasters, np.ndarray) else rasters

    def __len__(self) -> int:
        return len(self.rasters)

    def __getitem__(self, index: int) -> Tensor:
        return torch.as_tensor(self.rasters[index])

    def __getitems__(self, numbers: Sequence[int]) -> Tensor:
        return torch.as_tensor(self.rasters[np.asarray(numbers)])


class Batches:
    """Reads batches of `rasters` (n, ...) in `workers` processes, two batches ahead each; in this one where 0.

    What is read is the same whoever reads it: augmentation comes after, in this process, with its generator.
    """

    def __init__(self, rasters: Rasters, workers: int = 0) -> None:
        self._order: list[list[int]] = []
        options: dict[str, Any] = {"persistent_workers": True} if workers else {}
        self._loader = DataLoader(
            _Rows(rasters),
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=_same,
            # Of its own: the loader draws a number for its processes, and nothing else is to see that.
            generator=torch.Generator(),
            **options,
        )

    def in_turn(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers (B,) and counts (B, ...) of each batch of `order`."""
        self._order[:] = [numbers.tolist() for numbers in order]
        yield from zip(order, self._loader, strict=True)


def _same(batch: Any) -> Any:
    return batch
