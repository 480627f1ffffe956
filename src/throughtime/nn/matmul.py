"""Products of whole matrices by the package's own code, many in one call: what surrounds a recurrence.

One call shares them out over the threads that the recurrence uses. torch's own products would wake a second set of
threads, which spin for a while after each and so take the processors from the recurrence that follows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime import runtime
from throughtime.nn.libraries import DTYPES, products_entry
from throughtime.nn.profile import named_range


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


def matrix(tensor: Tensor, address: int | None = None) -> Matrix:
    """A tensor [rows, columns]; one like it that begins at `address`."""
    return Matrix(tensor.data_ptr() if address is None else address, *tensor.shape, *tensor.stride())


def is_flat(tensor: Tensor, batch_first: bool) -> bool:
    """Whether the T · B rows of a tensor [T, B, W] lie at one distance, sequence after sequence where `batch_first`."""
    steps, rows, width = tensor.shape
    step, row, unit = tensor.stride()
    if steps * rows == 0:
        return True
    if unit != 1 and width > 1:
        return False
    if rows == 1 or steps == 1:
        return rows * steps == 1 or (step if rows == 1 else row) >= width
    if min(step, row) < width:  # rows that share memory
        return False
    return row == steps * step if batch_first else step == rows * row


def flat_matrix(tensor: Tensor, address: int | None = None) -> Matrix:
    """A flat tensor [T, B, W] as a matrix of T · B rows; one like it that begins at `address`."""
    steps, rows, width = tensor.shape
    step, row, _ = tensor.stride()
    between = row if steps == 1 else step if rows == 1 else min(step, row)
    return Matrix(tensor.data_ptr() if address is None else address, steps * rows, width, between, 1)


def laid_out(tensor: Tensor, batch_first: bool) -> Tensor:
    """The tensor [T, B, W], copied unless it is flat."""
    if is_flat(tensor, batch_first):
        return tensor
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if batch_first else tensor.contiguous()


PIECE = 64  # as `piece` in matmul.h
"""Products that are summed in one chain: one over all T · B rows would round more than a loop over time."""


BY_WORD = -1  # as `by_word` in matrix_product.h
"""In place of a chain: the left matrix is a list of word numbers, int64, one for every row of the right one, and each
row of the result the sum of its word's rows."""

REAL = "real"
"""In place of a list of rows, where products are prepared: those that a run will be given."""


class Products:
    """Products of float32 or float64 matrices that `run` makes all at once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = DTYPES[dtype]
        self.rounds: list[list[int]] = []

    def add(
        self,
        left: Matrix,
        right: Matrix,
        out: Matrix,
        *,
        chain: int = 0,
        more: bool = False,
        rows: Tensor | str | None = None,
        depth: Tensor | str | None = None,
        clear: bool = False,
    ) -> None:
        """out = left right, or out += left right if `more`, for which what was added before is then complete.

        Every element is one chain of multiply-adds; of chains of `chain` products, added up, if that is not 0; see
        `BY_WORD` too.
        `rows` (int64, ascending): only those rows of `left` and `out`, whose other rows become 0 if `clear`; `depth`:
        only those columns of `left` and rows of `right`.
        """
        if more or not self.rounds:
            self.rounds.append([])
        self.rounds[-1] += (
            len(rows) if isinstance(rows, Tensor) else out.rows,
            out.columns,
            len(depth) if isinstance(depth, Tensor) else left.columns,
            *(left.address, left.row_step, left.column_step),
            *(right.address, right.row_step, right.column_step),
            *(out.address, out.row_step, chain, more),
            *(_list(rows), _list(depth), out.rows if clear else 0),
        )

    def run(self) -> None:
        """Makes the products that were added since the last time. Raises MemoryError if work space cannot be had."""
        rounds, self.rounds = self.rounds, []
        for words in rounds:
            packed = array("q", _front(words) + words)
            _make(products_entry(self.name), packed.buffer_info()[0])


_WORDS = 16  # of one product
_ROWS, _DEPTH, _LEFT, _RIGHT, _OUT, _ROW_LIST, _DEPTH_LIST = 0, 2, 3, 6, 9, 13, 14
_TO_BE_GIVEN = -1


def _list(numbers: Tensor | str | None) -> int:
    return 0 if numbers is None else numbers.data_ptr() if isinstance(numbers, Tensor) else _TO_BE_GIVEN


def _front(words: list[int]) -> list[int]:
    return [len(words) // _WORDS, torch.get_num_threads(), runtime.parallel_address()]


def _make(function: Callable[[int], int], address: int) -> None:
    with named_range("products"):
        failed = function(address)
    if failed:
        raise MemoryError("no memory for the work space of a matrix product")


_SLOT_BITS = 44  # of an address in the imaginary memory


def imaginary(slot: int) -> int:
    """Where tensor number `slot` begins in a memory that is there only while products are prepared."""
    return slot << _SLOT_BITS


class PreparedProducts:
    """The products that were added, of matrices at imaginary addresses, to be made again and again."""

    def __init__(self, products: Products) -> None:
        self._function = products_entry(products.name)
        self._rounds = []
        for words in products.rounds:
            numbers = array("q", _front(words) + words)
            starts = range(len(numbers) - len(words), len(numbers), _WORDS)
            at = [start + k for start in starts for k in (_LEFT, _RIGHT, _OUT)]
            places = [(k, numbers[k] >> _SLOT_BITS, numbers[k] & ((1 << _SLOT_BITS) - 1)) for k in at]
            pairs = ((start + count, start + rows) for start in starts
                     for count, rows in ((_ROWS, _ROW_LIST), (_DEPTH, _DEPTH_LIST)))  # fmt: skip
            given = [(count, rows) for count, rows in pairs if numbers[rows] == _TO_BE_GIVEN]
            self._rounds.append((numbers, places, given))

    def run(self, addresses: Sequence[int], real: Tensor | None) -> None:
        """`addresses` of the tensors; `real`: the rows for `REAL`. Raises MemoryError as `Products.run` does."""
        for numbers, places, given in self._rounds:
            words = numbers[:]
            for place, slot, offset in places:
                words[place] = addresses[slot] + offset
            if real is not None:
                for count, rows in given:
                    words[count], words[rows] = len(real), real.data_ptr()
            _make(self._function, words.buffer_info()[0])
