"""Commands that learn."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpap_neuro.cli.options import (
    Allocation,
    Batch,
    Bins,
    CacheDir,
    Code,
    Compact,
    Config,
    Count,
    DataDir,
    Dataset,
    Device,
    Downsample,
    Epochs,
    Force,
    KeepBins,
    LearningRate,
    Log,
    Precision,
    RateTarget,
    RateWeight,
    Regrow,
    Score,
    Seed,
    Sensor,
    Structured,
    WeightBits,
    Workers,
    command,
    either,
)
from dpap_neuro.cli.shared import (
    cache_folder,
    command_line,
    interruptible,
    plain,
    progress,
    say,
    say_reset,
    say_time_step,
    speaking,
    stderr,
    stdout,
)
from dpap_neuro.data import dataset as known_dataset
from dpap_neuro.data.parallel import check_workers
from dpap_neuro.deploy.recipes import RECIPES, differing
from dpap_neuro.deploy.request import NEURON, NeuronRequest, TrainRequest, with_network_of
from dpap_neuro.networks import MODELS
from dpap_neuro.pruning import PRUNERS, with_choices
from hardware.chip.chips import BUILT_IN

if TYPE_CHECKING:
    from dpap_neuro.data import Rasters
    from dpap_neuro.pruning import PruneReport
    from dpap_neuro.train.loop import Epoch
    from dpap_neuro.train.sweeps import Row, Shard
    from hardware.placement.budget import Fill


@command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")] = Path("demo"),
    epochs: Annotated[
        int, typer.Option(help="Epochs of each training; the chip's integers get a quarter of them.")
    ] = 24,
    chip: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(BUILT_IN)}, or the TOML file of a chip; loihi1 and loihi2 without."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Learn, prune, export, run on a simulated Loihi: the whole road on embedded data.

    Example: dpap-neuro demo
    """
    from dpap_neuro.deploy import page
    from dpap_neuro.deploy.demo import run_demo
    from dpap_neuro.deploy.report import core_table, demo_table
    from dpap_neuro.errors import InputError
    from dpap_neuro.files import check_new, locked
    from dpap_neuro.train import distributed

    if not force:
        check_new(out, "summary.json", "--force to replace them")
    if distributed.started() > 1:
        raise InputError(
            f"demo: found {distributed.started()} processes, expected one (start it without torchrun)"
        )
    page.check(out / "report.html")
    with locked(out), progress() as tell:
        summary = run_demo(
            out,
            epochs,
            seed,
            device,
            tell,
            lambda line: stderr.print(line, highlight=False),
            chip,
            command_line(),
        )
    stdout.print(demo_table(summary))
    for name in summary["cores_dense"]:
        stdout.print(
            core_table(
                plain(name),
                {network: summary[f"synapses_per_core_{network}"][name] for network in summary["networks"]},
            )
        )
    stdout.print(
        f"DPAP's share of a training step: {summary['dpap_overhead']:.0%}. "
        f"All of it took {summary['seconds']:.0f} s. Results in {plain(str(out))}: "
        f"{', '.join(f'{name}.nir' for name in summary['networks'])}, summary.json, demo.png, report.html",
        highlight=False,
    )


