"""A trained network as a `.nir` graph (Pedersen et al. 2024, doi 10.1038/s41467-024-52259-9).

Batch norm is folded into the synapse before it, dropout disappears, and every neuron parameter is an array of its
population's full shape. IF and LIF count as NIR's: v_leak and v_reset as in Norse, r = 1, tau = 1 / tau_mem_inv;
the current-based cells get w_in = tau_syn / dt, since Norse adds a spike's weight to the current as it is.
To add a module: a line in `_NODES` or a function beside those it names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import norse.torch as norse
import numpy as np
import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.files import write_whole
from dpap_neuro.neurons import Neuron

Shape = tuple[int, ...]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)


def _array(value: Any, dtype: Any = np.float32) -> np.ndarray:
    return (
        value.detach().cpu().numpy().astype(dtype) if isinstance(value, Tensor) else np.asarray(value, dtype)
    )


def _full(value: Any, shape: Shape, name: str, what: str) -> np.ndarray:
    array = _array(value)
    try:
        return np.array(np.broadcast_to(array, shape))
    except ValueError:
        raise InputError(
            f"layer {name}: found {what} of shape {array.shape}, expected one that fits the population's {shape}"
        ) from None


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _conv2d(name: str, m: nn.Conv2d, shape: Shape, dt: float) -> nir.NIRNode:
    if m.padding_mode != "zeros":
        raise InputError(f"layer {name}: found padding_mode {m.padding_mode!r}, expected zeros")
    padding = m.padding if isinstance(m.padding, str) else _pair(m.padding)
    bias = np.zeros(m.out_channels, np.float32) if m.bias is None else _array(m.bias)
    return nir.Conv2d(
        shape[1:], _array(m.weight), _pair(m.stride), padding, _pair(m.dilation), m.groups, bias
    )


def _conv1d(name: str, m: nn.Conv1d, shape: Shape, dt: float) -> nir.NIRNode:
    if m.padding_mode != "zeros":
        raise InputError(f"layer {name}: found padding_mode {m.padding_mode!r}, expected zeros")
    padding = m.padding if isinstance(m.padding, str) else m.padding[0]
    bias = np.zeros(m.out_channels, np.float32) if m.bias is None else _array(m.bias)
    return nir.Conv1d(shape[1], _array(m.weight), m.stride[0], padding, m.dilation[0], m.groups, bias)


def _linear(name: str, m: nn.Linear, shape: Shape, dt: float) -> nir.NIRNode:
    return nir.Linear(_array(m.weight)) if m.bias is None else nir.Affine(_array(m.weight), _array(m.bias))


def _avg_pool(name: str, m: nn.AvgPool2d, shape: Shape, dt: float) -> nir.NIRNode:
    if (
        m.ceil_mode
        or m.divisor_override is not None
        or (not m.count_include_pad and m.padding not in (0, (0, 0)))
    ):
        raise InputError(
            f"layer {name}: found ceil_mode, a divisor or padding that is not counted; use plain AvgPool2d"
        )
    stride = m.kernel_size if m.stride is None else m.stride
    return nir.AvgPool2d(*(np.array(_pair(v)) for v in (m.kernel_size, stride, m.padding)))


def _sum_pool(name: str, m: nn.LPPool2d, shape: Shape, dt: float) -> nir.NIRNode:
    if m.norm_type != 1 or m.ceil_mode:
        raise InputError(f"layer {name}: found a pooling of norm {m.norm_type}, expected 1 (a sum)")
    stride = m.kernel_size if m.stride is None else m.stride
    return nir.SumPool2d(np.array(_pair(m.kernel_size)), np.array(_pair(stride)), np.array((0, 0)))


def _flatten(name: str, m: nn.Flatten, shape: Shape, dt: float) -> nir.NIRNode:
    if m.start_dim != 1 or m.end_dim != -1:
        raise InputError(f"layer {name}: found Flatten({m.start_dim}, {m.end_dim}), expected Flatten()")
    return nir.Flatten({"input": np.array(shape)}, 0, -1)


def _lif_box(name: str, cell: Any, shape: Shape, dt: float) -> nir.NIRNode:
    p = cell.p
    return nir.LIF(
        tau=_full(1.0 / p.tau_mem_inv * _step_share(cell, dt), shape, name, "tau_mem"),
        r=np.ones(shape, np.float32),
        v_leak=_full(p.v_leak, shape, name, "v_leak"),
        v_threshold=_full(p.v_th, shape, name, "v_th"),
        v_reset=_full(p.v_reset, shape, name, "v_reset"),
    )


def _li_box(name: str, cell: Any, shape: Shape, dt: float) -> nir.NIRNode:
    p = cell.p
    return nir.LI(
        tau=_full(1.0 / p.tau_mem_inv * _step_share(cell, dt), shape, name, "tau_mem"),
        r=np.ones(shape, np.float32),
        v_leak=_full(p.v_leak, shape, name, "v_leak"),
    )


def _iaf(name: str, cell: Any, shape: Shape, dt: float) -> nir.NIRNode:
    p = cell.p
    return nir.IF(
        r=np.ones(shape, np.float32),
        v_threshold=_full(p.v_th, shape, name, "v_th"),
        v_reset=_full(p.v_reset, shape, name, "v_reset"),
    )


def _step_share(cell: Any, dt: float) -> float:
    """NIR has one time step for all: a cell of another step gets the time constant that decays alike."""
    return dt / float(cell.dt)


_CELLS: dict[type, Callable[[str, Any, Shape, float], nir.NIRNode]] = {
    norse.LIFBoxCell: _lif_box,
    norse.LIBoxCell: _li_box,
    norse.IAFCell: _iaf,
}
_NODES: dict[type, Callable[[str, Any, Shape, float], nir.NIRNode]] = {
    nn.Conv2d: _conv2d,
    nn.Conv1d: _conv1d,
    nn.Linear: _linear,
    nn.AvgPool2d: _avg_pool,
    nn.LPPool2d: _sum_pool,
    nn.Flatten: _flatten,
}
_INSTEAD = {
    nn.MaxPool2d: "NIR and the chips have no maximum; use AvgPool2d, or a strided convolution",
    nn.MaxPool1d: "NIR and the chips have no maximum; use a strided convolution",
    nn.ReLU: "an artificial neuron; use a spiking one",
}


def folded(synapse: nn.Module, norm: Any, name: str) -> nn.Module:
    """A copy of a convolution or matrix with the batch norm after it folded in: w g / sqrt(var + eps), zeros stay zero."""
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
    out = type(synapse).__new__(type(synapse))
    nn.Module.__init__(out)
    for key, value in vars(synapse).items():
        if not key.startswith("_") or key == "_reversed_padding_repeated_twice":
            setattr(out, key, value)
    weight = synapse.weight.double() * gain.reshape(-1, *(1,) * (synapse.weight.dim() - 1))
    bias = shift if synapse.bias is None else synapse.bias.double() * gain + shift
    out.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    out.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return out


def to_nir(model: nn.Sequential, input_shape: Shape, dt: float, **metadata: Any) -> nir.NIRGraph:
    """A trained sequence of synapse and neuron modules as a graph.

    input_shape: without time and batch. dt: seconds per step. metadata: what else the graph should tell (bins, clip,
    class_names, readout ...); lists of strings are written as JSON, None is left out.
    Raises InputError, naming the layer, for one that NIR has no equivalent of, and for NaN weights.
    """
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input({"input": np.array(input_shape)})}
    shape = tuple(input_shape)
    layers = [(n, m) for n, m in model.named_children() if not isinstance(m, _NOTHING)]
    position = 0
    while position < len(layers):
        name, module = layers[position]
        position += 1
        while position < len(layers) and isinstance(layers[position][1], _NORMS):
            module = folded(module, layers[position][1], layers[position][0])
            position += 1
        node = _node(name, module, shape, dt)
        nodes[_node_name(name, node)] = node
        shape = _output_shape(name, module, shape)
    if len(nodes) == 1:
        raise InputError("model: found no layer, expected at least one")
    nodes["output"] = nir.Output({"output": np.array(shape)})
    names = list(nodes)
    edges = list(pairwise(names))
    # nir 1.0.8 infers wrong shapes for grouped convolutions and kernels that are not square; ours were measured.
    return nir.NIRGraph(nodes, edges, metadata=_metadata({"dt": float(dt), **metadata}), type_check=False)


def _node(name: str, module: nn.Module, shape: Shape, dt: float) -> nir.NIRNode:
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"layer {name}: found NaN or infinite values in {key}, expected finite ones")
    if isinstance(module, Neuron):
        module = module.cell
    maker = _NODES.get(type(module)) or _CELLS.get(type(module))
    if maker is None:
        instead = _INSTEAD.get(type(module))
        if instead is None:
            known = ", ".join(sorted(c.__name__ for c in (*_NODES, *_CELLS)))
            instead = f"expected one of {known}, batch norm behind a synapse, or dropout"
        raise InputError(f"layer {name}: {type(module).__name__} cannot be exported: {instead}")
    return maker(name, module, shape, dt)


def _node_name(name: str, node: nir.NIRNode) -> str:
    """Names of a plain Sequential are numbers: say what the node is as well."""
    return f"{name}_{type(node).__name__.lower()}" if name.isdigit() else name.replace(".", "_")


@torch.no_grad()
def _output_shape(name: str, module: nn.Module, shape: Shape) -> Shape:
    if isinstance(module, Neuron) or type(module) in _CELLS:
        return shape
    try:
        return tuple(module(torch.zeros(1, *shape, device=_device(module))).shape[1:])
    except RuntimeError as error:
        raise InputError(
            f"layer {name}: found input of shape {shape}: {str(error).splitlines()[0]}"
        ) from None


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, list | tuple) and value and isinstance(value[0], str):
            value = json.dumps(list(value))
        elif isinstance(value, list | tuple):
            value = np.array(value)
        out[key] = value
    return out


def write_nir(graph: nir.NIRGraph, path: str | Path) -> None:
    """`nir.write`, whole or not at all."""
    write_whole(path, lambda temporary: nir.write(temporary, graph))
