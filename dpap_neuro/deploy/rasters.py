"""A network's spikes on one recording as a picture: a panel for the input and one per population."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.files import check_picture, write_picture

# Above so many dots a panel of a vector format becomes pixels.
RASTERIZED = 20_000


def draw_spikes(trains: Mapping[str, np.ndarray], path: Path, title: str = "") -> None:
    """`spike_figure` as a picture. Raises InputError for another suffix than .png, .svg or .pdf, or a folder that cannot be
    written."""
    check_picture(path)
    write_picture(spike_figure(trains, title), path)


def spike_figure(trains: Mapping[str, np.ndarray], title: str = "") -> Any:
    """A matplotlib figure of spikes, a panel per name: neurons upwards, in C order of their shape, steps to the right.

    trains: of each name (steps, *shape); what is not zero is a spike. Above each panel stand how many neurons there are, how many
    of them spike, and how many spikes a neuron has in a step.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 0.9 + 1.8 * len(trains)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(trains), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (name, train) in zip(axes, trains.items(), strict=True):
        spikes = train.reshape(len(train), -1) != 0
        steps, neurons = np.nonzero(spikes)
        count = spikes.shape[1]
        axis.scatter(
            steps,
            neurons,
            # Dashes most of a step wide and about a neuron high, in points of a panel of 560 x 90.
            s=max(1.2, 0.7 * 560 / len(train)) ** 2,
            marker="_",
            linewidths=min(3.0, max(0.4, 60 / max(count, 1))),
            color="#0072b2",
            rasterized=len(steps) > RASTERIZED,
        )
        active = int(spikes.any(axis=0).sum())
        axis.set_title(
            f"{name}: {active:,} of {count:,} neurons spike, {len(steps):,} spikes, {spikes.mean() if spikes.size else 0:.3f} per "
            "neuron and step",
            fontsize=9,
            loc="left",
            parse_math=False,
        )
        axis.set(ylabel="neuron", ylim=(-0.02 * count - 0.5, 1.02 * count - 0.5))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[-1].set_xlabel("time step")
    axes[-1].set_xlim(-0.5, max(map(len, trains.values())) - 0.5)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure
