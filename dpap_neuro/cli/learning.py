"""Commands that learn."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpap_neuro.cli.shared import (
    CacheDir,
    DataDir,
    Dataset,
    Device,
    Downsample,
    Dt,
    Seed,
    app,
    cache_folder,
    plain,
    progress,
    say_reset,
    say_time_step,
    speaking,
    stderr,
    stdout,
)
from hardware.chip.chips import BUILT_IN, DEFAULT

if TYPE_CHECKING:
    from hardware.placement.budget import Fill

Model = Annotated[str | None, typer.Option(help="cnn, cnn-wide or mlp; default by data set.")]
Count = Annotated[str, typer.Option(help="What --sparsity is a share of: parameters or synapses.")]
Structured = Annotated[
    bool,
    typer.Option(
        "--structured",
        help="dpap: channels and neurons only, no single synapses; dpap-weighted: channels and neurons first.",
    ),
]
Compact = Annotated[
    bool,
    typer.Option(
        "--compact", help="Cut dead channels and neurons out while training, so that epochs get faster."
    ),
]
Bins = Annotated[int | None, typer.Option(help="Time steps per recording; default by data set.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")],
    epochs: Annotated[int, typer.Option(help="Epochs of each of the two trainings.")] = 24,
    chip: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(BUILT_IN)}, or the TOML file of a chip; loihi1 and loihi2 without."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Learn, prune, export, run on a simulated Loihi: the whole road on embedded data.

    Example: dpap-neuro demo --out demo
    """
    from dpap_neuro.deploy.demo import run_demo
    from dpap_neuro.deploy.report import core_table, demo_table
    from dpap_neuro.errors import InputError
    from dpap_neuro.train import distributed
    from hardware.chip.chips import load_chip

    if distributed.started() > 1:
        raise InputError(
            f"demo: found {distributed.started()} processes, expected one (start it without torchrun)"
        )
    with progress() as tell:
        summary = run_demo(
            out,
            epochs,
            seed,
            device,
            tell,
            lambda line: stderr.print(line, highlight=False),
            None if chip is None else load_chip(chip),
        )
    stdout.print(demo_table(summary))
    for name in summary["cores_dense"]:
        stdout.print(
            core_table(
                plain(name),
                summary["synapses_per_core_dense"][name],
                summary["synapses_per_core_pruned"][name],
            )
        )
    stdout.print(
        f"DPAP's share of a training step: {summary['dpap_overhead']:.0%}. "
        f"All of it took {summary['seconds']:.0f} s. Results in {plain(str(out))}: "
        "dense.nir, pruned.nir, summary.json, demo.png",
        highlight=False,
    )


