"""One product per step, for large layers and many sequences: torch multiplies all sequences with a matrix at once, and
between its products a generated kernel makes a phase of the step. All of it goes to torch's current stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.codegen.cuda import ProductPart
from throughtime.nn.cuda_layout import MAIL, STAGE, Memory, Problem
from throughtime.nn.cuda_rounded import KINDS, rounded
from throughtime.nn.kernels import Place

OPERANDS = {"": None, **KINDS}
"""What products are made of, and torch's name for it; None: numbers as they are."""


class Matrices(NamedTuple):
    """Where a call has its matrices: `groups[g][m]`: matrix m of group g, a place in one of `tensors`, of which those
    that are `sampled` are another one for each sample; a sample has all of `groups`."""

    tensors: Sequence[Tensor | None]
    sampled: Sequence[bool]
    groups: Sequence[Sequence[Place]]

    def of(self, group: int, number: int) -> Tensor:
        """The rows from the matrix' first one on."""
        sample, own = divmod(group, len(self.groups))
        place = self.groups[own][number]
        tensor = self.tensors[place.slot]
        assert tensor is not None
        return (tensor[sample] if self.sampled[place.slot] else tensor)[place.number :]


class _Run(NamedTuple):
    """Vectors of a product that lie side by side: the first number, numbers to the second side, and how many; `weight`
    [groups, numbers, outputs]."""

    first: int
    side: int
    width: int
    weight: Tensor


class _Product(NamedTuple):
    """`first`: where the nets lie, and how many numbers they are."""

    first: int
    width: int
    runs: list[_Run]


def run_steps(
    launch: Callable[[NDArray[np.int64]], None],
    words: NDArray[np.int64],
    memory: Memory,
    problem: Problem,
    matrices: Matrices,
    groups: range,
    operand: str,
) -> None:
    """All steps of some groups. `launch`: of a kernel, on these numbers."""
    like = next(t for t in matrices.tensors if t is not None)
    item, rows = problem.item, problem.rows
    device = like.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        work = like.new_empty(len(groups), rows, memory.bytes // item)
        words[MAIL], words[MAIL + 1] = work.data_ptr(), memory.bytes
        kind = OPERANDS[operand]
        products = [_planned(p, k, memory, problem, matrices, groups, kind) for k, p in _in_phases(problem)]

        def stage(number: int, step: int) -> None:
            words[STAGE : STAGE + 2] = number, step
            launch(words)

        steps = int(words[0])
        stage(0, 0)
        for step in range(steps):
            for number, phase in enumerate(problem.parts.phases, 1):
                for product in products[phase.first_product : phase.first_product + phase.products]:
                    _multiply(product, work, step & 1)
                stage(number, step)
        stage(len(problem.parts.phases) + 1, steps)


def _in_phases(problem: Problem) -> list[tuple[int, ProductPart]]:
    """Every product, and the number of its first net in its phase."""
    found = []
    for phase in problem.parts.phases:
        first = 0
        for product in problem.parts.products[phase.first_product : phase.first_product + phase.products]:
            found.append((first, product))
            first += product.nets
    return found


def _planned(
    product: ProductPart,
    first_net: int,
    memory: Memory,
    problem: Problem,
    matrices: Matrices,
    groups: range,
    kind: torch.dtype | None,
) -> _Product:
    item, size = problem.item, problem.size()
    high = size[product.width]
    like = next(t for t in matrices.tensors if t is not None)
    carries = len(problem.parts.carries)
    runs: list[_Run] = []
    for s, (vector, source) in enumerate(zip(product.vectors, product.sources, strict=True)):
        weight = like.new_empty(len(groups), size[source], product.nets * high)
        for g, group in enumerate(groups):
            for net in range(product.nets):
                number, transposed = product.factors[net][s]
                given = matrices.of(group, number)
                own = given[: size[source], :high] if transposed else given[:high, : size[source]].t()
                weight[g, :, net * high : (net + 1) * high] = own
        place, stride = memory.vectors[vector]
        two_sides = vector < carries or problem.parts.buffers[vector - carries][1]
        run = _Run(place // item, stride if two_sides else 0, size[source], weight if kind is None else weight.to(kind))
        last = runs[-1] if runs else None
        if last is not None and (last.first + last.width, last.side) == (run.first, run.side):
            joined = torch.cat((last.weight, run.weight), 1)
            runs[-1] = last._replace(width=last.width + run.width, weight=joined)
        else:
            runs.append(run)
    return _Product(memory.nets // item + first_net * high, product.nets * high, runs)


def _multiply(product: _Product, work: Tensor, side: int) -> None:
    nets = work.narrow(2, product.first, product.width)
    for k, run in enumerate(product.runs):
        vectors = work.narrow(2, run.first + side * run.side, run.width)
        if run.weight.dtype == work.dtype:
            if k == 0:
                torch.bmm(vectors, run.weight, out=nets)
            else:
                torch.baddbmm(nets, vectors, run.weight, out=nets)
            continue
        part = rounded(vectors.to(run.weight.dtype), run.weight, work.dtype)
        nets.copy_(part) if k == 0 else nets.add_(part)
