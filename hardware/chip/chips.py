"""Neuromorphic chips as data: one TOML file per chip, every value with its unit and its source.

A chip file has a `name` and groups of tables, `[limits.<key>]`, `[format.<key>]`, `[neuron.<key>]` and `[costs.<key>]`, each with
`value`, `unit` and `source`. The built-in ones lie beside this module; `load_chip` takes their names or the path of
a file of the same form. A file may leave the neurons out: then they are taken to be those of `NeuronModel()`;
or the costs: then there are loads but no times. Where each core
takes one layer, `[layers.<key>]` says what of it (`LayerCores`), with the number of cores and the weight widths alone
from the first two groups.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware.chip.costs import COSTS, Costs
from hardware.errors import HardwareError
from hardware.network import integer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUILT_IN = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))
DEFAULT = "loihi2"

_SIGN_MODES = ("mixed", "excitatory", "inhibitory")


@dataclass(frozen=True)
class NeuronModel:
    """What a chip can do to a neuron and to the synapses that lead to it. The defaults are all that the integer network
    (`hardware.network.integer`) can say.

    sign_modes: how the weights of a projection may be stored, see `hardware.network.integer.weight_grid`.
    weight_exponents, bias_exponents: lowest and highest power of two that the weights of a projection, the biases of a
        population may share.
    threshold_bits: unsigned. thresholds_per: "neuron", or "population" where all neurons of one share theirs.
    bias_bits: signed.
    current_decay_bits, membrane_decay_bits: of the share lost per step; 0: currents have no memory, membranes no leak.
    state_bits: of current and membrane, signed. input_shift: bits by which a synaptic input is shifted up as it joins them,
        so that a membrane has 2**input_shift units for one of a weight's mantissa (of mixed signs they are even: -1 where the
        membrane counts those).
    projection_steps: time steps that every projection takes: 1, or 0 on a chip without a clock. delay_steps: the longest delay
        of a synapse beyond that.
    graded_inputs: whether an input spike carries a count. always_on_inputs: whether an input can spike in every step without
        being told, through which biases of synaptic currents act. membrane_readout: whether the membranes of an output can be
        read.
    resets: what a spike does to its membrane: "zero", "subtract" (takes the threshold off).
    """

    sign_modes: tuple[str, ...] = _SIGN_MODES
    weight_exponents: tuple[int, int] = (integer.MIN_WEIGHT_EXP, integer.MAX_WEIGHT_EXP)
    threshold_bits: int = integer.MAX_THRESHOLD.bit_length()
    thresholds_per: str = "neuron"
    bias_bits: int = integer.MAX_BIAS.bit_length() + 1
    bias_exponents: tuple[int, int] = (0, integer.MAX_BIAS_EXP)
    current_decay_bits: int = integer.DECAY_BITS
    membrane_decay_bits: int = integer.DECAY_BITS
    state_bits: int = integer.STATE_BITS
    input_shift: int = integer.INPUT_SHIFT
    projection_steps: int = 1
    delay_steps: int = integer.MAX_DELAY
    graded_inputs: bool = True
    always_on_inputs: bool = True
    membrane_readout: bool = True
    resets: tuple[str, ...] = integer.RESETS

    @property
    def largest_threshold(self) -> int:
        """Threshold mantissa, as far as the integer network goes."""
        return int(min(2 ** (self.threshold_bits + max(-self.input_shift, 0)) - 1, integer.MAX_THRESHOLD))

    @property
    def largest_bias(self) -> int:
        """Bias mantissa, as far as the integer network goes; the most negative one is one further from zero."""
        return int(min(2 ** (self.bias_bits - 1) - 1, integer.MAX_BIAS))

    @property
    def largest_input(self) -> int:
        """What the synaptic input of one step may sum to before a state runs over."""
        return (
            int(
                2 ** min(self.state_bits - 1 - self.input_shift, integer.STATE_BITS - 1 - integer.INPUT_SHIFT)
            )
            - 1
        )

    @property
    def network_bias_exponents(self) -> tuple[int, int]:
        """`bias_exponents` where one of a weight is 64 of the membrane, as in the integer network.

        Raises HardwareError where that has none of them.
        """
        shift = integer.INPUT_SHIFT - self.input_shift
        low, high = (
            max(self.bias_exponents[0] + shift, 0),
            min(self.bias_exponents[1] + shift, integer.MAX_BIAS_EXP),
        )
        if low > high:
            raise HardwareError(
                f"bias exponents {self.bias_exponents[0]} to {self.bias_exponents[1]} at an input shift of "
                f"{self.input_shift}: the integer network has {-shift} to {integer.MAX_BIAS_EXP - shift} there"
            )
        return low, high


@dataclass(frozen=True)
class LayerCores:
    """Cores that take one layer each: a square convolution of spikes that were sum-pooled, and its neurons. Cores may differ in size.

    kernel_words, neuron_words, bias_words: of each core's three memories, see `hardware.chip.memory`; *_word_bits: of a word.
    kernel_size, padding, channels, input_size, output_size: the most of each (sizes: along height and width).
    strides, pooling: those that there are (1: none). destinations: populations that the spikes of one can go to.
    """

    kernel_words: tuple[int, ...]
    neuron_words: tuple[int, ...]
    bias_words: tuple[int, ...]
    kernel_word_bits: int
    neuron_word_bits: int
    bias_word_bits: int
    kernel_size: int
    padding: int
    channels: int
    input_size: int
    output_size: int
    strides: tuple[int, ...]
    pooling: tuple[int, ...]
    destinations: int


@dataclass(frozen=True)
class Chip:
    """One chip: what a core holds, and how it stores synapses. Limits may be `math.inf`, of the formats only `axon_offsets`.

    cores: neuro cores on a chip. neurons_per_core: compartments.
    memory_bits_per_core: bits for synapses, plus `neuron_state_bits` per neuron, `axon_in_bits` per incoming and
        `axon_out_bits` per outgoing axon (those three are 0 where the chip keeps them in memories of their own).
    axons_in_per_core, axons_out_per_core: entries of the axon tables.
    word_bits, block_synapses, block_header_bits, weight_bits, index_bits, delay_bits, tag_bits: see `hardware.chip.memory`.
    axon_offsets: how many compartment offsets an axon can have (0, 1, ...), see `hardware.chip.memory`.
    shared_kernels: how a core stores a convolution: "no" (each axon its synapses), "shifted" (axons whose synapses differ
        only by a shift share them) or "once" (each output channel's kernel once).
    population_axon_atoms: how many channels at one position of a convolution's input share an axon.
    population_axon_slots: entries of the table of outgoing axons that an axon of several pre neurons takes.
    dense_axon_atoms: how many consecutive pre neurons of a dense projection share an axon.
    neuron: what it can do to a neuron. layers: of a chip whose cores take one layer each; all else but `cores` and
        `weight_bits` is then without meaning.
    costs: time and energy per event, None where the file says nothing of them.
    units, sources: per `<group>.<key>`, as in the file.
    """

    name: str
    cores: float
    neurons_per_core: float
    memory_bits_per_core: float
    axons_in_per_core: float
    axons_out_per_core: float
    neuron_state_bits: int
    axon_in_bits: int
    axon_out_bits: int
    word_bits: int
    block_synapses: int
    block_header_bits: int
    weight_bits: tuple[int, ...]
    index_bits: tuple[int, ...]
    axon_offsets: float
    delay_bits: int
    tag_bits: int
    shared_kernels: str
    population_axon_atoms: int
    population_axon_slots: int
    dense_axon_atoms: int
    neuron: NeuronModel = NeuronModel()
    layers: LayerCores | None = None
    costs: Costs | None = None
    units: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    sources: dict[str, str] = field(default_factory=dict, compare=False, repr=False)


def load_chip(name_or_path: str | Path) -> Chip:
    """The chip of a built-in name (`BUILT_IN`) or of a TOML file.

    Raises HardwareError: unknown name, unreadable file, a missing key, a value that is negative or of the wrong kind,
    a key without source or with another unit; the message names the key and the file.
    """
    text = str(name_or_path)
    path = Path(__file__).with_name(f"{text}.toml") if text in BUILT_IN else Path(name_or_path)
    try:
        found = path.is_file()
    except ValueError:
        found = False
    if not found:
        raise HardwareError(
            f"chip {_brief(text, 400)}: neither a built-in chip ({', '.join(BUILT_IN)}) nor a file; "
            "expected one of these names or the path of a TOML file"
        )
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    # A number of thousands of digits is a plain ValueError, deep nesting a RecursionError.
    except (ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise HardwareError(f"chip file {path}: cannot be read as TOML: {reason}") from None
    return _from_table(table, path)


def as_chip(chip: Chip | str | Path) -> Chip:
    """`load_chip` of a name or a path; a chip as it is."""
    return chip if isinstance(chip, Chip) else load_chip(chip)


# --- the keys of a file ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """read: the value as a `Chip` keeps it, None where it is of the wrong kind. expected: of the value, in words.
    units: beginnings of the unit, one of which it has, so that bytes are not taken for bits."""

    read: Callable[[Any], Any]
    expected: str
    units: tuple[str, ...]


_MOST = 2**53


def _whole(least: int, units: str, most: int = _MOST) -> _Key:
    def read(value: Any) -> int | None:
        return value if type(value) is int and least <= value <= most else None

    expected = f"a whole number of at least {least}" + ("" if most == _MOST else f" and at most {most}")
    return _Key(read, expected, tuple(units.split("|")))


def _whole_or_inf(units: str) -> _Key:
    whole = _whole(1, units)

    def read(value: Any) -> float | None:
        return math.inf if type(value) is float and value == math.inf else whole.read(value)

    return _Key(read, f"{whole.expected}, or inf", whole.units)


def _widths(units: str, widest: int = 0) -> _Key:
    def read(value: Any) -> tuple[int, ...] | None:
        whole = isinstance(value, list) and bool(value) and all(type(width) is int for width in value)
        if not whole or min(value) < 0 or not widest <= max(value) <= 64 or value != sorted(set(value)):
            return None
        return tuple(value)

    above = f", the last at least {widest}" if widest else ""
    return _Key(read, f"a rising list of whole numbers of bits, 0 to 64{above}", (units,))


def _range(units: str, middle: int | None = None) -> _Key:
    def read(value: Any) -> tuple[int, int] | None:
        whole = isinstance(value, list) and len(value) == 2 and all(type(end) is int for end in value)
        if not whole or not -64 <= value[0] <= value[1] <= 64:
            return None
        return (value[0], value[1]) if middle is None or value[0] <= middle <= value[1] else None

    around = "" if middle is None else f", {middle} not outside"
    return _Key(read, f"the lowest and the highest whole number, -64 to 64{around}", (units,))


def _sizes(units: str) -> _Key:
    def read(value: Any) -> tuple[int, ...] | None:
        whole = isinstance(value, list) and 0 < len(value) <= 4096 and all(type(n) is int for n in value)
        return tuple(value) if whole and min(value) >= 0 and max(value) <= _MOST else None

    return _Key(read, "a list of whole numbers, one for each core, none negative", (units,))


def _some_of_numbers(units: str) -> _Key:
    def read(value: Any) -> tuple[int, ...] | None:
        whole = isinstance(value, list) and bool(value) and all(type(n) is int for n in value)
        return (
            tuple(value)
            if whole and 1 <= min(value) <= max(value) <= 64 and value == sorted(set(value))
            else None
        )

    return _Key(read, "a rising list of whole numbers, 1 to 64", (units,))


def _one_of(words: tuple[str, ...], units: str) -> _Key:
    def read(value: Any) -> str | None:
        return value if isinstance(value, str) and value in words else None

    return _Key(read, f"one of {', '.join(words)}", (units,))


def _some_of(words: tuple[str, ...], units: str) -> _Key:
    def read(value: Any) -> tuple[str, ...] | None:
        known = isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)
        return tuple(value) if known and set(value) <= set(words) and len(set(value)) == len(value) else None

    return _Key(read, f"a list of some of {', '.join(words)}", (units,))


def _truth(units: str) -> _Key:
    return _Key(lambda value: value if type(value) is bool else None, "true or false", (units,))


def _number(units: str) -> _Key:
    def read(value: Any) -> float | None:
        return float(value) if type(value) in (int, float) and 0 <= value < math.inf else None

    return _Key(read, "a number that is not negative", (units,))


_GROUPS: dict[str, dict[str, _Key]] = {
    "limits": {
        "cores": _whole_or_inf("neuro cores|cores|processing elements"),
        "neurons_per_core": _whole_or_inf("compartments|neurons"),
        "memory_bits_per_core": _whole_or_inf("bits"),
        "axons_in_per_core": _whole_or_inf("incoming axons|axons"),
        "axons_out_per_core": _whole_or_inf("outgoing axons|axons"),
    },
    "format": {
        "neuron_state_bits": _whole(0, "bits per neuron"),
        "axon_in_bits": _whole(0, "bits per incoming axon"),
        "axon_out_bits": _whole(0, "bits per outgoing axon"),
        "word_bits": _whole(1, "bits"),
        "block_synapses": _whole(1, "synapses per block"),
        "block_header_bits": _whole(0, "bits per block"),
        "weight_bits": _widths("bits", widest=1),
        "index_bits": _widths("bits"),
        "axon_offsets": _whole_or_inf("compartment offsets|neuron offsets|offsets"),
        "delay_bits": _whole(0, "bits per synapse"),
        "tag_bits": _whole(0, "bits per synapse"),
        "shared_kernels": _one_of(("no", "shifted", "once"), "how"),
        "population_axon_atoms": _whole(1, "pre neurons"),
        "population_axon_slots": _whole(1, "entries"),
        "dense_axon_atoms": _whole(1, "consecutive pre neurons|pre neurons"),
    },
    "neuron": {
        "sign_modes": _some_of(_SIGN_MODES, "signs"),
        "weight_exponents": _range("powers of two", middle=0),
        "threshold_bits": _whole(1, "bits", 64),
        "thresholds_per": _one_of(("neuron", "population"), "what"),
        "bias_bits": _whole(1, "bits", 64),
        "bias_exponents": _range("powers of two"),
        "current_decay_bits": _whole(0, "bits", 64),
        "membrane_decay_bits": _whole(0, "bits", 64),
        "state_bits": _whole(2, "bits", 64),
        "input_shift": _whole(-16, "bits", 64),
        "projection_steps": _whole(0, "time steps|steps", 1),
        "delay_steps": _whole(0, "time steps|steps"),
        "graded_inputs": _truth("whether"),
        "always_on_inputs": _truth("whether"),
        "membrane_readout": _truth("whether"),
        "resets": _some_of(integer.RESETS, "what"),
    },
    "costs": {
        **{key: _number("ns" if key.endswith("_ns") else "pJ") for key in COSTS},
        "cores_per_tile": _whole(1, "cores"),
        "tiles_per_row": _whole(1, "tiles"),
    },
    "layers": {
        "kernel_words": _sizes("words"),
        "neuron_words": _sizes("words"),
        "bias_words": _sizes("words"),
        "kernel_word_bits": _whole(1, "bits", 64),
        "neuron_word_bits": _whole(1, "bits", 64),
        "bias_word_bits": _whole(1, "bits", 64),
        "kernel_size": _whole(1, "positions"),
        "padding": _whole(0, "positions"),
        "channels": _whole(1, "channels"),
        "input_size": _whole(1, "positions"),
        "output_size": _whole(1, "positions"),
        "strides": _some_of_numbers("positions"),
        "pooling": _some_of_numbers("positions"),
        "destinations": _whole(1, "layers"),
    },
}
_OPTIONAL = ("neuron", "costs", "layers")
# What a file with [layers] says of the groups before it, and what stands for the rest.
_WITH_LAYERS: dict[str, tuple[str, ...]] = {"limits": ("cores",), "format": ("weight_bits",)}
_WITHOUT_MEANING: dict[str, Any] = {
    **dict.fromkeys(
        ("neurons_per_core", "memory_bits_per_core", "axons_in_per_core", "axons_out_per_core"), math.inf
    ),
    **dict.fromkeys(("neuron_state_bits", "axon_in_bits", "axon_out_bits", "block_header_bits"), 0),
    **dict.fromkeys(("delay_bits", "tag_bits"), 0),
    **dict.fromkeys(("word_bits", "block_synapses", "population_axon_atoms", "population_axon_slots"), 1),
    **{"dense_axon_atoms": 1, "index_bits": (64,), "axon_offsets": math.inf, "shared_kernels": "no"},
}
_LONGEST_NAME = 60


def _from_table(table: dict[str, Any], path: Path) -> Chip:
    where = f"chip file {path}"
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise HardwareError(f"{where}: key 'name' is missing; expected a non-empty string")
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise HardwareError(
            f"{where}: key 'name' is {_brief(name)}; expected at most {_LONGEST_NAME} printable characters"
        )
    values: dict[str, dict[str, Any]] = {}
    units: dict[str, str] = {}
    sources: dict[str, str] = {}
    unknown = [key for key in table if key not in ("name", *_GROUPS)]
    for group, known in _GROUPS.items():
        if group in _OPTIONAL and group not in table:
            continue
        keys = (
            {key: known[key] for key in _WITH_LAYERS[group]}
            if "layers" in table and group in _WITH_LAYERS
            else known
        )
        entries = table.get(group, {})
        if not isinstance(entries, dict):
            raise HardwareError(f"{where}: key '{group}' is no table; expected [{group}.<key>] tables")
        unknown += [f"{group}.{key}" for key in entries if key not in keys]
        values[group] = {}
        for key, wanted in keys.items():
            label = f"{group}.{key}"
            values[group][key] = _value(entries.get(key), wanted, label, where)
            units[label], sources[label] = entries[key]["unit"], entries[key]["source"]
    if unknown:
        others = "the keys of loihi1.toml" if "layers" not in table else "the keys of speck.toml"
        raise HardwareError(f"{where}: unknown key {_brief(unknown[0])}; expected only {others}")
    neuron = NeuronModel(**values.pop("neuron", {}))
    costs = None
    if "costs" in values:
        assumed = tuple(key for key in values["costs"] if sources[f"costs.{key}"].startswith("assumption"))
        costs = Costs(**values.pop("costs"), assumed=assumed)
    layers = LayerCores(**values.pop("layers")) if "layers" in values else None
    own = {key: value for group in values.values() for key, value in group.items()}
    if layers is not None:
        for key in ("kernel_words", "neuron_words", "bias_words"):
            if len(getattr(layers, key)) != own["cores"]:
                raise HardwareError(
                    f"{where}: key 'layers.{key}' has {len(getattr(layers, key))} values; expected {own['cores']}, one for each core"
                )
        own = {**_WITHOUT_MEANING, **own}
    return Chip(name=name, neuron=neuron, costs=costs, layers=layers, units=units, sources=sources, **own)


def _value(entry: Any, wanted: _Key, label: str, where: str) -> Any:
    if not isinstance(entry, dict) or "value" not in entry:
        raise HardwareError(
            f"{where}: key '{label}' is missing; expected a table with value, unit and source"
        )
    for word in ("unit", "source"):
        if not isinstance(entry.get(word), str) or not entry[word]:
            raise HardwareError(f"{where}: key '{label}.{word}' is missing; expected a non-empty string")
    if not entry["unit"].startswith(wanted.units):
        begin = " or ".join(repr(unit) for unit in wanted.units)
        raise HardwareError(
            f"{where}: key '{label}.unit' is {_brief(entry['unit'])}; expected it to begin with {begin}"
        )
    value = wanted.read(entry["value"])
    if value is None:
        raise HardwareError(f"{where}: key '{label}' is {_brief(entry['value'])}; expected {wanted.expected}")
    return value


def _brief(value: Any, longest: int = 80) -> str:
    """A value of a file for a message of one line."""
    try:
        text = repr(value)
    # Python writes no number of more than 4,300 digits, and no list in lists in lists.
    except (ValueError, RecursionError):
        return "far too large"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
