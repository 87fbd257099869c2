"""Still images from their original files, to be shown as spikes, see `coding`. Nothing in a file is executed: no pickle.

- mnist: LeCun et al. 1998, doi 10.1109/5.726791; fashionmnist: Xiao et al. 2017, arXiv 1708.07747: idx files, gzipped or not
- cifar10: Krizhevsky 2009, its binary version: a byte of label, then 1,024 bytes each of red, green and blue, by rows
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from dpap_neuro.data.binning import Binning, check_values
from dpap_neuro.data.coding import averaged, coded, parse_code
from dpap_neuro.errors import InputError, NoRecordings

SensorSize = tuple[int, int, int]
# There is no time in them: what a presentation counts as, of ten steps of a millisecond.
DURATION_US = 10_000
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Pixels of all images of a file.
_MOST = 1 << 31

Images = tuple[np.ndarray, np.ndarray, list[Path]]


@dataclass(frozen=True)
class Source:
    """Where images lie. name: what messages call them. folders: in DIR, the first that is there. read(folder, part): images
    (n, channels, rows, columns), uint8, labels (n,) and their files, of "train" or "test"; None where there are none."""

    name: str
    folders: tuple[str, ...]
    read: Callable[[Path, str], Images | None]


class Stills:
    """The images of `split` "train", "test" or "all". Items: (image (channels, rows, columns) uint8, label).

    Raises InputError where no folder is given and for a damaged file, NoRecordings where there is none.
    """

    stills = True

    def __init__(self, source: Source, data_dir: str | Path | None, split: str) -> None:
        how = f"to get it: dpap-neuro data get {source.name} --data-dir DIR"
        if data_dir is None:
            raise InputError(f"{source.name}: no folder given, expected --data-dir DIR; {how}")
        root = Path(data_dir)
        folders = [root / folder for folder in source.folders]
        parts = ("train", "test") if split == "all" else (split,)
        found: list[tuple[int, Images]] = []
        for part in parts:
            images = next((i for folder in folders if (i := source.read(folder, part)) is not None), None)
            if images is not None:
                found.append((("train", "test").index(part), images))
        if not found:
            looked = " or ".join(dict.fromkeys(map(str, folders)))
            raise NoRecordings(f"{source.name}: found no {split} images in {looked}; {how}")
        self.images = np.concatenate([images for _, (images, _, _) in found])
        self.labels = np.concatenate([labels for _, (_, labels, _) in found])
        self.sources = [file for _, (_, _, files) in found for file in files]
        # Which part an image is of, and its number there: the seed of its spikes, whatever it is opened with.
        self.keys = [(part, index) for part, (images, _, _) in found for index in range(len(images))]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    def counts(self, index: int, binning: Binning) -> np.ndarray:
        """Counts (steps, channels, rows, columns), uint8, of one image. Raises InputError for steps of microseconds."""
        if binning.bins is None:
            raise InputError(f"bin_us: found {binning.bin_us:g}, but still images have no time; give --bins")
        image = averaged(self.images[index], binning.downsample)
        check_values(binning.bins * math.prod(image.shape), f"{binning.bins:,} steps of an image")
        return coded(image, binning.bins, parse_code(binning.code or "constant"), self.keys[index])


# --- idx ----------------------------------------------------------------------------------------------------


def _idx(folder: Path, part: str) -> Images | None:
    begin = {"train": "train", "test": "t10k"}[part]
    images, labels = (
        _either(folder, f"{begin}-{what}") for what in ("images{}idx3-ubyte", "labels{}idx1-ubyte")
    )
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        missing, there = ("images", labels) if images is None else ("labels", images)
        raise InputError(
            f"{there}: found no file of its {missing} beside it, expected {begin}-{missing}-idx...-ubyte (or .gz)"
        )
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if x.shape[1:] != (28, 28):
        raise InputError(f"{images}: found images of {x.shape[1]}x{x.shape[2]}, expected 28x28")
    if len(x) != len(y):
        raise InputError(
            f"{labels}: found {len(y):,} labels, expected {len(x):,}, as many as images in {images.name}"
        )
    return x[:, None], _labels(y, labels), [images, labels]


def _either(folder: Path, name: str) -> Path | None:
    """With a dash as the makers name it, or with a dot, as unpacking has left it at some; gzipped or not."""
    wanted = (folder / (name.format(mark) + end) for mark in "-." for end in ("", ".gz"))
    return next((path for path in wanted if path.is_file()), None)


def read_idx(file: Path, axes: int) -> np.ndarray:
    """Bytes of an idx file, gzipped or not: 0, 0, 8 for bytes, the number of axes, each one's length (32 bits, big-endian), values.

    Raises InputError, naming the file; never takes more memory than its header says, and that no more than 2 GiB.
    """
    try:
        with cast(IO[bytes], gzip.open(file) if file.suffix == ".gz" else open(file, "rb")) as source:
            head = source.read(4 + 4 * axes)
            if head[:4] != bytes([0, 0, 8, axes]):
                raise InputError(
                    f"{file}: found the beginning {head[:4].hex(' ') or 'of nothing'}, expected 00 00 08 {axes:02x}, an idx file of bytes with {axes} axes"
                )
            shape = np.frombuffer(head[4:].ljust(4 * axes, b"\0"), ">u4").tolist()
            size = math.prod(shape)
            if not 0 < size <= _MOST:
                raise InputError(
                    f"{file}: its header says {'x'.join(map(str, shape))} values, expected 1 to {_MOST:,}"
                )
            raw = source.read(size + 1)
    except InputError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from None
    if len(raw) != size:
        found = f"{len(raw):,}" if len(raw) < size else "more"
        raise InputError(f"{file}: found {found} values, its header says {size:,}")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _labels(found: np.ndarray, file: Path) -> np.ndarray:
    if found.max(initial=0) > 9:
        raise InputError(f"{file}: found label {found.max()}, expected 0 to 9")
    return found.astype(np.int64)


# --- CIFAR --------------------------------------------------------------------------------------------------

_CIFAR_BATCHES = {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}
_CIFAR_BYTES = 1 + 3 * 32 * 32


def _cifar(folder: Path, part: str) -> Images | None:
    files = [folder / name for name in _CIFAR_BATCHES[part]]
    missing = [file for file in files if not file.is_file()]
    if len(missing) == len(files):
        pickled = [folder / Path(name).stem for name in _CIFAR_BATCHES[part]]
        pickled += [folder.parent / "cifar-10-batches-py" / path.name for path in pickled]
        if found := [path for path in pickled if path.is_file()]:
            raise InputError(
                f"{found[0]}: is the version for Python, whose files execute code when they are read; expected the binary version, "
                f"{files[0].name} (dpap-neuro data get cifar10)"
            )
        return None
    if missing:
        raise InputError(f"{missing[0]}: not found, expected all of {', '.join(_CIFAR_BATCHES[part])}")
    rows = []
    for file in files:
        try:
            raw = np.fromfile(file, np.uint8)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
        if not len(raw) or len(raw) % _CIFAR_BYTES:
            raise InputError(
                f"{file}: found {len(raw):,} bytes, expected a multiple of {_CIFAR_BYTES:,} (a label and 3x32x32 pixels)"
            )
        _labels(raw[::_CIFAR_BYTES], file)
        rows.append(raw.reshape(-1, _CIFAR_BYTES))
    table = np.concatenate(rows)
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].astype(np.int64), files


MNIST = Source("mnist", ("MNIST/raw", "MNIST", "raw", ""), _idx)
FASHION_MNIST = Source("fashionmnist", ("FashionMNIST/raw", "FashionMNIST", "raw", ""), _idx)
CIFAR10 = Source("cifar10", ("cifar-10-batches-bin", ""), _cifar)
GREY, COLOUR = (28, 28, 1), (32, 32, 3)
