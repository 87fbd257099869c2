"""What NIR means here: a float simulator, one documented step function per node.

Time is cut into steps of `dt` seconds. Within a step values pass along the topological order without delay; a
recurrent edge carries the values of the step before (zeros in the first). Leaks are integrated with one Euler
step, in the order Norse computes it: the input of a step acts on the membrane in that same step, the membrane
is compared with the threshold (v > v_threshold), then reset. NIR names no initial state; as in Norse,
currents start at zero and membranes at rest: at v_leak, of an IF at v_reset, of an I at zero.

IF and I have no time constant and count time in steps: Sinabs, Norse and snnTorch, which write them, add r * input
once per step, whatever the length of the step, and so does this simulator. (SpikingJelly 2.0 counts in seconds: it
writes r = 1 / dt where the others write 1.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

from hardware.errors import HardwareError
from hardware.graph.cycles import components
from hardware.graph.graph import (
    SPIKING,
    Graph,
    check_time_step,
    delay_steps,
    padding_of,
    reset_of,
    taken_by_a_spike,
    time_step,
)
from hardware.network.geometry import conv, positions
from hardware.network.integer import Reset
from hardware.simulate.given import batch_and_steps, check_shape

Array = np.ndarray
# Values kept at once, for one stretch of samples and steps.
CHUNK_BYTES = 256 << 20


@dataclass(frozen=True)
class Run:
    """What a simulation returned; batch, steps, then the population's shape.

    output: what arrives at the Output node: spikes (uint8) of a population, or its membrane, or a current.
    spikes: of the recorded populations, uint8 (membranes, float, for populations that never spike).
    membranes: of the recorded populations that spike, after integration and before reset.
    counts: of every spiking population, (batch, *shape): spikes per sample and neuron.
    """

    output: Array
    spikes: dict[str, Array] = field(default_factory=dict)
    membranes: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, Array] = field(default_factory=dict)
    dt: float = 1.0


# --- neurons: pure functions of one step -------------------------------------------------------------------


def fire(
    v: Array, v_threshold: Array, v_reset: Array, reset: Reset = "zero", taken: Array | None = None
) -> tuple[Array, Array]:
    """Spikes z = 1 where v > v_threshold, and the membrane after them.

    "zero": v <- v_reset where z (NIR's reset, zero unless it says another); "subtract": v <- v - v_threshold where z,
    or v - taken where that is given (`hardware.graph.graph.taken_by_a_spike`).
    """
    spikes = v > v_threshold
    left = v_reset if reset == "zero" else v - (v_threshold if taken is None else taken)
    return spikes, np.where(spikes, left, v)


def if_step(current: Array, v: Array, r: Array) -> Array:
    """IF, I (NIR: dv/dt = R I, time in steps): v <- v + r I. An IF then fires, see `fire`."""
    return v + r * current


def lif_step(current: Array, v: Array, tau: Array, r: Array, v_leak: Array, dt: float) -> Array:
    """LIF, LI (NIR: tau dv/dt = (v_leak - v) + R I): v <- v + (dt / tau) (r I + v_leak - v).

    The order of Norse's ``lif_box_feed_forward_step`` and ``li_box_feed_forward_step``; a LIF then fires.
    """
    return v + (dt / tau) * (r * current + v_leak - v)


def cuba_lif_step(
    spikes_in: Array,
    i: Array,
    v: Array,
    tau_syn: Array,
    tau_mem: Array,
    r: Array,
    v_leak: Array,
    w_in: Array,
    dt: float,
) -> tuple[Array, Array]:
    """CubaLIF, CubaLI: the synaptic current first, then the membrane, which sees the new current.

    NIR: tau_syn dI/dt = -I + w_in S; tau_mem dv/dt = (v_leak - v) + R I::

        I <- I + (dt / tau_syn) (w_in S - I)
        v <- v + (dt / tau_mem) (r I + v_leak - v)

    These are the spikes of Norse's ``lif_feed_forward_step`` and ``li_feed_forward_step``, whose current
    jumps by S itself, where w_in = tau_syn / dt (so writes snnTorch, too). A CubaLIF then fires.
    """
    i = i + (dt / tau_syn) * (w_in * spikes_in - i)
    return i, v + (dt / tau_mem) * (r * i + v_leak - v)


# --- stateless nodes: pure functions of (batch, *shape) ----------------------------------------------------


def affine(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Affine, Linear: y = W x + b; x (batch, pre), weight (post, pre)."""
    y = x @ weight.T
    return y if bias is None else y + bias


def sum_pool(x: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Array:
    """SumPool2d: the sum over each window of x (batch, channels, height, width), zeros outside."""
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding))) if any(padding) else x
    for axis in (0, 1):
        x = x.swapaxes(2 + axis, 3)
        (count,) = positions(x.shape[3:], kernel[axis : axis + 1], stride[axis : axis + 1], ((0, 0),), (1,))
        last = (count - 1) * stride[axis] + 1
        y = x[..., 0 : last : stride[axis]]
        for k in range(1, kernel[axis]):
            y = y + x[..., k : k + last : stride[axis]]
        x = y.swapaxes(2 + axis, 3)
    return x


