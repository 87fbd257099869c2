"""Statistics that importance is made of, collected by forward hooks while the network trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.pruning.labels import tensors
from dpap_neuro.pruning.plasticity import (
    activity,
    activity_of_activations,
    add_bcm,
    bin_share,
    decay_weights,
    delayed,
    sliding_threshold,
    spine_size,
    sum_over_space,
    trace_step,
)
from dpap_neuro.pruning.shrinking import Cut
from dpap_neuro.pruning.structure import Projection, Structure


def reduce_over_ranks(tensor: Tensor) -> Tensor:
    """Sum over all ranks of `torch.distributed`, in place; nothing where it is not initialised."""
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def average_over_ranks(tensor: Tensor) -> Tensor:
    """Mean over all ranks, in place."""
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        reduce_over_ranks(tensor).div_(dist.get_world_size())
    return tensor


def is_finite(*tensors: Tensor) -> bool:
    """Whether none holds NaN or infinite values; of several on a GPU it is waited for once."""
    if tensors[0].device.type == "cpu":
        # A sum over finite values may be infinite, one over others is never finite, and it takes a tenth of the time.
        return all(bool(torch.isfinite(t.sum())) or bool(torch.isfinite(t).all()) for t in tensors)
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())


def finite_or(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor, or `other` where it holds NaN or infinite values anywhere; a GPU is not waited for."""
    if tensor.device.type == "cpu":
        return tensor if is_finite(tensor) else other
    return torch.where(torch.isfinite(tensor).all(), tensor, other)


def check_finite(name: str, what: str, tensor: Tensor) -> None:
    """Raises InputError for a tensor of a layer that holds NaN or infinite values."""
    if not is_finite(tensor):
        raise InputError(
            f"layer {name}: its {what} holds NaN or infinite values, expected finite data and loss"
        )


