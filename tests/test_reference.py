"""The float simulator against slow loops written from the equations, and against Norse."""

from __future__ import annotations

import itertools
import math

import nir
import numpy as np
import pytest
from graph_samples import SHARED, cuba_lif, graph, inp, lif, mixed, out

import hardware.simulate.reference as reference
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.graph.graph import delay_steps
from hardware.graph.parsing import from_nir, read_graph
from hardware.network import geometry
from hardware.network.geometry import conv
from hardware.simulate.reference import avg_pool, simulate, sum_pool

RESETS = ("zero", "subtract")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def raster(seed: int, *shape: int, rate: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).poisson(rate, shape).astype(np.uint8)


def single(node: nir.NIRNode, *shape: int):
    return from_nir(graph({"i": inp(*shape), "x": node, "o": nir.Output({"output": None})}))


# --- stateless nodes against loops -------------------------------------------------------------------------


def loop_conv2d(x, weight, bias, stride, padding, dilation, groups):
    (top, bottom), (left, right) = padding
    n, _, height, width = x.shape
    outputs, within, kh, kw = weight.shape
    oh = (height + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, outputs, oh, ow))
    for s, o, row, column in itertools.product(range(n), range(outputs), range(oh), range(ow)):
        total = bias[o]
        group = o // (outputs // groups)
        for c, a, b in itertools.product(range(within), range(kh), range(kw)):
            r = row * stride[0] + a * dilation[0] - top
            q = column * stride[1] + b * dilation[1] - left
            if 0 <= r < height and 0 <= q < width:
                total += weight[o, c, a, b] * x[s, group * within + c, r, q]
        y[s, o, row, column] = total
    return y


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((4, 4, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
        ((6, 2, 3, 2), (2, 1), ((1, 1), (2, 2)), (1, 1), 2),
        ((4, 1, 2, 3), (1, 2), ((0, 1), (3, 0)), (2, 3), 4),
        ((2, 4, 1, 5), (3, 2), ((2, 2), (2, 2)), (1, 2), 1),
    ],
)
def test_conv2d_against_loops(kernel, stride, padding, dilation, groups):
    x, weight, bias = normal(0, 3, 4, 7, 9), normal(1, *kernel), normal(2, kernel[0])
    expected = loop_conv2d(x, weight, bias, stride, padding, dilation, groups)
    np.testing.assert_allclose(conv(x, weight, bias, stride, padding, dilation, groups), expected, atol=1e-12)


def test_conv_in_blocks_is_the_same(monkeypatch):
    x, weight, bias = normal(0, 7, 2, 6, 6), normal(1, 3, 2, 3, 3), normal(2, 3)
    whole = conv(x, weight, bias, (1, 1), ((1, 1), (1, 1)), (1, 1))
    monkeypatch.setattr(geometry, "BLOCK_BYTES", 1)
    np.testing.assert_allclose(conv(x, weight, bias, (1, 1), ((1, 1), (1, 1)), (1, 1)), whole, atol=1e-12)


def test_conv1d_is_conv2d_of_height_one():
    x, weight, bias = normal(0, 2, 4, 11), normal(1, 6, 2, 3), normal(2, 6)
    expected = loop_conv2d(x[:, :, None], weight[:, :, None], bias, (1, 2), ((0, 0), (1, 1)), (1, 3), 2)[
        :, :, 0
    ]
    np.testing.assert_allclose(conv(x, weight, bias, (2,), ((1, 1),), (3,), 2), expected, atol=1e-12)


@pytest.mark.parametrize("padding", ["same", "valid", (1, 2)])
def test_convolution_node_in_a_graph(padding):
    weight, bias = normal(1, 3, 2, 2, 3), normal(2, 3)
    node = nir.Conv2d(None, weight, 1, padding, (2, 1), 1, bias)
    zeros = {"same": ((1, 1), (1, 1)), "valid": ((0, 0), (0, 0)), (1, 2): ((1, 1), (2, 2))}[padding]
    x = normal(0, 2, 3, 2, 6, 7)
    run = simulate(single(node, 2, 6, 7), x)
    expected = loop_conv2d(x.reshape(6, 2, 6, 7), weight, bias, (1, 1), zeros, (2, 1), 1)
    np.testing.assert_allclose(run.output, expected.reshape(2, 3, *expected.shape[1:]), atol=1e-12)


