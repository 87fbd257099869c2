"""NETX, lava-dl's network file (HDF5), both ways: what ``lava.lib.dl.netx.hdf5.Network`` loads.

A chain of layers, groups ``layer/0`` ..., input first: `input`, `dense`, `dense_rec`, `conv`, `flatten`. The
integers in the file are the effective weights; the loader makes du = iDecay - 1, dv = vDecay, a bias exponent
of 6. What the format, or the loader's own arithmetic, cannot say is refused with the reason:

- inputs that are always on, skip connections, several inputs or outputs, delays but in a `dense` layer, convolutions that are recurrent
  or follow a fully connected layer;
- a reset by subtraction;
- parameters per neuron other than the bias (read they are: lava-dl's own training writes decays per neuron or channel); a
  bias that is no multiple of 64;
- weights of a fully connected layer beyond 8 bit, and the few matrices that the loader's search for an
  exponent alters (all zero; all negative or zero with a power of two as the smallest).

A sparse projection is written as a dense matrix, zeros as zeros, and so is a convolution from or to a population with dead neurons, and
every one behind it. A population that does not spike gets the
threshold `NEVER`, which a 24-bit membrane cannot pass; that is how it is read, too. An input with counts above
1 needs ``Network(input_message_bits=...)`` in lava-dl, or it takes every count as one spike. lava-dl counts
depth from the first layer of neurons, `hardware.network.timing` from the input: its ``reset_offset`` is ours plus one.

Two things are added that other readers pass over: the attribute ``name`` of a layer, and the data set
``metadata`` (JSON: time step, bins, class names), so that a file is enough to evaluate it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np

from hardware.errors import HardwareError
from hardware.files.guarded import Reader
from hardware.files.metadata import decode_metadata
from hardware.files.whole import write_hdf5
from hardware.network.connectivity import unrolled
from hardware.network.geometry import positions
from hardware.network.integer import (
    INPUT_SHIFT,
    MAX_NEURONS,
    MAX_SYNAPSES,
    NEVER,
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    Projection,
    SignMode,
    SparseProjection,
)

if TYPE_CHECKING:
    from hardware.chip.chips import Chip

BIAS_EXP = 6
# Of lava-dl's loader.
LONGEST_DELAY = 62
MAX_LAYERS = 1024
InputLayer = Literal["pixels", "spikes"]


def restrict(chip: Chip) -> Chip:
    """`chip` as far as a NETX file can speak of it: weights without an exponent, biases at the loader's and on the membrane,
    one threshold per population, reset to zero. Its name says so."""
    neuron = chip.neuron
    return replace(
        chip,
        name=f"{chip.name} in a NETX file",
        neuron=replace(
            neuron,
            weight_exponents=(0, 0),
            bias_exponents=(BIAS_EXP + neuron.input_shift - INPUT_SHIFT,) * 2,
            thresholds_per="population",
            resets=("zero",),
            delay_steps=min(neuron.delay_steps, LONGEST_DELAY),
            always_on_inputs=False,
        ),
    )


# --- write ---


def write_net(network: Network, path: str | os.PathLike[str]) -> None:
    """Write `network` as a NETX file, whole or not at all.

    Raises HardwareError, before anything is written, for what NETX cannot say (see the module).
    """
    layers = _layers(network)
    text = json.dumps({"dt": network.dt, "metadata": _plain(network.metadata)})

    def write(file: h5py.File) -> None:
        for i, layer in enumerate(layers):
            _write_group(file.create_group(f"layer/{i}"), layer)
        file.create_dataset("metadata", data=text, dtype=h5py.string_dtype())

    write_hdf5(path, write)


def _write_group(group: h5py.Group, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _write_group(group.create_group(key), value)
        elif key.startswith("@"):
            group.attrs[key[1:]] = value
        elif isinstance(value, str):
            group.create_dataset(key, data=np.bytes_(value))
        elif np.size(value) > 64:
            group.create_dataset(key, data=value, compression="gzip", compression_opts=1, shuffle=True)
        else:
            group.create_dataset(key, data=value)


def _layers(network: Network) -> list[dict[str, Any]]:
    """The groups of the file, or HardwareError."""
    for always_on in network.inputs:
        if always_on.constant:
            raise HardwareError(
                f"NETX has no input that is always on, as '{always_on.name}' is, through which biases of current-based "
                "neurons act: write an .h5 file, or compile for NETX, which puts these biases on the membrane"
            )
    if len(network.inputs) != 1:
        raise HardwareError(f"NETX is a chain with one input, the network has {len(network.inputs)}")
    forward, recurrent = _chain(network)
    entry = network.inputs[0]
    shape = tuple(entry.shape)
    source, image = entry.name, len(shape) == 3
    populations = list(network.populations)
    if list(network.outputs) != [populations[-1].name]:
        raise HardwareError(
            f"NETX gives out its last layer, '{populations[-1].name}', the network {list(network.outputs)}"
        )
    layers: list[dict[str, Any]] = [{"type": "input", "shape": np.array(shape), "@name": entry.name}]
    pixels = _pixel_weight(forward[populations[0].name], populations[0], shape)
    if pixels is not None and populations[0].name not in recurrent:
        first = populations.pop(0)
        bias = _bias(first)
        layers[0] |= {"neuron": _neuron(first), "weight": np.array([pixels]), "@population": first.name}
        layers[0] |= {"bias": np.array([int(bias.flat[0])])}
        source = first.name
    unrolls = False
    for population in populations:
        projection = forward[population.name]
        if projection.source != source:
            raise HardwareError(
                f"NETX is a chain: '{population.name}' follows '{projection.source}', expected '{source}'"
            )
        back = recurrent.get(population.name)
        own = tuple(population.shape)
        if isinstance(projection, ConvProjection) and (
            unrolls or not (projection.dead_pre is None is projection.dead_post)
        ):
            # NETX has whole feature maps: behind dead neurons layers are matrices, in which their synapses are zero.
            unrolls = True
            projection = unrolled(projection, shape, own)
        if isinstance(projection, ConvProjection):
            if back is not None:
                raise HardwareError(f"NETX has no recurrent convolution, '{population.name}' is one")
            if not image:
                raise HardwareError(
                    f"NETX has no convolution of a fully connected layer, '{population.name}' follows one"
                )
            layers.append(_conv_layer(projection, population, shape))
        else:
            if image:
                layers.append({"type": "flatten", "shape": np.array([math.prod(shape)])})
            layers.append(_dense_layer(projection, back, population, math.prod(shape)))
            image = False
        shape, source = own, population.name
    if len(layers) == 1:
        raise HardwareError("NETX needs a layer of synapses, the network has none")
    return layers


def _chain(network: Network) -> tuple[dict[str, Projection], dict[str, Projection]]:
    """Every population's one projection from elsewhere, and those from itself."""
    forward: dict[str, Projection] = {}
    recurrent: dict[str, Projection] = {}
    for p in network.projections:
        into = recurrent if p.source == p.target else forward
        if p.target in into:
            raise HardwareError(
                f"NETX is a chain: '{p.target}' has two projections, from '{into[p.target].source}' "
                f"and '{p.source}'"
            )
        into[p.target] = p
    for population in network.populations:
        if population.name not in forward:
            raise HardwareError(f"NETX is a chain: nothing leads to '{population.name}'")
    return forward, recurrent


