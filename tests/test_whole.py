"""Files whole or not at all: full disks, wrong places, modes."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from hardware.errors import HardwareError
from hardware.files import whole


def test_it_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    whole.write_bytes(path, b"one")
    whole.write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod", "fdopen"])
def test_a_failing_disk_keeps_what_was_there(step, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole.os, step, full)
    with pytest.raises(
        HardwareError, match=r"a\.txt: cannot be written \(No space left on device\)"
    ) as error:
        whole.write_bytes(path, b"new")
    monkeypatch.undo()
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_disk_that_fills_within_a_file(tmp_path):
    """The kernel's own refusal: a limit on the size of files."""
    code = (
        "import resource, signal, sys; from hardware.files import whole; from hardware.errors import HardwareError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "import numpy as np\n"
        "try: whole.write_hdf5(sys.argv[1], lambda file: file.create_dataset('x', data=np.arange(100_000)))\n"
        "except HardwareError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    path = tmp_path / "a.h5"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and done.stdout.startswith(f"{path}: cannot be written ("), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_writer_passes_through_and_leaves_nothing(tmp_path):
    def wrong(file):
        file.write(b"half")
        raise KeyError("x")

    with pytest.raises(KeyError):
        whole.write_stream(tmp_path / "a", wrong)
    assert list(tmp_path.iterdir()) == []


def test_hdf5_is_what_was_written(tmp_path):
    whole.write_hdf5(tmp_path / "a.h5", lambda file: file.create_dataset("x", data=[1, 2, 3]))
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["x"][:].tolist() == [1, 2, 3]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_umasks_mode(mask, tmp_path):
    before = os.umask(mask)
    try:
        whole.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_what_is_no_plain_file_is_refused_by_name(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        found = {"folder": "a folder", "pipe": "a pipe", "link": "a link", "socket": "a socket"}
        for name, kind in found.items():
            with pytest.raises(HardwareError, match=f"{name}: found {kind}, expected a new file"):
                whole.write_bytes(tmp_path / name, b"x")
    with pytest.raises(HardwareError, match="found a device"):
        whole.write_bytes("/dev/null", b"x")
    with pytest.raises(HardwareError, match="is no folder"):
        whole.write_bytes(tmp_path / "missing" / "a", b"x")
    with pytest.raises(HardwareError, match="cannot be written"):
        whole.write_bytes(tmp_path / "a\0b", b"x")
    assert (tmp_path / "target").read_text() == "kept"
