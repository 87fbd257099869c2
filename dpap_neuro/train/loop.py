"""Training by surrogate gradients, with a pruner at work."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpap_neuro.data.augmentation import augment
from dpap_neuro.data.binning import only_bins
from dpap_neuro.data.stored import Rasters, chosen
from dpap_neuro.errors import CannotLearn, InputError
from dpap_neuro.exchange.counting import synapses
from dpap_neuro.networks.models import Network, logits
from dpap_neuro.precision.network import ExactNetwork
from dpap_neuro.pruning import Pruner, PruneReport
from dpap_neuro.pruning.goal import Goal
from dpap_neuro.pruning.masks import count
from dpap_neuro.pruning.positions import Positions, PrunedPositions
from dpap_neuro.pruning.statistics import reduce_over_ranks
from dpap_neuro.train import distributed
from dpap_neuro.train.batches import Batches
from dpap_neuro.train.checkpoint import load_checkpoint, peek, save_checkpoint
from dpap_neuro.train.description import describe_run, difference
from dpap_neuro.train.memory import keep_freed
from dpap_neuro.train.settings import TrainSettings, share_of_positions
from dpap_neuro.train.steps import FIRST_BATCHES, Listener, Step, scores

# Epochs in a row in which the read-out may be silent: surrogate gradients can wake it.
PATIENCE = 3
# Input values that are shown at once in a test: of most data sets 128 recordings have fewer.
MOST_VALUES = 1 << 26


# PyTorch's, of batch norm; another one is its author's choice.
_MOMENTUM = 0.1
Data = tuple[Rasters, np.ndarray]


@dataclass
class Epoch:
    """What happened in one epoch. accuracy: on the test recordings, None where there were none. fill: what the network
    takes of its budget, None without one. rates: spikes per neuron and step of every layer in training, the read-out apart.
    loss: with the price of spikes, where there is one.
    layers: of each layer's parameters those that are left and all, None in older records."""

    epoch: int
    loss: float
    accuracy: float | None
    remaining: int
    parameters: int
    synapses_remaining: int
    synapses: int
    seconds: float
    fill: dict[str, Any] | None = None
    rates: dict[str, float] | None = None
    layers: dict[str, list[int]] | None = None


@dataclass
class History:
    """kept_bins: the time bins that the network is still shown, None where bins are not pruned. positions: see `PrunedPositions`, None
    where none are pruned."""

    epochs: list[Epoch] = field(default_factory=list)
    seconds: float = 0.0
    kept_bins: tuple[int, ...] | None = None
    positions: dict[str, Any] | None = None