def _pixel_weight(projection: Projection, population: Population, shape: tuple[int, ...]) -> int | None:
    """The weight, where `projection` is one to one with one weight: NETX's input layer with neurons.

    The input layer adds pixel * weight to the bias, which is the same only where u keeps no memory.
    """
    if not isinstance(projection, SparseProjection) or projection.delay or tuple(population.shape) != shape:
        return None
    n = math.prod(shape)
    weight = _effective(projection.weight, projection.weight_exp)
    one_to_one = (
        len(weight) == n
        and np.array_equal(projection.indptr, np.arange(n + 1))
        and np.array_equal(projection.post, np.arange(n))
    )
    if not one_to_one or np.any(weight != weight[0]) or np.any(np.asarray(population.du) != 4095):
        return None
    bias = np.asarray(population.bias_mant)
    return int(weight[0]) if np.all(bias == bias.flat[0]) else None


def _neuron(population: Population) -> dict[str, Any]:
    def one(value: Any, what: str) -> int:
        array = np.asarray(value)
        if np.any(array != array.flat[0]):
            raise HardwareError(f"NETX has one {what} per layer, '{population.name}' one per neuron")
        return int(array.flat[0])

    if population.spiking and population.reset != "zero":
        raise HardwareError(
            f"NETX has no reset by subtraction, '{population.name}' has one: write the network to a .h5 file, "
            "or train with reset to zero"
        )
    return {
        "type": "LOIHI",
        "iDecay": one(population.du, "du") + 1,
        "vDecay": one(population.dv, "dv"),
        "vThMant": one(population.vth, "threshold") if population.spiking else NEVER,
        "refDelay": 1,
        "wgtExp": 0,
        "gradedSpike": False,
    }


