"""fidelity: every number of the report by its slow definition, and a population alone is that population alone."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import cuba_lif, graph, inp, lif, out
from scipy.optimize import linear_sum_assignment

from hardware.compile.compiler import compile_graph, compile_layers
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir
from hardware.network.integer import DenseProjection, InputPopulation, Network, Population
from hardware.simulate import reference
from hardware.simulate.fidelity import predictions
from hardware.simulate.fidelity_report import fidelity
from hardware.simulate.simulator import simulate
from hardware.simulate.trains import pair


def trains(seed, shape=(3, 40, 5), rate=0.2):
    return (np.random.default_rng(seed).random(shape) < rate).astype(np.uint8)


# --- two spike trains ---


def van_rossum(a, b, tau):
    """Squared distance of two trains of one neuron: the paper's integral on a fine grid, traces as sums over spikes."""
    times = np.arange(0, len(a) + 40 * tau, 1 / 200)

    def trace(x):
        found = np.zeros(len(times))
        for spike in np.flatnonzero(x):
            late = times >= spike
            found[late] += np.exp(-(times[late] - spike) / tau)
        return found

    return ((trace(a) - trace(b)) ** 2).sum() / 200 / tau


def matched(a, b, near):
    """The most pairs of spikes at most so many steps apart, each spike in one of them."""
    x, y = np.flatnonzero(a), np.flatnonzero(b)
    close = (np.abs(x[:, None] - y[None, :]) <= near).astype(int)
    rows, columns = linear_sum_assignment(-close)
    return int(close[rows, columns].sum())


@pytest.mark.parametrize("near", [0, 1, 3, 62])
def test_pairs_of_spikes_are_as_many_as_there_can_be(near):
    a, b = trains(1, rate=0.3), trains(2)
    found = pair(a, b, near, 5.0)
    for s in range(len(a)):
        assert found.near[s] == sum(matched(a[s, :, i], b[s, :, i], near) for i in range(a.shape[2]))
        assert (found.both[s], found.first[s], found.second[s]) == ((a & b)[s].sum(), a[s].sum(), b[s].sum())
        step = np.flatnonzero((a != b)[s].any(axis=1))[0]
        assert (found.step[s], found.neuron[s]) == (step, np.flatnonzero((a != b)[s, step])[0])


def test_van_rossums_distance_is_the_papers_integral():
    a, b = trains(3), trains(4, rate=0.1)
    for tau in (2.0, 7.5):
        expected = [sum(van_rossum(a[s, :, i], b[s, :, i], tau) for i in range(5)) for s in range(3)]
        np.testing.assert_allclose(pair(a, b, 0, tau).distance, expected, rtol=5e-3)
    one = np.zeros((1, 30, 1), np.uint8)
    one[0, 10] = 1
    assert pair(one, one * 0, 0, 3.0).distance[0] == pytest.approx(0.5)
    same = pair(a, a, 0, 3.0)
    assert not same.distance.any() and (same.step == -1).all() and (same.neuron == -1).all()


def test_membranes_are_compared_where_nobody_spikes():
    rng = np.random.default_rng(5)
    a, b = trains(6), trains(7)
    v = rng.integers(-100, 100, a.shape).astype(np.int32)
    v[0, 3, 2], v[1, 4, 0] = 2**23 - 1, -(2**23 - 1)
    m, scale, offset = rng.normal(size=a.shape), rng.uniform(1, 9, 5), rng.normal(size=5)
    found = pair(a, b, 0, 3.0, m, v, scale, offset)
    quiet = (a | b) == 0
    error = ((v / scale + offset - m) ** 2 * quiet).sum(axis=(1, 2))
    np.testing.assert_allclose(found.error, error)
    np.testing.assert_array_equal(found.compared, quiet.sum(axis=(1, 2)))
    assert found.saturated.tolist() == [1, 1, 0]
    order = rng.permutation(5)
    moved = pair(a, b, 0, 3.0, m[:, :, order], v[:, :, order], scale, offset, numbers=order)
    np.testing.assert_allclose(moved.error, error)
    assert moved.saturated.tolist() == [1, 1, 0]