@command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the run; made if missing.")],
    asked: TrainRequest,
    config: Config = None,
    cache_dir: CacheDir = None,
    workers: Workers = None,
    force: Force = False,
    log: Log = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep a checkpoint in the folder and go on from it; refused for a run of other settings or data. --device, the "
            "number of processes and of workers, --cache-dir and --more-epochs may differ.",
        ),
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a spiking network on event-camera recordings, and prune it while it learns.

    Only --out is needed: `dpap-neuro train --out first` learns handwritten digits that come with the package, says after each epoch
    how many it recognises, and leaves the network in first/model.nir for `evaluate`, `cores` and `report`, and all that made it beside (run.json,
    config.toml, history.csv, training.png). Next, your own recordings: --dataset FOLDER, with a folder inside for each class.

    --model FILE.nir goes on with a network from here or elsewhere; its neurons, read-out and, where it says so, binning are the
    file's. With --chip or a limit the pruner removes what it must for the network to fit, and no more; exit status 3 where that fails.

    Example: dpap-neuro train --dataset nmnist --data-dir data --sparsity 0.95 --out runs/first

    Example: dpap-neuro train --chip loihi1 --max-cores 4 --out runs/small

    Example: dpap-neuro train --recipe dpap-cifar10 --data-dir data --out runs/paper

    Example: dpap-neuro train --config runs/first/config.toml --seed 1 --out runs/second

    On several GPUs or machines: torchrun --nproc-per-node 2 -m dpap_neuro.cli train ... (--batch is that of all together)
    """
    _learn(out, asked, cache_dir, resume, device, force, log, workers)


@command(pruner="none", epochs=5, learning_rate=1e-3, precision="loihi")
def finetune(
    source: Annotated[
        Path,
        typer.Argument(help="The folder of a run, or a .nir file of a network trained here or elsewhere."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the run; made if missing.")],
    asked: TrainRequest,
    cache_dir: CacheDir = None,
    workers: Workers = None,
    force: Force = False,
    log: Log = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep a checkpoint in the folder and go on from it, see train.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a float network on with the integers that a chip runs; spikes in training are then spikes on the chip.

    Batch norms are folded first, pruned synapses stay pruned. At the end the trained forward pass is compared with the
    simulator, spike by spike.

    Example: dpap-neuro finetune runs/first --dataset nmnist --data-dir data --weight-bits 4 --out runs/first4
    """
    from dpap_neuro.errors import InputError

    if asked.recipe is not None:
        raise InputError(f"--recipe: is for train; {source} is the network to finetune")
    if asked.model is not None:
        raise InputError(f"--model: {source} is the network to finetune; leave it out")
    if source.suffix != ".nir" and not source.is_dir():
        raise InputError(f"{source}: not found, expected a run folder or a .nir file")
    _learn(out, replace(asked, model=str(source)), cache_dir, resume, device, force, log, workers)


def _learn(
    out: Path,
    asked: TrainRequest,
    cache_dir: Path | None,
    resume: bool,
    device: str,
    force: bool,
    log: str | None,
    workers: int | None,
) -> None:
    known_dataset(asked.dataset, asked.sensor_size)
    from dpap_neuro.deploy import record
    from dpap_neuro.deploy.training import resolve
    from dpap_neuro.errors import InputError
    from dpap_neuro.files import check_folder, check_new, locked
    from dpap_neuro.train import distributed, loop
    from hardware.graph.graph import time_constants

    check_workers(workers)
    training = resolve(asked)
    if asked.more_epochs and not resume:
        raise InputError("--more-epochs: goes with --resume")
    if log not in (None, "tensorboard"):
        raise InputError(f"--log: found {log!r}, expected tensorboard")
    if force and resume:
        raise InputError("--force: begins anew, expected it without --resume, which goes on")
    kept = out / "checkpoint"
    if not force and not (resume and (kept / "checkpoint.json").exists()):
        check_new(out, "run.json", "--force to replace them")
    check_folder(out)
    logged = record.Tensorboard(out) if log else None
    started = record.now()
    going_on = f"the same command goes on behind the last whole epoch, kept in {kept}"
    with (
        interruptible(going_on if resume else "nothing is kept; with --resume every epoch is"),
        distributed.joined(loop.choose_device(device)) as chosen,
        speaking(distributed.rank() == 0),
        locked(out) if distributed.rank() == 0 else nullcontext(),
    ):
        with progress() as tell:
            split = training.load(
                lambda what, a, b: tell(f"reading {what}", a, b), cache_folder(cache_dir), workers
            )
            if split.held_out:
                say("No recordings for testing: every fifth of each class is held out.")
            if training.graph is not None:
                if time_constants(training.graph):
                    say_time_step(training.graph, asked.dt)
                say_reset(training.graph, asked.reset)
                if training.graph.metadata.get("reset_delay") and asked.reset != "zero":
                    say(
                        "the file's resets come one step late (reset_delay): trained are subtractions at once, so that accuracy "
                        "before the first epoch may be lower than the file's"
                    )
            model = training.model(split)
            reason = training.unwritten(model)
            if reason is not None:
                say(f"No model.nir will be written: {reason}")
            _say_recipe(asked)
            say(training.pruner.describe())
            say(record.repeatable(asked.seed, chosen))

            def told(epoch: Epoch, report: PruneReport) -> None:
                say(_epoch(epoch, report))
                if logged is not None and distributed.rank() == 0:
                    logged(epoch)

            network, history = training.run(
                split,
                model,
                chosen,
                lambda done, total: tell("training", done, total),
                told,
                kept if resume else None,
                say,
                workers or 0,
            )
        if distributed.rank() > 0:
            return
        fill = training.save(out, split, network, history, chosen, started, command_line())
        if not resume:
            # That of the run that was replaced: going on from it would be another run.
            shutil.rmtree(kept, ignore_errors=True)
        if logged is not None:
            logged.close()
        written = "model.nir, " if reason is None else ""
        stdout.print(
            plain(
                f"Written to {out}: {written}weights.safetensors, run.json, history.csv, training.png, config.toml"
            ),
            highlight=False,
        )
        if reason is not None:
            stdout.print(plain(f"No model.nir: {reason}"), highlight=False)
        if fill is not None:
            _say_fit(training.pruner.name, fill)
        if training.precision is not None:
            _say_proof(network, split.test[0])


