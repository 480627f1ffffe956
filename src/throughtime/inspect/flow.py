"""`flow`: the error that flows back through a model, layer by layer and step by step, as numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from throughtime.inspect.contributions import step_gradients
from throughtime.inspect.jacobians import jacobians as jacobians_of
from throughtime.inspect.jacobians import refusal
from throughtime.inspect.recording import Recording, differentiable, record
from throughtime.inspect.results import Flow, LayerFlow
from throughtime.inspect.statistics import gate_statistics, histograms, spectra

VANISHED, EXPLODED = 0.01, 100.0
"""Error counts as vanished below, and as exploded above, this share of what it was at the step of its loss."""

LossAt = Literal["last", "all"] | int


def flow(
    model: nn.Module,
    batch: Any,
    *,
    loss_at: LossAt = "last",
    loss: Callable[[Any], Tensor] | None = None,
    jacobians: int = 1,
    vanished: float = VANISHED,
    exploded: float = EXPLODED,
    **given: Any,
) -> Flow:
    """Runs the model once, lets the error of some steps flow back, and measures it on the way.

    Gradients of parameters (`.grad`), the mode of the model and torch's generator stay as they are.

    Args:
        model: a recurrent layer, or any module that runs recurrent layers; in training or eval mode.
        batch: its input, or a tuple of its inputs: sequences [T, B, ...] ([B, T, ...] with `batch_first`), or a single
            one [T, ...].
        loss_at: the steps whose error flows back: each sequence's "last" real step, "all" real steps, or step k.
        loss: from the model's output (the first, where it returns a tuple) to the error of each step and sequence,
            [T, B] ([B, T], [T]). None: E_t = ½ ‖output_t‖², so that the error that enters is the output itself.
        jacobians: for how many sequences, the first ones, to compute ∂s_t/∂s_k; 0: for none. A layer with H units
            takes T·H² numbers for each.
        vanished, exploded: shares of the error at the step of the loss; see `LayerFlow.by_lag`.
        given: further arguments of the model, such as `lengths` or `state`.

    Raises:
        TypeError: the model runs no recurrent layer of this package.
        ValueError: `loss_at` is none of the above, or the loss has not one number for each step and sequence.
    """
    if loss_at not in ("last", "all") and (type(loss_at) is not int or loss_at < 0):
        raise ValueError(f'loss_at should be "last", "all" or the number of a step from 0, got {loss_at!r}')
    with torch.random.fork_rng(devices=[]), differentiable(model) as parameters:
        output, recordings = record(model, batch, given)
        errors = step_errors(output, recordings[0], loss)
        real = recordings[0].real
        if isinstance(loss_at, int) and loss_at >= int(real.sum(0).max()):
            raise ValueError(f"loss_at is step {loss_at}, but the longest sequence has {int(real.sum(0).max())} steps")
        passes = Passes(recordings, parameters, errors, real)
        main = passes.run(loss_at)
        probes = {reverse: passes.run(_probe(loss_at, reverse)) for reverse in _directions(recordings)}
    notes: list[str] = []
    layers = []
    first = 0
    for number, recording in enumerate(recordings):
        for level in range(recording.layer.num_layers):
            for direction in range(recording.layer.directions):
                reverse = recording.layer.runs_backwards(direction)
                found = _Layer(recording, level, direction, first + level, loss_at, vanished, exploded)
                key = (number, level * recording.layer.directions + direction)
                layers.append(found.measured(main[key], probes[reverse][key], jacobians, notes))
        first += recording.layer.num_layers
    chosen = torch.where(_mask(loss_at, real), errors.detach(), 0).sum()
    lengths = recordings[0].lengths
    unique = tuple(dict.fromkeys(notes))
    return Flow(tuple(layers), float(chosen), loss_at, recordings[0].steps, lengths, vanished, exploded, unique)


@dataclass(frozen=True)
class Reach:
    """How far the error of one step reaches in one layer; the numbers are those of `LayerFlow`."""

    name: str
    cell: str
    by_lag: Tensor
    vanished_after: int | None
    exploded_after: int | None


def reach(
    model: nn.Module,
    batch: Any,
    *,
    loss: Callable[[Any], Tensor] | None = None,
    vanished: float = VANISHED,
    exploded: float = EXPLODED,
    **given: Any,
) -> list[Reach]:
    """The part of `flow` that says how far the error of the last step reaches, at the cost of one training step: for
    watching a training. Arguments are those of `flow`; layers that run backwards in time are left out."""
    with torch.random.fork_rng(devices=[]), differentiable(model) as parameters:
        output, recordings = record(model, batch, given)
        errors = step_errors(output, recordings[0], loss)
        found = Passes(recordings, parameters, errors, recordings[0].real, keep=False).run("last")
    result = []
    first = 0
    for number, recording in enumerate(recordings):
        layer, lengths = recording.layer, recording.lengths
        for level in range(layer.num_layers):
            if not layer.runs_backwards(0):
                own = found[number, level * layer.directions][0][layer.state_names[0]]
                lags = _by_lag(own.norm(dim=-1).double(), lengths - 1, lengths, reverse=False)
                ends = _first(lags < vanished), _first(lags > exploded)
                result.append(Reach(f"layer {first + level + 1}", layer.cell.name, lags, *ends))
        first += layer.num_layers
    return result


def step_errors(output: Any, recording: Recording, loss: Callable[[Any], Tensor] | None) -> Tensor:
    """E_t of each step and sequence [T, B]."""
    if isinstance(output, tuple) and not isinstance(output, PackedSequence):
        output = output[0]
    packed = isinstance(output, PackedSequence)
    errors: Tensor
    if loss is None:
        output = pad_packed_sequence(output)[0] if packed else output
        errors = output.square().sum(-1) / 2
    else:
        errors = loss(output)
    steps, rows, call = recording.steps, recording.rows, recording.call
    first = call.batch_first and not packed
    wanted = (steps,) if not call.batched else (rows, steps) if first else (steps, rows)
    if tuple(errors.shape) != wanted:
        axes = "[T]" if not call.batched else "[B, T]" if first else "[T, B]"
        raise ValueError(
            f"the loss should have one number for each step and sequence, {axes} = {wanted}, got the shape "
            f"{tuple(errors.shape)}: give loss=, a function of the model's output"
        )
    if not call.batched:
        return errors.unsqueeze(1)
    return errors.transpose(0, 1) if first else errors


def _directions(recordings: list[Recording]) -> set[bool]:
    return {r.layer.runs_backwards(d) for r in recordings for d in range(r.layer.directions)}


def _probe(loss_at: LossAt, reverse: bool) -> LossAt:
    """The one step from which error is followed: backwards in time, a sequence ends at its first step."""
    if isinstance(loss_at, int):
        return loss_at
    return 0 if reverse else "last"


def _mask(loss_at: LossAt, real: Tensor) -> Tensor:
    """[T, B]: the steps whose error flows back."""
    if loss_at == "all":
        return real
    steps = torch.arange(len(real)).unsqueeze(1)
    return real & (steps == (real.sum(0) - 1 if loss_at == "last" else loss_at))


Errors = dict[tuple[int, int], tuple[dict[str, Tensor], Tensor]]
"""By (recording, place in its trace): every value's error, and the vertical part of the output's; [T, B, width]."""


@dataclass
class Passes:
    """Backward passes of the same run, for the errors of different steps."""

    recordings: list[Recording]
    parameters: list[nn.Parameter]
    errors: Tensor
    real: Tensor
    keep: bool = True
    """Whether there will be another pass."""

    def __post_init__(self) -> None:
        self._done: dict[LossAt, Errors] = {}

    def run(self, loss_at: LossAt) -> Errors:
        if loss_at not in self._done:
            chosen = torch.where(_mask(loss_at, self.real), self.errors, 0).sum()
            torch.autograd.grad(chosen, self.parameters, retain_graph=self.keep, allow_unused=True)
            self._done[loss_at] = self._collected()
        return self._done[loss_at]

    def _collected(self) -> Errors:
        """Takes the errors out of the traces, so that those of the next pass are not added to them."""
        found: Errors = {}
        for number, recording in enumerate(self.recordings):
            real = recording.real.unsqueeze(2)
            for place, trace in enumerate(recording.trace):
                zero = {name: torch.zeros_like(recording.shaped(v)) for name, v in trace.values.items()}
                own = {n: torch.where(real, recording.shaped(e), 0) for n, e in trace.errors.items()}
                above = [torch.where(real, recording.shaped(v), 0) for v in trace.vertical.values()]
                output = recording.layer.state_names[0]
                found[number, place] = zero | own, above[0] if above else zero[output]
                trace.errors.clear()
                trace.vertical.clear()
        return found


@dataclass
class _Layer:
    """One layer and direction while it is measured."""

    recording: Recording
    level: int
    direction: int
    number: int
    loss_at: LossAt
    vanished: float
    exploded: float

    def measured(
        self,
        main: tuple[dict[str, Tensor], Tensor],
        probe: tuple[dict[str, Tensor], Tensor],
        sequences: int,
        notes: list[str],
    ) -> LayerFlow:
        recording, layer = self.recording, self.recording.layer
        place = recording, self.level, self.direction
        trace = recording.of(self.level, self.direction)
        errors, vertical = main
        output, reverse = layer.state_names[0], layer.runs_backwards(self.direction)
        reach = probe[0][output].norm(dim=-1)
        target = self._target(reverse)
        by_lag = _by_lag(reach.double(), target, recording.lengths, reverse)
        found = None
        why = refusal(layer)
        if sequences > 0 and why is None:
            found = jacobians_of(*place, list(range(min(sequences, recording.rows))), target)
        elif sequences > 0 and why is not None:
            notes.append(why)
        name = f"layer {self.number + 1}{' backward' * (reverse and layer.bidirectional)}"
        real = recording.real.unsqueeze(2)
        return LayerFlow(
            name, self.number, reverse, layer.cell.name, tuple(layer.state_names),
            {n: torch.where(real, recording.shaped(v), 0) for n, v in trace.values.items()},
            errors,
            {s: errors[s].norm(dim=-1) for s in layer.state_names},
            {n.removeprefix("net."): e.norm(dim=-1) for n, e in errors.items() if n.startswith("net.")},
            vertical.norm(dim=-1), (errors[output] - vertical).norm(dim=-1), reach, by_lag,
            _first(by_lag < self.vanished), _first(by_lag > self.exploded),
            gate_statistics(*place), histograms(*place), spectra(*place), step_gradients(recording, *place[1:], errors),
            found,
        )  # fmt: skip

    def _target(self, reverse: bool) -> Tensor:
        """The step from which error is followed in each sequence [B], -1 where it has no such step."""
        lengths = self.recording.lengths
        if isinstance(self.loss_at, int):
            return torch.where(lengths > self.loss_at, self.loss_at, -1)
        return torch.where(lengths > 0, 0, -1) if reverse else lengths - 1


def _by_lag(reach: Tensor, target: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    """Error at 0, 1, ... steps from the target, relative to that at it; of the sequences that are long enough."""
    steps = torch.arange(len(reach)).unsqueeze(1)
    at = target + steps if reverse else target - steps
    there = (target >= 0) & (at >= 0) & (at < lengths)
    lagged = torch.where(there, reach.gather(0, at.clamp(0, len(reach) - 1)), 0)
    start = torch.where(there, lagged[0], 0).sum(1)
    return torch.where(there.any(1) & (start > 0), lagged.sum(1) / start, torch.nan)


def _first(holds: Tensor) -> int | None:
    found = holds.nonzero()
    return int(found[0]) if len(found) else None


__all__ = ["Reach", "flow", "reach"]
