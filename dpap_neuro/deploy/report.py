"""What a person looks at: tables for the terminal, and the demo's picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from dpap_neuro.deploy.comparison import Compared
from dpap_neuro.files import write_picture
from hardware.placement.budget import RESOURCES, percent

if TYPE_CHECKING:
    from dpap_neuro.train.paired import Difference
    from dpap_neuro.train.sweeps import Summary


def demo_table(summary: dict[str, Any]) -> Table:
    """The networks side by side; of counts also what is left of the dense one's."""
    names = summary["networks"]
    table = Table(title=f"{summary['dataset']}, {summary['n_test']} test recordings", title_justify="left")
    for heading in ("", *names):
        table.add_column(heading, justify="left" if heading == "" else "right")

    def counts(label: str, key: str) -> None:
        dense = summary[f"{key}_dense"]
        found = [summary[f"{key}_{name}"] for name in names]
        table.add_row(label, *(f"{n:,}" + ("" if n == dense else f"\n{n / dense:.1%}") for n in found))

    def shares(label: str, key: str) -> None:
        table.add_row(label, *(f"{summary[key.format(name)]:.2%}" for name in names))

    shares("accuracy as trained", "accuracy_{}")
    shares("accuracy on the chip", "accuracy_{}_fixed")
    shares("spikes alike in both", "spike_agreement_{}")
    counts("parameters", "parameters")
    counts("synapses", "synapses")
    for chip in summary["cores_dense"]:
        cores = [str(summary[f"cores_{name}"][chip]) for name in names]
        table.add_row(escape(f"cores, {chip}"), *cores)
    return table


def core_table(chip: str, synapses: dict[str, list[int]]) -> Table:
    """Synapses on each core of a chip, by network, side by side."""
    table = Table(title=f"synapses per core, {chip}", title_justify="left")
    for heading in ("core", *synapses):
        table.add_column(heading, justify="right")
    for core in range(max(len(counts) for counts in synapses.values())):
        cells = [f"{counts[core]:,}" if core < len(counts) else "" for counts in synapses.values()]
        table.add_row(str(core), *cells)
    return table


