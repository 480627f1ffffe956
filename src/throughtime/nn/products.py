"""The gradients of the matrices inside a loop: one product each, after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.nn.calls import Job
from throughtime.nn.program import MatrixProduct, is_joint


@dataclass
class Columns:
    """Column blocks of one direction's arrays as [T · B, width] matrices; [S, T · B, width] where samples differ."""

    job: Job
    direction: int
    forward: Mapping[str, Tensor | None]
    backward: Mapping[str, Tensor | None]

    def of(self, arrays: Mapping[str, Tensor | None], block: tuple[str, int, int]) -> Tensor:
        name, first, width = block
        array = arrays[name]
        assert array is not None
        if is_joint(name):
            first += self.direction * (array.shape[-1] // len(self.job.kind.reverse))
        if self.job.batch_first:
            array = array.transpose(-3, -2)
        flat = array.flatten(-3, -2)
        return flat if width == flat.shape[-1] else flat.narrow(-1, first, width)


PIECE = 128
"""Rows that are summed in one go in float32: one sum over all T · B rows would round more than a loop over time."""


def summed_product(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right [A, B] of left [N, A] and right [N, B]; float32 is summed piece by piece."""
    count = left.shape[-2]
    plain = left.dim() == 2 == right.dim() and left.dtype == torch.float32
    if not plain or torch.compiler.is_compiling() or torch.is_grad_enabled() or count < 2 * PIECE:
        return left.mT @ right
    whole = count // PIECE * PIECE
    size = left.shape[1] * right.shape[1]
    if count // PIECE * size <= 1 << 21:  # all pieces at once, where they fit the caches
        pieces = whole // PIECE, PIECE, -1
        total = (left[:whole].reshape(pieces).transpose(1, 2) @ right[:whole].reshape(pieces)).sum(0)
    else:
        total = left[:PIECE].t() @ right[:PIECE]
        for first in range(PIECE, whole, PIECE):
            total = total.addmm_(left[first : first + PIECE].t(), right[first : first + PIECE])
    return total.addmm(left[whole:].t(), right[whole:]) if whole < count else total


def _product(p: MatrixProduct, columns: Columns) -> Tensor:
    left, right = columns.of(columns.backward, p.delta), columns.of(columns.forward, p.vector)
    if p.transposed:
        left, right = right, left
    heads = columns.job.kind.heads
    if heads == 1:
        return summed_product(left, right)
    # Each head's rows see its own columns only: [.., N, heads, w] -> [.., heads · w, w].
    left, right = (v.reshape(*v.shape[:-1], heads, -1).transpose(-3, -2) for v in (left, right))
    return torch.matmul(left.mT, right).flatten(-3, -2)


def matrix_gradients(products: list[MatrixProduct], columns: Columns, parameters: list[Tensor]) -> list[Tensor | None]:
    """∂E/∂M = Σ δ vᵀ for every parameter that holds matrices of the loop."""
    pieces: list[dict[int, Tensor]] = [{} for _ in parameters]
    for p in products:
        rows = pieces[p.parameter]
        product = _product(p, columns)
        rows[p.row] = rows[p.row] + product if p.row in rows else product
    gradients: list[Tensor | None] = []
    for parameter, rows in zip(parameters, pieces, strict=True):
        parts, at = [], 0
        for row in sorted(rows):
            if row > at:
                parts.append(_zero_rows(row - at, parameter, rows[row]))
            parts.append(rows[row])
            at = row + rows[row].shape[-2]
        height = parameter.shape[-2]
        if at < height:
            parts.append(_zero_rows(height - at, parameter, parts[0] if parts else parameter))
        gradients.append(parts[0] if len(parts) == 1 else torch.cat(parts, -2))
    return gradients


def _zero_rows(count: int, parameter: Tensor, like: Tensor) -> Tensor:
    return like.new_zeros((*like.shape[:-2], count, parameter.shape[-1]))
