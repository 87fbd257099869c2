"""What a network is made of, for a pruner: projections, what feeds them, and which neurons follow.

The network is run once on a small sample, and every tensor on the way carries labels (`labels`): which unit (output
channel of a convolution, neuron of a fully connected layer) each of its elements comes from, so that branching networks
and loops over time need nothing special. (`torch.fx` would read the same from the source, but not through loops over time
steps.) An operation that is not understood makes everything behind it count as alive: nothing is then removed that might
matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.labels import ALIVE, Labeller, Labels, tensors

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Hardswish)
_NORSE_CONTAINERS = {"SequentialState", "RecurrentSequential", "Lift", "RegularizationCell"}


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a population: `dpap_neuro.networks.neurons.Neuron`, a Norse neuron, or a rectifier."""
    if isinstance(module, _RECTIFIERS):
        return True
    for cls in type(module).__mro__:
        if cls.__name__ == "Neuron" and cls.__module__ == "dpap_neuro.networks.neurons":
            return True
        if cls.__module__.startswith("norse.torch.module") and cls.__name__ not in _NORSE_CONTAINERS:
            return not any(c.__name__ in _NORSE_CONTAINERS for c in type(module).__mro__)
    return bool(getattr(module, "is_neuron", False))


@dataclass
class Projection:
    """One weight tensor between two populations.

    `labels` (out,) are its units; `pre` (in,) the labels at its input, `post` (out,) positions of its units
    among the channels of the population `population` (None: no neurons follow before the next synapse, the
    synapse's own rectified output stands in). Recurrent: `pre` and `labels` are those of the population
    itself. `shape` is the weight's, which `weight` has as long as the network is not cut down (see `shrinking`).
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

    def __post_init__(self) -> None:
        self.shape = tuple(self.weight.shape)

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

    layout: "sequence" (T, B, C, ...), "folded" (T * B, C, ...) or "step" (B, C, ...) called once per time
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
    """A network in evaluation mode for a while."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


def call_network(model: nn.Module, sample: Tensor, loop: bool) -> Any:
    """Run a network on a sample; `loop`: it takes one time step at a time and returns (output, state)."""
    if not loop:
        return model(sample)
    outputs, state = [], None
    for x in sample:
        result = model(x, state) if state is not None else model(x)
        if isinstance(result, tuple):
            result, state = result[0], result[1]
        outputs.append(result)
    return outputs


def _finite_sample(sample: Tensor) -> None:
    if not isinstance(sample, Tensor) or sample.dim() < 2:
        raise InputError(
            f"sample_input: expected a tensor (steps, batch, ...), found {type(sample).__name__}"
        )
    if not sample.numel():
        raise InputError(f"sample_input: found shape {tuple(sample.shape)}, expected at least one sample")
    if not torch.isfinite(sample).all():
        raise InputError("sample_input: holds NaN or infinite values, expected finite event counts")


def _expected_axes(time: bool) -> str:
    return "(steps, batch, ...)" if time else "(batch, ...)"


