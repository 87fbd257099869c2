"""Lava itself, our simulator and the oracle written from the text: the same integers, every one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle_network as oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lava_samples import compiled, networks

from hardware.errors import HardwareError
from hardware.files.network_file import save
from hardware.files.netx_reading import mantissas, read_net
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)
from hardware.simulate import lava, simulator
from hardware.simulate.given import check_rasters
from hardware.simulate.lava import running

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "lava"
VARIABLES = ("spikes", "u", "v")
needs_lava = pytest.mark.skipif(
    not lava.available(), reason="lava-nc 0.10.0 is not installed in this Python (it needs 3.10)"
)
needs_recordings = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
# Our own interpreter where it has Lava, else one that is named.
OTHER = os.environ.get("LAVA_PYTHON") or (sys.executable if lava.available() else None)
needs_other = pytest.mark.skipif(OTHER is None, reason="no Python with lava-nc: name one in LAVA_PYTHON")


def many(examples):
    """LAVA_EXAMPLES asks for more, or for fewer."""
    return settings(
        max_examples=int(os.environ.get("LAVA_EXAMPLES", examples)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def names(network):
    return [p.name for p in network.populations]


def same_run(a, b):
    """Every recorded value, and what follows from them."""
    assert a.output.dtype == b.output.dtype and np.array_equal(a.output, b.output)
    for variable in (*VARIABLES, "counts"):
        x, y = getattr(a, variable), getattr(b, variable)
        assert set(x) == set(y)
        for name in x:
            assert x[name].dtype == y[name].dtype
            assert np.array_equal(x[name], y[name]), f"{variable} of {name}"
    assert a.depth == b.depth and a.timing == b.timing == "chip"


def agree(network, raster, interval=None, offset=0):
    """Lava, simulator and oracle on everything; what the simulator returned."""
    ours = simulator.simulate(network, raster, "chip", names(network), None, interval, offset)
    same_run(lava.simulate(network, raster, names(network), interval, offset), ours)
    rasters, batch, _ = check_rasters(network, raster)
    for b in range(batch):
        given_here = {name: np.asarray(x[b]) for name, x in rasters.items()}
        expected, _ = oracle.run(network, given_here, "chip", interval, offset)
        for name, values in expected.items():
            for variable in VARIABLES:
                found = getattr(ours, variable)[name][b].reshape(values[variable].shape)
                assert np.array_equal(found, values[variable]), f"{variable} of {name}"
    return ours


# --- random networks ---


@needs_lava
@many(180)
@given(case=networks())
def test_lava_is_our_simulator(case):
    """Dense, sparse, convolution, recurrent, skip, delays, decays, biases, pairs, soft resets, saturation and wrapping."""
    agree(*case)


@needs_lava
@many(60)
@given(case=compiled(), interval=st.sampled_from([None, None, 5]))
def test_lava_runs_what_the_compiler_writes(case, interval):
    """Pairs of synapses, always-on inputs, soft resets; tests/benchmarks/bench_lava_equal.py runs hundreds more."""
    agree(*case, interval)


@needs_lava
@many(30)
@given(case=networks(), interval=st.integers(1, 6), offset=st.integers(0, 7))
def test_periodic_reset(case, interval, offset):
    agree(*case, interval, offset)


# --- corners ---


def one_neuron(weights, exponent=0, **parameters):
    """Inputs of given weights onto one neuron that keeps all it gets."""
    return Network(
        (InputPopulation("in", (len(weights),)),),
        (Population("n", (1,), **{"du": 4095, "dv": 0, "vth": 131071, **parameters}),),
        (DenseProjection("in", "n", np.array([weights], np.int32), exponent),),
        ("n",),
    )


@needs_lava
@pytest.mark.parametrize("weight", [254, -256])
@pytest.mark.parametrize("counts", [[3, 1, 1, 1], [5, 0, 0, 1], [12, 0], [40, 0], [30] * 5, [70_000, 1]])
def test_currents_that_leave_24_bit(counts, weight):
    """254 << 7 << 6 = 2080768: five spikes at once are wrapped, thirteen stay beyond 24 bit even then."""
    network = one_neuron([weight], 7, du=0)
    ours = agree(network, np.array([*counts, 0, 0]).reshape(1, -1, 1))
    assert (abs(ours.u["n"]).max() > 2**23) == (counts[0] > 12)


@needs_lava
@pytest.mark.parametrize(
    ("counts", "u"),
    [
        ([0, 65_535], 2**23 - 128),
        ([0, 65_536], 2**23),
        ([0, 65_537], 128 - 2**23),
        ([512, 1], 128 - 2**23),
        ([512, 0], 2**23),
        ([513, 127], 2**23 - 128),
    ],
)
def test_the_edge_of_24_bit(counts, u):
    """2**23 stays, -2**23 becomes it: what lava-nc calls 24 bit is (-2**23, 2**23]."""
    ours = agree(one_neuron([-256, 2]), np.array([[counts, [0, 0]]]))
    assert ours.u["n"][0, 1, 0] == u


@needs_lava
@pytest.mark.parametrize("interval", [None, 4])
def test_reset_by_subtraction(interval):
    """From a distance of many thresholds, one spike and one threshold a step; stays exact at the membrane's limit."""
    network = one_neuron([200, -256], 7, vth=700, reset="subtract")
    ours = agree(
        network, np.array([[[2, 0], *[[0, 0]] * 5, [9, 0], *[[0, 0]] * 5, [0, 2], [1, 0]]]), interval
    )
    assert -700 * 64 in np.diff(ours.v["n"][0, :, 0]) and ours.spikes["n"].sum() > 3
    agree(one_neuron([254], 7, vth=100, bias_mant=4095, bias_exp=7, reset="subtract"), np.full((1, 9, 1), 3))
    agree(one_neuron([254], 7, vth=0, reset="subtract"), np.full((1, 4, 1), 1))


