"""`torch.compile` on a training step of a convolutional network, beside the step as it is: ratios of interleaved repeats.

python tests/benchmarks/bench_compile.py [--model cnn] [--batch 64] [--rounds 5]

The neurons are kernels of this package (`networks/scan_cpu.py`, `scan_triton.py`), which the compiler passes over: what it can change
is what lies between them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from dpap_neuro.networks.models import ModelSettings, build_model, logits
from dpap_neuro.networks.neurons import NeuronSettings


def step(forward, network, optimizer, x, labels) -> float:
    begin = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(logits(forward(x)), labels).backward()
    optimizer.step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    settings = ModelSettings(asked.model, (2, 34, 34), 10, NeuronSettings(1e-3, 2e-3, 0.5))
    torch.manual_seed(0)
    x = torch.poisson(torch.full((10, asked.batch, 2, 34, 34), 0.1))
    x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    labels = torch.arange(asked.batch) % 10
    both = []
    for compiled in (False, True):
        network = build_model(settings, 0)
        forward = torch.compile(network) if compiled else network
        optimizer = torch.optim.AdamW(network.parameters())
        begin = time.perf_counter()
        for _ in range(2):
            step(forward, network, optimizer, x, labels)
        print(
            f"{'compiled' if compiled else 'plain'}: first two steps {time.perf_counter() - begin:.1f} s",
            flush=True,
        )
        both.append((forward, network, optimizer))
    ratios = []
    for _ in range(asked.rounds):
        plain, compiled = (min(step(*one, x, labels) for _ in range(3)) for one in both)
        ratios.append(compiled / plain)
        print(f"  step: {plain:.3f} s as it is, {compiled:.3f} s compiled", flush=True)
    print(
        f"compiled: {statistics.median(ratios):.2f} times the step as it is ({torch.get_num_threads()} threads)"
    )


if __name__ == "__main__":
    main()
