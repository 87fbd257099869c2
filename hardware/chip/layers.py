"""What each population of a network takes of a core that holds one layer (`hardware.chip.chips.LayerCores`), or why none can hold it.

Such a core sums spikes over squares of a population's output (pooling), convolves them, and integrates. A fully connected layer
is a convolution whose kernel covers its whole input. The integer network has no pooling of its own: a sum over p by p spikes
ahead of a kernel is a kernel of p by p blocks of equal weights, at p times the stride, and is found again as such. Several
projections into one population are channels of one kernel, so that all must be of one size, stride and padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hardware.chip.chips import Chip, LayerCores
from hardware.chip.memory import kernel_words, neuron_words
from hardware.errors import HardwareError
from hardware.network.integer import (
    INPUT_SHIFT,
    MAX_DECAY,
    MAX_SYNAPSES,
    ConvProjection,
    DenseProjection,
    Network,
    Population,
    Projection,
)
from hardware.network.timing import depths, is_recurrent, latency

Pair = tuple[int, int]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """A projection as a core runs it: weights (filters, channels, size, size) after pooling by `pooling`."""

    weight: np.ndarray
    stride: Pair
    padding: Pair
    pooling: int


@dataclass(frozen=True)
class Layer:
    """A population and what it takes of a core's three memories, in words. pooling: of each projection into it, by source."""

    name: str
    kernel_words: int
    neuron_words: int
    bias_words: int
    pooling: tuple[tuple[str, int], ...]

    def fits(self, cores: LayerCores, core: int) -> bool:
        return not self.excess(cores, core)

    def excess(self, cores: LayerCores, core: int) -> dict[str, tuple[int, int]]:
        """Per memory that is too small: words needed and words there are."""
        both = {
            key: (getattr(self, key), getattr(cores, key)[core])
            for key in ("kernel_words", "neuron_words", "bias_words")
        }
        return {key: pair for key, pair in both.items() if pair[0] > pair[1]}


def layers_of(network: Network, chip: Chip) -> tuple[Layer, ...]:
    """Every population as a layer, in the network's order.

    Raises HardwareError, naming the population or the projection, for what a core of the chip cannot do, whatever its size.
    """
    cores = chip.layers
    if cores is None:
        raise HardwareError(
            f"{chip.name}: its cores are not bound to layers; expected a chip file with [layers]"
        )
    shape = {entry.name: tuple(entry.shape) for entry in network.inputs}
    shape |= {entry.name: tuple(entry.shape) for entry in network.populations}
    _check_projections(network, chip, cores)
    return tuple(_layer(network, population, shape, chip, cores) for population in network.populations)


def _check_projections(network: Network, chip: Chip, cores: LayerCores) -> None:
    depth = depths(network)
    reached: dict[str, set[str]] = {}
    for projection in network.projections:
        where = f"projection {projection.source!r} -> {projection.target!r}"
        if is_recurrent(network, projection):
            raise HardwareError(f"{where}: leads back, {chip.name} has no recurrent layers")
        needed = latency(network, projection, int(np.max(projection.delay)), "zero_delay", depth)
        if needed > chip.neuron.delay_steps:
            raise HardwareError(
                f"{where}: has a delay of {needed} steps, {chip.name} has at most {chip.neuron.delay_steps}"
            )
        reached.setdefault(projection.source, set()).add(projection.target)
    for source, targets in reached.items():
        if len(targets) > cores.destinations:
            raise HardwareError(
                f"population {source!r}: its spikes go to {len(targets)} populations, on {chip.name} to {cores.destinations} at most"
            )


