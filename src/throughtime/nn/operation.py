"""The one operation of the library: a recurrence over time, differentiable to any order, forwards and backwards.

Backward runs the derived recurrence through this same operation, and so does forward mode, so that the derivative of a
derivative is derived and not looped. What lies outside the loop (W x, its gradients) is ordinary tensor code around
this operation; the gradient of a matrix used inside, Σ δ vᵀ, is one product after it.

Two doors lead here. Eager code and torch.func pass through an autograd Function; torch.compile and torch.export see one
registered operator (`registered.py`). Behind both stand the same three rules: `_backward`, `_tangent`, and `mapped.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from throughtime.nn import mapped
from throughtime.nn.calls import Job, Operands, Results, launch, sort_operands, sort_results
from throughtime.nn.products import Columns, matrix_gradients
from throughtime.nn.program import Plan
from throughtime.symbolic.adjoint import ERRORS

_transforms_active = torch._C._are_functorch_transforms_active


def run(job: Job, operands: Operands) -> Results:
    """Runs the recurrence, differentiably if anything asks for it."""
    values = operands.flat()
    keep, outputs = run_flat(job, values)
    return sort_results(job.kind.plan(keep, outputs[0].dtype), outputs)


def run_flat(job: Job, values: Sequence[Tensor | None]) -> tuple[bool, Sequence[Tensor]]:
    """`run` on operands and results in a row; whether what the backward pass needs was kept."""
    if not asks_for_derivatives(values):
        return job.keep, launch(job, values)
    job = job._replace(keep=True)
    door = _Transformed if _is_transformed() else _Recur
    return True, door.apply(job, *values)  # type: ignore[no-untyped-call]


def asks_for_derivatives(values: Sequence[Tensor | None]) -> bool:
    """Whether the results must be differentiable, or carry tangents."""
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values):
        return True
    return _is_transformed()


def _is_transformed() -> bool:
    return _transforms_active() or forward_ad._current_level >= 0


class _Recur(torch.autograd.Function):
    """The door of eager code: torch's binding of arguments for `setup_context` would cost more than a short call."""

    @staticmethod
    def forward(ctx: Any, job: Job, *values: Tensor | None) -> tuple[Tensor, ...]:
        outputs = launch(job, values)
        ctx.job = job
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*values, *outputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_autocast_enabled("cpu"):  # the products would be rounded to its dtype
            with torch.autocast("cpu", enabled=False):
                return _Recur.backward(ctx, *grads)
        job, plan, operands, results = _saved(ctx, grads)

        def gradients(*grads: Tensor | None) -> list[Tensor | None]:
            return _backward(job, plan, operands, results, sort_results(plan, grads))

        return (None, None, None, *mapped.over_several(gradients, grads))


class _Transformed(torch.autograd.Function):
    """The door of torch.func and of forward mode."""

    @staticmethod
    def forward(job: Job, *values: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(launch(job, values))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
        ctx.job = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:], *outputs)
        ctx.save_for_forward(*inputs[1:], *outputs)

    backward = _Recur.backward

    @staticmethod
    def jvp(ctx: Any, _: None, *dots: Tensor | None) -> tuple[Tensor | None, ...]:
        job: Job = ctx.job
        saved = ctx.saved_tensors
        count = len(dots)
        plan = job.kind.plan(True, saved[-1].dtype)
        operands = sort_operands(job.kind, saved[:count])
        results = sort_results(plan, saved[count:])

        def tangents(*dots: Tensor | None) -> list[Tensor | None]:
            return _tangent(job, plan, operands, results, sort_operands(job.kind, dots))

        return tuple(mapped.over_several(tangents, dots))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], job: Job, *values: Tensor | None) -> Any:
        call = mapped.mapped_call(job, values, in_dims[1:], info.batch_size)
        _, outputs = run_flat(call.job, call.values)
        return call.results(outputs)


def _saved(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Job, Plan, Operands, Results]:
    job: Job = ctx.job
    saved = ctx.saved_tensors
    count = len(saved) - len(grads)
    plan = job.kind.plan(True, saved[-1].dtype)
    return job, plan, sort_operands(job.kind, saved[:count]), sort_results(plan, saved[count:])


