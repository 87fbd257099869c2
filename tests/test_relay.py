"""Two threads that run the parts of a network in chunks: what is done when, and what happens where a part fails."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hardware.simulate import relay


@pytest.mark.parametrize("chunks", [1, 2, 7, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_chunk_once_and_no_part_too_far_ahead(chunks, seed):
    rng = random.Random(seed)
    lock = threading.Lock()
    listed, begun, done, running = {0}, [0] * relay.PARTS, [0] * relay.PARTS, set()

    def list_chunk(k):
        time.sleep(rng.random() * 1e-4)
        with lock:
            assert k not in listed
            listed.add(k)

    def run_part(n, k):
        with lock:
            assert k in listed and k == begun[n] == done[n], "each chunk in its turn"
            begun[n] += 1
            # Parts 0 and 2 share room.
            assert not running & ({0, 2} if n != 1 else {1})
            running.add(n)
            for m in range(n):
                assert done[m] > k, "what the part hears is there"
            for m in range(n + 1, relay.PARTS):
                # Steps from the first that part m may still read to the last that this one writes, in chunks.
                assert k + 1 - done[m] <= relay.room(m - n, 1)
        time.sleep(rng.random() * 2e-4)
        with lock:
            done[n] += 1
            running.discard(n)

    with ThreadPoolExecutor(1) as pool:
        relay.Relay(chunks, run_part, list_chunk, first=1).go(pool)
    assert done == begun == [chunks] * relay.PARTS
    assert listed == set(range(chunks))


@pytest.mark.parametrize("failing", [(0, 3), (1, 2), (2, 5)])
def test_a_part_that_fails_ends_both(failing):
    ran = []

    def run_part(n, k):
        if (n, k) == failing:
            raise MemoryError("no room")
        ran.append((n, k))

    with ThreadPoolExecutor(1) as pool, pytest.raises(MemoryError, match="no room"):
        relay.Relay(50, run_part, lambda k: None, first=1).go(pool)
    assert failing not in ran and (failing[0], failing[1] + 1) not in ran
    assert len(ran) < 50


def test_listing_that_fails_ends_both():
    def list_chunk(k):
        if k == 4:
            raise ValueError("not listed")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="not listed"):
        relay.Relay(50, lambda n, k: None, list_chunk, first=1).go(pool)
