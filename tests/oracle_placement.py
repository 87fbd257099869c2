"""A placement recounted synapse by synapse, from the text of `hardware.chip.memory` and `hardware.placement`."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from oracle_network import synapses as synapses_of

from hardware.network.integer import ConvProjection, DenseProjection


def list_bits(chip, number, each):
    bits = 0
    while number > 0:
        block = min(number, chip.block_synapses)
        bits += math.ceil((block * each + chip.block_header_bits) / chip.word_bits) * chip.word_bits
        number -= block
    return bits


def width_for(chip, largest):
    return min(width for width in chip.index_bits if width > 0 and 2**width > largest)


class Unrolled:
    """All synapses of a network, each with the axon it arrives by."""

    def __init__(self, network, chip):
        self.chip = chip
        self.shape = {p.name: p.shape for p in (*network.inputs, *network.populations)}
        self.populations = [p.name for p in network.populations]
        self.projections = []
        for projection in network.projections:
            source, target = self.shape[projection.source], self.shape[projection.target]
            found = [s for s in synapses_of(projection, source, target) if s[2] != 0]
            self.projections.append((projection, found))
        self.dead = {p.name: p.dead for p in network.populations if p.dead is not None}
        self.size = {name: math.prod(shape) for name, shape in self.shape.items()}

    def atoms(self, projection):
        if isinstance(projection, ConvProjection):
            return self.chip.population_axon_atoms if self.chip.shared_kernels != "no" else 1
        return self.chip.dense_axon_atoms if isinstance(projection, DenseProjection) else 1

    def axon(self, projection, pre):
        """(which axon, which atom of it) a pre neuron uses."""
        atoms = self.atoms(projection)
        if isinstance(projection, ConvProjection):
            _, height, width = self.shape[projection.source]
            channel, position = divmod(pre, height * width)
            return (channel // atoms, position), channel % atoms
        return pre // atoms, pre % atoms

    def stored(self, projection, found):
        if not isinstance(projection, ConvProjection) or self.chip.shared_kernels == "no":
            return found
        return synapses_of(
            projection, self.shape[projection.source], self.shape[projection.target], dead=True
        )

    def synapse_bits(self, projection):
        chip = self.chip
        weight = min(width for width in chip.weight_bits if width >= projection.weight_bits)
        return weight + int(np.max(projection.delay, initial=0)).bit_length() + chip.tag_bits

    def core(self, content):
        """(bits of synapses, incoming axons, synapses) of a core. content: {population: neurons in order of their number}."""
        chip, bits, axons, count = self.chip, 0, 0, 0
        for projection, found in self.projections:
            rank = {neuron: n for n, neuron in enumerate(content.get(projection.target, ()))}
            alive, lists = defaultdict(set), defaultdict(list)
            # Where an axon of a convolution reaches a neuron at all, its list has the weights of all channels, dead ones among them.
            reached = {(self.axon(projection, pre)[0], post) for pre, post, *_ in found}
            for pre, post, weight, _ in self.stored(projection, found):
                axon, atom = self.axon(projection, pre)
                alive[axon].add(atom)
                if post in rank and (axon, post) in reached:
                    lists[axon].append((rank[post], atom, weight))
            axons += len(lists)
            count += sum(post in rank for _, post, *_ in found)
            plain = self.synapse_bits(projection)
            conv = isinstance(projection, ConvProjection)
            if conv and chip.shared_kernels == "once":
                area = math.prod(self.shape[projection.target][1:])
                for channel in {neuron // area for neuron in rank}:
                    kernel = projection.weight[channel].ravel()
                    left = int(np.count_nonzero(kernel))
                    if left:
                        indexed = plain + width_for(chip, len(kernel) - 1)
                        bits += min(list_bits(chip, len(kernel), plain), list_bits(chip, left, indexed))
                continue
            if not lists:
                continue
            shapes = []
            for axon, entries in lists.items():
                ranks = [entry[0] for entry in entries]
                if conv and chip.shared_kernels == "shifted":
                    offset = min(ranks)
                    while offset >= chip.axon_offsets:
                        offset -= chip.axon_offsets
                    # The list that the axon's offset is added to: one with the same entries is stored once.
                    key = tuple(sorted((r - offset, atom, weight) for r, atom, weight in entries))
                    largest = max(ranks) - offset
                else:
                    offset = min(min(ranks), chip.axon_offsets - 1)
                    key, largest = axon, max(ranks)
                span = (max(ranks) - offset + 1) * len(alive[axon])
                shapes.append((key, span, len(entries), largest))
            width = width_for(chip, max(shape[3] for shape in shapes))
            stored = {}
            for key, span, number, _ in shapes:
                cost = min(list_bits(chip, span, plain), list_bits(chip, number, plain + width))
                stored.setdefault(key, cost)
            bits += sum(stored.values())
        return bits, axons, count

    def usage(self, cores):
        """Per core {limit: used}, and the synapses. cores: a list of contents."""
        chip = self.chip
        home = {
            (name, neuron): c
            for c, content in enumerate(cores)
            for name in content
            for neuron in content[name]
        }
        out = [set() for _ in cores]
        slots = []
        for number, (projection, found) in enumerate(self.projections):
            neurons_of = defaultdict(set)
            for pre, *_ in self.stored(projection, found):
                neurons_of[self.axon(projection, pre)[0]].add(pre)
            several = any(len(neurons) > 1 for neurons in neurons_of.values())
            slots.append(chip.population_axon_slots if several else 1)
            for pre, post, _, _ in found:
                if projection.source in self.populations:
                    axon, _ = self.axon(projection, pre)
                    target = home[projection.target, post]
                    out[home[projection.source, pre]].add((number, axon, target))
        used = []
        for c, content in enumerate(cores):
            bits, axons_in, count = self.core(content)
            neurons = sum(len(neurons) for neurons in content.values())
            bits += neurons * chip.neuron_state_bits + axons_in * chip.axon_in_bits
            axons_out = sum(slots[number] for number, _, _ in out[c])
            bits += axons_out * chip.axon_out_bits
            used.append(
                {
                    "neurons_per_core": neurons,
                    "memory_bits_per_core": bits,
                    "axons_in_per_core": axons_in,
                    "axons_out_per_core": axons_out,
                    "synapses_per_core": count,
                }
            )
        return used

    def crossing(self, cores, rates):
        """Spikes times the cores that they reach, but for their own."""
        home = {
            (name, neuron): c
            for c, content in enumerate(cores)
            for name in content
            for neuron in content[name]
        }
        reached = defaultdict(set)
        for projection, found in self.projections:
            for pre, post, _, _ in found:
                reached[projection.source, pre].add(home[projection.target, post])
        total = 0.0
        for (name, pre), targets in reached.items():
            rate = rates.get(name, 1.0)
            rate = float(np.ravel(rate)[pre]) if np.ndim(rate) else float(rate)
            total += rate * len(targets - {home.get((name, pre))})
        return total


def contents(placement):
    """Per core {population: its neurons in the order of their numbers there}."""
    cores = [{} for _ in range(placement.cores)]
    for name, core_of in placement.core_of.items():
        for core in range(placement.cores):
            neurons = np.flatnonzero(core_of == core)
            if len(neurons):
                numbers = placement.number_of[name][neurons]
                assert sorted(numbers) == list(range(len(neurons))), (name, core)
                cores[core][name] = [int(n) for n in neurons[np.argsort(numbers)]]
    return cores


def check(network, placement, rates=None):
    """Raise AssertionError where anything that the placement says is not so."""
    chip = placement.chip
    unrolled = Unrolled(network, chip)
    assert set(placement.core_of) == set(unrolled.populations)
    for name, core_of in placement.core_of.items():
        assert core_of.shape == (unrolled.size[name],)
        dead = unrolled.dead.get(name, np.zeros(len(core_of), bool))
        assert core_of[~dead].min() >= 0 and core_of.max() < placement.cores
        assert (core_of[dead] == -1).all()
    cores = contents(placement)
    assert all(cores), "an empty core"
    used = unrolled.usage(cores)
    for key in used[0]:
        assert getattr(placement, key).tolist() == [core[key] for core in used], key
    assert placement.synapses == sum(len(found) for _, found in unrolled.projections)
    assert np.isclose(placement.crossing_spikes, unrolled.crossing(cores, rates or {}), rtol=1e-9, atol=1e-9)
    broken = {
        (key, f"core {c}")
        for c, core in enumerate(used)
        for key in core
        if key != "synapses_per_core" and core[key] > getattr(chip, key)
    }
    assert {(b.limit, b.where) for b in placement.broken if b.limit != "cores"} == broken
    assert placement.fits == (not placement.broken)
    assert placement.lower_bound <= placement.cores
    return unrolled
