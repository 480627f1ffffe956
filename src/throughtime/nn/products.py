"""What surrounds the loop: W x before it, and after it one product for the gradient of every matrix.

Twice: as torch operations, which can be differentiated and transformed further, and as the package's own products,
which only make numbers, all of a call at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from throughtime.nn.calls import Job, launch
from throughtime.nn.matmul import PIECE, Matrix, Products, flat_matrix, laid_out, matrix
from throughtime.nn.route import Block, Product


def input_product(x: Tensor, weight: Tensor) -> Tensor:
    """W x for all time steps at once, [T, B, rows]; for word numbers a gather of W's columns."""
    if x.dim() == 3:
        # Where x is a transposed [B, T, I], the product is made on what lies in memory.
        if x.stride(0) < x.stride(1):
            return linear(x.transpose(0, 1), weight).transpose(0, 1)
        return linear(x, weight)
    table = weight.t()
    if not torch.compiler.is_compiling() and x.numel() * 4 > table.shape[0]:
        table = table.contiguous()  # rows that lie together are fetched faster than columns
    return embedding(x, table)


def launch_on_input(job: Job, x: Tensor, values: Sequence[Tensor | None]) -> list[Tensor]:
    """`launch`, where each direction's read "net" is not W x but W: that is put in its place."""
    found, made = list(values), []
    batch: Products | None = None
    for slot in job.kind.net_slots:
        weight = values[slot]
        assert weight is not None
        if x.dim() == 2:
            found[slot] = input_product(x, weight)
            continue
        if batch is None:
            batch, x = Products(weight.dtype), laid_out(x, job.batch_first)
            real = real_rows(job, values[0])
        net = _taken((job.steps, job.rows, weight.shape[0]), weight.dtype, job.batch_first)
        made.append(net)
        batch.add(flat_matrix(x), matrix(weight).t, flat_matrix(net), chain=PIECE, rows=real)
        found[slot] = net
    if batch is not None:
        batch.run()
    results = launch(job, found)
    for net in made:
        if net.nbytes > _LARGEST_SPARE:
            continue
        _spare[_key(net.shape, net.dtype, job.batch_first)] = net
    return results


_spare: dict[object, Tensor] = {}
"""The last net of each shape, for the next call: memory that is fetched anew from the system costs as much as to fill
it."""
_MOST_SPARE = 4
_LARGEST_SPARE = 32 << 20  # bytes: what a long sequence needed once must not be held for ever


def _key(shape: Sequence[int], dtype: torch.dtype, batch_first: bool) -> object:
    return (*shape, dtype, batch_first)


def _taken(shape: tuple[int, int, int], dtype: torch.dtype, batch_first: bool) -> Tensor:
    """A tensor [T, B, W], used before or new. Taken out of the store, so that two threads never have the same one."""
    found = _spare.pop(_key(shape, dtype, batch_first), None)
    if found is not None:
        return found
    if len(_spare) >= _MOST_SPARE:
        _spare.clear()
    steps, rows, width = shape
    if batch_first:
        return torch.empty((rows, steps, width), dtype=dtype).transpose(0, 1)
    return torch.empty(shape, dtype=dtype)


def real_rows(job: Job, lengths: Tensor | None) -> Tensor | None:
    """The numbers of those of the T · B rows that are not padding; None where all are real."""
    if lengths is None:
        return None
    # By NumPy: torch's threads, which wake for a large tensor, would then spin on cores that the recurrence needs.
    real = np.arange(job.origin, job.origin + job.steps)[:, None] < lengths.numpy()
    return torch.from_numpy(np.flatnonzero(real.T if job.batch_first else real))


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
            d_x = delta @ weight
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

    def finish(self) -> Tensor | None:
        """The input's gradient."""
        return self.d_x

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
        return torch.matmul(left.mT, right).flatten(-3, -2)


