"""Nothing is lost, nothing hangs, nothing is silently wrong: short runs of tests/robustness, and a disk that is full at every write."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")
pytest.importorskip("tonic")

sys.path.append(str(Path(__file__).parent / "robustness"))

import event_files as files
import fuzz

from dpap_neuro.cli import main
from dpap_neuro.errors import InputError
from dpap_neuro.files import locked, read_json, read_numpy, read_sealed, write_sealed
from dpap_neuro.train import runs, sweeps

HERE = Path(__file__).parent


def test_damaged_files_are_right_or_refused(tmp_path):
    tallies = fuzz.fuzz(tmp_path, 900, seed=1_000_000, seconds=15)
    wrong = [text for tally in tallies.values() for text in tally.wrong]
    assert wrong == [], fuzz.table(tallies)
    assert len(tallies) > 25 and all(tally.inputs for tally in tallies.values())
    assert tallies["cache"].right == tallies["cache"].inputs
    for name in ("run.json", "weights.safetensors", "checkpoint.json", "checkpoint's training", "runs.json"):
        # Damage to blanks alone is none.
        assert tallies[name].refused >= 0.9 * tallies[name].inputs, name


def test_killed_three_times_and_resumed_bit_for_bit():
    code = [sys.executable, str(HERE / "robustness" / "kills.py"), "--kills", "3", "--command", "train"]
    done = subprocess.run(
        code, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name, kills, *_, wrong = done.stdout.splitlines()[-1].split()
    assert (name, kills, wrong) == ("train", "3", "0")


# --- a disk that is full -----------------------------------------------------------------------------------


class Disk:
    """Counts writes; the one of number `full_at` finds the disk full."""

    def __init__(self, monkeypatch):
        self.writes, self.full_at = 0, 0
        self._fsync = os.fsync
        monkeypatch.setattr("hardware.files.whole.os.fsync", self._write)

    def _write(self, handle):
        self.writes += 1
        if self.writes == self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(handle)


def started(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["dpap-neuro", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main()
        raise SystemExit(0)
    return int(stopped.value.code or 0), capsys.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split in ("Train", "Test"):
        for label in range(2):
            for number in range(8 if split == "Train" else 3):
                seed = label + 2 * number + 100 * (split == "Test")
                events = files.random_events(seed, 60 + 60 * label, 34, 34, 100_000)
                files.write_atis(root / f"NMNIST/{split}/{label}/{number:05}.bin", events)
    return root


def training(data, out, *more):
    return ("train", "--dataset", "nmnist", "--data-dir", data, "--out", out, "--model", "mlp", "--epochs", 2, "--batch", 8,
            "--bins", 5, "--downsample", 4, "--pruner", "none", "--threshold", 0.2, "--cache-dir", data / "cache", "--device", "cpu", *more)  # fmt: skip


def weights(folder: Path) -> tuple:
    record = json.loads((folder / "run.json").read_text())
    return record["sha256"]["weights.safetensors"], [epoch["loss"] for epoch in record["history"]]


def test_a_disk_full_at_every_write_of_a_training(data, tmp_path, monkeypatch, capsys):
    assert started(monkeypatch, capsys, *training(data, tmp_path / "whole", "--resume"))[0] == 0
    expected, at = weights(tmp_path / "whole"), 0
    while True:
        at += 1
        out = tmp_path / str(at)
        disk = Disk(monkeypatch)
        disk.full_at = at
        code, said = started(monkeypatch, capsys, *training(data, out, "--resume"))
        monkeypatch.undo()
        if disk.writes < at:
            break
        assert code == 2 and said.splitlines()[-1].endswith("cannot be written (No space left on device)"), (
            said
        )
        assert not [p for p in out.rglob("*") if p.name.endswith(".part")]
        if (out / "run.json").exists():
            runs.load_run(out)
        assert started(monkeypatch, capsys, *training(data, out, "--resume"))[0] == 0
        assert weights(out) == expected
    # 3 of each epoch, the weights, the record, the graph, config.toml, history.csv and training.png.
    assert at == 3 * 2 + 6 + 1 and code == 0


def test_a_full_disk_keeps_what_was_there(data, tmp_path, monkeypatch, capsys):
    """Over an older run: it stays, or the new one is there; over older files of export, compile and sweep likewise."""
    run = tmp_path / "run"
    assert started(monkeypatch, capsys, *training(data, run, "--seed", 1))[0] == 0
    old, commands = contents(run), [training(data, run, "--force")]
    for at in (1, 2, 3):
        disk = Disk(monkeypatch)
        disk.full_at = at
        code, said = started(monkeypatch, capsys, *commands[0])
        monkeypatch.undo()
        assert code == 2 and "No space left on device" in said and disk.writes == at
        found = contents(run)
        assert found.keys() == old.keys()
        # The last is made again from the others.
        assert found == old if at < 3 else found["model.nir"] == old["model.nir"]
        runs.load_run(run)
    assert started(monkeypatch, capsys, *commands[0])[0] == 0
    for name, command in {
        "a.nir": ("export", run, "--out"),
        "a.h5": ("compile", run / "model.nir", "--chip", "loihi1", "--out"),
        "a.net": ("compile", run / "model.nir", "--chip", "loihi1", "--out"),
    }.items():
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"old")
        disk = Disk(monkeypatch)
        disk.full_at = 1
        code, said = started(monkeypatch, capsys, *command, tmp_path / "out" / name)
        monkeypatch.undo()
        assert code == 2 and "No space left on device" in said, (command, said)
        assert contents(tmp_path / "out")[name] == b"old"
        assert not list((tmp_path / "out").glob("*.part")) + list((tmp_path / "out").glob(".*.part"))


def test_a_disk_full_at_every_write_of_a_sweep(data, tmp_path, monkeypatch, capsys):
    def command(out):
        return ("sweep", "--dataset", "nmnist", "--data-dir", data, "--out", out, "--model", "mlp", "--epochs", 1, "--batch", 8, "--readout", "membrane",
                "--bins", 5, "--downsample", 4, "--pruner", "none", "--seeds", 2, "--cache-dir", data / "cache")  # fmt: skip

    def results(out):
        return [(r.seed, r.correct, r.accuracy, r.remaining) for r in sweeps.read_table(out / "runs.csv")]

    assert started(monkeypatch, capsys, *command(tmp_path / "whole"))[0] == 0
    for at in range(1, 6):  # runs.json, runs.csv twice, summary.csv, sweep.png
        out = tmp_path / str(at)
        disk = Disk(monkeypatch)
        disk.full_at = at
        code, said = started(monkeypatch, capsys, *command(out))
        monkeypatch.undo()
        assert code == 2 and "No space left on device" in said and disk.writes == at
        kept = results(out) if at > 2 else []
        assert len(kept) == min(2, max(0, at - 2)) and not list(out.glob(".*.part"))
        assert started(monkeypatch, capsys, *command(out))[0] == 0
        assert results(out)[: len(kept)] == kept and results(out) == results(tmp_path / "whole")
        assert (out / "sweep.png").exists()


# --- two at once -------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_by_name(data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("fcntl", reason="no such locks on this system")
    code = (
        "import sys, time; from dpap_neuro.files import locked\n"
        "with locked(sys.argv[1]): print('held', flush=True); sys.stdin.read()\n"
    )
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        status, said = started(monkeypatch, capsys, *training(data, out))
        said = said.splitlines()[-1]
        assert status == 2 and said.startswith(f"error: {out}: in use by "), said
        if Path("/proc/locks").exists():
            assert f"process {other.pid};" in said or "another process" in said
        assert list(out.iterdir()) == []
    finally:
        # However it ends, its lock ends with it.
        other.kill()
        other.communicate()
    assert started(monkeypatch, capsys, *training(data, out))[0] == 0
    runs.load_run(out)


def test_a_folder_that_was_made_and_stays_empty_is_removed(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a") as folder:
        assert folder.is_dir()
        raise KeyError
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a"):
        (tmp_path / "a" / "kept").write_text("x")
    with locked(tmp_path / "a"):
        pass
    assert (tmp_path / "a" / "kept").exists()


# --- single kinds of damage --------------------------------------------------------------------------------


def test_arrays_are_bounded_by_their_file(tmp_path, monkeypatch):
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }"
    (tmp_path / "huge.npy").write_bytes(header.ljust(127) + b"\n" + b"123")
    with pytest.raises(InputError, match=r"huge\.npy: declares shape \(1099511627776,\)"):
        read_numpy(tmp_path / "huge.npy")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.npy", bytes(3 << 20))
    monkeypatch.setattr("dpap_neuro.files._MOST_UNPACKED", 1 << 20)
    with pytest.raises(
        InputError, match=r"bomb\.npz: has .* bytes and declares 3,145,728, expected at most 1,048,576"
    ):
        read_numpy(tmp_path / "bomb.npz")
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY", b"PK\x05\x06" + bytes(3), b"\x80\x04."):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy: not an \.npz or \.npy file of numbers") as error:
            read_numpy(tmp_path / "a.npy")
        assert "\n" not in str(error.value)
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InputError, match="is no plain file"):
        read_numpy(tmp_path / "pipe.npy")


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">i8", "?", [("x", "<i2"), ("t", "<i8")]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(dtype, order, tmp_path):
    values = np.zeros((3, 4, 2), dtype, order=order)
    if not values.dtype.names:
        values[...] = np.arange(24).reshape(3, 4, 2) % 2
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", values, empty=np.zeros((0, 3)), one=np.float64(7))
    assert np.array_equal(read_numpy(tmp_path / "a.npy"), values)
    found = read_numpy(tmp_path / "a.npz")
    assert found.keys() == {"arr_0", "empty", "one"} and np.array_equal(found["arr_0"], values)
    assert found["empty"].shape == (0, 3) and found["one"].shape == () and found["one"] == 7


def test_json_that_is_none(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b'{"a":' * 50_000):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.json: not JSON") as error:
            read_json(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no plain file"):
        read_json(tmp_path / "pipe")


def test_every_flipped_bit_of_a_record_is_found(tmp_path):
    path = tmp_path / "a.json"
    values = {"a": [1, 2.5, None, True], "b": {"c": "text", "d": 1e-7}}
    write_sealed(path, values)
    assert read_sealed(path, "a record") == values
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert read_sealed(path, "a record") == values
        except InputError as error:
            assert "\n" not in str(error)


def test_a_table_that_changed_is_refused(tmp_path):
    rows = [
        sweeps.Row("dpap", 0.8, "parameters", n, 2, 10, 8, 6, 0.75, 100, 20, 300, 60, 5, 1.5) for n in (0, 1)
    ]
    path = tmp_path / "runs.csv"
    sweeps.write_table(rows, path)
    text = path.read_text()
    assert sweeps.read_table(path) == rows
    for before, after, says in (
        ("0.75", "0.76", "line 2 is damaged"),
        (",8,6,", ",8,5,", "line 2 is damaged"),
        ("dpap", "dpbp", "line 2 is damaged"),
        ("accuracy", "accuracx", "not a table of a sweep"),
        (",100,", ',"100,', "not a table of a sweep"),
        ("0.75", "nan", "line 2 is damaged"),
    ):
        path.write_text(text.replace(before, after, 1))
        with pytest.raises(InputError, match=says):
            sweeps.read_table(path)
    path.write_text(text + text.splitlines(keepends=True)[1])
    with pytest.raises(InputError, match=r"line 4 repeats dpap 0\.8 seed 0"):
        sweeps.read_table(path)
