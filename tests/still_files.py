"""Small still images in the formats of MNIST and CIFAR-10, written byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

SIZES = {"train": 20, "test": 10}


def images(n: int, channels: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in ten classes, each with bright rows of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 10
    x = rng.integers(0, 60, (n, channels, size, size), dtype=np.uint8)
    for picture, label in zip(x, labels, strict=True):
        picture[:, 2 * label : 2 * label + 3] += 190
    return x, labels


def idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        + values.astype(np.uint8).tobytes()
    )


def write_idx(
    folder: Path, gzipped: bool = True, mark: str = "-"
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (part, begin) in enumerate((("train", "train"), ("test", "t10k"))):
        x, labels = written[part] = images(SIZES[part], 1, 28, seed)
        for what, values in ((f"images{mark}idx3-ubyte", x[:, 0]), (f"labels{mark}idx1-ubyte", labels)):
            raw = idx(values)
            path = folder / f"{begin}-{what}{'.gz' if gzipped else ''}"
            path.write_bytes(gzip.compress(raw) if gzipped else raw)
    return written


def write_cifar(root: Path, each: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (part, names) in enumerate(
        (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"]))
    ):
        x, labels = written[part] = images(each * len(names), 3, 32, seed)
        for number, name in enumerate(names):
            rows = range(number * each, (number + 1) * each)
            (folder / f"{name}.bin").write_bytes(b"".join(bytes([labels[i]]) + x[i].tobytes() for i in rows))
    return written


def write(name: str, root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if name == "cifar10":
        return write_cifar(root)
    return write_idx(root / {"mnist": "MNIST", "fashionmnist": "FashionMNIST"}[name] / "raw")
