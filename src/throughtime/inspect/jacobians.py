"""∂s_t/∂s_k, exactly: the one-step Jacobians by the derived backward kernel, and their products.

s are all states of the cell side by side (h; or h and c), so that products over time are exact for every cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.inspect.recording import Recording
from throughtime.nn.recurrent import Recurrent
from throughtime.symbolic.clocked import CLOCK, Clocked

BYTES = 1 << 28
"""Memory that one batched call may take, about."""
KEPT = 16
"""Numbers that a call keeps for each unit, about."""


@dataclass(frozen=True)
class Jacobians:
    """Jacobians of one layer in one direction, float64.

    `steps` [T, b, S, S]: ∂s_t/∂s_before, where before t is t - 1, or t + 1 in the backward direction; 0 in the padding.
    `sequences`: which b sequences of the batch. `states`: each state's place in S. `target` [b]: the step τ of which
    `norms[state]` [T, b] and `singular_values[state]` [T, b, W] are: ‖∂h_τ/∂h_t‖₂ with all its singular values, for
    every t on the way; NaN at the steps that do not come before τ.
    """

    steps: Tensor
    sequences: list[int]
    states: dict[str, slice]
    target: Tensor
    reverse: bool
    norms: dict[str, Tensor]
    singular_values: dict[str, Tensor]

    def between(self, t: int, k: int, sequence: int = 0) -> Tensor:
        """∂s_t/∂s_k [S, S] of one of the sequences; the identity for t = k, 0 where s_k comes after s_t."""
        sign = -1 if self.reverse else 1
        product = torch.eye(self.steps.shape[-1], dtype=self.steps.dtype)
        if (t - k) * sign < 0:
            return torch.zeros_like(product)
        for i in range(k + sign, t + sign, sign):
            product = self.steps[i, sequence] @ product
        return product

    def pair_norms(self, state: str, sequence: int = 0) -> Tensor:
        """‖∂h_t/∂h_k‖ (Frobenius) [T, T] at row t, column k, for all pairs; 0 where k comes after t."""
        count, sign, own = self.steps.shape[0], -1 if self.reverse else 1, self.states[state]
        found = torch.zeros(count, count, dtype=self.steps.dtype)
        product = torch.eye(self.steps.shape[-1], dtype=self.steps.dtype).expand(count, -1, -1)
        later = torch.arange(count)
        for lag in range(count):
            found[later, later - sign * lag] = torch.linalg.matrix_norm(product[:, own, own])
            # The first step on the way to t is the one after k; the next lag has one more before it.
            keep = (later - sign * (lag + 1) >= 0) & (later - sign * (lag + 1) < count)
            later, product = later[keep], product[keep]
            product = product @ self.steps[later - sign * lag, sequence]
        return found


def jacobians(recording: Recording, level: int, direction: int, sequences: list[int], target: Tensor) -> Jacobians:
    """The Jacobians of one layer and direction for some sequences; `target` [B]: the step τ of each sequence."""
    layer = recording.layer
    steps = one_step(recording, level, direction, sequences)
    widths = [layer.state_size(w, level) for w in layer.state_widths]
    states, first = {}, 0
    for name, width in zip(layer.state_names, widths, strict=True):
        states[name], first = slice(first, first + width), first + width
    reverse = layer.runs_backwards(direction)
    chosen = target[sequences]
    norms: dict[str, list[Tensor]] = {name: [] for name in states}
    values: dict[str, list[Tensor]] = {name: [] for name in states}
    for b, step in enumerate(chosen.tolist()):
        products = _products(steps[: recording.lengths[sequences[b]], b], step, reverse)
        for name, own in states.items():
            found = torch.full((recording.steps, widths[list(states).index(name)]), torch.nan, dtype=torch.float64)
            found[products[0]] = torch.linalg.svdvals(products[1][:, own, own])
            values[name].append(found)
            norms[name].append(found[:, 0])
    return Jacobians(
        steps,
        sequences,
        states,
        chosen,
        reverse,
        {name: torch.stack(v, 1) for name, v in norms.items()},
        {name: torch.stack(v, 1) for name, v in values.items()},
    )


def _products(steps: Tensor, target: int, reverse: bool) -> tuple[list[int], Tensor]:
    """The steps t on the way to the target, and ∂s_target/∂s_t of each."""
    product = torch.eye(steps.shape[-1], dtype=steps.dtype)
    on_the_way = list(range(target, steps.shape[0])) if reverse else list(range(target, -1, -1))
    found = []
    for t in on_the_way if target >= 0 else []:
        found.append(product)
        product = product @ steps[t]
    return on_the_way if target >= 0 else [], torch.stack(found) if found else steps[:0]


def refusal(layer: Recurrent) -> str | None:
    """Why a layer's steps cannot be run again one by one, or None."""
    if layer.training and (layer.derived.noisy[True] or layer.dropout or layer.weight_drop):
        return "Jacobians are left out: the layer draws random numbers in training mode, so call model.eval() first"
    return None


def one_step(recording: Recording, level: int, direction: int, sequences: list[int]) -> Tensor:
    """∂s_t/∂s_before for every step [T, b, S, S], in float64.

    All steps are run side by side, as T·b sequences of one step, and all rows of all Jacobians by one batched backward
    call (or a few, where they would take too much memory).
    """
    layer = recording.layer
    sizes = layer.sizes(level)
    timed = layer.derived.equations[layer.training].has("time")
    single = Recurrent(
        Clocked(layer.cell) if timed else layer.cell,
        sizes["input"],
        layer.hidden_sizes[level],
        bias=layer.bias,
        heads=layer.heads,
        learn_initial_state=layer.learn_initial_state,
        backend=layer.backend,
        device="meta",  # the layer's own parameters take the place of these
    ).train(layer.training)
    parameters = {f"{n}_l0": p.detach() for n, p in layer.own_parameters(level, direction).items()}
    if layer.learn_initial_state:
        for name in layer.state_names:
            parameters[f"initial_{name}"] = layer.learned_start(name, level)[direction : direction + 1].detach()
    kind = next(iter(parameters.values())).dtype
    x = recording.inputs(level)[:, sequences]
    before = [s[:, sequences].to(kind) for s in recording.before(level, direction)]
    signals = {n: v[:, sequences].flatten() for n, v in recording.signals(direction).items()}
    if timed:
        signals[CLOCK] = torch.arange(recording.steps).repeat_interleave(len(sequences))
    real = recording.real[:, sequences].flatten()
    rows = x.flatten(0, 1)
    rows = rows.to(kind) if rows.is_floating_point() else rows
    states = [s.flatten(0, 1) for s in before]
    width = sum(s.shape[1] for s in states)
    result = torch.zeros(len(rows), width, width, dtype=torch.float64)
    some = max(1, BYTES // (8 * KEPT * width * width))
    for chosen in torch.split(real.nonzero().squeeze(1), some):
        given = [s[chosen].unsqueeze(0).requires_grad_() for s in states]
        with torch.enable_grad():
            end = torch.func.functional_call(
                single,
                parameters,
                (rows[chosen].unsqueeze(0), tuple(given) if len(given) > 1 else given[0]),
                {n: v[chosen].unsqueeze(0) for n, v in signals.items()},
            )[1]
            new = torch.cat(end if isinstance(end, tuple) else (end,), -1)
            basis = torch.eye(width, dtype=new.dtype).reshape(width, 1, 1, width).expand(-1, *new.shape[:2], -1)
            flows = torch.autograd.grad(new, given, basis, is_grads_batched=True, allow_unused=True)
        parts = [
            torch.zeros(width, 1, *s.shape[1:], dtype=new.dtype) if f is None else f
            for f, s in zip(flows, given, strict=True)
        ]
        result[chosen] = torch.cat(parts, -1).squeeze(1).transpose(0, 1).double()
    return torch.unflatten(result, 0, (recording.steps, len(sequences)))