def test_pools_against_loops():
    x = normal(0, 2, 3, 7, 8)
    for kernel, stride, padding in itertools.product(
        [(2, 2), (3, 1), (1, 4)], [(1, 1), (2, 3)], [(0, 0), (1, 2)]
    ):
        padded = np.zeros((2, 3, 7 + 2 * padding[0], 8 + 2 * padding[1]))
        padded[:, :, padding[0] : padding[0] + 7, padding[1] : padding[1] + 8] = x
        oh = (padded.shape[2] - kernel[0]) // stride[0] + 1
        ow = (padded.shape[3] - kernel[1]) // stride[1] + 1
        expected = np.zeros((2, 3, oh, ow))
        for r, q in itertools.product(range(oh), range(ow)):
            window = padded[:, :, r * stride[0] :, q * stride[1] :][:, :, : kernel[0], : kernel[1]]
            expected[:, :, r, q] = window.sum(axis=(2, 3))
        np.testing.assert_allclose(sum_pool(x, kernel, stride, padding), expected, atol=1e-12)
        average = expected / (kernel[0] * kernel[1])
        np.testing.assert_allclose(avg_pool(x, kernel, stride, padding), average, atol=1e-12)
        node = nir.AvgPool2d(np.array(kernel), np.array(stride), np.array(padding))
        run = simulate(single(node, 3, 7, 8), x[:, None])
        np.testing.assert_allclose(run.output[:, 0], average, atol=1e-12)


def test_matrix_scale_threshold_flatten():
    weight, bias, factor, level = normal(1, 3, 8), normal(2, 3), normal(3, 3), normal(4, 3)
    nodes = {
        "i": inp(2, 2, 2),
        "f": nir.Flatten({"input": None}, 0, -1),
        "a": nir.Affine(weight, bias),
        "s": nir.Scale(factor),
        "t": nir.Threshold(level),
        "l": nir.Linear(normal(5, 2, 3)),
        "o": out(2),
    }
    x = normal(0, 2, 4, 2, 2, 2)
    run = simulate(from_nir(graph(nodes)), x, record=["t"])
    for s, t in itertools.product(range(2), range(4)):
        flat = [x[s, t, a, b, c] for a in range(2) for b in range(2) for c in range(2)]
        spikes = []
        for post in range(3):
            y = (sum(w * v for w, v in zip(weight[post], flat, strict=True)) + bias[post]) * factor[post]
            spikes.append(1.0 if y > level[post] else 0.0)
        assert run.spikes["t"][s, t].tolist() == spikes
        expected = normal(5, 2, 3) @ np.array(spikes)
        np.testing.assert_allclose(run.output[s, t], expected, atol=1e-12)


# --- neurons against scalar loops --------------------------------------------------------------------------


def after_spike(v, threshold, v_reset, reset):
    return v_reset if reset == "zero" else v - threshold


def loop_neuron(node, currents, dt, reset):
    """One neuron of any kind, from NIR's equations: spikes (or membrane), membranes before reset."""
    i = 0.0
    v = float(getattr(node, "v_leak", getattr(node, "v_reset", [0.0]))[0])
    ys, vs = [], []
    for current in currents:
        if isinstance(node, nir.IF | nir.I):
            v = v + float(node.r[0]) * current
        elif isinstance(node, nir.LIF | nir.LI):
            v = v + dt / float(node.tau[0]) * (float(node.r[0]) * current + float(node.v_leak[0]) - v)
        else:
            i = i + dt / float(node.tau_syn[0]) * (float(node.w_in[0]) * current - i)
            v = v + dt / float(node.tau_mem[0]) * (float(node.r[0]) * i + float(node.v_leak[0]) - v)
        vs.append(v)
        if hasattr(node, "v_threshold"):
            spike = v > float(node.v_threshold[0])
            if spike:
                v = after_spike(v, float(node.v_threshold[0]), float(node.v_reset[0]), reset)
            ys.append(float(spike))
        else:
            ys.append(v)
    return ys, vs


