"""`layer.session(batch)`: a layer whose states and packed weights stay, for input that comes one step at a time."""

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from throughtime.codegen.source import session_source
from throughtime.nn.kernels import column_blocks
from throughtime.nn.libraries import DTYPES, library
from throughtime.nn.precision import NARROW
from throughtime.nn.stack import bias_of
from throughtime.nn.states import State, checked_states, in_kind

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent


class Session:
    """A stack that is given one step at a time, in evaluation mode and without gradients.

    `batch`: B, sequences side by side. The numbers are those of a call on the whole sequences. Weights are packed when
    the session is opened; `refresh` takes them anew. Nothing is allocated by a step, which gives its output in the same
    tensor every time: copy what must outlive the next step. A session belongs to one thread at a time.

    Raises NotImplementedError for layers that cannot be run step by step (both directions, reverse) or whose steps need
    more than x (signals, connections between layers), for heads, and for the reference backend.
    """

    def __init__(self, layer: Recurrent, batch: int = 1, state: Any = None) -> None:
        _check(layer, batch)
        self.layer, self.batch = layer, batch
        self._stages = [_Stage(layer, level, batch) for level in range(layer.num_layers)]
        first, last = self._stages[0], self._stages[-1]
        self.output = last.output[0]  # [B, H]
        self._dtype, self._width = first.dtype, layer.input_size
        self._x = torch.zeros(batch, layer.input_size, dtype=self._dtype)
        self._handles = (ctypes.c_void_p * len(self._stages))(*(s.handle for s in self._stages))
        self._run, self._count = first.library.tt_step, len(self._stages)
        self.reset(state)

    def step(self, x: Tensor | int) -> Tensor:
        """One step of all sequences: x [B, I], or int64 word numbers [B], or one number where B = 1; returns the
        output [B, H] of the last layer, which the next step overwrites.

        Raises TypeError, ValueError or IndexError for input of another shape, kind or range.
        """
        if x.__class__ is int or (isinstance(x, Tensor) and not x.dtype.is_floating_point):
            return self._step_words(x)
        if not isinstance(x, Tensor):
            raise TypeError(f"a step expects a tensor or a word number, got {type(x).__name__}")
        if x.shape != self._x.shape:
            raise ValueError(f"a step expects x as {tuple(self._x.shape)}, got {tuple(x.shape)}")
        if not x.is_cpu:
            raise RuntimeError(f"a session works on the CPU, the input is on {x.device}: move it with .to()")
        if x.dtype != self._dtype or not x.is_contiguous():
            x = self._x.copy_(x.detach())
        self._run(self._handles, self._count, x.data_ptr(), 0)
        return self.output

    def _step_words(self, words: Tensor | int) -> Tensor:
        if isinstance(words, Tensor):
            if words.shape != (self.batch,):
                raise ValueError(f"a step expects word numbers as {(self.batch,)}, got {tuple(words.shape)}")
            low, high = (int(words.min()), int(words.max())) if self.batch > 1 else (int(words), int(words))
        else:
            if self.batch != 1:
                raise ValueError(f"a step of {self.batch} sequences expects as many word numbers, got one")
            low = high = words
        if not 0 <= low <= high < self._width:
            raise IndexError(f"word numbers must lie in [0, {self._width}), the vocabulary, got {low} to {high}")
        first = self._stages[0]
        if first.reads_x or not first.maps_input:  # the step itself asks for the one-hot vector
            self._x.zero_()[torch.arange(self.batch), torch.as_tensor(words)] = 1
            self._run(self._handles, self._count, self._x.data_ptr(), 0)
            return self.output
        table = first.rows_of_words()
        if self.batch == 1:
            address = table.data_ptr() + low * table.stride(0) * table.itemsize
        else:
            torch.index_select(table, 0, words, out=first.net[0])  # type: ignore[arg-type]
            address = first.net.data_ptr()
        self._run(self._handles, self._count, address, 1)
        return self.output

    def refresh(self) -> None:
        """Takes the layer's weights as they are now; the states stay."""
        for stage in self._stages:
            stage.take_weights(self.layer)
            stage.library.tt_pack(stage.handle)

    def reset(self, state: Any = None) -> None:
        """Begins new sequences, from the layer's initial state or from `state`, as a call of the layer takes it."""
        weight = self.layer.any_weight
        states, _ = checked_states(self.layer, state, weight, self.batch, True, False)
        self._load(states, 0)

    @property
    def state(self) -> Any:
        """A copy of the states, in the shapes of a call's final state: give it to `reset`, or to the layer."""
        for stage in self._stages:
            stage.library.tt_store(stage.handle)
        states: list[State] = []
        for k in range(len(self.layer.state_names)):
            parts = [stage.ends[k].clone() for stage in self._stages]
            states.append(torch.cat(parts) if self.layer.uniform else parts)
        kind = self.layer.any_weight.dtype
        found = [in_kind(s, kind) for s in states] if kind in NARROW else states
        return tuple(found) if len(found) > 1 else found[0]

    def _load(self, states: list[State], origin: int) -> None:
        for level, stage in enumerate(self._stages):
            for k, state in enumerate(states):
                if state is None:
                    stage.starts[k].zero_()
                else:
                    own = state[level] if isinstance(state, list) else state[level : level + 1]
                    stage.starts[k].copy_(own.detach())
            stage.library.tt_load(stage.handle, origin)


