"""Networks that fit a chip's budget by pruning: part of the command line, so it stands on both packages."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from dpap_neuro.deploy.opening import CompileOptions, open_model
from dpap_neuro.exchange.nir_export import without_dead_units
from dpap_neuro.networks.models import Network
from dpap_neuro.pruning import Reading
from dpap_neuro.train import runs
from dpap_neuro.train.loop import History
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir
from hardware.placement import budget as budgets
from hardware.placement.budget import Budget

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What has no placement at all (one neuron exceeds a core) loses so much, then is looked at again.
_UNPLACED = {"neurons": 1.25, "synapses": 1.25}


@dataclass(frozen=True)
class BudgetMeter:
    """Measures a network (with `settings`) against a budget as it would be exported: without its dead units, in integers,
    placed. A `pruning.Meter`.

    effort: of a placement, see `hardware.placement.place`.
    """

    budget: Budget
    effort: float | None = None

    def __str__(self) -> str:
        return self.budget.describe()

    def __call__(self, network: nn.Module) -> Reading:
        twin = _twin(network)
        exported = without_dead_units(twin, twin.settings.input_shape)
        integers = compile_graph(from_nir(runs.graph_of(exported, {})), self.budget.chip)[0]
        try:
            found = budgets.fill(integers, self.budget, effort=self.effort)
        except HardwareError as error:
            return Reading(_UNPLACED, str(error), {"fits": False, "broken": [str(error)]})
        text = f"{found.placement.cores} of {self.budget.cores:g} cores"
        if fullest := found.fullest():
            text += f", {fullest[0]} {fullest[1]:.0%}"
        if found.broken:
            text += f"; {found.broken[0]}"
        return Reading(found.excess(), text, values_of(found))


def save_fitted(
    folder: str | Path,
    network: Network,
    history: History,
    metadata: dict[str, Any],
    budget: Budget,
    effort: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> budgets.Fill:
    """`runs.save_run` without dead units; run.json also says the budget, and what model.nir itself takes of it.
    about: see there.

    Placed is the file as it was written, by the same path as in `dpap-neuro cores`; effort: as the meter's.
    """
    runs.save_run(folder, network, history, metadata, compact=True, about=about)
    found = budgets.fill(
        open_model(Path(folder) / "model.nir", CompileOptions(budget.chip)).integers(), budget, effort=effort
    )
    runs.add_to_record(folder, budget={"chip": budget.chip.name, **values_of(found)})
    return found


def values_of(fill: budgets.Fill) -> dict[str, Any]:
    """What a run's record keeps of a fill."""
    placement = fill.placement
    return {
        "cores": placement.cores,
        "lower_bound": placement.lower_bound,
        "synapses": placement.synapses,
        "synapses_per_core": placement.synapses_per_core.tolist(),
        "neurons": int(placement.neurons_per_core.sum()),
        **fill.to_dict(),
    }


def _twin(network: nn.Module) -> Network:
    """The same network on the CPU, in evaluation mode, with none of the hooks that training hangs on it."""
    hooks = [module.__dict__[key] for module in network.modules() for key in _HOOKS]
    twin = copy.deepcopy(network, {id(hook): OrderedDict() for hook in hooks})
    return cast(Network, twin.cpu().eval())
