"""Neurons with an infinite threshold: not on the chip, and the network is the one from which their synapses were taken by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import nir
import numpy as np
import oracle_network
import oracle_placement
import pytest
from graph_samples import cuba_lif, graph, inp, lif, mixed, out
from test_compile import conv, exact_weights, flatten, integrate, pool

from hardware.chip.chips import load_chip
from hardware.compile.compiler import compile_graph, compile_layers
from hardware.errors import HardwareError
from hardware.files import network_file, netx, netx_reading, netx_writing
from hardware.graph.graph import padding_of
from hardware.graph.parsing import from_nir, read_graph
from hardware.graph.summary import describe
from hardware.network.connectivity import unrolled
from hardware.network.integer import ConvProjection, Network, Population
from hardware.network.summary import describe as describe_network
from hardware.placement import place
from hardware.placement.loads import measure
from hardware.simulate import neurobench, reference
from hardware.simulate.fidelity_report import fidelity
from hardware.simulate.float_simulator import simulate as simulate_floats
from hardware.simulate.simulator import simulate

SHAPES = {"n1": (4, 9, 8), "n2": (3, 4, 4)}


def masks(seed=0, share=0.4):
    """A border, and neurons here and there."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        dead = rng.random(shape) < share
        dead[:, 0] = dead[:, :, -1] = True
        dead[0, 1, 1] = False
        found[name] = dead
    return found


def network(neurons, dead=None, pooled=False, seed=0):
    """Two convolutions and a matrix; neurons(*shape) makes a population."""
    rng = np.random.default_rng(seed)
    dead = dead or {}

    def population(name, shape):
        node = neurons(*shape)
        if name in dead:
            node.v_threshold = np.where(dead[name], np.inf, node.v_threshold).astype(node.v_threshold.dtype)
        return node

    shape = (3, 2, 2) if pooled else SHAPES["n2"]
    nodes = {
        "input": inp(2, 9, 8),
        "c1": conv(rng, 4, 2),
        "n1": population("n1", SHAPES["n1"]),
        "c2": conv(rng, 3, 4, padding=0, stride=2, kernel=2),
        "n2": population("n2", SHAPES["n2"]),
        **({"pool": pool(nir.SumPool2d, 2)} if pooled else {}),
        "flat": flatten(*shape),
        "fc": nir.Affine(exact_weights(rng, (5, int(np.prod(shape)))), np.zeros(5)),
        "n3": neurons(5),
        "output": out(5),
    }
    return graph(nodes, dt=1.0)


def by_hand(given, dead):
    """The same network as matrices between neurons, rows and columns of dead ones zero, all thresholds finite."""
    g = from_nir(given)
    nodes, before = {}, None
    for name in g.order:
        node, shape = g.nodes[name], g.output_shape[name]
        if isinstance(node, nir.Conv2d):
            rows, target = np.eye(int(np.prod(g.input_shape[name]))), None
            for j, one in enumerate(rows):
                x = one.reshape(g.input_shape[name])
                y = apply_conv(node, x).ravel()
                target = np.zeros((len(y), len(rows))) if target is None else target
                target[:, j] = y
            each = target.shape[0] // len(node.bias)
            weight, bias = target, np.repeat(node.bias, each)
        elif isinstance(node, nir.Affine):
            weight, bias = node.weight.copy(), node.bias.copy()
        elif isinstance(node, nir.Flatten):
            continue
        else:
            if not isinstance(node, nir.Input | nir.Output):
                flat = {
                    key: np.asarray(value).reshape(-1)
                    for key, value in vars(node).items()
                    if isinstance(value, np.ndarray)
                }
                level = flat["v_threshold"]
                flat["v_threshold"] = np.where(np.isinf(level), level[np.isfinite(level)][0], level)
                node = type(node)(**flat)
            elif isinstance(node, nir.Input):
                node = inp(int(np.prod(shape)))
            nodes[name] = node
            before = name
            continue
        following = {"c1": "n1", "c2": "n2"}.get(name)
        if following in dead:
            weight[dead[following].ravel()] = 0
            bias[dead[following].ravel()] = 0
        if before in dead:
            weight[:, dead[before].ravel()] = 0
        nodes[name] = nir.Affine(weight, bias)
    return from_nir(graph(nodes, dt=1.0))


