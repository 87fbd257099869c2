"""Pictures of a report page: matplotlib's SVG without addresses, in the colours of the page they stand on.

matplotlib is imported where it draws: the page's numbers need none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import nir
import numpy as np

from hardware.graph.graph import Graph

# Stands for the colour of the page's text, light or dark.
INK = "#010203"
# One colour per network or layer, told apart by eyes that see no red or no green (Okabe and Ito 2008), on light and on dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#b8860b")
DIFFERING = "#e0403a"
KERNELS = 32
STEPS = 10
_WEIGHTED = (nir.Conv1d, nir.Conv2d, nir.Affine, nir.Linear)


@dataclass(frozen=True)
class Curve:
    """One network's training: (epochs,) accuracies and shares of the synapses left, in percent; None where not known.

    rates: of every layer the spikes per neuron and step, (epochs,). layers: of each the share of its parameters removed, in percent.
    Both are empty where not known.
    """

    name: str
    epochs: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    left: tuple[float, ...]
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    layers: dict[str, tuple[float, ...]] = field(default_factory=dict)


def curves(found: Sequence[Curve]) -> Any:
    """Accuracy above, synapses left below, and where they are known a line for the rate of every layer, by epoch."""
    from matplotlib.ticker import MaxNLocator

    rows = 3 if any(curve.rates for curve in found) else 2
    figure = _figure(5.2, 0.6 + 1.8 * rows)
    axes = figure.subplots(rows, 1, sharex=True)
    above, below = axes[:2]
    for number, curve in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        values = [np.nan if a is None else a for a in curve.accuracy]
        above.plot(curve.epochs, values, ".-", color=colour, label=curve.name)
        below.plot(curve.epochs, curve.left, ".-", color=colour)
        # Layers by their line, networks by their colour as above; points, so that one epoch shows.
        for layer, style in zip(curve.rates, cycle((".-", ".--", ".:", ".-.")), strict=False):
            axes[2].plot(curve.epochs, curve.rates[layer], style, color=colour)
    above.set_ylabel("accuracy, %")
    below.set_ylabel("synapses left, %")
    below.set_ylim(0, 103)
    legends = [above.legend(frameon=False, loc="lower right")]
    if rows == 3:
        axes[2].set_ylabel("spikes per\nneuron and step")
        axes[2].set_ylim(0, None)
        named = next(curve.rates for curve in found if curve.rates)
        lines = [
            axes[2].plot([], [], style, color=INK, label=layer)[0]
            for layer, style in zip(named, cycle(("-", "--", ":", "-.")), strict=False)
        ]
        legends.append(
            axes[2].legend(handles=lines, title="layer", frameon=False, ncols=4, fontsize="x-small")
        )
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for legend in legends:
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def layers(curve: Curve) -> Any:
    """Of each layer the share of its parameters removed, by epoch."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(5.2, 2.5 + 0.18 * -(-len(curve.layers) // 3))
    axis = figure.subplots()
    for number, (name, removed) in enumerate(curve.layers.items()):
        style = ".-" if number < len(COLOURS) else ".--"
        axis.plot(curve.epochs, removed, style, color=COLOURS[number % len(COLOURS)], label=name)
    axis.set(xlabel="epoch", ylabel="parameters removed, %", ylim=(-3, 103))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def first_weights(graph: Graph) -> np.ndarray | None:
    """(kernels, channels, rows, columns) of the first convolution, or of the first matrix on an image; None without either."""
    node = next((n for n in (graph.nodes[name] for name in graph.order) if isinstance(n, _WEIGHTED)), None)
    if node is None:
        return None
    weight = np.asarray(node.weight, np.float64)
    if isinstance(node, nir.Conv2d):
        return weight
    if isinstance(node, nir.Affine | nir.Linear) and len(graph.inputs) == 1:
        shape = graph.input_shape[graph.inputs[0]]
        if len(shape) == 3 and int(np.prod(shape)) == weight.shape[1]:
            return weight.reshape(-1, *shape)
    return None


def kernels(weight: np.ndarray) -> Any:
    """A tile per kernel and channel, a channel per row; blue below 0, red above, removed weights grey.

    weight: (kernels, channels, rows, columns); the first `KERNELS` kernels and 4 channels.
    """
    n, channels = min(len(weight), KERNELS), min(weight.shape[1], 4)
    rows, columns = weight.shape[2:]
    picture = np.full((channels * (rows + 1) - 1, n * (columns + 1) - 1), np.nan)
    removed = np.zeros(picture.shape, bool)
    for c in range(channels):
        for k in range(n):
            at = np.s_[
                c * (rows + 1) : c * (rows + 1) + rows, k * (columns + 1) : k * (columns + 1) + columns
            ]
            picture[at] = np.where(weight[k, c] == 0, np.nan, weight[k, c])
            removed[at] = weight[k, c] == 0
    figure = _figure(7.2, max(0.8, 7.2 * picture.shape[0] / picture.shape[1] + 0.1))
    axis = figure.subplots()
    most = float(np.nanmax(np.abs(weight))) or 1.0
    grey = np.zeros((*picture.shape, 4))
    grey[removed] = (0.5, 0.5, 0.5, 0.35)
    axis.imshow(grey, interpolation="nearest")
    axis.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    axis.set_axis_off()
    return figure


def recording(raster: np.ndarray) -> Any:
    """One input: an image per step where it has rows and columns, else channels over time. raster: (steps, *shape)."""
    if raster.ndim != 4:
        flat = raster.reshape(len(raster), -1).T
        figure = _figure(7.2, 2.6)
        axis = figure.subplots()
        axis.imshow(flat, aspect="auto", interpolation="nearest", cmap="magma")
        axis.set_xlabel("step")
        axis.set_ylabel("input")
        return figure
    chosen = np.unique(np.linspace(0, len(raster) - 1, STEPS).round().astype(int))
    values = raster.astype(np.float64)
    # Darker (off) below 0, brighter (on) above; of other inputs the sum.
    image = values[:, 1] - values[:, 0] if raster.shape[1] == 2 else values.sum(axis=1)
    most = float(np.abs(image).max()) or 1.0
    columns = min(5, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = _figure(7.2, 0.2 + rows * (7.2 / columns * image.shape[1] / image.shape[2] * 0.9 + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, step in zip(axes, chosen, strict=False):
        axis.imshow(image[step], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        axis.set_title(f"step {step}", fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def inline(draw: Any, number: int) -> str:
    """The SVG of draw()'s figure for a page: text stays text, `INK` is the page's colour, no address is in it, and its ids are
    those of no other number."""
    import matplotlib

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dpap-neuro",
        "font.family": "sans-serif",
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), INK),
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.labelcolor": INK,
    }
    memory = io.BytesIO()
    with matplotlib.rc_context(style):
        figure = draw()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(memory, format="svg", transparent=True, dpi=110, metadata=nothing)
    text = memory.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        r'<svg \1 focusable="false" aria-hidden="true">',
        text,
        count=1,
    )
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="f{number}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>f{number}-", text)
    return text.replace("xlink:href", "href").replace(INK, "currentColor")
