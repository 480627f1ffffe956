"""The one operation of the library: a recurrence over time, differentiable to any order.

Forward runs a recurrence; backward runs the derived recurrence through this same operation, so that the gradient of a
gradient is derived and not looped. What lies outside the loop (W x, its gradients) is ordinary tensor code around this
operation; the gradient of a matrix used inside, Σ δ vᵀ, is one product after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.nn.kernels import Sizes
from throughtime.nn.program import MatrixProduct, Plan, Program, is_joint


class Kind:
    """What many calls have in common: the program, its sizes, and `places`: matrix -> (number of the parameter that
    holds it, first row). `reverse`: for each group, whether its time runs backwards."""

    def __init__(
        self,
        program: Program,
        sizes: Sizes,
        places: Mapping[str, tuple[int, int]],
        parameters: int,
        reverse: tuple[bool, ...],
    ) -> None:
        self.program, self.sizes, self.places = program, sizes, places
        self.parameters, self.reverse = parameters, reverse
        self._plans: dict[tuple[bool, torch.dtype], Plan] = {}

    def plan(self, keep: bool, dtype: torch.dtype) -> Plan:
        found = self._plans.get((keep, dtype))
        if found is None:
            found = Plan(self.program, keep, dtype, self.sizes, len(self.reverse), self.places, self.parameters)
            self._plans[keep, dtype] = found
        return found

    @cached_property
    def backward(self) -> Kind:
        return self._back(self.program.backward)

    @cached_property
    def backward_of_kept(self) -> Kind:
        return self._back(self.program.backward_of_kept)

    def _back(self, program: Program) -> Kind:
        return Kind(program, self.sizes, self.places, self.parameters, tuple(not r for r in self.reverse))


class Job(NamedTuple):
    """One call, apart from its tensors: `steps` T and `rows` B; `lengths` [B] int64, or None; `origin`: the number of
    the first step; `seeds`: of each group's noise; `keep`: whether to keep what the backward pass needs."""

    kind: Kind
    steps: int
    rows: int
    batch_first: bool
    lengths: Tensor | None = None
    origin: int = 0
    seeds: tuple[int, ...] = ()
    keep: bool = False


@dataclass
class Operands:
    """The tensors of a call: joint reads by name, each carry's start [groups, B, W] or None, and for each group its
    other reads by name and its parameters."""

    joint: dict[str, Tensor]
    starts: Sequence[Tensor | None]
    reads: list[dict[str, Tensor]]
    parameters: list[list[Tensor]]

    def flat(self) -> list[Tensor | None]:
        values: list[Tensor | None] = [*self.joint.values(), *self.starts]
        for reads, parameters in zip(self.reads, self.parameters, strict=True):
            values += [*reads.values(), *parameters]
        return values


@dataclass
class Results:
    """What a call returns, by name; `ends` are the carries [groups, B, W] after the last step, `sums` [B, ...]."""

    joint: dict[str, Tensor | None]
    ends: list[Tensor | None]
    writes: list[dict[str, Tensor | None]]
    sums: list[dict[str, Tensor | None]]


def _sort_operands(kind: Kind, values: Sequence[Tensor | None]) -> Operands:
    at = iter(values)
    program = kind.program
    joint = {n: next(at) for n in program.joint}
    starts = [next(at) for _ in program.recurrence.carries]
    result = Operands(joint, starts, [], [])  # type: ignore[arg-type]
    for _ in kind.reverse:
        result.reads.append({n: next(at) for n in program.own})  # type: ignore[misc]
        result.parameters.append([next(at) for _ in range(kind.parameters)])  # type: ignore[misc]
    return result


def _sort_results(plan: Plan, values: Sequence[Tensor | None]) -> Results:
    at = iter(values)
    result = Results({n: next(at) for n in plan.joint_writes}, [next(at) for _ in plan.ends], [], [])
    for _ in plan.groups:
        result.writes.append({n: next(at) for n in plan.own_writes})
        result.sums.append({n: next(at) for n in plan.sums})
    return result


def run(job: Job, operands: Operands) -> Results:
    """Runs the recurrence, differentiably if anything asks for it."""
    values = operands.flat()
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values):
        job = job._replace(keep=True)
        outputs: Sequence[Tensor] = _Recur.apply(job, *values)  # type: ignore[no-untyped-call]
    else:
        outputs = _launch(job, values)
    return _sort_results(job.kind.plan(job.keep, outputs[0].dtype), outputs)


def _launch(job: Job, values: Sequence[Tensor | None]) -> list[Tensor]:
    like = next(v for v in values if v is not None)
    plan = job.kind.plan(job.keep, like.dtype)
    steps, rows = job.steps, job.rows
    tensors = [v if v is None or v.stride(-1) == 1 or v.shape[-1] <= 1 else v.contiguous() for v in values]

    def new(width: int) -> Tensor:
        if job.batch_first:
            return like.new_empty((rows, steps, width)).transpose(0, 1)
        return like.new_empty((steps, rows, width))

    outputs = [new(width) for width in plan.joint_writes.values()]
    groups = len(plan.groups)
    outputs += [like.new_empty((groups, rows, width)) for width in plan.ends]
    for _ in plan.groups:
        outputs += [new(width) for width in plan.own_writes.values()]
        outputs += [like.new_empty((rows, width)) for width in plan.sums.values()]
    tensors += outputs
    plan.kernel(tensors, job.kind.reverse, plan.groups, plan.numbers, steps, rows, job.lengths, job.origin, job.seeds)
    return outputs


