"""Precision where it pays: two synapses per weight, of different exponents, for the projections that rounding costs most.

Which these are is measured: `hardware.compile.attribution` rounds one projection at a time. Projections become pairs in that
order until the spikes of float and chip agree as well as asked, or there are no synapses left to spend. The exponents are chosen
so that currents cannot wrap (see `hardware.compile.scaling`), and whether any did is counted on the recordings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware.compile.attribution import attribution
from hardware.compile.compiler import Compiled, compile_layers
from hardware.compile.quantise import ACTIVATION_UNIT
from hardware.compile.scaling import Seen
from hardware.errors import HardwareError
from hardware.graph.graph import Graph
from hardware.network.connectivity import shapes, unroll
from hardware.network.integer import STATE_BITS, Network, Reset
from hardware.network.timing import depths, latency
from hardware.simulate import fidelity, float_simulator
from hardware.simulate.fidelity import Agreement
from hardware.simulate.given import check_rasters
from hardware.simulate.simulator import Simulator

Array = np.ndarray
LIMIT = 2 ** (STATE_BITS - 1)


@dataclass(frozen=True)
class Choice:
    """pairs: (source, target) of the projections with two synapses per weight, in the order they were chosen.

    agreement: of the recordings' spikes, with that many pairs, from none on. synapses: of the network, likewise.
    reached: whether the agreement that was asked for is. wrapped, at_limit: see `Saturation`, over all
    populations of the network that was chosen.
    """

    pairs: tuple[tuple[str, str], ...]
    agreement: tuple[float, ...]
    synapses: tuple[int, ...]
    reached: bool
    wrapped: int
    at_limit: int


def choose_pairs(
    graph: Graph,
    chip: Any,
    rasters: Array,
    min_agreement: float = 1.0,
    max_synapses: float = math.inf,
    **options: Any,
) -> tuple[Compiled, Choice]:
    """The network with pairs where they pay, and what was chosen.

    rasters: (batch, steps, *input shape), whole numbers. min_agreement: share of spikes, all populations together, 0 to 1.
    max_synapses: that the network may have, biases counted. options: as `compile_layers` takes them.
    Raises HardwareError: so few synapses that no projection can be in pairs though one is needed, an agreement that is no share.
    """
    if not 0 <= min_agreement <= 1:
        raise HardwareError(f"an agreement of {min_agreement:g}, expected 0 to 1")
    compiled = compile_layers(graph, chip, **options)
    count = _synapses(compiled)
    if count > max_synapses:
        raise HardwareError(
            f"the network has {count:,} synapses without pairs, at most {max_synapses:,} are given"
        )
    names = _compared(graph, compiled.network)
    exact = float_simulator.simulate(
        graph, rasters, compiled.network.dt, options.get("reset"), names, membranes=False
    ).spikes
    shares = [_agreement(compiled.network, rasters, exact)]
    counts = [count]
    chosen: list[tuple[str, str]] = []
    seen = seen_on(compiled, rasters)
    if shares[0] < min_agreement:
        costs = attribution(compiled, rasters)
        open_ = [key for key in sorted(costs, key=lambda key: costs[key].share) if isinstance(key, tuple)]
        too_many = 0
        for key in open_:
            if costs[key].share >= 1:
                continue
            more = compile_layers(graph, chip, pairs=(*chosen, key), seen=seen, **options)
            count = _synapses(more)
            if count > max_synapses:
                too_many = min(too_many or count, count)
                continue
            if count == counts[-1]:
                continue
            share = _agreement(more.network, rasters, exact)
            if share <= shares[-1]:
                continue
            chosen.append(key)
            compiled = more
            shares.append(share)
            counts.append(count)
            if share >= min_agreement:
                break
        if too_many and not chosen:
            raise HardwareError(
                f"at most {max_synapses:,} synapses hold no pairs: with the smallest projection in pairs the network has {too_many:,}"
            )
    saturated = saturation(compiled.network, rasters).values()
    return compiled, Choice(
        tuple(chosen),
        tuple(shares),
        tuple(counts),
        shares[-1] >= min_agreement,
        sum(s.wrapped for s in saturated),
        sum(s.at_limit for s in saturated),
    )


def agreement_with(graph: Graph, network: Network, rasters: Array, reset: Reset | None = None) -> Agreement:
    """Of all populations' spikes with the float graph's; rasters as for `choose_pairs`."""
    names = _compared(graph, network)
    exact = float_simulator.simulate(graph, rasters, network.dt, reset, names, membranes=False)
    run = Simulator(network).run(rasters, record={name: ("spikes",) for name in names})
    return fidelity.overall(fidelity.agreements(exact.spikes, run.spikes))


def seen_on(compiled: Compiled, rasters: Array) -> dict[str, Seen]:
    """How far currents and membranes go on recordings, by population; rasters as for `choose_pairs`."""
    names = [p.name for p in compiled.network.populations]
    record = {p.name: ("u", "v", "spikes") if p.spiking else ("u", "v") for p in compiled.network.populations}
    run = Simulator(compiled.network).run(rasters, record=record)
    found = {}
    for name, rounded in zip(names, compiled.layers, strict=True):
        units = ACTIVATION_UNIT * rounded.scaling.scale[rounded.demand.group]
        current = np.abs(run.u[name]).max(axis=(0, 1), initial=0).reshape(-1)
        v = run.v[name].reshape(*run.v[name].shape[:2], -1)
        if rounded.demand.thresholds is None:
            below = np.maximum(np.abs(v).max(axis=(0, 1), initial=0), 0)
        else:
            fired = run.spikes[name].reshape(v.shape) != 0
            below = depth_needed(v, fired, ACTIVATION_UNIT * rounded.scaling.thresholds)
        found[name] = Seen(current / units, below / units)
    return found


def depth_needed(v: Array, fired: Array, threshold: Array) -> Array:
    """How far below zero membranes must be able to go for spikes to stay what they are; (neurons,).

    v: (batch, steps, neurons), after resets to zero. A membrane that stops at a floor of -F fires too early only where it
    rises by more than F + threshold between two spikes: one that is driven far down and stays there needs no room.
    """
    lowest = np.zeros((len(v), v.shape[2]), np.int64)
    needed = np.zeros(v.shape[2], np.int64)
    for t in range(v.shape[1]):
        now, spikes = v[:, t].astype(np.int64), fired[:, t]
        rise = np.where(spikes, -lowest, now - np.minimum(lowest, now) - threshold)
        needed = np.maximum(needed, rise.max(axis=0, initial=0))
        lowest = np.where(spikes, np.minimum(now, 0), np.minimum(lowest, now))
    return needed


@dataclass(frozen=True)
class Saturation:
    """Over neurons and steps: synaptic currents that wrapped at 24 bit, which ruins a run, and membranes at a limit, which
    only matters to those that come back from it (see `depth_needed`)."""

    wrapped: int
    at_limit: int


def saturation(network: Network, rasters: Array) -> dict[str, Saturation]:
    """Of each population; rasters as for `choose_pairs`.

    Currents are summed again, from the spikes, without a limit.
    """
    given, batch, steps = check_rasters(network, rasters)
    names = [p.name for p in network.populations]
    run = Simulator(network).run(rasters, record={name: ("spikes", "u", "v") for name in names})
    depth, shape = depths(network), shapes(network)
    spikes = {**{name: x for name, x in given.items()}, **run.spikes}
    found = {}
    for p in network.populations:
        n = math.prod(p.shape)
        summed = np.zeros((batch, steps, n), np.int64)
        for q in network.projections:
            if q.target != p.name:
                continue
            for delay in np.unique(q.delay):
                part = (
                    q
                    if np.ndim(q.delay) == 0
                    else replace(q, weight=np.where(q.delay == delay, q.weight, 0), delay=0)
                )
                late = latency(network, q, int(delay), "zero_delay", depth)
                x = np.asarray(spikes[q.source]).reshape(batch, steps, -1)
                late_x = np.pad(x, ((0, 0), (late, 0), (0, 0)))[:, :steps].astype(np.int64)
                synapses = unroll(part, shape[q.source], shape[q.target])
                a = np.asarray(late_x.reshape(batch * steps, -1) @ synapses).astype(np.int64)
                a = a << q.weight_exp if q.weight_exp >= 0 else a >> -q.weight_exp
                summed += a.reshape(batch, steps, n)
        u = run.u[p.name].reshape(batch, steps, n).astype(np.int64)
        keep = 4095 - np.broadcast_to(np.asarray(p.du).reshape(-1), (n,)).astype(np.int64)
        before = np.concatenate([np.zeros((batch, 1, n), np.int64), u[:, :-1]], axis=1)
        kept = np.sign(before) * ((np.abs(before) * keep) >> 12)
        wrapped = kept + (summed << 6) != u
        stuck = np.abs(run.v[p.name].reshape(batch, steps, n)) >= LIMIT - 1
        found[p.name] = Saturation(int(wrapped.sum()), int(stuck.sum()))
    return found


def _synapses(compiled: Compiled) -> int:
    return sum(report.synapses for report in compiled.reports)


def _compared(graph: Graph, network: Network) -> list[str]:
    return [p.name for p in network.populations if p.spiking and p.name in graph.nodes]


def _agreement(network: Network, rasters: Array, exact: Mapping[str, Array]) -> float:
    run = Simulator(network).run(rasters, record={name: ("spikes",) for name in exact})
    parts: dict[str, Agreement] = fidelity.agreements(exact, run.spikes)
    return fidelity.overall(parts).share
