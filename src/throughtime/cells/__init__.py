"""The catalogue: equations only."""

from __future__ import annotations

from collections.abc import Callable

from throughtime.cells.elman import Elman
from throughtime.cells.gru import GRU
from throughtime.cells.lstm import LSTM, LayerNormLSTM, MogrifierLSTM
from throughtime.cells.mgu import MinimalGatedUnit
from throughtime.symbolic.language import Cell

__all__ = ["GRU", "LSTM", "Elman", "LayerNormLSTM", "MinimalGatedUnit", "MogrifierLSTM", "catalogue"]

catalogue: dict[str, Callable[[], Cell]] = {
    "rnn": Elman,
    "gru": GRU,
    "lstm": LSTM,
    "mgu": MinimalGatedUnit,
    "gru-reset-before": lambda: GRU(reset="before"),
    "lstm-peephole": lambda: LSTM(peepholes=True),
    "lstm-layernorm": LayerNormLSTM,
    "lstm-mogrifier": MogrifierLSTM,
}
"""Command-line name -> the cell with its default options."""
