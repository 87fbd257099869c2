"""What a unit adds to a network's size, and which units are worth it."""

import pytest

torch = pytest.importorskip("torch")

from pruning_samples import Branching, Folded, Lif, RecurrentLif, conv_net, events  # noqa: E402
from torch import nn  # noqa: E402

from dpap_neuro.pruning import make_pruner  # noqa: E402
from dpap_neuro.pruning.budget import neurons  # noqa: E402
from dpap_neuro.pruning.units import network_size, unit_sizes, worth_their_size  # noqa: E402


def depthwise():
    return Folded(
        nn.Conv2d(2, 6, 3), Lif(), nn.Conv2d(6, 12, 3, groups=6), Lif(), nn.Flatten(), nn.Linear(192, 3)
    )


NETWORKS = {
    "sequence": (conv_net, 8),
    "residual block and concatenation": (Branching, 6),
    "groups": (depthwise, 8),
    "recurrent": (
        lambda: Folded(nn.Flatten(), nn.Linear(128, 20), RecurrentLif(20), nn.Linear(20, 3)),
        8,
    ),
}


def attached(name, dead=0.0, seed=0):
    """A pruner of a network in which a share of the units is dead, at least one of each layer alive."""
    torch.manual_seed(seed)
    build, size = NETWORKS[name]
    pruner = make_pruner("dpap-weighted", epochs=4, sparsity=0.5).attach(build(), events(size=size, batch=2))
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
    return 0.5 * (connections + neurons(pruner, units) / neurons(pruner, every))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dead", [0.0, 0.4])
def test_size_is_what_counting_finds(name, dead):
    for seed in range(3):
        pruner = attached(name, dead, seed)
        units = pruner.masks.units
        assert network_size(pruner.structure, units) == pytest.approx(counted(pruner, units), abs=1e-12)
    assert (counted(pruner, units) == 1.0) == (dead == 0.0)


def without(units, name, index):
    """The units less one."""
    units = {key: unit.clone() for key, unit in units.items()}
    units[name][index] = False
    return units


@pytest.mark.parametrize("dead", [0.0, 0.4])
def test_a_unit_adds_what_the_network_loses_without_it(dead):
    pruner = attached("sequence", dead)
    units = pruner.masks.units
    whole, sizes, seen = counted(pruner, units), unit_sizes(pruner.structure, units), 0
    for name, unit in units.items():
        if int(unit.sum()) > 1:
            for index in unit.nonzero().flatten().tolist():
                lost = whole - counted(pruner, without(units, name, index))
                assert float(sizes[name][index]) == pytest.approx(lost, abs=1e-12)
                seen += 1
    assert seen > 10


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_units_live_at_the_lowest_price_that_suffices(name, share):
    pruner = attached(name)
    before = pruner.masks.units
    generator = torch.Generator().manual_seed(1)
    worth = {key: torch.rand(len(unit), generator=generator) for key, unit in before.items()}
    units = worth_their_size(pruner.masks, worth, share)
    sizes = unit_sizes(pruner.structure, before)
    assert counted(pruner, units) <= share and all(unit.any() for unit in units.values())
    assert not any((unit & ~before[key]).any() for key, unit in units.items())
    rates = {key: worth[key].double() / sizes[key] for key in units}
    dead = [(float(rates[k][i]), k, i) for k in units for i in (before[k] & ~units[k]).nonzero().flatten()]
    highest, key, index = max(dead, key=lambda entry: entry[0])
    for name, unit in units.items():
        # All that live pay more than the best that died, but the last of a layer.
        assert int(unit.sum()) == 1 or float(rates[name][unit].min()) > highest
    again = {k: unit.clone() for k, unit in units.items()}
    again[key][index] = True
    assert counted(pruner, again) > share


def test_a_network_within_its_share_is_left_alone():
    pruner = attached("sequence", 0.4)
    worth = {key: torch.rand(len(unit)) for key, unit in pruner.masks.units.items()}
    units = worth_their_size(pruner.masks, worth, counted(pruner, pruner.masks.units))
    assert all(torch.equal(unit, pruner.masks.units[key]) for key, unit in units.items())
