"""Neurons of other frameworks, told by their classes without importing the framework; they keep their states in themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

# (package, class) that neurons derive from.
_NEURONS = {
    ("snntorch", "SpikingNeuron"),
    ("spikingjelly", "BaseNode"),
    ("spikingjelly", "SimpleBaseNode"),
    ("sinabs", "StatefulLayer"),
    ("rockpool", "TorchModule"),
}
# Those whose tensors are (samples, ...) of one step or (steps, samples, ...), as they are here.
STEPS_FIRST = ("snntorch", "spikingjelly")
_RESETS = ("reset_mem", "reset_states")


def framework_of(module: nn.Module) -> str | None:
    """The package whose neuron a module is, or derives from; None: it is none of a known one."""
    for kind in type(module).__mro__:
        package = kind.__module__.partition(".")[0]
        if (package, kind.__name__) in _NEURONS:
            return package
    return None


def reset(module: nn.Module) -> None:
    """A neuron to rest, as a new sequence finds it."""
    if "_memories" in vars(module):
        cast(Any, module).reset()  # SpikingJelly's
    for name in _RESETS:
        if callable(getattr(module, name, None)):
            getattr(module, name)()


@contextmanager
def unchanged(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules at rest and in evaluation mode for a while; then all that a run changed in them is as it was."""
    saved = []
    for module in modules:
        own = {key: dict(getattr(module, key)) for key in ("_buffers", "_memories") if key in vars(module)}
        values = {k: v.clone() for k, v in own["_buffers"].items() if isinstance(v, Tensor)}
        saved.append((module, dict(vars(module)), own, values))
    for module, *_ in saved:
        module.training = False
        reset(module)
    try:
        yield
    finally:
        for module, state, own, values in saved:
            for key in set(vars(module)) - set(state):
                del vars(module)[key]
            vars(module).update(state)
            for key, entries in own.items():
                getattr(module, key).clear()
                getattr(module, key).update(entries)
            with torch.no_grad():
                for key, value in values.items():
                    own["_buffers"][key].copy_(value)  # the same tensor: others may hold it