def avg_pool(x: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Array:
    """AvgPool2d: the sum over each window divided by its size, padding counted in (PyTorch's default)."""
    return sum_pool(x, kernel, stride, padding) / x.dtype.type(kernel[0] * kernel[1])


def threshold(x: Array, v_threshold: Array) -> Array:
    """Threshold: z = 1 where x > threshold, else 0."""
    return (x > v_threshold).astype(x.dtype)


def scale(x: Array, factor: Array) -> Array:
    """Scale: y = s x, element by element."""
    return x * factor


# --- the simulator -----------------------------------------------------------------------------------------


# Takes (batch, steps, *shape), keeps its state for the steps that follow; returns values and, where wanted,
# membranes.
_Advance = Callable[[Array], tuple[Array, Array | None]]


def _fold(function: Callable[[Array], Array]) -> _Advance:
    """A stateless node does not know time: fold it into the batch."""

    def advance(x: Array) -> tuple[Array, None]:
        y = function(x.reshape(-1, *x.shape[2:]))
        return y.reshape(*x.shape[:2], *y.shape[1:]), None

    return advance


def _scan(
    step: Callable[[Array, tuple[Array, ...]], tuple[Array, ...]],
    rest: tuple[Array, ...],
    fires: Callable[[Array], tuple[Array, Array]] | None,
    keep_membrane: bool,
) -> _Advance:
    """A neuron: `step` takes the input and the states (membrane last), `rest` at first, and returns them."""
    state = rest

    def advance(x: Array) -> tuple[Array, Array | None]:
        nonlocal state
        now = state
        y = np.empty_like(x)
        membrane = np.empty_like(x) if fires and keep_membrane else None
        for t in range(x.shape[1]):
            now = step(x[:, t], now)
            if fires is None:
                y[:, t] = now[-1]
            else:
                if membrane is not None:
                    membrane[:, t] = now[-1]
                y[:, t], v = fires(now[-1])
                now = (*now[:-1], v)
        state = now
        return y, membrane

    return advance


def _delay(steps: Array, dtype: Any) -> _Advance:
    history: Array | None = None
    longest = int(steps.max())
    groups = [(int(n), steps == n) for n in np.unique(steps)]

    def advance(x: Array) -> tuple[Array, None]:
        nonlocal history
        if history is None:
            history = np.zeros((len(x), longest, *x.shape[2:]), dtype)
        both = np.concatenate([history, x], axis=1)
        y = np.empty_like(x)
        for n, where in groups:
            start = longest - n
            y[:, :, where] = both[:, start : start + x.shape[1]][:, :, where]
        history = both[:, x.shape[1] :]
        return y, None

    return advance


def _mobilise(
    name: str,
    node: nir.NIRNode,
    dt: float,
    reset: Reset,
    dtype: Any,
    total_steps: int,
    keep_membrane: bool,
    taken: Array | None,
) -> _Advance:
    """The function that advances one node, with fresh state; taken: see `fire`."""

    def p(key: str) -> Array:
        return getattr(node, key).astype(dtype, copy=False)

    if isinstance(node, nir.Affine | nir.Linear):
        weight, bias = p("weight"), p("bias") if isinstance(node, nir.Affine) else None
        return _fold(lambda x: affine(x, weight, bias))
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        axes = node.weight.ndim - 2
        stride = node.stride if axes == 2 else (node.stride,)
        dilation = node.dilation if axes == 2 else (node.dilation,)
        kernel, bias, pad = p("weight"), p("bias"), padding_of(node)
        return _fold(lambda x: conv(x, kernel, bias, stride, pad, dilation, node.groups))
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        pool = sum_pool if isinstance(node, nir.SumPool2d) else avg_pool
        window, hop, pads = ((int(a[0]), int(a[1])) for a in (node.kernel_size, node.stride, node.padding))
        return _fold(lambda x: pool(x, window, hop, pads))
    if isinstance(node, nir.Flatten):
        shape = tuple(int(n) for n in node.output_type["output"])
        return _fold(lambda x: x.reshape(len(x), *shape))
    if isinstance(node, nir.Scale):
        factor = p("scale")
        return _fold(lambda x: scale(x, factor))
    if isinstance(node, nir.Threshold):
        level = p("threshold")
        return _fold(lambda x: threshold(x, level))
    if isinstance(node, nir.Delay):
        # What arrives after the last step never arrives: no need to keep more than that.
        return _delay(np.minimum(delay_steps(node.delay, dt, name), total_steps), dtype)
    if isinstance(node, nir.Output):
        return _fold(lambda x: x)

    fires = None
    if isinstance(node, SPIKING):
        v_threshold, v_reset = p("v_threshold"), p("v_reset")
        taken = None if taken is None else taken.astype(dtype, copy=False)
        fires = lambda v: fire(v, v_threshold, v_reset, reset, taken)  # noqa: E731
    r = p("r")
    zero = np.zeros_like(r)
    if isinstance(node, nir.IF | nir.I):
        rest = p("v_reset") if isinstance(node, nir.IF) else zero
        return _scan(lambda x, s: (if_step(x, s[0], r),), (rest,), fires, keep_membrane)
    v_leak = p("v_leak")
    if isinstance(node, nir.LIF | nir.LI):
        tau = p("tau")
        return _scan(lambda x, s: (lif_step(x, s[0], tau, r, v_leak, dt),), (v_leak,), fires, keep_membrane)
    tau_syn, tau_mem, w_in = p("tau_syn"), p("tau_mem"), p("w_in")
    return _scan(
        lambda x, s: cuba_lif_step(x, s[0], s[1], tau_syn, tau_mem, r, v_leak, w_in, dt),
        (zero, v_leak),
        fires,
        keep_membrane,
    )


class _Simulation:
    """One stretch of samples on its way through the graph, from the first step to the last."""

    def __init__(
        self, graph: Graph, dt: float, reset: Reset, dtype: Any, total_steps: int, membranes: Collection[str]
    ):
        self.graph = graph
        self.dtype = dtype
        subtracts = reset == "subtract"
        self.advance = {
            name: _mobilise(
                name,
                node,
                dt,
                reset,
                dtype,
                total_steps,
                name in membranes,
                taken_by_a_spike(graph, node, dt) if subtracts and isinstance(node, SPIKING) else None,
            )
            for name, node in graph.nodes.items()
            if not isinstance(node, nir.Input)
        }
        self.before = graph.predecessors()
        rank = {name: i for i, name in enumerate(graph.order)}
        self.parts = [sorted(part, key=rank.__getitem__) for part in components(graph.order, graph.edges)]
        self.looped = {
            name for part in self.parts for name in part if len(part) > 1 or (name, name) in graph.recurrent
        }
        # The last values of the sources of recurrent edges.
        self.previous: dict[str, Array] = {}
        self.readers = {name: len(after) for name, after in graph.successors().items()}

    def run(
        self, stimulus: Mapping[str, Array], keep: Iterable[str]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Values of the nodes in `keep` for these steps, and membranes of those that fire."""
        keep = set(keep)
        values: dict[str, Array] = dict(stimulus)
        membranes: dict[str, Array] = {}
        waiting = dict(self.readers)
        for part in self.parts:
            if part[0] in self.looped:
                self._run_loop(part, values, membranes, next(iter(stimulus.values())).shape[:2])
            elif part[0] not in stimulus:
                name = part[0]
                values[name], membrane = self.advance[name](self._arriving(name, values))
                if membrane is not None:
                    membranes[name] = membrane
            for name in part:
                for source in self.before[name]:
                    waiting[source] -= 1
                    if waiting[source] == 0 and source not in keep:
                        values.pop(source, None)
        return values, membranes

    def _arriving(
        self, name: str, values: Mapping[str, Array], sources: Iterable[str] | None = None
    ) -> Array:
        total: Array | None = None
        for source in self.before[name] if sources is None else sources:
            total = values[source] if total is None else total + values[source]
        assert total is not None  # `hardware.graph.graph` lets no node without an edge pass
        return total

    def _run_loop(
        self, part: list[str], values: dict[str, Array], membranes: dict[str, Array], size: tuple[int, ...]
    ) -> None:
        """A component with recurrent edges goes step by step; size: batch and steps."""
        inside = set(part)
        shape = self.graph.output_shape
        outer = {name: [s for s in self.before[name] if s not in inside] for name in part}
        batch, steps = size
        for name in part:
            values[name] = np.empty((batch, steps, *shape[name]), self.dtype)
            self.previous.setdefault(name, np.zeros((batch, 1, *shape[name]), self.dtype))
        for t in range(steps):
            now = {s: values[s][:, t : t + 1] for sources in outer.values() for s in sources}
            for name in part:
                total: Array | None = None
                for source in self.before[name]:
                    late = (source, name) in self.graph.recurrent
                    value = self.previous[source] if late else now[source]
                    total = value if total is None else total + value
                assert total is not None
                now[name], membrane = self.advance[name](total)
                values[name][:, t : t + 1] = now[name]
                if membrane is not None:
                    if name not in membranes:
                        membranes[name] = np.empty_like(values[name])
                    membranes[name][:, t : t + 1] = membrane
            for name in part:
                self.previous[name] = now[name]


def simulate(
    graph: Graph,
    raster: Array | Mapping[str, Array],
    dt: float | None = None,
    reset: Reset | None = None,
    record: Iterable[str] = (),
    dtype: Any = np.float64,
) -> Run:
    """Run a graph on input rasters.

    raster: (batch, steps, *input shape), spike counts or currents; a dictionary of them by the name of the
        Input node where the graph has more than one.
    dt: seconds per step; None: as `hardware.graph.graph.time_step` finds it.
    reset: what a spike does to the membrane, see `fire`; None: as `hardware.graph.graph.reset_of` finds it.
    record: names of the populations whose spikes and membranes are wanted.
    dtype: numpy float type of all values; float32 is about twice as fast.

    Samples and steps go through in stretches of bounded memory; the result does not depend on the stretches.
    Raises HardwareError where the raster does not fit the graph, dt is above a time constant, or a name or an option is
    unknown.
    """
    reset, _ = reset_of(graph, reset)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise HardwareError(f"dtype is {dtype}, expected float32 or float64")
    step, _ = time_step(graph, dt)
    check_time_step(graph, step)
    record = check_names(graph, record)
    rasters, batch, steps = check_rasters(graph, raster)

    output = graph.outputs[0]
    spiking = [name for name, node in graph.nodes.items() if isinstance(node, SPIKING)]
    sources = graph.predecessors()[output]
    binary = len(sources) == 1 and sources[0] in spiking
    kinds = {name: np.dtype(np.uint8) if name in spiking else dtype for name in record}

    def empty(name: str, kind: Any) -> Array:
        return np.empty((batch, steps, *graph.output_shape[name]), kind)

    out = empty(output, np.uint8 if binary else dtype)
    recorded = {name: empty(name, kinds[name]) for name in record}
    membranes = {name: empty(name, dtype) for name in record if name in spiking}
    counts = {name: np.zeros((batch, *graph.output_shape[name]), np.int64) for name in spiking}

    per_step = 4 * sum(math.prod(shape) for shape in graph.output_shape.values()) * dtype.itemsize
    fitting = max(1, CHUNK_BYTES // max(per_step, 1))
    time_chunk = min(max(steps, 1), fitting)
    batch_chunk = max(1, fitting // time_chunk)
    for at in range(0, batch, batch_chunk):
        simulation = _Simulation(graph, step, reset, dtype, steps, membranes)
        samples = slice(at, at + batch_chunk)
        for t in range(0, steps, time_chunk):
            here = (samples, slice(t, t + time_chunk))
            stimulus = {name: whole[here].astype(dtype) for name, whole in rasters.items()}
            values, voltages = simulation.run(stimulus, {*record, *spiking, output})
            out[here] = values[output]
            for name in record:
                recorded[name][here] = values[name]
                if name in membranes:
                    membranes[name][here] = voltages[name]
            for name in spiking:
                counts[name][samples] += values[name].sum(axis=1).astype(np.int64)
    return Run(output=out, spikes=recorded, membranes=membranes, counts=counts, dt=step)


def check_names(graph: Graph, record: Iterable[str]) -> list[str]:
    """The names of the nodes to record. Raises HardwareError for an unknown one, and for more than one Output."""
    record = [record] if isinstance(record, str) else list(record)
    for name in record:
        if name not in graph.nodes:
            raise HardwareError(f"record names {name!r}, the graph has {', '.join(graph.order)[:300]}")
    if len(graph.outputs) != 1:
        raise HardwareError(f"the graph has {len(graph.outputs)} Output nodes, the simulator takes one")
    return record


def check_rasters(graph: Graph, raster: Array | Mapping[str, Array]) -> tuple[dict[str, Array], int, int]:
    """The rasters by name of the Input, batch and steps. Raises HardwareError where they do not fit."""
    names = graph.inputs
    if not isinstance(raster, Mapping):
        if len(names) != 1:
            raise HardwareError(
                f"the graph has the inputs {', '.join(names)}: give a raster for each, by name"
            )
        raster = {names[0]: raster}
    if set(raster) != set(names):
        raise HardwareError(f"rasters are given for {sorted(raster)}, the graph's inputs are {sorted(names)}")
    arrays = {name: np.asarray(value) for name, value in raster.items()}
    for name, array in arrays.items():
        check_shape(name, array, graph.output_shape[name])
        if array.dtype.kind not in "biuf":
            raise HardwareError(f"the raster for {name!r} holds {array.dtype}, expected numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise HardwareError(f"the raster for {name!r} holds NaN or infinite values")
    return arrays, *batch_and_steps(arrays)
