"""Everything that a layer computed, by the names of its equation, and the error that flowed back through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from throughtime.nn.calls import Kind
from throughtime.nn.kernels import column_blocks
from throughtime.symbolic.program import TRACE


@dataclass(frozen=True)
class LayerTrace:
    """One layer in one direction.

    `values`: name -> [T, B, width] (batch_first: [B, T, width]): each state after the step, each local variable of the
    cell's `step`, and each affine map's result as `net.<map>`, the pre-activation. `errors`: after backward, under the
    same names, the error term δ_t = ∂E/∂value_t, with all that reaches it through later steps and higher layers; errors
    of several backward passes add up, as gradients do. Padding holds zeros.
    """

    values: dict[str, Tensor]
    errors: dict[str, Tensor] = field(default_factory=dict)


class Trace(Sequence[LayerTrace]):
    """What `return_all=True` returns: a `LayerTrace` for each layer and direction, in the order of the states."""

    def __init__(self, batch_first: bool, batched: bool) -> None:
        self._layers: list[LayerTrace] = []
        self._batch_first, self._batched = batch_first, batched

    def __getitem__(self, index: int) -> LayerTrace:  # type: ignore[override]
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerTrace]:
        return iter(self._layers)

    def __repr__(self) -> str:
        names = ", ".join(self._layers[0].values) if self._layers else ""
        return f"Trace of {len(self)} layers and directions: {names}"

    def begin(self, kind: Kind) -> Callable[[int, Tensor], None]:
        """Makes room for one layer's directions; returns what takes in their error terms."""
        first = len(self._layers)
        self._layers += [LayerTrace({}) for _ in kind.reverse]

        def take(direction: int, errors: Tensor) -> None:
            known = self._layers[first + direction].errors
            for name, error in self._split(kind, errors.detach()).items():
                known[name] = known[name] + error if name in known else error

        return take

    def fill(self, kind: Kind, values: Sequence[Tensor]) -> None:
        """Takes in the values [T, B, ...] of the directions begun last."""
        for layer, array in zip(self._layers[-len(values) :], values, strict=True):
            layer.values.update(self._split(kind, array))

    def _split(self, kind: Kind, array: Tensor) -> dict[str, Tensor]:
        blocks = column_blocks(kind.program.recurrence.writes, kind.sizes)[TRACE]
        if self._batch_first:
            array = array.transpose(0, 1)
        if not self._batched:
            array = array.squeeze(0 if self._batch_first else 1)
        return {name: array.narrow(-1, first, width) for name, (first, width) in blocks.items()}