def choose_device(name: str) -> torch.device:
    """ "auto" takes the GPU where there is one. Raises InputError for a GPU that is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: found {name!r}, expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: found cuda, but this PyTorch sees no GPU; expected cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def adamw(model: nn.Module, learning_rate: float, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """AdamW as one operation: of pruned weights, whose moments are 0, the one in steps takes the root in eight times the time on a CPU."""
    return torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, fused=True)


def as_input(rasters: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 counts (B, T, ...) to the float32 (T, B, ...) that networks take, on a CPU with polarities last in memory:
    convolutions go on so, which is the fastest there."""
    x = torch.as_tensor(rasters).to(device).transpose(0, 1)
    if x.dim() == 5 and device.type == "cpu":
        last = x.permute(0, 1, 3, 4, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return last.permute(0, 1, 4, 2, 3)
    return x.float()


@torch.no_grad()
def predict(
    model: Network,
    rasters: Rasters,
    device: torch.device,
    batch: int = 128,
    shown: Sequence[int] | None = None,
) -> np.ndarray:
    """The class of each recording, (n,) int64: the highest count or membrane, the first where several are.

    batch: recordings at once, fewer where they are large. shown: the time bins that the network sees, all where None.
    """
    model.eval()
    parts = []
    batch = max(1, min(batch, MOST_VALUES // max(1, math.prod(rasters.shape[1:]))))
    for i in range(0, len(rasters), batch):
        part = as_input(only_bins(rasters[i : i + batch], shown), device)
        parts.append(logits(model(part)).argmax(1).cpu().numpy())
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def check_data(rasters: Rasters, labels: np.ndarray, classes: int) -> None:
    """Raises InputError where there is nothing to learn from: too few recordings, one class only, no event."""
    if isinstance(rasters, np.ndarray) and rasters.dtype.kind == "f" and not np.isfinite(rasters).all():
        raise InputError("training data: found NaN or infinite values, expected event counts")
    if len(rasters) < 2:
        raise InputError(f"training data: found {len(rasters)} recordings, expected at least 2")
    found = np.unique(labels)
    if len(found) < 2:
        raise InputError(
            f"training data: found recordings of class {found[0]} only, expected at least 2 classes"
        )
    if found.min() < 0 or found.max() >= classes:
        raise InputError(
            f"training data: found labels {found.min()} to {found.max()}, expected 0 to {classes - 1}"
        )
    if not any(recording.any() for recording in rasters):
        raise InputError("training data: found no event at all, expected some")


def train(
    model: Network,
    pruner: Pruner,
    train_data: Data,
    test_data: Data | None,
    settings: TrainSettings,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch, PruneReport], None] | None = None,
    checkpoint: str | Path | None = None,
    origin: Mapping[str, Any] | None = None,
    on_note: Callable[[str], None] | None = None,
    workers: int = 0,
) -> History:
    """Train `model` in place, pruning it with `pruner` (not attached yet).

    train_data, test_data: (counts (n, steps, polarity, y, x) uint8, labels (n,)). on_batch(epoch, batches done). on_note(line): of
    layers that are silent after the first batches.
    checkpoint: folder written after every epoch; where it holds one already, the run goes on from there, bit for bit
    on the CPU, where everything that shapes it is the same (see `train.description`). origin: where the data are from and how
    they were made, for that comparison. workers: processes that read batches ahead, 0 for none; the numbers are the same. Time bins that the pruner has dropped are shown no more, in training and in testing.
    Repeatable on one machine: everything random comes from settings.seed. In several processes (`distributed.joined`)
    each takes its part of every batch, all prune the same, and the first one writes the checkpoint.
    Raises InputError for data that cannot be learned from, a network that never spikes, a loss that is not finite, or a
    checkpoint of another run.
    """
    rasters, labels = train_data
    check_data(rasters, labels, model.settings.classes)
    if min(settings.batch, len(rasters)) < distributed.world():
        raise InputError(
            f"batch: found {min(settings.batch, len(rasters))} recordings for {distributed.world()} processes, "
            "expected at least one for each"
        )
    if settings.shift > max(rasters.shape[-2:]):
        rows, columns = rasters.shape[-2:]
        raise InputError(
            f"shift: found {settings.shift} pixels, expected at most {max(rows, columns)} of recordings of {rows}x{columns}"
        )
    described = None
    if checkpoint is not None:
        described = describe_run(model, pruner, train_data, test_data, settings, origin or {})
    with distributed.shared_norms(model):
        return _train(
            model,
            pruner,
            train_data,
            test_data,
            settings,
            device,
            on_batch,
            on_epoch,
            checkpoint,
            described,
            on_note,
            workers,
        )


def _train(
    model: Network,
    pruner: Pruner,
    train_data: Data,
    test_data: Data | None,
    settings: TrainSettings,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None,
    on_epoch: Callable[[Epoch, PruneReport], None] | None,
    checkpoint: str | Path | None,
    described: dict[str, Any] | None,
    on_note: Callable[[str], None] | None,
    workers: int,
) -> History:
    rasters, labels = train_data
    if device.type == "cpu":
        keep_freed()
    model.to(device)
    generator = torch.Generator().manual_seed(settings.seed)
    targets = torch.as_tensor(labels)
    pruner.attach(model, as_input(rasters[:2], device))
    positions = None
    if settings.prune_positions is not None:
        if isinstance(model, ExactNetwork):
            raise InputError(
                "prune_positions: cannot be of a network in integers; prune a float one, then finetune it"
            )
        positions = Positions(pruner.structure, share_of_positions(settings.prune_positions))
    optimizer = adamw(model, settings.learning_rate, settings.weight_decay)
    batches = max(1, len(rasters) // settings.batch)
    total, warmup = settings.all_epochs * batches, max(1, round(settings.warmup * batches))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * min(1.0, step / total))),
    )
    _cover_an_epoch(model, batches * settings.accumulate)
    step = Step(model, pruner, optimizer, settings, device)
    history = History()
    generators = {"training": generator}
    if described is not None and checkpoint is not None and (Path(checkpoint) / "checkpoint.json").exists():
        # Before anything is changed: a checkpoint of another run may not even fit this one's network.
        history = _resumed(peek(checkpoint).extra, described, checkpoint)
        load_checkpoint(checkpoint, model, optimizer, scheduler, pruner, generators)
        step.load_state_dict(peek(checkpoint).extra.get("scaler", {}))
        if positions is not None and history.positions is not None:
            positions.silent = int(history.positions["silent"])
            pruner.mark_positions()
        if settings.compact:
            pruner.compact(optimizer)
    elif settings.more_epochs:
        raise InputError(
            f"more_epochs: found {settings.more_epochs}, but no checkpoint at {checkpoint}; expected the run to go on from"
        )
    shown, silent = _kept(pruner), 0
    listener = Listener(pruner) if on_note is not None and not history.epochs else None
    read = Batches(rasters, workers)
    begin = time.perf_counter()
    for epoch in range(len(history.epochs), settings.all_epochs):
        epoch_begin = time.perf_counter()
        model.train()
        order = torch.randperm(len(rasters), generator=generator)[: batches * settings.batch]
        losses, spikes = torch.zeros((), device=device), torch.zeros((), device=device)
        for number, (numbers, counts) in enumerate(read.in_turn(order.split(settings.batch))):
            recordings = only_bins(counts, shown)
            own = distributed.own_part(len(numbers))
            x = as_input(_augmented(recordings, settings, generator, model.max_count)[own], device)
            loss, activity = step(x, targets[numbers[own]].to(device), len(numbers))
            scheduler.step()
            pruner.step(optimizer)
            losses += loss
            spikes += activity
            if listener is not None and number + 1 == min(FIRST_BATCHES, batches):
                _name_silent(listener.silent(), number + 1, on_note)
                listener = None
            if on_batch is not None:
                on_batch(epoch, number + 1)
        mean_loss = float(reduce_over_ranks(losses)) / batches
        if not np.isfinite(mean_loss):
            raise CannotLearn(
                f"training: found a loss of {mean_loss} in epoch {epoch}, expected a finite number"
            )
        silent = 0 if float(reduce_over_ranks(spikes)) else silent + 1
        if silent == max(2, min(PATIENCE, settings.all_epochs)):
            raise CannotLearn(
                f"network: its read-out never spiked in {silent} epochs, expected activity (lower the threshold)"
            )
        ends = _schedule(pruner, settings)
        gone = None
        if positions is not None and positions.share is not None:
            # Before the weights, whose goal counts what is left.
            gone = _prune_positions(positions, epoch, ends, model, pruner, optimizer, rasters, settings.batch)
        with model.as_stored():
            report = pruner.end_epoch(epoch, optimizer)
        pruner.masks.apply()
        model.recheck()
        if positions is not None and positions.share is None:
            # Behind the last weight, which may have been all that a neuron heard.
            gone = _prune_positions(positions, epoch, ends, model, pruner, optimizer, rasters, settings.batch)
        if gone is not None:
            history.positions = gone.to_dict()
            if on_note is not None and epoch == ends[1]:
                on_note(f"behind epoch {epoch + 1}, {gone}")
        report = _as_stored(report, pruner, model)
        if history.positions is not None and (left := synapses(model)) is not None:
            report = replace(report, synapses_remaining=left)
        if settings.compact:
            pruner.compact(optimizer)
        shown = _kept(pruner)
        seconds = time.perf_counter() - epoch_begin
        accuracy = None
        if test_data is not None:
            own = distributed.own_part(len(test_data[1]))
            predicted = predict(model, chosen(test_data[0], own), device, shown=shown)
            correct = torch.tensor((predicted == test_data[1][own]).sum()).to(device)
            accuracy = int(reduce_over_ranks(correct)) / len(test_data[1])
        history.epochs.append(
            Epoch(
                epoch,
                mean_loss,
                accuracy,
                report.remaining,
                report.parameters,
                report.synapses_remaining,
                report.synapses,
                seconds,
                None if report.reading is None else dict(report.reading.values),
                step.rates.epoch(),
                {layer.name: [layer.remaining, layer.parameters] for layer in report.layers},
            )
        )
        history.kept_bins = report.kept_bins
        if checkpoint is not None and distributed.rank() == 0:
            extra = {"run": described, "history": asdict(history), "scaler": step.state_dict()}
            with pruner.whole(optimizer):
                save_checkpoint(checkpoint, model, optimizer, scheduler, pruner, epoch, generators, extra)
        if on_epoch is not None:
            on_epoch(history.epochs[-1], report)
    step.rates.detach()
    pruner.expand(optimizer)
    pruner.detach()
    model.eval()
    history.seconds = time.perf_counter() - begin
    return history


