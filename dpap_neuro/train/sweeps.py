"""Pruners x sparsities x seeds under one training loop, as a tidy table and a picture.

Every run is one row, written as soon as it is done; a run whose row is there already is not repeated, so that an
interrupted sweep goes on where it stopped. What all runs of a table share lies beside it as JSON.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dpap_neuro.data import every_nth
from dpap_neuro.data.binning import only_bins
from dpap_neuro.data.stored import Rasters, chosen
from dpap_neuro.errors import CannotLearn, InputError
from dpap_neuro.files import make_folder, read_bytes, read_sealed, write_sealed, write_text
from dpap_neuro.networks.models import ModelSettings, Network, build_model
from dpap_neuro.pruning import Pruner, make_pruner, parse_pruner, together
from dpap_neuro.pruning.inputs import synaptic_events
from dpap_neuro.train import loop
from dpap_neuro.train.planned import Planned, is_dense, label, labelled, own_rate

if TYPE_CHECKING:
    from dpap_neuro.train.paired import Difference

Data = tuple[Rasters, np.ndarray]
# Of the training recordings of a run one in this many is held out for choosing settings by.
INNER = 5

# Recordings at a time whose synaptic events are counted.
TESTED = 128

_LEFT_OUT = "left_out.json"


@dataclass(frozen=True)
class Row:
    """One row.

    sparsity: share to remove (0 for `none`) of what `count` says, parameters or synapses. seed: where there are folds,
    its remainder by their number is the fold. remaining, synapses_remaining: what was left of parameters and synapses.
    steps: time steps of a recording that the network was shown at the end. seconds: of training, without the test. events:
    synaptic events per test recording, see `inputs.synaptic_events`; None in a table that is older than the column.
    """

    pruner: str
    sparsity: float
    count: str
    seed: int
    epochs: int
    n_train: int
    n_test: int
    correct: int
    accuracy: float
    parameters: int
    remaining: int
    synapses: int
    synapses_remaining: int
    steps: int
    seconds: float
    events: float | None = None

    @property
    def run(self) -> Planned:
        """Which run of a plan it is, as a table calls it."""
        return self.pruner, self.sparsity, self.seed


def missing(folder: Path, planned: Sequence[Planned], structured: bool = False) -> int:
    """How many of the runs are in none of a sweep's tables, those that could not be done aside."""
    return len(_missing(folder, [folder / "runs.csv", *shard_tables(folder)], planned, structured))


def is_together(folder: Path, planned: Sequence[Planned], structured: bool = False) -> bool:
    """Whether the table of the whole sweep has every run, those that could not be done aside."""
    table = folder / "runs.csv"
    return table.exists() and not _missing(folder, [table], planned, structured)


def _missing(
    folder: Path, tables: Sequence[Path], planned: Sequence[Planned], structured: bool
) -> set[Planned]:
    known = {row.run for path in tables if path.exists() for row in read_table(path)} | left_out(
        folder
    ).keys()
    return {labelled(run, structured) for run in planned} - known


def write_left_out(folder: Path, runs: dict[Planned, str]) -> None:
    """Keep which runs, by what a table calls them, could not be done and why; nothing is kept of none."""
    path = folder / _LEFT_OUT
    if runs:
        write_sealed(path, {"runs": [[*run, why] for run, why in runs.items()]}, 2)
    else:
        path.unlink(missing_ok=True)


def left_out(folder: Path) -> dict[Planned, str]:
    """What `write_left_out` kept in a sweep's folder and in those of its shards. Raises InputError for a file that it did not write."""
    found: dict[Planned, str] = {}
    for path in _left_out_files(folder):
        try:
            for name, share, seed, why in read_sealed(path, "the runs that a sweep left out")["runs"]:
                found[str(name), float(share), int(seed)] = str(why)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: not the runs that a sweep left out ({type(error).__name__}: {error})"
            ) from None
    return found


def _left_out_files(folder: Path) -> list[Path]:
    return [*folder.glob(_LEFT_OUT), *sorted(folder.glob(f"shard-*-of-*/{_LEFT_OUT}"))]


def shard_tables(folder: Path) -> list[Path]:
    """Those of all shards of a sweep that have one."""
    return sorted(folder.glob("shard-*-of-*/runs.csv"))


def remove(folder: Path) -> None:
    """The tables of a sweep and of its shards, so that it begins anew."""
    for table in (folder / "runs.csv", *shard_tables(folder)):
        # The table first: without it the settings beside it mean nothing.
        for path in (table, table.with_suffix(".json")):
            path.unlink(missing_ok=True)
    for path in _left_out_files(folder):
        path.unlink()


