"""What leads to a population: its neurons in the chip's form, and the linear maps from the populations before.

A bias is a constant input. To neurons without a current of their own it is a constant drive of the membrane, which the chip
has. A synaptic current that remembers (CubaLIF, CubaLI) rises step by step under a constant input; to be so on the
chip, its bias comes from an input that spikes in every step, over one axon whose weights are the biases. So does a bias
behind a delay, which acts only when that is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from hardware.compile.linear import Diagonal, Map, Matrix, apply, compose, of_node
from hardware.errors import HardwareError
from hardware.graph.graph import INTEGRATORS, SPIKING, Graph, delay_steps, never_spiking
from hardware.network.integer import Reset

Array = np.ndarray
NEURONS = (*SPIKING, *INTEGRATORS)
MAX_PATHS = 4096


@dataclass(frozen=True)
class Neurons:
    """Flat float arrays: v <- v (1 - leak) + u + drive after u <- u (1 - forget) + gain * input.

    drive: of the membrane per step, without the bias of synapses; threshold: None for a read-out.
    reset: what a spike does. offset: the graph's membrane where this one is 0.
    dead: of neurons that never spike, whose thresholds here are another neuron's; None: none.
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
    reset: Reset = "zero"
    dead: Array | None = None


@dataclass(frozen=True)
class Path:
    """From a population to the next: a linear map, and the steps it takes when layers take none. dead: source neurons that never
    spike, None: none."""

    source: str
    source_shape: tuple[int, ...]
    map: Map | None
    latency: int
    dead: Array | None = None


@dataclass(frozen=True)
class Layer:
    """bias: constant input that drives membranes at once, one per neuron, before the neurons' gain."""

    neurons: Neurons
    paths: tuple[Path, ...]
    bias: Array
    notes: tuple[str, ...]


def layers_of(
    graph: Graph, dt: float, reset: Reset = "zero", always_on: str | None = None
) -> tuple[list[Layer], str]:
    """All populations' layers in the graph's order, and the name of the one that is read out.

    always_on: the name of an input that spikes in every step, None where there is none: then all biases drive
    membranes. Raises HardwareError, naming the node, for what the chip cannot do.
    """
    layers = [
        _gather(graph, name, _neurons_of(graph, name, dt, reset), dt, always_on)
        for name in graph.order
        if isinstance(graph.nodes[name], NEURONS)
    ]
    if len(graph.outputs) != 1:
        raise HardwareError(f"the graph has {len(graph.outputs)} Output nodes, expected one")
    output = _output_of(graph, dt, always_on)
    if isinstance(output, Layer):
        layers.append(output)
        output = output.neurons.name
    return layers, output


def _output_of(graph: Graph, dt: float, always_on: str | None) -> str | Layer:
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
    neurons = Neurons(output, shape, one, one, one, one, zero, None, zero, ())
    return _gather(graph, output, neurons, dt, always_on)


def _gather(graph: Graph, target: str, neurons: Neurons, dt: float, always_on: str | None) -> Layer:
    before = graph.predecessors()
    paths: list[Path] = []
    biases: dict[int, Array] = {0: np.zeros(math.prod(neurons.shape))}  # by the steps that they are late
    notes: set[str] = set()

    def follow(name: str, after: Map | None, latency: int, way: tuple[str, ...]) -> None:
        for source in before[name]:
            visit(source, after, latency + ((source, name) in graph.recurrent), (*way, name))

    def visit(name: str, after: Map | None, latency: int, way: tuple[str, ...]) -> None:
        node = graph.nodes[name]
        if isinstance(node, nir.Input | nir.LIF | nir.CubaLIF | nir.IF):
            if len(paths) == MAX_PATHS:
                raise HardwareError(f"node {target!r}: more than {MAX_PATHS} ways lead to it")
            paths.append(Path(name, graph.output_shape[name], after, latency, never_spiking(node)))
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
                more = apply(after, np.repeat(np.asarray(given, np.float64), each))
                biases[latency] = biases.get(latency, 0.0) + more
                if latency and always_on is None:
                    notes.add(f"the bias of {name!r} acts from the first step on, before its delay is over")
            try:
                map_ = compose(after, of_node(node, graph.input_shape[name], shape))
            except HardwareError as error:
                raise HardwareError(f"node {name!r}: {error}") from None
            follow(name, map_, latency, way)

    follow(target, None, 0, ())
    at_once = np.zeros_like(biases[0])
    for latency, bias in sorted(biases.items()):
        if neurons.dead is not None:
            bias = np.where(neurons.dead, 0.0, bias)
        through = bias * ((neurons.forget < 1) | (latency > 0))
        if always_on is None:
            at_once += bias
            if through.any() and not latency:
                notes.add("the bias drives the membrane at once, not through the synaptic current")
            continue
        at_once += bias - through
        if through.any():
            paths.append(Path(always_on, (1,), Matrix(through[:, None]), latency))
    return Layer(neurons, tuple(paths), at_once, tuple(sorted(notes)))


