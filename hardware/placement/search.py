"""Fewer cores, then fewer crossing spikes: placements tried one after the other, each counted in synapses looked at."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hardware.errors import HardwareError
from hardware.placement import hypergraph, packing
from hardware.placement.filling import Cores, FanOut, Plan, Segment, fill, fill_mixed
from hardware.placement.measuring import Found, measure, resources
from hardware.placement.moving import fewer_cores
from hardware.placement.orders import Order, grown_order, spatial_orders
from hardware.placement.problem import RESOURCES, Problem, Wire

# Growing cores along synapses may look at each this often, beyond the search's effort: it is what finds neighbours in a
# network whose numbers do not tell them.
GROWTH_LOOKS = 30.0
# The share of a core's memory that growing leaves free where outgoing axons take memory: how many there are shows only when
# all cores are grown, and filling again is slow.
GROWTH_SPARE = 0.04
# Orders of a population are looked at where a core holds that share of what the best of them puts on it.
GOOD_SHARE = 0.5
# Attempts are few where the effort is less than so many looks at every synapse.
FEW_ATTEMPTS = 100
# The share of the effort that may be spent until there are fewer cores, the rest goes to fewer crossing spikes.
SEARCH_CORES = 0.75
# How much of the effort may go into looking at orders, and how many are looked at in any case, beside C order.
ORDERS, LEAST_ORDERS = 0.5, 2
# A search ends after that many changes of its plan in a row that were of no use.
PATIENCE = 400
# A hypergraph partitioner's cost for each synapse, in synapses looked at: 50 microseconds.
VISITS_PER_PIN = 1e4


class Draft(NamedTuple):
    """What a search changes. parts: per population, in the order they are placed: (name, which of its orders, over how many
    cores it is spread). mixed: core by core whatever fills it best instead, in any order and unspread."""

    parts: tuple[tuple[str, int, int], ...]
    mixed: bool = False


def _settle(
    problem: Problem, attempt: Callable[[FanOut], list[list[Segment]] | None], strategy: str
) -> Found | None:
    """Fill, measure, and fill again while cores send to more cores than was assumed when they were filled."""
    fan_out = problem.least_fan_out()
    found = None
    for extra in (0, 0, 0, 1, 2, 4, 8):
        if extra == 1 and found is not None:
            halved = _halve(problem, found, 1.05)
            if halved is not None:
                return halved
        segments = attempt(fan_out)
        if segments is None:
            return found
        found = measure(problem, segments, strategy)
        if not found.broken:
            return found
        fan_out = [np.maximum(a, b + extra) for a, b in zip(fan_out, found.targets, strict=True)]
    return found


def _halve(problem: Problem, found: Found, growth: float) -> Found | None:
    """Cut the cores that break a limit in two, and those that break one by that; None where `growth` times as many cores do
    not suffice.

    A core in a network that talks to itself gains little from giving up a few neurons, which its others then have to reach
    outside: only cores much smaller send less.
    """
    most = growth * len(found.segments)
    while found.broken:
        over = {broken.core for broken in found.broken}
        if len(found.segments) + len(over) > most:
            return None
        segments: list[list[Segment]] = []
        for core, content in enumerate(found.segments):
            if core not in over:
                segments.append(content)
                continue
            cuts = [np.array_split(neurons, 2) for _, neurons in content]
            for half in (0, 1):
                part = [
                    (name, cut[half]) for (name, _), cut in zip(content, cuts, strict=True) if len(cut[half])
                ]
                segments += [part] if part else []
        if len(segments) == len(found.segments):
            return None
        found = measure(problem, segments, found.strategy)
    return found


def find_best(problem: Problem, strategy: str, limit: float, bound: int, seed: int) -> Found:
    """The best placement that `strategy` finds while it looks at `limit` synapses or fewer; arguments of `place`.

    bound: cores below which no search need go.
    """
    natural = natural_orders(problem)
    best: Found | None = None
    if strategy in ("best", "greedy", "hypergraph"):
        best = _greedy(problem, natural, limit, bound, seed)
        best = fewer_cores(problem, best, problem.visits + limit, bound, seed)
    if strategy in ("best", "hypergraph"):
        assert best is not None
        best = _hypergraph(problem, natural, limit, bound, seed, best, always=strategy == "hypergraph")
    if strategy == "sequential" or (strategy == "best" and problem.visits < limit):
        plans: list[Plan] = [
            (name, order, 0) for name, order in _plain_orders(problem, natural, limit).items()
        ]
        most_visits = math.inf if best is None else limit
        most = math.inf if best is None or best.broken or best.too_many else _most(problem, best)
        found = _settle(
            problem,
            lambda fan_out: fill(problem, plans, fan_out, most, revisit=False, limit=most_visits),
            "sequential",
        )
        if found is not None and (best is None or found.rank() < best.rank()):
            best = found
    assert best is not None
    if best.broken:
        # Many cores are better than a refusal.
        best = _halve(problem, best, math.inf) or best
    return best


def _most(problem: Problem, best: Found) -> float:
    """Cores on which a placement may be better than `best`."""
    return max(len(best.segments), problem.most_cores or 0)


def natural_orders(problem: Problem) -> dict[str, Order]:
    """C order, of the populations that have neurons."""
    return {
        name: problem.there(name, Order(np.arange(problem.size[name], dtype=np.int32), problem.unit(name)))
        for name in problem.names
        if problem.size[name]
    }


def _greedy(problem: Problem, natural: dict[str, Order], limit: float, bound: int, seed: int) -> Found:
    """Neighbours together, room on any core used, then better and better plans."""
    choices = scored_orders(problem, natural, limit)
    heavy = heaviest_first(problem, natural)
    # First fit in the network's order, or the populations first of which a core holds fewest neurons, or what the heaviest
    # one leaves of its cores filled up with the lightest.
    topped_up = heavy[:1] + heavy[:0:-1]
    best: Found | None = None
    chosen = Draft(())
    tried: set[Draft] = set()
    kinds = [(list(natural), False), (list(natural), True), (heavy, False), (topped_up, False)]
    for choice, (names, mixed) in itertools.product(range(3), kinds):
        # One population, or one order, makes some of these alike.
        parts = tuple((name, choices[name].index(choices[name][choice]), 0) for name in names)
        draft = Draft(parts, mixed and len(natural) > 1)
        until = math.inf if len(tried) < 2 else limit
        if draft not in tried and problem.visits < until:
            tried.add(draft)
            most = math.inf if best is None or best.broken else _most(problem, best)
            found = try_draft(problem, choices, draft, most, until)
            if found is not None and (best is None or found.rank() < best.rank()):
                best, chosen = found, draft
    assert best is not None
    if best.broken:
        return best
    return _improved(problem, choices, chosen, best, limit, bound, seed)


def try_draft(
    problem: Problem, choices: dict[str, list[Order]], draft: Draft, most: float, limit: float
) -> Found | None:
    plans = [(name, choices[name][choice], spread) for name, choice, spread in draft.parts]
    if draft.mixed:
        return _settle(problem, lambda fan_out: fill_mixed(problem, plans, fan_out, most, limit), "greedy")
    return _settle(problem, lambda fan_out: fill(problem, plans, fan_out, most, limit=limit), "greedy")


def _improved(
    problem: Problem,
    choices: dict[str, list[Order]],
    draft: Draft,
    best: Found,
    limit: float,
    bound: int,
    seed: int,
) -> Found:
    """A plan changed at random and kept where it is no worse, until enough changes in a row were of no use: first for fewer
    cores, then for fewer crossing spikes on as many.

    On as many cores, those filled as unevenly as can be are worth most: it takes little to empty one of them.
    """
    rng = random.Random(seed)
    chosen = draft
    goals: list[tuple[Callable[[Found], float], int, float]] = [
        (lambda found: -_unevenness(problem, found), bound, SEARCH_CORES * limit),
        (lambda found: found.crossing, 1, limit),
    ]
    for cost, enough, until in goals:
        draft, found = chosen, best
        tried = {draft}
        idle = 0
        while idle < PATIENCE and problem.visits < until and len(best.segments) > enough:
            idle += 1
            other = changed(draft, choices, len(best.segments), rng)
            if other in tried:
                continue
            tried.add(other)
            new = try_draft(problem, choices, other, _most(problem, best), until)
            if new is None or new.broken:
                continue
            if new.rank() < best.rank():
                best, chosen = new, other
            ranks = [(*f.rank()[:-1], cost(f)) for f in (new, found)]
            if ranks[0] <= ranks[1]:
                idle = 0 if ranks[0] < ranks[1] else idle
                draft, found = other, new
    return best


def changed(draft: Draft, choices: dict[str, list[Order]], cores: int, rng: random.Random) -> Draft:
    """One to three changes: a population in another order, earlier or later, or spread over some cores or no longer."""
    parts = list(draft.parts)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(parts))
        name, choice, spread = parts[at]
        kind = 0.0 if draft.mixed else rng.random()
        if kind < 0.35:
            parts[at] = (name, rng.randrange(len(choices[name])), spread)
        elif kind < 0.65:
            parts.insert(rng.randrange(len(parts)), parts.pop(at))
        elif spread and kind < 0.9:
            parts[at] = (name, choice, max(1, spread + rng.randint(-2, 2)))
        else:
            parts[at] = (name, choice, 0 if spread else rng.randint(1, cores))
    # What comes to the same would be filled again for nothing: an order has one number, and where it says where cores end, it is not spread.
    for at, (name, choice, spread) in enumerate(parts):
        order = choices[name][choice]
        parts[at] = (name, choices[name].index(order), spread if order.ends is None else 0)
    return Draft(tuple(parts), draft.mixed)


def _unevenness(problem: Problem, found: Found) -> float:
    """The mean square of how full cores are, each by its scarcest resource."""
    used = np.stack(list(resources(found).values()), axis=1) / problem.capacity[: len(RESOURCES)]
    return float(np.mean(used.max(axis=1) ** 2))


def _hypergraph(
    problem: Problem,
    natural: dict[str, Order],
    limit: float,
    bound: int,
    seed: int,
    best: Found,
    always: bool,
) -> Found:
    """Sparse populations cut by a hypergraph partitioner into as many cores as `best` needs for them, then into fewer.

    always: whether the effort is no limit to the first cut, and its placement is taken even where `best` is better.
    """
    wires = {}
    for name in natural:
        rows = [w for w in problem.into[name] if w.incoming.taps is None and not w.full]
        if rows and len(rows) == len(problem.into[name]):
            wires[name] = max(rows, key=lambda w: w.incoming.synapses)
    if always and not wires:
        raise HardwareError(
            "placement strategy 'hypergraph': the network has no population with sparse synapses alone; "
            "expected one, or strategy 'best'"
        )
    pins = sum(wire.incoming.synapses for wire in wires.values())
    share, chosen = 1.0, best
    first = always
    while wires and (first or (hypergraph.installed() and problem.visits + pins * VISITS_PER_PIN <= limit)):
        problem.visits += pins * VISITS_PER_PIN
        orders = dict(natural)
        for name, wire in wires.items():
            homes = best.core_of[name]
            parts = max(1, int(share * len(np.unique(homes[homes >= 0]))))
            if parts > 1:
                rates = problem.rates.get(wire.source)
                order = hypergraph.partitioned_order(wire.incoming, parts, rates, seed)
                orders[name] = problem.there(name, order)
        plans: list[Plan] = [(name, order, 0) for name, order in orders.items()]
        found = _settle(problem, lambda fan_out: fill(problem, plans, fan_out), "hypergraph")  # noqa: B023
        assert found is not None
        better = found.rank() < chosen.rank()
        if better or first:
            chosen = found
        first = False
        fewer = len(chosen.segments) - 1
        if not better or fewer < bound:
            break
        share = fewer / len(best.segments)
    return chosen


def _plain_orders(problem: Problem, natural: dict[str, Order], limit: float) -> dict[str, Order]:
    """C order, or of a population of (channel, height, width) the order that puts most neurons on a core; of those that put as many,
    the one whose neurons hear fewest others, which then send to fewer cores."""
    fan_out = problem.least_fan_out()
    chosen = {}
    for population, (name, order) in enumerate(natural.items()):
        until = problem.visits + max(0.0, ORDERS * limit - problem.visits) / (len(natural) - population)
        best = 0, 0.0
        chosen[name] = order
        spatial = _spatial(problem, name)
        for number, candidate in enumerate([order, *spatial] if spatial else []):
            if number > LEAST_ORDERS and problem.visits > until:
                break
            held = _hold(problem, name, candidate, fan_out)[0]
            neurons = candidate.neurons[candidate.middle() :][:held]
            reached = sum(len(w.reach(neurons)) for w in problem.into[name])
            problem.visits += reached
            if (held, -reached) > best:
                best, chosen[name] = (held, -reached), candidate
    return chosen


def heaviest_first(problem: Problem, natural: dict[str, Order]) -> list[str]:
    """Populations by how much of a core's scarcest other resource one neuron takes, most first."""
    fan_out = problem.least_fan_out()
    weight = {}
    for name, order in natural.items():
        sample = order.neurons[: int(min(256, problem.capacity[0]))]
        usage = problem.usage(name, sample, fan_out) / problem.capacity
        weight[name] = float(usage[1:].max()) / len(sample)
    return sorted(natural, key=lambda name: -weight[name])