def one(value: float) -> np.ndarray:
    return np.array([value])


NEURONS = {
    "LIF": lif(1, tau=0.004, r=1.5, v_leak=0.2, v_threshold=0.6, v_reset=-0.1),
    "CubaLIF": cuba_lif(
        1, tau_syn=0.003, tau_mem=0.005, r=2.0, v_leak=-0.1, v_threshold=0.7, v_reset=0.1, w_in=1.7
    ),
    "IF": nir.IF(r=one(0.3), v_threshold=one(1.0), v_reset=one(0.1)),
    "LI": nir.LI(tau=one(0.004), r=one(1.2), v_leak=one(0.3)),
    "CubaLI": nir.CubaLI(tau_syn=one(0.003), tau_mem=one(0.004), r=one(0.5), v_leak=one(-0.2), w_in=one(2.0)),
    "I": nir.I(r=one(0.7)),
}


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", NEURONS)
def test_neurons_against_loops(kind, reset):
    node = NEURONS[kind]
    x = raster(1, 3, 60, 1, rate=0.8)
    run = simulate(single(node, 1), x, dt=1e-3, reset=reset, record=["x"])
    for s in range(3):
        ys, vs = loop_neuron(node, x[s, :, 0].tolist(), 1e-3, reset)
        np.testing.assert_allclose(run.output[s, :, 0], ys, atol=1e-12)
        if kind in ("LIF", "CubaLIF", "IF"):
            np.testing.assert_allclose(run.membranes["x"][s, :, 0], vs, atol=1e-12)
            assert run.counts["x"][s, 0] == sum(ys) > 5
            assert run.output.dtype == np.uint8


def test_lif_written_by_norse_by_hand():
    path = SHARED / "nir" / "lif_norse.nir"
    if not path.exists():
        pytest.skip("shared/data/nir is not there")
    g = read_graph(path)
    node = g.nodes["1"]
    tau, threshold = float(node.tau[0]), float(node.v_threshold[0])
    assert (tau, threshold) == (pytest.approx(0.0025), pytest.approx(0.1))
    x = np.zeros((1, 1000, 1))
    x[0, [10, 11, 12, 300, 301, 302, 303, 304, 305], 0] = 1
    x[0, 500:, 0] = np.random.default_rng(0).random(500) < 0.3
    run = simulate(g, x, dt=1e-4, record=["1"])
    v, spikes = 0.0, []
    for t in range(1000):
        v = v + 1e-4 / tau * (x[0, t, 0] * 1.0 + 0.0 - v)
        spikes.append(v > threshold)
        if spikes[-1]:
            v = 0.0
    assert run.output[0, :, 0].tolist() == spikes
    # three steps of 0.04 each come to just above 0.1
    assert run.output[0, :13, 0].tolist() == [0] * 12 + [1]
    assert sum(spikes) > 20


@pytest.mark.parametrize("key", ["tau", "tau_syn", "tau_mem"])
def test_a_step_above_a_time_constant_is_refused_by_float_and_chip(key):
    taus = {"tau_syn": 0.002, "tau_mem": 0.002} if key != "tau" else {"tau": 0.002}
    node = (lif if key == "tau" else cuba_lif)(1, **{**taus, key: 0.001})
    # As files hold it, in float32; a step that forgets all is one.
    getattr(node, key)[:] = np.float32(0.001)
    for run in (
        lambda dt: simulate(single(node, 1), np.ones((1, 3, 1)), dt),
        lambda dt: compile_graph(wired(node), "loihi2", dt),
    ):
        run(0.001)
        with pytest.raises(HardwareError) as error:
            run(0.0011)
        assert f"node 'x' ({type(node).__name__}): {key} is 0.001 s at its lowest" in str(error.value)
        assert "time step of 0.0011 s" in str(error.value) and "\n" not in str(error.value)


