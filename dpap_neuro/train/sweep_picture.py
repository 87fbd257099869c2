"""The picture of a comparison of pruners: accuracy against what each of them leaves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpap_neuro.files import write_picture
from dpap_neuro.train.planned import is_dense, own_rate
from dpap_neuro.train.sweeps import Row, Summary, summarise

# A marker and a colour for each method, told apart without red and green (Okabe and Ito 2008) and in print without colour.
_MARKERS = "osD^vP*X<>hp8"
_DASHES = ("--", ":", "-.", (0, (6, 1)), (0, (1, 4)))
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
# Of a title, on an inch.
_LETTERS = 11


class Panel(NamedTuple):
    """What a panel's axis is, for each line its points, and what is a level in it."""

    what: str
    lines: dict[str, list[tuple[float, Summary]]]
    levels: list[Summary]


def draw(rows: Sequence[Row], path: str | Path, dataset: str = "", unit: str = "seeds") -> None:
    """Accuracy against parameters, synapses and synaptic events that are left, a line and a marker per pruner; against the learning
    rate alone, a panel per sparsity, where a pruner learned at several.

    Bars: standard deviation over seeds, folds, or runs of several seeds a fold (unit). Events are left out where a run does not have them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = summarise(rows)
    panels = _panels(found)
    figure = Figure(figsize=(1.2 + 4.2 * max(1.5, len(panels)), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    shown: dict[str, Any] = {}
    for axis, (what, lines, levels) in zip(axes, panels, strict=True):
        for number, one in enumerate(levels):
            axis.axhline(
                100 * one.accuracy,
                color="0.4",
                linestyle=_DASHES[number % len(_DASHES)],
                linewidth=1,
                label=f"{_named(one.pruner)}, {one.accuracy:.1%}",
            )
        for number, (name, points) in enumerate(lines.items()):
            own = sorted(points, key=lambda point: point[0])
            axis.errorbar(
                [x for x, _ in own],
                [100 * s.accuracy for _, s in own],
                [100 * s.spread for _, s in own],
                marker=_MARKERS[number % len(_MARKERS)],
                color=_COLOURS[number % len(_COLOURS)],
                markersize=5,
                linewidth=1.2,
                capsize=3,
                label=name,
            )
        axis.set_xlabel(what)
        _readable(axis, [x for points in lines.values() for x, _ in points])
        axis.grid(alpha=0.3)
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            shown.setdefault(name, handle)
    axes[0].set_ylabel("test accuracy, %")
    legend = figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=min(4, len(shown)), frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    runs = sorted({s.runs for s in found})
    many = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    bars = f"means of {many} {unit}; bars: standard deviation over {unit}" if runs[-1] > 1 else "one run each"
    title = textwrap.fill(f"{dataset}: {bars}" if dataset else bars, int(_LETTERS * figure.get_figwidth()))
    figure.suptitle(title, fontsize=11, parse_math=False)
    write_picture(figure, path)


def _panels(found: Sequence[Summary]) -> list[Panel]:
    by_rate = _by_rate(found)
    if by_rate:
        return by_rate
    measures: list[tuple[str, Callable[[Summary], float]]] = [
        ("parameters left, %", lambda s: 100 * s.remaining),
        ("synapses left, %", lambda s: 100 * s.synapses_remaining),
    ]
    if all(s.events is not None for s in found):
        measures.append(("synaptic events per recording", lambda s: s.events or 0.0))
    dense, pruned = [s for s in found if is_dense(s.pruner)], [s for s in found if not is_dense(s.pruner)]
    names = dict.fromkeys(s.pruner for s in pruned)
    return [
        Panel(what, {name: [(value(s), s) for s in pruned if s.pruner == name] for name in names}, dense)
        for what, value in measures
    ]


def _by_rate(found: Sequence[Summary]) -> list[Panel]:
    """A panel per sparsity against the learning rates that pruners' names say; none where no pruner learned at several."""
    rated = [(*own_rate(s.pruner), s) for s in found]
    names = dict.fromkeys(_named(name) for name, rate, _ in rated if rate is not None)
    shares = sorted({s.sparsity for s in found if not is_dense(s.pruner)}) or [0.0]
    panels = []
    for share in shares:
        own = [entry for entry in rated if is_dense(entry[2].pruner) or entry[2].sparsity == share]
        lines = {
            each: [(rate, s) for name, rate, s in own if rate is not None and _named(name) == each]
            for each in names
        }
        said = f" with {100 * share:.4g} % removed" if len(shares) > 1 else ""
        panels.append(Panel(f"learning rate{said}", lines, [s for _, rate, s in own if rate is None]))
    return panels if any(len(line) > 1 for panel in panels for line in panel.lines.values()) else []


def _named(pruner: str) -> str:
    return pruner.replace("none", "dense", 1) if is_dense(pruner) else pruner


def _short(value: float, _: Any = None) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:,.12g}{letter}"
    return f"{value:.12g}"


def _readable(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis whose every span has at least three ticks, written as plain numbers, thousands and millions as 200k and 1M."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = min(values, default=1.0), max(values, default=1.0)
    axis.xaxis.set_major_formatter(FuncFormatter(_short))
    if low <= 0:
        axis.xaxis.set_major_locator(MaxNLocator(5))
        return
    axis.set(xscale="log", xlim=(low / 1.25, high * 1.25))
    # In a span of less than a decade and a half 1, 2 and 5 alone are two ticks or one.
    close = high / low < 30
    axis.xaxis.set_major_locator(
        MaxNLocator(5, steps=[1, 2, 5, 10])
        if high / low < 4
        else LogLocator(subs=(1, 2, 3, 5) if close else (1, 2, 5))
    )
    axis.xaxis.set_major_formatter(FuncFormatter(_short))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
