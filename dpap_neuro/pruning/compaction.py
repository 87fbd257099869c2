"""Physically remove what is dead: a smaller network with the same outputs.

A unit is removed when nothing reads from it, or when it is silent: all its weights are zero and what its bias
and batch norm make of that is zero behind its neurons. A constant that is not zero (a rectifier behind a
positive bias) is carried forward into the biases of the layers that read it. Channels that are added to
others, or that meet an operation that is not understood, go only where all of them can.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.finding import find_structure
from dpap_neuro.pruning.labels import tensors
from dpap_neuro.pruning.shrinking import Cut, Shrunk, cut_of
from dpap_neuro.pruning.structure import (
    Population,
    Projection,
    Structure,
    call_network,
    evaluating,
)

_CONSTANT_STEPS = 64


def _constants(structure: Structure) -> dict[str, Tensor]:
    """Per projection (out,): the constant a unit without weights has where it is read; NaN for units that
    vary.
    """
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
            response = _response(population, torch.nan_to_num(drive))
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


def _response(population: Population, drive: Tensor) -> Tensor:
    """What a population answers to a constant drive (channels,): its constant output, NaN where it varies.

    A spiking neuron under positive drive might fire at last, however long it was silent: NaN too.
    """
    module = population.module
    tensor = next((t for t in (*module.parameters(), *module.buffers())), torch.zeros(1))
    x = drive.to(tensor.device).reshape(1, -1, *[1] * len(population.space))
    # Whole, not expanded: a rectifier may work in place.
    x = x.expand(1, -1, *population.space).contiguous()
    training = module.training
    module.eval()
    with torch.no_grad():
        if population.layout == "sequence":
            out = next(tensors(module.forward(x.expand(_CONSTANT_STEPS, *x.shape).contiguous())))
        elif population.layout == "step":
            state, steps = None, []
            for _ in range(_CONSTANT_STEPS):
                result = module.forward(x.clone(), state) if state is not None else module.forward(x.clone())
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


def cut_of_useless(structure: Structure, *, carry: bool = True) -> Cut:
    """Decide what can go; `carry`: constants other than zero may be carried into biases."""
    table = structure.labels
    constants = _constants(structure)
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
    return cut_of(structure, gone, lambda p: _carried_bias(p, gone, constants, structure))


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
    with evaluating(model), torch.no_grad():
        result = call_network(model, sample, loop)
    return torch.stack(result) if isinstance(result, list) else next(tensors(result))


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
            Shrunk(cut_of_useless(own, carry=carry))
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
