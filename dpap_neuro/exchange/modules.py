"""Networks of other frameworks, alive in memory, as checked graphs: what all their readers share.

A file does not say how a membrane is reset, how long a step is, or whether a decay is exponential; the module does. Its
structure is found by running one sample: every tensor that comes out of a known module carries the name of its node, and
beside it the places of its values, so that a view, a flattening or a stack of time steps is followed for what it does.
What is a framework's own is in its table, see `frameworks`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.frameworks import Framework, Part, version_of
from dpap_neuro.exchange.nir_export import fused
from dpap_neuro.exchange.nir_nodes import SYNAPSES, Shape, full
from dpap_neuro.networks.foreign import unchanged
from dpap_neuro.networks.kinds import nearest
from hardware.graph.graph import Graph
from hardware.graph.parsing import from_nir

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
# Axes of one sample that a synapse takes, behind those of batch and time.
_AXES: dict[type, int] = {nn.Linear: 1, nn.Conv1d: 2, nn.Conv2d: 3, nn.AvgPool2d: 3, nn.LPPool2d: 3}
_MAXIMUM = "NIR and the chips have no maximum; use AvgPool2d, or a strided convolution"
_VIEWS = {
    *(
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "movedim",
        "expand",
    ),
    *(
        "__getitem__",
        "select",
        "narrow",
        "unbind",
        "split",
        "chunk",
        "stack",
        "cat",
        "swapaxes",
        "view_as",
        "__iter__",
    ),
}
_SAME = {
    "contiguous",
    "float",
    "double",
    "to",
    "clone",
    "detach",
    "type",
    "type_as",
    "cpu",
    "requires_grad_",
    "dropout",
}
_SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
_PRODUCTS = {"mul", "__mul__", "__rmul__", "__imul__", "mul_", "multiply"}


def read(framework: Framework, model: nn.Module, sample: Tensor, dt: float) -> Graph:
    """The graph of a live model. sample: what its forward pass takes, one or several recordings. dt: seconds per step.

    The model is left as it was: weights, states, training mode. Metadata: dt, reset, reset_delay, writer.
    Raises InputError, naming the layer, for what cannot be converted exactly.
    """
    if not (math.isfinite(dt) and dt > 0):
        raise InputError(f"dt: found {dt}, expected seconds per step above 0")
    if not isinstance(model, nn.Module):
        raise InputError(f"model: found a {type(model).__name__}, expected a torch module")
    watch = _Watch(framework, model, dt)
    # Rockpool has a `modules` of its own.
    with unchanged(nn.Module.modules(model)), torch.no_grad(), watch.hooked(), watch:
        watch.raw(sample)
        try:
            result = model(sample)
        except InputError:
            raise
        except Exception as error:  # whatever the model's own code does with a sample that does not fit
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            shape = tuple(sample.shape)
            raise InputError(f"model: does not take a sample of shape {shape}: {reason}") from None
    return watch.graph(result)


@dataclass(frozen=True)
class _Places:
    """A possible shape of one sample, and a tensor that holds at each place where in the sample its value was."""

    shape: Shape
    places: Tensor

    def read_as(self, axes: int) -> Shape | None:
        """The shape of a sample with `axes` axes before it, where the order is kept; else None."""
        shape = tuple(self.places.shape[axes:])
        if math.prod(shape) != math.prod(self.shape):
            return None
        rows = self.places.reshape(-1, math.prod(shape))
        return shape if bool((rows == torch.arange(rows.shape[1])).all()) else None


@dataclass(frozen=True)
class _Flow:
    """What a tensor carries: the nodes whose outputs it is the sum of, or why that is not known any more."""

    sources: tuple[str, ...]
    views: tuple[_Places, ...]
    version: int = 0
    lost: str = ""


def _places(shape: Shape, lead: Shape) -> _Places:
    return _Places(shape, torch.arange(math.prod(shape)).reshape(shape).expand(*lead, *shape))


class _Watch(TorchFunctionMode):
    """Follows tensors from module to module and collects nodes and edges."""

    def __init__(self, framework: Framework, model: nn.Module, dt: float) -> None:
        super().__init__()
        self.framework, self.model, self.dt = framework, model, dt
        self.depth = 0
        self.flows: dict[int, _Flow] = {}
        self.kept: list[Any] = []  # so that no id is used twice
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.input_shape: Shape | None = None
        self.called: dict[str, tuple[tuple[str, ...], _Flow]] = {}
        self.functional: dict[tuple[str, ...], _Flow] = {}
        self.made: dict[str, tuple[nn.Module, Shape]] = {}
        self.versions: dict[str, int] = {}
        self.resets: dict[str, tuple[str, bool]] = {}
        self.notes: list[str] = []

    # --- following ------------------------------------------------------------------------------------------

    def raw(self, sample: Tensor) -> None:
        """The sample itself: which of its axes are of batch and time shows when a module takes it."""
        views = [
            _places(tuple(sample.shape[lead:]), tuple(sample.shape[:lead]))
            for lead in (1, 2)
            if lead < sample.dim()
        ]
        self._mark(sample, _Flow(("input",), tuple(views)))

    def _mark(self, tensor: Tensor, flow: _Flow) -> None:
        self.flows[id(tensor)] = flow
        self.kept.append(tensor)

    def _flow(self, value: Any) -> _Flow | None:
        return self.flows.get(id(value)) if isinstance(value, Tensor) else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.depth:
            return out
        found = [
            flow for value in _flat((args, list(kwargs.values()))) if (flow := self._flow(value)) is not None
        ]
        results = [value for value in _flat(out) if isinstance(value, Tensor)]
        if found and results:
            self._operation(getattr(func, "__name__", str(func)), func, args, kwargs, found, results)
        return out

    def _operation(
        self, name: str, func: Any, args: Any, kwargs: Any, found: list[_Flow], results: list[Tensor]
    ) -> None:
        first = found[0]
        if name == "__get__" and any(results[0] is value for value in _flat(args)):
            return
        if name in _SAME or name == "__get__":
            for tensor in results:
                self._mark(tensor, first)
        elif name in _VIEWS and all(flow.sources == first.sources for flow in found) and not first.lost:
            self._view(func, args, kwargs, first, results)
        elif name in _SUMS and len(found) == 2 and not any(flow.lost for flow in found):
            self._sum(found, results[0])
        elif name in _PRODUCTS and len(found) == 1 and not first.lost and first.sources != ("input",):
            factor = next(value for value in args if self._flow(value) is None)
            self._once(
                ("scale", *first.sources, str(factor)),
                results[0],
                lambda: self._scale(first, factor, results[0]),
            )
        elif name == "avg_pool2d" and not first.lost:
            pool = nn.AvgPool2d(*args[1:], **kwargs)
            make = SYNAPSES[nn.AvgPool2d]
            self._once(
                ("pool", *first.sources, str(pool)),
                results[0],
                lambda: self._synapse(f"{first.sources[0]}_pool", pool, args[0], results[0], 3, make),
            )
        else:
            reason = f"operation {name} behind {first.sources[0]} cannot be read"
            if "max" in name:
                reason += f": {_MAXIMUM}"
            elif name in ("cat", "stack", "concat", "concatenate"):
                reason += ": NIR has no concatenation; give each branch a synapse of its own and add what they return"
            for tensor in results:
                self._mark(tensor, replace(first, lost=first.lost or reason))

    def _once(self, key: tuple[str, ...], result: Tensor, make: Callable[[], None]) -> None:
        """Adds the node of an operation; in the time steps behind the first the same node again."""
        if key in self.functional:
            self._again(self.functional[key], result)
        else:
            make()
            self.functional[key] = self.flows[id(result)]

    def _again(self, flow: _Flow, result: Tensor) -> None:
        shape = flow.views[0].shape
        lead = tuple(result.shape[: result.dim() - len(shape)])
        self._mark(result, replace(flow, views=(_places(shape, lead),)))

    def _scale(self, flow: _Flow, factor: Any, result: Tensor) -> None:
        shape = flow.views[0].shape
        name = f"{flow.sources[0]}_scale"
        node = nir.Scale(full(factor, shape, name, "a factor"))
        self._mark(result, self._add(name, node, flow, shape, tuple(result.shape)))

    def _view(self, func: Any, args: Any, kwargs: Any, flow: _Flow, results: list[Tensor]) -> None:
        views: list[list[_Places]] = [[] for _ in results]
        for k, view in enumerate(flow.views):

            def place(value: Any, k: int = k) -> Any:
                own = self._flow(value)
                if own is not None:
                    return own.views[k].places
                return [place(v) for v in value] if isinstance(value, list | tuple) else value

            moved = func(*[place(a) for a in args], **{key: place(a) for key, a in kwargs.items()})
            for at, places in enumerate(v for v in _flat(moved) if isinstance(v, Tensor)):
                views[at].append(_Places(view.shape, places))
        for tensor, own in zip(results, views, strict=True):
            self._mark(tensor, replace(flow, views=tuple(own)))

    def _sum(self, found: list[_Flow], result: Tensor) -> None:
        first, second = found
        if first.views[0].shape != second.views[0].shape:
            self._mark(result, replace(first, lost=f"the sum of {first.sources[0]} and {second.sources[0]}"))
            return
        if set(first.sources) & set(second.sources):
            raise InputError(f"model: {first.sources[0]} is added to itself, expected a product by 2")
        for flow in found:
            self._current(flow)
        self._mark(result, _Flow((*first.sources, *second.sources), first.views))

    # --- modules --------------------------------------------------------------------------------------------

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        known = (*self.framework.populations, *self.framework.synapses, *_AXES, *_NORMS, *_NOTHING)
        for name, module in nn.Module.named_modules(self.model):
            through = isinstance(module, (nn.Flatten, nn.Unflatten, *self.framework.passed))
            leaf = (
                isinstance(module, known)
                or type(module) in self.framework.instead
                or not any(module.children())
            )
            if through or not leaf:
                continue

            def before(module: nn.Module, args: Any, kwargs: Any) -> None:
                self.depth += 1

            def after(module: nn.Module, args: Any, kwargs: Any, out: Any, name: str = name) -> None:
                self.depth -= 1
                if self.depth == 0:
                    self._module(name or type(module).__name__, module, [*args, *kwargs.values()], out)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _module(self, name: str, module: Any, given: list[Any], out: Any) -> None:
        result = next((value for value in _flat(out) if isinstance(value, Tensor)), None)
        taken = next((value for value in given if isinstance(value, Tensor)), None)
        if result is None or taken is None:
            return
        flow = self._flow(taken)
        kind = type(module)
        if flow is None:
            raise InputError(f"layer {name}: {kind.__name__} takes values that do not come from the sample")
        if flow.lost:
            raise InputError(f"layer {name}: {flow.lost}")
        if isinstance(module, _NOTHING):
            self._mark(result, flow)
            return
        if name in self.called:  # the next time step
            before, again = self.called[name]
            if before != flow.sources:
                raise InputError(
                    f"layer {name}: used behind {before[0]} and behind {flow.sources[0]}, expected once"
                )
            self._again(again, result)
            return
        if isinstance(module, _NORMS):
            self._norm(name, module, flow, result)
        elif (own := nearest(self.framework.populations, module)) is not None:
            self._population(name, module, flow, result, self.framework.populations[own])
        elif (own := nearest(self.framework.synapses, module)) is not None:
            self._synapse(name, module, taken, result, *self.framework.synapses[own])
        elif (own := nearest(_AXES, module)) is not None:
            self._synapse(name, module, taken, result, _AXES[own], SYNAPSES[own])
        else:
            instead = self.framework.instead.get(kind)
            if instead is None and "maxpool" in kind.__name__.lower():
                instead = _MAXIMUM
            known = sorted(
                {t.__name__ for t in (*self.framework.populations, *self.framework.synapses, *_AXES)}
            )
            raise InputError(
                f"layer {name}: {kind.__name__} of {self.framework.name} cannot be read: "
                f"{instead or 'expected one of ' + ', '.join(known)}"
            )
        self.called[name] = flow.sources, self.flows[id(result)]

    def _synapse(
        self,
        name: str,
        module: Any,
        taken: Tensor,
        result: Tensor,
        axes: int,
        make: Callable[..., nir.NIRNode],
    ) -> None:
        flow = self.flows[id(taken)]
        shape, flow = self._arriving(name, flow, taken.dim() - axes)
        if getattr(module, "weight", None) is not None and not torch.isfinite(module.weight).all():
            raise InputError(f"layer {name}: found NaN or infinite values in weight, expected finite ones")
        out = self._add(
            name,
            make(name, module, shape),
            flow,
            tuple(result.shape[result.dim() - axes :]),
            tuple(result.shape),
        )
        self.made[out.sources[0]] = module, shape
        self._mark(result, out)

    def _population(
        self, name: str, module: Any, flow: _Flow, result: Tensor, make: Callable[..., Part]
    ) -> None:
        shape, flow = self._arriving(name, flow, self.framework.axes(module))
        part = make(name, module, shape, self.dt)
        out = self._add(name, part.node, flow, shape, tuple(result.shape))
        if part.reset:
            self.resets[name] = part.reset, part.late
        if part.note:
            self.notes.append(f"layer {name}: {part.note}")
        if part.feedback is not None:
            back = self._add(f"{name}_feedback", part.feedback, out, shape, tuple(result.shape))
            self._connect(back, out.sources[0])
        if part.factor != 1:
            scale = nir.Scale(full(part.factor, shape, name, "a factor"))
            out = self._add(f"{name}_scale", scale, out, shape, tuple(result.shape))
        self._mark(result, out)

    def _norm(self, name: str, norm: nn.Module, flow: _Flow, result: Tensor) -> None:
        source = flow.sources[0]
        if len(flow.sources) > 1 or source not in self.made or any(edge[0] == source for edge in self.edges):
            raise InputError(
                f"layer {name}: {type(norm).__name__} behind {' + '.join(flow.sources)} cannot be read: expected directly "
                "behind a convolution or matrix that nothing else uses, into which it is folded"
            )
        module, shape = self.made[source]
        synapse = fused(module, norm, name)
        kind = nearest(_AXES, synapse)
        assert kind is not None
        self.nodes[source] = SYNAPSES[kind](source, synapse, shape)
        self.made[source] = synapse, shape
        self.versions[source] = flow.version + 1
        self._mark(result, replace(flow, version=flow.version + 1))

    # --- the graph ------------------------------------------------------------------------------------------

    def _arriving(self, name: str, flow: _Flow, axes: int) -> tuple[Shape, _Flow]:
        """The shape of one sample that arrives at a module; flattens on the way where that is what views did."""
        found = [(view.shape, shape) for view in flow.views if (shape := view.read_as(axes)) is not None]
        found.sort(key=lambda pair: pair[0] != pair[1])
        if not found:
            raise InputError(
                f"layer {name}: what arrives from {flow.sources[0]} was reshaped in a way that cannot be read, expected "
                "a flattening of all axes but batch and time"
            )
        before, shape = found[0]
        if flow.sources == ("input",):
            if self.input_shape is None:
                self.input_shape = before
            elif self.input_shape != before:
                raise InputError(
                    f"layer {name}: reads the sample as {before}, another layer as {self.input_shape}"
                )
        if before == shape:
            return shape, flow
        if len(shape) != 1:
            raise InputError(
                f"layer {name}: a view of {before} as {shape} cannot be read, expected all axes flattened"
            )
        flat = f"{flow.sources[0]}_flat"
        if flat not in self.nodes:
            self.nodes[flat] = nir.Flatten({"input": np.array(before)}, 0, -1)
            self._connect(flow, flat)
        return shape, _Flow((flat,), ())

    def _add(self, layer: str, node: nir.NIRNode, flow: _Flow, shape: Shape, whole: Shape) -> _Flow:
        base = f"{layer}_{type(node).__name__.lower()}" if layer.isdigit() else re.sub("[./]", "_", layer)
        name, count = base, 2
        while name in self.nodes or name in ("input", "output"):
            name, count = f"{base}_{count}", count + 1
        self.nodes[name] = node
        self._connect(flow, name)
        return _Flow((name,), (_places(shape, whole[: len(whole) - len(shape)]),))

    def _connect(self, flow: _Flow, target: str) -> None:
        self._current(flow)
        self.edges += [(source, target) for source in flow.sources]

    def _current(self, flow: _Flow) -> None:
        if len(flow.sources) == 1 and self.versions.get(flow.sources[0], 0) != flow.version:
            raise InputError(
                f"layer {flow.sources[0]}: used both with and without its batch norm, expected one of them"
            )

    def graph(self, result: Any) -> Graph:
        flow = next((f for value in _flat(result) if (f := self._flow(value)) is not None), None)
        if not self.called:
            raise InputError(f"model: no layer that {self.framework.name} knows was run on the sample")
        if flow is None:
            raise InputError(
                "model: what it returns could not be followed from the sample; expected the spikes of its last population"
            )
        notes = list(self.notes)
        if flow.lost:
            notes.append(f"{flow.lost}: taken for the read-out, which is left out")
        assert self.input_shape is not None
        self._connect(flow, "output")
        nodes: dict[str, nir.NIRNode] = {"input": nir.Input({"input": np.array(self.input_shape)})}
        nodes |= self.nodes
        nodes["output"] = nir.Output({"output": None})
        metadata: dict[str, Any] = {"dt": float(self.dt)}
        kinds = set(self.resets.values())
        if len(kinds) > 1:
            said = ", ".join(f"{name} {kind}{' late' * late}" for name, (kind, late) in self.resets.items())
            raise InputError(f"model: its populations reset differently ({said}), expected one kind for all")
        if kinds:
            metadata["reset"], late = kinds.pop()
            if late:
                metadata["reset_delay"] = 1
        version = version_of(self.framework.name)
        metadata["writer"] = f"dpap-neuro from {self.framework.name} {version}"
        if version.split(".")[:2] != self.framework.tried.split(".")[:2]:
            notes.append(
                f"{self.framework.name} {version} is not the version compared with ({self.framework.tried}); read as that"
            )
        made = nir.NIRGraph(nodes, self.edges, metadata=metadata, type_check=False)
        graph = from_nir(made)
        return replace(graph, notes=(*graph.notes, *notes))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return [value]
    return [inner for part in value for inner in _flat(part)]
