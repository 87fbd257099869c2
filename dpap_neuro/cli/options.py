"""Options that several commands share. A dataclass of the library stands for a group of options: each option is declared
once, and what the command gets is the dataclass. Names of data sets, pruners and the like come from their registries."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dpap_neuro.cli.panels import in_order, panel_of, unbroken
from dpap_neuro.cli.shared import app, cache_folder, collecting
from dpap_neuro.data import DATASETS, SPLITS, Defaults
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.recipes import RECIPES, with_recipe
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.deploy.request import (
    DECAY,
    NEURON,
    OF_UNITS,
    PRUNER,
    RESET,
    SPARSITY,
    SURROGATE,
    THRESHOLD,
    NeuronRequest,
    TrainRequest,
    read_config,
)
from dpap_neuro.networks import CELLS, MODELS, RELU, SURROGATES
from dpap_neuro.pruning import PRUNERS
from dpap_neuro.train.settings import AMP, LOSSES
from hardware.chip.chips import BUILT_IN


def either(*names: str) -> str:
    """Names as a sentence has them."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


Model = Annotated[Path, typer.Argument(help="A .nir file, or a .net or .h5 file of `dpap-neuro compile`.")]
Chip = Annotated[str, typer.Option(help=f"{', '.join(BUILT_IN)}, or the TOML file of a chip.")]
Dt = Annotated[float | None, typer.Option(help="Seconds per step, for a .nir file that does not say.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Dataset = Annotated[str, typer.Option(help=f"{', '.join(DATASETS)}, or a folder of recordings.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the data set, in tonic's layout.")]
Sensor = Annotated[
    str | None, typer.Option(help="Columns x rows of a folder that does not say, such as 346x260.")
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        envvar="DPAP_NEURO_CACHE",
        help="Folder for recordings turned into counts; may be deleted. Default: the user's cache folder.",
    ),
]
Downsample = Annotated[int | None, typer.Option(help="Pixels per side that become one.")]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable on one machine.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that turn recordings into counts, and read batches ahead. Default: one per core, and none."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the results that the folder holds.")]
Log = Annotated[
    str | None, typer.Option(help="tensorboard: every epoch's numbers in the folder's tensorboard, too.")
]


def _configured(context: typer.Context, file: Path | None) -> Path | None:
    """The file's values as defaults, so that the command line goes over it."""
    if file is not None:
        values = read_config(file, ("cache_dir", "device", "workers"))
        context.default_map = {**(context.default_map or {}), **values}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_configured,
        is_eager=True,
        help="A TOML file of these options, as every run has one (config.toml); what the command line says goes before it.",
    ),
]
Budgets = Annotated[int | None, typer.Option(help="Budget; exit status 3 where it does not suffice.")]
LavaPython = Annotated[
    str | None, typer.Option(help="A Python 3.10 with lava-nc 0.10.0, where this one has none.")
]
Sparsity = Annotated[
    float | None, typer.Option(help="Share of the parameters to remove; dpap finds its own without.")
]
Count = Annotated[
    str | None,
    typer.Option(
        help="What --sparsity is a share of, and what is counted on the way to a budget: parameters, synapses, or events (a weight "
        "then pays for its connections times its source's measured rate).",
        show_default="parameters; of a budget events where it limits them, energy or time, else synapses",
    ),
]
Structured = Annotated[
    bool,
    typer.Option(
        "--structured",
        help="dpap: channels and neurons only, no single synapses; weighted: channels and neurons first.",
    ),
]
Compact = Annotated[
    bool,
    typer.Option(
        "--compact", help="Cut dead channels and neurons out while training, so that epochs get faster."
    ),
]
KeepBins = Annotated[
    int | None,
    typer.Option(help="Time steps to keep of each recording; the pruner drops the others as it goes."),
]
PrunePositions = Annotated[
    str | None,
    typer.Option(
        help="Single neurons of feature maps that go, too: silent (those that never spike on the training recordings), or a share of them such "
        "as 0.5, those that spike least; each is a compartment of the chip."
    ),
]
Epochs = Annotated[int, typer.Option(help="Passes over the training recordings.")]
Batch = Annotated[int, typer.Option(help="Recordings per step.")]
USUAL_RATE = f"by data set, {Defaults.learning_rate:g} of most"
LearningRate = Annotated[
    float | None, typer.Option(help="AdamW's, at the top of its cosine.", show_default=USUAL_RATE)
]
RateTarget = Annotated[
    float,
    typer.Option(help="Spikes per neuron and step that a layer may have for free, see --rate-weight."),
]
RateWeight = Annotated[
    float,
    typer.Option(
        help="What a spike per neuron and step above --rate-target adds to the loss of a recording, layer by layer."
    ),
]
Bins = Annotated[int | None, typer.Option(help="Time steps per recording; default by data set.")]
Pruner = Annotated[
    str | None,
    typer.Option(
        help=f"{either(*PRUNERS)}; options of its own behind a colon, such as weighted:exponent=0.5,regrow=0.",
        show_default=f"{PRUNER}, to {SPARSITY:.0%} of the parameters removed where no goal is given; {OF_UNITS} with a budget of cores or synapses",
    ),
]
Score = Annotated[
    str | None,
    typer.Option(
        help="How important a weight is, of magnitude and its like: magnitude, taylor, fisher, weighted, wanda, spikefit or random."
    ),
]
Allocation = Annotated[
    str | None,
    typer.Option(help="How many weights each layer keeps, of the same: global, layer, erk or lamp."),
]
Regrow = Annotated[
    str | None,
    typer.Option(help="What returns, of the same: none, gradient or random; weighted: the share that does."),
]

