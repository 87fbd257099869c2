"""The training loop: resumed equals uninterrupted, time bins leave the run, sweeps count what they say."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import torch
from torch import nn

from dpap_neuro.errors import InputError
from dpap_neuro.files import write_sealed
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train import loop, paired, runs, sweep_picture, sweeps
from dpap_neuro.train.loop import TrainSettings, train
from dpap_neuro.train.planned import at_rates, own_rate, plan
from dpap_neuro.train.sweep_picture import _panels, draw
from hardware.graph.parsing import read_graph

CPU = torch.device("cpu")
MODEL = ModelSettings("mlp", (2, 8, 8), 3, NeuronSettings(0.01, 0.02))


def recordings(n=60, steps=6, seed=0):
    """Each class is bright in rows of its own; nothing happens after half of the steps."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    rate = np.full((n, steps, 2, 8, 8), 0.05)
    for i, label in enumerate(labels):
        rate[i, :, :, 2 * label : 2 * label + 2] = 0.7
    x = (rng.random(rate.shape) < rate).astype(np.uint8)
    x[:, steps // 2 :] = 0
    return x, labels


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("pruner", "options"),
    [
        ("dpap", {}),
        ("dpap", {"sparsity": 0.7, "bins": 3}),
        ("weighted", {"sparsity": 0.7}),
        ("weighted", {"sparsity": 0.7, "structured": True}),
        ("weighted", {"sparsity": 0.7, "bins": 3}),
        ("set", {"sparsity": 0.7}),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(pruner, options, tmp_path):
    settings = TrainSettings(epochs=8, batch=16, seed=3, compact="structured" in options)

    def run(folder, stop_after=None):
        model = build_model(MODEL, 3)

        def stop(epoch, _):
            if epoch.epoch == stop_after:
                raise Interrupted

        history = train(
            model, make_pruner(pruner, epochs=8, **options), recordings(), recordings(seed=1), settings, CPU,
            on_epoch=stop, checkpoint=folder,
        )  # fmt: skip
        return model.state_dict(), history

    whole, expected = run(None)
    with pytest.raises(Interrupted):
        run(tmp_path, stop_after=3)
    resumed, history = run(tmp_path)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert history.kept_bins == expected.kept_bins
    assert [(e.loss, e.accuracy, e.remaining) for e in history.epochs] == [
        (e.loss, e.accuracy, e.remaining) for e in expected.epochs
    ]
    with pytest.raises(InputError, match="epochs 8, expected 9"):
        train(
            build_model(MODEL, 3), make_pruner(pruner, epochs=8, **options), recordings(), None,
            TrainSettings(epochs=9, batch=16, seed=3), CPU, checkpoint=tmp_path,
        )  # fmt: skip


def run_of(
    folder, settings=None, data=None, test=None, pruner="magnitude", origin=None, change=None, **options
):
    model = build_model(MODEL, 3)
    if change is not None:
        change(model)
    options = {"sparsity": 0.7, **options}
    settings = settings or TrainSettings(epochs=2, batch=16, seed=3)
    data, test = data or recordings(), test or recordings(seed=1)
    history = train(
        model, make_pruner(pruner, epochs=2, **options), data, test, settings, CPU,
        checkpoint=folder, origin=origin,
    )  # fmt: skip
    return model, history


def flipped(data):
    x, y = data
    x = x.copy()
    x.flat[77] += 1
    return x, y


def test_a_resumed_run_is_the_same_run(tmp_path, monkeypatch):
    """One thing changed at a time: refused by name, with both values, and nothing is written."""
    run_of(tmp_path, origin={"clip": 4})
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    settings = TrainSettings(epochs=2, batch=16, seed=3)
    x, y = recordings()

    def nudged(model):
        next(model.parameters()).data.view(-1)[0] += 1e-3

    for changed, says in (
        ({"settings": replace(settings, learning_rate=0.002)}, "learning_rate 0.003, expected 0.002"),
        ({"settings": replace(settings, shift=1)}, "shift 2, expected 1"),
        ({"data": flipped((x, y))}, "recordings"),
        ({"data": (x, np.roll(y, 1))}, "recordings"),
        ({"test": flipped(recordings(seed=1))}, "test recordings"),
        ({"sparsity": 0.7001}, r"pruner goal sparsity 0\.7, expected 0\.7001"),
        ({"reach": 0.6}, r"pruner goal reach 0\.7, expected 0\.6"),
        ({"pruner": "set", "fraction": 0.2}, "pruner name magnitude, expected set"),
        ({"change": nudged}, "first weights"),
        ({"origin": {"clip": 3}}, "clip 4, expected 3"),
        ({"origin": {}}, "clip 4, expected nothing"),
    ):
        with pytest.raises(InputError, match=f"found a run with .*{says}") as error:
            run_of(tmp_path, **{"origin": {"clip": 4}, **changed})
        assert "\n" not in str(error.value)
    monkeypatch.setattr("dpap_neuro.train.description.version", lambda name: "9.9")
    with pytest.raises(InputError, match=r"version of dpap-neuro .*, expected 9\.9"):
        run_of(tmp_path, origin={"clip": 4})
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    _, again = run_of(tmp_path, origin={"clip": 4})
    assert len(again.epochs) == 2


def test_epochs_are_added_to_a_run(tmp_path):
    settings = TrainSettings(epochs=2, batch=16, seed=3, more_epochs=2)
    with pytest.raises(InputError, match="more_epochs: found 2, but no checkpoint"):
        run_of(tmp_path, settings)
    first, _ = run_of(tmp_path)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    longer, history = run_of(tmp_path, settings)
    assert [e.epoch for e in history.epochs] == [0, 1, 2, 3]
    assert history.epochs[3].remaining == history.epochs[1].remaining < history.epochs[1].parameters
    assert any(not torch.equal(value, before[name]) for name, value in longer.state_dict().items())
    _, same = run_of(tmp_path, settings)
    assert [e.loss for e in same.epochs] == [e.loss for e in history.epochs]


def test_dropped_time_bins_are_shown_no_more_and_recorded_in_the_file(tmp_path):
    seen = []
    model = build_model(MODEL, 0)
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    pruner = make_pruner("dpap", epochs=10, bins=3)
    history = train(model, pruner, recordings(), recordings(seed=1), TrainSettings(epochs=10, batch=16), CPU)
    assert history.kept_bins == (0, 1, 2)
    assert seen[0] == 6 and seen[-1] == 3
    runs.save_run(tmp_path, model, history, {"bins": 6})
    assert list(read_graph(tmp_path / "model.nir").metadata["kept_bins"]) == [0, 1, 2]


def test_every_recording_is_tested_in_one_fold():
    x, y = recordings(31)
    tested = []
    for number in range(5):
        (_, y_train), (x_test, y_test) = sweeps.fold((np.arange(31), y), number, 5)
        tested += x_test.tolist()
        assert len(y_train) + len(y_test) == 31 and set(y_test) == {0, 1, 2}
    assert sorted(tested) == list(range(31))
    with pytest.raises(InputError, match="folds"):
        sweeps.fold((x, y), 0, 1)


def test_a_sweep_goes_on_where_it_stopped_and_sums_up(tmp_path):
    table = tmp_path / "runs.csv"
    planned = plan(["none", "magnitude"], [0.5, 0.9], range(2))
    assert len(planned) == 2 * (1 + 2)
    assert plan(["none", "magnitude", "none"], [0.5, 0.9, 0.5], range(2)) == planned
    asked = []

    def data_of(seed):
        asked.append(seed)
        return recordings(), recordings(seed=seed + 5)

    settings = TrainSettings(epochs=4, batch=16)
    first = sweeps.sweep(table, MODEL, data_of, planned[:3], settings, CPU)
    assert sweeps.read_table(table) == first
    rows = sweeps.sweep(table, MODEL, data_of, planned, settings, CPU)
    assert asked == [0] * 3 + [1] * 3 and rows[:3] == first
    for row in rows:
        goal = row.parameters if row.pruner == "none" else round(row.parameters * (1 - row.sparsity))
        assert abs(row.remaining - goal) <= 1
        assert row.accuracy == row.correct / row.n_test
    found = {(s.pruner, s.sparsity): s for s in sweeps.summarise(rows)}
    two = [r.accuracy for r in rows if (r.pruner, r.sparsity) == ("magnitude", 0.9)]
    dense = [r.accuracy for r in rows if r.pruner == "none"]
    assert found["magnitude", 0.9].accuracy == pytest.approx(np.mean(two))
    assert found["magnitude", 0.9].spread == pytest.approx(np.std(two, ddof=1))
    assert found["magnitude", 0.9].lost == pytest.approx(100 * np.mean(np.subtract(dense, two)))
    draw(rows, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    with pytest.raises(InputError, match="epochs"):
        sweeps.sweep(table, MODEL, data_of, planned, TrainSettings(epochs=5, batch=16), CPU)
    with pytest.raises(InputError, match="found runs with batch 16, expected 8"):
        sweeps.sweep(table, MODEL, data_of, planned, TrainSettings(epochs=4, batch=8), CPU)
    with pytest.raises(InputError, match="found runs with readout spikes, expected membrane"):
        sweeps.sweep(table, replace(MODEL, readout="membrane"), data_of, planned, settings, CPU)
    # Settings of before a choice was there have its default, and what else they say counts.
    said = json.loads((tmp_path / "runs.json").read_text())
    older = {k: v for k, v in said.items() if k not in ("source", "loss", "amp", "accumulate", "checksum")}
    older["neuron"] = {k: v for k, v in said["neuron"].items() if k != "surrogate"} | {
        "surrogate_slope": 10.0
    }
    write_sealed(tmp_path / "runs.json", older, 2)
    assert sweeps.sweep(table, MODEL, data_of, planned, settings, CPU) == rows
    with pytest.raises(InputError, match="found runs with batch 16, expected 8"):
        sweeps.sweep(table, MODEL, data_of, planned, TrainSettings(epochs=4, batch=8), CPU)
    half = TrainSettings(epochs=4, batch=16, accumulate=2)
    with pytest.raises(InputError, match="found runs with accumulate 1, expected 2"):
        sweeps.sweep(table, MODEL, data_of, planned, half, CPU)
    (tmp_path / "runs.json").write_text("[]")
    with pytest.raises(InputError, match=r"runs.json: found format list, expected the settings of a sweep"):
        sweeps.sweep(table, MODEL, data_of, planned, settings, CPU)
    (tmp_path / "runs.json").unlink()
    assert sweeps.sweep(table, MODEL, data_of, planned, settings, CPU) == rows
    with pytest.raises(InputError, match="magnitude: has no option 'structured'"):
        sweeps.sweep(tmp_path / "new.csv", MODEL, data_of, planned, settings, CPU, structured=True)
    assert not (tmp_path / "new.csv").exists()
    table.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not a table"):
        sweeps.read_table(table)


def test_a_structured_sweep_says_so_and_keeps_what_is_there(tmp_path):
    table = tmp_path / "runs.csv"
    planned = plan(["none", "weighted"], [0.8], range(1))
    data = (recordings(), recordings(seed=5))
    settings = TrainSettings(epochs=4, batch=16, compact=True)
    first = sweeps.sweep(table, MODEL, lambda _: data, planned, settings, CPU)
    rows = sweeps.sweep(table, MODEL, lambda _: data, planned, settings, CPU, structured=True)
    assert [r.pruner for r in rows] == ["none", "weighted structured"] and rows[0] == first[0]
    assert sweeps.read_table(table) == [*first, rows[1]]
    assert rows[1].remaining == pytest.approx(0.2 * rows[1].parameters, rel=0.05)


def test_a_structured_sweep_over_rates_is_summed_up_and_drawn(tmp_path):
    data = (recordings(), recordings(seed=5))
    names = [name for base in ("none", "weighted") for name in at_rates(base, [0.003, 0.01])]
    settings = TrainSettings(epochs=3, batch=16)
    rows = sweeps.sweep(
        tmp_path / "runs.csv", MODEL, lambda _: data, plan(names, [0.8], [0]), settings, CPU, structured=True
    )
    assert rows[2].pruner == "weighted:learning_rate=0.003 structured"
    assert sweeps.summarise(rows)[3].lost == pytest.approx(100 * (rows[1].accuracy - rows[3].accuracy))
    [(what, lines, _)] = _panels(sweeps.summarise(rows))
    assert (what, list(lines)) == ("learning rate", ["dense", "weighted structured"])
    draw(rows, tmp_path / "sweep.png")


def test_rows_have_synaptic_events_and_pruners_their_options(tmp_path):
    """Events of the first layer by hand: every pixel's count in a step is one, whatever is behind it."""
    table, (x, y) = tmp_path / "runs.csv", recordings(seed=5)
    names = ["none", "magnitude", "magnitude:score=fisher,allocation=lamp"]
    settings = TrainSettings(epochs=3, batch=16)
    planned = plan(names, [0.9], range(1))
    rows = sweeps.sweep(table, MODEL, lambda _: (recordings(), (x, y)), planned, settings, CPU)
    assert [row.pruner for row in rows] == names and sweeps.read_table(table) == rows
    dense, *pruned = rows
    first = 256 * np.count_nonzero(x) / len(x)
    # The hidden layer's spikes, at most one of each neuron in a step, meet three weights each.
    assert first < dense.events <= first + 256 * 3 * x.shape[1]
    assert all(0 < row.events < 0.5 * dense.events for row in pruned)
    assert pruned[0].remaining == pruned[1].remaining and pruned[0].events != pruned[1].events
    summary = sweeps.summarise(rows)
    assert [s.events for s in summary] == [row.events for row in rows]
    assert [s.synapses_left for s in summary] == [row.synapses_remaining for row in rows]
    # A table of before the column, and of before checksums, is read and gone on with.
    lines = [",".join(line.split(",")[:-2]) for line in table.read_text().splitlines()[:3]]
    table.write_text("\n".join(lines) + "\n")
    assert [row.events for row in sweeps.read_table(table)] == [None, None]
    mixed = sweeps.sweep(table, MODEL, lambda _: (recordings(), (x, y)), planned, settings, CPU)
    assert [row.events for row in mixed] == [None, None, rows[2].events]
    assert [s.events for s in sweeps.summarise(mixed)] == [None, None, rows[2].events]


def test_a_pruner_learns_at_a_rate_of_its_own(tmp_path):
    """As a sweep of that rate has it; the dense network beside it is the one of the same rate."""
    data = (recordings(), recordings(seed=5))
    settings = TrainSettings(epochs=3, batch=16, learning_rate=1e-3)

    def rows_of(table, names, settings):
        return sweeps.sweep(
            tmp_path / table, MODEL, lambda _: data, plan(names, [0.9], range(2)), settings, CPU
        )

    names = ["none:learning_rate=0.02", "none", "magnitude:learning_rate=0.02", "magnitude"]
    own = rows_of("own.csv", names, settings)
    said = rows_of("said.csv", ["none", "magnitude"], replace(settings, learning_rate=0.02))
    assert [row.pruner for row in own[:4]] == names
    assert [(r.correct, r.events) for r in own[::2]] == [(r.correct, r.events) for r in said]
    assert [(r.correct, r.events) for r in own[1::2]] != [(r.correct, r.events) for r in said]
    found, apart = ({s.pruner: s.lost for s in sweeps.summarise(rows)} for rows in (own, said))
    assert found["magnitude:learning_rate=0.02"] == apart["magnitude"]
    assert found["magnitude"] == pytest.approx(
        50 * sum(a.accuracy - b.accuracy for a, b in zip(own[1::4], own[3::4], strict=True))
    )
    with pytest.raises(InputError, match=r"own\.csv: found runs with learning_rate 0\.001, expected 0\.02"):
        rows_of("own.csv", names, replace(settings, learning_rate=0.02))
    # Where every pruner names its own, that of all concerns none until one does not.
    rated = [r for r in rows_of("rated.csv", names[::2], settings) if r.pruner in names[::2]]
    assert json.loads((tmp_path / "rated.json").read_text())["learning_rate"] is None
    assert rows_of("rated.csv", names[::2], replace(settings, learning_rate=0.5)) == rated
    unnamed = rows_of("rated.csv", ["none"], replace(settings, learning_rate=0.02))
    assert [(r.correct, r.events) for r in unnamed] == [(r.correct, r.events) for r in said[::2]]
    assert json.loads((tmp_path / "rated.json").read_text())["learning_rate"] == 0.02
    assert rows_of("rated.csv", names[::2], settings) == rated
    with pytest.raises(InputError, match=r"found runs with learning_rate 0\.02, expected 0\.001"):
        rows_of("rated.csv", ["none"], settings)
    # One dense network is everyone's; of several, none is that of a rate that none had.
    assert {s.lost is None for s in sweeps.summarise([r for r in own if r.pruner != "none"])} == {False}
    assert sweeps.summarise([*own[:2], replace(own[2], pruner="lamp:learning_rate=3")])[-1].lost is None
    panels = _panels(sweeps.summarise(own))
    assert [panel.what.split()[0] for panel in panels] == ["parameters", "synapses", "synaptic"]
    for panel in panels:
        assert list(panel.lines) == names[2:] and [s.pruner for s in panel.levels] == names[:2]
    compared = {(d.pruner, d.other) for d in paired.differences(own)}
    assert compared == set(itertools.combinations(names[::-1], 2))


def test_what_learned_at_several_rates_is_drawn_against_them(tmp_path, monkeypatch):
    names = [*at_rates("none", [0.02, 0.001]), *at_rates("magnitude", [0.02, 0.001]), "lamp"]
    data = (recordings(), recordings(seed=5))
    settings = TrainSettings(epochs=2, batch=16)
    rows = sweeps.sweep(
        tmp_path / "runs.csv", MODEL, lambda _: data, plan(names, [0.5, 0.9], [0]), settings, CPU
    )
    panels = _panels(sweeps.summarise(rows))
    assert [panel.what for panel in panels] == [f"learning rate with {share} % removed" for share in (50, 90)]
    for panel, share in zip(panels, (0.5, 0.9), strict=True):
        assert [(s.pruner, s.sparsity) for s in panel.levels] == [("lamp", share)]
        assert list(panel.lines) == ["dense", "magnitude"]
        assert all([x for x, _ in points] == [0.02, 0.001] for points in panel.lines.values())
        assert panel.lines["magnitude"][1][1].accuracy == next(
            r.accuracy for r in rows if (r.pruner, r.sparsity) == ("magnitude:learning_rate=0.001", share)
        )
    draw(rows, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    drawn = []
    monkeypatch.setattr(sweep_picture, "write_picture", lambda figure, _: drawn.append(figure))
    draw(rows, tmp_path / "long.png", "a_folder_of_recordings" * 9)
    drawn[0].canvas.draw()
    box = drawn[0]._suptitle.get_window_extent()
    assert drawn[0].bbox.x0 <= box.x0 and box.x1 <= drawn[0].bbox.x1


def test_rates_and_pruners_are_combined():
    assert at_rates("lamp", [0.1]) == ["lamp"]
    assert at_rates("lamp", [0.1, 0.02]) == ["lamp:learning_rate=0.1", "lamp:learning_rate=0.02"]
    assert at_rates("weighted:regrow=0", [0.1, 1e-5])[1] == "weighted:regrow=0,learning_rate=1e-05"
    assert at_rates("none:learning_rate=1", [0.1, 0.02]) == ["none:learning_rate=1"]
    assert own_rate("weighted:regrow=0,learning-rate = 1e-5,delta=0.5") == (
        "weighted:regrow=0,delta=0.5",
        1e-5,
    )
    assert own_rate("weighted:learning_rate=0.5,regrow=0 structured") == ("weighted:regrow=0 structured", 0.5)
    assert own_rate("none:learning_rate=1") == ("none", 1.0) and own_rate("dpap") == ("dpap", None)


def test_a_plan_refuses_what_it_does_not_know():
    for value in ("0", "-1", "inf", "nan", "", "fast"):
        with pytest.raises(
            InputError, match=f"lamp: found learning_rate '{value}', expected a number above 0"
        ):
            plan([f"lamp:learning_rate={value}"], [0.5], range(1))
    with pytest.raises(InputError, match="none: found learning_rate twice"):
        plan(["none:learning_rate=1,learning_rate=2"], [0.5], range(1))
    with pytest.raises(InputError, match="magnitude: has no option 'colour'"):
        plan(["magnitude:colour=red"], [0.5], range(1))
    with pytest.raises(InputError, match="axe"):
        plan(["axe"], [0.5], range(1))
    with pytest.raises(InputError, match="sparsity"):
        plan(["dpap"], [1.0], range(1))


def test_batch_norms_statistics_cover_an_epoch_of_few_batches():
    usual, own = nn.BatchNorm2d(3), nn.BatchNorm1d(3, momentum=0.01)
    cumulative = nn.BatchNorm1d(3, momentum=None)
    for batches, momentum in ((23, 0.1), (10, 0.1), (4, 0.25), (1, 1.0)):
        usual.momentum = 0.1
        loop._cover_an_epoch(nn.Sequential(usual, own, cumulative), batches)
        assert (usual.momentum, own.momentum, cumulative.momentum) == (momentum, 0.01, None)