def _bias(population: Population) -> np.ndarray:
    """Bias mantissas for the exponent the loader takes, in the population's shape."""
    value = np.asarray(population.bias_mant, np.int64) << int(population.bias_exp)
    if value.size == math.prod(population.shape):
        value = value.reshape(population.shape)
    if np.any(value % (1 << BIAS_EXP)):
        raise HardwareError(
            f"NETX keeps biases as multiples of {1 << BIAS_EXP}, those of '{population.name}' are not"
        )
    return np.broadcast_to(value >> BIAS_EXP, population.shape)


def _conv_layer(projection: ConvProjection, population: Population, shape: tuple[int, ...]) -> dict[str, Any]:
    if projection.delay:
        raise HardwareError(
            f"NETX has no delay in a convolution, {_named(projection)} has {projection.delay}"
        )
    weight = _effective(projection.weight, projection.weight_exp)
    layer = {
        "type": "conv",
        "@name": population.name,
        "shape": np.array(population.shape),
        "inChannels": shape[0],
        "outChannels": weight.shape[0],
        "kernelSize": np.array(weight.shape[2:]),
        "stride": np.array(projection.stride),
        "padding": np.array(projection.padding),
        "dilation": np.array(projection.dilation),
        "groups": int(projection.groups),
        "weight": weight[..., None].astype(np.int32),
        "neuron": _neuron(population),
    }
    bias = _bias(population)
    if np.any(bias):
        per_channel = np.all(bias == bias[:, :1, :1])
        # Per neuron, the loader wants its own order: (width, height, channel).
        layer["bias"] = (bias[:, 0, 0] if per_channel else bias.transpose(2, 1, 0)).astype(np.int32)
    return layer


def _dense_layer(
    projection: DenseProjection | SparseProjection,
    back: Projection | None,
    population: Population,
    inputs: int,
) -> dict[str, Any]:
    n = math.prod(population.shape)
    weight = _matrix(projection, n, inputs)
    delay = np.asarray(projection.delay)
    layer = {
        "type": "dense" if back is None else "dense_rec",
        "@name": population.name,
        "shape": np.array(population.shape),
        "inFeatures": inputs,
        "outFeatures": n,
        "weight": weight.astype(np.int32),
        "neuron": _neuron(population),
    }
    parts = [weight]
    if back is not None:
        assert not isinstance(back, ConvProjection)
        if np.any(delay) or np.any(back.delay):
            raise HardwareError(f"NETX has no delay in a recurrent layer, '{population.name}' has one")
        parts.append(_matrix(back, n, n))
        layer["weight_rec"] = parts[1].astype(np.int32)
    elif np.any(delay):
        if delay.max() > LONGEST_DELAY:
            raise HardwareError(
                f"{_named(projection)} has a delay of {delay.max()}, lava-dl at most {LONGEST_DELAY}"
            )
        layer["delay"] = delay.astype(np.int32)
    _check_loaded(parts, _named(projection))
    bias = _bias(population).reshape(-1)
    if np.any(bias):
        layer["bias"] = bias.astype(np.int32)
    return layer


def _matrix(projection: Projection, post: int, pre: int) -> np.ndarray:
    """(post, pre) effective weights of a dense or sparse projection."""
    if isinstance(projection, DenseProjection):
        return _effective(projection.weight, projection.weight_exp)
    if not isinstance(projection, SparseProjection):
        raise HardwareError(f"NETX has no recurrent convolution, {_named(projection)} is one")
    if post * pre > MAX_SYNAPSES:
        raise HardwareError(
            f"NETX has no sparse layer, and {_named(projection)} would be {post * pre:,} entries"
        )
    matrix = np.zeros((post, pre), np.int64)
    source = np.repeat(np.arange(pre), np.diff(projection.indptr))
    np.add.at(matrix, (projection.post, source), _effective(projection.weight, projection.weight_exp))
    return matrix


