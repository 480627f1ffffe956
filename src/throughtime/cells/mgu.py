"""The minimal gated unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from throughtime.symbolic.activations import Activation, activation
from throughtime.symbolic.language import Cell, affine


@dataclass(frozen=True)
class MinimalGatedUnit(Cell):
    """Zhou et al. 2016, arXiv:1603.09420, eq. 6-8."""

    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"

    def step(self, x: Any, h: Any) -> Any:
        σ, φ = activation(self.gate_activation), activation(self.activation)
        f = σ(affine("f", x, h))
        candidate = φ(affine("h", x, f * h))
        return (1 - f) * h + f * candidate
