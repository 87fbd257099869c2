"""What a network is made of, for a pruner: projections, what feeds them, and which neurons follow.

Made by `finding.find_structure`; labels say which unit (output channel of a convolution, neuron of a fully connected
layer) each element of a tensor comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.networks.foreign import framework_of, unchanged
from dpap_neuro.pruning.labels import Labels


@dataclass
class Projection:
    """One weight tensor between two populations: what becomes a projection of the chip's network when it is exported.

    `labels` (out,) are its units; `pre` (in,) the labels at its input, `post` (out,) positions of its units
    among the channels of the population `population` (None: no neurons follow before the next synapse, the
    synapse's own rectified output stands in). Recurrent: `pre` and `labels` are those of the population
    itself. `shape` is the weight's, which `weight` has as long as the network is not cut down (see `shrinking`).
    inputs_there (in, *in_space), outputs_there (out, *out_space): which are not single neurons that are pruned (see
    `positions.mark`); None: all are there.
    """

    name: str
    module: nn.Module
    weight_name: str
    bias_name: str | None
    kind: str  # "conv", "linear" or "recurrent"
    labels: Tensor
    pre: Tensor
    groups: int = 1
    readout: bool = False
    population: str | None = None
    post: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    in_space: tuple[int, ...] = ()
    out_space: tuple[int, ...] = ()
    shape: tuple[int, ...] = field(init=False)
    inputs_there: Tensor | None = None
    outputs_there: Tensor | None = None

    def __post_init__(self) -> None:
        self.shape = tuple(self.weight.shape)
        self._connections_left: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        return getattr(self.module, self.weight_name)

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.module, self.bias_name) if self.bias_name else None

    @property
    def parameter_name(self) -> str:
        """Name of the weight in the network's state dict."""
        tail = f".{self.weight_name}"
        return self.name if self.name.endswith(tail) else self.name + tail

    def connections(self) -> Tensor:
        """Connections between two neurons of the unrolled network that each weight makes; broadcasts to the
        weight.

        A weight of a convolution is used at every output position whose input lies inside the (unpadded)
        input.
        """
        if not self.out_space:
            return torch.ones(1, 1, dtype=torch.long)
        module: Any = self.module
        counts = torch.ones((), dtype=torch.long)
        for d, (size_in, size_out) in enumerate(zip(self.in_space, self.out_space, strict=True)):
            kernel = torch.arange(module.kernel_size[d]) * module.dilation[d]
            pad = module.padding[d] if not isinstance(module.padding, str) else _same_padding(module, d)
            at = torch.arange(size_out)[None, :] * module.stride[d] - pad + kernel[:, None]
            inside = ((at >= 0) & (at < size_in)).sum(1)
            counts = counts[..., None] * inside
        return counts.reshape(1, 1, *counts.shape)

    def connections_left(self) -> Tensor:
        """As `connections`, without those from and to single neurons that are pruned."""
        return self.connections() if self._connections_left is None else self._connections_left

    def set_there(self, inputs: Tensor | None, outputs: Tensor | None) -> None:
        """Which inputs (in, *in_space) and outputs (out, *out_space), bool, are there; None: all."""
        self.inputs_there, self.outputs_there = inputs, outputs
        self._connections_left = None
        if inputs is not None or outputs is not None:
            every = torch.ones(self.pre.numel(), *self.in_space) if inputs is None else inputs
            self._connections_left = self.sums(every, outputs).round().long()

    def convolve(self, inputs: Tensor, kernel: Tensor, groups: int) -> Tensor:
        """What arrives of (in, *space) through another kernel; strides, padding and dilation are the convolution's own."""
        module: Any = self.module
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(self.shape) - 3]
        return convolve(inputs[None], kernel, None, module.stride, module.padding, module.dilation, groups)[0]

    def sums(self, inputs: Tensor, outputs: Tensor | None = None) -> Tensor:
        """For each weight the sum over the connections that it makes of inputs (in, *in_space) times outputs (out, *out_space;
        None: 1 each), float64 on the CPU; broadcasts to the weight.
        """
        inputs = inputs.double().cpu()
        if len(self.shape) == 2:
            return inputs[None] if outputs is None else outputs.double().cpu()[:, None] * inputs
        # The gradient of a sum over outputs sums, for every weight, the inputs that it meets; the same of all outputs of a group.
        rows = self.groups if outputs is None else self.shape[0]
        kernel = torch.zeros(rows, *self.shape[1:], dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            arrived = self.convolve(inputs, kernel, self.groups)
            total = (arrived if outputs is None else arrived * outputs.cpu()).sum()
            (result,) = torch.autograd.grad(total, kernel)
        return result if rows in (1, self.shape[0]) else result.repeat_interleave(self.shape[0] // rows, 0)


def _same_padding(module: Any, d: int) -> int:
    return 0 if module.padding == "valid" else module.dilation[d] * (module.kernel_size[d] - 1) // 2


@dataclass
class Norm:
    """A batch norm and the labels of its channels."""

    name: str
    module: nn.Module
    labels: Tensor


@dataclass
class Population:
    """A module of neurons: its channels' labels, the layout of its tensors, and whether it spikes.

    layout: "sequence" (T, B, C, ...), "merged" (T * B, C, ...) or "step" (B, C, ...) called once per time
    step.
    """

    name: str
    module: nn.Module
    labels: Tensor
    layout: str
    spiking: bool
    space: tuple[int, ...] = ()


@dataclass
class Structure:
    """A network as pruners see it; made by `find_structure`.

    layouts: of the input of each projection, as of `Population`, or "batch first" (B, T, F). order: names of layers as
    they were first called. turns: the populations that each module of neurons stood for, call by call; more than one
    where a module (a ReLU) is used in several places.
    """

    projections: dict[str, Projection]
    norms: dict[str, Norm]
    populations: dict[str, Population]
    labels: Labels
    kept: Tensor
    layouts: dict[str, str]
    spiking: bool
    order: list[str] = field(default_factory=list)
    turns: dict[str, list[str]] = field(default_factory=dict)

    @property
    def prunable(self) -> list[Projection]:
        """All projections but the read-out."""
        return [p for p in self.projections.values() if not p.readout]

    def with_units(self) -> list[Projection]:
        """Prunable projections whose units are their own (a recurrent one shares its population's)."""
        return [p for p in self.prunable if p.kind != "recurrent"]

    def neurons(self, alive: Tensor) -> int:
        """Neurons of all populations whose labels are `alive` (labels,), see `alive_labels`."""
        return sum(int(alive[p.labels].sum()) * math.prod(p.space) for p in self.populations.values())

    def alive_labels(self, units: dict[str, Tensor]) -> Tensor:
        """Which labels are alive, given the units' own state (out,) per projection.

        A unit none of whose inputs is alive carries nothing: it dies with them.
        """
        alive = torch.zeros(len(self.labels), dtype=torch.bool)
        own = [p for p in self.projections.values() if p.kind != "recurrent"]
        for p in own:
            alive[p.labels] = units[p.name].cpu() if p.name in units else True
        while True:
            self.labels.evaluate(alive)
            changed = False
            for p in own:
                fed = alive[p.pre].reshape(p.groups, -1).any(1)
                fed = fed.repeat_interleave(p.labels.numel() // p.groups)
                if p.readout:
                    continue
                now = alive[p.labels] & fed
                if not torch.equal(now, alive[p.labels]):
                    alive[p.labels] = now
                    changed = True
            if not changed:
                return alive

    def inputs_alive(self, projection: Projection, alive: Tensor) -> Tensor:
        """Which of the pre units each weight comes from is alive: (1 or out, in / groups)."""
        pre = alive[projection.pre]
        if projection.groups == 1:
            return pre[None]
        rows = pre.reshape(projection.groups, -1)
        return rows.repeat_interleave(projection.labels.numel() // projection.groups, 0)

    def needed_units(self, weights: dict[str, Tensor], alive: Tensor) -> dict[str, Tensor]:
        """Units from which anything still leads on, given which weights are alive (per projection)."""
        needed = torch.zeros(len(self.labels), dtype=torch.bool)
        needed[self.kept] = True
        for p in self.projections.values():
            if p.kind == "recurrent":
                continue
            used = weights[p.name].cpu().flatten(2).any(2) if len(p.shape) > 2 else weights[p.name].cpu()
            used = used.reshape(p.groups, -1, used.shape[1]).any(1).flatten()
            needed[p.pre[used]] = True
        self.labels.trace_back(needed)
        return {p.name: needed[p.labels] & alive[p.labels] for p in self.with_units()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A network in evaluation mode for a while; neurons of other frameworks keep the states that they had."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with unchanged([m for m in modes if framework_of(m) is not None]):
            yield
    finally:
        for m, mode in modes.items():
            m.training = mode


def call_network(model: nn.Module, sample: Tensor, loop: bool) -> Any:
    """Run a network on a sample; `loop`: it takes one time step at a time and returns (output, state), or keeps its state."""
    if not loop:
        return model(sample)
    if any(framework_of(m) is not None for m in model.modules()):
        return [model(x) for x in sample]
    outputs, state = [], None
    for x in sample:
        result = model(x, state) if state is not None else model(x)
        if isinstance(result, tuple):
            result, state = result[0], result[1]
        outputs.append(result)
    return outputs
