"""The command that compares pruners."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpap_neuro.cli.options import (
    USUAL_RATE,
    Allocation,
    Batch,
    Bins,
    CacheDir,
    Code,
    Compact,
    Count,
    DataDir,
    Dataset,
    Device,
    Downsample,
    Epochs,
    Force,
    KeepBins,
    Precision,
    PrunePositions,
    RateTarget,
    RateWeight,
    Regrow,
    Score,
    Sensor,
    Structured,
    WeightBits,
    Workers,
    command,
    either,
)
from dpap_neuro.cli.shared import (
    cache_folder,
    interruptible,
    plain,
    progress,
    say,
    speaking,
    stderr,
    stdout,
)
from dpap_neuro.data import dataset as known_dataset
from dpap_neuro.data.parallel import check_workers
from dpap_neuro.deploy.request import NEURON, NeuronRequest, TrainRequest, with_network_of
from dpap_neuro.networks import MODELS
from dpap_neuro.pruning import PRUNERS, with_choices

if TYPE_CHECKING:
    from dpap_neuro.train.planned import Planned, Shard
    from dpap_neuro.train.runs import Split
    from dpap_neuro.train.sweeps import Row


@command()
def sweep(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for runs.csv, runs.json, summary.csv, paired.csv and sweep.png; goes on where it stopped."
        ),
    ],
    dataset: Dataset = "digits",
    data_dir: DataDir = None,
    sensor: Sensor = None,
    cache_dir: CacheDir = None,
    model: Annotated[
        str | None, typer.Option(help=f"{', '.join(MODELS)} or FILE.py:function; default by data set.")
    ] = None,
    pruner: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{either(*PRUNERS)}; give it several times to compare. Options of its own behind a colon, such as "
            "weighted:exponent=0.5,regrow=0, or a learning rate of its own: lamp:learning_rate=0.004, which `none` takes, too."
        ),
    ] = None,
    score: Score = None,
    allocation: Allocation = None,
    regrow: Regrow = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Share of the parameters to remove; give it several times.")
    ] = None,
    count: Count = None,
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
    inner: Annotated[
        bool,
        typer.Option(
            "--inner",
            help="Test on a fifth of each run's training recordings, to choose settings by: those that are reported stay unseen.",
        ),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Pruner to say the others' paired differences from; its settings can be left out. paired.csv has all."
        ),
    ] = None,
    epochs: Epochs = 24,
    batch: Batch = 64,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(
            help="AdamW's, at the top of its cosine. Give it several times to run every pruner at each.",
            show_default=USUAL_RATE,
        ),
    ] = None,
    rate_target: RateTarget = 0.0,
    rate_weight: RateWeight = 0.0,
    neurons: NeuronRequest = NeuronRequest(),
    readout: Annotated[
        str | None, typer.Option(help="spikes or membrane.", show_default="by data set, or spikes")
    ] = None,
    keep_bins: KeepBins = None,
    prune_positions: PrunePositions = None,
    bins: Bins = None,
    code: Code = None,
    downsample: Downsample = None,
    precision: Precision = None,
    weight_bits: WeightBits = None,
    shard: Annotated[
        str | None, typer.Option(help="Only the second of eight parts: 2/8. Parts may run at once.")
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Compare pruners at equal sparsity: pruners x sparsities x seeds, as a table and a picture.

    Settings are to be chosen on other recordings than those that are reported: --inner tests on recordings held out of the training
    part of the same split or folds; the learning rate of each pruner is one of them. With --folds every recording trains in other
    folds: strictly, choose for each fold by itself.

    Example: dpap-neuro sweep --pruner none --pruner dpap --pruner magnitude --sparsity 0.8 --out sweep

    Example: dpap-neuro sweep --pruner weighted --pruner weighted:regrow=0 --pruner lamp --sparsity 0.98 --out ablation

    A learning rate for each: dpap-neuro sweep --inner --pruner weighted --pruner lamp --learning-rate 0.002 --learning-rate 0.008 --out
    rates, then --pruner weighted:learning_rate=0.008 --pruner lamp:learning_rate=0.002 without --inner.

    On the integers of a chip, 4 bits a weight: --precision loihi --weight-bits 4

    On several GPUs: torchrun --nproc-per-node 2 -m dpap_neuro.cli sweep ... (each process takes whole runs); on a cluster, as many
    jobs as wanted with --shard 1/8 to --shard 8/8 and one --out: the last one puts the tables together.
    """
    size = TrainRequest(sensor=sensor).sensor_size
    defaults = known_dataset(dataset, size).defaults
    from dpap_neuro import data as sets
    from dpap_neuro.deploy.finetuning import new_network
    from dpap_neuro.deploy.training import precision_of
    from dpap_neuro.errors import CannotLearn, InputError, InUse
    from dpap_neuro.files import locked
    from dpap_neuro.train import distributed, loop, runs, sweeps
    from dpap_neuro.train.planned import at_rates, is_dense, label, labelled, plan

    rates = learning_rate or [defaults.learning_rate]
    settings = loop.TrainSettings(
        epochs=epochs,
        batch=batch,
        learning_rate=rates[0],
        rate_target=rate_target,
        rate_weight=rate_weight,
        shift=defaults.shift,
        flip=defaults.flip,
        drop=defaults.drop,
        jitter=defaults.jitter,
        compact=compact,
        prune_positions=prune_positions,
    )
    binning = defaults.binning(bins, downsample=downsample, code=code)
    integers = precision_of(
        TrainRequest(
            precision=precision, weight_bits=weight_bits, compact=compact, prune_positions=prune_positions
        ),
        binning,
    )
    cache = cache_folder(cache_dir)
    choices = {"score": score, "allocation": allocation, "regrow": regrow}
    planned = plan(
        [
            run
            for name in pruner or ["none", "dpap", "weighted", "magnitude"]
            for run in at_rates(name if is_dense(name) else with_choices(name, **choices), rates)
        ],
        sparsity or [0.8, 0.95, 0.98],
        range(seeds or 3) if folds is None else range(folds * (seeds or 1)),
    )
    names = list(dict.fromkeys(label(name, structured) for name, _, _ in planned))
    if against is not None:
        against = _compared(against, names)
    own = _shard(shard)
    failed: dict[Planned, str] = {}

    def on_failed(run: Planned, error: CannotLearn) -> None:
        failed[run] = f"{run[0]} {100 * run[1]:.6g}% seed {run[2]} ({error})"
        stderr.print(f"left out: {failed[run]}", highlight=False, markup=False)

    def put_together() -> dict[Planned, str] | None:
        """Make one table of those of all shards; which runs are in none. None where another shard does it, or has while this one ran."""
        try:
            with locked(out):
                if sweeps.is_together(out, planned, structured) and not together:
                    return None
                gone = sweeps.left_out(out)
                gone = {run: gone[run] for p in planned if (run := labelled(p, structured)) in gone}
                able = [run for run in planned if labelled(run, structured) not in gone]
                rows = do(out / "runs.csv", planned=able, others=sweeps.shard_tables(out), progress=None)
                if rows:
                    _tell_sweep(out, dataset, rows, folds, against)
                return gone
        except InUse:
            # Of shards that end at the same time, each finds all runs done.
            return None

    check_workers(workers)
    if force and own is not None:
        raise InputError("--force: begins anew, expected one process and no --shard")
    chosen = distributed.own_device(loop.choose_device(device))
    # Of several processes under torchrun the first one speaks for all.
    with (
        interruptible("the same command goes on with the runs that are missing"),
        speaking(shard is not None or own is None or own.number == 1),
        locked(out if own is None else own.folder(out)) as folder,
    ):
        if force:
            sweeps.remove(out)
        together = sweeps.is_together(out, planned, structured)
        with progress() as tell:
            if folds is None:
                split = runs.load_split(
                    dataset,
                    data_dir,
                    binning,
                    lambda what, a, b: tell(f"reading {what}", a, b),
                    cache,
                    size,
                    workers,
                )
                trained, number = len(split.train[1]), len(split.test[1])
                tested = (
                    f"no recordings for testing: every fifth of each class is held out, {number} of {trained + number}"
                    if split.held_out
                    else f"tested on the {number} recordings of the test split, trained on the {trained} of the train split"
                )
            else:
                opened = sets.open_dataset(dataset, data_dir, "train", size)
                rasters = opened.stored(binning, cache, lambda a, b: tell("reading", a, b), workers)
                data = (rasters, opened.recordings.labels)
                split = runs.Split(opened, data, data, binning, groups=sets.groups_of(opened.recordings))
                tested = (
                    f"held out: of the {len(data[1])} recordings of the train split one in {folds} of each class, beginning with "
                    f"number (seed modulo {folds}){_unparted(split)}"
                )
            data_of = sweeps.rounds(split.train, split.test, folds, split.groups, inner)
            if inner:
                tested = (
                    f"settings are chosen: of each run's training recordings one in {sweeps.INNER} of each class is held out and tested{_unparted(split)}, "
                    f"and those that a sweep without --inner tests are not looked at (there: {tested})"
                )
            say(f"{tested[0].upper()}{tested[1:]}.")
            name = defaults.model if model is None else model
            ours = with_network_of(neurons, model, defaults.network)
            if readout is None and ours is not neurons:
                readout = defaults.network.get("readout")
            description = runs.model_settings(
                split, name, readout or "spikes", *ours.neuron_settings(), cell=ours.neuron or NEURON
            )
            do = functools.partial(
                sweeps.sweep,
                model=description,
                data_of=data_of,
                settings=settings,
                device=chosen,
                progress=lambda done, total: tell("runs", done, total),
                on_run=lambda r: stderr.print(
                    f"{r.pruner} {r.sparsity:.0%} seed {r.seed}: {r.accuracy:.2%}, {r.remaining:,} parameters, "
                    f"{r.synapses_remaining:,} synapses, {r.events:,.0f} synaptic events per recording, {r.seconds} s",
                    highlight=False,
                ),
                on_failed=on_failed,
                keep_bins=keep_bins,
                count=count or "parameters",
                structured=structured,
                origin={
                    "dataset": dataset,
                    "folds": folds,
                    "tested": tested,
                    "precision": None if integers is None else asdict(integers),
                    **binning.to_dict(),
                },
                network_of=None
                if integers is None
                else lambda seed, train: new_network(
                    description, integers, replace(split, train=train), seed, batch
                ),
            )
            tables = sweeps.shard_tables(out) if own is None else [out / "runs.csv"]
            part = planned if own is None else own.part(planned)
            rows = do(folder / "runs.csv", planned=part, others=tables)
        sweeps.write_left_out(folder, failed)
        if own is None and rows:
            _tell_sweep(out, dataset, rows, folds, against)
    if own is not None:
        waiting = sweeps.missing(out, planned, structured)
        if waiting:
            say(f"Shard {own} is done; {waiting} of {len(planned)} runs are not done yet.")
        elif (gone := put_together()) is None:
            say(f"Shard {own} is done; another one puts the tables together.")
        else:
            part, failed = planned, gone
    if failed:
        raise InputError(
            f"{len(failed)} of {len(part)} runs could not be done and are in no table: {'; '.join(failed.values())}"
        )


