"""A trained network as a `.nir` graph (Pedersen et al. 2024, doi 10.1038/s41467-024-52259-9).

The forward pass is traced once (`torch.fx`), so that additions and branches are followed. Batch norm is fused into
the synapse before it, dropout disappears, time and batch may be merged and separated on the way. The nodes
themselves are made in `nir_nodes.py`.
"""

from __future__ import annotations

import copy
import io
import json
import math
import operator
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import h5py
import nir
import norse.torch as norse
import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.nir_nodes import POPULATIONS, SYNAPSES, Shape, array, full, population, reset
from dpap_neuro.files import write_bytes
from dpap_neuro.networks import neurons
from dpap_neuro.networks.kinds import NORSE, nearest, overrides
from dpap_neuro.pruning.compaction import compact as compacted
from dpap_neuro.pruning.labels import tensors

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_OVER_TIME = (norse.Lift, norse.LIF, norse.IAF, norse.LI)
_LATE = (
    "its membrane sees the input one step late, as NIR's does not; use dpap_neuro.networks.neurons.Recurrent"
)
_MAXIMUM = "NIR and the chips have no maximum; use AvgPool2d, or a strided convolution"
_INSTEAD: dict[type, str] = {
    nn.MaxPool1d: "NIR and the chips have no maximum; use a strided convolution",
    nn.MaxPool2d: _MAXIMUM,
    nn.AdaptiveMaxPool2d: _MAXIMUM,
    nn.ReLU: "an artificial neuron; use a spiking one",
    norse.LIFRecurrentCell: _LATE,
    norse.LIFRecurrent: _LATE,
}
_CONCATENATION = "NIR has no concatenation; give each branch a synapse of its own and add what they return"
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_VIEWS = (torch.flatten, torch.reshape, torch.unflatten, "flatten", "reshape", "view", "unflatten")
_PASSED = (nn.functional.dropout, nn.functional.dropout2d, "contiguous", "float", "clone", "detach")
_SIZES = (getattr, len, "size", "dim")
# Time steps and samples of the recording that is traced: they tell (T, B, ...) from (T * B, ...).
_STEPS, _BATCH = 2, 3
# What this project's files name as their writer.
WRITER = "dpap-neuro"
Network = TypeVar("Network", bound=nn.Module)


def fused(synapse: nn.Module, norm: Any, name: str) -> nn.Module:
    """A copy of a convolution or matrix with the batch norm after it fused in: w g / sqrt(var + eps), zeros stay zero."""
    if not isinstance(synapse, nn.Conv1d | nn.Conv2d | nn.Linear):
        raise InputError(
            f"layer {name}: batch norm behind {type(synapse).__name__}, expected behind a synapse layer"
        )
    if norm.running_var is None or norm.running_mean is None:
        raise InputError(
            f"layer {name}: batch norm without running statistics, expected track_running_stats=True"
        )
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gain = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    shift = -mean * gain if norm.bias is None else norm.bias.double() - mean * gain
    out = copy.copy(synapse)
    out._parameters = dict(synapse._parameters)
    weight = synapse.weight.double() * gain.reshape(-1, *(1,) * (synapse.weight.dim() - 1))
    bias = shift if synapse.bias is None else synapse.bias.double() * gain + shift
    out.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    out.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return out


def to_nir(
    model: nn.Module, input_shape: Shape, dt: float, *, compact: bool = False, **metadata: Any
) -> nir.NIRGraph:
    """A trained network as a graph.

    model: takes (T, B, *input_shape); a plain nn.Sequential or Norse's SequentialState may also be of cells that take
    one time step.
    input_shape: without time and batch. dt: seconds per step. compact: write the network without its dead units.
    metadata: what the graph should tell besides time step and reset (bins, clip, class_names, readout ...); lists of strings are written
    as JSON, None is left out.
    Raises InputError, naming the layer, for one that NIR has no equivalent of, and for NaN weights.
    """
    if not 0 < dt < math.inf:
        raise InputError(f"dt: found {dt}, expected seconds per step above 0")
    for name, module in model.named_modules():
        _check_parameters(name or "model", module)
    shape = tuple(int(n) for n in input_shape)
    if compact:
        model = without_dead_units(model, shape)
    nodes, edges = _Walk(model, shape, dt).result
    said = {"dt": float(dt), "reset": reset(model), **metadata, "writer": WRITER, "reset_delay": None}
    # nir 1.0.8 infers wrong shapes for grouped convolutions and kernels that are not square; ours were measured.
    return nir.NIRGraph(nodes, edges, metadata=encoded_metadata(said), type_check=False)