def _layer(
    network: Network, population: Population, shape: dict[str, Shape], chip: Chip, cores: LayerCores
) -> Layer:
    where = f"population {population.name!r}"
    if population.dead is not None:
        raise HardwareError(
            f"{where}: {int(population.dead.sum()):,} of its neurons never spike (infinite thresholds), on {chip.name} a core takes whole "
            "feature maps; expected finite thresholds"
        )
    _check_neurons(population, chip, where)
    into = [p for p in network.projections if p.target == population.name]
    filters, height, width = _image(population.shape, where)
    kernels = []
    for projection in into:
        label = f"projection {projection.source!r} -> {projection.target!r}"
        kernel = _kernel(
            projection, _image(shape[projection.source], label), (filters, height, width), cores, label
        )
        _check_kernel(kernel, _image(shape[projection.source], label), chip, cores, label)
        kernels.append(kernel)
    first = kernels[0] if kernels else None
    for projection, kernel in zip(into, kernels, strict=True):
        assert first is not None
        if (kernel.weight.shape[2:], kernel.stride, kernel.padding) != (
            first.weight.shape[2:],
            first.stride,
            first.padding,
        ):
            raise HardwareError(
                f"{where}: its projections from {into[0].source!r} and {projection.source!r} differ in kernel, stride or padding, "
                f"a core of {chip.name} has one kernel"
            )
    channels = sum(kernel.weight.shape[1] for kernel in kernels)
    most = max(channels, filters)
    if most > cores.channels:
        raise HardwareError(f"{where}: has {most:,} channels, {chip.name} at most {cores.channels:,}")
    if max(height, width) > cores.output_size:
        raise HardwareError(
            f"{where}: is {height} by {width}, {chip.name} has neurons on {cores.output_size} by {cores.output_size} positions at most"
        )
    taps = math.prod(first.weight.shape[2:]) if first is not None else 1
    return Layer(
        population.name,
        kernel_words(channels, filters, taps) if channels else 0,
        neuron_words(filters, height, width),
        filters if np.any(population.bias_mant) else 0,
        tuple((p.source, k.pooling) for p, k in zip(into, kernels, strict=True)),
    )


def _check_neurons(population: Population, chip: Chip, where: str) -> None:
    """What `hardware.compile.compiler` makes of a graph keeps to this; a file of integers may not."""
    model = chip.neuron
    if not population.spiking and not model.membrane_readout:
        raise HardwareError(f"{where}: its membranes are read out, {chip.name} gives out spikes only")
    if model.membrane_decay_bits == 0 and np.any(population.dv):
        raise HardwareError(f"{where}: its membranes leak, those of {chip.name} cannot")
    if model.current_decay_bits == 0 and np.any(np.asarray(population.du) != MAX_DECAY - 1):
        raise HardwareError(f"{where}: its synaptic currents have a memory, those of {chip.name} have none")
    threshold = np.asarray(population.vth)
    if threshold.max() > model.largest_threshold:
        raise HardwareError(
            f"{where}: its highest threshold is {threshold.max()}, on {chip.name} it is {model.largest_threshold} at most"
        )
    if population.spiking and model.thresholds_per == "population" and threshold.min() != threshold.max():
        raise HardwareError(
            f"{where}: its thresholds differ from neuron to neuron, {chip.name} has one per population"
        )
    bias = np.broadcast_to(_shaped(population.bias_mant, population.shape), population.shape).astype(np.int64)
    bias = bias << int(population.bias_exp)
    unit = 2 ** (INPUT_SHIFT - model.input_shift)
    if (bias % unit).any():
        raise HardwareError(
            f"{where}: its biases are no multiples of {unit}, the membrane's step on {chip.name}"
        )
    per_channel = bias.reshape(population.shape[0], -1)
    if (per_channel != per_channel[:, :1]).any():
        raise HardwareError(f"{where}: its biases differ within a channel, {chip.name} has one for each")


def _shaped(value: int | np.ndarray, shape: Shape) -> np.ndarray:
    array = np.asarray(value)
    return array.reshape(shape) if array.size == math.prod(shape) and array.ndim else array


def _image(shape: Shape, where: str) -> tuple[int, int, int]:
    """(channels, height, width) of a population's shape; one axis are channels."""
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) != 3:
        raise HardwareError(f"{where}: shape {shape}, expected (channels, height, width) or (neurons,)")
    return shape[0], shape[1], shape[2]


def _kernel(
    projection: Projection,
    source: tuple[int, int, int],
    target: tuple[int, int, int],
    cores: LayerCores,
    label: str,
) -> Kernel:
    """The projection as a convolution after the largest pooling that its weights show."""
    if isinstance(projection, ConvProjection):
        if projection.dilation != (1, 1):
            raise HardwareError(
                f"{label}: has a dilation of {projection.dilation}, expected (1, 1) on cores of layers"
            )
        weight, stride, padding = _ungrouped(projection), projection.stride, projection.padding
    else:
        if target[1:] != (1, 1):
            raise HardwareError(
                f"{label}: a matrix onto an image of {target}, cores of layers have convolutions and fully connected layers only"
            )
        weight = _matrix(projection, target[0], math.prod(source)).reshape(target[0], *source)
        stride, padding = (1, 1), (0, 0)
    for pooling in sorted(cores.pooling, reverse=True):
        found = _pooled(
            weight, stride, padding, source, target, pooling, isinstance(projection, ConvProjection)
        )
        if found is not None:
            return found
    return Kernel(weight, stride, padding, 1)


