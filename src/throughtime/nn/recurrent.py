"""`Recurrent`: any cell as a torch module, in stacks, in both directions, over sequences of any lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, linear, one_hot
from torch.utils.checkpoint import checkpoint

from throughtime.nn import initial, shapes
from throughtime.nn.kernels import size_of
from throughtime.nn.operation import Job, Kind, Operands, run
from throughtime.nn.parameters import Layout, Parameter, check_equations, layout
from throughtime.nn.program import Program
from throughtime.nn.reference import reference_layer
from throughtime.symbolic.equation import Equation, trace
from throughtime.symbolic.graph import Width, structure
from throughtime.symbolic.language import Cell
from throughtime.symbolic.noise import direction_seed
from throughtime.symbolic.program import lower

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
        recompute: int | None = None,
        backend: Backend = "compiled",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shapes.check_options(input_size, hidden_size, num_layers, dropout, recompute, backend)
        self.cell = cell
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.recompute, self.backend = bidirectional, recompute, backend
        self._derive()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        for suffix, level in self._suffixes():
            for spec in self.layout.parameters:
                self.register_parameter(
                    spec.name + suffix, nn.Parameter(torch.empty(spec.shape(self.sizes(level)), **options))
                )
        self.learn_initial_state = learn_initial_state
        if learn_initial_state:
            for name, width in zip(self.state_names, self.state_widths, strict=True):
                shape = (num_layers * self.directions, size_of(width, self.sizes(0)))
                self.register_parameter(f"initial_{name}", nn.Parameter(torch.zeros(shape, **options)))
        self.reset_parameters()

    def _derive(self) -> None:
        """Reads the equation; the programs of training and evaluation are one where they say the same."""
        self.equations: dict[bool, Equation] = {mode: trace(self.cell, mode) for mode in (False, True)}
        equation = self.equations[False]
        check_equations(self.cell, self.equations, self.num_layers)
        self.layout: Layout = layout(self.cell, equation, self.bias)
        self.state_names = [s.name for s in equation.states]
        self.state_widths: list[Width] = [s.seen.width for s in equation.states]
        self._noisy = {m: any(n.op == "noise" for n in e.graph.nodes) for m, e in self.equations.items()}
        programs = {
            m: Program(lower(e, self.layout.input_order, self.layout.bias_blocks())) for m, e in self.equations.items()
        }
        if len({structure(p.recurrence.roots) for p in programs.values()}) == 1:
            programs[True] = programs[False]
        self._programs = programs
        self._names = [p.name for p in self.layout.parameters]
        used = {m: {self.layout.places[x.name][0] for x in p.recurrence.matrices} for m, p in programs.items()}
        self._loops = {mode: [name for name in self._names if name in names] for mode, names in used.items()}
        self._biases = [p.name for p in self.layout.of_kind("bias")]
        self._biases_add_up = self.layout.biases_add_up
        self._kinds: dict[tuple[int, tuple[int, ...], bool], Kind] = {}

    def __getstate__(self) -> dict[str, Any]:
        derived = ("equations", "_programs", "_kinds", "layout", "_noisy")
        return {k: v for k, v in self.__dict__.items() if k not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._derive()

    def reset_parameters(self) -> None:
        """Draws new weights; see `tt.init.default_`."""
        initial.default_(self)

    @property
    def any_weight(self) -> Tensor:
        """One of the parameters, for its dtype and device."""
        return getattr(self, f"{self._names[0]}_l0")  # type: ignore[no-any-return]

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def state_sizes(self) -> list[int]:
        """Numbers in each state."""
        return [size_of(w, {"hidden": self.hidden_size, "input": self.input_size}) for w in self.state_widths]

    def sizes(self, level: int) -> dict[Width, int]:
        """The widths of one layer's equation: "input" and "hidden" as numbers."""
        below = (
            self.input_size
            if level == 0
            else self.directions * size_of(self.state_widths[0], {"hidden": self.hidden_size})
        )
        return {1: 1, "input": below, "hidden": self.hidden_size}

    def _suffixes(self) -> Iterator[tuple[str, int]]:
        for level in range(self.num_layers):
            for direction in range(self.directions):
                yield f"_l{level}" + ("_reverse" if direction else ""), level

    def described_parameters(self) -> Iterator[tuple[nn.Parameter, Parameter, dict[Width, int]]]:
        """Every parameter of the cells with its row of the table and its layer's sizes, in torch's order."""
        for suffix, level in self._suffixes():
            for spec in self.layout.parameters:
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
        defaults |= {"learn_initial_state": False, "recompute": None, "backend": "compiled"}
        parts += [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(parts)

    def forward(
        self,
        input: Tensor,
        state: Tensor | tuple[Tensor, ...] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, Any]:
        """Runs the stack over whole sequences; see the class for shapes.

        `lengths` [B]: how many steps of each sequence are real, 0 to T. The rest is never read (it may hold NaN), the
        output there is 0, the reverse direction starts at each sequence's own last step, and the final state is the one
        after it.
        """
        call = shapes.prepare(self, input, state, lengths)
        x = call.x
        ends: list[list[Tensor]] = []
        for level in range(self.num_layers):
            first = level * self.directions
            starts = [None if s is None else s[first : first + self.directions] for s in call.states]
            x, final = self._layer(x, starts, call, level)
            ends.append(final)
            if self.dropout and self.training and level < self.num_layers - 1:
                x = dropout(x, self.dropout)
        output = x.transpose(0, 1) if call.batch_first else x
        states = ends[0] if len(ends) == 1 else [torch.cat(e) for e in zip(*ends, strict=True)]
        return shapes.finish(call, output, states)

    def _layer(
        self, x: Tensor, starts: list[Tensor | None], call: shapes.Call, level: int
    ) -> tuple[Tensor, list[Tensor]]:
        """x [T, B, I] or word numbers [T, B], starts [D, B, W] -> output [T, B, D·H] and the final states [D, B, W]."""
        seed = int(torch.randint(2**62, ())) if self._noisy[self.training] else 0
        chunked = self.recompute is not None and torch.is_grad_enabled()
        if self.backend == "compiled" and not chunked:
            return self._recur(x, starts, call, level, tuple(range(self.directions)), 0, seed)
        parts = []
        for d in range(self.directions):
            own = [None if s is None else s[d : d + 1] for s in starts]
            if self.backend == "compiled":
                parts.append(self._chunks(x, own, call, level, d, seed))
            else:
                parts.append(reference_layer(self, x, own, call.lengths, level, d, seed))
        states = [torch.cat(s) for s in zip(*(p[1] for p in parts), strict=True)]
        return torch.cat([p[0] for p in parts], -1), states

    def _chunks(
        self, x: Tensor, starts: list[Tensor | None], call: shapes.Call, level: int, direction: int, seed: int
    ) -> tuple[Tensor, list[Tensor]]:
        """The recurrence in pieces of `recompute` steps, each run again in the backward pass."""
        assert self.recompute is not None
        origins = list(range(0, x.shape[0], self.recompute))
        outputs: dict[int, Tensor] = {}
        states: Any = starts
        for origin in reversed(origins) if direction else origins:
            piece = x[origin : origin + self.recompute]

            def body(piece: Tensor, *states: Tensor, origin: int = origin) -> tuple[Tensor, ...]:
                out, ends = self._recur(piece, list(states), call, level, (direction,), origin, seed)
                return (out, *ends)

            outputs[origin], *states = checkpoint(body, piece, *states, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([outputs[o] for o in origins]), states

    def _recur(
        self,
        x: Tensor,
        starts: list[Tensor | None],
        call: shapes.Call,
        level: int,
        directions: tuple[int, ...],
        origin: int,
        seed: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """The compiled recurrence over x, whose first step is number `origin`."""
        kind = self._kind(level, directions)
        program, sizes = kind.program, kind.sizes
        reads: list[dict[str, Tensor]] = []
        parameters: list[list[Tensor]] = []
        for d in directions:
            own = self.own_parameters(level, d)
            found: dict[str, Tensor] = {}
            for array in program.reads:
                if array == "net":
                    found[array] = _input_product(x, own["weight_ih"])
                elif array == "x":
                    found[array] = one_hot(x, sizes["input"]).to(self.any_weight) if x.dim() == 2 else x
                elif array == "bias":
                    found[array] = self._bias(own)
                else:
                    found[array] = own[array]
            reads.append(found)
            parameters.append([own[name] for name in self._loops[self.training]])
        seeds = tuple(direction_seed(seed, d) for d in directions)
        job = Job(kind, x.shape[0], x.shape[1], call.batch_first, call.lengths, origin, seeds)
        done = run(job, Operands({}, starts, reads, parameters))
        return done.joint["out"], done.ends  # type: ignore[return-value]

    def _kind(self, level: int, directions: tuple[int, ...]) -> Kind:
        key = min(level, 1), directions, self.training
        found = self._kinds.get(key)
        if found is None:
            sizes, loop, program = self.sizes(level), self._loops[self.training], self._programs[self.training]
            places = {}
            for matrix in program.recurrence.matrices:
                name, block = self.layout.places[matrix.name]
                places[matrix.name] = loop.index(name), self.layout[name].first_row(block, sizes)
            reverse = tuple(d == 1 for d in directions)
            found = self._kinds[key] = Kind(program, sizes, places, len(loop), reverse)
        return found

    def own_parameters(self, level: int, direction: int) -> dict[str, Tensor]:
        """The parameters of one layer in one direction, by their names in the table."""
        suffix = f"_l{level}" + ("_reverse" if direction else "")
        return {name: getattr(self, name + suffix) for name in self._names}

    def _bias(self, own: dict[str, Tensor]) -> Tensor:
        """What the loop adds to its maps; see `Layout.bias_blocks`."""
        tensors = [own[name] for name in self._biases]
        if len(tensors) == 1:
            return tensors[0]
        return tensors[0] + tensors[1] if self._biases_add_up else torch.cat(tensors)


def _input_product(x: Tensor, matrix: Tensor) -> Tensor:
    """W x for all time steps at once, [T, B, rows]; for word numbers a gather of W's columns."""
    if x.dim() == 3:
        # Where x is a transposed [B, T, I], the product is made on what lies in memory.
        if x.stride(0) < x.stride(1):
            return linear(x.transpose(0, 1), matrix).transpose(0, 1)
        return linear(x, matrix)
    table = matrix.t()
    if x.numel() * 4 > table.shape[0]:
        table = table.contiguous()  # rows that lie together are fetched faster than columns
    return embedding(x, table)
