"""Run an integer network: event-driven, integers only, `hardware.network.integer`'s arithmetic to the last bit.

The work of a step is the neurons plus the synapses of the neurons that spiked. Samples are independent and
run in threads; the result does not depend on how many. Two clocks, see `hardware.network.timing`: "zero_delay", in
which spikes pass all layers within a step (as trained), and "chip", in which every projection takes one.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np

from hardware.errors import HardwareError
from hardware.machine import cores
from hardware.network.integer import (
    STATE_LIMIT,
    ConvProjection,
    InputPopulation,
    Network,
    Population,
)
from hardware.network.timing import Timing, depths, latency
from hardware.simulate import kernels, relay
from hardware.simulate.given import VARIABLES, Rasters, Record, wanted_variables, with_largest
from hardware.simulate.links import links_of, number
from hardware.simulate.tables import Fresh, Memory, events

Array = np.ndarray
# Of what inputs send: where each step's begins, neurons, counts; and of what hears none of it.
_Heard = tuple[Array, Array, Array]
_QUIET: _Heard = np.zeros((1, 1), np.int64), np.zeros(1, np.int32), np.zeros(1, np.int32)


@dataclass(frozen=True)
class Run:
    """What a simulation returned; batch, steps, then the population's shape.

    output: spikes (uint8) of the network's output, or its membrane (int32) where it does not spike.
    spikes (uint8), u, v (int32): of what was recorded; u and v at the end of the step, after the reset of
        neurons that spiked.
    counts: of every spiking population, int32 (batch, *shape): spikes per sample and neuron.
    spike_counts: of every population, inputs included, int64 (batch, steps).
    event_counts: of every population, int64 (batch, steps): synaptic events on their way to it, one per
        synapse and spike, in the step of the spike. A count above 1 at an input is one graded spike.
    depth: of every population, the steps its chip clock is behind its zero-delay clock.
    """

    output: Array
    spikes: dict[str, Array] = field(default_factory=dict)
    u: dict[str, Array] = field(default_factory=dict)
    v: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, Array] = field(default_factory=dict)
    spike_counts: dict[str, Array] = field(default_factory=dict)
    event_counts: dict[str, Array] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)
    timing: Timing = "zero_delay"


def simulate(
    network: Network,
    raster: Rasters,
    timing: Timing = "zero_delay",
    record: Record = (),
    threads: int | None = None,
    reset_interval: int | None = None,
    reset_offset: int = 0,
) -> Run:
    """Run `network` on rasters; `Simulator` prepares a network once for many of these.

    raster: (batch, steps, *input shape), whole numbers from 0; by the input's name where there are more. None for an
        input that is always on.
    record: names of populations whose spikes, u and v are wanted, or for each name which of these.
    threads: at most so many samples at once, of one alone two parts; None: as many as there are cores.
    reset_interval N, reset_offset k: on the chip's clock, u and v of a population at depth d are zeroed
        before the dynamics of the steps t = 1, 2, ... with t mod N = (d + k + 1) mod N, so that samples of N
        steps run back to back, each layer a step later than the one before; without delays all with d = 0.

    Raises HardwareError where the raster does not fit, or a name or an option is unknown.
    """
    return Simulator(network).run(raster, timing, record, threads, reset_interval, reset_offset)


# A recording alone runs on two cores in about so many chunks of at least so many steps, where it has so many steps in all and either core
# has more to do than so many nanoseconds in one: handing a chunk over takes some ten microseconds, and the first and last chunks run on
# one core.
CHUNKS, LEAST_CHUNK, LEAST_STEPS, WORTH_A_CORE = 32, 3, 64, 20_000.0


class Simulator:
    """A network laid out for the kernels; `run` may be called from several threads."""

    def __init__(self, network: Network):
        if len(network.outputs) != 1:
            raise HardwareError(f"the network has {len(network.outputs)} outputs, the simulator takes one")
        self.network = network
        self.depth = depths(network)
        self._numbering = numbering = number(network)
        self._entries, self._rank, self._sizes = numbering.entries, numbering.rank, numbering.sizes
        self._first, self._inside, self._outside = numbering.first, numbering.inside, numbering.outside
        self._du = self._spread("du")
        self._keep_u = (4095 - self._du).astype(np.int32)
        self._dv = self._spread("dv")
        self._keep_v = (4096 - self._dv).astype(np.int32)
        self._threshold = (self._spread("vth") << 6).astype(np.int32)
        # Whatever kernels of a convolution do to a dead neuron, it does not spike, and its states are left out of what is recorded.
        self._dead = {p.name: p.dead for p in network.populations if p.dead is not None}
        for name, dead in self._dead.items():
            first = self._first[self._rank[name]]
            self._threshold[first + np.flatnonzero(dead[self.numbers(name)])] = _NO_THRESHOLD
        self._bias = self._spread("bias_mant")
        for i, entry in enumerate(self._entries):
            if isinstance(entry, Population):
                self._bias[self._first[i] : self._first[i + 1]] <<= entry.bias_exp
        constants = (self._du, self._dv, self._threshold, self._bias)
        self._kinds = [self._kind(*(a[begin:end] for a in constants)) for begin, end in pairwise(self._first)]
        links = [link for projection in network.projections for link in links_of(projection, numbering)]
        self._links = sorted(links, key=lambda link: link.source)
        self._idle: deque[tuple[list[Array], list[Array]]] = deque(maxlen=1)

    def run(
        self,
        raster: Rasters,
        timing: Timing = "zero_delay",
        record: Record = (),
        threads: int | None = None,
        reset_interval: int | None = None,
        reset_offset: int = 0,
        inside: bool = False,
        memory: Memory | None = None,
    ) -> Run:
        """As `simulate`.

        inside: u and v of what is recorded come as (batch, steps, neurons), in the order of `numbers`, in which they are written
        several times as fast. memory: where the run's arrays are kept for the next one; a run then goes sample by sample.
        """
        if timing not in ("zero_delay", "chip"):
            raise HardwareError(f"timing is {timing!r}, expected 'zero_delay' or 'chip'")
        if reset_interval is not None and reset_interval < 1:
            raise HardwareError(f"reset interval {reset_interval}, expected at least 1")
        if threads is not None and threads < 1:
            raise HardwareError(f"{threads} threads, expected at least 1")
        wanted = wanted_variables(self.network, record)
        rasters, batch, steps, largest = with_largest(self.network, raster)
        workers = min(threads or cores(), max(batch, 1)) if memory is None else 1
        # One recording alone runs on two cores where the network can be cut in two.
        alone = batch == 1 and memory is None
        shared = alone and (threads or cores()) > 1
        chunk = max(LEAST_CHUNK, steps // CHUNKS)
        parts = self._parts if shared and steps >= LEAST_STEPS else None

        def listed(b: int, begin: int, end: int) -> _Heard:
            """As `events`, of some steps; where those of others would lie is of no meaning."""
            some_steps = {name: raster[:, begin:end] for name, raster in rasters.items()}
            found, index, value = events(some_steps, b, end - begin, np.int32, self._inside)
            pointer = np.zeros((len(found), steps + 1), np.int64)
            pointer[:, begin : end + 1] = found
            return pointer, index, value

        if parts is not None:
            beside = ThreadPoolExecutor(1)
            # What the second core begins with, while this one makes tables.
            ahead = beside.submit(listed, 0, 0, chunk)
        pops, links, ring_size = self._tables(timing, largest, reset_interval, reset_offset, parts, chunk)
        output = self.network.outputs[0]
        spiking = {p.name: p.spiking for p in self.network.populations}
        final = "spikes" if spiking[output] else "v"
        take: Memory | Fresh = Fresh() if memory is None else memory
        arrays = {}
        for i, entry in enumerate(self.network.populations, len(self.network.inputs)):
            flat = inside and entry.name in wanted and (entry.name, "v") != (output, final)
            pops[i, kernels.P_INSIDE] = flat
            for variable in VARIABLES:
                key = entry.name, variable
                if variable == "spikes" and (
                    variable in wanted.get(entry.name, ()) or key == (output, final)
                ):
                    arrays[key] = take.zeros(key, (batch, steps, *entry.shape), np.uint8)
                elif variable in wanted.get(entry.name, ()) or key == (output, final):
                    shape = (math.prod(entry.shape),) if flat else tuple(entry.shape)
                    arrays[key] = take.empty(key, (batch, steps, *shape), np.int32)
        counts = {
            p.name: take.zeros((p.name, "counts"), (batch, *p.shape), np.int32)
            for p in self.network.populations
            if p.spiking
        }
        spike_counts = np.zeros((batch, len(pops), steps), np.int64)
        event_counts = np.zeros((batch, len(pops), steps), np.int64)
        columns = {"spikes": kernels.P_SPIKES_AT, "u": kernels.P_U_AT, "v": kernels.P_V_AT}
        local = threading.local()
        run_sample = kernels.sample_kernel()

        def one(b: int) -> None:
            if alone:
                state, own = self._states_alone(ring_size)
                local.pops = pops
            elif not hasattr(local, "state"):
                local.state = state = self._state(ring_size, take)
                local.pops = pops.copy()
            else:
                state = local.state
                for i in _VOLATILE:
                    state[i].fill(0)
            for (name, variable), array in arrays.items():
                local.pops[self._rank[name], columns[variable]] = array[b].ctypes.data
            constants = [self._keep_u, self._keep_v, self._threshold, self._bias, self._outside]
            table = local.pops

            sent, added = spike_counts[b], event_counts[b]

            def addresses(state: list[Array]) -> Array:
                """Of what the kernel works on; those of what inputs send are set anew for each call."""
                given = (*constants, *state[:_ROOM], *_QUIET[1:], *state[_ROOM:])
                return np.array([a.ctypes.data for a in given], np.int64)

            def some(begin: int, end: int, first: int, last: int, at: Array, heard: _Heard) -> None:
                pointer, index, value = heard
                at[_HEARD], at[_HEARD + 1] = index.ctypes.data, value.ctypes.data
                run_sample(
                    begin, end, first, last, reset_interval or 0, table, links, at, pointer, sent, added
                )  # fmt: skip

            if parts is None:
                some(0, steps, 0, len(pops), addresses(state), listed(b, 0, steps))
            else:
                other = [state[i] if i in _VOLATILE else own[i] for i in range(len(own))]
                places = addresses(state), addresses(other), addresses(state)
                spans = list(pairwise((0, *parts, len(pops))))
                chunks = list(pairwise((*range(0, steps, chunk), steps)))
                heard = {0: ahead.result()}

                def list_chunk(k: int) -> None:
                    heard[k] = listed(b, *chunks[k])

                def run_part(n: int, k: int) -> None:
                    hears = spans[n][0] < len(self.network.inputs)
                    some(*chunks[k], *spans[n], places[n], heard[k] if hears else _QUIET)
                    if n == relay.PARTS - 1:
                        heard.pop(k, None)

                relay.Relay(len(chunks), run_part, list_chunk, first=1).go(beside)
                beside.shutdown(wait=False)
            spikes = state[_COUNTS]
            for name, array in counts.items():
                rank = self._rank[name]
                neurons = slice(self._first[rank], self._first[rank + 1])
                if name in self._inside:  # (row, column, channel)
                    shape = array.shape[1:]
                    array[b] = spikes[neurons].reshape(*shape[1:], shape[0]).transpose(2, 0, 1)
                else:
                    array[b] = spikes[neurons].reshape(array.shape[1:])
            if alone:
                self._idle.append((state, own))

        if workers == 1:
            for b in range(batch):
                one(b)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(one, range(batch)))
        for (name, variable), values in arrays.items():
            if name in self._dead and variable != "spikes":
                dead = self._dead[name]
                within = bool(pops[self._rank[name], kernels.P_INSIDE])
                values.reshape(batch, steps, -1)[..., dead[self.numbers(name)] if within else dead] = 0
        recorded: dict[str, dict[str, Array]] = {variable: {} for variable in VARIABLES}
        for name, variables in wanted.items():
            for variable in variables:
                recorded[variable][name] = arrays[name, variable]
        names = [entry.name for entry in self._entries]
        return Run(
            output=arrays[output, final],
            spikes=recorded["spikes"],
            u=recorded["u"],
            v=recorded["v"],
            counts=counts,
            spike_counts={name: spike_counts[:, i] for i, name in enumerate(names)},
            event_counts={
                name: event_counts[:, i] for i, name in enumerate(names) if i >= len(self.network.inputs)
            },
            depth=dict(self.depth),
            timing=timing,
        )

    @cached_property
    def _parts(self) -> tuple[int, int] | None:
        """Populations from the first number to the second are what one core runs; another runs those before, some steps ahead, and those
        behind, some steps later. None where it would gain nothing, or spikes go back to an earlier part, or a neuron hears two parts:
        its sums would be added to from two cores."""
        # Nanoseconds a step, as if one neuron in ten spiked: updates, spikes, and events, which in vectors cost least, but whose sums are
        # not in the nearest cache; of an input that its entries are listed.
        cost = np.array([0.3 * size for size in self._sizes])
        for link in self._links:
            each = 0.07 if link.form in (kernels.DENSE, kernels.CONV) else 0.4
            events = float(link.degree.sum(dtype=np.int64))
            cost[link.source] += 0.1 * (6.0 * self._sizes[link.source] + each * events)
            cost[link.source] += 1.0 * self._sizes[link.target]
        passed = np.concatenate([[0.0], np.cumsum(cost)])
        gained, found = WORTH_A_CORE, None
        for first, last in combinations(range(len(cost) + 1), 2):
            middle = passed[last] - passed[first]
            least = float(min(middle, passed[-1] - middle))
            if least > gained and self._is_forward((first, last)):
                gained, found = least, (first, last)
        return found

    def _is_forward(self, parts: tuple[int, int]) -> bool:
        heard: dict[int, int] = {}
        for link in self._links:
            source, target = _part(parts, link.source), _part(parts, link.target)
            if source > target or heard.setdefault(link.target, source) != source:
                return False
        return True

    # --- layout --------------------------------------------------------------------------------------------

    def _kind(self, du: Array, dv: Array, *others: Array) -> tuple[bool, int, int]:
        """Of a population whether its neurons have the same constants, and the kinds of decay of u and of v."""
        uniform = all((values == values[0]).all() for values in (du, dv, *others))
        leak = kernels.KEEP if not dv.any() else kernels.FORGET if (dv == 4096).all() else kernels.DECAY
        return uniform, kernels.FORGET if (du == 4095).all() else kernels.DECAY, leak

    def _spread(self, key: str) -> Array:
        """A parameter of all neurons, in the inside numbering; 0 for inputs."""
        values = np.zeros(self._first[-1], np.int32)
        for i, entry in enumerate(self._entries):
            if isinstance(entry, Population):
                value = np.asarray(getattr(entry, key)).reshape(-1)
                values[self._first[i] : self._first[i + 1]] = (
                    value[self.numbers(entry.name)] if value.size > 1 else value
                )
        return values

    def _state(self, ring_size: int, take: Memory | Fresh) -> list[Array]:
        """u, v, ring, indices and values of the neurons that spiked, staging, spikes of each neuron, and room."""
        neurons, most = int(self._first[-1]), max(self._sizes)
        rows = max((link.rows.room for link in self._links), default=0)
        room = (kernels.BLOCK, most, most, most, most + 1, rows // 2 + 1)
        sizes = (neurons, neurons, ring_size, most, most, most, neurons, *room)
        return [take.zeros(("state", i), (max(size, 1),), np.int32) for i, size in enumerate(sizes)]

    def _states_alone(self, ring_size: int) -> tuple[list[Array], list[Array]]:
        """For a recording alone: a state, and one whose room is a second core's. Those of the last one are taken again where they are
        large enough: the system clears new memory page by page."""
        try:
            state, own = self._idle.pop()
        except IndexError:
            return self._state(ring_size, Fresh()), self._state(1, Fresh())
        if len(state[_RING]) < ring_size:
            state[_RING] = np.zeros(ring_size, np.int32)
        for i in _VOLATILE:
            state[i][: ring_size if i == _RING else None].fill(0)
        return state, own

    def numbers(self, name: str) -> Array:
        """(neurons,) of a population: each one's number in C order of its shape, in the order of the kernels."""
        return self._numbering.order(self._rank[name])

    def _tables(
        self,
        timing: Timing,
        largest: int,
        interval: int | None,
        offset: int,
        parts: tuple[int, int] | None = None,
        chunk: int = 0,
    ) -> tuple[Array, Array, int]:
        """parts, chunk: what parts of the network send to each other waits as `relay` says."""
        network = self.network
        links = np.zeros((len(self._links), kernels.L_COLUMNS), np.int64)
        slots = [1] * len(self._entries)
        for row, link in zip(links, self._links, strict=True):
            projection = link.projection
            conv = isinstance(projection, ConvProjection)
            counts = largest if link.source < len(network.inputs) else 1
            wrap = conv and (link.reach * counts << max(projection.weight_exp, 0)) >= STATE_LIMIT
            steps = latency(network, projection, link.delay, timing, self.depth)
            behind = 0 if parts is None else _part(parts, link.target) - _part(parts, link.source)
            slots[link.target] = max(slots[link.target], steps + 1 + relay.room(behind, chunk))
            row[kernels.L_KIND] = link.form
            row[kernels.L_TARGET] = link.target
            row[kernels.L_LATENCY] = steps
            row[kernels.L_EXP] = projection.weight_exp
            row[kernels.L_STAGED] = wrap or projection.weight_exp != 0
            row[kernels.L_WRAP] = wrap
            row[kernels.L_WEIGHT_AT] = link.weight.ctypes.data
            row[kernels.L_POST_AT] = link.post.ctypes.data
            row[kernels.L_PTR_AT] = link.ptr.ctypes.data
            row[kernels.L_DEGREE_AT] = link.degree.ctypes.data
            row[kernels.L_GEOMETRY_AT] = link.geometry.ctypes.data
            if conv:
                row[kernels.L_CHANNELS] = self._entries[link.source].shape[0]
            row[kernels.L_ROWS_FROM] = link.rows.least
            row[kernels.L_ROWS_AT] = link.rows.geometry.ctypes.data
            row[kernels.L_ROWS_WEIGHT_AT] = link.rows.weights.ctypes.data
        pops = np.zeros((len(self._entries), kernels.P_COLUMNS), np.int64)
        sources = np.array([link.source for link in self._links], np.int64)
        ring = 0
        for i, (row, entry) in enumerate(zip(pops, self._entries, strict=True)):
            row[kernels.P_FIRST], row[kernels.P_SIZE] = self._first[i], self._sizes[i]
            row[kernels.P_LINKS] = np.searchsorted(sources, i)
            row[kernels.P_LINKS_END] = np.searchsorted(sources, i, side="right")
            if isinstance(entry, InputPopulation):
                row[kernels.P_KIND] = kernels.INPUT
                continue
            fires = kernels.SUBTRACTING if entry.reset == "subtract" else kernels.SPIKING
            row[kernels.P_KIND] = fires if entry.spiking else kernels.INTEGRATOR
            row[kernels.P_RING], row[kernels.P_SLOTS] = ring, slots[i]
            ring += slots[i] * self._sizes[i]
            row[kernels.P_UNIFORM], row[kernels.P_DU], row[kernels.P_DV] = self._kinds[i]
            if interval is not None:
                behind = self.depth[entry.name] if timing == "chip" else 0
                row[kernels.P_RESET] = (behind + offset) % interval
        return pops, links, ring


# Above any membrane.
_NO_THRESHOLD = np.iinfo(np.int32).max


def _part(parts: tuple[int, int], population: int) -> int:
    """Which of the three parts, see `Simulator._parts`, a population is in."""
    return (population >= parts[0]) + (population >= parts[1])


# Of the arrays that `Simulator._state` returns: u, v, ring and spikes of each neuron start at zero, and parts of the network share them.
_VOLATILE, _RING, _COUNTS = (0, 1, 2, 6), 2, 6
# From here on they are room.
_ROOM = 7
# Where the kernel's addresses are those of what inputs send: behind five constants and what is before the room.
_HEARD = 5 + _ROOM
