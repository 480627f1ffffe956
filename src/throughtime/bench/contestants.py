"""Our layer and its rival with the same weights, what is asked of them, and what that costs in operations and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import throughtime as tt
from throughtime.bench.machine import Machine
from throughtime.tasks.errors import Failure

PASSES = ("training", "inference")
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Point:
    """T steps of B sequences, H units, inputs as wide."""

    steps: int
    batch: int
    hidden: int

    @property
    def name(self) -> str:
        sizes = f"B{self.batch} H{self.hidden}"
        return sizes if self.steps == 100 else f"T{self.steps} {sizes}"


POINTS = [
    *(Point(100, 1, hidden) for hidden in (64, 150, 512)),
    *(Point(100, 32, hidden) for hidden in (64, 150, 256, 512)),
    Point(35, 20, 650),
    Point(100, 128, 256),
]


class LoopedMinimalGatedUnit(nn.Module):
    """The minimal gated unit as one writes it in torch: W x for all steps at once, then a loop over time."""

    def __init__(self, compiled: tt.Recurrent) -> None:
        super().__init__()
        self.weight_ih_l0, self.weight_hh_l0 = compiled.weight_ih_l0, compiled.weight_hh_l0
        self.bias_l0 = compiled.bias_l0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, B, I] -> output [T, B, H], state [1, B, H]."""
        recurrent_f, recurrent_h = self.weight_hh_l0.chunk(2)
        h = x.new_zeros(x.shape[1], recurrent_f.shape[1])
        outputs = []
        for net in linear(x, self.weight_ih_l0, self.bias_l0).unbind():
            net_f, net_h = net.chunk(2, -1)
            f = torch.sigmoid(net_f + linear(h, recurrent_f))
            candidate = torch.tanh(net_h + linear(f * h, recurrent_h))
            h = (1 - f) * h + f * candidate
            outputs.append(h)
        return torch.stack(outputs), h[None]


KINDS = {"RNN": "nn.RNN", "GRU": "nn.GRU", "LSTM": "nn.LSTM", "MGU": "a Python loop"}
"""What is measured -> what it is measured against."""


def pair(kind: str, inputs: int, hidden: int, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Our layer and its rival."""
    if kind == "MGU":
        layer = tt.Recurrent(tt.cells.MinimalGatedUnit(), inputs, hidden)
        return layer, LoopedMinimalGatedUnit(layer)
    ours, rival = getattr(tt, kind)(inputs, hidden, **options), getattr(nn, kind)(inputs, hidden, **options)
    ours.load_state_dict(rival.state_dict())
    return ours, rival


def inference(layer: Callable[..., Any], *arguments: Any) -> Callable[[], list[Tensor]]:
    """The output; no gradients are recorded."""

    def call() -> list[Tensor]:
        with torch.no_grad():
            return [layer(*arguments)[0]]

    return call


def training(layer: nn.Module, cotangent: Tensor, *arguments: Any) -> Callable[[], list[Tensor]]:
    """Forward and backward: the gradients of the input, if it has one, and of every weight."""
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    leaves += list(layer.parameters())
    return lambda: list(torch.autograd.grad(layer(*arguments)[0], leaves, cotangent))


def asked(what: str, layer: nn.Module, x: Tensor, cotangent: Tensor) -> Callable[[], list[Tensor]]:
    return training(layer, cotangent, x) if what == "training" else inference(layer, x)


def check_equal(ours: Sequence[Tensor], rival: Sequence[Tensor], tolerance: float, what: str) -> None:
    """Speed is only worth comparing where the numbers agree."""
    for a, b in zip(ours, rival, strict=True):
        size = b.norm().item()
        error = (a - b).norm().item() / (size or 1.0)
        if not error <= tolerance:
            raise Failure(
                f"{what}: the results differ from the rival's by {error:.2g} relative in norm, at most {tolerance:.2g} "
                "is expected: report this with the output of `throughtime bench`"
            )


TOLERANCE = {"training": 1e-4, "inference": 1e-5}


def matrix_rows(layer: nn.Module) -> tuple[int, int]:
    """Numbers in the layer's matrices: those that multiply the input, those that multiply states."""
    of_input = of_state = 0
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_ih"):
            of_input += parameter.numel()
        elif parameter.dim() == 2 and name.startswith("weight"):
            of_state += parameter.numel()
    return of_input, of_state


@dataclass(frozen=True)
class Cost:
    """What one pass needs at least. For every product of the forward pass the backward pass makes two of its size."""

    what: str
    point: Point
    of_input: int
    of_state: int

    @property
    def operations(self) -> int:
        """Multiplications and additions of the matrix products."""
        forward = 2 * self.point.steps * self.point.batch * (self.of_input + self.of_state)
        return 3 * forward if self.what == "training" else forward

    def least_seconds(self, machine: Machine) -> float:
        """The roofline: every step either multiplies at the peak or reads the recurrent matrices from the cache that
        holds them, whichever takes longer, once forward and once backward; the products outside the loop (W x; its two
        gradients and that of the recurrent matrices) run at the peak."""
        training = self.what == "training"
        step = 2 * self.point.batch * self.of_state / machine.peak
        inside = self.point.steps * max(step, machine.seconds_to_read(FLOAT * self.of_state)) * (2 if training else 1)
        all_products = self.operations / machine.peak
        return inside + all_products - self.point.steps * step * (2 if training else 1)
