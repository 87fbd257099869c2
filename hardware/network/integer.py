"""The integer network a Loihi-style chip runs: populations, and the projections between them.

Frozen dataclasses with validation and no behaviour. The arithmetic they stand for is that of lava-nc 0.10's
bit-accurate LIF (``lava/proc/lif/models.py``), all integers, u and v in 24 bit::

    u <- wrap24(sgn(u) * ((|u| * (4096 - (du + 1))) >> 12) + (a << 6))
    v <- clip(sgn(v) * ((|v| * (4096 - dv)) >> 12) + u + bias_mant * 2**bias_exp, +-(2**23 - 1))
    spike where v > vth * 64;  there v <- 0, or v <- v - vth * 64 (`Population.reset`)

``a`` is the synaptic input of the step: the sum over all projections of (sum of weight times spike count)
shifted by the projection's weight exponent (a negative one shifts right, rounding down), in 32 bit; what a
convolution sums is wrapped to 24 bit. ``wrap24`` adds or subtracts 2**24 once where u leaves (-2**23, 2**23].

Everything is checked where it is made: HardwareError names what is out of range or does not fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hardware.errors import HardwareError
from hardware.network.geometry import positions

DECAY_BITS, STATE_BITS = 12, 24
# Bits by which a synaptic input is shifted up as it joins u, and a threshold when v is compared with it.
INPUT_SHIFT = 6
# u and v lie between -STATE_LIMIT and STATE_LIMIT, one end or both left out.
STATE_LIMIT = 2 ** (STATE_BITS - 1)
MAX_DECAY = 2**DECAY_BITS
MAX_THRESHOLD = 2**17 - 1
# The lowest threshold mantissa that no membrane passes: that of a population that does not spike, where a file or a simulator needs one.
NEVER = STATE_LIMIT >> INPUT_SHIFT
MAX_WEIGHT_BITS = 8
MIN_BIAS, MAX_BIAS = -(2**12), 2**12 - 1
MAX_BIAS_EXP = 7
MIN_WEIGHT_EXP, MAX_WEIGHT_EXP = -8, 7
MAX_DELAY = 63
# Of one population, in a graph or in a file. A Loihi 2 holds a million neurons: what declares more than sixteen chips of them is
# refused before anything of that size is made.
MAX_NEURONS = 1 << 24
MAX_SYNAPSES = 1 << 28

SignMode = Literal["mixed", "excitatory", "inhibitory"]
# What a spike does to the membrane: it becomes zero (in floats v_reset), or the threshold is taken from it.
Reset = Literal["zero", "subtract"]
RESETS: tuple[Reset, ...] = ("zero", "subtract")


@dataclass(frozen=True)
class Population:
    """Compartments that share a kind.

    shape: as in the NIR graph, e.g. (channels, height, width); neurons are numbered in C order.
    du, dv: decays of current and membrane, 0..4095 (dv up to 4096), scalar or one per neuron.
    vth: threshold mantissa, 0..2**17 - 1, scalar or one per neuron; spikes where v > vth * 64.
    bias_mant: 13 bit signed, scalar or one per neuron; bias_exp: 0..7.
    spiking: False for a leaky-integrator read-out, which integrates but never fires.
    reset: "zero", which lava-nc's LIF has, or "subtract", one threshold per step however far v is above it.
    dead: (neurons,) bool in C order, None: none. Such a neuron is not there: no compartment, no synapse to it or from it, no
        bias; its u and v stay 0 and it never spikes. Only neurons that spike can be dead, and not all of a population.
    """

    name: str
    shape: tuple[int, ...]
    du: int | np.ndarray = 4095
    dv: int | np.ndarray = 0
    vth: int | np.ndarray = 1
    bias_mant: int | np.ndarray = 0
    bias_exp: int = 0
    spiking: bool = True
    reset: Reset = "zero"
    dead: np.ndarray | None = None

    @property
    def neurons(self) -> int:
        """How many there are, dead ones left out."""
        return math.prod(self.shape) - (0 if self.dead is None else int(np.count_nonzero(self.dead)))

    def __post_init__(self) -> None:
        label = f"population {_brief(self.name)!r}"
        _check_name(self.name)
        _check_shape(self.shape, label)
        for key, low, high in (
            ("du", 0, MAX_DECAY - 1),
            ("dv", 0, MAX_DECAY),
            ("vth", 0, MAX_THRESHOLD),
            ("bias_mant", MIN_BIAS, MAX_BIAS),
        ):
            value = np.asarray(getattr(self, key))
            if value.shape not in ((), tuple(self.shape), (math.prod(self.shape),)):
                raise HardwareError(
                    f"{label}: {key} has shape {value.shape}, expected one value or {tuple(self.shape)}"
                )
            _check_range(value, low, high, f"{label}: {key}")
        _check_range(self.bias_exp, 0, MAX_BIAS_EXP, f"{label}: bias_exp", scalar=True)
        if not isinstance(self.reset, str) or self.reset not in RESETS:
            raise HardwareError(f"{label}: reset is {_brief(self.reset)!r}, expected 'zero' or 'subtract'")
        if self.dead is not None:
            _check_mask(self.dead, math.prod(self.shape), f"{label}: dead")
            if not self.spiking or self.dead.all():
                what = (
                    "all of its neurons are dead"
                    if self.spiking
                    else "it does not spike, yet has dead neurons"
                )
                raise HardwareError(f"{label}: {what}, expected some neurons that spike")
            if np.any(np.broadcast_to(np.ravel(self.bias_mant), self.dead.shape)[self.dead]):
                raise HardwareError(f"{label}: a dead neuron has a bias, expected 0")


@dataclass(frozen=True)
class InputPopulation:
    """Where spikes enter: non-negative integer counts per neuron and step.

    constant: 1 for an always-on input, each of whose neurons spikes in every step: nobody gives a raster for it. So
    act biases of current-based neurons, which drive their synaptic current; 0: what spikes is given from outside.
    """

    name: str
    shape: tuple[int, ...]
    constant: int = 0

    def __post_init__(self) -> None:
        label = f"input {_brief(self.name)!r}"
        _check_name(self.name)
        _check_shape(self.shape, label)
        _check_range(self.constant, 0, 1, f"{label}: constant", scalar=True)


@dataclass(frozen=True)
class DenseProjection:
    """weight: (post, pre) int, the mantissas. delay: extra steps, one for all or (post, pre)."""

    source: str
    target: str
    weight: np.ndarray
    weight_exp: int = 0
    sign_mode: SignMode = "mixed"
    weight_bits: int = 8
    delay: int | np.ndarray = 0

    def __post_init__(self) -> None:
        label = _check_projection(self, axes=2)
        if np.ndim(self.delay) and np.shape(self.delay) != self.weight.shape:
            raise HardwareError(
                f"{label}: delay has shape {np.shape(self.delay)}, expected {self.weight.shape}"
            )


@dataclass(frozen=True)
class SparseProjection:
    """Compressed by pre-synaptic neuron, as axons are: neuron j's synapses are indptr[j]:indptr[j + 1].

    indptr: (pre + 1,) int64; post: (synapses,) int32 target neuron; weight: (synapses,) int mantissas.
    """

    source: str
    target: str
    indptr: np.ndarray
    post: np.ndarray
    weight: np.ndarray
    weight_exp: int = 0
    sign_mode: SignMode = "mixed"
    weight_bits: int = 8
    delay: int = 0

    def __post_init__(self) -> None:
        label = _check_projection(self, axes=1)
        for key, array in (("indptr", self.indptr), ("post", self.post)):
            if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
                raise HardwareError(f"{label}: {key} is no one-dimensional array of integers")
        n = len(self.weight)
        if len(self.post) != n or len(self.indptr) < 1 or self.indptr[0] != 0 or self.indptr[-1] != n:
            raise HardwareError(
                f"{label}: {n} weights, {len(self.post)} targets and indptr from {self.indptr[:1]} to "
                f"{self.indptr[-1:]}, expected the same number"
            )
        if (self.indptr[1:] < self.indptr[:-1]).any():
            raise HardwareError(f"{label}: indptr decreases")


@dataclass(frozen=True)
class ConvProjection:
    """A cross-correlation, as PyTorch's ``conv2d``, on (channel, height, width).

    weight: (out, in / groups, kH, kW) int mantissas, shared by all positions.
    dead_pre, dead_post: (neurons,) bool in C order, `Population.dead` of both ends: no synapse leads from or to them.
    """

    source: str
    target: str
    weight: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_exp: int = 0
    sign_mode: SignMode = "mixed"
    weight_bits: int = 8
    delay: int = 0
    dead_pre: np.ndarray | None = None
    dead_post: np.ndarray | None = None

    def __post_init__(self) -> None:
        label = _check_projection(self, axes=4)
        for key, low in (("stride", 1), ("padding", 0), ("dilation", 1)):
            pair = getattr(self, key)
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise HardwareError(f"{label}: {key} is {_brief(pair)}, expected a pair of integers")
            _check_range(np.array(pair), low, 2**20, f"{label}: {key}")
        _check_range(self.groups, 1, 2**20, f"{label}: groups", scalar=True)
        if self.weight.shape[0] % self.groups:
            raise HardwareError(
                f"{label}: {self.weight.shape[0]} output channels, expected a multiple of its "
                f"{self.groups} groups"
            )


Projection = DenseProjection | SparseProjection | ConvProjection


@dataclass(frozen=True)
class Network:
    """Populations and projections, input first. dt: seconds per step, None where the source did not say.

    metadata: what the `.nir` file said of the run (bins, read-out, class names ...), see `hardware.graph.graph`.
    """

    inputs: tuple[InputPopulation, ...]
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    outputs: tuple[str, ...]
    dt: float | None = None
    metadata: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dt is not None and not (isinstance(self.dt, int | float) and 0 < self.dt < math.inf):
            raise HardwareError(f"dt is {_brief(self.dt)}, expected seconds per step")
        shapes: dict[str, tuple[int, ...]] = {}
        entries: list[InputPopulation | Population] = [*self.inputs, *self.populations]
        for entry in entries:
            if entry.name in shapes:
                raise HardwareError(f"two populations are named {entry.name!r}")
            shapes[entry.name] = tuple(entry.shape)
        inputs = {entry.name for entry in self.inputs}
        for name in self.outputs:
            if name not in shapes or name in inputs:
                raise HardwareError(f"output {name!r} is no population of the network")
        dead = {entry.name: entry.dead for entry in self.populations if entry.dead is not None}
        for projection in self.projections:
            label = _label(projection)
            for name in (projection.source, projection.target):
                if name not in shapes:
                    raise HardwareError(f"{label}: no population is named {name!r}")
            if projection.target in inputs:
                raise HardwareError(f"{label}: leads to an input")
            _check_fit(projection, shapes[projection.source], shapes[projection.target], label)
            _check_dead(projection, dead.get(projection.source), dead.get(projection.target), label)

    @property
    def stimulated(self) -> tuple[InputPopulation, ...]:
        """The inputs that a raster is given for: all but those that are always on."""
        return tuple(entry for entry in self.inputs if not entry.constant)


# --- checks ------------------------------------------------------------------------------------------------


def conv_output_shape(projection: ConvProjection, source: tuple[int, ...]) -> tuple[int, ...]:
    """(out channels, height, width) of a convolution of a source of shape (channels, height, width)."""
    out, _, *kernel = projection.weight.shape
    around = tuple((p, p) for p in projection.padding)
    return (out, *positions(source[1:], kernel, projection.stride, around, projection.dilation))


def weight_grid(sign_mode: SignMode, weight_bits: int) -> tuple[int, int, int]:
    """Lowest, highest and step of the mantissas: fewer bits, coarser grid; mixed spends one on the sign."""
    if sign_mode == "mixed":
        step = 2 ** (9 - weight_bits)
        return -256, 256 - step, step
    step = 2 ** (8 - weight_bits)
    return (0, 256 - step, step) if sign_mode == "excitatory" else (-256 + step, 0, step)


def _label(projection: Any) -> str:
    return f"projection {_brief(projection.source)!r} -> {_brief(projection.target)!r}"


def _brief(value: Any) -> str:
    """A value for a message of one line."""
    return " ".join(str(value).split())[:60]


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise HardwareError(f"a population is named {_brief(name)!r}, expected text")


def _check_shape(shape: Any, label: str) -> None:
    if (
        not isinstance(shape, tuple)
        or not shape
        or any(not isinstance(n, int | np.integer) or n < 1 for n in shape)
    ):
        raise HardwareError(f"{label}: shape is {_brief(shape)}, expected one positive integer per axis")
    if math.prod(int(n) for n in shape) > MAX_NEURONS:
        raise HardwareError(f"{label}: shape is {_brief(shape)}, expected at most {MAX_NEURONS:,} neurons")


def _check_range(value: Any, low: int, high: int, what: str, scalar: bool = False) -> None:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or (scalar and array.ndim):
        raise HardwareError(f"{what} is {_brief(value)}, expected integers from {low} to {high}")
    if array.size and (array.min() < low or array.max() > high):
        worst = array.min() if array.min() < low else array.max()
        raise HardwareError(f"{what} is {worst}, expected {low} to {high}")


def _check_mask(mask: Any, size: int, what: str) -> None:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (size,):
        raise HardwareError(f"{what} is {_brief(mask)}, expected {size} truths, one per neuron")


def _check_dead(projection: Projection, pre: np.ndarray | None, post: np.ndarray | None, label: str) -> None:
    """Whether nothing leads from dead neurons `pre` and to dead neurons `post`."""
    if isinstance(projection, ConvProjection):
        for key, own, expected in (
            ("dead_pre", projection.dead_pre, pre),
            ("dead_post", projection.dead_post, post),
        ):
            if (own is None) != (expected is None) or not np.array_equal(own, expected):  # type: ignore[arg-type]
                raise HardwareError(f"{label}: {key} is not what its population says")
        return
    if pre is None and post is None:
        return
    if isinstance(projection, DenseProjection):
        joined = (pre is not None and projection.weight[:, pre].any()) or (
            post is not None and projection.weight[post].any()
        )
    else:
        joined = (pre is not None and np.diff(projection.indptr)[pre].any()) or (
            post is not None and post[projection.post].any()
        )
    if joined:
        raise HardwareError(f"{label}: a synapse of a dead neuron, expected none")


def _check_projection(projection: Any, axes: int) -> str:
    label, weight = _label(projection), projection.weight
    if projection.sign_mode not in ("mixed", "excitatory", "inhibitory"):
        raise HardwareError(
            f"{label}: sign mode is {_brief(projection.sign_mode)!r}, "
            "expected mixed, excitatory or inhibitory"
        )
    _check_range(projection.weight_bits, 1, MAX_WEIGHT_BITS, f"{label}: weight_bits", scalar=True)
    _check_range(projection.weight_exp, MIN_WEIGHT_EXP, MAX_WEIGHT_EXP, f"{label}: weight_exp", scalar=True)
    _check_range(projection.delay, 0, MAX_DELAY, f"{label}: delay")
    if not isinstance(weight, np.ndarray) or weight.ndim != axes or weight.dtype.kind not in "iu":
        raise HardwareError(f"{label}: its weights are no array of integers with {axes} axes")
    low, high, step = weight_grid(projection.sign_mode, projection.weight_bits)
    _check_range(weight, low, high, f"{label}: a {projection.sign_mode} weight")
    flat = weight.reshape(-1)
    for at in range(0, flat.size if step > 1 else 0, _BLOCK):
        block = flat[at : at + _BLOCK].astype(np.int32)
        odd = block & (step - 1)
        if odd.any():
            raise HardwareError(
                f"{label}: a weight is {block[odd != 0][0]}, expected multiples of {step} "
                f"({projection.weight_bits} bits, {projection.sign_mode})"
            )
    return label


# Weights looked at together: a large projection leaves no second copy of itself in memory.
_BLOCK = 1 << 22


def _check_fit(projection: Projection, source: tuple[int, ...], target: tuple[int, ...], label: str) -> None:
    pre, post = math.prod(source), math.prod(target)
    if isinstance(projection, DenseProjection):
        if projection.weight.shape != (post, pre):
            raise HardwareError(
                f"{label}: weight has shape {projection.weight.shape}, expected {(post, pre)} (post, pre)"
            )
    elif isinstance(projection, SparseProjection):
        if len(projection.indptr) != pre + 1:
            raise HardwareError(f"{label}: indptr has {len(projection.indptr)} entries, expected {pre + 1}")
        _check_range(projection.post, 0, post - 1, f"{label}: a target")
    else:
        if len(source) != 3 or len(target) != 3:
            raise HardwareError(
                f"{label}: a convolution from {source} to {target}, expected (channels, height, width)"
            )
        channels = projection.weight.shape[1] * projection.groups
        if channels != source[0] or conv_output_shape(projection, source) != target:
            raise HardwareError(
                f"{label}: kernel {projection.weight.shape} in {projection.groups} groups makes "
                f"({channels}, ...) -> {conv_output_shape(projection, source)} of {source}, expected {target}"
            )
