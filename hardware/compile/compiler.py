"""From a NIR graph to the integer network: fold what is linear, choose scales, round.

Neurons become populations, everything between two of them one projection. The rounding itself is
`hardware.compile.quantise`'s, the folding `hardware.compile.linear`'s, the choice of scales `hardware.compile.scaling`'s. A
neuron's membrane, threshold and bias scale together, so that one factor per neuron is free; its synapses bind those
factors:

- one per population, where the chip has a threshold per population: one for all where the graph has one;
- one per output channel, where it has a threshold per neuron: every channel uses the whole range of its weights, and
  thresholds differ from neuron to neuron. A read-out's membranes are compared with each other, so that a
  population that does not spike always has one.

Where weights, thresholds and biases lie on steps that the chip can hold, nothing is rounded (`hardware.compile.grid`). Biases of
current-based neurons act through their current (`hardware.compile.layers`). A network that was trained on integers brings its
scales along, and keeps them (`hardware.compile.pins`).

Membranes are shifted so that a reset to v_reset goes to zero, the chip's own. A reset by subtraction takes v_threshold
from the membrane (snnTorch's, `hardware.simulate.reference.fire`): there the membrane is not shifted, v_reset is only
where an IF starts. What the chip can do to a neuron is `hardware.chip.chips.NeuronModel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardware.chip import layers as on_layers
from hardware.chip.chips import Chip, as_chip
from hardware.compile import pins
from hardware.compile.layers import Layer, Neurons, layers_of
from hardware.compile.report import LayerReport
from hardware.compile.rounding import Fit, Rounded, round_layer
from hardware.compile.scaling import Demand, Seen, scaled
from hardware.compile.warning import warnings_of
from hardware.compile.weights import folded_gain, groups_of, rows_of
from hardware.errors import HardwareError
from hardware.graph.graph import Graph, check_time_step, reset_of, time_step
from hardware.network.connectivity import shapes, synapses_of
from hardware.network.integer import MAX_DELAY, MAX_WEIGHT_BITS, InputPopulation, Network, Reset
from hardware.network.timing import depths, is_recurrent, skipped_layers

__all__ = ["Compiled", "LayerReport", "compile_graph", "compile_layers"]

# What an input spike is taken to count at most, where the file names no clip and the chip has counts.
ASSUMED_COUNT = 4
ALWAYS_ON = "always on"

Array = np.ndarray
# (source, target) of projections, or all of them.
Pairs = bool | Collection[tuple[str, str]]


@dataclass(frozen=True)
class Compiled:
    """network, reports: as `compile_graph` returns them. layers: before and after rounding, in the network's order."""

    network: Network
    reports: list[LayerReport]
    layers: list[Rounded]


def compile_graph(
    graph: Graph,
    chip: Chip | str | Path,
    dt: float | None = None,
    weight_bits: int | None = None,
    per_channel: bool | None = None,
    reset: Reset | None = None,
    pairs: Pairs = False,
) -> tuple[Network, list[LayerReport]]:
    """The integer network of a graph on a chip, and a report for each projection, in the network's order.

    chip: itself, its name or its file. dt: seconds per step; None: as `hardware.graph.graph.time_step` finds it.
    weight_bits: of the mantissas; None: as wide as the chip stores them, at most 8. per_channel: whether every output channel
    has a scale and a threshold of its own; None: where the chip has a threshold per neuron.
    reset: what a spike does to the membrane; None: as `hardware.graph.graph.reset_of` finds it.
    pairs: which projections, (source, target), have two synapses per weight, of different exponents; True: all. Where
    weights are on a grid one is enough.
    Raises HardwareError, naming the node, for what the chip cannot do. Zeros stay zeros.
    """
    done = compile_layers(graph, chip, dt, weight_bits, per_channel, reset, pairs)
    return done.network, done.reports


def compile_layers(
    graph: Graph,
    chip: Chip | str | Path,
    dt: float | None = None,
    weight_bits: int | None = None,
    per_channel: bool | None = None,
    reset: Reset | None = None,
    pairs: Pairs = False,
    fits: Mapping[str, Fit] | None = None,
    seen: Mapping[str, Seen] | None = None,
) -> Compiled:
    """As `compile_graph`, with what was rounded.

    fits: of populations by name, integers to take as they are. seen: of populations by name, see `hardware.compile.pairs.seen_on`.
    """
    chip = as_chip(chip)
    widest = min(max(chip.weight_bits), MAX_WEIGHT_BITS)
    if weight_bits is None:
        weight_bits = widest
    if not isinstance(weight_bits, int) or not 1 <= weight_bits <= widest:
        raise HardwareError(f"weights of {weight_bits} bits, expected 1 to {widest} for {chip.name}")
    one_each = chip.neuron.thresholds_per == "neuron"
    if per_channel is None:
        per_channel = one_each
    elif per_channel and not one_each:
        raise HardwareError(f"a scale per channel: {chip.name} has one threshold per population")
    step, _ = time_step(graph, dt)
    check_time_step(graph, step)
    reset, _ = reset_of(graph, reset)
    name = ALWAYS_ON
    while name in graph.nodes:
        name += "'"
    pinned = pins.read(graph.metadata, weight_bits)
    if pinned is not None:
        weight_bits, per_channel, pairs = pinned.bits, False, False
    layers, output = layers_of(graph, step, reset, name if chip.neuron.always_on_inputs else None)
    counts = _counts(graph, chip)
    rounded = []
    for layer in layers:
        _check_neurons(layer.neurons, chip)
        demand = _demand(layer, chip, weight_bits, widest, per_channel, pairs, counts, name)
        if seen is not None:
            demand = replace(demand, seen=seen[layer.neurons.name])
        fit = (fits or {}).get(layer.neurons.name)
        if pinned is not None and fit is None:
            demand, scaling = pinned.of(layer.neurons.name).applied(demand, chip, name)
        else:
            scaling = scaled(demand, chip.neuron) if fit is None else fit.scaling
        rounded.append(round_layer(layer, demand, scaling, chip, fit))
    inputs = [InputPopulation(entry, graph.output_shape[entry]) for entry in graph.inputs]
    if any(path.source == name for layer in layers for path in layer.paths):
        inputs.append(InputPopulation(name, (1,), constant=1))
    parts = [
        (projection, path, report)
        for r in rounded
        for path, projections, reports in zip(r.layer.paths, r.projections, r.reports, strict=True)
        for projection, report in zip(projections, reports, strict=True)
    ]
    network = Network(
        inputs=tuple(inputs),
        populations=tuple(r.population for r in rounded),
        projections=tuple(projection for projection, _, _ in parts),
        outputs=(output,),
        dt=step,
        metadata={key: reset if key == "reset" else value for key, value in graph.metadata.items()},
    )
    network, notes = _aligned(network, [path.latency for _, path, _ in parts], chip)
    if chip.layers is not None:
        on_layers.layers_of(network, chip)
    warned = warnings_of(network, counts)
    shape = shapes(network)
    reports = []
    for (_, _, report), projection, more in zip(parts, network.projections, notes, strict=True):
        synapses = synapses_of(projection, shape[projection.source], shape[projection.target])
        if projection.source == name:
            more = (
                *more,
                f"the bias acts through the synaptic current: an input that is always on, {synapses:,} synapses",
            )
        reports.append(
            replace(
                report,
                delay=int(np.max(projection.delay)),
                synapses=synapses,
                notes=(*report.notes, *more),
                warnings=(*report.warnings, *warned.get(projection.target, ())),
            )
        )
    return Compiled(network, reports, rounded)