def _together(parts: list[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> list[Any]:
    """Activities (B, channels) of the parts of one batch, whose gradients were accumulated, as of that batch: the sliding
    threshold moves once."""
    if len(parts) < 2 or any(
        a.keys() != b.keys() for part in parts for a, b in zip(part, parts[0], strict=True)
    ):
        return list(parts)
    return [tuple({key: torch.cat([part[i][key] for part in parts]) for key in parts[0][i]} for i in (0, 1))]


class _Accumulator:
    """Activity of one tensor stream within one batch, whole sequences or step by step."""

    def __init__(self) -> None:
        self.q: Tensor | None = None
        self.before: Tensor | None = None
        self.steps = 0


@dataclass(frozen=True)
class _Present:
    """What a network that is cut down still has of a projection.

    rows: its units; columns: its inputs; post: positions of its units among the channels of its population; groups.
    """

    rows: Tensor
    columns: Tensor
    post: Tensor
    groups: int


class Statistics:
    """BCM terms M (out, in / groups) and accumulated activity A (channels,) over the run.

    All of the whole network: what `shrink` says is cut away stays as it was, as if it were silent. `absorb` is called once
    per batch, after the optimizer step; `end_epoch` reduces M over ranks. Nothing is recorded while the network is in
    evaluation mode.
    """

    def __init__(self, structure: Structure, *, delta: float, loop: bool, time: bool, bins: int = 0) -> None:
        self.structure = structure
        self.delta = delta
        self.loop = loop
        self.time = time
        self.bins = bins
        self.kept_bins: Tensor | None = None
        # Whether all that was seen since the last `absorb` are parts of one batch, not batches.
        self.in_parts = False
        self.samples = 0
        self.totals: dict[str, Tensor] = {}
        self.m: dict[str, Tensor] = {}
        self._m_new: dict[str, Tensor] = {}
        self._bins_new: dict[str, Tensor] = {}
        self.bin_counts: dict[str, Tensor] = {}
        self._posts: dict[str, Tensor] = {}
        self._pres: dict[str, Tensor] = {}
        self._running: dict[str, _Accumulator] = {}
        self._pending: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self._handles: list = []
        self._turn: dict[str, int] = {}
        self._passes_state = False
        self._last: tuple[Tensor, Tensor, int] | None = None
        self._decays: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}
        self._shape = (1, 1)
        self._recording = False
        self._channels: dict[str, Tensor] = {}
        self._present: dict[str, _Present] = {}
        for p in structure.prunable:
            device = p.weight.device
            rows = p.shape[0]
            columns = p.labels.numel() if p.kind == "recurrent" else p.shape[1]
            if not (p.kind == "recurrent" and len(p.shape) > 2):
                dtype = torch.float64 if p.weight.dtype == torch.float64 else torch.float32
                self.m[p.name] = torch.zeros(rows, columns, device=device, dtype=dtype)
            key = self.post_key(p)
            size = structure.populations[key].labels.numel() if key in structure.populations else rows
            self.totals[key] = torch.zeros(size, dtype=torch.float64, device=device)
            if bins and key in structure.populations:
                self.bin_counts[key] = torch.zeros(bins, size, dtype=torch.float64, device=device)
                self._bins_new[key] = torch.zeros_like(self.bin_counts[key])
        self.shrink(None)

    def shrink(self, cut: Cut | None) -> None:
        """From now on the network has what `cut` leaves of it (None: all); between epochs."""
        populations = self.structure.populations
        for p in self.structure.prunable:
            device = p.weight.device
            key = self.post_key(p)
            size = self.totals[key].numel()
            rows = torch.arange(p.shape[0]) if cut is None else cut.rows[p.name]
            columns = torch.arange(p.pre.numel()) if cut is None else cut.columns[p.name]
            channels = rows if key not in populations else torch.arange(size)
            if cut is not None and key in populations:
                channels = cut.channels[key]
            place = torch.zeros(size, dtype=torch.long)
            place[channels] = torch.arange(channels.numel())
            post = place[p.post[rows] if p.post.numel() else rows]
            groups = p.groups if cut is None else cut.groups[p.name]
            self._channels[key] = channels.to(device)
            self._present[p.name] = _Present(rows.to(device), columns.to(device), post.to(device), groups)
            if p.name in self.m:
                width = columns.numel() // groups
                self._m_new[p.name] = torch.zeros(
                    rows.numel(), width, device=device, dtype=self.m[p.name].dtype
                )

    @staticmethod
    def post_key(p: Projection) -> str:
        return p.population if p.population is not None else f"{p.name} (output)"

    # collecting

    def attach(self, model: nn.Module) -> None:
        self._handles.append(model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(model.register_forward_hook(self._end))
        recurrent = {p.population: p for p in self.structure.prunable if p.kind == "recurrent"}
        populations = self.structure.populations
        for name, turns in self.structure.turns.items():
            if self.totals.keys().isdisjoint(turns):
                continue

            def spikes(
                _module: nn.Module, _args: Any, result: Any, name: str = name, turns: list[str] = turns
            ) -> None:
                if not self._recording:
                    return
                turn = self._turn.get(name, 0)
                self._turn[name] = turn + 1
                key = turns[turn % len(turns)]
                if key in self.totals:
                    out = next(tensors(result)).detach()
                    self._population(key, populations[key].layout, out, recurrent.get(key))

            self._handles.append(populations[turns[0]].module.register_forward_hook(spikes))
        for p in self.structure.prunable:
            if p.kind == "recurrent":
                continue
            layout, features_last = self.structure.layouts[p.name], p.kind == "linear"
            if layout == "unknown":
                raise InputError(
                    f"layer {p.name}: its input begins neither with steps nor with samples, expected (steps, samples, "
                    "...), (steps * samples, ...) or, called once per step, (samples, ...)"
                )

            def inputs(
                _module: nn.Module,
                args: Any,
                kwargs: Any,
                key: str = p.name,
                layout: str = layout,
                features_last: bool = features_last,
            ) -> None:
                if self._recording:
                    self._input(key, layout, next(tensors((args, kwargs))).detach(), features_last)

            self._handles.append(p.module.register_forward_pre_hook(inputs, with_kwargs=True))
            if p.population is None:

                def outputs(
                    _module: nn.Module,
                    _args: Any,
                    out: Tensor,
                    key: str = self.post_key(p),
                    layout: str = layout,
                    features_last: bool = features_last,
                ) -> None:
                    if self._recording:
                        sums = self._channel_sums(out.detach().relu(), layout, features_last)
                        self._add(self._posts, key, layout, sums)

                self._handles.append(p.module.register_forward_hook(outputs))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._recording = module.training
        x, *state = tensors((args, kwargs))
        if self._recording and state:
            self._passes_state = True
        elif self._recording and self.loop and self._passes_state:
            # Another sequence begins before `absorb`: gradients are accumulated over several.
            self._finish()
        self._turn = {}
        if not self.time or self.loop:
            self._shape = (1, x.shape[0])
        else:
            self._shape = (x.shape[0], x.shape[1])
        self._last = None

    def _end(self, *_: Any) -> None:
        if self._recording and not self.loop:
            self._finish()
        self._recording = False
        self._last = None

    def _channel_sums(self, x: Tensor, layout: str, features_last: bool = False) -> Tensor:
        """(T, B, C) of whole sequences, (B, C) of single steps; summed over space.

        features_last: channels are the last axis, as a Linear has them, also where others lie between.
        """
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        if layout == "batch first":
            x, layout = x.transpose(0, 1), "sequence"
        if features_last:
            x = x.movedim(-1, 2 if layout == "sequence" else 1)
        if layout == "sequence":
            return sum_over_space(x, 3)
        x = sum_over_space(x, 2)
        return x if layout == "step" else x.reshape(*self._shape, x.shape[1])

    def _add(self, target: dict[str, Tensor], key: str, layout: str, sums: Tensor) -> None:
        if layout == "step":
            kind = "post " if target is self._posts else "pre "
            running = self._running.setdefault(kind + key, _Accumulator())
            running.before = running.q
            if running.q is None:
                running.q = sums.clone()
            else:
                running.q = trace_step(running.q, sums, self.delta if self.structure.spiking else 1.0)
            running.steps += 1
            return
        x = activity(sums, self._decay(sums)) if self.structure.spiking else activity_of_activations(sums)
        target[key] = target[key] + x if key in target else x

    def _decay(self, sums: Tensor) -> Tensor:
        """Weights of the trace for sums of as many steps; made anew for each they would take a tenth of all the time here."""
        key = len(sums), sums.dtype, sums.device
        if key not in self._decays:
            self._decays[key] = decay_weights(len(sums), self.delta, like=sums)
        return self._decays[key]

    def _population(self, key: str, layout: str, out: Tensor, recurrent: Projection | None) -> None:
        sums = self._channel_sums(out, layout)
        self._last = (out, sums, out._version)
        if self.bins and key in self._bins_new:
            self._count_bins(key, layout, sums)
        if recurrent is not None and layout != "step":
            # The recurrent synapse sees the spikes of one step earlier.
            self._add(self._pres, recurrent.name, layout, delayed(sums))
        self._add(self._posts, key, layout, sums)
        if recurrent is not None and layout == "step":
            running = self._running[f"post {key}"]
            before = running.before if running.before is not None else torch.zeros_like(sums)
            lagged = self._running.setdefault(f"pre {recurrent.name}", _Accumulator())
            lagged.q, lagged.steps = before, running.steps

    def _input(self, key: str, layout: str, x: Tensor, features_last: bool) -> None:
        if (
            self._last is not None
            and layout != "step"
            and x.data_ptr() == self._last[0].data_ptr()
            and x.numel() == self._last[0].numel()
            # Nothing was added in place since.
            and x._version == self._last[2]
            and x.shape[1] == self._last[1].shape[2]
        ):
            sums = self._last[1]
        else:
            sums = self._channel_sums(x, layout, features_last)
        self._add(self._pres, key, layout, sums)

    def _count_bins(self, key: str, layout: str, sums: Tensor) -> None:
        index = self.kept_bins if self.kept_bins is not None else torch.arange(self.bins)
        if layout == "step":
            steps = self._running[f"post {key}"].steps if f"post {key}" in self._running else 0
            if steps < index.numel():
                self._bins_new[key][int(index[steps])].index_add_(
                    0, self._channels[key], sums.sum(0).double()
                )
                return
        shown = steps + 1 if layout == "step" else sums.shape[0]
        if shown != index.numel():
            raise InputError(
                f"time bins: the network was shown {shown} steps, expected the {index.numel()} kept"
            )
        self._bins_new[key].index_put_(
            (index.to(sums.device)[:, None], self._channels[key]), sums.sum(1).double(), accumulate=True
        )

    def _finish(self) -> None:
        """Close one batch: turn running traces into activities and queue them."""
        for label, running in self._running.items():
            kind, _, key = label.partition(" ")
            if running.q is not None:
                (self._posts if kind == "post" else self._pres)[key] = running.q / running.steps
        self._running = {}
        if self._posts:
            self._pending.append((self._posts, self._pres))
        self._posts, self._pres = {}, {}

    # accumulating

    @torch.no_grad()
    def absorb(self) -> None:
        """Add the batches seen since the last call to M, A and the sample count."""
        if self.loop:
            self._finish()
        for posts, pres in _together(self._pending) if self.in_parts else self._pending:
            missing = [
                p.name for p in self.structure.prunable if p.name not in pres or self.post_key(p) not in posts
            ]
            if missing:
                raise InputError(
                    f"layer {missing[0]}: took no part in the forward pass, expected the attached network"
                )
            for p in self.structure.prunable:
                if p.name in self._m_new:
                    post = posts[self.post_key(p)]
                    post = post[:, self._present[p.name].post]
                    m, dtype = self._m_new[p.name], self.m[p.name].dtype
                    theta, pre = self.theta(p, len(post)).to(dtype), pres[p.name].to(dtype)
                    add_bcm(m, post.to(dtype), theta, pre, self._present[p.name].groups)
            some = next(iter(posts.values()))
            first = torch.tensor([some.shape[0]], dtype=torch.float64, device=some.device)
            sums = torch.cat([first, *[posts[k].sum(0).double() for k in self.totals]])
            reduce_over_ranks(sums)
            self.samples += int(sums[0])
            sizes = [self._channels[key].numel() for key in self.totals]
            for (key, total), part in zip(self.totals.items(), sums[1:].split(sizes), strict=True):
                total.index_add_(0, self._channels[key], part)
            self.took_in(posts)
        self._pending.clear()

    def took_in(self, posts: dict[str, Tensor]) -> None:
        """For subclasses: once per batch, behind M; posts: activities (batch, channels) of each population."""

    def theta(self, p: Projection, batch: int = 0) -> Tensor:
        """Sliding threshold of a projection's units that the network has, (out,) or, for a batch of so many, (batch, out)."""
        key, present = self.post_key(p), self._present[p.name]
        return sliding_threshold(self.totals[key][self._channels[key][present.post]], self.samples)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Take in what is pending and sum M and bin counts over ranks."""
        self.absorb()
        for p in self.structure.prunable:
            if p.name not in self.m:
                continue
            name, new, present = p.name, reduce_over_ranks(self._m_new[p.name]), self._present[p.name]
            if new.shape == self.m[name].shape:
                self.m[name] += new
            else:
                # Within a group all inputs stay.
                columns = present.columns if p.groups == 1 else torch.arange(new.shape[1], device=new.device)
                self.m[name].index_put_((present.rows[:, None], columns), new, accumulate=True)
            new.zero_()
            check_finite(name, "activity", self.m[name])
        for name, new in self._bins_new.items():
            self.bin_counts[name] += reduce_over_ranks(new)
            new.zero_()
        for key, total in self.totals.items():
            check_finite(key, "activity", total)

    def silent(self) -> list[str]:
        """Populations that never were active."""
        return [key for key, total in self.totals.items() if not (total > 0).any()]

    # what importance is made of

    def accumulated_activity(self, p: Projection) -> Tensor:
        """A of a projection's units, (out,)."""
        total = self.totals[self.post_key(p)]
        return (total[p.post.to(total.device)] if p.post.numel() else total).float()

    def spines(self, p: Projection) -> Tensor:
        """D of a projection's units, (out,)."""
        return spine_size(self.m[p.name], self.accumulated_activity(p))

    def bin_importance(self) -> Tensor:
        """z_t (bins,): sum over layers and neurons of D_i s_i[t], each layer scaled to the same total."""
        result = torch.zeros(self.bins, dtype=torch.float64)
        for p in self.structure.with_units():
            key = self.post_key(p)
            if key not in self.bin_counts or p.name not in self.m:
                continue
            counts = self.bin_counts[key]
            if p.post.numel():
                counts = counts[:, p.post.to(counts.device)]
            result += bin_share(counts, self.spines(p).double()).cpu()
        return result.float()

    # state

    def state_dict(self) -> dict[str, Tensor]:
        state = {"samples": torch.tensor(self.samples)}
        for kind, values in self._groups().items():
            state.update({f"{kind}/{k}": v.clone() for k, v in values.items()})
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises InputError for the statistics of another network."""
        groups = self._groups()
        expected = {"samples"} | {f"{kind}/{k}" for kind, values in groups.items() for k in values}
        for key in expected - set(state):
            raise InputError(f"statistics: {key} is missing, expected a checkpoint of this network")
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if key not in expected:
                raise InputError(f"statistics: found {key}, expected a checkpoint of this network")
            if kind != "samples" and groups[kind][name].shape != value.shape:
                expected_shape = tuple(groups[kind][name].shape)
                raise InputError(f"statistics {key}: found {tuple(value.shape)}, expected {expected_shape}")
        self.samples = int(state["samples"])
        for kind, values in groups.items():
            for name, value in values.items():
                value.copy_(state[f"{kind}/{name}"])

    def _groups(self) -> dict[str, dict[str, Tensor]]:
        return {"m": self.m, "a": self.totals, "bins": self.bin_counts}