def _effective(weight: np.ndarray, exponent: int) -> np.ndarray:
    """Mantissas times 2**exponent, whole numbers or HardwareError."""
    weight = np.asarray(weight, np.int64)
    if exponent >= 0:
        return weight << exponent
    if np.any(weight % (1 << -exponent)):
        raise HardwareError(f"NETX keeps whole weights, mantissas * 2**{exponent} are not whole")
    return weight >> -exponent


def _check_loaded(parts: list[np.ndarray], where: str) -> None:
    """Refuse weights that lava-dl's loader does not hand on to the synapses as they are.

    The loader shifts a layer's weights (those of a recurrent layer together) up until the largest fills 8
    bit, gives the shift back as the exponent, and keeps as many bits as it thinks they need; Lava then clips
    and truncates each matrix by the signs that occur in it. Mostly nothing is lost.
    """
    least, most = min(int(p.min()) for p in parts), max(int(p.max()) for p in parts)
    low, high = (-256, 254) if most > 0 or least >= 0 else (-255, -1)
    if least < low or most > (255 if least >= 0 else high if most > 0 else 0):
        raise HardwareError(f"{where}: NETX keeps 8-bit weights, found {least} to {most}")
    if least == most == 0:
        raise HardwareError(f"{where}: lava-dl's loader fails on a layer whose weights are all zero")
    mixed = least < 0 <= most
    if mixed:
        scale = min(127 / most if most > 0 else math.inf, -128 / least)
    else:
        scale = 255 / most if least >= 0 else -256 / least
    shift = math.floor(math.log2(scale)) + mixed
    together = int(np.bitwise_or.reduce([np.bitwise_or.reduce(p, axis=None) for p in parts]))
    zeros = min(8, (together & -together).bit_length() - 1) - mixed
    bits = 8 - shift - zeros
    for part in parts:
        loaded = part << shift if shift >= 0 else None
        one_sign = part.min() >= 0 or part.max() <= 0
        drop = 8 - bits + (not one_sign)
        if (
            loaded is None
            or drop < 0
            or np.any(loaded % (1 << drop))
            or (one_sign and abs(loaded).max() > 255)
        ):
            raise HardwareError(
                f"{where}: lava-dl's loader would alter these weights ({least} to {most}) to fit its exponent"
            )


