"""Everything that a layer computed, by the names of its equation, and the error that flowed back through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from throughtime.nn.calls import Kind
from throughtime.nn.kernels import column_blocks
from throughtime.symbolic.program import TRACE


@dataclass(frozen=True)
class LayerTrace:
    """One layer in one direction.

    `values`: name -> [T, B, width] (batch_first: [B, T, width]): each state after the step, each local variable of the
    cell's `step`, and each affine map's result as `net.<map>`, the pre-activation; 0 in the padding.
    `errors`: after backward, under the same names, the error term δ_t = ∂E/∂value_t, with all that reaches it through
    later steps and higher layers; 0 in the padding. Errors of several backward passes add up, as gradients do.
    `vertical`: the part of the first state's error that came through the layer's output, from the layer above or from
    the loss; the rest of it came horizontally, from later steps.
    """

    values: dict[str, Tensor]
    errors: dict[str, Tensor] = field(default_factory=dict)
    vertical: dict[str, Tensor] = field(default_factory=dict)


class Trace(Sequence[LayerTrace]):
    """What `return_all=True` returns: a `LayerTrace` for each layer and direction, in the order of the states."""

    def __init__(self, batch_first: bool, batched: bool) -> None:
        self._layers: list[LayerTrace] = []
        self._shaped = partial(_shaped, batch_first=batch_first, batched=batched)

    def __getitem__(self, index: int) -> LayerTrace:  # type: ignore[override]
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerTrace]:
        return iter(self._layers)

    def __repr__(self) -> str:
        names = ", ".join(self._layers[0].values) if self._layers else ""
        return f"Trace of {len(self)} layers and directions: {names}"

    def begin(self, kind: Kind) -> Callable[[int, Tensor, Tensor | None], None]:
        """Makes room for one layer's directions; returns what takes in their error terms."""
        layers = [LayerTrace({}) for _ in kind.reverse]
        self._layers += layers
        # The graph holds `take`, and the values hold the graph: what `take` held of them would never be freed.
        errors_and_vertical = [(layer.errors, layer.vertical) for layer in layers]
        shaped = self._shaped

        def take(direction: int, errors: Tensor, entered: Tensor | None) -> None:
            known, vertical = errors_and_vertical[direction]
            found = _split(kind, shaped(errors.detach()))
            _add(known, found)
            output, error = next(iter(found.items()))
            if entered is None:
                _add(vertical, {output: torch.zeros_like(error)})
            else:
                width = entered.shape[-1] // len(kind.reverse)
                own = entered.detach().narrow(-1, direction * width, width)
                _add(vertical, {output: shaped(own)})

        return take

    def fill(self, kind: Kind, values: Sequence[Tensor]) -> None:
        """Takes in the values [T, B, ...] of the directions begun last."""
        for layer, array in zip(self._layers[-len(values) :], values, strict=True):
            layer.values.update(_split(kind, self._shaped(array)))


def _shaped(array: Tensor, batch_first: bool, batched: bool) -> Tensor:
    """[T, B, ...] in the shape of the input."""
    if batch_first:
        array = array.transpose(0, 1)
    return array if batched else array.squeeze(0 if batch_first else 1)


def _split(kind: Kind, array: Tensor) -> dict[str, Tensor]:
    blocks = column_blocks(kind.program.recurrence.writes, kind.sizes)[TRACE]
    return {name: array.narrow(-1, first, width) for name, (first, width) in blocks.items()}


def _add(known: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        known[name] = known[name] + value if name in known else value
