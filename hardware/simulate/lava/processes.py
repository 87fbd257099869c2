"""An integer network as Lava's processes: what says what, and in which order Lava numbers neurons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hardware.errors import HardwareError
from hardware.network.integer import (
    NEVER,
    ConvProjection,
    DenseProjection,
    Network,
    Population,
    Projection,
    SparseProjection,
)
from hardware.network.timing import depths

# lava-nc keeps stride, padding, dilation and kernel size in 8 bit.
MAX_GEOMETRY = 127
# Graded spikes of up to 24 bit; 0 would have Lava take every count as one spike.
MESSAGE_BITS = 24


def build(
    network: Network,
    rasters: Mapping[str, np.ndarray],
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> dict[str, Any]:
    """Lava's processes of inputs and populations by name, connected by those of the projections.

    rasters: one (steps, *shape) int32 array per input; a source repeats it. Needs lava-nc.
    """
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF, LIFReset

    from hardware.simulate.lava.soft_reset import SoftResetLIF

    nodes: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    graded: dict[str, bool] = {}
    for entry in network.inputs:
        shapes[entry.name] = tuple(entry.shape)
        data = np.stack([_to_lava(step, entry.shape) for step in rasters[entry.name]], axis=-1)
        graded[entry.name] = bool(data.size) and int(data.max()) > 1
        nodes[entry.name] = RingBuffer(data=np.ascontiguousarray(data, np.int32))
    depth = depths(network)
    for p in network.populations:
        shapes[p.name] = tuple(p.shape)
        graded[p.name] = False
        parameters = {
            "shape": lava_shape(p.shape),
            "du": _parameter(p.du, p.shape),
            "dv": _parameter(p.dv, p.shape),
            "vth": _threshold(p) if p.spiking else NEVER,
            "bias_mant": _parameter(p.bias_mant, p.shape),
            "bias_exp": int(p.bias_exp),
            "name": p.name,
        }
        soft = p.spiking and p.reset == "subtract"
        if reset_interval is None:
            nodes[p.name] = (SoftResetLIF if soft else LIF)(**parameters)
        else:
            offset = (depth[p.name] + reset_offset + 1) % reset_interval
            kind = SoftResetLIF if soft else LIFReset
            nodes[p.name] = kind(**parameters, reset_interval=reset_interval, reset_offset=offset)
    for projection in network.projections:
        source, target = projection.source, projection.target
        _connect(projection, nodes[source], nodes[target], shapes[source], shapes[target], graded[source])
    return nodes


def _threshold(population: Population) -> Any:
    """Lava's Conv has all synapses of its kernels: what they do to a dead neuron does not pass its threshold."""
    if population.dead is None:
        return _parameter(population.vth, population.shape)
    vth = np.broadcast_to(np.ravel(population.vth), population.dead.shape)
    return _parameter(np.where(population.dead, NEVER, vth), population.shape)


def _connect(
    projection: Projection,
    source: Any,
    target: Any,
    source_shape: tuple[int, ...],
    target_shape: tuple[int, ...],
    graded: bool,
) -> None:
    bits = MESSAGE_BITS if graded else 0
    if isinstance(projection, ConvProjection):
        port = source.s_out
        if projection.delay:
            relay = _relay(math.prod(source_shape), projection.delay, bits)
            _flat(port, source_shape).connect(relay.s_in)
            port = _unflat(relay.a_out, source_shape)
        synapse = _conv(projection, source_shape, bits)
        port.connect(synapse.s_in)
        synapse.a_out.connect(target.a_in)
        return
    if isinstance(projection, DenseProjection):
        synapse = _dense(projection, bits)
    else:
        synapse = _sparse(projection, math.prod(target_shape), bits)
    _flat(source.s_out, source_shape).connect(synapse.s_in)
    _unflat(synapse.a_out, target_shape).connect(target.a_in)


def _dense(projection: DenseProjection, bits: int) -> Any:
    from lava.proc.dense.process import DelayDense, Dense

    weights = np.asarray(projection.weight, np.int32)
    common = {"weights": weights, "num_message_bits": bits, **_synapse(projection)}
    delay = np.broadcast_to(np.asarray(projection.delay, np.int64), weights.shape)
    most = int(delay.max(initial=0))
    if most == 0:
        return Dense(**common)
    return DelayDense(**common, delays=delay.copy(), max_delay=most)


