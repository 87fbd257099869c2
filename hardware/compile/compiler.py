"""From a NIR graph to the integer network: fold what is linear, choose scales, round.

Neurons become populations, everything between two of them one projection. The rounding itself is
`hardware.compile.quantise`'s, the folding `hardware.compile.linear`'s. A neuron's membrane, threshold and bias scale
together, so that one factor per neuron is free; its synapses bind those factors:

- one per population (the default): one threshold for all where the graph has one, as Lava and Loihi 1 need;
- one per output channel (`per_channel`): every channel uses the whole range of its weights, and thresholds
  differ from neuron to neuron, which Loihi 2's programmable neurons allow. A read-out's membranes are
  compared with each other, so that a population that does not spike always has one.

Membranes are shifted so that a reset goes to zero, the only one the chip has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
from scipy import sparse

from hardware.compile import pins, quantise
from hardware.compile.linear import (
    Convolution,
    Diagonal,
    Map,
    Matrix,
    apply,
    compose,
    of_node,
    scaled_rows,
    symmetric,
    to_matrix,
)
from hardware.errors import HardwareError
from hardware.files.netx import BIAS_EXP
from hardware.graph.graph import INTEGRATORS, SPIKING, Graph, delay_steps, time_step
from hardware.network.integer import (
    MAX_DELAY,
    MAX_THRESHOLD,
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    Projection,
    SignMode,
    SparseProjection,
    weight_grid,
)
from hardware.network.timing import depths, is_recurrent, skipped_layers

Array = np.ndarray
NEURONS = (*SPIKING, *INTEGRATORS)
# From this share of non-zero weights on, a matrix is kept as one.
DENSE_FROM = 0.5
MAX_PATHS = 4096
# A read-out's membrane must not run into its limits: assume this share of its sources active in every step,
# over its time constant, at most so many steps.
READOUT_ACTIVITY, READOUT_STEPS = 0.1, 100


@dataclass(frozen=True)
class LayerReport:
    """What rounding did to one projection and to the population it leads to; errors are relative.

    scale: integer units (of a weight at the exponent 0) per unit of the graph's weights, with the neurons' gain
        and linear layers folded in, lowest and highest over channels. weight_error_max: of the largest weight. weight_error_rms: of the root mean square.
    zeroed: non-zero weights that were rounded to zero. threshold_error, bias_error, du_error, dv_error: the
        largest over neurons (bias: of the largest bias; du, dv: of the share lost per step).
    membrane_scale: units of v per unit of the graph's membrane, median. membrane_offset: the graph's membrane
        where v is 0, median.
    """

    source: str
    target: str
    kind: str
    scale: tuple[float, float]
    weight_exp: int
    sign_mode: SignMode
    weight_bits: int
    delay: int
    parameters: int
    zeroed: int
    weight_error_max: float
    weight_error_rms: float
    threshold_error: float
    bias_error: float
    du_error: float
    dv_error: float
    membrane_scale: float
    membrane_offset: float
    notes: tuple[str, ...] = ()


def compile_graph(
    graph: Graph,
    dt: float | None = None,
    weight_bits: int = 8,
    per_channel: bool = False,
    netx: bool = False,
) -> tuple[Network, list[LayerReport]]:
    """The integer network of a graph, and a report for each projection, in the network's order.

    dt: seconds per step; None: as `hardware.graph.graph.time_step` finds it. weight_bits: 1..8 of the mantissas.
    netx: keep to what a NETX file can say: weights without an exponent, biases with the exponent 6.
    Raises HardwareError, naming the node, for what the chip cannot do. A spike resets the membrane to v_reset
    (NIR says no other); zeros stay zeros. A network trained on the chip's integers says its scales, which are kept
    (see `hardware.compile.pins`).
    """
    if not isinstance(weight_bits, int) or not 1 <= weight_bits <= 8:
        raise HardwareError(f"weights of {weight_bits} bits, expected 1 to 8")
    step, _ = time_step(graph, dt)
    inputs = tuple(InputPopulation(name, graph.output_shape[name]) for name in graph.inputs)
    layers, output = _layers(graph, step)
    pinned = pins.read(graph.metadata, weight_bits, netx)
    weight_bits = pinned.bits if pinned else weight_bits
    quantised = [
        _quantise(layer, weight_bits, per_channel, netx, pinned.of(layer.neurons.name) if pinned else None)
        for layer in layers
    ]
    network = Network(
        inputs=inputs,
        populations=tuple(q.population for q in quantised),
        projections=tuple(p for q in quantised for p in q.projections),
        outputs=(output,),
        dt=step,
        metadata=dict(graph.metadata),
    )
    network, notes = _aligned(network, [path.latency for layer in layers for path in layer.paths])
    reports = [report for q in quantised for report in q.reports]
    return network, [
        replace(report, delay=int(np.max(projection.delay)), notes=(*report.notes, *more))
        for report, projection, more in zip(reports, network.projections, notes, strict=True)
    ]


# --- what leads to a population ----------------------------------------------------------------------------


def _layers(graph: Graph, dt: float) -> tuple[list[_Layer], str]:
    """Every population with what leads to it, in the graph's order, and the name of the one that is read out."""
    layers = [_layer(graph, name, dt) for name in graph.order if isinstance(graph.nodes[name], NEURONS)]
    if len(graph.outputs) != 1:
        raise HardwareError(f"the graph has {len(graph.outputs)} Output nodes, expected one")
    output = _output(graph, dt)
    if isinstance(output, _Layer):
        return [*layers, output], output.neurons.name
    return layers, output