@app.command()
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the run; made if missing.")],
    dataset: Dataset = "digits",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="cnn, cnn-wide, mlp, or a .nir file of a network trained here or elsewhere; default by data set."
        ),
    ] = None,
    pruner: Annotated[
        str, typer.Option(help="none, dpap, dpap-weighted, magnitude, magnitude-layer, random, set or rigl.")
    ] = "dpap",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the parameters to remove; dpap finds its own without.")
    ] = None,
    count: Count = "parameters",
    structured: Structured = False,
    compact: Compact = False,
    keep_bins: Annotated[
        int | None, typer.Option(help="Time steps to keep of each recording; dpap drops the others.")
    ] = None,
    chip: Annotated[
        str | None,
        typer.Option(help=f"Prune until it fits: {', '.join(BUILT_IN)}, or the TOML file of a chip."),
    ] = None,
    max_cores: Annotated[int | None, typer.Option(help="Cores to fit on; all of one chip without.")] = None,
    max_synapses: Annotated[int | None, typer.Option(help="Synapses to have at most.")] = None,
    max_synapses_per_core: Annotated[
        int | None, typer.Option(help="Synapses that the fullest core may have.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training recordings.")] = 24,
    batch: Annotated[int, typer.Option(help="Recordings per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at the top of its cosine.")] = 3e-3,
    bins: Bins = None,
    bin_us: Annotated[
        float | None, typer.Option(help="Microseconds per time step, instead of --bins.")
    ] = None,
    clip: Annotated[
        int | None, typer.Option(help="Event counts above are cut to this; default by data set.")
    ] = None,
    downsample: Downsample = None,
    shift: Annotated[
        int | None, typer.Option(help="Recordings are moved by up to so many pixels in training.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the recordings in training.")
    ] = None,
    drop: Annotated[
        float | None, typer.Option(help="Up to this share of a recording's events is left out in training.")
    ] = None,
    jitter: Annotated[
        float | None, typer.Option(help="This share of the events moves by one time step in training.")
    ] = None,
    neuron: Annotated[
        str, typer.Option(help="lif, cubalif, if, plif, or relu (the artificial twin, not exported).")
    ] = "lif",
    readout: Annotated[
        str | None, typer.Option(help="spikes or membrane (spikes where not given); mean with --neuron relu.")
    ] = None,
    decay: Annotated[float, typer.Option(help="Share of the membrane lost in a step, dt / tau.")] = 0.5,
    current_decay: Annotated[
        float | None,
        typer.Option(help="cubalif: share of the synaptic current lost in a step, dt / tau_syn."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Membrane threshold.")] = 0.5,
    surrogate_slope: Annotated[
        float, typer.Option(help="Of the surrogate gradient (SuperSpike's alpha).")
    ] = 10.0,
    reset: Annotated[
        str | None,
        typer.Option(
            help="What a spike does to the membrane: zero, or subtract the threshold. Default: the .nir file's, or zero."
        ),
    ] = None,
    dt: Dt = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep a checkpoint in the folder and go on from it.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a network, pruning it on the way; writes weights, history and model.nir.

    A .nir file brings its neurons, its read-out and, where it says so, its binning. With a chip or a limit the pruner
    removes what it must for the network to fit, and no more; exit status 3 where that fails.

    Example: dpap-neuro train --dataset nmnist --data-dir data --pruner dpap --out runs/first

    Example: dpap-neuro train --pruner dpap --chip loihi1 --max-cores 4 --out runs/small

    On several GPUs or machines: torchrun --nproc-per-node 2 -m dpap_neuro.cli train ... (--batch is that of all together)
    """
    from dpap_neuro import data
    from dpap_neuro.deploy import fitting
    from dpap_neuro.deploy.evaluation import binning_of
    from dpap_neuro.errors import InputError
    from dpap_neuro.exchange.nir_import import for_data
    from dpap_neuro.files import check_folder
    from dpap_neuro.pruning import make_pruner
    from dpap_neuro.train import distributed, loop, runs
    from hardware.chip.chips import load_chip
    from hardware.graph.graph import time_constants
    from hardware.graph.parsing import read_graph
    from hardware.placement.budget import Budget

    defaults = data.dataset(dataset).defaults

    def given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name != "DEFAULT"

    def chosen_or_default(value: Any, name: str) -> Any:
        return getattr(defaults, name) if value is None else value

    settings = loop.TrainSettings(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        shift=chosen_or_default(shift, "shift"),
        flip=chosen_or_default(flip, "flip"),
        drop=chosen_or_default(drop, "drop"),
        jitter=chosen_or_default(jitter, "jitter"),
        seed=seed,
        compact=compact,
    )
    budget = None
    if any(limit is not None for limit in (chip, max_cores, max_synapses, max_synapses_per_core)):
        budget = Budget(load_chip(chip or DEFAULT), max_cores, max_synapses, max_synapses_per_core)
    wanted = {
        "sparsity": sparsity,
        "count": None if sparsity is None else count,
        "bins": keep_bins,
        "structured": structured or None,
        "meter": None if budget is None else fitting.BudgetMeter(budget),
    }
    options = {name: value for name, value in wanted.items() if value is not None}
    method = make_pruner(pruner, epochs=epochs, **options)
    graph = None
    if model is not None and model.endswith(".nir"):
        for name in ("neuron", "readout", "decay", "current_decay", "threshold", "surrogate_slope"):
            if given(name):
                raise InputError(f"--{name.replace('_', '-')}: {model} has its own; leave it out")
        graph = read_graph(model)
        binning = binning_of(graph.metadata, bins, bin_us, downsample)
        if given("clip"):
            binning = replace(binning, clip=clip)
    else:
        if dt is not None:
            raise InputError("--dt: is for a .nir file, a new network takes the length of its time bins")
        binning = data.Binning(
            bins if bin_us is not None else chosen_or_default(bins, "bins"),
            bin_us,
            chosen_or_default(clip, "clip"),
            chosen_or_default(downsample, "downsample"),
        )
    check_folder(out)
    with distributed.joined(loop.choose_device(device)) as chosen, speaking(distributed.rank() == 0):
        with progress() as tell:
            split = runs.load_split(
                dataset,
                data_dir,
                binning,
                lambda what, a, b: tell(f"reading {what}", a, b),
                cache_folder(cache_dir),
                None if graph is None else graph.metadata.get("kept_bins"),
            )
            if split.held_out:
                stderr.print(
                    "No recordings for testing: every fifth of each class is held out.", highlight=False
                )
            description: Any
            if graph is not None:
                if time_constants(graph):
                    say_time_step(graph, dt)
                say_reset(graph, reset)
                shape, classes = split.train[0].shape[2:], len(split.opened.classes)
                description = for_data(graph, shape, classes, split.dt, dt, reset)
            else:
                name = chosen_or_default(model, "model")
                description = runs.model_settings(
                    split,
                    name,
                    readout,
                    decay,
                    threshold,
                    surrogate_slope,
                    neuron,
                    current_decay,
                    reset or "zero",
                )
            batches = max(1, len(split.train[1]) // batch)
            stderr.print(plain(method.describe()), highlight=False)
            network, history = runs.train_run(
                split,
                description,
                method,
                settings,
                chosen,
                lambda epoch, done: tell("training", epoch * batches + done, epochs * batches),
                lambda e, report: stderr.print(
                    f"epoch {e.epoch + 1}: loss {e.loss:.3f}, test accuracy {e.accuracy:.2%}, "
                    f"{e.remaining:,} of {e.parameters:,} parameters"
                    + ("" if report.fill is None else plain(f"; {report.fill.text}")),
                    highlight=False,
                ),
                checkpoint=out / "checkpoint" if resume else None,
            )
        if distributed.rank() > 0:
            return
        metadata, network = runs.metadata_of(split), network.cpu()
        if budget is None:
            runs.save_run(out, network, history, metadata)
        else:
            found = fitting.save_fitted(out, network, history, metadata, budget)
        written = "model.nir, " if network.settings.spiking else ""
        stdout.print(plain(f"Written to {out}: {written}weights.safetensors, run.json"), highlight=False)
        if not network.settings.spiking:
            stdout.print("No model.nir: NIR and the chips have no artificial neurons.", highlight=False)
        if budget is not None:
            _say_fit(method.name, found)


def _say_fit(pruner: str, found: Fill) -> None:
    """What model.nir takes of its budget; exit status 3 where that is too much."""
    placement = found.placement
    stdout.print(
        f"model.nir: {placement.synapses:,} synapses on {placement.cores} cores of {plain(found.budget.chip.name)}",
        highlight=False,
    )
    for broken in found.broken:
        stderr.print(plain(f"does not fit: {broken}"), highlight=False)
    if not found.fits:
        stderr.print(
            plain(" ".join([f"{pruner} could not remove enough.", found.explain()])), highlight=False
        )
        raise typer.Exit(3)


@app.command()
def sweep(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for runs.csv, runs.json, summary.csv and sweep.png; goes on where it stopped."
        ),
    ],
    dataset: Dataset = "digits",
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    model: Model = None,
    pruner: Annotated[list[str] | None, typer.Option(help="Give it several times to compare.")] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Share of the parameters to remove; give it several times.")
    ] = None,
    count: Count = "parameters",
    structured: Structured = False,
    compact: Compact = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Runs with seeds 0 to N - 1, or this many of every fold. Default: 3, of a fold 1."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validation over all recordings of the train split, a seed of its own per fold."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training recordings.")] = 24,
    batch: Annotated[int, typer.Option(help="Recordings per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at the top of its cosine.")] = 3e-3,
    readout: Annotated[str, typer.Option(help="spikes or membrane.")] = "spikes",
    keep_bins: Annotated[
        int | None, typer.Option(help="Time steps to keep of each recording; dpap drops the others.")
    ] = None,
    bins: Bins = None,
    downsample: Downsample = None,
    device: Device = "auto",
) -> None:
    """Compare pruners at equal sparsity: pruners x sparsities x seeds, as a table and a picture.

    Example: dpap-neuro sweep --pruner none --pruner dpap --pruner magnitude --sparsity 0.8 --out sweep

    On several GPUs or machines: torchrun --nproc-per-node 2 -m dpap_neuro.cli sweep ... (all train each run together)
    """
    from dpap_neuro import data as sets
    from dpap_neuro.deploy.report import sweep_table
    from dpap_neuro.train import distributed, loop, runs, sweeps

    defaults = sets.dataset(dataset).defaults
    settings = loop.TrainSettings(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        shift=defaults.shift,
        flip=defaults.flip,
        drop=defaults.drop,
        jitter=defaults.jitter,
        compact=compact,
    )
    binning = sets.Binning(
        defaults.bins if bins is None else bins,
        clip=defaults.clip,
        downsample=defaults.downsample if downsample is None else downsample,
    )
    cache = cache_folder(cache_dir)
    planned = sweeps.plan(
        pruner or ["none", "dpap", "dpap-weighted", "magnitude"],
        sparsity or [0.8, 0.95, 0.98],
        range(seeds or 3) if folds is None else range(folds * (seeds or 1)),
    )
    with distributed.joined(loop.choose_device(device)) as chosen, speaking(distributed.rank() == 0):
        with progress() as tell:
            if folds is None:
                split = runs.load_split(
                    dataset, data_dir, binning, lambda what, a, b: tell(f"reading {what}", a, b), cache
                )
                data_of = lambda _: (split.train, split.test)  # noqa: E731
            else:
                opened = sets.open_dataset(dataset, data_dir, "train")
                rasters = opened.rasters(binning, lambda a, b: tell("reading", a, b), cache)
                data = (rasters, opened.recordings.labels)
                split = runs.Split(opened, data, data, binning)
                data_of = lambda seed: sweeps.fold(data, seed % folds, folds)  # noqa: E731
            name = defaults.model if model is None else model
            description = runs.model_settings(split, name, readout, decay=0.5, v_th=0.5, slope=10.0)
            rows = sweeps.sweep(
                out / "runs.csv",
                description,
                data_of,
                planned,
                settings,
                chosen,
                lambda done, total: tell("runs", done, total),
                lambda r: stderr.print(
                    f"{r.pruner} {r.sparsity:.0%} seed {r.seed}: {r.accuracy:.2%}, {r.remaining:,} parameters, "
                    f"{r.synapses_remaining:,} synapses, {r.seconds} s",
                    highlight=False,
                ),
                keep_bins,
                count,
                structured,
                {"dataset": dataset, "folds": folds, **asdict(binning)},
            )
        if distributed.rank() > 0:
            return
    sweeps.write_table(sweeps.summarise(rows), out / "summary.csv")
    sweeps.draw(rows, out / "sweep.png")
    stdout.print(sweep_table(sweeps.summarise(rows)))
    stdout.print(plain(f"Results in {out}: runs.csv, runs.json, summary.csv, sweep.png"), highlight=False)
