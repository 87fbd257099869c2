"""Small spiking and branching networks that the tests of pruning share."""

from __future__ import annotations

import torch
from torch import nn


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v)

    @staticmethod
    def backward(ctx, gradient):
        (v,) = ctx.saved_tensors
        return gradient / (1 + 10 * v.abs()) ** 2


class Lif(nn.Module):
    """Leaky integrate-and-fire over (T, B, ...); membrane decay 0.5."""

    is_neuron = True

    def __init__(self, threshold=0.5, channels=0):
        super().__init__()
        self.threshold = nn.Parameter(torch.full((channels, 1, 1), threshold)) if channels else threshold

    def forward(self, x):
        v, out = torch.zeros_like(x[0]), []
        for current in x:
            v = v + 0.5 * (current - v)
            s = _Spike.apply(v - self.threshold)
            v = v * (1 - s)
            out.append(s)
        return torch.stack(out)


class RecurrentLif(nn.Module):
    """The same with weights from its own last spikes."""

    is_neuron = True

    def __init__(self, size):
        super().__init__()
        self.recurrent = nn.Linear(size, size, bias=False)

    def forward(self, x):
        v, s, out = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for current in x:
            v = v + 0.5 * (current + self.recurrent(s) - v)
            s = _Spike.apply(v - 0.5)
            v = v * (1 - s)
            out.append(s)
        return torch.stack(out)


class Folded(nn.Module):
    """Synapses with time folded into the batch, neurons over time: (T, B, ...) to (T, B, classes)."""

    def __init__(self, *modules):
        super().__init__()
        self.stages = nn.Sequential(*modules)

    def forward(self, x):
        steps, batch = x.shape[:2]
        for module in self.stages:
            if getattr(module, "is_neuron", False):
                x = module(x)
            else:
                x = module(x.flatten(0, 1)).unflatten(0, (steps, batch))
        return x


def conv_net(neuron=Lif, channels=(4, 6), hidden=12, classes=3, size=8, bias=True):
    """conv - batch norm - neurons - pool - conv - batch norm - neurons - linear - neurons - read-out."""
    a, b = channels
    return Folded(
        nn.Conv2d(2, a, 3, padding=1, bias=bias),
        nn.BatchNorm2d(a),
        neuron(),
        nn.AvgPool2d(2),
        nn.Conv2d(a, b, 3, bias=bias),
        nn.BatchNorm2d(b),
        neuron(),
        nn.Flatten(),
        nn.Linear(b * (size // 2 - 2) ** 2, hidden),
        neuron(),
        nn.Linear(hidden, classes),
    )


class Block(nn.Module):
    """A spiking residual block: neurons(conv2(neurons(conv1 x)) + x)."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.norm1, self.neurons1 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            Lif(),
        )
        self.conv2, self.norm2, self.neurons2 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            Lif(),
        )

    def forward(self, x):
        steps, batch = x.shape[:2]
        y = self.neurons1(self.norm1(self.conv1(x.flatten(0, 1))).unflatten(0, (steps, batch)))
        y = self.norm2(self.conv2(y.flatten(0, 1))).unflatten(0, (steps, batch))
        return self.neurons2(y + x)


class Branching(nn.Module):
    """Stem, residual block, a concatenated depth-wise branch, linear read-out."""

    def __init__(self, channels=4, classes=3, size=6):
        super().__init__()
        self.stem, self.norm, self.neurons = (
            nn.Conv2d(2, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            Lif(),
        )
        self.block = Block(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.side = Lif()
        self.mix, self.mixed = nn.Conv2d(2 * channels, 5, 1), Lif()
        self.readout = nn.Linear(5 * size * size, classes)

    def forward(self, x):
        steps, batch = x.shape[:2]

        def fold(module, value):
            return module(value.flatten(0, 1)).unflatten(0, (steps, batch))

        x = self.neurons(fold(self.norm, fold(self.stem, x)))
        a = self.block(x)
        b = self.side(fold(self.depthwise, x))
        x = self.mixed(fold(self.mix, torch.cat([a, b], dim=2)))
        return self.readout(x.flatten(0, 1).flatten(1)).unflatten(0, (steps, batch))


def events(steps=5, batch=6, channels=2, size=8, seed=0, rate=1.5):
    """Event counts (T, B, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((steps, batch, channels, size, size), rate), generator=generator)


def train(model, pruner, x, y, epochs, *, lr=5e-3, batch=4, start=0, optimizer=None, weight_decay=0.1):
    """A few epochs of AdamW; returns the optimizer and the last report."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    report = None
    model.train()
    for epoch in range(start, epochs):
        for first in range(0, x.shape[1], batch):
            optimizer.zero_grad()
            out = model(x[:, first : first + batch])
            nn.functional.cross_entropy(out.mean(0), y[first : first + batch]).backward()
            optimizer.step()
            pruner.step(optimizer)
        report = pruner.end_epoch(epoch, optimizer)
    return optimizer, report