@dataclass(frozen=True)
class _Neurons:
    """Flat float arrays: v <- v (1 - leak) + u + drive after u <- u (1 - forget) + gain * input.

    drive: of the membrane per step, without the bias of synapses; threshold: None for a read-out.
    offset: the graph's membrane where this one is 0.
    """

    name: str
    shape: tuple[int, ...]
    forget: Array
    leak: Array
    gain: Array
    steady: Array  # membrane per step that a constant input of 1 drives once currents are steady
    drive: Array
    threshold: Array | None
    offset: Array
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Path:
    """From a population to the next: a linear map, and the steps it takes when layers take none."""

    source: str
    source_shape: tuple[int, ...]
    map: Map | None
    latency: int


@dataclass(frozen=True)
class _Layer:
    neurons: _Neurons
    paths: tuple[_Path, ...]
    bias: Array
    notes: tuple[str, ...]


def _layer(graph: Graph, name: str, dt: float) -> _Layer:
    return _gather(graph, name, _neurons(graph, name, dt), dt)


def _output(graph: Graph, dt: float) -> str | _Layer:
    """The population that is read out, or a read-out made of the currents that reach the Output node."""
    output = graph.outputs[0]
    before = graph.predecessors()
    name = output
    while True:
        sources = before[name]
        if len(sources) != 1:
            break
        name = sources[0]
        node = graph.nodes[name]
        if isinstance(node, NEURONS):
            return name
        if not isinstance(node, nir.Flatten):
            break
    shape = graph.output_shape[output]
    n = math.prod(shape)
    one, zero = np.ones(n), np.zeros(n)
    neurons = _Neurons(output, shape, one, one, one, one, zero, None, zero, ())
    return _gather(graph, output, neurons, dt)


