"""Networks side by side on one chip: part of the command line, so it stands on both packages."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.deploy.evaluation import evaluate
from dpap_neuro.deploy.opening import INTEGER_FILES, CompileOptions, Model, open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from dpap_neuro.files import check_picture, read_sealed, write_picture
from hardware.chip.chips import Chip
from hardware.graph.summary import parameters, synapses
from hardware.placement import place
from hardware.placement.budget import fullest_per_core


@dataclass(frozen=True)
class Compared:
    """One network on the chip.

    parameters: non-zero weights of kernels and matrices. synapses: non-zero connections of the unrolled network, after
        rounding for the chip; synapses_before: before it, None for an integer network. full: per limited resource, what the
        network takes of all its cores; full_per_core: what each core has taken of its fullest one. memory_bits: sum over the cores. crossing_spikes: per recording where recordings were
        given, else as if every neuron fired once. accuracy: None where it is not known; accuracy_from: where it comes from.
        notes: what a reader must know besides.
    """

    model: str
    parameters: int
    synapses: int
    synapses_before: int | None
    cores: int
    lower_bound: int
    synapses_per_core: list[int]
    neurons: int
    memory_bits: int
    crossing_spikes: float
    full: dict[str, float]
    full_per_core: list[float]
    accuracy: float | None
    accuracy_from: str | None
    notes: tuple[str, ...] = ()

    @property
    def spread(self) -> tuple[int, float, int]:
        """Least, median and most synapses on a core."""
        counts = self.synapses_per_core
        return min(counts), statistics.median(counts), max(counts)

    def to_dict(self) -> dict[str, Any]:
        low, middle, high = self.spread
        return {
            **asdict(self),
            "synapses_per_core_min": low,
            "synapses_per_core_median": middle,
            "synapses_per_core_max": high,
        }


def compare(
    paths: Sequence[str | Path], options: CompileOptions, recordings: Recordings | None = None
) -> list[Compared]:
    """Place every network on the chip of the options, in the order given; `.nir` files are compiled with them.

    recordings: measure spikes and accuracy on these, in the chip's integers; without, the accuracy is what a run.json or
    summary.json beside the file says. Raises InputError or HardwareError for what cannot be read or placed.
    """
    return [_compare(Path(path), options, recordings) for path in paths]


def _compare(path: Path, options: CompileOptions, recordings: Recordings | None) -> Compared:
    own = options.of_integers() if path.suffix in INTEGER_FILES else options
    opened = open_model(path, own, recordings=recordings)
    notes: tuple[str, ...] = ()
    if recordings is None:
        rates = None
        accuracy, source = recorded_accuracy(path)
    else:
        result = evaluate(opened, recordings, "fixed")
        rates, accuracy, notes = result.rates, result.accuracy, result.notes
        source = f"{result.n} recordings, chip's integers" if accuracy is not None else None
    placement = place(opened.integers(), opened.chip, firing_rates=rates)
    return Compared(
        str(path),
        _parameters(opened),
        placement.synapses,
        None if opened.graph is None else synapses(opened.graph),
        placement.cores,
        placement.lower_bound,
        placement.synapses_per_core.tolist(),
        int(placement.neurons_per_core.sum()),
        int(placement.memory_bits_per_core.sum()),
        placement.crossing_spikes,
        dict(placement.full),
        fullest_per_core(placement).tolist(),
        accuracy,
        source,
        notes,
    )


def recorded_accuracy(path: Path) -> tuple[float | None, str | None]:
    """Test accuracy of a file according to the run.json or summary.json beside it, and the name of that file.

    Raises InputError for an accuracy outside 0 to 1, and for a damaged file.
    """
    source = "run.json" if path.name == "model.nir" else "summary.json"
    beside = path.parent / source
    if not beside.is_file():
        return None, None
    values = read_sealed(beside, "a record", required=False)
    sums = values.get("sha256")
    if isinstance(sums, dict) and path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if sums.get(path.name, digest) != digest:
            raise InputError(f"{path}: is not the file that {beside} tells of (its SHA-256 is another)")
    try:
        value = values["history"][-1]["accuracy"] if source == "run.json" else values[f"accuracy_{path.stem}"]
    except (LookupError, TypeError):
        return None, None
    if value is None:
        return None, None
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise InputError(f"{beside}: found an accuracy of {str(value)[:60]}, expected 0 to 1")
    return float(value), source


def _parameters(model: Model) -> int:
    if model.graph is not None:
        return parameters(model.graph)
    return sum(int(np.count_nonzero(projection.weight)) for projection in model.integers().projections)


def labels(networks: Sequence[Compared]) -> list[str]:
    """The shortest end of each path, at least the file's name, that tells the networks apart."""
    paths = [Path(network.model) for network in networks]
    longest = max(len(path.parts) for path in paths)
    for parts in range(1, longest + 1):
        names = [str(Path(*path.parts[-parts:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def draw(networks: Sequence[Compared], chip: Chip, path: str | Path) -> None:
    """How full each core is of its fullest resource, the fullest core first, a panel per network; the line is the chip's limit.

    On a chip that limits nothing, synapses per core.
    Raises InputError for a name that ends otherwise than in .png, .svg or .pdf, or a folder that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    check_picture(Path(path))
    columns = min(3, len(networks))
    rows = -(-len(networks) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False)
    limited = any(share for network in networks for share in network.full_per_core)
    widest = max(network.cores for network in networks)
    for axis, network, name in zip(axes.flat, networks, labels(networks), strict=False):
        heights = [100 * share for share in sorted(network.full_per_core, reverse=True)]
        if limited:
            axis.axhline(100, color="tab:red", linewidth=1, linestyle="--")
            axis.set_ylim(0, max(112, axis.get_ylim()[1], *heights))
        else:
            heights = [count / 1e3 for count in sorted(network.synapses_per_core, reverse=True)]
        axis.bar(range(1, len(heights) + 1), heights, color="tab:blue", width=0.85 if widest <= 64 else 1.0)
        known = "" if network.accuracy is None else f", {network.accuracy:.1%} right"
        cores = f"{network.cores} core{'s' if network.cores > 1 else ''}"
        axis.set_title(
            f"{name}\n{network.synapses:,} synapses on {cores}{known}", fontsize=9, parse_math=False
        )
        axis.set_xlim(0.3, widest + 0.7)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes.flat[len(networks) :]:
        axis.set_axis_off()
    figure.supxlabel(f"cores of {chip.name}, the fullest first", fontsize=10, parse_math=False)
    what = "% of the core's fullest resource\n(dashed: the chip's limit)" if limited else "thousand synapses"
    figure.supylabel(what, fontsize=10)
    write_picture(figure, path)