Clock = Annotated[
    str | None,
    typer.Option(
        help="Time begins with the first-event, or with the recording at 0; default by file or data set."
    ),
]
Code = Annotated[
    str | None,
    typer.Option(
        help="How still images become counts: constant (brightest pixel 255, or N of constant:N), rate (rate:SEED) or latency.",
        show_default="by file or data set",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help=f"Train the integers of a chip: loihi (Loihi 2), {', '.join(BUILT_IN)}, or the TOML file of one."
    ),
]
WeightBits = Annotated[
    int | None, typer.Option(help="--precision: bits of a weight; as wide as the chip stores them without.")
]
_RECORDINGS = {
    "dataset": Annotated[
        str | None,
        typer.Option(help=f"Recordings to show: {', '.join(DATASETS)}, or a folder of recordings."),
    ],
    "data_dir": DataDir,
    "split": Annotated[str, typer.Option(help=f"{either(*SPLITS)}.")],
    "bins": Annotated[int | None, typer.Option(help="Time steps per recording.")],
    "bin_us": Annotated[float | None, typer.Option(help="Microseconds per time step.")],
    "clock": Clock,
    "code": Code,
    "clip": Annotated[int | None, typer.Option(help="Counts above are cut to it.")],
    "polarity": Annotated[
        str | None,
        typer.Option(
            help="Which count of a pixel comes first in the network's input: off-on, as here, or on-off."
        ),
    ],
    "scale": Annotated[
        float | None,
        typer.Option(help="Every count times this, for a network that was trained so; in floats only."),
    ],
    "downsample": Downsample,
    "limit": Annotated[int | None, typer.Option(help="Only so many recordings, spread evenly.")],
    "cache_dir": CacheDir,
    "sensor": Sensor,
    "file": Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="Instead of a data set: an .npz file of `input` (counts, recordings x steps x shape) and `labels`, or an .npy "
            "file of counts.",
        ),
    ],
}
_TRAINING = {
    "recipe": Annotated[
        str | None,
        typer.Option(
            help=f"An experiment of the literature, {either(*RECIPES)}; options beside it go before it."
        ),
    ],
    "dataset": Dataset,
    "data_dir": DataDir,
    "sensor": Sensor,
    "model": Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(MODELS)}, a .nir file of a network trained here or elsewhere, or FILE.py:function, which makes your own; default by data set."
        ),
    ],
    "pruner": Pruner,
    "score": Score,
    "allocation": Allocation,
    "regrow": Regrow,
    "sparsity": Sparsity,
    "count": Count,
    "structured": Structured,
    "compact": Compact,
    "keep_bins": KeepBins,
    "prune_positions": PrunePositions,
    "chip": Annotated[
        str | None,
        typer.Option(help=f"Prune until it fits: {', '.join(BUILT_IN)}, or the TOML file of a chip."),
    ],
    "max_cores": Annotated[int | None, typer.Option(help="Cores to fit on; all of one chip without.")],
    "max_synapses": Annotated[int | None, typer.Option(help="Synapses to have at most.")],
    "max_synapses_per_core": Annotated[
        int | None, typer.Option(help="Synapses that the fullest core may have.")
    ],
    "max_step_us": Annotated[
        float | None,
        typer.Option(help="Microseconds that a mean step may take on the chip (slowest core and barrier)."),
    ],
    "max_energy_uj": Annotated[
        float | None, typer.Option(help="Microjoules that the chip may be charged for a recording.")
    ],
    "max_events": Annotated[float | None, typer.Option(help="Synaptic events that a recording may make.")],
    "epochs": Epochs,
    "more_epochs": Annotated[
        int, typer.Option(help="Passes to add to a run of so many epochs that --resume goes on from.")
    ],
    "batch": Batch,
    "learning_rate": LearningRate,
    "loss": Annotated[
        str,
        typer.Option(help=f"{either(*LOSSES)} (of the read-out's mean over steps, from 1 for the class)."),
    ],
    "label_smoothing": Annotated[float, typer.Option(help="Of cross-entropy.")],
    "weight_decay": Annotated[float, typer.Option(help="AdamW's.")],
    "warmup": Annotated[float, typer.Option(help="Epochs in which the learning rate rises.")],
    "amp": Annotated[
        str | None,
        typer.Option(help=f"Synapses compute in {either(*AMP)}; membranes, weights and masks do not."),
    ],
    "accumulate": Annotated[
        int, typer.Option(help="Parts that a batch runs in, one after the other, for less memory.")
    ],
    "rate_target": RateTarget,
    "rate_weight": RateWeight,
    "bins": Bins,
    "bin_us": Annotated[float | None, typer.Option(help="Microseconds per time step, instead of --bins.")],
    "clock": Clock,
    "code": Code,
    "clip": Annotated[
        int | None, typer.Option(help="Event counts above are cut to this; default by data set.")
    ],
    "downsample": Downsample,
    "shift": Annotated[
        int | None, typer.Option(help="Recordings are moved by up to so many pixels in training.")
    ],
    "flip": Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the recordings in training.")
    ],
    "drop": Annotated[
        float | None, typer.Option(help="Up to this share of a recording's events is left out in training.")
    ],
    "jitter": Annotated[
        float | None, typer.Option(help="This share of the events moves by one time step in training.")
    ],
    "neuron": Annotated[
        str | None,
        typer.Option(
            help=f"{either(*CELLS)} ({RELU}: the artificial twin, not exported).", show_default=NEURON
        ),
    ],
    "readout": Annotated[
        str | None,
        typer.Option(
            help=f"spikes or membrane (spikes where not given); mean with --neuron {RELU}.",
        ),
    ],
    "decay": Annotated[
        float | None,
        typer.Option(help="Share of the membrane lost in a step, dt / tau.", show_default=str(DECAY)),
    ],
    "current_decay": Annotated[
        float | None,
        typer.Option(help="cubalif: share of the synaptic current lost in a step, dt / tau_syn."),
    ],
    "threshold": Annotated[
        float | None, typer.Option(help="Membrane threshold.", show_default=str(THRESHOLD))
    ],
    "surrogate": Annotated[
        str | None,
        typer.Option(
            help=f"What stands in for a spike's derivative: {either(*SURROGATES)}.", show_default=SURROGATE
        ),
    ],
    "surrogate_slope": Annotated[
        float | None,
        typer.Option(
            help="How steep that is around the threshold.",
            show_default=", ".join(f"{slope:g} of {name}" for name, slope in SURROGATES.items()),
        ),
    ],
    "reset": Annotated[
        str | None,
        typer.Option(
            help="What a spike does to the membrane: zero, or subtract the threshold.",
            show_default=f"the .nir file's, or {RESET}",
        ),
    ],
    "dt": Dt,
    "seed": Seed,
    "precision": Precision,
    "weight_bits": WeightBits,
    "timing": Annotated[
        str, typer.Option(help="--precision: zero_delay, or chip, where every projection takes a step.")
    ],
    "scales": Annotated[
        str, typer.Option(help="--precision: fixed within an epoch, or learned (their log2, as LSQ does).")
    ],
    "netx": Annotated[
        bool,
        typer.Option(
            "--netx", help="--precision: only what a .net file can hold, which has no weight exponents."
        ),
    ],
}
_COMPILING = {
    "chip": Chip,
    "weight_bits": Annotated[
        int | None, typer.Option(help="Bits of a weight; as wide as the chip stores them without.")
    ],
    "dt": Dt,
    "reset": Annotated[
        str | None,
        typer.Option(
            help="What a spike does to the membrane, for a .nir file that does not say: zero, or subtract the threshold."
        ),
    ],
    "pairs": Annotated[
        str,
        typer.Option(
            help="Weights as two synapses of different exponents: all, none, source->target, ..., or auto: where recordings "
            "say that it pays."
        ),
    ],
}