@needs_lava
def test_membrane_stops_at_its_limits():
    network = one_neuron([254, -256], 7, bias_mant=4095, bias_exp=7, spiking=False)
    ours = agree(network, np.array([[[3, 0]] * 6 + [[0, 3]] * 9]))
    assert ours.v["n"].max() == 2**23 - 1 and ours.v["n"].min() == 1 - 2**23
    agree(one_neuron([254, -256], 7, bias_mant=4095, bias_exp=7), np.array([[[3, 0]] * 6 + [[0, 3]] * 9]))


@needs_lava
def test_a_convolutions_sum_wraps_before_it_reaches_the_neuron():
    """259 * 254 << 7 is beyond 2**23, and comes out negative; a dense projection's sum does not."""
    image = Network(
        (InputPopulation("in", (1, 1, 1)),),
        (Population("n", (1, 1, 1), vth=131071),),
        (ConvProjection("in", "n", np.full((1, 1, 1, 1), 254, np.int32), weight_exp=7),),
        ("n",),
    )
    counts = np.array([1, 257, 258, 259, 300, 515, 516, 517, 600, 0])
    convolved = agree(image, counts.reshape(1, -1, 1, 1, 1)).u["n"].reshape(-1)
    dense = agree(one_neuron([254], 7), counts.reshape(1, -1, 1)).u["n"].reshape(-1)
    assert convolved[2] == dense[2] and convolved[4] != dense[4]


@needs_lava
def test_parts_that_do_not_touch():
    """Two inputs, each with its own population, and one population that nothing reaches."""
    weight = np.array([[100, -20]], np.int32)
    network = Network(
        (InputPopulation("a", (2,)), InputPopulation("b", (2,))),
        (
            Population("x", (1,), vth=90),
            Population("y", (1,), vth=90, dv=100),
            Population("alone", (2, 3), bias_mant=90),
        ),
        (DenseProjection("a", "x", weight), DenseProjection("b", "y", weight)),
        ("y",),
    )
    rng = np.random.default_rng(0)
    raster = {name: rng.integers(0, 2, (2, 12, 2)) for name in "ab"}
    ours = simulator.simulate(network, raster, "chip", names(network))
    same_run(lava.simulate(network, raster, names(network)), ours)
    assert ours.spikes["x"].any() and ours.spikes["alone"].any()


@needs_lava
@pytest.mark.parametrize("shape", [(0, 4, 1), (2, 0, 1)])
def test_empty_rasters(shape):
    network, raster = one_neuron([2]), np.zeros(shape, int)
    same_run(lava.simulate(network, raster, ["n"]), simulator.simulate(network, raster, "chip", ["n"]))


