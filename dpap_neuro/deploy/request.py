"""What a user can say of a training run. Imports nothing that learns, so that the command line can show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Of a network that is made anew; one of a `.nir` file has its own.
NEURON, DECAY, THRESHOLD, SURROGATE, RESET = "lif", 0.5, 0.5, "superspike", "zero"


@dataclass(frozen=True)
class TrainRequest:
    """What a user says of a run; None is nothing said. The names are those of the options of `dpap-neuro train`."""

    dataset: str = "digits"
    data_dir: Path | None = None
    sensor: str | None = None
    model: str | None = None
    pruner: str = "dpap"
    score: str | None = None
    allocation: str | None = None
    regrow: str | None = None
    sparsity: float | None = None
    count: str | None = None
    structured: bool = False
    compact: bool = False
    keep_bins: int | None = None
    chip: str | None = None
    max_cores: int | None = None
    max_synapses: int | None = None
    max_synapses_per_core: int | None = None
    max_step_us: float | None = None
    max_energy_uj: float | None = None
    max_events: float | None = None
    epochs: int = 24
    more_epochs: int = 0
    batch: int = 64
    learning_rate: float = 3e-3
    bins: int | None = None
    bin_us: float | None = None
    clock: str | None = None
    clip: int | None = None
    downsample: int | None = None
    shift: int | None = None
    flip: bool | None = None
    drop: float | None = None
    jitter: float | None = None
    neuron: str | None = None
    readout: str | None = None
    decay: float | None = None
    current_decay: float | None = None
    threshold: float | None = None
    surrogate: str | None = None
    surrogate_slope: float | None = None
    reset: str | None = None
    dt: float | None = None
    seed: int = 0
    precision: str | None = None
    weight_bits: int | None = None
    timing: str = "zero_delay"
    scales: str = "fixed"
    netx: bool = False
