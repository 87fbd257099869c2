"""What a network is made of, for a pruner: projections, what feeds them, and which neurons follow.

The network is run once on a small sample, and every tensor on the way carries labels: which unit (output
channel of a convolution, neuron of a fully connected layer) each of its elements comes from. Additions and
products make compound labels, concatenations, flattening and indexing move them, so that branching networks
and loops over time need nothing special. (`torch.fx` would read the same from the source, but not through
loops over time steps.) An operation that is not understood makes everything behind it count as alive: nothing
is then removed that might matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpap_neuro.errors import InputError

DEAD, ALIVE = 0, 1
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Hardswish)
_NORSE_CONTAINERS = {"SequentialState", "RecurrentSequential", "Lift", "RegularizationCell"}


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a population: `dpap_neuro.neurons.Neuron`, a Norse neuron, or a rectifier."""
    if isinstance(module, _RECTIFIERS):
        return True
    for cls in type(module).__mro__:
        if cls.__name__ == "Neuron" and cls.__module__ == "dpap_neuro.neurons":
            return True
        if cls.__module__.startswith("norse.torch.module") and cls.__name__ not in _NORSE_CONTAINERS:
            return not any(c.__name__ in _NORSE_CONTAINERS for c in type(module).__mro__)
    return bool(getattr(module, "is_neuron", False))