def _schedule(pruner: Pruner, settings: TrainSettings) -> tuple[int, int]:
    """The first epoch of a pruner's plan, and the one behind which nothing but finetuning is left of it."""
    goal = pruner.goal if pruner.goal.epochs is not None else Goal(epochs=settings.epochs)
    return goal.schedule()


def _prune_positions(
    positions: Positions,
    epoch: int,
    ends: tuple[int, int],
    model: Network,
    pruner: Pruner,
    optimizer: torch.optim.Optimizer,
    rasters: Rasters,
    batch: int,
) -> PrunedPositions | None:
    """Single neurons that go behind this epoch; None where none do. ends: of the pruner's schedule."""
    share = positions.share_after(epoch, *ends)
    if share is None:
        return None
    device = next(model.parameters()).device
    gone = positions.prune(model, _shown(rasters, batch, _kept(pruner), device), share)
    pruner.mark_positions(optimizer)
    return gone


def _shown(
    rasters: Rasters, batch: int, shown: Sequence[int] | None, device: torch.device
) -> Iterator[Tensor]:
    """This rank's part of the recordings as they are, a batch at a time."""
    own = chosen(rasters, distributed.own_part(len(rasters)))
    for i in range(0, len(own), batch):
        yield as_input(only_bins(own[i : i + batch], shown), device)