def _backward(job: Job, plan: Plan, operands: Operands, results: Results, entering: Results) -> list[Tensor | None]:
    """Reverse mode: the gradients of a call's operands, in their order."""
    program = job.kind.program
    second = any(w[n] is not None for w in entering.writes for n in w if n not in program.writes)
    kind = job.kind.backward_of_kept if second else job.kind.backward
    prefix = kind.program.recurrence.prefix
    joint = _reads(kind.program.joint, prefix, (operands.joint, results.joint), ((entering.joint, results.joint),))
    own = []
    for d in range(plan.directions):
        writes, sums = results.writes[d], results.sums[d]
        errors = ((entering.writes[d], writes), (entering.sums[d], sums))
        own.append(_reads(kind.program.own, prefix, (operands.reads[d], writes), errors))
    given = operands.lengths, operands.seed
    done = run(
        job._replace(kind=kind, keep=False, errors=None),
        Operands(*given, joint, entering.ends, own, operands.parameters),
    )

    if job.errors is not None:
        for d in range(plan.directions):
            job.errors(d, done.writes[d][ERRORS], entering.joint["out"])  # type: ignore[arg-type]
    gradients: list[Tensor | None] = [done.joint.get(prefix + n) for n in operands.joint]
    gradients += [None if s is None else e for s, e in zip(operands.starts, done.ends, strict=True)]
    products = plan.products_of_kept if second else plan.products
    for d in range(plan.directions):
        for name in operands.reads[d]:
            if program.reads[name] == "time":
                gradients.append(done.writes[d][prefix + name])
            else:
                total = done.sums[d][prefix + name]
                assert total is not None
                gradients.append(total.sum(-2) if program.reads[name] == "unit" else total)
        forward = operands.joint | results.joint | operands.reads[d] | results.writes[d]
        columns = Columns(job, d, forward, done.joint | done.writes[d])
        gradients += matrix_gradients(products, columns, operands.parameters[d])
    if job.samples:
        gradients = _summed_where_shared(operands.flat()[2:], gradients)
    return gradients


def _tangent(job: Job, plan: Plan, operands: Operands, results: Results, dots: Operands) -> list[Tensor | None]:
    """Forward mode: the tangents of a call's results, in their order."""
    moving = any(p is not None for own in dots.parameters for p in own)
    kind = job.kind.tangent_of_matrices if moving else job.kind.tangent
    prefix = kind.program.recurrence.prefix
    joint = _reads(kind.program.joint, prefix, (operands.joint, results.joint), ((dots.joint, operands.joint),))
    own = []
    for d in range(plan.directions):
        reads = operands.reads[d]
        own.append(_reads(kind.program.own, prefix, (reads, results.writes[d]), ((dots.reads[d], reads),)))
    parameters = operands.parameters
    if moving:
        parameters = [
            ps + [torch.zeros_like(p) if dot is None else dot for p, dot in zip(ps, moved, strict=True)]
            for ps, moved in zip(parameters, dots.parameters, strict=True)
        ]
    given = operands.lengths, operands.seed
    done = run(job._replace(kind=kind, keep=False, errors=None), Operands(*given, joint, dots.starts, own, parameters))
    tangents = [done.joint[prefix + n] for n in plan.joint_writes] + done.ends
    for d in range(plan.directions):
        tangents += [done.writes[d][prefix + n] for n in plan.own_writes]
        tangents += [done.sums[d][prefix + n] for n in plan.sums]
    return tangents


_Arrays = Mapping[str, Tensor | None]


def _reads(
    names: Sequence[str], prefix: str, known: Sequence[_Arrays], entering: Sequence[tuple[_Arrays, _Arrays]]
) -> dict[str, Tensor]:
    """What a derived program reads: arrays of the pass it belongs to, and for `<prefix><array>` the error or tangent
    that enters through that array (given arrays, arrays like them), zeros that take no memory where there is none."""
    found: dict[str, Tensor] = {}
    for name in names:
        for arrays in known:
            array = arrays.get(name)
            if array is not None:
                found[name] = array
                break
        else:
            base = name.removeprefix(prefix)
            given, like = next((g[base], a) for g, arrays in entering if (a := arrays.get(base)) is not None)
            found[name] = like.new_zeros(like.shape[-1]).expand(like.shape) if given is None else given
    return found


def _summed_where_shared(values: Sequence[Tensor | None], gradients: list[Tensor | None]) -> list[Tensor | None]:
    """What the samples of a call share gets the sum of their gradients."""
    return [
        g.sum(0) if g is not None and v is not None and g.dim() > v.dim() else g
        for v, g in zip(values, gradients, strict=True)
    ]