def _sparse(projection: SparseProjection, neurons: int, bits: int) -> Any:
    from lava.proc.sparse.process import DelaySparse, Sparse
    from scipy.sparse import csc_matrix, csr_matrix

    shape = (neurons, len(projection.indptr) - 1)
    weight = np.asarray(projection.weight, np.int32)
    weights = csc_matrix((weight, np.asarray(projection.post), np.asarray(projection.indptr)), shape).tocsr()
    weights.sum_duplicates()
    if weights.nnz != len(weight):
        raise HardwareError(f"{_name(projection)}: two synapses between the same neurons, Lava merges them")
    common = {"weights": weights, "num_message_bits": bits, **_synapse(projection)}
    delay = int(projection.delay)
    if delay == 0:
        return Sparse(**common)
    # Lava wants 64-bit delays, of the weights' own structure.
    delays = csr_matrix((np.full(weights.nnz, delay, np.int64), weights.indices, weights.indptr), shape)
    return DelaySparse(**common, delays=delays, max_delay=delay)


def _conv(projection: ConvProjection, source_shape: tuple[int, ...], bits: int) -> Any:
    from lava.proc.conv.process import Conv

    weight, exponent = np.asarray(projection.weight, np.int64), int(projection.weight_exp)
    geometry = (*projection.stride, *projection.padding, *projection.dilation, *weight.shape[2:])
    if max(*geometry, projection.groups) > MAX_GEOMETRY:
        raise HardwareError(
            f"{_name(projection)}: stride, padding, dilation, kernel or groups above {MAX_GEOMETRY}, "
            "which Lava keeps in 8 bit"
        )
    if exponent < 0 and np.any(weight % (1 << -exponent)):
        raise HardwareError(
            f"{_name(projection)}: Lava's Conv has no exponent, its weights are not "
            f"multiples of {1 << -exponent}"
        )
    weight = weight << exponent if exponent >= 0 else weight >> -exponent
    # (out, in, kH, kW), cross-correlation -> (out, kW, kH, in), convolution
    kernel = weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
    return Conv(
        weight=np.ascontiguousarray(kernel, np.int32),
        input_shape=lava_shape(source_shape),
        stride=tuple(projection.stride)[::-1],
        padding=tuple(projection.padding)[::-1],
        dilation=tuple(projection.dilation)[::-1],
        groups=int(projection.groups),
        num_message_bits=bits,
    )


def _relay(neurons: int, delay: int, bits: int) -> Any:
    """One to one, weight 1: a spike comes out `delay` steps later."""
    from lava.proc.sparse.process import DelaySparse, Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import identity

    weights = identity(neurons, np.int32, "csr")
    if delay == 1:
        return Sparse(weights=weights, num_message_bits=bits, sign_mode=SignMode.EXCITATORY)
    return DelaySparse(
        weights=weights,
        delays=identity(neurons, np.int64, "csr") * (delay - 1),
        max_delay=delay - 1,
        num_message_bits=bits,
        sign_mode=SignMode.EXCITATORY,
    )


def _synapse(projection: DenseProjection | SparseProjection) -> dict[str, Any]:
    from lava.utils.weightutils import SignMode

    return {
        "weight_exp": int(projection.weight_exp),
        "num_weight_bits": int(projection.weight_bits),
        "sign_mode": SignMode[projection.sign_mode.upper()],
    }


def _name(projection: Projection) -> str:
    return f"projection '{projection.source}' -> '{projection.target}'"


# Layout: C order of (channel, height, width) here, of (width, height, channel) there.


def lava_shape(shape: Iterable[int]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in shape)
    return shape[::-1] if len(shape) == 3 else (math.prod(shape),)


def _to_lava(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return values.transpose(2, 1, 0) if len(shape) == 3 else values.reshape(-1)


def _parameter(value: Any, shape: tuple[int, ...]) -> Any:
    if np.ndim(value) == 0:
        return int(value)
    array = np.broadcast_to(np.asarray(value, np.int64).reshape(_at_shape(value, shape)), shape)
    return np.ascontiguousarray(_to_lava(array, shape))


def _at_shape(value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """One value per neuron may come flat or in the population's shape."""
    return shape if np.size(value) == math.prod(shape) else np.shape(value)


def _flat(port: Any, shape: tuple[int, ...]) -> Any:
    return port.transpose([2, 1, 0]).flatten() if len(shape) == 3 else port


def _unflat(port: Any, shape: tuple[int, ...]) -> Any:
    return port.reshape(tuple(shape)).transpose([2, 1, 0]) if len(shape) == 3 else port


def from_lava(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    moved = array.transpose(0, 3, 2, 1) if len(shape) == 3 else array
    return moved.reshape(len(array), *shape)
