"""The gated recurrent unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from throughtime.symbolic.activations import Activation, activation
from throughtime.symbolic.language import Cell, affine


@dataclass(frozen=True)
class GRU(Cell):
    """Cho et al. 2014, arXiv:1406.1078, eq. 5-8, with the reset gate before the recurrent product, as there, or
    after it, as torch and cuDNN have it."""

    reset: Literal["after", "before"] = "after"
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"

    gates = ("r", "z", "n")
    biases = 2

    @property
    def recurrent_gates(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("r", "z", "m") if self.reset == "after" else ("r", "z", "n")

    def step(self, x: Any, h: Any) -> Any:
        σ, φ = activation(self.gate_activation), activation(self.activation)
        r = σ(affine("r", x, h))
        z = σ(affine("z", x, h))
        n = φ(affine("n", x) + r * affine("m", h)) if self.reset == "after" else φ(affine("n", x, r * h))
        return (1 - z) * n + z * h
