"""`RNN`, `GRU`, `LSTM` in torch.nn's place: its arguments, names, weights, first values, errors and attributes.

They are `torch.nn.RNNBase` layers, as torch.nn's own are, so that code which looks for those finds them.
`isinstance(layer, torch.nn.GRU)` alone is False: torch.compile refuses classes derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.cells import GRU as GRUCell
from throughtime.cells import LSTM as LSTMCell
from throughtime.cells import Elman
from throughtime.nn import initial
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.shapes import hidden_sizes
from throughtime.symbolic.activations import ACTIVATIONS
from throughtime.symbolic.language import Cell


class _TorchBase(nn.RNNBase):
    """torch.nn.RNNBase without its list of flat weights, which would have to be kept up to date: weights are read by
    name at every call."""

    _flat_weights_names: list[str]

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def __setattr__(self, name: str, value: Any) -> None:
        nn.Module.__setattr__(self, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]

    @property
    def _flat_weights(self) -> list[Any]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, weights: Sequence[Any]) -> None:
        for name, weight in zip(self._flat_weights_names, weights, strict=True):
            if getattr(self, name, None) is not weight:
                setattr(self, name, weight)

    def _init_flat_weights(self) -> None:
        """Nothing to do, see the class."""

    def _update_flat_weights(self) -> None:
        """Nothing to do, see the class."""

    def flatten_parameters(self) -> None:
        """Nothing to do: the kernels take the weights from where they are."""


class _DropIn(Recurrent, _TorchBase):
    """What the three have in common. The first values are torch.nn's, number for number, for the same seed."""

    def __init__(self, mode: str, proj_size: int, cell: Cell, *sizes: Any, **options: Any) -> None:
        self.mode, self.proj_size = mode, proj_size
        super().__init__(cell, *sizes, **options)
        suffixes = [suffix for suffix, _ in self._suffixes()]
        self._all_weights = [[name + suffix for name in self.derived.names] for suffix in suffixes]
        self._flat_weights_names = [name for names in self._all_weights for name in names]

    def reset_parameters(self) -> None:
        """Draws uniform(-1/√H, 1/√H), as torch.nn does."""
        initial.torch_default_(self)

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}"
        own = super().extra_repr().removeprefix(f"{self.cell.name}, {sizes}")
        return sizes + (f", proj_size={self.proj_size}" if self.proj_size else "") + own

    def forward(  # type: ignore[override]
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, ...] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        **options: Any,
    ) -> Any:
        """torch.nn's forward, and what `Recurrent.forward` takes besides."""
        return super().forward(input, hx, lengths, **options)


class RNN(_DropIn):
    """torch.nn.RNN; `nonlinearity` is "tanh", "relu" or any other activation by name or as a function."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: Any = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        _refuse_projection(options)
        if not callable(nonlinearity) and nonlinearity not in ACTIVATIONS:
            known = ", ".join(repr(name) for name in ACTIVATIONS if name not in ("tanh", "relu"))
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'. Beyond torch.nn's there are "
                f"{known}, and any function of one value."
            )
        self.nonlinearity = nonlinearity
        mode = f"RNN_{nonlinearity.upper()}" if isinstance(nonlinearity, str) else "RNN"
        options |= {"bias": bias, "batch_first": batch_first, "dropout": dropout, "bidirectional": bidirectional}
        options |= {"device": device, "dtype": dtype}
        super().__init__(mode, 0, Elman(nonlinearity), input_size, hidden_size, num_layers, **options)

    def products_under_autocast(self, packed: bool) -> Sequence[str]:
        return ("h",)


class GRU(_DropIn):
    """torch.nn.GRU (the reset gate acts after the recurrent product)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        _refuse_projection(options)
        options |= {"bias": bias, "batch_first": batch_first, "dropout": dropout, "bidirectional": bidirectional}
        options |= {"device": device, "dtype": dtype}
        super().__init__("GRU", 0, GRUCell(), input_size, hidden_size, num_layers, **options)


class LSTM(_DropIn):
    """torch.nn.LSTM; with `proj_size` > 0 the state h is projected to that many numbers."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        if proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if any(0 < size <= proj_size for size in hidden_sizes(hidden_size, num_layers)):
            raise ValueError("proj_size has to be smaller than hidden_size")
        options |= {"bias": bias, "batch_first": batch_first, "dropout": dropout, "bidirectional": bidirectional}
        options |= {"device": device, "dtype": dtype}
        cell = LSTMCell(projection=proj_size)
        super().__init__("LSTM", proj_size, cell, input_size, hidden_size, num_layers, **options)

    def products_under_autocast(self, packed: bool) -> Sequence[str]:
        if self.proj_size:
            return ("h",)
        return () if packed else ("h", "c")  # oneDNN, which makes all of an LSTM in that dtype, takes no packed rows

    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]


def _refuse_projection(options: dict[str, Any]) -> None:
    if "proj_size" in options:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


__all__ = ["GRU", "LSTM", "RNN"]
