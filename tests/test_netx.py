"""NETX files: ours and others', there and back, and files that are none."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from lava_samples import networks

from hardware.errors import HardwareError
from hardware.files.guarded import Reader
from hardware.files.hdf5 import read_groups
from hardware.files.network_file import load, save
from hardware.files.netx_reading import mantissas, read_net
from hardware.files.netx_writing import write_net
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)
from hardware.simulate.simulator import simulate

TINYNET = Path(__file__).parents[1].parent / "shared" / "data" / "lava" / "tinynet"
needs_tinynet = pytest.mark.skipif(not TINYNET.is_dir(), reason=f"{TINYNET} is absent")


@pytest.fixture(scope="module")
def reader():
    with Reader() as shared:
        yield shared


def same(a, b, where="network"):
    """Whether two networks say the same, arrays compared by value."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        assert np.array_equal(a, b) and np.asarray(a).dtype.kind == np.asarray(b).dtype.kind, where
    elif hasattr(a, "__dataclass_fields__"):
        assert type(a) is type(b), where
        for name in a.__dataclass_fields__:
            same(getattr(a, name), getattr(b, name), f"{where}.{name}")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same(a[key], b[key], f"{where}[{key!r}]")
    else:
        assert a == b and type(a) is type(b), where


def chain():
    """Convolution, recurrent dense, dense with delays; channel and neuron biases; a silent read-out."""
    rng = np.random.default_rng(1)

    def even(*shape):
        return 2 * rng.integers(-60, 60, shape).astype(np.int32)

    bias = rng.integers(-9, 9, (3, 1, 1)) * np.ones((1, 4, 2), int)
    return Network(
        (InputPopulation("pixels", (2, 6, 5)),),
        (
            Population("conv", (3, 4, 2), dv=300, vth=200, bias_mant=bias, bias_exp=6),
            Population("rec", (5,), du=700, dv=4096, vth=900, bias_mant=np.arange(5) * 64, bias_exp=2),
            Population("readout", (2,), du=4095, dv=10, vth=3, spiking=False),
        ),
        (
            ConvProjection("pixels", "conv", even(3, 2, 3, 2), (1, 2), (1, 0), (2, 1)),
            DenseProjection("conv", "rec", even(5, 24)),
            DenseProjection("rec", "rec", even(5, 5)),
            DenseProjection("rec", "readout", even(2, 5), delay=np.arange(10).reshape(2, 5)),
        ),
        ("readout",),
        dt=0.001,
        metadata={"bins": 300, "class_names": ["a", "ü"], "kept_bins": np.arange(0, 300, 2), "bin_us": 1e3},
    )


def raster(network, steps=14):
    shape = network.inputs[0].shape
    return np.random.default_rng(2).integers(0, 3, (steps, *shape))


def run(network, spikes, timing="zero_delay"):
    """Everything of one sample (steps, *shape)."""
    return simulate(network, spikes[None], timing, [p.name for p in network.populations])


def agree(a, b, spikes):
    """Both networks compute the same, whatever their populations are called."""
    first, second = run(a, spikes, "chip"), run(b, spikes, "chip")
    for variable in ("spikes", "u", "v"):
        x, y = getattr(first, variable).values(), getattr(second, variable).values()
        assert len(x) == len(y) and all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))


# --- there and back ---


def test_chain_comes_back(tmp_path):
    network = chain()
    write_net(network, tmp_path / "a.net")
    back = read_net(tmp_path / "a.net")
    assert [p.name for p in back.populations] == ["conv", "rec", "readout"]
    assert back.inputs == network.inputs and back.outputs == network.outputs and back.dt == 0.001
    same(back.metadata, network.metadata)
    assert not back.populations[2].spiking
    agree(network, back, raster(network))
    write_net(back, tmp_path / "b.net")
    same(read_net(tmp_path / "b.net"), back)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=networks(chain=True))
def test_what_is_written_computes_the_same(tmp_path_factory, reader, case):
    """Any chain is refused with a reason, or its file computes the same."""
    network, spikes = case
    path = tmp_path_factory.mktemp("net") / "x.net"
    try:
        write_net(network, path)
    except HardwareError as error:
        assert "\n" not in str(error) and not path.exists()
        event(str(error).split(":")[-1])
        return
    event("written")
    agree(network, read_net(path, reader=reader), spikes[0])


