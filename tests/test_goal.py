"""What is to be reached, and when: hand-calculated schedules."""

import math

import pytest

pytest.importorskip("torch")

from dpap_neuro.errors import InputError
from dpap_neuro.pruning import Goal, Reading
from dpap_neuro.pruning.budget import approach


@pytest.mark.parametrize(
    "goal, first, last",
    [
        (Goal(sparsity=0.5, epochs=10, reach=0.7), 1, 6),
        (Goal(sparsity=0.5, epochs=40), 4, 27),
        (Goal(sparsity=0.5, epochs=10, first_epoch=8, reach=0.5), 8, 8),
        (Goal(remaining=5, epochs=1), 0, 0),
    ],
)
def test_the_schedule_begins_and_ends_where_it_says(goal, first, last):
    """A goal reached after 70% of 10 epochs is reached with the seventh, whose number is 6."""
    assert goal.schedule() == (first, last)
    assert goal.left_after(first - 1, 10**9) is None
    left = [goal.left_after(e, 10**9) for e in range(first, goal.epochs)]
    assert left[last - first :] == [goal.at_end(10**9)] * (goal.epochs - last)
    assert all(n > goal.at_end(10**9) for n in left[: last - first])


def test_what_is_left_falls_as_a_cube():
    goal = Goal(sparsity=0.8, epochs=10, first_epoch=2, reach=0.6)  # epochs 2, 3, 4, 5
    expected = [round(1000 * (1 - 0.8 * (1 - (1 - k / 4) ** 3))) for k in (1, 2, 3, 4)]
    assert [goal.left_after(e, 1000) for e in range(2, 6)] == expected == [538, 300, 212, 200]


def test_a_count_is_met_exactly_and_never_above_all_there_is():
    goal = Goal(remaining=333, epochs=4)
    assert goal.left_after(3, 1000) == 333 and goal.left_after(3, 100) == 100
    assert Goal(remaining=40.0, epochs=4).at_end(90) == 40


def test_weights_are_exchanged_by_a_cosine_that_ends_with_the_goal():
    goal = Goal(sparsity=0.5, epochs=10, reach=0.5)
    expected = [0.15 * (1 + math.cos(math.pi * k / 5)) for k in (1, 2, 3, 4)]
    assert [goal.exchanged(e, 0.3) for e in range(4)] == pytest.approx(expected)
    assert [goal.exchanged(e, 0.3) for e in range(4, 10)] == [0.0] * 6


def test_what_a_goal_is():
    def meter(network):
        return Reading({}, "fits")

    assert not Goal(epochs=3).is_given and Goal().describe() == ""
    budget = Goal(epochs=4, meter=meter)
    assert budget.is_given and not budget.is_number and budget.count == "synapses"
    assert budget.left_after(3, 1000) is None
    assert Goal(sparsity=0.25, epochs=4, count="synapses").describe() == (
        " to 25.0% of the synapses removed, reached after 70% of 4 epochs"
    )
    with pytest.raises(InputError, match="a budget and a sparsity"):
        Goal(sparsity=0.5, epochs=4, meter=meter)
    with pytest.raises(InputError, match="reach: found 0"):
        Goal(sparsity=0.5, epochs=4, reach=0.0)


class Counted:
    """What `approach` asks of masks: numbers that it may make smaller."""

    def __init__(self, synapses):
        self.synapses = synapses

    def neuron_count(self):
        return 7

    def reduce(self, targets):
        self.synapses = min(self.synapses, targets["synapses"])


def test_a_budget_is_approached_on_the_schedule_of_all_goals():
    """From 100,000 synapses to the 20,000 that fit in four epochs, as a goal of a sparsity would be."""
    masks, found = Counted(100_000), []

    def measure():
        over = masks.synapses / 20_000
        return Reading({"synapses": over} if over > 1 else {}, f"{over:.0%}")

    for epoch in range(7):
        keep = pytest.fail  # nothing was run, so that nothing can fall silent
        reading = approach(measure, masks, masks.reduce, epoch, (2, 5), lambda: masks.synapses, keep)
        found.append(masks.synapses)
    goal = Goal(sparsity=0.8, epochs=7, first_epoch=2, reach=0.86)
    assert goal.schedule() == (2, 5) and reading.fits
    expected = [goal.left_after(epoch, 100_000) or 100_000 for epoch in range(7)]
    assert found == pytest.approx(expected, abs=2)
