"""A checked NIR graph to the integer network of a Loihi-style chip.

Populations are the graph's stateful nodes. What lies between two of them (convolutions, matrices, pooling, flatten,
scale) is linear and becomes one projection: a convolution or a matrix where it is one, a convolution whose kernel is
widened by the pooling before it, else the product of sparse matrices.

With x = v - v_reset and dt / tau = s, NIR's LIF  v <- v + s (r I + v_leak - v)  is  x <- (1 - s) x + s (r I + v_leak - v_reset):
dv = 4096 s, s r into weights and bias, the rest of the constant into the bias, spike where x > v_threshold - v_reset, x <- 0.
(NIR's membrane starts at v_leak, the chip's at v_reset: they differ in the first steps where these do.) A CubaLIF's
current is u, du = 4096 dt / tau_syn - 1; a bias acts on the membrane at once, not through the current.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import nir
import numpy as np
from scipy import sparse

from hardware import quantise, reference
from hardware.errors import HardwareError
from hardware.graph import STATEFUL, Graph, padding_of, time_step
from hardware.network import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    Projection,
    SparseProjection,
)
from hardware.simulator import depths

Array = np.ndarray
_LEAKY = (nir.LIF, nir.LI, nir.CubaLIF, nir.CubaLI)
_CURRENT = (nir.CubaLIF, nir.CubaLI)
_NOT_SPIKING = (nir.LI, nir.CubaLI, nir.I)


@dataclass(frozen=True)
class LayerReport:
    """What quantisation did to one projection and its target population.

    scale: integers per real unit (smallest, where each channel has its own). weight_error_max: of effective weights,
    relative to the largest; weight_error_rms: relative to the root mean square. threshold_error, decay_error: largest
    relative error. lost: non-zero weights that became zero. synapse_weights: non-zero mantissas.
    """

    projection: str
    scale: float
    weight_exp: int
    weight_error_max: float
    weight_error_rms: float
    threshold_error: float
    decay_error: float
    lost: int
    synapse_weights: int


@dataclass(frozen=True)
class _Path:
    """A linear map from population to population, in real numbers: a kernel, a matrix or a sparse matrix (post, pre)."""

    source: str
    target: str
    weight: Array | sparse.csr_matrix
    conv: ConvProjection | None = None
    delay: int = 0


def compile_graph(
    graph: Graph, dt: float | None = None, weight_bits: int = 8, per_channel: bool = False
) -> tuple[Network, list[LayerReport]]:
    """Compile. dt: seconds per step, for a graph that does not say. weight_bits: 1 to 8.

    per_channel: each output channel (first axis) uses the whole range of weights, with thresholds of its own; Lava's LIF
    takes one threshold per population, so this is for simulation and chips that take more.
    Raises HardwareError, naming the node, for what the chip cannot do.
    """
    step, _ = time_step(graph, dt)
    names = [name for name in graph.order if isinstance(graph.nodes[name], STATEFUL)]
    if not names:
        raise HardwareError("the graph has no neurons; expected at least one population to place on the chip")
    for name, node in graph.nodes.items():
        if isinstance(node, nir.Threshold):
            raise HardwareError(f"node {name}: Threshold has no membrane, which a chip's neuron has; use an IF or LIF")
    before = graph.predecessors()
    sources = set(names) | set(graph.inputs)
    populations, projections, reports = [], [], []
    for name in names:
        paths = [p for p in _paths(graph, name, before, sources, step)]
        drive = _constant(graph, name, before, sources)
        population, wired, found = _quantise(graph, name, paths, drive, step, weight_bits, per_channel)
        populations.append(population)
        projections += wired
        reports += found
    outputs = []
    for name in graph.outputs:
        for source in before[name]:
            if source not in names:
                raise HardwareError(f"node {source}: found between the last population and the output, expected neurons there")
            outputs.append(source)
    network = Network(
        inputs=tuple(InputPopulation(n, graph.output_shape[n]) for n in graph.inputs),
        populations=tuple(populations),
        projections=tuple(projections),
        outputs=tuple(outputs),
        dt=step,
        metadata=dict(graph.metadata),
    )
    return network, reports


def align(network: Network) -> Network:
    """The network with delays on projections that skip populations, for a chip where every projection takes one step.

    A path over k populations takes k steps longer than a direct one; the direct projection waits that long, so that
    spikes meet as they did in training. Without skips the network comes back as it is.
    """
    depth = depths(network)
    out = []
    for p in network.projections:
        ahead = depth[p.target] - depth[p.source] - 1
        out.append(replace(p, delay=p.delay + ahead) if ahead > 0 else p)
    return replace(network, projections=tuple(out))


# --- linear paths ----------------------------------------------------------------------------------------------


def _paths(
    graph: Graph, target: str, before: dict[str, list[str]], sources: set[str], dt: float
) -> list[_Path]:
    """Every way from a population or input to `target` through nodes without state."""
    out = []

    def walk(name: str, chain: list[str]) -> None:
        for source in before[name]:
            if source in sources:
                out.append(_compose(graph, source, target, chain, dt))
            else:
                walk(source, [source, *chain])

    walk(target, [])
    return out


def _compose(graph: Graph, source: str, target: str, chain: list[str], dt: float) -> _Path:
    delay, linear = 0, []
    for name in chain:
        node = graph.nodes[name]
        if isinstance(node, nir.Delay):
            steps = np.unique(reference.delay_steps(np.asarray(node.delay), dt, name))
            if len(steps) != 1:
                raise HardwareError(f"node {name}: found several delays, expected one for the projection")
            delay += int(steps[0])
        elif isinstance(node, nir.Flatten):
            continue  # neurons are numbered in C order: flattening changes no number
        else:
            linear.append(name)
    nodes = [graph.nodes[name] for name in linear]
    if len(nodes) == 1 and isinstance(nodes[0], nir.Affine | nir.Linear):
        return _Path(source, target, np.asarray(nodes[0].weight, dtype=np.float64), delay=delay)
    conv = _as_convolution(graph, linear)
    if conv is not None:
        weight, geometry = conv
        return _Path(source, target, weight, replace(geometry, source=source, target=target), delay)
    size = int(np.prod(graph.output_shape[source]))
    matrix = sparse.identity(size, format="csr")
    for name in linear:
        matrix = _matrix(graph, name) @ matrix
    matrix.eliminate_zeros()
    if nodes and isinstance(nodes[-1], nir.Affine | nir.Linear) and matrix.nnz * 4 > np.prod(matrix.shape):
        return _Path(source, target, matrix.toarray(), delay=delay)
    return _Path(source, target, matrix.tocsr(), delay=delay)


def _as_convolution(graph: Graph, chain: list[str]) -> tuple[Array, ConvProjection] | None:
    """Pooling (any number) and then one Conv2d as one convolution of a wider kernel, where that is exact."""
    if not chain or not isinstance(graph.nodes[chain[-1]], nir.Conv2d):
        return None
    node = graph.nodes[chain[-1]]
    (top, bottom), (left, right) = padding_of(node)
    if top != bottom or left != right:
        return None
    weight = np.asarray(node.weight, dtype=np.float64)
    stride, padding, dilation = (tuple(int(v) for v in x) for x in (node.stride, (top, left), node.dilation))
    for name in reversed(chain[:-1]):
        pool = graph.nodes[name]
        if not isinstance(pool, nir.SumPool2d | nir.AvgPool2d):
            return None
        kernel = tuple(int(k) for k in pool.kernel_size)
        shape = graph.input_shape[name][-2:]
        exact = (
            kernel == tuple(int(s) for s in pool.stride)
            and not np.any(pool.padding)
            and all(n % k == 0 for n, k in zip(shape, kernel, strict=True))
            and all(d == 1 for d in dilation)
        )
        if not exact:
            return None
        weight = np.kron(weight, np.ones((1, 1, *kernel)))
        if isinstance(pool, nir.AvgPool2d):
            weight = weight / (kernel[0] * kernel[1])
        stride = tuple(s * k for s, k in zip(stride, kernel, strict=True))
        padding = tuple(p * k for p, k in zip(padding, kernel, strict=True))
    empty = np.zeros((1, 1, 1, 1), dtype=np.int32)
    geometry = ConvProjection("", "", empty, stride, padding, dilation, int(node.groups))  # type: ignore[arg-type]
    return weight, geometry


def _matrix(graph: Graph, name: str) -> sparse.csr_matrix:
    """A stateless node as a sparse matrix (outputs, inputs), both in C order, without its bias."""
    node, shape = graph.nodes[name], graph.input_shape[name]
    size = int(np.prod(shape))
    if isinstance(node, nir.Affine | nir.Linear):
        return sparse.csr_matrix(np.asarray(node.weight, dtype=np.float64))
    if isinstance(node, nir.Scale):
        return sparse.diags(np.broadcast_to(node.scale, shape).ravel(), format="csr")
    # Windows: where each input stands in each window, found by passing the inputs' numbers through the same cut.
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        kernel, stride = tuple(map(int, node.kernel_size)), tuple(map(int, node.stride))
        pads = tuple((int(p), int(p)) for p in np.broadcast_to(node.padding, 2))
        value = 1.0 if isinstance(node, nir.SumPool2d) else 1.0 / (kernel[0] * kernel[1])
        weight = np.zeros((shape[0], 1, *kernel)) + value
        return _unroll(weight, shape, stride, pads, (1, 1), shape[0])
    if isinstance(node, nir.Conv2d):
        stride, dilation = tuple(map(int, node.stride)), tuple(map(int, node.dilation))
        return _unroll(np.asarray(node.weight), shape, stride, padding_of(node), dilation, int(node.groups))
    if isinstance(node, nir.Conv1d):
        stride, dilation = int(np.ravel(node.stride)[0]), int(np.ravel(node.dilation)[0])
        pads = ((0, 0), padding_of(node)[0])
        weight = np.asarray(node.weight)[:, :, None, :]
        return _unroll(weight, (shape[0], 1, shape[1]), (1, stride), pads, (1, dilation), int(node.groups))
    raise HardwareError(f"node {name}: {type(node).__name__} (input of {size}) has no equivalent on the chip")


def _unroll(
    weight: Array,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> sparse.csr_matrix:
    """A convolution as a sparse matrix: cross-correlation as PyTorch's ``conv2d``."""
    channels, rows, columns = shape
    out, per_group, kernel_y, kernel_x = weight.shape
    high = (rows + sum(padding[0]) - dilation[0] * (kernel_y - 1) - 1) // stride[0] + 1
    wide = (columns + sum(padding[1]) - dilation[1] * (kernel_x - 1) - 1) // stride[1] + 1
    o, c, ky, kx = np.nonzero(weight)
    values = weight[o, c, ky, kx]
    source = (o // (out // groups)) * per_group + c
    post, pre, data = [], [], []
    oy, ox = np.meshgrid(np.arange(high), np.arange(wide), indexing="ij")
    for k in range(len(values)):
        y = oy * stride[0] - padding[0][0] + ky[k] * dilation[0]
        x = ox * stride[1] - padding[1][0] + kx[k] * dilation[1]
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        post.append(((o[k] * high + oy) * wide + ox)[inside])
        pre.append(((source[k] * rows + y) * columns + x)[inside])
        data.append(np.full(int(inside.sum()), values[k]))
    size = (out * high * wide, channels * rows * columns)
    if not data:
        return sparse.csr_matrix(size)
    return sparse.csr_matrix((np.concatenate(data), (np.concatenate(post), np.concatenate(pre))), shape=size)


def _constant(graph: Graph, target: str, before: dict[str, list[str]], sources: set[str]) -> Array:
    """The input current of `target` when nobody spikes: all biases on the way."""

    def value(name: str) -> Array:
        if name in sources:
            return np.zeros(graph.output_shape[name])
        node = graph.nodes[name]
        x = np.zeros(graph.input_shape[name])
        for source in before[name]:
            x = x + value(source).reshape(x.shape)
        if isinstance(node, nir.Flatten | nir.Delay):
            return x.reshape(graph.output_shape[name])
        y = (_matrix(graph, name) @ x.ravel()).reshape(graph.output_shape[name]) if x.any() else np.zeros(graph.output_shape[name])
        bias = getattr(node, "bias", None)
        if bias is not None:
            bias = np.asarray(bias, dtype=np.float64)
            y = y + bias.reshape(bias.shape + (1,) * (y.ndim - bias.ndim))
        return y

    total = np.zeros(graph.input_shape[target])
    for source in before[target]:
        total = total + value(source).reshape(total.shape)
    return total


# --- integers --------------------------------------------------------------------------------------------------


def _quantise(
    graph: Graph,
    name: str,
    paths: list[_Path],
    drive: Array,
    dt: float,
    bits: int,
    per_channel: bool,
) -> tuple[Population, list[Projection], list[LayerReport]]:
    node, shape = graph.nodes[name], graph.output_shape[name]

    def full(key: str, default: float = 0.0) -> Array:
        return np.broadcast_to(np.asarray(getattr(node, key, default), dtype=np.float64), shape)

    spiking = not isinstance(node, _NOT_SPIKING)
    leak = np.zeros(shape)
    if isinstance(node, _LEAKY):
        leak = dt / full("tau_mem" if isinstance(node, _CURRENT) else "tau")
    gain = (leak if isinstance(node, _LEAKY) else np.ones(shape)) * full("r", 1.0)
    bias = gain * drive * (full("w_in", 1.0) if isinstance(node, _CURRENT) else 1.0)
    rest = full("v_reset") if spiking else np.zeros(shape)
    if isinstance(node, _LEAKY):
        bias = bias + leak * (full("v_leak") - rest)
    if (leak > 1).any():
        raise HardwareError(f"node {name}: found a time constant below the time step of {dt} s, expected at least that")
    decay_u = np.ones(shape)
    if isinstance(node, _CURRENT):
        decay_u = dt / full("tau_syn")
        gain = gain * decay_u * full("w_in", 1.0)
        if (decay_u > 1).any():
            raise HardwareError(f"node {name}: found tau_syn below the time step of {dt} s, expected at least that")
    threshold = full("v_threshold") - rest if spiking else np.zeros(shape)
    if spiking and (threshold < 0).any():
        raise HardwareError(f"node {name}: found v_threshold below v_reset, expected at least v_reset (it would never stop firing)")
    effective = [_scaled_rows(p, gain, name) for p in paths]
    modes = [quantise.sign_mode(_values(w)) for w in effective]
    scale = _scales(effective, paths, modes, threshold, bias, leak, bits, shape, per_channel and spiking)
    rows_scale = np.broadcast_to(scale.reshape(-1, *(1,) * (len(shape) - 1)), shape) if scale.size > 1 else np.broadcast_to(scale, shape)
    vth = quantise.round_threshold(threshold, rows_scale, bool((leak > 0).any()))
    dv = quantise.round_decay(leak)
    du = np.clip(quantise.round_decay(decay_u) - 1, 0, 4095)
    mantissa, exponent = quantise.round_bias(bias, rows_scale)
    population = Population(
        name,
        shape,
        du=_one_or_all(du),
        dv=_one_or_all(dv),
        vth=_one_or_all(vth) if spiking else 1,
        bias_mant=_one_or_all(mantissa),
        bias_exp=exponent,
        spiking=spiking,
    )
    projections: list[Projection] = []
    reports = []
    with np.errstate(divide="ignore", invalid="ignore"):
        threshold_error = float(np.nan_to_num(np.abs(vth / rows_scale - threshold) / threshold).max()) if spiking else 0.0
        decay_error = float(np.nan_to_num(np.abs(dv / 4096 - leak) / leak).max())
    for path, weight, mode in zip(paths, effective, modes, strict=True):
        by_row = scale if scale.size > 1 else scale.reshape(1)
        values = _values(weight)
        per_value = _row_scale(path, weight, by_row, shape)
        exp = quantise.weight_exponent(float(np.abs(values * per_value).max(initial=0.0)), 1.0, mode, bits)
        if exp > quantise.EXPONENT_MAX:
            raise HardwareError(
                f"node {name}: weights from {path.source} need the exponent {exp}, expected at most {quantise.EXPONENT_MAX}"
            )
        mantissas = quantise.round_weights(values, per_value, exp, mode, bits)
        projections.append(_projection(path, weight, mantissas, exp, mode, bits))
        error = mantissas * 2.0**exp / per_value - values
        largest = float(np.abs(values).max(initial=0.0)) or 1.0
        rms = float(np.sqrt(np.mean(values[values != 0] ** 2))) if np.any(values) else 1.0
        reports.append(
            LayerReport(
                f"{path.source} -> {name}",
                float(scale.min()),
                exp,
                float(np.abs(error).max(initial=0.0)) / largest,
                float(np.sqrt(np.mean(error[values != 0] ** 2))) / rms if np.any(values) else 0.0,
                threshold_error,
                decay_error,
                int(((values != 0) & (mantissas == 0)).sum()),
                int(np.count_nonzero(mantissas)),
            )
        )
    return population, projections, reports


def _values(weight: Array | sparse.csr_matrix) -> Array:
    return weight.data if sparse.issparse(weight) else weight


def _scaled_rows(path: _Path, gain: Array, name: str) -> Array | sparse.csr_matrix:
    """Weights times what the target population multiplies its input with."""
    if path.conv is not None:
        per_channel = gain.reshape(gain.shape[0], -1)
        if (per_channel != per_channel[:, :1]).any():
            raise HardwareError(
                f"node {name}: found time constants or resistances that differ within a channel of a convolution, expected one per channel"
            )
        return path.weight * per_channel[:, 0, None, None, None]
    if sparse.issparse(path.weight):
        return sparse.csr_matrix(sparse.diags(gain.ravel()) @ path.weight)
    return path.weight * gain.reshape(-1, 1)


def _row_scale(path: _Path, weight: Array | sparse.csr_matrix, scale: Array, shape: tuple[int, ...]) -> Array:
    """The scale of each value of `_values(weight)`, or something that broadcasts to it."""
    if scale.size == 1:
        return scale
    if path.conv is not None:
        return scale[:, None, None, None]
    each = np.repeat(scale, int(np.prod(shape[1:])))
    if sparse.issparse(weight):
        return np.repeat(each, np.diff(weight.indptr))
    return each[:, None]


def _scales(
    weights: list,
    paths: list[_Path],
    modes: list,
    threshold: Array,
    bias: Array,
    leak: Array,
    bits: int,
    shape: tuple[int, ...],
    per_channel: bool,
) -> Array:
    """One scale, or one per channel (first axis) of the population."""
    channels = shape[0] if per_channel else 1
    largest, drive = np.zeros(channels), np.zeros(channels)
    mode = modes[0] if len(set(modes)) == 1 else "mixed"
    for path, weight in zip(paths, weights, strict=True):
        absolute = abs(weight)
        if path.conv is not None:
            rows = absolute.reshape(len(absolute), -1)
            top, total = rows.max(1), rows.sum(1)
        elif sparse.issparse(absolute):
            top = np.asarray(absolute.max(axis=1).todense()).ravel()
            total = np.asarray(absolute.sum(axis=1)).ravel()
        else:
            top, total = absolute.max(1, initial=0.0), absolute.sum(1)
        largest = np.maximum(largest, top.reshape(channels, -1).max(1))
        drive += total.reshape(channels, -1).max(1)
    thresholds = threshold.reshape(channels, -1).max(1)
    biases = np.abs(bias).reshape(channels, -1).max(1)
    return np.array(
        [
            quantise.choose_scale(w, t, max(4 * d, 4 * t), b, mode, bits)
            for w, t, d, b in zip(largest, thresholds, drive, biases, strict=True)
        ]
    )


def _projection(
    path: _Path, weight: Array | sparse.csr_matrix, mantissas: Array, exp: int, mode: str, bits: int
) -> Projection:
    common = {"weight_exp": exp, "sign_mode": mode, "weight_bits": bits, "delay": path.delay}
    if path.conv is not None:
        return replace(path.conv, weight=mantissas, **common)
    if sparse.issparse(weight):
        by_pre = sparse.csr_matrix((mantissas, weight.indices, weight.indptr), shape=weight.shape).tocsc()
        by_pre.eliminate_zeros()
        by_pre.sort_indices()
        return SparseProjection(
            path.source,
            path.target,
            by_pre.indptr.astype(np.int64),
            by_pre.indices.astype(np.int32),
            by_pre.data.astype(np.int32),
            **common,  # type: ignore[arg-type]
        )
    return DenseProjection(path.source, path.target, mantissas, **common)  # type: ignore[arg-type]


def _one_or_all(values: Array) -> int | Array:
    """A number where all are equal: a chip's populations share what they can."""
    first = values.flat[0]
    return int(first) if (values == first).all() else values
