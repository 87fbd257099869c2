"""Energy and latency of a placed network by SANA-FE's model of Loihi (Boyle et al. 2025, doi 10.1109/TCAD.2025.3537971).

SANA-FE (`sanafe`, the `energy` extra; GPL-3.0, nothing of it is part of this package) replays spikes: our simulator says which
neuron fires when, `hardware.placement` on which core it sits, and SANA-FE charges every event and schedules it. Its
`loihi.yaml` takes the costs from Davies et al. 2018 (doi 10.1109/MM.2018.112130359), which come from simulations of the circuit.

Covered: every neuron in every step as one whose membrane is updated (so an upper bound where many are at rest: access alone is
about two thirds of it), spikes, synaptic events (of a matrix, a sparse list or a convolution), messages from core to core and their
way over the mesh of cores, and the barrier that ends a step. Inputs sit on cores of their own behind the network's; they
send messages like neurons and cost nothing themselves.

Not covered: static power, the embedded processors, getting data onto and off the chip, learning, shared axons (each neuron sends
its own message to each core that listens), and any chip but Loihi 1. The numbers compare networks; they are no measurement.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.chip.chips import Chip
from hardware.errors import HardwareError
from hardware.network.connectivity import shapes, unroll
from hardware.network.integer import ConvProjection, DenseProjection, Network, Projection
from hardware.placement import Placement
from hardware.placement.loads import spike_trains

NEEDS = "energy estimates need SANA-FE: pip install 'dpap-neuro[energy]'"
# SANA-FE's Loihi.
CORES, NEURONS_PER_CORE = 128, 1024


@dataclass(frozen=True)
class Estimate:
    """Per recording, averaged over `samples` of them.

    energy: joules, the sum of soma, synapse and network (messages and their way). latency: seconds until the
    output has seen the last step, each recording after the other. power: watts. steps: time steps, with those that spikes need
    to reach the output. spikes: of the network's neurons; events: synaptic events.
    """

    samples: int
    steps: int
    energy: float
    soma: float
    synapse: float
    network: float
    latency: float
    power: float
    spikes: float
    events: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def available() -> bool:
    """Whether this interpreter has SANA-FE."""
    return importlib.util.find_spec("sanafe") is not None


def check(chip: Chip) -> None:
    """Raises HardwareError where SANA-FE is not installed, or the chip is another one than it knows."""
    if not available():
        raise HardwareError(NEEDS)
    if chip.name != "loihi1":
        raise HardwareError(f"SANA-FE describes Loihi 1, not {chip.name!r}; expected chip loihi1")


def estimate(
    network: Network,
    placement: Placement,
    spikes: Mapping[str, np.ndarray],
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Energy and latency of `network` on the cores of `placement`, for recordings that were run: `chip_spikes` of them.

    progress(recordings done, of how many). Raises HardwareError: no SANA-FE, a placement that SANA-FE's Loihi does not hold (128
    cores of 1,024 neurons, inputs included).
    """
    if not available():
        raise HardwareError(NEEDS)
    import sanafe

    shape = shapes(network)
    cores = _cores(network, placement, shape)
    samples, steps = next(iter(spikes.values())).shape[:2]
    fullest = [int(np.bincount(cores[p.name]).max()) for p in network.inputs]
    replayed, inputs = int(placement.neurons_per_core.max()), max(fullest)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loihi.yaml"
        path.write_text(_architecture(replayed, inputs), encoding="utf-8")
        architecture = sanafe.load_arch(path)
    mapped = _mapped(sanafe, network, shape, cores, spikes, architecture.cores())
    chip = sanafe.SpikingChip(architecture)
    # SANA-FE prints its progress.
    with redirect_stdout(io.StringIO()):
        chip.load(mapped)
        runs = []
        for sample in range(samples):
            runs.append(chip.sim(steps))
            if progress is not None:
                progress(sample + 1, samples)
    parts = {
        key: sum(run["energy"][key] for run in runs) / samples
        for key in ("total", "soma", "synapse", "network")
    }
    seconds = sum(run["sim_time"] for run in runs)
    neurons = sum(int(spikes[p.name].sum()) for p in network.populations if p.name in spikes)
    return Estimate(
        samples=samples,
        steps=steps,
        energy=parts["total"],
        soma=parts["soma"],
        synapse=parts["synapse"],
        network=parts["network"],
        latency=seconds / samples,
        power=parts["total"] * samples / seconds,
        spikes=neurons / samples,
        events=sum(run["spikes"] for run in runs) / samples,
    )