def scored_orders(problem: Problem, natural: dict[str, Order], limit: float) -> dict[str, list[Order]]:
    """Per population its orders, judged by what the first core holds: [close, lean, natural, others that may do].

    Close: most neurons, then fewest pre neurons heard for each. Lean: about as many neurons, then least of the core's
    scarcest other resource, so that other populations find room beside them.
    """
    fan_out = problem.least_fan_out()
    choices = {}
    few = FEW_ATTEMPTS * sum(wire.incoming.synapses for wire in problem.wires)
    for population, (name, order) in enumerate(natural.items()):
        # Half of the effort, in equal parts; a few are always looked at.
        until = problem.visits + max(0.0, ORDERS * limit - problem.visits) / (len(natural) - population)
        candidates = [order, *_spatial(problem, name)]
        rows = [w for w in problem.into[name] if w.incoming.taps is None and not w.full]
        if rows:
            heaviest = max(rows, key=lambda w: w.incoming.synapses)
            grown = _grown(problem, name, heaviest)
            candidates += [] if grown is None else [problem.there(name, grown)]
        scores = []
        for number, candidate in enumerate(candidates if len(candidates) > 1 else []):
            if number > LEAST_ORDERS and problem.visits > until:
                break
            held, share = _hold(problem, name, candidate, fan_out)
            if held:
                neurons = candidate.neurons[candidate.middle() :][:held]
                reached = sum(len(w.reach(neurons)) for w in problem.into[name])
                problem.visits += reached
                scores.append((held, reached / held, share / held, candidate))
        choices[name] = [order, order, order]
        if scores:
            most = max(held for held, *_ in scores)
            close = min(scores, key=lambda score: (-round(math.log(score[0]) * 50), score[1]))[-1]
            lean = min(
                (score for score in scores if score[0] > 0.9 * most), key=lambda score: (score[2], score[1])
            )[-1]
            others = [score[-1] for score in scores if score[0] > GOOD_SHARE * most]
            # Where there is time for few attempts, none goes into C order that puts far fewer neurons on a core.
            last = order if few <= limit or order in others else lean
            choices[name] = [close, lean, last, *(o for o in others if o not in (close, lean, last))]
    return choices


