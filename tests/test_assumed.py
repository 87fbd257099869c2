"""What files do not say: the step that their numbers tell, and the line for each thing assumed."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from graph_samples import graph, inp, out

from hardware.errors import HardwareError
from hardware.graph.assumed import assumptions
from hardware.graph.graph import reset_of, taken_by_a_spike, time_step
from hardware.graph.parsing import from_nir
from hardware.simulate.float_simulator import FloatSimulator
from hardware.simulate.reference import simulate

F4 = np.float32


def lif(tau, r, n=2, **changed):
    values = {"tau": tau, "r": r, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **changed}
    return nir.LIF(**{k: np.broadcast_to(np.asarray(v, F4), (n,)) for k, v in values.items()})


def if_(r, n=2):
    return nir.IF(np.full(n, r), np.ones(n), np.zeros(n))


def chain(*nodes, **metadata):
    names = {"i": inp(2), **{f"n{k}": node for k, node in enumerate(nodes)}, "o": out(2)}
    return from_nir(graph(names, **metadata))


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 2.5e-3])
def test_step_of_writers_that_leave_it_in_r(dt):
    # snnTorch: beta in float32, tau = dt / (1 - beta), r = tau / dt
    beta = np.array([0.9, 0.37], F4)
    tau = (dt / (1 - beta)).astype(F4)
    assert chain(lif(tau, tau / F4(dt))).dt == pytest.approx(dt, rel=1e-5)
    # SpikingJelly: one tau for all, so the step must be round
    assert chain(lif(2 * dt, 2.0), lif(2 * dt, 1.0)).dt == pytest.approx(dt, rel=1e-5)
    cuba = nir.CubaLIF(*(np.full(2, v) for v in (3 * dt, 7 * dt, 7.0, 0.0, 1.0, 0.0, 3.0)))
    g = chain(cuba)
    assert g.dt == pytest.approx(dt, rel=1e-5)
    assert "inferred" in time_step(g)[1] and any("inferred" in line for line in assumptions(g))


@pytest.mark.parametrize(
    "nodes",
    [
        [lif(0.01, 1.0)],  # r says nothing
        [lif(0.0123457, 7.7)],  # one ratio that is not round
        [lif([0.01, 0.02], [10.0, 10.0])],  # two ratios
        [lif([0.01, 0.02], [10.0, 20.001])],
        [lif(0.01, 10.0), lif(0.0005, 1.0)],  # the step would be longer than a time constant
        [if_(2.0)],
        [lif(0.01, -10.0)],
    ],
)
def test_no_step_where_numbers_do_not_agree(nodes):
    assert chain(*nodes).dt is None


def test_what_is_said_goes_first():
    g = chain(lif(2e-3, 2.0), dt=5e-4)
    assert time_step(g)[0] == 5e-4 and "metadata" in time_step(g)[1]
    assert time_step(chain(lif(2e-3, 2.0)), 1e-4)[0] == 1e-4


def test_an_if_that_counts_in_seconds_counts_in_steps():
    x = np.random.default_rng(0).random((2, 20, 2))
    written, ours = chain(if_(1000.0)), chain(if_(1.0))
    assert written.dt == 1e-3 and "SpikingJelly" in written.notes[0]
    assert (simulate(written, x).counts["n0"] == simulate(ours, x).counts["n0"]).all()
    assert (written.nodes["n0"].r == 1).all() and ours.notes == ()
    # with a LIF behind, whose r says nothing, the IF tells the step of both
    both = chain(if_(500.0), lif(0.01, 1.0))
    assert both.dt == 2e-3 and (both.nodes["n0"].r == 1).all()
    own = chain(if_(1000.0), dt=1e-3, writer="dpap-neuro")
    assert (own.nodes["n0"].r == 1000).all() and own.notes == ()
    for_them = chain(if_(1000.0), dt=1e-3, writer="dpap-neuro for spikingjelly")
    assert (for_them.nodes["n0"].r == 1).all()


def test_reset_is_assumed_aloud():
    said = "snnTorch's default is subtraction"
    assert any(said in line for line in assumptions(chain(lif(0.01, 1.0)), 1e-3))
    for g in (
        chain(lif(0.01, 1.0), reset="zero"),
        chain(lif(0.01, 1.0, v_reset=-0.1)),
        chain(nir.I(np.ones(2))),
    ):
        assert not any("reset = " in line for line in assumptions(g, 1e-3))
    assert not any("reset = " in line for line in assumptions(chain(lif(0.01, 1.0)), 1e-3, "subtract"))
    assert reset_of(chain(lif(0.01, 1.0), reset="subtract"))[0] == "subtract"


def cuba(w_in, r=1.0):
    return nir.CubaLIF(*(np.full(2, v) for v in (0.02, 0.01, r, 0.0, 1.0, 0.0, w_in)))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (lif(10.0, 1.0), "from_sinabs"),
        (cuba(1.0), "from_norse"),
        (lif([0.01, 0.02], [0.01 * np.exp(-0.1) / 1e-3, 0.02 * np.exp(-0.05) / 1e-3]), "from_rockpool"),
        (cuba(1.0, 0.01 * np.exp(-0.1) / 1e-3), "from_rockpool"),
        (lif([1e-3, 2e-3], [10.0, 20.0]), "from_snntorch"),
        (lif(0.01, 1.0, v_reset=-0.1), "SpikingJelly's start at v_reset"),
    ],
)
def test_what_other_exporters_leave_out_is_said(node, words):
    assert sum(words in line for line in assumptions(chain(node))) == 1
    assert not any(
        words in line for line in assumptions(chain(node, dt=1e-4, reset="zero", writer="dpap-neuro"))
    )


def test_a_file_for_exponential_decays_is_no_source():
    g = chain(lif(0.01, 1.0), dt=1e-3, reset="zero", writer="dpap-neuro for sinabs")
    assert any("exponential" in line for line in assumptions(g))
    other = chain(lif(0.01, 1.0), dt=1e-3, reset="zero", writer="dpap-neuro for norse")
    assert assumptions(other) == ()


@pytest.mark.parametrize("node", [lif(5e-3, 5.0), lif(5e-3, 1.0, v_leak=0.7), if_(1.0)])
def test_a_subtraction_that_comes_late(node):
    g = chain(node, dt=1e-3, reset="subtract", reset_delay=1)
    x = np.random.default_rng(1).random((3, 40, 2)) * 1.5
    found = simulate(g, x, record=["n0"])
    assert (FloatSimulator(g).run(x, record=["n0"]).spikes["n0"] == found.spikes["n0"]).all()
    leaky = isinstance(node, nir.LIF)
    keep, gain = (1 - 1e-3 / 5e-3, 1e-3 / 5e-3 * float(node.r[0])) if leaky else (1.0, 1.0)
    leak = float(node.v_leak[0]) if leaky else 0.0
    v, z = np.full((3, 2), leak), np.zeros((3, 2))
    for t in range(40):
        v = leak + keep * (v - leak) + gain * x[:, t] - z * 1.0  # snnTorch: the spike of the step before
        z = (v > 1).astype(float)
        assert (found.spikes["n0"][:, t] == z).all()
    assert z.size and found.counts["n0"].sum() > 20


def test_a_late_subtraction_needs_memory():
    g = chain(lif(1e-3, 1.0), dt=1e-3, reset="subtract", reset_delay=1)
    with pytest.raises(HardwareError, match="reset_delay"):
        taken_by_a_spike(g, g.nodes["n0"], 1e-3)


def test_a_delay_that_no_run_reaches_is_said():
    late = nir.Delay(np.full(2, 1e6))
    said = [line for line in assumptions(chain(late, if_(1.0), dt=1e-3, bins=5)) if "'n0' (Delay)" in line]
    assert len(said) == 1 and "1,000,000,000" in said[0] and "5 steps" in said[0]
    assert any("'n0'" in line for line in assumptions(chain(late, if_(1.0), dt=1e-3)))
    near = chain(nir.Delay(np.full(2, 3e-3)), if_(1.0), dt=1e-3, bins=5)
    assert not any("Delay" in line for line in assumptions(near))


@pytest.mark.parametrize(("key", "value"), [("reset_delay", "soon"), ("reset_delay", 2), ("writer", 3)])
def test_metadata_is_checked(key, value):
    with pytest.raises(HardwareError, match=key):
        chain(if_(1.0), **{key: value})
