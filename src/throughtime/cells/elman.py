"""The simple recurrent network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from throughtime.symbolic.activations import Activation, activation
from throughtime.symbolic.language import Cell, affine


@dataclass(frozen=True)
class Elman(Cell):
    """s_t = f(U x_t + W s_{t-1} + b) with any activation f. Elman 1990, doi:10.1207/s15516709cog1402_1."""

    activation: Activation = "tanh"

    biases = 2

    def step(self, x: Any, h: Any) -> Any:
        return activation(self.activation)(affine("net", x, h))
