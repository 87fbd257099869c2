"""A network of a file, and the integers that are made of it: one set of options for every command."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpap_neuro.errors import InputError
from hardware.chip.chips import DEFAULT, Chip, as_chip

if TYPE_CHECKING:
    from dpap_neuro.deploy.recordings import Recordings
    from hardware.compile.compiler import Compiled, Pairs
    from hardware.compile.pairs import Choice
    from hardware.files.guarded import Reader
    from hardware.graph.graph import Graph
    from hardware.network.integer import Network

INTEGER_FILES = (".net", ".h5")
# The pairs "auto" are chosen on every second one of so many recordings, until that share of their spikes is alike.
CHOSEN_ON, ENOUGH = 20, 0.99


@dataclass(frozen=True)
class CompileOptions:
    """What a `.nir` file is compiled for and how, the same in every command that compiles one.

    chip: itself, its name or its file. weight_bits: None: as wide as the chip stores them. dt: seconds per step of a file that
    does not say. reset: "zero" or "subtract"; None: as the file says. pairs: two synapses per weight for "all" projections, for
    "none", for those named, "source->target" with commas between, or "auto": for those that recordings say gain by it.
    """

    chip: Chip | str | Path = DEFAULT
    weight_bits: int | None = None
    dt: float | None = None
    reset: str | None = None
    pairs: str = "none"

    @property
    def paired(self) -> Pairs:
        """As `compile_layers` takes it, but for "auto". Raises InputError for another text."""
        if self.pairs in ("all", "none"):
            return self.pairs == "all"
        named = [tuple(part.strip() for part in pair.split("->")) for pair in self.pairs.split(",")]
        if any(len(pair) != 2 or not all(pair) for pair in named):
            raise InputError(
                f"pairs: found {self.pairs[:60]!r}, expected all, none, auto, or source->target, ..."
            )
        return [(source, target) for source, target in named]

    def of_integers(self) -> CompileOptions:
        """What of this also holds for a network that is compiled already: the chip that it is for."""
        return CompileOptions(chip=self.chip)


@dataclass(frozen=True)
class InputNeurons:
    """What the input layer of a NETX file is given, where it has neurons: see `hardware.files.netx_reading.read_net`."""

    layer: str = "pixels"
    bias: np.ndarray | None = None


@dataclass(frozen=True)
class Model:
    """A file's network. graph: of a `.nir` file, None for an integer network. dt: seconds per step, where known.
    chip: what a graph is compiled for. recordings: what the pairs "auto" are chosen for, see `chosen_on`."""

    path: Path
    graph: Graph | None
    network: Network | None
    dt: float | None
    metadata: Mapping[str, Any]
    chip: Chip
    options: CompileOptions
    recordings: Recordings | None = None

    @cached_property
    def compiled(self) -> Compiled:
        """The graph's integers, compiled once. Raises HardwareError for what the chip cannot do."""
        from hardware.compile.compiler import compile_layers

        assert self.graph is not None
        o = self.options
        if o.pairs == "auto":
            return self._chosen[0]
        pairs = o.paired
        if not isinstance(pairs, bool):
            self._check_pairs(set(pairs))
        return compile_layers(self.graph, self.chip, o.dt, o.weight_bits, reset=self.reset, pairs=pairs)

    @cached_property
    def _chosen(self) -> tuple[Compiled, Choice, str]:
        """With the pairs "auto", which they are, and the recordings that they were chosen on, in words."""
        # Not before it is needed: it brings the simulators.
        from hardware.compile.pairs import choose_pairs

        assert self.graph is not None
        check_pairs(self.chip)
        if self.recordings is None:
            raise InputError(
                f"{self.path}: --pairs auto is chosen on recordings; give --dataset NAME or --input FILE, or the .h5 file "
                "of compile --pairs auto"
            )
        on = chosen_on(self.recordings)
        few = on.open(self, classes=False).together()[::2]
        options = {"dt": self.options.dt, "weight_bits": self.options.weight_bits, "reset": self.reset}
        compiled, choice = choose_pairs(self.graph, self.chip, few, ENOUGH, **options)
        return compiled, choice, f"{len(few)} recordings of {on.file or f'{on.dataset}, {on.split}'}"

    @property
    def notes(self) -> tuple[str, ...]:
        """How pairs were chosen, once they are."""
        if "_chosen" not in vars(self):
            return ()
        _, choice, words = self._chosen
        named = ", ".join(f"{source}->{target}" for source, target in choice.pairs) or "none"
        missed = "" if choice.reached else f", not the {ENOUGH:.0%} that is aimed at"
        return (
            f"pairs auto: {named} ({choice.synapses[-1]:,} synapses), by {words}: {choice.agreement[-1]:.2%} of their spikes "
            f"are alike, {choice.agreement[0]:.2%} without pairs{missed}",
        )

    def integers(self) -> Network:
        """The integer network: as it stands, or compiled once."""
        return self.compiled.network if self.network is None else self.network

    @property
    def reset(self) -> Any:
        """What a spike does to a membrane of the graph."""
        from hardware.graph.graph import reset_of

        assert self.graph is not None
        return reset_of(self.graph, self.options.reset)[0]

    @property
    def weight_bits(self) -> int | None:
        """Bits of the widest weights, None where the file does not say."""
        return None if self.graph is None else max((r.weight_bits for r in self.compiled.reports), default=0)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of a step of the input, None where the network has none or several."""
        if self.graph is not None:
            found = [tuple(self.graph.input_shape[name]) for name in self.graph.inputs]
        else:
            found = [tuple(entry.shape) for entry in self.integers().stimulated]
        return found[0] if len(found) == 1 else None

    @property
    def classes(self) -> int:
        """How many classes the network tells apart: neurons of its output."""
        if self.graph is not None:
            return math.prod(self.graph.output_shape[self.graph.outputs[0]])
        from hardware.network.connectivity import shapes

        network = self.integers()
        return math.prod(shapes(network)[network.outputs[0]])

    def _check_pairs(self, named: set[tuple[str, str]]) -> None:
        from hardware.compile.compiler import compile_layers

        assert self.graph is not None
        whole = compile_layers(
            self.graph, self.chip, self.options.dt, self.options.weight_bits, reset=self.reset
        )
        known = [(r.source, r.target) for r in whole.reports]
        for source, target in named:
            if (source, target) not in known:
                raise InputError(
                    f"pairs: found {source}->{target}, expected some of {', '.join('->'.join(k) for k in known)}"
                )


def chosen_on(recordings: Recordings) -> Recordings:
    """What the pairs "auto" are chosen on where these are to be shown: of a data set its training part, as for `compile`, so that
    nothing is chosen on what is reported; of a file, which has one part, that."""
    return replace(
        recordings, limit=CHOSEN_ON, split="train" if recordings.file is None else recordings.split
    )


def check_pairs(chip: Chip) -> None:
    """Raise InputError for a chip on which two synapses are no finer than one."""
    if chip.neuron.weight_exponents[1] < 1:
        raise InputError(
            f"pairs: {chip.name} has no exponents of weights, so that two synapses are no finer than one"
        )


def open_model(
    path: str | Path,
    options: CompileOptions | None = None,
    neurons: InputNeurons | None = None,
    recordings: Recordings | None = None,
) -> Model:
    """Read a `.nir` graph, a NETX `.net` file or an integer network in an `.h5` file.

    options: how a graph is to be compiled. neurons: what a NETX file's input neurons are given. recordings: what it is to be
    shown, which the pairs "auto" need. Raises HardwareError or InputError; for a file of integers also for options that only
    compiling could follow.
    """
    path, options, neurons = Path(path), options or CompileOptions(), neurons or InputNeurons()
    chip = as_chip(options.chip)
    if path.suffix != ".net" and (neurons.layer != "pixels" or neurons.bias is not None):
        raise InputError(
            f"{path}: only a .net file has an input layer of neurons; leave out --input-layer and --input-bias"
        )
    if path.suffix in INTEGER_FILES:
        check_compiled(path, options)
    from hardware.files.guarded import Reader

    with Reader() as reader:
        # While the child that reads is starting, this process imports what it needs next.
        reader.start()
        import_module("hardware.compile.compiler")
        from hardware.files.network_file import load
        from hardware.graph.graph import time_step
        from hardware.graph.parsing import read_graph

        if path.suffix in INTEGER_FILES:
            network = _read_netx(path, neurons, reader) if path.suffix == ".net" else load(path, reader)
            return Model(path, None, network, network.dt, network.metadata, chip, options)
        graph = read_graph(path, reader)
        dt = time_step(graph, options.dt)[0]
        return Model(path, graph, None, dt, graph.metadata, chip, options, recordings)


def _read_netx(path: Path, neurons: InputNeurons, reader: Reader) -> Network:
    from hardware.files.netx_reading import read_net

    layer: Any = neurons.layer
    bias = neurons.bias
    if bias is not None:
        if bias.dtype.kind == "f" and not (np.isfinite(bias) & (bias == np.trunc(bias))).all():
            raise InputError("input-bias: holds values that are no whole numbers")
        bias = bias.astype(np.int64)
        if bias.ndim == 3 and bias.shape != read_net(path, reader=reader).inputs[0].shape:
            bias = bias.transpose(2, 1, 0)  # lava-dl's order
    return read_net(path, layer, bias, reader=reader)


def check_compiled(path: Path, options: CompileOptions) -> None:
    """Raise InputError for an option that a file of integers cannot follow."""
    plain = replace(options, chip=CompileOptions.chip)
    for name, value in vars(CompileOptions()).items():
        if getattr(plain, name) != value:
            why = "has its time constants in steps" if name == "dt" else "is compiled already"
            raise InputError(f"{path}: an integer network {why}; leave out --{name.replace('_', '-')}")
