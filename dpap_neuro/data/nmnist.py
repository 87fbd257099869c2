"""N-MNIST (Orchard et al. 2015, doi 10.3389/fnins.2015.00437) from a local folder, complete or partial.

The layout is that of `tonic.datasets.NMNIST`: DIR/NMNIST/Train/<digit>/<number>.bin and DIR/NMNIST/Test/...;
DIR may also be the NMNIST folder itself. tonic refuses a folder with fewer than 10,000 recordings, so the files are
found here and read by tonic's own reader.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tonic.io import read_mnist_file

from dpap_neuro.errors import InputError

SENSOR_SIZE = (34, 34, 2)
CLASSES = tuple(str(d) for d in range(10))
_DTYPE = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
_HELP = "to get it: python -c \"import tonic; tonic.datasets.NMNIST('DIR', train=True)\", then --data-dir DIR"


class NMNIST:
    """The recordings of `split` "train", "test" or "all" (whatever is there), sorted by digit and number.

    Items: (events as tonic's structured array with t in microseconds, digit).
    Raises InputError where the folder is missing or holds no recording, naming the path looked for.
    """

    def __init__(self, data_dir: str | Path | None, split: str = "train") -> None:
        if data_dir is None:
            raise InputError(
                f"nmnist: no folder given, expected --data-dir DIR with DIR/NMNIST/Train; {_HELP}"
            )
        root = Path(data_dir)
        if root.name != "NMNIST" or (root / "NMNIST").is_dir():
            root = root / "NMNIST"
        folders = {"train": ["Train"], "test": ["Test"], "all": ["Train", "Test"]}[split]
        self.files: list[Path] = []
        for folder in folders:
            self.files += sorted((root / folder).glob("[0-9]/*.bin"))
        if not self.files:
            looked = " and ".join(str(root / folder) for folder in folders)
            raise InputError(f"nmnist: found no recording (<digit>/<number>.bin) under {looked}; {_HELP}")
        self.labels = np.array([int(file.parent.name) for file in self.files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file = self.files[index]
        if file.stat().st_size % 5:
            raise InputError(f"{file}: found {file.stat().st_size} bytes, expected a multiple of 5 per event")
        return read_mnist_file(str(file), dtype=_DTYPE), int(self.labels[index])
