"""Finding what a network is made of: it is run once on a small sample, with hooks on its layers.

Every tensor on the way carries labels (`labels`): which unit each of its elements comes from, so that branching networks
and loops over time need nothing special. (`torch.fx` would read the same from the source, but not through loops over time
steps.) An operation that is not understood makes everything behind it count as alive: nothing is then removed that might
matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.foreign import STEPS_FIRST, framework_of, unchanged
from dpap_neuro.networks.kinds import CONVOLUTIONS, NORMS, RECTIFIERS, is_neuron
from dpap_neuro.networks.neurons import Scale
from dpap_neuro.pruning.labels import ALIVE, Labeller, Labels, tensors
from dpap_neuro.pruning.structure import (
    Norm,
    Population,
    Projection,
    Structure,
    call_network,
    evaluating,
)


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
    not known, for weights that are shared between layers or computed from others, for a sample that the network does not
    take, and for a network with nothing to prune.
    """
    _finite_sample(sample_input)
    sample = sample_input.detach()
    batch_axis = 1 if time else 0
    # Two samples, so that merged (T * B, ...) and separate (T, B, ...) axes can be told apart.
    sample = sample.narrow(batch_axis, 0, min(2, sample.shape[batch_axis]))
    if sample.shape[batch_axis] == 1:
        sample = torch.cat([sample, sample], batch_axis)
    steps, batch = (sample.shape[0], sample.shape[1]) if time else (1, sample.shape[0])
    finder = _Finder(model, steps, batch, whole=time and not loop)
    try:
        finder.watch(tuple(ignore))
        finder.run(sample, loop, tuple(sample_input.shape), "(steps, batch, ...)" if time else "(batch, ...)")
    finally:
        finder.unwatch()
    return finder.structure()


def _finite_sample(sample: Tensor) -> None:
    if not isinstance(sample, Tensor) or sample.dim() < 2:
        raise InputError(
            f"sample_input: expected a tensor (steps, batch, ...), found {type(sample).__name__}"
        )
    if not sample.numel():
        raise InputError(f"sample_input: found shape {tuple(sample.shape)}, expected at least one sample")
    if not torch.isfinite(sample).all():
        raise InputError("sample_input: holds NaN or infinite values, expected finite event counts")


