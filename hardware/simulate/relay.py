"""One recording on two cores: the network in three parts, of which one core runs the middle one and the other those before and behind it,
each part some chunks of steps behind the one before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

# Parts, and chunks of steps by which a part may be ahead of the next one.
PARTS, AHEAD = 3, 1
# What may be done is numbered by its part; that of listing what inputs send comes behind them.
_LIST = PARTS


class Relay:
    """run(part, chunk): one part of the network, of one chunk of steps. listed(chunk): what inputs send in these steps, which `run` of
    whichever part hears them takes.

    Neither core waits while there is anything that it may do; what inputs send is listed by whichever has nothing else to do, some
    chunks ahead. first: so many chunks are listed already.
    """

    def __init__(
        self, chunks: int, run: Callable[[int, int], None], listed: Callable[[int], None], first: int
    ):
        self._chunks, self._run, self._list = chunks, run, listed
        # Of each part the chunks that are done; what is listed is begun in turn, and may be done in another.
        self._done = [0] * PARTS
        self._begun, self._listed = first, set(range(first))
        self._turn = threading.Condition()
        self._failed = False

    def go(self, pool: ThreadPoolExecutor) -> None:
        """All chunks of all parts. pool: one thread beside this one."""
        beside = pool.submit(self._work, (1,))
        try:
            self._work((0, 2))
        finally:
            wait([beside])  # it works on what is this one's
        beside.result()

    def _work(self, parts: tuple[int, ...]) -> None:
        """What these parts have to do, until it is done."""
        try:
            while True:
                with self._turn:
                    while (found := self._next(parts)) is None:
                        if self._failed or all(self._done[part] == self._chunks for part in parts):
                            return
                        self._turn.wait()
                    what, chunk = found
                if what == _LIST:
                    self._list(chunk)
                else:
                    self._run(what, chunk)
                with self._turn:
                    if what == _LIST:
                        self._listed.add(chunk)
                    else:
                        self._done[what] += 1
                    self._turn.notify()
        except BaseException:
            with self._turn:
                self._failed = True
                self._turn.notify()
            raise

    def _next(self, parts: tuple[int, ...]) -> tuple[int, int] | None:
        """The part and the chunk that may be run now, or what to list, which is then begun; None where there is nothing."""
        if self._failed:
            return None
        for part in parts:
            chunk = self._done[part]
            if chunk < self._chunks and self._may(part, chunk):
                return part, chunk
        if self._begun < min(self._chunks, self._done[0] + AHEAD + 2):
            self._begun += 1
            return _LIST, self._begun - 1
        return None

    def _may(self, part: int, chunk: int) -> bool:
        if chunk not in self._listed or (part and chunk >= self._done[part - 1]):
            return False
        # What is sent waits in a ring that has room for so much.
        return part == PARTS - 1 or chunk - self._done[part + 1] <= AHEAD


def room(behind: int, chunk: int) -> int:
    """Steps from the first that a part may still hear to the last that one `behind` parts before it sends."""
    return behind * (AHEAD + 1) * chunk
