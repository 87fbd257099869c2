"""Rasters on disk: the same as in memory, never stale, whole or not there, no code."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import event_files as files
import numpy as np
import pytest

pytest.importorskip("tonic")

from dpap_neuro.data import Binning, local, open_both, open_dataset
from dpap_neuro.data.binning import rasters
from dpap_neuro.data.cache import cached_rasters
from dpap_neuro.errors import InputError

TEN = Binning(bins=10, clip=4)


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        events = files.random_events(number, 50, 34, 34, 100_000 + 40_000 * number)
        files.write_atis(tmp_path / f"data/NMNIST/Train/{number % 2}/{number:05}.bin", events)
    return tmp_path


def read(folder, binning=TEN):
    return open_dataset("nmnist", folder / "data").rasters(binning, None, folder / "cache")


def entries(folder):
    return sorted(os.listdir(folder / "cache"))


@pytest.mark.parametrize("binning", [TEN, Binning(bin_us=10_000), Binning(bins=3, downsample=5)])
def test_the_same_as_in_memory(folder, binning):
    expected = open_dataset("nmnist", folder / "data").rasters(binning)
    for _ in range(2):
        found = read(folder, binning)
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
    assert isinstance(found, np.memmap) and len(entries(folder)) == 1


def test_a_second_time_no_recording_is_read(folder, monkeypatch):
    expected = np.array(read(folder))
    monkeypatch.setattr(local.LocalRecordings, "__getitem__", lambda *_: pytest.fail("read again"))
    assert np.array_equal(read(folder), expected)


def test_what_matters_makes_another_entry(folder):
    opened = open_dataset("nmnist", folder / "data")
    read(folder)
    first = opened.recordings.sources[0]

    def newer():
        os.utime(first, ns=(1, first.stat().st_mtime_ns + 1))

    def longer():
        state = first.stat()
        first.write_bytes(first.read_bytes() + bytes(5))
        os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))

    def moved():
        first.rename(first.parents[1] / "5" / first.name)

    (first.parents[1] / "5").mkdir()
    for count, change in enumerate((newer, longer, moved), 2):
        change()
        current = open_dataset("nmnist", folder / "data")
        assert np.array_equal(read(folder), current.rasters(TEN))
        assert len(entries(folder)) == count
    for count, other in enumerate(
        (replace(TEN, bins=9), replace(TEN, clip=3), replace(TEN, clip=None), replace(TEN, downsample=2)), 5
    ):
        assert np.array_equal(read(folder, other), current.rasters(other))
        assert len(entries(folder)) == count


def test_changes_to_the_array_stay_in_memory(folder):
    before = np.array(read(folder))
    read(folder)[:] = 7
    assert np.array_equal(read(folder), before)


@pytest.mark.parametrize("damage", ["cut", "pickle", "empty", "other"])
def test_a_damaged_entry_is_made_again(folder, damage, tmp_path, monkeypatch):
    expected = np.array(read(folder))
    path = folder / "cache" / entries(folder)[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        np.save(path, expected[:-1])
    else:
        monkeypatch.chdir(tmp_path)
        path.write_bytes(pickle.dumps(Executed()))
    assert np.array_equal(read(folder), expected)
    assert not (tmp_path / "executed").exists() and len(entries(folder)) == 1


class Executed:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_an_interruption_leaves_nothing(folder):
    file = open_dataset("nmnist", folder / "data").recordings.sources[3]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="multiple of 5"):
        read(folder)
    assert entries(folder) == []
    file.write_bytes(whole)
    assert len(read(folder)) == 6


def test_a_folder_that_cannot_be_made(folder):
    (folder / "cache").write_text("a file")
    with pytest.raises(InputError, match="cache: cannot be made a folder"):
        read(folder)


def test_pixels_that_become_one_add_up():
    events = np.zeros(300, dtype=[("x", int), ("y", int), ("t", int), ("p", int)])
    rng = np.random.default_rng(0)
    events["x"], events["y"], events["p"] = (
        rng.integers(0, 13, 300),
        rng.integers(0, 7, 300),
        rng.integers(0, 2, 300),
    )
    events["t"] = np.arange(300)
    found = rasters([(events, 0)], Binning(bin_us=1000, downsample=4), (13, 7, 2))[0, 0]
    expected = np.zeros((2, 2, 4), dtype=int)
    for e in events:
        expected[e["p"], e["y"] // 4, e["x"] // 4] += 1
    assert np.array_equal(found, expected) and found.sum() == 300


def test_downsampling_is_whole_for_every_factor():
    """1 / 49 of 49 is below 1 in floating point."""
    for factor in range(1, 60):
        events = np.zeros(1, dtype=[("x", int), ("y", int), ("t", int), ("p", int)])
        events["x"] = factor
        found = rasters([(events, 0)], Binning(bin_us=10, downsample=factor), (2 * factor, 1, 1))
        assert found.shape == (1, 1, 1, 1, 2) and found[..., 1] == 1


def test_the_cache_is_keyed_by_the_name(tmp_path):
    recordings = open_dataset("motion", split="test").recordings
    recordings.labels, recordings.groups = recordings.labels[:4], recordings.groups[:4]
    a = cached_rasters(tmp_path, "a", recordings, TEN, (34, 34, 2))
    b = cached_rasters(tmp_path, "b", recordings, TEN, (34, 34, 2))
    assert np.array_equal(a, b) and a.any() and len(os.listdir(tmp_path)) == 2


def test_training_from_disk_equals_training_from_memory(folder):
    pytest.importorskip("norse")
    import torch

    from dpap_neuro.pruning import make_pruner
    from dpap_neuro.train import runs
    from dpap_neuro.train.loop import TrainSettings

    for number in range(6, 30):
        events = files.random_events(number, 50, 34, 34, 100_000 + 10_000 * number)
        files.write_atis(folder / f"data/NMNIST/Train/{number % 2}/{number:05}.bin", events)
    results = []
    for cache in (None, folder / "cache", folder / "cache"):
        split = runs.load_split("nmnist", folder / "data", Binning(bin_us=40_000), None, cache)
        assert (
            split.held_out and len(split.train[1]) == 24 and split.train[0].shape[1] == split.test[0].shape[1]
        )
        model = runs.model_settings(split, "mlp", "spikes", 0.5, 0.1)
        settings = TrainSettings(epochs=2, batch=8, drop=0.2, jitter=0.1, flip=True)
        pruner = make_pruner("dpap", epochs=2, bins=5)
        network, history = runs.train_run(split, model, pruner, settings, torch.device("cpu"))
        results.append(([(e.loss, e.accuracy) for e in history.epochs], list(network.state_dict().values())))
    for other in results[1:]:
        assert other[0] == results[0][0]
        assert all(torch.equal(a, b) for a, b in zip(other[1], results[0][1], strict=True))


def test_training_that_kept_another_binning_is_no_matter(tmp_path):
    cache = tmp_path / "cache"
    both = open_both("digits")
    both.opened.rasters(Binning(bins=3), None, cache)
    opened = open_dataset("digits", None, "test")
    parts = list(opened.parts(Binning(bins=2), opened.chosen(), cache))
    expected = rasters(opened.recordings, Binning(bins=2), opened.sensor_size)
    assert np.array_equal(np.concatenate(parts), expected)
