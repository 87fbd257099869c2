"""The float simulator, compiled and event-driven: what `hardware.simulate.reference` defines, many times as fast.

Each node computes, in float64, what its step function in `reference` does, operation by operation; only the sums of
matrices, convolutions and pooling run in another order, spike by spike. So membranes are equal but for the rounding of
sums, a few units in the 16th digit, and spikes are equal except where a membrane lies within that of its threshold.
Where sums are exact (whole counts times weights that share a grid, such as integers over a power of two; float32 weights
of which the largest is below some 2**20 times the smallest digit of any) nothing is rounded and every spike is equal:
ties with the threshold, too.

All nodes that `reference` knows are covered, loops included. What is not, `simulate` runs in `reference` itself: graphs
in which an edge of a loop leads to a node further on in the graph's order (`covers`). Samples run in threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

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
from hardware.machine import cores
from hardware.simulate import float_kernels as fk
from hardware.simulate import kernels, reference
from hardware.simulate.reference import Run
from hardware.simulate.tables import Fresh, Memory, conv_tables, events
from hardware.simulate.tables import inside as order_inside

Array = np.ndarray
# From this share of non-zero weights on a matrix is run as one, see `hardware.simulate.simulator`.
DENSE_FROM = 0.12
_LINEAR = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d, nir.SumPool2d, nir.AvgPool2d)
_INTEGRATORS = (nir.I, nir.LI, nir.CubaLI)
_KINDS: dict[type, int] = {
    nir.Input: fk.INPUT,
    nir.Output: fk.SUM,
    nir.Flatten: fk.SUM,
    nir.Affine: fk.MATRIX,
    nir.Linear: fk.MATRIX,
    nir.Conv1d: fk.CONVOLUTION,
    nir.Conv2d: fk.CONVOLUTION,
    nir.SumPool2d: fk.POOL,
    nir.AvgPool2d: fk.POOL,
    nir.Scale: fk.SCALE,
    nir.Threshold: fk.THRESHOLD,
    nir.Delay: fk.DELAY,
    nir.IF: fk.INTEGRATE,
    nir.I: fk.INTEGRATE,
    nir.LIF: fk.LEAK,
    nir.LI: fk.LEAK,
    nir.CubaLIF: fk.CURRENT,
    nir.CubaLI: fk.CURRENT,
}


def simulate(
    graph: Graph,
    raster: Array | Mapping[str, Array],
    dt: float | None = None,
    reset: str | None = None,
    record: Iterable[str] = (),
    threads: int | None = None,
    membranes: bool = True,
) -> Run:
    """As `reference.simulate` in float64; `FloatSimulator` prepares a graph once for many of these.

    threads: at most so many samples at once; None: as many as there are cores. membranes: whether those of recorded
    populations are kept, too.
    """
    return FloatSimulator(graph, dt, reset).run(raster, record, threads, membranes)


def covers(graph: Graph) -> bool:
    """Whether the compiled form can run a graph; what it cannot `reference` runs in its place."""
    return _flow(graph) is not None


@dataclass(frozen=True)
class _Flow:
    """The nodes that compute, in order, and what each takes; of a Flatten or Output that has one source, that source.

    stands: for every node of the graph, the one that has its values.
    """

    names: tuple[str, ...]
    sources: dict[str, list[str]]
    stands: dict[str, str]


def _flow(graph: Graph) -> _Flow | None:
    """None where a recurrent edge's source is before its target, so that its last values would be gone."""
    before = graph.predecessors()
    stands: dict[str, str] = {}
    for name in graph.order:
        sources = before[name]
        through = isinstance(graph.nodes[name], nir.Flatten | nir.Output) and len(sources) == 1
        late = any((source, name) in graph.recurrent for source in sources)
        stands[name] = stands[sources[0]] if through and not late else name
    names = tuple(name for name in graph.order if stands[name] == name)
    rank = {name: i for i, name in enumerate(names)}
    taken = {name: [stands[source] for source in before[name]] for name in names}
    for name in graph.order:
        for source in before[name]:
            late = (source, name) in graph.recurrent
            # A node that another stands for is judged by those that take its values.
            if stands[name] == name and late != (rank[stands[source]] >= rank[name]):
                return None
    return _Flow(names, taken, stands)


