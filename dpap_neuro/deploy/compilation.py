"""A `.nir` file into a chip's integers, fitted to recordings where there are some, and what that gains and costs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpap_neuro.deploy.opening import INTEGER_FILES, CompileOptions, Model, check_pairs
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.errors import InputError
from hardware.chip.chips import Chip, as_chip
from hardware.compile.compiler import Compiled, compile_layers
from hardware.compile.report import LayerReport
from hardware.errors import HardwareError
from hardware.files.network_file import save
from hardware.files.netx import restrict
from hardware.files.netx_writing import write_net
from hardware.graph.graph import Graph
from hardware.graph.parsing import read_graph
from hardware.network.integer import Network

if TYPE_CHECKING:
    from hardware.compile.calibrate import Calibration
    from hardware.compile.pairs import Choice


@dataclass(frozen=True)
class Wish:
    """How to spend recordings and synapses. recordings: to fit to, every second one held out to report on. calibrated: whether
    scales, weights and thresholds follow them; exponents: over how many a calibrated projection's weights may be spread, see `calibrate`.
    min_agreement, max_synapses: with the pairs "auto", two synapses per weight go to the projections that rounding costs most,
    until that share of the spikes is alike or the network has so many synapses."""

    recordings: Recordings | None = None
    calibrated: bool = False
    exponents: int = 3
    min_agreement: float = 0.99
    max_synapses: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_agreement <= 1:
            raise InputError(f"min-agreement: found {self.min_agreement:g}, expected a share, 0 to 1")
        if self.max_synapses is not None and self.max_synapses < 1:
            raise InputError(f"max-synapses: found {self.max_synapses}, expected at least 1")
        if not 1 <= self.exponents <= 8:
            raise InputError(f"exponents: found {self.exponents}, expected 1 to 8")
        if self.calibrated and self.recordings is None:
            raise InputError("calibrate: needs recordings, a data set")


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
    model: str | Path | Graph, out: str | Path, options: CompileOptions, wish: Wish | None = None
) -> tuple[Network, list[LayerReport], Fitting | None]:
    """Compile a `.nir` file, or the graph that was read from it, and write it: `.net` (NETX) or `.h5` (all that an integer network
    can say).

    Where the chip has a threshold per neuron, every output channel in an `.h5` file gets its own scale and threshold;
    NETX has one per population. Returns the network, a report per projection and, where it was calibrated or has pairs, what that
    came to; nothing is written where an error is raised (HardwareError, InputError).
    """
    out, wish = Path(out), wish or Wish()
    if out.suffix not in INTEGER_FILES:
        raise InputError(f"{out}: expected a name that ends in .net (NETX) or .h5 (any integer network)")
    graph = model if isinstance(model, Graph) else read_graph(model)
    netx = out.suffix == ".net"
    if options.pairs != "none" and netx:
        raise InputError(f"{out}: a NETX file has one synapse per weight; for pairs write an .h5 file")
    if options.pairs == "auto" and wish.recordings is None:
        raise InputError("pairs auto: needs recordings, give --calibrate or --dataset NAME")
    chip = as_chip(options.chip)
    target = restrict(chip) if netx else chip
    if options.pairs != "none":
        check_pairs(target)
    name = Path(model) if not isinstance(model, Graph) else out
    opened = Model(name, graph, None, None, graph.metadata, target, replace(options, pairs="none"))
    compiled, fitting = opened.compiled, None
    if options.pairs != "none" or wish.calibrated:
        compiled, fitting = _fitted(opened, options, wish)
    (write_net if netx else save)(compiled.network, out)
    return compiled.network, compiled.reports, fitting


def _fitted(opened: Model, options: CompileOptions, wish: Wish) -> tuple[Compiled, Fitting]:
    # Not before they are needed: they bring the simulators.
    from hardware.compile.calibrate import calibrate
    from hardware.compile.pairs import agreement_with, choose_pairs, seen_on

    graph, chip, plain = opened.graph, opened.chip, opened.compiled
    assert graph is not None
    own, other = (None, None) if wish.recordings is None else _rasters(wish.recordings, opened)
    common: dict[str, Any] = {"dt": options.dt, "weight_bits": options.weight_bits, "reset": opened.reset}
    choice, calibration, compiled, seen = None, None, plain, None
    pairs: Any = () if options.pairs == "auto" else options.paired
    if own is not None and options.pairs != "none":
        seen = seen_on(plain, own)
    if options.pairs == "auto":
        assert own is not None
        most = math.inf if wish.max_synapses is None else wish.max_synapses
        compiled, choice = choose_pairs(graph, chip, own, wish.min_agreement, most, **common)
        pairs = choice.pairs
    elif options.pairs != "none":
        named = replace(opened, options=options)
        compiled = (
            named.compiled if seen is None else compile_layers(graph, chip, pairs=pairs, seen=seen, **common)
        )
        count = sum(report.synapses for report in compiled.reports)
        if wish.max_synapses is not None and count > wish.max_synapses:
            raise HardwareError(
                f"these pairs take {count:,} synapses, at most {wish.max_synapses:,} are given"
            )
    if wish.calibrated:
        assert own is not None
        compiled, calibration = calibrate(
            graph, chip, own, pairs=pairs, seen=seen if pairs else None, exponents=wish.exponents, **common
        )
    agreement = None
    if other is not None:
        agreement = (
            agreement_with(graph, plain.network, other, opened.reset).share,
            agreement_with(graph, compiled.network, other, opened.reset).share,
        )
    return compiled, Fitting(
        0 if own is None else len(own),
        0 if other is None else len(other),
        agreement,
        (_price(plain, chip), _price(compiled, chip)),
        choice,
        calibration,
    )


def _rasters(recordings: Recordings, opened: Model) -> tuple[np.ndarray, np.ndarray]:
    """To fit to and to report on, every second one each."""
    x = recordings.open(opened, classes=False).together()
    if len(x) < 2:
        raise InputError(
            "calibrate: found one recording, expected two at least: every second one is held out"
        )
    return x[::2], x[1::2]


def _price(compiled: Compiled, chip: Chip) -> Price:
    from hardware.placement import place

    synapses = sum(report.synapses for report in compiled.reports)
    try:
        placement = place(compiled.network, chip, effort=0.2)
    except HardwareError:
        return Price(synapses, None, None)
    return Price(synapses, placement.cores, int(placement.memory_bits_per_core.sum()))
