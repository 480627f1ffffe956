"""Activations, made of the functions of the table. The names and constants are torch.nn.functional's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from throughtime.symbolic.functions import absolute, apply, clip, erf, expm1, minimum, sigmoid, sin, tanh, where
from throughtime.symbolic.graph import EquationError


def identity(v: Any) -> Any:
    return v


def relu(v: Any) -> Any:
    return apply("relu", v)


def leaky_relu(v: Any, slope: float = 0.01) -> Any:
    return where(v > 0, v, slope * v)


def elu(v: Any, alpha: float = 1.0) -> Any:
    # The minimum keeps the branch that is not taken finite: 0 * inf would be NaN on the way back.
    return where(v > 0, v, alpha * expm1(minimum(v, 0.0)))


def selu(v: Any) -> Any:
    """Klambauer et al. 2017, arXiv:1706.02515."""
    return 1.0507009873554804934193349852946 * elu(v, 1.6732632423543772848170429916717)


def gelu(v: Any) -> Any:
    """Hendrycks and Gimpel 2016, arXiv:1606.08415; the exact form, with erf."""
    return 0.5 * v * (1 + erf(v * math.sqrt(0.5)))


def silu(v: Any) -> Any:
    return v * sigmoid(v)


def softplus(v: Any) -> Any:
    return apply("softplus", v)


def softsign(v: Any) -> Any:
    return v / (1 + absolute(v))


def hard_tanh(v: Any) -> Any:
    return clip(v, -1.0, 1.0)


def hard_sigmoid(v: Any) -> Any:
    return clip(v / 6 + 0.5, 0.0, 1.0)


Activation = str | Callable[[Any], Any]
"""An activation by name, or the user's own expression."""
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    f.__name__: f
    for f in (
        *(tanh, relu, sigmoid, identity, leaky_relu, elu, selu, gelu, silu, softplus, softsign),
        *(hard_tanh, hard_sigmoid, sin),
    )
}


def activation(choice: Activation) -> Callable[[Any], Any]:
    """The activation of that name, or the user's own expression as it is."""
    if callable(choice):
        return choice
    if choice not in ACTIVATIONS:
        raise EquationError(
            f"activation {choice!r} is not known: choose one of {', '.join(ACTIVATIONS)}, "
            "or give a function of one value"
        )
    return ACTIVATIONS[choice]
