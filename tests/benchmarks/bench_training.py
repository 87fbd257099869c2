"""A training step on the CPU beside its synapses alone and beside other frameworks: same network, batch and type, in turn.

python tests/benchmarks/bench_training.py [--threads 1] [--rounds 40]

The network is 24C5s2-48C3s2-256FC-10 at N-MNIST's size: 10 steps, 32 recordings, forward and back, no optimizer. "Synapses alone" are its
convolutions and matrices on the same values, in the faster of torch's two layouts, matrices by oneDNN as in ours. Frameworks that are not installed are named and left
out; `pip install spikingjelly snntorch` brings them. Bars: 1.7 times the synapses at most, SpikingJelly's multi-step mode 1.9 times
ours at least.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import norse.torch as norse
import torch
from torch import Tensor, nn

from dpap_neuro.networks.models import ModelSettings, SpikingNetwork, build_model, logits
from dpap_neuro.networks.neurons import NeuronSettings
from dpap_neuro.train.loop import as_input
from dpap_neuro.train.memory import keep_freed

STEPS, BATCH, SHAPE = 10, 32, (2, 34, 34)
SETTINGS = NeuronSettings(dt=1e-3, tau_mem=2e-3)


def ours(model: SpikingNetwork, x: Tensor) -> Tensor:
    return logits(model(x))


def plain(module: nn.Module) -> nn.Module:
    """A copy of PyTorch's own kind: other frameworks have nothing of ours."""
    if not isinstance(module, nn.Linear):
        return copy.deepcopy(module)
    own = nn.Linear(module.in_features, module.out_features, module.bias is not None)
    own.load_state_dict(module.state_dict())
    return own


def spikingjelly(model: SpikingNetwork) -> Callable[[Tensor], Tensor]:
    from spikingjelly.activation_based import functional, layer, neuron

    tau = SETTINGS.tau_mem / SETTINGS.dt

    def counterpart(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Flatten):
            return layer.SeqToANNContainer(copy.deepcopy(module))
        if isinstance(module, nn.Linear):  # takes any axes before its last
            return plain(module)
        return neuron.LIFNode(tau=tau, v_threshold=SETTINGS.v_th, step_mode="m")

    network = nn.Sequential(*map(counterpart, model))

    def run(x: Tensor) -> Tensor:
        functional.reset_net(network)
        return logits(network(x))

    return run


def snntorch(model: SpikingNetwork) -> Callable[[Tensor], Tensor]:
    import snntorch as snn

    def counterpart(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Flatten | nn.Linear):
            return plain(module)
        return snn.Leaky(beta=0.5, threshold=SETTINGS.v_th)

    layers = [counterpart(module) for module in model]

    def run(x: Tensor) -> Tensor:
        states = {i: layer.init_leaky() for i, layer in enumerate(layers) if isinstance(layer, snn.Leaky)}
        out = []
        for frame in x:
            for i, layer in enumerate(layers):
                if i in states:
                    frame, states[i] = layer(frame, states[i])
                else:
                    frame = layer(frame)
            out.append(frame)
        return logits(torch.stack(out))

    return run


def norse_loop(model: SpikingNetwork) -> Callable[[Tensor], Tensor]:
    def counterpart(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Flatten | nn.Linear):
            return plain(module)
        return norse.LIFBoxCell(module.constants(), dt=SETTINGS.dt)

    network = norse.SequentialState(*map(counterpart, model))

    def run(x: Tensor) -> Tensor:
        state, out = None, []
        for frame in x:
            z, state = network(frame, state)
            out.append(z)
        return logits(torch.stack(out))

    return run


PEERS = {
    "SpikingJelly, multi-step": ("spikingjelly", spikingjelly),
    "snnTorch": ("snntorch", snntorch),
    "Norse": ("norse", norse_loop),
}


def synapses(model: SpikingNetwork, x: Tensor, layout: torch.memory_format) -> Callable[[], None]:
    """Forward and back of convolutions and matrices, on what they see in the network."""
    chosen = [module for module in model if isinstance(module, nn.Conv2d | nn.Linear)]
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [m.register_forward_hook(lambda _, i, o: seen.append((i[0].detach(), o.detach()))) for m in chosen]  # fmt: skip
    model(x)
    for hook in hooks:
        hook.remove()

    def laid(tensor: Tensor) -> Tensor:
        return tensor.clone(memory_format=layout if tensor.dim() == 4 else torch.contiguous_format)

    own = [copy.deepcopy(m).to(memory_format=layout) if isinstance(m, nn.Conv2d) else m for m in chosen]
    inputs = [laid(i).requires_grad_(number > 0) for number, (i, _) in enumerate(seen)]
    gradients = [laid(torch.randn_like(o)) for _, o in seen]

    def run() -> None:
        for module, given, gradient in zip(own, inputs, gradients, strict=True):
            wanted = [*module.parameters(), *([given] if given.requires_grad else [])]
            torch.autograd.grad(module(given), wanted, gradient)

    return run


def step(run: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    nn.functional.cross_entropy(run(x), y).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    keep_freed()
    model = build_model(ModelSettings("cnn-wide", SHAPE, 10, SETTINGS))
    x = as_input((torch.rand(BATCH, STEPS, *SHAPE) < 0.05).byte(), torch.device("cpu"))
    y = torch.arange(BATCH) % 10
    ways: dict[str, Callable[[], None]] = {
        "ours": partial(step, partial(ours, model), x, y),
        "synapses, channels first": synapses(model, x, torch.contiguous_format),
        "synapses, channels last": synapses(model, x, torch.channels_last),
    }
    for name, (package, make) in PEERS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: not installed (pip install {package}), left out")
            continue
        ways[f"{name} {version}"] = partial(step, make(model), x.contiguous(), y)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(given.rounds + 3):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if number >= 3:
                seconds[name].append(time.perf_counter() - begin)
    fastest = min((name for name in ways if name.startswith("synapses")), key=lambda n: statistics.median(seconds[n]))  # fmt: skip
    print(f"{platform.machine()}, {given.threads} thread(s), torch {torch.__version__}; medians of {given.rounds} rounds")  # fmt: skip
    for name, times in seconds.items():
        to_ours = statistics.median(b / a for a, b in zip(seconds["ours"], times, strict=True))
        print(f"{name}: {statistics.median(times) * 1000:.1f} ms, {to_ours:.2f} times ours")
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds[fastest], strict=True))
    print(f"ours: {ratio:.2f} times its {fastest} (at most 1.7)")


if __name__ == "__main__":
    main()
