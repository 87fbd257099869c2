"""Labels on tensors: which unit each element comes from, carried through every operation of a forward pass.

Additions and products make compound labels, concatenations, flattening and indexing move them. An operation that is not
understood makes everything behind it count as alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DEAD, ALIVE = 0, 1


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

    def _in_order(self) -> list[tuple[str, Tensor, Tensor, Tensor]]:
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
        for kind, ids, left, right in self._in_order():
            alive[ids] = (alive[left] | alive[right]) if kind == "or" else (alive[left] & alive[right])
        return alive

    def trace_back(self, needed: Tensor) -> Tensor:
        """Mark what the marked compound labels are made of."""
        for _, ids, left, right in reversed(self._in_order()):
            chosen = needed[ids]
            needed[left[chosen]] = True
            needed[right[chosen]] = True
        return needed

    def related(self, a: Tensor, b: Tensor) -> bool:
        """Whether two label tensors have a unit in common, or one of them has none."""
        if torch.equal(a, b):
            return True
        first, second = (set().union(*map(self.leaves, set(t.tolist()))) for t in (a, b))
        return not first or not second or not first.isdisjoint(second)

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


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Labeller(TorchFunctionMode):
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
        outputs = [o for o in tensors(out)]
        if not outputs or (name in self._silent):
            return
        if name in self._fresh:
            for o in outputs:
                self.put(o, torch.full(o.shape, DEAD, dtype=torch.long))
            return
        tracked = [t for t in tensors((args, kwargs)) if self.knows(t)]
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
            return list(tensors(made))
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


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from tensors(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from tensors(v)
