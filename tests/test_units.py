"""A network's size by its units, and which units it keeps of a smaller one."""

import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Branching, Folded, Lif, RecurrentLif, conv_net, events  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.pruning import make_pruner  # noqa: E402
from dpap_neuro.pruning.units import network_size, within_size  # noqa: E402


def depthwise():
    return Folded(
        nn.Conv2d(2, 6, 3), Lif(), nn.Conv2d(6, 12, 3, groups=6), Lif(), nn.Flatten(), nn.Linear(192, 3)
    )


NETWORKS = {
    "sequence": (conv_net, 8),
    "residual block and concatenation": (Branching, 6),
    "groups": (depthwise, 8),
    "wide": (
        lambda: Folded(
            nn.Conv2d(2, 30, 3), Lif(), nn.Conv2d(30, 20, 3), Lif(), nn.Flatten(), nn.Linear(320, 3)
        ),
        8,
    ),
    "recurrent": (
        lambda: Folded(nn.Flatten(), nn.Linear(128, 20), RecurrentLif(20), nn.Linear(20, 3)),
        8,
    ),
}


def attached(name, dead=0.0, seed=0):
    """A pruner of a network in which a share of the units is dead, at least one of each layer alive."""
    torch.manual_seed(seed)
    build, size = NETWORKS[name]
    pruner = make_pruner("weighted", epochs=4, sparsity=0.5).attach(build(), events(size=size, batch=2))
    for unit in pruner.masks.units.values():
        unit[1:] = torch.rand(len(unit) - 1) >= dead
    pruner.masks.refresh()
    return pruner


def counted(pruner, units):
    """The size by counting every connection between living units, and every neuron."""
    grids, _ = pruner.masks.weight_masks(units, {})
    every = {name: torch.ones_like(unit) for name, unit in units.items()}
    full, _ = pruner.masks.weight_masks(every, {})
    connections = pruner.masks.synapse_count(grids) / pruner.masks.synapse_count(full)
    return 0.5 * (connections + pruner.masks.neuron_count(units) / pruner.masks.neuron_count(every))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dead", [0.0, 0.4])
def test_size_is_what_counting_finds(name, dead):
    for seed in range(3):
        pruner = attached(name, dead, seed)
        units = pruner.masks.units
        assert network_size(pruner.structure, units) == pytest.approx(counted(pruner, units), abs=1e-12)
    assert (counted(pruner, units) == 1.0) == (dead == 0.0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
@pytest.mark.parametrize("dead", [0.0, 0.4])
def test_every_layer_keeps_as_large_a_part_of_its_best_units(name, share, dead):
    pruner = attached(name, dead)
    before = pruner.masks.units
    generator = torch.Generator().manual_seed(1)
    worth = {key: torch.rand(len(unit), generator=generator) for key, unit in before.items()}

    def best(part):
        """Of n units the best part * n, in whole lots of eight where these are two or more, that were alive."""
        units = {}
        for key, unit in before.items():
            ranked = sorted(unit.nonzero().flatten().tolist(), key=lambda i: -worth[key][i])
            count = max(1, int(part * len(unit) + 1e-9))
            kept = ranked[
                : count if count < 16 else min(range(0, 99, 8), key=lambda lot: (abs(lot - count), -lot))
            ]
            units[key] = torch.tensor([i in kept for i in range(len(unit))])
        return units

    parts = sorted({n / len(unit) for unit in before.values() for n in range(len(unit) + 1)})
    fitting = [best(part) for part in parts if counted(pruner, best(part)) <= share]
    units = within_size(pruner.masks, worth, share)
    assert all(torch.equal(units[key], unit) for key, unit in fitting[-1].items())


def test_a_network_within_its_share_is_left_alone():
    pruner = attached("sequence", 0.4)
    worth = {key: torch.rand(len(unit)) for key, unit in pruner.masks.units.items()}
    units = within_size(pruner.masks, worth, counted(pruner, pruner.masks.units))
    assert all(torch.equal(unit, pruner.masks.units[key]) for key, unit in units.items())
