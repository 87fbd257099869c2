"""Recordings binned in several processes, kept on disk, read when they are asked for: the same numbers as in memory."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import event_files as files
import numpy as np
import pytest

pytest.importorskip("tonic")

from dpap_neuro.data import Binning, from_objects, open_both, open_dataset, stored
from dpap_neuro.data.binning import rasters
from dpap_neuro.data.parallel import PART, in_order, workers_for
from dpap_neuro.data.stored import Stored, chosen
from dpap_neuro.errors import InputError
from hardware.machine import cores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number in range(40):
        events = files.random_events(number, 50, 34, 34, 60_000 + 7_000 * (number * 7 % 13))
        files.write_atis(root / f"NMNIST/Train/{number % 2}/{number:05}.bin", events)
    return root


def square(index: int):
    return np.full((index % 3, 2), index, np.int16), index * index


@pytest.mark.parametrize("n", [0, 1, PART, 3 * PART + 5])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_order_is_kept(n, workers):
    found = list(in_order(square, n, workers))
    assert [beside for _, beside in found] == [i * i for i in range(n)]
    for index, (array, _) in enumerate(found):
        assert array.dtype == np.int16 and array.shape == (index % 3, 2) and (array == index).all()


class Unsendable(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def test_errors_come_in_their_turn_and_no_process_stays():
    def make(index):
        if index == PART + 2:
            raise InputError("recording 10: wrong")
        if index == 4 * PART:
            raise Unsendable("a", lambda: 0)
        return square(index)

    before = children()  # of other tests, such as what minds shared memory
    seen = []
    with pytest.raises(InputError, match="recording 10: wrong"):
        for _, beside in in_order(make, 100, 3):
            seen.append(beside)
    assert len(seen) == PART + 2
    with pytest.raises(InputError, match="Unsendable: a"):
        list(in_order(lambda index: make(index + 4 * PART), 2 * PART, 2))
    # One that is not heard to its end.
    iterator = in_order(square, 1000, 4)
    next(iterator)
    iterator.close()
    begin = time.monotonic()
    while children() - before and time.monotonic() < begin + 10:
        time.sleep(0.05)
    assert children() <= before


def children() -> set[str]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    if not path.exists():
        pytest.skip("this system does not list processes")
    return set(path.read_text().split())


def test_a_process_that_ends_is_said():
    def make(index):
        if index == PART:
            os._exit(7)
        return square(index)

    with pytest.raises(InputError, match=r"ended \(exit status 7\)"):
        list(in_order(make, 40, 2))


def test_numbers_of_workers():
    assert workers_for(range(10_000), 3) == 3 and workers_for(range(10_000), 0) == 1
    assert workers_for(range(20)) == 1 and 1 <= workers_for(range(10_000)) <= cores()
    events = np.zeros(3, np.dtype([("x", int), ("y", int), ("t", int), ("p", int)]))
    own = from_objects([(events, 0)] * 5_000, [(events, 1)], (3, 1, 2), ("a", "b"), 5.0)
    assert workers_for(own.open(None, "all")) == 1


@pytest.mark.parametrize(
    "binning", [Binning(bins=4, clip=4), Binning(bin_us=7_000), Binning(bin_us=900_000.5), Binning(bins=1)]
)
def test_workers_and_cache_give_what_memory_gives(folder, tmp_path, binning):
    opened = open_dataset("nmnist", folder)
    expected = rasters(opened.recordings, binning, opened.sensor_size, workers=1)
    assert np.array_equal(opened.rasters(binning, workers=3), expected)
    for workers in (1, 3):
        cache = tmp_path / str(workers)
        found = opened.stored(binning, cache, workers=workers)
        assert found.shape == expected.shape and np.array_equal(np.asarray(found), expected)
        assert np.array_equal(opened.rasters(binning, None, cache), expected)
    (one,), (three,) = (list((tmp_path / name).iterdir()) for name in ("1", "3"))
    assert one.read_bytes() == three.read_bytes()
    assert one.stat().st_size < expected.nbytes + 1_000


def test_every_damaged_part_of_a_cache_is_made_again(folder, tmp_path):
    opened, binning = open_dataset("nmnist", folder), Binning(bin_us=40_000)
    expected = np.array(opened.rasters(binning, None, tmp_path))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in (8, 50, 130, len(whole) // 2, len(whole) - 30, len(whole) - 10, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert np.array_equal(opened.rasters(binning, None, tmp_path), expected)
        assert path.read_bytes() == whole


def test_writing_takes_no_more_of_the_disk_than_the_file(folder, tmp_path, monkeypatch):
    """Recordings of unequal length: whatever lies in the folder is counted at every recording and at the end."""
    opened, binning, most = open_dataset("nmnist", folder), Binning(bin_us=1_000), 0

    def look(*_):
        nonlocal most
        most = max(most, sum(path.stat().st_size for path in tmp_path.iterdir()))

    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: pytest.fail("a second file"))
    found = opened.stored(binning, tmp_path, look)
    (path,) = tmp_path.iterdir()
    assert 0 < most <= path.stat().st_size < found.whole[0] * np.prod(found.whole[1:]) + 1_000


def test_stored_rasters_are_indexed_as_arrays_are(folder, tmp_path, monkeypatch):
    opened, binning = open_dataset("nmnist", folder), Binning(bins=6)
    whole = opened.rasters(binning)
    # Let go of again and again.
    monkeypatch.setattr(stored, "HELD", 3 * whole[0].nbytes)
    mask = np.arange(len(whole)) % 3 == 1
    for kept in (None, (1, 4)):
        expected = whole if kept is None else whole[:, list(kept)]
        found = opened.stored(replace(binning, kept_bins=kept), tmp_path)
        assert isinstance(found, Stored) and found.shape == expected.shape and len(found) == len(expected)
        for key in (0, -1, slice(3, 9), slice(None, None, -2), [5, 2, 2], np.array([7, 0]), mask):
            assert np.array_equal(found[key], expected[key])
            if not isinstance(key, int):
                part = chosen(found, key)
                assert isinstance(part, Stored) and np.array_equal(np.asarray(part), chosen(expected, key))
                assert np.array_equal(part[1:], expected[key][1:])
        assert np.array_equal(np.stack(list(found)), expected)
        again = pickle.loads(pickle.dumps(found))
        assert len(pickle.dumps(found)) < 2_000 and np.array_equal(again[:], expected)
        found[:][:] = 9
        assert np.array_equal(found[:], expected)
    with pytest.raises(InputError, match="kept_bins: found 6"):
        opened.stored(replace(binning, kept_bins=(2, 6)), tmp_path)
    with pytest.raises(IndexError):
        found[len(whole)]


@pytest.mark.parametrize("reading", [0, 2])
def test_the_same_weights_from_memory_and_from_the_cache(folder, tmp_path, reading):
    pytest.importorskip("norse")
    import torch

    from dpap_neuro.pruning import make_pruner
    from dpap_neuro.train import runs
    from dpap_neuro.train.loop import TrainSettings

    found = []
    for cache, workers in ((None, 0), (tmp_path, reading)):
        split = runs.load_split("nmnist", folder, Binning(bins=6, clip=4), None, cache)
        assert isinstance(split.train[0], Stored) == (cache is not None)
        model = runs.model_settings(split, "mlp", "spikes", 0.5, 0.1)
        settings = TrainSettings(epochs=3, batch=8, drop=0.2, jitter=0.1, flip=True)
        pruner = make_pruner("dpap", epochs=3, bins=4)
        state = torch.random.get_rng_state()
        network, history = runs.train_run(
            split, model, pruner, settings, torch.device("cpu"), workers=workers
        )
        assert torch.equal(state, torch.random.get_rng_state())
        found.append(
            (history.kept_bins, [(e.loss, e.accuracy) for e in history.epochs], network.state_dict())
        )
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(a, b) for a, b in zip(found[0][2].values(), found[1][2].values(), strict=True))


def test_a_sweep_takes_its_folds_from_the_cache(folder, tmp_path):
    pytest.importorskip("norse")
    from dpap_neuro.train import sweeps

    both = open_both("nmnist", folder).opened
    labels = both.recordings.labels
    held = both.stored(Binning(bins=2), tmp_path)
    for number in range(3):
        parts = sweeps.fold((held, labels), number, 3)
        expected = sweeps.fold((held[:], labels), number, 3)
        for (x, y), (array, own) in zip(parts, expected, strict=True):
            assert isinstance(x, Stored) and np.array_equal(np.asarray(x), array) and np.array_equal(y, own)
