"""Which sequences can be cut along time, and how: the checks and the knives of `truncated`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.nn.recurrent import Recurrent
from throughtime.nn.steps import RecurrentCell


def check_steps(length: int, context: int) -> None:
    for name, value, least in (("length", length, 1), ("context", context, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of time steps, {least} or more, got {value!r}")


def _layers(module: nn.Module) -> list[Any]:
    """The layers that run over whole sequences; single steps say nothing about the input's axes."""
    found = [m for m in module.modules() if isinstance(m, (Recurrent, nn.RNNBase))]
    return [m for m in found if not isinstance(m, RecurrentCell)]


def batch_first_of(module: nn.Module) -> bool:
    """Whether the batch comes first, as all the recurrent layers inside say."""
    firsts = {bool(layer.batch_first) for layer in _layers(module)}
    if len(firsts) != 1:
        why = "recurrent layers of both kinds" if firsts else "no recurrent layer of this package or torch.nn"
        raise ValueError(
            f"which axis of the input is time cannot be seen, for {type(module).__name__} holds {why}: "
            "say batch_first=True or batch_first=False"
        )
    return firsts.pop()


def check_layers(module: nn.Module) -> None:
    """Refuses layers that no sequence can be cut for."""
    for layer in _layers(module):
        if layer.bidirectional or getattr(layer, "reverse", False):
            raise ValueError(
                f"a {type(layer).__name__} that reads the sequence backwards cannot be truncated, for it starts at the "
                "sequence's end: use bidirectional=False, or run the whole sequence at once"
            )
        if isinstance(layer, Recurrent) and any(e.has("time") for e in layer.derived.equations.values()):
            raise ValueError(
                f"{layer.cell.name} counts the time steps, and each piece would count from 0 again: "
                "run the whole sequence at once (recompute= saves memory)"
            )


def layout_of(input: Tensor, batch_first: bool) -> tuple[bool, int]:
    """Whether the input has a batch axis, and which axis is time."""
    rank = input.dim() + (not input.dtype.is_floating_point)
    if rank not in (2, 3):
        raise ValueError(
            f"input must be [T, B, I] or [T, I] (word numbers [T, B] or [T]), got the shape {tuple(input.shape)}"
        )
    return rank == 3, int(batch_first and rank == 3)


def checked_lengths(lengths: Any, input: Tensor, axis: int, batched: bool) -> Tensor | None:
    if lengths is None:
        return None
    result = torch.as_tensor(lengths, device=input.device)
    rows, steps = (input.shape[1 - axis] if batched else 1), input.shape[axis]
    if result.shape != (rows,) or result.dtype.is_floating_point or result.dtype == torch.bool:
        raise ValueError(
            f"lengths must be one whole number for each of the {rows} sequences, "
            f"got the shape {tuple(result.shape)} of {result.dtype}"
        )
    if rows and not 0 <= int(result.min()) <= int(result.max()) <= steps:
        raise ValueError(
            f"lengths must lie in [0, {steps}], the time steps given, got {int(result.min())} to {int(result.max())}"
        )
    return result


def check_axes(what: str, given: Any, input: Tensor, axis: int, batched: bool) -> None:
    """Whether everything that is cut with the input has its axes."""
    axes = 2 if batched else 1
    if given is None:
        return
    if isinstance(given, Tensor):
        if given.shape[:axes] != input.shape[:axes]:
            names = "time" if not batched else "batch and time" if axis else "time and batch"
            raise ValueError(
                f"{what} must have the {names} axes of the input, {tuple(input.shape[:axes])}, "
                f"got the shape {tuple(given.shape)}"
            )
        return
    if not isinstance(given, (Mapping, tuple, list)):
        raise TypeError(f"{what} must be a tensor, or a tuple or dict of tensors, got {type(given).__name__}")
    for part in given.values() if isinstance(given, Mapping) else given:
        check_axes(what, part, input, axis, batched)


def detached(state: Any) -> Any:
    """The same values with no graph behind them."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, Mapping):
        return {k: detached(v) for k, v in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [detached(s) for s in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if state is None:
        return None
    raise TypeError(f"a state must be a tensor, or a tuple, list or dict of tensors, got {type(state).__name__}")


def pieces_of(value: Any, axis: int, start: int, stop: int) -> Any:
    """Time steps [start, stop) of a tensor, or of every tensor in a tuple or dict."""
    if isinstance(value, Tensor):
        return value.narrow(axis, start, stop - start)
    if isinstance(value, Mapping):
        return {k: pieces_of(v, axis, start, stop) for k, v in value.items()}
    return None if value is None else tuple(pieces_of(v, axis, start, stop) for v in value)


def from_step(output: Any, axis: int, first: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"with context= the module's output must be a tensor, got {type(output).__name__}")
    return output.narrow(axis, first, output.shape[axis] - first)


def joined(lead: Any, rest: Any, axis: int, first: int) -> Tensor:
    """The piece's own steps of two outputs that follow each other; `first`: how many steps of the first are context."""
    if not isinstance(lead, Tensor) or not isinstance(rest, Tensor):
        raise TypeError(f"with context= the module's output must be a tensor, got {type(lead).__name__}")
    return from_step(torch.cat([lead, rest], axis), axis, first)
