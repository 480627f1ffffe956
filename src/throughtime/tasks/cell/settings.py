"""What the command line says about a cell. Loads neither torch nor NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

CellName = Positional[Annotated[str, arg(metavar="CELL")]]


@dataclass(frozen=True)
class FormulasSettings:
    """Print the equations of a cell and, with --backward, what is derived from them: the error through time and through
    depth, the gradients of the weights, and what is kept for them."""

    cell: CellName
    """A name of the catalogue (rnn, gru, lstm, mgu, ...) or FILE.py:Name, a cell of your own."""
    backward: FlagCreatePairsOff[bool] = False
    """Also the error recursions, the gradients and what is kept."""
    notation: Literal["torch", "tutorial"] = "torch"
    """Letters of torch.nn's documentation (W_ih, W_hh, h), or the tutorial's (U, W, s, net)."""
    text: FlagCreatePairsOff[bool] = False
    """As text, which is the default."""
    latex: FlagCreatePairsOff[bool] = False
    """As LaTeX."""
    png: Annotated[str | None, arg(metavar="FILE")] = None
    """As a picture, written to this file."""
    lang: Literal["en", "zh"] = "en"
    """Language of the headings."""
    training: FlagCreatePairsOff[bool] = False
    """The step as it is in training, with its noise, where a cell has any."""


@dataclass(frozen=True)
class SourceSettings:
    """Print the C++ text of a cell's kernel, as it is compiled."""

    cell: CellName
    """A name of the catalogue (rnn, gru, lstm, mgu, ...) or FILE.py:Name, a cell of your own."""
    backward: FlagCreatePairsOff[bool] = False
    """The backward kernel, instead of the forward kernel for inference."""
    dtype: Literal["float32", "float64"] = "float32"
    """Numbers that the kernel computes with."""