def _gather(graph: Graph, target: str, neurons: _Neurons, dt: float) -> _Layer:
    before = graph.predecessors()
    paths: list[_Path] = []
    bias = np.zeros(math.prod(neurons.shape))
    notes: set[str] = set()

    def follow(name: str, after: Map | None, latency: int, way: tuple[str, ...]) -> None:
        for source in before[name]:
            visit(source, after, latency + ((source, name) in graph.recurrent), (*way, name))

    def visit(name: str, after: Map | None, latency: int, way: tuple[str, ...]) -> None:
        nonlocal bias
        node = graph.nodes[name]
        if isinstance(node, nir.Input | nir.LIF | nir.CubaLIF | nir.IF):
            if len(paths) == MAX_PATHS:
                raise HardwareError(f"node {target!r}: more than {MAX_PATHS} ways lead to it")
            paths.append(_Path(name, graph.output_shape[name], after, latency))
        elif isinstance(node, INTEGRATORS):
            raise HardwareError(
                f"node {name!r} ({type(node).__name__}): {target!r} reads its membrane, but only spikes "
                "travel on the chip; make it a LIF or IF, or the last node"
            )
        elif name in way:
            raise HardwareError(f"node {name!r}: values return to it without a neuron, which no chip can do")
        elif isinstance(node, nir.Threshold):
            raise HardwareError(
                f"node {name!r} (Threshold): the chip has no neuron without a membrane; use an IF or LIF"
            )
        elif isinstance(node, nir.Delay):
            steps = delay_steps(node.delay, dt, name).reshape(-1)
            for delay in np.unique(steps):
                part = None if (steps == delay).all() else Diagonal((steps == delay).astype(float))
                follow(name, compose(after, part), latency + int(delay), way)
        else:
            shape = graph.output_shape[name]
            given = getattr(node, "bias", None)
            if given is not None and given.any():
                each = math.prod(shape) // len(given)
                bias = bias + apply(after, np.repeat(np.asarray(given, np.float64), each))
                if latency:
                    notes.add(f"the bias of {name!r} acts from the first step on, before its delay is over")
            try:
                map_ = compose(after, of_node(node, graph.input_shape[name], shape))
            except HardwareError as error:
                raise HardwareError(f"node {name!r}: {error}") from None
            follow(name, map_, latency, way)

    follow(target, None, 0, ())
    if bias.any() and (neurons.forget < 1).any():
        notes.add("the bias drives the membrane at once, not through the synaptic current")
    return _Layer(neurons, tuple(paths), bias, tuple(sorted(notes)))


def _neurons(graph: Graph, name: str, dt: float) -> _Neurons:
    node: Any = graph.nodes[name]
    where = f"node {name!r} ({type(node).__name__})"
    shape = graph.output_shape[name]

    def p(key: str) -> Array:
        return np.asarray(getattr(node, key), np.float64).reshape(-1)

    r = p("r")
    zero, one = np.zeros_like(r), np.ones_like(r)
    if isinstance(node, nir.IF | nir.I):
        leak, rest = zero, zero
    else:
        rest = p("v_leak")
        leak = _share(dt, p("tau_mem" if hasattr(node, "tau_mem") else "tau"), where, "tau")
    forget = _share(dt, p("tau_syn"), where, "tau_syn") if hasattr(node, "tau_syn") else one
    steady = r if isinstance(node, nir.IF | nir.I) else leak * r
    if hasattr(node, "tau_syn"):
        steady = steady * p("w_in")
    notes = []
    threshold = None
    if isinstance(node, SPIKING):
        offset = p("v_reset")
        threshold = p("v_threshold") - offset
        if (threshold < 0).any():
            at = int(np.argmin(threshold))
            raise HardwareError(
                f"{where}: v_threshold {p('v_threshold')[at]:g} is below v_reset {offset[at]:g}: it would "
                "fire without end; give it a v_reset of its threshold at most"
            )
    else:
        # A common level does not change which neuron's membrane is highest.
        offset = rest if (rest == rest[0]).all() else zero
    drive = leak * (rest - offset)
    if not isinstance(node, nir.IF | nir.I) and (rest != offset).any():
        notes.append("membranes start at v_reset on the chip, at v_leak in the graph")
    return _Neurons(
        name, shape, forget, leak, steady * forget, steady, drive, threshold, offset, tuple(notes)
    )


def _share(dt: float, tau: Array, where: str, key: str) -> Array:
    share = dt / tau
    if (share > 1 + 1e-9).any():
        raise HardwareError(
            f"{where}: {key} is {tau.min():g} s at its lowest, below the time step of {dt:g} s; "
            "use a shorter step"
        )
    return np.minimum(share, 1.0)


# --- integers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Quantised:
    population: Population
    projections: tuple[Projection, ...]
    reports: tuple[LayerReport, ...]


@dataclass(frozen=True)
class _Weights:
    """A path ready to be rounded: its rows (output channels or neurons) and which scale each follows."""

    path: _Path
    map: Convolution | Matrix
    mode: SignMode
    row_scale: Array  # index into the layer's scales, per row
    top: Array
    bottom: Array
    total: Array  # sum of |weight| per row


