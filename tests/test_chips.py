from __future__ import annotations

import math

import pytest

from hardware.chip import chips
from hardware.chip.chips import BUILT_IN, Chip, load_chip
from hardware.errors import HardwareError


def text_of(name="loihi1"):
    return (chips.Path(chips.__file__).with_name(f"{name}.toml")).read_text()


def refusal(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    with pytest.raises(HardwareError) as error:
        load_chip(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def table(group, key, text=None):
    """The lines of one table of loihi1.toml."""
    lines = (text or text_of()).splitlines(keepends=True)
    start = lines.index(f"[{group}.{key}]\n")
    end = next((n for n in range(start + 1, len(lines)) if lines[n].startswith("[")), len(lines))
    return "".join(lines[start:end])


def with_value(group, key, value):
    old = table(group, key)
    line = next(line for line in old.splitlines() if line.startswith("value"))
    return text_of().replace(old, old.replace(line, f"value = {value}"))


KEYS = [(group, key) for group, keys in chips._GROUPS.items() if group != "layers" for key in keys]
ALL = [(group, key) for group, keys in chips._GROUPS.items() for key in keys]
INF = [(group, key) for group, key in KEYS if "or inf" in chips._GROUPS[group][key].expected]


def test_the_limits_of_both_generations():
    one, two = load_chip("loihi1"), load_chip("loihi2")
    assert (one.cores, one.neurons_per_core, one.memory_bits_per_core) == (128, 1024, 16384 * 64)
    assert (one.axons_in_per_core, one.axons_out_per_core) == (4096, 4096)
    assert one.weight_bits == (0, 1, 2, 3, 4, 5, 6, 8) and one.index_bits == (0, 6, 7, 8, 9, 10, 11, 12)
    assert (one.word_bits, one.block_synapses, one.block_header_bits) == (64, 64, 10)
    assert (two.cores, two.neurons_per_core, two.memory_bits_per_core) == (128, 8192, 192 * 1024 * 8)
    assert two.axons_in_per_core == two.axons_out_per_core == math.inf
    assert (one.axon_offsets, two.axon_offsets) == (256, math.inf)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_limit_has_its_unit_and_source(name):
    chip = load_chip(name)
    keys = {f"{group}.{key}" for group, key in ALL if (group == "layers") <= (chip.layers is not None)}
    if chip.costs is None:
        keys -= {key for key in keys if key.startswith("costs.")}
    if chip.layers is not None:
        keys -= {f"{group}.{key}" for group, key in KEYS if key not in chips._WITH_LAYERS.get(group, (key,))}
    assert keys == set(chip.units) == set(chip.sources)
    assert all(chip.units.values()) and all(chip.sources.values())


def test_a_chip_of_the_users_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(with_value("limits", "neurons_per_core", 77).replace('name = "loihi1"', 'name = "mine"'))
    chip = load_chip(path)
    assert isinstance(chip, Chip) and chip.name == "mine" and chip.neurons_per_core == 77
    path.write_text(with_value("limits", "cores", "inf"))
    assert load_chip(str(path)).cores == math.inf


def test_unknown_name():
    with pytest.raises(HardwareError) as error:
        load_chip("loihi3")
    assert "'loihi3'" in str(error.value) and ", ".join(BUILT_IN) in str(error.value)


@pytest.mark.parametrize(("group", "key"), KEYS)
def test_missing_key(tmp_path, group, key):
    message = refusal(tmp_path, text_of().replace(table(group, key), ""))
    assert f"'{group}.{key}' is missing" in message


@pytest.mark.parametrize("word", ["value", "unit", "source"])
def test_missing_value_unit_or_source(tmp_path, word):
    old = table("limits", "axons_in_per_core")
    kept = "".join(line for line in old.splitlines(keepends=True) if not line.startswith(word))
    message = refusal(tmp_path, text_of().replace(old, kept))
    assert "limits.axons_in_per_core" in message and "missing" in message


WRONG = ["-1", '"many"', "true", "1.5", "nan", "-inf", "[]", "[3, 1]", "[-1, 2]", "{}"]


@pytest.mark.parametrize(("group", "key"), KEYS)
def test_negative_or_wrong_kind(tmp_path, group, key):
    right = {"graded_inputs": "true", "always_on_inputs": "true", "membrane_readout": "true"}
    right |= {"bias_exponents": "[-1, 2]", "weight_exponents": "[-1, 2]", "input_shift": "-1"}
    right |= dict.fromkeys(chips.COSTS, "1.5")
    for value in WRONG:
        if value != right.get(key):
            message = refusal(tmp_path, with_value(group, key, value))
            assert f"'{group}.{key}' is " in message and "expected" in message


@pytest.mark.parametrize(("group", "key"), [*INF, ("format", "word_bits"), ("neuron", "threshold_bits")])
def test_zero_where_at_least_one_is_needed(tmp_path, group, key):
    assert f"'{group}.{key}' is 0" in refusal(tmp_path, with_value(group, key, 0))


def test_a_format_without_limit(tmp_path):
    assert "'format.word_bits' is inf" in refusal(tmp_path, with_value("format", "word_bits", "inf"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("speed = 3\n", "'speed'"),
        ('[limits.coers]\nvalue = 1\nunit = "u"\nsource = "s"\n', "'limits.coers'"),
        ('[format.bits]\nvalue = 1\nunit = "u"\nsource = "s"\n', "'format.bits'"),
    ],
)
def test_unknown_key(tmp_path, text, word):
    message = refusal(tmp_path, text + text_of() if text.startswith("speed") else text_of() + text)
    assert "unknown key" in message and word in message


@pytest.mark.parametrize("name", ["", 'name = ""', "name = 3"])
def test_missing_name(tmp_path, name):
    assert "'name' is missing" in refusal(tmp_path, text_of().replace('name = "loihi1"', name))


@pytest.mark.parametrize("text", ["name = ", "[[[", b"\xff\xfe"])
def test_no_toml(tmp_path, text):
    assert "cannot be read as TOML" in refusal(tmp_path, text)


def test_a_group_that_is_no_table(tmp_path):
    start, end = text_of().index("[limits.cores]"), text_of().index("[format.")
    assert "'limits' is no table" in refusal(tmp_path, "limits = 3\n" + text_of()[:start] + text_of()[end:])


def test_a_folder_is_no_chip(tmp_path):
    with pytest.raises(HardwareError) as error:
        load_chip(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_costs_may_be_left_out_but_not_halved(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text_of()[: text_of().index("[costs.")])
    assert load_chip(path).costs is None
    message = refusal(tmp_path, with_value("costs", "hop_x_pj", -3))
    assert "'costs.hop_x_pj' is -3" in message and "not negative" in message
    assert "'costs.hop_x_pj' is missing" in refusal(
        tmp_path, text_of().replace(table("costs", "hop_x_pj"), "")
    )
    assert "'costs.message_ns.unit'" in refusal(
        tmp_path,
        text_of().replace(table("costs", "message_ns"), table("costs", "message_ns").replace('"ns', '"us')),
    )


def test_costs_that_are_assumed_are_marked():
    one, two = load_chip("loihi1").costs, load_chip("loihi2").costs
    assert one.assumed == ("tiles_per_row",) and one.synaptic_event_ns == 3.5
    assert set(two.assumed) == {key for group, key in KEYS if group == "costs"}