def _neurons_of(graph: Graph, name: str, dt: float, reset: Reset) -> Neurons:
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
        leak = np.minimum(dt / p("tau_mem" if hasattr(node, "tau_mem") else "tau"), 1.0)
    forget = np.minimum(dt / p("tau_syn"), 1.0) if hasattr(node, "tau_syn") else one
    steady = r if isinstance(node, nir.IF | nir.I) else leak * r
    if hasattr(node, "tau_syn"):
        steady = steady * p("w_in")
    notes = []
    threshold = None
    dead = never_spiking(node)
    if isinstance(node, SPIKING):
        # What is subtracted is the threshold itself, so that membranes stay where they are.
        offset = p("v_reset") if reset == "zero" else zero
        threshold = p("v_threshold") - offset
        if dead is not None:
            if dead.all():
                raise HardwareError(
                    f"{where}: v_threshold is infinite everywhere, so that it never spikes; expected a neuron that can"
                )
            threshold = _alive_threshold(threshold, dead, shape[0])
        if (threshold < 0).any():
            at = int(np.argmin(threshold))
            if reset == "subtract":
                raise HardwareError(
                    f"{where}: v_threshold is {threshold[at]:g}, expected 0 or more: with reset by subtraction it would "
                    "fire without end"
                )
            raise HardwareError(
                f"{where}: v_threshold {p('v_threshold')[at]:g} is below v_reset {offset[at]:g}: it would "
                "fire without end; give it a v_reset of its threshold at most"
            )
    else:
        # A common level does not change which neuron's membrane is highest.
        offset = rest if (rest == rest[0]).all() else zero
    drive = leak * (rest - offset)
    if dead is not None:
        drive = np.where(dead, 0.0, drive)
        notes.append(f"{np.count_nonzero(dead):,} of its neurons never spike and are left out")
    start, called = (p("v_reset"), "v_reset") if isinstance(node, nir.IF) else (rest, "v_leak")
    if not isinstance(node, nir.I) and (start != offset).any():
        on_chip = "0" if threshold is not None and reset == "subtract" else "v_reset"
        notes.append(f"membranes start at {on_chip} on the chip, at {called} in the graph")
    if threshold is not None and reset == "subtract" and graph.metadata.get("reset_delay"):
        notes.append(
            "the chip subtracts the threshold at once, the graph one step later and behind that step's decay"
        )
    return Neurons(
        name,
        shape,
        forget,
        leak,
        steady * forget,
        steady,
        drive,
        threshold,
        offset,
        tuple(notes),
        reset,
        dead,
    )


def _alive_threshold(threshold: Array, dead: Array, channels: int) -> Array:
    """Thresholds with those of dead neurons, which decide nothing, put to one of the same channel, or of another where all of that are
    dead: scales are then found as if they were not there."""
    found = threshold.reshape(channels, -1).copy()
    alive = ~dead.reshape(found.shape)
    for row, there in zip(found, alive, strict=True):
        row[~there] = row[there][0] if there.any() else threshold[~dead][0]
    return found.reshape(-1)
