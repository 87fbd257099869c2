"""A training run as the command line asks for it: what was said and what the data set, the file or the method gives besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dpap_neuro.data import Binning, Defaults, binning_of, dataset
from dpap_neuro.deploy import finetuning, fitting, record
from dpap_neuro.deploy.request import (
    NEURON,
    OF_UNITS,
    PRUNER,
    SPARSITY,
    SURROGATE,
    TrainRequest,
    with_network_of,
)
from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_import import ImportedNetwork, for_data
from dpap_neuro.networks import SURROGATES
from dpap_neuro.networks.models import ModelSettings, Network
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.networks.own import is_own, own_function
from dpap_neuro.networks.surrogates import Surrogate
from dpap_neuro.precision.network import ExactNetwork, Precision
from dpap_neuro.pruning import Pruner, PruneReport, make_pruner, parse_pruner, together, with_choices
from dpap_neuro.train import loop, runs
from hardware.chip.chips import DEFAULT, load_chip
from hardware.graph.graph import Graph
from hardware.placement import budget as budgets
from hardware.placement.budget import Budget

# What a network of a `.nir` file brings.
_OF_THE_NETWORK = ("neuron", "readout", "decay", "current_decay", "threshold")
_OF_THE_SURROGATE = ("surrogate", "surrogate_slope")


@dataclass(frozen=True)
class Training:
    """A request with nothing left open but what only the recordings tell. graph: of the `.nir` file to go on from, None for a
    network that is made anew. budget: what the network has to fit, None for no limit. precision: of a chip's integers, None for
    floats. source: the float network of a run folder to go on from. pruning: all that the pruner was made with. meter: measures
    the budget."""

    request: TrainRequest
    settings: loop.TrainSettings
    pruner: Pruner
    binning: Binning
    graph: Graph | None
    budget: Budget | None
    defaults: Defaults
    precision: Precision | None = None
    source: Network | None = None
    pruning: dict[str, Any] = field(default_factory=dict)
    meter: fitting.BudgetMeter | None = None

    def load(
        self,
        progress: Callable[[str, int, int], None] | None = None,
        cache_dir: Path | None = None,
        workers: int | None = None,
    ) -> runs.Split:
        """Training and test recordings, see `runs.load_split`."""
        asked = self.request
        return runs.load_split(
            asked.dataset, asked.data_dir, self.binning, progress, cache_dir, asked.sensor_size, workers
        )

    def model(self, split: runs.Split) -> ModelSettings | ImportedNetwork | ExactNetwork:
        """The network to train, for these recordings. Raises InputError where it does not fit them."""
        asked, precision = self.request, self.precision
        if self.graph is not None:
            shape, classes = split.train[0].shape[2:], len(split.opened.classes)
            if precision is not None:
                return finetuning.exact_network(
                    self.graph,
                    precision,
                    shape,
                    classes,
                    split.dt,
                    self.source,
                    asked.dt,
                    asked.reset,  # type: ignore[arg-type]
                    _surrogate(asked, self.source),
                )
            return for_data(self.graph, shape, classes, split.dt, asked.dt, asked.reset)
        settings = runs.model_settings(
            split,
            _or(asked.model, self.defaults.model),
            asked.readout,
            *asked.neuron_settings(),
            cell=_or(asked.neuron, NEURON),
        )
        if precision is None:
            return settings
        return finetuning.new_network(settings, precision, split, asked.seed, asked.batch)

    def unwritten(self, model: ModelSettings | ImportedNetwork | ExactNetwork) -> str | None:
        """Why the network cannot become a `.nir` file; None where it can. Raises InputError where it has to."""
        reason = runs.why_not_written(model) if isinstance(model, ModelSettings) else None
        if reason is not None and self.budget is not None:
            raise InputError(
                f"--model {self.request.model}: is to fit on {self.budget.chip.name}, but {reason}"
            )
        return reason

    def run(
        self,
        split: runs.Split,
        model: ModelSettings | ImportedNetwork | ExactNetwork,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
        on_epoch: Callable[[loop.Epoch, PruneReport], None] | None = None,
        checkpoint: Path | None = None,
        on_note: Callable[[str], None] | None = None,
        workers: int = 0,
    ) -> tuple[Network, loop.History]:
        """Train; progress(batches done, batches of the run). on_note, workers: see `loop.train`."""
        batches = max(1, len(split.train[1]) // self.settings.batch)
        if self.meter is not None:
            self.meter.show(*split.train)

        def told(epoch: int, done: int) -> None:
            if progress is not None:
                progress(epoch * batches + done, self.settings.all_epochs * batches)

        network, history = runs.train_run(
            split, model, self.pruner, self.settings, device, told, on_epoch, checkpoint, on_note, workers
        )
        return network.cpu(), history

    def save(
        self,
        out: Path,
        split: runs.Split,
        network: Network,
        history: loop.History,
        device: torch.device = torch.device("cpu"),
        started: str | None = None,
        command: str = "",
    ) -> budgets.Fill | None:
        """Write the run's folder; what model.nir takes of the budget, None without one. device: that it was trained on; started:
        when, see `record.now`; command: what was typed.
        """
        metadata = runs.metadata_of(split)
        about = {
            "command": command,
            "request": record.said(self.request),
            "settings": asdict(self.settings),
            "pruner": {"text": self.pruner.describe(), **self.pruning},
            "data": split.record(),
            "versions": record.versions(),
            "machine": record.machine(device),
            "seed": self.settings.seed,
            "started": started or record.now(),
            "written": record.now(),
        }
        fill = None
        if self.meter is not None:
            fill = fitting.save_fitted(out, network, history, metadata, self.meter, about)
        else:
            runs.save_run(out, network, history, metadata, about=about)
        # What can be made again from run.json.
        record.write_config(self.request, out / record.CONFIG, command)
        record.write_history(history.epochs, out / record.HISTORY)
        record.draw_history(history.epochs, out / record.PICTURE, f"{split.opened.name}, {self.pruner.name}")
        return fill


def resolve(asked: TrainRequest) -> Training:
    """What is to be done, with the data set's defaults where nothing is said; a `.nir` file brings its neurons, its read-out
    and, where it says so, its binning. Raises InputError or HardwareError for what cannot be done, before data are read.
    """
    defaults = dataset(asked.dataset, asked.sensor_size).defaults
    network = dict(defaults.network)
    if asked.chip is not None and network.get("reset") not in load_chip(asked.chip).neuron.resets:
        network.pop("reset", None)
    asked = with_network_of(asked, asked.model, network)
    settings = loop.TrainSettings(
        epochs=asked.epochs,
        more_epochs=asked.more_epochs,
        batch=asked.batch,
        learning_rate=_or(asked.learning_rate, defaults.learning_rate),
        loss=asked.loss,
        label_smoothing=asked.label_smoothing,
        weight_decay=asked.weight_decay,
        warmup=asked.warmup,
        amp=asked.amp,
        accumulate=asked.accumulate,
        rate_target=asked.rate_target,
        rate_weight=asked.rate_weight,
        prune_positions=asked.prune_positions,
        shift=_or(asked.shift, defaults.shift),
        flip=_or(asked.flip, defaults.flip),
        drop=_or(asked.drop, defaults.drop),
        jitter=_or(asked.jitter, defaults.jitter),
        seed=asked.seed,
        compact=asked.compact,
    )
    limits = (
        asked.max_cores,
        asked.max_synapses,
        asked.max_synapses_per_core,
        asked.max_step_us,
        asked.max_energy_uj,
        asked.max_events,
    )
    budget = None
    if asked.chip is not None or any(limit is not None for limit in limits):
        budget = Budget(load_chip(asked.chip or DEFAULT), *limits)
    meter = None if budget is None else fitting.BudgetMeter(budget)
    sparsity, chosen = asked.sparsity, asked.pruner
    if chosen is None:
        # Cores may be short of neurons, which dpap frees; rates are what `weighted` can pay for.
        placed = budget is not None and not budget.is_charged
        chosen = OF_UNITS if placed else PRUNER
        if chosen == PRUNER and budget is None and sparsity is None:
            sparsity = SPARSITY
    wanted = {
        "sparsity": sparsity,
        "count": None if sparsity is None and budget is None else asked.count,
        "bins": asked.keep_bins,
        "structured": asked.structured or None,
        "meter": meter,
    }
    options = {name: value for name, value in wanted.items() if value is not None}
    said = with_choices(chosen, score=asked.score, allocation=asked.allocation, regrow=asked.regrow)
    name, own = parse_pruner(said)
    pruner = make_pruner(name, epochs=asked.epochs, **together(name, options, own))
    graph, source = None, None
    if asked.model is not None and (asked.model.endswith(".nir") or Path(asked.model).is_dir()):
        # A finetuned network may get another surrogate than the one it learned with.
        for name in _OF_THE_NETWORK + (_OF_THE_SURROGATE if asked.precision is None else ()):
            if getattr(asked, name) is not None:
                raise InputError(f"--{name.replace('_', '-')}: {asked.model} has its own; leave it out")
        graph, source = finetuning.read_source(asked.model)
        binning = binning_of(
            graph.metadata, asked.bins, asked.bin_us, asked.downsample, asked.clock, code=asked.code
        )
        if asked.clip is not None:
            binning = replace(binning, clip=asked.clip)
    else:
        if asked.dt is not None:
            raise InputError("--dt: is for a .nir file, a new network takes the length of its time bins")
        binning = defaults.binning(
            asked.bins, asked.bin_us, asked.clip, asked.downsample, asked.clock, asked.code
        )
        if is_own(_or(asked.model, "")):
            own_function(asked.model or "")
        # The step's length is only known with the data; what is wrong at any is said before these are read.
        runs.neuron_settings(1.0, *asked.neuron_settings())
    precision = precision_of(asked, binning, budget)
    return Training(
        asked,
        settings,
        pruner,
        binning,
        graph,
        budget,
        defaults,
        precision,
        source,
        pruner.description(),
        meter,
    )


def precision_of(asked: TrainRequest, binning: Binning, budget: Budget | None = None) -> Precision | None:
    """The integers that are asked for, of counts as `binning` cuts them; None for floats. Raises InputError or HardwareError."""
    if asked.precision is None:
        for name, value, default in (
            ("weight-bits", asked.weight_bits, None),
            ("timing", asked.timing, "zero_delay"),
            ("scales", asked.scales, "fixed"),
            ("netx", asked.netx, False),
        ):
            if value != default:
                raise InputError(f"--{name}: is for --precision, which says whose integers are trained")
        return None
    if asked.amp is not None:
        raise InputError(
            "--amp: cannot be together with --precision, whose integers need all bits of float32"
        )
    if asked.compact:
        raise InputError(
            "--compact: cannot be together with --precision; finetune a run that was compacted instead"
        )
    if asked.prune_positions is not None:
        raise InputError(
            "--prune-positions: cannot be together with --precision; prune in floats, then finetune the run"
        )
    if budget is not None:
        raise InputError(
            "--precision: cannot be together with a budget; train for the budget, then finetune the run"
        )
    chip = finetuning.chip_of(asked.precision)
    load_chip(chip)
    return Precision(chip, asked.weight_bits, binning.clip, asked.timing, asked.scales, asked.netx)  # type: ignore[arg-type]


def _surrogate(asked: TrainRequest, source: Network | None) -> Surrogate:
    """What is asked for; what is not, as in the network to go on from where that is a run."""
    learned = None if source is None else source.settings.neuron
    name = asked.surrogate or (SURROGATE if learned is None else learned.surrogate)
    if asked.surrogate_slope is not None:
        slope = asked.surrogate_slope
    elif learned is not None and learned.surrogate == name:
        slope = learned.surrogate_slope
    else:
        slope = SURROGATES.get(name, 1.0)
    # Refuses what is not known, in the words of every network.
    settings = NeuronSettings(1.0, 1.0, surrogate=name, surrogate_slope=slope)
    return Surrogate(settings.surrogate, settings.surrogate_slope)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
