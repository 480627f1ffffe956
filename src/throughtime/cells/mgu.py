"""The minimal gated unit."""

from __future__ import annotations

from typing import Any

from throughtime.symbolic.functions import sigmoid, tanh
from throughtime.symbolic.language import Cell, affine


class MinimalGatedUnit(Cell):
    """Zhou et al. 2016, arXiv:1603.09420, eq. 6-8."""

    def step(self, x: Any, h: Any) -> Any:
        f = sigmoid(affine("f", x, h))
        candidate = tanh(affine("h", x, f * h))
        return (1 - f) * h + f * candidate
