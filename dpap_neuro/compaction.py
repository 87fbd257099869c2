"""Physically remove what is dead: a smaller network with the same outputs.

A unit is removed when nothing reads from it, or when it is silent: all its weights are zero and what its bias
and batch norm make of that is zero behind its neurons. A constant that is not zero (a rectifier behind a
positive bias) is carried forward into the biases of the layers that read it. Channels that are added to
others, or that meet an operation that is not understood, go only where all of them can.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.structure import (
    Population,
    Projection,
    Structure,
    _tensors,
    call_network,
    find_structure,
)

_CONSTANT_STEPS = 64


@dataclass
class CompactionPlan:
    """What stays: indices of rows (units) and columns (inputs) per projection, and of channels per module.

    carried: bias to add per projection, (out,) before removal.
    """

    structure: Structure
    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    channels: dict[str, Tensor]
    groups: dict[str, int]
    carried: dict[str, Tensor]

    @property
    def removes_nothing(self) -> bool:
        return all(self.rows[p.name].numel() == p.labels.numel() for p in self.structure.projections.values())


def _constants(structure: Structure, model: nn.Module) -> dict[str, Tensor]:
    """Per projection (out,): the constant a unit without weights has where it is read; NaN for units that
    vary.
    """
    modules = dict(model.named_modules())
    owner: dict[int, tuple[str, int]] = {}
    values: dict[str, Tensor] = {}
    compound = _compound_leaves(structure)
    for p in structure.projections.values():
        if p.kind == "recurrent":
            continue
        idle = (p.weight.detach() == 0).flatten(1).all(1).cpu()
        bias = p.bias.detach().float().cpu() if p.bias is not None else torch.zeros(idle.numel())
        values[p.name] = torch.where(idle, bias, torch.full_like(bias, float("nan")))
        for unit, label in enumerate(p.labels.tolist()):
            owner[label] = (p.name, unit)
    for name in structure.order:
        if name in structure.norms:
            norm: Any = structure.norms[name].module
            labels = structure.norms[name].labels.tolist()
            for channel, label in enumerate(labels):
                if label in owner:
                    p_name, unit = owner[label]
                    values[p_name][unit] = _normalised(norm, channel, float(values[p_name][unit]))
        elif name in structure.populations:
            population = structure.populations[name]
            labels = population.labels.tolist()
            drive = torch.zeros(len(labels))
            for channel, label in enumerate(labels):
                if label in owner:
                    drive[channel] = values[owner[label][0]][owner[label][1]]
            if not (torch.isfinite(drive) & (drive != 0)).any():
                continue
            response = _response(modules[name], population, torch.nan_to_num(drive))
            for channel, label in enumerate(labels):
                if label in owner:
                    p_name, unit = owner[label]
                    if torch.isfinite(drive[channel]):
                        values[p_name][unit] = response[channel]
    for p_name, value in values.items():
        for unit, label in enumerate(structure.projections[p_name].labels.tolist()):
            if label in compound and value[unit] != 0:
                value[unit] = float("nan")
    return values


def _compound_leaves(structure: Structure) -> set[int]:
    table = structure.labels
    found: set[int] = set()
    for index, kind in enumerate(table.kinds):
        if kind in ("or", "and"):
            found |= table.leaves(index)
    return found


def _normalised(norm: Any, channel: int, value: float) -> float:
    if value != value or norm.running_mean is None:
        return float("nan")
    scale = float(norm.weight.detach()[channel]) if norm.weight is not None else 1.0
    shift = float(norm.bias.detach()[channel]) if norm.bias is not None else 0.0
    mean, variance = float(norm.running_mean[channel]), float(norm.running_var[channel])
    return (value - mean) / (variance + norm.eps) ** 0.5 * scale + shift


def _response(module: nn.Module, population: Population, drive: Tensor) -> Tensor:
    """What a population answers to a constant drive (channels,): its constant output, NaN where it varies.

    A spiking neuron under positive drive might fire at last, however long it was silent: NaN too.
    """
    tensor = next((t for t in (*module.parameters(), *module.buffers())), torch.zeros(1))
    x = drive.to(tensor.device).reshape(1, -1, *[1] * len(population.space))
    x = x.expand(1, -1, *population.space)
    training = module.training
    module.eval()
    with torch.no_grad():
        if population.layout == "sequence":
            out = next(_tensors(module.forward(x.expand(_CONSTANT_STEPS, *x.shape).contiguous())))
        elif population.layout == "step":
            state, steps = None, []
            for _ in range(_CONSTANT_STEPS):
                result = module.forward(x, state) if state is not None else module.forward(x)
                if isinstance(result, tuple):
                    result, state = result[0], result[1]
                steps.append(result)
            out = torch.stack(steps)
        else:
            out = module.forward(x)[None]
    module.train(training)
    rows = out.detach().movedim(2, 0).flatten(1).cpu()
    constant = (rows == rows[:, :1]).all(1)
    if population.spiking:
        constant &= (rows[:, 0] == 0) & (drive <= 0)
    return torch.where(constant, rows[:, 0], torch.full_like(rows[:, 0], float("nan")))


def plan_compaction(model: nn.Module, structure: Structure, *, carry: bool = True) -> CompactionPlan:
    """Decide what can go; `carry`: constants other than zero may be folded into biases."""
    table = structure.labels
    constants = _constants(structure, model)
    own = [p for p in structure.projections.values() if p.kind != "recurrent"]
    for p in own:
        value = constants[p.name]
        if not carry:
            value[value != 0] = float("nan")
        for label in _padded_readers(structure):
            value[(p.labels == label) & (value != 0)] = float("nan")
    alive = torch.zeros(len(table), dtype=torch.bool)
    for p in own:
        alive[p.labels] = torch.isnan(constants[p.name])
        if p.readout:
            alive[p.labels] = True
    table.evaluate(alive)
    weights = {p.name: p.weight.detach() != 0 for p in structure.projections.values()}
    gone = ~(alive & _needed_labels(structure, weights))
    gone[0] = gone[1] = False
    gone[structure.kept] = False
    _settle(structure, gone)
    rows, columns, groups, carried, channels = {}, {}, {}, {}, {}
    for p in structure.projections.values():
        rows[p.name] = (~gone[p.labels]).nonzero().flatten()
        columns[p.name] = (~gone[p.pre]).nonzero().flatten()
        groups[p.name] = p.groups
        if p.groups > 1:
            groups[p.name] = int((~gone[p.labels]).reshape(p.groups, -1).any(1).sum())
        shift = _carried_bias(p, gone, constants, structure)
        if shift is not None:
            carried[p.name] = shift
    for name, norm in structure.norms.items():
        channels[name] = (~gone[norm.labels]).nonzero().flatten()
    for name, population in structure.populations.items():
        channels[name] = (~gone[population.labels]).nonzero().flatten()
    return CompactionPlan(structure, rows, columns, channels, groups, carried)


def _needed_labels(structure: Structure, weights: dict[str, Tensor]) -> Tensor:
    """Labels from which a weight leads on to the output (to a fixed point: a reader nobody reads does not
    count).
    """
    table = structure.labels
    own = [p for p in structure.projections.values() if p.kind != "recurrent"]
    useful = {p.name: torch.ones_like(p.labels, dtype=torch.bool) for p in own}
    while True:
        needed = torch.zeros(len(table), dtype=torch.bool)
        needed[structure.kept] = True
        for p in own:
            used = weights[p.name].cpu().flatten(2).any(2) if p.weight.dim() > 2 else weights[p.name].cpu()
            used = used & useful[p.name][:, None]
            needed[p.pre[used.reshape(p.groups, -1, used.shape[1]).any(1).flatten()]] = True
        table.trace_back(needed)
        now = {p.name: needed[p.labels] | p.readout for p in own}
        if all(torch.equal(now[n], useful[n]) for n in now):
            return needed
        useful = now


def _padded_readers(structure: Structure) -> set[int]:
    """Labels read by a convolution with padding, where a constant is not the same as a bias."""
    found: set[int] = set()
    for p in structure.projections.values():
        module: Any = p.module
        if p.kind == "recurrent":
            # Its input is delayed by a step, so at the first step there is no constant.
            found |= set(p.pre.tolist())
        elif p.kind == "conv" and module.padding_mode == "zeros" and _pads(module.padding):
            found |= set(p.pre.tolist())
    return found


def _pads(padding: str | tuple[int, ...]) -> bool:
    return padding == "same" if isinstance(padding, str) else any(padding)


def _settle(structure: Structure, gone: Tensor) -> None:
    """Shrink `gone` until sums, products, groups and non-empty layers fit."""
    table = structure.labels
    pairs = [
        (i, table.left[i], table.right[i]) for i, kind in enumerate(table.kinds) if kind in ("or", "and")
    ]
    while True:
        before = gone.clone()
        for index, left, right in pairs:
            if not (gone[index] and gone[left] and gone[right]):
                gone[index] = gone[left] = gone[right] = False
        for p in structure.projections.values():
            if p.kind == "recurrent":
                continue
            if p.groups > 1:
                whole = gone[p.labels].reshape(p.groups, -1).all(1) & gone[p.pre].reshape(p.groups, -1).all(1)
                gone[p.labels] = whole.repeat_interleave(p.labels.numel() // p.groups)
                gone[p.pre] = whole.repeat_interleave(p.pre.numel() // p.groups)
            if gone[p.labels].all():
                gone[p.labels[0]] = False
        if torch.equal(before, gone):
            return


def _carried_bias(
    p: Projection, gone: Tensor, constants: dict[str, Tensor], structure: Structure
) -> Tensor | None:
    if p.kind == "recurrent" or p.groups > 1:
        return None
    level = torch.zeros(len(structure.labels))
    for name, value in constants.items():
        level[structure.projections[name].labels] = torch.nan_to_num(value)
    level[~gone] = 0.0
    k = level[p.pre]
    if not k.any():
        return None
    weight = (
        p.weight.detach().float().cpu().flatten(2).sum(2) if p.weight.dim() > 2 else p.weight.detach().cpu()
    )
    return weight.float() @ k


def apply_compaction(model: nn.Module, plan: CompactionPlan, optimizer: Optimizer | None = None) -> None:
    """Cut `model` (and the optimizer's moments) down in place; parameters stay the same objects."""

    def cut(owner: nn.Module, name: str, index: dict[int, Tensor]) -> None:
        tensor = getattr(owner, name, None)
        if not isinstance(tensor, Tensor):
            return
        shape = tensor.shape

        def sliced(value: Tensor) -> Tensor:
            for axis, keep in index.items():
                value = value.index_select(axis, keep.to(value.device))
            return value.clone()

        if optimizer is not None and tensor in optimizer.state:
            state = optimizer.state[tensor]
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == shape:
                    state[key] = sliced(value)
        tensor.grad = None
        tensor.data = sliced(tensor.data)

    structure = plan.structure
    for p in structure.projections.values():
        rows, columns = plan.rows[p.name], plan.columns[p.name]
        module: Any = p.module
        if p.name in plan.carried:
            shift = plan.carried[p.name].to(p.weight)
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros_like(shift))
            module.bias.data += shift
            p.bias_name = "bias"
        if p.groups == 1:
            cut(module, p.weight_name, {0: rows, 1: columns})
        else:
            cut(module, p.weight_name, {0: rows})
        if p.bias_name:
            cut(module, p.bias_name, {0: rows})
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = rows.numel(), columns.numel()
        elif p.kind == "conv" or hasattr(module, "out_channels"):
            module.out_channels, module.in_channels = rows.numel(), columns.numel()
            module.groups = plan.groups[p.name]
        elif hasattr(module, "hidden_size"):
            module.hidden_size = torch.as_tensor(rows.numel())
            if p.weight_name == "input_weights":
                module.input_size = torch.as_tensor(columns.numel())
    for name, norm in structure.norms.items():
        keep = plan.channels[name]
        batch_norm: Any = norm.module
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            cut(batch_norm, tensor, {0: keep})
        batch_norm.num_features = keep.numel()
    for name, population in structure.populations.items():
        keep, size = plan.channels[name], population.labels.numel()
        if keep.numel() < size:
            _cut_neurons(population.module, keep, size, cut)


