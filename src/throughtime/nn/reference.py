"""The slow, obvious answer: the cell's own `step` on tensors, one time step after the other, under autograd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear, one_hot

from throughtime.nn.signals import signal_seen
from throughtime.symbolic import language, noise
from throughtime.symbolic.language import Cell
from throughtime.symbolic.program import matrix_name, size_of

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.shapes import Call


@dataclass
class Evaluator:
    """Meaning of a step's words on tensors [B, width]. `maps`: (affine, position) -> matrix; `biases`: by affine;
    `signals` [T, B, 1] as this direction reads them."""

    training: bool
    maps: Mapping[tuple[str, int], Tensor]
    biases: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    signals: Mapping[str, Tensor]
    sizes: Mapping[Any, int]
    seeds: list[int]
    like: Tensor
    """Has the dtype and the device of every value."""
    heads: int = 1
    """Where there are several, vectors as wide as the state are [B, heads, width / heads]."""
    step: int = 0

    def affine(self, name: str, vectors: tuple[Tensor, ...], size: Any, bias: bool, shared: bool) -> Tensor:
        result: Any = self.cut(self.biases[name]) if bias and name in self.biases else 0
        for k, v in enumerate(vectors):
            matrix = self.maps[name, k]
            if v.dim() == 2:
                result = result + self.cut(linear(v, matrix))
            else:  # each head maps its own share
                result = result + torch.einsum("bhi,hoi->bho", v, matrix.reshape(self.heads, -1, matrix.shape[1]))
        return result  # type: ignore[no-any-return]

    def cut(self, vector: Tensor) -> Tensor:
        """[..., H] as [..., heads, H / heads]."""
        return vector if self.heads == 1 else vector.reshape(*vector.shape[:-1], self.heads, -1)

    def weight(self, name: str, like: Any, init: float) -> Tensor:
        return self.cut(self.weights[name])

    def noise(self, name: str, like: Any, fixed: bool) -> Tensor:
        width = like.shape[-1] if isinstance(like, Tensor) else int(self.sizes.get(like, like))
        rows = torch.arange(self.sizes["rows"]).unsqueeze(1)
        where = noise.stream_number(name), 0 if fixed else self.step, rows, torch.arange(width)
        drawn = torch.stack([noise.uniform(seed, *where) for seed in self.seeds], 1)
        return (drawn if self.heads > 1 else drawn.squeeze(1)).to(self.like)

    def time(self) -> Tensor:
        return self.like.new_tensor(float(self.step))

    def signal(self, name: str) -> Tensor:
        value = self.signals[name][self.step]
        return value if self.heads == 1 else value.unsqueeze(1)

    def width_number(self, width: Any) -> int:
        return int(self.sizes.get(width, width))


def run_reference(
    cell: Cell, evaluator: Evaluator, x: Tensor, states: list[Tensor], lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """x [T, B, I], states [B, width] each -> output [T, B, H], final states. Padding of x must hold finite numbers."""
    steps = range(x.shape[0])
    outputs: dict[int, Tensor] = {}
    with language.running(evaluator):
        for t in reversed(steps) if reverse else steps:
            evaluator.step = t
            new = cell.step(x[t], *states)
            new = list(new) if isinstance(new, tuple) else [new]
            new = [
                n.expand_as(s) if isinstance(n, Tensor) else torch.full_like(s, n)
                for n, s in zip(new, states, strict=True)
            ]
            if lengths is None:
                states = new
                outputs[t] = new[0]
            else:
                active = (t < lengths).reshape(-1, *[1] * (new[0].dim() - 1))
                states = [torch.where(active, n, s) for n, s in zip(new, states, strict=True)]
                outputs[t] = torch.where(active, new[0], torch.zeros_like(new[0]))
    return torch.stack([outputs[t] for t in steps]), states


def reference_layer(
    layer: Recurrent,
    x: Tensor,
    starts: list[Tensor | None],
    call: Call,
    own: Mapping[str, Tensor],
    level: int,
    direction: int,
    seed: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction, with its parameters `own`: x [T, B, I] or word numbers [T, B], starts [1, B, width]
    -> output [T, B, H], final states [1, B, width]."""
    derived = layer.derived.resetting if call.resets else layer.derived
    sizes, reverse = layer.sizes(level), layer.runs_backwards(direction)
    equation, table = derived.equations[False], derived.layout
    maps: dict[tuple[str, int], Tensor] = {}
    for a in equation.affines:
        for k, v in enumerate(a.vectors):
            name, block = ("weight_ih", a.name) if v is equation.input else table.places[matrix_name(a.name, k)]
            first = table[name].first_row(block, sizes)
            maps[a.name, k] = own[name][first : first + size_of(a.width, sizes)]
    biases: dict[str, Tensor] = {}
    for p in table.of_kind("bias"):
        for name, width in p.rows:
            part = own[p.name].narrow(0, p.first_row(name, sizes), size_of(width, sizes))
            biases[name] = biases[name] + part if name in biases else part
    weights = {p.name: own[p.name] for p in table.of_kind("weight")}
    if x.dim() == 2:
        x = one_hot(x, sizes["input"]).to(own[layer.derived.names[0]])
    heads = layer.heads
    seeds = [0] if seed is None else [noise.direction_seed(int(seed), direction + 2 * k) for k in range(heads)]
    signals = {name: signal_seen(call, name, reverse, 0, x.shape[0]) for name in call.signals}
    widths = {**sizes, "hidden": sizes["hidden"] // heads, "rows": x.shape[1]}
    evaluator = Evaluator(layer.training, maps, biases, weights, signals, widths, seeds, x, heads)
    states = [
        evaluator.cut(x.new_zeros(x.shape[1], size_of(w, sizes)) if s is None else s[0])
        for s, w in zip(starts, layer.state_widths, strict=True)
    ]
    output, ends = run_reference(derived.cell, evaluator, x, states, call.lengths, reverse)
    return output.flatten(2), [e.flatten(1).unsqueeze(0) for e in ends]
