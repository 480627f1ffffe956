"""throughtime: recurrent neural networks written as equations, trained at the speed of the hardware."""

from __future__ import annotations

import importlib
from typing import Any

_LANGUAGE = "throughtime.symbolic.language"
_FUNCTIONS = "throughtime.symbolic.functions"
_HOMES = {
    **dict.fromkeys(
        (
            *("Cell", "affine", "weight", "time", "noise", "training", "total", "size", "mean", "layer_norm"),
            *("dropout", "zoneout", "signal"),
        ),
        _LANGUAGE,
    ),
    **dict.fromkeys(
        (
            *("tanh", "sigmoid", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "erf", "absolute", "sign"),
            *("minimum", "maximum", "where", "surrogate", "clip", "clip_gradient"),
        ),
        _FUNCTIONS,
    ),
    **dict.fromkeys(
        (
            *("identity", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "softsign"),
            *("hard_tanh", "hard_sigmoid"),
        ),
        "throughtime.symbolic.activations",
    ),
    "EquationError": "throughtime.symbolic.graph",
    "Recurrent": "throughtime.nn.recurrent",
    **dict.fromkeys(("RNN", "GRU", "LSTM"), "throughtime.nn.dropins"),
    **dict.fromkeys(("RecurrentCell", "RNNCell", "GRUCell", "LSTMCell"), "throughtime.nn.steps"),
    "convert": "throughtime.nn.convert",
    "explain": "throughtime.nn.explain",
    "linear_cross_entropy": "throughtime.nn.cross_entropy",
    "formulas": "throughtime.typeset",
    "from_onnx": "throughtime.nn.onnx_operators",
    "truncated": "throughtime.nn.truncated",
}
_MODULES = {
    "cells": "throughtime.cells",
    "init": "throughtime.nn.initial",
    "inspect": "throughtime.inspect",
    "runtime": "throughtime.runtime",
    "symbolic": "throughtime.symbolic",
    "tutorial": "throughtime.tutorial",
}

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    """Loads each part when it is first used, so that `throughtime --help` does not load torch."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'throughtime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