def test_sparse_is_written_dense(tmp_path):
    network = chain()
    matrix = network.projections[1].weight * (np.arange(24) % 3 == 0)
    pre, post = np.nonzero(matrix.T)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(pre, minlength=24))])
    sparse = SparseProjection("conv", "rec", indptr, post.astype(np.int32), matrix.T[pre, post])
    network = replace(network, projections=(network.projections[0], sparse, *network.projections[2:]))
    write_net(network, tmp_path / "a.net")
    back = read_net(tmp_path / "a.net")
    assert np.count_nonzero(back.projections[1].weight) == np.count_nonzero(matrix)
    agree(network, back, raster(network))


def test_layout_of_the_file(tmp_path):
    """Group by group as lava-dl's loader takes it."""
    write_net(chain(), tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net") as file:
        layers = file["layer"]
        kinds = [layers[str(i)]["type"][()].decode() for i in range(len(layers))]
        assert kinds == ["input", "conv", "flatten", "dense_rec", "dense"]
        assert layers["0/shape"][()].tolist() == [2, 6, 5] and "neuron" not in layers["0"]
        conv = layers["1"]
        assert conv["weight"].shape == (3, 2, 3, 2, 1) and conv["bias"].shape == (3,)
        assert [conv[k][()].tolist() for k in ("stride", "padding", "dilation")] == [[1, 2], [1, 0], [2, 1]]
        assert conv["neuron/type"][()] == b"LOIHI" and conv["neuron/iDecay"][()] == 4096
        assert conv["neuron/vDecay"][()] == 300 and conv["neuron/vThMant"][()] == 200
        assert layers["3/weight_rec"].shape == (5, 5) and layers["3/bias"][()].tolist() == [0, 4, 8, 12, 16]
        assert layers["4/delay"].shape == (2, 5) and layers["4/neuron/vThMant"][()] == 1 << 17


def test_bias_per_neuron_is_in_the_loaders_order(tmp_path):
    network = chain()
    bias = np.arange(24).reshape(3, 4, 2)
    conv = replace(network.populations[0], bias_mant=bias)
    network = replace(network, populations=(conv, *network.populations[1:]))
    write_net(network, tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net") as file:
        assert np.array_equal(file["layer/1/bias"][()], bias.transpose(2, 1, 0))
    agree(network, read_net(tmp_path / "a.net"), raster(network))


# --- a file of lava-dl's ---


def recorded(name):
    """(steps, channel, height, width); the recording's step 0 lies before the first."""
    return np.load(TINYNET / name)[0].transpose(3, 0, 1, 2).astype(int)[1:]


@needs_tinynet
def test_tinynet_computes_what_was_recorded():
    network = read_net(TINYNET / "network.net", "spikes")
    found = run(network, recorded("input.npy"))
    assert np.array_equal(found.u["layer1"][0], recorded("current.npy") << 6)
    assert np.array_equal(found.spikes["layer1"][0], recorded("layer1.npy"))
    assert np.array_equal(found.spikes["layer2"][0], recorded("output.npy"))
    assert found.spikes["layer2"][0].sum() == 92


@needs_tinynet
def test_tinynets_input_layer_makes_the_recorded_spikes():
    bias = np.load(TINYNET / "input_bias.npy").transpose(2, 1, 0).astype(int)
    network = read_net(TINYNET / "network.net", input_bias=bias)
    quiet = np.zeros((15, 3, 16, 16), int)
    found = run(network, quiet)
    assert np.array_equal(found.spikes["layer0"][0], recorded("input.npy"))
    assert np.array_equal(found.spikes["layer2"][0], recorded("output.npy"))


@needs_tinynet
def test_tinynet_written_again(tmp_path):
    network = read_net(TINYNET / "network.net")
    assert network.populations[0].bias_mant == 34 and set(network.projections[0].weight) == {36}
    write_net(network, tmp_path / "a.net")
    same(read_net(tmp_path / "a.net"), network)
    with h5py.File(tmp_path / "a.net") as ours, h5py.File(TINYNET / "network.net") as theirs:
        for i in range(3):
            for key in (
                "shape",
                "weight",
                "bias",
                "stride",
                "neuron/iDecay",
                "neuron/vDecay",
                "neuron/vThMant",
            ):
                if key in theirs[f"layer/{i}"]:
                    a, b = ours[f"layer/{i}/{key}"][()], theirs[f"layer/{i}/{key}"][()]
                    assert np.array_equal(np.ravel(a), np.ravel(b)), (i, key)


@pytest.mark.parametrize("kind", ["channel", "neuron"])
def test_decays_and_thresholds_per_neuron_are_read(tmp_path, kind):
    """As lava-dl's training writes them, images in (width, height, channel) order."""
    network, rng = chain(), np.random.default_rng(8)
    write_net(network, tmp_path / "a.net")
    given = {}
    with h5py.File(tmp_path / "a.net", "r+") as file:
        for at, shape in ((1, (3, 4, 2)), (3, (5,))):
            for key, low in (("iDecay", 1), ("vDecay", 0), ("vThMant", 20)):
                values = rng.integers(low, 4096, shape)
                if kind == "channel" and len(shape) == 3:
                    values = np.broadcast_to(values[:, :1, :1], shape)
                given[at, key] = values
                del file[f"layer/{at}/neuron/{key}"]
                stored = values[:, 0, 0] if kind == "channel" and len(shape) == 3 else values.T
                file[f"layer/{at}/neuron/{key}"] = stored
    back = read_net(tmp_path / "a.net")
    for at, name in ((1, "conv"), (3, "rec")):
        found = next(p for p in back.populations if p.name == name)
        assert np.array_equal(found.du, given[at, "iDecay"] - 1) and np.array_equal(
            found.vth, given[at, "vThMant"]
        )
        assert np.array_equal(found.dv, given[at, "vDecay"])
    with h5py.File(tmp_path / "a.net", "r+") as file:
        del file["layer/3/neuron/iDecay"]
        file["layer/3/neuron/iDecay"] = np.ones(4)
    with pytest.raises(HardwareError, match=r"'iDecay' has shape \(4,\), expected one value or \(5,\)"):
        read_net(tmp_path / "a.net")


# --- what is refused ---


def refused(network, path, words):
    with pytest.raises(HardwareError, match=words) as caught:
        write_net(network, path)
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: replace(n, inputs=(*n.inputs, InputPopulation("more", (2,)))), "one input"),
        (lambda n: replace(n, outputs=("conv",)), "last layer"),
        (
            lambda n: replace(
                n, projections=(*n.projections, DenseProjection("conv", "readout", np.full((2, 24), 2)))
            ),
            "chain: 'readout' has two",
        ),
        (lambda n: population(n, 1, du=np.arange(5)), "one du per layer"),
        (lambda n: population(n, 1, bias_mant=3, bias_exp=0), "multiples of 64"),
        (
            lambda n: population(n, 0, reset="subtract"),
            "no reset by subtraction, 'conv' has one: write .* .h5",
        ),
        (lambda n: projection(n, 0, delay=2), "no delay in a convolution"),
        (lambda n: projection(n, 2, delay=2), "no delay in a recurrent layer"),
        (lambda n: projection(n, 3, delay=63), "at most 62"),
        (lambda n: projection(n, 1, weight_exp=3), "8-bit weights"),
        (lambda n: projection(n, 3, weight=np.zeros((2, 5), int)), "all zero"),
        (lambda n: projection(n, 3, weight=np.full((2, 5), -4), sign_mode="inhibitory"), "would alter"),
        (lambda n: projection(n, 3, weight_exp=-2), "not whole"),
    ],
)
def test_what_netx_cannot_say_is_refused(tmp_path, change, words):
    refused(change(chain()), tmp_path / "x.net", words)