def test_chance_is_what_shifted_trains_have_in_common():
    a, b = trains(8), trains(9)
    found = pair(a, b, 0, 3.0, shifts=(4, 13))
    for s in range(3):
        late = [np.array([b[s, (t - shift) % 40] for t in range(40)]) for shift in (4, 13)]
        assert found.chance[s] == sum((a[s] & shifted).sum() for shifted in late)


def test_a_third_run_is_counted_against_the_first():
    a, b, c = trains(8, (3, 40, 21)), trains(9, (3, 40, 21)), trains(10, (3, 40, 21), 0.02)
    found, without = pair(a, b, 2, 3.0, third=c), pair(a, b, 2, 3.0)
    assert found.third.tolist() == c.sum(axis=(1, 2)).tolist()
    assert found.third_both.tolist() == (a & c).sum(axis=(1, 2)).tolist()
    for name in ("both", "first", "second", "near", "distance", "step", "neuron"):
        assert getattr(found, name).tolist() == getattr(without, name).tolist()


@pytest.mark.parametrize(
    ("near", "tau", "says"),
    [(63, 1.0, "0 to 62"), (-1, 1.0, "0 to 62"), (1, 0.0, "above 0"), (1, np.inf, "inf")],
)
def test_numbers_out_of_range(near, tau, says):
    with pytest.raises(HardwareError, match=says):
        pair(trains(0), trains(1), near, tau)
    with pytest.raises(HardwareError, match="shapes"):
        pair(trains(0), trains(1)[:, :9], 1, 2.0)


# --- a graph and its integers ---


def network(recurrent=False, skip=False):
    rng = np.random.default_rng(3)
    nodes = {
        "input": inp(8),
        "fc": nir.Affine(rng.normal(size=(12, 8)), rng.normal(size=12) * 0.1),
        "a": lif(12, tau=0.01, r=2.0, v_threshold=0.7),
        "fd": nir.Linear(rng.normal(size=(9, 12))),
        "b": lif(9, tau=0.02, r=3.0, v_threshold=0.6),
        "output": out(9),
    }
    edges = [("input", "fc"), ("fc", "a"), ("a", "fd"), ("fd", "b"), ("b", "output")]
    if recurrent:
        nodes["back"] = nir.Linear(rng.normal(size=(9, 9)) * 0.5)
        edges += [("b", "back"), ("back", "b")]
    if skip:
        nodes["over"] = nir.Linear(rng.normal(size=(9, 8)))
        edges += [("input", "over"), ("over", "b")]
    return from_nir(nir.NIRGraph(nodes, edges, metadata={"dt": 0.001, "reset": "zero"}))


def raster(seed=0, n=6, steps=60):
    return (np.random.default_rng(seed).random((n, steps, 8)) < 0.3).astype(np.uint8)


