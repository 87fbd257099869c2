"""The whole road on embedded data: learn, prune, export, run on the chip's integers, place on cores.

Part of the command line, so it stands on both packages.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data import Binning
from dpap_neuro.deploy import page
from dpap_neuro.deploy.finetuning import exact_network
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.proof import forward
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.deploy.report import draw_demo
from dpap_neuro.exchange.nir_export import without_dead_units, write_nir
from dpap_neuro.files import make_folder, write_sealed
from dpap_neuro.networks.models import ModelSettings, Network, build_model
from dpap_neuro.precision.network import ExactNetwork, Precision
from dpap_neuro.pruning import Pruner, make_pruner
from dpap_neuro.train import loop, runs
from hardware.chip.chips import Chip, load_chip
from hardware.compile.compiler import compile_graph
from hardware.graph.parsing import from_nir, read_graph
from hardware.graph.summary import parameters
from hardware.placement import place
from hardware.placement.budget import fullest_per_core
from hardware.simulate import fidelity, float_simulator, simulator

CHIPS = ("loihi1", "loihi2")
# Counts of one: Loihi 1 takes no others.
BINS, CLIP = 10, 1
# The goal that DPAP's pressure is steered to; without one it stopped at 43 % of this network's synapses.
SYNAPSES_REMOVED = 0.6
# Without pruning; by DPAP as published; by `weighted`; and that one trained on in the integers of the first chip.
NETWORKS = page.DEMO
EXACT_OF = "weighted"
# Of the epochs, and of the learning rate, for these integers.
FINETUNED, SLOWER = 0.25, 0.3

# (what is being done, part done, whole)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Deployed:
    """One exported network on test recordings: accuracies as trained and on the chip, how many spikes are alike in both, counts, and by
    chip synapses per core and how much of its fullest resource each core has taken."""

    accuracy: float
    accuracy_fixed: float
    agreement: dict[str, float]
    spike_agreement: float
    parameters: int
    synapses: int
    synapses_per_core: dict[str, list[int]]
    full_per_core: dict[str, list[float]]


def deploy(
    path: Path, data: runs.Data, chips: tuple[Chip, ...], trained: ExactNetwork | None = None
) -> Deployed:
    """Read a `.nir` file, run it as it was trained and in the integers of the first chip on the same rasters, and place these on each.

    trained: the network itself where its forward pass is in integers; None for one that was trained in floats.
    """
    rasters, labels = np.asarray(data[0]), data[1]
    graph = read_graph(path)
    network, _ = compile_graph(graph, chips[0])
    names = [p.name for p in network.populations if p.spiking]
    if trained is None:
        exact = float_simulator.simulate(graph, rasters, record=names, membranes=False)
        output, spikes = exact.output, exact.spikes
    else:
        output, values = forward(trained, rasters)
        spikes = {name: values[name].astype(bool) for name in names}
    fixed = simulator.simulate(network, rasters, record={name: ("spikes",) for name in names})
    parts = fidelity.agreements(spikes, fixed.spikes)
    placements = {chip.name: place(network, chip) for chip in chips}
    return Deployed(
        accuracy=float((fidelity.predictions(output) == labels).mean()),
        accuracy_fixed=float((fidelity.predictions(fixed.output) == labels).mean()),
        agreement={name: part.share for name, part in parts.items()},
        spike_agreement=fidelity.overall(parts).share,
        parameters=parameters(graph),
        synapses=placements[chips[0].name].synapses,
        synapses_per_core={chip: p.synapses_per_core.tolist() for chip, p in placements.items()},
        full_per_core={chip: fullest_per_core(p).tolist() for chip, p in placements.items()},
    )


def run_demo(
    out: str | Path,
    epochs: int = 24,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    chip: str | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Run all of it; write a `.nir` file per network of `NETWORKS`, `summary.json`, `demo.png` and `report.html` into `out`; return
    the summary.

    chip: the one to compile for and to place on, a name or the path of its file; None: compile for `CHIPS[0]`, and place on all of
    `CHIPS`. command: the line that the report names. The same seed gives the same numbers on the same machine, `seconds` and
    `dpap_overhead` (times) aside.
    """
    begin = time.perf_counter()
    names = CHIPS if chip is None else (chip,)
    chips = tuple(load_chip(name) for name in names)
    folder = make_folder(out)
    tell: Progress = progress or (lambda *_: None)
    chosen = loop.choose_device(device)
    split = runs.load_split(
        "digits",
        None,
        Binning(bins=BINS, clip=CLIP),
        lambda what, done, total: tell(f"recording digits ({what})", done, total),
    )
    model = runs.model_settings(split, "cnn", "spikes", decay=0.5, v_th=0.5)
    if chip is not None:
        # What it cannot do is said before the training.
        compile_graph(from_nir(runs.graph_of(build_model(model, seed), {})), chips[0])
    settings = loop.TrainSettings(epochs=epochs, seed=seed)
    batches = max(1, len(split.train[1]) // settings.batch)

    def make(method: str = "dpap") -> Pruner:
        return make_pruner(method, epochs=epochs, sparsity=SYNAPSES_REMOVED, count="synapses")

    pruners = {"dense": make_pruner("none", epochs=epochs), "pruned": make(), "weighted": make("weighted")}
    if say is not None:
        for name in ("pruned", "weighted"):
            say(f"{name}: {pruners[name].describe()}")
    histories: dict[str, loop.History] = {}
    networks: dict[str, Network] = {}

    def train(
        name: str, model: ModelSettings | ExactNetwork, pruner: Pruner, settings: loop.TrainSettings
    ) -> None:
        networks[name], histories[name] = runs.train_run(
            split,
            model,
            pruner,
            settings,
            chosen,
            lambda epoch, batch: tell(f"training {name}", epoch * batches + batch, settings.epochs * batches),
        )
        networks[name].cpu()

    metadata = runs.metadata_of(split)
    for name, pruner in pruners.items():
        train(name, model, pruner, settings)
        # What died takes no compartments on the chip.
        exported = without_dead_units(networks[name], model.input_shape)
        write_nir(runs.graph_of(exported, metadata), folder / f"{name}.nir")
    exact = exact_network(
        read_graph(folder / f"{EXACT_OF}.nir"),
        Precision(names[0]),
        model.input_shape,
        model.classes,
        split.dt,
        networks[EXACT_OF],
    )
    fewer = max(1, round(epochs * FINETUNED))
    fine = replace(settings, epochs=fewer, learning_rate=settings.learning_rate * SLOWER)
    train("exact", exact, make_pruner("none", epochs=fewer), fine)
    write_nir(runs.graph_of(networks["exact"], metadata), folder / "exact.nir")
    share = loop.overhead(networks["dense"], make, split.train, settings, chosen)
    deployed: dict[str, Deployed] = {}
    for number, name in enumerate(NETWORKS):
        tell("running on the simulated chip", number, len(NETWORKS))
        deployed[name] = deploy(folder / f"{name}.nir", split.test, chips, exact if name == "exact" else None)
    tell("running on the simulated chip", len(NETWORKS), len(NETWORKS))
    dense, pruned = deployed["dense"], deployed["pruned"]
    summary = {
        "dataset": "digits",
        "n_train": len(split.train[1]),
        "n_test": len(split.test[1]),
        "bins": BINS,
        "epochs": epochs,
        "epochs_exact": fewer,
        "seed": seed,
        "device": str(chosen),
        "networks": list(NETWORKS),
        "pruner": pruners["pruned"].describe(),
        "pruner_weighted": pruners["weighted"].describe(),
        **{key: value for name, found in deployed.items() for key, value in _summary(name, found).items()},
        "sparsity": 1.0 - pruned.synapses / dense.synapses,
        "spike_agreement": pruned.spike_agreement,
        "spike_agreement_per_population": pruned.agreement,
        "history": {name: [asdict(e) for e in h.epochs] for name, h in histories.items()},
        "dpap_overhead": share,
        "seconds": time.perf_counter() - begin,
        "versions": {name: version(name) for name in ("dpap-neuro", "torch", "norse", "nir", "numpy")},
    }
    draw_demo(summary, folder / "demo.png")
    write_sealed(folder / "summary.json", summary, 2)
    with tempfile.TemporaryDirectory() as kept:
        # All networks see them several times, and the camera is slow.
        shown = Recordings("digits", cache_dir=Path(kept))
        subjects = page.gather([folder], CompileOptions(chips[0]), shown, progress)
    page.write(subjects, folder / "report.html", command, shown.describe())
    summary["seconds"] = time.perf_counter() - begin
    write_sealed(folder / "summary.json", summary, 2)
    return summary


def _summary(name: str, found: Deployed) -> dict[str, Any]:
    """What the summary says of one network."""
    return {
        f"accuracy_{name}": found.accuracy,
        f"accuracy_{name}_fixed": found.accuracy_fixed,
        f"spike_agreement_{name}": found.spike_agreement,
        f"parameters_{name}": found.parameters,
        f"synapses_{name}": found.synapses,
        f"cores_{name}": {chip: len(s) for chip, s in found.synapses_per_core.items()},
        f"synapses_per_core_{name}": found.synapses_per_core,
        f"full_per_core_{name}": found.full_per_core,
    }
