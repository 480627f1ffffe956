"""A recurrence as a compiled function of raw memory: compiled once, called with addresses and strides."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime import runtime
from throughtime.codegen.source import kernel_source, widths
from throughtime.nn.libraries import DTYPES, compiled, in_cache, routines
from throughtime.nn.profile import named_range
from throughtime.nn.teams import LARGEST_NEAR_SLICE, Division, division, step_of
from throughtime.symbolic.program import Read, Recurrence, Sizes, Sum, Write, size_of


def column_blocks(blocks: Sequence[Read | Write | Sum], sizes: Sizes) -> dict[str, dict[str, tuple[int, int]]]:
    """Of every array: its blocks' first columns and widths, in order."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for b in blocks:
        row = found.setdefault(b.array, {})
        row[b.name] = sum(width for _, width in row.values()), size_of(b.node.width, sizes)
    return found


TIME, ROW, UNIT, CARRY, SUM, MATRIX = range(6)
PER = {"time": TIME, "row": ROW, "unit": UNIT}


class Place(NamedTuple):
    """Where a kernel finds one of its arrays: tensor number `slot` of the call, from byte `offset` on.

    `kind`: TIME [T, B, ...], ROW and SUM [B, ...], UNIT [...], CARRY [directions, B, W] or MATRIX [rows, columns]; in
    the last two the array begins at `number` of the first axis.
    """

    slot: int
    kind: int
    offset: int
    number: int = 0


class Kernel:
    """One recurrence in one dtype; compiled at the first call."""

    def __init__(self, recurrence: Recurrence, dtype: torch.dtype) -> None:
        if dtype not in DTYPES:
            raise ValueError(
                f"the compiled backend works on float32 and float64 tensors, not on {dtype}: "
                "convert the layer with .float()"
            )
        self.recurrence = recurrence
        self._bytes = dtype.itemsize
        self.widths = widths(recurrence)
        self.dtype = DTYPES[dtype]
        self._text = kernel_source(recurrence, self.dtype)
        self._function: Callable[[int], int] | None = None
        self._addresses = (0, 0)  # of the pool and of the routines
        self._calls: dict[object, PreparedCall] = {}

    def library(self) -> Path | None:
        """The compiled library, if the cache has it; compiles nothing."""
        return in_cache(self._text, self.recurrence.name)

    def compile(self) -> None:
        """Compiles now what the first call would compile."""
        if self._function is None:
            function = compiled(self._text, self.recurrence.name)
            self._addresses = runtime.parallel_address(), routines(self.dtype)
            self._function = function

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
        """Runs `steps` steps of `rows` sequences; see `prepared`.

        `samples`: 0, or how often all groups run, each time with the next element of those tensors that are `sampled`;
        then `lengths` may be [samples, B]. `seeds`: one for each group, of each sample or of all; or none.

        Raises MemoryError if work space cannot be had.
        """
        layout = layout_of(tensors)
        threads = torch.get_num_threads()
        key = layout, tuple(sampled), steps, rows, samples, threads, id(groups)
        call = self._calls.get(key)
        if call is None:
            if len(self._calls) >= MOST_CALLS:
                self._calls.clear()
            call = self.prepared(layout, groups, numbers, reverse, steps, rows, threads, sampled, samples)
            self._calls[key] = call
        call.run(addresses_of(tensors), origin, seeds, lengths)

    def prepared(
        self,
        layout: Sequence[Sequence[int] | None],
        groups: Sequence[Sequence[Place]],
        numbers: Sequence[int],
        reverse: Sequence[bool],
        steps: int,
        rows: int,
        threads: int,
        sampled: Sequence[bool] = (),
        samples: int = 0,
        mapped: Mapped | None = None,
    ) -> PreparedCall:
        """A call but for its addresses. `layout`: the strides of every tensor. `groups`: the places of its carries
        (start and end of each), reads, writes, sums and matrices. `numbers`: the `widths`. `reverse`: for each group,
        whether its time runs backwards. `mapped`: which reads the kernel makes itself."""
        if self._function is None:
            self.compile()
        times = max(samples, 1)
        divided = self._division(rows, times * len(groups), threads, numbers)
        front = [steps, rows, times * len(groups), threads, 0, *self._addresses, *divided, *numbers]
        given = sampled or [False] * len(layout)
        found = with_input(template(front, layout, given, groups, reverse, times, self._bytes), layout, mapped)
        return PreparedCall(self.recurrence.name, self._function, found, len(groups))  # type: ignore[arg-type]

    def _division(self, rows: int, groups: int, threads: int, numbers: Sequence[int], least: int = 1) -> Division:
        step = step_of(self.recurrence, dict(zip(self.widths, numbers, strict=True)), self._bytes)
        alone = threads <= groups  # nobody is there to meet
        return division(step, rows, groups, threads, 0 if alone else runtime.meeting_nanoseconds(), least)

    def session_numbers(
        self, tensors: Sequence[Tensor], group: Sequence[Place], numbers: Sequence[int], rows: int, many: bool
    ) -> list[int]:
        """What a session of `rows` sequences is opened with, but for its input map: a call of one step. `many`: for
        many steps at a time; a single one is often made by one thread, slice after slice, so these must be large."""
        layout = [t.stride() for t in tensors]
        threads = torch.get_num_threads()
        addresses = runtime.parallel_address(), routines(self.dtype)
        divided = self._division(rows, 1, threads, numbers, 1 if many else LARGEST_NEAR_SLICE)
        front = [1, rows, 1, threads, 0, *addresses, *divided, *numbers]
        found = template(front, layout, [False] * len(tensors), [group], [False], 1, self._bytes)
        return list(filled(found, addresses_of(tensors), 1, (), None))


