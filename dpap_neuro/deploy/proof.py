"""Does the chip run what was trained? A network in integers: its forward pass in evaluation mode against the simulator and Lava,
spike by spike and membrane by membrane.

The network is exported and compiled as a file would be, so that the comparison covers the whole way from training to chip.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpap_neuro.deploy.opening import CompileOptions, open_model
from dpap_neuro.deploy.recordings import Recordings
from dpap_neuro.deploy.simulation import run_lava
from dpap_neuro.precision.export import to_nir
from dpap_neuro.precision.network import ExactNetwork
from dpap_neuro.train.runs import load_run
from hardware.compile.compiler import compile_graph
from hardware.errors import HardwareError
from hardware.graph.parsing import from_nir
from hardware.network.integer import Network
from hardware.simulate import simulator

# Recordings that a run is proved on by itself.
PROVED = 20


@dataclass
class Tally:
    """Of one population: values compared (spikes, or membranes of a read-out), how many were not zero, how many differ."""

    kind: str
    values: int = 0
    active: int = 0
    simulator: int = 0
    lava: int | None = None


@dataclass
class Proof:
    """recordings: how many were compared. populations: by name. lava: of how many recordings, None where it was not run."""

    recordings: int = 0
    lava_recordings: int | None = None
    populations: dict[str, Tally] = field(default_factory=dict)

    @property
    def values(self) -> int:
        """Spikes and membranes compared with the simulator."""
        return sum(t.values for t in self.populations.values())

    @property
    def differing(self) -> int:
        """Values that differ, from the simulator's or from Lava's."""
        return sum(t.simulator + (t.lava or 0) for t in self.populations.values())

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "recordings": self.recordings,
            "lava_recordings": self.lava_recordings,
            "values": self.values,
            "differing": self.differing,
            "populations": [{"name": name, **asdict(t)} for name, t in self.populations.items()],
        }

    def lines(self) -> list[str]:
        """One line per population, and one for all."""
        found = [
            f"{name}: {t.simulator:,} of {t.values:,} {t.kind} differ from the simulator's"
            + ("" if t.lava is None else f", {t.lava:,} from Lava's")
            for name, t in self.populations.items()
        ]
        where = (
            "the simulator"
            if self.lava_recordings is None
            else f"the simulator and Lava ({self.lava_recordings:,})"
        )
        return [
            *found,
            f"{self.differing:,} of {self.values:,} values differ; {self.recordings:,} recordings, {where}",
        ]


def prove_run(
    folder: Path, shown_to: Recordings, lava: bool = False, lava_python: str | None = None
) -> tuple[Proof, str] | None:
    """`prove` of a run trained on integers, on all these recordings, and the name of its chip; None for any other run.

    lava: on real Lava too. Raises InputError or HardwareError for what cannot be read or run.
    """
    network, _ = load_run(folder)
    if not isinstance(network, ExactNetwork):
        return None
    # What is compared with is the file as it lies there.
    opened = open_model(folder / "model.nir", CompileOptions(chip=network.chip))
    shown = shown_to.open(opened, classes=False)
    proof = prove(network, shown.parts(), shown.n if lava else 0, lava_python, opened.integers())
    return proof, network.chip.name


def integers(network: ExactNetwork) -> Network:
    """The integer network that its exported graph compiles to, for the chip that it was trained for."""
    return compile_graph(from_nir(to_nir(network)), network.chip)[0]


@torch.no_grad()
def forward(network: ExactNetwork, raster: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The training's forward pass in evaluation mode on rasters (n, steps, *input shape): the read-out (n, steps, *output shape), and
    of every population its spikes, float32, or a read-out's membranes, int32, (n, steps, *shape)."""
    mode = network.training
    trace: dict[str, torch.Tensor] = {}
    network.eval()
    device = next(network.parameters()).device
    output = network.traced(torch.as_tensor(raster).to(device).transpose(0, 1).float(), trace)
    network.train(mode)
    return _by_sample(output), {name: _by_sample(values) for name, values in trace.items()}


def _by_sample(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy().swapaxes(0, 1)


def prove(
    network: ExactNetwork,
    recordings: Iterable[np.ndarray],
    lava: int = 0,
    lava_python: str | None = None,
    compiled: Network | None = None,
) -> Proof:
    """Compare on rasters (n, steps, *input shape), some at a time. lava: run as many of the recordings there, too.

    compiled: an integer network to compare with, None: what the network compiles to. Raises HardwareError where Lava is missing.
    """
    if network.precision.timing == "chip" and lava:
        raise HardwareError(
            "Lava's runs are compared on the clock of the layers, this network was trained on the chip's"
        )
    compiled = integers(network) if compiled is None else compiled
    proof = Proof(lava_recordings=0 if lava else None)
    kept = {p.name: ("spikes",) if p.spiking else ("v",) for p in compiled.populations}
    run_by_simulator = simulator.Simulator(compiled)
    for raster in recordings:
        _, trained = forward(network, raster)
        run = run_by_simulator.run(raster, network.precision.timing, kept)
        part = min(lava - (proof.lava_recordings or 0), len(raster)) if lava else 0
        on_lava = run_lava(compiled, raster[:part], kept, lava_python)[0] if part else None
        for name, (variable,) in kept.items():
            ours = trained[name]
            tally = proof.populations.setdefault(name, Tally("membranes" if variable == "v" else "spikes"))
            tally.values += ours.size
            tally.active += int(np.count_nonzero(ours))
            tally.simulator += int(np.count_nonzero(ours != getattr(run, variable)[name]))
            if on_lava is not None:
                tally.lava = (tally.lava or 0) + int(
                    np.count_nonzero(ours[:part] != getattr(on_lava, variable)[name])
                )
        proof.recordings += len(raster)
        if lava:
            proof.lava_recordings = (proof.lava_recordings or 0) + part
    return proof