def population(network, i, **changes):
    changed = list(network.populations)
    changed[i] = replace(changed[i], **changes)
    return replace(network, populations=tuple(changed))


def projection(network, i, **changes):
    changed = list(network.projections)
    changed[i] = replace(changed[i], **changes)
    return replace(network, projections=tuple(changed))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.net"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hardware.files.whole.os.fsync", fail)
    with pytest.raises(HardwareError, match="No space left"):
        write_net(chain(), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_said_in_short(tmp_path):
    path = tmp_path / "none" / "a.net"
    with pytest.raises(HardwareError) as error:
        write_net(chain(), path)
    assert str(error.value) == f"{path}: cannot be written, {path.parent} is no folder"


def edited(path, change):
    write_net(chain(), path)
    with h5py.File(path, "a") as file:
        change(file)


def put(key, value):
    def change(file):
        del file[key]
        file[key] = value

    return change


def drop(key):
    return lambda file: file.pop(key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("layer"), "no group 'layer'"),
        (drop("layer/2"), "layers are named"),
        (put("layer/1/type", np.bytes_("pool")), "layer 1: type 'pool'"),
        (put("layer/1/neuron/type", np.bytes_("SDNN")), "type 'SDNN', a sigma-delta neuron"),
        (put("layer/1/neuron/iDecay", 5000), "'iDecay' is 5000"),
        (put("layer/1/neuron/iDecay", np.arange(1, 3)), "shape \\(2,\\), expected one value or \\(3,\\) or"),
        (put("layer/1/neuron/iDecay", np.array([1, 0, 5])), "'iDecay' is 0, expected 1 to 4096"),
        (put("layer/1/neuron/vThMant", np.array([1, 1 << 17, 5])), "some thresholds are 131072 and more"),
        (put("layer/1/neuron/refDelay", 4), "refractory"),
        (drop("layer/1/neuron"), "no group 'neuron'"),
        (drop("layer/1/weight"), "no 'weight'"),
        (put("layer/1/weight", np.full((3, 2, 3, 2), 0.5)), "not whole"),
        (put("layer/1/weight", np.full((3, 2, 3, 2), np.nan)), "not whole"),
        (put("layer/1/weight", np.full((3, 7, 3, 2), 2)), "2 channels"),
        (put("layer/1/weight", np.array([[[[-255, 3]]]])), "channels"),
        (put("layer/1/shape", [3, 4, 3]), "convolution gives"),
        (put("layer/1/stride", [0, 1]), "'stride'"),
        (put("layer/1/groups", 0), "'groups' is 0"),
        (put("layer/1/bias", np.arange(7)), "bias"),
        (put("layer/1/bias", np.full(3, 9999)), "13 bit"),
        (put("layer/0/shape", [-2, 6, 5]), "shape"),
        (put("layer/0/shape", [1 << 20, 1 << 20, 1 << 20]), "shape"),
        (drop("layer/0"), "layers are named"),
        (put("layer/3/weight", np.ones((5, 23))), "neurons"),
        (put("layer/3/weight", 2 * np.ones((4, 24))), "expected"),
        (put("layer/3/weight_rec", 2 * np.ones((5, 4))), "weight_rec"),
        (put("layer/3/weight", np.array([[-201] + [200] * 23] * 5)), "odd numbers"),
        (put("layer/4/delay", 70), "delays 70 to 70"),
        (put("layer/4/delay", np.arange(3)), "delay"),
        (put("layer/4/neuron/vThMant", -1), "'vThMant'"),
        (put("metadata", "{"), "metadata"),
        (put("metadata", json.dumps({"dt": -1})), "dt"),
        (put("metadata", "[" * 100_000), "metadata"),
    ],
)
def test_bad_files_in_one_line(tmp_path, reader, change, words):
    path = tmp_path / "x.net"
    edited(path, change)
    with pytest.raises(HardwareError, match=words) as caught:
        read_net(path, reader=reader)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_size_beyond_the_file_is_not_allocated(tmp_path, reader):
    def huge(file):
        del file["layer/3/weight"]
        file["layer/3"].create_dataset("weight", (1 << 20, 1 << 20), "f8", chunks=(1024, 1024))

    edited(tmp_path / "x.net", huge)
    with pytest.raises(HardwareError, match="declares"):
        read_net(tmp_path / "x.net", reader=reader)


