"""What reading a damaged archive raises, of a .zip or a .tar.gz file."""

from __future__ import annotations

import tarfile
import zipfile
import zlib

# zipfile: RuntimeError of a password, NotImplementedError of a version, KeyError of a name, ValueError and OSError of a place in the file.
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)
