"""A home and packages that cannot be written to, no cache folder, no terminal; Windows' and macOS' paths without such a machine."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path, PureWindowsPath

import event_files
import numpy as np
import pytest

from dpap_neuro import files
from dpap_neuro.data import Binning, folder, open_dataset
from hardware.compiled import jit
from hardware.files import spare

ROOT = Path(__file__).parents[1]
# Numba finds no place beside the source nor in the home, as in a container with another user's packages.
NOWHERE = """
import pathlib
import hardware.compiled
hardware.compiled.own_places = lambda source: [pathlib.Path("/proc/none")]
"""
DOUBLE = """
from hardware.compiled import jit
def double(x):
    return 2 * x
def triple(x):
    return 3 * x
double, triple = jit("int64(int64)")(double), jit()(triple)
assert double(21) == 42 and triple(14) == 42
print(sum(double.stats.cache_hits.values()), double.stats.cache_path)
"""


def python(code: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG", "MPL"))}
    (folder / "code.py").write_text(code)  # numba keeps what comes from a file
    return subprocess.run(
        [sys.executable, str(folder / "code.py")],
        capture_output=True,
        text=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": str(ROOT), "HOME": "/proc/none", **more},
    )


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows' temporary folder is its user's own")
def test_compiled_code_goes_to_a_temporary_folder_of_ones_own(tmp_path):
    first = python(NOWHERE + DOUBLE, tmp_path, TMPDIR=str(tmp_path))
    again = python(NOWHERE + DOUBLE, tmp_path, TMPDIR=str(tmp_path))
    own = tmp_path / f"dpap-neuro-{os.getuid()}"
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert own.stat().st_mode & 0o077 == 0
    assert first.stdout.startswith(f"0 {own}") and again.stdout.startswith(f"1 {own}")
    for said in (first.stderr, again.stderr):
        assert (
            said.count("\n") == 1
            and said.startswith("note: ")
            and str(own) in said
            and "NUMBA_CACHE_DIR" in said
        )


def test_compiled_code_stays_in_memory_where_there_is_no_folder(tmp_path):
    done = python(NOWHERE + "import tempfile; tempfile.tempdir = '/proc/none'" + DOUBLE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.split() == ["0", "None"]
        and done.stderr.count("\n") == 1
        and "in memory alone" in done.stderr
    )


def test_the_cache_of_others_is_left_alone():
    from numba import config

    before = config.CACHE_DIR
    assert jit()(lambda x: x + 1)(1) == 2
    assert before == config.CACHE_DIR


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no such modes")
def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(spare.tempfile, "gettempdir", lambda: str(tmp_path))
    own = tmp_path / f"dpap-neuro-{os.getuid()}"
    find = spare.spare_folder.__wrapped__
    assert find() == own
    own.chmod(0o777)
    assert find() is None
    own.rmdir()
    (tmp_path / "elsewhere").mkdir()
    own.symlink_to(tmp_path / "elsewhere")
    assert find() is None
    own.unlink()
    monkeypatch.setattr(spare.os, "getuid", lambda: os.geteuid() + 1)
    (tmp_path / f"dpap-neuro-{os.geteuid() + 1}").mkdir(mode=0o700)
    assert find() is None


def test_a_home_that_cannot_be_written_to(tmp_path):
    """Rasters are kept elsewhere, matplotlib does not warn, and a raised hand says so, once."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom dpap_neuro.cli import _pictures_without_home\n_pictures_without_home()\n"
        "from dpap_neuro.cli.shared import cache_folder\n"
        "assert cache_folder(Path('mine')) == Path('mine')\nprint(cache_folder(None))\n"
        "try:\n    import matplotlib.font_manager\nexcept ImportError:\n    pass\n"
    )
    done = python(code, tmp_path, TMPDIR=str(tmp_path), COLUMNS="400")
    assert done.returncode == 0, done.stderr
    own = tmp_path / f"dpap-neuro-{os.getuid()}"
    assert done.stdout.strip() == str(own / "rasters")
    assert done.stderr.count("\n") == 1 and "--cache-dir" in done.stderr, done.stderr


# --- other systems' paths ----------------------------------------------------------------------------------


def made(root: Path, *names: str) -> None:
    for label, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        events = event_files.random_events(label, 40, 20, 12, 10_000)
        np.save(path, np.array(events))


def test_recordings_are_in_the_same_order_on_windows(tmp_path, monkeypatch):
    """Windows' paths compare without case, its names do not."""
    made(tmp_path, "a/B.npy", "a/a.npy", "B/x.npy")
    here = [path.name for path in folder._inside(tmp_path / "a")]

    class Windows(PureWindowsPath):
        def is_dir(self):
            return False

    monkeypatch.setattr(
        folder.Path,
        "iterdir",
        lambda self: iter([Windows("C:\\data\\a\\a.npy"), Windows("C:\\data\\a\\B.npy")]),
    )
    assert sorted([Windows("a.npy"), Windows("B.npy")])[0].name == "a.npy"
    assert [path.name for path in folder._inside(tmp_path / "a")] == here == ["B.npy", "a.npy"]


