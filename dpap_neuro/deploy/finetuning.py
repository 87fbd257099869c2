"""Finetuning on a chip's integers: a trained network, float until now, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_import import for_data
from dpap_neuro.networks.models import ModelSettings, Network, SpikingNetwork, build_model
from dpap_neuro.networks.neurons import ParametricLIF
from dpap_neuro.networks.surrogates import Surrogate
from dpap_neuro.precision import scratch
from dpap_neuro.precision.network import ExactNetwork, Precision
from dpap_neuro.train import distributed, runs
from dpap_neuro.train.loop import as_input
from hardware.graph.graph import Graph
from hardware.graph.parsing import from_nir, read_graph
from hardware.network.integer import Reset

# What `--precision` takes besides the name or the file of a chip.
LOIHI, LOIHI_IS = "loihi", "loihi2"


def chip_of(precision: str) -> str:
    """The chip that a word after --precision means: "loihi" is Loihi 2."""
    return LOIHI_IS if precision == LOIHI else precision


def read_source(path: str | Path) -> tuple[Graph, Network | None]:
    """The graph of a `.nir` file, or of a run folder with its network.

    Raises InputError or HardwareError for what cannot be read, or is no spiking network.
    """
    path = Path(path)
    if path.suffix == ".nir":
        return read_graph(path), None
    network, metadata = runs.load_run(path)
    if not network.settings.spiking:
        raise InputError(f"{path}: an artificial network, expected a spiking one, which a chip can run")
    return from_nir(runs.graph_of(network, metadata)), network


def exact_network(
    graph: Graph,
    precision: Precision,
    shape: tuple[int, ...],
    classes: int,
    step: float,
    source: Network | None = None,
    dt: float | None = None,
    reset: Reset | None = None,
    surrogate: Surrogate | None = None,
) -> ExactNetwork:
    """The network in integers, for data of one shape and so many classes; batch norms of `source` are folded.

    surrogate: None is the source's, or without one superspike of slope 1.

    Raises InputError or HardwareError, naming the layer, for what the data, the chip or the training cannot take.
    """
    imported = for_data(graph, shape, classes, step, dt, reset)
    learned = set()
    if source is not None:
        names = [name for name, module in source.named_modules() if isinstance(module, ParametricLIF)]
        learned = {f"{name}_lif" if name.isdigit() else name.replace(".", "_") for name in names}
    neuron = imported.settings.neuron if source is None else source.settings.neuron
    surrogate = surrogate or Surrogate(neuron.surrogate, neuron.surrogate_slope)
    own = replace(imported.settings.neuron, surrogate=surrogate.name, surrogate_slope=surrogate.slope)
    settings = replace(imported.settings, neuron=own)
    return ExactNetwork(graph, settings, precision, imported.dt, reset, learned_leaks=learned)


def new_network(
    settings: ModelSettings, precision: Precision, split: runs.Split, seed: int, batch: int
) -> ExactNetwork:
    """A network with random weights from `seed` in integers, its batch norms kept; their first statistics, and the first scales,
    are those of the first `batch` recordings.

    Raises InputError or HardwareError for what the chip or the training cannot take.
    """
    if not settings.spiking:
        raise InputError("--precision: an artificial network, expected a spiking one, which a chip can run")
    if distributed.started() > 1:
        raise InputError(
            f"--precision: found {distributed.started()} processes, expected one for a new network with batch norms"
        )
    network = build_model(settings, seed)
    if not isinstance(network, SpikingNetwork):
        raise InputError(
            f"--precision: model {settings.name} is no sequence of layers; train it in floats, then finetune the run"
        )
    scratch.calibrate(network, as_input(split.train[0][:batch], torch.device("cpu")))
    graph = from_nir(runs.graph_of(network.eval(), runs.metadata_of(split)))
    return scratch.from_scratch(network, graph, settings, precision)