class Labels:
    """The table behind the labels: 0 is always silent, 1 always alive, the rest units, sums and products of
    them.
    """

    def __init__(self) -> None:
        self.kinds: list[str] = ["dead", "alive"]
        self.left: list[int] = [-1, -1]
        self.right: list[int] = [-1, -1]
        self.level: list[int] = [0, 0]
        self.aligned: set[int] = set()
        self._pairs: dict[tuple[str, int, int], int] = {}
        self._steps: list[tuple[str, Tensor, Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.kinds)

    def _new(self, kind: str, left: int, right: int, level: int) -> int:
        self.kinds.append(kind)
        self.left.append(left)
        self.right.append(right)
        self.level.append(level)
        self._steps = None
        return len(self.kinds) - 1

    def units(self, count: int) -> Tensor:
        """New labels for `count` units."""
        return torch.tensor([self._new("unit", -1, -1, 0) for _ in range(count)], dtype=torch.long)

    def _pair(self, kind: str, a: int, b: int) -> int:
        if a == b:
            return a
        if ALIVE in (a, b):
            # A channel that meets something unlabelled has to stay where it is.
            self.aligned.add(min(a, b) if max(a, b) == ALIVE else max(a, b))
        if kind == "or":
            if ALIVE in (a, b):
                return ALIVE
            if DEAD in (a, b):
                return max(a, b)
        else:
            if DEAD in (a, b):
                return DEAD
            if ALIVE in (a, b):
                return max(a, b)
        key = (kind, min(a, b), max(a, b))
        if key not in self._pairs:
            self._pairs[key] = self._new(kind, key[1], key[2], 1 + max(self.level[a], self.level[b]))
        return self._pairs[key]

    def combine(self, kind: str, a: Tensor, b: Tensor) -> Tensor:
        """Element-wise "or" (sum) or "and" (product) of two label tensors, broadcast."""
        a, b = torch.broadcast_tensors(a, b)
        keys, inverse = torch.unique(a.flatten() * (1 << 31) + b.flatten(), return_inverse=True)
        found = [self._pair(kind, int(k) >> 31, int(k) & ((1 << 31) - 1)) for k in keys]
        return torch.tensor(found, dtype=torch.long)[inverse].reshape(a.shape)

    def _plan(self) -> list[tuple[str, Tensor, Tensor, Tensor]]:
        """Compound labels in an order in which they can be evaluated, grouped."""
        if self._steps is None:
            groups: dict[tuple[int, str], list[int]] = {}
            for index, kind in enumerate(self.kinds):
                if kind in ("or", "and"):
                    groups.setdefault((self.level[index], kind), []).append(index)
            self._steps = [
                (
                    kind,
                    torch.tensor(ids),
                    torch.tensor([self.left[i] for i in ids]),
                    torch.tensor([self.right[i] for i in ids]),
                )
                for (_, kind), ids in sorted(groups.items())
            ]
        return self._steps

    def evaluate(self, alive: Tensor) -> Tensor:
        """Fill in the compound labels of a boolean vector whose unit labels are set."""
        alive[DEAD], alive[ALIVE] = False, True
        for kind, ids, left, right in self._plan():
            alive[ids] = (alive[left] | alive[right]) if kind == "or" else (alive[left] & alive[right])
        return alive

    def trace_back(self, needed: Tensor) -> Tensor:
        """Mark what the marked compound labels are made of."""
        for _, ids, left, right in reversed(self._plan()):
            chosen = needed[ids]
            needed[left[chosen]] = True
            needed[right[chosen]] = True
        return needed

    def leaves(self, label: int) -> set[int]:
        """The units a label is made of."""
        found, stack = set(), [label]
        while stack:
            index = stack.pop()
            if self.kinds[index] == "unit":
                found.add(index)
            elif self.kinds[index] in ("or", "and"):
                stack += [self.left[index], self.right[index]]
        return found


@dataclass
class Projection:
    """One weight tensor between two populations.

    `labels` (out,) are its units; `pre` (in,) the labels at its input, `post` (out,) positions of its units
    among the channels of the population `population` (None: no neurons follow before the next synapse, the
    synapse's own rectified output stands in). Recurrent: `pre` and `labels` are those of the population
    itself. `shape` is the weight's, which `weight` has as long as the network is not cut down (see `shrinking`).
    """

    name: str
    module: nn.Module
    weight_name: str
    bias_name: str | None
    kind: str  # "conv", "linear" or "recurrent"
    labels: Tensor
    pre: Tensor
    groups: int = 1
    readout: bool = False
    population: str | None = None
    post: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    in_space: tuple[int, ...] = ()
    out_space: tuple[int, ...] = ()
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.weight.shape)

    @property
    def weight(self) -> Tensor:
        return getattr(self.module, self.weight_name)

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.module, self.bias_name) if self.bias_name else None

    @property
    def parameter_name(self) -> str:
        """Name of the weight in the network's state dict."""
        tail = f".{self.weight_name}"
        return self.name if self.name.endswith(tail) else self.name + tail

    def connections(self) -> Tensor:
        """Connections between two neurons of the unrolled network that each weight makes; broadcasts to the
        weight.

        A weight of a convolution is used at every output position whose input lies inside the (unpadded)
        input.
        """
        if not self.out_space:
            return torch.ones(1, 1, dtype=torch.long)
        module: Any = self.module
        counts = torch.ones((), dtype=torch.long)
        for d, (size_in, size_out) in enumerate(zip(self.in_space, self.out_space, strict=True)):
            kernel = torch.arange(module.kernel_size[d]) * module.dilation[d]
            pad = module.padding[d] if not isinstance(module.padding, str) else _same_padding(module, d)
            at = torch.arange(size_out)[None, :] * module.stride[d] - pad + kernel[:, None]
            inside = ((at >= 0) & (at < size_in)).sum(1)
            counts = counts[..., None] * inside
        return counts.reshape(1, 1, *counts.shape)


def _same_padding(module: Any, d: int) -> int:
    return 0 if module.padding == "valid" else module.dilation[d] * (module.kernel_size[d] - 1) // 2


@dataclass
class Norm:
    """A batch norm and the labels of its channels."""

    name: str
    module: nn.Module
    labels: Tensor


@dataclass
class Population:
    """A module of neurons: its channels' labels, the layout of its tensors, and whether it spikes.

    layout: "sequence" (T, B, C, ...), "folded" (T * B, C, ...) or "step" (B, C, ...) called once per time
    step.
    """

    name: str
    module: nn.Module
    labels: Tensor
    layout: str
    spiking: bool
    space: tuple[int, ...] = ()


