"""Writing NETX, lava-dl's network file: what it cannot say is refused, see `netx`."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import h5py
import numpy as np

from hardware.errors import HardwareError
from hardware.files.netx import BIAS_EXP, LONGEST_DELAY
from hardware.files.whole import write_hdf5
from hardware.network.connectivity import unrolled
from hardware.network.integer import (
    MAX_SYNAPSES,
    NEVER,
    ConvProjection,
    DenseProjection,
    Network,
    Population,
    Projection,
    SparseProjection,
)


def write_net(network: Network, path: str | os.PathLike[str]) -> None:
    """Write `network` as a NETX file, whole or not at all.

    Raises HardwareError, before anything is written, for what NETX cannot say (see `hardware.files.netx`).
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
