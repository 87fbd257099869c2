"""What a pruner costs: epoch time with it over the same epoch without, interleaved in one run.

python tests/benchmarks/bench_pruning.py [pruner ...]

The network is the one of a usual N-MNIST run: 24C5s2-BN-LIF-48C3s2-BN-LIF-256FC-LIF-10FC, 10 bins, batch 64.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
from pruning_samples import Folded, Lif, events

from dpap_neuro.pruning import make_pruner


def network() -> nn.Module:
    torch.manual_seed(0)
    return Folded(
        nn.Conv2d(2, 24, 5, stride=2), nn.BatchNorm2d(24), Lif(), nn.Conv2d(24, 48, 3, stride=2),
        nn.BatchNorm2d(48), Lif(), nn.Flatten(), nn.Linear(48 * 49, 256), Lif(), nn.Linear(256, 10),
    )  # fmt: skip


def epoch(model, optimizer, pruner, x, y, number):
    started = time.perf_counter()
    for first in range(0, x.shape[1], 64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:, first : first + 64]).mean(0), y[first : first + 64]).backward()
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)
    if pruner is not None:
        pruner.end_epoch(number, optimizer)
    return time.perf_counter() - started


def main() -> None:
    x = events(steps=10, batch=640, size=34, rate=0.3)
    y = torch.arange(640) % 10
    for name in sys.argv[1:] or ["dpap", "dpap with a goal", "dpap-weighted", "magnitude"]:
        kind = name.split()[0]
        goal = {} if name == "dpap" else {"sparsity": 0.9}
        runs = []
        for pruned in (False, True):
            model = network()
            pruner = make_pruner(kind, epochs=7, **goal).attach(model, x) if pruned else None
            runs.append((model, torch.optim.AdamW(model.parameters(), 2e-3), pruner))
        times = [[epoch(*run, x, y, number) for run in runs] for number in range(7)]
        # The first epoch warms up; the fastest of the others is what a busy machine disturbs least.
        without, with_pruner = (min(column) for column in zip(*times[1:], strict=True))
        ratio = with_pruner / without
        print(f"{name}: epoch time {ratio:.3f} of the epoch without it ({without:.2f} s)")


if __name__ == "__main__":
    main()
