"""A few N-MNIST recordings at 1 ms, as the NIR paper's network takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1].parent / "shared" / "data" / "nmnist" / "NMNIST" / "Train"


def recordings(count, steps=310):
    """(count, steps, 2, 34, 34) event counts, and labels, spread over the digits."""
    files = sorted(FOLDER.rglob("*.bin"))
    files = files[:: max(1, len(files) // count)][:count]
    raster = np.zeros((len(files), steps, 2, 34, 34), np.uint8)
    for sample, file in zip(raster, files, strict=True):
        # x, y, polarity bit and 23 bits of microseconds
        x, y, high, middle, low = np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, 5).astype(int).T
        t = ((high & 127) << 16 | middle << 8 | low) // 1000
        kept = t < steps
        np.add.at(sample, (t[kept], high[kept] >> 7, y[kept], x[kept]), 1)
    return raster, np.array([int(file.parent.name) for file in files])
