"""Random networks on real Lava and in our simulator: every spike, current and membrane of every step, how many differ.

    python tests/benchmarks/bench_lava_equal.py [--networks 300] [--seed 0]      (a Python 3.10 with lava-nc 0.10.0)

One half is made up integer by integer (dense, sparse and convolved, loops, skips, delays, decays per neuron, graded input,
pairs of synapses), the other half is what the compiler makes of random float networks (pairs, always-on inputs). Both have
neurons with reset to zero and by subtraction; a third runs with a periodic reset. Ends with status 1 where a value differs.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from lava_samples import compiled, networks  # noqa: E402

from hardware.simulate import lava, simulator  # noqa: E402

VARIABLES = ("spikes", "u", "v")


def paired(network):
    """Whether two projections join the same populations by synapses of different exponents."""
    exponents = {}
    for q in network.projections:
        exponents.setdefault((q.source, q.target, type(q)), set()).add(q.weight_exp)
    return any(len(found) > 1 for found in exponents.values())


def kinds(network, raster, interval):
    """What of the network is counted in the table."""
    yield "networks"
    resets = {p.reset for p in network.populations if p.spiking}
    yield from (f"reset: {reset}" for reset in sorted(resets))
    if paired(network):
        yield "pairs of synapses"
        if "subtract" in resets:
            yield "pairs and reset: subtract"
    if any(entry.constant for entry in network.inputs):
        yield "always-on input"
    yield from sorted({type(q).__name__ for q in network.projections})
    if any(q.source == q.target for q in network.projections):
        yield "loops"
    if any(np.any(q.delay) for q in network.projections):
        yield "delays"
    if raster.max(initial=0) > 1:
        yield "graded input"
    if interval is not None:
        yield "periodic reset"


def differing(network, raster, interval):
    """Values that differ, values compared, spikes."""
    record = [p.name for p in network.populations]
    ours = simulator.simulate(network, raster, "chip", record, None, interval, 1)
    theirs = lava.simulate(network, raster, record, interval, 1)
    values = [(getattr(ours, v)[name], getattr(theirs, v)[name]) for v in VARIABLES for name in record]
    return (
        sum(int(np.count_nonzero(a != b)) for a, b in values),
        sum(a.size for a, _ in values),
        sum(int(x.sum()) for x in ours.counts.values()),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not lava.available():
        raise SystemExit(lava.NO_LAVA.format(python=sys.executable))
    # Lava's own, of delays on sparse matrices.
    warnings.filterwarnings("ignore", message="Changing the sparsity structure")
    counts, spiking, seen = Counter(), Counter(), set()
    totals = np.zeros(3, np.int64)
    begun = time.perf_counter()

    def run(case, interval):
        network, raster = case
        found = differing(network, raster, interval)
        totals[:] += found
        here = list(kinds(network, raster, interval))
        counts.update(here)
        if found[2]:
            spiking.update(here)
        seen.add(hash(repr(network) + repr(raster.tolist())))
        if found[0]:
            print(f"DIFFERS in {found[0]:,} values: {network}", flush=True)
        if counts["networks"] % 25 == 0:
            took = time.perf_counter() - begun
            print(f"  {counts['networks']} networks, {took:.0f} s", file=sys.stderr, flush=True)

    for strategy, many in (
        (networks(), asked.networks // 2),
        (compiled(), asked.networks - asked.networks // 2),
    ):
        sampled = given(strategy, st.sampled_from([None, None, 4]))(run)
        sampled = settings(
            max_examples=many,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(sampled)
        if many:
            seed(asked.seed)(sampled)()
    print(f"{'':28} {'networks':>9} {'with spikes':>12}")
    for kind, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{kind:28} {count:9,} {spiking[kind]:12,}")
    print(f"different networks or inputs: {len(seen):,}; spikes: {totals[2]:,}")
    print(f"values compared: {totals[1]:,}, differing: {totals[0]:,}")
    return 1 if totals[0] or counts["networks"] < asked.networks else 0


if __name__ == "__main__":
    sys.exit(main())
