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
    """Dense and pruned side by side."""
    table = Table(title=f"{summary['dataset']}, {summary['n_test']} test recordings", title_justify="left")
    for heading in ("", "dense", "pruned", "left"):
        table.add_column(heading, justify="left" if heading == "" else "right")

    def counts(label: str, key: str) -> None:
        a, b = summary[f"{key}_dense"], summary[f"{key}_pruned"]
        table.add_row(label, f"{a:,}", f"{b:,}", f"{b / a:.1%}")

    def shares(label: str, a: float, b: float) -> None:
        table.add_row(label, f"{a:.2%}", f"{b:.2%}", "")

    shares("accuracy, float", summary["accuracy_dense"], summary["accuracy_pruned"])
    shares("accuracy, chip's integers", summary["accuracy_dense_fixed"], summary["accuracy_pruned_fixed"])
    shares("spikes alike, float and chip", summary["spike_agreement_dense"], summary["spike_agreement"])
    counts("parameters", "parameters")
    counts("synapses", "synapses")
    for chip, cores in summary["cores_dense"].items():
        table.add_row(escape(f"cores, {chip}"), str(cores), str(summary["cores_pruned"][chip]), "")
    return table


def core_table(chip: str, dense: list[int], pruned: list[int]) -> Table:
    """Synapses on each core of a chip, dense and pruned side by side."""
    table = Table(title=f"synapses per core, {chip}", title_justify="left")
    for heading in ("core", "dense", "pruned"):
        table.add_column(heading, justify="right")
    for core in range(max(len(dense), len(pruned))):
        cells = [f"{counts[core]:,}" if core < len(counts) else "" for counts in (dense, pruned)]
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
    """One picture: accuracy and remaining synapses per epoch; how full each core is, dense against pruned, the fullest first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    chips = list(summary["cores_dense"])
    colours = {"dense": "tab:gray", "pruned": "tab:blue"}
    figure = Figure(figsize=(4.8 + 3.7 * len(chips), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(chips), width_ratios=[1.4, *[1] * len(chips)])
    left = axes[0]
    for name, colour in colours.items():
        history = summary["history"][name]
        epochs = [e["epoch"] + 1 for e in history]
        label = f"accuracy, {name}: {summary[f'accuracy_{name}']:.1%}, on the chip {summary[f'accuracy_{name}_fixed']:.1%}"
        left.plot(epochs, [100 * e["accuracy"] for e in history], color=colour, label=label)
    history = summary["history"]["pruned"]
    left.plot(
        [e["epoch"] + 1 for e in history],
        [100 * e["synapses_remaining"] / e["synapses"] for e in history],
        color="tab:orange",
        linestyle="--",
        label=f"synapses left, pruned: {1 - summary['sparsity']:.1%}",
    )
    left.set(xlabel="epoch", ylabel="%", ylim=(0, 102), title="Learning while pruning")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=9)
    for axis, chip in zip(axes[1:], chips, strict=True):
        for name, shift in (("dense", -0.2), ("pruned", 0.2)):
            full = sorted(summary[f"full_per_core_{name}"][chip], reverse=True)
            cores = summary[f"cores_{name}"][chip]
            axis.bar(
                [i + 1 + shift for i in range(len(full))],
                [100 * share for share in full],
                0.4,
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
