"""A network whose forward pass is the integer network that the compiler makes of it.

Built from a graph, so from any trained network that can be exported, whoever trained it: what is linear between two
populations is folded into one projection as on the chip, batch norms with it, and the folded weights are what is trained.
Every forward pass rounds them, and the biases, by `hardware.compile.quantise`. Spikes and membranes equal those of
`hardware.simulate.simulator` in training and in evaluation mode where batch norm was folded before (the default), and in
evaluation mode where it is trained along (`dpap_neuro.precision.scratch`).

Others who train on a chip's integers: lava-dl SLAYER for its own blocks, since 2021, with one fixed scale and no 24-bit wrap;
SpikingJelly's lava_exchange follows it. Learned scales are LSQ's (Esser et al. 2020, arXiv 1902.08153).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import ModelSettings, Network
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.precision import rescaling, scales
from dpap_neuro.precision.neurons import ExactNeuron
from dpap_neuro.precision.plan import Constant, Link, Plan
from dpap_neuro.precision.synapses import (
    EXACT,
    WRAPPED,
    Exact,
    ExactConv2d,
    ExactLinear,
    Grid,
    check_precision,
    largest_sum,
    largest_sum_now,
    zeros_held,
)
from hardware.chip.chips import DEFAULT, Chip, as_chip
from hardware.compile import layers, quantise
from hardware.compile.compiler import compile_layers
from hardware.compile.linear import Convolution
from hardware.compile.rounding import Rounded
from hardware.compile.scaling import Demand, Scaling
from hardware.compile.weights import Weights
from hardware.files.netx import restrict
from hardware.graph.graph import Graph, time_step
from hardware.graph.parsing import read_graph
from hardware.network.integer import Reset
from hardware.network.timing import Timing, depths

LARGEST_COUNT = 255


@dataclass(frozen=True)
class Precision:
    """chip: a name or the path of a chip's file. weight_bits: 1 to 8; None: as wide as the chip stores them.

    max_count: the largest count of an input spike; None: as the graph's `clip` says, else 255. timing: the clock, see
    `hardware.network.timing`; on the chip's every projection takes a step. scales: "fixed", or "learned" (log2, LSQ).
    netx: only what a NETX file (`.net`) can hold: no weight exponents, one for biases, which drive membranes.
    """

    chip: str = DEFAULT
    weight_bits: int | None = None
    max_count: int | None = None
    timing: Timing = "zero_delay"
    scales: Literal["fixed", "learned"] = "fixed"
    netx: bool = False

    def __post_init__(self) -> None:
        if self.timing not in ("zero_delay", "chip"):
            raise InputError(f"timing: found {self.timing!r}, expected zero_delay or chip")
        if self.scales not in ("fixed", "learned"):
            raise InputError(f"scales: found {self.scales!r}, expected fixed or learned")
        if self.max_count is not None and self.max_count < 1:
            raise InputError(f"max_count: found {self.max_count}, expected at least 1")

    def target(self) -> Chip:
        """The chip, as far as it may be used."""
        return restrict(as_chip(self.chip)) if self.netx else as_chip(self.chip)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ExactNetwork(Network):
    """(T, B, *input shape) counts to (T, B, *output shape): spikes, or membranes.

    In evaluation mode membranes are float64, whole numbers times a power of two, so that their sums over time are exact;
    in training mode they are float32 in the units of the float network. The integers are the same in both.
    graph_output, input_name: as the graph called its nodes. metadata: the graph's. demands: what each population asked of its scale when
    the network was built. always_on: inputs that are constant, by their names in the compiled network.
    """

    max_count: int

    def __init__(
        self,
        graph: Graph,
        settings: ModelSettings,
        precision: Precision,
        dt: float | None = None,
        reset: Reset | None = None,
        learned_leaks: Collection[str] = (),
        hold_zeros: bool = True,
    ) -> None:
        """learned_leaks: populations that learn their leak. hold_zeros: weights that are zero stay zero.

        Raises HardwareError for what the chip cannot do, InputError for what cannot be trained.
        """
        super().__init__()
        if len(graph.inputs) != 1:
            raise InputError(f"the graph has {len(graph.inputs)} inputs, expected one to train on")
        self.settings, self.precision, self.metadata = settings, precision, dict(graph.metadata)
        self.chip = precision.target()
        self.dt, _ = time_step(graph, dt)
        done = compile_layers(
            graph, self.chip, self.dt, precision.weight_bits, per_channel=False, reset=reset
        )
        self.reset = next(
            (r.layer.neurons.reset for r in done.layers if r.layer.neurons.threshold is not None), "zero"
        )
        self.bits = precision.weight_bits or max(min(b, 8) for b in self.chip.weight_bits)
        self.input_name, self.graph_output, self.output = (
            graph.inputs[0],
            graph.outputs[0],
            done.network.outputs[0],
        )
        self.shapes = {self.input_name: graph.output_shape[self.input_name]}
        self.depth = depths(done.network)
        clip = graph.metadata.get("clip")
        counted = LARGEST_COUNT if clip is None else min(int(clip), LARGEST_COUNT)
        self.max_count = precision.max_count or (counted if self.chip.neuron.graded_inputs else 1)
        self.synapses, self.populations, self.constants = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.plan: list[Plan] = []
        self.demands: dict[str, Demand] = {}
        self.always_on = {entry.name for entry in done.network.inputs if entry.constant}
        known = {*self.shapes}
        for found in done.layers:
            self._add(found, known, learned_leaks)
            known.add(found.layer.neurons.name)
            self.shapes[found.layer.neurons.name] = found.layer.neurons.shape
        if hold_zeros:
            for key in self.synapses:
                self.synapse(key).alive = zeros_held(self.synapse(key).weight)
            for key in self.populations:
                self.population(key).hold_zeros()

    def synapse(self, name: str) -> Exact:
        """A module of `synapses`."""
        return cast(Exact, self.synapses[name])

    def population(self, key: str) -> ExactNeuron:
        """A module of `populations`, named as there."""
        return cast(ExactNeuron, self.populations[key])

    def constant(self, name: str) -> Constant:
        """A module of `constants`."""
        return cast(Constant, self.constants[name])

    # --- building ------------------------------------------------------------------------------------------

    def _add(self, found: Rounded, known: set[str], learned_leaks: Collection[str]) -> None:
        layer, demand = found.layer, found.demand
        neurons, name = layer.neurons, layer.neurons.name
        if (demand.residual != 1).any():
            raise InputError(
                f"node {name}: its neurons differ in their gain within a channel, expected one gain for each"
            )
        if not found.scaling.on_grid and "mixed" in self.chip.neuron.sign_modes:
            # A bias may change its sign in training; a projection whose weights have one sign keeps it.
            weights = [
                replace(w, mode="mixed") if w.path.source in self.always_on else w for w in demand.weights
            ]
            demand = replace(demand, weights=weights)
        scaling = scales.choose(demand, found.scaling, self.chip.neuron)
        _check_weights(demand, scaling)
        self.demands[name] = demand
        scale, key = float(scaling.scale[0]), name.replace(".", "_")
        gain = rescaling.gain_of(demand)
        links: list[Link] = []
        always, back = [], None
        for path, w, exponents in zip(layer.paths, demand.weights, scaling.exponents, strict=True):
            grid = Grid(scale * gain / 2.0 ** exponents[0], exponents[0], w.mode, w.bits)
            if path.source in self.always_on:
                always.append((path, w, Grid(scale / 2.0 ** exponents[0], exponents[0], w.mode, w.bits)))
            elif path.source == name and path.latency == 1 and back is None:
                back = _array(w) / gain, grid
            elif path.source not in known:
                raise InputError(
                    f"node {name}: a loop through {path.source}, expected a population that feeds itself alone, a step later"
                )
            else:
                late = self._late(path, name)
                links.append(
                    Link(path.source, self._synapse(path, w, grid, gain, len(links), key), late, path.latency)
                )
        first = self.synapse(links[0].synapse) if links else None
        each = math.prod(neurons.shape) // first.weight.shape[0] if first is not None else 1
        drive: np.ndarray | None = _for_all(demand.drive, neurons.dead, each) if demand.drive.any() else None
        constants, biased = [], False
        for k, (path, w, grid) in enumerate(always):
            values = _for_all(_array(w).reshape(-1), neurons.dead, each)
            own: np.ndarray | None = values
            if first is not None and first.bias is None and path.latency == 0 and _by_channel(values, each):
                first.bias, own = nn.Parameter(_tensor(values[::each])), None
            constants.append(f"{key}_{k}")
            self.constants[constants[-1]] = Constant(grid, own, each, self._late(path, name), path.latency)
        if drive is not None and first is not None and first.bias is None and _by_channel(drive, each):
            first.bias, drive, biased = nn.Parameter(_tensor(drive[::each])), None, True
        learns = self.settings.neuron
        settings = NeuronSettings(
            self.dt, self.dt, surrogate=learns.surrogate, surrogate_slope=learns.surrogate_slope
        )
        population = ExactNeuron(
            settings,
            neurons,
            scale,
            np.asarray(scaling.thresholds),
            self.chip.neuron,
            name in learned_leaks,
            drive,
            *(back or ()),
        )
        if neurons.dead is not None:
            population.dead = torch.from_numpy(neurons.dead.reshape(neurons.shape).copy())
        self.populations[key] = population
        if self.precision.scales == "learned":
            self._learn_scale(population, links, constants, demand)
        watched = self._check_sums(found, scaling, links, back)
        self.plan.append(Plan(name, key, tuple(links), tuple(constants), biased, watched))

    def _late(self, path: layers.Path, target: str) -> int:
        """Steps from a spike to its input, on the clock that is trained for."""
        if self.precision.timing == "zero_delay":
            return path.latency
        return path.latency + self.depth[target] - self.depth.get(path.source, 0)

    def _synapse(self, path: layers.Path, w: Weights, grid: Grid, gain: float, number: int, key: str) -> str:
        name = f"{path.source}_to_{key}".replace(".", "_")
        while name in self.synapses:
            name += "_"
        weights = _array(w) / gain
        made: Exact
        if isinstance(w.map, Convolution):
            out, within, *kernel = weights.shape
            made = ExactConv2d(
                grid, within * w.map.groups, out, tuple(kernel), w.map.stride, w.map.padding, w.map.dilation, w.map.groups,
                bias=False,
            )  # fmt: skip
        else:
            made = ExactLinear(grid, weights.shape[1], weights.shape[0], bias=False)
        made.weight = nn.Parameter(_tensor(weights))
        self.synapses[name] = made
        return name

    def _learn_scale(
        self, population: ExactNeuron, links: list[Link], constants: list[str], demand: Demand
    ) -> None:
        population.learn_scale(demand.thresholds, scales.whole_sums(demand))
        for module in (
            *(self.synapse(link.synapse) for link in links),
            *(self.constant(c) for c in constants),
        ):
            module.stretch = population.stretch

    def add_norm(self, layer: Plan, norm: nn.Module) -> None:
        """Let a batch norm be folded into a layer's only synapse, and its shift be the layer's bias."""
        self.synapse(layer.links[0].synapse).norm = norm
        at = self.plan.index(layer)
        self.plan[at] = replace(layer, biased=not layer.constants)

    def _check_sums(self, found: Rounded, scaling: Scaling, links: list[Link], back: Any) -> bool:
        """Whether sums are to be watched. Raises InputError, naming the layer, where they pass what is exact already."""
        total, watched = 0, False
        for link in links:
            synapse = self.synapse(link.synapse)
            fan_in = int(synapse.weight[0].numel())
            part = largest_sum(fan_in, synapse.grid, self.max_count if link.source == self.input_name else 1)
            watched |= isinstance(synapse, ExactConv2d) and part >= WRAPPED
            total += part
        if back is not None:
            total += largest_sum(len(back[0]), back[1], 1)
        for w, (exponent, *_) in zip(found.demand.weights, scaling.exponents, strict=True):
            total += 256 << exponent if w.path.source in self.always_on else 0
        lowest = min((e for e, *_ in scaling.exponents), default=0)
        watched |= total >> lowest >= EXACT
        if watched:
            with torch.no_grad():
                parts = [self.synapse(link.synapse).weights() for link in links]
                self._check_sums_now(found.layer.neurons.name, links, parts)
        return watched

    def _check_sums_now(self, name: str, links: Collection[Link], parts: list[Tensor]) -> None:
        total, lowest = 0, min((self.synapse(link.synapse).grid.exponent for link in links), default=0)
        for link, weights in zip(links, parts, strict=True):
            part = largest_sum_now(weights, self.max_count if link.source == self.input_name else 1)
            if isinstance(self.synapse(link.synapse), ExactConv2d) and part >= WRAPPED:
                raise InputError(
                    f"layer {name}: its convolution of {link.source} can sum to {part:,}, expected below 2**23, where the "
                    "chip wraps it; give fewer weights, fewer bits or a lower --clip"
                )
            total += part
        if total >> lowest >= EXACT or total >= 2**31:
            raise InputError(
                f"layer {name}: its synapses can sum to {total >> lowest:,}, expected below 2**24, what float32 sums "
                "exactly; give fewer weights, fewer bits or a lower --clip"
            )

    # --- running -------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        return self.traced(x, None)

    def traced(self, x: Tensor, trace: dict[str, Tensor] | None) -> Tensor:
        """As a call; a trace is filled with the spikes (float32) or integer membranes (int32) of every population."""
        check_precision(x.device)
        self._check_input(x)
        values = {self.input_name: x}
        for layer in self.plan:
            population = self.population(layer.key)
            shape, total = self.shapes[layer.name], None
            parts = []
            for link in layer.links:
                synapse = self.synapse(link.synapse)
                arriving = _later(values[link.source], link.late)
                if not isinstance(synapse, ExactConv2d):
                    arriving = arriving.flatten(2)
                current = synapse.seen(synapse(arriving.flatten(0, 1))).reshape(*x.shape[:2], *shape)
                total = current if total is None else total + current
                if layer.watched:
                    parts.append(synapse.weights())
            if layer.watched:
                self._check_sums_now(layer.name, layer.links, parts)
            first = self.synapse(layer.links[0].synapse) if layer.links else None
            if total is None:
                total = x.new_zeros(*x.shape[:2], *shape)
            bias = None if first is None else first.constant()
            always = None
            for name in layer.constants:
                constant = self.constant(name)
                steps = torch.arange(len(x), device=x.device) >= constant.late
                arriving = constant.vector(bias).reshape(shape) * steps.reshape(-1, 1, *(1,) * len(shape))
                always = arriving if always is None else always + arriving
            drive = None
            if layer.biased and bias is not None:
                drive = bias.repeat_interleave(math.prod(shape) // len(bias))
            if trace is None:
                out = population(total, drive, always)
            else:
                out, membranes = population.traced(total, drive, always)
                trace[layer.name] = out if population.spikes else membranes
            values[layer.name] = out
        return self._read_out(values[self.output])

    def _read_out(self, out: Tensor) -> Tensor:
        population = self.population(self.output.replace(".", "_"))
        if population.spikes:
            return out
        if self.training:
            return out * (1.0 / population.unit)
        return out.double() * 2.0 ** -(6 + dyadic(population.scale_now))

    def _check_input(self, x: Tensor) -> None:
        if x.dtype != torch.float32:
            raise InputError(f"input: found {x.dtype}, expected float32 counts")
        if not x.numel():
            return
        low, high = (float(value) for value in torch.aminmax(x.detach()))
        if low < 0 or high > self.max_count:
            raise InputError(
                f"input: found counts from {low:g} to {high:g}, expected 0 to {self.max_count} (--clip, or max_count)"
            )

    def get_extra_state(self) -> Tensor:
        """Scales and exponents, in the plan's order, which training may choose anew."""
        return torch.tensor(
            [value for layer in self.plan for value in rescaling.scaling_of(self, layer)], dtype=torch.float64
        )

    def set_extra_state(self, state: Tensor) -> None:
        values = state.tolist()
        for layer in self.plan:
            now = rescaling.scaling_of(self, layer)
            given, values = values[: len(now)], values[len(now) :]
            if given != now:
                rescaling.set_scaling(self, layer, given)

    # --- between epochs ------------------------------------------------------------------------------------

    @torch.no_grad()
    def stored(self) -> dict[str, Tensor]:
        """Of every weight, by its name in the state dict, whether its integer is not zero: what a chip stores."""
        found: dict[str, Tensor] = {}
        for name in self.synapses:
            found[f"synapses.{name}.weight"] = self.synapse(name).weights() != 0
        for name in self.populations:
            back = self.population(name).back()
            if back is not None:
                found[f"populations.{name}.recurrent_weights"] = back != 0
        return found

    @contextmanager
    def as_stored(self) -> Iterator[None]:
        """Weights whose integer is zero are zero for a while, so that a pruner ranks, and counts, what a chip stores."""
        parameters, before = dict(self.named_parameters()), {}
        with torch.no_grad():
            for name, kept in self.stored().items():
                weight = parameters[name]
                before[name] = weight.detach().clone()
                weight.mul_(kept)
        try:
            yield
        finally:
            parameters = dict(self.named_parameters())
            with torch.no_grad():
                for name, values in before.items():
                    parameters[name].copy_(values)

    def recheck(self, slack: float = 1.25) -> tuple[str, ...]:
        """Choose scales anew where weights have changed, see `rescaling.recheck`; the names of those populations."""
        return rescaling.recheck(self, slack)


