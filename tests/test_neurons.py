"""Neurons against Norse's own cells, against loops written by hand, and their learning."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("norse")

import norse.torch as norse
import torch

from dpap_neuro.errors import InputError
from dpap_neuro.networks import NEURONS
from dpap_neuro.networks.neurons import (
    IF,
    LI,
    LIF,
    READOUTS,
    CubaLI,
    CubaLIF,
    Integrator,
    NeuronSettings,
    ParametricLIF,
    Recurrent,
    Threshold,
)

SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.04, v_th=0.4, tau_syn=0.02)
T = torch.tensor


def recording(*shape):
    return torch.randn(40, 3, *shape, generator=torch.Generator().manual_seed(0)) + 0.3


CELLS = {
    LIF: norse.LIFBoxCell(norse.LIFBoxParameters(T(25.0), T(0.0), T(0.4), T(0.0)), dt=0.01),
    CubaLIF: norse.LIFCell(norse.LIFParameters(T(50.0), T(25.0), T(0.0), T(0.4), T(0.0)), dt=0.01),
    IF: norse.IAFCell(norse.IAFParameters(T(0.4), T(0.0))),
    LI: norse.LIBoxCell(norse.LIBoxParameters(T(25.0), T(0.0)), dt=0.01),
    CubaLI: norse.LICell(norse.LIParameters(T(50.0), T(25.0), T(0.0)), dt=0.01),
}


@pytest.mark.parametrize("kind", CELLS)
def test_steps_as_the_norse_cell(kind):
    x, state, out = recording(5, 2), None, []
    for current in x:
        z, state = CELLS[kind](current, state)
        out.append(z)
    found = kind(SETTINGS)(x)
    assert found.any() and torch.equal(found, torch.stack(out))


def test_lif_by_hand_with_every_parameter():
    v, expected = 0.1, []
    x = recording(1)[:, :1]
    for current in x.flatten().tolist():
        v += 0.01 / 0.05 * (2.0 * current + 0.1 - v)
        expected.append(float(v > 0.3))
        v = -0.2 if v > 0.3 else v
    lif = LIF(SETTINGS, tau_mem=0.05, v_leak=0.1, v_th=0.3, v_reset=-0.2, gain=2.0)
    assert 0 < sum(expected) < len(expected) and lif(x).flatten().tolist() == expected


@pytest.mark.parametrize("kind", [LIF, CubaLIF, IF])
def test_reset_by_subtraction_by_hand(kind):
    """A strong input leaves the membrane above the threshold: one spike a step until it is below."""
    x = torch.zeros(30, 1, 1, dtype=torch.float64)
    x[2], x[9], x[20] = 9.0, -1.0, 2.0
    v, i, expected = 0.0, 0.0, []
    for current in x.flatten().tolist():
        i = i + current if kind is CubaLIF else current
        v = v + i if kind is IF else v + 0.25 * (i - v)
        i -= 0.5 * i
        expected.append(float(v > 0.4))
        v -= 0.4 * expected[-1]
    neuron = kind(replace(SETTINGS, reset="subtract"))
    assert sum(expected) > 3 and neuron(x).flatten().tolist() == expected
    assert kind(SETTINGS)(x).sum() < sum(expected)


def test_norses_own_cell_resets_by_subtraction_alike():
    cell = norse.LIFBoxCell(LIF(replace(SETTINGS, reset="subtract")).constants(), dt=0.01)
    x, state, out = 3 * recording(5), None, []
    for current in x:
        z, state = cell(current, state)
        out.append(z)
    assert torch.equal(LIF(replace(SETTINGS, reset="subtract"))(x), torch.stack(out))
    with pytest.raises(InputError, match="reset: found 'soft', expected zero or subtract"):
        replace(SETTINGS, reset="soft")


def test_recurrent_population_hears_itself_one_step_later():
    population = Recurrent(IF(SETTINGS), 2)
    population.recurrent_weights.data = T([[0.0, 0.5], [0.0, 0.0]])
    x = torch.zeros(4, 1, 2)
    x[1, 0, 1] = 1.0
    assert population(x)[:, 0].tolist() == [[0, 0], [0, 1], [1, 0], [0, 0]]
    population(x).sum().backward()
    assert population.recurrent_weights.grad.abs().sum() > 0


def test_parametric_lif_starts_as_a_lif_and_learns_its_time_constant():
    x = recording(6)
    parametric = ParametricLIF(SETTINGS)
    assert 1 / parametric.tau_mem_inv.item() == pytest.approx(0.04)
    assert torch.equal(parametric(x), LIF(SETTINGS)(x))
    parametric(x).sum().backward()
    assert float(parametric.w.grad) != 0 and list(parametric.state_dict()) == ["w"]
    parametric.w.data -= 100.0
    assert 0 <= parametric.tau_mem_inv.item() < 1 / SETTINGS.dt


def test_without_memory_and_without_leak():
    x = recording(4)
    assert torch.equal(Threshold(SETTINGS)(x), (x > 0.4).float())
    torch.testing.assert_close(Integrator(SETTINGS, gain=2.0)(x)[-1], 2 * x.sum(0))


@pytest.mark.parametrize("name", [*NEURONS, *READOUTS])
def test_every_name_runs_from_rest_each_time(name):
    neuron = {**NEURONS, **READOUTS}[name](SETTINGS)
    x = recording(4).requires_grad_()
    assert neuron.settings is SETTINGS and torch.equal(neuron(x), neuron(x))
    neuron(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("value", [0.001, 0.0, float("nan")])
def test_bad_synaptic_time_constant(value):
    with pytest.raises(InputError, match="tau_syn"):
        NeuronSettings(dt=0.01, tau_mem=0.03, tau_syn=value)