def _cores(
    network: Network, placement: Placement, shape: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The core of every neuron, inputs behind the network."""
    fullest = int(placement.neurons_per_core.max())
    if fullest > NEURONS_PER_CORE:
        raise HardwareError(
            f"a core of the placement holds {fullest:,} neurons, SANA-FE's Loihi {NEURONS_PER_CORE:,}; place on loihi1"
        )
    cores = dict(placement.core_of)
    first = placement.cores
    for entry in network.inputs:
        neurons = np.arange(math.prod(shape[entry.name]))
        cores[entry.name] = first + neurons // NEURONS_PER_CORE
        first += -(-len(neurons) // NEURONS_PER_CORE)
    if first > CORES:
        raise HardwareError(
            f"the network takes {placement.cores} cores and its inputs {first - placement.cores}, "
            f"SANA-FE's Loihi has {CORES}"
        )
    return cores


def chip_spikes(network: Network, raster: np.ndarray) -> dict[str, np.ndarray]:
    """Whether each input and neuron spikes, bool (batch, steps, neurons), on the chip's clock; see `loads.spike_trains`.

    A count above 1 enters as one graded spike.
    """
    found = spike_trains(network, raster)
    return {name: values.reshape(*values.shape[:2], -1) != 0 for name, values in found.items()}


def _mapped(
    sanafe: Any,
    network: Network,
    shape: dict[str, tuple[int, ...]],
    cores: dict[str, np.ndarray],
    spikes: Mapping[str, np.ndarray],
    hardware: Any,
) -> Any:
    """The network as SANA-FE has it: weights of zero, neurons that fire when they are told."""
    inputs = {entry.name for entry in network.inputs}
    mapped = sanafe.Network()
    groups, place = {}, {}
    used: dict[int, int] = {}
    for number, name in enumerate(shape):
        kind = max(
            (p for p in network.projections if p.target == name), key=lambda p: p.weight.size, default=None
        )
        # Dead neurons are on no core and have no synapse.
        there = np.flatnonzero(cores[name] >= 0)
        place[name] = np.cumsum(cores[name] >= 0) - 1
        group = mapped.create_neuron_group(f"g{number}", len(there), default_synapse_hw_name=_synapse(kind))
        groups[name] = group
        soma = "loihi_inputs" if name in inputs else "replay"
        # All recordings one after the other, (neurons, steps).
        trains = spikes[name].reshape(-1, spikes[name].shape[2]).T if name in spikes else None
        for index, neuron in zip(there, group, strict=True):
            core = int(cores[name][index])
            unit = used[core] = used.get(core, -1) + 1
            train = {"spikes": trains[index].tolist()} if trains is not None and trains[index].any() else {}
            neuron.set_attributes(soma_hw_name=f"{soma}[{unit}]", model_attributes=train)
            neuron.map_to_core(hardware[core])
    for projection in network.projections:
        matrix = unroll(projection, shape[projection.source], shape[projection.target]).tocoo()
        ends = place[projection.source][matrix.row], place[projection.target][matrix.col]
        pairs = list(zip(ends[0].tolist(), ends[1].tolist(), strict=True))
        if pairs:
            weights = {"weight": [0.0] * len(pairs)}
            groups[projection.source].connect_neurons_sparse(groups[projection.target], weights, pairs)
    return mapped


def _synapse(projection: Projection | None) -> str:
    if isinstance(projection, ConvProjection):
        return "loihi_conv_synapse"
    full = isinstance(projection, DenseProjection) and bool(np.all(projection.weight))
    return "loihi_dense_synapse" if full else "loihi_sparse_synapse"


def _architecture(replayed: int, inputs: int) -> str:
    """SANA-FE's loihi.yaml with `replayed` somas more on each core, which fire when they are told and cost what a LIF does,
    and `inputs` free ones."""
    from importlib.resources import files

    text = (files("sanafe.examples") / "loihi.yaml").read_text(encoding="utf-8")
    block = re.search(r"^( *)- name: loihi_lif\n(?:\1 +.*\n)+", text, re.MULTILINE)
    if block is None or "loihi_inputs[0..1023]" not in text:
        raise HardwareError("this version of SANA-FE describes Loihi in another way; expected sanafe 2.2")
    soma = block.group(0).replace("loihi_lif", f"replay[0..{replayed - 1}]")
    soma = re.sub(r"model: \S+", "model: input", soma)
    for unit in ("energy", "latency"):
        # SANA-FE's replayed somas never count as updated.
        access, update = (
            float(re.search(rf"{unit}_{what}_neuron: (\S+)", soma).group(1))  # type: ignore[union-attr]
            for what in ("access", "update")
        )
        soma = re.sub(rf"{unit}_access_neuron: \S+", f"{unit}_access_neuron: {access + update!r}", soma)
        soma = re.sub(rf"{unit}_update_neuron: \S+", f"{unit}_update_neuron: 0.0", soma)
    text = text.replace("loihi_inputs[0..1023]", f"loihi_inputs[0..{inputs - 1}]")
    return text.replace(block.group(0), block.group(0) + soma)