def from_run(path: str | Path, settings: ModelSettings, precision: Any) -> ExactNetwork:
    """The network that a run has written, with the same integers; precision: what its run.json says.

    Raises InputError or HardwareError for a damaged file.
    """
    try:
        wanted = Precision(**precision)
    except TypeError as error:
        raise InputError(f"{path}: damaged run (precision: {error})") from None
    return ExactNetwork(read_graph(path), settings, wanted)


def _for_all(values: np.ndarray, dead: np.ndarray | None, each: int) -> np.ndarray:
    """Biases (neurons,), those of dead neurons, which say nothing, as others of their channel: so that a channel still has one."""
    if dead is None:
        return values
    rows, gone = values.reshape(-1, each).copy(), dead.reshape(-1, each)
    for row, none in zip(rows, gone, strict=True):
        row[none] = row[~none][0] if not none.all() else 0.0
    return rows.reshape(-1)


def _check_weights(demand: Demand, scaling: Scaling) -> None:
    """Raise InputError, naming the layer, where no exponent holds a projection's weights beside the threshold."""
    for w, (exponent, *_) in zip(demand.weights, scaling.exponents, strict=True):
        values = w.values()
        mantissas = quantise.round_weights(values, float(scaling.scale[0]), exponent, w.mode, w.bits)
        if values.any() and not mantissas.any():
            level = "" if demand.thresholds is None else f" beside a threshold of {demand.thresholds.max():g}"
            raise InputError(
                f"node {demand.neurons.name}: all weights from {w.path.source} round to 0 at {w.bits} bits, the largest is "
                f"{np.abs(values).max():g}{level}: they fit no exponent"
            )


def dyadic(scale: float) -> int:
    """k of the power of two 2**k that is nearest to a scale; an exported graph has this scale, in units of its own."""
    return round(math.log2(scale))


def _later(x: Tensor, steps: int) -> Tensor:
    """(T, B, ...) some steps later, zeros before."""
    if not steps:
        return x
    steps = min(steps, len(x))
    return torch.cat([torch.zeros_like(x[:steps]), x[: len(x) - steps]])


def _array(w: Weights) -> np.ndarray:
    if isinstance(w.map, Convolution):
        return w.map.weight
    matrix = w.map.matrix
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)


def _by_channel(values: np.ndarray, each: int) -> bool:
    rows = values.reshape(-1, each)
    return bool((rows == rows[:, :1]).all())