def without_dead_units(model: Network, input_shape: Shape) -> Network:
    """A smaller network with the same outputs, compared on a random recording; see `dpap_neuro.pruning.compaction`."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.poisson(torch.ones(8, 2, *input_shape), generator=generator)
    return cast(Network, compacted(model, sample.to(_device(model))))


def write_nir(graph: nir.NIRGraph, path: str | Path) -> None:
    """`nir.write`, whole or not at all.

    A v_reset of zeros is left out: readers that know the field fill it in, and nir 1.0.4 (Sinabs 3.1), which does not,
    opens the file. Of a grouped convolution nir 1.0.8 infers too few input channels: `nir.read` such a file with
    type_check=False.
    """

    memory = io.BytesIO()
    nir.write(memory, graph)
    with h5py.File(memory, "r+") as file:
        for node in file["node/nodes"].values():
            if "v_reset" in node and not node["v_reset"][()].any():
                del node["v_reset"]
    write_bytes(path, memory.getbuffer())


def _check_parameters(name: str, module: nn.Module) -> None:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for key, value in own:
        if is_lazy(value):
            raise InputError(
                f"layer {name}: {type(module).__name__} was never run, so its shape is not known; "
                "run the model once on a sample"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"layer {name}: found NaN or infinite values in {key}, expected finite ones")


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def encoded_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in types that HDF5 takes: lists of strings as JSON, truths as 0 or 1; None is left out."""
    out = {}
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, list | tuple) and value and isinstance(value[0], str):
            value = json.dumps(list(value))
        elif isinstance(value, list | tuple):
            value = np.array(value)
        elif isinstance(value, bool):
            value = int(value)
        out[key] = value
    return out


@dataclass(frozen=True)
class _Flow:
    """What travels along an edge: the nodes whose outputs are added, and zeros of the traced recording's shape.

    version: how often the (only) source had been changed by a batch norm.
    """

    sources: tuple[str, ...]
    zeros: Tensor
    version: int = 0

    @property
    def merged(self) -> bool:
        return self.zeros.shape[0] == _STEPS * _BATCH

    @property
    def shape(self) -> Shape:
        return tuple(self.zeros.shape[1:] if self.merged else self.zeros.shape[2:])


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        norm = nearest(_NORMS, m)
        if norm is not None:
            return not overrides(m, norm, "forward")
        known = isinstance(m, (neurons.Neuron, *NORSE, *SYNAPSES))
        return known or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.GraphModule:
    """The forward pass. Raises InputError where it cannot be followed, or uses values of its own that change."""
    before = set(vars(model))
    try:
        first, second = (fx.GraphModule(model, _Tracer().trace(model)) for _ in range(2))
    except Exception as error:  # fx raises whatever the network's own code does with its stand-ins
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"model: its forward pass cannot be followed ({reason}); expected modules over whole recordings, "
            "as in dpap_neuro.networks.neurons, and no loop or condition over values"
        ) from None
    finally:
        for key in set(vars(model)) - before:  # what fx left behind: tensors made in the forward pass
            delattr(model, key)
    for a, b in zip(first.graph.nodes, second.graph.nodes, strict=False):
        made = a.op == b.op == "get_attr" and str(a.target).startswith("_tensor_constant")
        if made and not torch.equal(getattr(first, str(a.target)), getattr(second, str(b.target))):
            raise InputError(
                f"operation {next(iter(a.users)).name}: takes values that change from call to call, expected a "
                "constant, or a parameter of a layer"
            )
    return first