def fold(data: Data, number: int, folds: int, groups: np.ndarray | None = None) -> tuple[Data, Data]:
    """Training and test part of a cross-validation: every folds-th recording of each class is tested, from `number` on; groups
    are kept together, see `data.every_nth`.

    Every recording is tested in exactly one of the folds 0 to folds - 1. Raises InputError for folds below 2, or too many.
    """
    return _divided(data, _fold_tested(data[1], number, folds, groups))


def _fold_tested(labels: np.ndarray, number: int, folds: int, groups: np.ndarray | None) -> np.ndarray:
    if folds < 2 or not 0 <= number < folds:
        raise InputError(f"folds: found fold {number} of {folds}, expected 0 to folds - 1 of at least 2")
    return _tested(labels, number, folds, groups, "folds")


def _tested(labels: np.ndarray, number: int, of: int, groups: np.ndarray | None, name: str) -> np.ndarray:
    """One in `of` of each class, or of the groups, as a mask. Raises InputError, calling the choice by its name, for none."""
    tested = every_nth(labels, number, of, groups)
    if not tested.any():
        what = "of each class" if groups is None else "persons or figures"
        raise InputError(
            f"{name}: found fewer than {of} {what} among {len(labels)} training recordings, too few to hold some out"
        )
    return tested


def _divided(data: Data, tested: np.ndarray) -> tuple[Data, Data]:
    x, y = data
    return (chosen(x, ~tested), y[~tested]), (chosen(x, tested), y[tested])