def wired(node):
    nodes = {"i": inp(1), "w": nir.Linear(np.ones((1, 1))), "x": node, "o": out(1)}
    return from_nir(graph(nodes))


def test_threshold_itself_is_not_a_spike():
    node = nir.IF(r=one(1.0), v_threshold=one(2.0))
    run = simulate(single(node, 1), np.ones((1, 6, 1)))
    assert run.output[0, :, 0].tolist() == [0, 0, 1, 0, 0, 1]
    run = simulate(single(node, 1), np.ones((1, 6, 1)), reset="subtract")
    assert run.output[0, :, 0].tolist() == [0, 0, 1, 0, 1, 0]


def test_if_neurons_count_in_steps():
    node = nir.IF(r=one(1.0), v_threshold=one(2.0))
    x = raster(0, 2, 50, 1)
    np.testing.assert_array_equal(
        simulate(single(node, 1), x, dt=1e-3).output, simulate(single(node, 1), x).output
    )


# --- recurrence, delays, sums ------------------------------------------------------------------------------


def test_recurrent_network_against_loops():
    w_in, w_rec, bias = normal(0, 4, 3), 0.8 * normal(1, 4, 4), 0.1 * normal(2, 4)
    nodes = {
        "i": inp(3),
        "w": nir.Linear(w_in),
        "lif": lif(4, tau=0.003, v_threshold=0.4),
        "rec": nir.Affine(w_rec, bias),
        "o": out(4),
    }
    edges = [("i", "w"), ("w", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "o")]
    x = raster(3, 2, 40, 3)
    run = simulate(from_nir(graph(nodes, edges)), x, dt=1e-3, record=["lif"])
    decay = 1e-3 / np.float64(np.float32(0.003))
    threshold = np.float64(np.float32(0.4))
    for s in range(2):
        v, z = np.zeros(4), np.zeros(4)
        for t in range(40):
            v = v + decay * (w_in @ x[s, t] + w_rec @ z + bias - v)
            np.testing.assert_allclose(run.membranes["lif"][s, t], v, atol=1e-10)
            z = (v > threshold).astype(float)
            v = np.where(z > 0, 0.0, v)
            assert run.output[s, t].tolist() == z.tolist()
    assert run.counts["lif"].sum() > 20


def test_feedback_over_two_layers_against_loops():
    forward, back = 1.5 * np.abs(normal(0, 2, 2)), -normal(1, 2, 2)
    step = {"r": np.ones(2), "v_threshold": np.ones(2)}
    nodes = {
        "i": inp(2),
        "a": nir.IF(**step),
        "f": nir.Linear(forward),
        "b": nir.IF(**step),
        "back": nir.Linear(back),
        "o": out(2),
    }
    edges = [("i", "a"), ("a", "f"), ("f", "b"), ("b", "back"), ("back", "a"), ("b", "o"), ("b", "b")]
    x = raster(3, 1, 50, 2, rate=0.7)
    g = from_nir(graph(nodes, edges))
    assert g.recurrent == {("b", "back"), ("b", "b")}
    run = simulate(g, x)
    va, vb, z = np.zeros(2), np.zeros(2), np.zeros(2)
    for t in range(50):
        va = va + x[0, t] + back @ z
        za = (va > 1).astype(float)
        va = va * (1 - za)
        vb = vb + forward @ za + z
        z = (vb > 1).astype(float)
        vb = vb * (1 - z)
        assert run.output[0, t].tolist() == z.tolist()
    assert 3 < run.counts["b"].sum() < 97


def test_skip_connection_adds():
    nodes = {"i": inp(2), "a": nir.Scale(np.array([2.0, 3.0])), "o": out(2)}
    x = normal(0, 2, 3, 2)
    run = simulate(from_nir(graph(nodes, [("i", "a"), ("a", "o"), ("i", "o")])), x)
    np.testing.assert_allclose(run.output, x * np.array([3.0, 4.0]))


