"""Networks of other frameworks, one for each row of the table: alive, run by themselves, and written by their own exporters."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ours import DT, STEPS, recordings
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.norse import from_norse
from dpap_neuro.exchange.rockpool import from_rockpool
from dpap_neuro.exchange.sinabs import from_sinabs
from dpap_neuro.exchange.snntorch import from_snntorch
from dpap_neuro.exchange.spikingjelly import from_spikingjelly
from hardware.graph.graph import Graph

VECTOR, IMAGE = (12,), (2, 8, 6)


@dataclass(frozen=True)
class Row:
    """x: recordings (steps, batch, ...). run: their spikes, (steps, batch, ...). live: our graph of it. export: their own."""

    name: str
    x: Tensor
    run: Callable[[], Tensor]
    live: Callable[[], Graph]
    export: Callable[[], Any]


def _two(first: nn.Module, second: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 20), first, nn.Linear(20, 6), second)


def _louder(net: Any) -> Any:
    """Larger weights, so that every row spikes."""
    with torch.no_grad():
        for module in nn.Module.modules(net):
            if isinstance(module, nn.Linear | nn.Conv2d) or type(module).__name__ == "LinearTorch":
                module.weight *= 2
    return net


def norse() -> Iterator[Row]:
    import norse.torch as nt
    from norse.torch.functional.iaf import IAFParameters
    from norse.torch.functional.lif import LIFParameters
    from norse.torch.functional.lif_box import LIFBoxParameters

    def image() -> list[nn.Module]:
        neuron = nt.LIFBoxCell(
            LIFBoxParameters(tau_mem_inv=torch.tensor(200.0), v_th=torch.tensor(0.2)), dt=DT
        )
        last = nt.LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(200.0), v_th=torch.tensor(0.2)), dt=DT)
        return [nn.Conv2d(2, 4, 3, padding=1), neuron, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 5), last]

    level = torch.tensor(0.3)
    box = lambda: nt.LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(200.0), v_th=level), dt=DT)  # noqa: E731
    cell = lambda: nt.LIFCell(LIFParameters(torch.tensor(400.0), torch.tensor(200.0), v_th=level), dt=DT)  # noqa: E731
    iaf = lambda: nt.IAFCell(IAFParameters(v_th=level), dt=DT)  # noqa: E731
    kinds = {"LIFBoxCell": box, "LIFCell": cell, "IAFCell": iaf}
    layers = {name: [nn.Linear(12, 20), make(), nn.Linear(20, 6), make()] for name, make in kinds.items()}
    layers["LIFBoxCell, convolution, average pooling"] = image()
    for name, modules in layers.items():
        net, shape = _louder(nt.SequentialState(*modules)), IMAGE if "conv" in name else VECTOR
        x = recordings(*shape)

        def run(net: Any = net, x: Tensor = x) -> Tensor:
            state, out = None, []
            with torch.no_grad():
                for now in x:
                    z, state = net(now, state)
                    out.append(z)
            return torch.stack(out)

        yield Row(
            name,
            x,
            run,
            lambda net=net, shape=shape: from_norse(net, shape, DT),
            lambda net=net, x=x: nt.to_nir(net, x[0, :1]),
        )


def snntorch() -> Iterator[Row]:
    snn = importlib.import_module("snntorch")
    late, at_once = {"reset_mechanism": "zero"}, {"reset_mechanism": "zero", "reset_delay": False}

    def tensor(value: float, n: int) -> Tensor:
        return torch.full((n,), value)

    def layer(kind: Any, n: int, *decays: float, **how: Any) -> Any:
        return kind(*(tensor(d, n) for d in decays), threshold=tensor(0.4, n), init_hidden=True, **how)

    def two(kind: Any, *decays: float, **how: Any) -> nn.Module:
        return _two(layer(kind, 20, *decays, **how), layer(kind, 6, *decays, output=True, **how))

    def loop(kind: Any, *decays: float, **how: Any) -> nn.Module:
        hidden = kind(*decays, linear_features=20, threshold=0.4, init_hidden=True, **how)
        return _two(hidden, layer(snn.Leaky, 6, 0.8, output=True, **how))

    def scalar(**how: Any) -> nn.Module:
        make = lambda **more: snn.Leaky(0.9, threshold=0.4, init_hidden=True, **how, **more)  # noqa: E731
        return _two(make(), make(output=True))

    def image(**how: Any) -> nn.Module:
        make = lambda **more: snn.Leaky(0.9, threshold=0.1, init_hidden=True, **how, **more)  # noqa: E731
        layers = [nn.Conv2d(2, 4, 3, padding=1), make(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)]
        return nn.Sequential(*layers, make(output=True))

    nets = {
        "Leaky, scalar beta": scalar(),
        "Leaky": two(snn.Leaky, 0.9),
        "Leaky, reset to zero": two(snn.Leaky, 0.9, **late),
        "Leaky, subtraction, reset_delay=False": two(snn.Leaky, 0.9, reset_delay=False),
        "Leaky, convolution": image(),
        "Synaptic": two(snn.Synaptic, 0.5, 0.9),
        "Synaptic, reset to zero": two(snn.Synaptic, 0.5, 0.9, **late),
        "Synaptic, reset to zero, reset_delay=False": two(snn.Synaptic, 0.5, 0.9, **at_once),
        "RLeaky": loop(snn.RLeaky, 0.9),
        "RLeaky, reset to zero": loop(snn.RLeaky, 0.9, **late),
        "RLeaky, reset to zero, reset_delay=False": loop(snn.RLeaky, 0.9, **at_once),
        "RSynaptic": loop(snn.RSynaptic, 0.5, 0.9),
    }
    for name, net in nets.items():
        _louder(net)
        x = recordings(*(IMAGE if "conv" in name else VECTOR))

        def run(net: nn.Module = net, x: Tensor = x) -> Tensor:
            for module in net.modules():
                if hasattr(module, "reset_mem"):
                    module.reset_mem()
            with torch.no_grad():
                outs = [net(now) for now in x]
            return torch.stack([out[0] if isinstance(out, tuple) else out for out in outs])

        def export(net: nn.Module = net, x: Tensor = x) -> Any:
            return importlib.import_module("snntorch.export_nir").export_to_nir(
                net, x[0, :1], ignore_dims=[0]
            )

        yield Row(name, x, run, lambda net=net, x=x: from_snntorch(net, x[0], DT), export)


def spikingjelly() -> Iterator[Row]:
    base = "spikingjelly.activation_based"
    neuron, layer = importlib.import_module(f"{base}.neuron"), importlib.import_module(f"{base}.layer")
    functional = importlib.import_module(f"{base}.functional")
    makes = {
        "IFNode": lambda reset: neuron.IFNode(0.4, reset),
        "LIFNode": lambda reset: neuron.LIFNode(3.0, True, 0.2, reset),
        "LIFNode, decay_input=False": lambda reset: neuron.LIFNode(3.0, False, 0.4, reset),
        "ParametricLIFNode": lambda reset: neuron.ParametricLIFNode(2.5, True, 0.2, reset),
        "CUBALIFNode": lambda reset: neuron.CUBALIFNode(v_threshold=0.4, v_reset=reset),
    }
    resets = {"": 0.0, ", v_reset=-0.1": -0.1, ", v_reset=None": None}
    nets = {
        name + said: nn.Sequential(layer.Linear(12, 20), make(reset), layer.Linear(20, 6), make(reset))
        for name, make in makes.items()
        for said, reset in resets.items()
    }
    image = [layer.Conv2d(2, 4, 3, padding=1), neuron.LIFNode(2.0, True, 0.2, 0.0), layer.AvgPool2d(2)]
    nets["LIFNode, convolution, step mode m"] = nn.Sequential(
        *image, layer.Flatten(), layer.Linear(48, 5), neuron.LIFNode(2.0, True, 0.1, 0.0)
    )
    norm = [layer.Conv2d(2, 4, 3, padding=1), layer.BatchNorm2d(4), neuron.IFNode(0.4, 0.0), layer.Flatten()]
    nets["IFNode, convolution, batch norm"] = nn.Sequential(
        *norm, layer.Linear(192, 5), neuron.IFNode(0.4, 0.0)
    ).eval()
    for name, net in nets.items():
        mode = "m" if "mode m" in name else "s"
        functional.set_step_mode(_louder(net), mode)
        x = recordings(*(IMAGE if "conv" in name else VECTOR))
        sample = x if mode == "m" else x[0]

        def run(net: nn.Module = net, x: Tensor = x, mode: str = mode) -> Tensor:
            functional.reset_net(net)
            with torch.no_grad():
                out = net(x) if mode == "m" else torch.stack([net(now) for now in x])
            functional.reset_net(net)
            return out

        def export(net: nn.Module = net, sample: Tensor = sample) -> Any:
            return importlib.import_module(f"{base}.nir_exchange").export_to_nir(net, sample, dt=DT)

        yield Row(name, x, run, lambda net=net, sample=sample: from_spikingjelly(net, sample, DT), export)


def sinabs() -> Iterator[Row]:
    sl, act = importlib.import_module("sinabs.layers"), importlib.import_module("sinabs.activation")
    batch = recordings(1).shape[1]
    resets = {", MembraneReset": act.MembraneReset(), ", MembraneSubtract": act.MembraneSubtract()}
    nets: dict[str, nn.Module] = {
        "IAF": _two(sl.IAF(), sl.IAF()),
        "LIF": _two(
            sl.LIF(10.0, spike_threshold=torch.tensor(0.05)), sl.LIF(10.0, spike_threshold=torch.tensor(0.05))
        ),
    }
    for said, reset in resets.items():
        one = {"spike_fn": act.SingleSpike, "reset_fn": reset, "spike_threshold": torch.tensor(0.3)}
        iaf = lambda one=one: sl.IAF(**one)  # noqa: E731
        plain = lambda one=one: sl.LIF(10.0, norm_input=False, **one)  # noqa: E731
        current = lambda one=one: sl.LIF(10.0, tau_syn=5.0, norm_input=False, **one)  # noqa: E731
        low = {**one, "spike_threshold": torch.tensor(0.1)}
        squeeze = lambda one=one: sl.IAFSqueeze(batch_size=batch, **one)  # noqa: E731
        nets[f"IAF, SingleSpike{said}"] = _two(iaf(), iaf())
        nets[f"LIF, SingleSpike{said}"] = _two(sl.LIF(10.0, **low), sl.LIF(10.0, **low))
        nets[f"LIF, norm_input=False, SingleSpike{said}"] = _two(plain(), plain())
        nets[f"LIF, tau_syn, SingleSpike{said}"] = _two(current(), current())
        back = nn.Linear(20, 20, bias=False)
        nets[f"LIFRecurrent, SingleSpike{said}"] = _two(
            sl.LIFRecurrent(10.0, back, norm_input=False, **one), plain()
        )
        layers = [
            nn.Conv2d(2, 4, 3, padding=1),
            squeeze(),
            sl.SumPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 5),
            squeeze(),
        ]
        nets[f"IAFSqueeze, convolution, SingleSpike{said}"] = nn.Sequential(*layers)
    for name, net in nets.items():
        _louder(net)
        squeezed = "Squeeze" in name
        x = recordings(*(IMAGE if squeezed else VECTOR))
        sample = x.transpose(0, 1).flatten(0, 1) if squeezed else x.transpose(0, 1).contiguous()

        def run(net: nn.Module = net, sample: Tensor = sample, squeezed: bool = squeezed) -> Tensor:
            for module in net.modules():
                if hasattr(module, "reset_states"):
                    module.reset_states()
            with torch.no_grad():
                out = net(sample)
            return (out.unflatten(0, (batch, STEPS)) if squeezed else out).transpose(0, 1)

        def export(net: nn.Module = net, one: Tensor = sample[:1] if squeezed else sample[:1, :1]) -> Any:
            for module in net.modules():
                if hasattr(module, "batch_size"):
                    module.batch_size = -1
                    module.num_timesteps = 1
            return importlib.import_module("sinabs.nir").to_nir(net, one)

        yield Row(name, x, run, lambda net=net, sample=sample: from_sinabs(net, sample), export)


def rockpool() -> Iterator[Row]:
    modules = importlib.import_module("rockpool.nn.modules")
    combine = importlib.import_module("rockpool.nn.combinators").Sequential
    one = {"threshold": 0.4, "tau_mem": 0.01, "dt": DT, "max_spikes_per_dt": torch.tensor(1.0)}
    many = {**one, "max_spikes_per_dt": torch.tensor(2.0**16)}
    makes = {
        "LIFNeuronTorch, one spike a step": lambda n: modules.LIFNeuronTorch(n, **one),
        "LIFNeuronTorch": lambda n: modules.LIFNeuronTorch(n, **many),
        "LIFTorch, one spike a step": lambda n: modules.LIFTorch(n, tau_syn=0.005, **one),
        "LIFTorch, recurrent, one spike a step": lambda n: modules.LIFTorch(
            n, tau_syn=0.005, has_rec=True, **one
        ),
        "LIFTorch": lambda n: modules.LIFTorch(n, tau_syn=0.005, **many),
    }
    for name, make in makes.items():
        linear = lambda *shape: modules.LinearTorch(shape, has_bias=False)  # noqa: E731
        net = _louder(combine(linear(12, 20), make(20), linear(20, 6), make(6)))
        x = recordings(*VECTOR)

        def run(net: Any = net, x: Tensor = x) -> Tensor:
            net.reset_state()
            with torch.no_grad():
                out, _, _ = net(x.transpose(0, 1))
            net.reset_state()
            return out.transpose(0, 1)

        def export(net: Any = net) -> Any:
            return importlib.import_module("rockpool.nn.modules.torch.nir").to_nir(net)

        yield Row(name, x, run, lambda net=net: from_rockpool(net), export)


def spyx() -> Iterator[Row]:
    jnp, nnx = importlib.import_module("jax.numpy"), importlib.import_module("flax.nnx")
    snn, exchange = importlib.import_module("spyx.nn"), importlib.import_module("spyx.nir")
    makes = {
        "LIF": lambda n, rngs: snn.LIF((n,), threshold=0.4, rngs=rngs),
        "LIF, one beta": lambda n, rngs: snn.LIF((n,), 0.8, 0.4, rngs=rngs),
        "IF": lambda n, rngs: snn.IF((n,), 0.4),
        "CuBaLIF": lambda n, rngs: snn.CuBaLIF((n,), threshold=0.4, rngs=rngs),
        "PSU_LIF": lambda n, rngs: snn.PSU_LIF((n,), threshold=0.4, rngs=rngs),
        "RLIF": lambda n, rngs: snn.RLIF((n,), threshold=0.4, rngs=rngs),
    }
    x = recordings(*VECTOR)

    def no_reader() -> Graph:
        raise InputError("its live networks have no reader here, its files have")

    for name, make in makes.items():
        rngs = nnx.Rngs(0)
        net = snn.Sequential(
            nnx.Linear(12, 20, rngs=rngs), make(20, rngs), nnx.Linear(20, 6, rngs=rngs), make(6, rngs)
        )

        def run(net: Any = net) -> Tensor:
            return torch.tensor(np.asarray(snn.run(net, jnp.asarray(x.numpy()))[0]))

        def export(net: Any = net) -> Any:
            return exchange.to_nir(net, {"input": np.array(VECTOR)}, {"output": np.array([6])}, dt=DT)

        yield Row(name, x, run, no_reader, export)


ROWS: dict[str, Callable[[], Iterator[Row]]] = {
    "norse": norse,
    "snntorch": snntorch,
    "spikingjelly": spikingjelly,
    "sinabs": sinabs,
    "rockpool": rockpool,
    "spyx": spyx,
}