# What typer calls the sources of options that the user gave, those of a --config file too.
_TYPED = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")


def _train_request(said: frozenset[str], **values: Any) -> TrainRequest:
    """said: options that were typed, which go before those of a recipe."""
    recipe = values.pop("recipe")
    return (
        TrainRequest(**values)
        if recipe is None
        else with_recipe(recipe, {k: values[k] for k in said & set(values)})
    )


def _recordings(**values: Any) -> Recordings:
    found = Recordings(**values)
    return found if found.dataset is None else replace(found, cache_dir=cache_folder(values["cache_dir"]))


@dataclass(frozen=True)
class _Group:
    """A dataclass as options: of each field the option, and what makes the dataclass of their values. named: options without
    all of which nothing is said. told: whether `make` takes the names of options that were typed first."""

    options: Mapping[str, Any]
    make: Callable[..., Any]
    named: tuple[str, ...] = ()
    told: bool = False


_GROUPS = {
    Recordings: _Group(_RECORDINGS, _recordings, ("dataset", "file")),
    TrainRequest: _Group(_TRAINING, _train_request, told=True),
    NeuronRequest: _Group({f.name: _TRAINING[f.name] for f in fields(NeuronRequest)}, NeuronRequest),
    CompileOptions: _Group(_COMPILING, CompileOptions),
}


