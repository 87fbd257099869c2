"""Cutting a network down in place, with its optimizer's moments, and making it whole again.

A cut says what stays: which rows (units) and columns (inputs) of each weight stay, and which channels of each batch
norm and population. A smaller parameter is a new object, in the optimizer as well (autograd remembers the shape of the
old one as long as anything computed from it is alive); making it whole brings the old one back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.structure import Structure


@dataclass
class Cut:
    """What stays: indices of rows (units) and columns (inputs) per projection, and of channels per batch norm and
    population.

    groups: of each projection. carried: bias to add per projection, (out,) before removal.
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

    def same_as(self, other: Cut) -> bool:
        """Whether both leave the same of the same structure."""
        return all(torch.equal(rows, other.rows[name]) for name, rows in self.rows.items())

    def axes(self, name: str) -> dict[int, Tensor]:
        """What stays along the axes of a projection's weight."""
        kept = {0: self.rows[name]}
        if self.structure.projections[name].groups == 1:
            kept[1] = self.columns[name]
        return kept


def cut_of(structure: Structure, gone: Tensor, carried: Callable[[Any], Tensor | None] | None = None) -> Cut:
    """The cut that removes the labels marked in `gone`, or fewer where sums, groups or last units need them.

    carried(projection): bias to add, asked when `gone` is final.
    """
    gone[0] = gone[1] = False
    gone[structure.kept] = False
    _settle(structure, gone)
    cut = Cut(structure, {}, {}, {}, {}, {})
    for p in structure.projections.values():
        cut.rows[p.name] = (~gone[p.labels]).nonzero().flatten()
        cut.columns[p.name] = (~gone[p.pre]).nonzero().flatten()
        cut.groups[p.name] = p.groups
        if p.groups > 1:
            cut.groups[p.name] = int((~gone[p.labels]).reshape(p.groups, -1).any(1).sum())
        shift = carried(p) if carried is not None else None
        if shift is not None:
            cut.carried[p.name] = shift
    for part in (structure.norms, structure.populations):
        for name, module in part.items():
            cut.channels[name] = (~gone[module.labels]).nonzero().flatten()
    return cut


def cut_of_dead(structure: Structure, units: dict[str, Tensor]) -> Cut:
    """The cut that removes units that masks hold dead, (out,) per projection: their weights, bias and batch norm are
    zero for good.
    """
    return cut_of(structure, ~structure.alive_labels(units))


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