def _say_recipe(asked: TrainRequest) -> None:
    """What a recipe repeats, what its source reports, and what differs."""
    if asked.recipe is None:
        return
    recipe = RECIPES[asked.recipe]
    say(f"recipe {asked.recipe}: {recipe.what}")
    say(f"published: {recipe.published}")
    for line in (*recipe.departures, *differing(asked)):
        say(f"differs: {line}")


def _say_proof(network: Any, rasters: Rasters) -> None:
    """Whether the simulator does on some recordings what the trained forward pass does; exit status 1 where not."""
    from dpap_neuro.deploy.proof import PROVED, prove

    proof = prove(network, [rasters[:PROVED]])
    stdout.print(plain(f"training against the chip's simulator: {proof.lines()[-1]}"), highlight=False)
    if proof.differing:
        raise typer.Exit(1)


def _epoch(epoch: Epoch, report: PruneReport) -> str:
    line = (
        f"epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}, test accuracy {epoch.accuracy:.2%}, "
        f"{epoch.remaining:,} of {epoch.parameters:,} parameters"
    )
    if epoch.rates:
        rates = ", ".join(f"{name} {rate:.3f}" for name, rate in epoch.rates.items())
        line += f"; spikes per neuron and step {rates}"
    return line if report.reading is None else f"{line}; {report.reading.text}"


