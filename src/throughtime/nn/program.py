"""A recurrence with its kernels and its derived backward pass, each made when first needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from throughtime.codegen.source import widths
from throughtime.nn.cuda_device import machine_of
from throughtime.nn.cuda_kernels import CudaKernel
from throughtime.nn.kernels import (
    CARRY,
    MATRIX,
    PER,
    SUM,
    TIME,
    Kernel,
    Place,
    column_blocks,
    compile_together,
)
from throughtime.symbolic.adjoint import Adjoint, adjoint
from throughtime.symbolic.graph import Width
from throughtime.symbolic.program import Recurrence, Sizes, size_of, without_marks
from throughtime.symbolic.tangent import tangent

if TYPE_CHECKING:
    from throughtime.nn.calls import Kind
    from throughtime.nn.route import Route


def is_joint(array: str) -> bool:
    """Whether the directions share the array side by side: the output and everything that is a derivative by it."""
    return re.fullmatch(r"((d|dot)\d*_)*out", array) is not None


@dataclass(frozen=True)
class MatrixProduct:
    """∂E/∂(rows of a parameter) = δᵀ v, or vᵀ δ if `transposed`; `delta` and `vector` are (array, first column, width),
    the first of the backward pass, the second of the forward pass; `state`: which one v is, as the step sees it."""

    parameter: int
    row: int
    rows: int
    delta: tuple[str, int, int]
    vector: tuple[str, int, int]
    transposed: bool
    state: int | None


class Program:
    """See the module. `reads`: the arrays that are read, with what they vary with; `writes`: those that are written."""

    def __init__(self, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self._kernels: dict[tuple[bool, torch.dtype], Kernel] = {}
        self._cuda: dict[tuple[bool, torch.dtype, torch.device], CudaKernel] = {}
        self._tangents: dict[bool, Program] = {}
        self.reads = {r.array: r.per for r in recurrence.reads}
        self.joint = [n for n in self.reads if is_joint(n)]
        self.own = [n for n in self.reads if not is_joint(n)]
        self.writes = list(dict.fromkeys(w.array for w in recurrence.writes))

    @cached_property
    def adjoint(self) -> Adjoint:
        return adjoint(self.recurrence)

    @cached_property
    def backward(self) -> Program:
        return Program(self.adjoint.backward)

    @cached_property
    def adjoint_of_kept(self) -> Adjoint:
        """The backward pass where error also enters through the kept values, as it does in a second derivative."""
        found = adjoint(self.adjoint.forward)
        assert len(found.forward.writes) == len(self.adjoint.forward.writes), (
            "kept values suffice for their own adjoints"
        )
        return found

    @cached_property
    def backward_of_kept(self) -> Program:
        return Program(self.adjoint_of_kept.backward)

    def tangent(self, moving_matrices: bool) -> Program:
        found = self._tangents.get(moving_matrices)
        if found is None:
            found = self._tangents[moving_matrices] = Program(tangent(self.adjoint.forward, moving_matrices))
        return found

    def forward(self, keep: bool) -> Recurrence:
        """What the kernel computes."""
        return without_marks(self.adjoint.forward if keep else self.recurrence)

    def kernel(self, keep: bool, dtype: torch.dtype) -> Kernel:
        """The kernel that keeps what the backward pass needs, or the one that does not."""
        found = self._kernels.get((keep, dtype))
        if found is None:
            found = self._kernels[keep, dtype] = Kernel(self.forward(keep), dtype)
        return found

    def cuda_kernel(self, keep: bool, dtype: torch.dtype, device: torch.device) -> CudaKernel:
        """The same for a GPU."""
        found = self._cuda.get((keep, dtype, device))
        if found is None:
            found = self._cuda[keep, dtype, device] = CudaKernel(self.forward(keep), dtype, machine_of(device))
        return found


class Plan:
    """What every call of one kind has in common: sizes of the results, and where the kernel finds what.

    The tensors of a call are, in this order: inputs (joint reads, carries' starts, then for each direction its reads
    and parameters) and outputs (joint writes, carries' ends, then for each direction its writes and sums). The kernel
    runs a group for each direction and each head.
    """

    def __init__(
        self,
        program: Program,
        keep: bool,
        dtype: torch.dtype,
        sizes: Sizes,
        directions: int,
        heads: int,
        places: Mapping[str, tuple[int, int]],
        parameters: int,
    ) -> None:
        recurrence = program.forward(keep)
        self.program, self.dtype, self.keep = program, dtype, keep
        of_head = {w: n // heads if w == "hidden" else n for w, n in sizes.items()}
        sizes = {**sizes, 1: heads}  # a number for each sequence is one for each head
        self._of_head = of_head
        self.numbers = self.numbers_of(recurrence)
        reads = column_blocks(recurrence.reads, sizes)
        writes = column_blocks(recurrence.writes, sizes)
        sums = column_blocks(recurrence.sums, sizes)

        def columns(blocks: dict[str, tuple[int, int]]) -> int:
            return sum(width for _, width in blocks.values())

        self.directions, self.heads = directions, heads
        self.joint_writes = {n: columns(b) * directions for n, b in writes.items() if is_joint(n)}
        self.own_writes = {n: columns(b) for n, b in writes.items() if not is_joint(n)}
        self.sums = {n: columns(b) for n, b in sums.items()}
        self.ends = [size_of(c.next.width, sizes) for c in recurrence.carries]
        carries = len(self.ends)
        per_direction = len(program.own) + parameters
        self.inputs = len(program.joint) + carries + directions * per_direction
        first_end = self.inputs + len(self.joint_writes)
        results = len(self.own_writes) + len(self.sums)
        bytes_ = dtype.itemsize
        self.groups: list[list[Place]] = []
        for d, head in product(range(directions), range(heads)):
            base = len(program.joint) + carries + d * per_direction
            result = first_end + carries + d * results

            def part(width: Width, head: int = head) -> int:
                """The first of this head's numbers."""
                return head * size_of(width, of_head)

            found: list[Place] = []
            for k, c in enumerate(recurrence.carries):
                offset = part(c.next.width) * bytes_
                found += [Place(len(program.joint) + k, CARRY, offset, d), Place(first_end + k, CARRY, offset, d)]
            for r in recurrence.used_reads:
                column = reads[r.array][r.name][0] + part(r.node.width)
                if is_joint(r.array):
                    slot, column = program.joint.index(r.array), column + d * columns(reads[r.array])
                else:
                    slot = base + program.own.index(r.array)
                found.append(Place(slot, PER[r.per], column * bytes_))
            for w in recurrence.writes:
                column = writes[w.array][w.name][0] + part(w.node.width)
                if is_joint(w.array):
                    slot = self.inputs + list(self.joint_writes).index(w.array)
                    column += d * columns(writes[w.array])
                else:
                    slot = result + list(self.own_writes).index(w.array)
                found.append(Place(slot, TIME, column * bytes_))
            for s in recurrence.sums:
                column = sums[s.array][s.name][0] + part(s.node.width)
                slot = result + len(self.own_writes) + list(self.sums).index(s.array)
                found.append(Place(slot, SUM, column * bytes_))
            for m in recurrence.matrices:
                number, row = places[m.name]
                found.append(Place(base + len(program.own) + number, MATRIX, 0, row + part(m.rows)))
            self.groups.append(found)
        self._sizes, self._places = sizes, places
        self.net_reads = [k for k, r in enumerate(recurrence.used_reads) if r.array == "net"]
        self._routes: dict[tuple[bool, bool], Route] = {}
        self.calls: dict[object, Any] = {}
        """Calls that `planned.py` has planned, by the layout of their tensors."""

    def numbers_of(self, recurrence: Recurrence) -> list[int]:
        """What the widths of this recurrence, or of one derived from it, are."""
        return [size_of(w, self._of_head) for w in widths(recurrence)]

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel that keeps what the backward pass needs is compiled together with the backward kernel, for the one
        is always followed by the other."""
        if self.keep:
            compile_together([self.program.kernel(True, self.dtype), self.program.backward.kernel(False, self.dtype)])
        return self.program.kernel(self.keep, self.dtype)

    def kernel_on(self, device: torch.device) -> Kernel | CudaKernel:
        """The kernel for tensors on that device."""
        return self.kernel if device.type == "cpu" else self.program.cuda_kernel(self.keep, self.dtype, device)

    @cached_property
    def kept(self) -> frozenset[int]:
        """The results, by number, that a call makes only for its backward pass."""
        own = [n not in self.program.writes for n in self.own_writes] + [False] * len(self.sums)
        first = len(self.joint_writes) + len(self.ends)
        return frozenset(first + k for k, kept in enumerate(own * self.directions) if kept)

    def route(self, kind: Kind, second: bool, keeps: bool) -> Route:
        """The way of the tensors of the backward pass, see `route.py`."""
        found = self._routes.get((second, keeps))
        if found is None:
            from throughtime.nn.route import route

            found = self._routes[second, keeps] = route(kind, self, second, keeps)
        return found

    @cached_property
    def products(self) -> list[MatrixProduct]:
        return self._products(self.program.adjoint)

    @cached_property
    def products_of_kept(self) -> list[MatrixProduct]:
        return self._products(self.program.adjoint_of_kept)

    def _products(self, derived: Adjoint) -> list[MatrixProduct]:
        """The matrix gradients, neighbours joined into one product where their rows and error terms lie together."""
        forward = column_blocks([*derived.forward.reads, *derived.forward.writes], self._sizes)
        backward = column_blocks(derived.backward.writes, self._sizes)
        numbers = {carry.seen.index: k for k, carry in enumerate(derived.forward.carries)}
        states = {(w.array, w.name): numbers.get(w.node.index) for w in derived.forward.writes}
        found = []
        for entry in derived.gradients:
            number, row = self._places[entry.matrix]
            delta = (entry.delta.array, *backward[entry.delta.array][entry.delta.name])
            vector = (entry.vector.array, *forward[entry.vector.array][entry.vector.name])
            rows = vector[2] if entry.transposed else delta[2]
            state = states.get((entry.vector.array, entry.vector.name))
            found.append(MatrixProduct(number, row, rows, delta, vector, entry.transposed, state))
        found.sort(key=lambda p: (p.parameter, p.row, p.vector, p.delta))
        if self.heads > 1 or len({(p.parameter, p.row) for p in found}) < len(found):
            return found  # a shared map: its products are added up one by one
        joined: list[MatrixProduct] = []
        for p in found:
            last = joined[-1] if joined else None
            if (
                last is not None
                and not (p.transposed or last.transposed)
                and (p.parameter, p.vector, p.delta[0]) == (last.parameter, last.vector, last.delta[0])
                and p.row == last.row + last.rows
                and p.delta[1] == last.delta[1] + last.delta[2]
            ):
                delta = (last.delta[0], last.delta[1], last.delta[2] + p.delta[2])
                joined[-1] = replace(last, rows=last.rows + p.rows, delta=delta)
            else:
                joined.append(p)
        return joined
