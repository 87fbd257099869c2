"""This project's files in other frameworks: each reads a path and runs recordings (steps, batch, ...), with what `export --for`
tells its user to set by hand."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np
import torch
from torch import Tensor, nn


def norse(path: Path, x: Tensor, dt: float, reset: str) -> Tensor:
    import norse.torch

    # Samples one by one: its Flatten takes the batch in as well.
    nets = [norse.torch.from_nir(nir.read(path), dt=dt) for _ in range(x.shape[1])]
    return torch.stack([_by_step(net, x[:, b]) for b, net in enumerate(nets)], 1)


def snntorch(path: Path, x: Tensor, dt: float, reset: str) -> Tensor:
    from snntorch.import_nir import import_from_nir

    nets = [import_from_nir(nir.read(path)) for _ in range(x.shape[1])]
    return torch.stack([_by_step(net, x[:, b]) for b, net in enumerate(nets)], 1)


def spikingjelly(path: Path, x: Tensor, dt: float, reset: str) -> Tensor:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return _by_step(import_from_nir(nir.read(path), dt=dt), x)


def sinabs(path: Path, x: Tensor, dt: float, reset: str) -> Tensor:
    layers, activation = (
        importlib.import_module("sinabs.layers"),
        importlib.import_module("sinabs.activation"),
    )
    net = importlib.import_module("sinabs.nir").from_nir(nir.read(path), batch_size=x.shape[1])
    for module in net.modules():
        if isinstance(module, layers.LIF):
            module.spike_fn, module.min_v_mem = activation.SingleSpike, None
            module.reset_fn = activation.MembraneReset() if reset == "zero" else activation.MembraneSubtract()
    with torch.no_grad():
        out = net(x.transpose(0, 1).flatten(0, 1))
    out = out[0] if isinstance(out, tuple) else out
    return out.unflatten(0, (x.shape[1], x.shape[0])).transpose(0, 1)


def rockpool(path: Path, x: Tensor, dt: float, reset: str) -> Tensor:
    net = importlib.import_module("rockpool.nn.modules.torch.nir").from_nir(nir.read(path))
    for module in nn.Module.modules(net):
        if hasattr(module, "max_spikes_per_dt"):
            module.max_spikes_per_dt = torch.tensor(1.0)
    with torch.no_grad():
        out = net(x.transpose(0, 1))
    return (out[0] if isinstance(out, tuple) else out).transpose(0, 1)


def spyx(path: Path, x: Tensor, dt: float, reset: str) -> Tensor:
    jnp, exchange = importlib.import_module("jax.numpy"), importlib.import_module("spyx.nir")
    _, out = exchange.from_nir(nir.read(path), jnp.asarray(x.numpy()), dt)
    return torch.tensor(np.asarray(out))


def _by_step(network: nn.Module, x: Tensor) -> Tensor:
    """Step by step, with the state that the network returned."""
    state, out = None, []
    with torch.no_grad():
        for now in x:
            spikes, state = network(now, state)
            out.append(spikes[0] if isinstance(spikes, tuple) else spikes)
    return torch.stack(out)


READERS: dict[str, Callable[[Path, Tensor, float, str], Tensor]] = {
    "norse": norse,
    "snntorch": snntorch,
    "spikingjelly": spikingjelly,
    "sinabs": sinabs,
    "rockpool": rockpool,
    "spyx": spyx,
}