@dataclass
class Structure:
    """A network as pruners see it; made by `find_structure`."""

    projections: dict[str, Projection]
    norms: dict[str, Norm]
    populations: dict[str, Population]
    labels: Labels
    kept: Tensor
    layouts: dict[str, str]
    spiking: bool
    order: list[str] = field(default_factory=list)

    @property
    def prunable(self) -> list[Projection]:
        """All projections but the read-out."""
        return [p for p in self.projections.values() if not p.readout]

    def with_units(self) -> list[Projection]:
        """Prunable projections whose units are their own (a recurrent one shares its population's)."""
        return [p for p in self.prunable if p.kind != "recurrent"]

    def alive_labels(self, units: dict[str, Tensor]) -> Tensor:
        """Which labels are alive, given the units' own state (out,) per projection.

        A unit none of whose inputs is alive carries nothing: it dies with them.
        """
        alive = torch.zeros(len(self.labels), dtype=torch.bool)
        own = [p for p in self.projections.values() if p.kind != "recurrent"]
        for p in own:
            alive[p.labels] = units[p.name].cpu() if p.name in units else True
        while True:
            self.labels.evaluate(alive)
            changed = False
            for p in own:
                fed = alive[p.pre].reshape(p.groups, -1).any(1)
                fed = fed.repeat_interleave(p.labels.numel() // p.groups)
                if p.readout:
                    continue
                now = alive[p.labels] & fed
                if not torch.equal(now, alive[p.labels]):
                    alive[p.labels] = now
                    changed = True
            if not changed:
                return alive

    def inputs_alive(self, projection: Projection, alive: Tensor) -> Tensor:
        """Which of the pre units each weight comes from is alive: (1 or out, in / groups)."""
        pre = alive[projection.pre]
        if projection.groups == 1:
            return pre[None]
        rows = pre.reshape(projection.groups, -1)
        return rows.repeat_interleave(projection.labels.numel() // projection.groups, 0)

    def needed_units(self, weights: dict[str, Tensor], alive: Tensor) -> dict[str, Tensor]:
        """Units from which anything still leads on, given which weights are alive (per projection)."""
        needed = torch.zeros(len(self.labels), dtype=torch.bool)
        needed[self.kept] = True
        for p in self.projections.values():
            if p.kind == "recurrent":
                continue
            used = weights[p.name].cpu().flatten(2).any(2) if len(p.shape) > 2 else weights[p.name].cpu()
            used = used.reshape(p.groups, -1, used.shape[1]).any(1).flatten()
            needed[p.pre[used]] = True
        self.labels.trace_back(needed)
        return {p.name: needed[p.labels] & alive[p.labels] for p in self.with_units()}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


class _Labeller(TorchFunctionMode):
    """Carries labels through every torch function outside synapses, batch norms and neurons."""

    _layout = _names(
        "reshape view flatten unflatten permute transpose swapaxes swapdims movedim moveaxis squeeze "
        "unsqueeze cat concatenate stack hstack vstack split chunk unbind tensor_split getitem narrow "
        "concat select expand t tile broadcast_to repeat repeat_interleave index_select roll flip view_as "
        "reshape_as expand_as"
    )
    _first_only = _names("getitem index_select narrow select view_as reshape_as expand_as")
    _same = _names(
        "relu relu6 leaky_relu gelu silu elu tanh abs neg sqrt square clone contiguous to float double half "
        "bfloat16 type detach cuda cpu requires_grad dropout dropout1d dropout2d dropout3d feature_dropout "
        "hardswish sin div truediv idiv floor round sign identity"
    )
    _sums = _names("add radd iadd sub isub maximum logical_or or ior")
    _products = _names("mul rmul imul multiply logical_and and iand")
    _fresh = _names("zeros zeros_like new_zeros empty empty_like new_empty")
    _silent = _names("ones_like full_like rand_like randn_like new_ones new_full new_tensor isnan isfinite")
    _spatial = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "lp_pool")

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.table = labels
        self.depth = 0
        self.kept: set[int] = set()
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, tensor: Tensor) -> Tensor:
        """Labels of a tensor; what was never labelled is alive."""
        entry = self._known.get(id(tensor))
        if entry is None or entry[0] is not tensor:
            return torch.full(tensor.shape, ALIVE, dtype=torch.long)
        return entry[1]

    def put(self, tensor: Tensor, labels: Tensor) -> None:
        # The tensor is kept too: a freed one's id could be given to another.
        self._known[id(tensor)] = (tensor, labels)

    def knows(self, tensor: Any) -> bool:
        return (
            isinstance(tensor, Tensor) and id(tensor) in self._known and self._known[id(tensor)][0] is tensor
        )

    def keep(self, tensor: Tensor) -> None:
        self.kept.update(torch.unique(self.of(tensor)).tolist())

    def channels(self, tensor: Tensor, axis: int) -> Tensor:
        """One label per channel; a channel of mixed origin counts as alive."""
        rows = self.of(tensor).movedim(axis, 0).flatten(1) if tensor.dim() > 1 else self.of(tensor)[:, None]
        low, high = rows.amin(1), rows.amax(1)
        mixed = low != high
        if mixed.any():
            self.kept.update(torch.unique(rows[mixed]).tolist())
        return torch.where(mixed, torch.full_like(low, ALIVE), low)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.depth == 0:
            with torch._C.DisableTorchFunction():
                self._label(func, args, kwargs, out)
        return out

    def _label(self, func: Callable, args: tuple, kwargs: dict, out: Any) -> None:
        name = getattr(func, "__name__", "").strip("_")
        if name == "setitem":
            if self.knows(args[0]) and isinstance(args[2], Tensor):
                labels = self.of(args[0]).clone()
                labels[args[1]] = self.of(args[2])
                self.put(args[0], labels)
            return
        outputs = [o for o in _tensors(out)]
        if not outputs or (name in self._silent):
            return
        if name in self._fresh:
            for o in outputs:
                self.put(o, torch.full(o.shape, DEAD, dtype=torch.long))
            return
        tracked = [t for t in _tensors((args, kwargs)) if self.knows(t)]
        if not tracked:
            return
        result = self._result(name, func, args, kwargs, outputs)
        if result is None:
            for t in tracked:
                self.keep(t)
            result = [torch.full(o.shape, ALIVE, dtype=torch.long) for o in outputs]
        for o, label in zip(outputs, result, strict=True):
            self.put(o, label)

    def _result(
        self, name: str, func: Callable, args: tuple, kwargs: dict, outs: list[Tensor]
    ) -> list[Tensor] | None:
        first = args[0] if args else None
        shape = outs[0].shape
        if name in self._layout or (
            name == "get" and isinstance(first, Tensor) and outs[0].numel() == first.numel()
        ):
            replace = self._swap_first if name in self._first_only else self._swap
            made = func(*replace(args), **(kwargs if name in self._first_only else self._swap(kwargs)))
            return list(_tensors(made))
        if not isinstance(first, Tensor):
            pair = [a for a in args if isinstance(a, Tensor)]
            if name in self._products and len(pair) == 1:
                return [self.of(pair[0])]
            if name in ("add", "radd") and len(pair) == 1 and first == 0:
                return [self.of(pair[0])]
            return None
        if name in self._same and self.of(first).shape == shape:
            return [self.of(first)]
        other = args[1] if len(args) > 1 else kwargs.get("other")
        if name in self._sums:
            if isinstance(other, Tensor):
                return [self.table.combine("or", self.of(first), self.of(other)).expand(shape)]
            return [self.of(first)] if other == 0 else None
        if name in self._products:
            if isinstance(other, Tensor) and not self.knows(first) and first.numel() == 1:
                return [self.of(other)]
            if isinstance(other, Tensor) and (self.knows(other) or other.numel() > 1):
                return [self.table.combine("and", self.of(first), self.of(other)).expand(shape)]
            return [self.of(first)]
        if name in ("sum", "mean", "amax"):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            dims = tuple(range(first.dim())) if dim is None else dim
            keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
            low = torch.amin(self.of(first), dim=dims, keepdim=keep)
            high = torch.amax(self.of(first), dim=dims, keepdim=keep)
            if not torch.equal(low, high):
                self.keep(first)
            return [torch.where(low == high, low, torch.full_like(low, ALIVE))]
        plain = name.removesuffix("_with_indices")
        if plain[:-2].startswith(self._spatial) and plain[-1] == "d" and plain[-2].isdigit():
            return [self._per_channel(first, o, first.dim() - int(plain[-2]) - 1) for o in outs]
        if name == "interpolate" or (name == "pad" and _pads_space_with_zero(first, args, kwargs)):
            return [
                self._per_channel(
                    first, outs[0], 1 if name == "interpolate" else _unpadded(args, kwargs, first)
                )
            ]
        return None

    def _per_channel(self, source: Tensor, out: Tensor, axis: int) -> Tensor:
        channels = self.channels(source, axis)
        return channels.reshape([-1 if d == axis else 1 for d in range(out.dim())]).expand(out.shape)

    def _swap(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.of(value)
        if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
            return type(value)(self._swap(v) for v in value)
        if isinstance(value, dict):
            return {k: self._swap(v) for k, v in value.items()}
        return value

    def _swap_first(self, args: tuple) -> tuple:
        # Labels live on the CPU, and so must what indexes them.
        return (self.of(args[0]), *_on_cpu(args[1:]))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, tuple):
        return tuple(_on_cpu(v) for v in value)
    return value


