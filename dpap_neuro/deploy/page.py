"""A report page: networks, what they do on the chip and where it all came from, in one HTML file that needs no network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.deploy import drawings
from dpap_neuro.deploy.charging import Charged, charge
from dpap_neuro.deploy.comparison import recorded_accuracy
from dpap_neuro.deploy.evaluation import Evaluation, evaluate
from dpap_neuro.deploy.fidelity import Asked, Found, measure, raster_figure
from dpap_neuro.deploy.opening import INTEGER_FILES, CompileOptions, Model, open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from dpap_neuro.files import write_text
from hardware.chip.costs import needed
from hardware.graph.summary import GraphSummary, describe
from hardware.placement import Placement, place
from hardware.placement.budget import fullest_per_core, percent, shares_per_core
from hardware.placement.costing import LEFT_OUT

# Tiles of the floor plan; a page of more is read by nobody.
TILES = 256
# Recordings whose time and energy are counted.
CHARGED = 10
# Networks of a demo, in the order of their columns.
DEMO = ("dense", "pruned", "weighted", "exact")
# (what is being done, part done, whole)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Subject:
    """One network of a page. curve: its training, None where no record lies beside it. record: that record's own words. found,
    evaluated, shown: without recordings None. charged: time and energy, None also where the chip's file has no costs. accuracy: of
    the record, where nothing was measured."""

    name: str
    model: Model
    digest: str
    summary: GraphSummary
    placement: Placement
    curve: drawings.Curve | None
    record: dict[str, Any]
    found: Found | None
    evaluated: Evaluation | None
    shown: np.ndarray | None
    charged: Charged | None
    accuracy: float | None


def check(out: Path) -> None:
    """Raise InputError for a name that is no page's, or where what draws it is missing, before anything is read."""
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"{out}: expected a name that ends in .html")
    for package in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"{out}: a report needs {package}, which is not installed; to get it: pip install 'dpap-neuro[pictures]'"
            )