def share(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("kind", [{}, {"recurrent": True}, {"skip": True}, {"recurrent": True, "skip": True}])
def test_every_share_of_the_report(kind):
    graph_, x = network(**kind), raster()
    compiled, _ = compile_graph(graph_, "loihi2", weight_bits=4)
    labels = np.arange(6) % 9
    report = fidelity(graph_, compiled, [x[:4], x[4:]], labels, within=2, tau=4.0)
    exact = reference.simulate(graph_, x, record=["a", "b"])
    fixed = simulate(compiled, x, record={"a": ("spikes",), "b": ("spikes",)})
    assert report.n == 6 and report.steps == 60
    assert report.accuracy_float == (predictions(exact.output) == labels).mean()
    assert report.accuracy_fixed == (predictions(fixed.output) == labels).mean()
    assert report.predictions_alike == (predictions(exact.output) == predictions(fixed.output)).mean()
    for p in report.populations:
        a, b = exact.spikes[p.name], fixed.spikes[p.name]
        assert p.agreement == share(a, b) and p.either == (a | b).sum()
        assert p.rate_float == pytest.approx(a.mean()) and p.rate_fixed == pytest.approx(b.mean())
        assert p.chance < 0.7 * p.agreement < p.agreement_within <= 1 and p.wrapped == p.saturated == 0
        assert p.van_rossum == pytest.approx(pair(a, b, 0, 4.0).distance.sum() / (6 * a.shape[2]))
        differing = (a != b).any(axis=2)
        first = np.argmax(differing, axis=1)
        first[~differing.any(axis=1)] = 999
        assert (p.first_difference.step, p.first_difference.recording) == (first.min(), first.argmin())
        s, t = p.first_difference.recording, p.first_difference.step
        assert p.first_difference.neuron == (np.flatnonzero((a != b)[s, t])[0],)
    both = sum(p.both for p in report.populations)
    either = sum(p.either for p in report.populations)
    assert report.agreement == both / either and report.differing_spikes == either - both
    shares = [
        (sum((exact.spikes[n][s] & fixed.spikes[n][s]).sum() for n in "ab"))
        / (sum((exact.spikes[n][s] | fixed.spikes[n][s]).sum() for n in "ab"))
        for s in range(6)
    ]
    assert report.worst.recording == int(np.argmin(shares)) and report.worst.agreement == min(shares)
    np.testing.assert_array_equal(report.worst.fixed_spikes["b"], fixed.spikes["b"][report.worst.recording])


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_alone_a_population_sees_the_float_spikes_of_its_sources(recurrent, skip):
    """By hand: integers of Loihi, step by step, fed with the spikes that the float network had."""
    graph_, x = network(recurrent, skip), raster(1)
    compiled, _ = compile_graph(graph_, "loihi2", weight_bits=3)
    report = {p.name: p for p in fidelity(graph_, compiled, [x]).populations}
    exact = reference.simulate(graph_, x, record=["a", "b"]).spikes
    b = next(p for p in compiled.populations if p.name == "b")
    sources = {"input": x, **exact}
    spikes = np.zeros_like(exact["b"])
    for s in range(len(x)):
        v = np.zeros(9, np.int64)
        for t in range(x.shape[1]):
            total = np.zeros(9, np.int64)
            for q in compiled.projections:
                if q.target != "b":
                    continue
                at = t - 1 if q.source == "b" else t
                if at >= 0:
                    total += (
                        q.weight.astype(np.int64) @ sources[q.source][s, at].astype(np.int64)
                    ) << q.weight_exp
            assert np.all(np.ravel(b.du) == 4095)  # no memory in the current
            v = np.sign(v) * ((np.abs(v) * (4096 - np.ravel(b.dv))) >> 12) + (total << 6)
            v += np.broadcast_to(np.ravel(b.bias_mant).astype(np.int64) << b.bias_exp, 9)
            fired = v > np.ravel(b.vth).astype(np.int64) << 6
            spikes[s, t] = fired
            v[fired] = 0
    assert report["b"].agreement_alone == share(exact["b"], spikes) > report["b"].agreement
    assert report["a"].agreement_alone == report["a"].agreement


def test_membrane_error_is_in_the_graphs_units():
    graph_, x = network(), raster(2)
    done = compile_layers(graph_, "loihi2")
    units = {
        layer.population.name: (64.0 * layer.scaling.scale[layer.demand.group] / layer.demand.residual, 0.0)
        for layer in done.layers
    }
    known = fidelity(graph_, done.network, [x], units=units).populations
    rounded = fidelity(graph_, compile_graph(graph_, "loihi2", weight_bits=3)[0], [x]).populations
    assert all(0 < p.membrane_error < 0.05 for p in known) and all(p.membrane_error is None for p in rounded)
    double = {name: (scale * 2, offset) for name, (scale, offset) in units.items()}
    assert (
        fidelity(graph_, done.network, [x], units=double).populations[0].membrane_error
        > 10 * known[0].membrane_error
    )


def convolved():
    rng = np.random.default_rng(11)
    nodes = {
        "input": inp(2, 6, 5),
        "conv": nir.Conv2d((6, 5), rng.normal(size=(3, 2, 3, 3)) * 0.5, 1, 1, 1, 1, rng.normal(size=3) * 0.1),
        "a": cuba_lif(3, 6, 5, tau_syn=2.0, tau_mem=5.0, r=5.0, w_in=2.0),
        "conv2": nir.Conv2d((6, 5), rng.normal(size=(4, 3, 3, 3)) * 0.5, 2, 1, 1, 1, np.zeros(4)),
        "b": lif(4, 3, 3, tau=4.0, r=4.0),
        "flat": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1),
        "fc": nir.Linear(rng.normal(size=(5, 36))),
        "c": lif(5, tau=6.0, r=3.0),
        "output": out(5),
    }
    return from_nir(graph(nodes, dt=1.0))