def _cover_an_epoch(model: nn.Module, batches: int) -> None:
    """Let batch norm's running statistics cover an epoch of fewer than ten batches: PyTorch's own momentum of 0.1 covers about ten, so
    that a network of few recordings was tested with statistics from before it learned, and its layers were silent then."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum == _MOMENTUM:
            module.momentum = max(_MOMENTUM, 1 / batches)


def _name_silent(names: list[str], batches: int, on_note: Callable[[str], None] | None) -> None:
    if names and on_note is not None:
        on_note(
            f"layer {', '.join(names)}: no spike in the first {batches} batches; expected activity (lower --threshold, or more "
            "--decay, may bring it)"
        )


def _as_stored(report: PruneReport, pruner: Pruner, model: Network) -> PruneReport:
    """The report with what a chip stores in place of what is not pruned: a weight may be rounded to zero."""
    stored = model.stored()
    if stored is None:
        return report
    masks = {
        p.name: pruner.masks.weights[p.name].to(kept.device) & kept
        for p in pruner.structure.projections.values()
        if (kept := stored.get(p.parameter_name)) is not None
    }
    counts = {name: count(mask) for name, mask in masks.items()}
    return replace(
        report,
        remaining=sum(counts.values()),
        synapses_remaining=pruner.masks.synapse_count(masks),
        layers=tuple(
            replace(layer, remaining=counts[layer.name]) for layer in report.layers if layer.name in counts
        ),
    )


def _augmented(x: Tensor, settings: TrainSettings, generator: torch.Generator, most: int | None) -> Tensor:
    """Recordings changed at random. most: the largest count that the network takes; events that jitter moves together do not
    pass it, recordings that do so by themselves are left for the network to refuse."""
    changed = augment(
        x, generator, shift=settings.shift, flip=settings.flip, drop=settings.drop, jitter=settings.jitter
    )
    if most is None or not settings.jitter:
        return changed
    return changed.clamp(max=max(most, int(x.max())))


def _kept(pruner: Pruner) -> list[int] | None:
    return None if pruner.kept_bins is None else pruner.kept_bins.tolist()


def _resumed(extra: Mapping[str, Any], expected: Mapping[str, Any], where: str | Path) -> History:
    """The history of a checkpoint. Raises InputError where it is of a run that differs in what is `expected`."""
    try:
        differing = difference(dict(extra["run"]), expected)
        values = extra["history"]
        history = History([Epoch(**e) for e in values["epochs"]], float(values["seconds"]))
        kept = values["kept_bins"]
        history.kept_bins = None if kept is None else tuple(int(bin_) for bin_ in kept)
        history.positions = values.get("positions")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: found no history ({error}), expected the checkpoint of `train`") from None
    if differing is not None:
        raise InputError(f"{where}: {differing}")
    return history


def overhead(
    model: Network,
    make: Callable[[], Pruner],
    data: Data,
    settings: TrainSettings,
    device: torch.device,
    rounds: int = 10,
    pairs: int = 4,
) -> float:
    """Share that a pruner adds to the time of a training step: the median over steps taken in turn with and without it.

    Of several pairs of networks, since where one happens to lie in memory makes a step a few hundredths faster or slower.
    """
    rasters, labels = data
    targets = torch.as_tensor(labels[: settings.batch]).to(device)
    x = as_input(rasters[: settings.batch], device)
    loss_of = nn.CrossEntropyLoss()
    ratios = []
    for _ in range(pairs):
        pair: list[tuple[Network, torch.optim.Optimizer, Pruner | None]] = []
        for pruner in (None, make()):
            twin = copy.deepcopy(model).to(device).train()
            if pruner is not None:
                pruner.attach(twin, x[:, :2])
            pair.append((twin, adamw(twin, 0.0), pruner))
        for number in range(rounds):
            seconds = []
            for twin, optimizer, pruner in pair:
                begin = time.perf_counter()
                optimizer.zero_grad(set_to_none=True)
                loss_of(scores(twin(x), twin.settings.readout), targets).backward()
                optimizer.step()
                if pruner is not None:
                    pruner.step(optimizer)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - begin)
            if number >= 2:
                ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios) - 1.0
