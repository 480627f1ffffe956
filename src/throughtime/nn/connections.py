"""How the layers of a stack are joined: residual, highway and dense connections, and the merging of two directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CONNECTIONS = (None, "residual", "highway", "dense")
MERGES = ("concat", "sum", "mean", "product")


class Highway(nn.Module):
    """t ⊙ y + (1 - t) ⊙ x with the transform gate t = σ(W x + b), of a layer's input x and its output y.

    Srivastava et al. 2015, arXiv:1505.00387, eq. 3; between recurrent layers as in Zhang et al. 2016, arXiv:1510.08983.
    The first b is -1, so that a new network hands its input on.
    """

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width, **options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.gate.reset_parameters()
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.lerp(x, y, self.gate(x).sigmoid())


def check(
    connections: str | None, merge: str, bidirectional: bool, reverse: bool, widths: Sequence[tuple[int, int]]
) -> None:
    """Raises ValueError for layers that cannot be joined so. `widths`: the input's and the output's of each layer."""
    if connections not in CONNECTIONS:
        raise ValueError(f'connections should be None, "residual", "highway" or "dense", got {connections!r}')
    if merge not in MERGES:
        raise ValueError(f'merge should be "concat", "sum", "mean" or "product", got {merge!r}')
    if merge != "concat" and not bidirectional:
        raise ValueError(f'merge="{merge}" joins two directions, and this layer has one: set bidirectional=True')
    if reverse and bidirectional:
        raise ValueError("reverse=True is the reverse direction alone, bidirectional=True has both: choose one")
    if connections is not None and len(widths) == 1:
        raise ValueError(f'connections="{connections}" joins layers, and num_layers is 1: give at least 2')
    if connections in ("residual", "highway"):
        for level, (given, made) in enumerate(widths[1:], 1):
            if given != made:
                raise ValueError(
                    f'connections="{connections}" needs layers whose input and output are equally wide, but layer '
                    f"{level} maps {given} numbers to {made}: choose equal hidden sizes"
                )


def input_width(connections: str | None, below: Sequence[int]) -> int:
    """How many numbers a layer is given by the layers below it, whose outputs are that wide."""
    return sum(below) if connections == "dense" else below[-1]


def fed(connections: str | None, below: Sequence[Tensor]) -> Tensor:
    """What a layer is given of the outputs of all layers below it."""
    return torch.cat(list(below), -1) if connections == "dense" and len(below) > 1 else below[-1]


def merged(merge: str, output: Tensor) -> Tensor:
    """The outputs of both directions, side by side in [T, B, 2·H], as one."""
    if merge == "concat":
        return output
    forward, backward = output.chunk(2, -1)
    if merge == "product":
        return forward * backward
    return forward + backward if merge == "sum" else (forward + backward) / 2