def find_structure(
    model: nn.Module,
    sample_input: Tensor,
    *,
    time: bool = True,
    loop: bool = False,
    ignore: Iterable[str] = (),
) -> Structure:
    """Find projections, batch norms and populations by running `model` once, in evaluation mode, on a sample.

    sample_input: (T, B, ...), or (B, ...) with `time=False` (an artificial network on still images). loop:
    the network is called once per time step with (B, ...) and passes its state on (Norse's
    `SequentialState`). ignore: names of modules to leave alone. Raises InputError for a layer type that is
    not known, for weights that are shared between layers or computed from others, for a sample that the network does not
    take, and for a network with nothing to prune.
    """
    _finite_sample(sample_input)
    sample = sample_input.detach()
    batch_axis = 1 if time else 0
    # Two samples, so that folded (T * B, ...) and unfolded (T, B, ...) tensors can be told apart.
    sample = sample.narrow(batch_axis, 0, min(2, sample.shape[batch_axis]))
    if sample.shape[batch_axis] == 1:
        sample = torch.cat([sample, sample], batch_axis)
    steps, batch = (sample.shape[0], sample.shape[1]) if time else (1, sample.shape[0])

    names = {module: name for name, module in model.named_modules()}
    ignored = tuple(ignore)
    table = Labels()
    tracer = Labeller(table)
    projections: dict[str, Projection] = {}
    norms: dict[str, Norm] = {}
    populations: dict[str, Population] = {}
    layouts: dict[str, str] = {}
    order: list[str] = []
    turns: dict[str, list[str]] = {}
    restless: dict[nn.Module, bool] = {}
    stack: list[nn.Module] = []
    inner: dict[str, list[nn.Module]] = {}

    def layout_of(x: Tensor) -> str:
        if x.shape[0] == steps * batch:
            return "folded"
        if x.dim() > 2 and x.shape[0] == steps and x.shape[1] == batch:
            return "sequence"
        if x.shape[0] == batch:
            return "step"
        return "unknown"

    def spread(labels: Tensor, out: Tensor, axis: int) -> Tensor:
        axis %= out.dim()
        return labels.reshape([-1 if d == axis else 1 for d in range(out.dim())]).expand(out.shape)

    def place(module: nn.Module, channels: Tensor) -> str:
        """Name of the population that a module stands for: another one where other units feed it."""
        known = list(dict.fromkeys(turns.setdefault(names[module], [])))
        for name in known:
            before = populations[name].labels
            if before.numel() == channels.numel() and table.related(before, channels):
                return name
        if known and _has_channels(module):
            raise InputError(
                f"neurons {names[module]}: are used in several places and have parameters for each channel, expected "
                "other neurons in each place"
            )
        return f"{names[module]} ({len(known) + 1})" if known else names[module]

    def enter(module: nn.Module, args: tuple) -> None:
        tracer.depth += 1
        stack.append(module)

    def leave_synapse(module: Any, args: tuple, kwargs: dict, out: Tensor) -> None:
        tracer.depth -= 1
        stack.pop()
        name = names[module]
        if tracer.depth:
            inner.setdefault(names[stack[0]], [])
            if module not in inner[names[stack[0]]]:
                inner[names[stack[0]]].append(module)
            return
        x = next(tensors((args, kwargs)))
        convolution = isinstance(module, _CONVOLUTIONS)
        axis = x.dim() - len(module.kernel_size) - 1 if convolution else x.dim() - 1
        pre = tracer.channels(x, axis)
        if name in projections:
            known = projections[name]
            known.pre = table.combine("or", known.pre, pre)
        else:
            projections[name] = Projection(
                name=name,
                module=module,
                weight_name="weight",
                bias_name="bias" if module.bias is not None else None,
                kind="conv" if convolution else "linear",
                labels=table.units(module.weight.shape[0]),
                pre=pre,
                groups=module.groups if convolution else 1,
                in_space=tuple(x.shape[axis + 1 :]) if convolution else (),
                out_space=tuple(out.shape[axis + 1 :]) if convolution else (),
            )
            layout = layout_of(x)
            if layout == "step" and time and not loop and not convolution and x.shape[1:-1] == (steps,):
                layout = "batch first"
            layouts[name] = layout
            order.append(name)
        tracer.put(out, spread(projections[name].labels, out, axis))

    def leave_norm(module: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> None:
        tracer.depth -= 1
        stack.pop()
        if tracer.depth:
            return
        x = next(tensors((args, kwargs)))
        name, channels = names[module], tracer.channels(x, 1)
        if name in norms:
            norms[name].labels = table.combine("or", norms[name].labels, channels)
        else:
            norms[name] = Norm(name, module, channels)
            order.append(name)
        tracer.put(out, tracer.of(x))

    def leave_neuron(module: Any, args: tuple, kwargs: dict, result: Any) -> None:
        tracer.depth -= 1
        stack.pop()
        if tracer.depth:
            return
        x, out = next(tensors((args, kwargs))), next(tensors(result))
        name = names[module]
        layout = layout_of(x)
        axis = 2 if layout == "sequence" else 1
        weights = getattr(module, "input_weights", None)
        if isinstance(weights, nn.Parameter) and weights.dim() == 2:
            if f"{name}.input_weights" not in projections:
                pre = tracer.channels(x, axis)
                projections[f"{name}.input_weights"] = Projection(
                    name=f"{name}.input_weights",
                    module=module,
                    weight_name="input_weights",
                    bias_name=None,
                    kind="linear",
                    labels=table.units(weights.shape[0]),
                    pre=pre,
                )
                layouts[f"{name}.input_weights"] = layout
            labels = spread(projections[f"{name}.input_weights"].labels, out, axis)
        else:
            labels = tracer.of(x)
            if module not in restless:
                tracer.depth += 1
                stack.append(module)
                restless[module] = _spikes_at_rest(module, x)
                tracer.depth -= 1
                stack.pop()
            if restless[module]:
                tracer.keep(x)
                labels = torch.full(x.shape, ALIVE, dtype=torch.long)
        if labels.shape != out.shape:
            tracer.keep(x)
            labels = torch.full(out.shape, ALIVE, dtype=torch.long)
        tracer.put(out, labels)
        channels = tracer.channels(out, axis)
        name = place(module, channels)
        turns[names[module]].append(name)
        if name not in populations:
            spiking = not isinstance(module, _RECTIFIERS)
            space = tuple(out.shape[axis + 1 :])
            populations[name] = Population(name, module, channels, layout, spiking, space)
            order.append(name)
        else:
            populations[name].labels = table.combine("or", populations[name].labels, channels)

    handles = []
    try:
        for name, module in model.named_modules():
            if name in ignored or any(name.startswith(f"{i}.") for i in ignored):
                continue
            leave: Callable
            if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                leave = leave_synapse
            elif isinstance(module, _NORMS):
                leave = leave_norm
            elif is_neuron(module):
                leave = leave_neuron
            else:
                own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
                # Not a neuron and not a synapse: `Scale`, which works element by element.
                ours = type(module).__module__ == "dpap_neuro.networks.neurons"
                # A container of one's own may hold a weight; one of PyTorch's (attention) is a layer.
                layer = type(module).__module__.startswith("torch.nn") or not list(module.children())
                if own and layer and not ours:
                    raise InputError(
                        f"layer {name or 'model'}: found {type(module).__name__}, expected a convolution, "
                        "Linear, batch norm, pooling, Flatten, Dropout or neurons (or name it in `ignore`)"
                    )
                continue
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        with evaluating(model), torch.no_grad(), tracer:
            tracer.put(sample, torch.full(sample.shape, ALIVE, dtype=torch.long))
            try:
                output = call_network(model, sample, loop)
            except (RuntimeError, IndexError) as error:
                where = f"layer {names[stack[-1]]}" if stack else "it"
                raise InputError(
                    f"sample_input: found shape {tuple(sample_input.shape)}, with which the network does not run ({where}: "
                    f"{str(error).splitlines()[0]}), expected the shape that it takes, {_expected_axes(time)}"
                ) from error
            shown: set[int] = set()
            for tensor in tensors(output):
                tracer.keep(tensor)
                shown.update(torch.unique(tracer.of(tensor)).tolist())
    finally:
        for handle in handles:
            handle.remove()

    if not projections:
        raise InputError("network: found no Conv1d/2d/3d or Linear layer, expected at least two")
    _add_recurrent(projections, populations, inner, names, layouts)
    _check_weights(projections)
    _resolve(projections, populations, table, shown)
    structure = Structure(
        projections=projections,
        norms=norms,
        populations=populations,
        labels=table,
        kept=torch.tensor(sorted(tracer.kept | table.aligned), dtype=torch.long),
        order=order,
        layouts=layouts,
        turns=turns,
        spiking=any(p.spiking for p in populations.values()),
    )
    if not structure.prunable:
        raise InputError(
            "network: found only a read-out layer, expected a layer before it that can be pruned"
        )
    return structure


def _has_channels(module: nn.Module) -> bool:
    """Whether a population has parameters that differ from channel to channel (or weights)."""
    values: Any = getattr(module, "p", None)
    own = [*module.parameters(), *module.buffers(), *tensors(values if isinstance(values, tuple) else ())]
    return any(tensor.numel() > 1 for tensor in own)


def _check_weights(projections: dict[str, Projection]) -> None:
    owners: dict[Tensor, str] = {}
    for p in projections.values():
        if not isinstance(p.weight, nn.Parameter):
            raise InputError(
                f"layer {p.name}: its weight is computed from another tensor (as torch.nn.utils.prune leaves it), "
                "expected a parameter (prune.remove makes it one)"
            )
        if p.weight in owners:
            raise InputError(
                f"layers {owners[p.weight]} and {p.name}: share one weight, expected one for each"
            )
        owners[p.weight] = p.name


def _spikes_at_rest(module: nn.Module, x: Tensor) -> bool:
    """Whether a population answers a silent input (then a channel without input is not silent)."""
    out = next(tensors(module.forward(torch.zeros_like(x))))
    return bool((out != 0).any())


def _add_recurrent(
    projections: dict[str, Projection],
    populations: dict[str, Population],
    inner: dict[str, list[nn.Module]],
    names: dict[nn.Module, str],
    layouts: dict[str, str],
) -> None:
    for name, population in populations.items():
        found: list[tuple[str, nn.Module, str, str | None]] = []
        weights = getattr(population.module, "recurrent_weights", None)
        if isinstance(weights, nn.Parameter):
            found.append((f"{name}.recurrent_weights", population.module, "recurrent_weights", None))
        for module in inner.get(name, []):
            bias = "bias" if getattr(module, "bias", None) is not None else None
            found.append((names[module], module, "weight", bias))
        for label, module, weight, bias in found:
            size = population.labels.numel()
            if tuple(getattr(module, weight).shape[:2]) != (size, size):
                continue
            projections[label] = Projection(
                name=label,
                module=module,
                weight_name=weight,
                bias_name=bias,
                kind="recurrent",
                labels=population.labels,
                pre=population.labels,
                population=name,
                post=torch.arange(size),
            )
            layouts[label] = population.layout


def _resolve(
    projections: dict[str, Projection], populations: dict[str, Population], table: Labels, shown: set[int]
) -> None:
    """Which population follows each projection, and which projections nothing follows (read-outs)."""
    where: dict[int, list[tuple[str, int]]] = {}
    for name, population in populations.items():
        for channel, label in enumerate(population.labels.tolist()):
            for leaf in table.leaves(label):
                where.setdefault(leaf, []).append((name, channel))
    fed: set[int] = set()
    for p in projections.values():
        if p.kind != "recurrent":
            for label in set(p.pre.tolist()):
                fed |= table.leaves(label)
    last = [
        p for p in projections.values() if p.kind != "recurrent" and not fed.intersection(p.labels.tolist())
    ]
    seen = set().union(*(table.leaves(label) for label in shown)) if shown else set()
    for p in [p for p in last if seen.intersection(p.labels.tolist())] or last:
        p.readout = True
    for p in projections.values():
        if p.kind == "recurrent":
            continue
        units = p.labels.tolist()
        for name in populations:
            channels = [next((c for n, c in where.get(u, []) if n == name), -1) for u in units]
            if min(channels) >= 0:
                p.population, p.post = name, torch.tensor(channels)
                break
