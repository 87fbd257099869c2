"""Deep networks of the literature, by name in `networks.MODELS`, for inputs of any size that their poolings divide.

- dpap-cifar10, dpap-cifar10-avg: the network of the DPAP paper (arXiv 2211.12714) and of its authors' code; -avg has average in
  place of max pooling, which no chip has. What is known of it is its experiment on CIFAR-10; on event recordings it is the same network.
- vgg9: seven convolutions and two matrices (Kim, Panda 2021, doi 10.3389/fnins.2021.773954), with batch norm.
- sew-resnet18: spike-element-wise residual blocks with ADD (Fang et al. 2021, arXiv 2102.04159), with the 3x3 stem that small images have.

Each comes with `--neuron relu` as its artificial twin.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.matrices import Linear
from dpap_neuro.networks.models import ModelSettings, neurons_of, over_time, readout_of


def _convolution(into: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(into, out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
    ]


def _size(settings: ModelSettings, halvings: int) -> tuple[int, int, int]:
    """(polarities, rows, columns) of the input, the latter two behind so many poolings. Raises InputError where nothing is left."""
    channels, rows, columns = settings.input_shape
    rows, columns = rows >> halvings, columns >> halvings
    if not rows or not columns:
        raise InputError(
            f"model {settings.name}: found input of {settings.input_shape[1]}x{settings.input_shape[2]} pixels, expected at least "
            f"{2**halvings}x{2**halvings}"
        )
    return channels, rows, columns


def _stacked(
    settings: ModelSettings, widths: tuple[tuple[int, ...], ...], pool: Callable[[int], nn.Module]
) -> list[nn.Module]:
    """Groups of convolutions with batch norm, neurons behind each, pooling between the groups."""
    into, layers = settings.input_shape[0], []
    for number, group in enumerate(widths):
        if number:
            layers.append(pool(2))
        for width in group:
            layers += [*_convolution(into, width), neurons_of(settings)]
            into = width
    return layers


def _dpap(settings: ModelSettings, pool: Callable[[int], nn.Module]) -> list[nn.Module]:
    _, rows, columns = _size(settings, 2)
    return [
        *_stacked(settings, ((128, 128), (256, 256), (512, 512)), pool),
        nn.Flatten(),
        Linear(512 * rows * columns, 512),
        neurons_of(settings),
        Linear(512, settings.classes),
        *readout_of(settings),
    ]


def dpap_cifar10(settings: ModelSettings) -> list[nn.Module]:
    """128C3-128C3-MP2-256C3-256C3-MP2-512C3-512C3-512FC, batch norm behind each convolution."""
    return _dpap(settings, nn.MaxPool2d)


def dpap_cifar10_avg(settings: ModelSettings) -> list[nn.Module]:
    """The same with average pooling: what a chip can run."""
    return _dpap(settings, nn.AvgPool2d)


def vgg9(settings: ModelSettings) -> list[nn.Module]:
    """64C3-64C3-AP2-128C3-128C3-AP2-256C3-256C3-256C3-AP2-1024FC, batch norm behind each."""
    _, rows, columns = _size(settings, 3)
    return [
        *_stacked(settings, ((64, 64), (128, 128), (256, 256, 256)), nn.AvgPool2d),
        nn.AvgPool2d(2),
        nn.Flatten(),
        Linear(256 * rows * columns, 1024, bias=False),
        nn.BatchNorm1d(1024),
        neurons_of(settings),
        Linear(1024, settings.classes),
        *readout_of(settings),
    ]


class Block(nn.Module):
    """Two convolutions with neurons, whose spikes are added to those of the block's input, or of a 1x1 convolution where sizes differ."""

    def __init__(self, settings: ModelSettings, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_convolution(into, out, 3, stride))
        self.first_neurons = neurons_of(settings)
        self.second = nn.Sequential(*_convolution(out, out))
        self.second_neurons = neurons_of(settings)
        self.short: nn.Module | None = None
        self.short_neurons: nn.Module | None = None
        if stride != 1 or into != out:
            self.short = nn.Sequential(*_convolution(into, out, 1, stride))
            self.short_neurons = neurons_of(settings)

    def forward(self, x: Tensor) -> Tensor:
        y = over_time(self.first_neurons, over_time(self.first, x))
        y = over_time(self.second_neurons, over_time(self.second, y))
        if self.short is not None and self.short_neurons is not None:
            x = over_time(self.short_neurons, over_time(self.short, x))
        return y + x


class Residual(nn.Module):
    """Stem, stages of blocks, the mean over space, a matrix. widths: channels of each stage, halved in size from the second on."""

    def __init__(self, settings: ModelSettings, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        channels, rows, columns = settings.input_shape
        for _ in widths[1:]:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        self.stem = nn.Sequential(*_convolution(channels, widths[0]))
        self.stem_neurons = neurons_of(settings)
        stages: list[nn.Module] = []
        into = widths[0]
        for number, width in enumerate(widths):
            for block in range(blocks):
                stages.append(Block(settings, into, width, 2 if number and not block else 1))
                into = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AvgPool2d((rows, columns))
        self.flatten = nn.Flatten()
        self.last = Linear(into, settings.classes)
        self.readout = nn.ModuleList(readout_of(settings))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(over_time(self.stem_neurons, over_time(self.stem, x)))
        x = over_time(self.last, over_time(self.flatten, over_time(self.pool, x)))
        for population in self.readout:
            x = population(x)
        return x


def sew_resnet18(settings: ModelSettings) -> nn.Module:
    """64C3, four stages of two residual blocks of 64, 128, 256 and 512 channels, average pooling."""
    return Residual(settings, (64, 128, 256, 512), 2)
