"""Truncated back-propagation through time: the loop, its evaluations and its saves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from throughtime.tasks.errors import Failure, Interrupted
from throughtime.tasks.interrupt import StopRequest
from throughtime.tasks.lm.batches import Source, Window
from throughtime.tasks.lm.checkpoint import Progress, Training
from throughtime.tasks.lm.evaluation import Score
from throughtime.tasks.lm.model import LanguageModel, map_state
from throughtime.tasks.lm.schedule import Budget, learning_rate
from throughtime.tasks.lm.settings import TrainSettings

EVALUATIONS = 10  # per budget, when --evaluate-every is not given
SAVE_SECONDS = 60.0  # at least so often a checkpoint is written


@dataclass(frozen=True)
class Measures:
    """One line of metrics.jsonl: sums since the last evaluation turned into means, and the held-out score."""

    step: int
    epoch: float
    seconds: float
    lr: float
    training_loss: float
    gradient_norm: float
    clipped: float
    units_per_second: float
    score: Score | None


class Watcher(Protocol):
    """What the loop tells the outside."""

    def advanced(self, fraction: float, epoch: float, loss: float, units_per_second: float) -> None:
        """A step is done."""

    def evaluated(self, measures: Measures, best: bool) -> None:
        """An evaluation is done and the best weights, if these are, are saved: log and sample."""

    def save(self) -> None:
        """Write a checkpoint."""


def make_optimizer(name: str, model: LanguageModel, lr: float) -> torch.optim.Optimizer:
    """The optimizer of --optimizer; one pass over all parameters where torch has it."""
    parameters = list(model.parameters())
    match name:
        case "sgd":
            return torch.optim.SGD(parameters, lr)
        case "momentum":
            return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr, fused=True)
        case "adam":
            return torch.optim.Adam(parameters, lr, betas=(0.9, 0.99), fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    raise AssertionError(name)


def fraction_used(progress: Progress, budget: Budget, source: Source) -> float:
    """How much of the budget is used."""
    return budget.fraction(_epochs(progress, source), progress.seconds, progress.step)


def run_training(
    training: Training,
    source: Source,
    settings: TrainSettings,
    measure: Callable[[], Score | None],
    watcher: Watcher,
    stop: StopRequest,
) -> None:
    """Train until the budget is used up.

    Raises:
        Interrupted: a signal came; everything was saved first.
        Failure: the loss is no longer a number; nothing was saved over the last good weights.
    """
    assert settings.lr is not None
    progress, model, optimizer = training.progress, training.model, training.optimizer
    budget = Budget(settings.epochs, settings.minutes, settings.steps)
    used = fraction_used(progress, budget, source)
    clock, saved_at = time.monotonic() - progress.seconds, progress.seconds
    model.train()
    while used < 1:
        lr = learning_rate(settings.lr, settings.schedule, settings.warmup, used, progress.step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        started = time.monotonic()
        loss = update(training, source.window(progress.epoch, progress.window), settings.clip)
        progress.window += 1
        if progress.window == source.windows_in(progress.epoch):
            progress.epoch, progress.window = progress.epoch + 1, 0
        progress.step += 1
        progress.update_seconds += time.monotonic() - started
        progress.seconds = time.monotonic() - clock

        before, used = used, fraction_used(progress, budget, source)
        rate = progress.targets / progress.update_seconds
        watcher.advanced(used, _epochs(progress, source), loss, rate)
        if settings.evaluate_every is None:
            due = int(before * EVALUATIONS) != int(used * EVALUATIONS)
        else:
            due = progress.step % settings.evaluate_every == 0 or used >= 1
        if due:
            _evaluate(training, source, lr, measure, watcher)
            progress.seconds = time.monotonic() - clock
            used = fraction_used(progress, budget, source)
        if due or stop.signal_number or progress.seconds - saved_at > SAVE_SECONDS:
            watcher.save()
            saved_at = progress.seconds
        if stop.signal_number is not None and used < 1:
            raise Interrupted(f"stopped and saved at step {progress.step}", stop.signal_number)


def update(training: Training, window: Window, clip: float) -> float:
    """One step of the optimizer on the mean loss of a window; the loss in nats per unit."""
    model, progress = training.model, training.progress
    if window.fresh:
        training.state = None
    lengths = None if window.lengths is None else torch.from_numpy(window.lengths)
    features, state = model(torch.from_numpy(window.inputs), training.state, lengths)
    loss, count = model.loss(features, torch.from_numpy(window.targets))
    training.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    mean = loss.item()
    norm = clip_gradients(training.optimizer, clip if clip > 0 else math.inf)
    if not (math.isfinite(mean) and math.isfinite(norm)):
        raise Failure(_diagnosis(training, mean, norm))
    training.optimizer.step()
    training.state = map_state(Tensor.detach, state)
    progress.nats += mean * count
    progress.targets += count
    progress.updates += 1
    progress.norms += norm
    progress.clipped += int(0 < clip < norm)
    return mean


def clip_gradients(optimizer: torch.optim.Optimizer, largest: float) -> float:
    """The norm of all gradients together; where it is larger than `largest`, they are scaled down to that norm.

    torch's own clip_grad_norm_ multiplies every gradient in any case, with 1 if need be.
    """
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.hypot(*(torch.linalg.vector_norm(gradient).item() for gradient in gradients))
    if norm > largest:
        for gradient in gradients:
            gradient.mul_(largest / norm)
    return norm


def _evaluate(
    training: Training, source: Source, lr: float, measure: Callable[[], Score | None], watcher: Watcher
) -> None:
    """Score the held-out text, report the means since the last time, and start new sums."""
    progress = training.progress
    score = measure()
    measures = Measures(
        step=progress.step,
        epoch=_epochs(progress, source),
        seconds=progress.seconds,
        lr=lr,
        training_loss=progress.nats / progress.targets,
        gradient_norm=progress.norms / progress.updates,
        clipped=progress.clipped / progress.updates,
        units_per_second=progress.targets / progress.update_seconds,
        score=score,
    )
    loss = measures.training_loss if score is None else score.loss
    if not math.isfinite(loss):
        raise Failure(_diagnosis(training, loss, measures.gradient_norm))
    best = progress.best_loss is None or loss < progress.best_loss
    if best:
        progress.best_loss, progress.best_step = loss, progress.step
    progress.nats = progress.norms = progress.update_seconds = 0.0
    progress.targets = progress.updates = progress.clipped = 0
    watcher.evaluated(measures, best)


def _epochs(progress: Progress, source: Source) -> float:
    return progress.epoch + progress.window / source.windows_in(progress.epoch)


def _diagnosis(training: Training, loss: float, norm: float) -> str:
    bad = [
        name
        for name, parameter in training.model.named_parameters()
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
    ]
    where = f" (first in the gradient of {bad[0]})" if bad else ""
    lr = training.optimizer.param_groups[0]["lr"]
    return (
        f"training diverged at step {training.progress.step + 1}: loss {loss}, gradient norm {norm}{where}, "
        f"learning rate {lr:.3g}; the last good weights are kept; try a smaller --lr or a smaller --clip"
    )
