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

import inspect
from typing import TYPE_CHECKING, Any

from dpap_neuro.errors import InputError
from dpap_neuro.registry import Registry, lazily

if TYPE_CHECKING:
    from dpap_neuro.pruning.base import Pruner, PruneReport
    from dpap_neuro.pruning.baselines import SET, Magnitude, MagnitudePerLayer, Random, RigL, Unpruned
    from dpap_neuro.pruning.dpap import DPAP
    from dpap_neuro.pruning.goal import Goal, Meter, Reading
    from dpap_neuro.pruning.survival import SurvivalRule, SurvivalSettings
    from dpap_neuro.pruning.weighted import WeightedDPAP

# To add a pruner: a subclass of `Pruner`, and its line here under its name. The first line of its docstring says what it does.
_BASELINES = "dpap_neuro.pruning.baselines"
PRUNERS = Registry(
    "pruner",
    {
        "none": f"{_BASELINES}:Unpruned",
        "dpap": "dpap_neuro.pruning.dpap:DPAP",
        "dpap-weighted": "dpap_neuro.pruning.weighted:WeightedDPAP",
        "magnitude": f"{_BASELINES}:Magnitude",
        "magnitude-layer": f"{_BASELINES}:MagnitudePerLayer",
        "random": f"{_BASELINES}:Random",
        "set": f"{_BASELINES}:SET",
        "rigl": f"{_BASELINES}:RigL",
    },
)

__getattr__ = lazily(
    __name__,
    {
        "base": ("Pruner", "PruneReport"),
        "baselines": ("SET", "Magnitude", "MagnitudePerLayer", "Random", "RigL", "Unpruned"),
        "dpap": ("DPAP",),
        "goal": ("Goal", "Meter", "Reading"),
        "survival": ("SurvivalRule", "SurvivalSettings"),
        "weighted": ("WeightedDPAP",),
    },
)


def make_pruner(name: str, *, epochs: int | None = None, **options: Any) -> Pruner:
    """A pruner by name; see the module's docstring.

    epochs: length of the run. `dpap` scales its schedule to it (without `epochs`, or from 300 on: the
    authors' constants). Raises InputError for an unknown name or option, or a goal outside its range.
    """
    cls = PRUNERS[name]
    if options.get("meter") is not None and not cls.takes_budget:
        able = ", ".join(other for other, kind in PRUNERS.items() if kind.takes_budget)
        raise InputError(f"pruner {name}: cannot prune towards a budget, expected one of {able}")
    known = _options(cls)
    for option in options:
        if option not in known:
            said = f"expected {', '.join(sorted(known))}" if known else f"expected none ({cls().describe()})"
            raise InputError(f"pruner {name}: has no option {option!r}, {said}")
    return cls.for_run(epochs, **options)


def _options(cls: type[Pruner]) -> set[str]:
    """Names of what a pruner's constructor takes besides `epochs`: its own, and its parents' where it passes them on."""
    found: set[str] = set()
    for kind in cls.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        found |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found - {"self", "epochs"}


__all__ = [
    "DPAP",
    "PRUNERS",
    "SET",
    "Goal",
    "Magnitude",
    "MagnitudePerLayer",
    "Meter",
    "PruneReport",
    "Pruner",
    "Random",
    "Reading",
    "RigL",
    "SurvivalRule",
    "SurvivalSettings",
    "Unpruned",
    "WeightedDPAP",
    "make_pruner",
]