class _Stage:
    """One layer of a session: its tensors, which the compiled session knows by their addresses."""

    def __init__(self, layer: Recurrent, level: int, batch: int) -> None:
        self.level = level
        weight = layer.any_weight
        self.dtype = torch.float32 if weight.dtype in NARROW else weight.dtype
        kind = layer.derived.kind(layer.sizes(level), (False,), (0,), False)
        plan = kind.plan(False, self.dtype)
        program, recurrence = kind.program, plan.kernel.recurrence
        made: dict[str, Any] = {"dtype": self.dtype}
        self.starts = [torch.zeros(1, batch, width, **made) for width in plan.ends]
        self.ends = [torch.zeros(1, batch, width, **made) for width in plan.ends]
        self.output = torch.zeros(1, batch, plan.joint_writes["out"], **made)
        self.reads: dict[str, Tensor] = {}
        self.maps_input, self.reads_x = "net" in program.reads, "x" in program.reads
        inputs = layer.sizes(level)["input"]
        own = self._own(layer)
        self.weight = own.get("weight_ih", torch.empty(0)).clone()
        self._table: Tensor | None = None
        self.net = torch.zeros(1, batch, len(self.weight), **made)
        for array in program.own:
            if array == "net":
                self.reads[array] = self.net
            elif array == "x":
                self.reads[array] = torch.zeros(1, batch, inputs, **made)
            else:
                self.reads[array] = self._constant(layer, own, array).clone()
        self.matrices = [own[name].clone() for name in layer.derived.loops[False]]
        tensors = [*self.starts, *self.reads.values(), *self.matrices, self.output, *self.ends]
        numbers = plan.kernel.session_numbers(tensors, plan.groups[0], plan.numbers, batch)
        rows = len(self.weight) if self.maps_input else 0
        strides = self.weight.stride() if rows else (0, 0)
        numbers += [self.weight.data_ptr(), *strides, rows, inputs, self.net.data_ptr()]
        places = [(r.array, r.name) for r in recurrence.used_reads]
        numbers.append(next((k for k, (array, _) in enumerate(places) if array == "x"), -1))
        blocks = column_blocks(recurrence.reads, kind.sizes).get("net", {})
        parts = [(k, blocks[name][0]) for k, (array, name) in enumerate(places) if array == "net"]
        numbers += [len(parts), *(n for part in parts for n in part)]
        self.library = _library(session_source(recurrence, DTYPES[self.dtype]), f"{recurrence.name}.session")
        self.handle = self.library.tt_open(np.array(numbers, dtype=np.int64).ctypes.data)
        if not self.handle:
            raise MemoryError(f"{recurrence.name}: no memory for a session of {batch} sequences")
        weakref.finalize(self, self.library.tt_close, self.handle)

    def _own(self, layer: Recurrent) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in layer.own_parameters(self.level, 0).items()}

    @staticmethod
    def _constant(layer: Recurrent, own: dict[str, Tensor], array: str) -> Tensor:
        return bias_of(layer, own) if array == "bias" else own[array]

    def take_weights(self, layer: Recurrent) -> None:
        own = self._own(layer)
        if self.maps_input:
            self.weight.copy_(own["weight_ih"])
            self._table = None
        for array, kept in self.reads.items():
            if array not in ("net", "x"):
                kept.copy_(self._constant(layer, own, array))
        for name, kept in zip(layer.derived.loops[False], self.matrices, strict=True):
            kept.copy_(own[name])

    def rows_of_words(self) -> Tensor:
        """W x of every word, [V, rows]."""
        if self._table is None:
            self._table = self.weight.t().contiguous()
        return self._table


@cache
def _library(text: str, name: str) -> ctypes.CDLL:
    found = library(text, name)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.tt_open.argtypes, found.tt_open.restype = [pointer], pointer
    found.tt_step.argtypes, found.tt_step.restype = [pointer, number, pointer, ctypes.c_int], None
    for function in (found.tt_pack, found.tt_store, found.tt_close):
        function.argtypes, function.restype = [pointer], None
    found.tt_load.argtypes, found.tt_load.restype = [pointer, number], None
    return found


def _check(layer: Recurrent, batch: int) -> None:
    if type(batch) is not int or batch < 1:
        raise ValueError(f"batch should be a number of sequences above 0, got {batch!r}")
    obstacles = {
        "both directions": layer.bidirectional,
        "the reverse direction": layer.reverse,
        "connections between layers": layer.connections is not None,
        "heads": layer.heads > 1,
        'backend="reference"': layer.backend != "compiled",
        f"the signals {', '.join(layer.derived.signals)}": bool(layer.derived.signals),
    }
    for what, given in obstacles.items():
        if given:
            raise NotImplementedError(f"a session runs forward, step by step: it has no place for {what}")
    if layer.any_weight.device.type != "cpu":
        raise NotImplementedError(f"a session works on the CPU, the layer is on {layer.any_weight.device}")
