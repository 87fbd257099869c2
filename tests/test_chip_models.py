"""What a chip's file says of neurons and weights is what the compiler does; the files of others that are broken."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np
import pytest
from graph_samples import cuba_lif, graph, inp, lif, out
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chips import refusal, text_of, with_value

from hardware.chip.chips import Chip, NeuronModel, load_chip
from hardware.chip.memory import stored_weight_bits
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.files.netx import restrict
from hardware.graph.parsing import from_nir
from hardware.network.integer import weight_grid

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")


def network(seed=0, node=None, weights=None):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(4, 6)) if weights is None else weights
    nodes = {
        "input": inp(6),
        "w": nir.Affine(weights, 0.05 * rng.normal(size=4)),
        "n": lif(4, tau=0.0137) if node is None else node,
        "w2": nir.Linear(rng.normal(size=(3, 4))),
        "m": cuba_lif(3, tau_syn=0.0071, tau_mem=0.0133),
        "output": out(3),
    }
    return from_nir(graph(nodes, dt=1e-3))


def changed(chip=LOIHI2, weight_bits=None, **neuron) -> Chip:
    bits = chip.weight_bits if weight_bits is None else weight_bits
    return replace(chip, name="mine", weight_bits=bits, neuron=replace(chip.neuron, **neuron))


def test_a_file_of_four_bits_and_a_threshold_per_neuron(tmp_path):
    path = tmp_path / "mine.toml"
    text = with_value("format", "weight_bits", "[0, 2, 4]").replace(
        'value = "population"', 'value = "neuron"'
    )
    path.write_text(text)
    compiled, reports = compile_graph(network(), path)
    assert {p.weight_bits for p in compiled.projections} == {4} and {r.weight_bits for r in reports} == {4}
    for projection in compiled.projections:
        low, high, step = weight_grid(projection.sign_mode, 4)
        assert len(np.unique(projection.weight)) <= 16 and not (projection.weight % step).any()
        assert low <= projection.weight.min() and projection.weight.max() <= high
    assert [np.shape(p.vth) for p in compiled.populations] == [(4,), (3,)]
    # Three bits are stored in four, five in none.
    narrow, _ = compile_graph(network(), path, weight_bits=3)
    assert stored_weight_bits(load_chip(path), narrow.projections[0].weight_bits) == 4
    with pytest.raises(HardwareError, match="weights of 5 bits, expected 1 to 4 for loihi1"):
        compile_graph(network(), path, weight_bits=5)


def test_a_name_a_path_and_the_chip_are_one(tmp_path):
    path = tmp_path / "copy.toml"
    path.write_text(text_of("loihi2"))
    compiled = [compile_graph(network(), chip)[0] for chip in ("loihi2", path, LOIHI2)]
    for other in compiled[1:]:
        for a, b in zip(compiled[0].projections, other.projections, strict=True):
            np.testing.assert_array_equal(a.weight, b.weight)
        for a, b in zip(compiled[0].populations, other.populations, strict=True):
            np.testing.assert_array_equal(a.vth, b.vth)


MODELS = st.builds(
    NeuronModel,
    sign_modes=st.sampled_from([("mixed",), ("mixed", "excitatory", "inhibitory"), ("inhibitory", "mixed")]),
    weight_exponents=st.sampled_from([(0, 0), (-7, 7), (-1, 2)]),
    threshold_bits=st.integers(11, 20),
    thresholds_per=st.sampled_from(["neuron", "population"]),
    bias_bits=st.integers(8, 16),
    bias_exponents=st.sampled_from([(0, 7), (6, 6), (3, 5)]),
    current_decay_bits=st.integers(4, 14),
    membrane_decay_bits=st.integers(4, 14),
    state_bits=st.integers(20, 30),
)


@settings(max_examples=40, deadline=None)
@given(MODELS, st.integers(0, 1000), st.sampled_from([(8,), (0, 2, 4), (1, 6, 16)]))
def test_what_is_compiled_is_within_what_the_chip_has(model, seed, widths):
    chip = replace(LOIHI2, weight_bits=widths, neuron=model)
    weights = np.random.default_rng(seed).normal(size=(4, 6))
    compiled, _ = compile_graph(network(seed, weights=np.abs(weights) if seed % 2 else weights), chip)
    for p in compiled.projections:
        assert p.sign_mode in model.sign_modes
        assert model.weight_exponents[0] <= p.weight_exp <= model.weight_exponents[1]
        assert p.weight_bits == min(8, max(widths))
    for p in compiled.populations:
        assert np.max(p.vth) < 2**model.threshold_bits
        assert model.thresholds_per == "neuron" or np.ndim(p.vth) == 0
        bias = np.asarray(p.bias_mant)
        assert -(2 ** (model.bias_bits - 1)) <= bias.min() and bias.max() < 2 ** (model.bias_bits - 1)
        assert model.bias_exponents[0] <= p.bias_exp <= model.bias_exponents[1]
        # A share lost per step is so many of 2**bits.
        assert not ((np.asarray(p.du) + 1) % 2 ** max(12 - model.current_decay_bits, 0)).any()
        assert not (np.asarray(p.dv) % 2 ** max(12 - model.membrane_decay_bits, 0)).any()


def refused(chip, **more):
    with pytest.raises(HardwareError) as error:
        compile_graph(network(**more), chip)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_a_chip_cannot_do_is_refused_by_name():
    neurons = lif(4)
    neurons.v_threshold = np.array([1.0, 2.0, 3.0, 4.0])
    message = refused("loihi1", node=neurons)
    assert "'n'" in message and "loihi1 has one per population" in message
    assert "loihi2 in a NETX file has one per population" in refused(restrict(LOIHI2), node=neurons)
    assert "'n': its membranes leak, those of mine cannot" in refused(changed(membrane_decay_bits=0))
    message = refused(changed(current_decay_bits=0))
    assert "'m': its synaptic currents have a memory, those of mine have none" in message
    message = refused(changed(resets=("subtract",)))
    assert "'n': a spike resets its membranes to v_reset, those of mine can only subtract" in message
    message = refused(changed(sign_modes=("excitatory",)))
    assert "'n': mixed weights from 'input', mine has excitatory ones" in message
    assert "bias exponents 9 to 12" in refused(changed(bias_exponents=(9, 12)))
    read_out = nir.LI(np.full(3, 0.02), np.ones(3), np.zeros(3))
    checked = from_nir(
        graph({"input": inp(3), "w": nir.Linear(np.eye(3)), "m": read_out, "output": out(3)}, dt=1e-3)
    )
    with pytest.raises(HardwareError, match="'m': its membranes are read out, mine gives out spikes only"):
        compile_graph(checked, changed(membrane_readout=False))


def test_the_longest_delay_is_the_chips():
    def delayed(steps):
        nodes = {
            "input": inp(2),
            "d": nir.Delay(np.full(2, steps * 1e-3)),
            "w": nir.Linear(np.eye(2)),
            "n": lif(2),
            "output": out(2),
        }
        return from_nir(graph(nodes, dt=1e-3))

    assert compile_graph(delayed(62), LOIHI1)[0].projections[0].delay == 62
    with pytest.raises(HardwareError, match="needs a delay of 63 steps on loihi1, which has at most 62"):
        compile_graph(delayed(63), LOIHI1)
    with pytest.raises(HardwareError, match="on spinnaker2, which has at most 15"):
        compile_graph(delayed(16), "spinnaker2")


def test_a_scale_per_channel_needs_a_threshold_per_neuron():
    with pytest.raises(HardwareError, match="a scale per channel: loihi1 has one threshold per population"):
        compile_graph(network(), LOIHI1, per_channel=True)
    assert np.ndim(compile_graph(network(), LOIHI2, per_channel=False)[0].populations[0].vth) == 0


def test_netx_restricts_any_chip():
    chip = restrict(changed(delay_steps=15))
    assert chip.neuron.weight_exponents == (0, 0) and chip.neuron.thresholds_per == "population"
    assert chip.neuron.network_bias_exponents == (6, 6) and chip.neuron.delay_steps == 15
    assert chip.name == "mine in a NETX file" and restrict(LOIHI1).neuron.delay_steps == 62
    compiled, _ = compile_graph(network(), chip)
    assert all(p.weight_exp == 0 for p in compiled.projections)
    assert all(p.bias_exp == 6 and np.ndim(p.vth) == 0 for p in compiled.populations)


# --- broken files ---


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("9" * 5000, "cannot be read as TOML"),
        ("0x" + "f" * 5000, "'limits.cores' is far too large; expected a whole number"),
        ("9" * 4000, "'limits.cores' is 999"),
        ("[" * 3000 + "]" * 3000, "cannot be read as TOML"),
        ("[" * 60 + "]" * 60, "'limits.cores' is [[["),
    ],
    ids=["digits", "hexadecimal", "large", "deep", "nested"],
)
def test_numbers_and_nesting_without_end(tmp_path, value, says):
    message = refusal(tmp_path, with_value("limits", "cores", value))
    assert says in message and len(message) < 600 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("group", "key", "unit"),
    [
        ("limits", "memory_bits_per_core", "bytes"),
        ("format", "word_bits", "byte"),
        ("neuron", "delay_steps", "ms"),
    ],
)
def test_a_wrong_unit_is_named(tmp_path, group, key, unit):
    start = text_of().index(f"[{group}.{key}]")
    head, tail = text_of()[:start], text_of()[start:]
    line = next(line for line in tail.splitlines() if line.startswith("unit"))
    message = refusal(tmp_path, head + tail.replace(line, f'unit = "{unit}"', 1))
    assert f"'{group}.{key}.unit' is '{unit}'; expected it to begin with" in message


@pytest.mark.parametrize("name", ["\\u001b[31mred", "a\\nb", "x" * 61, "\\u202ereversed"])
def test_a_name_that_moves_the_cursor_or_never_ends(tmp_path, name):
    message = refusal(tmp_path, text_of().replace('name = "loihi1"', f'name = "{name}"'))
    assert "'name'" in message and "printable" in message and message.isprintable()


def test_weights_of_no_bits(tmp_path):
    message = refusal(tmp_path, with_value("format", "weight_bits", "[0]"))
    assert "'format.weight_bits' is [0]" in message and "at least 1" in message


def test_a_path_that_is_none():
    with pytest.raises(HardwareError, match="neither a built-in chip"):
        load_chip("a\0b")


def test_a_file_may_leave_its_neurons_out(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(text_of()[: text_of().index("[neuron.")])
    assert load_chip(path).neuron == NeuronModel()


def test_a_chip_of_layers(tmp_path):
    text = text_of("speck")
    start = text.index("[layers.kernel_words]")
    shorter = text[:start] + text[start:].replace("[16384, 16384, ", "[16384, ", 1)
    message = refusal(tmp_path, shorter)
    assert "'layers.kernel_words' has 8 values; expected 9" in message
    extra = text + '[limits.neurons_per_core]\nvalue = 1\nunit = "neurons"\nsource = "s"\n'
    assert "unknown key 'limits.neurons_per_core'; expected only the keys of speck.toml" in refusal(
        tmp_path, extra
    )
    for bad in ("[3, 1]", "[]", "[0, 1]", "1", "[true]"):
        assert "'layers.strides' is" in refusal(
            tmp_path, text.replace("value = [1, 2, 4, 8]", f"value = {bad}")
        )
