"""A recurrence as a CUDA kernel: compiled once for its scheme, launched on torch's current stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.codegen.cuda import Parts, cuda_source, parts, step_source
from throughtime.codegen.source import widths
from throughtime.nn import cuda_model
from throughtime.nn.cuda_layout import GROUPS, MAIL, Memory, Problem, Scheme, layout
from throughtime.nn.cuda_model import Facts
from throughtime.nn.cuda_product import Matrices, run_steps
from throughtime.nn.cuda_wish import Wish, wish
from throughtime.nn.kernels import MOST_CALLS, Place, Template, addresses_of, filled, layout_of, template
from throughtime.nn.libraries import DTYPES
from throughtime.symbolic.program import Recurrence

CAPACITIES = (496, 4000)
"""Numbers that a launch can be given: 4 KB of a kernel's arguments, or nearly all that there can be (CUDA 12.1)."""

Launch = Callable[[NDArray[np.int64], Scheme, int], None]
"""Launches on numbers, divided in that way, with so many bytes of shared memory for each block."""


class Machine(Protocol):
    """Where kernels run: a GPU, or in tests something that acts like one."""

    @property
    def facts(self) -> Facts: ...

    def program(self, name: str, text: str, scheme: Scheme, capacity: int) -> Launch:
        """Compiles and loads."""
        ...

    def seconds(self, call: Callable[[], None]) -> float:
        """How long what the call launches takes."""
        ...


def problem(
    recurrence: Recurrence, numbers: Sequence[int], dtype: torch.dtype, rows: int, groups: int, of: Parts | None = None
) -> Problem:
    """`numbers`: what the widths are; `of`: the recurrence's parts, if they are known."""
    found = parts(recurrence) if of is None else of
    return Problem(recurrence.name, found, widths(recurrence), tuple(numbers), dtype.itemsize, rows, groups)


class CudaKernel:
    """One recurrence in one dtype on one device; compiled at the first call."""

    def __init__(self, recurrence: Recurrence, dtype: torch.dtype, machine: Machine) -> None:
        if dtype not in DTYPES:
            raise ValueError(
                f"the compiled backend works on float32 and float64 tensors, not on {dtype}: "
                "convert the layer with .float()"
            )
        self.recurrence, self.machine = recurrence, machine
        self.parts = parts(recurrence)
        self._dtype = dtype
        self._programs: dict[tuple[str, str, int, int], Launch] = {}
        self._templates: dict[object, Template] = {}
        self._best: dict[tuple[Problem, Wish], Scheme] = {}

    def __call__(
        self,
        tensors: Sequence[Tensor | None],
        sampled: Sequence[bool],
        groups: Sequence[Sequence[Place]],
        numbers: Sequence[int],
        reverse: Sequence[bool],
        seeds: Sequence[int],
        lengths: Tensor | None,
        steps: int,
        rows: int,
        origin: int,
        samples: int,
    ) -> None:
        """As `Kernel.__call__`; returns when the work is in the stream's queue."""
        if rows == 0:
            return
        every = max(samples, 1) * len(groups)
        given = problem(self.recurrence, numbers, self._dtype, rows, every, self.parts)
        asked = wish()
        strides, addresses = layout_of(tensors), addresses_of(tensors)
        key = strides, tuple(sampled), steps, rows, origin, samples, id(groups), lengths is None

        def run(scheme: Scheme) -> None:
            memory = layout(given, scheme, steps, origin)
            found = self._templates.get((key, scheme))
            if found is None:
                if len(self._templates) >= MOST_CALLS:
                    self._templates.clear()
                times, item = max(samples, 1), self._dtype.itemsize
                found = template(memory.words, strides, sampled, groups, reverse, times, item)
                self._templates[key, scheme] = found
            words = np.array(filled(found, addresses, len(groups), seeds, lengths))
            own = [group[len(group) - len(self.recurrence.matrices) :] for group in groups]
            self._launch(scheme, memory, words, given, Matrices(tensors, sampled, own))

        scheme = self._best.get((given, asked))
        if scheme is None:
            scheme = cuda_model.choose(given, self.machine.facts, asked)
            if asked.scheme == "timed":  # what is measured is this very call: every scheme gives the same results
                few = cuda_model.promising(given, self.machine.facts, asked)
                scheme = min(few, key=lambda s: self.machine.seconds(lambda: run(s)))
            self._best[given, asked] = scheme
        run(scheme)

    def _launch(
        self, scheme: Scheme, memory: Memory, words: NDArray[np.int64], given: Problem, matrices: Matrices
    ) -> None:
        """Launches as many groups at a time as a launch can be told of."""
        front, groups = len(memory.words), given.groups
        each = (len(words) - front) // groups
        capacity = next((c for c in CAPACITIES if len(words) <= c), CAPACITIES[-1])
        most = (capacity - front) // each
        if most < 1:
            raise NotImplementedError(
                f'{self.recurrence.name} has more arrays than a launch can be told of: use backend="reference"'
            )
        run = self._program(scheme, capacity)
        like = next(t for t in matrices.tensors if t is not None)
        for first in range(0, groups, most):
            count = min(most, groups - first)
            part = np.concatenate((words[:front], words[front + first * each : front + (first + count) * each]))
            part[GROUPS] = count
            if scheme.exchange == "Product":
                each_row = replace(scheme, teams=count * given.rows)
                own = range(first, first + count)
                run_steps(lambda w, s=each_row: run(w, s, 0), part, memory, given, matrices, own, scheme.operand)  # type: ignore[misc]
                continue
            if scheme.exchange == "Grid":
                # The words of a mailbox say which step they belong to, and none belongs to step 0.
                mailbox = like.new_zeros(2 * scheme.teams * max(memory.mail, 1), dtype=torch.int64)
                part[MAIL] = mailbox.data_ptr()
            run(part, scheme, memory.bytes)

    def _program(self, scheme: Scheme, capacity: int) -> Launch:
        key = scheme.exchange, scheme.multiplier, scheme.threads, capacity
        found = self._programs.get(key)
        if found is None:
            if scheme.exchange == "Product":
                text = step_source(self.recurrence, DTYPES[self._dtype])
            else:
                text = cuda_source(self.recurrence, DTYPES[self._dtype], scheme.exchange, scheme.multiplier)
            found = self._programs[key] = self.machine.program(self.recurrence.name, text, scheme, capacity)
        return found
