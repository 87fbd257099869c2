"""Still images: read as written, shown as the codes say, refused in a line where damaged, and taken by the commands."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest

pytest.importorskip("torch")

import command_line
import still_files as files
from typer.testing import CliRunner

from dpap_neuro.cli import app
from dpap_neuro.data import DATASETS, Binning, open_both, open_dataset
from dpap_neuro.data.coding import averaged, coded, parse_code
from dpap_neuro.errors import InputError, NoRecordings

STILLS = ("mnist", "fashionmnist", "cifar10")


@pytest.mark.parametrize("name", STILLS)
def test_images_and_labels_are_those_written(name, tmp_path):
    written = files.write(name, tmp_path)
    for split, (x, labels) in written.items():
        opened = open_dataset(name, tmp_path, split)
        assert opened.recordings.labels.tolist() == labels.tolist()
        assert np.array_equal(np.stack([image for image, _ in opened.recordings]), x)
        assert opened.rasters(Binning(3, code="constant")).tolist() == np.repeat(x[:, None], 3, 1).tolist()
        columns, rows, channels = opened.sensor_size
        assert (channels, rows, columns) == x.shape[1:] and len(opened.classes) == 10
    both = open_both(name, tmp_path)
    assert (both.n_train, both.held_out) == (len(written["train"][1]), False)
    assert len(open_dataset(name, tmp_path, "all").recordings) == len(both.opened.recordings)


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("folder", ["MNIST/raw", "MNIST", "raw", ""])
def test_wherever_and_however_others_left_them(gzipped, mark, folder, tmp_path):
    x, _ = files.write_idx(tmp_path / folder, gzipped, mark)["test"]
    assert np.array_equal(open_dataset("mnist", tmp_path, "test").recordings.images, x)


# --- codes ---------------------------------------------------------------------------------------------------


def constant(image, steps, levels):
    """Slowly: nearest level, half upwards."""
    out = np.zeros((steps, *image.shape), int)
    for place, v in np.ndenumerate(image):
        out[(slice(None), *place)] = min(
            range(levels + 1), key=lambda n: (abs(255 * n - levels * int(v)), -n)
        )
    return out


def latency(image, steps):
    out = np.zeros((steps, *image.shape), int)
    for place, v in np.ndenumerate(image):
        if v:
            # The first step whose end, t + 1 of `steps` parts, lies behind the share of darkness.
            out[(next(t for t in range(steps) if (255 - int(v)) * steps < 255 * (t + 1)), *place)] = 1
    return out


EVERY = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


@pytest.mark.parametrize("steps", [1, 8, 255, 300])
def test_codes_are_what_their_slow_forms_say(steps):
    assert np.array_equal(coded(EVERY, steps, parse_code("latency")), latency(EVERY, steps))
    for levels in (1, 4, 255) if steps == 8 else (4,):
        assert np.array_equal(
            coded(EVERY, steps, parse_code(f"constant:{levels}")), constant(EVERY, steps, levels)
        )
    shown = coded(EVERY, steps, parse_code("latency"))
    assert shown.sum() == 255 and shown[0, 0, 15, 15] == 1 and shown[:, 0, 0, 0].sum() == 0


def test_rate_spikes_as_often_as_the_pixel_is_bright():
    steps = 20_000
    shown = coded(EVERY, steps, parse_code("rate:3"), (0, 5))
    p = EVERY / 255
    assert shown.max() == 1 and (shown[:, 0, 0, 0] == 0).all() and (shown[:, 0, 15, 15] == 1).all()
    spread = np.sqrt(p * (1 - p) / steps)
    assert (np.abs(shown.mean(0) - p) <= 5 * spread).all()
    # Steps and pixels are drawn independently: neighbours agree as often as chance has it.
    middle = shown[:, 0, 8, 0].astype(int)
    q = middle.mean()
    assert abs((middle[1:] * middle[:-1]).mean() - q * q) < 5 * 0.5 / np.sqrt(steps)


def test_the_seed_part_and_number_of_an_image_choose_its_spikes(tmp_path):
    files.write("mnist", tmp_path)
    rate = Binning(6, clip=1, code="rate:1")
    train, test, whole = (open_dataset("mnist", tmp_path, split) for split in ("train", "test", "all"))
    both = open_both("mnist", tmp_path).opened
    expected = np.concatenate([train.rasters(rate), test.rasters(rate)])
    for opened in (whole, both):
        for workers in (1, 2):
            assert np.array_equal(opened.rasters(rate, workers=workers), expected)
    stored = both.stored(rate, tmp_path / "cache")
    assert np.array_equal(stored[:], expected)
    # Few of them, from the cache of training and without.
    few = test.chosen(3)
    for cache in (None, tmp_path / "cache"):
        assert np.array_equal(np.concatenate(list(test.parts(rate, few, cache))), test.rasters(rate)[few])
    assert not np.array_equal(train.rasters(Binning(6, clip=1, code="rate:2")), train.rasters(rate))
    # The same picture at two places is shown differently.
    train.recordings.images[1] = train.recordings.images[0]
    assert not np.array_equal(*train.rasters(rate)[:2])


def test_the_cache_tells_codes_apart(tmp_path):
    files.write("mnist", tmp_path)
    opened = open_dataset("mnist", tmp_path)
    for code in ("constant", "constant:4", "rate", "rate:1", "latency"):
        opened.stored(Binning(4, code=code), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 5


@pytest.mark.parametrize("factor", [1, 2, 3, 28, 40])
def test_blocks_of_pixels_become_their_mean(factor):
    image = np.random.default_rng(0).integers(0, 256, (2, 28, 20), dtype=np.uint8)
    found = averaged(image, factor)
    assert found.shape == (2, -(-28 // factor), -(-20 // factor))
    for (c, y, x), value in np.ndenumerate(found):
        block = image[c, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].astype(int)
        assert abs(int(value) - block.mean()) <= 0.5


def test_no_count_is_higher_than_the_code_says():
    cifar = DATASETS["cifar10"].defaults
    assert [cifar.binning(code=c).clip for c in (None, "constant:15", "rate:3", "latency")] == [255, 15, 1, 1]
    assert cifar.binning(code="rate", clip=4).clip == 4 and cifar.binning().code == "constant"
    assert DATASETS["nmnist"].defaults.binning().to_dict() == Binning(10, clip=4).to_dict()
    assert "code" not in Binning(10).to_dict() and Binning(10, code="rate").to_dict()["code"] == "rate"


# --- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    ["", "Rate", "rate:", "rate:-1", "rate:9999999999", "constant:0", "constant:256", "latency:1", "direct"],
)
def test_an_unknown_code(code):
    with pytest.raises(InputError, match=r"^code: found"):
        Binning(10, code=code)


def test_what_has_no_meaning():
    with pytest.raises(InputError, match=r"^code: found 'rate', which is for still images"):
        DATASETS["digits"].defaults.binning(code="rate")
    with pytest.raises(InputError, match=r"^code: found rate, which is for still images"):
        open_dataset("digits").rasters(Binning(10, code="rate"))


def test_microseconds_and_too_many_steps(tmp_path):
    files.write("mnist", tmp_path)
    opened = open_dataset("mnist", tmp_path)
    with pytest.raises(InputError, match="still images have no time; give --bins"):
        opened.rasters(Binning(bin_us=1000.0), workers=1)
    big = Binning(1 << 20, code="latency", downsample=1)
    cifar = tmp_path / "c"
    files.write("cifar10", cifar)
    with pytest.raises(InputError, match="expected at most 1,073,741,824; give fewer steps"):
        open_dataset("cifar10", cifar).rasters(big, workers=1)


def idx_cases():
    x, labels = files.images(4, 1, 28, 0)
    good, named = files.idx(x[:, 0]), files.idx(labels)
    head = good[:16]
    return {
        "empty": (b"", named, "expected 00 00 08 03"),
        "another magic": (b"\0\0\x0d\3" + good[4:], named, "found the beginning 00 00 0d 03"),
        "cut header": (good[:9], named, "its header says 4x0x0 values"),
        "cut": (good[:-5], named, "found 3,131 values, its header says 3,136"),
        "longer": (good + b"x", named, "found more values, its header says 3,136"),
        "huge": (
            struct.pack(">BBBB3I", 0, 0, 8, 3, 1 << 31, 1 << 31, 28) + good[16:],
            named,
            "expected 1 to 2,147,483,648",
        ),
        "another size": (
            struct.pack(">BBBB3I", 0, 0, 8, 3, 4, 14, 56) + good[16:],
            named,
            "found images of 14x56, expected 28x28",
        ),
        "no image": (struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 28, 28), named, "its header says 0x28x28 values"),
        "fewer labels": (good, files.idx(labels[:3]), "found 3 labels, expected 4"),
        "a label": (good, files.idx(labels + 8), "found label 11, expected 0 to 9"),
        "labels for images": (named, good, "expected 00 00 08 03"),
        "header alone": (head, named, "found 0 values"),
    }


@pytest.mark.parametrize("case", idx_cases())
@pytest.mark.parametrize("gzipped", [False, True])
def test_damaged_idx_files(case, gzipped, tmp_path):
    images, labels, said = idx_cases()[case]
    end = ".gz" if gzipped else ""
    for name, raw in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
        (tmp_path / f"{name}{end}").write_bytes(gzip.compress(raw) if gzipped else raw)
    with pytest.raises(InputError) as caught:
        open_dataset("mnist", tmp_path, "test")
    text = str(caught.value)
    assert said in text and text.startswith(str(tmp_path / "t10k-")) and "\n" not in text


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:200], lambda raw: raw[:40] + b"\xff\xff" + raw[42:], lambda raw: b"PK" + raw]
)
def test_damaged_gzip(damage, tmp_path):
    files.write_idx(tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError) as caught:
        open_dataset("mnist", tmp_path, "test")
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


def test_one_of_two_files_is_missing(tmp_path):
    files.write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz: found no file of its labels"):
        open_dataset("mnist", tmp_path, "test")


def test_damaged_cifar(tmp_path):
    files.write_cifar(tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    file = folder / "data_batch_3.bin"
    whole = file.read_bytes()
    for raw, said in (
        (whole[:-1], "found 12,291 bytes, expected a multiple of 3,073"),
        (b"", "found 0 bytes"),
        (b"\x0a" + whole[1:], "found label 10, expected 0 to 9"),
    ):
        file.write_bytes(raw)
        with pytest.raises(InputError, match=said) as caught:
            open_dataset("cifar10", tmp_path)
        assert str(caught.value).startswith(f"{file}: ")
    file.unlink()
    with pytest.raises(
        InputError, match=r"data_batch_3\.bin: not found, expected all of data_batch_1\.bin, "
    ):
        open_dataset("cifar10", tmp_path)


def test_pickles_are_named_and_not_read(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"cposix\nsystem\n(S'touch harmed'\ntR.")
    with pytest.raises(InputError, match="is the version for Python, whose files execute code"):
        open_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("name", STILLS)
def test_nothing_there(name, tmp_path):
    with pytest.raises(NoRecordings, match=f"^{name}: found no train images in .*dpap-neuro data get {name}"):
        open_dataset(name, tmp_path)
    with pytest.raises(InputError, match=f"^{name}: no folder given, expected --data-dir DIR"):
        open_dataset(name)


# --- the commands --------------------------------------------------------------------------------------------


def invoke(*words, status=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small network on images at a rate, and the options that name the images."""
    root = tmp_path_factory.mktemp("stills")
    files.write("mnist", root)
    said = ("--data-dir", root, "--cache-dir", root / "cache")
    invoke("train", "--dataset", "mnist", *said, "--code", "rate:3", "--bins", 6, "--epochs", 2, "--batch", 10, "--downsample", 2,
           "--clip", 1, "--pruner", "none", "--out", root / "run")  # fmt: skip
    return root / "run", said


