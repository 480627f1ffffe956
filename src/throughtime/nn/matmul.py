"""Products of whole matrices by the package's own code, many in one call: what surrounds a recurrence.

One call shares them out over the threads that the recurrence uses. torch's own products would wake a second set of
threads, which spin for a while after each and so take the processors from the recurrence that follows.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime import runtime
from throughtime.codegen.source import products_source
from throughtime.nn.kernels import DTYPES, compiled


class Matrix(NamedTuple):
    """A matrix in memory: element (i, j) lies `i * row_step + j * column_step` elements after `address`."""

    address: int
    rows: int
    columns: int
    row_step: int
    column_step: int

    @property
    def t(self) -> Matrix:
        return Matrix(self.address, self.columns, self.rows, self.column_step, self.row_step)

    def part(self, first_row: int, rows: int, first_column: int, columns: int, size: int) -> Matrix:
        """Some of its rows and columns; `size`: bytes of an element."""
        offset = first_row * self.row_step + first_column * self.column_step
        return Matrix(self.address + offset * size, rows, columns, self.row_step, self.column_step)


def matrix(tensor: Tensor) -> Matrix:
    """A tensor [rows, columns]."""
    return Matrix(tensor.data_ptr(), *tensor.shape, *tensor.stride())


def is_flat(tensor: Tensor, batch_first: bool) -> bool:
    """Whether the T · B rows of a tensor [T, B, W] lie at one distance, sequence after sequence where `batch_first`."""
    steps, rows, width = tensor.shape
    step, row, unit = tensor.stride()
    if unit != 1 and width > 1:
        return False
    if rows == 1 or steps == 1:
        return rows * steps == 1 or (step if rows == 1 else row) >= width
    if min(step, row) < width:  # rows that share memory
        return False
    return row == steps * step if batch_first else step == rows * row


def flat_matrix(tensor: Tensor) -> Matrix:
    """A flat tensor [T, B, W] as a matrix of T · B rows."""
    steps, rows, width = tensor.shape
    step, row, _ = tensor.stride()
    between = row if steps == 1 else step if rows == 1 else min(step, row)
    return Matrix(tensor.data_ptr(), steps * rows, width, between, 1)


def laid_out(tensor: Tensor, batch_first: bool) -> Tensor:
    """The tensor [T, B, W], copied unless it is flat."""
    if is_flat(tensor, batch_first):
        return tensor
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if batch_first else tensor.contiguous()


PIECE = 96  # as `piece` in matmul.h
"""Products that are summed in one chain: one over all T · B rows would round more than a loop over time."""


class Products:
    """Products of float32 or float64 matrices that `run` makes all at once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._name = DTYPES[dtype]
        self._rounds: list[tuple[int, list[int]]] = []

    def add(
        self,
        left: Matrix,
        right: Matrix,
        out: Matrix,
        *,
        chain: int = 0,
        more: bool = False,
        rows: Tensor | None = None,
        depth: Tensor | None = None,
        clear: bool = False,
    ) -> None:
        """out = left right, or out += left right if `more`, for which what was added before is then complete.

        Every element is one chain of multiply-adds; of chains of `chain` products, added up, if that is not 0.
        `rows` (int64, ascending): only those rows of `left` and `out`, whose other rows become 0 if `clear`; `depth`:
        only those columns of `left` and rows of `right`.
        """
        if more or not self._rounds:
            self._rounds.append((0, []))
        count, words = self._rounds[-1]
        words += (
            out.rows if rows is None else len(rows),
            out.columns,
            left.columns if depth is None else len(depth),
            *(left.address, left.row_step, left.column_step),
            *(right.address, right.row_step, right.column_step),
            *(out.address, out.row_step, chain, more),
            *(0 if rows is None else rows.data_ptr(), 0 if depth is None else depth.data_ptr(), out.rows if clear else 0),
        )
        self._rounds[-1] = count + 1, words

    def run(self) -> None:
        """Makes the products that were added since the last time. Raises MemoryError if work space cannot be had."""
        if not self._rounds:
            return
        function = compiled(products_source(self._name), "products")
        front = torch.get_num_threads(), runtime.parallel_address()
        rounds, self._rounds = self._rounds, []
        for count, words in rounds:
            packed = array("q", (count, *front, *words))
            if function(packed.buffer_info()[0]):
                raise MemoryError("no memory for the work space of a matrix product")