def _shard(text: str | None) -> Shard | None:
    """The part of a sweep that is this process's: as --shard says or, of processes that torchrun started, one each."""
    from dpap_neuro.errors import InputError
    from dpap_neuro.train import distributed
    from dpap_neuro.train.planned import Shard

    if distributed.started() < 2:
        return None if text is None else Shard.parse(text)
    if text is not None:
        raise InputError(f"--shard: found {distributed.started()} processes of torchrun, expected one")
    return Shard(distributed.own_number() + 1, distributed.started())


def _unparted(split: Split) -> str:
    """What is said of recordings that are kept together."""
    return "" if split.groups is None else ", all of a person or a figure together"


def _compared(asked: str, names: Sequence[str]) -> str:
    """The pruner that `--against` asks for: by all of its name, or without its settings where only one is called so."""
    from dpap_neuro.errors import InputError

    alike = [name for name in names if name == asked] or [
        name for name in names if name.partition(":")[0] == asked
    ]
    if len(alike) != 1:
        found = f"{asked!r}, which are {len(alike)} of them" if alike else repr(asked)
        raise InputError(f"against: found {found}, expected one of the pruners compared: {', '.join(names)}")
    return alike[0]


def _tell_sweep(out: Path, dataset: str, rows: Sequence[Row], folds: int | None, against: str | None) -> None:
    """The summary of a sweep that is whole: its files and its table."""
    from dpap_neuro.deploy.report import paired_table, sweep_table
    from dpap_neuro.train import paired, sweeps
    from dpap_neuro.train.sweep_picture import draw

    sweeps.write_table(sweeps.summarise(rows), out / "summary.csv")
    # Several seeds of a fold are no folds.
    unit = "seeds" if folds is None else "folds" if max(row.seed for row in rows) < folds else "runs"
    draw(rows, out / "sweep.png", Path(dataset).name, unit)
    stdout.print(sweep_table(sweeps.summarise(rows)))
    found = paired.differences(rows, folds)
    if found:
        sweeps.write_table(found, out / "paired.csv")
    # An older table has no runs.json.
    files = [
        name
        for name in ("runs.csv", "runs.json", "summary.csv", "paired.csv", "sweep.png")
        if (out / name).exists()
    ]
    if against is not None:
        stdout.print(paired_table(paired.against(found, against), against, folds))
    stdout.print(plain(f"Results in {out}: {', '.join(files)}"), highlight=False)
