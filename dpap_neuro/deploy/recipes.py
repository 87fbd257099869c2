"""Experiments of the literature by name, as `train --recipe NAME` runs them: what is set, and what is known to differ.

To add one: a `Recipe` in `RECIPES`. Imports nothing that learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dpap_neuro.deploy.request import TrainRequest
from dpap_neuro.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """what: in a line. values: of `TrainRequest`. published: what the source reports. departures: where a run of this recipe is not
    what the authors ran, as far as is known."""

    what: str
    values: Mapping[str, Any]
    published: str
    departures: tuple[str, ...]


_CIFAR10 = {
    "dataset": "cifar10",
    "bins": 8,
    "model": "dpap-cifar10",
    "pruner": "dpap-published",
    "neuron": "plif",
    "readout": "spikes",
    "decay": 0.5,
    "threshold": 0.5,
    "surrogate": "atan",
    "surrogate_slope": 2.0,
    "reset": "zero",
    "loss": "one-sided-mse",
    "label_smoothing": 0.0,
    "epochs": 300,
    "batch": 50,
    "learning_rate": 5e-3 * 50 / 1024,
    "weight_decay": 0.01,
    "warmup": 5.0,
    "shift": 4,
    "flip": True,
    "seed": 42,
}
_AS_THEIRS = (
    "pixels are not normalised (the first batch norm does it); no RandAugment, no random erasing, shifts in place of crops",
    "the learning rate follows its cosine batch by batch to zero; theirs epoch by epoch to 1e-5, and ten epochs more",
    "batch norms see all steps of a batch at once; theirs one step after the other",
    "every neuron has threshold 0.5 and the same surrogate, as the paper's text has it; the authors' code sets the two numbers and leaves "
    "them unused: its convolutions spike at 1.0 with a learned slope, its matrices at 0.5 with a triangle, time constant not learned",
    "gradients flow through the reset; theirs are cut there",
    "above the target of 1 there is no loss; theirs computes that and leaves it out, which for rates is the same",
)
RECIPES: dict[str, Recipe] = {
    "dpap-cifar10": Recipe(
        "the experiment of the DPAP paper: its network, neurons, loss, optimizer, schedule and the strict mode of the method",
        _CIFAR10,
        "94.27 % at 33.46 % of the weights removed (arXiv 2211.12714)",
        _AS_THEIRS,
    ),
    "dpap-cifar10-dense": Recipe(
        "the same without pruning",
        {**_CIFAR10, "pruner": "none"},
        "94.54 % (0.27 points above the pruned)",
        _AS_THEIRS,
    ),
    "dpap-cifar10-ours": Recipe(
        "the same with this project's DPAP: masks that hold, one threshold per unit, no unit that nobody reads",
        {**_CIFAR10, "pruner": "dpap"},
        "nothing: the departures of the method are this project's",
        _AS_THEIRS,
    ),
    "dpap-cifar10-chip": Recipe(
        "the same network with average pooling, which a chip can run",
        {**_CIFAR10, "model": "dpap-cifar10-avg"},
        "nothing: the pooling is this project's",
        _AS_THEIRS,
    ),
    "dpap-cifar10-ann": Recipe(
        "its artificial twin: rectifiers, one frame",
        {
            **{
                k: v
                for k, v in _CIFAR10.items()
                if k not in ("decay", "threshold", "surrogate", "surrogate_slope", "reset")
            },
            "neuron": "relu",
            "readout": "mean",
            "bins": 1,
            "loss": "cross-entropy",
        },
        "not in what is known of the paper here",
        (
            *_AS_THEIRS[:3],
            "loss and schedule of the artificial networks are not known; cross-entropy and the same schedule here",
        ),
    ),
}


def with_recipe(name: str, said: Mapping[str, Any]) -> TrainRequest:
    """A request of a recipe, what is said besides going before it. Raises InputError for an unknown name."""
    if name not in RECIPES:
        raise InputError(f"recipe: found {name!r}, expected one of {', '.join(RECIPES)}")
    return TrainRequest(**{**RECIPES[name].values, **said, "recipe": name})


def differing(asked: TrainRequest) -> list[str]:
    """What of a request is not as its recipe has it, "option value (recipe: value)"."""
    if asked.recipe is None:
        return []
    plain = with_recipe(asked.recipe, {})
    places = ("data_dir", "sensor", "more_epochs")
    return [
        f"{f.name.replace('_', '-')} {getattr(asked, f.name)} (recipe: {getattr(plain, f.name)})"
        for f in fields(TrainRequest)
        if getattr(asked, f.name) != getattr(plain, f.name) and f.name not in places
    ]