def _pooled(
    weight: np.ndarray,
    stride: Pair,
    padding: Pair,
    source: tuple[int, int, int],
    target: tuple[int, int, int],
    pooling: int,
    strided: bool,
) -> Kernel | None:
    """The kernel behind a sum over `pooling` by `pooling` spikes that does the same, None where there is none.

    A kernel that covers its whole input is at one position only, whatever its stride; what the sum leaves out at the far ends has no weight then.
    """
    p = pooling
    if not strided:
        rows, columns = (n // p * p for n in weight.shape[2:])
        if not rows or not columns or weight[:, :, rows:].any() or weight[:, :, :, columns:].any():
            return None
        weight, stride = weight[:, :, :rows, :columns], (p, p)
    sizes = (*weight.shape[2:], *stride, *padding)
    if any(n % p for n in sizes):
        return None
    for axis in (0, 1):
        end = (target[1 + axis] - 1) * stride[axis] - padding[axis] + weight.shape[2 + axis]
        if source[1 + axis] % p and end > source[1 + axis] // p * p:
            return None
    kernel = weight[:, :, ::p, ::p]
    if not np.array_equal(weight, kernel.repeat(p, axis=2).repeat(p, axis=3)):
        return None
    return Kernel(kernel, (stride[0] // p, stride[1] // p), (padding[0] // p, padding[1] // p), p)


def _check_kernel(
    kernel: Kernel, source: tuple[int, int, int], chip: Chip, cores: LayerCores, label: str
) -> None:
    height, width = kernel.weight.shape[2:]
    if height != width:
        raise HardwareError(f"{label}: its kernel is {height} by {width}, {chip.name} has square ones only")
    if height > cores.kernel_size:
        raise HardwareError(
            f"{label}: its kernel is {height} by {width}, {chip.name} has {cores.kernel_size} by {cores.kernel_size} at most"
        )
    if any(stride not in cores.strides for stride in kernel.stride):
        raise HardwareError(
            f"{label}: has a stride of {kernel.stride}, {chip.name} has {', '.join(map(str, cores.strides))}"
        )
    if max(kernel.padding) > cores.padding:
        raise HardwareError(
            f"{label}: has a padding of {kernel.padding}, {chip.name} at most {cores.padding}"
        )
    size = max(source[1:]) // kernel.pooling
    if size > cores.input_size:
        raise HardwareError(
            f"{label}: its input is {source[1]} by {source[2]}, {chip.name} takes {cores.input_size} by {cores.input_size} at most"
        )
    if chip.neuron.sign_modes == ("mixed",) and kernel.weight.size:
        step = 2
        if (kernel.weight % step).any() or kernel.weight.max() > 254 or kernel.weight.min() < -256:
            raise HardwareError(
                f"{label}: its weights do not fit {max(chip.weight_bits)} bits with a sign, as {chip.name} has them"
            )


def _ungrouped(projection: ConvProjection) -> np.ndarray:
    """(filters, channels, kernel height, kernel width) effective weights; groups are written out with zeros."""
    weight = _effective(projection)
    groups = projection.groups
    if groups == 1:
        return weight
    filters, channels = weight.shape[:2]
    full = np.zeros((filters, channels * groups, *weight.shape[2:]), weight.dtype)
    each = filters // groups
    for g in range(groups):
        rows = slice(g * each, (g + 1) * each)
        full[rows, g * channels : (g + 1) * channels] = weight[rows]
    return full


def _matrix(projection: Projection, post: int, pre: int) -> np.ndarray:
    """(post, pre) effective weights of a dense or sparse projection."""
    if isinstance(projection, DenseProjection):
        return _effective(projection)
    assert not isinstance(projection, ConvProjection)
    if post * pre > MAX_SYNAPSES:
        raise HardwareError(
            f"projection {projection.source!r} -> {projection.target!r}: {post * pre:,} weights when written out"
        )
    matrix = np.zeros((post, pre), np.int64)
    source = np.repeat(np.arange(pre), np.diff(projection.indptr))
    np.add.at(matrix, (projection.post, source), _effective(projection))
    return matrix


def _effective(projection: Projection) -> np.ndarray:
    weight = np.asarray(projection.weight, np.int64)
    exponent = projection.weight_exp
    return weight << exponent if exponent >= 0 else weight >> -exponent