def _quantise(
    layer: _Layer, bits: int, per_channel: bool, netx: bool, pinned: pins.PinnedPopulation | None = None
) -> _Quantised:
    neurons = layer.neurons
    maps, residual = _folded_gain(layer)
    n, channels = math.prod(neurons.shape), neurons.shape[0]
    each = n // channels
    group = np.zeros(n, np.int64)  # which scale a neuron follows
    if per_channel and neurons.threshold is not None:
        by_channel = any(isinstance(m, Convolution) for m in maps)
        group = np.arange(n) // each if by_channel else np.arange(n)
    weights = [_rows(path, m, group, each) for path, m in zip(layer.paths, maps, strict=True)]
    for w in weights:
        if w.mode == "mixed" and bits == 1:
            raise HardwareError(
                f"node {neurons.name!r}: weights of both signs from {w.path.source!r} need 2 bits at least"
            )
    drive = neurons.steady * layer.bias + neurons.drive
    lattice = ((neurons.leak == 0) | (neurons.leak == 1)) & (neurons.forget == 1) & (drive == 0)
    if pinned is None:
        scale, exponents = _scales(neurons, group, residual, drive, lattice, weights, bits, netx)
    else:
        found = pinned.match([(w.path.source, w.path.latency) for w in weights])
        scale, exponents = np.full(int(group.max()) + 1, pinned.scale), np.array([p.exponent for p in found])
        weights = [replace(w, mode=p.mode) for w, p in zip(weights, found, strict=True)]

    per_neuron = scale[group] / residual
    exact_threshold = np.zeros(n) if neurons.threshold is None else neurons.threshold * per_neuron
    if (exact_threshold > MAX_THRESHOLD).any():
        raise HardwareError(
            f"node {neurons.name!r}: its highest threshold is {exact_threshold.max():.3g} steps of its weights, "
            f"the chip's thresholds have 17 bit (at most {MAX_THRESHOLD})"
        )
    exact_bias = drive * per_neuron * quantise.ACTIVATION_UNIT
    vth = quantise.threshold_mantissa(exact_threshold, lattice)
    bias, bias_exp = quantise.bias_mantissa(exact_bias, BIAS_EXP if netx else None)
    du, dv = quantise.current_decay(neurons.forget), quantise.membrane_decay(neurons.leak)
    population = Population(
        neurons.name,
        neurons.shape,
        du=_uniform(du, neurons.shape),
        dv=_uniform(dv, neurons.shape),
        vth=0 if neurons.threshold is None else _uniform(vth, neurons.shape),
        bias_mant=_uniform(bias, neurons.shape),
        bias_exp=bias_exp,
        spiking=neurons.threshold is not None,
    )
    shared = {
        # A lattice threshold is exact as it stands.
        "threshold_error": _relative(np.where(lattice, 0, vth - exact_threshold), exact_threshold),
        "bias_error": float(
            np.abs(bias * 2.0**bias_exp - exact_bias).max() / max(np.abs(exact_bias).max(), 1e-300)
        ),
        "du_error": _relative((du + 1) / 4096 - neurons.forget, neurons.forget),
        "dv_error": _relative(dv / 4096 - neurons.leak, neurons.leak),
        "membrane_scale": float(np.median(per_neuron)) * quantise.ACTIVATION_UNIT,
        "membrane_offset": float(np.median(neurons.offset)),
        "notes": (*neurons.notes, *layer.notes),
    }
    rounded = [
        _round(w, neurons, scale, int(exponent), bits, shared)
        for w, exponent in zip(weights, exponents, strict=True)
    ]
    return _Quantised(population, tuple(p for p, _ in rounded), tuple(report for _, report in rounded))