def command(name: str | None = None, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command. A parameter that is a dataclass of `_GROUPS` becomes an option per field; one that may be None is
    None where nothing is said. defaults: of those options, where they are not the dataclass's own."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        flat = [context]
        groups: dict[str, tuple[_Group, bool]] = {}
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            kinds = [kind for kind in _kinds(parameter.annotation) if kind in _GROUPS]
            if not kinds:
                flat.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
                continue
            group = _GROUPS[kinds[0]]
            groups[parameter.name] = group, kinds[0] is not parameter.annotation
            own = {f.name: f.default for f in fields(kinds[0]) if f.default is not MISSING}
            flat += [
                inspect.Parameter(
                    option,
                    parameter.KEYWORD_ONLY,
                    default={**own, **defaults}[option],
                    annotation=_with(annotation, show_default=True) if option in defaults else annotation,
                )
                for option, annotation in group.options.items()
            ]

        @functools.wraps(function)
        def run(context: typer.Context, **given: Any) -> None:
            collecting()
            for name_, (group, optional) in groups.items():
                values = {option: given.pop(option) for option in group.options}
                unsaid = optional and all(values[option] is None for option in group.named)
                first = (_typed(context, group.options),) if group.told else ()
                given[name_] = None if unsaid else group.make(*first, **values)
            function(**given)

        del run.__wrapped__  # type: ignore[attr-defined]
        options = [_in_panel(parameter) for parameter in in_order(flat)]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in options}
        app.command(name, help=unbroken(function.__doc__))(run)
        return run

    return register


def _typed(context: typer.Context, options: Iterable[str]) -> frozenset[str]:
    """Which of a command's options were typed, or come from the environment."""
    sources = {option: context.get_parameter_source(option) for option in options}
    return frozenset(o for o, source in sources.items() if source is not None and source.name in _TYPED)


def _in_panel(parameter: inspect.Parameter) -> inspect.Parameter:
    """An option with the panel of --help that it belongs to; arguments, and what must be given, stand above all panels."""
    if typing.get_origin(parameter.annotation) is not Annotated:
        return parameter
    _, info = typing.get_args(parameter.annotation)
    if not isinstance(info, typer.models.OptionInfo) or parameter.default is parameter.empty:
        return parameter
    return parameter.replace(annotation=_with(parameter.annotation, rich_help_panel=panel_of(parameter.name)))


def _with(annotation: Any, **changed: Any) -> Any:
    """An option's annotation with other words in its help."""
    kind, info = typing.get_args(annotation)
    info = copy.copy(info)
    for name, value in changed.items():
        setattr(info, name, value)
    return Annotated[kind, info]


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """A type, or the types of `A | None`."""
    return typing.get_args(annotation) if typing.get_origin(annotation) is not None else (annotation,)
