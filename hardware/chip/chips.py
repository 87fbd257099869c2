"""Neuromorphic chips as data: one TOML file per chip, every limit with its unit and its source.

A chip file has a `name` and two groups of tables, `[limits.<key>]` and `[format.<key>]`, each with `value`, `unit` and
`source`. `loihi1.toml` and `loihi2.toml` lie beside this module; `load_chip` takes their names or the path of
a file of the same form.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware.errors import HardwareError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUILT_IN = ("loihi1", "loihi2")

_LIMITS = ("cores", "neurons_per_core", "memory_bits_per_core", "axons_in_per_core", "axons_out_per_core")
_POSITIVE = (
    "word_bits",
    "block_synapses",
    "population_axon_atoms",
    "population_axon_slots",
    "dense_axon_atoms",
)
_NOT_NEGATIVE = (
    "neuron_state_bits",
    "axon_in_bits",
    "axon_out_bits",
    "block_header_bits",
    "delay_bits",
    "tag_bits",
)
_SHARING = ("no", "shifted", "once")
_WIDTHS = ("weight_bits", "index_bits")
_MAY_BE_INF = (*_LIMITS, "axon_offsets")


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
    units, sources: per key, as in the file.
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
    units: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    sources: dict[str, str] = field(default_factory=dict, compare=False, repr=False)


def load_chip(name_or_path: str | Path) -> Chip:
    """The chip of a built-in name ("loihi1", "loihi2") or of a TOML file.

    Raises HardwareError: unknown name, unreadable file, a missing key, a value that is negative or of the wrong kind,
    a key without unit or source; the message names the key and the file.
    """
    text = str(name_or_path)
    path = Path(__file__).with_name(f"{text}.toml") if text in BUILT_IN else Path(name_or_path)
    if not path.is_file():
        raise HardwareError(
            f"chip {text!r}: neither a built-in chip ({', '.join(BUILT_IN)}) nor a file; "
            "expected one of these names or the path of a TOML file"
        )
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise HardwareError(f"chip file {path}: cannot be read as TOML: {error}") from error
    return _from_table(table, path)


def _from_table(table: dict[str, Any], path: Path) -> Chip:
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise HardwareError(f"chip file {path}: key 'name' is missing; expected a non-empty string")
    values: dict[str, Any] = {}
    units: dict[str, str] = {}
    sources: dict[str, str] = {}
    known = {
        "limits": _LIMITS,
        "format": (*_POSITIVE, *_NOT_NEGATIVE, *_WIDTHS, "axon_offsets", "shared_kernels"),
    }
    unknown = [key for key in table if key not in ("name", *known)]
    for group, keys in known.items():
        entries = table.get(group, {})
        if not isinstance(entries, dict):
            raise HardwareError(
                f"chip file {path}: key '{group}' is no table; expected [{group}.<key>] tables"
            )
        unknown += [f"{group}.{key}" for key in entries if key not in keys]
        for key in keys:
            label = f"{group}.{key}"
            entry = entries.get(key)
            if not isinstance(entry, dict) or "value" not in entry:
                raise HardwareError(
                    f"chip file {path}: key '{label}' is missing; expected a table with value, unit and source"
                )
            for word in ("unit", "source"):
                if not isinstance(entry.get(word), str) or not entry[word]:
                    raise HardwareError(
                        f"chip file {path}: key '{label}.{word}' is missing; expected a non-empty string"
                    )
            values[key] = _checked(key, entry["value"], label, path)
            units[key], sources[key] = entry["unit"], entry["source"]
    if unknown:
        raise HardwareError(
            f"chip file {path}: unknown key '{unknown[0]}'; expected only the keys of loihi1.toml"
        )
    return Chip(name=name, units=units, sources=sources, **values)


def _checked(key: str, value: Any, label: str, path: Path) -> Any:
    where = f"chip file {path}: key '{label}' is {value!r}"
    if key == "shared_kernels":
        if value not in _SHARING:
            raise HardwareError(f"{where}; expected one of {', '.join(_SHARING)}")
        return value
    if key in _WIDTHS:
        whole = isinstance(value, list) and bool(value) and all(type(width) is int for width in value)
        if not whole or min(value) < 0 or list(value) != sorted(set(value)):
            raise HardwareError(f"{where}; expected a rising list of whole numbers of bits, none negative")
        return tuple(value)
    if key in _MAY_BE_INF:
        if type(value) is float and math.isinf(value) and value > 0:
            return math.inf
        if type(value) is not int or value < 1:
            raise HardwareError(f"{where}; expected a whole number of at least 1, or inf")
        return value
    least = 1 if key in _POSITIVE else 0
    if type(value) is not int or value < least:
        raise HardwareError(f"{where}; expected a whole number of at least {least}")
    return value