def _pad_axes(args: tuple, kwargs: dict) -> int:
    pad = kwargs.get("pad", args[1] if len(args) > 1 else ())
    return len(pad) // 2


def _unpadded(args: tuple, kwargs: dict, first: Tensor) -> int:
    return first.dim() - _pad_axes(args, kwargs) - 1


def _pads_space_with_zero(first: Tensor, args: tuple, kwargs: dict) -> bool:
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    value = kwargs.get("value", args[3] if len(args) > 3 else None)
    return (mode != "constant" or not value) and _pad_axes(args, kwargs) <= first.dim() - 2


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A network in evaluation mode for a while."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


def call_network(model: nn.Module, sample: Tensor, loop: bool) -> Any:
    """Run a network on a sample; `loop`: it takes one time step at a time and returns (output, state)."""
    if not loop:
        return model(sample)
    outputs, state = [], None
    for x in sample:
        result = model(x, state) if state is not None else model(x)
        if isinstance(result, tuple):
            result, state = result[0], result[1]
        outputs.append(result)
    return outputs


def _finite_sample(sample: Tensor) -> None:
    if not isinstance(sample, Tensor) or sample.dim() < 2:
        raise InputError(
            f"sample_input: expected a tensor (steps, batch, ...), found {type(sample).__name__}"
        )
    if not torch.isfinite(sample).all():
        raise InputError("sample_input: holds NaN or infinite values, expected finite event counts")