def _scales(
    neurons: _Neurons,
    group: Array,
    residual: Array,
    drive: Array,
    lattice: Array,
    weights: list[_Weights],
    bits: int,
    netx: bool,
) -> tuple[Array, Array]:
    """The scale of each group, at which the most demanding projection uses its whole range, and the exponents."""
    groups = int(group.max()) + 1
    fits = np.full((len(weights), groups), np.inf)
    for fit, w in zip(fits, weights, strict=True):
        low, high, _ = weight_grid(w.mode, bits)
        np.minimum.at(fit, w.row_scale, quantise.scale_that_fits(w.top, w.bottom, low, high))
    cap = _highest_scale(neurons, group, residual, drive, weights, groups, BIAS_EXP if netx else None)
    scale = np.minimum(fits.min(axis=0, initial=np.inf), cap)
    known = scale[np.isfinite(scale)]
    scale = np.where(np.isfinite(scale), scale, known.min() if known.size else 1.0)
    if netx:
        return scale, np.zeros(len(weights), int)
    lowest = 0.0
    if neurons.threshold is not None:
        lowest = float((neurons.threshold * scale[group] / residual).min())
    with np.errstate(invalid="ignore", divide="ignore"):
        rooms = np.array([np.min(fit / scale) for fit in fits])
    shift, exponents = quantise.shared_exponents(
        rooms,
        _largest_input(weights, scale) / max(float(neurons.forget.min()), 1e-3),
        lowest,
        float((cap / scale).min()),
        leaky=bool((~lattice).any()) and neurons.threshold is not None,
    )
    return scale * 2.0**shift, exponents


def _folded_gain(layer: _Layer) -> tuple[list[Convolution | Matrix], Array]:
    """Maps with the neurons' gains folded in, and what of the gain is left to each neuron's own scale.

    A convolution can take a gain per channel only. Where gains differ within a channel but keep their sign,
    the membrane is scaled by what is left; where they do not, the convolution becomes a matrix.
    """
    neurons = layer.neurons
    residual, common = np.ones(math.prod(neurons.shape)), neurons.gain
    maps = []
    for path in layer.paths:
        map_ = path.map
        if map_ is None:
            map_ = Diagonal(np.ones(math.prod(path.source_shape)))
        if isinstance(map_, Convolution):
            fitting = symmetric(map_)
            as_convolution = (
                fitting is not None and map_.target == neurons.shape and map_.source == path.source_shape
            )
            map_ = fitting if as_convolution and fitting is not None else Matrix(to_matrix(map_))
        maps.append(map_)
    if neurons.threshold is not None and any(isinstance(m, Convolution) for m in maps):
        rows = neurons.gain.reshape(neurons.shape[0], -1)
        if not (rows == rows[:, :1]).all() and ((rows > 0).all(axis=1) | (rows < 0).all(axis=1)).all():
            mean = np.sign(rows[:, :1]) * np.exp(np.log(np.abs(rows)).mean(axis=1, keepdims=True))
            residual, common = (rows / mean).reshape(-1), np.repeat(mean, rows.shape[1])
    folded: list[Convolution | Matrix] = []
    for map_ in maps:
        scaled = scaled_rows(map_, common)
        if isinstance(scaled, Diagonal):
            scaled = Matrix(to_matrix(scaled))
        folded.append(scaled)
    return folded, residual


def _rows(path: _Path, map_: Convolution | Matrix, group: Array, each: int) -> _Weights:
    if isinstance(map_, Convolution):
        flat: Any = map_.weight.reshape(len(map_.weight), -1)
        row_scale = group[::each][: len(flat)]
    else:
        flat, row_scale = map_.matrix, group
    if sparse.issparse(flat):
        if flat.nnz:
            top = np.maximum(flat.max(axis=1).toarray().reshape(-1), 0.0)
            bottom = np.minimum(flat.min(axis=1).toarray().reshape(-1), 0.0)
        else:
            top = bottom = np.zeros(flat.shape[0])
        total = np.asarray(np.abs(flat).sum(axis=1)).reshape(-1)
    else:
        top, bottom = flat.max(axis=1, initial=0.0), flat.min(axis=1, initial=0.0)
        total = np.abs(flat).sum(axis=1)
    mode = quantise.sign_mode(np.concatenate([top, bottom]))
    return _Weights(path, map_, mode, row_scale, top, bottom, total)


