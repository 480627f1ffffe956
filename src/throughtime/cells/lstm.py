"""Long short-term memory and its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from throughtime.symbolic.activations import Activation, activation
from throughtime.symbolic.functions import sigmoid
from throughtime.symbolic.graph import Width
from throughtime.symbolic.language import Cell, affine, layer_norm, weight


@dataclass(frozen=True)
class LSTM(Cell):
    """Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, with forget gate (Gers et al. 2000); optional
    peepholes (Gers et al. 2002, jmlr.org/papers/v3/gers02a.html); optionally h is projected to that many numbers (Sak
    et al. 2014, arXiv:1402.1128, eq. 6)."""

    peepholes: bool = False
    projection: int = 0
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"

    gates = ("i", "f", "g", "o")
    biases = 2

    @property
    def state_widths(self) -> dict[str, Width]:  # type: ignore[override]
        return {"h": "projection"} if self.projection else {}

    def step(self, x: Any, h: Any, c: Any) -> Any:
        σ, φ = activation(self.gate_activation), activation(self.activation)
        peep = (lambda name, c: weight(name) * c) if self.peepholes else (lambda name, c: 0)
        i = σ(affine("i", x, h) + peep("p_i", c))
        f = σ(affine("f", x, h) + peep("p_f", c))
        g = φ(affine("g", x, h))
        c = f * c + i * g
        o = σ(affine("o", x, h) + peep("p_o", c))
        if self.projection:
            return affine("hr", o * φ(c), size="projection", bias=False), c
        return o * φ(c), c


@dataclass(frozen=True)
class LayerNormLSTM(Cell):
    """LSTM whose pre-activations and cell state are normalised. Ba et al. 2016, arXiv:1607.06450."""

    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"

    def step(self, x: Any, h: Any, c: Any) -> Any:
        σ, φ = activation(self.gate_activation), activation(self.activation)
        i = σ(layer_norm("i", affine("i", x, h)))
        f = σ(layer_norm("f", affine("f", x, h)))
        g = φ(layer_norm("g", affine("g", x, h)))
        o = σ(layer_norm("o", affine("o", x, h)))
        c = f * c + i * g
        return o * φ(layer_norm("c", c)), c


@dataclass(frozen=True)
class MogrifierLSTM(Cell):
    """LSTM whose input and state gate each other first, in turn. Melis et al. 2020, arXiv:1909.01792, eq. 1-2."""

    rounds: int = 1
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"

    def step(self, x: Any, h: Any, c: Any) -> Any:
        σ, φ = activation(self.gate_activation), activation(self.activation)
        for k in range(self.rounds):
            if k % 2 == 0:
                x = 2 * sigmoid(affine("q" if k < 2 else f"q{k}", h, size=x, bias=False)) * x
            else:
                h = 2 * sigmoid(affine("p" if k < 2 else f"p{k}", x, bias=False)) * h
        i = σ(affine("i", x, h))
        f = σ(affine("f", x, h))
        g = φ(affine("g", x, h))
        o = σ(affine("o", x, h))
        c = f * c + i * g
        return o * φ(c), c