def test_a_run_says_its_code_and_is_evaluated_with_it(run):
    folder, said = run
    record = json.loads((folder / "run.json").read_text())
    assert record["data"]["binning"]["code"] == record["metadata"]["code"] == "rate:3"
    assert 'code = "rate:3"' in (folder / "config.toml").read_text()
    evaluate = ("evaluate", folder / "model.nir", "--dataset", "mnist", *said)
    found = command_line.run(*evaluate)
    last = record["history"][-1]["accuracy"]
    assert found["accuracy"] == pytest.approx(last)
    # Another code is another picture: the spikes differ.
    assert command_line.run(*evaluate, "--code", "rate:4")["spikes"] != found["spikes"]


def test_compiled_calibrated_and_compared(run):
    folder, said = run
    invoke(
        "compile",
        folder / "model.nir",
        "--out",
        folder / "a.h5",
        "--calibrate",
        "mnist",
        *said[:2],
        "--limit",
        6,
    )
    invoke("simulate", folder / "a.h5", "--dataset", "mnist", *said, "--limit", 2)
    assert command_line.run("fidelity", folder / "model.nir", "--dataset", "mnist", *said, "--limit", 4)


def test_swept(run, tmp_path):
    _, said = run
    invoke("sweep", "--dataset", "mnist", *said, "--code", "latency", "--bins", 4, "--downsample", 4, "--pruner", "none", "--seeds", 1,
           "--epochs", 1, "--batch", 10, "--model", "mlp", "--out", tmp_path / "sweep")  # fmt: skip
    assert json.loads((tmp_path / "sweep" / "runs.json").read_text())
    assert "latency" in (tmp_path / "sweep" / "runs.json").read_text()