def _named(projection: Projection) -> str:
    return f"projection '{projection.source}' -> '{projection.target}'"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (
            {"array": value.tolist(), "dtype": value.dtype.str}
            if value.dtype.kind in "biuf"
            else value.tolist()
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise HardwareError(f"metadata: a {type(value).__name__} has no place in the file")


# --- read ---


def read_net(
    path: str | os.PathLike[str],
    input_layer: InputLayer = "pixels",
    input_bias: np.ndarray | None = None,
    reader: Reader | None = None,
) -> Network:
    """The integer network of a NETX file, also one that this project did not write.

    input_layer: where the file's input layer has neurons, the raster of "pixels" drives them (pixel * weight
    as synaptic input, the file's bias as their bias), or they are left out and the raster is their "spikes".
    input_bias: bias mantissas (channel, height, width) of the input neurons in place of the file's, as users
    of lava-dl set them for a still picture.
    reader: for many files, one child process for all, see `hardware.files.guarded`.

    As the loader does, wgtExp and gradedSpike are passed over: weights are taken as they stand.
    Raises HardwareError, one line, for damaged files and for layers and neurons without an equivalent.
    """
    if reader is None:
        with Reader() as one:
            tree = one.read(path, "hdf5")
    else:
        tree = reader.read(path, "hdf5")
    try:
        return _network(tree, input_layer, input_bias)
    except HardwareError as error:
        raise HardwareError(f"{path}: {error}") from None


def _network(tree: dict[str, Any], input_layer: InputLayer, input_bias: np.ndarray | None) -> Network:
    layers = tree.get("layer")
    if not isinstance(layers, dict) or not layers:
        raise HardwareError("not a NETX file: no group 'layer' with layers in it")
    if set(layers) != {str(i) for i in range(len(layers))} or len(layers) > MAX_LAYERS:
        raise HardwareError(f"layers are named {sorted(layers)[:8]}, expected 0 to {len(layers) - 1}")
    reading = _Reading(input_layer, input_bias)
    for i in range(len(layers)):
        layer = layers[str(i)]
        if not isinstance(layer, dict):
            raise HardwareError(f"layer {i} is not a group")
        reading.add(i, _Layer(layer, f"layer {i}"))
    return reading.network(tree.get("metadata"))


class _Layer:
    """A group of the file; its values by name, each checked for what it should be."""

    def __init__(self, values: dict[str, Any], where: str):
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str):
            raise HardwareError(
                f"{self.where}: no '{key}'" if value is None else f"{self.where}: '{key}' is no text"
            )
        return value

    def integers(self, key: str) -> np.ndarray:
        value = self.values.get(key)
        if not isinstance(value, np.ndarray):
            raise HardwareError(
                f"{self.where}: no '{key}'" if value is None else f"{self.where}: '{key}' is no array"
            )
        if value.size == 0:
            raise HardwareError(f"{self.where}: '{key}' is empty")
        if value.dtype.kind == "f" and not (
            np.isfinite(value).all() and np.array_equal(value, np.trunc(value))
        ):
            raise HardwareError(f"{self.where}: '{key}' holds values that are not whole numbers")
        if max(abs(float(value.max())), abs(float(value.min()))) >= 2**31:
            raise HardwareError(f"{self.where}: '{key}' holds values beyond 32 bit")
        return value.astype(np.int64)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        if key not in self.values and default is not None:
            return default
        value = self.integers(key)
        if value.size != 1:
            raise HardwareError(f"{self.where}: '{key}' has {value.size} values, expected one")
        if not low <= value.flat[0] <= high:
            raise HardwareError(f"{self.where}: '{key}' is {value.flat[0]}, expected {low} to {high}")
        return int(value.flat[0])

    def each(self, key: str, low: int, high: int, shape: tuple[int, ...]) -> int | np.ndarray:
        """One value, or an array of the population's shape: given per neuron, of an image in the loader's order (width,
        height, channel) or per channel."""
        value = self.integers(key)
        if value.size == 1:
            return self.integer(key, low, high)
        if value.min() < low or value.max() > high:
            odd = value.min() if value.min() < low else value.max()
            raise HardwareError(f"{self.where}: '{key}' is {odd}, expected {low} to {high}")
        if len(shape) == 3 and value.shape == shape[::-1]:
            value = value.transpose(2, 1, 0)
        elif len(shape) == 3 and value.shape == shape[:1]:
            value = np.broadcast_to(value.reshape(-1, 1, 1), shape)
        elif len(shape) < 3 and value.size == math.prod(shape):
            value = value.reshape(shape)
        else:
            several = f"({shape[0]},) or {shape[::-1]}" if len(shape) == 3 else str(shape)
            raise HardwareError(
                f"{self.where}: '{key}' has shape {value.shape}, expected one value or {several}"
            )
        return int(value.flat[0]) if np.all(value == value.flat[0]) else value.astype(np.int32)

    def pair(self, key: str, low: int, default: int) -> tuple[int, int]:
        if key not in self.values:
            return default, default
        value = self.integers(key).reshape(-1)
        if value.size not in (1, 2) or value.min() < low or value.max() > 1 << 15:
            raise HardwareError(f"{self.where}: '{key}' is {value[:4].tolist()}, expected two from {low}")
        return int(value[0]), int(value[-1])

    def shape(self) -> tuple[int, ...]:
        value = self.integers("shape").reshape(-1)
        if value.size > 3 or value.min() < 1 or math.prod(value.tolist()) > MAX_NEURONS:
            raise HardwareError(
                f"{self.where}: shape {value[:4].tolist()}, expected one to three sizes, {MAX_NEURONS:,} neurons at most"
            )
        return tuple(value.tolist())

    def group(self, key: str) -> _Layer:
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise HardwareError(f"{self.where}: no group '{key}'")
        return _Layer(value, f"{self.where}, {key}")