def test_however_the_integers_are_run():
    """Recording by recording in the kernels' own order, or by someone else, all at once, in C order."""
    graph_ = convolved()
    done = compile_layers(graph_, "loihi2", weight_bits=5, pairs=True)
    x = (np.random.default_rng(1).random((5, 40, 2, 6, 5)) < 0.2).astype(np.uint8)
    units = {
        layer.population.name: (
            64.0 * layer.scaling.scale[layer.demand.group].reshape(layer.population.shape),
            0.1,
        )
        for layer in done.layers
    }
    done_so_far = []
    ours = fidelity(graph_, done.network, [x], units=units, progress=done_so_far.append)
    theirs = fidelity(
        graph_,
        done.network,
        [x[:2], x[2:]],
        units=units,
        fixed=lambda raster, record: simulate(done.network, raster, record=record),
    )
    assert done_so_far == [1, 2, 3, 4, 5]
    a, b = ours.to_dict(), theirs.to_dict()
    exact = reference.simulate(graph_, x, record=["a", "b", "c"])
    fixed = simulate(done.network, x, record=["a", "b", "c"])
    for p, q in zip(a.pop("populations"), b.pop("populations"), strict=True):
        name = p["name"]
        quiet = (exact.spikes[name] | fixed.spikes[name]) == 0
        off = fixed.v[name] / units[name][0] + 0.1 - exact.membranes[name]
        expected = np.sqrt((off[quiet] ** 2).mean())
        for found in (p, q):
            assert found.pop("membrane_error") == pytest.approx(expected)
        assert p == q and p["agreement"] < 1
    assert a == b
    for one, other in (
        (ours.worst.float_spikes, theirs.worst.float_spikes),
        (ours.worst.fixed_spikes, theirs.worst.fixed_spikes),
    ):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert one[name].any()


def test_currents_that_wrap_are_counted():
    """A leaky current that grows past 24 bits: each wrap by comparison with a current without a limit."""
    weight = np.array([[254]])
    p = Population("a", (1,), du=0, dv=4095, vth=100)
    wide = Network(
        (InputPopulation("input", (1,)),),
        (p,),
        (DenseProjection("input", "a", weight, weight_exp=6),),
        ("a",),
        dt=0.001,
    )
    x = np.ones((2, 60, 1), np.uint8)
    run = simulate(wide, x, record={"a": ("u",)})
    u, wraps = 0, 0
    for t in range(60):
        kept = int(np.sign(u)) * ((abs(u) * 4095) >> 12)
        true = kept + (254 << 12)
        wraps += not -(2**23) <= true <= 2**23
        u = int(run.u["a"][0, t, 0])
    graph_ = from_nir(
        graph(
            {"input": inp(1), "fc": nir.Linear(np.ones((1, 1))), "a": lif(1, tau=0.01), "output": out(1)},
            dt=0.001,
        )
    )
    (found,) = fidelity(graph_, wide, [x]).populations
    assert found.wrapped == 2 * wraps > 0


def test_what_cannot_be_compared():
    graph_ = network()
    compiled, _ = compile_graph(graph_, "loihi2")
    with pytest.raises(HardwareError, match="no recordings"):
        fidelity(graph_, compiled, [])
    with pytest.raises(HardwareError, match="3 labels for 6"):
        fidelity(graph_, compiled, [raster()], np.zeros(3))
    other = Network((InputPopulation("input", (8,)),), (Population("x", (1,), vth=1),), (), ("x",), dt=0.001)
    with pytest.raises(HardwareError, match="no spiking population"):
        fidelity(graph_, other, [raster()])