def find_structure(
    model: nn.Module,
    sample_input: Tensor,
    *,
    time: bool = True,
    loop: bool = False,
    ignore: Iterable[str] = (),
) -> Structure:
    """Find projections, batch norms and populations by running `model` once, in evaluation mode, on a sample.

    sample_input: (T, B, ...), or (B, ...) with `time=False` (an artificial network on still images). loop:
    the network is called once per time step with (B, ...) and passes its state on (Norse's
    `SequentialState`). ignore: names of modules to leave alone. Raises InputError for a layer type that is
    not known, and for a network with nothing to prune.
    """
    _finite_sample(sample_input)
    sample = sample_input.detach()
    batch_axis = 1 if time else 0
    # Two samples, so that folded (T * B, ...) and unfolded (T, B, ...) tensors can be told apart.
    sample = sample.narrow(batch_axis, 0, min(2, sample.shape[batch_axis]))
    if sample.shape[batch_axis] == 1:
        sample = torch.cat([sample, sample], batch_axis)
    steps, batch = (sample.shape[0], sample.shape[1]) if time else (1, sample.shape[0])

    names = {module: name for name, module in model.named_modules()}
    ignored = tuple(ignore)
    table = Labels()
    tracer = _Labeller(table)
    projections: dict[str, Projection] = {}
    norms: dict[str, Norm] = {}
    populations: dict[str, Population] = {}
    layouts: dict[str, str] = {}
    order: list[str] = []
    stack: list[nn.Module] = []
    inner: dict[str, list[nn.Module]] = {}

    def layout_of(x: Tensor) -> str:
        if x.shape[0] == steps * batch:
            return "folded"
        if x.dim() > 2 and x.shape[0] == steps and x.shape[1] == batch:
            return "sequence"
        if x.shape[0] == batch:
            return "step"
        return "unknown"

    def spread(labels: Tensor, out: Tensor, axis: int) -> Tensor:
        axis %= out.dim()
        return labels.reshape([-1 if d == axis else 1 for d in range(out.dim())]).expand(out.shape)

    def enter(module: nn.Module, args: tuple) -> None:
        tracer.depth += 1
        stack.append(module)

    def leave_synapse(module: Any, args: tuple, out: Tensor) -> None:
        tracer.depth -= 1
        stack.pop()
        name = names[module]
        if tracer.depth:
            inner.setdefault(names[stack[0]], [])
            if module not in inner[names[stack[0]]]:
                inner[names[stack[0]]].append(module)
            return
        x = args[0]
        convolution = isinstance(module, _CONVOLUTIONS)
        axis = x.dim() - len(module.kernel_size) - 1 if convolution else x.dim() - 1
        pre = tracer.channels(x, axis)
        if name in projections:
            known = projections[name]
            known.pre = table.combine("or", known.pre, pre)
        else:
            projections[name] = Projection(
                name=name,
                module=module,
                weight_name="weight",
                bias_name="bias" if module.bias is not None else None,
                kind="conv" if convolution else "linear",
                labels=table.units(module.weight.shape[0]),
                pre=pre,
                groups=module.groups if convolution else 1,
                in_space=tuple(x.shape[axis + 1 :]) if convolution else (),
                out_space=tuple(out.shape[axis + 1 :]) if convolution else (),
            )
            layouts[name] = layout_of(x)
            order.append(name)
        tracer.put(out, spread(projections[name].labels, out, axis))

    def leave_norm(module: nn.Module, args: tuple, out: Tensor) -> None:
        tracer.depth -= 1
        stack.pop()
        if tracer.depth:
            return
        name, channels = names[module], tracer.channels(args[0], 1)
        if name in norms:
            norms[name].labels = table.combine("or", norms[name].labels, channels)
        else:
            norms[name] = Norm(name, module, channels)
            order.append(name)
        tracer.put(out, tracer.of(args[0]))

    def leave_neuron(module: Any, args: tuple, result: Any) -> None:
        tracer.depth -= 1
        stack.pop()
        if tracer.depth:
            return
        x, out = args[0], next(_tensors(result))
        name = names[module]
        layout = layout_of(x)
        axis = 2 if layout == "sequence" else 1
        first_call = name not in populations
        weights = getattr(module, "input_weights", None)
        if isinstance(weights, nn.Parameter) and weights.dim() == 2:
            if first_call:
                pre = tracer.channels(x, axis)
                projections[f"{name}.input_weights"] = Projection(
                    name=f"{name}.input_weights",
                    module=module,
                    weight_name="input_weights",
                    bias_name=None,
                    kind="linear",
                    labels=table.units(weights.shape[0]),
                    pre=pre,
                )
                layouts[f"{name}.input_weights"] = layout
            labels = spread(projections[f"{name}.input_weights"].labels, out, axis)
        else:
            labels = tracer.of(x)
            tracer.depth += 1
            stack.append(module)
            restless = first_call and _spikes_at_rest(module, x)
            tracer.depth -= 1
            stack.pop()
            if restless:
                tracer.keep(x)
                labels = torch.full(x.shape, ALIVE, dtype=torch.long)
        if labels.shape != out.shape:
            tracer.keep(x)
            labels = torch.full(out.shape, ALIVE, dtype=torch.long)
        tracer.put(out, labels)
        channels = tracer.channels(out, axis)
        if first_call:
            spiking = not isinstance(module, _RECTIFIERS)
            space = tuple(out.shape[axis + 1 :])
            populations[name] = Population(name, module, channels, layout, spiking, space)
            order.append(name)
        else:
            populations[name].labels = table.combine("or", populations[name].labels, channels)

    handles = []
    try:
        for name, module in model.named_modules():
            if name in ignored or any(name.startswith(f"{i}.") for i in ignored):
                continue
            leave: Callable
            if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                leave = leave_synapse
            elif isinstance(module, _NORMS):
                leave = leave_norm
            elif is_neuron(module):
                leave = leave_neuron
            else:
                own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
                # Not a neuron and not a synapse: `Scale`, which works element by element.
                ours = type(module).__module__ == "dpap_neuro.neurons"
                # A container of one's own may hold a weight; one of PyTorch's (attention) is a layer.
                layer = type(module).__module__.startswith("torch.nn") or not list(module.children())
                if own and layer and not ours:
                    raise InputError(
                        f"layer {name or 'model'}: found {type(module).__name__}, expected a convolution, "
                        "Linear, batch norm, pooling, Flatten, Dropout or neurons (or name it in `ignore`)"
                    )
                continue
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        with evaluating(model), torch.no_grad(), tracer:
            tracer.put(sample, torch.full(sample.shape, ALIVE, dtype=torch.long))
            output = call_network(model, sample, loop)
            shown: set[int] = set()
            for tensor in _tensors(output):
                tracer.keep(tensor)
                shown.update(torch.unique(tracer.of(tensor)).tolist())
    finally:
        for handle in handles:
            handle.remove()

    if not projections:
        raise InputError("network: found no Conv1d/2d/3d or Linear layer, expected at least two")
    _add_recurrent(projections, populations, inner, names, layouts)
    _resolve(projections, populations, table, shown)
    structure = Structure(
        projections=projections,
        norms=norms,
        populations=populations,
        labels=table,
        kept=torch.tensor(sorted(tracer.kept | table.aligned), dtype=torch.long),
        order=order,
        layouts=layouts,
        spiking=any(p.spiking for p in populations.values()),
    )
    if not structure.prunable:
        raise InputError(
            "network: found only a read-out layer, expected a layer before it that can be pruned"
        )
    return structure