@needs_lava
def test_recording_sees_what_lavas_own_monitor_sees():
    """Stock LIF, stock Monitor: extending `reset_voltage` changed nothing."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import Dense
    from lava.proc.io.source import RingBuffer
    from lava.proc.lif.process import LIF
    from lava.proc.monitor.process import Monitor

    rng = np.random.default_rng(3)
    weight = 2 * rng.integers(-120, 120, (6, 4))
    raster = rng.integers(0, 2, (25, 4))
    source, synapses = RingBuffer(data=raster.T.copy()), Dense(weights=weight)
    neurons = LIF(shape=(6,), du=1500, dv=300, vth=150, bias_mant=-3, bias_exp=5)
    source.s_out.connect(synapses.s_in)
    synapses.a_out.connect(neurons.a_in)
    targets = {"spikes": neurons.s_out, "u": neurons.u, "v": neurons.v}
    monitors = {variable: Monitor() for variable in targets}
    for variable, target in targets.items():
        monitors[variable].probe(target, 25)
    neurons.run(condition=RunSteps(num_steps=25), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    seen = {k: m.get_data()[neurons.name][targets[k].name] for k, m in monitors.items()}
    neurons.stop()
    network = Network(
        (InputPopulation("in", (4,)),),
        (Population("n", (6,), 1500, 300, 150, -3, 5),),
        (DenseProjection("in", "n", weight),),
        ("n",),
    )
    run = lava.simulate(network, raster[None], ["n"])
    assert seen["spikes"].any()
    for variable in VARIABLES:
        assert np.array_equal(getattr(run, variable)["n"][0], seen[variable])


@needs_lava
@needs_recordings
def test_tinynet_on_lava():
    network = read_net(SHARED / "tinynet" / "network.net", "spikes")
    raster = np.load(SHARED / "tinynet" / "input.npy").transpose(0, 4, 1, 2, 3).astype(int)
    ours = simulator.simulate(network, raster, "chip", names(network))
    same_run(lava.simulate(network, raster, names(network)), ours)
    current = np.load(SHARED / "tinynet" / "current.npy").transpose(0, 4, 1, 2, 3).astype(int)
    assert np.array_equal(ours.u["layer1"][:, 1:], current[:, :-1] << 6)


@needs_recordings
def test_the_recorded_dense_layer():
    """2,000 steps of 256 neurons: every current, every spike."""
    spikes, weight, current, out = (
        np.load(SHARED / "dense" / f"{name}.npy").astype(np.int32)
        for name in ("in", "weight", "current", "out")
    )
    mantissa, exponent, signs = mantissas(weight)
    network = Network(
        (InputPopulation("in", (200,)),),
        (Population("n", (256,), du=4095, dv=415, vth=6),),
        (DenseProjection("in", "n", mantissa, exponent, signs),),
        ("n",),
    )
    run = simulator.simulate(network, spikes.T[None], "chip", ["n"])
    assert np.array_equal(run.u["n"][0], current.T << 6)
    assert np.array_equal(run.spikes["n"][0], out.T) and out.any()


# --- what is refused ---


def refused(words, call, *arguments, **keywords):
    with pytest.raises(HardwareError, match=words) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)


ONE = np.zeros((1, 3, 1), int)
TWICE = replace(
    one_neuron([2]),
    projections=(
        SparseProjection("in", "n", np.array([0, 2]), np.array([0, 0], np.int32), np.array([2, 2])),
    ),
)


@needs_lava
def test_what_lava_cannot_run():
    refused("two synapses", lava.simulate, TWICE, ONE)
    image = Network(
        (InputPopulation("in", (1, 2, 2)),),
        (Population("n", (1, 2, 2)),),
        (ConvProjection("in", "n", np.full((1, 1, 1, 1), 2), weight_exp=-2),),
        ("n",),
    )
    raster = np.zeros((1, 3, 1, 2, 2), int)
    refused("multiples of 4", lava.simulate, image, raster)
    wide = replace(
        image.projections[0], weight_exp=0, padding=(200, 0), weight=np.full((1, 1, 401, 1), 2, np.int32)
    )
    refused("8 bit", lava.simulate, replace(image, projections=(wide,)), raster)


@needs_lava
def test_bad_arguments_in_one_line():
    network = one_neuron([2])
    refused("shape", lava.simulate, network, np.zeros((1, 3, 2), int))
    refused("counts", lava.simulate, network, ONE - 1)
    refused("record", lava.simulate, network, ONE, ["m"])
    refused("interval", lava.simulate, network, ONE, reset_interval=0)


@needs_lava
@pytest.mark.parametrize(
    ("ending", "words"),
    [(lambda: os._exit(9), "one of its processes ended"), (lambda: [][0], "list index out of range")],
)
def test_a_process_that_ends_is_not_waited_for(ending, words, monkeypatch):
    """As where /dev/shm is too small: Lava's own run would hang."""
    stock = running.recording_models

    def failing(logs):
        models = stock(logs)
        for model in models.values():
            model.reset_voltage = lambda *_, **__: ending()
        return models

    monkeypatch.setattr(running, "recording_models", failing)
    refused(words, lava.simulate, one_neuron([2]), ONE)
    monkeypatch.undo()
    assert lava.simulate(one_neuron([2]), ONE, ["n"]).v["n"].shape == (1, 3, 1)


