"""A folder of one's own recordings as a data set."""

from __future__ import annotations

from pathlib import Path

import event_files
import h5py
import numpy as np
import pytest

from dpap_neuro.data import (
    DATASETS,
    Binning,
    DataSet,
    dataset,
    from_objects,
    groups_of,
    open_both,
    open_dataset,
    parse_sensor,
    register,
)
from dpap_neuro.errors import InputError, NoRecordings

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "nmnist"


def make(
    root: Path, classes=("left", "right"), n: int = 5, size=(20, 12), split: str = ""
) -> dict[str, event_files.Events]:
    """n recordings a class, in .npy; returns them by path below root."""
    made = {}
    for label, name in enumerate(classes):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for index in range(n):
            events = event_files.random_events(100 * label + index, 40, *size, 10_000)
            np.save(root / split / name / f"{index:03}.npy", np.array(events))
            made[f"{name}/{index:03}"] = events
    return made


def test_one_level_holds_a_share_out_by_a_seed(tmp_path):
    made = make(tmp_path)
    known = dataset(tmp_path, (20, 12))
    assert known.classes == ("left", "right") and known.sensor_size == (20, 12, 2)
    train, test = (open_dataset(tmp_path, None, split, (20, 12)) for split in ("train", "test"))
    assert len(train.recordings) == 8 and len(test.recordings) == 2
    assert not set(train.recordings.sources) & set(test.recordings.sources)
    assert np.bincount(train.recordings.labels).tolist() == [4, 4]
    for opened in (train, test):
        for index, source in enumerate(opened.recordings.sources):
            events, label = opened.recordings[index]
            written = made[f"{source.parent.name}/{source.stem}"]
            assert [tuple(e) for e in events[["x", "y", "t", "p"]].tolist()] == sorted(
                written, key=lambda e: e[2]
            )
            assert ("left", "right")[label] == source.parent.name
    again = open_dataset(tmp_path, None, "test", (20, 12))
    assert again.recordings.sources == test.recordings.sources
    (tmp_path / "dataset.toml").write_text("sensor = [20, 12]\nseed = 7\nheld_out = 0.6\n")
    other = open_dataset(tmp_path, None, "test")
    assert len(other.recordings) == 6


def test_recordings_of_one_person_are_never_parted(tmp_path):
    rng = np.random.default_rng(0)
    for label, name in enumerate(("left", "right")):
        (tmp_path / name).mkdir()
        for person in ("ann", "bob", "cy", "di", "eve"):
            for index in range(int(rng.integers(1, 4))):
                events = event_files.random_events(100 * label + index, 10, 20, 12, 10_000)
                np.save(tmp_path / name / f"{person}_{index}.npy", np.array(events))
    toml = 'sensor = [20, 12]\ngroups = "_"\n'
    held = {}
    for seed in range(6):
        (tmp_path / "dataset.toml").write_text(f"{toml}seed = {seed}\n")
        both = open_both(tmp_path)
        groups = groups_of(both.opened.recordings)
        train, test = set(groups[: both.n_train]), set(groups[both.n_train :])
        assert len(train) == 4 and len(test) == 1 and not train & test
        assert all(
            g == file.stem.split("_")[0]
            for g, file in zip(groups, both.opened.recordings.sources, strict=True)
        )
        held[seed] = test.pop()
    assert len(set(held.values())) > 1
    (tmp_path / "dataset.toml").write_text(f"{toml}held_out = 0.4\n")
    assert len(set(groups_of(open_dataset(tmp_path, None, "test").recordings))) == 2

    (tmp_path / "dataset.toml").write_text(f"{toml}seed = 0\n")
    for file in (tmp_path / "left").iterdir():
        if not file.name.startswith(held[0]):
            file.unlink()
    with pytest.raises(
        InputError, match=f"found class 'left' of {held[0]} alone, who are held out for testing"
    ):
        open_dataset(tmp_path)
    (tmp_path / "dataset.toml").write_text('sensor = [20, 12]\ngroups = "-"\n')
    with pytest.raises(
        InputError, match=r"_0\.npy: found no '-' behind whose it is, expected one in its name"
    ):
        open_dataset(tmp_path)
    for file in (tmp_path / "right").iterdir():
        if not file.name.startswith(held[0]):
            file.unlink()
    (tmp_path / "dataset.toml").write_text(toml)
    with pytest.raises(
        InputError, match=f"found recordings of '{held[0]}' alone, expected two or more groups"
    ):
        open_dataset(tmp_path)


