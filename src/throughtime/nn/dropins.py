"""`RNN`, `GRU`, `LSTM` with torch.nn's names, defaults, weights and first values."""

from __future__ import annotations

from typing import Any

from throughtime.cells import GRU as GRUCell
from throughtime.cells import LSTM as LSTMCell
from throughtime.cells import Elman
from throughtime.nn import initial
from throughtime.nn.recurrent import Recurrent
from throughtime.symbolic.language import Cell


class _DropIn(Recurrent):
    """torch.nn's order of arguments; the first values are torch.nn's, number for number, for the same seed."""

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            **options,
        )

    def reset_parameters(self) -> None:
        """Draws uniform(-1/√H, 1/√H), as torch.nn does."""
        initial.torch_default_(self)


class RNN(_DropIn):
    """torch.nn.RNN; `nonlinearity` is "tanh", "relu" or any other activation by name or as a function."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Any = "tanh",
        *args: Any,
        **options: Any,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(Elman(nonlinearity), input_size, hidden_size, num_layers, *args, **options)


class GRU(_DropIn):
    """torch.nn.GRU (the reset gate acts after the recurrent product)."""

    def __init__(self, input_size: int, hidden_size: int, *args: Any, **options: Any) -> None:
        super().__init__(GRUCell(), input_size, hidden_size, *args, **options)


class LSTM(_DropIn):
    """torch.nn.LSTM, without `proj_size`."""

    def __init__(self, input_size: int, hidden_size: int, *args: Any, **options: Any) -> None:
        super().__init__(LSTMCell(), input_size, hidden_size, *args, **options)


__all__ = ["GRU", "LSTM", "RNN"]