def _spikes_at_rest(module: nn.Module, x: Tensor) -> bool:
    """Whether a population answers a silent input (then a channel without input is not silent)."""
    out = next(_tensors(module.forward(torch.zeros_like(x))))
    return bool((out != 0).any())


def _add_recurrent(
    projections: dict[str, Projection],
    populations: dict[str, Population],
    inner: dict[str, list[nn.Module]],
    names: dict[nn.Module, str],
    layouts: dict[str, str],
) -> None:
    for name, population in populations.items():
        found: list[tuple[str, nn.Module, str, str | None]] = []
        weights = getattr(population.module, "recurrent_weights", None)
        if isinstance(weights, nn.Parameter):
            found.append((f"{name}.recurrent_weights", population.module, "recurrent_weights", None))
        for module in inner.get(name, []):
            bias = "bias" if getattr(module, "bias", None) is not None else None
            found.append((names[module], module, "weight", bias))
        for label, module, weight, bias in found:
            size = population.labels.numel()
            if tuple(getattr(module, weight).shape[:2]) != (size, size):
                continue
            projections[label] = Projection(
                name=label,
                module=module,
                weight_name=weight,
                bias_name=bias,
                kind="recurrent",
                labels=population.labels,
                pre=population.labels,
                population=name,
                post=torch.arange(size),
            )
            layouts[label] = population.layout


def _resolve(
    projections: dict[str, Projection], populations: dict[str, Population], table: Labels, shown: set[int]
) -> None:
    """Which population follows each projection, and which projections nothing follows (read-outs)."""
    where: dict[int, list[tuple[str, int]]] = {}
    for name, population in populations.items():
        for channel, label in enumerate(population.labels.tolist()):
            for leaf in table.leaves(label):
                where.setdefault(leaf, []).append((name, channel))
    fed: set[int] = set()
    for p in projections.values():
        if p.kind != "recurrent":
            for label in set(p.pre.tolist()):
                fed |= table.leaves(label)
    last = [
        p for p in projections.values() if p.kind != "recurrent" and not fed.intersection(p.labels.tolist())
    ]
    seen = set().union(*(table.leaves(label) for label in shown)) if shown else set()
    for p in [p for p in last if seen.intersection(p.labels.tolist())] or last:
        p.readout = True
    for p in projections.values():
        if p.kind == "recurrent":
            continue
        units = p.labels.tolist()
        for name in populations:
            channels = [next((c for n, c in where.get(u, []) if n == name), -1) for u in units]
            if min(channels) >= 0:
                p.population, p.post = name, torch.tensor(channels)
                break
