"""A step of training: forward, loss, backward and the optimizer, in parts and in half precision where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpap_neuro.errors import InputError
from dpap_neuro.networks.models import Network, logits
from dpap_neuro.pruning import Pruner
from dpap_neuro.pruning.labels import tensors
from dpap_neuro.train import distributed
from dpap_neuro.train.activity import Activity, too_much
from dpap_neuro.train.settings import TrainSettings

# Scores of spike counts: with hundreds of steps the loss would be decided by a single recording.
MOST_SPIKES = 16
# Batches after which a population that has not spiked yet is named.
FIRST_BATCHES = 8
# Of a float16 loss; PyTorch's own, 64 times as much, costs the first steps.
_FIRST_SCALE = 1024.0
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def scores(output: Tensor, readout: str) -> Tensor:
    """What cross-entropy sees: spike counts, at most T of them and as if at most 16, or membranes, as scores of a workable range."""
    return logits(output) * (
        min(1.0, MOST_SPIKES / len(output)) if readout == "spikes" else 4.0 / len(output)
    )


def loss_function(settings: TrainSettings, readout: str) -> Callable[[Tensor, Tensor], Tensor]:
    """From (T, B, classes) and the classes (B,) to the mean loss.

    mse: squared distance of the mean over steps (of spikes: the rate) from 1 for the class and 0 for the others. one-sided-mse: what
    is above 1 counts as 1 (BrainCog's UnilateralMse as its comment has it; a rate never is above).
    """
    if settings.loss == "cross-entropy":
        entropy = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        return lambda output, targets: entropy(scores(output, readout), targets)
    most = 1.0 if settings.loss == "one-sided-mse" else None

    def squares(output: Tensor, targets: Tensor) -> Tensor:
        mean = logits(output) / len(output)
        mean = mean if most is None else mean.clamp(max=most)
        wanted = nn.functional.one_hot(targets, mean.shape[1]).to(mean.dtype)
        return nn.functional.mse_loss(mean, wanted)

    return squares


class Step:
    """`step(x, targets, total)` for one batch of this process: x (T, B, ...), targets (B,), total: recordings of all processes.

    Returns the loss, summed over parts, and the activity of the read-out. With `settings.accumulate` a batch runs in so many parts,
    whose gradients add up to those of the whole (but for the statistics of batch norms, which are those of each part); pruners see one
    step. With `settings.amp` synapses compute in half precision; membranes, loss, weights, masks and statistics stay in float32, and the
    gradients that pruners see are those without the loss's scale. With `settings.rate_weight` the loss has a price of spikes too, of
    every recording by itself. `rates` has the layers' rates. Raises InputError for a pruner that needs whole batches, and for a price
    of spikes where nothing but the read-out spikes.
    """

    def __init__(
        self,
        model: Network,
        pruner: Pruner,
        optimizer: torch.optim.Optimizer,
        settings: TrainSettings,
        device: torch.device,
    ) -> None:
        if settings.accumulate > 1 and pruner.whole_batches:
            raise InputError(
                f"accumulate: found {settings.accumulate} parts, expected 1 with {pruner.name}, which tells the places of a batch apart"
            )
        self.model, self.pruner, self.optimizer = model, pruner, optimizer
        self.parts, self.device = settings.accumulate, device
        if pruner.statistics is not None:
            pruner.statistics.in_parts = self.parts > 1
        self.half = None if settings.amp is None else _HALVES[settings.amp]
        self.scaler = (
            torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE) if self.half is torch.float16 else None
        )
        self.loss_of = loss_function(settings, model.settings.readout)
        self.rate_weight, self.rate_target = settings.rate_weight, settings.rate_target
        self.rates = Activity(pruner.structure, priced=bool(self.rate_weight))
        if self.rate_weight and not self.rates.layers:
            self.rates.detach()
            raise InputError(
                f"rate_weight: found {self.rate_weight}, expected 0 for a network in which no layer before the read-out spikes"
            )

    def __call__(self, x: Tensor, targets: Tensor, total: int) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        parts = torch.arange(x.shape[1]).chunk(self.parts) if self.parts > 1 else (None,)
        losses, activity = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            own, wanted = (x, targets) if part is None else (x[:, part], targets[part])
            self.pruner.last_part = number == len(parts) - 1
            self.rates.expect(*own.shape[:2])
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                output = self.model(own)
            output = output if self.half is None else output.float()
            loss, rates = self.loss_of(output, wanted), self.rates.take()
            if self.rate_weight:
                loss = loss + self.rate_weight * too_much(rates, self.rate_target)
            loss = loss * (own.shape[1] / total)
            if self.scaler is None:
                loss.backward()
            else:
                self.pruner.gradient_scale = self.scaler.get_scale()
                self.scaler.scale(loss).backward()
            losses += loss.detach()
            activity += output.detach().abs().sum()
        distributed.sum_gradients(self.model)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return losses, activity

    def state_dict(self) -> dict[str, Any]:
        """Of the scale of the loss, plain values."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


class Listener:
    """Which populations have spiked since; `silent()` names the others once, and ends the listening."""

    def __init__(self, pruner: Pruner) -> None:
        self.heard: dict[str, Tensor | None] = {}
        self._handles: list[Any] = []
        for name, population in pruner.structure.populations.items():
            if population.spiking:
                self.heard[name] = None
                self._handles.append(population.module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[..., None]:
        def hear(_module: nn.Module, _args: Any, result: Any) -> None:
            some = (next(tensors(result)).detach() != 0).any()
            before = self.heard[name]
            self.heard[name] = some if before is None else before | some

        return hear

    def silent(self) -> list[str]:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return [name for name, some in self.heard.items() if some is not None and not bool(some)]
