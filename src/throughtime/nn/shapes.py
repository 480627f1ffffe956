"""What a layer may be given, checked once at the door: shapes, lengths, states, with one sentence for each mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent


def check_options(
    input_size: int, hidden_size: int, num_layers: int, dropout: float, recompute: int | None, backend: str
) -> None:
    """Raises TypeError or ValueError for options that no layer can have."""
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero, got {value}")
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ValueError(
            f"dropout should be a number in range [0, 1], the probability of dropping a number, got {dropout!r}"
        )
    if recompute is not None and (type(recompute) is not int or recompute < 1):
        raise ValueError(f"recompute should be None or a number of steps above 0, got {recompute!r}")
    if backend not in ("compiled", "reference"):
        raise ValueError(f'backend should be "compiled" or "reference", got {backend!r}')


def check_heads(hidden_size: int, heads: int) -> None:
    if type(heads) is not int or heads < 1 or hidden_size % heads:
        raise ValueError(f"heads should be a number that divides hidden_size ({hidden_size}), got {heads!r}")


@dataclass
class Call:
    """A checked call: x [T, B, I] or word numbers [T, B]; each state [L·D, B, width], or None for zeros."""

    x: Tensor
    states: list[Tensor | None]
    lengths: Tensor | None
    batch_first: bool
    batched: bool
    tuple_state: bool


def prepare(layer: Recurrent, input: Any, state: Any, lengths: Any) -> Call:
    """Checks and unifies what `forward` was given. Raises TypeError, ValueError or RuntimeError as torch.nn does."""
    if not isinstance(input, Tensor):
        hint = ": give the padded tensor and lengths=" if isinstance(input, PackedSequence) else ""
        raise TypeError(f"{type(layer).__name__} expects a tensor as input, got {type(input).__name__}{hint}")
    words = input.dtype in (torch.int64, torch.int32)
    if not words and not input.dtype.is_floating_point:
        raise ValueError(f"input must hold floating-point numbers, or int64 word numbers, got {input.dtype}")
    rank = input.dim() + words
    if rank not in (2, 3):
        raise ValueError(
            f"{type(layer).__name__}: Expected input to be 2D or 3D (word numbers 1D or 2D), got {input.dim()}D instead"
        )
    batched = rank == 3
    if not batched:
        input = input.unsqueeze(0 if layer.batch_first else 1)
    batch_first = layer.batch_first
    x = input.transpose(0, 1) if batch_first else input
    weight = layer.any_weight
    if not words:
        if x.shape[2] != layer.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {layer.input_size}, got {x.shape[2]}"
            )
        if x.dtype != weight.dtype:
            raise ValueError(
                f"input has dtype {x.dtype} but the layer's weights are {weight.dtype}: convert one with .to()"
            )
    if x.device != weight.device:
        raise RuntimeError(f"input is on {x.device} but the layer is on {weight.device}: move one with .to()")
    if layer.backend == "compiled" and x.device.type != "cpu":
        raise NotImplementedError(
            f'the compiled backend works on the CPU, the input is on {x.device}: use backend="reference" there'
        )
    if x.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    checked = _lengths(lengths, x)
    if checked is not None:
        padding = torch.arange(x.shape[0]).unsqueeze(1).to(x.device) >= checked
        x = x.masked_fill(padding if words else padding.unsqueeze(2), 0)
    if words:
        x = x.long()
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < layer.input_size:
            raise IndexError(
                f"word numbers must lie in [0, {layer.input_size}), the vocabulary, "
                f"got {int(x.min())} to {int(x.max())}"
            )
    states, is_tuple = _states(layer, state, x.shape[1], batched)
    return Call(x, states, checked, batch_first, batched, is_tuple)


def _lengths(lengths: Any, x: Tensor) -> Tensor | None:
    if lengths is None:
        return None
    steps, rows = x.shape[:2]
    if not isinstance(lengths, Tensor):
        if not isinstance(lengths, Sequence) or isinstance(lengths, str):
            raise TypeError(f"lengths must be a tensor or a list of whole numbers, got {type(lengths).__name__}")
        lengths = torch.tensor(lengths)
    if lengths.numel() and (lengths.dtype.is_floating_point or lengths.dtype == torch.bool):
        raise TypeError(f"lengths must be whole numbers, got {lengths.dtype}")
    if lengths.shape != (rows,):
        raise ValueError(
            f"lengths must have one number for each of the {rows} sequences, got the shape {tuple(lengths.shape)}"
        )
    if rows and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
        raise ValueError(
            f"lengths must lie in [0, {steps}], the time steps given, got {int(lengths.min())} to {int(lengths.max())}"
        )
    checked: Tensor = lengths.to(device=x.device, dtype=torch.int64).contiguous()
    return checked


def _states(layer: Recurrent, state: Any, rows: int, batched: bool) -> tuple[list[Tensor | None], bool]:
    """One tensor or None for each state of the cell, and whether states are given and returned as a tuple."""
    names = layer.state_names
    several = len(names) > 1
    if state is None:
        if layer.learn_initial_state:
            return [getattr(layer, f"initial_{n}").unsqueeze(1).expand(-1, rows, -1) for n in names], several
        return [None] * len(names), several
    parts = state if isinstance(state, (tuple, list)) else (state,)
    if len(parts) != len(names) or not all(isinstance(p, Tensor) for p in parts):
        wanted = f"a tuple of {len(names)} tensors ({', '.join(names)})" if several else f"one tensor ({names[0]})"
        raise TypeError(f"{layer.cell.name} expects its state as {wanted}")
    weight = layer.any_weight
    count = layer.num_layers * layer.directions
    result: list[Tensor | None] = []
    for name, part, size in zip(names, parts, layer.state_sizes, strict=True):
        expected = (count, rows, size) if batched else (count, size)
        if tuple(part.shape) != expected:
            raise RuntimeError(f"Expected hidden size {expected} for the state {name}, got {tuple(part.shape)}")
        if part.dtype != weight.dtype:
            raise ValueError(f"the state {name} has dtype {part.dtype} but the layer's weights are {weight.dtype}")
        if part.device != weight.device:
            raise RuntimeError(
                f"the state {name} is on {part.device} but the layer is on {weight.device}: move one with .to()"
            )
        result.append(part if batched else part.unsqueeze(1))
    return result, several


def finish(call: Call, output: Tensor, states: list[Tensor]) -> tuple[Tensor, Any]:
    """The results in the shape in which the input came."""
    if not call.batched:
        output = output.squeeze(0 if call.batch_first else 1)
        states = [s.squeeze(1) for s in states]
    return output, tuple(states) if call.tuple_state else states[0]
