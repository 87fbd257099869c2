"""A training step on the chip's integers against one in floats: same network, same batch, in turn; times are the process's own.

python tests/benchmarks/bench_exact.py [--bits 4] [--rounds 12] [--threads 1]

The network is 24C5s2-48C3s2-256FC-10 at N-MNIST's size, 10 steps, 64 recordings of random counts. The float one has its batch
norms, the one in integers has them folded. The bar is 1.5.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from dpap_neuro.exchange.nir_export import to_nir
from dpap_neuro.networks.models import ModelSettings, Network, build_model
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.precision.network import ExactNetwork, Precision
from dpap_neuro.precision.scratch import calibrate
from hardware.graph.parsing import from_nir

SHAPE = (2, 34, 34)
BAR = 1.5


def step(network: Network, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    begin = time.process_time()
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(x).sum(0), y).backward()
    optimizer.step()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cell", default="lif")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    settings = ModelSettings("cnn-wide", SHAPE, 10, NeuronSettings(0.01, 0.02), "membrane", given.cell)
    network = build_model(settings)
    x = torch.poisson(torch.full((10, 64, *SHAPE), 0.15)).clamp(max=4)
    y = torch.randint(0, 10, (64,))
    calibrate(network, x)
    graph = from_nir(to_nir(network.eval(), SHAPE, 0.01, readout="membrane", clip=4))
    exact = ExactNetwork(graph, settings, Precision(weight_bits=given.bits))
    pair = [(n.train(), torch.optim.AdamW(n.parameters(), 1e-4)) for n in (network, exact)]
    seconds: list[list[float]] = [[], []]
    for number in range(given.rounds + 2):
        for kept, (model, optimizer) in zip(seconds, pair, strict=True):
            found = step(model, optimizer, x, y)
            if number >= 2:
                kept.append(found)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    both = [statistics.median(s) * 1000 for s in seconds]
    print(
        f"float {both[0]:.0f} ms, {given.bits} bits {both[1]:.0f} ms a step; ratio {ratio:.2f} (at most {BAR})"
    )


if __name__ == "__main__":
    main()
