"""Our `.nir` files in snnTorch and in SpikingJelly: the same spike counts within 1 %.

An environment of its own: pip install -e '.[learn,interop]' pytest; without the packages these tests are skipped.

What the readers take, and we keep to here: snnTorch 1.0 (samples one by one) fixes dt = 1e-4 s, v_leak = 0, one threshold and one
tau per population, and reads no Scale, SumPool2d, Conv1d, LI; its IF has a decay of 0.9. SpikingJelly takes dt
as an argument, wants IF with r = 1 / dt, and no grouped convolution. Both read a CubaLIF only where
r = tau_mem / dt and w_in = tau_syn / dt, which are not Norse's dynamics: ours are left out.
Sinabs 3.1.0 pins nir 1.0.4, whose LIF knows no v_reset: `nir.read` of any file that nir 1.0.8 wrote ends there
in "LIF.__init__() got an unexpected keyword argument 'v_reset'".
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

from dpap_neuro.neurons import LIF, NeuronSettings  # noqa: E402
from dpap_neuro.nir_export import to_nir, write_nir  # noqa: E402

SETTINGS = NeuronSettings(dt=1e-4, tau_mem=4e-4, v_th=0.4)
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
}


def snntorch_reads(path: Path, x: torch.Tensor) -> torch.Tensor:
    """Sample by sample, from a network read anew: its Flatten takes the batch in as well, its neurons keep state."""
    from snntorch.import_nir import import_from_nir

    samples = [_run(import_from_nir(nir.read(path)), x[:, b]) for b in range(x.shape[1])]
    return torch.stack(samples, 1)


def spikingjelly_reads(path: Path, x: torch.Tensor) -> torch.Tensor:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return _run(import_from_nir(nir.read(path), dt=SETTINGS.dt), x)


def _run(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Step by step, with the state that the network returned; x (T, B, ...)."""
    state, out = None, []
    with torch.no_grad():
        for now in x:
            spikes, state = network(now, state)
            out.append(spikes[0] if isinstance(spikes, tuple) else spikes)
    return torch.stack(out)


@pytest.mark.parametrize("reads", [snntorch_reads, spikingjelly_reads])
@pytest.mark.parametrize("name", NETWORKS)
def test_same_spike_counts(name, reads, tmp_path):
    network, shape = NETWORKS[name]()
    x = torch.poisson(torch.full((200, 20, *shape), 0.8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = network(x)
    write_nir(to_nir(network, shape, SETTINGS.dt), tmp_path / "a.nir")
    found = reads(tmp_path / "a.nir", x)
    assert found.shape == expected.shape and expected.sum() > 1000
    assert abs(float(found.sum() - expected.sum())) <= 0.01 * float(expected.sum())
