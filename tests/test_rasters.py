"""Pictures of spikes and of sweeps: what is drawn is what was counted, and the axes can be read."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("matplotlib")

import nir
from graph_samples import graph, inp, lif, out

from dpap_neuro.cli import app
from dpap_neuro.deploy.rasters import spike_figure


def test_a_dot_for_every_spike_and_the_counts_in_words():
    rng = np.random.default_rng(0)
    trains = {
        "input": rng.integers(0, 3, (7, 2, 3, 3)),
        "a$b$": rng.integers(0, 2, (7, 5)) == 1,
        "c": np.zeros((7, 4)),
    }
    figure = spike_figure(trains, "title")
    for axis, (name, train) in zip(figure.axes, trains.items(), strict=True):
        dots = {tuple(map(int, xy)) for xy in axis.collections[0].get_offsets()}
        flat = train.reshape(7, -1)
        assert dots == {(s, n) for s in range(7) for n in range(flat.shape[1]) if flat[s, n]}
        active = sum(any(column) for column in flat.T)
        assert f"{name}: {active} of {flat.shape[1]} neurons spike, {len(dots)} spikes" in axis.get_title(
            loc="left"
        )


def test_simulate_draws_and_writes_no_more_than_was_asked(tmp_path):
    rng = np.random.default_rng(1)
    nodes = {
        "input": inp(6),
        "fc": nir.Linear(rng.normal(size=(4, 6))),
        "n": lif(4, tau=0.01, r=4.0),
        "output": out(4),
    }
    nir.write(tmp_path / "a.nir", graph(nodes, dt=0.001))
    np.savez(tmp_path / "x.npz", input=rng.integers(0, 2, (3, 5, 6)))
    command = ["simulate", str(tmp_path / "a.nir"), "--input", str(tmp_path / "x.npz")]
    files = ["--out", str(tmp_path / "s.npz"), "--plot", str(tmp_path / "s.svg")]
    result = CliRunner().invoke(app, [*command, *files])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "s.svg" in result.output.replace("\n", "")
    assert (tmp_path / "s.svg").read_text().lstrip().startswith("<?xml")
    assert np.load(tmp_path / "s.npz").files == ["output"]
    wrong = CliRunner().invoke(app, [*command, "--plot", str(tmp_path / "s.txt")])
    assert wrong.exit_code != 0 and ".png, .svg or .pdf" in str(wrong.exception)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.3, 9.0), (2.0, 20.0), (9.9, 10.3), (10.0, 10.0), (0.02, 90.0), (2e4, 3e5), (4e5, 3e7)],
)
def test_an_axis_has_at_least_two_ticks_in_plain_numbers(low, high):
    pytest.importorskip("torch")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dpap_neuro.train.sweep_picture import _readable

    figure = Figure()
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot([low, high], [1, 2], "o")
    _readable(axis, [low, high])
    figure.canvas.draw()
    left, right = axis.get_xlim()
    texts = [label.get_text() for label in axis.get_xticklabels() if left <= label.get_position()[0] <= right]
    assert len([text for text in texts if text]) >= 3
    shown = {label.get_text(): label.get_position()[0] for label in axis.get_xticklabels()}
    for text in filter(None, texts):
        assert float(text.replace("k", "e3").replace("M", "e6")) == pytest.approx(shown[text], rel=1e-6)
