"""The cells of the ONNX operators RNN, GRU and LSTM, with everything that their attributes can ask for.

https://onnx.ai/onnx/operators/onnx__LSTM.html (and RNN, GRU), operator set 22. The names of the gates are those of
this package's own cells: ONNX's zrh is z, r, n here, its iofc is i, o, f, g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from throughtime.symbolic import activations
from throughtime.symbolic.functions import absolute, clip, maximum, minimum, sigmoid, tanh, where
from throughtime.symbolic.language import Cell, affine, weight

ACTIVATIONS: dict[str, tuple[Callable[[Any, float, float], Any], tuple[float | None, ...]]] = {
    "Relu": (lambda v, a, b: activations.relu(v), ()),
    "Tanh": (lambda v, a, b: tanh(v), ()),
    "Sigmoid": (lambda v, a, b: sigmoid(v), ()),
    "Affine": (lambda v, a, b: a * v + b, (1.0, 0.0)),
    "LeakyRelu": (lambda v, a, b: activations.leaky_relu(v, a), (0.01,)),
    "ThresholdedRelu": (lambda v, a, b: where(v >= a, v, 0.0), (1.0,)),
    "ScaledTanh": (lambda v, a, b: a * tanh(b * v), (None, None)),
    "HardSigmoid": (lambda v, a, b: clip(a * v + b, 0.0, 1.0), (0.2, 0.5)),
    "Elu": (lambda v, a, b: activations.elu(v, a), (1.0,)),
    "Softsign": (lambda v, a, b: v / (1 + absolute(v)), ()),
    "Softplus": (lambda v, a, b: activations.softplus(v), ()),
}
"""Name -> the function of a value, alpha and beta, and the defaults of as many of the two as it uses (None: none)."""


@dataclass(frozen=True)
class Activation:
    """An ONNX activation function; `clip` bounds its argument to [-clip, clip]."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0
    clip: float | None = None

    def __call__(self, v: Any) -> Any:
        if self.clip is not None:
            v = maximum(minimum(v, self.clip), -self.clip)
        return ACTIVATIONS[self.name][0](v, self.alpha, self.beta)


@dataclass(frozen=True)
class OnnxGRU(Cell):
    """GRU with activations f (gates) and g; `linear_before_reset` is torch.nn's equation."""

    f: Activation = Activation("Sigmoid")
    g: Activation = Activation("Tanh")
    linear_before_reset: bool = False

    gates = ("r", "z", "n")
    biases = 2

    @property
    def recurrent_gates(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("r", "z", "m") if self.linear_before_reset else ("r", "z", "n")

    def step(self, x: Any, h: Any) -> Any:
        z = self.f(affine("z", x, h))
        r = self.f(affine("r", x, h))
        n = self.g(affine("n", x) + r * affine("m", h) if self.linear_before_reset else affine("n", x, r * h))
        return (1 - z) * n + z * h


@dataclass(frozen=True)
class OnnxLSTM(Cell):
    """LSTM with activations f (gates), g (candidate) and h (output); `input_forget`: the forget gate is 1 - i."""

    f: Activation = Activation("Sigmoid")
    g: Activation = Activation("Tanh")
    h: Activation = Activation("Tanh")
    peepholes: bool = False
    input_forget: bool = False

    biases = 2

    @property
    def gates(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("i", "g", "o") if self.input_forget else ("i", "f", "g", "o")

    def step(self, x: Any, h: Any, c: Any) -> Any:
        peep = (lambda name, c: weight(name) * c) if self.peepholes else (lambda name, c: 0)
        i = self.f(affine("i", x, h) + peep("p_i", c))
        f = 1 - i if self.input_forget else self.f(affine("f", x, h) + peep("p_f", c))
        c = f * c + i * self.g(affine("g", x, h))
        o = self.f(affine("o", x, h) + peep("p_o", c))
        return o * self.h(c), c


__all__ = ["ACTIVATIONS", "Activation", "OnnxGRU", "OnnxLSTM"]