def _spatial(problem: Problem, name: str) -> list[Order]:
    orders = spatial_orders(problem.shape[name], int(problem.capacity[0]))
    return [problem.there(name, order) for order in orders]


def _grown(problem: Problem, name: str, wire: Wire) -> Order | None:
    """Cores grown along the synapses of `wire`: once as if a core could be full of neurons, once with the index bits that
    the largest of these cores needs."""
    most, chip, best = problem.most[name], problem.chip, None
    left = GROWTH_LOOKS * wire.incoming.synapses
    by_pre = wire.by_pre()
    while True:
        width = packing.index_width(most - 1, problem.widths)
        costs = np.array([wire.plain + width, chip.axon_in_bits + chip.axon_out_bits, chip.neuron_state_bits])
        spare = GROWTH_SPARE if chip.axon_out_bits else 0.0
        limits = np.array([most, problem.capacity[2], (1 - spare) * problem.capacity[1]])
        order, visits = grown_order(wire.incoming, by_pre, limits, costs, problem.form, left)
        left -= visits
        if order is None:
            return best
        best = order
        needed = packing.index_width(max(map(len, order.parts())) - 1, problem.widths)
        if needed >= width:
            return best
        most = min(most, 2 ** int(needed))


def _hold(problem: Problem, name: str, order: Order, fan_out: FanOut) -> tuple[int, float]:
    """How many neurons from the middle of an order an empty core holds, and how full they make it but for its neurons."""
    cores = Cores(problem, fan_out, 1)
    cores.open()
    held = cores.put_units(0, name, order, order.middle())
    finite = np.isfinite(problem.capacity)
    full = 1 - cores.room[0][finite] / problem.capacity[finite]
    return held, float(np.max(full[1:], initial=0.0))