def test_a_missing_lava_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(running, "available", lambda: False)
    refused("--lava-python", lava.simulate, one_neuron([2]), ONE)
    assert lava.main(["a", "b", "c"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    refused("cannot start", lava.run_elsewhere, tmp_path / "none", one_neuron([2]), ONE)


@pytest.mark.skipif(lava.available(), reason="this Python has lava-nc")
def test_another_python_without_lava_is_one_line():
    refused("--lava-python", lava.run_elsewhere, sys.executable, one_neuron([2]), ONE)


# --- another interpreter ---


def test_another_python_gets_this_package_alone(tmp_path, monkeypatch):
    """Not the folder that it is installed in, with the packages of this Python."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho $PYTHONPATH/* $PYTHONPATH/*/errors.py | sed "s;$PYTHONPATH/;;g" >&2\nexit 1\n'
    )
    python.chmod(0o755)
    refused("python: hardware hardware/errors.py; it needs", lava.run_elsewhere, python, one_neuron([2]), ONE)


@needs_other
def test_run_elsewhere():
    rng = np.random.default_rng(4)
    network = Network(
        (InputPopulation("in/1", (3,)),),
        (Population("größe", (2, 2), du=np.arange(4), vth=40), Population("out", (2,), vth=9)),
        (
            DenseProjection("in/1", "größe", 2 * rng.integers(-99, 99, (4, 3)), delay=2),
            DenseProjection("größe", "out", 2 * rng.integers(-99, 99, (2, 4))),
            DenseProjection("out", "out", 2 * rng.integers(-99, 99, (2, 2))),
        ),
        ("out",),
    )
    raster = rng.integers(0, 3, (2, 15, 3))
    for record, interval in ((names(network), None), ({"größe": ["v"]}, 5)):
        run = lava.run_elsewhere(OTHER, network, raster, record, interval, 1)
        same_run(run, simulator.simulate(network, raster, "chip", record, None, interval, 1))
    refused("record", lava.run_elsewhere, OTHER, network, raster, ["m"])
    refused("two synapses", lava.run_elsewhere, OTHER, TWICE, ONE)
    # What is always on is made over there: nobody gives it.
    network = Network(
        (InputPopulation("in", (3,)), InputPopulation("on", (1,), 1)),
        (Population("out", (2,), vth=40),),
        (
            DenseProjection("in", "out", 2 * rng.integers(-9, 99, (2, 3))),
            DenseProjection("on", "out", np.array([[4], [6]])),
        ),
        ("out",),
    )
    run = lava.run_elsewhere(OTHER, network, {"in": raster}, names(network))
    same_run(run, simulator.simulate(network, {"in": raster}, "chip", names(network)))


@needs_other
def test_command_line(tmp_path):
    save(one_neuron([200], vth=2), tmp_path / "n.h5")
    np.savez(tmp_path / "in.npz", **{"in": np.ones((1, 5, 1), int)})
    command = [
        OTHER,
        "-m",
        "hardware.simulate.lava",
        *(str(tmp_path / n) for n in ("n.h5", "in.npz", "out.npz")),
    ]
    root = Path(__file__).parents[1]
    subprocess.run(command, check=True, cwd=root, capture_output=True)
    with np.load(tmp_path / "out.npz") as file:
        assert file["0"].reshape(-1).tolist() == [0, 1, 1, 1, 1]
    command[3] = str(tmp_path / "none.h5")
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "none.h5" in done.stderr


@needs_lava
@pytest.mark.parametrize("pairs", [False, True])
def test_always_on_inputs_and_pairs(pairs):
    """As the compiler makes them: biases through the current, two synapses per weight, a loop."""
    from test_pairs import small, spikes

    from hardware.compile.compiler import compile_graph

    network, _ = compile_graph(small(loop=True), "loihi2", pairs=pairs)
    x = spikes(batch=1, steps=20)
    record = dict.fromkeys(names(network), VARIABLES)
    ours = simulator.simulate(network, x, "chip", record)
    theirs = lava.simulate(network, x, record)
    assert any(entry.constant for entry in network.inputs) and ours.counts["n1"].any()
    for variable in VARIABLES:
        for name in names(network):
            assert np.array_equal(getattr(ours, variable)[name], getattr(theirs, variable)[name])