def _largest_input(weights: list[_Weights], scale: Array) -> float:
    """The largest |sum| at a neuron, in integer units, when every source spikes at once."""
    return sum(float((w.total * scale[w.row_scale]).max(initial=0.0)) for w in weights)


def _highest_scale(
    neurons: _Neurons,
    group: Array,
    residual: Array,
    drive: Array,
    weights: list[_Weights],
    scales: int,
    bias_exp: int | None,
) -> Array:
    """The scale of each group above which a threshold, a bias or a read-out's membrane has no room."""
    cap = np.full(scales, np.inf)

    def limit(index: Array, highest: float, value: Array) -> None:
        with np.errstate(divide="ignore"):
            np.minimum.at(cap, index, np.where(value > 0, highest / value, np.inf))

    if neurons.threshold is not None:
        limit(group, quantise.HIGH_THRESHOLD, neurons.threshold / residual)
    else:
        steps = min(1 / max(float(neurons.leak.min()), 1 / READOUT_STEPS), READOUT_STEPS)
        share = READOUT_ACTIVITY * steps / max(float(neurons.forget.min()), 1e-3)
        for w in weights:
            limit(w.row_scale, quantise.MAX_INPUT, w.total * max(share, 1.0) * len(weights))
    limit(group, quantise.largest_bias(bias_exp) / quantise.ACTIVATION_UNIT, np.abs(drive) / residual)
    return cap


def _round(
    w: _Weights, neurons: _Neurons, scale: Array, exponent: int, bits: int, shared: dict[str, Any]
) -> tuple[Projection, LayerReport]:
    rows = scale[w.row_scale]
    common: dict[str, Any] = {"weight_exp": exponent, "sign_mode": w.mode, "weight_bits": bits}
    source, target = w.path.source, neurons.name

    def round_(x: Array, s: Array) -> Array:
        return quantise.round_weights(x, s, exponent, w.mode, bits)

    projection: Projection
    if isinstance(w.map, Convolution):
        exact, by_row = w.map.weight, rows[:, None, None, None]
        rounded = round_(exact, by_row)
        projection = ConvProjection(
            source, target, rounded, w.map.stride, w.map.padding, w.map.dilation, w.map.groups, **common
        )
    else:
        matrix = w.map.matrix
        alive = matrix.nnz if sparse.issparse(matrix) else np.count_nonzero(matrix)
        if alive >= DENSE_FROM * math.prod(matrix.shape):
            exact = matrix.toarray() if sparse.issparse(matrix) else matrix
            by_row = rows[:, None]
            rounded = round_(exact, by_row)
            projection = DenseProjection(source, target, rounded, **common)
        else:
            by_pre = sparse.coo_array(matrix)
            order = np.lexsort((by_pre.coords[0], by_pre.coords[1]))
            post, pre, exact = by_pre.coords[0][order], by_pre.coords[1][order], by_pre.data[order]
            by_row = rows[post]
            rounded = round_(exact, by_row)
            kept = rounded != 0
            indptr = np.zeros(matrix.shape[1] + 1, np.int64)
            np.cumsum(np.bincount(pre[kept], minlength=matrix.shape[1]), out=indptr[1:])
            projection = SparseProjection(
                source, target, indptr, post[kept].astype(np.int32), rounded[kept], **common
            )
    error = rounded * 2.0**exponent / by_row - exact
    size = np.abs(exact)
    rms = float(np.sqrt((exact**2).mean())) if exact.size else 0.0
    return projection, LayerReport(
        source=source,
        target=target,
        kind=type(projection).__name__.removesuffix("Projection").lower(),
        scale=(float(rows.min()), float(rows.max())),
        delay=w.path.latency,
        parameters=int(np.count_nonzero(projection.weight)),
        zeroed=int(np.count_nonzero((rounded == 0) & (exact != 0))),
        weight_error_max=float(np.abs(error).max(initial=0.0) / size.max(initial=1e-300)),
        weight_error_rms=float(np.sqrt((error**2).mean()) / rms) if rms else 0.0,
        **common,
        **shared,
    )