class _Reading:
    """Layer after layer into populations and projections."""

    def __init__(self, input_layer: InputLayer, input_bias: np.ndarray | None):
        self.input_layer, self.input_bias = input_layer, input_bias
        self.inputs: list[InputPopulation] = []
        self.populations: list[Population] = []
        self.projections: list[Projection] = []
        self.source = ""
        self.shape: tuple[int, ...] = ()
        self.image = self.flattened = False

    def add(self, i: int, layer: _Layer) -> None:
        kind = layer.text("type")
        if kind == "input":
            self._input(i, layer)
        elif kind == "flatten":
            self.flattened = True
        elif kind in ("dense", "dense_rec"):
            self._dense(i, layer, kind == "dense_rec")
        elif kind == "conv":
            self._conv(i, layer)
        else:
            raise HardwareError(
                f"{layer.where}: type {kind[:40]!r}, expected input, dense, dense_rec, conv or flatten"
            )

    def network(self, metadata: Any) -> Network:
        if not self.populations:
            raise HardwareError("no layer with neurons")
        dt, known = _metadata(metadata)
        return Network(
            inputs=tuple(self.inputs),
            populations=tuple(self.populations),
            projections=tuple(self.projections),
            outputs=(self.populations[-1].name,),
            dt=dt,
            metadata=known,
        )

    def _name(self, layer: _Layer, i: int, key: str = "@name") -> str:
        name = layer.values.get(key)
        name = name if isinstance(name, str) and name else f"layer{i}"
        taken = {p.name for p in self.inputs} | {p.name for p in self.populations}
        return f"layer{i}" if name in taken else name

    def _begin(self, name: str, shape: tuple[int, ...]) -> None:
        self.inputs.append(InputPopulation(name, shape))
        self.source, self.shape, self.image = name, shape, len(shape) == 3

    def _input(self, i: int, layer: _Layer) -> None:
        if i != 0:
            raise HardwareError(f"{layer.where}: an input layer that is not the first")
        shape = layer.shape()
        self._begin(self._name(layer, i) if "@name" in layer else "input", shape)
        if "neuron" not in layer or self.input_layer == "spikes":
            return
        n = math.prod(shape)
        mantissa, exponent, signs = mantissas(np.array([layer.integer("weight", -256, 255, 64)]), layer.where)
        bias = np.asarray(layer.integer("bias", -4096, 4095, 0))
        if self.input_bias is not None:
            bias = np.asarray(self.input_bias, np.int64)
            if bias.shape != shape:
                raise HardwareError(f"input bias has shape {bias.shape}, the input layer {shape}")
        name = self._name(layer, i, "@population")
        synapses = SparseProjection(
            self.source,
            name,
            np.arange(n + 1, dtype=np.int64),
            np.arange(n, dtype=np.int32),
            np.full(n, mantissa[0], np.int32),
            exponent,
            signs,
        )
        self._population(name, shape, layer.group("neuron"), bias, synapses)

    def _dense(self, i: int, layer: _Layer, recurrent: bool) -> None:
        shape = layer.shape()
        n = math.prod(shape)
        weight = layer.integers("weight")
        if weight.ndim == 1 and weight.size % n == 0:
            weight = weight.reshape(n, -1)
        if weight.ndim != 2 or weight.shape[0] != n:
            raise HardwareError(f"{layer.where}: weight {weight.shape}, expected ({n}, inputs)")
        if not self.source:
            self._begin("input", (weight.shape[1],))
        if weight.shape[1] != math.prod(self.shape):
            raise HardwareError(
                f"{layer.where}: weight {weight.shape}, the layer before has {math.prod(self.shape)} neurons"
            )
        if self.image and not self.flattened and self.populations:
            # Without a flatten layer the loader could not connect them.
            raise HardwareError(f"{layer.where}: a dense layer on shape {self.shape} without a flatten layer")
        self.flattened = False
        delay = self._delay(layer, weight.shape)
        if recurrent and np.any(delay):
            raise HardwareError(f"{layer.where}: delays in a recurrent layer, which lava-dl mistakes")
        bias = layer.integers("bias").reshape(-1) if "bias" in layer else np.zeros(1, np.int64)
        if bias.size not in (1, n):
            raise HardwareError(f"{layer.where}: {bias.size} biases for {n} neurons")
        bias = bias.reshape(shape) if bias.size == n and n > 1 else bias[0]
        name = self._name(layer, i)
        mantissa, exponent, signs = mantissas(weight, f"{layer.where}, weight")
        synapses = DenseProjection(self.source, name, mantissa, exponent, signs, delay=delay)
        neuron = layer.group("neuron") if "neuron" in layer else _Layer(_INTEGRATOR, layer.where)
        self._population(name, shape, neuron, bias, synapses)
        # To the loader a dense layer is a row of neurons, whatever its shape in the file.
        self.image = False
        if recurrent:
            back = layer.integers("weight_rec")
            if back.size != n * n:
                raise HardwareError(f"{layer.where}: weight_rec {back.shape}, expected ({n}, {n})")
            mantissa, exponent, signs = mantissas(back.reshape(n, n), f"{layer.where}, weight_rec")
            self.projections.append(DenseProjection(name, name, mantissa, exponent, signs))

    def _delay(self, layer: _Layer, matrix: tuple[int, ...]) -> int | np.ndarray:
        if "delay" not in layer:
            return 0
        delay = layer.integers("delay")
        if delay.min() < 0 or delay.max() > LONGEST_DELAY:
            raise HardwareError(
                f"{layer.where}: delays {delay.min()} to {delay.max()}, expected 0 to {LONGEST_DELAY}"
            )
        if np.all(delay == delay.flat[0]):
            return int(delay.flat[0])
        if delay.ndim == 1 and delay.size == matrix[0]:
            delay = delay[:, None]
        elif delay.ndim == 1 and delay.size == matrix[1]:
            delay = delay[None]
        elif delay.shape != matrix:
            raise HardwareError(f"{layer.where}: delay {delay.shape} for weights {matrix}")
        return np.broadcast_to(delay, matrix).copy()

    def _conv(self, i: int, layer: _Layer) -> None:
        if not self.source:
            raise HardwareError(f"{layer.where}: a convolution without an input layer that names its shape")
        shape = layer.shape()
        weight = layer.integers("weight")
        if weight.ndim == 5 and weight.shape[4] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise HardwareError(f"{layer.where}: weight {weight.shape}, expected (out, in, height, width)")
        if not self.image or len(shape) != 3 or self.flattened:
            raise HardwareError(f"{layer.where}: a convolution from {self.shape} to {shape}")
        groups = layer.integer("groups", 1, 1 << 15, 1)
        if weight.shape[1] * groups != self.shape[0] or weight.shape[0] % groups:
            raise HardwareError(
                f"{layer.where}: weight {weight.shape} in {groups} groups on {self.shape[0]} channels"
            )
        if "delay" in layer and np.any(layer.integers("delay")):
            raise HardwareError(f"{layer.where}: a convolution with delays, which lava-dl ignores")
        stride, padding = layer.pair("stride", 1, 1), layer.pair("padding", 0, 0)
        dilation = layer.pair("dilation", 1, 1)
        around = tuple((p, p) for p in padding)
        places = positions(self.shape[1:], weight.shape[2:], stride, around, dilation)
        out = (weight.shape[0], *(max(0, n) for n in places))
        if out != shape:
            raise HardwareError(f"{layer.where}: shape {shape}, its convolution gives {out}")
        bias = layer.integers("bias") if "bias" in layer else np.zeros((1, 1, 1), np.int64)
        if bias.size == shape[0]:
            bias = bias.reshape(-1, 1, 1)
        elif bias.shape == shape[::-1]:
            bias = bias.transpose(2, 1, 0)
        elif bias.size != 1:
            raise HardwareError(f"{layer.where}: bias {bias.shape}, expected ({shape[0]},) or {shape[::-1]}")
        one = np.all(bias == bias.flat[0])
        bias = bias.reshape(-1)[0] if one else np.broadcast_to(bias, shape)
        name = self._name(layer, i)
        mantissa, exponent, signs = mantissas(weight, f"{layer.where}, weight")
        synapses = ConvProjection(
            self.source, name, mantissa, stride, padding, dilation, groups, exponent, signs
        )
        self._population(name, shape, layer.group("neuron"), bias, synapses)

    def _population(
        self, name: str, shape: tuple[int, ...], neuron: _Layer, bias: Any, synapses: Projection
    ) -> None:
        kind = neuron.text("type")
        if "sdnn" in kind.lower() or "sigma" in kind.lower():
            raise HardwareError(
                f"{neuron.where}: type {kind[:40]!r}, a sigma-delta neuron: it sends changes of a value, not spikes; "
                "only networks of LIF neurons (CUBA, LOIHI) are read"
            )
        if kind not in ("LOIHI", "CUBA"):
            raise HardwareError(f"{neuron.where}: type {kind[:40]!r}, expected LOIHI or CUBA")
        if neuron.integer("refDelay", 0, 1 << 30, 1) > 1:
            raise HardwareError(f"{neuron.where}: a refractory period, which neither Lava nor we simulate")
        threshold = np.asarray(neuron.each("vThMant", 0, 1 << 30, shape))
        silent = threshold >= NEVER
        if np.any(silent) and not np.all(silent):
            raise HardwareError(f"{neuron.where}: some thresholds are {NEVER} and more, expected all or none")
        if np.any(np.abs(bias) > 4096):
            raise HardwareError(f"{neuron.where}: bias beyond 13 bit")
        population = Population(
            name=name,
            shape=shape,
            du=neuron.each("iDecay", 1, 4096, shape) - 1,
            dv=neuron.each("vDecay", 0, 4096, shape),
            vth=NEVER - 1 if np.any(silent) else threshold if threshold.ndim else int(threshold),
            bias_mant=int(bias) if np.ndim(bias) == 0 else np.array(bias, np.int32),
            bias_exp=BIAS_EXP,
            spiking=not np.any(silent),
        )
        self.populations.append(population)
        self.projections.append(synapses)
        self.source, self.shape = name, shape


