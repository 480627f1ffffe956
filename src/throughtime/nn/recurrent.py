"""`Recurrent`: any cell as a torch module, in stacks, in both directions, over sequences of any lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.nn import initial, shapes
from throughtime.nn.connections import Highway, input_width
from throughtime.nn.connections import check as check_connections
from throughtime.nn.cuda_twin import run_call
from throughtime.nn.derived import Derived
from throughtime.nn.older_graphs import is_recording, recorded, scriptable
from throughtime.nn.parameters import Parameter
from throughtime.nn.precision import NARROW, widened
from throughtime.nn.short import short_call
from throughtime.nn.signals import add_signals
from throughtime.nn.trace import Trace
from throughtime.symbolic.graph import Width
from throughtime.symbolic.language import Cell
from throughtime.symbolic.options import Options, varied
from throughtime.symbolic.program import size_of

if TYPE_CHECKING:
    from throughtime.nn.cuda_session import GpuSession
    from throughtime.nn.session import Session

Backend = Literal["compiled", "reference"]
Merge = Literal["concat", "sum", "mean", "product"]
Connections = Literal["residual", "highway", "dense"]


class Recurrent(nn.Module):
    """A stack of recurrent layers of any cell.

    Args:
        cell: the equation, an instance of a `Cell` subclass.
        input_size: I, numbers in each input vector, or words of the vocabulary where the input is word numbers.
        hidden_size: H, numbers in each state; or a sequence of L such numbers, one for each layer.
        num_layers: L, layers; each is fed by the output of the one below.
        bias: whether the affine maps have a bias.
        batch_first: input and output are [B, T, ...] instead of [T, B, ...]; states never are.
        dropout: probability of dropping each number between layers, in training.
        bidirectional: D = 2 directions.
        merge: what becomes of the outputs of two directions: "concat" puts them side by side, "sum", "mean" and
            "product" make one of H numbers.
        reverse: the reverse direction alone; the parameters have the names of the forward ones.
        connections: what each layer above the first does with its input x, besides mapping it to its output y.
            "residual": x + y (He et al. 2016, arXiv:1512.03385; between recurrent layers Wu et al. 2016,
            arXiv:1609.08144, eq. 6); "highway": t ⊙ y + (1 - t) ⊙ x with a learned gate t (see
            `connections.Highway`); "dense": each layer is given the outputs of all layers below, side by side (Huang
            et al. 2017, arXiv:1608.06993). Dropout acts on what a layer maps, not on the x that passes it; the states
            are the cells' own.
        learn_initial_state: the state before the first step is a parameter instead of 0.
        heads: the hidden units are cut into so many blocks, each of which sees only itself in every recurrent map and
            every sum over units: weight_hh is [rows, H / heads]. Beck et al. 2024, arXiv:2405.04517, section 2.2.
        weight_drop: probability with which, in training, an entry of a recurrent matrix is 0 for a whole call; kept
            entries are divided by 1 - p (DropConnect; Merity et al. 2018, arXiv:1708.02182).
        recompute: None keeps what the backward pass needs; a number n keeps the states at every n-th step only and
            runs the rest again in the backward pass, with the same gradients: memory for time.
        backend: "compiled" runs kernels derived from the equation; "reference" runs the equation itself, step by step.
        options: of the equation, for every cell: `layer_norm`, `recurrent_dropout`, `recurrent_dropout_mask`,
            `zoneout`, `state_clip`, `gradient_clip`, `activation`, `gate_activation`; see
            `tt.symbolic.options.Options`. The attribute `cell` is then the cell with these options.

    Shapes: input [T, B, I], or [T, I], or int64 word numbers [T, B] in [0, I), which stand for one-hot vectors;
    output [T, B, D·H], or [T, B, H] where the directions are merged; each state [L·D, B, width], or, where the layers'
    hidden sizes differ, a list with [D, B, width] for each layer; a tuple of them if the cell has several.
    """

    may_be_empty = False
    """Whether a hidden size of 0 is one."""

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        merge: Merge = "concat",
        reverse: bool = False,
        connections: Connections | None = None,
        learn_initial_state: bool = False,
        heads: int = 1,
        weight_drop: float = 0.0,
        recompute: int | None = None,
        backend: Backend = "compiled",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.hidden_sizes = shapes.hidden_sizes(hidden_size, num_layers)
        for size in self.hidden_sizes:
            own = 1 if size == 0 and self.may_be_empty else size
            shapes.check_options(input_size, own, num_layers, bias, batch_first, dropout, recompute, backend)
            shapes.check_heads(size, heads)
        shapes.check_probability("weight_drop", weight_drop)
        self.options = Options.of(options)
        self.cell = varied(cell, self.options)
        self.input_size, self.num_layers = input_size, num_layers
        self.uniform = len(set(self.hidden_sizes)) == 1
        self.hidden_size: Any = self.hidden_sizes[0] if self.uniform else self.hidden_sizes
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.recompute, self.backend = bidirectional, recompute, backend
        self.merge, self.reverse, self.connections = merge, reverse, connections
        self.weight_drop, self.heads = float(weight_drop), heads
        self.derived = Derived(self.cell, bias, num_layers, heads, learn_initial_state)
        widths = [(self.sizes(level)["input"], self.output_size(level)) for level in range(num_layers)]
        check_connections(connections, merge, bidirectional, reverse, widths)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        for suffix, level in self._suffixes():
            for spec in self.derived.layout.parameters:
                self.register_parameter(
                    spec.name + suffix, nn.Parameter(torch.empty(spec.shape(self.sizes(level)), **made))
                )
        self.learn_initial_state = learn_initial_state
        if learn_initial_state:
            for name, width in zip(self.state_names, self.state_widths, strict=True):
                for level in range(1 if self.uniform else num_layers):
                    rows = self.directions * (num_layers if self.uniform else 1)
                    start = torch.zeros(rows, self.state_size(width, level), **made)
                    self.register_parameter(f"initial_{name}" + self._of_level(level), nn.Parameter(start))
        self.highways: Any = ()
        if connections == "highway":
            self.highways = nn.ModuleList(Highway(self.output_size(k), **made) for k in range(1, num_layers))
        self.reset_parameters()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "derived"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.derived = Derived(self.cell, self.bias, self.num_layers, self.heads, self.learn_initial_state)

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

    def runs_backwards(self, direction: int) -> bool:
        return self.reverse or direction == 1

    @property
    def state_sizes(self) -> list[int]:
        """Numbers in each state of the first layer."""
        return [self.state_size(w, 0) for w in self.state_widths]

    def state_size(self, width: Width, level: int) -> int:
        return size_of(width, self.sizes(level))

    def output_size(self, level: int) -> int:
        """Numbers in each output vector of one layer."""
        one = size_of(self.state_widths[0], self._widths(level) | {"input": self.input_size})
        return one * (self.directions if self.merge == "concat" else 1)

    def sizes(self, level: int) -> dict[Width, int]:
        """The widths of one layer's equation: "input", "hidden" and "projection" as numbers."""
        below = [self.output_size(k) for k in range(level)]
        return self._widths(level) | {"input": input_width(self.connections, below) if below else self.input_size}

    def _widths(self, level: int) -> dict[Width, int]:
        own: dict[Width, int] = {1: 1, "input": 0, "hidden": self.hidden_sizes[level]}
        return own | {"projection": self.cell.projection} if self.cell.projection else own

    def _name(self, name: str, level: int, direction: int) -> str:
        """What a parameter of the table is called in that layer and direction."""
        return f"{name}_l{level}_reverse" if direction else f"{name}_l{level}"

    def _of_level(self, level: int) -> str:
        """How the name of a layer's learned initial state ends; layers of one width share a tensor."""
        return "" if self.uniform else f"_l{level}"

    def learned_start(self, name: str, level: int) -> Tensor:
        """One layer's state before the first step [D, width], learned or 0."""
        if not self.learn_initial_state:
            width = self.state_widths[self.state_names.index(name)]
            return self.any_weight.new_zeros(self.directions, self.state_size(width, level))
        start: Tensor = getattr(self, f"initial_{name}" + self._of_level(level))
        return start[level * self.directions : (level + 1) * self.directions] if self.uniform else start

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
        defaults |= {"merge": "concat", "reverse": False, "connections": None, "learn_initial_state": False}
        defaults |= {"heads": 1, "weight_drop": 0.0, "recompute": None, "backend": "compiled"}
        parts += [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        parts += [f"{k}={v}" for k, v in self.options.given().items()]
        return ", ".join(parts)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: Any = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        return_all: bool = False,
        **signals: Tensor | None,
    ) -> Any:
        """Runs the stack over whole sequences; see the class for shapes.

        `lengths` [B]: how many steps of each sequence are real, 0 to T. The rest is never read (it may hold NaN), the
        output there is 0, the reverse direction starts at each sequence's own last step, and the final state is the one
        after it. A PackedSequence brings its own lengths and gives a PackedSequence, as torch.nn's layers do.

        `return_all`: also return a `Trace`: every state, gate and pre-activation of every layer and step, and, after
        backward, the error term of each. The numbers are the same bits with it and without.

        `signals` [T, B] ([B, T] where `batch_first`): each `signal(name)` that the cell reads, by name; and for every
        cell `reset`, bool: True at the first step of a new sequence, which then sees states of 0, or the learned
        initial state. The reverse direction is cut at the same place: there the step before that one begins anew.
        Padding is not read.
        """
        if is_recording(input):
            return recorded(self, input, state, {"lengths": lengths, "return_all": return_all, **signals})
        if not return_all and not signals:
            done = short_call(self, input, state, lengths)
            if done is not None:
                return done
        call = shapes.prepare(self, input, state, lengths)
        add_signals(self, call, signals)
        trace = None
        if return_all:
            if self.backend != "compiled" or self.recompute is not None:
                raise ValueError('return_all=True needs backend="compiled" and recompute=None')
            trace = Trace(call.batch_first, call.batched)
        results = shapes.finish(call, *self._run(call, trace))
        return results if trace is None else (*results, trace)

    def session(self, batch: int = 1, state: Any = None) -> Session | GpuSession:
        """A session of `batch` sequences, for input that comes one step at a time; see `Session`."""
        from throughtime.nn import cuda_session, session

        return (cuda_session.GpuSession if self.any_weight.is_cuda else session.Session)(self, batch, state)

    def _run(self, call: shapes.Call, trace: Trace | None = None) -> tuple[Tensor, list[Tensor]]:
        with torch.autocast(call.x.device.type, enabled=False) if call.autocast else nullcontext():
            return run_call(self, call, trace)

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles in the layer's place."""
        return scriptable(self)

    def products_under_autocast(self, packed: bool) -> Sequence[str]:
        """The states that torch.autocast leaves in its own dtype, given that their last operation is a product."""
        return ()

    def own_parameters(self, level: int, direction: int) -> dict[str, Tensor]:
        """The parameters of one layer in one direction, by their names in the table, in the dtype of the arithmetic."""
        found = {name: getattr(self, self._name(name, level, direction)) for name in self.derived.names}
        return widened(found) if self.any_weight.dtype in NARROW else found
