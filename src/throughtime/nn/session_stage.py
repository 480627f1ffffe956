"""One layer of a session, and the compiled code that it runs on: codegen/skeletons/session.h."""

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

if TYPE_CHECKING:
    from throughtime.nn.recurrent import Recurrent


class Stage:
    """One layer of a session: its tensors, which the compiled sessions know by their addresses.

    There are two of these, for single steps and for many at a time, if a step is too small to be divided among
    threads, or if many are worth cutting the matrices for matrix units; the states are handed over where one follows
    the other. `states`: of each carry [1, B, W], what `load`
    begins with and `store` leaves. `output`: [1, B, H], of a single step.
    """

    def __init__(self, layer: Recurrent, level: int, batch: int) -> None:
        self.level = level
        weight = layer.any_weight
        self.dtype = torch.float32 if weight.dtype in NARROW else weight.dtype
        kind = layer.derived.kind(layer.sizes(level), (False,), (0,), False)
        plan = kind.plan(False, self.dtype)
        program, recurrence = kind.program, plan.kernel.recurrence
        made: dict[str, Any] = {"dtype": self.dtype}
        self.states = [torch.zeros(1, batch, width, **made) for width in plan.ends]
        self.output = torch.zeros(1, batch, plan.joint_writes["out"], **made)
        self.reads: dict[str, Tensor] = {}
        self.maps_input, self.reads_x = "net" in program.reads, "x" in program.reads
        inputs = layer.sizes(level)["input"]
        own = self._own(layer)
        self.weight = own.get("weight_ih", torch.empty(0)).clone()
        self._table: Tensor | None = None
        self.net = torch.zeros(batch, len(self.weight), **made)  # W x of word numbers
        for array in program.own:
            if array == "net":
                self.reads[array] = self.net[None]
            elif array == "x":
                self.reads[array] = torch.zeros(1, batch, inputs, **made)
            else:
                self.reads[array] = self._constant(layer, own, array).clone()
        self.matrices = [own[name].clone() for name in layer.derived.loops[False]]
        tensors = [*self.states, *self.reads.values(), *self.matrices, self.output, *self.states]
        strides = self.weight.stride() if self.maps_input else (0, 0)
        more = [self.weight.data_ptr(), *strides, inputs]
        places = [(r.array, r.name) for r in recurrence.used_reads]
        more.append(next((k for k, (array, _) in enumerate(places) if array == "x"), -1))
        blocks = column_blocks(recurrence.reads, kind.sizes).get("net", {})
        parts = [(k, blocks[name][0]) for k, (array, name) in enumerate(places) if array == "net"]
        more += [len(parts), *(n for part in parts for n in part)]
        self._numbers = [
            [*plan.kernel.session_numbers(tensors, plan.groups[0], plan.numbers, batch, many), *more, many]
            for many in (False, True)
        ]
        self.name = recurrence.name
        self.library = _library(session_source(recurrence, DTYPES[self.dtype]), f"{recurrence.name}.session")
        self.stepping = self._current = self._open(many=False)
        self._running = self.stepping if self.library.tt_suits_many(self.stepping) else 0

    def _open(self, many: bool) -> int:
        handle = self.library.tt_open(np.array(self._numbers[many], dtype=np.int64).ctypes.data)
        if not handle:
            raise MemoryError(f"{self.name}: no memory for a session of {self.output.shape[1]} sequences")
        weakref.finalize(self, self.library.tt_close, handle)
        return int(handle)

    def switch(self, many: bool) -> None:
        """From single steps to `many` at a time, or back."""
        if many and not self._running:
            self._running = self._open(many=True)
        other = self._running if many else self.stepping
        if other != self._current:
            self.library.tt_load(other, self.library.tt_store(self._current))
            self._current = other

    def load(self, origin: int) -> None:
        """Goes on with the `states`, at step number `origin`."""
        self.library.tt_load(self._current, origin)

    def store(self) -> None:
        self.library.tt_store(self._current)

    def run(self, x: Tensor, given: int) -> Tensor:
        """Some steps: x [T, B, I], or W x [T, B, rows of W] if that is `given`, to the outputs [T, B, H]."""
        x = x if x.stride(2) == 1 else x.contiguous()
        out = torch.empty(x.shape[0], *self.output.shape[1:], dtype=self.dtype)
        strides = (*x.stride()[:2], out.data_ptr(), *out.stride()[:2])
        self.library.tt_run(self._running, x.shape[0], x.data_ptr(), *strides, given)
        return out

    def _own(self, layer: Recurrent) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in layer.own_parameters(self.level, 0).items()}

    @staticmethod
    def _constant(layer: Recurrent, own: dict[str, Tensor], array: str) -> Tensor:
        return bias_of(layer, own) if array == "bias" else own[array]

    def take_weights(self, layer: Recurrent) -> None:
        """The layer's weights as they are now."""
        own = self._own(layer)
        if self.maps_input:
            self.weight.copy_(own["weight_ih"])
            self._table = None
        for array, kept in self.reads.items():
            if array not in ("net", "x"):
                kept.copy_(self._constant(layer, own, array))
        for name, kept in zip(layer.derived.loops[False], self.matrices, strict=True):
            kept.copy_(own[name])
        for handle in {self.stepping, self._running} - {0}:
            self.library.tt_pack(handle)

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
    flag = ctypes.c_int
    found.tt_step.argtypes, found.tt_step.restype = [pointer, number, pointer, number, flag], None
    x = out = (pointer, number, number)
    found.tt_run.argtypes, found.tt_run.restype = (pointer, number, *x, *out, flag), None
    for function in (found.tt_suits_many, found.tt_pack, found.tt_store, found.tt_close):
        function.argtypes = [pointer]
    found.tt_suits_many.restype, found.tt_store.restype = flag, number
    found.tt_pack.restype = found.tt_close.restype = None
    found.tt_load.argtypes, found.tt_load.restype = [pointer, number], None
    return found
