"""A recurrence as a compiled function of raw memory: compile once, then call with addresses and strides."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from throughtime import runtime
from throughtime.codegen.source import kernel_source, skeletons, widths
from throughtime.symbolic.graph import Width
from throughtime.symbolic.program import Recurrence

DTYPES = {torch.float32: "float32", torch.float64: "float64"}

Sizes = Mapping[Width, int]
"""What the symbolic widths of a program are in a call: {"input": 10, "hidden": 20}."""


def size_of(width: Width, sizes: Sizes) -> int:
    return width if isinstance(width, int) else sizes[width]


@cache
def _compiled(text: str, name: str) -> Callable[[int], int]:
    built = runtime.build(name, {**skeletons(), "kernel.cpp": text}, "kernel.cpp")
    function = runtime.load(built.path).tt_run
    function.argtypes = [ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


@dataclass
class GroupCall:
    """The tensors of one group (direction) of a call, all [T, B, columns] with unit stride in the columns.

    `offsets` moves the first column of an array that the groups share.
    """

    reverse: bool
    reads: Mapping[str, Tensor]
    writes: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    starts: Sequence[Tensor | None]
    ends: Sequence[Tensor | None]
    matrices: Mapping[str, tuple[Tensor, int]]
    """Matrix name -> the tensor that holds it and the row it begins at."""
    offsets: Mapping[str, int]


class Kernel:
    """One recurrence in one dtype; compiled at the first call."""

    def __init__(self, recurrence: Recurrence, dtype: torch.dtype) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"the compiled backend works on float32 and float64 tensors, not on {dtype}: convert the layer with .float()")
        self.recurrence = recurrence
        self._bytes = dtype.itemsize
        self._reads = recurrence.used_reads
        self._widths = widths(recurrence)
        self._text = kernel_source(recurrence, DTYPES[dtype])
        self._columns: dict[tuple[int, ...], list[int]] = {}
        self._function: Callable[[int], int] | None = None

    def compile(self) -> None:
        """Compiles now what the first call would compile."""
        if self._function is None:
            self._function = _compiled(self._text, self.recurrence.name)

    def __call__(
        self, groups: Sequence[GroupCall], steps: int, rows: int, sizes: Sizes, lengths: Tensor | None, origin: int, seed: int
    ) -> None:
        """Runs `steps` steps of `rows` sequences. Raises MemoryError if work space cannot be had."""
        if self._function is None:
            self.compile()
        numbers = [size_of(w, sizes) for w in self._widths]
        words = [steps, rows, len(groups), torch.get_num_threads(), origin, seed]
        words += [0 if lengths is None else lengths.data_ptr(), runtime.parallel_address(), *numbers]
        columns = self._columns.get(tuple(numbers))
        if columns is None:
            columns = self._columns[tuple(numbers)] = self._block_offsets(sizes)
        for group in groups:
            self._append(words, group, columns)
        packed = array("q", words)
        if self._function(packed.buffer_info()[0]):  # type: ignore[misc]
            raise MemoryError(f"{self.recurrence.name}: no memory for the work space of {rows} sequences")

    def _block_offsets(self, sizes: Sizes) -> list[int]:
        """Of every read that is used, then every write: its first column in its array, in bytes."""
        offsets = []
        for blocks in (self.recurrence.reads, self.recurrence.writes):
            ends: dict[str, int] = {}
            for block in blocks:
                first = ends.get(block.array, 0)
                if blocks is self.recurrence.writes or block in self._reads:
                    offsets.append(first * self._bytes)
                ends[block.array] = first + size_of(block.node.width, sizes)
        return offsets

    def _append(self, words: list[int], group: GroupCall, columns: list[int]) -> None:
        size = self._bytes
        words.append(group.reverse)
        for start, end in zip(group.starts, group.ends, strict=True):
            words += (0, 0) if start is None else (start.data_ptr(), start.stride(0))
            words += (0, 0) if end is None else (end.data_ptr(), end.stride(0))
        offset = iter(columns)
        offsets = group.offsets
        for read in self._reads:
            tensor = group.reads[read.array]
            address = tensor.data_ptr() + next(offset)
            if read.per == "time":
                if read.array in offsets:
                    address += offsets[read.array] * size
                words += (address, tensor.stride(0), tensor.stride(1))
            else:
                words += (address, 0, tensor.stride(0) if read.per == "row" else 0)
        for write in self.recurrence.writes:
            tensor = group.writes[write.array]
            address = tensor.data_ptr() + next(offset)
            if write.array in offsets:
                address += offsets[write.array] * size
            words += (address, tensor.stride(0), tensor.stride(1))
        for total in self.recurrence.sums:
            tensor = group.sums[total.name]
            words += (tensor.data_ptr(), tensor.stride(0))
        for matrix in self.recurrence.matrices:
            tensor, row = group.matrices[matrix.name]
            words += (tensor.data_ptr() + row * tensor.stride(0) * size, tensor.stride(0), tensor.stride(1))


def compile_together(kernels: Sequence[Kernel]) -> None:
    """Compiles several kernels side by side: forward and backward take the time of one."""
    with ThreadPoolExecutor(max_workers=len(kernels)) as pool:
        for result in [pool.submit(k.compile) for k in kernels]:
            result.result()