def _cut_neurons(module: Any, keep: Tensor, size: int, cut: Any) -> None:
    """Neuron parameters with an entry per channel: (C,), (C, 1, 1), (1, C, 1, 1), ..."""

    def axis_of(shape: torch.Size) -> int | None:
        for axis, length in enumerate(shape):
            if length == size:
                return axis
            if length != 1:
                return None
        return None

    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, tensor in own:
        axis = axis_of(tensor.shape)
        if axis is not None and name not in ("input_weights", "recurrent_weights"):
            cut(module, name, {axis: keep})
    values: Any = getattr(module, "p", None)
    if hasattr(values, "_asdict"):
        changed = {}
        for name, value in values._asdict().items():
            if isinstance(value, Tensor) and (axis := axis_of(value.shape)) is not None:
                value = value.index_select(axis, keep.to(value.device))
            changed[name] = value
        module.p = type(values)(**changed)


def _copy_without_hooks(model: nn.Module) -> nn.Module:
    """A copy that no pruner observes."""
    saved = []
    for module in model.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            saved.append((module, name, getattr(module, name)))
            setattr(module, name, type(getattr(module, name))())
    try:
        return copy.deepcopy(model)
    finally:
        for module, name, hooks in saved:
            setattr(module, name, hooks)


def _output(model: nn.Module, sample: Tensor, loop: bool) -> Tensor:
    modes = {m: m.training for m in model.modules()}
    model.eval()
    with torch.no_grad():
        result = call_network(model, sample, loop)
    for m, mode in modes.items():
        m.training = mode
    return torch.stack(result) if isinstance(result, list) else next(_tensors(result))


def compact(
    model: nn.Module,
    sample_input: Tensor,
    *,
    time: bool = True,
    loop: bool = False,
    ignore: Iterable[str] = (),
    tolerance: float = 1e-4,
) -> nn.Module:
    """A smaller copy of a pruned network with the same outputs (evaluation mode) to float tolerance.

    sample_input: (T, B, ...), on which the two are compared; the other arguments as of `find_structure`.
    Raises InputError where the network's code depends on the sizes that would change.
    """
    structure = find_structure(model, sample_input, time=time, loop=loop, ignore=ignore)
    expected = _output(model, sample_input, loop)
    problem = "outputs differ"
    for carry in (True, False):
        small = _copy_without_hooks(model)
        try:
            own = find_structure(small, sample_input, time=time, loop=loop, ignore=ignore)
            apply_compaction(small, plan_compaction(small, own, carry=carry))
            found = _output(small, sample_input, loop)
        except (RuntimeError, IndexError) as error:
            problem = str(error).splitlines()[0]
            continue
        if found.shape == expected.shape and torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
            return small
    raise InputError(
        f"compact: the smaller network does not do as the network did ({problem}); {len(structure.order)} "
        "layers were found, expected a forward pass that does not fix their sizes"
    )
