"""The one operation of the library: a recurrence over time, differentiable to any order, forwards and backwards.

Backward runs the derived recurrence through this same operation, and so does forward mode, so that the derivative of a
derivative is derived and not looped. What lies outside the loop (W x, its gradients) is ordinary tensor code around
this operation; the gradient of a matrix used inside, Σ δ vᵀ, is one product after it.

Two doors lead here. Eager code and torch.func pass through an autograd Function; torch.compile and torch.export see one
registered operator (`registered.py`). Behind both stand the same three rules: `_backward`, `_tangent`, and `mapped.py`.

Eager code may leave W x to the operation too (`run` with an input). Where nothing but numbers is asked for, it and all
matrix gradients are made by the package's own products, in calls that are planned once (`planned.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.nn import mapped, planned, planned_backward
from throughtime.nn.calls import Job, Operands, Results, holds_numbers, launch, sort_operands, sort_results
from throughtime.nn.modes import is_transformed
from throughtime.nn.precision import under_autocast
from throughtime.nn.products import TorchProducts
from throughtime.nn.program import Plan, Program


def run(job: Job, operands: Operands, x: Tensor | None = None) -> Results:
    """Runs the recurrence, differentiably if anything asks for it.

    With an input x [T, B, I], or word numbers [T, B], each direction's read "net" is not W x but W itself; see
    `takes_input`.
    """
    values = operands.flat()
    keep, outputs = run_flat(job, values, x)
    return sort_results(job.kind.plan(keep, outputs[0].dtype), outputs)


def run_flat(job: Job, values: Sequence[Tensor | None], x: Tensor | None = None) -> tuple[bool, Sequence[Tensor]]:
    """`run` on operands and results in a row; whether what the backward pass needs was kept."""
    if not asks_for_derivatives([x, *values]):
        return job.keep, _numbers(job, x, values)
    job = job._replace(keep=True)
    if is_transformed():
        return True, _Transformed.apply(job, *values)  # type: ignore[no-untyped-call]
    return True, _Recur.apply(job, x, *values)  # type: ignore[no-untyped-call]


def _numbers(job: Job, x: Tensor | None, values: Sequence[Tensor | None]) -> list[Tensor]:
    """The results of a call; of one with an input, which eager code alone has, and of others as `launch`."""
    if x is None and (job.samples or not _is_plain(next(v for v in values[2:] if v is not None))):
        return launch(job, values)
    return planned.forward(job, x, values)


def asks_for_derivatives(values: Sequence[Tensor | None]) -> bool:
    """Whether the results must be differentiable, or carry tangents."""
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values):
        return True
    return is_transformed()


def takes_input(program: Program, x: Tensor) -> bool:
    """Whether `run` may be given the input: in eager code on the CPU, on tensors that hold numbers, for a cell that
    maps it."""
    if torch.compiler.is_compiling() or is_transformed():
        return False
    return "net" in program.reads and _is_plain(x)


def _is_plain(tensor: Tensor) -> bool:
    """Whether the package's own products can read it."""
    return tensor.device.type == "cpu" and holds_numbers(tensor)


class _Recur(torch.autograd.Function):
    """The door of eager code: torch's binding of arguments for `setup_context` would cost more than a short call."""

    @staticmethod
    def forward(ctx: Any, job: Job, x: Tensor | None, *values: Tensor | None) -> tuple[Tensor, ...]:
        outputs = _numbers(job, x, values)
        ctx.job = job
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *values, *outputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        if under_autocast(saved[-1]):  # the products would be rounded to its dtype
            with torch.autocast(saved[-1].device.type, enabled=False):
                return _Recur.backward(ctx, *grads)
        wanted = ctx.needs_input_grad[1], *ctx.needs_input_grad[4:]

        def gradients(*grads: Tensor | None) -> list[Tensor | None]:
            return _backward(ctx.job, saved, grads, x, wanted)

        d_x, *found = mapped.over_several(gradients, grads)
        return (None, d_x, None, None, *found)


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

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        wanted = False, *ctx.needs_input_grad[3:]

        def gradients(*grads: Tensor | None) -> list[Tensor | None]:
            return _backward(ctx.job, saved, grads, None, wanted)[1:]

        return (None, None, None, *mapped.over_several(gradients, grads))

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


def _backward(
    job: Job, saved: Sequence[Tensor | None], grads: Sequence[Tensor | None], x: Tensor | None, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Reverse mode: the gradients of the input x, if there is one, and of a call's operands after lengths and seed, in
    their order. `saved`: operands and results; `grads`: the errors that enter through the results. `wanted`: which of
    the gradients somebody asks for; products for the others are not made."""
    last = saved[-1]
    assert last is not None
    if _is_plain(last) and not (torch.is_grad_enabled() or is_transformed() or job.samples):
        return planned_backward.backward(job, saved, grads, x, wanted)
    count = len(saved) - len(grads)
    plan = job.kind.plan(True, last.dtype)
    second = any(g is not None and k in plan.kept for k, g in enumerate(grads))
    row = [*saved, *grads]
    values = [*row[:2], *(_followed(row, at, like) for at, like in plan.route(job.kind, second, False).sources)]
    keeps, done = run_flat(
        job._replace(kind=job.kind.backward_of_kept if second else job.kind.backward, keep=False, errors=None), values
    )
    route = plan.route(job.kind, second, keeps)
    if job.errors is not None:
        for d, at in enumerate(route.errors):
            job.errors(d, done[at], row[route.out])
    after = TorchProducts(job, row, done, x)
    gradients: list[Tensor | None] = []
    for gradient, value, asked in zip(route.gradients, saved[2:count], wanted[1:], strict=True):
        if gradient is None or value is None:
            gradients.append(None)
            continue
        how, d, at = gradient
        if how == "net" and x is not None:
            gradients.append(after.input_gradients(done[at], value, wanted[0], asked))
        elif how == "parameter":
            gradients.append(after.parameter_gradient(route.products[d], d, at, value) if asked else None)
        elif how == "sum":
            gradients.append(done[at].sum(-2))
        else:
            gradients.append(done[at])
    gradients.insert(0, after.d_x)
    if job.samples:
        gradients[1:] = _summed_where_shared(saved[2:count], gradients[1:])
    return gradients


def _followed(row: Sequence[Tensor | None], at: int | None, like: int | None) -> Tensor | None:
    """The tensor that a source names; zeros that take no memory where no error enters."""
    found = None if at is None else row[at]
    if found is None and like is not None:
        model = row[like]
        assert model is not None
        return model.new_zeros(model.shape[-1]).expand(model.shape)
    return found


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
