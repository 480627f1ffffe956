"""Reads printed formulas and computes what they say, on torch tensors: the printed text itself is what is tested."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)|(?P<sign>[-+−⊙·/(),>≥²³ᵀ])"
    r"|(?P<name>∂E/∂[^\s()⊙·,²³ᵀ]+|[^\W\d](?:(?![²³ᵀ])[\w′^←↓]|\{[^}]*\})*))"
)
FUNCTIONS = {
    "σ": torch.sigmoid, "tanh": torch.tanh, "sqrt": torch.sqrt, "exp": torch.exp, "expm1": torch.expm1,
    "log": torch.log, "log1p": torch.log1p, "sin": torch.sin, "cos": torch.cos, "erf": torch.erf, "abs": torch.abs,
    "sign": torch.sign, "relu": torch.relu, "softplus": torch.nn.functional.softplus, "where": torch.where,
    "minimum": torch.minimum, "maximum": torch.maximum,
    "sum": lambda v: v.sum(-1, keepdim=True), "mean": lambda v: v.mean(-1, keepdim=True),
}  # fmt: skip


class Matrix:
    """A matrix [rows, columns], which maps vectors [B, columns]."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Transposed:
    """vᵀ of a vector [B, n]."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = TOKEN.match(text, at)
        assert match, f"cannot read {text[at:]!r}"
        found.append((str(match.lastgroup), match[match.lastgroup]))
        at = match.end()
    return found


class Reader:
    """Recursive descent: sums of products of powers; side by side means a matrix product, an outer product Σ_b a bᵀ, or
    a number times a value. Everything of one level is taken from left to right."""

    def __init__(self, text: str, known: Mapping[str, Any]) -> None:
        self._tokens, self._known, self._at = tokens(text), known, 0

    def value(self) -> Any:
        result = self._comparison()
        assert self._at == len(self._tokens), f"left over: {self._tokens[self._at :]}"
        return result

    def _next(self, *signs: str) -> str | None:
        if self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind == "sign" and text in signs:
                self._at += 1
                return text
        return None

    def _comparison(self) -> Any:
        left = self._sum()
        sign = self._next(">", "≥")
        if sign is None:
            return left
        right = self._sum()
        return left > right if sign == ">" else left >= right

    def _sum(self) -> Any:
        result = -self._product() if self._next("−") else self._product()
        while sign := self._next("+", "−"):
            term = self._product()
            result = result + term if sign == "+" else result - term
        return result

    def _product(self) -> Any:
        result = self._side_by_side()
        while sign := self._next("⊙", "·", "/"):
            factor = self._side_by_side()
            result = result / factor if sign == "/" else result * factor
        return result

    def _side_by_side(self) -> Any:
        left = self._power()
        while self._at < len(self._tokens) and (
            self._tokens[self._at][0] in ("name", "number") or self._tokens[self._at][1] == "("
        ):
            right = self._power()
            if isinstance(left, Matrix):
                left = right @ left.tensor.T
            elif isinstance(right, Transposed):
                left = torch.einsum("bi,bj->ij", left, right.tensor)
            else:
                assert left.dim() == 0, "only a number may stand before a value"
                left = left * right
        return left

    def _power(self) -> Any:
        result = self._atom()
        if power := self._next("²", "³"):
            return result ** (2 if power == "²" else 3)
        if self._next("ᵀ"):
            return Matrix(result.tensor.T) if isinstance(result, Matrix) else Transposed(result)
        return result

    def _atom(self) -> Any:
        if self._next("("):
            result = self._comparison()
            assert self._next(")")
            return result
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return torch.tensor(float(text), dtype=torch.float64)
        assert kind == "name", f"unexpected {text!r}"
        if text in FUNCTIONS and self._next("("):
            arguments = [self._comparison()]
            while self._next(","):
                arguments.append(self._comparison())
            assert self._next(")")
            return FUNCTIONS[text](*arguments)
        return self._known[text]


def compute(text: str, known: Mapping[str, Any]) -> Any:
    """The value of a printed right side, given the values of its names."""
    return Reader(text, known).value()
