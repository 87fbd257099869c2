"""The whole road on embedded data: learn, prune, export, run on the chip's integers, place on cores.

Part of the command line, so it stands on both packages.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dpap_neuro.data import Binning
from dpap_neuro.deploy import page
from dpap_neuro.deploy.opening import CompileOptions
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.deploy.report import draw_demo
from dpap_neuro.exchange.nir_export import without_dead_units, write_nir
from dpap_neuro.files import make_folder, write_sealed
from dpap_neuro.networks.models import Network, build_model
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
BINS, CLIP = 10, 4
# The goal that DPAP's pressure is steered to; without one it stopped at 43 % of this network's synapses.
SYNAPSES_REMOVED = 0.6

# (what is being done, part done, whole)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Deployed:
    """One exported network on test recordings: accuracies, spike agreement, counts, and by chip synapses per core and how much
    of its fullest resource each core has taken."""

    accuracy: float
    accuracy_fixed: float
    agreement: dict[str, float]
    spike_agreement: float
    parameters: int
    synapses: int
    synapses_per_core: dict[str, list[int]]
    full_per_core: dict[str, list[float]]


def deploy(path: Path, data: runs.Data, chips: tuple[Chip, ...]) -> Deployed:
    """Read a `.nir` file, run it in float and in the integers of the first chip on the same rasters, and place these on each."""
    rasters, labels = np.asarray(data[0]), data[1]
    graph = read_graph(path)
    network, _ = compile_graph(graph, chips[0])
    names = [p.name for p in network.populations if p.spiking]
    exact = float_simulator.simulate(graph, rasters, record=names, membranes=False)
    fixed = simulator.simulate(network, rasters, record={name: ("spikes",) for name in names})
    parts = fidelity.agreements(exact.spikes, fixed.spikes)
    placements = {chip.name: place(network, chip) for chip in chips}
    return Deployed(
        accuracy=float((fidelity.predictions(exact.output) == labels).mean()),
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
    chip: Chip | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Run all of it; write `dense.nir`, `pruned.nir`, `summary.json`, `demo.png` and `report.html` into `out`; return the summary.

    command: the line that the report names. chip: the one to compile for and to place on; None: compile for `CHIPS[0]`, and place on all of `CHIPS`. The same seed gives the same numbers on the same machine, `seconds` and `dpap_overhead` (times) aside.
    """
    begin = time.perf_counter()
    chips = tuple(load_chip(name) for name in CHIPS) if chip is None else (chip,)
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
        compile_graph(from_nir(runs.graph_of(build_model(model, seed), {})), chip)
    settings = loop.TrainSettings(epochs=epochs, seed=seed)
    metadata = runs.metadata_of(split)
    batches = max(1, len(split.train[1]) // settings.batch)

    def make() -> Pruner:
        return make_pruner("dpap", epochs=epochs, sparsity=SYNAPSES_REMOVED, count="synapses")

    pruner = make()
    if say is not None:
        say(pruner.describe())
    histories: dict[str, loop.History] = {}
    deployed: dict[str, Deployed] = {}
    networks: dict[str, Network] = {}
    for name, method in (("dense", make_pruner("none", epochs=epochs)), ("pruned", pruner)):
        network, histories[name] = runs.train_run(
            split,
            model,
            method,
            settings,
            chosen,
            lambda epoch, batch, name=name: tell(  # type: ignore[misc]
                f"training {name}", epoch * batches + batch, epochs * batches
            ),
        )
        networks[name] = network.cpu()
        # What died takes no compartments on the chip.
        exported = without_dead_units(networks[name], model.input_shape)
        write_nir(runs.graph_of(exported, metadata), folder / f"{name}.nir")
    share = loop.overhead(networks["dense"], make, split.train, settings, chosen)
    for number, name in enumerate(histories):
        tell("running on the simulated chip", number, len(histories))
        deployed[name] = deploy(folder / f"{name}.nir", split.test, chips)
    tell("running on the simulated chip", len(histories), len(histories))
    dense, pruned = deployed["dense"], deployed["pruned"]
    summary = {
        "dataset": "digits",
        "n_train": len(split.train[1]),
        "n_test": len(split.test[1]),
        "bins": BINS,
        "epochs": epochs,
        "seed": seed,
        "device": str(chosen),
        "pruner": pruner.describe(),
        "accuracy_dense": dense.accuracy,
        "accuracy_dense_fixed": dense.accuracy_fixed,
        "accuracy_pruned": pruned.accuracy,
        "accuracy_pruned_fixed": pruned.accuracy_fixed,
        "parameters_dense": dense.parameters,
        "parameters_pruned": pruned.parameters,
        "synapses_dense": dense.synapses,
        "synapses_pruned": pruned.synapses,
        "sparsity": 1.0 - pruned.synapses / dense.synapses,
        "cores_dense": {chip: len(s) for chip, s in dense.synapses_per_core.items()},
        "cores_pruned": {chip: len(s) for chip, s in pruned.synapses_per_core.items()},
        "synapses_per_core_dense": dense.synapses_per_core,
        "synapses_per_core_pruned": pruned.synapses_per_core,
        "full_per_core_dense": dense.full_per_core,
        "full_per_core_pruned": pruned.full_per_core,
        "spike_agreement": pruned.spike_agreement,
        "spike_agreement_dense": dense.spike_agreement,
        "spike_agreement_per_population": pruned.agreement,
        "history": {name: [asdict(e) for e in h.epochs] for name, h in histories.items()},
        "dpap_overhead": share,
        "seconds": time.perf_counter() - begin,
        "versions": {name: version(name) for name in ("dpap-neuro", "torch", "norse", "nir", "numpy")},
    }
    draw_demo(summary, folder / "demo.png")
    write_sealed(folder / "summary.json", summary, 2)
    with tempfile.TemporaryDirectory() as kept:
        # Both networks see them several times, and the camera is slow.
        shown = Recordings("digits", cache_dir=Path(kept))
        subjects = page.gather([folder], CompileOptions(chips[0]), shown, progress)
    page.write(subjects, folder / "report.html", command, shown.describe())
    summary["seconds"] = time.perf_counter() - begin
    write_sealed(folder / "summary.json", summary, 2)
    return summary
