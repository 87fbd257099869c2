"""Progress where nobody watches a terminal."""

from __future__ import annotations

from dpap_neuro.cli.shared import Lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(seconds: float, total: int, count: int | None = None) -> list[str]:
    """What is said of `total` things that take so many seconds each."""
    said: list[str] = []
    clock = Clock()
    tell = Lines(said.append, clock)
    for done in range(1 + (total if count is None else count)):
        tell("training", done, total)
        clock.now += seconds
    return said


def test_a_line_per_ten_per_cent_with_the_time_gone_and_left():
    said = told(3.0, 100)
    assert len(said) == 10
    assert said[0] == "training: 10 %, 30 s, about 270 s left"
    assert said[-1] == "training: 100 %, 300 s"


def test_what_is_soon_over_is_not_told():
    assert told(0.01, 100) == []


def test_no_more_lines_than_one_in_two_seconds_and_always_the_end():
    said = told(1 / 16, 100)
    shares = [line.split(",")[0].removeprefix("training: ") for line in said]
    assert shares == ["32 %", "64 %", "96 %", "100 %"]


def test_things_are_told_apart():
    said: list[str] = []
    clock = Clock()
    tell = Lines(said.append, clock)
    for done in range(3):
        for what in ("reading", "writing"):
            tell(what, done, 2)
        clock.now += 5
    assert said == [
        "reading: 50 %, 5 s, about 5 s left",
        "writing: 50 %, 5 s, about 5 s left",
        "reading: 100 %, 10 s",
        "writing: 100 %, 10 s",
    ]