def apply_conv(node, x):
    """Position by position, tap by tap."""
    (top, bottom), (left, right) = padding_of(node)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    o, _, k_y, k_x = node.weight.shape
    rows = (x.shape[1] - k_y) // node.stride[0] + 1
    columns = (x.shape[2] - k_x) // node.stride[1] + 1
    y = np.zeros((o, rows, columns))
    for c, r, s in itertools.product(range(o), range(rows), range(columns)):
        window = x[:, r * node.stride[0] :, s * node.stride[1] :][:, :k_y, :k_x]
        y[c, r, s] = (window * node.weight[c]).sum()
    return y


def raster(seed=1, batch=3, steps=12):
    return (np.random.default_rng(seed).random((batch, steps, 2, 9, 8)) < 0.3).astype(np.uint8)


@pytest.mark.parametrize("chip", ["loihi1", "loihi2", "spinnaker2"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_spikes_are_those_of_the_network_without_their_synapses(chip, reset):
    if reset not in load_chip(chip).neuron.resets:
        pytest.skip("the chip has no such reset")
    dead, x = masks(), raster()
    given = network(lambda *shape: integrate(*shape, threshold=2.5), dead)
    given.metadata["reset"] = reset
    g = from_nir(given)
    compiled, reports = compile_graph(g, chip)
    assert all(r.on_grid for r in reports)
    run = simulate(compiled, x, record=["n1", "n2", "n3"])
    hand = by_hand(given, dead)
    expected = reference.simulate(hand, x.reshape(*x.shape[:2], -1), record=["n1", "n2", "n3"], reset=reset)
    for simulated in (reference.simulate, simulate_floats):
        floats = simulated(g, x, record=["n1", "n2"], reset=reset)
        for name in SHAPES:
            np.testing.assert_array_equal(floats.spikes[name].reshape(3, 12, -1), expected.spikes[name])
    for name in ("n1", "n2", "n3"):
        np.testing.assert_array_equal(run.spikes[name].reshape(3, 12, -1), expected.spikes[name])
    for name, mask in dead.items():
        assert expected.spikes[name].any() and not run.spikes[name][:, :, mask].any()
        assert not run.u[name][:, :, mask].any() and not run.v[name][:, :, mask].any()
    with_all = simulate(compile_graph(from_nir(network(integrate)), chip)[0], x, record=["n1"])
    assert with_all.spikes["n1"][:, :, dead["n1"]].any()


@pytest.mark.parametrize("kind", [lif, cuba_lif])
@pytest.mark.parametrize("per_channel", [False, True])
def test_rounded_networks_round_as_without_them(kind, per_channel):
    """Kernels, thresholds and biases of the neurons that are left are those of the whole network; biases by an always-on input, too."""

    def neurons(*shape):
        return (
            kind(*shape, tau_mem=3.0, tau_syn=2.0, v_threshold=0.7)
            if kind is cuba_lif
            else kind(*shape, tau=3.0)
        )

    dead = masks(3)
    whole, _ = compile_graph(from_nir(network(neurons)), "loihi2", per_channel=per_channel)
    some, _ = compile_graph(from_nir(network(neurons, dead)), "loihi2", per_channel=per_channel)
    convolutions = [[q for q in n.projections if isinstance(q, ConvProjection)] for n in (whole, some)]
    for a, b in zip(*convolutions, strict=True):
        assert (a.source, a.target, a.weight_exp) == (b.source, b.target, b.weight_exp)
        np.testing.assert_array_equal(a.weight, b.weight)
    # The matrix behind them has fewer synapses, and perhaps finer steps.
    for a, b in zip(whole.populations[:2], some.populations, strict=False):
        alive = slice(None) if b.dead is None else ~b.dead
        for key in ("vth", "bias_mant"):
            values = [np.broadcast_to(np.ravel(getattr(p, key)), np.prod(p.shape)) for p in (a, b)]
            np.testing.assert_array_equal(values[0][alive], values[1][alive])
    x = raster()[:1]
    run = simulate(some, x, record=["n1", "n2", "n3"])
    expected, events = oracle_network.run(some, {"input": x[0]} | always_on(some, 12))
    for name in ("n1", "n2", "n3"):
        np.testing.assert_array_equal(run.spikes[name][0].reshape(12, -1), expected[name]["spikes"])
        np.testing.assert_array_equal(run.event_counts[name][0], events[name])


def always_on(compiled, steps):
    return {p.name: np.ones((steps, *p.shape), int) for p in compiled.inputs if p.constant}


@pytest.mark.parametrize("pooled", [False, True])
def test_counts_are_those_of_a_loop(pooled):
    dead = masks(5)
    g = from_nir(network(integrate, dead, pooled))
    summary = {node.name: node for node in describe(g).nodes}
    for name, mask in dead.items():
        assert (summary[name].neurons, summary[name].never_spiking) == ((~mask).sum(), mask.sum())
    source = {"c1": np.ones((2, 9, 8), bool), "c2": ~dead["n1"], "fc": ~dead["n2"]}
    target = {"c1": ~dead["n1"], "c2": ~dead["n2"], "fc": np.ones(5, bool)}
    if pooled:  # a place of which a window has a neuron
        source["fc"] = source["fc"].reshape(3, 2, 2, 2, 2).any(axis=(2, 4))
    left = {}
    for name in source:
        node = g.nodes[name]
        joined = replace_weights(node)
        left[name] = 0
        for j in np.flatnonzero(source[name].ravel()):
            one = np.zeros(source[name].size)
            one[j] = 1
            hit = (
                joined.weight @ one
                if isinstance(node, nir.Affine)
                else apply_conv(joined, one.reshape(source[name].shape)).ravel()
            )
            left[name] += int(hit[target[name].ravel()].sum())
        assert summary[name].synapses == left[name], name
    assert sum(left.values()) == describe(g).synapses < describe(from_nir(network(integrate))).synapses
    if not pooled:
        compiled, reports = compile_graph(g, "loihi2")
        assert [r.synapses for r in reports] == [left[name] for name in ("c1", "c2", "fc")]
        told = {p["name"]: p["neurons"] for p in describe_network(compiled)["populations"]}
        assert told["n1"] == (~dead["n1"]).sum()
    x = raster()
    tally = neurobench.of_graph(g)
    run = reference.simulate(g, x, record=tally.recorded)
    tally.add(x, run.counts, run.spikes | run.membranes)
    operations = tally.to_dict()["SynapticOperations"]
    if not pooled:
        fixed = simulate(compiled, x)
        # Those of the input are not of neurons.
        events = sum(int(fixed.event_counts[name].sum()) for name in ("n1", "n2", "n3")) / len(x)
        assert sum(operations[key] for key in ("Effective_MACs", "Effective_ACs")) == pytest.approx(events)


def replace_weights(node):
    values = dict(vars(node))
    ones = (node.weight != 0).astype(float)
    if isinstance(node, nir.Affine):
        return nir.Affine(ones, values["bias"])
    return nir.Conv2d(None, ones, node.stride, node.padding, node.dilation, node.groups, node.bias)


@pytest.mark.parametrize("chip", ["loihi1", "loihi2", "spinnaker2"])
@pytest.mark.parametrize("strategy", ["best", "sequential", "greedy"])
@pytest.mark.parametrize("objective", ["cores", "time"])
def test_a_placement_has_no_dead_neuron(chip, strategy, objective):
    if objective == "time" and load_chip(chip).costs is None:
        pytest.skip("the chip's file has no costs")
    dead = masks(2)
    compiled, _ = compile_graph(from_nir(network(integrate, dead)), chip)
    small = replace(load_chip(chip), neurons_per_core=60)
    placement = place(compiled, small, strategy, objective=objective, max_cores=12)
    oracle_placement.check(compiled, placement)
    assert placement.neurons_per_core.sum() == sum(p.neurons for p in compiled.populations)
    loads = measure(compiled, placement, raster())
    updates = (loads.active + loads.inactive).sum(axis=1)
    assert (updates == sum(p.neurons for p in compiled.populations)).all()
    run = simulate(compiled, np.pad(raster(), [(0, 0), (0, 3), *[(0, 0)] * 3]), "chip")
    assert loads.events.sum() == sum(int(counts.sum()) for counts in run.event_counts.values())


@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_a_feature_map_without_its_border_costs_what_a_smaller_one_does(chip):
    def first(shape, padding, dead=None):
        population = integrate(*shape)
        if dead is not None:
            population.v_threshold = np.where(dead, np.inf, population.v_threshold)
        nodes = {
            "input": inp(2, 9, 8),
            "c1": conv(np.random.default_rng(0), 4, 2, padding=padding),
            "n1": population,
        }
        return place(compile_graph(from_nir(graph({**nodes, "output": out(*shape)}, dt=1.0)), chip)[0], chip)

    dead = np.ones((4, 9, 8), bool)
    dead[:, 1:-1, 1:-1] = False
    found, expected = first((4, 9, 8), 1, dead), first((4, 7, 6), 0)
    for key in ("neurons_per_core", "synapses_per_core", "memory_bits_per_core", "axons_in_per_core"):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
    assert found.lower_bound == expected.lower_bound


def test_files_keep_them(tmp_path):
    given = network(integrate, masks())
    for name in ("c1", "c2"):
        given.nodes[name].input_shape = (9, 8)
    nir.write(tmp_path / "n.nir", given)
    g = read_graph(tmp_path / "n.nir")
    np.testing.assert_array_equal(np.isinf(g.nodes["n1"].v_threshold), masks()["n1"])
    compiled, _ = compile_graph(g, "loihi2")
    network_file.save(compiled, tmp_path / "n.h5")
    again = network_file.load(tmp_path / "n.h5")
    np.testing.assert_array_equal(again.populations[0].dead, masks()["n1"].ravel())
    x = raster()
    for timing in ("chip", "zero_delay"):
        runs = [simulate(n, x, timing, ["n2"]) for n in (compiled, again)]
        np.testing.assert_array_equal(runs[0].spikes["n2"], runs[1].spikes["n2"])
    # What a network without dead neurons says is what an older version reads.
    plain, _ = compile_graph(from_nir(network(integrate)), "loihi2")
    network_file.save(plain, tmp_path / "plain.h5")
    assert b"dead" not in (tmp_path / "plain.h5").read_bytes()


def test_a_netx_file_has_matrices_in_their_place(tmp_path):
    chip = netx.restrict(load_chip("loihi1"))
    given = network(lambda *shape: lif(*shape, tau=2.0, v_threshold=0.9), masks(4, 0.2))
    compiled, _ = compile_graph(from_nir(given), chip)
    netx_writing.write_net(compiled, tmp_path / "n.net")
    again = netx_reading.read_net(tmp_path / "n.net")
    x = raster()
    names = [p.name for p in again.populations]
    assert names == [p.name for p in compiled.populations]
    runs = [simulate(n, x, "chip", names) for n in (compiled, again)]
    for name in names:
        a, b = (run.spikes[name].reshape(3, 12, -1) for run in runs)
        assert a.any()
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [lif, cuba_lif])
def test_fidelity_compares_the_neurons_that_are_there(kind):
    def neurons(*shape):
        more = {"tau_mem": 3.0, "tau_syn": 2.0, "w_in": 2.0} if kind is cuba_lif else {"tau": 3.0}
        return kind(*shape, v_threshold=0.7, r=3.0, **more)

    g, x, dead = from_nir(network(neurons, masks(6))), raster(), masks(6)
    done = compile_layers(g, "loihi2", weight_bits=4)
    units = {
        r.population.name: (64.0 * r.scaling.scale[r.demand.group] / r.demand.residual, 0.0)
        for r in done.layers
    }
    found = {p.name: p for p in fidelity(g, done.network, [x], units=units).populations}
    floats = reference.simulate(g, x, record=list(units), reset="zero")
    fixed = simulate(done.network, x, record=list(units))
    for name, mask in dead.items():
        alive = ~mask
        a, b = (run.spikes[name][:, :, alive] for run in (floats, fixed))
        assert found[name].agreement == pytest.approx((a & b).sum() / (a | b).sum())
        scale = np.broadcast_to(units[name][0], mask.size).reshape(mask.shape)[alive]
        error = (floats.membranes[name][:, :, alive] - fixed.v[name][:, :, alive] / scale)[(a | b) == 0]
        assert found[name].membrane_error == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)