def test_train_and_test_folders(tmp_path):
    make(tmp_path, split="train")
    make(tmp_path, n=2, split="test")
    both = open_both(tmp_path, sensor=(20, 12))
    assert both.n_train == 10 and not both.held_out and len(both.opened.recordings) == 14
    assert len(open_dataset(tmp_path, None, "all", (20, 12)).recordings) == 14


def test_a_train_folder_alone_holds_every_fifth_out(tmp_path):
    make(tmp_path, split="train")
    both = open_both(tmp_path, sensor=(20, 12))
    assert both.held_out and both.n_train == 8


def test_hidden_files_are_passed_over(tmp_path):
    make(tmp_path)
    (tmp_path / ".git" / "x").mkdir(parents=True)
    (tmp_path / "left" / "._000.npy").write_bytes(b"junk")
    (tmp_path / "left" / ".DS_Store").write_bytes(b"junk")
    assert len(open_dataset(tmp_path, None, "all", (20, 12)).recordings) == 10


def test_dataset_toml_names_classes_columns_and_binning(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        for index in range(2):
            rows = [f"{3 + index},{t * 1e-3},1,{t % 2}" for t in (1, 2, 30)]
            (tmp_path / name / f"{index}.csv").write_text("\n".join(rows))
    (tmp_path / "dataset.toml").write_text(
        'classes = ["b", "a"]\nsensor = [8, 4]\ncolumns = ["x", "t", "y", "p"]\ntime_unit = "s"\n'
        "duration_us = 30000\nbin_us = 1000\nclip = 2\n"
    )
    opened = open_dataset(tmp_path, None, "all")
    assert opened.classes == ("b", "a") and opened.duration_us == 30_000
    events, label = opened.recordings[0]
    assert events["t"].tolist() == [1000, 2000, 30_000] and events["x"].tolist() == [3, 3, 3] and label == 0
    defaults = dataset(tmp_path).defaults
    assert defaults.bin_us == 1000 and defaults.clip == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sensor = 5", "sensor is '5'"),
        ("sensor = [20, 12.5]", "expected .columns, rows."),
        ('classes = ["left"]', "two or more different names"),
        ('columns = ["x", "y", "t"]', "expected the four"),
        ('time_unit = ["us"]', "expected one of ns, us, ms, s"),
        ('time_unit = "min"', "expected one of ns, us, ms, s"),
        ("held_out = 1", "expected a share"),
        ('groups = ""', "groups is '', expected what ends the part of a name"),
        ("groups = 1", "groups is '1', expected what ends the part of a name"),
        ("bins = 0", "a whole number of at least 1"),
        ("bins = 5\nbin_us = 7", "found bins and bin_us"),
        ("colour = 1", "unknown key 'colour'"),
        ("bins = ", "cannot be read as TOML"),
        ('classes = ["left", "up"]', "found class 'right', expected one of dataset.toml's left, up"),
    ],
)
def test_a_wrong_dataset_toml_is_one_line(text, said, tmp_path):
    make(tmp_path)
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(InputError, match=said) as error:
        dataset(tmp_path, (20, 12))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_bad_folders_are_one_line(tmp_path):
    def refused(said: str, sensor: tuple[int, int] | None = (20, 12)) -> None:
        with pytest.raises(InputError, match=said) as error:
            dataset(tmp_path, sensor)
        assert "\n" not in str(error.value)

    refused("found no class folder with recordings, expected two or more")
    make(tmp_path, classes=("left",))
    refused("found one class, 'left', expected two or more")
    make(tmp_path)
    refused("do not say the sensor's size; give --sensor .* .events seen reach 20x12.", None)
    (tmp_path / "left" / "notes.md").write_text("x")
    refused(r"notes.md: found suffix '\.md'")
    with pytest.raises(
        InputError, match=r"found 'nowhere', expected one of digits, .* or a folder of recordings"
    ):
        dataset("nowhere")


