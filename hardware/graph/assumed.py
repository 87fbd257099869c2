"""What a file does not say: its time step, inferred where its numbers tell, and one line for each thing assumed.

NIR has neither a time step nor a kind of reset. Writers of a fixed step leave it in r: snnTorch and SpikingJelly
(without `decay_input`) write a LIF's r as tau / dt, all of them and this project a CubaLIF's r as tau_mem / dt and w_in
as tau_syn / dt, and SpikingJelly an IF's r as 1 / dt.
"""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np

from hardware.graph.graph import ASSUMED_DT, Graph, reset_of, time_step
from hardware.network.integer import Reset

# A ratio of two float32 numbers is one number up to this share of it.
_NOISE = 1e-5
# An IF counts in steps: an r of 10 and more that is one over a round number is SpikingJelly's 1 / dt.
_LONGEST_STEP = 0.1
# Steps that no recording here has.
_LONGEST_RUN = 100_000


def inferred_time_step(nodes: dict[str, nir.NIRNode]) -> float | None:
    """Seconds per step, where every ratio of a time constant to its factor is one number; else None.

    One ratio alone may be chance: unless several different time constants agree on it, it must be round.
    """
    ratios: list[np.ndarray] = []
    taus: set[float] = set()
    for node in nodes.values():
        for tau, factor in _pairs(node):
            own = np.unique(np.stack([tau.ravel(), factor.ravel()]), axis=1)
            told = own[:, np.abs(own[1] - 1) > _NOISE]
            if (told[1] <= 0).any():
                return None
            ratios.append(told[0] / told[1])
            taus.update(map(float, told[0]))
    found = np.concatenate(ratios) if ratios else np.zeros(0)
    if not found.size:
        return None
    dt = float(np.median(found))
    if not (math.isfinite(dt) and dt > 0) or np.abs(found / dt - 1).max() > _NOISE:
        return None
    rounded = float(f"{dt:.2e}")
    is_round = abs(rounded / dt - 1) < _NOISE
    if len(taus) < 2 and not is_round:
        return None
    shortest = min(
        (float(np.min(tau)) for node in nodes.values() for tau, _ in _pairs(node)), default=math.inf
    )
    if any(isinstance(node, nir.IF) for node in nodes.values()) and dt > _LONGEST_STEP:
        return None
    return (rounded if is_round else dt) if dt <= shortest * (1 + _NOISE) else None


def _pairs(node: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Time constants and the factors that may hold the step: tau / factor = dt."""
    if isinstance(node, nir.LIF):
        return [(node.tau, node.r)]
    if isinstance(node, nir.CubaLIF | nir.CubaLI):
        return [(node.tau_mem, node.r), (node.tau_syn, node.w_in)]
    if isinstance(node, nir.IF):
        return [(np.ones_like(node.r), node.r)]
    return []


def counts_in_seconds(node: nir.NIRNode, dt: float) -> bool:
    """Whether a node is an IF as SpikingJelly writes it: r = 1 / dt."""
    return (
        isinstance(node, nir.IF)
        and dt <= _LONGEST_STEP
        and bool(np.allclose(node.r * dt, 1, rtol=_NOISE, atol=0))
    )


def counted_in_steps(node: Any) -> nir.IF:
    """The same IF with r = 1 per step."""
    r = np.broadcast_to(np.ones((), node.r.dtype), node.r.shape)
    return nir.IF(r=r, v_threshold=node.v_threshold, v_reset=node.v_reset, metadata=node.metadata)


def assumptions(graph: Graph, dt: float | None = None, reset: Reset | None = None) -> tuple[str, ...]:
    """One line for each thing that neither the file nor the caller says, with its consequence.

    dt, reset: what the caller gives. Raises HardwareError as `time_step` does.
    """
    lines = list(graph.notes)
    step, reason = time_step(graph, dt)
    if dt is None and "dt" not in graph.metadata:
        lines.append(reason)
    _, said = reset_of(graph, reset)
    if "assumed" in said:
        lines.append(said)
    lines += _as_their_exporters_write(graph)
    for name, node in graph.nodes.items():
        if isinstance(node, nir.Delay):
            steps = round(float(node.delay.min()) / step)
            run = graph.metadata.get("bins")
            if steps >= (run or _LONGEST_RUN):
                shown = f"the {run} steps of a recording" if run else "any recording"
                lines.append(
                    f"node {name!r} (Delay): delays by {steps:,} steps or more, nothing comes through in {shown}"
                )
    return tuple(lines)


def _as_their_exporters_write(graph: Graph) -> list[str]:
    """Lines for what Sinabs, Rockpool and Norse write: NIR reads their numbers as another network than theirs."""
    if "writer" in graph.metadata:
        writer = graph.metadata["writer"]
        told = writer.endswith(("for sinabs", "for rockpool"))
        return (
            [f"written by {writer}: its time constants are of exponential decays; read another export"]
            if told
            else []
        )
    lines = []
    leaky = [node for node in graph.nodes.values() if isinstance(node, nir.LIF | nir.CubaLIF)]
    if graph.dt_reason and graph.dt == ASSUMED_DT and leaky and "reset" not in graph.metadata:
        lines.append(
            "r = tau / dt at dt = 0.0001 s is how snnTorch writes: its resets come one step late by default (reset_delay=True), "
            "which no file says; from_snntorch reads the live network as it is"
        )
    for name, node in graph.nodes.items():
        where = f"node {name!r} ({type(node).__name__})"
        if isinstance(node, nir.LIF | nir.CubaLIF):
            tau = node.tau if isinstance(node, nir.LIF) else node.tau_mem
            if _rockpool_step(tau, node.r) is not None:
                lines.append(
                    f"{where}: r is tau exp(-dt / tau) / dt, as Rockpool writes it: its decays are exponential, its reset a "
                    "subtraction, its currents of another gain; from_rockpool reads the live network as it is"
                )
                continue
        if isinstance(node, nir.LIF | nir.CubaLIF) and (node.v_reset != node.v_leak).any():
            lines.append(f"{where}: its membranes start at v_leak; SpikingJelly's start at v_reset")
        if isinstance(node, nir.LIF) and graph.dt is None and (node.tau >= 1).all() and (node.r == 1).all():
            lines.append(
                f"{where}: tau of 1 and more: Sinabs counts it in steps of an exponential decay, exp(-1 / tau), and leaves out "
                "norm_input and tau_syn; from_sinabs reads the live network as it is"
            )
        if isinstance(node, nir.CubaLIF | nir.CubaLI) and graph.dt is None and (node.w_in == 1).all():
            lines.append(
                f"{where}: w_in is 1: Norse's exporter leaves out its gain of tau_syn / dt; from_norse reads the live network "
                "as it is"
            )
    return lines


def _rockpool_step(tau: np.ndarray, r: np.ndarray) -> float | None:
    """dt where r = tau exp(-dt / tau) / dt of one round dt, as Rockpool writes it; else None."""
    tau, r = (np.asarray(v, np.float64).ravel() for v in (tau, r))
    if not (r > 1).all():
        return None
    share = np.log1p(1 / r)  # dt / tau = y with r y = exp(-y), by Newton's method
    for _ in range(20):
        share = share - (r * share - np.exp(-share)) / (r + np.exp(-share))
    steps = share * tau
    dt = float(np.median(steps))
    is_round = abs(float(f"{dt:.2e}") / dt - 1) < _NOISE
    return dt if is_round and np.abs(steps / dt - 1).max() < _NOISE else None