def rounds(
    train: Data, test: Data, folds: int | None, groups: np.ndarray | None = None, inner: bool = False
) -> Callable[[int], tuple[Data, Data]]:
    """What the run of each seed learns and is tested on: both parts as they are, or fold (seed modulo folds) of the training part.

    inner: of what it learns one in INNER of each class is tested in place of that, from the number of the round on in which the
    seed's fold is run (without folds: from the seed on). groups: of the training part, (n,), kept together, see `data.groups_of`.
    Raises InputError where no class has as many recordings as there are folds; the function returned, as many as INNER.
    """
    if folds is not None:
        # The last fold is the smallest.
        _fold_tested(train[1], folds - 1, folds, groups)

    def data_of(seed: int) -> tuple[Data, Data]:
        learned, tested, known = train, test, groups
        if folds is not None:
            mask = _fold_tested(train[1], seed % folds, folds, groups)
            learned, tested = _divided(train, mask)
            known = None if groups is None else groups[~mask]
        if not inner:
            return learned, tested
        return _divided(learned, _tested(learned[1], seed // (folds or 1) % INNER, INNER, known, "inner"))

    return data_of


def sweep(
    table: str | Path,
    model: ModelSettings,
    data_of: Callable[[int], tuple[Data, Data]],
    planned: Sequence[Planned],
    settings: loop.TrainSettings,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
    on_run: Callable[[Row], None] | None = None,
    on_failed: Callable[[Planned, CannotLearn], None] | None = None,
    keep_bins: int | None = None,
    count: str = "parameters",
    structured: bool = False,
    origin: dict[str, Any] | None = None,
    network_of: Callable[[int, Data], Network] | None = None,
    others: Sequence[str | Path] = (),
) -> list[Row]:
    """Do the runs that `table` (CSV) does not hold yet; return all rows that belong to the plan.

    others: tables of the same settings, such as those of shards, whose runs are taken over.

    data_of(seed): training and test data of a seed. settings: its seed is replaced by each run's, its learning rate where a pruner
    says its own. keep_bins: time steps of
    a recording that pruners shall keep (`none` always keeps all, and all of its neurons whatever settings say). count: "parameters" or "synapses".
    structured: pruners remove channels and neurons, and say so in the table behind their name. origin: what `data_of` gives,
    in words and numbers. network_of(seed, training data): another network than `model` in floats. on_failed: is told of a run whose
    network cannot learn, which has no row then; None: it ends the sweep.
    Raises InputError for a table of another form, of runs of another length or of other settings, and, before the first
    run, for a pruner that does not know an option.
    """
    shared = {
        **(origin or {}),
        "model": model.name,
        **{key: value for key, value in asdict(model).items() if key != "name"},
        **{key: value for key, value in asdict(settings).items() if key not in ("seed", "more_epochs")},
        "keep_bins": keep_bins,
    }
    if not _any_unrated(name for name, _, _ in planned):
        shared["learning_rate"] = None
    done = []
    known: set[Planned] = set()
    held: list[str] | None = None
    for path in (Path(table), *map(Path, others)):
        if not path.exists():
            continue
        rows = read_table(path)
        if path == Path(table):
            held = [row.pruner for row in rows]
        for row in rows:
            if row.epochs != settings.epochs:
                raise InputError(f"{path}: found runs of {row.epochs} epochs, expected {settings.epochs}")
            if row.count != count:
                raise InputError(f"{path}: found sparsities of {row.count}, expected of {count}")
        if rows:
            _check_shared(path.with_suffix(".json"), shared, _any_unrated(row.pruner for row in rows))
        done += [row for row in rows if row.run not in known]
        known |= {row.run for row in rows}
    beside = Path(table).with_suffix(".json")

    def make(text: str, share: float) -> Pruner:
        name, own = parse_pruner(own_rate(text)[0])
        options: dict[str, Any] = {}
        if name != "none":
            options = {"sparsity": share, "count": count}
            if keep_bins is not None:
                options["bins"] = keep_bins
            if structured:
                options["structured"] = True
        return make_pruner(name, epochs=settings.epochs, **together(name, options, own))

    for name, share, _ in planned:
        make(name, share)

    if held is None or (beside.exists() and not _any_unrated(held)):
        # A learning rate that no run has had so far may be another one now.
        make_folder(beside.parent)
        write_sealed(beside, shared, 2)
    if others and done:
        place = {labelled(run, structured): i for i, run in enumerate(planned)}
        done.sort(key=lambda row: place.get(row.run, len(planned)))
        write_table(done, table)
    for number, (name, share, seed) in enumerate(planned):
        if progress is not None:
            progress(number, len(planned))
        if labelled((name, share, seed), structured) in known:
            continue
        train_data, test_data = data_of(seed)
        pruner = make(name, share)
        own = replace(settings, seed=seed)
        if is_dense(name):
            own = replace(own, prune_positions=None)
        if (rate := own_rate(name)[1]) is not None:
            own = replace(own, learning_rate=rate)
        network = build_model(model, seed) if network_of is None else network_of(seed, train_data)
        try:
            history = loop.train(network, pruner, train_data, None, own, device)
        except CannotLearn as error:
            if on_failed is None:
                raise
            on_failed(labelled((name, share, seed), structured), error)
            continue
        last = history.epochs[-1]
        kept, tested = history.kept_bins, test_data[0]
        correct = int((loop.predict(network, tested, device, shown=kept) == test_data[1]).sum())
        parts = (only_bins(tested[i : i + TESTED], kept) for i in range(0, len(tested), TESTED))
        shown = ((loop.as_input(part, device), len(part)) for part in parts)
        events = synaptic_events(network, pruner.structure, shown)
        row = Row(
            label(name, structured),
            share,
            count,
            seed,
            settings.epochs,
            len(train_data[1]),
            len(test_data[1]),
            correct,
            correct / len(test_data[1]),
            last.parameters,
            last.remaining,
            last.synapses,
            last.synapses_remaining,
            tested.shape[1] if kept is None else len(kept),
            round(history.seconds, 1),
            round(events, 1),
        )
        done.append(row)
        write_table(done, table)
        if on_run is not None:
            on_run(row)
    if progress is not None:
        progress(len(planned), len(planned))
    wanted = {labelled(run, structured) for run in planned}
    return [row for row in done if row.run in wanted]


def _any_unrated(pruners: Iterable[str]) -> bool:
    """Whether any of these learns at the rate that all runs share."""
    return any(own_rate(name)[1] is None for name in pruners)


def _check_shared(path: Path, shared: dict[str, Any], unrated: bool) -> None:
    """Raises InputError where the runs beside `path` are of other settings; one without the file is trusted. unrated: whether any
    of them has the learning rate that all share."""
    if not path.exists():
        return
    found = read_sealed(path, "the settings of a sweep", required=False)
    try:
        # A file that is older does not say what was tested, and knows floats alone.
        known = {"tested": shared.get("tested"), "precision": None, **_usual(), **found}
        known["neuron"] = asdict(_model(known).neuron)
        differing = [key for key in shared if known[key] != json.loads(json.dumps(shared[key]))]
        if "learning_rate" in differing and not (unrated and shared["learning_rate"] is not None):
            differing.remove("learning_rate")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the settings of a sweep ({type(error).__name__}: {error})") from None
    if differing:
        key = differing[0]
        raise InputError(
            f"{path.with_suffix('.csv')}: found runs with {key} {known[key]}, expected {shared[key]} (or another folder)"
        )


def _usual() -> dict[str, Any]:
    """What settings are where a file says nothing, because the choice came after it: the defaults."""
    kinds = (ModelSettings, loop.TrainSettings)
    return {f.name: f.default for kind in kinds for f in fields(kind) if f.default is not MISSING}


def _model(known: dict[str, Any]) -> ModelSettings:
    own = {f.name: known[f.name] for f in fields(ModelSettings) if f.name != "name"}
    return ModelSettings.from_dict({"name": known["model"], **own})


_CHECKSUM = "checksum"
_MOST_TABLE = 64 << 20


def write_table(rows: Sequence[Row] | Sequence[Summary] | Sequence[Difference], path: str | Path) -> None:
    """Rows (at least one) as CSV, whole or not at all. A `Row` ends in a checksum of the others of its values."""
    make_folder(Path(path).parent)

    text = io.StringIO(newline="")
    names = [f.name for f in fields(rows[0])]
    checked = [_CHECKSUM] if isinstance(rows[0], Row) else []
    writer = csv.DictWriter(text, names + checked)
    writer.writeheader()
    for row in rows:
        own = {_CHECKSUM: _checksum(row)} if isinstance(row, Row) else {}
        writer.writerow({**asdict(row), **own})
    write_text(path, text.getvalue())


def _checksum(row: Row) -> str:
    """Of one row, so that tables of the same settings may be joined."""
    text = ",".join("" if value is None else str(value) for value in asdict(row).values())
    return f"{zlib.crc32(text.encode()):08x}"


def read_table(path: str | Path) -> list[Row]:
    """Raises InputError for a file that `write_table` did not write, or that has changed since."""
    types: dict[str, Any] = {
        "str": str,
        "int": int,
        "float": float,
        "float | None": lambda text: float(text) if text else None,
    }
    names = [f.name for f in fields(Row)]
    rows: list[Row] = []
    seen: set[Planned] = set()
    try:
        lines = csv.reader(
            io.StringIO(read_bytes(path, _MOST_TABLE).decode("utf-8"), newline=""), strict=True
        )
        head = next(lines, None)
        # Older tables lack the last column, and have no checksums.
        older = head == names[:-1]
        if head != [*names, _CHECKSUM] and not older:
            raise ValueError(f"found columns {', '.join(head or [])[:120]}")
        for number, line in enumerate(lines, 2):
            *values, checksum = [*line, "", ""] if older else line
            row = Row(*(types[str(f.type)](text) for f, text in zip(fields(Row), values, strict=True)))
            if (not older and _checksum(row) != checksum) or not 0 <= row.accuracy <= 1:
                raise InputError(f"{path}: line {number} is damaged (its checksum is another)")
            if row.run in seen:
                raise InputError(
                    f"{path}: line {number} repeats {row.pruner} {row.sparsity:g} seed {row.seed}, expected each run once"
                )
            seen.add(row.run)
            rows.append(row)
    except (ValueError, TypeError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: not a table of a sweep ({type(error).__name__}: {said})") from None
    return rows


@dataclass(frozen=True)
class Summary:
    """All seeds of a pruner at a sparsity: means.

    spread: standard deviation of the accuracy over seeds (0 for one). lost: points of accuracy below `none` with the same
    seed, mean and spread; None without such runs. parameters_left, synapses_left: counts; remaining, synapses_remaining: shares.
    events: synaptic events per recording; None where a run does not have them.
    """

    pruner: str
    sparsity: float
    runs: int
    accuracy: float
    spread: float
    remaining: float
    synapses_remaining: float
    lost: float | None
    lost_spread: float | None
    parameters_left: float
    synapses_left: float
    events: float | None


def _dense_of(rows: Sequence[Row]) -> Callable[[str], dict[int, float]]:
    """Accuracy by seed of the dense network that a pruner is compared with: the only one or, of several, that at its learning rate."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if is_dense(row.pruner):
            found.setdefault(row.pruner, {})[row.seed] = row.accuracy
    if len(found) < 2:
        only = next(iter(found.values()), {})
        return lambda _: only
    by_rate = {own_rate(name)[1]: accuracies for name, accuracies in found.items()}
    return lambda name: by_rate.get(own_rate(name)[1], {})


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Rows by pruner and sparsity, in the order in which they first appear."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.pruner, row.sparsity), []).append(row)
    dense = _dense_of(rows)

    def spread(values: list[float]) -> float:
        return statistics.stdev(values) if len(values) > 1 else 0.0

    result = []
    for (name, share), group in groups.items():
        accuracies = [r.accuracy for r in group]
        events = [r.events for r in group if r.events is not None]
        whole = dense(name)
        lost = [100 * (whole[r.seed] - r.accuracy) for r in group if r.seed in whole]
        result.append(
            Summary(
                name,
                share,
                len(group),
                statistics.fmean(accuracies),
                spread(accuracies),
                statistics.fmean(r.remaining / r.parameters for r in group),
                statistics.fmean(r.synapses_remaining / r.synapses for r in group),
                statistics.fmean(lost) if lost else None,
                spread(lost) if lost else None,
                statistics.fmean(r.remaining for r in group),
                statistics.fmean(r.synapses_remaining for r in group),
                statistics.fmean(events) if len(events) == len(group) else None,
            )
        )
    return result
