"""DVS128 Gesture and CIFAR10-DVS as their makers ship them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import event_files
import numpy as np
import pytest
from test_formats import write_aedat2, write_aedat3

from dpap_neuro.data import Binning, groups_of, local, open_both, open_dataset
from dpap_neuro.errors import InputError, NoRecordings

HEADER = "class,startTime_usec,endTime_usec\n"


def slices(events, begin, end):
    return [(x, y, t - begin, p) for x, y, t, p in events if begin <= t < end]


def as_list(events):
    return [(int(e["x"]), int(e["y"]), int(e["t"]), int(e["p"])) for e in events]


def write_ibm(root: Path) -> dict[str, list[tuple[list, int]]]:
    """Two trials for training, one for testing; windows that touch, overlap, and hold no event."""
    root.mkdir(parents=True, exist_ok=True)
    expected: dict[str, list[tuple[list, int]]] = {"train": [], "test": []}
    trials = {"train": ["user01_fluorescent", "user02_led"], "test": ["user24_lab"]}
    windows = [(1, 1000, 4000), (11, 4000, 9000), (3, 8500, 12_000), (3, 40_000, 41_000)]
    for part, names in trials.items():
        (root / f"trials_to_{part}.txt").write_text(
            "\r\n".join(f"{n}.aedat" for n in [*names, "user99_not_here"]) + "\r\n\r\n"
        )
        for seed, name in enumerate(names):
            events = event_files.random_events(seed + len(part), 300, 128, 128, 15_000)
            (root / f"{name}.aedat").write_bytes(write_aedat3(events))
            (root / f"{name}_labels.csv").write_text(
                HEADER + "".join(f"{c},{a},{b}\n" for c, a, b in windows)
            )
            expected[part] += [(slices(events, a, b), c - 1) for c, a, b in windows]
    return expected


@pytest.mark.parametrize("folder", ["DvsGesture", "extract/DvsGesture", ""])
def test_gestures_are_cut_where_their_table_says(folder, tmp_path):
    written = write_ibm(tmp_path / folder)
    for split in ("train", "test", "all"):
        recordings = open_dataset("dvsgesture", tmp_path, split).recordings
        expected = [*written["train"], *written["test"]] if split == "all" else written[split]
        assert [
            (as_list(events), label) for events, label in (recordings[i] for i in range(len(recordings)))
        ] == expected
        assert recordings.labels.tolist() == [label for _, label in expected]
    assert sum(len(events) for events, _ in written["train"]) > 100
    both = open_both("dvsgesture", tmp_path)
    assert (both.n_train, both.held_out) == (8, False)
    assert groups_of(both.opened.recordings).tolist() == ["user01"] * 4 + ["user02"] * 4 + ["user24"] * 4
    binning = Binning(5, clip=16, downsample=4)
    assert np.array_equal(both.opened.rasters(binning, workers=2), both.opened.rasters(binning, workers=1))


def test_classes_are_in_ibms_order():
    """Of gesture_mapping.csv, from 1."""
    mapping = """hand_clapping right_hand_wave left_hand_wave right_arm_clockwise right_arm_counter_clockwise left_arm_clockwise
        left_arm_counter_clockwise arm_roll air_drums air_guitar other_gestures""".split()  # noqa: SIM905
    ours = [
        name.lower().replace(" ", "_").replace("ccw", "counter_clockwise").replace("cw", "clockwise")
        for name in local.GESTURES
    ]
    assert ours == mapping


def test_tonics_folder_goes_first(tmp_path):
    event_files.make("dvsgesture", tmp_path)
    write_ibm(tmp_path)
    assert isinstance(open_dataset("dvsgesture", tmp_path).recordings, local.LocalRecordings)


@pytest.mark.parametrize(
    "table, said",
    [
        ("", "begins with '', expected class,startTime_usec,endTime_usec"),
        ("1,2,3\n", "begins with '1,2,3'"),
        (HEADER + "1,5\n", "line 2 is '1,5', expected class, start and end"),
        (HEADER + "1,5,9\n1,x,9\n", "line 3 is '1,x,9'"),
        (HEADER + "0,5,9\n", "expected a class of 1 to 11"),
        (HEADER + "12,5,9\n", "expected a class of 1 to 11"),
        (HEADER + "1,9,9\n", "an end behind its start"),
        (HEADER + "1,-5,9\n", "line 2 is '1,-5,9'"),
        (HEADER + "1,5,9999999999999\n", "line 2 is"),
        (None, "not found, expected it beside its recording"),
    ],
)
def test_damaged_tables_are_one_line(table, said, tmp_path):
    write_ibm(tmp_path)
    file = tmp_path / "user02_led_labels.csv"
    file.unlink()
    if table is not None:
        file.write_text(table)
    with pytest.raises(InputError) as caught:
        open_dataset("dvsgesture", tmp_path)
    assert str(caught.value).startswith(f"{file}: ") and said in str(caught.value)


def test_lists_and_recordings_that_are_wrong(tmp_path):
    write_ibm(tmp_path)
    (tmp_path / "user24_lab.aedat").write_bytes(b"#!AER-DAT3.1\r\n")
    with pytest.raises(InputError, match=r"user24_lab\.aedat: found no end of its header"):
        open_dataset("dvsgesture", tmp_path, "test").recordings[0]
    (tmp_path / "trials_to_test.txt").write_text("../elsewhere.aedat\n")
    with pytest.raises(
        InputError, match=r"trials_to_test\.txt: found '\.\./elsewhere\.aedat', expected the name"
    ):
        open_dataset("dvsgesture", tmp_path, "test")
    (tmp_path / "trials_to_test.txt").write_text("user50_led.aedat\n")
    with pytest.raises(NoRecordings, match="found no test recording of those that"):
        open_dataset("dvsgesture", tmp_path, "test")


# --- CIFAR10-DVS ---------------------------------------------------------------------------------------------


def write_shipped(root: Path, zipped: bool, per_class: int = 6) -> dict[str, list[tuple[list, int]]]:
    root.mkdir(parents=True, exist_ok=True)
    expected: dict[str, list[tuple[list, int]]] = {"train": [], "test": []}
    for label, name in enumerate(local.CIFAR10):
        files = {}
        for number in range(per_class):
            events = event_files.random_events(100 * label + number, 30, 128, 128, 1000)
            files[f"cifar10_{name}_{number}.aedat"] = write_aedat2(events)
            upright = [(y, x, t, p) for x, y, t, p in events]
            expected["test" if number % 10 in (4, 9) else "train"].append((upright, label))
        if zipped:
            with zipfile.ZipFile(root / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for file, raw in files.items():
                    archive.writestr(f"{name}/{file}", raw)
        else:
            (root / name).mkdir()
            for file, raw in files.items():
                (root / name / file).write_bytes(raw)
    return expected


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("folder", ["CIFAR10DVS", "extract", ""])
def test_figshares_folders_and_zips(zipped, folder, tmp_path):
    written = write_shipped(tmp_path / folder, zipped)
    for split, expected in written.items():
        recordings = open_dataset("cifar10dvs", tmp_path, split).recordings
        found = [recordings[i] for i in range(len(recordings))]
        assert [(as_list(events), label) for events, label in found] == expected
    binning = Binning(4, clip=4, downsample=2)
    opened = open_dataset("cifar10dvs", tmp_path, "all")
    assert np.array_equal(opened.rasters(binning, workers=3), opened.rasters(binning, workers=1))
    assert len(opened.recordings) == 60


def test_tonics_version_goes_first(tmp_path):
    event_files.needs("cifar10dvs")
    event_files.make("cifar10dvs", tmp_path)
    write_shipped(tmp_path / "extract", False, 1)
    assert isinstance(open_dataset("cifar10dvs", tmp_path).recordings, local.LocalRecordings)


def test_damaged_zips_are_one_line(tmp_path):
    write_shipped(tmp_path, True, 5)
    file = tmp_path / "airplane.zip"
    whole = bytearray(file.read_bytes())
    whole[60:80] = bytes(20)
    file.write_bytes(whole)
    recordings = open_dataset("cifar10dvs", tmp_path).recordings
    with pytest.raises(InputError) as caught:
        recordings[0]
    assert str(caught.value).startswith(f"{file}: airplane/cifar10_airplane_0.aedat cannot be read")
    later = whole.replace(b"PK\x01\x02\x14\x03\x14\x00", b"PK\x01\x02\x14\x03\xff\x00")
    assert later != whole
    for raw in (later, whole[: len(whole) // 2]):
        file.write_bytes(raw)
        with pytest.raises(InputError, match=r"airplane\.zip: cannot be read as a zip file"):
            open_dataset("cifar10dvs", tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"airplane\.zip: cannot be read as a zip file"):
        open_dataset("cifar10dvs", tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("airplane/cifar10_airplane_0.aedat", b"#!AER-DAT1.0\r\n")
    with pytest.raises(InputError, match=r"cifar10_airplane_0\.aedat: found #!AER-DAT1\.0"):
        open_dataset("cifar10dvs", tmp_path).recordings[0]
