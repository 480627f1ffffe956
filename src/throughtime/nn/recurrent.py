"""`Recurrent`: any cell as a torch module, in stacks, in both directions, over sequences of any lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.nn import initial, shapes
from throughtime.nn.derived import Derived
from throughtime.nn.kernels import size_of
from throughtime.nn.parameters import Parameter
from throughtime.nn.precision import NARROW, widened
from throughtime.nn.stack import run_stack
from throughtime.nn.trace import Trace
from throughtime.symbolic.graph import Width
from throughtime.symbolic.language import Cell

Backend = Literal["compiled", "reference"]


class Recurrent(nn.Module):
    """A stack of recurrent layers of any cell.

    Args:
        cell: the equation, an instance of a `Cell` subclass.
        input_size: I, numbers in each input vector, or words of the vocabulary where the input is word numbers.
        hidden_size: H, numbers in each state.
        num_layers: L, layers; each is fed by the output of the one below.
        bias: whether the affine maps have a bias.
        batch_first: input and output are [B, T, ...] instead of [T, B, ...]; states never are.
        dropout: probability of dropping each number between layers, in training.
        bidirectional: D = 2 directions, whose outputs stand side by side.
        learn_initial_state: the state before the first step is a parameter instead of 0.
        heads: the hidden units are cut into so many blocks, each of which sees only itself in every recurrent map and
            every sum over units: weight_hh is [rows, H / heads]. Beck et al. 2024, arXiv:2405.04517, section 2.2.
        recompute: None keeps what the backward pass needs; a number n keeps the states at every n-th step only and
            runs the rest again in the backward pass, with the same gradients: memory for time.
        backend: "compiled" runs kernels derived from the equation; "reference" runs the equation itself, step by step.

    Shapes: input [T, B, I], or [T, I], or int64 word numbers [T, B] in [0, I), which stand for one-hot vectors;
    output [T, B, D·H]; each state [L·D, B, width], a tuple of them if the cell has several.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        learn_initial_state: bool = False,
        heads: int = 1,
        recompute: int | None = None,
        backend: Backend = "compiled",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shapes.check_options(input_size, hidden_size, num_layers, bias, batch_first, dropout, recompute, backend)
        shapes.check_heads(hidden_size, heads)
        self.cell = cell
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.recompute, self.backend = bidirectional, recompute, backend
        self.heads = heads
        self.derived = Derived(cell, bias, num_layers, heads)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        for suffix, level in self._suffixes():
            for spec in self.derived.layout.parameters:
                self.register_parameter(
                    spec.name + suffix, nn.Parameter(torch.empty(spec.shape(self.sizes(level)), **options))
                )
        self.learn_initial_state = learn_initial_state
        if learn_initial_state:
            for name, width in zip(self.state_names, self.state_widths, strict=True):
                shape = (num_layers * self.directions, size_of(width, self.sizes(0)))
                self.register_parameter(f"initial_{name}", nn.Parameter(torch.zeros(shape, **options)))
        self.reset_parameters()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "derived"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.derived = Derived(self.cell, self.bias, self.num_layers, self.heads)

    def reset_parameters(self) -> None:
        """Draws new weights; see `tt.init.default_`."""
        initial.default_(self)

    @property
    def any_weight(self) -> Tensor:
        """One of the parameters, for its dtype and device; what a parametrization computes is not computed for it."""
        name = self._name(self.derived.names[0], 0, 0)
        found = self._parameters.get(name)
        if found is None:
            found = next(self.parameters(), None)
        return getattr(self, name) if found is None else found

    @property
    def state_names(self) -> list[str]:
        return self.derived.state_names

    @property
    def state_widths(self) -> list[Width]:
        return self.derived.state_widths

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def state_sizes(self) -> list[int]:
        """Numbers in each state."""
        return [size_of(w, self.sizes(0)) for w in self.state_widths]

    def sizes(self, level: int) -> dict[Width, int]:
        """The widths of one layer's equation: "input", "hidden" and "projection" as numbers."""
        found: dict[Width, int] = {1: 1, "input": self.input_size, "hidden": self.hidden_size}
        if self.cell.projection:
            found["projection"] = self.cell.projection
        if level:
            found["input"] = self.directions * size_of(self.state_widths[0], found)
        return found

    def _name(self, name: str, level: int, direction: int) -> str:
        """What a parameter of the table is called in that layer and direction."""
        return f"{name}_l{level}_reverse" if direction else f"{name}_l{level}"

    def _suffixes(self) -> Iterator[tuple[str, int]]:
        for level in range(self.num_layers):
            for direction in range(self.directions):
                yield self._name("", level, direction), level

    def described_parameters(self) -> Iterator[tuple[nn.Parameter, Parameter, dict[Width, int]]]:
        """Every parameter of the cells with its row of the table and its layer's sizes, in torch's order."""
        for suffix, level in self._suffixes():
            for spec in self.derived.layout.parameters:
                yield getattr(self, spec.name + suffix), spec, self.sizes(level)

    def extra_repr(self) -> str:
        parts = [f"{self.cell.name}, {self.input_size}, {self.hidden_size}"]
        defaults: dict[str, Any] = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        defaults |= {"learn_initial_state": False, "heads": 1, "recompute": None, "backend": "compiled"}
        parts += [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(parts)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: Tensor | tuple[Tensor, ...] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        return_all: bool = False,
    ) -> Any:
        """Runs the stack over whole sequences; see the class for shapes.

        `lengths` [B]: how many steps of each sequence are real, 0 to T. The rest is never read (it may hold NaN), the
        output there is 0, the reverse direction starts at each sequence's own last step, and the final state is the one
        after it. A PackedSequence brings its own lengths and gives a PackedSequence, as torch.nn's layers do.

        `return_all`: also return a `Trace`: every state, gate and pre-activation of every layer and step, and, after
        backward, the error term of each. The numbers are the same bits with it and without.
        """
        call = shapes.prepare(self, input, state, lengths)
        trace = None
        if return_all:
            if self.backend != "compiled" or self.recompute is not None:
                raise ValueError('return_all=True needs backend="compiled" and recompute=None')
            trace = Trace(call.batch_first, call.batched)
        results = shapes.finish(call, *self._run(call, trace))
        return results if trace is None else (*results, trace)

    def _run(self, call: shapes.Call, trace: Trace | None = None) -> tuple[Tensor, list[Tensor]]:
        if not call.autocast:
            return run_stack(self, call, trace)
        with torch.autocast(call.x.device.type, enabled=False):
            return run_stack(self, call, trace)

    def products_under_autocast(self, packed: bool) -> Sequence[str]:
        """The states that torch.autocast leaves in its own dtype, given that their last operation is a product."""
        return ()

    def own_parameters(self, level: int, direction: int) -> dict[str, Tensor]:
        """The parameters of one layer in one direction, by their names in the table, in the dtype of the arithmetic."""
        found = {name: getattr(self, self._name(name, level, direction)) for name in self.derived.names}
        return widened(found) if self.any_weight.dtype in NARROW else found
