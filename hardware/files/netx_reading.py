"""Reading NETX, lava-dl's network file, also one that this project did not write; see `netx`."""

from __future__ import annotations

import json
import math
import os
from typing import Any, Literal

import numpy as np

from hardware.errors import HardwareError
from hardware.files.guarded import Reader
from hardware.files.metadata import decode_metadata
from hardware.files.netx import BIAS_EXP, LONGEST_DELAY, MAX_LAYERS
from hardware.network.geometry import positions
from hardware.network.integer import (
    MAX_NEURONS,
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

InputLayer = Literal["pixels", "spikes"]


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
