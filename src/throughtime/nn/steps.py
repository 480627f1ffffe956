"""One step at a time: `RecurrentCell` for any cell, and `RNNCell`, `GRUCell`, `LSTMCell` in torch.nn's place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime import cells
from throughtime.nn import initial, precision, shapes
from throughtime.nn.older_graphs import is_recording, recorded
from throughtime.nn.recurrent import Backend, Recurrent
from throughtime.nn.states import State
from throughtime.symbolic.activations import ACTIVATIONS
from throughtime.symbolic.language import Cell
from throughtime.symbolic.options import Options


class RecurrentCell(Recurrent):
    """One step of any cell, by the same kernels as a whole sequence: x and the state(s) to the new state(s).

    Args: as for `Recurrent`; `options` are those of the equation. What is drawn for a whole sequence is drawn for one
    step here. Its state dict is that of a `Recurrent` of one layer and one direction.

    Shapes: input [B, I] or [I], or int64 word numbers [B]; each state [B, width] or [width], 0 where none is given; a
    tuple of states if the cell has several.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        backend: Backend = "compiled",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        Options.of(options)  # nothing but these
        options |= {"bias": bool(bias), "backend": backend, "device": device, "dtype": dtype}
        super().__init__(cell, input_size, hidden_size, **options)

    def forward(self, input: Tensor, hx: Tensor | tuple[Tensor, ...] | None = None) -> Any:  # type: ignore[override]
        """The new state(s). Raises ValueError, RuntimeError or IndexError as torch.nn's cells do."""
        if is_recording(input):
            return recorded(self, input, hx, {})
        call = _prepare(self, input, hx)
        _, states = self._run(call)
        if call.kinds is not None:
            states = [s.to(k) for s, k in zip(states, call.kinds, strict=True)]
        states = [s.squeeze(0) if call.batched else s.squeeze(0).squeeze(0) for s in states]
        return tuple(states) if call.tuple_state else states[0]


def _prepare(layer: RecurrentCell, input: Tensor, hx: Any) -> shapes.Call:
    """A step as a call of one step: x [1, B, I], states [1, B, width]."""
    name = type(layer).__name__
    if not isinstance(input, Tensor):
        raise TypeError(f"{name} expects a tensor as input, got {type(input).__name__}")
    words = input.dtype in (torch.int64, torch.int32)
    if not words and not input.dtype.is_floating_point:
        raise RuntimeError(f"input must hold floating-point numbers, or int64 word numbers, got {input.dtype}")
    rank = input.dim() + words
    if rank not in (1, 2):
        wanted = "0D or 1D, as word numbers are" if words else "1D or 2D"
        raise ValueError(f"{name}: Expected input to be {wanted}, got {input.dim()}D instead")
    batched = rank == 2
    x = input.unsqueeze(0) if batched else input.unsqueeze(0).unsqueeze(0)
    parts = _parts(layer, hx)
    several = len(layer.state_names) > 1
    for k, part in enumerate(parts or ()):
        if part.dim() not in (1, 2):
            raise ValueError(
                f"{name}: Expected {f'hx[{k}]' if several else 'hidden'} to be 1D or 2D, got {part.dim()}D instead"
            )
    weight = layer.any_weight
    shapes.check_device(layer, x, weight)
    autocast = precision.under_autocast(weight)
    if not words:
        if x.shape[2] != layer.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {x.shape[2]} expected {layer.input_size}")
        if x.dtype != weight.dtype and not autocast:
            raise RuntimeError(f"input has dtype {x.dtype} but the weights are {weight.dtype}: convert one with .to()")
    states: list[State] = [None] * len(layer.state_names)
    for k, (part, size) in enumerate(zip(parts or (), layer.state_sizes, strict=False)):
        own = part if batched else part.unsqueeze(0)
        if own.shape[0] != x.shape[1]:
            raise RuntimeError(f"Input batch size {x.shape[1]} doesn't match hidden{k} batch size {own.shape[0]}")
        if own.dim() != 2 or own.shape[1] != size:
            raise RuntimeError(f"hidden{k} has inconsistent hidden_size: got {own.shape[1]}, expected {size}")
        if own.dtype != weight.dtype and not (autocast and own.is_floating_point()):
            raise RuntimeError(
                f"hidden{k} has dtype {own.dtype} but the weights are {weight.dtype}: convert with .to()"
            )
        states[k] = own.unsqueeze(0)
    if words:
        x = shapes.checked_words(x, layer.input_size)
    call = shapes.Call(x, states, None, False, batched, several, None, None, autocast)
    return shapes.typed(layer, call, weight)


def _parts(layer: RecurrentCell, hx: Any) -> list[Tensor] | None:
    if hx is None:
        return None
    names = layer.state_names
    parts = list(hx) if isinstance(hx, (tuple, list)) else [hx]
    if len(parts) != len(names) or not all(isinstance(p, Tensor) for p in parts):
        wanted = f"a tuple of {len(names)} tensors ({', '.join(names)})" if len(names) > 1 else "one tensor (h)"
        raise TypeError(f"{layer.cell.name} expects its state as {wanted}")
    return parts


class _TorchBase(nn.RNNCellBase):
    def __init__(self) -> None:
        nn.Module.__init__(self)


class _DropIn(RecurrentCell, _TorchBase):
    """What the three have in common. The first values are torch.nn's, number for number, for the same seed."""

    may_be_empty = True

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, bias: bool, **options: Any) -> None:
        if hidden_size == 0:
            options["backend"] = "reference"  # there is nothing that a kernel could compute
        super().__init__(cell, input_size, hidden_size, bias, **options)
        if not bias:
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)

    def _name(self, name: str, level: int, direction: int) -> str:
        return name

    def reset_parameters(self) -> None:
        """Draws uniform(-1/√H, 1/√H), as torch.nn does."""
        initial.torch_default_(self)

    def extra_repr(self) -> str:
        return ", ".join([nn.RNNCellBase.extra_repr(self), *(f"{k}={v}" for k, v in self.options.given().items())])


class RNNCell(_DropIn):
    """torch.nn.RNNCell; `nonlinearity` is "tanh", "relu" or any other activation by name or as a function."""

    __constants__ = nn.RNNCell.__constants__

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Any = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        if not callable(nonlinearity) and nonlinearity not in ACTIVATIONS:
            raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}")
        options |= {"device": device, "dtype": dtype}
        super().__init__(cells.Elman(nonlinearity), input_size, hidden_size, bias, **options)
        self.nonlinearity = nonlinearity

    def products_under_autocast(self, packed: bool) -> tuple[str, ...]:
        return ("h",)


class GRUCell(_DropIn):
    """torch.nn.GRUCell (the reset gate acts after the recurrent product)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(cells.GRU(), input_size, hidden_size, bias, device=device, dtype=dtype, **options)


class LSTMCell(_DropIn):
    """torch.nn.LSTMCell."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(cells.LSTM(), input_size, hidden_size, bias, device=device, dtype=dtype, **options)


__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RecurrentCell"]