def test_a_convolution_synapse_by_synapse():
    compiled, _ = compile_graph(from_nir(network(integrate, masks())), "loihi2")
    parts = []
    for q in compiled.projections:
        shape = {p.name: p.shape for p in (*compiled.inputs, *compiled.populations)}
        parts.append(unrolled(q, shape[q.source], shape[q.target]) if isinstance(q, ConvProjection) else q)
    x = raster()
    runs = [
        simulate(n, x, record=["n1", "n2", "n3"])
        for n in (compiled, replace(compiled, projections=tuple(parts)))
    ]
    for name in ("n1", "n2", "n3"):
        for key in ("spikes", "u", "v"):
            np.testing.assert_array_equal(getattr(runs[0], key)[name], getattr(runs[1], key)[name])


def test_what_is_refused():
    everything = {"n1": np.ones(SHAPES["n1"], bool)}
    with pytest.raises(HardwareError, match=r"'n1' .IF.: v_threshold is infinite everywhere"):
        compile_graph(from_nir(network(integrate, everything)), "loihi2")
    for bad in (np.nan, -np.inf):
        given = network(integrate)
        given.nodes["n1"].v_threshold[0, 0, 0] = bad
        with pytest.raises(
            HardwareError, match=r"v_threshold has 1 entries .* expected finite numbers or inf"
        ):
            from_nir(given)
    given = mixed()
    given.nodes["lif"].v_leak[0, 0, 0] = np.inf
    with pytest.raises(
        HardwareError, match=r"v_leak has 1 entries that are NaN or infinite, expected finite numbers$"
    ):
        from_nir(given)
    with pytest.raises(HardwareError, match=r"population 'n1': .* never spike"):
        compile_graph(from_nir(network(lambda *s: integrate(*s, threshold=2.0), masks())), "speck")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {"dead": np.zeros(5, bool)}, "expected 288 truths"),
        (lambda p: {"dead": np.ones(288, bool)}, "all of its neurons are dead"),
        (lambda p: {"spiking": False}, "does not spike, yet has dead neurons"),
        (lambda p: {"bias_mant": 3}, "a dead neuron has a bias"),
    ],
)
def test_populations_that_contradict_themselves(change, words):
    compiled, _ = compile_graph(from_nir(network(integrate, masks())), "loihi2")
    population = compiled.populations[0]
    with pytest.raises(HardwareError, match=words):
        replace(population, **change(population))


def test_networks_that_contradict_themselves():
    compiled, _ = compile_graph(from_nir(network(integrate, masks())), "loihi2")
    first, second, last = compiled.projections
    full = replace(last, weight=np.full_like(last.weight, 2)) if not hasattr(last, "indptr") else None
    for projections, words in (
        ((replace(first, dead_post=None), second, last), "dead_post is not what its population says"),
        ((first, replace(second, dead_pre=None), last), "dead_pre is not what its population says"),
        ((first, second, full), "a synapse of a dead neuron"),
    ):
        if None not in projections:
            with pytest.raises(HardwareError, match=words):
                replace(compiled, projections=projections)
    assert isinstance(compiled, Network) and isinstance(compiled.populations[0], Population)
