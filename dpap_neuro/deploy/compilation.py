"""A `.nir` file into a chip's integers, fitted to recordings where there are some, and what that gains and costs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dpap_neuro.deploy.evaluation import INTEGER_FILES, Recordings
from dpap_neuro.errors import InputError
from hardware.chip.chips import Chip, as_chip
from hardware.compile.calibrate import Calibration, calibrate
from hardware.compile.compiler import Compiled, compile_layers
from hardware.compile.pairs import Choice, agreement_with, choose_pairs, seen_on
from hardware.compile.report import LayerReport
from hardware.errors import HardwareError
from hardware.files.network_file import save
from hardware.files.netx import restrict, write_net
from hardware.graph.graph import Graph
from hardware.graph.parsing import read_graph
from hardware.network.integer import Network
from hardware.placement import place

Pairs = Literal["none", "auto", "all"]
PAIRS = ("none", "auto", "all")


@dataclass(frozen=True)
class Wish:
    """How to spend synapses and recordings. pairs: which projections get two synapses per weight: "none", "all", or "auto",
    those that rounding costs most, until `min_agreement` of the spikes are alike or the network has `max_synapses`.
    recordings: to fit to, every second one held out to report on. calibrated: whether scales, weights and thresholds follow
    them. exponents: over how many a calibrated projection's weights may be spread."""

    pairs: Pairs = "none"
    min_agreement: float = 0.99
    max_synapses: int | None = None
    recordings: Recordings | None = None
    calibrated: bool = False
    exponents: int = 3

    def __post_init__(self) -> None:
        if self.pairs not in PAIRS:
            raise InputError(f"pairs: found {self.pairs!r}, expected one of {', '.join(PAIRS)}")
        if not 0 <= self.min_agreement <= 1:
            raise InputError(f"min-agreement: found {self.min_agreement:g}, expected a share, 0 to 1")
        if self.max_synapses is not None and self.max_synapses < 1:
            raise InputError(f"max-synapses: found {self.max_synapses}, expected at least 1")
        if not 1 <= self.exponents <= 8:
            raise InputError(f"exponents: found {self.exponents}, expected 1 to 8")
        if self.recordings is None and (self.pairs == "auto" or self.calibrated):
            raise InputError("pairs auto and calibration need recordings: give --calibrate or --dataset NAME")


@dataclass(frozen=True)
class Price:
    """synapses, cores, memory_bits: of a network on the chip; cores and bits are None where it cannot be placed."""

    synapses: int
    cores: int | None
    memory_bits: int | None