def sweep_table(summaries: list[Summary]) -> Table:
    """Means over seeds; +- is the standard deviation over seeds, lost points of accuracy against `none`. Events: synaptic events
    per recording, see `inputs.synaptic_events`."""
    table = Table(
        title="accuracy at equal sparsity; events: synaptic, per recording",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    headings = ("removed", "runs", "accuracy", "lost", "parameters", "synapses", "events")
    table.add_column("pruner", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for s in summaries:
        # Spreads and shares on a second line, so that no number is broken at 80 columns.
        table.add_row(
            s.pruner,
            f"{s.sparsity:.0%}",
            str(s.runs),
            f"{s.accuracy:.2%}\n+- {100 * s.spread:.2f} ",
            "" if s.lost is None else f"{s.lost:.2f}\n+- {s.lost_spread:.2f}",
            f"{s.parameters_left:,.0f}\n{s.remaining:.2%}",
            f"{s.synapses_left:,.0f}\n{s.synapses_remaining:.2%}",
            "" if s.events is None else f"{s.events:,.0f}",
        )
    return table


def paired_table(found: list[Difference], other: str, folds: int | None) -> Table:
    """How far pruners are ahead of `other`, in points of accuracy, run by run."""
    unit = "seeds" if folds is None else "folds"
    table = Table(
        title=f"points ahead of {escape(other)}; 95 % interval over {unit}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("pruner", overflow="fold")
    for heading in ("removed", "points", "interval", f"{unit} ahead", "behind"):
        table.add_column(heading, justify="right", no_wrap=True)
    for d in found:
        table.add_row(
            escape(d.pruner),
            f"{d.sparsity:.0%}",
            f"{d.points:+.2f}",
            "" if d.low is None else f"{d.low:+.2f} to {d.high:+.2f}",
            f"{d.ahead} of {d.units}",
            str(d.behind),
        )
    return table


def compare_table(networks: list[Compared], names: list[str], chip: str, unit: str) -> Table:
    """Networks in columns, what is compared in rows, with ratios to the first. unit: what crossing spikes are counted per."""
    table = Table(title=f"on {chip}", title_justify="left")
    table.add_column("", overflow="fold")
    for name in names:
        # Folded where the terminal is narrow: a number that is cut off is another number.
        table.add_column(name, justify="right", overflow="fold")

    def row(label: str, cells: Iterable[str]) -> None:
        table.add_row(label, *cells)

    def counts(label: str, values: Sequence[float], digits: int = 0) -> None:
        """Numbers, and from the second on their ratio to the first."""
        cells = [f"{value:,.{digits}f}" for value in values]
        if values[0]:
            cells[1:] = [f"{c} ({v / values[0]:.2f}x)" for c, v in zip(cells[1:], values[1:], strict=True)]
        row(label, cells)

    counts("parameters", [n.parameters for n in networks])
    if any(n.synapses_before is not None for n in networks):
        row(
            "synapses before rounding",
            ("" if n.synapses_before is None else f"{n.synapses_before:,}" for n in networks),
        )
    counts("synapses on the chip", [n.synapses for n in networks])
    counts("neurons", [n.neurons for n in networks])
    counts("cores", [n.cores for n in networks])
    row("  at least needed", (f"{n.lower_bound:,}" for n in networks))
    for number, label in enumerate(("least", "median", "most")):
        counts(f"synapses per core, {label}", [n.spread[number] for n in networks])
    counts("memory bits", [n.memory_bits for n in networks])
    for key, label in RESOURCES.items():
        if any(key in n.full for n in networks):
            row(f"  cores full of {label}", (percent(n.full[key]) if key in n.full else "" for n in networks))
    tight = [max(n.full, key=lambda k, n=n: n.full[k], default="") for n in networks]  # type: ignore[misc]
    row("  tight", (RESOURCES.get(key, "") for key in tight))
    counts(f"spikes between cores, {unit}", [n.crossing_spikes for n in networks])
    row("accuracy", ("" if n.accuracy is None else f"{n.accuracy:.2%}" for n in networks))
    row("accuracy from", (n.accuracy_from or "" for n in networks))
    return table


def draw_demo(summary: dict[str, Any], path: str | Path) -> None:
    """One picture: accuracy and remaining synapses per epoch; how full each core is, network by network, the fullest first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    chips = list(summary["cores_dense"])
    names = summary["networks"]
    colours = dict(zip(names, ("tab:gray", "tab:blue", "tab:green", "tab:purple"), strict=False))
    figure = Figure(figsize=(4.8 + 3.7 * len(chips), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(chips), width_ratios=[1.4, *[1] * len(chips)])
    left = axes[0]
    for name, colour in colours.items():
        history = summary["history"][name]
        # What was trained on begins where the other ended.
        first = 1 if name != "exact" else summary["epochs"] + 1
        epochs = [e["epoch"] + first for e in history]
        label = f"accuracy, {name}: {summary[f'accuracy_{name}']:.1%}, on the chip {summary[f'accuracy_{name}_fixed']:.1%}"
        left.plot(epochs, [100 * e["accuracy"] for e in history], color=colour, label=label)
    for name in ("pruned", "weighted"):
        history = summary["history"][name]
        left.plot(
            [e["epoch"] + 1 for e in history],
            [100 * e["synapses_remaining"] / e["synapses"] for e in history],
            color=colours[name],
            linestyle="--",
            label=f"synapses left, {name}: {summary[f'synapses_{name}'] / summary['synapses_dense']:.1%}",
        )
    left.set(xlabel="epoch", ylabel="%", ylim=(0, 102), title="Learning while pruning")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=9)
    for axis, chip in zip(axes[1:], chips, strict=True):
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            shift = (number - (len(names) - 1) / 2) * width
            full = sorted(summary[f"full_per_core_{name}"][chip], reverse=True)
            cores = summary[f"cores_{name}"][chip]
            axis.bar(
                [i + 1 + shift for i in range(len(full))],
                [100 * share for share in full],
                width,
                color=colours[name],
                label=f"{name}: {summary[f'synapses_{name}']:,} synapses, {cores} core{'s' if cores > 1 else ''}",
            )
        _limit(axis)
        axis.set(xlabel="cores, the fullest first", ylabel="% of the core's fullest resource")
        axis.set_title(f"Cores of {chip}", parse_math=False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=9)
    write_picture(figure, path)


def _limit(axis: Any) -> None:
    """The chip's limit as a line, with room above it."""
    axis.axhline(100, color="tab:red", linewidth=1, linestyle="--", label="the chip's limit")
    axis.set_ylim(0, max(112, axis.get_ylim()[1]))