def _counts(graph: Graph, chip: Chip) -> dict[str, int]:
    """The largest count of a spike of each input; spikes of populations count 1."""
    clip = graph.metadata.get("clip")
    most = 1 if not chip.neuron.graded_inputs else ASSUMED_COUNT if clip is None else max(int(clip), 1)
    return dict.fromkeys(graph.inputs, most)


def _demand(
    layer: Layer,
    chip: Chip,
    bits: int,
    widest: int,
    per_channel: bool,
    pairs: Pairs,
    counts: Mapping[str, int],
    always_on: str,
) -> Demand:
    neurons = layer.neurons
    maps, residual = folded_gain(layer)
    group = groups_of(neurons.shape, maps, per_channel and neurons.threshold is not None)
    # Biases are few synapses: they take all bits.
    weights = [
        rows_of(
            path, m, group, neurons.shape[0], chip, widest if path.source == always_on else bits, neurons.name
        )
        for path, m in zip(layer.paths, maps, strict=True)
    ]
    paired = [
        pairs if isinstance(pairs, bool) else (path.source, neurons.name) in pairs for path in layer.paths
    ]
    return Demand(
        neurons,
        group,
        residual,
        neurons.steady * layer.bias + neurons.drive,
        weights,
        paired,
        [counts.get(path.source, 1) for path in layer.paths],
        [path.source == always_on for path in layer.paths],
    )


def _check_neurons(neurons: Neurons, chip: Chip) -> None:
    """Raise HardwareError for neurons that the chip has not."""
    where, model = f"node {neurons.name!r}", chip.neuron
    if model.membrane_decay_bits == 0 and neurons.leak.any():
        raise HardwareError(
            f"{where}: its membranes leak, those of {chip.name} cannot; use neurons without a leak (IF)"
        )
    if model.current_decay_bits == 0 and (neurons.forget < 1).any():
        raise HardwareError(
            f"{where}: its synaptic currents have a memory, those of {chip.name} have none; use a LIF or IF"
        )
    if neurons.threshold is None:
        if not model.membrane_readout:
            raise HardwareError(
                f"{where}: its membranes are read out, {chip.name} gives out spikes only; let spiking neurons be last"
            )
    elif neurons.reset not in model.resets:
        does = (
            "resets its membranes to v_reset"
            if neurons.reset == "zero"
            else "takes the threshold off its membranes"
        )
        raise HardwareError(
            f"{where}: a spike {does}, those of {chip.name} can only {', '.join(model.resets)}; "
            f"train with that reset, or take a chip, and an .h5 file, with reset {neurons.reset}"
        )


def _aligned(network: Network, latencies: list[int], chip: Chip) -> tuple[Network, list[tuple[str, ...]]]:
    """Delays that make every way to a population take as long on the chip as the longest, and notes."""
    depth = depths(network)
    most = min(chip.neuron.delay_steps, MAX_DELAY)
    projections, notes = [], []
    for projection, latency in zip(network.projections, latencies, strict=True):
        more: tuple[str, ...] = ()
        if is_recurrent(network, projection):
            beyond = delay = latency - 1
            around = depth[projection.source] - depth[projection.target]
            if around:
                more = (f"this loop takes {around} more steps on the chip, where each projection takes one",)
        else:
            delay = latency + skipped_layers(network, projection, depth)
            # Without a clock no way takes longer than another.
            beyond = delay if chip.neuron.projection_steps else latency
        if not (0 <= beyond <= most and 0 <= delay <= MAX_DELAY):
            raise HardwareError(
                f"projection {projection.source!r} -> {projection.target!r}: needs a delay of {delay} steps "
                f"on {chip.name}, which has at most {most}; put neurons on the way or use longer time steps"
            )
        projections.append(replace(projection, delay=delay) if delay else projection)
        notes.append(more)
    return replace(network, projections=tuple(projections)), notes
