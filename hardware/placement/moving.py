"""Neurons of a small network moved one by one from core to core until every limit holds (simulated annealing).

What fills cores one after the other hands neurons out in an order; where incoming or outgoing axons are short, a network of
few neurons may fit into fewer cores than any of its orders does.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np

from hardware.placement import packing
from hardware.placement.measuring import Found, measure
from hardware.placement.orders import Order
from hardware.placement.problem import RESOURCES, Problem

# Larger networks are left alone: neurons times synapses looked at in moving would outgrow what filling takes.
MOST_SYNAPSES = 20_000
MOST_CELLS = 2_000_000
# Moves that are tried from one start, per neuron and at least; a network gets that many starts.
MOVES, LEAST_MOVES = 1500, 30_000
STARTS = 4
# From where a move that breaks two axons more is as good as free, to where hardly any is taken that breaks one.
HOT, COLD = 2.0, 0.15
LEAST_MOVES_PER_NEURON = 200
# What a move takes, and each synapse of its neuron there, in synapses looked at.
VISITS_PER_MOVE, VISITS_PER_SYNAPSE = 150.0, 60.0
# A refusal is worth that many times the effort.
TO_FIT = 3.0


class _Tables(NamedTuple):
    """The network's synapses by neuron, all populations in a row.

    Neuron i hears synapses in_ptr[i]:in_ptr[i + 1], each by axon `in_axon` from pre neuron `in_pre` (an index over all
    wires); it is the pre neurons own_ptr[i]:own_ptr[i + 1] of `own_pre`, one per wire. home: the neuron of each pre neuron,
    -1 for inputs. slots: entries that a pre neuron takes in the outgoing table for each core. each: bits of a synapse of an axon.
    """

    in_ptr: np.ndarray
    in_axon: np.ndarray
    in_pre: np.ndarray
    own_ptr: np.ndarray
    own_pre: np.ndarray
    home: np.ndarray
    slots: np.ndarray
    each: np.ndarray


def fewer_cores(problem: Problem, best: Found, limit: float, bound: int, seed: int) -> Found:
    """`best`, or a placement on fewer cores; where `best` breaks limits, one on as few more as it takes to break none.

    limit: synapses looked at, as in `Problem.visits`. bound: cores below which none need be tried.
    """
    neurons = sum(problem.count.values())
    synapses = sum(wire.incoming.synapses for wire in problem.wires)
    if synapses > MOST_SYNAPSES or neurons < 2:
        return best
    most_visits = (TO_FIT if best.broken else 1.0) * (limit - problem.visits)
    per_move = VISITS_PER_MOVE + VISITS_PER_SYNAPSE * synapses / neurons
    moves = int(min(max(LEAST_MOVES, MOVES * neurons), most_visits / per_move))
    if moves < LEAST_MOVES_PER_NEURON * neurons:
        return best
    tables = _tables(problem)
    cells = len(tables.each) + len(tables.home)
    rng = random.Random(seed)
    until = problem.visits + most_visits
    refused = bool(best.broken)
    cores = len(best.segments) if refused else len(best.segments) - 1
    while max(1, bound - 1) < cores <= neurons and cells * cores <= MOST_CELLS:
        found = None
        for _ in range(STARTS):
            if problem.visits > until:
                return best
            found, made = _attempt(problem, tables, cores, moves, rng)
            problem.visits += made * per_move
            if found is not None:
                break
        if found is not None:
            best = found
            cores = len(found.segments) - 1
            if refused:
                break
        elif refused:
            cores += max(1, cores // 8)
        else:
            break
    return best


def _attempt(
    problem: Problem, tables: _Tables, cores: int, moves: int, rng: random.Random
) -> tuple[Found | None, int]:
    """A placement on `cores` cores that breaks no limit, or None; and the moves that it took."""
    chip = problem.chip
    limits = np.minimum(problem.capacity[: len(RESOURCES)], 2.0**60)
    scale = np.array([1.0, chip.word_bits + chip.axon_in_bits, 1.0, 1.0])
    state = np.array([chip.neuron_state_bits, chip.axon_in_bits, chip.axon_out_bits], dtype=np.int64)
    axon_ptr = _starts(tables.in_axon, len(tables.each))
    posts = np.repeat(np.arange(len(tables.in_ptr) - 1), np.diff(tables.in_ptr))
    axon_post = posts[np.argsort(tables.in_axon, kind="stable")]
    # Not before it is needed, as of all that Numba compiles: it takes longest of what placing a small network takes.
    from hardware.placement.moving_loops import anneal

    core_of, left, made = anneal(
        tuple(tables), axon_ptr, axon_post, problem.form, state, limits, scale, cores, moves, HOT, COLD,
        np.random.default_rng(rng.randrange(2**31)),
    )  # fmt: skip
    if left > 1e-9:
        return None, made
    segments = []
    natural = {
        name: problem.there(name, Order(np.arange(problem.size[name], dtype=np.int32)))
        for name in problem.names
    }
    for core in range(cores):
        content, start = [], 0
        for name in problem.names:
            alive = natural[name].neurons
            own = alive[core_of[start : start + len(alive)] == core]
            start += len(alive)
            content += [(name, own)] if len(own) else []
        segments += [content] if content else []
    found = measure(problem, segments, "greedy")
    return (None if found.broken else found), made


def _tables(problem: Problem) -> _Tables:
    # Every neuron's number among all that are alive.
    number, total = {}, 0
    for name in problem.names:
        alive = ~problem.dead[name] if name in problem.dead else np.ones(problem.size[name], dtype=np.bool_)
        number[name] = np.where(alive, total + np.cumsum(alive) - 1, -1)
        total += problem.count[name]
    post, axon, pre, home, slots, each = [], [], [], [], [], []
    axons = pres = 0
    for wire in problem.wires:
        source, target = wire.synapses()
        post.append(number[wire.target][target])
        axon.append(wire.group[source] + axons)
        pre.append(source + pres)
        own = np.full(wire.incoming.n_pre, -1, dtype=np.int64)
        if wire.source in number:
            own = number[wire.source]
        home.append(own)
        slots.append(np.full(wire.incoming.n_pre, wire.slots, dtype=np.int64))
        # Without gaps a full matrix takes no indices; shared kernels are left to the exact count that follows.
        width = 0 if wire.full else packing.index_width(problem.most[wire.target] - 1, problem.widths)
        shared = wire.incoming.taps is not None and wire.share
        each.append(np.full(wire.groups, 0 if shared else wire.plain + width, dtype=np.int64))
        axons += wire.groups
        pres += wire.incoming.n_pre

    def joined(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    posts, homes = joined(post), joined(home)
    by_post = np.argsort(posts, kind="stable")
    sending = np.flatnonzero(homes >= 0)
    by_home = sending[np.argsort(homes[sending], kind="stable")]
    return _Tables(
        in_ptr=_starts(posts, total),
        in_axon=joined(axon)[by_post],
        in_pre=joined(pre)[by_post],
        own_ptr=_starts(homes[sending], total),
        own_pre=by_home,
        home=homes,
        slots=joined(slots),
        each=joined(each),
    )


def _starts(numbers: np.ndarray, size: int) -> np.ndarray:
    starts = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.bincount(numbers, minlength=size), out=starts[1:])
    return starts
