"""Commands that learn."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpap_neuro.cli.options import (
    CacheDir,
    Config,
    Device,
    Force,
    Log,
    Seed,
    Workers,
    command,
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
from dpap_neuro.deploy.request import TrainRequest
from hardware.chip.chips import BUILT_IN

if TYPE_CHECKING:
    from dpap_neuro.data import Rasters
    from dpap_neuro.pruning import PruneReport
    from dpap_neuro.train.loop import Epoch
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
        f"{epoch.remaining:,} of {epoch.parameters:,} parameters, {epoch.synapses_remaining:,} of {epoch.synapses:,} synapses"
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
