"""The one operation of the library: a recurrence over time, differentiable to any order.

Forward runs a recurrence; backward runs the derived recurrence through this same operation, so that the gradient of a
gradient is derived and not looped. What lies outside the loop (W x + b, its gradients) is ordinary tensor code around
this operation; the gradient of a matrix used inside, Σ δ vᵀ, is one product after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from throughtime.nn.kernels import GroupCall, Kernel, Sizes, compile_together, size_of
from throughtime.symbolic.adjoint import Adjoint, Block, MatrixGradient, adjoint
from throughtime.symbolic.program import Recurrence


def is_joint(array: str) -> bool:
    """Whether the groups share the array side by side: the output and everything that is a derivative by it."""
    while array.startswith("d_"):
        array = array[2:]
    return array == "out"


class Program:
    """A recurrence with its kernels and its derived backward pass, each made when first needed."""

    def __init__(self, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self._kernels: dict[tuple[bool, torch.dtype], Kernel] = {}
        per_time = {r.array: r.per for r in recurrence.reads}
        self.reads = list(per_time.items())
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
        assert len(found.forward.writes) == len(self.adjoint.forward.writes), "the kept values suffice for their own adjoints"
        return found

    @cached_property
    def backward_of_kept(self) -> Program:
        return Program(self.adjoint_of_kept.backward)

    def forward(self, keep: bool) -> Recurrence:
        return self.adjoint.forward if keep else self.recurrence

    def kernel(self, keep: bool, dtype: torch.dtype) -> Kernel:
        """The kernel that keeps what the backward pass needs, or the one that does not. The first is compiled together
        with the backward kernel, for the one is always followed by the other."""
        found = self._kernels.get((keep, dtype))
        if found is None:
            found = self._kernels[keep, dtype] = Kernel(self.forward(keep), dtype)
            if keep:
                compile_together([found, self.backward.kernel(False, dtype)])
        return found


@dataclass(frozen=True)
class Job:
    """Everything about a call that is no differentiable tensor: `steps` T and `rows` B; `places`: matrix -> (number of
    the parameter that holds it, first row); `lengths` [B] int64, or None; `origin`: the number of the first step."""

    program: Program
    sizes: Sizes
    steps: int
    rows: int
    batch_first: bool
    places: Mapping[str, tuple[int, int]]
    parameters: int
    reverse: tuple[bool, ...]
    lengths: Tensor | None = None
    origin: int = 0
    seed: int = 0
    keep: bool = False


@dataclass
class Operands:
    """The tensors of a call by name; a joint array stands once, the others once for each group."""

    joint: dict[str, Tensor]
    reads: list[dict[str, Tensor]]
    starts: list[list[Tensor | None]]
    parameters: list[list[Tensor]]

    def flat(self) -> list[Tensor | None]:
        values: list[Tensor | None] = list(self.joint.values())
        for reads, starts, parameters in zip(self.reads, self.starts, self.parameters, strict=True):
            values += [*reads.values(), *starts, *parameters]
        return values


def _unflatten(job: Job, values: tuple[Tensor | None, ...]) -> Operands:
    """The inverse of `Operands.flat`; also sorts the gradients of a call, which come in the same order."""
    names = [name for name, _ in job.program.reads]
    joint = [n for n in names if is_joint(n)]
    own = [n for n in names if not is_joint(n)]
    at = iter(values)
    result = Operands({n: next(at) for n in joint}, [], [], [])  # type: ignore[misc]
    for _ in job.reverse:
        result.reads.append({n: next(at) for n in own})  # type: ignore[misc]
        result.starts.append([next(at) for _ in job.program.recurrence.carries])
        result.parameters.append([next(at) for _ in range(job.parameters)])  # type: ignore[misc]
    return result


@dataclass
class Results:
    """What a call returns, by name; `ends` are the carries after the last step."""

    joint: dict[str, Tensor | None]
    writes: list[dict[str, Tensor | None]]
    sums: list[dict[str, Tensor | None]]
    ends: list[list[Tensor | None]]


def _sort_results(job: Job, values: tuple[Tensor | None, ...]) -> Results:
    forward = job.program.forward(job.keep)
    names = list(dict.fromkeys(w.array for w in forward.writes))
    at = iter(values)
    result = Results({n: next(at) for n in names if is_joint(n)}, [], [], [])
    for _ in job.reverse:
        result.writes.append({n: next(at) for n in names if not is_joint(n)})
        result.sums.append({s.name: next(at) for s in forward.sums})
        result.ends.append([next(at) for _ in forward.carries])
    return result


def run(job: Job, operands: Operands) -> Results:
    """Runs the recurrence, differentiably if anything asks for it."""
    values = operands.flat()
    keep = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values)
    if keep:
        job = replace(job, keep=True)
        return _sort_results(job, _Recur.apply(job, *values))
    return _sort_results(job, tuple(_launch(job, values)))


def _unit_stride(v: Tensor | None) -> Tensor | None:
    return v if v is None or v.stride(-1) == 1 or v.shape[-1] <= 1 else v.contiguous()


def _launch(job: Job, values: list[Tensor | None] | tuple[Tensor | None, ...]) -> list[Tensor]:
    operands = _unflatten(job, tuple(_unit_stride(v) for v in values))
    recurrence = job.program.forward(job.keep)
    like = next(v for v in values if v is not None)
    steps, rows = job.steps, job.rows
    groups = len(job.reverse)
    columns: dict[str, int] = {}
    for w in recurrence.writes:
        columns[w.array] = columns.get(w.array, 0) + size_of(w.node.width, job.sizes)

    def new(width: int) -> Tensor:
        if job.batch_first:
            return like.new_empty((rows, steps, width)).transpose(0, 1)
        return like.new_empty((steps, rows, width))

    joint = {n: new(width * groups) for n, width in columns.items() if is_joint(n)}
    outputs: list[Tensor] = list(joint.values())
    calls = []
    for g, reverse in enumerate(job.reverse):
        own = {n: new(width) for n, width in columns.items() if not is_joint(n)}
        sums = {s.name: like.new_empty((rows, size_of(s.node.width, job.sizes))) for s in recurrence.sums}
        ends = [like.new_empty((rows, size_of(c.next.width, job.sizes))) for c in recurrence.carries]
        reads = operands.joint | operands.reads[g]
        offsets = {n: g * columns[n] for n in joint}
        offsets |= {n: g * (t.shape[-1] // groups) for n, t in operands.joint.items()}
        matrices = {n: (operands.parameters[g][k], row) for n, (k, row) in job.places.items()}
        calls.append(GroupCall(reverse, reads, joint | own, sums, operands.starts[g], ends, matrices, offsets))
        outputs += [*own.values(), *sums.values(), *ends]
    kernel = job.program.kernel(job.keep, like.dtype)
    kernel(calls, steps, rows, job.sizes, job.lengths, job.origin, job.seed)
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
        operands = _unflatten(job, saved[:count])
        results = _sort_results(job, saved[count:])
        entering = _sort_results(job, grads)
        return (None, *_backward(job, operands, results, entering))


def _backward(job: Job, operands: Operands, results: Results, entering: Results) -> list[Tensor | None]:
    """The gradients of a call's operands, in their order."""
    program = job.program
    kept = [n for n in results.writes[0] if n not in program.writes]
    second = any(w[n] is not None for w in entering.writes for n in kept)
    backward = program.backward_of_kept if second else program.backward
    groups = range(len(job.reverse))
    known = [operands.joint | results.joint | operands.reads[g] | results.writes[g] for g in groups]
    own: list[dict[str, Tensor]] = [{} for _ in groups]
    joint: dict[str, Tensor] = {}
    for name, per in backward.reads:
        if is_joint(name):
            joint[name] = known[0][name] if name in known[0] else _cotangent(entering.joint, results.joint, name)  # type: ignore[assignment]
            continue
        for g in groups:
            if name in known[g]:
                own[g][name] = known[g][name]  # type: ignore[assignment]
            elif per == "time":
                own[g][name] = _cotangent(entering.writes[g], results.writes[g], name)
            else:
                own[g][name] = _cotangent(entering.sums[g], results.sums[g], name)
    back = replace(job, program=backward, reverse=tuple(not r for r in job.reverse), keep=False)
    done = run(back, Operands(joint, own, [list(e) for e in entering.ends], operands.parameters))

    gradients: list[Tensor | None] = [done.joint.get(f"d_{n}") for n in operands.joint]
    per = dict(program.reads)
    for g in groups:
        for name in operands.reads[g]:
            if per[name] == "time":
                gradients.append(done.writes[g].get(f"d_{name}"))
            else:
                total = done.sums[g].get(f"d_{name}")
                gradients.append(total.sum(0) if total is not None and per[name] == "unit" else total)
        gradients += [e if s is not None else None for e, s in zip(done.ends[g], operands.starts[g], strict=True)]
        blocks = _Blocks(job, backward, known[g], done.joint | done.writes[g], g)
        entries = (program.adjoint_of_kept if second else program.adjoint).gradients
        gradients += _matrix_gradients(job, entries, blocks, operands.parameters[g])
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
class _Blocks:
    """Finds column blocks of arrays, as [T * B, width] matrices."""

    job: Job
    backward: Program
    kept: Mapping[str, Tensor | None]
    written: Mapping[str, Tensor | None]
    group: int

    def matrix(self, block: Block, of_backward: bool) -> Tensor:
        recurrence = self.backward.recurrence if of_backward else self.job.program.forward(True)
        array = (self.written if of_backward else self.kept)[block.array]
        assert array is not None
        first = 0
        written = [w for w in recurrence.writes if w.array == block.array]
        if not of_backward and not written:
            written = [r for r in recurrence.reads if r.array == block.array]  # type: ignore[misc]
        for other in written:
            if other.name == block.name:
                break
            first += size_of(other.node.width, self.job.sizes)
        width = size_of(other.node.width, self.job.sizes)
        if is_joint(block.array):
            first += self.group * (array.shape[-1] // len(self.job.reverse))
        if self.job.batch_first:
            array = array.transpose(0, 1)
        return array.flatten(0, 1)[:, first : first + width]


def _matrix_gradients(
    job: Job, entries: tuple[MatrixGradient, ...], blocks: _Blocks, parameters: list[Tensor]
) -> list[Tensor | None]:
    """∂E/∂M = Σ δ vᵀ for every parameter that holds matrices of the loop."""
    pieces: dict[int, dict[int, Tensor]] = {}
    for entry in entries:
        number, row = job.places[entry.matrix]
        delta, vector = blocks.matrix(entry.delta, True), blocks.matrix(entry.vector, False)
        product = vector.t() @ delta if entry.transposed else delta.t() @ vector
        rows = pieces.setdefault(number, {})
        rows[row] = rows[row] + product if row in rows else product
    gradients: list[Tensor | None] = []
    for number, parameter in enumerate(parameters):
        rows = pieces.get(number, {})
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
