"""Pruning while a network learns: DPAP and what it is measured against, behind one small interface.

    from dpap_neuro.pruning import make_pruner

    pruner = make_pruner("dpap", epochs=8)              # the published rule, schedule scaled to 8 epochs
    pruner.attach(model, sample_input)                  # sample_input (T, B, ...), e.g. the first batch
    print(pruner.describe())
    for epoch in range(8):
        for x, y in batches:                            # model.train()
            loss(model(x), y).backward()
            optimizer.step()
            pruner.step()                               # pruned weights to exactly zero; statistics taken in
        report = pruner.end_epoch(epoch, optimizer)     # PruneReport: parameters, remaining, layers, ...
        pruner.compact(optimizer)                       # if wanted: dead channels and neurons leave the network,
    pruner.expand(optimizer)                            # so that epochs get faster; and back to full size
    pruner.sparsity(); pruner.remaining()               # share removed; weights left
    pruner.state_dict(); pruner.load_state_dict(state)  # tensors only

Names: none, dpap, dpap-weighted, magnitude (global threshold), magnitude-layer (same share per layer),
random, set, rigl. `sparsity=0.9` (share of the parameters to remove) or `remaining=20_000`
(`count="parameters"` or `"synapses"`), with `epochs`, gives any of them a goal; `dpap` without a goal finds
its own compression; with `structured=True` it prunes channels and neurons only. `meter=...` instead prunes until what
the network takes of a budget fits, and no more (see `pruning.budget`). `dpap` with `time_bins=True` (or `bins=5`)
prunes time bins too: show the network only
`pruner.kept_bins` (x[pruner.kept_bins]) from the next epoch on. The read-out layer is never pruned (but loses
the weights that read from dead neurons).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpap_neuro.errors import InputError
from dpap_neuro.registry import Registry, lazily

if TYPE_CHECKING:
    from dpap_neuro.pruning.base import Pruner, PruneReport
    from dpap_neuro.pruning.baselines import Magnitude, Random, Rewiring
    from dpap_neuro.pruning.budget import Fill, Meter
    from dpap_neuro.pruning.dpap import DPAP
    from dpap_neuro.pruning.survival import SurvivalRule, SurvivalSettings
    from dpap_neuro.pruning.weighted import WeightedDPAP

# To add a pruner: a subclass of `Pruner`, and its line here. Imported when it is asked for: `--help` names them without PyTorch.
_BASELINES = "dpap_neuro.pruning.baselines"
PRUNERS = Registry(
    "pruner",
    {
        "none": "dpap_neuro.pruning.base:Pruner",
        "dpap": "dpap_neuro.pruning.dpap:DPAP",
        "dpap-weighted": "dpap_neuro.pruning.weighted:WeightedDPAP",
        "magnitude": f"{_BASELINES}:Magnitude",
        "magnitude-layer": f"{_BASELINES}:Magnitude",
        "random": f"{_BASELINES}:Random",
        "set": f"{_BASELINES}:Rewiring",
        "rigl": f"{_BASELINES}:Rewiring",
    },
)

__getattr__ = lazily(
    __name__,
    {
        "base": ("Pruner", "PruneReport"),
        "baselines": ("Magnitude", "Random", "Rewiring"),
        "budget": ("Fill", "Meter"),
        "dpap": ("DPAP",),
        "survival": ("SurvivalRule", "SurvivalSettings"),
        "weighted": ("WeightedDPAP",),
    },
)


def make_pruner(name: str, *, epochs: int | None = None, **options: Any) -> Pruner:
    """A pruner by name; see the module's docstring.

    epochs: length of the run. `dpap` scales its schedule to it (without `epochs`, or from 300 on: the
    authors' constants). Raises InputError for an unknown name or option, or a goal outside its range.
    """
    if options.get("meter") is not None and name in ("none", "set", "rigl"):
        raise InputError(
            f"pruner {name}: cannot prune towards a budget, expected dpap, dpap-weighted or magnitude"
        )
    cls = PRUNERS[name]
    try:
        if name == "dpap":
            pruner = cls.from_paper(epochs=epochs, **options)
            return pruner if epochs is None else pruner.scaled_to(epochs)
        if name == "none":
            if options:
                raise InputError(
                    f"pruner none: found {', '.join(options)}, expected no option (it removes nothing)"
                )
            return cls(epochs=epochs)
        if name in ("magnitude", "magnitude-layer"):
            return cls(epochs=epochs, per_layer=name.endswith("layer"), **options)
        if name in ("set", "rigl"):
            return cls(epochs=epochs, growth="random" if name == "set" else "gradient", **options)
        return cls(epochs=epochs, **options)
    except TypeError as error:
        # "DPAP.__init__() got an unexpected keyword argument 'colour'"
        said = str(error).partition("() ")[2] or str(error)
        raise InputError(
            f"pruner {name}: {said.replace('got an unexpected keyword argument', 'has no option')}"
        ) from None


__all__ = [
    "DPAP",
    "PRUNERS",
    "Fill",
    "Magnitude",
    "Meter",
    "PruneReport",
    "Pruner",
    "Random",
    "Rewiring",
    "SurvivalRule",
    "SurvivalSettings",
    "WeightedDPAP",
    "make_pruner",
]
