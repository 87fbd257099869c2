"""Commands that learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dpap_neuro.cli.shared import DataDir, Device, Dt, Seed, app, progress, say_time_step, stderr, stdout


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")],
    epochs: Annotated[int, typer.Option(help="Epochs of each of the two trainings.")] = 24,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Learn, prune, export, run on a simulated Loihi: the whole road on embedded data.

    Example: dpap-neuro demo --out demo
    """
    from dpap_neuro.demo import run_demo
    from dpap_neuro.report import core_table, demo_table

    with progress() as tell:
        summary = run_demo(out, epochs, seed, device, tell, lambda line: stderr.print(line, highlight=False))
    stdout.print(demo_table(summary))
    for chip in summary["cores_dense"]:
        stdout.print(
            core_table(
                chip, summary["synapses_per_core_dense"][chip], summary["synapses_per_core_pruned"][chip]
            )
        )
    stdout.print(
        f"DPAP's share of a training step: {summary['dpap_overhead']:.1%}. "
        f"All of it took {summary['seconds']:.0f} s. Results in {out}: "
        "dense.nir, pruned.nir, summary.json, demo.png",
        highlight=False,
    )


@app.command()
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the run; made if missing.")],
    dataset: Annotated[str, typer.Option(help="digits or nmnist.")] = "digits",
    data_dir: DataDir = None,
    model: Annotated[
        str, typer.Option(help="cnn, mlp, or a .nir file of a network trained here or elsewhere.")
    ] = "cnn",
    pruner: Annotated[
        str, typer.Option(help="none, dpap, dpap-weighted, magnitude, magnitude-layer, random, set or rigl.")
    ] = "dpap",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the parameters to remove; dpap finds its own without.")
    ] = None,
    keep_bins: Annotated[
        int | None, typer.Option(help="Time steps to keep of each recording; dpap drops the others.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training recordings.")] = 24,
    batch: Annotated[int, typer.Option(help="Recordings per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at the top of its cosine.")] = 3e-3,
    bins: Annotated[
        int | None, typer.Option(help="Time steps per recording (10 where neither is given).")
    ] = None,
    bin_us: Annotated[
        float | None, typer.Option(help="Microseconds per time step, instead of --bins.")
    ] = None,
    clip: Annotated[int | None, typer.Option(help="Event counts above are cut to this.")] = 4,
    readout: Annotated[str, typer.Option(help="spikes or membrane.")] = "spikes",
    decay: Annotated[float, typer.Option(help="Share of the membrane lost in a step, dt / tau.")] = 0.5,
    threshold: Annotated[float, typer.Option(help="Membrane threshold.")] = 0.5,
    surrogate_slope: Annotated[
        float, typer.Option(help="Of the surrogate gradient (SuperSpike's alpha).")
    ] = 10.0,
    dt: Dt = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep a checkpoint in the folder and go on from it.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a network, pruning it on the way; writes weights, history and model.nir.

    A .nir file brings its neurons, its read-out and, where it says so, its binning.

    Example: dpap-neuro train --dataset nmnist --data-dir data --pruner dpap --out runs/first
    """
    from dpap_neuro import runs, training
    from dpap_neuro.data import Binning
    from dpap_neuro.errors import InputError
    from dpap_neuro.evaluation import binning_of
    from dpap_neuro.nir_import import for_data
    from dpap_neuro.pruning import make_pruner
    from hardware.graph import read_graph, time_constants

    def given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name != "DEFAULT"

    chosen = training.choose_device(device)
    settings = training.TrainSettings(epochs=epochs, batch=batch, learning_rate=learning_rate, seed=seed)
    options: dict[str, Any] = {} if sparsity is None else {"sparsity": sparsity}
    if keep_bins is not None:
        options["bins"] = keep_bins
    method = make_pruner(pruner, epochs=epochs, **options)
    graph = None
    if model.endswith(".nir"):
        for name in ("readout", "decay", "threshold", "surrogate_slope"):
            if given(name):
                raise InputError(f"--{name.replace('_', '-')}: {model} has its own; leave it out")
        graph = read_graph(model)
        binning = binning_of(graph.metadata, bins, bin_us)
        if given("clip"):
            binning = replace(binning, clip=clip)
    else:
        if dt is not None:
            raise InputError(f"--dt: is for a .nir file, a new {model} takes the length of its time bins")
        binning = Binning(10 if bins is None and bin_us is None else bins, bin_us, clip)
    with progress() as tell:
        kept = None if graph is None else graph.metadata.get("kept_bins")
        split = runs.load_split(
            dataset, data_dir, binning, lambda what, a, b: tell(f"reading {what}", a, b), kept
        )
        description: Any
        if graph is not None:
            if time_constants(graph):
                say_time_step(graph, dt)
            shape, classes = split.train[0].shape[2:], len(split.opened.classes)
            description = for_data(graph, shape, classes, split.dt, dt)
        else:
            description = runs.model_settings(split, model, readout, decay, threshold, surrogate_slope)
        batches = max(1, len(split.train[1]) // batch)
        stderr.print(method.describe(), highlight=False)
        network, history = runs.train_run(
            split,
            description,
            method,
            settings,
            chosen,
            lambda epoch, done: tell("training", epoch * batches + done, epochs * batches),
            lambda e, _: stderr.print(
                f"epoch {e.epoch + 1}: loss {e.loss:.3f}, test accuracy {e.accuracy:.2%}, "
                f"{e.remaining:,} of {e.parameters:,} parameters",
                highlight=False,
            ),
            checkpoint=out / "checkpoint" if resume else None,
        )
    runs.save_run(out, network.cpu(), history, runs.metadata_of(split))
    stdout.print(f"Written to {out}: model.nir, weights.safetensors, run.json", highlight=False)


@app.command()
def sweep(
    out: Annotated[
        Path, typer.Option(help="Folder for runs.csv, summary.csv and sweep.png; goes on where it stopped.")
    ],
    dataset: Annotated[str, typer.Option(help="Name of the data set.")] = "digits",
    data_dir: DataDir = None,
    model: Annotated[str, typer.Option(help="cnn or mlp.")] = "cnn",
    pruner: Annotated[list[str] | None, typer.Option(help="Give it several times to compare.")] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Share of the parameters to remove; give it several times.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs with seeds 0 to N - 1 (without --folds).")] = 3,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validation over all recordings of the train split, a seed of its own per fold."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training recordings.")] = 24,
    batch: Annotated[int, typer.Option(help="Recordings per step.")] = 64,
    bins: Annotated[int, typer.Option(help="Time steps per recording.")] = 10,
    device: Device = "auto",
) -> None:
    """Compare pruners at equal sparsity: pruners x sparsities x seeds, as a table and a picture.

    Example: dpap-neuro sweep --pruner none --pruner dpap --pruner magnitude --sparsity 0.8 --out sweep
    """
    from dpap_neuro import experiments, runs, training
    from dpap_neuro.data import Binning, open_dataset
    from dpap_neuro.report import sweep_table

    chosen = training.choose_device(device)
    settings = training.TrainSettings(epochs=epochs, batch=batch)
    binning = Binning(bins=bins, clip=4)
    planned = experiments.plan(
        pruner or ["none", "dpap", "dpap-weighted", "magnitude"],
        sparsity or [0.8, 0.95, 0.98],
        range(seeds if folds is None else folds),
    )
    with progress() as tell:
        if folds is None:
            split = runs.load_split(
                dataset, data_dir, binning, lambda what, a, b: tell(f"reading {what}", a, b)
            )
            data_of = lambda _: (split.train, split.test)  # noqa: E731
        else:
            opened = open_dataset(dataset, data_dir, "train")
            data = (opened.rasters(binning, lambda a, b: tell("reading", a, b)), opened.recordings.labels)
            split = runs.Split(opened, data, data, binning)
            data_of = lambda seed: experiments.fold(data, seed, folds)  # noqa: E731
        description = runs.model_settings(split, model, "spikes", decay=0.5, v_th=0.5, slope=10.0)
        rows = experiments.sweep(
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
        )
    experiments.write_table(experiments.summarise(rows), out / "summary.csv")
    experiments.draw(rows, out / "sweep.png")
    stdout.print(sweep_table(experiments.summarise(rows)))
    stdout.print(f"Results in {out}: runs.csv, summary.csv, sweep.png", highlight=False)
