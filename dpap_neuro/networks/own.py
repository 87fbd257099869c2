"""A network of the user's own: `FILE.py:function`, which is called as the functions of `models` are.

def network(settings):                       # see `models.ModelSettings`: input_shape, classes, neuron, readout, cell
    return [layer, ...]                      # layers in sequence, as in `models`; or nn.Sequential, or Norse's SequentialState
    return module                            # or a module that takes recordings (T, B, *input_shape), gives (T, B, classes)

Cells of Norse in a sequence become the populations of `neurons` with the same constants, which step alike.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import norse.torch as norse
import torch
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.files import read_bytes
from dpap_neuro.networks.kinds import nearest, overrides
from dpap_neuro.networks.neurons import IF, LI, LIF, CubaLI, CubaLIF, Neuron, NeuronSettings

_MOST_CODE = 1 << 24
_CELLS: dict[type, type[Neuron]] = {
    norse.LIFBoxCell: LIF,
    norse.LIFCell: CubaLIF,
    norse.LIF: CubaLIF,
    norse.IAFCell: IF,
    norse.IAF: IF,
    norse.LIBoxCell: LI,
    norse.LICell: CubaLI,
    norse.LI: CubaLI,
}
_RECURRENT = (norse.LIFRecurrentCell, norse.LIFRecurrent)


def is_own(name: str) -> bool:
    """Whether a model's name is `FILE.py:function`."""
    return ".py:" in name or name.endswith(".py")


def located(name: str) -> tuple[str, str]:
    """The name with the whole path of its file, and that file's SHA-256. Raises InputError where it is missing."""
    file, function = _parts(name)
    return f"{file}:{function}", hashlib.sha256(_code(file)).hexdigest()


def _parts(name: str) -> tuple[Path, str]:
    file, _, function = name.rpartition(":")
    if name.endswith(".py"):
        function = ""
    if not function.isidentifier():
        raise InputError(f"model: found {name!r}, expected FILE.py:function")
    return Path(file).resolve(), function


def _code(file: Path) -> bytes:
    if not file.is_file():
        raise InputError(f"{file}: not found, expected a Python file with the function that makes a network")
    return read_bytes(file, _MOST_CODE)


def own_function(name: str, sha256: str | None = None) -> Callable[[Any], Any]:
    """The function. sha256: of the file, where it must be a certain one.

    Executes the file. Raises InputError for a file that is another or does not run, or has no such function.
    """
    file, function = _parts(name)
    code = _code(file)
    if sha256 is not None and hashlib.sha256(code).hexdigest() != sha256:
        raise InputError(f"{file}: is not the file that the run was made with (its SHA-256 is another)")
    spec = importlib.util.spec_from_loader(f"_model_{file.stem}", loader=None, origin=str(file))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    with _errors_of(file, "does not run"), _beside(file):
        exec(compile(code, str(file), "exec"), vars(module))
    found = getattr(module, function, None)
    if not callable(found):
        known = [
            k
            for k, v in vars(module).items()
            if callable(v) and getattr(v, "__module__", None) == module.__name__
        ]
        there = ", ".join(known) or "none"
        raise InputError(f"{file}: found no function {function!r}, expected one of those in it ({there})")
    return found


def own_layers(name: str, settings: Any) -> list[nn.Module] | nn.Module:
    """What the function makes for these settings: layers in sequence, or a module over recordings. See `own_function`."""
    file, function = _parts(name)
    make = own_function(name, settings.source)
    with _errors_of(file, f"{function} fails"), _beside(file):
        made = make(settings)
    if isinstance(made, nn.Module) and not _is_sequence(made):
        return made
    if isinstance(made, nn.Module):
        made = list(made.children())
    if not isinstance(made, list | tuple) or not made or not all(isinstance(m, nn.Module) for m in made):
        raise InputError(
            f"{file}: {function} returned {_short(made)}, expected a torch.nn.Module or a list of layers"
        )
    return [layer for module in made for layer in _flattened(module)]


def check_runs(name: str, network: nn.Module, settings: Any) -> None:
    """Raises InputError where the network does not take recordings or does not answer with a value for each class."""
    file, function = _parts(name)
    shape = (2, 3, *settings.input_shape)
    network.eval()
    with (
        _errors_of(file, f"the network of {function} does not run on (T, B, ...) = {shape}"),
        torch.no_grad(),
    ):
        out = network(torch.ones(shape))
    network.train()
    expected = (2, 3, settings.classes)
    if not isinstance(out, Tensor) or tuple(out.shape) != expected:
        raise InputError(
            f"{file}: the network of {function} returns {_short(out)} for recordings of {shape}, expected a tensor of {expected}: "
            "steps, recordings, classes"
        )


def _is_sequence(module: nn.Module) -> bool:
    return any(
        isinstance(module, kind) and not overrides(module, kind, "forward")
        for kind in (nn.Sequential, norse.SequentialState)
    )


def _flattened(module: nn.Module) -> Iterator[nn.Module]:
    if _is_sequence(module):
        for child in module.children():
            yield from _flattened(child)
    elif isinstance(module, norse.Lift):
        yield from _flattened(module.lifted_module)
    else:
        yield _population(module)


def _population(module: Any) -> nn.Module:
    """The population of `neurons` that steps as a cell of Norse; other modules as they are. Raises InputError for a cell that
    none steps as."""
    if isinstance(module, _RECURRENT):
        raise InputError(
            f"model: found Norse's {type(module).__name__}, whose membrane sees its input a step late; "
            "use dpap_neuro.networks.neurons.Recurrent"
        )
    cell = nearest(_CELLS, module)
    if cell is None:
        return module
    p = module.p
    method, reset = getattr(p, "method", "super"), getattr(p, "reset_method", reset_value)
    if method != "super" or reset not in (reset_value, reset_subtract) or overrides(module, cell, "forward"):
        raise InputError(
            f"model: found a {type(module).__name__} with surrogate {method!r}, a reset or a step of its own; in a sequence "
            "expected Norse's superspike, reset_value or reset_subtract (or use it in a module of your own)"
        )
    changed = {name: getattr(p, name) for name in ("v_leak", "v_th", "v_reset") if hasattr(p, name)}
    taus = {
        name: 1.0 / getattr(p, f"{name}_inv").double()
        for name in ("tau_mem", "tau_syn")
        if hasattr(p, f"{name}_inv")
    }
    dt = float(module.dt)
    settings = NeuronSettings(dt, dt, reset="subtract" if reset is reset_subtract else "zero")
    return _CELLS[cell](settings, **changed, **taus)


def _short(made: Any) -> str:
    if isinstance(made, Tensor):
        return f"a tensor of {tuple(made.shape)}"
    text = " ".join(repr(made).split())
    return f"{type(made).__name__} {text[:80]}" if not isinstance(made, tuple) else f"a tuple of {len(made)}"


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Modules that lie beside the file can be imported for a while."""
    sys.path.insert(0, str(file.parent))
    try:
        yield
    finally:
        sys.path.remove(str(file.parent))


@contextmanager
def _errors_of(file: Path, what: str) -> Iterator[None]:
    """What the user's code raises, as one line with the line of the file."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
        ]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines, said = [error.lineno], error.msg
        else:
            said = " ".join(str(error).split())[:200]
        where = f" line {lines[-1]}:" if lines else ""
        raise InputError(f"{file}:{where} {what} ({type(error).__name__}: {said})") from None
