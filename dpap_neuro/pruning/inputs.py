"""What the synapses of a network read while it runs, and what that costs: hooks on the input of every projection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.pruning.labels import tensors
from dpap_neuro.pruning.statistics import reduce_over_ranks
from dpap_neuro.pruning.structure import Projection, Structure, evaluating


def watch_inputs(structure: Structure, seen: Callable[[Projection, Tensor], None]) -> list[Any]:
    """Hooks (to be removed) that call seen(projection, x) with what each projection reads: a Linear's (..., in), a convolution's
    (..., in, *space), or of a recurrent weight held by its population the population's own spikes, (..., units, *space).
    """
    handles = []
    for p in structure.projections.values():
        population = structure.populations.get(p.population or "")
        if p.kind == "recurrent" and population is not None and p.module is population.module:

            def spikes(_module: nn.Module, _args: Any, result: Any, p: Projection = p) -> None:
                out = next(tensors(result)).detach()
                # Of whole sequences the last step's spikes are heard no more.
                seen(p, out[:-1] if structure.layouts[p.name] == "sequence" else out)

            handles.append(p.module.register_forward_hook(spikes))
            continue

        def inputs(_module: nn.Module, args: Any, kwargs: Any, p: Projection = p) -> None:
            seen(p, next(tensors((args, kwargs))).detach())

        handles.append(p.module.register_forward_pre_hook(inputs, with_kwargs=True))
    return handles


def channel_axis(p: Projection, x: Tensor) -> int:
    """The axis of the input channels of what `watch_inputs` sees."""
    return x.dim() + 1 - len(p.shape)


def energy(p: Projection, x: Tensor) -> Tensor:
    """Sum of squares of each input channel, (in,)."""
    return x.movedim(channel_axis(p, x), 0).flatten(1).float().square().sum(1)


@torch.no_grad()
def synaptic_events(model: nn.Module, structure: Structure, batches: Iterable[tuple[Tensor, int]]) -> float:
    """Synaptic events per recording: every input that is not zero, in every step, times the weights that are not and that
    it meets. A pixel's events of a step count once, taps on padding and biases not at all, nor what leads to a neuron of a feature map
    that is pruned (see `positions`), a time step's recurrent spikes in the next: the synaptic operations of NeuroBench (Yik et al.
    2025, doi 10.1038/s41467-025-56739-4).

    batches: what the network takes, whole sequences, and of how many recordings. Measured in evaluation mode, on the network as
    it is; in several processes of `torch.distributed` each brings its part.
    """
    active: dict[str, Tensor] = {}
    recordings = 0

    def seen(p: Projection, x: Tensor) -> None:
        flat = (x != 0).flatten(0, channel_axis(p, x) - 1).double().sum(0)
        active[p.name] = active[p.name] + flat if p.name in active else flat

    handles = watch_inputs(structure, seen)
    try:
        with evaluating(model):
            for x, number in batches:
                model(x)
                recordings += number
    finally:
        for handle in handles:
            handle.remove()
    device = next(iter(structure.projections.values())).weight.device
    total = torch.tensor([0.0, recordings], dtype=torch.float64, device=device)
    for name, counts in active.items():
        p = structure.projections[name]
        population = structure.populations.get(p.population or "")
        total[0] += _met(p, counts, getattr(population and population.module, "dead", None))
    events, recordings_of_all = reduce_over_ranks(total).tolist()
    return events / max(1.0, recordings_of_all)


def _met(p: Projection, counts: Tensor, dead: Tensor | None) -> float:
    """Sum over inputs of their count times the non-zero weights that each meets; counts (in, *space). dead: neurons behind the
    projection that are not there, (out, *space), where it leads to them directly."""
    kept = (p.weight.detach() != 0).double()
    if len(p.shape) == 2:
        return float(kept.sum(0) @ counts)
    # What a kernel of ones would sum up is what leaves its inputs.
    module: Any = p.module
    arrived = p.convolve(counts, kept, module.groups)
    if dead is not None and dead.shape == arrived.shape:
        arrived = arrived * ~dead
    return float(arrived.sum())