class OwnProducts(TorchProducts):
    """Gradients by the package's own products, all of them when everything has been said. They skip padding."""

    def __init__(self, job: Job, row: Sequence[Tensor | None], done: Sequence[Tensor], x: Tensor | None) -> None:
        self.job, self.row, self.done = job, row, done
        self.x = laid_out(x, job.batch_first) if x is not None and x.dim() == 3 else x
        self.d_x = None
        self.batch = Products(done[0].dtype)
        self.real = real_rows(job, row[0])
        self.alive: list[Tensor] = []  # what the batch only knows the address of

    def input_gradients(self, delta: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Tensor | None:
        x = self.x
        assert x is not None
        if x.dim() == 2:
            return words_gradient(x, delta, weight) if of_weight else None
        errors = self._flat(delta)
        if of_x:
            more = self.d_x is not None
            if self.d_x is None:
                self.d_x = self._like_input(x)
            d_x = flat_matrix(self.d_x)
            self.batch.add(errors, matrix(weight), d_x, chain=PIECE, more=more, rows=self.real, clear=not more)
        if not of_weight:
            return None
        gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
        self.batch.add(errors.t, flat_matrix(x), matrix(gradient), chain=PIECE, depth=self.real)
        return gradient

    def parameter_gradient(
        self, products: Sequence[Product], direction: int, number: int, parameter: Tensor
    ) -> Tensor | None:
        covered = {p.of.row: p.of.rows for p in products if p.of.parameter == number}
        new = torch.empty_like if sum(covered.values()) == parameter.shape[0] else torch.zeros_like
        gradient = new(parameter, memory_format=torch.contiguous_format)
        made = set()
        for p in products:
            if p.of.parameter == number:
                for left, right, out in self._blocks(p, direction, gradient):
                    self.batch.add(left.t, right, out, chain=PIECE, more=p.of.row in made, depth=self.real)
                made.add(p.of.row)
        return gradient

    def finish(self) -> Tensor | None:
        self.batch.run()
        return self.d_x

    def _like_input(self, x: Tensor) -> Tensor:
        """Room for the input's gradient."""
        steps, rows, width = x.shape
        if self.job.batch_first:
            return x.new_empty((rows, steps, width)).transpose(0, 1)
        return x.new_empty((steps, rows, width))

    def _flat(self, array: Tensor) -> Matrix:
        array = laid_out(array, self.job.batch_first)
        self.alive.append(array)
        return flat_matrix(array)

    def _blocks(self, p: Product, direction: int, gradient: Tensor) -> Iterator[tuple[Matrix, Matrix, Matrix]]:
        """Each head's error terms and vectors, and where their product goes."""
        delta, vector = self._place(self.done, p.delta, direction), self._place(self.row, p.vector, direction)
        (left, left_at, tall), (right, right_at, wide) = (vector, delta) if p.of.transposed else (delta, vector)
        rows, others, out = self._flat(left), self._flat(right), matrix(gradient)
        heads, size = self.job.kind.heads, gradient.itemsize
        tall, wide = tall // heads, wide // heads
        for head in range(heads):
            yield (
                rows.part(0, rows.rows, left_at + head * tall, tall, size),
                others.part(0, others.rows, right_at + head * wide, wide, size),
                out.part(p.of.row + head * tall, tall, 0, wide, size),
            )


def words_gradient(words: Tensor, delta: Tensor, weight: Tensor) -> Tensor:
    """Σ δ xᵀ where every x is a one-hot vector: each word's error terms are added up in its column."""
    table = torch.ops.aten.embedding_dense_backward(delta, words, weight.shape[1], -1, False)
    gradient: Tensor = table.t()
    return gradient


def summed_product(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right [A, B] of left [N, A] and right [N, B]; float32 is summed piece by piece."""
    count = left.shape[-2]
    plain = left.dim() == 2 == right.dim() and left.dtype == torch.float32
    if not plain or torch.compiler.is_compiling() or torch.is_grad_enabled() or count < 2 * PIECE:
        return left.mT @ right
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