def test_events_off_the_sensor_and_mixed_sensors_name_the_file(tmp_path):
    make(tmp_path)
    opened = open_dataset(tmp_path, None, "all", (20, 11))
    with pytest.raises(InputError, match=r"000\.npy: found events with y from 0 to 11, expected 0 to 10"):
        opened.recordings[0]
    for index, width in enumerate((320, 640, 640)):
        for name in ("up", "down"):
            (tmp_path / "raw" / name).mkdir(parents=True, exist_ok=True)
            head = f"% evt 2.0\n% geometry {width}x240\n% end\n".encode()
            (tmp_path / "raw" / name / f"{index}.raw").write_bytes(head)
    with pytest.raises(
        InputError, match=r"sensors of different sizes, 320x240 .* and 640x240 .*; give --sensor"
    ):
        dataset(tmp_path / "raw")


@pytest.mark.parametrize(
    ("text", "size"),
    [("346x260", (346, 260)), ("8,4", (8, 4)), ("0x4", None), ("axb", None), ("9" * 9, None)],
)
def test_sensor_texts(text, size):
    if size is None:
        with pytest.raises(InputError, match="expected columns x rows, such as 346x260"):
            parse_sensor(text)
    else:
        assert parse_sensor(text) == size


class Toy:
    """As torch's and tonic's data sets."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int):
        events = np.zeros(5, np.dtype([("x", int), ("y", int), ("t", int), ("p", bool)]))
        events["t"] = np.arange(5) + index
        events["x"] = index % 3
        return events, index % 2


def test_any_object_of_recordings_can_be_registered():
    made = from_objects(Toy(20), Toy(4), (3, 1, 2), ("even", "odd"), 5.0)
    register("toy", made)
    try:
        both = open_both("toy")
        assert both.n_train == 20 and both.opened.recordings.labels.tolist() == [
            i % 2 for i in [*range(20), *range(4)]
        ]
        assert both.opened.rasters(Binning(bins=2)).shape == (24, 2, 2, 1, 3)
        with pytest.raises(InputError, match="expected a new name"):
            register("toy", made)
    finally:
        del DATASETS["toy"]
    alone = open_both(from_objects(Toy(20), None, (3, 1, 2), ("even", "odd"), 5.0))
    assert alone.held_out and alone.n_train == 16
    with pytest.raises(NoRecordings):
        open_dataset(from_objects(Toy(20), None, (3, 1, 2), ("even", "odd"), 5.0), split="test")
    with pytest.raises(InputError, match="recording 1: found label 1, expected 0 to 0"):
        open_dataset(from_objects(Toy(3), None, (3, 1, 2), ("even",), 5.0))
    grouped = Toy(24)
    grouped.groups = [chr(97 + number // 2) for number in range(24)]
    held = open_both(from_objects(grouped, None, (3, 1, 2), ("even", "odd"), 5.0))
    assert "".join(groups_of(held.opened.recordings)[held.n_train :]) == "eejj"
    grouped.groups = grouped.groups[1:]
    with pytest.raises(InputError, match=r"groups: found shape \(23,\), expected \(24,\), one of each"):
        open_dataset(from_objects(grouped, None, (3, 1, 2), ("even", "odd"), 5.0))


def test_braille_by_name():
    folder = SHARED.parent / "braille"
    if not folder.is_dir():
        pytest.skip(f"no Braille recordings at {folder}")
    whole = open_dataset("braille", folder, "all")
    train, test = (open_dataset("braille", folder, split).recordings for split in ("train", "test"))
    assert len(whole.recordings) == 878 == len(train) + len(test)
    known: DataSet = dataset("braille")
    with np.load(folder / "braille7.npz") as arrays:
        spikes = np.unpackbits(arrays["spikes"], axis=1)
    rasters = whole.rasters(Binning(bin_us=5000, clock="recording"))
    assert (known.defaults.bin_us, known.defaults.clock) == (10_000, "recording")
    for index in (0, 5, 877):
        steps = int(np.flatnonzero(spikes[index].any(1))[-1]) + 1
        assert np.array_equal(rasters[index, :steps, 0, 0], spikes[index, :steps])


def test_nmnist_in_six_formats_gives_the_same_rasters_and_trains_to_the_same_weights(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"no N-MNIST recordings at {SHARED}")
    whole = open_dataset("nmnist", SHARED, "all").recordings
    chosen = [int(i) for label in (3, 8) for i in np.flatnonzero(whole.labels == label)[:4]]
    for index in chosen:
        events, label = whole[index]
        x, y, t, p = (events[key].astype(np.int64) for key in ("x", "y", "t", "p"))
        name = f"{index:05}"

        def folder(kind: str, label: int = label) -> Path:
            (tmp_path / kind / str(label)).mkdir(parents=True, exist_ok=True)
            return tmp_path / kind / str(label)

        np.save(folder("npy") / f"{name}.npy", np.stack([x, y, t, p], axis=1))
        np.savez(folder("npz") / f"{name}.npz", t=t, x=x, y=y, p=p)
        (folder("bin") / f"{name}.bin").write_bytes(whole.sources[index].read_bytes())
        words = np.stack([t, p << 28 | y << 14 | x], axis=1).astype("<u4")
        (folder("dat") / f"{name}.dat").write_bytes(b"% Width 34\n% Height 34\n\x0c\x08" + words.tobytes())
        rows = [",".join(map(str, row)) for row in zip(x, y, t, p, strict=True)]
        (folder("csv") / f"{name}.csv").write_text("x,y,t,p\n" + "\n".join(rows) + "\n")
        with h5py.File(folder("h5") / f"{name}.h5", "w") as file:
            for key, values in (("x", x), ("y", y), ("t", t), ("p", p)):
                file[f"events/{key}"] = values
    found = {}
    for kind in ("npy", "npz", "bin", "dat", "csv", "h5"):
        both = open_both(tmp_path / kind, sensor=(34, 34))
        found[kind] = (
            both.opened.rasters(Binning(bins=10, clip=4)),
            both.opened.recordings.labels,
            both.n_train,
        )
        assert found[kind][0].sum() > 1000
        assert all(np.array_equal(a, b) for a, b in zip(found[kind], found["npy"], strict=True)), kind
    pytest.importorskip("norse")
    import torch

    from dpap_neuro.pruning import make_pruner
    from dpap_neuro.train import runs
    from dpap_neuro.train.loop import TrainSettings

    weights = {}
    for kind in found:
        split = runs.load_split(
            str(tmp_path / kind), None, Binning(bins=5, downsample=3), None, tmp_path / "cache", (34, 34), 2
        )
        model = runs.model_settings(split, "mlp", "spikes", 0.5, 0.2)
        pruner = make_pruner("dpap", epochs=2, sparsity=0.5)
        network, history = runs.train_run(
            split, model, pruner, TrainSettings(epochs=2, batch=3, drop=0.1), torch.device("cpu")
        )
        assert 0 < history.epochs[-1].remaining < history.epochs[-1].parameters
        weights[kind] = {name: value.numpy().tobytes() for name, value in network.state_dict().items()}
    assert all(own == weights["npy"] for own in weights.values())
