"""Networks that placement is measured on, with random weights and the shapes of published networks."""

from __future__ import annotations

import itertools
import math

import numpy as np

from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)


def layers(input_shape, *specs, keep=1.0, weight_bits=8, seed=0):
    """A feed-forward network. specs: ("conv", channels, kernel, stride, padding) or ("dense", neurons).

    keep: share of the weights that are not zero, drawn at random in every layer but the last; one per layer or one for all.
    """
    rng = np.random.default_rng(seed)
    step = 2 ** (9 - weight_bits)
    source, shape = "in", tuple(input_shape)
    populations, projections = [], []
    keeps = [keep] * (len(specs) - 1) + [1.0] if np.isscalar(keep) else keep
    for number, ((kind, *sizes), kept) in enumerate(zip(specs, keeps, strict=True), start=1):
        name = f"{kind}{number}"
        if kind == "conv":
            channels, kernel, stride, padding = sizes
            wanted = (channels, shape[0], kernel, kernel)
        else:
            wanted = (sizes[0], math.prod(shape))
        weight = rng.integers(1, 100, wanted, dtype=np.int16) * rng.choice([-step, step], wanted).astype(
            np.int16
        )
        if step > 2:
            weight = np.sign(weight) * step
        weight[rng.random(wanted, dtype=np.float32) >= kept] = 0
        if kind == "conv":
            shape = (channels, *((n + 2 * padding - kernel) // stride + 1 for n in shape[1:]))
            projections.append(
                ConvProjection(
                    source, name, weight, (stride, stride), (padding, padding), weight_bits=weight_bits
                )
            )
        else:
            shape = (sizes[0],)
            projections.append(DenseProjection(source, name, weight, weight_bits=weight_bits))
        populations.append(Population(name, shape))
        source = name
    return Network(
        (InputPopulation("in", tuple(input_shape)),), tuple(populations), tuple(projections), (source,)
    )


def demo(keep=1.0):
    """The model `cnn` on embedded recordings of 34 x 34 pixels."""
    return layers(
        (2, 34, 34), ("conv", 12, 5, 2, 2), ("conv", 24, 3, 2, 1), ("dense", 128), ("dense", 10), keep=keep
    )


def nmnist(keep=1.0):
    """24C5s2-48C3s2-256FC-10."""
    return layers(
        (2, 34, 34), ("conv", 24, 5, 2, 2), ("conv", 48, 3, 2, 1), ("dense", 256), ("dense", 10), keep=keep
    )


def cifar10(keep=1.0):
    """The DPAP paper's 128C3-128C3-MP2-256C3-256C3-MP2-512C3-512C3-512FC-10, strided where it pools."""
    return layers(
        (3, 32, 32), ("conv", 128, 3, 1, 1), ("conv", 128, 3, 2, 1), ("conv", 256, 3, 1, 1),
        ("conv", 256, 3, 2, 1), ("conv", 512, 3, 1, 1), ("conv", 512, 3, 1, 1), ("dense", 512), ("dense", 10),
        keep=keep,
    )  # fmt: skip


def pooled_cifar10(keep=1.0):
    """The DPAP paper's network at 32 x 32 with 2 x 2 average pooling where it pools: each pool is folded into the kernel behind
    it, 3 x 3 on the mean of 2 x 2 being 6 x 6 at stride 2."""
    return layers(
        (2, 32, 32), ("conv", 128, 3, 1, 1), ("conv", 128, 3, 1, 1), ("conv", 256, 6, 2, 2), ("conv", 256, 3, 1, 1),
        ("conv", 512, 6, 2, 2), ("conv", 512, 3, 1, 1), ("dense", 512), ("dense", 10), keep=keep,
    )  # fmt: skip


def vgg9(keep=1.0):
    """64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2-10 on 48 x 48, pools folded as in `pooled_cifar10`."""
    return layers(
        (2, 48, 48), ("conv", 64, 3, 1, 1), ("conv", 128, 3, 1, 1), ("conv", 256, 6, 2, 2), ("conv", 256, 3, 1, 1),
        ("conv", 512, 6, 2, 2), ("conv", 512, 3, 1, 1), ("conv", 512, 6, 2, 2), ("conv", 512, 3, 1, 1), ("dense", 10),
        keep=keep,
    )  # fmt: skip


def sew_resnet18(size=128, classes=11, seed=0):
    """SEW-ResNet-18 (Fang et al. 2021, arXiv 2102.04159) on two channels of `size` pixels: skips are 1 x 1 kernels to where the
    block ends, the stem's pool is folded into its kernel."""
    rng = np.random.default_rng(seed)
    populations, projections = [], []

    def conv(source, name, c_in, c_out, kernel, stride, padding, identity=False):
        weight = 2 * rng.integers(-100, 101, (c_out, c_in, kernel, kernel), dtype=np.int16)
        if identity:
            weight = (2 * np.eye(c_out, dtype=np.int16))[:, :, None, None]
        projections.append(ConvProjection(source, name, weight, (stride, stride), (padding, padding)))

    def population(name, channels, side):
        populations.append(Population(name, (channels, side, side)))
        return name

    side = size // 4
    conv("in", population("stem", 64, side), 2, 64, 8, 4, 2)
    source, c_in = "stem", 64
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            side //= stride
            first = population(f"s{stage}b{block}a", channels, side)
            conv(source, first, c_in, channels, 3, stride, 1)
            second = population(f"s{stage}b{block}b", channels, side)
            conv(first, second, channels, channels, 3, 1, 1)
            conv(source, second, c_in, channels, 1, stride, 0, identity=stride == 1)
            source, c_in = second, channels
    weight = 2 * rng.integers(-100, 101, (classes, c_in * side * side), dtype=np.int16)
    projections.append(DenseProjection(source, "out", weight))
    populations.append(Population("out", (classes,)))
    return Network(
        (InputPopulation("in", (2, size, size)),), tuple(populations), tuple(projections), ("out",)
    )


def pilotnet(keep=1.0):
    """24C5s2-36C5s2-48C5s2-64C3-64C3-100FC-50-10-1 (Bojarski et al. 2016, arXiv 1604.07316) on 66 x 200 pixels."""
    return layers(
        (3, 66, 200), ("conv", 24, 5, 2, 0), ("conv", 36, 5, 2, 0), ("conv", 48, 5, 2, 0), ("conv", 64, 3, 1, 0),
        ("conv", 64, 3, 1, 0), ("dense", 100), ("dense", 50), ("dense", 10), ("dense", 1), keep=keep,
    )  # fmt: skip


def sparse_layer(pre, post, n_pre, source, target, weight_bits=8):
    """A sparse projection of int arrays of (pre, post) pairs, repeated pairs once."""
    n_post = int(post.max()) + 1
    code = np.unique(pre.astype(np.int64) * n_post + post)
    pre, post = code // n_post, (code % n_post).astype(np.int32)
    indptr = np.zeros(n_pre + 1, dtype=np.int64)
    np.cumsum(np.bincount(pre, minlength=n_pre), out=indptr[1:])
    weight = np.full(len(post), 2 ** (9 - weight_bits), dtype=np.int16)
    return SparseProjection(source, target, indptr, post, weight, weight_bits=weight_bits)


def recurrent(projection, neurons):
    return Network((), (Population("all", (neurons,)),), (projection,), ("all",))


def uniform(neurons, fan_in, seed=0, weight_bits=8):
    """One population; every neuron hears `fan_in` others drawn uniformly."""
    rng = np.random.default_rng(seed)
    pre = rng.integers(0, neurons, neurons * fan_in, dtype=np.int32)
    post = np.repeat(np.arange(neurons, dtype=np.int32), fan_in)
    return recurrent(sparse_layer(pre, post, neurons, "all", "all", weight_bits), neurons)


def local(neurons, fan_out, reach, shuffled=True, seed=0, weight_bits=8):
    """Neurons on a square torus that tell `fan_out` others each (or all there are), at distances drawn from a normal
    distribution of `reach` pixels, until that many differ.

    shuffled: whether the numbers of the neurons say nothing of where they are. Made in pieces: the peak of memory is the network.
    """
    rng = np.random.default_rng(seed)
    side = math.isqrt(neurons)
    neurons = side * side
    number = rng.permutation(neurons) if shuffled else np.arange(neurons)
    place = np.argsort(number)
    fan_out = min(fan_out, neurons)
    parts = []
    for first in range(0, neurons, 2**14):
        own = np.arange(min(neurons - first, 2**14))
        codes, short, draws, wide = np.zeros(0, dtype=np.int64), own, 8 * fan_out // 5, reach
        while len(short):
            pre = np.repeat(short, draws)
            at = place[first + pre]
            y = (
                at // side + np.rint(wide * rng.standard_normal(len(at), np.float32)).astype(np.int64)
            ) % side
            x = (at % side + np.rint(wide * rng.standard_normal(len(at), np.float32)).astype(np.int64)) % side
            codes = np.sort(np.concatenate([codes, pre * neurons + number[y * side + x]]))
            codes = codes[np.append(True, codes[1:] != codes[:-1])]
            told = np.bincount(codes // neurons, minlength=len(own))
            # A small torus, or a short reach, may have too few places for the last ones.
            short, wide = np.flatnonzero(told < fan_out), 1.2 * wide
        # Of too many, as many as are wanted, by chance.
        shuffled_rows = codes[np.argsort(codes // neurons + rng.random(len(codes)))]
        rank = np.arange(len(codes)) - np.repeat(np.cumsum(told) - told, told)
        parts.append((np.sort(shuffled_rows[rank < fan_out]) % neurons).astype(np.int32))
    post = np.concatenate(parts)
    indptr = np.arange(neurons + 1, dtype=np.int64) * fan_out
    weight = np.full(len(post), 2 ** (9 - weight_bits), dtype=np.int16)
    projection = SparseProjection("all", "all", indptr, post, weight, weight_bits=weight_bits)
    return recurrent(projection, neurons)


def pruned_dense(shape, keep, seed=0, groups=1):
    """Fully connected layers of `shape` neurons with `keep` of their synapses left, as sparse projections.

    groups > 1: most survivors (nine in ten) run between neurons of the same hidden group, as in networks trained with structure.
    """
    rng = np.random.default_rng(seed)
    populations, projections = [], []
    group = rng.integers(0, groups, shape[0])
    source = "in"
    for number, (n_pre, n_post) in enumerate(itertools.pairwise(shape), start=1):
        own = rng.integers(0, groups, n_post)
        same = group[:, None] == own[None, :]
        chance = (
            np.where(same, 0.9 * keep / same.mean(), 0.1 * keep / max(1e-9, (~same).mean()))
            if groups > 1
            else keep
        )
        pre, post = np.nonzero(rng.random((n_pre, n_post)) < chance)
        name = f"dense{number}"
        populations.append(Population(name, (n_post,)))
        projections.append(
            sparse_layer(np.append(pre, n_pre - 1), np.append(post, n_post - 1), n_pre, source, name)
        )
        source, group = name, own
    return Network((InputPopulation("in", (shape[0],)),), tuple(populations), tuple(projections), (source,))