def take(tensor: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """The part of a tensor that stays, by axis."""
    for axis, index in kept.items():
        tensor = tensor.index_select(axis, index.to(tensor.device))
    return tensor.clone()


def put(whole: Tensor, kept: dict[int, Tensor], part: Tensor) -> Tensor:
    """`whole` with the part that had stayed put back in its place."""
    axes = sorted(kept)
    index: list[Any] = [slice(None)] * whole.dim()
    for number, axis in enumerate(axes):
        shape = [1] * len(axes)
        shape[number] = -1
        index[axis] = kept[axis].to(whole.device).reshape(shape)
    whole[tuple(index)] = part
    return whole


class _Part(NamedTuple):
    """A tensor that was cut: whose it is, under which name, as it was, and what stayed of it."""

    owner: nn.Module
    name: str
    whole: Tensor
    kept: dict[int, Tensor]


class Shrunk:
    """A network cut down in place; `expand` undoes it.

    What comes back is as it was (the moments: zero), what had stayed is as it is by then.
    """

    def __init__(self, cut: Cut, optimizer: Optimizer | None = None) -> None:
        self.cut = cut
        self._parts: list[_Part] = []
        self._sizes: list[tuple[Any, str, Any]] = []
        for p in cut.structure.projections.values():
            self._synapses(p, optimizer)
        for name, norm in cut.structure.norms.items():
            kept = cut.channels[name]
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                self._cut(norm.module, tensor, {0: kept}, optimizer)
            self._resize(norm.module, num_features=kept.numel())
        for name, population in cut.structure.populations.items():
            kept, size = cut.channels[name], population.labels.numel()
            if kept.numel() < size:
                self._neurons(population.module, kept, size, optimizer)

    def _synapses(self, p: Any, optimizer: Optimizer | None) -> None:
        cut, module = self.cut, p.module
        rows, columns = cut.rows[p.name], cut.columns[p.name]
        if p.name in cut.carried:
            shift = cut.carried[p.name].to(p.weight)
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros_like(shift))
            module.bias.data += shift
            p.bias_name = "bias"
        self._cut(module, p.weight_name, cut.axes(p.name), optimizer)
        if p.bias_name:
            self._cut(module, p.bias_name, {0: rows}, optimizer)
        if isinstance(module, nn.Linear):
            self._resize(module, out_features=rows.numel(), in_features=columns.numel())
        elif p.kind == "conv" or hasattr(module, "out_channels"):
            groups = cut.groups[p.name]
            self._resize(module, out_channels=rows.numel(), in_channels=columns.numel(), groups=groups)
        elif hasattr(module, "hidden_size"):
            self._resize(module, hidden_size=torch.as_tensor(rows.numel()))
            if p.weight_name == "input_weights":
                self._resize(module, input_size=torch.as_tensor(columns.numel()))

    def _neurons(self, module: Any, kept: Tensor, size: int, optimizer: Optimizer | None) -> None:
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
                self._cut(module, name, {axis: kept}, optimizer)
        if isinstance(module, nn.PReLU) and module.num_parameters == size:
            self._resize(module, num_parameters=kept.numel())
        values: Any = getattr(module, "p", None)
        if hasattr(values, "_asdict"):
            changed = {}
            for name, value in values._asdict().items():
                if isinstance(value, Tensor) and (axis := axis_of(value.shape)) is not None:
                    value = take(value, {axis: kept})
                changed[name] = value
            self._resize(module, p=type(values)(**changed))

    def _resize(self, module: Any, **sizes: Any) -> None:
        for name, value in sizes.items():
            self._sizes.append((module, name, getattr(module, name)))
            setattr(module, name, value)

    def _cut(self, owner: nn.Module, name: str, kept: dict[int, Tensor], optimizer: Optimizer | None) -> None:
        whole = getattr(owner, name, None)
        if not isinstance(whole, Tensor):
            return
        part = take(whole.detach(), kept)
        if isinstance(whole, nn.Parameter):
            part = nn.Parameter(part, requires_grad=whole.requires_grad)
        setattr(owner, name, part)
        if optimizer is not None:
            _replace(optimizer, whole, part, lambda moment: take(moment, kept))
        self._parts.append(_Part(owner, name, whole, kept))

    def replaced_in(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer still has a parameter that the network has no more."""
        whole = {part.whole for part in self._parts}
        return any(p in whole for group in optimizer.param_groups for p in group["params"])

    def expand(self, optimizer: Optimizer | None = None) -> None:
        """The network, and the moments of its optimizer, at full size again."""
        for owner, name, whole, kept in self._parts:
            part: Tensor = getattr(owner, name)
            put(whole.data, kept, part.detach())
            whole.grad = None
            setattr(owner, name, whole)
            if optimizer is not None:
                shape = whole.shape
                _replace(optimizer, part, whole, lambda m, s=shape, k=kept: put(m.new_zeros(s), k, m))  # type: ignore[misc]
        for module, name, value in reversed(self._sizes):
            setattr(module, name, value)
        self._parts, self._sizes = [], []


def check_moments(optimizer: Optimizer) -> None:
    """Raises InputError for an optimizer whose state cannot be cut as its parameters are."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameter.shape:
                raise InputError(
                    f"compact: {type(optimizer).__name__} keeps {key} of shape {tuple(value.shape)} for a parameter of "
                    f"shape {tuple(parameter.shape)}, expected an optimizer with moments of that shape (SGD, AdamW)"
                )


def _replace(optimizer: Optimizer, old: Tensor, new: Tensor, resize: Callable[[Tensor], Tensor]) -> None:
    """`new` instead of the parameter `old`, with what the optimizer keeps in its shape resized."""
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    if old in optimizer.state:
        state = optimizer.state.pop(old)
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == old.shape:
                state[key] = resize(value)
        optimizer.state[new] = state
