"""Single neurons of feature maps, pruned: on a chip every position of a feature map is a compartment, with axons and synapses of its own.

A neuron goes where its spikes are held at zero (`networks.neurons.Neuron.dead`); in a `.nir` file its threshold is infinite. First go
neurons that spike least on the training recordings (never, above all), of those that spike as often the ones nearest to the border.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.neurons import Neuron
from dpap_neuro.pruning.inputs import channel_axis, watch_inputs
from dpap_neuro.pruning.labels import tensors
from dpap_neuro.pruning.statistics import reduce_over_ranks
from dpap_neuro.pruning.structure import Projection, Structure, call_network, evaluating
from dpap_neuro.pruning.survival import gradual_share


@dataclass(frozen=True)
class PrunedPositions:
    """What `Positions.prune` did. neurons: of all feature maps, without channels that were cut out; dead: of those, and silent: how many of
    these never spiked. layers: of each layer its dead neurons and all."""

    neurons: int
    dead: int
    silent: int
    layers: dict[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        each = ", ".join(f"{name} {dead:,} of {total:,}" for name, (dead, total) in self.layers.items())
        return (
            f"{self.dead:,} of {self.neurons:,} neurons of feature maps are pruned ({self.silent:,} never spiked on the training "
            f"recordings): {each}"
        )


@torch.no_grad()
def mark(model: nn.Module, structure: Structure, sample: Tensor, loop: bool) -> None:
    """Tell every projection of a network at full size which of its inputs and outputs are single neurons that are pruned.

    sample, loop: an input of one recording, and how the network takes it, see `structure.call_network`. An input is there when
    anything reaches it while all neurons that are there are heard: through pooling, flattening and sums.
    """
    dead = {
        name: mask
        for name, p in structure.populations.items()
        if (mask := _dead_of(p.module)) is not None and mask.any()
    }
    for p in structure.projections.values():
        p.set_there(None, None)
    if not dead:
        return

    def heard(module: nn.Module, _args: Any, result: Any) -> Any:
        first, mask = next(tensors(result)), _dead_of(module)
        spikes = torch.ones_like(first) if mask is None else torch.ones_like(first) * ~mask
        return (spikes, *result[1:]) if isinstance(result, tuple) else spikes

    reached: dict[str, Tensor] = {}

    def seen(p: Projection, x: Tensor) -> None:
        if x.numel():
            reached[p.name] = (x != 0).flatten(0, channel_axis(p, x) - 1).any(0).cpu()

    modules = {id(p.module): p.module for p in structure.populations.values()}
    handles = [module.register_forward_hook(heard) for module in modules.values()]
    handles += watch_inputs(structure, seen)
    try:
        with evaluating(model):
            call_network(model, torch.ones_like(sample), loop)
    finally:
        for handle in handles:
            handle.remove()
    for p in structure.projections.values():
        mask, inputs = dead.get(p.population or ""), reached.get(p.name)
        if mask is not None and mask.shape[1:] != p.out_space:
            mask = None  # pooled on the way: no output is one neuron's
        p.set_there(
            None if inputs is None or inputs.all() else inputs,
            None if mask is None else ~mask[p.post.to(mask.device)].cpu(),
        )


def _dead_of(module: nn.Module) -> Tensor | None:
    return module.dead if isinstance(module, Neuron) else None


class Positions:
    """The feature maps of an attached network whose neurons can go one by one.

    share: of all neurons of feature maps, to have pruned at last; None: those that never spike. silent: how many of those pruned so far
    never spiked. Raises InputError for a network without spiking feature maps of `networks.neurons`.
    """

    # How often a share grows until it is reached, the network learning in between.
    GROWS = 5

    def __init__(self, structure: Structure, share: float | None) -> None:
        self.share, self.silent = share, 0
        self.maps: dict[str, Neuron] = {}
        for name, population in structure.populations.items():
            module = population.module
            known = module in self.maps.values()  # one that stands in several places
            if population.spiking and len(population.space) > 1 and isinstance(module, Neuron) and not known:
                self.maps[name] = module
                if module.dead is None:
                    whole = torch.zeros(population.labels.numel(), *population.space, dtype=torch.bool)
                    module.dead = whole.to(module.v_th.device)
        if not self.maps:
            raise InputError(
                "prune-positions: found no feature map of spiking neurons, expected a convolution and neurons of "
                "dpap_neuro.networks.neurons behind it"
            )

    def share_after(self, epoch: int, first: int, last: int) -> float | None:
        """The share to have pruned behind `epoch`, None for nothing to do; first, last: epochs of the pruner's schedule.

        A share grows as the pruner's does, in few steps; neurons that never spike go at the end.
        """
        steps = (
            [last]
            if self.share is None
            else [last - (last - first) * k // self.GROWS for k in range(self.GROWS)]
        )
        if epoch not in steps:
            return None
        return 0.0 if self.share is None else gradual_share(epoch, first, last, self.share)

    @torch.no_grad()
    def prune(
        self, model: nn.Module, batches: Iterable[Tensor], share: float | None = None
    ) -> PrunedPositions:
        """Hold the spikes of neurons at zero that spike least on these recordings, (T, B, ...) each, of all ranks together, until `share` of
        them are pruned (None: all that was asked for).

        What is pruned stays so. No population loses its last neuron that spikes, and none that spikes goes where only silent ones are
        asked for.
        """
        spikes = self._counted(model, batches)
        counts = torch.cat([own.flatten() for own in spikes.values()])
        depth = torch.cat([_depth(own).flatten() for own in spikes.values()])
        layer = torch.repeat_interleave(
            torch.arange(len(spikes)), torch.tensor([own.numel() for own in spikes.values()])
        )
        before = torch.cat([_dead(module).flatten().cpu() for module in self.maps.values()])
        key = torch.where(before, -1, counts)
        # Stable sorts, the least important key first.
        ranked = depth.argsort(stable=True)
        ranked = ranked[key[ranked].argsort(stable=True)]
        wanted = int((key <= 0).sum())
        if self.share is not None:
            wanted = max(int(before.sum()), round((self.share if share is None else share) * len(ranked)))
        gone = torch.zeros(len(ranked), dtype=torch.bool)
        gone[ranked[:wanted]] = True
        layers = {}
        for number, (name, module) in enumerate(self.maps.items()):
            own = gone[layer == number]
            if own.all():
                own[key[layer == number].argmax()] = False
                gone[layer == number] = own
            dead = _dead(module)
            dead |= own.reshape(dead.shape).to(dead.device)
            layers[name] = [int(dead.sum()), dead.numel()]
        self.silent += int((gone & (key == 0)).sum())
        return PrunedPositions(len(ranked), sum(dead for dead, _ in layers.values()), self.silent, layers)

    def _counted(self, model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
        """Spikes of every neuron, int64 on the CPU."""
        counts: dict[str, Tensor] = {}

        def hook(name: str) -> Any:
            def count(_module: nn.Module, _args: Any, result: Any) -> None:
                own = (next(tensors(result)) != 0).flatten(0, 1).sum(0)
                counts[name] = counts[name] + own if name in counts else own

            return count

        handles = [module.register_forward_hook(hook(name)) for name, module in self.maps.items()]
        try:
            with evaluating(model):
                for batch in batches:
                    model(batch)
        finally:
            for handle in handles:
                handle.remove()
        return {name: reduce_over_ranks(counts[name]).cpu() for name in self.maps}


def _dead(module: Neuron) -> Tensor:
    assert module.dead is not None
    return module.dead


def _depth(counts: Tensor) -> Tensor:
    """How many rows or columns lie between each neuron of (channels, *space) and the nearest border."""
    depth = torch.full(counts.shape, 2**31 - 1, dtype=torch.int64)
    for axis in range(1, counts.dim()):
        size = counts.shape[axis]
        along = torch.minimum(torch.arange(size), torch.arange(size - 1, -1, -1))
        shape = [1] * counts.dim()
        shape[axis] = size
        depth = torch.minimum(depth, along.reshape(shape))
    return depth