def _say_fit(pruner: str, found: Fill) -> None:
    """What model.nir takes of its budget; exit status 3 where that is too much."""
    placement = found.placement
    stdout.print(
        f"model.nir: {placement.synapses:,} synapses on {placement.cores} cores of {plain(found.budget.chip.name)}",
        highlight=False,
    )
    if found.charged:
        from dpap_neuro.deploy.fitting import charges

        assumed = found.budget.chip.costs is not None and found.budget.chip.costs.assumed
        stdout.print(
            f"on training recordings: {charges(found)}{' (costs assumed)' if assumed else ''}",
            highlight=False,
        )
    if found.silent:
        say(f"warning: {found.silence()}; it costs next to nothing, and does as much")
    for broken in found.broken:
        say(f"does not fit: {broken}")
    if not found.fits:
        say(" ".join([f"{pruner} could not remove enough.", found.explain()]))
        raise typer.Exit(3)


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
            "weighted:exponent=0.5,regrow=0."
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
        typer.Option(help="Pruner to say the others' paired differences from; paired.csv has all."),
    ] = None,
    epochs: Epochs = 24,
    batch: Batch = 64,
    learning_rate: LearningRate = 3e-3,
    rate_target: RateTarget = 0.0,
    rate_weight: RateWeight = 0.0,
    neurons: NeuronRequest = NeuronRequest(),
    readout: Annotated[
        str | None, typer.Option(help="spikes or membrane.", show_default="by data set, or spikes")
    ] = None,
    keep_bins: KeepBins = None,
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
    part of the same split or folds. With --folds every recording trains in other folds: strictly, choose for each fold by itself.

    Example: dpap-neuro sweep --pruner none --pruner dpap --pruner magnitude --sparsity 0.8 --out sweep

    Example: dpap-neuro sweep --pruner weighted --pruner weighted:regrow=0 --pruner lamp --sparsity 0.98 --out ablation

    On the integers of a chip, 4 bits a weight: --precision loihi --weight-bits 4

    On several GPUs: torchrun --nproc-per-node 2 -m dpap_neuro.cli sweep ... (each process takes whole runs); on a cluster, as many
    jobs as wanted with --shard 1/8 to --shard 8/8 and one --out: the last one puts the tables together.
    """
    size = TrainRequest(sensor=sensor).sensor_size
    defaults = known_dataset(dataset, size).defaults
    from dpap_neuro import data as sets
    from dpap_neuro.deploy.finetuning import new_network
    from dpap_neuro.deploy.training import precision_of
    from dpap_neuro.errors import InputError
    from dpap_neuro.files import locked
    from dpap_neuro.train import distributed, loop, runs, sweeps

    settings = loop.TrainSettings(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        rate_target=rate_target,
        rate_weight=rate_weight,
        shift=defaults.shift,
        flip=defaults.flip,
        drop=defaults.drop,
        jitter=defaults.jitter,
        compact=compact,
    )
    binning = defaults.binning(bins, downsample=downsample, code=code)
    integers = precision_of(
        TrainRequest(precision=precision, weight_bits=weight_bits, compact=compact), binning
    )
    cache = cache_folder(cache_dir)
    choices = {"score": score, "allocation": allocation, "regrow": regrow}
    planned = sweeps.plan(
        [
            name if name == "none" else with_choices(name, **choices)
            for name in pruner or ["none", "dpap", "weighted", "magnitude"]
        ],
        sparsity or [0.8, 0.95, 0.98],
        range(seeds or 3) if folds is None else range(folds * (seeds or 1)),
    )
    names = list(dict.fromkeys(sweeps.label(name, structured) for name, _, _ in planned))
    if against is not None and against not in names:
        raise InputError(
            f"against: found {against!r}, expected one of the pruners compared: {', '.join(names)}"
        )
    own = _shard(shard)
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
                data_of = lambda _: (split.train, split.test)  # noqa: E731
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
                split = runs.Split(opened, data, data, binning)
                data_of = lambda seed: sweeps.fold(data, seed % folds, folds)  # noqa: E731
                tested = (
                    f"held out: of the {len(data[1])} recordings of the train split one in {folds} of each class, beginning with "
                    f"number (seed modulo {folds})"
                )
            if inner:
                data_of = sweeps.inner(data_of, folds)
                tested = (
                    f"settings are chosen: of each run's training recordings one in {sweeps.INNER} of each class is held out and tested, "
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
        if own is None:
            return _tell_sweep(out, dataset, rows, folds, against)
    waiting = sweeps.missing(out, planned, structured)
    if waiting:
        say(f"Shard {own} is done; {waiting} of {len(planned)} runs are not done yet.")
        return
    with locked(out):
        rows = do(out / "runs.csv", planned=planned, others=sweeps.shard_tables(out), progress=None)
        _tell_sweep(out, dataset, rows, folds, against)


def _shard(text: str | None) -> Shard | None:
    """The part of a sweep that is this process's: as --shard says or, of processes that torchrun started, one each."""
    from dpap_neuro.errors import InputError
    from dpap_neuro.train import distributed
    from dpap_neuro.train.sweeps import Shard

    if distributed.started() < 2:
        return None if text is None else Shard.parse(text)
    if text is not None:
        raise InputError(f"--shard: found {distributed.started()} processes of torchrun, expected one")
    return Shard(distributed.own_number() + 1, distributed.started())


def _tell_sweep(out: Path, dataset: str, rows: Sequence[Row], folds: int | None, against: str | None) -> None:
    """The summary of a sweep that is whole: its files and its table."""
    from dpap_neuro.deploy.report import paired_table, sweep_table
    from dpap_neuro.train import paired, sweeps

    sweeps.write_table(sweeps.summarise(rows), out / "summary.csv")
    sweeps.draw(rows, out / "sweep.png", Path(dataset).name, "seeds" if folds is None else "folds")
    stdout.print(sweep_table(sweeps.summarise(rows)))
    files = ["runs.csv", "runs.json", "summary.csv", "sweep.png"]
    found = paired.differences(rows, folds)
    if found:
        sweeps.write_table(found, out / "paired.csv")
        files.insert(3, "paired.csv")
    if against is not None:
        stdout.print(paired_table(paired.against(found, against), against, folds))
    stdout.print(plain(f"Results in {out}: {', '.join(files)}"), highlight=False)
