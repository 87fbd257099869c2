"""Data sets from folders: events and labels as written and as tonic's own classes read them; bad files."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tonic")

import event_files as files
import tonic.datasets

from dpap_neuro.data import DATASETS, Binning, groups_of, local, open_both, open_dataset
from dpap_neuro.errors import InputError, NoRecordings

ON_DISK = ("nmnist", "dvsgesture", "cifar10dvs", "ncaltech101", "shd")
TONIC = {
    "nmnist": tonic.datasets.NMNIST,
    "dvsgesture": tonic.datasets.DVSGesture,
    "cifar10dvs": tonic.datasets.CIFAR10DVS,
    "ncaltech101": tonic.datasets.NCALTECH101,
    "shd": tonic.datasets.SHD,
}


def as_list(events: np.ndarray) -> files.Events:
    return [(int(e["x"]), int(e["y"]), int(e["t"]), int(e["p"])) for e in events]


@pytest.mark.parametrize("name", ON_DISK)
def test_events_and_labels_are_those_written(name, tmp_path):
    files.needs(name)
    written = files.make(name, tmp_path)
    known = DATASETS[name]
    for split, expected in (*written.items(), ("all", None)):
        recordings = open_dataset(name, tmp_path, split).recordings
        if expected is None:
            assert len(recordings) == sum(map(len, written.values())) == len(recordings.labels)
            continue
        assert recordings.labels.tolist() == [label for _, label in expected]
        for index, (events, label) in enumerate(expected):
            found, of = recordings[index]
            assert of == label < len(known.classes)
            # SHD's times are single-precision seconds.
            assert np.abs(np.array(as_list(found)) - np.array(events)).max() <= (name == "shd")


@pytest.mark.parametrize("name", ON_DISK)
def test_tonics_own_class_reads_the_same(name, tmp_path):
    files.needs(name)
    files.make(name, tmp_path)
    here = type(TONIC[name].__name__, (TONIC[name],), {"_check_exists": lambda self: True})(str(tmp_path))
    official = name not in ("cifar10dvs", "ncaltech101")
    ours = open_dataset(name, tmp_path, "train" if official else "all").recordings
    assert len(here) == len(ours) > 0
    place = {str(file): i for i, file in enumerate(here.data)} if name != "shd" else None
    for index in range(len(ours)):
        events, label = ours[index]
        theirs, theirs_label = here[index if place is None else place[str(ours.sources[index])]]
        if name == "ncaltech101":
            theirs_label = local.CALTECH101.index(theirs_label)
        assert label == theirs_label
        for column in theirs.dtype.names:
            if name == "shd" and column == "p":
                continue  # tonic's is 1 of a sensor with one polarity, which its ToFrame turns to 0
            assert np.array_equal(events[column], theirs[column].astype(np.int64)), column


@pytest.mark.parametrize("name", ON_DISK)
def test_the_folder_itself_may_be_given(name, tmp_path):
    files.make(name, tmp_path)
    root = tmp_path / TONIC[name].__name__
    assert (
        open_dataset(name, root).recordings.labels.tolist()
        == open_dataset(name, tmp_path).recordings.labels.tolist()
    )


@pytest.mark.parametrize("name", ON_DISK)
def test_a_missing_folder_names_what_was_looked_for_and_how_to_get_it(name, tmp_path):
    with pytest.raises(NoRecordings, match=rf"dpap-neuro data get {name} --data-dir DIR") as error:
        open_dataset(name, tmp_path)
    assert str(tmp_path / TONIC[name].__name__) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="--data-dir DIR"):
        open_dataset(name, None)


def test_class_names_agree_with_tonic():
    assert DATASETS["dvsgesture"].classes == tuple(tonic.datasets.DVSGesture.classes)
    assert {c: i for i, c in enumerate(DATASETS["cifar10dvs"].classes)} == tonic.datasets.CIFAR10DVS.classes
    assert len(set(local.CALTECH101)) == 101 and list(local.CALTECH101) == sorted(local.CALTECH101)
    assert len(set(local.SPOKEN_DIGITS)) == 20
    for name in ("nmnist", "dvsgesture", "cifar10dvs", "shd"):
        assert DATASETS[name].sensor_size == TONIC[name].sensor_size


def test_a_split_by_number_is_the_same_in_a_partial_folder(tmp_path):
    files.make("ncaltech101", tmp_path, per_class=12)
    whole = {s: set(open_dataset("ncaltech101", tmp_path, s).recordings.sources) for s in ("train", "test")}
    assert len(whole["train"]) == 20 and len(whole["test"]) == 4 and not whole["train"] & whole["test"]
    for file in sorted(whole["train"])[:7]:
        file.unlink()
    assert set(open_dataset("ncaltech101", tmp_path, "test").recordings.sources) == whole["test"]
    assert set(open_dataset("ncaltech101", tmp_path, "train").recordings.sources) < whole["train"]


def test_without_test_recordings_every_fifth_is_held_out(tmp_path):
    files.make("nmnist", tmp_path, per_class=10)
    both = open_both("nmnist", tmp_path)
    assert not both.held_out and both.n_train == 20 and len(both.opened.recordings) == 40
    (tmp_path / "NMNIST" / "Test").rename(tmp_path / "elsewhere")
    both = open_both("nmnist", tmp_path)
    assert both.held_out and both.n_train == 16
    names = [file.stem for file in open_dataset("nmnist", tmp_path).recordings.sources]
    held = [names.index("00004"), names.index("00009")]
    recordings, whole = both.opened.recordings, open_dataset("nmnist", tmp_path).recordings
    for index, original in zip((16, 17), held, strict=True):
        assert as_list(recordings[index][0]) == as_list(whole[original][0])
    assert recordings.labels[16:].tolist() == [3, 3, 7, 7]
    files.make("nmnist", tmp_path / "few", per_class=3)
    (tmp_path / "few" / "NMNIST" / "Test").rename(tmp_path / "few" / "elsewhere")
    with pytest.raises(InputError, match="too few"):
        open_both("nmnist", tmp_path / "few")


def test_a_person_is_held_out_with_all_recordings_or_not(tmp_path):
    trials = [f"user{user:02}_{light}" for user in range(1, 7) for light in ("lab", "led")]
    for trial in trials:
        for label in (0, 3):
            files.write_gesture(
                tmp_path / f"DVSGesture/ibmGestureTrain/{trial}/{label}.npy", [(1, 2, 9000, 1)]
            )
    both = open_both("dvsgesture", tmp_path)
    groups = groups_of(both.opened.recordings)
    assert both.held_out and both.n_train == 20 and set(groups[20:]) == {"user05"}
    for trial in trials[6:]:
        shutil.rmtree(tmp_path / "DVSGesture/ibmGestureTrain" / trial)
    with pytest.raises(InputError, match="fewer than 5 of those who made them, too few to hold some out"):
        open_both("dvsgesture", tmp_path)


def test_a_wrong_test_folder_is_not_mistaken_for_a_missing_one(tmp_path):
    files.make("dvsgesture", tmp_path)
    files.write_gesture(tmp_path / "DVSGesture/ibmGestureTest/user01_lab/12.npy", [(0, 0, 0, 0)])
    with pytest.raises(InputError, match=r"12\.npy: found class '12'"):
        open_both("dvsgesture", tmp_path)


def test_events_out_of_order_are_sorted_and_empty_recordings_are_empty(tmp_path):
    folder = tmp_path / "DVSGesture/ibmGestureTrain/user01_lab"
    files.write_gesture(folder / "0.npy", [(1, 2, 9000, 1), (3, 4, 2000, 0)])
    files.write_gesture(folder / "1.npy", [], float)
    opened = open_dataset("dvsgesture", tmp_path)
    assert as_list(opened.recordings[0][0]) == [(3, 4, 2000, 0), (1, 2, 9000, 1)]
    assert len(opened.recordings[1][0]) == 0
    assert opened.rasters(Binning(bins=3)).sum(axis=(2, 3, 4)).tolist()[1] == [0, 0, 0]


class Executed:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


GESTURE, DIGIT, IMAGE = (
    "DVSGesture/ibmGestureTrain/user01_lab/0.npy",
    "NMNIST/Train/3/00001.bin",
    "NCALTECH101/Caltech101/ant/image_0001.bin",
)


@pytest.mark.parametrize(
    ("name", "path", "content", "says"),
    [
        ("dvsgesture", GESTURE, b"no array", "not an .npz or .npy file"),
        ("dvsgesture", GESTURE, pickle.dumps(Executed()), "not an .npz or .npy file"),
        ("dvsgesture", GESTURE, np.zeros((5, 3)), r"shape \(5, 3\)"),
        ("dvsgesture", GESTURE, np.array([[0, 0, 0, np.nan]]), "at no time"),
        ("dvsgesture", GESTURE, np.array([[np.nan, 0, 0, 1]]), "x from nan"),
        ("dvsgesture", GESTURE, np.array([[0, 128, 0, 1]]), "y from 128 to 128, expected 0 to 127"),
        ("dvsgesture", GESTURE, np.array([[0, 0, 2, 1]]), "p from 2"),
        ("dvsgesture", GESTURE, np.array([[-1, 0, 0, 1]]), "x from -1"),
        ("nmnist", DIGIT, b"1234567", "7 bytes"),
        ("nmnist", DIGIT, bytes([34, 0, 0, 0, 0]), "x from 34"),
        ("ncaltech101", IMAGE, bytes([9, 10, 0, 0, 0, 9, 200, 0, 0, 0]), "191 pixels in y, expected at most 180"),
    ],
)  # fmt: skip
def test_a_bad_recording_is_one_line_and_runs_nothing(name, path, content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content)
    recordings = open_dataset(name, tmp_path).recordings
    with pytest.raises(InputError, match=says) as error:
        recordings[0]
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert not Path("executed").exists()


def test_a_damaged_aedat_file(tmp_path):
    pytest.importorskip("aedat", reason="the reader of AEDAT 4 files is not installed")
    files.make("cifar10dvs", tmp_path)
    recordings = open_dataset("cifar10dvs", tmp_path).recordings
    file = recordings.sources[0]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read") as error:
        recordings[0]
    assert str(file) in str(error.value)


def test_aedat_files_name_the_package_that_reads_them(tmp_path, monkeypatch):
    files.make("cifar10dvs", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "aedat", None)
    with pytest.raises(InputError, match=r"pip install 'dpap-neuro\[recordings\]'"):
        open_dataset("cifar10dvs", tmp_path).recordings[0]


def test_bad_shd_files(tmp_path):
    file = tmp_path / "SHD" / "shd_train.h5"
    file.parent.mkdir()
    file.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"shd_train\.h5: cannot be read"):
        open_dataset("shd", tmp_path)
    files.write_shd(file, [([0.1], [5])], [20])
    with pytest.raises(InputError, match="labels 20 to 20"):
        open_dataset("shd", tmp_path)
    files.write_shd(file, [([0.1, 0.2], [5, 700])], [19])
    with pytest.raises(InputError, match=r"recording 0: .* 700, expected 0 to 699"):
        open_dataset("shd", tmp_path).recordings[0]


def test_an_unknown_class_is_named(tmp_path):
    files.write_atis(tmp_path / "NCALTECH101/Caltech101/Faces/image_0001.bin", [(0, 0, 0, 0)])
    with pytest.raises(InputError, match="class 'Faces'"):
        open_dataset("ncaltech101", tmp_path)