@dataclass(frozen=True)
class Fitting:
    """What a wish came to. fitted_on, held_out: numbers of recordings. agreement: of the held-out recordings' spikes with the
    float network's, rounded plainly and fitted, None without recordings. price: likewise.
    """

    fitted_on: int
    held_out: int
    agreement: tuple[float, float] | None
    price: tuple[Price, Price]
    choice: Choice | None
    calibration: Calibration | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, ready for JSON."""
        plain, fitted = (asdict(price) for price in self.price)
        values: dict[str, Any] = {
            "fitted_on": self.fitted_on,
            "held_out": self.held_out,
            "price": {"plain": plain, "fitted": fitted},
        }
        if self.agreement is not None:
            values["agreement"] = {"plain": self.agreement[0], "fitted": self.agreement[1]}
        if self.choice is not None:
            values["pairs"] = asdict(self.choice)
        if self.calibration is not None:
            values["membrane_error"] = [
                {"source": key[0], "target": key[1], "before": before, "after": self.calibration.after[key]}
                for key, before in self.calibration.before.items()
            ]
        return values


def compile_file(
    model: str | Path | Graph,
    chip: Chip | str | Path,
    out: str | Path,
    dt: float | None = None,
    weight_bits: int | None = None,
    wish: Wish | None = None,
) -> tuple[Network, list[LayerReport], Fitting | None]:
    """Compile a `.nir` file, or the graph that was read from it, for a chip and write it: `.net` (NETX) or `.h5` (all that an integer network can say).

    Where the chip has a threshold per neuron, every output channel in an `.h5` file gets its own scale and threshold;
    NETX has one per population. Returns the network, a report per projection and, where there is a wish, what it came to; nothing
    is written where an error is raised (HardwareError, InputError).
    """
    out = Path(out)
    chip = as_chip(chip)
    if out.suffix not in INTEGER_FILES:
        raise InputError(f"{out}: expected a name that ends in .net (NETX) or .h5 (any integer network)")
    graph = model if isinstance(model, Graph) else read_graph(model)
    netx = out.suffix == ".net"
    if wish is not None and wish.pairs != "none" and netx:
        raise InputError(f"{out}: a NETX file has one synapse per weight; for pairs write an .h5 file")
    target = restrict(chip) if netx else chip
    options: dict[str, Any] = {"dt": dt, "weight_bits": weight_bits}
    compiled = compile_layers(graph, target, **options)
    fitting = None
    if wish is not None and (wish.pairs != "none" or wish.calibrated):
        compiled, fitting = _fitted(graph, target, compiled, wish, options)
    (write_net if netx else save)(compiled.network, out)
    return compiled.network, compiled.reports, fitting


def _fitted(
    graph: Graph, chip: Chip, plain: Compiled, wish: Wish, options: dict[str, Any]
) -> tuple[Compiled, Fitting]:
    rasters = _rasters(wish.recordings, graph) if wish.recordings is not None else None
    if wish.pairs != "none" and chip.neuron.weight_exponents[1] < 1:
        raise InputError(
            f"pairs: {chip.name} has no exponents of weights, so that two synapses are no finer than one"
        )
    own, other = (None, None) if rasters is None else (rasters[::2], rasters[1::2])
    choice, calibration, compiled, seen = None, None, plain, None
    pairs: Any = wish.pairs == "all"
    if own is not None and wish.pairs != "none":
        seen = seen_on(plain, own)
    if wish.pairs == "auto":
        assert own is not None
        most = math.inf if wish.max_synapses is None else wish.max_synapses
        compiled, choice = choose_pairs(graph, chip, own, wish.min_agreement, most, **options)
        pairs = choice.pairs
    elif wish.pairs == "all":
        compiled = compile_layers(graph, chip, pairs=True, seen=seen, **options)
        count = sum(report.synapses for report in compiled.reports)
        if wish.max_synapses is not None and count > wish.max_synapses:
            raise HardwareError(f"all pairs take {count:,} synapses, at most {wish.max_synapses:,} are given")
    if wish.calibrated:
        assert own is not None
        compiled, calibration = calibrate(
            graph, chip, own, pairs=pairs, seen=seen if pairs else None, exponents=wish.exponents, **options
        )
    agreement = None
    if other is not None:
        agreement = (
            agreement_with(graph, plain.network, other).share,
            agreement_with(graph, compiled.network, other).share,
        )
    return compiled, Fitting(
        0 if own is None else len(own),
        0 if other is None else len(other),
        agreement,
        (_price(plain, chip), _price(compiled, chip)),
        choice,
        calibration,
    )


def _rasters(recordings: Recordings, graph: Graph) -> np.ndarray:
    """All in one array, the shorter ones followed by silence."""
    parts = list(recordings.rasters(graph.metadata))
    if sum(map(len, parts)) < 2:
        raise InputError(
            "calibrate: found one recording, expected two at least: every second one is held out"
        )
    steps = max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(x, [(0, 0), (0, steps - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]) for x in parts]
    )


def _price(compiled: Compiled, chip: Chip) -> Price:
    synapses = sum(report.synapses for report in compiled.reports)
    try:
        placement = place(compiled.network, chip, effort=0.2)
    except HardwareError:
        return Price(synapses, None, None)
    return Price(synapses, placement.cores, int(placement.memory_bits_per_core.sum()))