def layout_of(tensors: Sequence[Tensor | None]) -> tuple[tuple[int, ...] | None, ...]:
    return tuple([None if t is None else t.stride() for t in tensors])


def addresses_of(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]


MOST_CALLS = 64
"""Prepared calls that are kept of one kind: a new one for every length of a sequence must not fill the memory."""


class Template(NamedTuple):
    """The numbers of a call but for its addresses, seeds and lengths; `places`: where an address belongs, the number of
    its tensor, and the bytes between that tensor's address and this one."""

    numbers: array[int]
    places: list[tuple[int, int, int]]
    seeds: list[int]
    lengths: list[int]


class Mapped(NamedTuple):
    """Reads by number that are parts of W x: x [T, B, depth] is tensor number `slot`; the places of these reads are
    those of rows of W. Depth 0: x are word numbers [T, B], and these reads are rows of Wᵀ."""

    slot: int
    depth: int
    reads: list[int]


_ORIGIN = 4  # where a call's numbers say the number of its first step


class PreparedCall(NamedTuple):
    """A kernel's call for tensors of known layout; `groups`: how many run for each sample."""

    name: str
    function: Callable[[int], int]
    template: Template
    groups: int

    def run(self, addresses: Sequence[int], origin: int, seeds: Sequence[int], lengths: Tensor | None) -> None:
        """`addresses` of all tensors; see `Kernel.__call__`."""
        words = filled(self.template, addresses, self.groups, seeds, lengths)
        words[_ORIGIN] = origin
        with named_range(self.name):
            failed = self.function(words.buffer_info()[0])
        if failed:
            raise MemoryError(f"{self.name}: no memory for the work space of {words[1]} sequences")


def filled(
    template: Template, addresses: Sequence[int], groups: int, seeds: Sequence[int], lengths: Tensor | None
) -> array[int]:
    """The numbers of a call on tensors at these addresses; `groups`: of one sample."""
    words = template.numbers[:]
    for place, slot, offset in template.places:
        words[place] = addresses[slot] + offset
    if seeds:
        for g, place in enumerate(template.seeds):
            words[place] = seeds[g % len(seeds)]
    if lengths is not None:
        step = 0 if lengths.dim() == 1 else lengths.stride(0) * lengths.itemsize
        first = lengths.data_ptr()
        for g, place in enumerate(template.lengths):
            words[place] = first + g // groups * step
    return words


def with_input(call: Template, layout: Sequence[Sequence[int] | None], mapped: Mapped | None) -> Template:
    """A call that also says which reads the kernel maps itself."""
    if mapped is None:
        return call._replace(numbers=call.numbers + array("q", [0]))
    step, row = layout[mapped.slot][:2]  # type: ignore[index]
    count, depth = (len(mapped.reads), [mapped.depth]) if mapped.depth else (-len(mapped.reads), [])
    words = (count, 0, step, row, *depth, *mapped.reads)
    return call._replace(
        numbers=call.numbers + array("q", words),
        places=[*call.places, (len(call.numbers) + 1, mapped.slot, 0)],
    )


def template(
    front: Sequence[int],
    layout: Sequence[Sequence[int] | None],
    sampled: Sequence[bool],
    groups: Sequence[Sequence[Place]],
    reverse: Sequence[bool],
    times: int,
    size: int,
) -> Template:
    words = list(front)
    places: list[tuple[int, int, int]] = []
    seeds, lengths = [], []
    for sample in range(times):
        for g, group in enumerate(groups):
            seeds.append(len(words) + 1)
            lengths.append(len(words) + 2)
            words += (reverse[g], 0, 0)
            for slot, kind, offset, number in group:
                strides = layout[slot]
                if strides is None:  # a carry that starts from zero
                    words += (0, 0)
                    continue
                place = len(words)
                if sampled[slot]:
                    offset += sample * strides[0] * size
                    strides = strides[1:]
                if kind in (CARRY, MATRIX):
                    offset += number * strides[0] * size
                if kind in (TIME, MATRIX):
                    words += (0, strides[0], strides[1])
                elif kind == CARRY:
                    words += (0, strides[1])
                elif kind == SUM:
                    words += (0, strides[0])
                else:
                    words += (0, 0, strides[0] if kind == ROW else 0)
                places.append((place, slot, offset))
    return Template(array("q", words), places, seeds, lengths)


def compile_together(kernels: Sequence[Kernel]) -> None:
    """Compiles several kernels side by side, and the products if need be: all take hardly longer than one."""
    jobs = [partial(routines, dtype) for dtype in {k.dtype for k in kernels}] + [k.compile for k in kernels]
    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        for result in [pool.submit(job) for job in jobs]:
            result.result()
