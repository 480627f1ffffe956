"""Numbers that are given for each time step and sequence, and the reset mask, which is one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from throughtime.nn.precision import NARROW

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.shapes import Call

RESET = "reset"


def add_signals(layer: Recurrent, call: Call, given: Mapping[str, Any]) -> None:
    """Checks the signals of a call and puts them into it, [T, B, 1] each. Raises TypeError or RuntimeError."""
    if not given and not layer.derived.signals:
        return
    given = {name: value for name, value in given.items() if value is not None}
    call.resets = RESET in given and RESET not in layer.derived.signals
    known = list(dict.fromkeys([*layer.derived.signals, RESET]))
    for name in given:
        if name not in known:
            raise TypeError(
                f"{type(layer).__name__}.forward() got an unexpected argument {name!r}: "
                f"{layer.cell.name} can be given {', '.join(known)}"
            )
    for name in layer.derived.signals:
        if name not in given:
            raise TypeError(
                f'{layer.cell.name} uses signal("{name}"): give it with the call, as layer(x, {name}=tensor)'
            )
    call.signals = {name: _checked(layer, call, name, value) for name, value in given.items()}


def _checked(layer: Recurrent, call: Call, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    steps, rows = call.x.shape[:2]
    expected: tuple[int, ...] = (rows, steps) if call.batch_first else (steps, rows)
    if not call.batched:
        expected = (steps,)
    if tuple(value.shape) != expected:
        axes = "[T]" if not call.batched else "[B, T]" if call.batch_first else "[T, B]"
        raise RuntimeError(
            f"{name} must have one number for each time step and sequence, {axes} = {expected}, "
            f"got the shape {tuple(value.shape)}"
        )
    if name == RESET and value.dtype != torch.bool:
        raise TypeError(f"reset must be a bool tensor, True at the first step of a new sequence, got {value.dtype}")
    if not call.batched:
        value = value.unsqueeze(1)
    elif call.batch_first:
        value = value.transpose(0, 1)
    if call.lengths is not None:
        value = value.masked_fill(torch.arange(steps, device=value.device).unsqueeze(1) >= call.lengths, 0)
    weight = layer.any_weight
    checked: Tensor = value.to(torch.float32 if weight.dtype in NARROW else weight.dtype).unsqueeze(2)
    return checked


def signal_seen(call: Call, name: str, reverse: bool, origin: int, steps: int) -> Tensor:
    """What the steps `origin` to `origin + steps` of one direction read.

    A reset marks the first step of a new sequence. Backwards in time, the step before it is the one that must not see
    the state handed to it.
    """
    value = call.signals[name]
    if name == RESET and reverse:
        value = pad(value[1:], (0, 0, 0, 0, 0, 1))
    return value[origin : origin + steps]