def test_the_papers_recipe_takes_cifar(tmp_path):
    """Its data, codes and settings; a smaller network in place of its own, which test_recipes takes a step with."""
    files.write("cifar10", tmp_path)
    output = invoke("train", "--recipe", "dpap-cifar10", "--data-dir", tmp_path, "--cache-dir", tmp_path / "cache", "--epochs", 2,
                    "--batch", 10, "--model", "cnn", "--out", tmp_path / "run")  # fmt: skip
    assert "recipe dpap-cifar10" in output and "epoch 2" in output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["shape"] == [8, 3, 32, 32] and record["metadata"]["code"] == "constant"
    assert record["data"]["binning"]["clip"] == 255


def test_a_damaged_file_ends_a_command_in_a_line(tmp_path, monkeypatch, capsys):
    files.write("cifar10", tmp_path)
    said = ("train", "--dataset", "cifar10", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert "found 'dawn', expected constant" in command_line.fails(
        monkeypatch, capsys, *said, "--code", "dawn"
    )
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"123")
    assert "test_batch.bin: found 3 bytes" in command_line.fails(monkeypatch, capsys, *said)
    assert not (tmp_path / "run" / "run.json").exists()
    line = command_line.fails(monkeypatch, capsys, "train", "--code", "rate", "--out", tmp_path / "run")
    assert "which is for still images" in line