# The loader takes a dense layer without neurons for one whose current never decays and is the membrane. A
# current without memory on a membrane without leak adds up to the same, up to 24 bit.
_INTEGRATOR = {
    "type": "CUBA",
    "iDecay": np.array(4096),
    "vDecay": np.array(0),
    "vThMant": np.array(NEVER),
}


def mantissas(weight: np.ndarray, where: str = "weights") -> tuple[np.ndarray, int, SignMode]:
    """Whole weights as the chip's 8-bit mantissas, a shared exponent and a sign mode, nothing lost.

    mantissa * 2**exponent = weight; 0..255, -255..0, or with both signs even in [-256, 254].
    Raises HardwareError where no exponent does it.
    """
    weight = np.asarray(weight, np.int64)
    least, most = int(weight.min(initial=0)), int(weight.max(initial=0))
    signs: SignMode = "excitatory" if least >= 0 else "inhibitory" if most <= 0 else "mixed"
    low, high = {"excitatory": (0, 255), "inhibitory": (-255, 0), "mixed": (-256, 254)}[signs]
    together = int(np.bitwise_or.reduce(weight, axis=None)) if weight.size else 0
    zeros = (together & -together).bit_length() - 1 if together else 0
    exponent = 0
    while least < low << exponent or most > high << exponent:
        exponent += 1
    if signs == "mixed" and exponent == 0 and zeros == 0:
        exponent = -1
    if exponent < 0:
        if least * 2 < low or most * 2 > high:
            raise HardwareError(f"{where}: {least} to {most}, odd numbers do not fit 8 bit with both signs")
        return (weight * 2).astype(np.int32), -1, signs
    if together and zeros < exponent + (signs == "mixed"):
        raise HardwareError(f"{where}: {least} to {most} do not fit 8 bit and an exponent without loss")
    return (weight >> exponent).astype(np.int32), exponent, signs


def _metadata(text: Any) -> tuple[float | None, dict[str, Any]]:
    if not isinstance(text, str):
        return None, {}
    try:
        document = json.loads(text)
        dt = document.get("dt")
        known = decode_metadata({k: _revive(v) for k, v in document.get("metadata", {}).items()})
        if dt is not None and not (isinstance(dt, int | float) and math.isfinite(dt) and dt > 0):
            raise HardwareError(f"metadata: dt is {str(dt)[:40]}, expected seconds")
        return (None if dt is None else float(dt)), known
    except HardwareError:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise HardwareError("the data set 'metadata' is not what this project writes") from None


def _revive(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"array", "dtype"}:
        dtype = np.dtype(str(value["dtype"]))
        if dtype.kind not in "biuf":
            raise ValueError
        return np.array(value["array"], dtype)
    if isinstance(value, dict):
        return {k: _revive(v) for k, v in value.items()}
    return [_revive(v) for v in value] if isinstance(value, list) else value