def _uniform(values: Array, shape: tuple[int, ...]) -> int | Array:
    return int(values[0]) if (values == values[0]).all() else values.reshape(shape)


def _relative(error: Array, exact: Array) -> float:
    alive = exact != 0
    return float(np.abs(error[alive] / exact[alive]).max(initial=0.0))


def _aligned(network: Network, latencies: list[int]) -> tuple[Network, list[tuple[str, ...]]]:
    """Delays that make every way to a population take as long on the chip as the longest, and notes."""
    depth = depths(network)
    projections, notes = [], []
    for projection, latency in zip(network.projections, latencies, strict=True):
        more: tuple[str, ...] = ()
        if is_recurrent(network, projection):
            delay = latency - 1
            around = depth[projection.source] - depth[projection.target]
            if around:
                more = (f"this loop takes {around} more steps on the chip, where each projection takes one",)
        else:
            delay = latency + skipped_layers(network, projection, depth)
        if not 0 <= delay <= MAX_DELAY:
            raise HardwareError(
                f"projection {projection.source!r} -> {projection.target!r}: needs a delay of {delay} steps "
                f"on the chip, which has at most {MAX_DELAY}; put neurons on the way or use longer time steps"
            )
        projections.append(replace(projection, delay=delay) if delay else projection)
        notes.append(more)
    return replace(network, projections=tuple(projections)), notes


# --- before rounding ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FloatProjection:
    """A projection before its weights are rounded: map from `source`, latency as layers take no step."""

    source: str
    source_shape: tuple[int, ...]
    map: Convolution | Matrix
    latency: int
    gain: float


@dataclass(frozen=True)
class FloatPopulation:
    """A population before rounding, all flat: v <- v (1 - leak) + u + drive after u <- u (1 - forget) + input.

    threshold: None for a read-out. offset: the graph's membrane where this one is 0. highest_scale: see
    `_highest_scale`. The gain of a projection's neurons is folded into its map; `gain` is its typical size.
    """

    name: str
    shape: tuple[int, ...]
    forget: Array
    leak: Array
    drive: Array
    threshold: Array | None
    offset: Array
    lattice: Array
    highest_scale: float
    projections: tuple[FloatProjection, ...]


@dataclass(frozen=True)
class FloatNetwork:
    """What `compile_graph` rounds: populations in the graph's order."""

    inputs: dict[str, tuple[int, ...]]
    populations: tuple[FloatPopulation, ...]
    output: str
    dt: float


def fold_graph(graph: Graph, dt: float | None = None, netx: bool = False) -> FloatNetwork:
    """A graph as `compile_graph` sees it before it chooses scales: linear layers and gains folded into projections.

    Raises HardwareError as `compile_graph`, and where neurons of one channel of a convolution differ in their gain.
    """
    step, _ = time_step(graph, dt)
    layers, output = _layers(graph, step)
    populations = []
    for layer in layers:
        neurons = layer.neurons
        maps, residual = _folded_gain(layer)
        if (residual != 1).any():
            raise HardwareError(f"node {neurons.name!r}: its neurons differ in their gain within a channel")
        group = np.zeros(math.prod(neurons.shape), np.int64)
        drive = neurons.steady * layer.bias + neurons.drive
        weights = [_rows(path, m, group, 1) for path, m in zip(layer.paths, maps, strict=True)]
        cap = _highest_scale(neurons, group, residual, drive, weights, 1, BIAS_EXP if netx else None)
        gain = float(np.median(np.abs(neurons.gain)))
        populations.append(
            FloatPopulation(
                neurons.name,
                neurons.shape,
                neurons.forget,
                neurons.leak,
                drive,
                neurons.threshold,
                neurons.offset,
                ((neurons.leak == 0) | (neurons.leak == 1)) & (neurons.forget == 1) & (drive == 0),
                float(cap[0]),
                tuple(
                    FloatProjection(p.source, p.source_shape, m, p.latency, gain)
                    for p, m in zip(layer.paths, maps, strict=True)
                ),
            )
        )
    inputs = {name: graph.output_shape[name] for name in graph.inputs}
    return FloatNetwork(inputs, tuple(populations), output, step)
