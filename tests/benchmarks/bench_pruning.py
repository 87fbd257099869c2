"""What a pruner costs, and what compaction while training saves; interleaved in one run, one thread.

python tests/benchmarks/bench_pruning.py [pruner ...]               epoch time with a pruner over the epoch without
python tests/benchmarks/bench_pruning.py compact [EPOCHS [MODEL]]   a whole run, cut down as it shrinks, over the dense

The network is the one of a usual N-MNIST run, cnn-wide with 10 bins, batch 64, in memory as in `train`. Times are
the process's own, which other processes disturb less than the clock's; of all epochs the fastest of each batch
and the median of what follows the last, sums over runs. The pruner `none` shows what the measurement itself is worth.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
from pruning_samples import events

from dpap_neuro.data import Binning, open_dataset
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.pruning import make_pruner
from dpap_neuro.train.loop import adamw, as_input
from dpap_neuro.train.memory import keep_freed

EPOCHS = 25


def network() -> nn.Module:
    return build_model(ModelSettings("cnn-wide", (2, 34, 34), 10, NeuronSettings(1e-3, 2e-3)))


def step(model, optimizer, pruner, x, y):
    started = time.process_time()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x).mean(0), y).backward()
    optimizer.step()
    if pruner is not None:
        pruner.step(optimizer)
    return time.process_time() - started


def epoch(model, optimizer, pruner, x, y, number, compact=False):
    started = time.process_time()
    for first in range(0, x.shape[1], 64):
        step(model, optimizer, pruner, x[:, first : first + 64], y[first : first + 64])
    if pruner is not None:
        pruner.end_epoch(number, optimizer)
        if compact:
            pruner.compact(optimizer)
    return time.process_time() - started


def costs(names) -> None:
    x = as_input(events(steps=10, batch=640, size=34, rate=0.3).transpose(0, 1), torch.device("cpu"))
    y = torch.arange(640) % 10
    for name in names or ["none", "dpap", "dpap with a goal", "weighted", "magnitude"]:
        kind = name.split()[0]
        goal = {} if name in ("none", "dpap") else {"sparsity": 0.9}
        models = network(), network()
        optimizers = [adamw(model, 2e-3) for model in models]
        pruners = None, make_pruner(kind, epochs=EPOCHS, **goal).attach(models[1], x)
        steps, ends = {}, []
        for number in range(EPOCHS):
            # Batch by batch in turn, each as often the first: what disturbs the machine disturbs both.
            for batch, first in enumerate(range(0, 640, 64)):
                part = x[:, first : first + 64], y[first : first + 64]
                for i in (0, 1) if (batch + number) % 2 else (1, 0):
                    seconds = step(models[i], optimizers[i], pruners[i], *part)
                    steps.setdefault((i, batch), []).append(seconds)
            started = time.process_time()
            pruners[1].end_epoch(number, optimizers[1])
            ends.append(time.process_time() - started)
        plain, pruned = (sum(min(steps[i, batch]) for batch in range(10)) for i in (0, 1))
        end = statistics.median(ends)
        print(
            f"{name}: epoch time {(pruned + end) / plain:.3f} of the epoch without it ({pruned + end:.2f} s of {plain:.2f} s, "
            f"{1e3 * end:.0f} ms at its end)",
            flush=True,
        )


def compaction(epochs, name) -> None:
    opened = open_dataset("digits", split="train")
    counts = opened.rasters(Binning(bins=10, clip=4))[:640]
    x, y = as_input(counts, torch.device("cpu")), torch.as_tensor(opened.recordings.labels[:640])
    settings = ModelSettings(name, tuple(x.shape[2:]), 10, NeuronSettings(0.01, 0.02), "membrane")
    kinds = {
        "dense": None,
        "weighted, structured, compacted": ("weighted", {"structured": True}, True),
        "weighted, structured": ("weighted", {"structured": True}, False),
        "weighted, compacted": ("weighted", {}, True),
        "dpap, structured, compacted": ("dpap", {"structured": True}, True),
    }
    runs = {}
    for title, kind in kinds.items():
        model, pruner, compact = build_model(settings), None, False
        if kind is not None:
            method, options, compact = kind
            pruner = make_pruner(method, epochs=epochs, sparsity=0.8, **options).attach(model, x[:, :2])
        runs[title] = (model, adamw(model, 2e-3), pruner, compact)
    seconds = {title: 0.0 for title in kinds}
    for number in range(epochs):
        for title, (model, optimizer, pruner, compact) in runs.items():
            seconds[title] += epoch(model, optimizer, pruner, x, y, number, compact)
    print(f"{name}, inputs {tuple(x.shape[2:])}, {epochs} epochs of {x.shape[1]} recordings")
    for title, (_, _, pruner, _) in runs.items():
        line = f"{title}: {seconds[title]:.1f} s, {seconds[title] / seconds['dense']:.3f} of the dense run"
        if pruner is not None:
            units = ", ".join(f"{c.units_alive} of {c.units}" for c in pruner.report(epochs).layers)
            line += f", {pruner.sparsity():.1%} of the parameters removed, units left {units}"
        print(line)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed()
    if sys.argv[1:2] == ["compact"]:
        epochs, name = [*sys.argv[2:], *("20", "cnn-wide")[len(sys.argv) - 2 :]]
        compaction(int(epochs), name)
    else:
        costs(sys.argv[1:])


if __name__ == "__main__":
    main()
