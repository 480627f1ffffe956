"""The states of all layers as they are given, kept and returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent

State = Tensor | list[Tensor] | None
"""One state of all layers: [L·D, B, width]; where widths differ, [D, B, width] for each layer; None for zeros."""


def each(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The state with every one of its tensors changed."""
    if isinstance(state, list):
        return [change(s) for s in state]
    return None if state is None else change(state)


def in_kind(state: Any, kind: torch.dtype) -> Any:
    return each(state, lambda s: s.to(kind))


def of_level(layer: Recurrent, state: State, level: int) -> Tensor | None:
    """One layer's part [D, B, W] of a state."""
    if isinstance(state, list):
        return state[level]
    return None if state is None else state[level * layer.directions : (level + 1) * layer.directions]


def stacked(layer: Recurrent, of_levels: list[list[Tensor]]) -> list[Any]:
    """Every layer's states [D, B, W], level by level, as states of all layers."""
    if not layer.uniform:
        return [list(s) for s in zip(*of_levels, strict=True)]
    return of_levels[0] if len(of_levels) == 1 else [torch.cat(s) for s in zip(*of_levels, strict=True)]


def checked_states(
    layer: Recurrent, state: Any, weight: Tensor, rows: int, batched: bool, autocast: bool
) -> tuple[list[State], bool]:
    """What is given for each state of the cell, and whether states are given and returned as a tuple."""
    names = layer.state_names
    several = len(names) > 1
    if state is None:
        if layer.learn_initial_state:
            return [_learned(layer, n, rows) for n in names], several
        return [None] * len(names), several
    if not layer.uniform:
        return _of_layers(layer, state, weight, rows, batched, autocast), several
    parts = state if isinstance(state, (tuple, list)) else (state,)
    if len(parts) != len(names) or not all(isinstance(p, Tensor) for p in parts):
        wanted = f"a tuple of {len(names)} tensors ({', '.join(names)})" if several else f"one tensor ({names[0]})"
        raise TypeError(f"{layer.cell.name} expects its state as {wanted}")
    rank = 3 if batched else 2
    if any(p.dim() != rank for p in parts):
        found = ", ".join(f"{p.dim()}-D" for p in parts)
        found = f"({found}) tensors" if several else f"{found} tensor"
        kind, given = "batched 3-D" if batched else "unbatched 2-D", " and ".join(["hx", *(n + "x" for n in names[1:])])
        raise RuntimeError(f"For {kind} input, {given} should also be {rank}-D but got {found}")
    count = layer.num_layers * layer.directions
    result: list[State] = []
    for k, (part, size) in enumerate(zip(parts, layer.state_sizes, strict=True)):
        expected = (count, rows, size) if batched else (count, size)
        if part.shape != expected:
            which = f"[{k}]" if several else ""
            raise RuntimeError(f"Expected hidden{which} size {expected}, got {list(part.shape)}")
        _check_kind(names[k], part, weight, autocast)
        result.append(part if batched else part.unsqueeze(1))
    return result, several


def _of_layers(layer: Recurrent, state: Any, weight: Tensor, rows: int, batched: bool, autocast: bool) -> list[State]:
    """The same where the layers' widths differ: each state is a list with one tensor for each layer."""
    names, count = layer.state_names, layer.num_layers
    parts = list(state) if len(names) > 1 and isinstance(state, (tuple, list)) else [state]
    fits = [isinstance(p, (tuple, list)) and len(p) == count and all(isinstance(q, Tensor) for q in p) for p in parts]
    if len(parts) != len(names) or not all(fits):
        one = f"a list of {count} tensors, one for each layer"
        wanted = one if len(names) == 1 else f"a tuple of {len(names)} lists ({', '.join(names)}), each {one}"
        raise TypeError(f"{layer.cell.name} expects its state as {wanted}")
    for name, part, width in zip(names, parts, layer.state_widths, strict=True):
        for level, p in enumerate(part):
            size = layer.state_size(width, level)
            expected = (layer.directions, rows, size) if batched else (layer.directions, size)
            if p.shape != expected:
                raise RuntimeError(f"Expected the state {name} of layer {level} as {expected}, got {list(p.shape)}")
            _check_kind(name, p, weight, autocast)
    return [[p if batched else p.unsqueeze(1) for p in part] for part in parts]


def _check_kind(name: str, part: Tensor, weight: Tensor, autocast: bool) -> None:
    if part.dtype != weight.dtype and not (autocast and part.is_floating_point()):
        raise RuntimeError(
            f"the state {name} has dtype {part.dtype} but the layer's weights are {weight.dtype}: "
            "convert one with .to()"
        )
    if part.device != weight.device:
        raise RuntimeError(
            f"the state {name} is on {part.device} but the layer is on {weight.device}: move one with .to()"
        )


def _learned(layer: Recurrent, name: str, rows: int) -> State:
    levels = [layer.learned_start(name, level).unsqueeze(1).expand(-1, rows, -1) for level in range(layer.num_layers)]
    return torch.cat(levels) if layer.uniform else levels