class FloatSimulator:
    """A graph laid out for the kernels; `run` may be called from several threads.

    dt, reset: as for `reference.simulate`. Raises HardwareError for a dt above a time constant.
    """

    def __init__(self, graph: Graph, dt: float | None = None, reset: str | None = None):
        self.graph = graph
        self.dt, _ = time_step(graph, dt)
        self.reset, _ = reset_of(graph, reset)
        check_time_step(graph, self.dt)
        flow = _flow(graph)
        if flow is not None:
            self._lay(flow)
        self._flow = flow

    def run(
        self,
        raster: Array | Mapping[str, Array],
        record: Iterable[str] = (),
        threads: int | None = None,
        membranes: bool = True,
        inside: bool = False,
        memory: Memory | None = None,
    ) -> Run:
        """As `simulate`.

        inside: membranes come as (batch, steps, neurons), in the order of `numbers`, in which they are written several times as
        fast. memory: where the run's arrays are kept for the next one; a run then goes sample by sample.
        """
        if self._flow is None:
            run = reference.simulate(self.graph, raster, self.dt, self.reset, record)
            shown = {name: m.reshape(*m.shape[:2], -1) if inside else m for name, m in run.membranes.items()}
            return replace(run, membranes=shown if membranes else {})
        graph, stands = self.graph, self._flow.stands
        record = reference.check_names(graph, record)
        rasters, batch, steps = reference.check_rasters(graph, raster)
        output = graph.outputs[0]
        sources = graph.predecessors()[output]
        binary = len(sources) == 1 and isinstance(graph.nodes[sources[0]], SPIKING)
        shape = graph.output_shape
        spiking = [name for name in graph.order if isinstance(graph.nodes[name], SPIKING)]
        kept: dict[tuple[str, int], Array] = {}
        take: Memory | Fresh = Fresh() if memory is None else memory

        def keep(name: str, as_spikes: bool, shown: tuple[int, ...]) -> Array:
            column = fk.N_SPIKES_AT if as_spikes else fk.N_VALUES_AT
            key = stands[name], column
            if key not in kept:
                kept[key] = take.zeros(key, (batch, steps, *shown), np.uint8 if as_spikes else np.float64)
            return kept[key].reshape(batch, steps, *shown)

        out = keep(output, binary, shape[output])
        recorded = {name: keep(name, name in spiking, shape[name]) for name in record}
        voltages = {
            name: take.empty(
                (name, "membranes"),
                (batch, steps, *((math.prod(shape[name]),) if inside else shape[name])),
                np.float64,
            )
            for name in record
            if name in spiking and membranes
        }
        kept |= {(name, fk.N_MEMBRANES_AT): array for name, array in voltages.items()}
        counts = {name: take.zeros((name, "counts"), (batch, *shape[name]), np.int64) for name in spiking}
        kept |= {(name, fk.N_COUNTS_AT): array for name, array in counts.items()}
        nodes = self._nodes.copy()
        nodes[:, fk.N_INSIDE] = inside
        for (name, column), _ in kept.items():
            if column == fk.N_VALUES_AT:
                nodes[self._rank[name], fk.N_DENSE] = 1
        local = threading.local()
        run_sample = fk.sample_kernel()

        def one(b: int) -> None:
            if not hasattr(local, "nodes"):
                local.nodes = nodes.copy()
            for (name, column), array in kept.items():
                local.nodes[self._rank[name], column] = array[b].ctypes.data
            in_ptr, in_index, in_value = events(rasters, b, steps, np.float64)
            run_sample(
                steps,
                local.nodes,
                self._edges,
                in_ptr,
                in_index,
                in_value,
                self._outside,
                self._constants,
                take.zeros("y", (self._values,), np.float64),
                self._rest.copy(),
                take.zeros("current", (self._values,), np.float64),
                take.zeros("history", (max(self._history, 1),), np.float64),
                take.zeros("index", (self._values,), np.int32),
                take.zeros("value", (self._values,), np.float64),
                take.zeros("listed", (len(nodes),), np.int64),
                take.empty("room", (3, self._values), np.int32),
            )

        workers = min(threads or cores(), max(batch, 1)) if memory is None else 1
        if steps and workers == 1:
            for b in range(batch):
                one(b)
        elif steps:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(one, range(batch)))
        return Run(output=out, spikes=recorded, membranes=voltages, counts=counts, dt=self.dt)

    def numbers(self, name: str) -> Array:
        """(neurons,) of a population: each one's number in C order of its shape, in the order of the kernels."""
        if self._flow is None:
            return np.arange(math.prod(self.graph.output_shape[name]), dtype=np.int32)
        i = self._rank[self._flow.stands[name]]
        first = int(self._nodes[i, fk.N_FIRST])
        return self._outside[first : first + int(self._nodes[i, fk.N_SIZE])]

    # --- layout --------------------------------------------------------------------------------------------

    def _lay(self, flow: _Flow) -> None:
        graph, names = self.graph, flow.names
        self._rank = {name: i for i, name in enumerate(names)}
        sizes = [math.prod(graph.output_shape[name]) for name in names]
        first = np.concatenate([[0], np.cumsum(sizes)])
        by_place = self._numbering(flow)
        order = {name: order_inside(self._image(name), by_place[name]) for name in names}
        table = np.zeros((len(names), fk.N_COLUMNS), np.int64)
        edges: list[tuple[int, int]] = []
        self._arrays: list[Array] = []  # kept alive: rows hold addresses
        self._history, gathered = 0, int(first[-1])
        constants = np.zeros((fk.C_ROWS, int(first[-1])))
        self._rest = np.zeros(int(first[-1]))
        for i, (row, name) in enumerate(zip(table, names, strict=True)):
            node, sources = graph.nodes[name], flow.sources[name]
            here = slice(int(first[i]), int(first[i + 1]))
            row[fk.N_KIND], row[fk.N_FIRST], row[fk.N_SIZE] = _KINDS[type(node)], first[i], sizes[i]
            row[fk.N_SOURCE] = -1
            if isinstance(node, nir.Input):
                row[fk.N_GATHERED] = graph.inputs.index(name)
                row[fk.N_LISTED] = 1
                continue
            linear = isinstance(node, _LINEAR)
            single = len(sources) == 1
            if single and (linear or by_place[sources[0]] == by_place[name]):
                source = self._rank[sources[0]]
                row[fk.N_SOURCE] = source
                table[source, fk.N_LISTED if linear else fk.N_DENSE] = 1
            else:
                row[fk.N_IN_SIZE] = math.prod(graph.output_shape[sources[0]])
                row[fk.N_GATHERED], row[fk.N_EDGES] = gathered, len(edges)
                gathered += int(row[fk.N_IN_SIZE])
                wanted = np.arange(row[fk.N_IN_SIZE]) if linear else order[name]
                for origin in sources:
                    table[self._rank[origin], fk.N_DENSE] = 1
                    places = np.argsort(order[origin])[wanted].astype(np.int32)
                    edges.append((self._rank[origin], self._address(places)))
                row[fk.N_EDGES_END] = len(edges)
            if linear:
                self._linear(row, node, name, order[name])
            else:
                self._elementwise(row, node, name, order[name], constants[:, here], self._rest[here])
        self._nodes, self._values = table, gathered
        self._edges = np.array(edges, np.int64).reshape(-1, fk.E_COLUMNS)
        self._outside = np.concatenate([order[name] for name in names]).astype(np.int32)
        self._constants = constants

    def _address(self, array: Array) -> int:
        self._arrays.append(array)
        return array.ctypes.data

    def _image(self, name: str) -> tuple[int, ...]:
        """A node's shape; of three axes where a convolution leads to it, whatever of it was flattened since."""
        return self._images.get(name, self.graph.output_shape[name])

    def _numbering(self, flow: _Flow) -> dict[str, bool]:
        """Whether a node's values lie inside: a convolution's, and of what takes them alone, one by one."""
        found: dict[str, bool] = {}
        self._images: dict[str, tuple[int, ...]] = {}
        for name in flow.names:
            node, sources = self.graph.nodes[name], flow.sources[name]
            if isinstance(node, nir.Conv1d | nir.Conv2d):
                shape = self.graph.output_shape[name]
                found[name], self._images[name] = True, (shape[0], *(1,) * (3 - len(shape)), *shape[1:])
                continue
            follows = len(sources) == 1 and not isinstance(node, (*_LINEAR, nir.Input))
            found[name] = follows and found.get(sources[0], False)
            if found[name]:
                self._images[name] = self._images[sources[0]]
        return found

    def _linear(self, row: Array, node: Any, name: str, order: Array) -> None:
        source, target = self.graph.input_shape[name], self.graph.output_shape[name]
        bias = getattr(node, "bias", None)
        if bias is not None and np.any(bias):
            spread = np.repeat(np.asarray(bias, np.float64).reshape(-1), len(order) // np.size(bias))
            row[fk.N_BIAS_AT] = self._address(spread[order])
        if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
            window, hop, pads = (
                (int(a[0]), int(a[1])) for a in (node.kernel_size, node.stride, node.padding)
            )
            geometry = np.array([*source[1:], *target[1:], *window, *hop, *pads], np.int64)
            row[fk.N_GEOMETRY_AT] = self._address(geometry)
            row[fk.N_DIVISOR] = math.prod(window) if isinstance(node, nir.AvgPool2d) else 0
            return
        weight = np.asarray(node.weight, np.float64)
        if isinstance(node, nir.Affine | nir.Linear):
            weight = np.ascontiguousarray(weight.T)
            if np.count_nonzero(weight) >= DENSE_FROM * weight.size:
                row[fk.N_FORM], row[fk.N_WEIGHT_AT] = kernels.DENSE, self._address(weight)
                return
            pre, post = np.nonzero(weight)
            ptr = np.concatenate([[0], np.cumsum(np.count_nonzero(weight, axis=1))])
            tables = {"form": kernels.SPARSE16, "weight": weight[pre, post], "post": post.astype(np.int32)}
            tables["ptr"] = ptr.astype(np.int64)
        else:
            tables = conv_tables(_Kernel.of(node, weight), _image3(source), _image3(target), np.float64)
        row[fk.N_FORM] = tables["form"]
        columns = {"weight": fk.N_WEIGHT_AT, "post": fk.N_POST_AT, "ptr": fk.N_PTR_AT}
        for key, column in {**columns, "geometry": fk.N_GEOMETRY_AT}.items():
            if key in tables:
                row[column] = self._address(np.ascontiguousarray(tables[key]))

    def _elementwise(
        self, row: Array, node: Any, name: str, order: Array, constants: Array, rest: Array
    ) -> None:
        def p(key: str) -> Array:
            return np.asarray(getattr(node, key), np.float64).reshape(-1)[order]

        if isinstance(node, nir.Scale):
            constants[fk.C_R] = p("scale")
        elif isinstance(node, nir.Threshold):
            constants[fk.C_THRESHOLD] = p("threshold")
        elif isinstance(node, nir.Delay):
            steps = delay_steps(node.delay, self.dt, name).reshape(-1)[order]
            row[fk.N_STEPS_AT] = self._address(np.ascontiguousarray(steps, np.int64))
            row[fk.N_DEPTH], row[fk.N_HISTORY] = int(steps.max()) + 1, self._history
            self._history += int(row[fk.N_DEPTH]) * len(order)
        elif isinstance(node, SPIKING + _INTEGRATORS):
            constants[fk.C_R] = p("r")
            if isinstance(node, SPIKING):
                constants[fk.C_THRESHOLD], constants[fk.C_RESET] = p("v_threshold"), p("v_reset")
                row[fk.N_FIRES] = fk.TO_RESET
                if self.reset == "subtract":
                    row[fk.N_FIRES] = fk.SUBTRACT
                    taken = np.asarray(taken_by_a_spike(self.graph, node, self.dt), np.float64)
                    constants[fk.C_RESET] = taken.reshape(-1)[order]
            if isinstance(node, nir.IF):
                rest[:] = p("v_reset")
            elif not isinstance(node, nir.I):
                rest[:] = constants[fk.C_LEAK] = p("v_leak")
                tau = "tau_mem" if hasattr(node, "tau_mem") else "tau"
                constants[fk.C_SHARE] = self.dt / p(tau)
            if hasattr(node, "tau_syn"):
                constants[fk.C_SYN_SHARE], constants[fk.C_W_IN] = self.dt / p("tau_syn"), p("w_in")
            row[fk.N_UNIFORM] = bool((constants == constants[:, :1]).all())


@dataclass(frozen=True)
class _Kernel:
    """A convolution of two axes, padding before each."""

    weight: Array
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, node: Any, weight: Array) -> _Kernel:
        pads = padding_of(node)
        if isinstance(node, nir.Conv1d):
            return cls(weight[:, :, None], (1, node.stride), (0, pads[0][0]), (1, node.dilation), node.groups)
        return cls(weight, node.stride, (pads[0][0], pads[1][0]), node.dilation, node.groups)


def _image3(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape
