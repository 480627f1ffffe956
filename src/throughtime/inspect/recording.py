"""Runs any model that holds recurrent layers, and records what each of them computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.nn import connections, shapes
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.signals import RESET, add_signals, signal_seen
from throughtime.nn.states import of_level
from throughtime.nn.steps import RecurrentCell
from throughtime.nn.trace import LayerTrace, Trace


@dataclass
class Recording:
    """One call of one `Recurrent`: what it was given, as T, B, ... and what it computed."""

    name: str
    layer: Recurrent
    call: shapes.Call
    trace: Trace

    @property
    def steps(self) -> int:
        return self.call.x.shape[0]

    @property
    def rows(self) -> int:
        return self.call.x.shape[1]

    @property
    def lengths(self) -> Tensor:
        """[B], T for every sequence where none were given."""
        if self.call.lengths is not None:
            return self.call.lengths
        return torch.full((self.rows,), self.steps)

    @property
    def real(self) -> Tensor:
        """[T, B], False in the padding."""
        return torch.arange(self.steps).unsqueeze(1) < self.lengths

    def of(self, level: int, direction: int) -> LayerTrace:
        return self.trace[level * self.layer.directions + direction]

    def shaped(self, value: Tensor) -> Tensor:
        """A value of the trace as [T, B, width], without its history."""
        value = value.detach()
        if not self.call.batched:
            return value.unsqueeze(1)
        return value.transpose(0, 1) if self.call.batch_first else value

    def inputs(self, level: int) -> Tensor:
        """What a layer was given: [T, B, I], or word numbers [T, B]. Dropout between layers must be off."""
        layer = self.layer
        below: list[Tensor] = []
        for k in range(level + 1):
            x = connections.fed(layer.connections, below) if k else self.call.x.detach()
            if k == level:
                return x
            made = [self.shaped(next(iter(self.of(k, d).values.values()))) for d in range(layer.directions)]
            output = connections.merged(layer.merge, torch.cat(made, -1))
            if k and layer.connections == "residual":
                output = x + output
            elif k and layer.connections == "highway":
                output = layer.highways[k - 1](x, output)
            below.append(output.detach())
        raise AssertionError("a stack has a layer at every level")

    def before(self, level: int, direction: int) -> list[Tensor]:
        """Each state as the step at t was handed it, [T, B, width]; garbage in the padding."""
        layer, trace = self.layer, self.of(level, direction)
        found = []
        for name, given in zip(layer.state_names, self.call.states, strict=True):
            after = self.shaped(trace.values[name])
            start = of_level(layer, given, level)
            first = after.new_zeros(after.shape[1:]) if start is None else start[direction].detach().to(after)
            if not layer.runs_backwards(direction):
                found.append(torch.cat([first.unsqueeze(0), after[:-1]]))
                continue
            shifted = torch.cat([after[1:], first.unsqueeze(0)])
            last = torch.arange(self.steps).unsqueeze(1) == self.lengths - 1
            found.append(torch.where(last.unsqueeze(2), first, shifted))
        return found

    def signals(self, direction: int) -> dict[str, Tensor]:
        """What the steps of one direction read, [T, B] each."""
        backwards = self.layer.runs_backwards(direction)
        found = {n: signal_seen(self.call, n, backwards, 0, self.steps).squeeze(2).detach() for n in self.call.signals}
        return {n: v > 0 if n == RESET else v for n, v in found.items()}


def record(model: nn.Module, batch: Any, given: Mapping[str, Any]) -> tuple[Any, list[Recording]]:
    """`model(batch, **given)`, or `model(*batch, **given)` of a tuple, and a recording of every recurrent layer that it
    ran. Raises TypeError where it ran none."""
    found: list[Recording] = []

    def before(
        layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "return_all": True}

    def after(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: tuple[Any, ...]) -> Any:
        assert isinstance(layer, Recurrent)
        named = dict(zip(("input", "state", "lengths"), args, strict=False)) | kwargs
        named.pop("return_all")
        state = named.pop("hx", None)  # torch.nn's name for it
        input, state, lengths = named.pop("input"), named.pop("state", state), named.pop("lengths", None)
        call = shapes.prepare(layer, input, state, lengths)
        add_signals(layer, call, named)
        found.append(Recording(names[layer], layer, call, result[-1]))
        return result[:-1]

    names = {m: n for n, m in model.named_modules() if isinstance(m, Recurrent) and not isinstance(m, RecurrentCell)}
    hooks = [h for m in names for h in (
        m.register_forward_pre_hook(before, with_kwargs=True),
        m.register_forward_hook(after, with_kwargs=True),
    )]  # fmt: skip
    try:
        output = model(*batch, **given) if isinstance(batch, tuple) else model(batch, **given)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise TypeError(
            f"inspect expects a model with a recurrent layer of throughtime, and {type(model).__name__} ran none: "
            "tt.convert makes torch.nn's layers into such"
        )
    return output, found


@contextmanager
def differentiable(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Gradients are recorded inside, whatever is frozen; gives the parameters."""
    parameters = list(model.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield parameters
    finally:
        for p in frozen:
            p.requires_grad_(False)
