"""A network as the Neuromorphic Intermediate Representation states it, its time step and its reset.

`hardware.graph.parsing` reads and checks it. Equations: Pedersen et al. 2024, doi 10.1038/s41467-024-52259-9, and the
`nir` package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

from hardware.errors import HardwareError
from hardware.graph.cycles import (
    Edge,
    predecessors,
    successors,
)
from hardware.network.integer import RESETS, Reset

Array = np.ndarray
Shape = tuple[int, ...]

# Values of all nodes together.
MAX_VALUES = 1 << 26
# Entries of one weight array, which the file holds in full.
MAX_WEIGHTS = 1 << 28
MAX_AXES = 8
ASSUMED_DT = 1e-4

SPIKING = (nir.LIF, nir.CubaLIF, nir.IF)
INTEGRATORS = (nir.LI, nir.CubaLI, nir.I)
STATEFUL = (*SPIKING, *INTEGRATORS, nir.Delay)
STATELESS = (
    nir.Affine,
    nir.Linear,
    nir.Scale,
    nir.Conv1d,
    nir.Conv2d,
    nir.SumPool2d,
    nir.AvgPool2d,
    nir.Flatten,
    nir.Threshold,
)
SUPPORTED = {t.__name__: t for t in (nir.Input, nir.Output, *STATELESS, *STATEFUL)}

# Parameters of the nodes that work neuron by neuron, in the order of NIR's constructor; None: required.
PER_NEURON: dict[type, dict[str, float | None]] = {
    nir.LIF: {"tau": None, "r": None, "v_leak": None, "v_threshold": None, "v_reset": 0.0},
    nir.CubaLIF: {
        "tau_syn": None,
        "tau_mem": None,
        "r": None,
        "v_leak": None,
        "v_threshold": None,
        "v_reset": 0.0,
        "w_in": 1.0,
    },
    nir.IF: {"r": None, "v_threshold": None, "v_reset": 0.0},
    nir.LI: {"tau": None, "r": None, "v_leak": None},
    nir.CubaLI: {"tau_syn": None, "tau_mem": None, "r": None, "v_leak": None, "w_in": 1.0},
    nir.I: {"r": None},
    nir.Scale: {"scale": None},
    nir.Threshold: {"threshold": None},
    nir.Delay: {"delay": None},
}


@dataclass(frozen=True)
class Graph:
    """A checked network.

    nodes: by name, sub-graphs inlined with dotted names, Input and Output included. Per-neuron parameters
        have the full shape of their population; bias arrays are always there; stride, padding and dilation
        of a two-dimensional convolution are pairs, of a one-dimensional one integers (padding stays the
        string "same" only where it is not the same on both sides, see `padding_of`).
    edges: (source, target); several edges into a node are summed.
    order: all nodes, topological once the recurrent edges are taken out.
    recurrent: the edges that close a cycle; they carry the previous step's values.
    input_shape, output_shape: per node, without batch and time.
    dt: seconds per time step, None where the file does not say; see `time_step`. dt_reason: one line that says where it
        comes from, empty: from the metadata.
    metadata: of the whole graph, decoded: dt, reset, reset_delay, writer, bins, bin_us, clip, kept_bins, class_names,
        readout and others.
    notes: one line for each thing that the file leaves open or writes in another way, and how it was read.
    """

    nodes: dict[str, nir.NIRNode]
    edges: tuple[Edge, ...]
    order: tuple[str, ...]
    recurrent: frozenset[Edge]
    input_shape: dict[str, Shape]
    output_shape: dict[str, Shape]
    dt: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    dt_reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the Input nodes."""
        return tuple(name for name in self.order if isinstance(self.nodes[name], nir.Input))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the Output nodes."""
        return tuple(name for name in self.order if isinstance(self.nodes[name], nir.Output))

    def predecessors(self) -> dict[str, list[str]]:
        """For each node, the nodes whose edges lead to it."""
        return predecessors(self.nodes, self.edges)

    def successors(self) -> dict[str, list[str]]:
        """For each node, the nodes that its edges lead to."""
        return successors(self.nodes, self.edges)


def time_step(graph: Graph, dt: float | None = None) -> tuple[float, str]:
    """Seconds per time step, and one line that says where it comes from.

    The caller's `dt` goes first, then the file's metadata, then what its numbers tell. A graph without time constants counts in steps
    (1.0). NIR itself carries no step: otherwise 0.0001 is assumed, the NIR paper's and snnTorch's, or 1.0
    where all time constants are so long that they must be counted in steps.

    Raises HardwareError where dt is not positive, or where the assumed value exceeds a time constant.
    """
    if dt is not None:
        if not (math.isfinite(dt) and dt > 0):
            raise HardwareError(f"dt is {dt}, expected seconds per step above 0")
        return float(dt), f"dt = {dt:g} s as given"
    if graph.dt is not None:
        return graph.dt, graph.dt_reason or f"dt = {graph.dt:g} s from the file's metadata"
    constants = time_constants(graph)
    if not constants:
        return 1.0, "dt = 1 step: no node has a time constant"
    shortest = min((c for c in constants if c > 0), default=1.0)
    if shortest >= 1:
        return 1.0, "dt = 1 step assumed: the file names none and its time constants are of 1 and more"
    if shortest < ASSUMED_DT * (1 - 1e-6):
        raise HardwareError(
            f"the file names no time step and its shortest time constant is {shortest:g} s: "
            "give dt in seconds per step, at most that"
        )
    return ASSUMED_DT, "dt = 0.0001 s assumed, as in the NIR paper and in snnTorch: the file names none"


def reset_of(graph: Graph, reset: str | None = None) -> tuple[Reset, str]:
    """What a spike does to a membrane, and one line that says where it comes from.

    "zero": it goes to v_reset. "subtract": v_threshold is taken from it, whatever v_reset is (as snnTorch does). The
    caller's `reset` goes first, then the file's metadata. NIR itself says no kind of reset: otherwise "zero" is assumed.

    Raises HardwareError for another word.
    """
    if reset is not None:
        for known in RESETS:
            if reset == known:
                return known, f"reset = {known} as given"
        raise HardwareError(f"reset is {str(reset)[:40]!r}, expected 'zero' or 'subtract'")
    said = graph.metadata.get("reset")
    if said is not None:
        return said, f"reset = {said} from the file's metadata"
    if not any(isinstance(node, SPIKING) for node in graph.nodes.values()):
        return "zero", "reset = zero: no node has a reset"
    if any(np.any(node.v_reset) for node in graph.nodes.values() if isinstance(node, SPIKING)):
        return "zero", "reset = zero: the file's membranes have a v_reset to go to"
    return "zero", (
        "reset = zero assumed: the file names none; snnTorch's default is subtraction, Sinabs' too and with several "
        "spikes a step (--reset subtract)"
    )


def never_spiking(node: nir.NIRNode) -> Array | None:
    """(neurons,) bool in C order: where the threshold of a LIF, CubaLIF or IF is infinite, so that the neuron never spikes, in this
    reader or another: a pruned position of a feature map. None where no threshold is, and for other nodes."""
    if not isinstance(node, SPIKING):
        return None
    dead = np.isposinf(node.v_threshold).reshape(-1)
    return dead if dead.any() else None


def taken_by_a_spike(graph: Graph, node: Any, dt: float) -> Array:
    """What a spike takes from the membrane of a LIF, CubaLIF or IF at once, where it resets by subtraction.

    v_threshold; where the metadata's `reset_delay` says that it is taken in the next step only, behind that step's decay
    (snnTorch's reset_delay=True): v_threshold / (1 - dt / tau), which has decayed to v_threshold by then.
    """
    if not graph.metadata.get("reset_delay") or isinstance(node, nir.IF):
        return node.v_threshold
    kept = 1 - dt / np.asarray(node.tau if isinstance(node, nir.LIF) else node.tau_mem, float)
    if (kept <= 1e-6).any():
        raise HardwareError(
            "a reset by subtraction that comes a step late (reset_delay) where a membrane forgets all in one step "
            "(tau = dt): expected tau above dt"
        )
    return (node.v_threshold / kept).astype(node.v_threshold.dtype)


def check_time_step(graph: Graph, dt: float) -> None:
    """One Euler step may forget a membrane or a current, no more: raises HardwareError, naming the node, where dt is above
    a time constant. Files hold time constants in float32, so that equal ones may differ by a millionth.
    """
    for name, node in graph.nodes.items():
        for key in ("tau", "tau_syn", "tau_mem"):
            tau = getattr(node, key, None)
            if tau is not None and dt > np.min(tau) * (1 + 1e-6):
                raise HardwareError(
                    f"node {name!r} ({type(node).__name__}): {key} is {np.min(tau):g} s at its lowest, below the time step "
                    f"of {dt:g} s; use a shorter step"
                )


def time_constants(graph: Graph) -> list[float]:
    """The lowest of each time constant and delay of each node, in seconds; none: the graph counts in steps."""
    return [
        float(np.min(getattr(node, name)))
        for node in graph.nodes.values()
        for name in ("tau", "tau_syn", "tau_mem", "delay")
        if getattr(node, name, None) is not None
    ]


def delay_steps(delay: Array, dt: float, name: str = "delay") -> Array:
    """Delay in whole steps. Raises HardwareError where delay / dt is not within 0.001 of a whole number."""
    steps = np.asarray(delay, float) / dt
    whole = np.rint(steps)
    if np.abs(steps - whole).max() > 1e-3:
        worst = float(np.asarray(delay, float).flat[np.abs(steps - whole).argmax()])
        raise HardwareError(
            f"node {name!r} (Delay): a delay of {worst:g} s, expected whole steps of dt = {dt:g} s"
        )
    return whole.astype(np.int64)


def padding_of(node: nir.Conv1d | nir.Conv2d) -> tuple[tuple[int, int], ...]:
    """Zeros before and after each spatial axis. "same" puts the odd one after, as PyTorch does."""
    axes = node.weight.ndim - 2
    if node.padding == "same":
        dilation = axes_of(node.dilation, axes)
        total = [d * (k - 1) for d, k in zip(dilation, node.weight.shape[2:], strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    return tuple((p, p) for p in axes_of(node.padding, axes))


def axes_of(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) * axes