class _Recur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job, *values: Tensor | None) -> tuple[Tensor, ...]:
        outputs = _launch(job, values)
        ctx.job = job
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*values, *outputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        job: Job = ctx.job
        saved = ctx.saved_tensors
        count = len(saved) - len(grads)
        plan = job.kind.plan(True, saved[-1].dtype)
        operands = _sort_operands(job.kind, saved[:count])
        results = _sort_results(plan, saved[count:])
        return (None, *_backward(job, plan, operands, results, _sort_results(plan, grads)))


def _backward(job: Job, plan: Plan, operands: Operands, results: Results, entering: Results) -> list[Tensor | None]:
    """The gradients of a call's operands, in their order."""
    program = job.kind.program
    groups = range(len(plan.groups))
    second = any(w[n] is not None for w in entering.writes for n in w if n not in program.writes)
    kind = job.kind.backward_of_kept if second else job.kind.backward
    backward = kind.program
    joint: dict[str, Tensor] = {}
    for name in backward.joint:
        known = operands.joint.get(name, results.joint.get(name))
        joint[name] = _cotangent(entering.joint, results.joint, name) if known is None else known
    own: list[dict[str, Tensor]] = []
    for g in groups:
        found: dict[str, Tensor] = {}
        for name in backward.own:
            known = operands.reads[g].get(name, results.writes[g].get(name))
            if known is None:
                arrays = (entering.writes[g], results.writes[g])
                arrays = arrays if name[2:] in arrays[1] else (entering.sums[g], results.sums[g])
                known = _cotangent(*arrays, name)
            found[name] = known
        own.append(found)
    done = run(job._replace(kind=kind, keep=False), Operands(joint, entering.ends, own, operands.parameters))

    gradients: list[Tensor | None] = [done.joint.get(f"d_{n}") for n in operands.joint]
    gradients += [None if s is None else e for s, e in zip(operands.starts, done.ends, strict=True)]
    products = plan.products_of_kept if second else plan.products
    for g in groups:
        for name in operands.reads[g]:
            if program.reads[name] == "time":
                gradients.append(done.writes[g][f"d_{name}"])
            else:
                total = done.sums[g][f"d_{name}"]
                assert total is not None
                gradients.append(total.sum(0) if program.reads[name] == "unit" else total)
        forward = operands.joint | results.joint | operands.reads[g] | results.writes[g]
        columns = _Columns(job, g, forward, done.joint | done.writes[g])
        gradients += _matrix_gradients(products, columns, operands.parameters[g])
    return gradients


def _cotangent(entering: Mapping[str, Tensor | None], results: Mapping[str, Tensor | None], name: str) -> Tensor:
    """The error that enters through an output; zeros that take no memory where none does."""
    found = entering[name[2:]]
    if found is not None:
        return found
    like = results[name[2:]]
    assert like is not None
    return like.new_zeros(like.shape[-1]).expand(like.shape)


@dataclass
class _Columns:
    """Column blocks of one group's arrays as [T · B, width] matrices."""

    job: Job
    group: int
    forward: Mapping[str, Tensor | None]
    backward: Mapping[str, Tensor | None]

    def of(self, arrays: Mapping[str, Tensor | None], block: tuple[str, int, int]) -> Tensor:
        name, first, width = block
        array = arrays[name]
        assert array is not None
        if is_joint(name):
            first += self.group * (array.shape[-1] // len(self.job.kind.reverse))
        if self.job.batch_first:
            array = array.transpose(0, 1)
        flat = array.flatten(0, 1)
        return flat if width == flat.shape[1] else flat.narrow(1, first, width)


PIECE = 128
"""Rows that are summed in one go in float32: one sum over all T · B rows would round more than a loop over time."""


def _summed_product(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right [A, B] of left [N, A] and right [N, B]; float32 is summed piece by piece."""
    count = left.shape[0]
    if left.dtype != torch.float32 or count < 2 * PIECE or torch.is_grad_enabled():
        return left.t() @ right
    whole = count // PIECE * PIECE
    size = left.shape[1] * right.shape[1]
    if count // PIECE * size <= 1 << 21:  # all pieces at once, where they fit the caches
        pieces = whole // PIECE, PIECE, -1
        total = (left[:whole].reshape(pieces).transpose(1, 2) @ right[:whole].reshape(pieces)).sum(0)
    else:
        total = left[:PIECE].t() @ right[:PIECE]
        for first in range(PIECE, whole, PIECE):
            total.addmm_(left[first : first + PIECE].t(), right[first : first + PIECE])
    return total.addmm_(left[whole:].t(), right[whole:]) if whole < count else total


def _matrix_gradients(
    products: list[MatrixProduct], columns: _Columns, parameters: list[Tensor]
) -> list[Tensor | None]:
    """∂E/∂M = Σ δ vᵀ for every parameter that holds matrices of the loop."""
    pieces: list[dict[int, Tensor]] = [{} for _ in parameters]
    for p in products:
        delta = columns.of(columns.backward, p.delta)
        vector = columns.of(columns.forward, p.vector)
        product = _summed_product(vector, delta) if p.transposed else _summed_product(delta, vector)
        rows = pieces[p.parameter]
        rows[p.row] = rows[p.row] + product if p.row in rows else product
    gradients: list[Tensor | None] = []
    for parameter, rows in zip(parameters, pieces, strict=True):
        parts, at = [], 0
        for row in sorted(rows):
            if row > at:
                parts.append(parameter.new_zeros(row - at, parameter.shape[1]))
            parts.append(rows[row])
            at = row + rows[row].shape[0]
        if at < parameter.shape[0]:
            parts.append(parameter.new_zeros(parameter.shape[0] - at, parameter.shape[1]))
        gradients.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    return gradients
