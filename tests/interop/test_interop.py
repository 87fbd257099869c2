"""Our `.nir` files in snnTorch and in SpikingJelly: the same spike counts within 1 %.

An environment of its own: pip install -e '.[learn,interop]' pytest; without the packages these tests are skipped.

What the readers take, and we keep to here: snnTorch 1.0 (samples one by one) fixes dt = 1e-4 s, v_leak = 0, one threshold and one
tau per population, and reads no Scale, SumPool2d, Conv1d, LI; its IF has a decay of 0.9, and its recurrent LIF wants r = tau / dt.
SpikingJelly 2.0 takes dt as an argument, wants IF with r = 1 / dt (ours, which count in steps, are read with dt = 1), and no grouped
convolution. Both read a CubaLIF only where r = tau_mem / dt and w_in = tau_syn / dt, which are not Norse's
dynamics: ours are left out.

By hand: Sinabs 3.1 pins nir 1.0.4, which does not know v_reset; `write_nir` leaves it out where it is zero, so our files open there.
Of two networks of IF (matrices; convolution, sum pooling, matrix) no spike of 2,000 differed once Sinabs's populations were
told spike_fn = SingleSpike, reset_fn = MembraneReset(), min_v_mem = None; as they are read they reset by
subtraction, may spike several times a step, and gave 10 to 40 times as many spikes. Its LIF counts tau in steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nir
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

for package in ("torch", "norse", "nirtorch", "snntorch", "spikingjelly"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[learn,interop]'")

import torch  # noqa: E402
from nir_networks import chain  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.exchange.nir_export import to_nir, write_nir  # noqa: E402
from dpap_neuro.networks.neurons import IF, LIF, NeuronSettings, Recurrent  # noqa: E402

SETTINGS = NeuronSettings(dt=1e-4, tau_mem=4e-4, v_th=0.2)
NETWORKS = {
    "matrices": chain(nn.Linear(12, 20), LIF(SETTINGS), nn.Linear(20, 5), LIF(SETTINGS), shape=(12,)),
    "convolution": chain(
        nn.Conv2d(2, 4, 3, padding=1),
        LIF(SETTINGS),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 5),
        LIF(SETTINGS),
        shape=(2, 8, 6),
    ),
    "strided, dilated": chain(
        nn.Conv2d(2, 6, 3, stride=2, padding=2, dilation=2, bias=False),
        LIF(SETTINGS),
        nn.Flatten(),
        nn.Linear(72, 5, bias=False),
        LIF(SETTINGS),
        shape=(2, 8, 6),
    ),
}
FOR_SPIKINGJELLY = {
    "one-dimensional": chain(
        nn.Conv1d(2, 4, 3, stride=2, padding=1),
        LIF(SETTINGS),
        nn.Flatten(),
        nn.Linear(32, 5),
        LIF(SETTINGS),
        shape=(2, 15),
    ),
    "recurrent": chain(
        nn.Linear(12, 9), Recurrent(LIF(SETTINGS), 9), nn.Linear(9, 4), LIF(SETTINGS), shape=(12,)
    ),
    "IF": chain(nn.Linear(12, 20), IF(SETTINGS), nn.Linear(20, 5), IF(SETTINGS), shape=(12,)),
}


def snntorch_reads(path: Path, x: torch.Tensor) -> torch.Tensor:
    """Sample by sample, from a network read anew: its Flatten takes the batch in as well, its neurons keep state."""
    from snntorch.import_nir import import_from_nir

    samples = [_run(import_from_nir(nir.read(path)), x[:, b]) for b in range(x.shape[1])]
    return torch.stack(samples, 1)


def spikingjelly_reads(path: Path, x: torch.Tensor) -> torch.Tensor:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    graph = nir.read(path)
    counts = any(isinstance(node, nir.IF) for node in graph.nodes.values())
    return _run(import_from_nir(graph, dt=1.0 if counts else SETTINGS.dt), x)


def _run(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Step by step, with the state that the network returned; x (T, B, ...)."""
    state, out = None, []
    with torch.no_grad():
        for now in x:
            spikes, state = network(now, state)
            out.append(spikes[0] if isinstance(spikes, tuple) else spikes)
    return torch.stack(out)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        *((name, reads) for name in NETWORKS for reads in (snntorch_reads, spikingjelly_reads)),
        *((name, spikingjelly_reads) for name in FOR_SPIKINGJELLY),
    ],
)
def test_same_spike_counts(name, reads, tmp_path):
    network, shape = {**NETWORKS, **FOR_SPIKINGJELLY}[name]()
    x = torch.poisson(torch.full((100, 10, *shape), 0.8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = network(x)
    write_nir(to_nir(network, shape, SETTINGS.dt), tmp_path / "a.nir")
    found = reads(tmp_path / "a.nir", x)
    assert found.shape == expected.shape and expected.sum() > 500
    per_neuron = (found - expected).sum((0, 1)).abs()
    assert float(per_neuron.sum()) <= 0.01 * float(expected.sum())