def test_what_file_managers_leave_is_passed_over(tmp_path):
    made(tmp_path, "a/0.npy", "b/0.npy")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.npy"):
        (tmp_path / "a" / name).write_bytes(b"junk")
    assert len(open_dataset(tmp_path, None, "all", (20, 12)).recordings) == 2


def test_accents_apart_from_their_letters_are_the_same_class(tmp_path):
    """As HFS+ of macOS gives names back."""
    apart = unicodedata.normalize("NFD", "bébé")
    assert apart != "bébé"
    made(tmp_path, f"train/{apart}/0.npy", "train/z/0.npy", f"train/{apart}/1.npy", "test/bébé/0.npy")
    (tmp_path / "dataset.toml").write_text('classes = ["z", "bébé"]\n', encoding="utf-8")
    found = open_dataset(tmp_path, None, "train", (20, 12))
    assert found.classes == ("z", "bébé") and sorted(found.recordings.labels) == [0, 1, 1]


def test_a_folder_where_the_system_has_no_locks(tmp_path, monkeypatch):
    """As on Windows: two may write there, and nothing fails."""
    monkeypatch.setattr(files, "fcntl", None)
    with files.locked(tmp_path / "run") as first, files.locked(tmp_path / "run") as second:
        assert first == second and first.is_dir()


def test_no_uid_no_temporary_folder(monkeypatch):
    monkeypatch.delattr(spare.os, "getuid", raising=False)
    assert spare.spare_folder.__wrapped__() is None


def test_what_the_cache_keeps_can_be_named_everywhere(tmp_path):
    """A folder's name may hold what Windows refuses."""
    made(tmp_path / "a:b?*", "a/0.npy", "b/0.npy")
    opened = open_dataset(tmp_path / "a:b?*", None, "all", (20, 12))
    opened.rasters(Binning(bins=2, downsample=4), None, tmp_path / "cache")
    found = list((tmp_path / "cache").iterdir())
    assert found and not [p for p in found if set(p.name) & set('<>:"|?*\\') or p.name.endswith((".", " "))]


KERNELS = {
    "hardware/inner.py": "from numba import njit\n@njit(inline='always')\ndef step(x):\n    return x + 1\n",
    "hardware/between.py": "from hardware.inner import step\n",
    "hardware/outer.py": "from hardware.between import (\n    step,\n)\nfrom hardware.compiled import jit\n"
    "@jit()\ndef two(x):\n    return step(step(x))\n",
}
RUN = "from hardware.outer import two\nprint(two(1), sum(two.stats.cache_hits.values()))\n"


@pytest.fixture
def copied(tmp_path):
    """A package of the same name with kernels that call each other over files, and nothing else of this one's."""
    for name in ("__init__.py", "compiled.py", "files/__init__.py", "files/spare.py"):
        (tmp_path / "hardware" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hardware" / name).write_bytes((ROOT / "hardware" / name).read_bytes())
    for name, text in KERNELS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("chosen", [False, True])
def test_code_of_a_file_that_another_calls_is_never_old(copied, chosen):
    more = {"NUMBA_CACHE_DIR": str(copied / "chosen")} if chosen else {}

    def run():
        done = python(RUN, copied, PYTHONPATH=str(copied), **more)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def kept():
        return sorted(path.name for path in copied.rglob("kernels-*"))

    assert run() == ["3", "0"] and run() == ["3", "1"]
    first = kept()
    inner = copied / "hardware/inner.py"
    inner.write_text(inner.read_text().replace("+ 1", "+ 2"))
    assert run() == ["5", "0"] and run() == ["5", "1"]
    assert len(first) == len(kept()) == 1 and first != kept()  # what is old goes
    assert ("chosen" in {path.parent.name for path in copied.rglob("kernels-*")}) == chosen


def test_a_link_to_the_package_has_the_same_compiled_code(copied):
    assert python(RUN, copied, PYTHONPATH=str(copied)).stdout.split() == ["3", "0"]
    (copied / "link").mkdir()
    (copied / "link/hardware").symlink_to(copied / "hardware", target_is_directory=True)
    (copied / "link/code.py").write_text(RUN)
    assert python(RUN, copied / "link", PYTHONPATH=str(copied / "link")).stdout.split() == ["3", "1"]


def test_threads_that_make_kernels_leave_the_cache_of_others_alone():
    from concurrent.futures import ThreadPoolExecutor

    from numba import config

    before = config.CACHE_DIR

    def make(number):
        return jit()(lambda x: x + number).stats.cache_path

    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(make, range(64)))
    assert len(paths) == 1 and before == config.CACHE_DIR
    assert paths.pop().count("kernels-") == 1


def test_a_kernel_that_is_of_no_file_is_compiled_too():
    made: dict = {}
    exec("def double(x):\n    return 2 * x\n", made)
    assert jit()(made["double"])(21) == 42