@pytest.mark.parametrize("link", [h5py.SoftLink("/layer/1"), h5py.ExternalLink("/etc/passwd", "/")])
def test_links_are_refused(tmp_path, reader, link):
    edited(tmp_path / "x.net", put("layer/2", link))
    with pytest.raises(HardwareError, match="link to elsewhere"):
        read_net(tmp_path / "x.net", reader=reader)


def test_loops_are_refused(tmp_path, reader):
    def loop(file):
        file["layer/1/again"] = file["layer"]

    edited(tmp_path / "x.net", loop)
    with pytest.raises(HardwareError, match="occurs twice"):
        read_net(tmp_path / "x.net", reader=reader)


@pytest.mark.parametrize("data", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n", None])
def test_files_that_are_none(tmp_path, reader, data):
    path = tmp_path / "x.net"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(HardwareError) as caught:
        read_net(path, reader=reader)
    assert "\n" not in str(caught.value) and "x.net" in str(caught.value)


def test_damaged_files_end_in_one_line(tmp_path):
    """Cut off or changed at random: the network, another network, or one line; never a crash or a hang."""
    write_net(chain(), tmp_path / "a.net")
    data = (tmp_path / "a.net").read_bytes()
    rng = random.Random(5)
    outcomes = {"read": 0, "refused": 0}
    with Reader(seconds=1.0) as reader:
        for _ in range(80):
            damaged = bytearray(data)
            if rng.random() < 0.2:
                damaged = damaged[: rng.randrange(len(damaged))]
            else:
                for _ in range(rng.choice([1, 4, 16])):
                    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            path = tmp_path / "b.net"
            path.write_bytes(damaged)
            try:
                read_net(path, reader=reader)
                outcomes["read"] += 1
            except HardwareError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


# --- mantissas ---


@pytest.mark.parametrize(
    ("weights", "exponent", "signs"),
    [
        ([0, 255], 0, "excitatory"),
        ([0, 510], 1, "excitatory"),
        ([-255, 0], 0, "inhibitory"),
        ([-256, 0], 1, "inhibitory"),
        ([-256, 254], 0, "mixed"),
        ([-128, 127], -1, "mixed"),
        ([-512, 508], 1, "mixed"),
        ([0, 0], 0, "excitatory"),
        ([-256, 256], 1, "mixed"),
    ],
)
def test_mantissas_lose_nothing(weights, exponent, signs):
    mantissa, found, mode = mantissas(np.array(weights))
    assert (found, mode) == (exponent, signs)
    assert np.array_equal(mantissa * 2.0**found, weights)
    if mode == "mixed":
        assert not np.any(mantissa % 2) and mantissa.min() >= -256 and mantissa.max() <= 254


@pytest.mark.parametrize("weights", [[-1, 128], [-129, 1], [0, 257], [-511, 0], [-254, 256]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(HardwareError, match="fit 8 bit"):
        mantissas(np.array(weights))


# --- our own file, which says everything ---


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=networks())
def test_own_file_keeps_every_field(tmp_path_factory, reader, case):
    network, _ = case
    path = tmp_path_factory.mktemp("own") / "x.h5"
    save(network, path)
    same(load(path, reader), network)


def test_own_file_keeps_metadata_and_refuses_objects(tmp_path):
    save(chain(), tmp_path / "a.h5")
    same(load(tmp_path / "a.h5"), chain())
    with pytest.raises(HardwareError, match="has no place"):
        save(replace(chain(), metadata={"x": object()}), tmp_path / "b.h5")
    assert not (tmp_path / "b.h5").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "format"),
        ('{"format": "integer-network/1", "network": 3}', "no network"),
        ('{"format": "integer-network/1", "network": {"kind": "os", "fields": {}}}', "unknown kind"),
        ('{"format": "integer-network/1", "network": {"kind": "Network", "fields": {"x": 1}}}', "no field"),
        ('{"format": "integer-network/1", "network": {"kind": "Network", "fields": {}}}', "Network"),
        ('{"format": "integer-network/1", "network": {"array": 900}}', "array 900"),
        ('{"format": "integer-network/1", "network": ' + "[" * 30 + "]" * 30 + "}", "too deep"),
    ],
)
def test_other_files_are_not_ours(tmp_path, reader, text, words):
    save(chain(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["network"]
        file["network"] = text
    with pytest.raises(HardwareError, match=words):
        load(tmp_path / "a.h5", reader)


def test_attributes_are_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["text"], file.attrs["number"], file.attrs["list"] = "ü", 3, [1, 2]
    assert read_groups(tmp_path / "a.h5") == {"@text": "ü", "@number": 3}
