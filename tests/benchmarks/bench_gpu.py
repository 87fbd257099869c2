"""Training steps per second of a network here over those of the same network as a plain Norse SequentialState loop.

python tests/benchmarks/bench_gpu.py                         on the first GPU
python tests/benchmarks/bench_gpu.py --device cpu            on one thread of the CPU
python tests/benchmarks/bench_gpu.py --neuron cubalif --size 128 --steps 60 --batch 16

First, neurons: the scan's spikes must be those of a loop over Norse's step, on the device, and its gradients too. Then
three ways to run one network forward and backward, in turn, so that noise meets all: step by step by SequentialState;
with time folded into the batch for synapses and neurons in a loop; and with neurons that scan. Batch norms keep their
statistics (as in evaluation): a loop's would be those of one step at a time, and the networks no longer the same.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path
from unittest.mock import patch

import norse.torch as norse
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from dpap_neuro.networks import MODELS, NEURONS, neurons
from dpap_neuro.networks.models import ModelSettings, build_model
from dpap_neuro.networks.neurons import LI, READOUTS, CubaLI, Neuron, NeuronSettings

CELLS = {
    neurons.LIF: norse.LIFBoxCell,
    neurons.CubaLIF: norse.LIFCell,
    neurons.IF: norse.IAFCell,
    LI: norse.LIBoxCell,
    CubaLI: norse.LICell,
}
SETTINGS = NeuronSettings(dt=0.01, tau_mem=0.03, v_th=0.5)


def looping():
    """Neurons step one by one while this lasts."""
    return patch.object(neurons, "covers", lambda *_: False)


def sequential_state(model):
    """(T, B, ...) to (T, B, classes) by Norse's container of the same layers, with copies of the same weights."""
    layers = [
        CELLS[type(layer)](layer.constants(), dt=SETTINGS.dt) if isinstance(layer, Neuron) else copy.deepcopy(layer)
        for layer in model
    ]  # fmt: skip
    network = norse.SequentialState(*layers)

    def run(x):
        state, out = None, []
        for frame in x:
            z, state = network(frame, state)
            out.append(z)
        return torch.stack(out)

    return run, network


def check_neurons(device, steps) -> None:
    for name, kind in {**NEURONS, **READOUTS}.items():
        neuron = kind(SETTINGS).to(device)
        x = (torch.randn(steps, 64, 1001, device=device) + 0.3).requires_grad_()
        weight, found = torch.randn_like(x), []
        for scans in (True, False):
            if scans:
                out = neuron(x)
            else:
                with looping():
                    out = neuron(x)
            found.append([out, *torch.autograd.grad((out * weight).sum(), [x, *neuron.parameters()])])
        assert torch.equal(found[0][0], found[1][0]), f"{name}: other outputs than Norse's step"
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        equal = "to the bit" if torch.equal(found[0][1], found[1][1]) else "to rounding"
        print(f"{name}: outputs equal Norse's loop to the bit, gradients of inputs {equal}")


def step(run, parameters, x, y) -> float:
    device = x.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    gradients = torch.autograd.grad(nn.functional.cross_entropy(run(x).sum(0), y), parameters)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    del gradients
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="cnn-wide", choices=MODELS)
    parser.add_argument("--neuron", default="lif", choices=["lif", "cubalif", "if"])
    parser.add_argument("--size", type=int, default=34, help="rows and columns")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench_gpu: no GPU that PyTorch can use on this machine (--device cpu measures the CPU)")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("CPU, one thread" if device.type == "cpu" else torch.cuda.get_device_name(device))
    check_neurons(device, given.steps)

    shape = (2, given.size, given.size)
    model = build_model(ModelSettings(given.model, shape, 10, SETTINGS, cell=given.neuron)).to(device).eval()
    x = (torch.rand(given.steps, given.batch, *shape, device=device) < 0.1).float()
    y = torch.arange(given.batch, device=device) % 10
    run, network = sequential_state(model)

    def looped(x):
        with looping():
            return model(x)

    with torch.no_grad():
        same = (run(x) == model(x)).float().mean().item()
    print(f"{given.model}, {given.neuron}: {same:.4%} of its output spikes equal SequentialState's")
    assert same > 0.99, "another network"
    ways = {
        "SequentialState": (run, list(network.parameters())),
        "folded, neurons in a loop": (looped, list(model.parameters())),
        "folded, neurons scan": (model, list(model.parameters())),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds + 3):
        for name, (way, parameters) in ways.items():
            seconds[name].append(step(way, parameters, x, y))
    medians = {name: statistics.median(times[3:]) for name, times in seconds.items()}
    for name, median in medians.items():
        ratio = medians["SequentialState"] / median
        print(f"{name}: {given.batch / median:.0f} recordings/s, {ratio:.2f} times SequentialState's")


if __name__ == "__main__":
    main()