class _Finder:
    """One run of a network of `steps` time steps of `batch` samples, and what its hooks found on the way.

    whole: the network takes all time steps at once. Hooks see what is outermost: a layer within a population is not one
    of its own, but may be the population's recurrent one.
    """

    def __init__(self, model: nn.Module, steps: int, batch: int, *, whole: bool) -> None:
        self.model = model
        self.steps, self.batch, self.whole = steps, batch, whole
        self.names = {module: name for name, module in model.named_modules()}
        self.table = Labels()
        self.tracer = Labeller(self.table)
        self.projections: dict[str, Projection] = {}
        self.norms: dict[str, Norm] = {}
        self.populations: dict[str, Population] = {}
        self.layouts: dict[str, str] = {}
        self.order: list[str] = []
        self.turns: dict[str, list[str]] = {}
        self.shown: set[int] = set()
        self._restless: dict[nn.Module, bool] = {}
        self._stack: list[nn.Module] = []
        self._handles: list[Any] = []
        self._inner: dict[str, list[nn.Module]] = {}

    # watching

    def watch(self, ignored: tuple[str, ...]) -> None:
        """Hooks on every layer that is known. Raises InputError for one that is not, and has weights."""
        for name, module in self.model.named_modules():
            if name in ignored or any(name.startswith(f"{i}.") for i in ignored):
                continue
            _check_followed(name, module)
            leave = self._kind(module)
            if leave is not None:
                self._handles.append(module.register_forward_pre_hook(self._enter))
                self._handles.append(module.register_forward_hook(leave, with_kwargs=True))
            elif _is_unknown_layer(module):
                raise InputError(
                    f"layer {name or 'model'}: found {type(module).__name__}, expected a convolution, "
                    "Linear, batch norm, pooling, Flatten, Dropout or neurons (or name it in `ignore`)"
                )

    def unwatch(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _kind(self, module: nn.Module) -> Callable | None:
        """The hook for what a module is; None where it is no layer of its own."""
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            return self._leave_synapse
        if isinstance(module, NORMS):
            return self._leave_norm
        return self._leave_neurons if is_neuron(module) or framework_of(module) else None

    def run(self, sample: Tensor, loop: bool, shape: tuple[int, ...], expected: str) -> None:
        """Run the network; shape: of the sample as it was given, expected: its axes in words."""
        with evaluating(self.model), torch.no_grad(), self.tracer:
            self.tracer.put(sample, torch.full(sample.shape, ALIVE, dtype=torch.long))
            try:
                output = call_network(self.model, sample, loop)
            except (RuntimeError, IndexError) as error:
                where = f"layer {self.names[self._stack[-1]]}" if self._stack else "it"
                raise InputError(
                    f"sample_input: found shape {shape}, with which the network does not run ({where}: "
                    f"{str(error).splitlines()[0]}), expected the shape that it takes, {expected}"
                ) from error
            for tensor in tensors(output):
                self.tracer.keep(tensor)
                self.shown.update(torch.unique(self.tracer.of(tensor)).tolist())

    def _enter(self, module: nn.Module, _: tuple) -> None:
        self.tracer.depth += 1
        self._stack.append(module)

    def _leave(self) -> bool:
        """Whether what is left now was outermost."""
        self.tracer.depth -= 1
        self._stack.pop()
        return not self.tracer.depth

    # one kind of layer each

    def _leave_synapse(self, module: Any, args: tuple, kwargs: dict, out: Tensor) -> None:
        if not self._leave():
            within = self._inner.setdefault(self.names[self._stack[0]], [])
            if module not in within:
                within.append(module)
            return
        x, name = next(tensors((args, kwargs))), self.names[module]
        convolution = isinstance(module, CONVOLUTIONS)
        axis = x.dim() - len(module.kernel_size) - 1 if convolution else x.dim() - 1
        pre = self.tracer.channels(x, axis)
        if name in self.projections:
            known = self.projections[name]
            known.pre = self.table.combine("or", known.pre, pre)
        else:
            self.projections[name] = Projection(
                name=name,
                module=module,
                weight_name="weight",
                bias_name="bias" if module.bias is not None else None,
                kind="conv" if convolution else "linear",
                labels=self.table.units(module.weight.shape[0]),
                pre=pre,
                groups=module.groups if convolution else 1,
                in_space=tuple(x.shape[axis + 1 :]) if convolution else (),
                out_space=tuple(out.shape[axis + 1 :]) if convolution else (),
            )
            layout = self._layout(x)
            if layout == "step" and self.whole and not convolution and x.shape[1:-1] == (self.steps,):
                layout = "batch first"
            self.layouts[name] = layout
            self.order.append(name)
        self.tracer.put(out, _spread(self.projections[name].labels, out, axis))

    def _leave_norm(self, module: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> None:
        if not self._leave():
            return
        x = next(tensors((args, kwargs)))
        # SpikingJelly's of step mode "m" takes (steps, samples, channels, ...).
        axis = 2 if getattr(module, "step_mode", "s") == "m" else 1
        name, channels = self.names[module], self.tracer.channels(x, axis)
        if name in self.norms:
            self.norms[name].labels = self.table.combine("or", self.norms[name].labels, channels)
        else:
            self.norms[name] = Norm(name, module, channels)
            self.order.append(name)
        self.tracer.put(out, self.tracer.of(x))

    def _leave_neurons(self, module: Any, args: tuple, kwargs: dict, result: Any) -> None:
        if not self._leave():
            return
        x, out = next(tensors((args, kwargs))), next(tensors(result))
        layout = self._layout(x)
        axis = 2 if layout == "sequence" else 1
        weights = getattr(module, "input_weights", None)
        if isinstance(weights, nn.Parameter) and weights.dim() == 2:
            labels = _spread(self._input_weights(module, weights, x, axis, layout), out, axis)
        else:
            labels = self.tracer.of(x)
            if self._spikes_at_rest(module, x):
                self.tracer.keep(x)
                labels = torch.full(x.shape, ALIVE, dtype=torch.long)
        if labels.shape != out.shape:
            self.tracer.keep(x)
            labels = torch.full(out.shape, ALIVE, dtype=torch.long)
        self.tracer.put(out, labels)
        channels = self.tracer.channels(out, axis)
        name = self._place(module, channels)
        self.turns[self.names[module]].append(name)
        if name not in self.populations:
            spiking = not isinstance(module, RECTIFIERS)
            space = tuple(out.shape[axis + 1 :])
            self.populations[name] = Population(name, module, channels, layout, spiking, space)
            self.order.append(name)
        else:
            known = self.populations[name]
            known.labels = self.table.combine("or", known.labels, channels)

    def _input_weights(self, module: nn.Module, weights: Tensor, x: Tensor, axis: int, layout: str) -> Tensor:
        """Labels of the units of a population that has its input's weights in itself, as Norse's recurrent cells do."""
        name = f"{self.names[module]}.input_weights"
        if name not in self.projections:
            pre = self.tracer.channels(x, axis)
            self.projections[name] = Projection(
                name=name,
                module=module,
                weight_name="input_weights",
                bias_name=None,
                kind="linear",
                labels=self.table.units(weights.shape[0]),
                pre=pre,
            )
            self.layouts[name] = layout
        return self.projections[name].labels

    # what hooks ask

    def _layout(self, x: Tensor) -> str:
        if x.shape[0] == self.steps * self.batch:
            return "merged"
        if x.dim() > 2 and x.shape[0] == self.steps and x.shape[1] == self.batch:
            return "sequence"
        return "step" if x.shape[0] == self.batch else "unknown"

    def _spikes_at_rest(self, module: nn.Module, x: Tensor) -> bool:
        """Whether a population answers a silent input (then a channel without input is not silent)."""
        if module not in self._restless:
            self._enter(module, ())
            with unchanged([module] if framework_of(module) else []):
                out = next(tensors(module.forward(torch.zeros_like(x))))
            self._restless[module] = bool((out != 0).any())
            self._leave()
        return self._restless[module]

    def _place(self, module: nn.Module, channels: Tensor) -> str:
        """Name of the population that a module stands for: another one where other units feed it."""
        own = self.names[module]
        known = list(dict.fromkeys(self.turns.setdefault(own, [])))
        for name in known:
            before = self.populations[name].labels
            if before.numel() == channels.numel() and self.table.related(before, channels):
                return name
        if known and _has_channels(module):
            raise InputError(
                f"neurons {own}: are used in several places and have parameters for each channel, expected "
                "other neurons in each place"
            )
        return f"{own} ({len(known) + 1})" if known else own

    # what it comes to

    def structure(self) -> Structure:
        """What was found. Raises InputError where that cannot be pruned."""
        if not self.projections:
            raise InputError("network: found no Conv1d/2d/3d or Linear layer, expected at least two")
        self._add_recurrent()
        _check_weights(self.projections)
        self._find_readouts()
        self._find_populations()
        structure = Structure(
            projections=self.projections,
            norms=self.norms,
            populations=self.populations,
            labels=self.table,
            kept=torch.tensor(sorted(self.tracer.kept | self.table.aligned), dtype=torch.long),
            order=self.order,
            layouts=self.layouts,
            turns=self.turns,
            spiking=any(p.spiking for p in self.populations.values()),
        )
        if not structure.prunable:
            raise InputError(
                "network: found only a read-out layer, expected a layer before it that can be pruned"
            )
        return structure

    def _add_recurrent(self) -> None:
        """Square weights within a population, which bring its own spikes back."""
        for name, population in self.populations.items():
            found: list[tuple[str, nn.Module, str, str | None]] = []
            weights = getattr(population.module, "recurrent_weights", None)
            if isinstance(weights, nn.Parameter):
                found.append((f"{name}.recurrent_weights", population.module, "recurrent_weights", None))
            for module in self._inner.get(name, []):
                bias = "bias" if getattr(module, "bias", None) is not None else None
                found.append((self.names[module], module, "weight", bias))
            for label, module, weight, bias in found:
                size = population.labels.numel()
                if tuple(getattr(module, weight).shape[:2]) != (size, size):
                    continue
                self.projections[label] = Projection(
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
                self.layouts[label] = population.layout

    def _own(self) -> list[Projection]:
        return [p for p in self.projections.values() if p.kind != "recurrent"]

    def _find_readouts(self) -> None:
        """Projections that nothing reads: those of them that the output shows, else all."""
        fed: set[int] = set()
        for p in self._own():
            for label in set(p.pre.tolist()):
                fed |= self.table.leaves(label)
        last = [p for p in self._own() if not fed.intersection(p.labels.tolist())]
        seen = set().union(*(self.table.leaves(label) for label in self.shown)) if self.shown else set()
        for p in [p for p in last if seen.intersection(p.labels.tolist())] or last:
            p.readout = True

    def _find_populations(self) -> None:
        """The population that follows each projection: the first that all of its units reach."""
        where: dict[int, list[tuple[str, int]]] = {}
        for name, population in self.populations.items():
            for channel, label in enumerate(population.labels.tolist()):
                for leaf in self.table.leaves(label):
                    where.setdefault(leaf, []).append((name, channel))
        for p in self._own():
            units = p.labels.tolist()
            for name in self.populations:
                channels = [next((c for n, c in where.get(u, []) if n == name), -1) for u in units]
                if min(channels) >= 0:
                    p.population, p.post = name, torch.tensor(channels)
                    break


def _check_followed(name: str, module: nn.Module) -> None:
    """Raises InputError for neurons of a framework whose tensors are not laid out as here."""
    package = framework_of(module)
    if package is not None and package not in STEPS_FIRST:
        raise InputError(
            f"layer {name or 'model'}: found {type(module).__name__} of {package}, whose time is the second axis, expected steps "
            f"first; prune it by way of a file: write_nir(as_nir(from_{package}(model, ...)), 'net.nir'), then "
            "dpap-neuro train --model net.nir"
        )


def _is_unknown_layer(module: nn.Module) -> bool:
    """Whether a module that is no known layer has weights: a container of one's own may, PyTorch's attention is a layer."""
    if isinstance(module, Scale):  # works element by element
        return False
    if list(module.children()) and not isinstance(module, nn.MultiheadAttention):
        return False
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def _spread(labels: Tensor, out: Tensor, axis: int) -> Tensor:
    """One label per channel over a tensor's shape."""
    axis %= out.dim()
    return labels.reshape([-1 if d == axis else 1 for d in range(out.dim())]).expand(out.shape)


def _has_channels(module: nn.Module) -> bool:
    """Whether a population has parameters that differ from channel to channel (or weights)."""
    values: Any = getattr(module, "p", None)
    own = [*module.parameters(), *module.buffers(), *tensors(values if isinstance(values, tuple) else ())]
    return any(tensor.numel() > 1 for tensor in own)


def _check_weights(projections: dict[str, Projection]) -> None:
    owners: dict[Tensor, str] = {}
    for p in projections.values():
        if not isinstance(p.weight, nn.Parameter):
            raise InputError(
                f"layer {p.name}: its weight is computed from another tensor (as torch.nn.utils.prune leaves it), "
                "expected a parameter (prune.remove makes it one)"
            )
        if p.weight in owners:
            raise InputError(
                f"layers {owners[p.weight]} and {p.name}: share one weight, expected one for each"
            )
        owners[p.weight] = p.name