def networks_of(paths: Sequence[Path]) -> list[Path]:
    """`.nir` files, and of folders those in them: `model.nir` of a run, `dense.nir`, `pruned.nir`, ... of a demo.

    Raises InputError for a folder without, and for a file of integers.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [path / name for name in ("model.nir", *(f"{name}.nir" for name in DEMO))]
            there = [file for file in inside if file.is_file()]
            if not there:
                raise InputError(
                    f"{path}: holds no model.nir, expected a folder of `dpap-neuro train` or a .nir file"
                )
            found += there
        elif path.suffix in INTEGER_FILES:
            raise InputError(
                f"{path}: holds integers alone; a report needs the .nir file that they were made of"
            )
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def gather(
    paths: Sequence[Path],
    options: CompileOptions,
    recordings: Recordings | None = None,
    progress: Progress | None = None,
) -> list[Subject]:
    """Read, compile, place and, where there are recordings, run every network. Raises InputError or HardwareError."""
    files = networks_of(paths)
    names = _names(files)
    return [
        _gather(file, name, options, recordings, progress) for file, name in zip(files, names, strict=True)
    ]


def _gather(
    file: Path, name: str, options: CompileOptions, recordings: Recordings | None, progress: Progress | None
) -> Subject:
    opened = open_model(file, options, recordings=recordings)
    assert opened.graph is not None
    found, evaluated, shown, charged = None, None, None, None
    if recordings is not None:
        told = None if progress is None else lambda done, total: progress(f"comparing {name}", done, total)
        found = measure(opened, recordings, Asked(), told)
        evaluated = evaluate(opened, recordings, "fixed")
        shown = next(recordings.open(opened).parts())[0]
        if opened.chip.costs is not None:
            # As many recordings as `energy` takes: their mean hardly moves with more, and each is counted core by core.
            few = replace(recordings, limit=min(CHARGED, recordings.limit or CHARGED))
            charged = charge(opened, few, opened.chip)
    placement = place(
        opened.integers(), opened.chip, firing_rates=None if evaluated is None else evaluated.rates
    )
    record = _record(file)
    summary = describe(opened.graph, options.dt)
    return Subject(
        name,
        opened,
        hashlib.sha256(file.read_bytes()).hexdigest(),
        summary,
        placement,
        _curve(name, file, record, [node.name for node in summary.nodes if node.sparsity is not None]),
        record,
        found,
        evaluated,
        shown,
        charged,
        recorded_accuracy(file)[0],
    )


def _names(files: Sequence[Path]) -> list[str]:
    """The shortest end of each path that tells them apart; of a run's model.nir its folder's name alone."""
    shown = [file.parent.resolve() if file.name == "model.nir" else file for file in files]
    for parts in range(1, max(len(file.parts) for file in shown) + 1):
        names = [str(Path(*file.parts[-parts:])) for file in shown]
        if len(set(names)) == len(set(shown)):
            break
    return names


def _record(file: Path) -> dict[str, Any]:
    """The run.json or summary.json beside a network; empty where there is none that can be read."""
    name = "run.json" if file.name == "model.nir" else "summary.json"
    try:
        found = json.loads((file.parent / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _curve(name: str, file: Path, record: dict[str, Any], nodes: Sequence[str] = ()) -> drawings.Curve | None:
    """nodes: names of the file's layers with weights, which are those of the record's modules and what they are."""
    try:
        epochs = record["history"]
        if file.name != "model.nir":
            epochs = epochs[file.stem]
        accuracy = tuple(None if e["accuracy"] is None else 100.0 * float(e["accuracy"]) for e in epochs)
        left = tuple(100.0 * float(e["synapses_remaining"]) / float(e["synapses"]) for e in epochs)
        numbers = tuple(int(e["epoch"]) + 1 for e in epochs)
        # Runs of older versions do not have them.
        known = all(e.get("rates") for e in epochs)
        named = list(epochs[0]["rates"]) if known else []
        rates = {str(name): tuple(float(e["rates"][name]) for e in epochs) for name in named}
        layers = _removed(epochs, nodes)
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    return drawings.Curve(name, numbers, accuracy, left, rates, layers) if numbers else None


def _removed(epochs: list[dict[str, Any]], nodes: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Of each layer the share of its parameters removed by epoch, in percent; empty of older records and where nothing was."""
    if not all(e.get("layers") for e in epochs):
        return {}
    found = {}
    for name in epochs[-1]["layers"]:
        module = str(name).removeprefix("synapses.").replace(".", "_")
        same = [node for node in nodes if node == module or node.startswith(f"{module}_")]
        counts = [e["layers"][name] for e in epochs]
        found[same[0] if len(same) == 1 else str(name)] = tuple(
            100.0 * (1 - int(left) / int(of)) for left, of in counts
        )
    return found if any(map(any, found.values())) else {}


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _headline(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """Rows of the first table: label, cells as text, ratio to the first as text."""
    rows: list[dict[str, Any]] = []

    def shares(label: str, values: list[float | None]) -> None:
        if any(value is not None for value in values):
            rows.append({"label": label, "cells": [_share(v) for v in values], "ratios": [""] * len(values)})

    def counts(label: str, values: list[float | None], form: str = ",.0f") -> None:
        if all(value is None for value in values):
            return
        first = values[0]
        ratios = ["" if v is None or not first else f"{v / first:.3f}" for v in values]
        cells = ["" if v is None else format(v, form) for v in values]
        rows.append({"label": label, "cells": cells, "ratios": ["", *ratios[1:]]})

    reports = [None if s.found is None else s.found.report for s in subjects]
    if any(r is not None and r.accuracy_float is not None for r in reports):
        shares("accuracy, float", [None if r is None else r.accuracy_float for r in reports])
        shares("accuracy, chip's integers", [None if r is None else r.accuracy_fixed for r in reports])
    else:
        shares("accuracy, as its record says", [s.accuracy for s in subjects])
    shares("spikes alike, float and chip", [None if r is None else r.agreement for r in reports])
    counts("parameters", [s.summary.parameters for s in subjects])
    counts("synapses", [s.summary.synapses for s in subjects])
    counts("synapses on the chip, after rounding", [s.placement.synapses for s in subjects])
    counts("synaptic events per recording", [_events(s) for s in subjects])
    counts("neurons", [int(s.placement.neurons_per_core.sum()) for s in subjects])
    counts(f"cores of {subjects[0].placement.chip.name}", [s.placement.cores for s in subjects])
    spent = [None if s.charged is None else s.charged.spent for s in subjects]
    counts("time per recording, us", [None if c is None else c.latency * 1e-3 for c in spent], ",.4g")
    counts("energy per recording, uJ", [None if c is None else c.total * 1e-6 for c in spent], ",.4g")
    return rows


def _charged(subjects: Sequence[Subject]) -> str:
    """What the rows of time and energy are, and what keeps them from being the chip's; empty without such rows."""
    charged = next((s.charged for s in subjects if s.charged is not None), None)
    if charged is None:
        return ""
    chip = charged.placement.chip
    assumed = needed(chip).assumed
    guessed = (
        f" {len(assumed)} costs in the file of {chip.name} are assumed, not published." if assumed else ""
    )
    return (
        f"Time and energy: mean of {charged.loads.samples} recordings, each as fast as the slowest core allows, by the costs in the "
        f"chip's file.{guessed} Left out: {LEFT_OUT}."
    )


def _events(subject: Subject) -> float | None:
    if subject.evaluated is None:
        return None
    operations = subject.evaluated.neurobench["SynapticOperations"]
    return float(operations["Effective_MACs"] + operations["Effective_ACs"])


def _sparsities(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """Per layer with weights, in the order of the first network that has it: share removed per network."""
    names = dict.fromkeys(n.name for s in subjects for n in s.summary.nodes if n.sparsity is not None)
    of = [{n.name: n for n in s.summary.nodes if n.sparsity is not None} for s in subjects]
    rows = []
    for name in names:
        nodes = [found.get(name) for found in of]
        known = [n for n in nodes if n is not None]
        cells = []
        for node in nodes:
            # Neurons that are gone take their weights with them, so that only the first network says how many there were.
            ratio = (
                ""
                if node is None or node is known[0]
                else f" ({node.parameters / max(1, known[0].parameters):.3f}x)"
            )
            cells.append(
                None if node is None else {"share": node.sparsity, "left": f"{node.parameters:,}{ratio}"}
            )
        rows.append({"name": name, "type": known[0].type, "cells": cells})
    return rows


def _floor(subject: Subject) -> dict[str, Any]:
    """Cores as tiles, fullest first: of each the layers' shares of its neurons, and of each resource what is taken."""
    placement = subject.placement
    layers = list(placement.core_of)
    colours = {name: drawings.COLOURS[i % len(drawings.COLOURS)] for i, name in enumerate(layers)}
    homes = [placement.core_of[n][placement.core_of[n] >= 0] for n in layers]
    held = np.array([np.bincount(home, minlength=placement.cores) for home in homes])
    shares = shares_per_core(placement)
    tiles = []
    for core in np.argsort(-fullest_per_core(placement), kind="stable")[:TILES]:
        total = max(1, int(held[:, core].sum()))
        tiles.append(
            {
                "core": int(core),
                "neurons": f"{placement.neurons_per_core[core]:,}",
                "synapses": f"{placement.synapses_per_core[core]:,}",
                "layers": [
                    {"name": n, "colour": colours[n], "width": round(100 * float(held[i, core]) / total, 2)}
                    for i, n in enumerate(layers)
                    if held[i, core]
                ],
                "full": [
                    {
                        "name": key,
                        "text": percent(float(share[core])),
                        "width": round(min(100.0, 100 * float(share[core])), 2),
                        "over": bool(share[core] > 1),
                    }
                    for key, share in shares.items()
                ],
            }
        )
    chip = placement.chip
    used = f"{placement.cores:,} core{'s' if placement.cores > 1 else ''} of {chip.name}"
    return {
        "tiles": tiles,
        "layers": [{"name": n, "colour": colours[n]} for n in layers],
        "text": used + ("" if len(tiles) == placement.cores else f", the fullest {len(tiles)}"),
        "broken": [str(broken) for broken in placement.broken],
    }


def _agreements(subject: Subject) -> list[dict[str, Any]]:
    if subject.found is None:
        return []
    return [
        {
            "name": p.name,
            "alike": p.agreement,
            "cells": [
                _share(p.agreement_alone),
                _share(p.agreement_within),
                _share(p.chance),
                f"{p.rate_float:.4f}",
                f"{p.rate_fixed:.4f}",
            ],
        }
        for p in subject.found.report.populations
    ]


def _comparison(subjects: Sequence[Subject]) -> dict[str, Any]:
    """A row per network for the table that sorts: text, and the number that it is sorted by."""
    headings = [
        "network",
        "accuracy",
        "spikes alike",
        "parameters",
        "synapses",
        "events",
        "neurons",
        "cores",
        "memory bits",
        "time, us",
        "energy, uJ",
    ]
    rows = []
    for s in subjects:
        report = None if s.found is None else s.found.report
        accuracy = s.accuracy if report is None or report.accuracy_fixed is None else report.accuracy_fixed
        shares = [accuracy, None if report is None else report.agreement]
        counts = [
            s.summary.parameters,
            s.placement.synapses,
            _events(s),
            int(s.placement.neurons_per_core.sum()),
            s.placement.cores,
            int(s.placement.memory_bits_per_core.sum()),
        ]
        cells = [{"text": s.name, "key": s.name}]
        cells += [{"text": _share(v), "key": "" if v is None else repr(float(v))} for v in shares]
        cells += [
            {"text": "" if v is None else f"{v:,.0f}", "key": "" if v is None else repr(float(v))}
            for v in counts
        ]
        spent = None if s.charged is None else s.charged.spent
        costs = [None, None] if spent is None else [spent.latency * 1e-3, spent.total * 1e-6]
        cells += [
            {"text": "" if v is None else f"{v:,.4g}", "key": "" if v is None else repr(float(v))}
            for v in costs
        ]
        rows.append(cells)
    return {"headings": headings, "rows": rows}


def _origin(subjects: Sequence[Subject], command: str, recordings: str) -> list[tuple[str, str]]:
    rows = [("command", command), ("recordings", recordings)]
    packages = ("dpap-neuro", "numpy", "nir", "numba", "torch", "norse")
    installed = [f"{name} {found}" for name in packages if (found := _version(name)) is not None]
    rows.append(("this page made with", f"Python {platform.python_version()}, {', '.join(installed)}"))
    for s in subjects:
        rows.append((s.name, f"sha256 {s.digest}"))
        if isinstance(versions := s.record.get("versions"), dict):
            rows.append((f"{s.name}, trained with", ", ".join(f"{k} {v}" for k, v in versions.items())))
        asked = s.record.get("request")
        said = {**(asked if isinstance(asked, dict) else {}), **s.record}
        if isinstance(pruner := said.get("pruner"), dict):
            said["pruner"] = pruner.get("text", pruner.get("name", ""))
        if isinstance(made := s.record.get("command"), str):
            rows.append((f"{s.name}, made by", made))
        known = [f"{key} {said[key]}" for key in ("seed", "dataset", "epochs", "pruner") if key in said]
        if known:
            rows.append((f"{s.name}, training", "; ".join(known)))
    return rows


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def render(subjects: Sequence[Subject], command: str = "", recordings: str = "none") -> str:
    """The page as text. command: the line that made it; recordings: which were shown, in words."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    drawn = 0

    def picture(draw: Callable[[], Any]) -> str:
        nonlocal drawn
        drawn += 1
        return drawings.inline(draw, drawn)

    trained = [s.curve for s in subjects if s.curve is not None]
    panels = []
    for s in subjects:
        assert s.model.graph is not None
        weight = drawings.first_weights(s.model.graph)
        worst = None if s.found is None else s.found.report.worst
        panels.append(
            {
                "name": s.name,
                "kernels": None if weight is None else picture(partial(drawings.kernels, weight)),
                "rasters": None
                if worst is None
                else picture(partial(raster_figure, worst, "", "#808080", drawings.DIFFERING, 7.2)),
                "worst": "" if worst is None else f"recording {worst.recording}, {worst.agreement:.1%} alike",
                "agreements": _agreements(s),
                "floor": _floor(s),
                "notes": [] if s.found is None else list(s.found.notes),
            }
        )
    shown = next((s.shown for s in subjects if s.shown is not None), None)
    environment = Environment(
        loader=PackageLoader("dpap_neuro.deploy"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=" and ".join(s.name for s in subjects) if len(subjects) < 3 else f"{len(subjects)} networks",
        chip=subjects[0].placement.chip.name,
        names=[s.name for s in subjects],
        headline=_headline(subjects),
        charged=_charged(subjects),
        curves=picture(partial(drawings.curves, trained)) if trained else None,
        by_epoch=[
            {"name": curve.name, "drawn": picture(partial(drawings.layers, curve))}
            for curve in trained
            if curve.layers and len(curve.epochs) > 1
        ],
        sparsities=_sparsities(subjects),
        recording=None if shown is None else picture(partial(drawings.recording, shown)),
        panels=panels,
        comparison=_comparison(subjects) if len(subjects) > 1 else None,
        origin=_origin(subjects, command, recordings),
    )


def write(subjects: Sequence[Subject], out: Path, command: str = "", recordings: str = "none") -> None:
    """`render` into a file, whole or not at all."""
    write_text(out, render(subjects, command, recordings))
