"""Cores filled with neurons, population after population or several at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hardware.errors import HardwareError
from hardware.placement.mixing import best_mix
from hardware.placement.orders import Order
from hardware.placement.problem import VISITS_PER_CALL, Problem

# A core's content: (population, neurons in the order in which they were put there).
Segment = tuple[str, np.ndarray]
# A population, the order its neurons are handed out in, and over how many cores they are spread evenly (0: fill up).
Plan = tuple[str, Order, int]
FanOut = Sequence[np.ndarray]


class Cores:
    """Cores being filled."""

    def __init__(self, problem: Problem, fan_out: FanOut, most: float) -> None:
        self.problem = problem
        self.fan_out = fan_out
        self.most = most
        self.room: list[np.ndarray] = []
        self.content: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []

    def open(self) -> bool:
        if len(self.room) >= self.most:
            return False
        self.room.append(self.problem.capacity.copy())
        self.content.append({})
        return True

    def put_units(self, core: int, name: str, order: Order, start: int, guess: int = 0) -> int:
        """Put as many of order.neurons[start:] on `core` as its room allows; how many they were.

        Whole units where one fits, else part of a unit.
        """
        neurons = order.neurons[start:]
        if order.unit == 1 or name in self.content[core]:
            return self.put(core, name, neurons, guess)
        unit = min(len(neurons), order.unit - start % order.unit)
        room = self.room[core]
        if unit > room[0]:
            return self.put(core, name, neurons, guess)
        # Units in the first `good` fit, in the first `bad` do not: gallop from the last core's number, then bisect.
        units = -(-(len(neurons) - unit) // order.unit) + 1
        good, bad, usage = 0, units + 1, np.zeros(len(room))
        trial, step = max(1, min(units, guess // order.unit)), 1
        while bad - good > 1:
            used = self.problem.usage(name, neurons[: unit + (trial - 1) * order.unit], self.fan_out)
            if np.any(used > room):
                bad, step = trial, 1
                trial = max(good + 1, min((good + bad) // 2, trial - 1))
            else:
                good, usage = trial, used
                trial = min(good + step if bad > units else (good + bad) // 2, bad - 1)
                step *= 2
        if good == 0:
            return 0 if self.content[core] else self.put(core, name, neurons[:unit], guess)
        number = min(len(neurons), unit + (good - 1) * order.unit)
        self.room[core] = room - usage
        self.content[core][name] = (neurons[:number], usage)
        return number

    def put(self, core: int, name: str, neurons: np.ndarray, guess: int = 0) -> int:
        """Put as many of `neurons`, from the front, on `core` as its room allows; how many they were."""
        room = self.room[core]
        number = int(min(room[0], len(neurons)))
        if number < 1:
            return 0
        old, old_usage = self.content[core].get(name, (neurons[:0], np.zeros(len(room))))
        candidates = np.concatenate([old, neurons[:number]]) if len(old) else neurons[:number]
        total, usage = self._prefix(name, candidates, room + old_usage, len(old), len(old) + guess)
        if total <= len(old):
            return 0
        self.room[core] = room + old_usage - usage
        self.content[core][name] = (candidates[:total], usage)
        return total - len(old)

    def _prefix(
        self, name: str, neurons: np.ndarray, room: np.ndarray, good: int, guess: int
    ) -> tuple[int, np.ndarray]:
        """The longest front part of `neurons` that fits in `room`, at least the first `good`: gallop, then bisect."""
        good_usage = np.zeros(len(room))
        bad = len(neurons) + 1
        if good == 0 and room[0] < self.problem.capacity[0]:
            good_usage = self.problem.usage(name, neurons[:1], self.fan_out)
            if np.any(good_usage > room):
                return 0, good_usage
            good = 1
        trial = guess if good < guess < bad else len(neurons)
        step = 1
        while bad - good > 1:
            usage = self.problem.usage(name, neurons[:trial], self.fan_out)
            if np.all(usage <= room):
                good, good_usage = trial, usage
                trial = good + step if bad > len(neurons) else (good + bad) // 2
                trial = min(trial, bad - 1)
                step *= 4
            else:
                bad = trial
                share = min(r / u for r, u in zip(room, usage, strict=True) if u > 0)
                trial = max(good + 1, min(bad - 1, int(bad * share)))
                if step > 1 or trial == good + 1:
                    trial = (good + bad) // 2
                step = 4
        return good, good_usage

    def segments(self) -> list[list[Segment]]:
        return [[(name, neurons) for name, (neurons, _) in content.items()] for content in self.content]


def fill(
    problem: Problem,
    plans: Sequence[Plan],
    fan_out: FanOut,
    most: float = math.inf,
    revisit: bool = True,
    limit: float = math.inf,
) -> list[list[Segment]] | None:
    """Hand out all populations, plan by plan; None where `most` cores or the time do not suffice, or a neuron sends to more
    cores than one of its own lets it.

    revisit: whether a population may use room left on any core, or only on the last.
    """
    cores = Cores(problem, fan_out, most)
    left = sum(len(order.neurons) for _, order, _ in plans)
    if left > most * problem.capacity[0]:
        return None
    for name, order, spread in plans:
        if order.ends is not None:
            order = Order(_put_parts(cores, name, order.parts()))
        elif spread:
            order = Order(_spread(cores, name, order.neurons, spread))
        start = 0
        core = 0 if revisit else max(0, len(cores.room) - 1)
        guess = 0
        while start < len(order.neurons):
            fresh = core == len(cores.room)
            if (fresh and not cores.open()) or problem.visits > limit:
                return None
            number = cores.put_units(core, name, order, start, guess)
            if fresh and number == 0:
                _check_possible(problem, name, int(order.neurons[start]))
                return None
            start += number
            guess = number or guess
            core += 1
    return cores.segments()


def fill_mixed(
    problem: Problem, plans: Sequence[Plan], fan_out: FanOut, most: float, limit: float
) -> list[list[Segment]] | None:
    """Core by core the one or two populations that make most of it, where what is scarce over all that is left is worth most
    (the dot-product rule of vector bin packing; Panigrahy et al. 2011), and what else finds room; None as in `fill`."""
    names, orders = [name for name, _, _ in plans], [order for _, order, _ in plans]
    finite = np.isfinite(problem.capacity)
    demands = [_demand(problem, name, order, fan_out) for name, order in zip(names, orders, strict=True)]
    one, many = (np.stack(part)[:, finite] for part in list(zip(*demands, strict=True))[:2])
    held = np.array([demand[2] for demand in demands], dtype=np.float64)[:, None]
    slope = np.where(held > 1, (many - one) / np.maximum(1, held - 1), one)
    fixed = np.maximum(0.0, one - slope)
    # A neuron's part of a core that its population fills alone, counted as full where that is fullest.
    each = many / (held * many.max(axis=1, keepdims=True))
    start, size = [0] * len(plans), [len(order.neurons) for order in orders]
    guess = [0] * len(plans)
    cores = Cores(problem, fan_out, most)
    while start != size:
        if not cores.open() or problem.visits > limit:
            return None
        problem.visits += VISITS_PER_CALL
        core = len(cores.room) - 1
        left = [whole - begun for whole, begun in zip(size, start, strict=True)]
        mix = best_mix(fixed, slope, each @ (left @ each), np.array(left, dtype=np.float64))
        # The one whose neurons are largest first, since the others fit in what it leaves.
        mix.sort(key=lambda part: -slope[part[0]].max())
        planned = {p: max(1, round(number)) for p, number in mix[:-1]}
        for p in [*(p for p, _ in mix), *(p for p in range(len(plans)) if p not in dict(mix))]:
            room = cores.room[core][finite] / problem.capacity[finite]
            if p not in dict(mix) and np.any(fixed[p] + slope[p] > room):
                continue
            part = Order(orders[p].neurons[: start[p] + planned.get(p, left[p])], orders[p].unit)
            put = cores.put_units(core, names[p], part, start[p], guess[p])
            start[p] += put
            guess[p] = put or guess[p]
        if not cores.content[core]:
            for p in range(len(plans)):
                if left[p]:
                    _check_possible(problem, names[p], int(orders[p].neurons[start[p]]))
            return None
    return cores.segments()


def _demand(problem: Problem, name: str, order: Order, fan_out: FanOut) -> tuple[np.ndarray, np.ndarray, int]:
    """Shares of an empty core that one neuron takes, and that as many as it holds from the middle of the order, and how
    many those are."""
    cores = Cores(problem, fan_out, 1)
    cores.open()
    held = max(1, cores.put_units(0, name, order, order.middle()))
    middle = order.neurons[order.middle() :]
    one = problem.usage(name, middle[:1], fan_out)
    many = problem.usage(name, middle[:held], fan_out)
    return one / problem.capacity, many / problem.capacity, held


def _put_parts(cores: Cores, name: str, parts: list[np.ndarray]) -> np.ndarray:
    """Each part on the first core that has room for all of it, or on a new one; what did not fit."""
    left = [parts[0][:0]]
    others = [core for core, content in enumerate(cores.content) if name not in content]
    for part in parts:
        usage = cores.problem.usage(name, part, cores.fan_out)
        for core in others:
            if np.all(usage <= cores.room[core]):
                cores.room[core] = cores.room[core] - usage
                cores.content[core][name] = (part, usage)
                others.remove(core)
                break
        else:
            number = cores.put(len(cores.room) - 1, name, part) if cores.open() else 0
            left.append(part[number:])
    return np.concatenate(left)


def _spread(cores: Cores, name: str, order: np.ndarray, spread: int) -> np.ndarray:
    """Share `order` out evenly (in time, where that is a resource) over the `spread` cores with the most room; what did not fit."""
    while len(cores.room) < spread and cores.open():
        pass
    capacity = cores.problem.capacity
    finite = np.isfinite(capacity)
    emptiest = sorted(
        range(len(cores.room)), key=lambda c: (-float(np.min(cores.room[c][finite] / capacity[finite])), c)
    )
    chosen = sorted(emptiest[:spread])
    left = []
    if cores.problem.work:
        passed = np.cumsum(cores.problem.work[name][order])
        cuts = np.searchsorted(passed, passed[-1] * np.arange(1, len(chosen)) / len(chosen))
        chunks = np.split(order, cuts)
    else:
        chunks = np.array_split(order, len(chosen))
    for core, chunk in zip(chosen, chunks, strict=True):
        left.append(chunk[cores.put(core, name, chunk) :])
    return np.concatenate(left)


# What may be done where one neuron hears too much. Relay neurons are none of it: a partial sum is no spike.
_TOO_WIDE = (
    "; remove synapses (a pruner with this chip as its budget goes on until they fit), pool or stride before the layer, or put a "
    "narrower layer between"
)
_REMEDIES = {"bits of memory": _TOO_WIDE, "incoming axons": _TOO_WIDE}


def _check_possible(problem: Problem, name: str, neuron: int) -> None:
    """Raises HardwareError with the limit that one neuron breaks on a core of its own, however others are placed."""
    chip = problem.chip
    fan_out = problem.least_fan_out()
    used = problem.usage(name, np.array([neuron], dtype=np.int32), fan_out)
    fan_in = sum(w.measure(np.array([neuron], dtype=np.int32))[2] for w in problem.into[name])
    # Of the time of a core, which may be another resource, there is no such limit.
    labels = ("neurons", "bits of memory", "incoming axons", "outgoing axons")
    for label, need, room in zip(labels, used, problem.capacity, strict=False):
        if need > room:
            raise HardwareError(
                f"population {name!r}, neuron {neuron}: its {fan_in} synapses alone take {need:g} {label}; "
                f"a core of {chip.name} has {room:g}{_REMEDIES.get(label, '')}"
            )