def test_delay_in_whole_steps():
    node = nir.Delay(np.array([0.0, 2e-3, 9e-3]))
    x = normal(0, 2, 5, 3)
    run = simulate(single(node, 3), x, dt=1e-3)
    expected = np.zeros_like(x)
    expected[:, :, 0] = x[:, :, 0]
    expected[:, 2:, 1] = x[:, :3, 1]
    np.testing.assert_array_equal(run.output, expected)
    assert delay_steps(np.array([3e-3 + 1e-7]), 1e-3).tolist() == [3]
    with pytest.raises(HardwareError, match=r"'x' \(Delay\).*0.002 s.*dt = 0.0015"):
        simulate(single(node, 3), x, dt=1.5e-3)


def test_result_does_not_depend_on_stretches(monkeypatch):
    source = mixed(3)
    source.nodes["fc"].bias += 1
    g = from_nir(source)
    nodes = {"i": inp(2, 5, 6), "d": nir.Delay(np.full((2, 5, 6), 3e-3)), "o": out(2, 5, 6)}
    delayed = from_nir(graph(nodes))
    x = raster(0, 5, 23, 2, 5, 6, rate=1.0)
    whole, late = simulate(g, x, record=["lif", "sub.lif"]), simulate(delayed, x, dt=1e-3)
    assert whole.counts["sub.lif"].sum() > 10
    for limit in (1, 30_000, 100_000):
        monkeypatch.setattr(reference, "CHUNK_BYTES", limit)
        cut = simulate(g, x, record=["lif", "sub.lif"])
        np.testing.assert_array_equal(cut.output, whole.output)
        for name in ("lif", "sub.lif"):
            np.testing.assert_array_equal(cut.spikes[name], whole.spikes[name])
            np.testing.assert_allclose(cut.membranes[name], whole.membranes[name], atol=1e-12)
            np.testing.assert_array_equal(cut.counts[name], whole.counts[name])
        np.testing.assert_array_equal(simulate(delayed, x, dt=1e-3).output, late.output)


def test_several_inputs_by_name():
    nodes = {"i": inp(2), "j": inp(2), "a": nir.I(np.ones(2)), "o": out(2)}
    g = from_nir(graph(nodes, [("i", "a"), ("j", "a"), ("a", "o")]))
    x, y = normal(0, 1, 4, 2), normal(1, 1, 4, 2)
    np.testing.assert_allclose(simulate(g, {"i": x, "j": y}).output, np.cumsum(x + y, axis=1))
    with pytest.raises(HardwareError, match="i, j"):
        simulate(g, x)
    with pytest.raises(HardwareError, match="differ"):
        simulate(g, {"i": x, "j": y[:, :2]})


def test_float32_is_close():
    g = from_nir(mixed(3))
    x = raster(0, 2, 10, 2, 5, 6, rate=1.0)
    a = simulate(g, x, record=["lif"])
    b = simulate(g, x, record=["lif"], dtype=np.float32)
    assert b.membranes["lif"].dtype == np.float32
    np.testing.assert_allclose(a.membranes["lif"][:, :2], b.membranes["lif"][:, :2], atol=1e-4)


def test_empty_batch_and_no_steps():
    g = single(lif(3), 3)
    assert simulate(g, np.zeros((0, 4, 3))).output.shape == (0, 4, 3)
    assert simulate(g, np.zeros((2, 0, 3))).output.shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.zeros((2, 3, 4)), {}, r"\(2, 3, 4\), expected \(batch, steps, 3\)"),
        (np.zeros((2, 3)), {}, "expected"),
        (np.array([[["a"] * 3]]), {}, "expected numbers"),
        (np.full((1, 2, 3), np.nan), {}, "NaN"),
        (np.zeros((1, 2, 3)), {"reset": "never"}, "'never'"),
        (np.zeros((1, 2, 3)), {"record": ["y"]}, "'y'"),
        (np.zeros((1, 2, 3)), {"dtype": np.int32}, "int32"),
        (np.zeros((1, 2, 3)), {"dt": -1.0}, "dt is -1"),
    ],
)
def test_bad_calls_are_refused(x, options, words):
    with pytest.raises(HardwareError, match=words):
        simulate(single(lif(3), 3), x, **options)


