"""Placements for time: the busiest core decides how long a step takes, so cores are filled up to a time that falls and falls."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

import numpy as np

from hardware.chip.chips import Chip
from hardware.chip.costs import barrier, needed
from hardware.placement.measuring import Found
from hardware.placement.orders import Order
from hardware.placement.problem import Problem
from hardware.placement.rates import heard_per_step
from hardware.placement.search import Draft, changed, heaviest_first, natural_orders, scored_orders, try_draft

# Aimed at is a time of so much above the bound; nearer, a core's last neurons decide.
NEAR = 1.01
# Attempts end where the time that was reached and the one that was not are that close.
CLOSE = 1.01
# On more cores than that hardly any population is on all of them.
MANY = 24
# Changed plans that are tried for a time that no plan as it stands reaches.
CHANGES = 12


@dataclass(frozen=True)
class Work:
    """What keeps cores busy in a mean step, in nanoseconds. each: per population the time that each neuron takes of its core, its
    update and its events. messages: per population and input the time of a core for one message of each neuron."""

    chip: Chip
    each: dict[str, np.ndarray]
    messages: dict[str, np.ndarray]

    def per_core(self, found: Found) -> np.ndarray:
        """Updates and events of each core."""
        busy = np.zeros(len(found.segments))
        for name, work in self.each.items():
            there = found.core_of[name] >= 0
            busy += np.bincount(found.core_of[name][there], weights=work[there], minlength=len(busy))
        return busy

    def step(self, problem: Problem, found: Found) -> float:
        """Time of a step: the busiest core with its neurons and events or its messages, and the barrier."""
        cores = len(found.segments)
        traffic = np.zeros(cores)
        for core, content in enumerate(found.segments):
            for name, neurons in content:
                for wire in problem.into[name]:
                    pre = wire.reach(neurons)
                    each = self.messages[wire.source][pre]
                    traffic[core] += each.sum()
                    if wire.source in problem.into:
                        homes = found.core_of[wire.source][pre]
                        traffic += np.bincount(homes, weights=each, minlength=cores)
        return float(max(self.per_core(found).max(), traffic.max())) + barrier(self.chip, cores)

    def bound(self, cores: int) -> tuple[float, int]:
        """No placement on so many cores or fewer ends a step sooner: on n of them it takes the mean of them, or the largest
        neuron, and their barrier. With the n for which that is least."""
        total = sum(float(work.sum()) for work in self.each.values())
        largest = max(float(work.max(initial=0.0)) for work in self.each.values())
        return min((max(total / n, largest) + barrier(self.chip, n), n) for n in range(1, cores + 1))


def work_of(problem: Problem, rates: dict[str, np.ndarray]) -> Work:
    """From spikes per step of every neuron and input. A neuron is updated as an active one where it hears something in a step, as
    often as that is so of independent events. Raises HardwareError where the chip's file has no costs."""
    costs = needed(problem.chip)
    each = {}
    for name in problem.names:
        heard = np.zeros(problem.size[name])
        for wire in problem.into[name]:
            heard += heard_per_step(wire.incoming, rates[wire.source])
        awake = -np.expm1(-heard)
        update = costs.inactive_neuron_ns + awake * (costs.active_neuron_ns - costs.inactive_neuron_ns)
        each[name] = heard * costs.synaptic_event_ns + update
        if name in problem.dead:
            each[name][problem.dead[name]] = 0.0
    return Work(problem.chip, each, {name: rate * costs.message_ns for name, rate in rates.items()})


def fastest(problem: Problem, work: Work, first: Found, cores: float, limit: float, seed: int) -> Found:
    """A placement on at most `cores` cores whose steps are as short as possible, none longer than those of `first`.

    limit: synapses looked at from here on.
    """
    if first.broken or len(first.segments) > cores:
        return first
    limit += problem.visits
    rng = random.Random(seed)
    natural = natural_orders(problem)
    bound, cores = work.bound(int(min(cores, sum(problem.size.values()))))
    # Few cores may suffice for the time, but not for all else.
    cores = max(cores, len(first.segments))
    choices = {}
    for name, orders in scored_orders(problem, natural, limit).items():
        # Where a grown core ends says nothing about time.
        free = [Order(order.neurons, order.unit) for order in orders]
        choices[name] = [*free, *(Order(order.neurons) for order in free if order.unit > 1)]
    drafts = _drafts(problem, natural, work, cores)
    best, shortest = first, work.step(problem, first)
    idle = barrier(problem.chip, cores)
    reached, failed = float(work.per_core(first).max()), bound - idle
    goal = NEAR * failed if cores <= MANY else math.sqrt(failed * reached)
    while reached > CLOSE * failed > 0 and problem.visits < limit:
        problem.set_work(work.each, goal)
        found = _within(problem, choices, drafts, cores, limit, rng)
        problem.set_work({}, math.inf)
        if found is None:
            failed = goal
        else:
            reached = float(work.per_core(found).max())
            step = work.step(problem, found)
            if step < shortest:
                best, shortest = found, step
        goal = math.sqrt(failed * reached)
    return best


def _drafts(problem: Problem, natural: dict[str, Order], work: Work, cores: int) -> list[Draft]:
    """Plans, the most promising first: of every population a part on each core, or on as many as it has a part of all work, or
    on twice as many; or cores filled one by one."""
    total = sum(float(each.sum()) for each in work.each.values())
    spreads = [
        {
            name: min(cores, max(1, math.ceil(factor * cores * float(work.each[name].sum()) / total)))
            for name in natural
        }
        for factor in (1, 2, cores)
    ]
    kinds = [(spread, False) for spread in (spreads if cores > MANY else reversed(spreads))]
    kinds[1:1] = [(dict.fromkeys(natural, 0), True), (dict.fromkeys(natural, 0), False)]
    heavy = heaviest_first(problem, natural)
    return [
        Draft(tuple((name, choice, spread[name]) for name in heavy), mixed)
        for choice, (spread, mixed) in itertools.product(range(3), kinds)
    ]


def _within(
    problem: Problem,
    choices: dict[str, list[Order]],
    drafts: list[Draft],
    cores: int,
    limit: float,
    rng: random.Random,
) -> Found | None:
    """The first placement on `cores` cores that breaks no limit, the time among them; the plan that made it comes first from now on."""
    for draft in drafts:
        if problem.visits > limit:
            return None
        found = try_draft(problem, choices, draft, cores, limit)
        if found is not None and not found.broken:
            drafts.remove(draft)
            drafts.insert(0, draft)
            return found
    for _ in range(CHANGES):
        if problem.visits > limit:
            return None
        draft = changed(drafts[0], choices, cores, rng)
        found = try_draft(problem, choices, draft, cores, limit)
        if found is not None and not found.broken:
            drafts.insert(0, draft)
            return found
    return None