class _Walk(fx.Interpreter):
    """Goes through the traced forward pass with `_Flow`s in place of tensors and collects nodes and edges."""

    def __init__(self, model: nn.Module, shape: Shape, dt: float) -> None:
        if isinstance(model, norse.SequentialState) and not overrides(
            model, norse.SequentialState, "forward"
        ):
            model = nn.Sequential(OrderedDict(model.named_children()))
        # A plain sequence works on single time steps, unless it has Norse's modules over time.
        over_time = any(isinstance(m, _OVER_TIME) for m in model.modules())
        plain = isinstance(model, nn.Sequential) and not overrides(model, nn.Sequential, "forward")
        self.by_step = plain and not over_time
        if not any(True for _ in model.children()):
            raise InputError("model: found no layer, expected at least one")
        super().__init__(_traced(model), garbage_collect_values=False)
        self.extra_traceback = False
        self.dt = dt
        self.names: dict[str, str] = getattr(model, "node_names", {})
        self.nodes: dict[str, nir.NIRNode] = {"input": nir.Input({"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.made: dict[str, tuple[nn.Module, Shape, int]] = {}
        self.summed: set[str] = set()
        lead = (_STEPS * _BATCH,) if self.by_step else (_STEPS, _BATCH)
        with torch.no_grad():
            zeros = torch.zeros(*lead, *shape, device=_device(model), dtype=_dtype(model))
            flow = self.run(_Flow(("input",), zeros))
        if not isinstance(flow, _Flow):
            raise InputError(f"model: returns {type(flow).__name__}, expected one tensor")
        self.nodes["output"] = nir.Output({"output": np.array(flow.shape)})
        self._connect(flow, "output")
        self.result = self.nodes, self.edges

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        flows = [value for value in (*_flat(args), *_flat(kwargs.values())) if isinstance(value, _Flow)]
        if n.op in ("placeholder", "output", "get_attr") or not flows:
            return super().run_node(n)
        if n.op == "call_module":
            return self._module(str(n.target), self.fetch_attr(str(n.target)), flows[0])
        return self._operation(n, args, kwargs, flows)

    # --- modules -------------------------------------------------------------------------------------------

    def _module(self, name: str, module: Any, flow: _Flow) -> _Flow:
        if isinstance(module, _NOTHING):
            return flow
        if isinstance(module, norse.Lift):
            return self._lifted(name, module.lifted_module, flow)
        if isinstance(module, nn.Flatten):
            return self._view(name, flow, module(flow.zeros))
        if isinstance(module, _NORMS):
            return self._norm(name, module, flow)
        if isinstance(module, neurons.Recurrent):
            return self._recurrent(name, module, flow)
        kind = self._kind(name, module, flow)
        if kind in POPULATIONS:
            self._scans(name, flow)
            return self._add(name, population(name, module, flow.shape, self.dt), flow, flow.zeros)
        if isinstance(module, neurons.Delay):
            self._scans(name, flow)
        try:
            zeros = torch.zeros_like(module(flow.zeros))
        except RuntimeError as error:
            raise InputError(
                f"layer {name}: found input of shape {flow.shape}: {str(error).splitlines()[0]}"
            ) from None
        out = self._add(name, SYNAPSES[kind](name, module, flow.shape), flow, zeros)
        self.made[out.sources[0]] = (module, flow.shape, 0)
        return out

    def _kind(self, name: str, module: nn.Module, flow: _Flow) -> type[nn.Module]:
        """Which of `SYNAPSES` and `POPULATIONS` a module is, or derives from and does as. Raises InputError for others."""
        kinds = (*SYNAPSES, *POPULATIONS)
        kind = nearest(kinds, module)
        if nn.utils.parametrize.is_parametrized(module):
            instead = (
                "its parameters are computed anew at every call; make them constant with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        elif kind is None:
            known = ", ".join(sorted({c.__name__ for c in (*kinds, nn.Flatten)}))
            special = nearest(_INSTEAD, module)
            instead = f"expected one of {known}, batch norm behind a synapse, or dropout"
            instead = instead if special is None else _INSTEAD[special]
        elif not _does_as(module, kind, flow.zeros):
            instead = (
                f"it does not do what the {kind.__name__} that it derives from does, which would be exported"
            )
        else:
            return kind
        raise InputError(f"layer {name}: {type(module).__name__} cannot be exported: {instead}")

    def _lifted(self, name: str, module: nn.Module, flow: _Flow) -> _Flow:
        """Norse's Lift: a cell over time, or any other module on each time step."""
        if nearest(POPULATIONS, module) is not None:
            return self._module(name, module, flow)
        out = self._module(name, module, replace(flow, zeros=flow.zeros.flatten(0, 1)))
        return replace(out, zeros=out.zeros.unflatten(0, (_STEPS, _BATCH)))

    def _scans(self, name: str, flow: _Flow) -> None:
        if flow.merged and not self.by_step:
            raise InputError(
                f"layer {name}: its input has time and batch merged into one axis, expected (T, B, ...)"
            )

    def _norm(self, name: str, norm: nn.Module, flow: _Flow) -> _Flow:
        synapse, shape, version = self.made.get(flow.sources[0], (nn.Identity(), (), 0))
        if len(flow.sources) > 1 or flow.sources[0] not in self.made:
            before = " + ".join(flow.sources)
            raise InputError(
                f"layer {name}: {type(norm).__name__} behind {before} cannot be exported: "
                "expected behind a synapse layer, into which it is fused"
            )
        source = flow.sources[0]
        if source in self.summed or any(edge[0] == source for edge in self.edges) or version != flow.version:
            raise InputError(
                f"layer {name}: what it normalises is also used without it; give it its own synapse"
            )
        synapse = fused(synapse, norm, name)
        self.nodes[source] = SYNAPSES[self._kind(source, synapse, flow)](source, synapse, shape)
        self.made[source] = (synapse, shape, version + 1)
        return _Flow(flow.sources, flow.zeros, version + 1)

    def _recurrent(self, name: str, module: neurons.Recurrent, flow: _Flow) -> _Flow:
        self._scans(name, flow)
        if overrides(module, neurons.Recurrent, "forward") or not _steps_as(module.neuron):
            raise InputError(
                f"layer {name}: {type(module).__name__} of {type(module.neuron).__name__} cannot be exported: it does not do "
                "what the classes that it derives from do, which would be exported"
            )
        node = population(name, module.neuron, flow.shape, self.dt)
        out = self._add(name, node, flow, flow.zeros)
        weights, bias = array(module.recurrent_weights), module.recurrent_bias
        feedback = nir.Linear(weights) if bias is None else nir.Affine(weights, array(bias))
        back = self._add(f"{name}_feedback", feedback, out, flow.zeros)
        self._connect(back, out.sources[0])
        return out

    # --- operations ----------------------------------------------------------------------------------------

    def _operation(self, n: fx.Node, args: tuple, kwargs: dict, flows: list[_Flow]) -> Any:
        target, flow = n.target, flows[0]
        if target in _SIZES or target in _VIEWS:
            call = getattr(flow.zeros, target) if isinstance(target, str) else target
            rest = args[1:] if isinstance(target, str) else (flow.zeros, *args[1:])
            found = call(*rest, **kwargs)
            return found if target in _SIZES else self._view(n.name, flow, found)
        if target in _PASSED:
            return flow
        if target in _ADDITIONS and not kwargs:
            return self._sum(n.name, args, flows)
        if target in _PRODUCTS and len(flows) == 1 and not kwargs:
            factor = next(value for value in args if not isinstance(value, _Flow))
            shape = flow.shape
            return self._add(n.name, nir.Scale(full(factor, shape, n.name, "a factor")), flow, flow.zeros)
        what = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if target in (torch.cat, torch.concat, torch.concatenate):
            instead = _CONCATENATION
        elif "max" in n.name:
            what, instead = n.name, _MAXIMUM
        elif target in _PRODUCTS:
            instead = "a factor must be constant, found the product of two signals"
        else:
            instead = "expected modules, additions, products by constants, flatten and unflatten"
        raise InputError(f"operation {n.name} behind {flow.sources[0]}: {what} cannot be exported: {instead}")

    def _sum(self, name: str, args: tuple, flows: list[_Flow]) -> _Flow:
        if len(flows) == 1:
            if any(isinstance(value, int | float) and value == 0 for value in args):
                return flows[0]
            raise InputError(
                f"operation {name}: found a constant that is added, expected it in a layer's bias"
            )
        first, second = flows
        if first.zeros.shape != second.zeros.shape:
            raise InputError(
                f"operation {name}: found the sum of {first.shape} and {second.shape}, expected equal shapes"
            )
        if set(first.sources) & set(second.sources):
            raise InputError(f"operation {name}: found a signal added to itself, expected a product by 2")
        for flow in flows:
            self._current(flow)
            self.summed.update(flow.sources)
        return _Flow((*first.sources, *second.sources), first.zeros)

    def _view(self, name: str, flow: _Flow, zeros: Tensor) -> _Flow:
        lead = tuple(zeros.shape[:2])
        if lead[0] != _STEPS * _BATCH and lead != (_STEPS, _BATCH):
            raise InputError(f"layer {name}: a view that moves time or batch cannot be exported")
        out = _Flow(flow.sources, zeros, flow.version)
        if out.shape == flow.shape:
            return out
        if out.shape != (math.prod(flow.shape),):
            raise InputError(
                f"layer {name}: a view of {flow.shape} as {out.shape} cannot be exported, expected all axes flattened"
            )
        return self._add(name, nir.Flatten({"input": np.array(flow.shape)}, 0, -1), flow, zeros)

    # --- the graph -----------------------------------------------------------------------------------------

    def _add(self, layer: str, node: nir.NIRNode, flow: _Flow, zeros: Tensor) -> _Flow:
        """Adds a node behind `flow`, under the name that an imported network's graph had for it. Else names of a
        plain sequence are numbers: they say what the node is as well."""
        said = (
            f"{layer}_{type(node).__name__.lower()}" if layer.isdigit() else re.sub("[./]", "_", layer)
        )  # HDF5 nests at "/"
        base = self.names.get(layer, said)
        name, count = base, 2
        while name in self.nodes or name == "output":
            name, count = f"{base}_{count}", count + 1
        self.nodes[name] = node
        self._connect(flow, name)
        return _Flow((name,), zeros)

    def _connect(self, flow: _Flow, target: str) -> None:
        self._current(flow)
        self.edges += [(source, target) for source in flow.sources]

    def _current(self, flow: _Flow) -> None:
        made = self.made.get(flow.sources[0]) if len(flow.sources) == 1 else None
        if made is not None and made[2] != flow.version:
            raise InputError(
                f"layer {flow.sources[0]}: used both with and without its batch norm; give each its own synapse"
            )


def _steps_as(module: nn.Module) -> bool:
    """Whether a population takes the steps of the one that it derives from."""
    kind = nearest(POPULATIONS, module)
    return kind is None or not overrides(module, kind, "norse_step", "rest")


def _does_as(module: nn.Module, kind: type[nn.Module], zeros: Tensor) -> bool:
    """Whether a module does what the class does that it derives from; looked at on a random input where it has a `forward`
    of its own, which may, for example, only keep a record."""
    if overrides(module, kind, "norse_step", "rest", "_conv_forward"):
        return False
    if not overrides(module, kind, "forward"):
        return True
    x = 4 * torch.rand(zeros.shape, generator=torch.Generator().manual_seed(0)).to(zeros)
    own, expected = (next(tensors(call(x))) for call in (module, partial(kind.forward, module)))
    return own.shape == expected.shape and torch.equal(own, expected)


def _flat(values: Any) -> list[Any]:
    out: list[Any] = []
    for value in values:
        out += _flat(value) if isinstance(value, list | tuple) else [value]
    return out
