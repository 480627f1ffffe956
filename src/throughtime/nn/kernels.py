"""A recurrence as a compiled function of raw memory: compiled once, called with addresses and strides."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime import runtime
from throughtime.codegen.source import kernel_source, skeletons, widths
from throughtime.symbolic.graph import Width
from throughtime.symbolic.program import Read, Recurrence, Sum, Write

DTYPES = {torch.float32: "float32", torch.float64: "float64"}

Sizes = Mapping[Width, int]
"""What the symbolic widths of a program are in a call: {"input": 10, "hidden": 20}."""


def size_of(width: Width, sizes: Sizes) -> int:
    found = sizes.get(width)
    return int(width) if found is None else found


def column_blocks(blocks: Sequence[Read | Write | Sum], sizes: Sizes) -> dict[str, dict[str, tuple[int, int]]]:
    """Of every array: its blocks' first columns and widths, in order."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for b in blocks:
        row = found.setdefault(b.array, {})
        row[b.name] = sum(width for _, width in row.values()), size_of(b.node.width, sizes)
    return found


MAIN = "kernel.cpp"


@cache
def compiled(text: str, name: str) -> Callable[[int], int]:
    """The entry point of the library made from this text, a function of the address of its numbers."""
    built = runtime.build(name, {**skeletons(), MAIN: text}, MAIN)
    function = runtime.load(built.path).tt_run
    function.argtypes = [ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function


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
        self._text = kernel_source(recurrence, DTYPES[dtype])
        self._function: Callable[[int], int] | None = None
        self._parallel = 0

    def library(self) -> Path | None:
        """The compiled library, if the cache has it; compiles nothing."""
        return runtime.find(self.recurrence.name, {**skeletons(), MAIN: self._text}, MAIN)

    def compile(self) -> None:
        """Compiles now what the first call would compile."""
        if self._function is None:
            self._parallel = runtime.parallel_address()
            self._function = compiled(self._text, self.recurrence.name)

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
        """Runs `steps` steps of `rows` sequences. `groups`: the places of its carries (start and end of each), reads,
        writes, sums and matrices. `numbers`: the `widths`. `reverse`: for each group, whether its time runs backwards.
        `samples`: 0, or how often all groups run, each time with the next element of those tensors that are `sampled`;
        then `lengths` may be [samples, B]. `seeds`: one for each group, of each sample or of all; or none.

        Raises MemoryError if work space cannot be had.
        """
        if self._function is None:
            self.compile()
        times = max(samples, 1)
        words = [steps, rows, times * len(groups), torch.get_num_threads(), origin, self._parallel, *numbers]
        size = self._bytes
        # Of each tensor: where it lies, its strides, and the bytes from one sample to the next.
        found: list[tuple[int, Sequence[int], int] | None] = []
        for t, own in zip(tensors, sampled, strict=True):
            if t is None:
                found.append(None)
            elif own:
                found.append((t.data_ptr(), t.stride()[1:], t.stride(0) * size))
            else:
                found.append((t.data_ptr(), t.stride(), 0))
        lengths_at = 0 if lengths is None else lengths.data_ptr()
        lengths_step = 0 if lengths is None or lengths.dim() == 1 else lengths.stride(0) * lengths.itemsize
        for sample in range(times):
            for g, places in enumerate(groups):
                seed = seeds[(sample * len(groups) + g) % len(seeds)] if seeds else 0
                words += (reverse[g], seed, lengths_at + sample * lengths_step)
                for slot, kind, offset, number in places:
                    entry = found[slot]
                    if entry is None:  # a carry that starts from zero
                        words += (0, 0)
                        continue
                    address, strides, sample_step = entry
                    address += sample * sample_step + offset
                    if kind == TIME:
                        words += (address, strides[0], strides[1])
                    elif kind == CARRY:
                        words += (address + number * strides[0] * size, strides[1])
                    elif kind == MATRIX:
                        words += (address + number * strides[0] * size, strides[0], strides[1])
                    elif kind == SUM:
                        words += (address, strides[0])
                    else:
                        words += (address, 0, strides[0] if kind == ROW else 0)
        packed = array("q", words)
        if self._function(packed.buffer_info()[0]):  # type: ignore[misc]
            raise MemoryError(f"{self.recurrence.name}: no memory for the work space of {rows} sequences")


def compile_together(kernels: Sequence[Kernel]) -> None:
    """Compiles several kernels side by side: forward and backward take the time of one."""
    with ThreadPoolExecutor(max_workers=len(kernels)) as pool:
        for result in [pool.submit(k.compile) for k in kernels]:
            result.result()
