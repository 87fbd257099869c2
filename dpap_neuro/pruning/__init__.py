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

Names: none, dpap, dpap-published (to the letter of its authors' code, no goal), weighted (dpap-weighted until 0.2), magnitude
(global threshold), magnitude-layer (same share per layer), lamp, erk, granet, taylor, fisher, wanda, random, set, rigl. Those from magnitude to random are choices of a `score` (magnitude, taylor, fisher, weighted,
wanda, spikefit, random), an `allocation` between layers (global, layer, erk, lamp) and a `regrow` (none, gradient, random), which
combine: make_pruner("magnitude", score="fisher", allocation="lamp", ...). `sparsity=0.9` (share of the parameters to remove) or `remaining=20_000`
(`count="parameters"` or `"synapses"`), with `epochs`, gives any of them a goal; `dpap` without a goal finds
its own compression; with `structured=True` it prunes channels and neurons only. `meter=...` instead prunes until what
the network takes of a budget fits, and no more (see `pruning.budget`). `dpap` with `time_bins=True` (or `bins=5`)
prunes time bins too (our reading: the paper names spatio-temporal pruning without defining it), and so do all others with
`bins=5`, by how the loss answers (see `time_bins`): show the network only `pruner.kept_bins` (x[pruner.kept_bins]) from the next epoch on. The read-out layer is never pruned (but loses
the weights that read from dead neurons).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.asking import options_of, read_options
from dpap_neuro.registry import Registry, lazily

if TYPE_CHECKING:
    from dpap_neuro.pruning.base import Pruner, PruneReport
    from dpap_neuro.pruning.baselines import (
        ERK,
        LAMP,
        SET,
        Fisher,
        GraNet,
        Magnitude,
        MagnitudePerLayer,
        Random,
        RigL,
        Taylor,
        Unpruned,
        Wanda,
    )
    from dpap_neuro.pruning.dpap import DPAP
    from dpap_neuro.pruning.goal import Goal, Meter, Reading
    from dpap_neuro.pruning.scored import Scored
    from dpap_neuro.pruning.survival import SurvivalRule, SurvivalSettings
    from dpap_neuro.pruning.weighted import Weighted

# To add a pruner: a subclass of `Pruner`, and its line here under its name. The first line of its docstring says what it does.
_BASELINES = "dpap_neuro.pruning.baselines"
PRUNERS = Registry(
    "pruner",
    {
        "none": f"{_BASELINES}:Unpruned",
        "dpap": "dpap_neuro.pruning.dpap:DPAP",
        "dpap-published": "dpap_neuro.pruning.published:PublishedDPAP",
        "weighted": "dpap_neuro.pruning.weighted:Weighted",
        # Its name until 0.2: it holds none of DPAP's trace, BCM rule or spines.
        "dpap-weighted": "dpap_neuro.pruning.weighted:Weighted",
        "magnitude": f"{_BASELINES}:Magnitude",
        "magnitude-layer": f"{_BASELINES}:MagnitudePerLayer",
        "lamp": f"{_BASELINES}:LAMP",
        "erk": f"{_BASELINES}:ERK",
        "granet": f"{_BASELINES}:GraNet",
        "taylor": f"{_BASELINES}:Taylor",
        "fisher": f"{_BASELINES}:Fisher",
        "wanda": f"{_BASELINES}:Wanda",
        "random": f"{_BASELINES}:Random",
        "set": f"{_BASELINES}:SET",
        "rigl": f"{_BASELINES}:RigL",
    },
)

__getattr__ = lazily(
    __name__,
    {
        "base": ("Pruner", "PruneReport"),
        "baselines": (
            *("ERK", "LAMP", "SET", "Fisher", "GraNet", "Magnitude", "MagnitudePerLayer", "Random", "RigL"),
            *("Taylor", "Unpruned", "Wanda"),
        ),
        "dpap": ("DPAP",),
        "goal": ("Goal", "Meter", "Reading"),
        "scored": ("Scored",),
        "survival": ("SurvivalRule", "SurvivalSettings"),
        "weighted": ("Weighted",),
    },
)


def parse_pruner(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of "name" or "name:option=value,option=value", as the command line has them.

    Raises InputError for an unknown name or option, a value of another kind, or an option said twice.
    """
    name, _, rest = text.partition(":")
    said = [part for part in rest.split(",") if part.strip()] if rest else []
    cls = PRUNERS[name.strip()]
    return name.strip(), read_options(name.strip(), cls, said)


def with_choices(text: str, **choices: str | None) -> str:
    """A pruner of the command line, see `parse_pruner`, with options besides; those that are None are left out."""
    said = [f"{key}={value}" for key, value in choices.items() if value is not None]
    return f"{text}{',' if ':' in text else ':'}{','.join(said)}" if said else text


def together(name: str, *options: dict[str, Any]) -> dict[str, Any]:
    """Options of pruner `name` from several places. Raises InputError for one that is said in two of them."""
    found: dict[str, Any] = {}
    for more in options:
        for key in more:
            if key in found:
                raise InputError(f"pruner {name}: found {key} twice, expected it once")
        found |= more
    return found


def make_pruner(name: str, *, epochs: int | None = None, **options: Any) -> Pruner:
    """A pruner by name; see the module's docstring.

    epochs: length of the run. `dpap` scales its schedule to it (without `epochs`, or from 300 on: the
    authors' constants). Raises InputError for an unknown name or option, or a goal outside its range.
    """
    cls = PRUNERS[name]
    if options.get("meter") is not None and cls.no_budget:
        able = ", ".join(other for other, kind in PRUNERS.items() if not kind.no_budget)
        raise InputError(
            f"pruner {name}: cannot prune towards a budget ({cls.no_budget}), expected one of {able}"
        )
    known = options_of(cls)
    for option in options:
        if option not in known:
            said = f"expected {', '.join(sorted(known))}" if known else f"expected none ({cls().describe()})"
            raise InputError(f"pruner {name}: has no option {option!r}, {said}")
    return cls.for_run(epochs, **options)


__all__ = [
    "DPAP",
    "ERK",
    "LAMP",
    "PRUNERS",
    "SET",
    "Fisher",
    "Goal",
    "GraNet",
    "Magnitude",
    "MagnitudePerLayer",
    "Meter",
    "PruneReport",
    "Pruner",
    "Random",
    "Reading",
    "RigL",
    "Scored",
    "SurvivalRule",
    "SurvivalSettings",
    "Taylor",
    "Unpruned",
    "Wanda",
    "Weighted",
    "make_pruner",
    "parse_pruner",
    "together",
    "with_choices",
]
