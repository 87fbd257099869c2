"""Networks that fit a chip's budget by pruning: part of the command line, so it stands on both packages."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from dpap_neuro.data.binning import only_bins
from dpap_neuro.data.stored import Stored
from dpap_neuro.deploy.opening import CompileOptions, open_model
from dpap_neuro.exchange.nir_export import without_dead_units
from dpap_neuro.networks.models import Network
from dpap_neuro.pruning import Reading
from dpap_neuro.pruning.pricing import NeuronPrices
from dpap_neuro.train import runs
from dpap_neuro.train.loop import History
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir
from hardware.placement import budget as budgets
from hardware.placement.budget import Budget

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Recordings that are run to measure events, energy or time.
MEASURED = 32
# What has no placement at all (one neuron exceeds a core) loses so much, then is looked at again.
_UNPLACED = {"neurons": 1.25, "synapses": 1.25}


@dataclass(frozen=True)
class BudgetMeter:
    """Measures a network (with `settings`) against a budget as it would be exported: without its dead units, in integers,
    placed. A `pruning.Meter`.

    effort: of a placement, see `hardware.placement.place`. recordings: what `show` was given, for a budget of events, energy or time.
    """

    budget: Budget
    effort: float | None = None
    recordings: list[np.ndarray] = field(default_factory=list, repr=False, compare=False)

    def show(self, rasters: np.ndarray | Stored, labels: np.ndarray) -> None:
        """Recordings for training, (n, steps, polarity, y, x) counts, of which some of every class are run at each measurement."""
        if self.budget.is_charged:
            order = np.argsort(labels, kind="stable")
            chosen = order[np.linspace(0, len(order) - 1, min(MEASURED, len(order))).round().astype(int)]
            self.recordings[:] = [np.ascontiguousarray(rasters[np.sort(chosen)])]

    @property
    def raster(self) -> np.ndarray | None:
        return self.recordings[0] if self.recordings else None

    def shown(self, bins: Sequence[int] | None) -> np.ndarray | None:
        """The raster of the time bins that a network is shown."""
        return None if self.raster is None else only_bins(self.raster, bins)

    @property
    def count(self) -> str:
        """What a pruner is to count, where it can."""
        return "events" if self.budget.is_charged else "synapses"

    @property
    def neuron_prices(self) -> NeuronPrices:
        """Of the dearest that is limited: a neuron's updates and messages in synaptic events."""
        costs = self.budget.chip.costs
        if costs is None or self.raster is None:
            return NeuronPrices()
        steps = self.raster.shape[1]
        if self.budget.max_energy_uj is not None:
            event = costs.synaptic_event_pj
            return NeuronPrices(steps * costs.inactive_neuron_pj / event, costs.message_pj / event)
        if self.budget.max_step_us is not None:
            event = costs.synaptic_event_ns
            return NeuronPrices(steps * costs.inactive_neuron_ns / event, costs.message_ns / event)
        return NeuronPrices()

    def __str__(self) -> str:
        return self.budget.describe()

    def __call__(self, network: nn.Module, bins: Sequence[int] | None = None) -> Reading:
        twin = _twin(network)
        exported = without_dead_units(twin, twin.settings.input_shape)
        integers = compile_graph(from_nir(runs.graph_of(exported, {})), self.budget.chip)[0]
        try:
            found = budgets.fill(integers, self.budget, effort=self.effort, raster=self.shown(bins))
        except HardwareError as error:
            return Reading(_UNPLACED, str(error), {"fits": False, "broken": [str(error)]})
        text = f"{found.placement.cores} of {self.budget.cores:g} cores"
        if fullest := found.fullest():
            text += f", {fullest[0]} {fullest[1]:.0%}"
        if found.charged:
            text += f", {charges(found)}"
        if found.broken:
            text += f"; {found.broken[0]}"
        if found.silent:
            text += f"; {found.silence()}"
        return Reading(found.excess(), text, values_of(found), tuple(found.silent) if found.charged else None)


def save_fitted(
    folder: str | Path,
    network: Network,
    history: History,
    metadata: dict[str, Any],
    meter: BudgetMeter,
    about: Mapping[str, Any] | None = None,
) -> budgets.Fill:
    """`runs.save_run` without dead units; run.json also says the budget, and what model.nir itself takes of it.
    about: see there.

    Placed is the file as it was written, by the same path as in `dpap-neuro cores`, with the meter's effort and recordings.
    """
    runs.save_run(folder, network, history, metadata, compact=True, about=about)
    budget = meter.budget
    integers = open_model(Path(folder) / "model.nir", CompileOptions(budget.chip)).integers()
    found = budgets.fill(integers, budget, effort=meter.effort, raster=meter.shown(history.kept_bins))
    runs.add_to_record(folder, budget={"chip": budget.chip.name, **values_of(found)})
    return found


def charges(fill: budgets.Fill) -> str:
    """Events, energy and time in words."""
    units = {
        "events": "{:,.0f} events per recording",
        "energy_uj": "{:,.2f} uJ",
        "step_us": "{:,.2f} us per step",
    }
    return ", ".join(units[key].format(value) for key, value in fill.charged.items())


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
