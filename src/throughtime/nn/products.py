"""What surrounds the loop: W x before it, and after it one product for the gradient of every matrix; as torch
operations, which can be differentiated and transformed further. `planned.py` does the same for numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding

from throughtime.nn.calls import Job
from throughtime.nn.cuda_rounded import linear, product
from throughtime.nn.matmul import PIECE
from throughtime.nn.route import Block, Product


def input_product(x: Tensor, weight: Tensor) -> Tensor:
    """W x for all time steps at once, [T, B, rows]; for word numbers a gather of W's columns."""
    if x.dim() == 3:
        # Where x is a transposed [B, T, I], the product is made on what lies in memory.
        if x.stride(0) < x.stride(1):
            return linear(x.transpose(0, 1), weight).transpose(0, 1)
        return linear(x, weight)
    table = weight.t()
    if not torch.compiler.is_compiling() and needs_table(x.numel(), table.shape[0]):
        table = table.contiguous()
    return embedding(x, table)


def needs_table(count: int, vocabulary: int) -> bool:
    """Whether so many word numbers are looked up in Wᵀ, whose rows lie together, sooner than in the columns of W."""
    return count * 4 > vocabulary


def without_padding(x: Tensor, lengths: Tensor | None, origin: int = 0) -> Tensor:
    """x [T, B, I], whose first step is number `origin`, with 0 where it is not to be read. Word numbers [T, B] have
    none that cannot be."""
    if lengths is None or x.dim() == 2:
        return x
    steps = torch.arange(origin, origin + x.shape[0], device=x.device)
    return x.masked_fill((steps.unsqueeze(1) >= lengths).unsqueeze(2), 0)


class TorchProducts:
    """Gradients as torch operations. `row`: the arrays of the call, `done`: the results of its backward pass."""

    def __init__(self, job: Job, row: Sequence[Tensor | None], done: Sequence[Tensor], x: Tensor | None) -> None:
        self.job, self.row, self.done = job, row, done
        self.x = x if x is None else without_padding(x, row[0], job.origin)
        self.d_x: Tensor | None = None

    def input_gradients(self, delta: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Tensor | None:
        """Adds δ W to the input's gradient; returns the gradient of W, Σ δ xᵀ. delta: [T, B, rows]."""
        x = self.x
        assert x is not None
        if of_x and x.dim() == 3:
            d_x = linear(delta, weight.t())
            self.d_x = d_x if self.d_x is None else self.d_x + d_x
        if not of_weight:
            return None
        if x.dim() == 2:
            return words_gradient(x, delta, weight)
        return summed_product(delta.flatten(0, 1), x.flatten(0, 1))

    def parameter_gradient(
        self, products: Sequence[Product], direction: int, number: int, parameter: Tensor
    ) -> Tensor | None:
        """∂E/∂M = Σ δ vᵀ for a parameter that holds matrices of the loop."""
        rows: dict[int, Tensor] = {}
        for p in products:
            if p.of.parameter == number:
                product = self._product(p, direction)
                rows[p.of.row] = rows[p.of.row] + product if p.of.row in rows else product
        return _assembled(rows, parameter)

    def _place(self, arrays: Sequence[Tensor | None], block: Block, direction: int) -> tuple[Tensor, int, int]:
        """The array [.., T, B, W] of a block, its first column and width."""
        array = arrays[block.array]
        assert array is not None
        first = block.first
        if block.joint:
            first += direction * (array.shape[-1] // len(self.job.kind.reverse))
        return array, first, block.width

    def _columns(self, arrays: Sequence[Tensor | None], block: Block, direction: int) -> Tensor:
        """The block as a [T · B, width] matrix; [S, T · B, width] where samples differ."""
        array, first, width = self._place(arrays, block, direction)
        if self.job.batch_first:
            array = array.transpose(-3, -2)
        flat = array.flatten(-3, -2)
        return flat if width == flat.shape[-1] else flat.narrow(-1, first, width)

    def _product(self, p: Product, direction: int) -> Tensor:
        left, right = self._columns(self.done, p.delta, direction), self._columns(self.row, p.vector, direction)
        if p.of.transposed:
            left, right = right, left
        heads = self.job.kind.heads
        if heads == 1:
            return summed_product(left, right)
        # Each head's rows see its own columns only: [.., N, heads, w] -> [.., heads · w, w].
        left, right = (v.reshape(*v.shape[:-1], heads, -1).transpose(-3, -2) for v in (left, right))
        return product(left.mT, right).flatten(-3, -2)


def words_gradient(words: Tensor, delta: Tensor, weight: Tensor) -> Tensor:
    """Σ δ xᵀ where every x is a one-hot vector: each word's error terms are added up in its column."""
    table = torch.ops.aten.embedding_dense_backward(delta, words, weight.shape[1], -1, False)
    gradient: Tensor = table.t()
    return gradient


def summed_product(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right [A, B] of left [N, A] and right [N, B]; on the CPU float32 is summed piece by piece."""
    count = left.shape[-2]
    plain = left.is_cpu and left.dim() == 2 == right.dim() and left.dtype == torch.float32
    if not plain or torch.compiler.is_compiling() or torch.is_grad_enabled() or count < 2 * PIECE:
        return product(left.mT, right)
    whole = count // PIECE * PIECE
    total = left[:PIECE].t() @ right[:PIECE]
    for first in range(PIECE, whole, PIECE):
        total = total.addmm_(left[first : first + PIECE].t(), right[first : first + PIECE])
    return total.addmm(left[whole:].t(), right[whole:]) if whole < count else total


def _assembled(rows: Mapping[int, Tensor], parameter: Tensor) -> Tensor:
    """The gradient of a parameter from those of its rows, by the number of the first."""
    parts, at = [], 0
    for row in sorted(rows):
        if row > at:
            parts.append(_zero_rows(row - at, parameter, rows[row]))
        parts.append(rows[row])
        at = row + rows[row].shape[-2]
    height = parameter.shape[-2]
    if at < height:
        parts.append(_zero_rows(height - at, parameter, parts[0] if parts else parameter))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def _zero_rows(count: int, parameter: Tensor, like: Tensor) -> Tensor:
    return like.new_zeros((*like.shape[:-2], count, parameter.shape[-1]))