# --- other simulators --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF", "IF", "LI", "CubaLI"])
def test_norse_agrees_step_for_step(kind):
    torch = pytest.importorskip("torch")
    norse = pytest.importorskip("norse.torch")
    dt, tau_mem, tau_syn = 1e-3, 0.008, 0.004
    x = normal(0, 4, 100, 6) * 1.5

    def full(value):
        return np.full(6, value)

    def tensor(value):
        return torch.tensor(value, dtype=torch.float64)

    leak, threshold, v_reset = 0.1, 0.5, -0.05
    if kind == "LIF":
        p = norse.LIFBoxParameters(tensor(1 / tau_mem), tensor(leak), tensor(threshold), tensor(v_reset))
        cell = norse.LIFBoxCell(p, dt=dt)
        node = nir.LIF(full(tau_mem), full(1.0), full(leak), full(threshold), full(v_reset))
    elif kind == "CubaLIF":
        p = norse.LIFParameters(
            tensor(1 / tau_syn), tensor(1 / tau_mem), tensor(leak), tensor(threshold), tensor(v_reset)
        )
        cell = norse.LIFCell(p, dt=dt)
        # Norse's current jumps by the input itself, NIR's by dt / tau_syn of it
        node = nir.CubaLIF(
            tau_syn=full(tau_syn),
            tau_mem=full(tau_mem),
            r=full(1.0),
            v_leak=full(leak),
            v_threshold=full(threshold),
            v_reset=full(v_reset),
            w_in=full(tau_syn / dt),
        )
    elif kind == "IF":
        cell = norse.IAFCell(norse.IAFParameters(tensor(threshold), tensor(v_reset)), dt=dt)
        node = nir.IF(full(1.0), full(threshold), full(v_reset))
    elif kind == "LI":
        cell = norse.LIBoxCell(norse.LIBoxParameters(tensor(1 / tau_mem), tensor(leak)), dt=dt)
        node = nir.LI(full(tau_mem), full(1.0), full(leak))
    else:
        cell = norse.LICell(norse.LIParameters(tensor(1 / tau_syn), tensor(1 / tau_mem), tensor(leak)), dt=dt)
        node = nir.CubaLI(
            tau_syn=full(tau_syn),
            tau_mem=full(tau_mem),
            r=full(1.0),
            v_leak=full(leak),
            w_in=full(tau_syn / dt),
        )
    state, expected = None, []
    for t in range(100):
        y, state = cell(torch.from_numpy(x[:, t]), state)
        expected.append(y.detach().numpy())
    run = simulate(single(node, 6), x, dt=dt)
    np.testing.assert_allclose(run.output, np.stack(expected, axis=1), atol=1e-9)
    assert np.abs(run.output).sum() > 10


def decode(path) -> np.ndarray:
    """(320, 2, 34, 34) counts of an N-MNIST recording in bins of a millisecond.

    Five bytes an event: x, y, then polarity in the highest bit before 23 bits of microseconds.
    """
    raw = np.fromfile(path, np.uint8).reshape(-1, 5).astype(np.int64)
    time = ((raw[:, 2] & 127) << 16 | raw[:, 3] << 8 | raw[:, 4]) // 1000
    counts = np.zeros((320, 2, 34, 34), np.uint8)
    kept = time < 320
    np.add.at(counts, (time[kept], raw[kept, 2] >> 7, raw[kept, 1], raw[kept, 0]), 1)
    return counts


def test_sinabs_network_recognises_digits():
    files = sorted((SHARED / "nmnist" / "NMNIST" / "Train").glob("*/*.bin"))[::20]
    if not files:
        pytest.skip("shared/data/nmnist is not there")
    g = read_graph(SHARED / "nir" / "cnn_sinabs.nir")
    run = simulate(g, np.stack([decode(path) for path in files]), dtype=np.float32)
    digits = np.array([int(path.parent.name) for path in files])
    right = run.output.sum(axis=1).argmax(axis=1) == digits
    assert len(files) == 50 and right.mean() >= 0.96
    assert math.prod(run.counts["1"].shape[1:]) == 4096
